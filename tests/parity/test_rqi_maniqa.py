"""RQI/MANIQA against golden numbers of the released network. All recorded stages are compared.

The network is large: each precision builds it once and runs one forward and backward pass of (sr, hr); the swapped and
the identical pair take the ViT features of that pass and run the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sr_perceptual_loss.critics.rqi_maniqa.network import RQIManiqa

from . import golden

pytestmark = pytest.mark.parity

SIDE = 224
SHARED = ("vit",)


@dataclass
class Run:
    """What one precision computed."""

    precision: str
    scores: Tensor
    swap: Tensor
    identical: Tensor
    grad: Tensor
    stages: dict

    @property
    def case(self) -> str:
        return f"{SIDE}x{SIDE}.half.{self.precision}"


@pytest.fixture(scope="module")
def numbers():
    return golden.load("rqi_maniqa")


@pytest.fixture(scope="module", params=["f64", "f32"])
def run(request, numbers):
    dtype = golden.DTYPE[request.param]
    critic = RQIManiqa().to(dtype).eval().requires_grad_(False)
    wrong = golden.fill(critic, "rqi_maniqa")
    assert not wrong
    sr, hr = (image.to(dtype) for image in golden.pair(SIDE, SIDE))
    sr.requires_grad_()
    features = []
    # conv0_x1 sees the distorted features, then the reference's.
    handle = critic.conv0_x1.register_forward_pre_hook(lambda _m, inputs: features.append(inputs[0].detach()))
    modules = {stage.split("#")[0] for stage in golden.stage_names(numbers, f"{SIDE}x{SIDE}.half.{request.param}")}
    with golden.record(critic, modules) as stages:
        scores = critic.score(sr, hr)
    handle.remove()
    (grad,) = torch.autograd.grad(scores.sum(), sr)
    distorted, reference = features
    swap, identical = critic.compare_features(
        torch.cat([reference, reference]), torch.cat([distorted, reference])
    ).split(2)
    return Run(request.param, scores.detach(), swap, identical, grad, stages)


def test_layout_is_the_published_one():
    published = {entry["key"]: tuple(entry["shape"]) for entry in golden.entries("rqi_maniqa")}
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in RQIManiqa().state_dict().items()}
    assert len(published) == 322
    assert own == published


def test_images_are_the_recorded_ones():
    assert tuple(golden.image_hash(image) for image in golden.pair(SIDE, SIDE)) == (
        "4520c8884d3234f09558cf6fdc43ab5f5045a47d275bac6a560595c9224128ea",
        "19fb3b2c9d8973892308e814f53d79939f475ab26c735527544a81549ff74644",
    )


def test_scores_and_gradient(run, numbers, record_property):
    found = {
        "scores": run.scores,
        "scores_swap": run.swap,
        "scores_identical": run.identical,
        "grad_stats": golden.gradient_stats(run.grad),
    }
    if run.precision == "f64":
        found["grad_sub"] = golden.subsample(run.grad)
    errors = {
        f"rqi_maniqa {run.case} {name}": golden.error(value, numbers[f"{run.case}.{name}"])
        for name, value in found.items()
    }
    limits = {
        name: (golden.GRADIENT_TOLERANCE if "grad" in name else golden.TOLERANCE)[run.precision] for name in errors
    }
    if run.precision == "f32":
        name = f"rqi_maniqa {run.case} grad_l2"
        errors[name] = golden.l2_error(run.grad, numbers[f"{run.case}.grad"])
        limits[name] = golden.GRADIENT_L2_TOLERANCE
    for item in errors.items():
        record_property(*item)
    golden.report(errors, limits)


def test_stages(run, numbers, record_property):
    stages = golden.stage_names(numbers, run.case)
    assert len(stages) == 33
    errors = {
        f"rqi_maniqa {run.case} {stage}": golden.error(
            run.stages[golden.swap_calls(stage, SHARED)], numbers[f"{run.case}.stage.{stage}"]
        )
        for stage in stages
    }
    record_property("worst stage", max(errors.items(), key=lambda item: item[1]))
    golden.report(errors, golden.TOLERANCE[run.precision])
