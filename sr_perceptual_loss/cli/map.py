"""``srpl map``: a picture of where an SR image loses quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.device import Device, check_device
from sr_perceptual_loss.cli.terminal import log, print_table

__all__ = ["draw_map"]

#: Sides of the crops in pixels: a fifth of the shorter side of the image within these bounds.
SMALLEST, LARGEST = 16, 96
LABELS = {
    "local": "lost score per position (mean: best score - score)",
    "gradient": "|gradient of the score x (hr - sr)|, smoothed",
}


def draw_map(
    sr: Annotated[Path, typer.Argument(help="SR (distorted) image.", metavar="SR")],
    hr: Annotated[Path, typer.Argument(help="Reference image.", metavar="HR")],
    critic: Annotated[str, typer.Option(help="Critic, one of `srpl list`.", metavar="NAME")] = "haarpsi",
    weights: Annotated[str, typer.Option(help="local (never downloads), a tag such as official, or a path.")] = "local",
    out: Annotated[Path, typer.Option(help="PNG file to write.", metavar="FILE")] = Path("map.png"),
    device: Device = "cpu",
) -> None:
    """Draw where an SR image loses quality: SR, HR, the map over the image, and the three worst crops enlarged.

    Prints the crops, worst first, with their share of the map. A critic with local parts shows what each position
    costs; any other shows the gradient of its score times the difference of the images. A critic with a fixed input
    size sees evenly spaced crops that cover the image. Needs the extra `plot`.
    """
    from sr_perceptual_loss.critics import create_critic
    from sr_perceptual_loss.critics.maps import worst_boxes
    from sr_perceptual_loss.critics.whole_image import map_whole_image, score_whole_image
    from sr_perceptual_loss.lab.data.images import read_pair
    from sr_perceptual_loss.monitor.plots import plot_map

    check_device(device)
    network = create_critic(critic, weights=weights, device=device).requires_grad_(False)
    sr_image, hr_image = (image.to(device) for image in read_pair(sr, hr))
    score = score_whole_image(network, sr_image, hr_image, sr.name)
    lost = map_whole_image(network, sr_image, hr_image, sr.name)
    side = min(*lost.shape, min(max(SMALLEST, min(lost.shape) // 5), LARGEST))
    boxes = worst_boxes(lost, side)
    title = f"{sr.name}: {critic} {score:.4f} (higher is better)".replace("$", r"\$")
    plot_map(sr_image, hr_image, lost, boxes, side, title, LABELS[network.map_form]).savefig(out, format="png")
    rows = [(str(k), str(x), str(y), str(side), f"{share:.3f}") for k, (y, x, share) in enumerate(boxes, 1)]
    print_table(("crop", "x", "y", "side", "share of the map"), rows)
    log(f"{out} written; {network.map_form} map, score {score:.6f} ({critic}, higher is better)")
