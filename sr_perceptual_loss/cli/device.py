"""The device of a critic, checked before its weights are read."""

from __future__ import annotations

from typing import Annotated

import typer

from sr_perceptual_loss.errors import InputError

__all__ = ["Device", "check_device"]

#: The option ``--device`` of the commands that score.
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]


def check_device(device: str) -> None:
    """Raise unless the device can be used.

    Raises:
        InputError: unknown, or not on this machine.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: {device!r} cannot be used here ({reason}); use cpu.") from None
