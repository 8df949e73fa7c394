"""The error classes of this package."""

from __future__ import annotations

__all__ = ["InputError", "InstallError", "NonFiniteError", "NonFiniteInputError", "UnknownNameError", "WeightsError"]


class InputError(ValueError):
    """An argument or a tensor does not match the documentation."""


class WeightsError(RuntimeError):
    """A weights file is missing, damaged, made for another network, or not the one that was pinned."""


class UnknownNameError(KeyError):
    """A name is unknown; the message gives the nearest known name and lists all of them."""

    def __str__(self) -> str:
        """The plain message; KeyError shows its repr, which makes long messages unreadable."""
        return str(self.args[0]) if self.args else ""


class InstallError(ImportError):
    """A framework is missing or its installation is incomplete; the message says what to do."""


class NonFiniteError(FloatingPointError):
    """A loss, a score or a gradient is NaN or infinite; the message says which one."""


class NonFiniteInputError(InputError, NonFiniteError):
    """A reference image holds NaN or infinity; caught as either of its two base classes."""
