"""Equation (12) of the Efficient-PBAN paper as printed. For study only, not for training.

With S = SSIM, Q = critic score, D = S + Q the printed loss is alpha*S/D + beta*Q/D = alpha + (beta - alpha)*Q/D. Hence

* alpha = beta: the value is constant and the gradient identically zero;
* else dL/dS = -(beta - alpha)*Q/D^2 and dL/dQ = (beta - alpha)*S/D^2: of positive scores one rises, the other falls;
* alpha and beta act through beta - alpha alone, a gradient scale, which does not change the steps of Adam;
* there is a pole at Q = -S, and for Q <= 0 the meaning flips.

Source: "Perceptual Quality Optimization of Image Super-Resolution", arXiv 2602.21482, equation (12).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float
from sr_perceptual_loss.errors import InputError, NonFiniteError

__all__ = ["check_eq12_weights", "eq12"]

#: alpha and beta closer than this, relative to the larger one, leave nothing but rounding in the gradient.
EQUAL = 1e-6
#: Smallest allowed abs(S + Q).
POLE = 1e-3


def check_eq12_weights(alpha: float, beta: float) -> str:
    """Raise an error for weights that make the loss constant; describe the effect of the others.

    Args:
        alpha: weight of the distortion ratio, >= 0.
        beta: weight of the perceptual ratio, >= 0.

    Returns:
        Text of the warning.

    Raises:
        InputError: not two finite numbers >= 0, or alpha = beta.
    """
    alpha, beta = as_float("alpha", alpha, minimum=0.0), as_float("beta", beta, minimum=0.0)
    if math.isclose(alpha, beta, rel_tol=EQUAL):
        raise InputError(
            f"eq12: at alpha = beta (got {alpha:g} and {beta:g}) equation (12) is the constant alpha, so its gradient "
            "is identically zero and only rounding noise would train the network. For the paper's 0.5 / 0.5 use "
            "`loss_balance: grad_norm` or `none`."
        )
    falls = "the critic's score" if beta > alpha else "SSIM"
    return (
        f"eq12 raises one score and lowers the other; under Adam only the sign of beta - alpha = "
        f"{beta - alpha:+g} matters: {falls} will go down. It is for study only; for training use "
        "`loss_balance: grad_norm`."
    )


def eq12(distortion_score: Tensor, perceptual_score: Tensor, alpha: float, beta: float) -> Tensor:
    """(alpha*S + beta*Q) / (S + Q).

    Args:
        distortion_score: S, any shape; higher is better.
        perceptual_score: Q, same shape, positive; higher is better.
        alpha: weight of S, >= 0.
        beta: weight of Q, >= 0; at alpha = beta the gradient is zero.

    Returns:
        Tensor of the same shape, float32 or wider.

    Raises:
        InputError: a score Q <= 0.
        NonFiniteError: abs(S + Q) below 0.001, next to the pole of the ratio.

    Source: arXiv 2602.21482, equation (12) with L_D = -S, L_P = -Q.
    """
    # In half precision, rounding would give a random gradient at alpha = beta instead of zero.
    dtype = torch.promote_types(torch.promote_types(distortion_score.dtype, perceptual_score.dtype), torch.float32)
    s, q = distortion_score.to(dtype), perceptual_score.to(dtype)
    total = s + q
    _check_scores(s.detach(), q.detach())
    return alpha * s / total + beta * q / total


def _check_scores(s: Tensor, q: Tensor) -> None:
    """Raise an error for the first pair of scores without a meaningful ratio; the caller checks for NaN."""
    pole, flipped = (s + q).abs() < POLE, q <= 0
    for bad, error, why in (
        (pole, NonFiniteError, f"abs(S + Q) is below {POLE:g}, next to the pole of equation (12)"),
        (flipped, InputError, "Q <= 0, where equation (12) raises or lowers both scores together"),
    ):
        if bool(bad.any()):
            index = int(bad.flatten().nonzero()[0, 0])
            raise error(
                f"eq12: S = {float(s.flatten()[index]):.6g}, Q = {float(q.flatten()[index]):.6g}: {why}. "
                "Critics whose scores are centred on zero need `loss_balance: grad_norm`."
            )
