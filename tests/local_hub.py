"""A stand-in for the Hugging Face hub on 127.0.0.1, for the real client: one file, and every way to serve it badly."""

from __future__ import annotations

import hashlib
import http.server
import threading

import huggingface_hub
import pytest

__all__ = ["COMMIT", "LocalHub"]

COMMIT = "c0ffee" + "0" * 34


class LocalHub:
    """Serves one file under every address; ``with LocalHub(content) as hub: hub.connect(monkeypatch)``.

    Args:
        content: of the file.

    Attributes:
        fault: "" (serves it whole), "flipped" (other bytes than stated), "html" (a login page instead of it), "short"
            (stops half-way, every time), "broken" (stops half-way the first time), "down" (503 to everything).
        sha256: what the hub states; "" as for a small file, of which the real hub states another hash.
        downloads: how often sending the file was begun.
        revisions: the revision of each question about the file.
        requests: ``METHOD path`` of every request.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.fault = ""
        self.downloads = 0
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def revisions(self) -> list[str]:
        """Asked revisions, without the repeated ones of one download (which names the commit)."""
        asked = [request.split("/resolve/")[1].split("/")[0] for request in self.requests if "/resolve/" in request]
        return [revision for i, revision in enumerate(asked) if i == 0 or revision != asked[i - 1]]

    def connect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Send the hub's client of this process here; the waits between its attempts are left out."""
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, self.url)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("time.sleep", lambda _: None)

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

    def do_GET(self) -> None:
        hub, body = self.hub, self.hub.content
        hub.requests.append(f"{self.command} {self.path}")
        if hub.fault == "down" or "/resolve/" not in self.path:
            self._send(503 if hub.fault == "down" else 404, b"", {})
            return
        if hub.fault == "flipped":
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif hub.fault == "html":
            body = b"<!DOCTYPE html><html><body>Sign in</body></html>".ljust(len(body))
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.sha256 or "e" * 40}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        hub.downloads += self.command == "GET" and not asked
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._send(206, body[start:], headers, only=len(body) // 8 if hub.fault == "short" else None)
        else:
            stops = hub.fault == "short" or (hub.fault == "broken" and hub.downloads == 1)
            self._send(200, body, headers, only=len(body) // 2 if stops and self.command == "GET" else None)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for
