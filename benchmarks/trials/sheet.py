"""Contact sheets: the same crops of many networks side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trials.measures import detail

__all__ = ["busiest", "contact_sheet"]

#: Height of a line of text, in pixels of the sheet.
LINE = 20


def busiest(hr: Tensor, side: int, step: int = 16) -> tuple[int, int]:
    """Top and left of the square of an image, (1, 3, H, W), with the strongest fine detail."""
    height, width = hr.shape[-2:]
    corners = [(y, x) for y in range(0, height - side + 1, step) for x in range(0, width - side + 1, step)]
    return max(corners, key=lambda corner: float(detail(_cut(hr, *corner, side))))


def _cut(image: Tensor, top: int, left: int, side: int) -> Tensor:
    return image[..., top : top + side, left : left + side]


def contact_sheet(
    rows: Mapping[str, Mapping[str, Tensor]], corners: Mapping[str, tuple[int, int]], side: int
) -> Image.Image:
    """Crops at twice their size, one row per image and one column per network.

    Args:
        rows: row -> column -> image, (1, 3, H, W) RGB in [0, 1]; all rows have the columns of the first.
        corners: row -> top and left of its crop.
        side: of the crops, in pixels.

    Returns:
        The sheet, with the names of rows and columns.
    """
    columns = list(next(iter(rows.values())))
    tile = 2 * side
    sheet = Image.new("RGB", (len(columns) * (tile + 4), LINE + len(rows) * (tile + LINE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, column in enumerate(columns):
        draw.text((number * (tile + 4) + 2, 2), column, "black", font)
    for line, (row, images) in enumerate(rows.items()):
        top = LINE + line * (tile + LINE)
        draw.text((2, top + tile + 2), row, "black", font)
        for number, column in enumerate(columns):
            crop = F.interpolate(_cut(images[column], *corners[row], side), scale_factor=2, mode="nearest")[0]
            pixels = (crop.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            sheet.paste(Image.fromarray(pixels), (number * (tile + 4), top))
    return sheet
