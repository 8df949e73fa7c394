"""RQI/AHIQ against golden numbers of the published AHIQ (which has no last activation to remove).

The network is large: the weights are drawn once, in float64, and only those that can reach the score. The first of the
two golden pairs passes once, since a score does not depend on its batch mates; the swapped and the identical pair take
the backbones' maps of that pass and run the rest. `pytest -m slow tests/parity/test_ahiq.py` runs the other
normalisation and float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sr_perceptual_loss.critics.rqi_ahiq.network import RQIAhiq

from . import golden

pytestmark = pytest.mark.parity

SIDE = 224
# Modules that both images pass; the reference comes first here.
SHARED = ("vit", "resnet50", "deform_net", "regressor.down_channel")
OFFSETS = "deform_net.conv_offset"


CASES = [
    pytest.param(("half", "f64"), id="half.f64"),
    # A minute and a half more of one core.
    pytest.param(("imagenet", "f64"), id="imagenet.f64", marks=pytest.mark.slow),
    pytest.param(("half", "f32"), id="half.f32", marks=pytest.mark.slow),
]


@dataclass
class Run:
    """What one case computed for the first golden pair."""

    precision: str
    case: str
    scores: Tensor
    swap: Tensor
    identical: Tensor
    grad: Tensor
    stages: dict


@pytest.fixture(scope="module")
def numbers():
    return golden.load("ahiq")


@pytest.fixture(scope="module")
def weights():
    """float64 state dict; what cannot reach the score is NaN, so a score that is finite has not touched it."""
    with torch.device("meta"):
        critic = RQIAhiq().double()
    state = critic.to_empty(device="cpu").state_dict()
    for entry in golden.entries("ahiq"):
        value = state[entry["key"]]
        if entry["rule"] == "constructed":
            value.zero_()
        elif entry["key"].startswith(RQIAhiq.unused):
            value.fill_(torch.nan)
        else:
            value.copy_(golden.seeded(entry["key"], entry["shape"]))
    return state


@pytest.fixture(scope="module", params=CASES)
def run(request, numbers, weights):
    norm, precision = request.param
    with torch.device("meta"):
        critic = RQIAhiq(normalisation=norm)
    critic.load_state_dict({k: v.to(golden.DTYPE[precision]) for k, v in weights.items()}, strict=True, assign=True)
    critic.eval().requires_grad_(False)
    sr, hr = (image[:1].to(golden.DTYPE[precision]) for image in golden.pair(SIDE, SIDE))
    sr.requires_grad_()
    maps, case = [], f"{SIDE}x{SIDE}.{norm}.{precision}"
    compute = critic.backbone_maps
    critic.backbone_maps = lambda image: maps.append(compute(image)) or maps[-1]
    modules = {stage.split("#")[0] for stage in golden.stage_names(numbers, f"{SIDE}x{SIDE}.half.{precision}")}
    with golden.record(critic, modules) as stages:
        scores = critic.score(sr, hr)
    (grad,) = torch.autograd.grad(scores.sum(), sr)
    reference, distorted = ([part.detach() for part in pair] for pair in maps)
    with torch.no_grad():
        target = critic.encode_maps(*reference)
        swap = critic.compare_maps(*reference, critic.encode_maps(*distorted))
        identical = critic.compare_maps(*reference, target)
    return Run(precision, case, scores.detach(), swap, identical, grad, stages)


def test_layout_is_the_published_one():
    published = {entry["key"]: tuple(entry["shape"]) for entry in golden.entries("ahiq")}
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in RQIAhiq().state_dict().items()}
    assert len(published) == 492
    assert own == published


def test_scores_and_gradient(run, numbers, record_property):
    scores = {"scores": run.scores, "scores_swap": run.swap, "scores_identical": run.identical}
    errors = {
        f"ahiq {run.case} {name}": golden.error(value, numbers[f"{run.case}.{name}"][:1])
        for name, value in scores.items()
    }
    limits = dict.fromkeys(errors, golden.TOLERANCE[run.precision])
    if run.precision == "f64":
        # The first half of the stored elements lies in the first pair.
        chosen = torch.arange(golden.SUBSAMPLE // 2) * (2 * run.grad.numel()) // golden.SUBSAMPLE
        name = f"ahiq {run.case} grad_sub"
        expected = numbers[f"{run.case}.grad_sub"][: golden.SUBSAMPLE // 2]
        errors[name] = golden.error(run.grad.flatten()[chosen], expected)
        limits[name] = golden.GRADIENT_TOLERANCE["f64"]
    else:
        name = f"ahiq {run.case} grad_l2"
        errors[name] = golden.l2_error(run.grad, numbers[f"{run.case}.grad"][:1])
        limits[name] = golden.GRADIENT_L2_TOLERANCE
    for item in errors.items():
        record_property(*item)
    golden.report(errors, limits)


def test_stages(run, numbers, record_property):
    stages = golden.stage_names(numbers, run.case)
    assert len(stages) == 32
    errors = {}
    for stage in stages:
        expected = numbers[f"{run.case}.stage.{stage}"]
        # The published code computes the reference's offsets once for each image.
        ours = f"{OFFSETS}#0" if stage.startswith(OFFSETS) else golden.swap_calls(stage, SHARED)
        # Mean and deviation run over both golden pairs and give the scale; the values are the first pair's.
        found = np.concatenate([expected[:2], run.stages[ours][2:]])
        assert expected[1] > 0
        errors[f"ahiq {run.case} {stage}"] = golden.error(found, expected)
    assert f"{OFFSETS}#1" not in run.stages
    record_property("worst stage", max(errors.items(), key=lambda item: item[1]))
    golden.report(errors, golden.TOLERANCE[run.precision])


def test_the_two_normalisations_are_far_apart(numbers):
    half, imagenet = (numbers[f"{SIDE}x{SIDE}.{norm}.f64.scores"] for norm in ("half", "imagenet"))
    assert golden.error(half, imagenet) > 0.5
