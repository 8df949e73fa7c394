"""A stand-in for the Hugging Face hub on 127.0.0.1, for the real client: one file, and every way to serve it badly."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

__all__ = ["COMMIT", "LocalHub"]

COMMIT = "c0ffee" + "0" * 34


class LocalHub:
    """Serves one file of the repository ``someone/small``; ``with LocalHub(content) as hub: hub.url``.

    Args:
        content: of the file.

    Attributes:
        fault: "" (serves it whole), "flipped" (other bytes than promised), "html" (a login page instead of it), "short"
            (stops half-way, every time), "broken" (stops half-way the first time), "down" (503 to everything).
        promised: the SHA-256 that the hub states.
        downloads: how often sending the file was begun.
        requests: ``METHOD path`` of everything that was asked.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.promised = hashlib.sha256(content).hexdigest()
        self.fault = ""
        self.downloads = 0
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, code: int, body: bytes, headers: dict[str, str], *, only: int | None = None) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if only is None else body[:only])
        if only is not None:
            self.close_connection = True

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        if hub.fault == "down":
            self._send(503, b"", {})
        elif "/api/models/" in self.path:
            self._json({"id": "someone/small", "sha": COMMIT, "siblings": [], "tags": []})
        elif "/resolve/" in self.path:
            self._file()
        else:
            self._send(404, b"", {})

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        size, promised = len(self.hub.content), self.hub.promised
        lfs = {"oid": promised, "size": size, "pointerSize": 130} if promised else None
        entry = {"type": "file", "path": "small_weights.pt", "size": size, "oid": "a" * 40}
        self._json([entry | ({"lfs": lfs} if lfs else {})])

    def _file(self) -> None:
        hub, body = self.hub, self.hub.content
        if hub.fault == "flipped":
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif hub.fault == "html":
            body = b"<!DOCTYPE html><html><body>Sign in</body></html>".ljust(len(body))
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.promised or "e" * 40}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        hub.downloads += self.command == "GET" and not asked
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            cut = len(body) // 8 if hub.fault == "short" else None
            self._send(206, body[start:], headers, only=cut)
        else:
            stops = hub.fault == "short" or (hub.fault == "broken" and hub.downloads == 1)
            cut = len(body) // 2 if stops and self.command == "GET" else None
            self._send(200, body, headers, only=cut)
