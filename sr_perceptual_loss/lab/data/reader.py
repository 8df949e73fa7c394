"""One run of a reader: gathers images and votes, and all faults into one report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.folders import ImageFolder
from sr_perceptual_loss.lab.data.labels import LabelSet, Problems, RatedImage, Vote
from sr_perceptual_loss.lab.data.rows import Row

__all__ = ["Collection", "base_name"]


class Collection:
    """What a reader has found so far.

    Args:
        card: of the data set.
        root: its folder.
        check_images: whether missing images are faults. Without it paths are the likely ones.

    Raises:
        InputError: images are to be checked and the root is no folder.
    """

    def __init__(self, card: DatasetCard, root: Path, *, check_images: bool) -> None:
        if check_images and not root.is_dir():
            raise InputError(f"{card.name}: no folder {root}; expected {card.layout}. Get it from: {card.where}.")
        self.card = card
        self.root = root
        self.problems = Problems(card.name)
        self.rated: list[RatedImage] = []
        self.votes: list[Vote] = []
        self._check_images = check_images
        self._folders: dict[tuple[str, ...], ImageFolder] = {}
        self._seen: dict[str, Row] = {}

    def folder(self, *names: str, every: bool = False, deep: bool = False) -> ImageFolder:
        """The images of the first of these folders that exists (``every``: of all); see :class:`ImageFolder`."""
        if names not in self._folders:
            self._folders[names] = ImageFolder(self.root, names, every=every, deep=deep)
        return self._folders[names]

    def note(self, row: Row, what: str) -> None:
        """Put a fault of a row into the report."""
        self.problems.add(row.file, row.line, what)

    def number(self, row: Row, text: str, bounds: tuple[float, float] | None, what: str) -> float | None:
        """A finite number, or None after noting why it is none.

        Args:
            row: where it stands.
            text: the cell.
            bounds: lowest and highest allowed value; None for an open scale.
            what: its name, for the report.
        """
        try:
            value = float(text)
        except ValueError:
            self.note(row, f"{what}: got '{text}', expected a number.")
            return None
        if not math.isfinite(value):
            self.note(row, f"{what}: got '{text}', expected a finite number.")
            return None
        if bounds is not None:
            slack = 1e-6 * (bounds[1] - bounds[0])  # scores that were rescaled end within rounding of the bounds
            if not bounds[0] - slack <= value <= bounds[1] + slack:
                self.note(row, f"{what}: got {value:g}, expected {bounds[0]:g} to {bounds[1]:g}.")
                return None
        return value

    def rate(
        self,
        row: Row,
        text: str,
        *,
        scene: str,
        dist: Path,
        ref: Path,
        distortion: str = "",
        key: str = "",
        negate: bool = False,
    ) -> RatedImage | None:
        """Add a judged image; a score that is none and a second image of the same name are faults.

        Args:
            row: where it stands.
            text: its score as the file has it.
            scene: name of the pristine picture.
            dist: the judged image.
            ref: its reference.
            distortion: type of distortion or SR method.
            key: what makes a name the same; the path of the judged image by default.
            negate: True where higher is worse in the file.

        Returns:
            The entry, or None after noting a fault.
        """
        score = self.number(row, text, self.card.score_range, "score")
        first = self._seen.setdefault(key or str(dist), row)
        if first is not row:
            place = f"line {first.line}" if first.file == row.file else f"{first.file}, line {first.line}"
            self.note(row, f"{dist.name} again; it is in {place} already.")
            return None
        if score is None:
            return None
        image = RatedImage(scene, dist, ref, 0.0 - score if negate else score, distortion)
        self.rated.append(image)
        return image

    def finish(
        self,
        *,
        comparable_across_scenes: bool = True,
        official_split: Mapping[str, Iterable[Path]] | None = None,
        notes: Iterable[str] = (),
    ) -> LabelSet:
        """The label set.

        Args:
            comparable_across_scenes: False where scores were scaled per scene.
            official_split: part -> judged images.
            notes: what a user must know.

        Returns:
            The set; an open scale has the extremes of its scores as range.

        Raises:
            InputError: anything was noted; one report of all faults.
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
            comparable_across_scenes=comparable_across_scenes,
            official_split={part: frozenset(paths) for part, paths in (official_split or {}).items()},
            notes=tuple(notes),
        )


def base_name(text: str) -> str:
    """File name of a path that may be written with either kind of slash."""
    return text.replace("\\", "/").rpartition("/")[2]
