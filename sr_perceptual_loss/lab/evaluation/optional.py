"""Packages of the extra ``lab``, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from sr_perceptual_loss.errors import InstallError

__all__ = ["need"]


def need(module: str) -> Any:
    """Import a module of the extra ``lab``.

    Args:
        module: such as ``scipy.stats``.

    Returns:
        The module.

    Raises:
        InstallError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InstallError(
            f"{module.partition('.')[0]} is needed and cannot be imported ({error}): "
            "pip install 'sr_perceptual_loss[lab]'"
        ) from None
