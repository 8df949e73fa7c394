"""The error classes of this package: the one place."""

from __future__ import annotations

__all__ = ["InputError", "InstallError", "NonFiniteError", "NonFiniteInputError", "UnknownNameError", "WeightsError"]


class InputError(ValueError):
    """An argument or a tensor is not what the documentation says."""


class WeightsError(RuntimeError):
    """A weights file is missing, damaged, of another network, or not the one that was pinned."""


class UnknownNameError(KeyError):
    """A name is in no list; the message carries the nearest known names."""

    def __str__(self) -> str:
        """KeyError prints the repr of its argument, which makes long messages unreadable."""
        return str(self.args[0]) if self.args else ""


class InstallError(ImportError):
    """A framework is missing or not whole; the message says what to do."""


class NonFiniteError(FloatingPointError):
    """A loss, a score or a gradient is NaN or infinite; the message names the culprit."""


class NonFiniteInputError(InputError, NonFiniteError):
    """A reference image is NaN or infinite: both an input that is not as documented and a culprit with a name."""
