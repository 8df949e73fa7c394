"""What happened, one JSON object a line: losses and validation values; cut back to the state a run goes on from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["History"]


class History:
    """``history.jsonl`` of a run.

    Args:
        path: the file.
        active: False in processes that must not write.
    """

    def __init__(self, path: Path, *, active: bool) -> None:
        self.path, self.active = path, active

    def cut_back(self, step: int) -> None:
        """Forget what lies beyond a step: it will happen again. A half-written last line is dropped too."""
        if not self.active:
            return
        kept = [json.dumps(entry) for entry in self.entries() if entry["step"] <= step]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Append one entry; it is on disk when this returns."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and "step" in entry:
                found.append(entry)
        return found
