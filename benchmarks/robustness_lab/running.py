"""The whole trial of one critic: attacks on pixels, fine-tunes of three heads, pictures. Finished parts are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from robustness_lab.attacks_pixels import pixel_attack
from robustness_lab.fine_tuning import Schedule, fine_tune, pixel_stage, restore
from robustness_lab.measures import measure
from robustness_lab.photographs import Photographs
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.losses.base import PairLoss

__all__ = ["FROM_BICUBIC", "FROM_GT", "Attack", "Trial"]

Pairs = Sequence[tuple[str, Tensor, Tensor]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Attack:
    """Ascent on pixels: where from, how many steps of Adam, which rate."""

    start: str
    steps: int
    rate: float


FROM_GT = Attack("gt", 20, 0.002)
FROM_BICUBIC = Attack("bicubic", 40, 0.004)


@dataclass
class Trial:
    """Measurements of one critic, kept in ``out`` as they are made.

    Attributes:
        name: of the critic in tables and files.
        critic: judged and attacked.
        loss: the critic as a loss, or None for the L1 control.
        share: of the gradient at the output that belongs to the loss.
        photographs: to fine-tune on.
        pairs: (name, LR, GT) to measure on.
        plan: of the fine-tunes.
        out: folder of results.
        say: called with one line of progress at a time.
    """

    name: str
    critic: Critic
    loss: PairLoss | None
    share: float
    photographs: Photographs
    pairs: Pairs
    plan: Schedule
    out: Path
    say: Say = print

    @property
    def references(self) -> list[tuple[str, Tensor]]:
        """(name, GT)."""
        return [(name, hr) for name, _, hr in self.pairs]

    def attack(self, attack: Attack, side: int = 192) -> dict[str, dict[str, float]]:
        """Measures before and after an attack, on the middle of each test picture.

        Args:
            attack: where from and how long.
            side: of the middle crops.

        Returns:
            ``before`` and ``after``: measures.
        """
        file = self.out / f"attack-{self.name}-{attack.start}-{attack.steps}-{attack.rate:g}-{side}.json"

        def run() -> dict[str, dict[str, float]]:
            crops = [(name, *_middle(lr, hr, side)) for name, lr, hr in self.pairs]
            found: dict[str, dict[str, Tensor]] = {"before": {}, "after": {}}
            for name, lr, hr in crops:
                start = hr if attack.start == "gt" else enlarged(lr)
                found["before"][name] = start
                found["after"][name] = pixel_attack(self.critic, start, hr, steps=attack.steps, rate=attack.rate)
            references = [(name, hr) for name, _, hr in crops]
            self._keep_picture(f"attack-{attack.start}", found["after"][crops[0][0]])
            return {stage: measure(images, references, self.critic) for stage, images in found.items()}

        return _kept(file, run)

    def head(self, head: str) -> dict[str, float]:
        """Measures after fine-tuning one small network with this critic (or with L1 alone)."""
        share = f"-{self.share:g}" if self.loss is not None else ""
        file = self.out / f"tune-{self.name}{share}-{head}-{self.plan.key()}.json"

        def run() -> dict[str, float]:
            def progress(step: int, steps: int, value: float) -> None:
                if step % 100 == 0:
                    self.say(f"{self.name}, {head}: step {step}/{steps}, L1 {value:.4f}")

            network = pixel_stage(head, self.photographs, self.plan, self.out / "pixel_stage", progress)
            fine_tune(network, self.loss, self.share, self.photographs, self.plan, progress)
            images = restore(network, list(self.pairs))
            self._keep_picture(f"tune-{head}{share}", images[self.pairs[0][0]])
            return measure(images, self.references, self.critic)

        return _kept(file, run)

    def _keep_picture(self, what: str, image: Tensor) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        torch.save((image.clamp(0, 1) * 255).round().byte(), self.out / f"picture-{self.name}-{what}.pt")


def enlarged(lr: Tensor) -> Tensor:
    """Bicubic x4 in [0, 1]."""
    return F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)


def _middle(lr: Tensor, hr: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The middle square of both, ``side`` pixels of GT or what there is."""
    rows, columns = (min(side // 4, length) for length in lr.shape[-2:])
    top, left = (lr.shape[-2] - rows) // 2, (lr.shape[-1] - columns) // 2
    small = lr[..., top : top + rows, left : left + columns]
    return small, hr[..., 4 * top : 4 * (top + rows), 4 * left : 4 * (left + columns)]


def _kept(file: Path, run: Callable[[], Mapping[str, object]]) -> dict:  # type: ignore[type-arg]
    """What the file holds, or what ``run`` gives, which is then written there."""
    if file.is_file():
        return dict(json.loads(file.read_text()))
    found = dict(run())
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1))
    part.replace(file)
    return found
