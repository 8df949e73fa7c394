"""Facts about published files: weights of critics, and checkpoints of absolute-quality metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ABSOLUTE", "ADVICE", "COMMERCIAL_USE", "AbsoluteCheckpoint", "WeightsEntry", "recognise"]

#: How ``commercial_use`` is written in a file's header and in messages.
COMMERCIAL_USE: Mapping[bool | None, str] = {True: "yes", False: "no", None: "unknown"}


@dataclass(frozen=True)
class WeightsEntry:
    """One published weights file of a critic."""

    tag: str  # value of ``weights=`` that selects it, for instance ``official``
    repo_id: str  # Hugging Face repository, or "torchvision"; empty for a file that is part of this package
    filename: str  # file in the repository, or in the folder ``sr_perceptual_loss``
    revision: str  # commit to download; a branch name is resolved at first use, and the commit pinned in the lock file
    # Of the published file; empty if its authors publish none. Then the hash that the hub states is verified, and
    # pinned in the lock file at first use.
    sha256: str
    bytes: int  # size of the published file
    licence: str  # of the weights; empty, or a text that begins with "not stated", if none is stated
    training_data: str  # what they were trained on
    origin: str  # who made them, in one sentence
    commercial_use: bool | None  # None if it is not stated

    @property
    def bundled(self) -> bool:
        """Whether the file is part of this package, in our format; it is never downloaded or converted."""
        return not self.repo_id

    @property
    def of_torchvision(self) -> bool:
        """Whether torchvision publishes it; ``torch.hub`` downloads such files, and keeps them in a folder."""
        return self.repo_id == "torchvision"

    @property
    def url(self) -> str:
        """Address of the file; empty for a bundled one."""
        if self.of_torchvision:
            return f"https://download.pytorch.org/models/{self.filename}"
        return "" if self.bundled else f"https://huggingface.co/{self.repo_id}/resolve/{self.revision}/{self.filename}"


@dataclass(frozen=True)
class AbsoluteCheckpoint:
    """A published checkpoint of an absolute-quality metric that has the layout of a relative critic.

    A training can start from such a file, but it is not for use in a loss. The files of TOPIQ even fit entry by entry,
    so only their name or hash identifies them.
    """

    filename: str  # as published; most contain the first eight digits of the SHA-256
    critic: str  # the critic whose layout it has
    metric: str
    training_data: str
    licence: str
    commercial_use: bool | None

    @property
    def description(self) -> str:
        """Metric and training data, for messages and headers."""
        return f"{self.metric} trained on {self.training_data}"


_REHOSTED = "not stated by its authors; the collection that re-hosts it says CC BY-NC-SA 4.0"
_NC = "CC BY-NC-SA 4.0"
_UNSTATED = "not stated for the file; the authors' code is Apache-2.0"

ABSOLUTE: tuple[AbsoluteCheckpoint, ...] = (
    AbsoluteCheckpoint("AHIQ_vit_p8_epoch33-da3ea303.pth", "rqi_ahiq", "AHIQ", "PIPAL", _REHOSTED, None),
    AbsoluteCheckpoint("MANIQA_PIPAL-ae6d356b.pth", "rqi_maniqa", "MANIQA", "PIPAL", _REHOSTED, None),
    AbsoluteCheckpoint("ckpt_kadid10k.pt", "rqi_maniqa", "MANIQA", "KADID-10k", _UNSTATED, None),
    AbsoluteCheckpoint("ckpt_koniq10k.pt", "rqi_maniqa", "MANIQA", "KonIQ-10k", _UNSTATED, None),
    AbsoluteCheckpoint("cfanet_fr_pipal_res50-69bbe5ba.pth", "rqi_topiq", "TOPIQ-FR", "PIPAL", _NC, False),
    AbsoluteCheckpoint("cfanet_fr_kadid_res50-2c4cc61d.pth", "rqi_topiq", "TOPIQ-FR", "KADID-10k", _NC, False),
)

#: Advice for a warm start from such a file, by critic.
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
    """The known checkpoint with this name or SHA-256 (which also identifies a renamed file); None for any other."""
    return next((k for k in ABSOLUTE if filename == k.filename or f"-{sha256[:8]}." in k.filename), None)
