"""What a person should know about a data set before using it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DatasetCard"]


@dataclass(frozen=True)
class DatasetCard:
    """Name plate of a data set.

    Attributes:
        name: file = registry name = YAML value = test id.
        citation: paper.
        scale_found: scale and direction in the published files.
        scale_returned: scale and direction that the reader returns; higher is always better.
        score_range: documented lowest and highest score as returned; None where the scale is open.
        licence: terms as far as known.
        where: where to get it.
        layout: files and folders expected under the root.
    """

    name: str
    citation: str
    scale_found: str
    scale_returned: str
    score_range: tuple[float, float] | None
    licence: str
    where: str
    layout: str
