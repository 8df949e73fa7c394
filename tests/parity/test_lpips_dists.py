"""The published variants of LPIPS and DISTS against their packages, with random networks and the fitted parts.

The golden numbers are those of lpips 0.1.4 and DISTS-pytorch 0.1 in float64, for torchvision's ``features`` filled from
the keys (golden.seeded), with the heads, alpha and beta of those packages. The constants of their input layers are
rounded to float32, which limits the agreement.
"""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch

from sr_perceptual_loss.critics.dists import DistsVgg
from sr_perceptual_loss.critics.lpips import LpipsAlex, LpipsSqueeze, LpipsVgg

from . import golden

pytestmark = pytest.mark.parity

SIZE = (77, 101)
#: Relative errors in float64; a ReLU input may fall on the other side of its kink.
LIMITS = {"scores": 1e-7, "grad_stats": 1e-5, "grad_sub": 1e-5}
CLASSES = {cls.card.name: cls for cls in (LpipsAlex, LpipsVgg, LpipsSqueeze, DistsVgg)}


@functools.cache
def network(name):
    """The critic with ``features`` filled from their keys, and the fitted parts of the package; not to be modified."""
    critic = CLASSES[name]().double().eval().requires_grad_(False)
    keys = {k.removeprefix("trunk."): v for k, v in critic.state_dict().items() if k.startswith("trunk.")}
    critic.load_state_dict(critic.remap_official({k: golden.seeded(k, v.shape) for k, v in keys.items()}))
    return critic


def filled(name, dtype):
    return copy.deepcopy(network(name)).to(dtype)


def score_and_gradient(function, dtype, size=SIZE):
    sr, hr = (image.to(dtype) for image in golden.pair(*size))
    score = function(sr.requires_grad_(), hr)
    return score.detach(), torch.autograd.grad(score.sum(), sr)[0]


@pytest.mark.parametrize("name", CLASSES)
def test_golden_numbers(name, record_property):
    numbers = golden.load("lpips_dists")
    scores, gradient = score_and_gradient(network(name).score, torch.float64)
    found = {
        "scores": scores,
        "grad_stats": golden.gradient_stats(gradient),
        "grad_sub": golden.subsample(gradient)[::8],
    }
    errors = {key: golden.error(value, numbers[f"{name}.{SIZE[0]}x{SIZE[1]}.{key}"]) for key, value in found.items()}
    for item in errors.items():
        record_property(*item)
    golden.report(errors, LIMITS)


@pytest.mark.parametrize(("name", "size"), [("lpips_alex", SIZE), ("lpips_vgg", (64, 48)), ("lpips_squeeze", SIZE)])
def test_the_package_lpips_in_float32(name, size):
    lpips = pytest.importorskip("lpips", reason="pip install lpips")
    critic = filled(name, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torchvision's old spelling of `weights=`
        package = lpips.LPIPS(net=name.removeprefix("lpips_"), pnet_rand=True, verbose=False).eval()
    features = critic.trunk.features.state_dict()
    package.net.load_state_dict({k: features[k.split(".", 1)[1]] for k in package.net.state_dict()})
    scores, gradient = score_and_gradient(critic.score, torch.float32, size)
    distances, expected = score_and_gradient(
        lambda sr, hr: package(sr, hr, normalize=True).flatten(), torch.float32, size
    )
    torch.testing.assert_close(scores, -distances, rtol=1e-6, atol=0)
    assert golden.l2_error(gradient, -expected.numpy()) < 1e-6
    form, form_gradient = score_and_gradient(critic.inference_form().score, torch.float32, size)
    torch.testing.assert_close(form, scores, rtol=1e-5, atol=0)
    assert golden.l2_error(form_gradient, gradient.numpy()) < 1e-3


def test_the_package_piq_in_float32(size=(61, 48)):
    perceptual = pytest.importorskip("piq.perceptual", reason="pip install piq")
    critic = filled("dists_vgg", torch.float32)
    parts = [part.split(critic.channels) for part in (critic.alpha, critic.beta)]
    weights = [value.view(1, -1, 1, 1) / (critic.alpha.sum() + critic.beta.sum()) for part in parts for value in part]
    # DISTS.__init__ downloads; the arguments are those that it passes on.
    package = perceptual.DISTS.__new__(perceptual.DISTS)
    perceptual.ContentLoss.__init__(
        package, critic.trunk.features, ("3", "8", "15", "22", "29"), weights, replace_pooling=True, reduction="none",
        allow_layers_weights_mismatch=True,
    )  # fmt: skip
    scores, gradient = score_and_gradient(critic.score, torch.float32, size)
    distances, expected = score_and_gradient(package, torch.float32, size)
    torch.testing.assert_close(scores, 1 - distances, rtol=1e-6, atol=0)
    assert golden.l2_error(gradient, -expected.numpy()) < 1e-6
