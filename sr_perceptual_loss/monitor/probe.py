"""Measures the gradient norm of each loss at the SR output and proposes weights for wanted shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, check_choice, check_known_keys
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.gradients import gradient_at

__all__ = ["ProbeReport", "probe"]

#: (sr, hr) -> 0-d loss, weight included.
PairFunction = Callable[[Tensor, Tensor], Tensor]

#: A gradient norm below this fraction of the largest one counts as zero.
ZERO = 1e-12


@dataclass(frozen=True)
class ProbeReport:
    """Measurements on a few batches, by name of the loss."""

    names: tuple[str, ...]  # the losses, in the order given
    values: Mapping[str, float]  # median loss value
    norms: Mapping[str, float]  # median gradient norm at the SR output (per image, averaged over the batch)
    spread: Mapping[str, float]  # largest over smallest norm of the batches; 1 means that all gave the same norm
    cosines: Mapping[tuple[str, str], float]  # mean cosine between the gradients of two losses, by (name, name)
    shares: Mapping[str, float]  # wanted shares of the total norm of the losses whose weights may change; sum 1
    factors: Mapping[str, float | None]  # on the weight; 1 where it stays, None for a loss without a gradient
    reference: str  # the loss whose weight stays
    batches: int  # number of batches
    weights: Mapping[str, float] = field(default_factory=dict)  # current weights, where they are known

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON; ``weight_proposed`` is weight times factor, if the weight is known."""
        total = sum(self.norms.values())
        rows = []
        for name in self.names:
            factor, weight = self.factors[name], self.weights.get(name)
            row = {
                "name": name,
                "value": self.values[name],
                "gradient_norm": self.norms[name],
                "spread": self.spread[name],
                "share_now": self.norms[name] / total if total else 0.0,
                "share_wanted": self.shares.get(name),
                "factor": factor,
                "weight_now": weight,
                "weight_proposed": None if factor is None or weight is None else weight * factor,
            }
            rows.append(row)
        cosines = [{"a": a, "b": b, "cosine": value} for (a, b), value in self.cosines.items()]
        return {"reference": self.reference, "batches": self.batches, "losses": rows, "cosines": cosines}


def probe(
    losses: Mapping[str, PairFunction],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    shares: Mapping[str, float] | None = None,
    reference: str | None = None,
    weights: Mapping[str, float] | None = None,
    fixed: Collection[str] = (),
) -> ProbeReport:
    """Measure ||d loss / d sr|| of every loss and propose weights for wanted shares of the total norm.

    factor_i = (share_i / share_ref) * (norm_ref / norm_i). With the weights multiplied by these factors, the norms have
    the wanted shares, and the reference loss keeps its weight.

    Args:
        losses: named losses, weight included, each ``(sr, hr) -> 0-d tensor``.
        batches: pairs (sr, hr) of (N, 3, H, W) images: outputs of the network to be trained, and their references.
        shares: wanted shares by name; equal ones by default. For all losses: any positive numbers, only their ratios
            count. For some: fractions of 1, and the other losses get equal parts of the rest.
        reference: the loss whose weight stays; the first by default.
        weights: current weights, only used for the proposed weights of the report.
        fixed: losses that are measured and keep their weight, and have no share: adversarial ones, since the norm of an
            untrained discriminator's gradient says nothing about the weight that the term needs.

    Returns:
        The report.

    Raises:
        InputError: no loss, no batch, unknown names, shares that are not positive, a reference without a gradient.
        NonFiniteError: a loss or its gradient is not finite; the message names it.
    """
    names, weighted = tuple(losses), tuple(name for name in losses if name not in fixed)
    if not weighted:
        raise InputError("probe: got no losses whose weight may change.")
    wanted = _normalised(weighted, shares)
    reference = weighted[0] if reference is None else check_choice("probe: reference", reference, weighted)
    values: dict[str, list[float]] = {name: [] for name in names}
    norms: dict[str, list[float]] = {name: [] for name in names}
    cosines: dict[tuple[str, str], list[float]] = {(a, b): [] for i, a in enumerate(names) for b in names[i + 1 :]}
    for sr, hr in batches:
        gradients = {}
        for name, loss in losses.items():
            value, gradients[name] = _gradient(name, loss, sr, hr)
            values[name].append(value)
            norms[name].append(float(gradients[name].norm(dim=1).mean()))
        for (a, b), cosines_of_pair in cosines.items():
            cosines_of_pair.append(float(torch.cosine_similarity(gradients[a], gradients[b], dim=1).mean()))
    if not norms[reference]:
        raise InputError("probe: got no batches.")
    medians = {name: median(per_batch) for name, per_batch in norms.items()}
    return ProbeReport(
        names=names,
        values={name: median(per_batch) for name, per_batch in values.items()},
        norms=medians,
        spread={name: max(n) / min(n) if min(n) > 0 else math.inf for name, n in norms.items()},
        cosines={pair: fmean(per_batch) for pair, per_batch in cosines.items()},
        shares=wanted,
        factors=dict.fromkeys(names, 1.0) | _factors(medians, wanted, reference),
        reference=reference,
        batches=len(norms[reference]),
        weights=dict(weights or {}),
    )


def _normalised(names: tuple[str, ...], shares: Mapping[str, float] | None) -> dict[str, float]:
    shares = dict.fromkeys(names, 1.0) if shares is None else shares
    check_known_keys("probe shares", shares, names)
    numbers = {name: as_float(f"share of {name}", share, minimum=1e-9) for name, share in shares.items()}
    missing, given = [name for name in names if name not in shares], sum(numbers.values())
    if missing and given >= 1:
        raise InputError(
            f"probe shares: got {given:g} in total, which leaves nothing for {', '.join(missing)}. Give some losses "
            "fractions of 1, or every loss a number."
        )
    numbers |= dict.fromkeys(missing, (1 - given) / max(1, len(missing)))
    total = sum(numbers.values())
    return {name: numbers[name] / total for name in names}


def _gradient(name: str, loss: PairFunction, sr: Tensor, hr: Tensor) -> tuple[float, Tensor]:
    """Value, and gradient at the SR output as (N, C*H*W)."""
    leaf = sr.detach().float().requires_grad_()
    with torch.enable_grad():
        value, gradient = gradient_at(lambda image: loss(image, hr), leaf, leaf, f"probe: {name}")
    if not (bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())):
        raise NonFiniteError(f"probe: {name} or its gradient is NaN or infinite.")
    return float(value), gradient.flatten(1)


def _factors(norms: Mapping[str, float], shares: Mapping[str, float], reference: str) -> dict[str, float | None]:
    floor = ZERO * max(norms[name] for name in shares)
    if norms[reference] <= floor:
        raise InputError(f"probe: '{reference}' has no gradient at the SR output; choose another reference.")
    return {
        name: None if norms[name] <= floor else share / shares[reference] * norms[reference] / norms[name]
        for name, share in shares.items()
    }
