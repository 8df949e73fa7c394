from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.eq12 import check_eq12_weights, eq12

SCORES = [(0.7, 3.0), (0.3, 0.3), (0.95, 4.8), (0.05, 1.2)]
RATIOS = [(0.9, 0.1), (0.6, 0.4), (0.4, 0.6), (0.1, 0.9), (2.0, 0.5)]


def scores(s, q):
    return tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (s, q))


def gradients(s, q, *args, **kwargs):
    s, q = scores(s, q)
    loss = eq12(s, q, *args, **kwargs)
    return (loss.detach(), *(g.detach() for g in torch.autograd.grad(loss, (s, q))))


@pytest.mark.parametrize(("s", "q"), SCORES)
@pytest.mark.parametrize(("alpha", "beta"), RATIOS)
def test_value_and_gradients_are_those_of_the_closed_form(s, q, alpha, beta):
    loss, ds, dq = gradients(s, q, alpha, beta)
    total = s + q
    expected = (alpha + (beta - alpha) * q / total, -(beta - alpha) * q / total**2, (beta - alpha) * s / total**2)
    for got, want in zip((loss, ds, dq), expected, strict=True):
        assert abs(float(got) - want) < 1e-12


@pytest.mark.fault(61)
@pytest.mark.parametrize("weight", [0.5, 0.1, 3.0])
def test_equal_weights_are_refused_and_have_no_gradient(weight):
    for other in (weight, weight * (1 + 1e-9)):
        with pytest.raises(InputError, match="alpha = beta.*grad_norm"):
            check_eq12_weights(weight, other)
    for s, q in SCORES:
        loss, ds, dq = gradients(s, q, weight, weight)
        assert abs(float(loss) - weight) < 1e-12
        assert abs(float(ds)) < 1e-12 and abs(float(dq)) < 1e-12


@pytest.mark.parametrize(("s", "q"), SCORES)
def test_zero_sum_and_swapping_the_weights_negates(s, q):
    for alpha, beta in RATIOS:
        loss, ds, dq = gradients(s, q, alpha, beta)
        assert abs(s * float(ds) + q * float(dq)) < 1e-12
        assert float(ds) * float(dq) < 0
        swapped = gradients(s, q, beta, alpha)[0]
        assert abs(abs(float(loss + swapped)) - (alpha + beta)) < 1e-12


@pytest.mark.parametrize(("alpha", "beta", "rises"), [(0.1, 0.9, "ssim"), (0.9, 0.1, "critic")])  # fmt: skip
def test_which_score_goes_down_and_the_warning_says_so(alpha, beta, rises):
    _, ds, dq = gradients(0.7, 3.0, alpha, beta)
    assert (float(-ds) > 0) == (rises == "ssim") and (float(-dq) > 0) == (rises == "critic")
    sentence = check_eq12_weights(alpha, beta)
    falls = "SSIM" if rises == "critic" else "the critic's score"
    assert f"{falls} will go down" in sentence and "only the sign of beta - alpha" in sentence


@pytest.mark.fault(62)
@pytest.mark.parametrize(("s", "q", "error", "words"), [
    (0.7, -0.7001, NonFiniteError, "S = 0.7, Q = -0.7001.*pole"),
    (0.7, -2.5, InputError, "S = 0.7, Q = -2.5.*Q <= 0"),
    (0.7, 0.0, InputError, "S = 0.7, Q = 0:"),
    (-0.3, 0.3, NonFiniteError, "pole"),
])  # fmt: skip
def test_scores_for_which_the_ratio_means_nothing(s, q, error, words):
    good = torch.tensor([0.5, s], dtype=torch.float64), torch.tensor([3.0, q], dtype=torch.float64)
    with pytest.raises(error, match=words):
        eq12(*good, 0.9, 0.1)


@pytest.mark.parametrize(("alpha", "beta", "words"), [
    (-0.1, 0.5, "alpha: got -0.1"), (0.5, float("nan"), "beta: .*finite"), (True, 0.5, "alpha"),
    (0.5, "x", "beta: .*x"),
])  # fmt: skip
def test_weights_that_are_refused(alpha, beta, words):
    with pytest.raises(InputError, match=words):
        check_eq12_weights(alpha, beta)


def test_the_ratio_is_formed_in_single_precision_at_least():
    s, q = torch.tensor([0.7]).bfloat16(), torch.tensor([3.0]).bfloat16()
    loss = eq12(s, q, 0.9, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, eq12(s.float(), q.float(), 0.9, 0.1), rtol=0, atol=0)
    assert eq12(torch.zeros(0), torch.zeros(0), 0.9, 0.1).shape == (0,)
