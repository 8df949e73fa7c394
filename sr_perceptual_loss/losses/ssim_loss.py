"""SSIM as a loss: 1 - SSIM."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.ops.ssim import ssim_checked

__all__ = ["SSIMLoss"]


class SSIMLoss(PairLoss):
    """loss_weight * mean(1 - SSIM(sr, hr)); same gradient as -SSIM, the form used in papers.

    Args:
        loss_weight: factor, >= 0.
        window: side of the Gaussian window, odd, >= 3.
        sigma: standard deviation of the window, in pixels.
        reduction: ``mean``, ``sum`` or ``none``.
        schedule: ``start``, ``ramp``, ``end``, ``every`` in global iterations; see :class:`Schedule`.
    """

    optimises = ("ssim",)

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        window: int = 11,
        sigma: float = 1.5,
        reduction: str = "mean",
        schedule: Schedule | Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction, schedule=schedule)
        self.window = as_int("window", window, minimum=3)
        if self.window % 2 == 0:
            raise InputError(f"window: got {self.window}, expected an odd number.")
        self.sigma = as_float("sigma", sigma, minimum=1e-3)

    def extra_repr(self) -> str:
        """Loss weight and window."""
        return f"{super().extra_repr()}, window={self.window}, sigma={self.sigma:g}"

    def _values(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        score = ssim_checked(sr, hr, window=self.window, sigma=self.sigma)
        return 1 - score, {"score": score}
