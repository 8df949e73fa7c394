"""What the critic is worth on photographs that it has not seen, beside HaarPSI, and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.haarpsi import haarpsi
from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.evaluation.coefficients import srcc
from sr_perceptual_loss.training.attacks.pixels import pixel_attack
from sr_perceptual_loss.training.distortions import DISTORTIONS, SR_DISTORTIONS
from sr_perceptual_loss.training.lite.groups import Groups, GroupStream
from sr_perceptual_loss.training.lite.hardening import shrunk
from sr_perceptual_loss.training.lite.labels import Labels
from sr_perceptual_loss.training.lite.measures import full_reference
from sr_perceptual_loss.training.lite.versions import KADID, MIXED, SR, Recipe

__all__ = ["HeldOut", "antisymmetry", "attack_values", "held_out", "judge", "type_names"]

# Steps and rates of the two attacks of the gates.
FROM_GT = 20, 0.002
FROM_BICUBIC = 40, 0.004
# A pair counts as decided from this label difference on.
_DECIDED = 0.05


class HeldOut:
    """Held-out groups with their labels and HaarPSI, in memory.

    Args:
        groups: made versions, one :class:`Groups` per group.
        labels: label source.
    """

    def __init__(self, groups: Sequence[Groups], labels: Labels) -> None:
        self.images = [g.images[0] for g in groups]
        self.recipes = [[Recipe(*row) for row in g.recipes[0].tolist()] for g in groups]
        self.values: list[list[float]] = []
        self.haarpsi: list[list[float]] = []
        assert labels.fusion is not None
        for images, recipes in zip(self.images, self.recipes, strict=True):
            gt = images[:1].expand_as(images)
            measures = full_reference(images, gt)
            rows = zip(recipes, labels.fusion(measures), measures[:, -1].tolist(), strict=True)
            self.values.append([labels.of(recipe, fused, rms) for recipe, fused, rms in rows])
            self.haarpsi.append((1 - measures[:, 0]).tolist())


def held_out(stream: GroupStream, labels: Labels) -> HeldOut:
    """All groups of a stream of one group per step."""
    return HeldOut([stream[k] for k in range(len(stream))], labels)


def _subset(recipe: Recipe, left_out: Sequence[int]) -> str:
    """Which row of the table an image belongs to."""
    if recipe.kind == MIXED:
        return "mixed"
    kind = {KADID: "KADID types", SR: "SR families"}[recipe.kind]
    return f"{'unseen' if recipe.number in left_out else 'seen'} {kind}"


@torch.no_grad()
def judge(critic: RQILite, data: HeldOut, *, left_out: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Rank correlation with the own labels of f(image, GT) and of HaarPSI, and accuracy on pairs without GT.

    Args:
        critic: in eval mode.
        data: held-out groups.
        left_out: types and families that training did not show.
        device: of the critic.

    Returns:
        subset -> {"n", "srcc", "haarpsi_srcc"}, subsets as they occur, and "all", "unseen", "pairs".
    """
    rows: list[tuple[str, float, float, float]] = []
    right = decided = 0
    for images, recipes, values, similar in zip(data.images, data.recipes, data.values, data.haarpsi, strict=True):
        features = critic.encode_target(images.to(device))
        count = len(images)
        first = torch.arange(1, count, device=device)
        against = critic.compare(_take(features, first), _take(features, 0 * first)).tolist()
        rows += [(_subset(recipes[i], left_out), against[i - 1], values[i], similar[i]) for i in range(1, count)]
        a, b = torch.triu_indices(count - 1, count - 1, 1, device=device) + 1
        scores = critic.compare(_take(features, a), _take(features, b)).cpu()
        gaps = torch.tensor(values)[a.cpu()] - torch.tensor(values)[b.cpu()]
        counted = gaps.abs() > _DECIDED
        decided += int(counted.sum())
        right += int(((scores * gaps > 0) & counted).sum())
    found: dict[str, Any] = {}
    for name in ("all", "unseen", *sorted({row[0] for row in rows})):
        chosen = [row for row in rows if name == "all" or row[0].startswith(name)]
        if len(chosen) > 2:
            _, scores_, labels_, similar_ = zip(*chosen, strict=True)
            found[name] = {
                "n": len(chosen),
                "srcc": srcc(scores_, labels_),
                "haarpsi_srcc": srcc(similar_, labels_),
            }
    found["pairs without GT"] = {"n": decided, "accuracy": right / max(1, decided)}
    return found


def _take(features: tuple[Tensor, ...], places: Tensor) -> tuple[Tensor, ...]:
    return tuple(x[places] for x in features)


@torch.no_grad()
def antisymmetry(critic: Critic, data: HeldOut, device: torch.device) -> float:
    """Largest |f(a, b) + f(b, a)| over versions of the held-out groups."""
    worst = 0.0
    for images in data.images:
        a, b = images[1:].to(device), images[:-1].to(device)
        worst = max(worst, float((critic.score(a, b) + critic.score(b, a)).abs().max()))
    return worst


def attack_values(critic: Critic, gt: Tensor) -> dict[str, float]:
    """The two pixel attacks of the gates.

    Args:
        critic: under attack.
        gt: (N, 3, H, W) pristine crops, sides multiples of 4.

    Returns:
        From GT (20 steps of 0.002): mean and largest score. From bicubic x4 (40 steps of 0.004): mean score before and
        after, mean HaarPSI before and after.
    """
    steps, rate = FROM_GT
    raised = critic.score(pixel_attack(critic, gt, gt, steps=steps, rate=rate), gt).detach()
    low = F.interpolate(shrunk(gt), scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
    steps, rate = FROM_BICUBIC
    attacked = pixel_attack(critic, low, gt, steps=steps, rate=rate)
    with torch.no_grad():
        return {
            "from_gt_mean": float(raised.mean()),
            "from_gt_max": float(raised.max()),
            "bicubic_score": float(critic.score(low, gt).mean()),
            "bicubic_attacked_score": float(critic.score(attacked, gt).mean()),
            "bicubic_haarpsi": float(haarpsi(low, gt).mean()),
            "bicubic_attacked_haarpsi": float(haarpsi(attacked, gt).mean()),
        }


def type_names(left_out: Sequence[int]) -> list[str]:
    """Names of types and families, for a report."""
    known = {**DISTORTIONS, **SR_DISTORTIONS}
    return [f"{number} {known[number].name}" for number in left_out]
