"""The trial of one critic: attacks on pixels, fine-tunes of three heads, sample images. Finished parts are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.losses.base import PairLoss
from trials.measures import measure
from trials.training import Photographs, Plan, fine_tune, pixel_stage, restore

__all__ = ["FROM_BICUBIC", "FROM_GT", "Attack", "Trial", "enlarged", "pixel_attack", "save_image"]


@dataclass(frozen=True)
class Attack:
    """Ascent on pixels: from GT or bicubic, how many steps of Adam, which rate."""

    start: str
    steps: int
    rate: float


FROM_GT = Attack("gt", 20, 0.002)
FROM_BICUBIC = Attack("bicubic", 40, 0.004)


def pixel_attack(critic: Critic, sr: Tensor, hr: Tensor, *, steps: int, rate: float) -> Tensor:
    """Adam on the pixels of ``sr`` to raise score(sr, hr), within [0, 1].

    Args:
        critic: its parameters get no gradient.
        sr: where to start, (N, 3, H, W) RGB in [0, 1].
        hr: reference images, same shape.
        steps: of Adam.
        rate: its learning rate, about the change of a pixel per step.

    Returns:
        The attacked images, detached, same shape, in [0, 1].
    """
    image = sr.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=rate)
    target = tuple(t.detach() for t in critic.encode_target(hr))
    for _ in range(steps):
        score = critic.score(image, hr, target_features=target)
        (image.grad,) = torch.autograd.grad(-score.sum(), image)
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def enlarged(lr: Tensor) -> Tensor:
    """Bicubic x4 in [0, 1]."""
    return F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)


def _middle(lr: Tensor, hr: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The middle square of both, at most ``side`` pixels of GT."""
    rows, columns = (min(side // 4, length) for length in lr.shape[-2:])
    top, left = (lr.shape[-2] - rows) // 2, (lr.shape[-1] - columns) // 2
    small = lr[..., top : top + rows, left : left + columns]
    return small, hr[..., 4 * top : 4 * (top + rows), 4 * left : 4 * (left + columns)]


@dataclass
class Trial:
    """Measurements of one critic, kept in ``out`` as they are made.

    Attributes:
        name: of the critic in tables and files.
        critic: scores the images, and is attacked.
        loss: the critic as a loss, or None for the L1 control.
        share: of the gradient at the output that belongs to the loss.
        plain: the share holds at the start only, where it gives the weight of a plain sum.
        photographs: to fine-tune on.
        pairs: (name, LR, GT) to measure on.
        plan: of the fine-tunes.
        out: folder of results.
        report: called with one line of progress at a time.
    """

    name: str
    critic: Critic
    loss: PairLoss | None
    share: float
    photographs: Photographs
    pairs: Sequence[tuple[str, Tensor, Tensor]]
    plan: Plan
    out: Path
    report: Callable[[str], None] = print
    plain: bool = False

    def attack(self, attack: Attack, side: int = 192) -> dict[str, dict[str, float]]:
        """Measures ``before`` and ``after`` an attack on the middle ``side`` pixels of each test image."""
        file = self.out / f"attack-{self.name}-{attack.start}-{attack.steps}-{attack.rate:g}-{side}.json"

        def run() -> dict[str, dict[str, float]]:
            crops = [(name, *_middle(lr, hr, side)) for name, lr, hr in self.pairs]
            images: dict[str, dict[str, Tensor]] = {"before": {}, "after": {}}
            for name, lr, hr in crops:
                start = hr if attack.start == "gt" else enlarged(lr)
                images["before"][name] = start
                images["after"][name] = pixel_attack(self.critic, start, hr, steps=attack.steps, rate=attack.rate)
            save_image(self.out / f"{self.name}-attack-{attack.start}.png", images["after"][crops[0][0]])
            references = [(name, hr) for name, _, hr in crops]
            return {stage: measure(shown, references, self.critic) for stage, shown in images.items()}

        return _kept(file, run)

    def name_of(self, head: str) -> str:
        """Part of the names of the files of one fine-tune."""
        how = f"-{self.share:g}{'-plain' if self.plain else ''}" if self.loss is not None else ""
        return f"tune-{self.name}{how}-{head}-{self.plan.key()}"

    def head(self, head: str) -> dict[str, float]:
        """Measures after fine-tuning one small network with this critic (or with L1 alone); its images are kept."""

        def progress(step: int, steps: int, value: float) -> None:
            if step % 250 == 0:
                self.report(f"{self.name_of(head)}: step {step}/{steps}, L1 {value:.4f}")

        def run() -> dict[str, float]:
            network = pixel_stage(head, self.photographs, self.plan, self.out / "pixel_stage", progress)
            fine_tune(network, self.loss, self.share, self.photographs, self.plan, progress, plain=self.plain)
            images = restore(network, list(self.pairs))
            for name, image in images.items():
                save_image(self.out / self.name_of(head) / f"{name}.png", image)
            return measure(images, [(name, hr) for name, _, hr in self.pairs], self.critic)

        return _kept(self.out / f"{self.name_of(head)}.json", run)


def save_image(file: Path, image: Tensor) -> None:
    """(1, 3, H, W) in [0, 1] as a PNG file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file)


def _kept(file: Path, run: Callable[[], Mapping[str, object]]) -> dict:
    """What the file contains, or what ``run`` returns, which is then written to it."""
    if file.is_file():
        return dict(json.loads(file.read_text()))
    results = dict(run())
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(file)
    return results
