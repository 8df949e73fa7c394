"""Scores of all images of a label set, stored in a file from which an interrupted run continues."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.data.images import read_pair
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.rows import Problems
from sr_perceptual_loss.lab.evaluation.protocol import Protocol, score_pair

__all__ = ["Pair", "ScoreFile", "critic_digest", "pairs_of", "score_labels"]

#: (distorted image, reference).
Pair = tuple[Path, Path]

COLUMNS = ("settings", "dist", "ref", "score")


def critic_digest(critic: Critic) -> str:
    """16 hexadecimal digits that change with the critic's name, its arguments or any of its weights."""
    return _digest([critic.card.name, critic.config, critic.digest()])


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


class ScoreFile:
    """A CSV with one row per scored image: a digest of the settings, the distorted image, the reference, the score.

    Rows of other settings are kept and not read. A row is written at once, so an interrupted run loses at most the row
    that it was writing; an incomplete last row is removed. An image that was replaced under its old name is not
    noticed: delete the file in this case.

    Args:
        path: the file; made with its folder if missing.
        settings: everything that the score depends on, as plain values.

    Raises:
        InputError: the file exists and is something else, or a row is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self.digest = _digest(settings)
        self._scores: dict[tuple[str, str], float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            self._read()
        else:
            self._append(COLUMNS)

    def _read(self) -> None:
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        rows = csv.reader(io.StringIO(complete.decode("utf-8", errors="surrogateescape"), newline=""))
        if tuple(next(rows, ())) != COLUMNS:
            raise InputError(
                f"{self.path}: exists and is not a file of scores (first line: {','.join(COLUMNS)}); move it away or "
                "choose another folder."
            )
        for number, row in enumerate(rows, 2):
            try:
                settings, dist, ref, score = row
                if settings == self.digest:
                    self._scores[dist, ref] = float(score)
            except ValueError:
                raise InputError(
                    f"{self.path}, line {number}: got {row}, expected {','.join(COLUMNS)}; delete the line."
                ) from None
        if len(complete) < len(content):
            with self.path.open("rb+") as file:
                file.truncate(len(complete))

    def _append(self, row: Iterable[object]) -> None:
        with self.path.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)

    def get(self, pair: Pair) -> float | None:
        """The score of this pair under these settings, if there is one."""
        return self._scores.get(_key(pair))

    def add(self, pair: Pair, score: float) -> None:
        """Store a score; it is exact to the last bit when read again."""
        self._scores[_key(pair)] = score
        self._append((self.digest, *_key(pair), repr(score)))


def _key(pair: Pair) -> tuple[str, str]:
    return str(pair[0].absolute()), str(pair[1].absolute())


def pairs_of(labels: LabelSet) -> list[Pair]:
    """Every (distorted image, reference) that the labels need, each once, those of one reference together."""
    pairs = {(r.dist, r.ref) for r in labels.rated}
    pairs |= {(image, vote.ref) for vote in labels.votes for image in (vote.a, vote.b)}
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def score_labels(
    critic: Critic,
    labels: LabelSet,
    protocol: Protocol,
    *,
    seed: int = 0,
    crop_size: int | None = None,
    crops_at_once: int = 8,
    device: str | torch.device = "cpu",
    known: ScoreFile | None = None,
    track: Callable[[list[Pair]], Iterable[Pair]] = iter,
) -> dict[Pair, float]:
    """The score of every image of a label set by a critic in eval mode on ``device``.

    ``protocol``, ``seed``, ``crop_size`` and ``crops_at_once``: see :func:`score_pair`. New scores are added to
    ``known``, which holds those of an earlier run. ``track`` wraps the pairs that are left, for a line of progress.

    Raises:
        InputError: nothing to score, missing files (all in one report), or images that the critic does not take.
        NonFiniteError: NaN or infinite score.
    """
    pairs = pairs_of(labels)
    if not pairs:
        raise InputError(f"{labels.name}: no images left to score; check the split and the limit.")
    scores = {pair: score for pair in pairs if known and (score := known.get(pair)) is not None}
    remaining = [pair for pair in pairs if pair not in scores]
    problems = Problems(labels.name)
    for path in sorted({path for pair in remaining for path in pair}):
        if not path.is_file():
            problems.add(path, None, "no such file")
    problems.check()
    for pair in track(remaining):
        sr, hr = (image.to(device) for image in read_pair(*pair))
        try:
            score = score_pair(critic, sr, hr, protocol, seed=seed, crop_size=crop_size, crops_at_once=crops_at_once)
        except (InputError, NonFiniteError) as error:
            raise type(error)(f"{pair[0]}: {error}") from None
        scores[pair] = score
        if known:
            known.add(pair, score)
    return scores
