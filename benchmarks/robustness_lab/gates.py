"""What a critic must pass before it is bundled, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["GATES", "Gate", "GateRule", "check_gates"]

#: Bounds on the amplitude of high frequencies against GT, and the loss of PSNR in dB, after a fine-tune.
GATES: dict[str, tuple[tuple[float, float], float]] = {
    "weight_free": ((0.6, 1.05), 1.0),
    "learned": ((0.25, 1.05), 0.5),
}
PEAK = 2.0


@dataclass(frozen=True)
class GateRule:
    """Limits of one kind of critic.

    Attributes:
        hf_ratio: allowed amplitude of high frequencies against GT after a fine-tune.
        psnr_loss: most dB lost against the L1 control.
        peak: most that a grid frequency may stand out, in units of the L1 control.
    """

    hf_ratio: tuple[float, float]
    psnr_loss: float
    peak: float = PEAK

    @classmethod
    def of(cls, kind: str) -> GateRule:
        """The rule for ``weight_free`` or ``learned`` critics."""
        hf_ratio, psnr_loss = GATES[kind]
        return cls(hf_ratio, psnr_loss)


@dataclass(frozen=True)
class Gate:
    """One result.

    Attributes:
        name: what was looked at.
        value: measured.
        limit: allowed, in words.
        passed: whether it is inside.
    """

    name: str
    value: float
    limit: str
    passed: bool


def check_gates(
    rule: GateRule,
    attack: Mapping[str, Mapping[str, float]],
    heads: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]],
) -> list[Gate]:
    """Hold measurements against the limits.

    Args:
        rule: the limits.
        attack: ``before`` and ``after`` an attack from bicubic: measures with ``haarpsi``.
        heads: head -> (measures of the L1 control, measures with the critic) on the same pictures.

    Returns:
        One :class:`Gate` per limit.
    """
    before, after = attack["before"]["haarpsi"], attack["after"]["haarpsi"]
    gates = [Gate("attack from bicubic: HaarPSI", after, f">= {before:.4f} (before)", after >= before - 1e-4)]
    low, high = rule.hf_ratio
    for head, (control, found) in heads.items():
        ratio, lost = found["hf_ratio"], control["psnr_y"] - found["psnr_y"]
        gates.append(Gate(f"{head}: high-frequency ratio", ratio, f"{low} .. {high}", low <= ratio <= high))
        gates.append(Gate(f"{head}: PSNR lost, dB", lost, f"<= {rule.psnr_loss}", lost <= rule.psnr_loss))
        for key in sorted(k for k in found if k.startswith("peak_")):
            limit = rule.peak * control[key]
            name = f"{head}: spectral peak of period {key.removeprefix('peak_')}"
            gates.append(Gate(name, found[key], f"<= {limit:.2f} ({rule.peak:g} x control)", found[key] <= limit))
    return gates
