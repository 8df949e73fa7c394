"""Efficient-PBAN against golden numbers of the published network. All recorded stages are compared."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss.critics.efficient_pban.network import EfficientPBAN

from . import golden

pytestmark = pytest.mark.parity

#: SHA-256 of the distorted and of the reference images by size.
IMAGES = {
    (128, 128): (
        "aece9c0141b7a3c99475d19344cf87f70caf0db275547d82d20ec84682a5fd1a",
        "5a0d27ce3749b5f95c836c4ad33a80f55800bf7d4a9a4d8542e8b7773eca761e",
    ),
    (192, 160): (
        "dccbc614d352ebc29714ce07b622b40bef81d847e2cf86034a7c0837aa27a617",
        "fcfdaa18be8c975a5583615859c6f7c2348efa6c4559339965f43a1cb93edad2",
    ),
}
SIZES = list(IMAGES)
SHARED = ("stem", "layer2_1")


@pytest.fixture(scope="module")
def numbers():
    return golden.load("efficient_pban")


@pytest.fixture(scope="module")
def state():
    """The filled state dict in float64, made once."""
    critic = EfficientPBAN().double()
    wrong = golden.fill(critic, "efficient_pban")
    assert not wrong
    return critic.state_dict()


def build(state, precision, **config):
    critic = EfficientPBAN(**config).to(golden.DTYPE[precision])
    critic.load_state_dict(state, strict=True)
    return critic.eval().requires_grad_(False)


def test_layout_is_the_published_one():
    published = {entry["key"]: tuple(entry["shape"]) for entry in golden.entries("efficient_pban")}
    own = {key: tuple(value.shape) for key, value in EfficientPBAN().state_dict().items()}
    assert len(published) == 358
    assert own == published


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_images_are_the_recorded_ones(size):
    assert tuple(golden.image_hash(image) for image in golden.pair(*size)) == IMAGES[size]


def gradient(critic, sr, hr):
    sr = sr.clone().requires_grad_()
    scores = critic.score(sr, hr)
    (grad,) = torch.autograd.grad(scores.sum(), sr)
    return scores.detach(), grad


@pytest.mark.parametrize("precision", ["f64", "f32"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_raw_scores_and_gradients(numbers, state, size, precision, record_property):
    case = f"{size[0]}x{size[1]}.raw.{precision}"
    sr, hr = (image.to(golden.DTYPE[precision]) for image in golden.pair(*size))
    batch = build(state, precision, normalisation="raw", std="batch")
    errors = {}
    scores, grad = gradient(batch, sr, hr)
    errors["scores"] = golden.error(scores, numbers[f"{case}.scores"])
    errors["scores_swap"] = golden.error(batch.score(hr, sr), numbers[f"{case}.scores_swap"])
    errors["scores_identical"] = golden.error(batch.score(hr, hr), numbers[f"{case}.scores_identical"])
    # The per-sample deviation in one batch of two is the published result for two batches of one.
    sample = build(state, precision, normalisation="raw", std="sample")
    single, grad_single = gradient(sample, sr, hr)
    errors["scores_single"] = golden.error(single, numbers[f"{case}.scores_single"])
    limits = dict.fromkeys(errors, golden.TOLERANCE[precision])
    for name, value in (("grad", grad), ("grad_single", grad_single)):
        errors[f"{name}_stats"] = golden.error(golden.gradient_stats(value), numbers[f"{case}.{name}_stats"])
        limits[f"{name}_stats"] = golden.GRADIENT_TOLERANCE[precision]
        if precision == "f64":
            errors[f"{name}_sub"] = golden.error(golden.subsample(value), numbers[f"{case}.{name}_sub"])
            limits[f"{name}_sub"] = golden.GRADIENT_TOLERANCE[precision]
    if precision == "f32":
        errors["grad_l2"] = golden.l2_error(grad, numbers[f"{case}.grad"])
        limits["grad_l2"] = golden.GRADIENT_L2_TOLERANCE
    errors = {f"efficient_pban {case} {name}": value for name, value in errors.items()}
    limits = {f"efficient_pban {case} {name}": value for name, value in limits.items()}
    for item in errors.items():
        record_property(*item)
    golden.report(errors, limits)


@pytest.mark.parametrize("precision", ["f64", "f32"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_imagenet_scores(numbers, state, size, precision, record_property):
    case = f"{size[0]}x{size[1]}.imagenet.{precision}"
    sr, hr = (image.to(golden.DTYPE[precision]) for image in golden.pair(*size))
    critic = build(state, precision, normalisation="imagenet", std="batch")
    errors = {
        name: golden.error(critic.score(*images), numbers[f"{case}.{name}"])
        for name, images in {"scores": (sr, hr), "scores_swap": (hr, sr), "scores_identical": (hr, hr)}.items()
    }
    errors = {f"efficient_pban {case} {name}": value for name, value in errors.items()}
    for item in errors.items():
        record_property(*item)
    golden.report(errors, golden.TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["f64", "f32"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_stages(numbers, state, size, precision, record_property):
    case = f"{size[0]}x{size[1]}.raw.{precision}"
    stages = golden.stage_names(numbers, case)
    assert len(stages) == 37
    sr, hr = (image.to(golden.DTYPE[precision]) for image in golden.pair(*size))
    critic = build(state, precision, normalisation="raw", std="batch")
    with golden.record(critic, {stage.split("#")[0] for stage in stages}) as found:
        critic.score(sr, hr)
    errors = {
        f"efficient_pban {case} {stage}": golden.error(
            found[golden.swap_calls(stage, SHARED)], numbers[f"{case}.stage.{stage}"]
        )
        for stage in stages
    }
    record_property("worst stage", max(errors.items(), key=lambda item: item[1]))
    golden.report(errors, golden.TOLERANCE[precision])
