"""Data sets by name: list, describe, read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import UnknownNameError
from sr_perceptual_loss.lab.data import isrgen_qa, kadid10k, pieapp, pipal, qads, sriqa_bench, table, tid2013
from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.labels import LabelSet

__all__ = ["dataset_card", "list_datasets", "read_labels"]


class _Reader(Protocol):
    """What a file of this room offers to be a data set."""

    CARD: DatasetCard

    def read(self, root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet: ...


_READERS: Mapping[str, _Reader] = {
    reader.CARD.name: reader for reader in (isrgen_qa, kadid10k, pieapp, pipal, qads, sriqa_bench, table, tid2013)
}


def list_datasets() -> list[str]:
    """Names of all data sets, sorted."""
    return sorted(_READERS)


def dataset_card(name: str) -> DatasetCard:
    """Citation, scale, licence and layout of a data set.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    return _reader(name).CARD


def read_labels(
    name: str, root: str | Path, *, labels: str | Path | None = None, check_images: bool = True
) -> LabelSet:
    """Read the labels of a data set from this machine.

    Args:
        name: one of :func:`list_datasets`.
        root: folder of the data set, in the published layout (``dataset_card(name).layout``).
        labels: another label file or folder than the published place under the root, such as a list of IQA-Dataset
            for ``kadid10k``, ``pipal`` and ``tid2013``.
        check_images: whether missing images are faults; switch it off to look at labels without having the images.

    Returns:
        All entries; higher scores are better in every set.

    Raises:
        UnknownNameError: no such data set; the message has the nearest name.
        InputError: one report of everything wrong with the files, each fault with file and line.
    """
    reader = _reader(name)
    given = None if labels is None else as_path(labels)
    return reader.read(as_path(root), given, check_images=check_images)


def _reader(name: str) -> _Reader:
    try:
        return _READERS[name]
    except KeyError:
        raise UnknownNameError(f"no data set '{name}'.{nearest(name, _READERS)}") from None
