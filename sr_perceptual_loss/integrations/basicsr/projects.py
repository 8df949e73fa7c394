"""Model classes of a project, with our list of losses: ``model_type: PerceptualCAModel`` for its ``CAModel``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import MODEL_REGISTRY

from sr_perceptual_loss._checks import UnknownNameError, nearest
from sr_perceptual_loss.integrations.basicsr.models import perceptual

__all__ = ["ensure_model", "model_type_of"]

PREFIX = "Perceptual"


def model_type_of(basicsr_args: Sequence[str]) -> str | None:
    """``model_type`` of the file after ``-opt``; None where there is none (BasicSR's parser will say so).

    Args:
        basicsr_args: BasicSR's command line.

    Returns:
        The name, or None.
    """
    arguments = list(basicsr_args)
    if "-opt" not in arguments[:-1]:
        return None
    path = Path(arguments[arguments.index("-opt") + 1])
    if not path.is_file():
        return None
    options = yaml.load(path.read_text(), Loader=ordered_yaml()[0])
    found = options.get("model_type") if isinstance(options, dict) else None
    return found if isinstance(found, str) else None


def ensure_model(model_type: str | None) -> None:
    """Make ``Perceptual<Name>`` from a registered ``<Name>`` where it is not registered yet.

    Args:
        model_type: the name that a YAML asks for.

    Raises:
        UnknownNameError: neither is registered; with the nearest name and the cure.
    """
    if model_type is None or model_type in MODEL_REGISTRY or f"{model_type}_basicsr" in MODEL_REGISTRY:
        return
    base = model_type.removeprefix(PREFIX)
    if model_type.startswith(PREFIX) and base in MODEL_REGISTRY:
        perceptual(MODEL_REGISTRY.get(base), model_type)
        return
    raise UnknownNameError(
        f"model_type: no model '{model_type}' is registered.{nearest(model_type, MODEL_REGISTRY.keys())} A model of "
        "your project is known after --import of the module that registers it."
    )
