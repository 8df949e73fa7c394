"""Published checkpoints of metrics of absolute quality that the RQI critics share their layout with.

None of them is RQI-trained: they are starts for a training, not weights for a loss. TOPIQ's even fit entry by entry, so
nothing but the file itself tells what they are; hence this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ABSOLUTE", "ADVICE", "AbsoluteCheckpoint", "recognise"]


@dataclass(frozen=True)
class AbsoluteCheckpoint:
    """One published file.

    Attributes:
        filename: as published.
        sha256: first digits of its SHA-256, as its name states them; empty where it does not.
        critic: the critic whose layout it shares.
        what: what it is, for messages.
        training_data: what it was trained on.
        licence: of the weights as far as known.
        commercial_use: True, False, or None where nobody has said.
    """

    filename: str
    sha256: str
    critic: str
    what: str
    training_data: str
    licence: str
    commercial_use: bool | None


_REHOSTED = "not stated by its authors; the collection that re-hosts it says CC BY-NC-SA 4.0"
_NONCOMMERCIAL = "CC BY-NC-SA 4.0"
_UNSTATED = "not stated for the file; the authors' code is Apache-2.0"

ABSOLUTE: tuple[AbsoluteCheckpoint, ...] = (
    AbsoluteCheckpoint(
        "AHIQ_vit_p8_epoch33-da3ea303.pth", "da3ea303", "rqi_ahiq", "AHIQ trained on PIPAL", "PIPAL", _REHOSTED, None
    ),
    AbsoluteCheckpoint(
        "MANIQA_PIPAL-ae6d356b.pth", "ae6d356b", "rqi_maniqa", "MANIQA trained on PIPAL", "PIPAL", _REHOSTED, None
    ),
    AbsoluteCheckpoint(
        "ckpt_kadid10k.pt", "", "rqi_maniqa", "MANIQA trained on KADID-10k", "KADID-10k", _UNSTATED, None
    ),
    AbsoluteCheckpoint(
        "ckpt_koniq10k.pt", "", "rqi_maniqa", "MANIQA trained on KonIQ-10k", "KonIQ-10k", _UNSTATED, None
    ),
    AbsoluteCheckpoint(
        "cfanet_fr_pipal_res50-69bbe5ba.pth",
        "69bbe5ba",
        "rqi_topiq",
        "TOPIQ-FR trained on PIPAL",
        "PIPAL",
        _NONCOMMERCIAL,
        False,
    ),
    AbsoluteCheckpoint(
        "cfanet_fr_kadid_res50-2c4cc61d.pth",
        "2c4cc61d",
        "rqi_topiq",
        "TOPIQ-FR trained on KADID-10k",
        "KADID-10k",
        _NONCOMMERCIAL,
        False,
    ),
)

#: What a person must know who starts a critic from such a file, whatever its name.
ADVICE: Mapping[str, str] = {
    "rqi_ahiq": (
        "The published AHIQ file goes with normalisation 'half', the default here. It holds no backbones: add "
        "--backbone vit=FILE (timm vit_base_patch8_224.augreg_in21k_ft_in1k, not augreg2) and --backbone resnet50=FILE "
        "(timm resnet50.a1_in1k)."
    ),
    "rqi_maniqa": (
        "The scale of the Swin layers is not in a file but an argument: the PIPAL file was trained with 0.13 (add "
        "--config scale=0.13), the KADID-10k and KonIQ-10k files and RQI with 0.8 (the default here)."
    ),
}


def recognise(filename: str, sha256: str) -> AbsoluteCheckpoint | None:
    """The published file that this is, going by its SHA-256 (also when renamed) or its name; None for any other."""
    for known in ABSOLUTE:
        if filename == known.filename or (known.sha256 and sha256.startswith(known.sha256)):
            return known
    return None
