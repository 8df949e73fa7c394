"""RQI/TOPIQ against golden numbers of the published TOPIQ-FR network. All recorded stages are compared.

Each precision and size runs one forward and backward pass of (sr, hr); the swapped and the identical pair take the
backbone's features of that pass and run the rest.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sr_perceptual_loss.critics.rqi_topiq.network import RQITopiq

from . import golden

pytestmark = pytest.mark.parity

#: SHA-256 of the distorted and of the reference images by size.
IMAGES = {
    (224, 224): (
        "4520c8884d3234f09558cf6fdc43ab5f5045a47d275bac6a560595c9224128ea",
        "19fb3b2c9d8973892308e814f53d79939f475ab26c735527544a81549ff74644",
    ),
    (256, 320): (
        "9e5289729c973a03414a4621c7a7d5b97b2042edb727697dafe08bc5afa20971",
        "2887fa423ebd71eeb72933c6b6604339518efc745b175f644d997ba01643e815",
    ),
}
BACKBONE = "semantic_model"


@dataclass
class Run:
    """What one precision computed at one size."""

    precision: str
    size: tuple[int, int]
    scores: Tensor
    alone: Tensor | None
    swap: Tensor
    identical: Tensor
    grad: Tensor
    stages: dict

    @property
    def case(self) -> str:
        return f"{self.size[0]}x{self.size[1]}.imagenet.{self.precision}"


@pytest.fixture(scope="module")
def numbers():
    return golden.load("topiq_fr")


@pytest.fixture(scope="module")
def filled():
    """The filled network in float64, made once."""
    critic = RQITopiq().double().eval().requires_grad_(False)
    wrong = golden.fill(critic, "topiq_fr")
    assert not wrong
    return critic


@pytest.fixture(scope="module", params=["f64", "f32"])
def critic(request, filled):
    return request.param, filled if request.param == "f64" else copy.deepcopy(filled).float()


@pytest.fixture(scope="module", params=list(IMAGES), ids=lambda s: f"{s[0]}x{s[1]}")
def run(request, critic, numbers):
    precision, network = critic
    sr, hr = (image.to(golden.DTYPE[precision]) for image in golden.pair(*request.param))
    sr.requires_grad_()
    features = []
    # The backbone sees hr, then sr.
    handle = network.semantic_model.register_forward_hook(lambda _m, _i, levels: features.append(levels))
    case = f"{request.param[0]}x{request.param[1]}.imagenet.{precision}"
    modules = {stage.split("#")[0] for stage in golden.stage_names(numbers, case)}
    with golden.record(network, modules) as stages:
        scores = network.score(sr, hr)
    handle.remove()
    (grad,) = torch.autograd.grad(scores.sum(), sr)
    reference, distorted = (tuple(level.detach() for level in levels) for levels in features)
    with torch.no_grad():
        swap = network.compare_features(reference, distorted)
        identical = network.compare_features(reference, reference)
    alone = network.score(sr[1:].detach(), hr[1:]) if precision == "f32" else None
    return Run(precision, request.param, scores.detach(), alone, swap, identical, grad, stages)


def test_layout_is_the_published_one():
    published = {entry["key"]: tuple(entry["shape"]) for entry in golden.entries("topiq_fr")}
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in RQITopiq().state_dict().items()}
    assert len(published) == 514
    assert own == published


@pytest.mark.parametrize("size", list(IMAGES), ids=lambda s: f"{s[0]}x{s[1]}")
def test_images_are_the_recorded_ones(size):
    assert tuple(golden.image_hash(image) for image in golden.pair(*size)) == IMAGES[size]


def test_scores_and_gradient(run, numbers, record_property):
    found = {
        "scores": run.scores,
        "scores_swap": run.swap,
        "scores_identical": run.identical,
        "grad_stats": golden.gradient_stats(run.grad),
    }
    if run.precision == "f64":
        found["grad_sub"] = golden.subsample(run.grad)
    errors = {name: golden.error(value, numbers[f"{run.case}.{name}"]) for name, value in found.items()}
    if run.alone is not None:
        errors["alone"] = golden.error(run.alone, numbers[f"{run.case}.scores"][1:])
    limits = {
        name: (golden.GRADIENT_TOLERANCE if "grad" in name else golden.TOLERANCE)[run.precision] for name in errors
    }
    if run.precision == "f32":
        # The whole gradient is stored for one of the sizes only.
        whole = numbers.get(f"{run.case}.grad")
        errors["grad_l2"] = (
            golden.l2_error(torch.from_numpy(golden.subsample(run.grad)), numbers[f"{run.case}.grad_sub"])
            if whole is None
            else golden.l2_error(run.grad, whole)
        )
        limits["grad_l2"] = golden.GRADIENT_L2_TOLERANCE
    errors = {f"topiq_fr {run.case} {name}": value for name, value in errors.items()}
    limits = {f"topiq_fr {run.case} {name}": value for name, value in limits.items()}
    for item in errors.items():
        record_property(*item)
    golden.report(errors, limits)


def ours(stage: str) -> str:
    """The name under which we see a stage: the backbone sees hr first here, sr first there."""
    name, call = stage.split("#")
    return f"{name}#{1 - int(call[0])}{call[1:]}" if name == BACKBONE else stage


def test_stages(run, numbers, record_property):
    stages = golden.stage_names(numbers, run.case)
    assert len(stages) == 33
    errors = {
        f"topiq_fr {run.case} {stage}": golden.error(run.stages[ours(stage)], numbers[f"{run.case}.stage.{stage}"])
        for stage in stages
    }
    record_property("worst stage", max(errors.items(), key=lambda item: item[1]))
    golden.report(errors, golden.TOLERANCE[run.precision])
