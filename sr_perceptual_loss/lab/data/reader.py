"""Shared by all readers of data sets: finding images, collecting entries, and one report of all problems."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_perceptual_loss.checks import composed, on_disk
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.folders import list_folder
from sr_perceptual_loss.lab.data.images import SUFFIXES
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote
from sr_perceptual_loss.lab.data.rows import Problems, Row

__all__ = ["DatasetCard", "ImageFolder", "Reader"]


@dataclass(frozen=True)
class DatasetCard:
    """What a reader needs to know about a data set."""

    name: str  # registry name
    score_range: tuple[float, float] | None  # documented lowest and highest score; None where the scale is open
    url: str  # where to get it
    layout: str  # files and folders expected under the root


class ImageFolder:
    """The images in one folder of a data set; which files count is said in lab/data/folders.py.

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
        existing = [folder for name in names if _is_folder(folder := on_disk(root / name))]
        self._folders = existing if every else existing[:1]
        self._index: dict[str, list[Path]] | None = None
        self._requested: dict[str, Path] = {}
        self._missing: dict[str, Row] = {}
        self._ambiguous: dict[str, tuple[Row, list[Path]]] = {}

    def find(self, name: str, row: Row, *, assumed_folder: str = "") -> Path:
        """The image of this name (without folders): its path on disk, or the likely one if there is none.

        ``row`` is where the name was read. ``assumed_folder`` is the sub-folder of an image that is missing.
        """
        if name not in self._requested:  # a reference is requested once per distorted version
            self._requested[name] = self._look_up(name, row, assumed_folder)
        return self._requested[name]

    def _look_up(self, name: str, row: Row, assumed_folder: str) -> Path:
        name = composed(name)
        paths = self._listing().get(name.lower(), [])
        paths = [path for path in paths if composed(path.name) == name] or paths
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
            listings = (list_folder(folder, SUFFIXES, deep=self._deep) for folder in self._folders)
            for path in sorted(path for listing in listings for path in listing.files):
                self._index.setdefault(composed(path.name).lower(), []).append(path)
        return self._index


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have: too long, or with a null character
        return False


class Reader:
    """Collects the entries of one data set and everything that is wrong with it.

    Args:
        card: of the data set.
        root: its folder.
        check_images: whether missing images are problems. Without this check paths are the likely ones.

    Raises:
        InputError: images are to be checked and the root is not a folder.
    """

    def __init__(self, card: DatasetCard, root: Path, *, check_images: bool) -> None:
        if check_images and not root.is_dir():
            raise InputError(f"{card.name}: no folder {root}; expected {card.layout}. Get it from: {card.url}.")
        self.card = card
        self.root = root
        self.problems = Problems(card.name)
        self.rated: list[RatedImage] = []
        self.votes: list[Vote] = []
        self._check_images = check_images
        self._folders: dict[tuple[str, ...], ImageFolder] = {}
        self._first_rows: dict[Path, Row] = {}

    def folder(self, *names: str, every: bool = False, deep: bool = False) -> ImageFolder:
        """The images of the first of these folders that exists (``every``: of all); see :class:`ImageFolder`."""
        if names not in self._folders:
            self._folders[names] = ImageFolder(self.root, names, every=every, deep=deep)
        return self._folders[names]

    def problem(self, row: Row, what: str) -> None:
        """Put a problem of a row into the report."""
        self.problems.add(row.file, row.line, what)

    def number(self, row: Row, text: str, bounds: tuple[float, float] | None, what: str) -> float | None:
        """A finite number within ``bounds`` (None: an open scale), or None after reporting what is wrong with it."""
        value = row.number(text)
        if value is None:  # concerns the whole file, so it is said once
            unclear = f"{what}: the separator of thousands or decimals is unclear; write 1520.5, without other marks."
            self.problems.add(row.file, None, unclear)
            return None
        if not math.isfinite(value):
            self.problem(row, f"{what}: got '{text}', expected a finite number.")
            return None
        if bounds is not None:
            slack = 1e-6 * (bounds[1] - bounds[0])  # scores that were rescaled end within rounding of the bounds
            if not bounds[0] - slack <= value <= bounds[1] + slack:
                self.problem(row, f"{what}: got {value:g}, expected {bounds[0]:g} to {bounds[1]:g}.")
                return None
        return value

    def rate(
        self, row: Row, text: str, *, content: str, dist: Path, ref: Path, distortion: str = "", negate: bool = False
    ) -> RatedImage | None:
        """Add a distorted image; returns the entry, or None after reporting a problem.

        ``text`` is its score as the file has it, negated with ``negate``. A repeated image is a problem.
        """
        score = self.number(row, text, self.card.score_range, "score")
        first = self._first_rows.setdefault(dist, row)
        if first is not row:
            place = f"line {first.line}" if first.file == row.file else f"{first.file}, line {first.line}"
            self.problem(row, f"{dist.name} is repeated; it is already in {place}.")
            return None
        if score is None:
            return None
        image = RatedImage(content, dist, ref, 0.0 - score if negate else score, distortion)
        self.rated.append(image)
        return image

    def label_set(
        self,
        *,
        comparable_across_contents: bool = True,
        official_split: Mapping[str, Iterable[Path]] | None = None,
        notes: Iterable[str] = (),
    ) -> LabelSet:
        """The result, with the extremes of the scores as range where the scale is open; see :class:`LabelSet`.

        Raises:
            InputError: one report of all problems.
        """
        if self._check_images:
            for folder in self._folders.values():
                folder.report(self.problems)
        self.problems.check()
        scores = [image.score for image in self.rated]
        extremes = (min(scores), max(scores)) if scores else (0.0, 1.0)
        return LabelSet(
            name=self.card.name,
            rated=tuple(self.rated),
            votes=tuple(self.votes),
            score_range=self.card.score_range or extremes,
            comparable_across_contents=comparable_across_contents,
            official_split={part: frozenset(paths) for part, paths in (official_split or {}).items()},
            notes=tuple(notes),
        )
