"""Frozen image-quality critics as losses for super-resolution training.

Importing this package loads no training framework and downloads nothing; names are loaded when first used (PEP 562), so
that ``srpl --help`` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sr_perceptual_loss._version import __version__

if TYPE_CHECKING:
    from sr_perceptual_loss._checks import InputError, NonFiniteError, UnknownNameError, WeightsError
    from sr_perceptual_loss.critics import (
        Critic,
        CriticCard,
        SizeRule,
        create_critic,
        get_card,
        list_critics,
        register_critic,
    )
    from sr_perceptual_loss.functional import CropPlan, GradNormBalancer, ssim
    from sr_perceptual_loss.losses import (
        CriticLoss,
        EfficientPBANLoss,
        FrozenCritic,
        HackingError,
        HackingGuard,
        RQILoss,
        Schedule,
        SSIMLoss,
        SSIMPerceptualRatioLoss,
    )
    from sr_perceptual_loss.losses.probe import probe
    from sr_perceptual_loss.weights import load_weights, save_weights

__all__ = [
    "Critic",
    "CriticCard",
    "CriticLoss",
    "CropPlan",
    "EfficientPBANLoss",
    "FrozenCritic",
    "GradNormBalancer",
    "HackingError",
    "HackingGuard",
    "InputError",
    "NonFiniteError",
    "RQILoss",
    "SSIMLoss",
    "SSIMPerceptualRatioLoss",
    "Schedule",
    "SizeRule",
    "UnknownNameError",
    "WeightsError",
    "__version__",
    "create_critic",
    "get_card",
    "list_critics",
    "load_weights",
    "probe",
    "register_critic",
    "save_weights",
    "ssim",
]

_ROOMS = {
    "_checks": ("InputError", "NonFiniteError", "UnknownNameError", "WeightsError"),
    "critics": (
        "Critic",
        "CriticCard",
        "SizeRule",
        "create_critic",
        "get_card",
        "list_critics",
        "register_critic",
    ),
    "functional": ("CropPlan", "GradNormBalancer", "ssim"),
    "losses": (
        "CriticLoss",
        "EfficientPBANLoss",
        "FrozenCritic",
        "HackingError",
        "HackingGuard",
        "RQILoss",
        "SSIMLoss",
        "SSIMPerceptualRatioLoss",
        "Schedule",
    ),
    "losses.probe": ("probe",),
    "weights": ("load_weights", "save_weights"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sr_perceptual_loss' has no attribute '{name}'")
    value = getattr(import_module(f"sr_perceptual_loss.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
