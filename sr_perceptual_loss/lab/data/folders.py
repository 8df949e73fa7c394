"""Finds images by name: one listing per folder, names compared without regard to case."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_perceptual_loss.lab.data.images import SUFFIXES
from sr_perceptual_loss.lab.data.rows import Problems, Row

__all__ = ["ImageFolder"]


class ImageFolder:
    """The images in one folder of a data set.

    Published copies differ in the case of names (``I01.BMP``, ``i25.bmp``), in folder names and in nesting. A name is
    looked up as it is written first, then without regard to case.

    Args:
        root: of the data set.
        names: folder names under the root that the set was published with. The first that exists is used.
        every: use all of ``names`` that exist together.
        deep: search sub-folders too (links to folders are not followed).
    """

    SHOWN = 5

    def __init__(self, root: Path, names: Sequence[str], *, every: bool = False, deep: bool = False) -> None:
        self._root = root
        self._names = tuple(names)
        self._deep = deep
        existing = [root / name for name in names if _is_folder(root / name)]
        self._folders = existing if every else existing[:1]
        self._index: dict[str, list[Path]] | None = None
        self._requested: dict[str, Path] = {}
        self._missing: dict[str, Row] = {}
        self._ambiguous: dict[str, tuple[Row, list[Path]]] = {}

    def find(self, name: str, row: Row, *, assumed_folder: str = "") -> Path:
        """The image of this name.

        Args:
            name: file name without folders.
            row: where the name was read, for the report.
            assumed_folder: sub-folder to assume in the path of an image that is missing.

        Returns:
            The path as it is on disk, or as it would be if the image existed.
        """
        if name not in self._requested:  # a reference is requested once per distorted version
            self._requested[name] = self._look_up(name, row, assumed_folder)
        return self._requested[name]

    def _look_up(self, name: str, row: Row, assumed_folder: str) -> Path:
        paths = self._listing().get(name.lower(), [])
        paths = [path for path in paths if path.name == name] or paths
        if len(paths) > 1:
            self._ambiguous[name] = (row, paths)
        if paths:
            return paths[0]
        self._missing[name] = row
        base = self._folders[0] if self._folders else self._root / self._names[0]
        return base / assumed_folder / name

    def report(self, problems: Problems) -> None:
        """Note missing folders, missing images (one entry with their number) and names that occur twice."""
        if not self._requested:
            return
        if not self._folders:
            expected = " or ".join(f"{name}/" for name in self._names)
            problems.add(
                self._root, None, f"no folder {expected} with the {len(self._requested)} images of the labels."
            )
            return
        if self._missing:
            first = [f"{name} (line {row.line})" for name, row in list(self._missing.items())[: self.SHOWN]]
            rest = ", ..." if len(self._missing) > self.SHOWN else ""
            count = f"{len(self._missing)} of {len(self._requested)} images are missing"
            row = next(iter(self._missing.values()))
            folders = ", ".join(str(folder) for folder in self._folders)
            problems.add(row.file, row.line, f"{count} in {folders}: {', '.join(first)}{rest}")
        for name, (row, paths) in self._ambiguous.items():
            shown = ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
            problems.add(row.file, row.line, f"{name} exists {len(paths)} times: {shown}; keep one of them.")

    def _listing(self) -> dict[str, list[Path]]:
        if self._index is None:
            self._index = {}
            for path in sorted(p for folder in self._folders for p in self._files(folder)):
                self._index.setdefault(path.name.lower(), []).append(path)
        return self._index

    def _files(self, folder: Path) -> Iterator[Path]:
        for place, folders, files in os.walk(folder):
            if not self._deep:
                folders.clear()
            yield from (Path(place) / name for name in files if name.lower().endswith(SUFFIXES))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have: too long, or with a null character
        return False
