"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from sr_perceptual_loss.checks import as_path, nearest, on_disk
from sr_perceptual_loss.errors import UnknownNameError
from sr_perceptual_loss.lab.data import isrgen_qa, pieapp, sriqa_bench, table
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.layouts import LAYOUTS, read_layout
from sr_perceptual_loss.lab.data.reader import DatasetCard, Reader

__all__ = ["read_labels"]

#: Name -> (card, function that reads the label files).
_DATASETS: Mapping[str, tuple[DatasetCard, Callable[[Reader, Path | None], LabelSet]]] = {
    **{module.CARD.name: (module.CARD, module.read) for module in (isrgen_qa, pieapp, sriqa_bench, table)},
    **{name: (layout.card, partial(read_layout, layout)) for name, layout in LAYOUTS.items()},
}


def read_labels(
    name: str, root: str | Path, *, labels: str | Path | None = None, check_images: bool = True
) -> LabelSet:
    """Read the labels of a data set from this machine.

    Args:
        name: such as ``kadid10k``.
        root: folder of the data set, in the published layout.
        labels: another label file or folder than the published place under the root, such as a list of IQA-Dataset
            for ``kadid10k``, ``pipal`` and ``tid2013``.
        check_images: whether missing images are problems; False reads the labels without having the images.

    Returns:
        All entries; higher scores are better in every set.

    Raises:
        UnknownNameError: no such data set; the message has the nearest name.
        InputError: one report of everything wrong with the files, each problem with file and line.
    """
    if name not in _DATASETS:
        raise UnknownNameError(f"no data set '{name}'.{nearest(name, _DATASETS)}")
    card, read = _DATASETS[name]
    reader = Reader(card, on_disk(as_path(root)), check_images=check_images)
    return read(reader, None if labels is None else on_disk(as_path(labels)))
