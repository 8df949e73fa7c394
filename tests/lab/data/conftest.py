"""Data sets of a few tiny images in the published layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


class Root:
    """A folder of a data set: ``images("a/1.png", ...)`` and ``text("labels.txt", ...)`` fill it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def images(self, *names: str) -> None:
        for name in names:
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (10, 20, 30)).save(file)

    def text(self, name: str, *lines: str, end: str = "\n") -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(end.join((*lines, "")).encode())
        return file


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "set"
    path.mkdir()
    return Root(path)
