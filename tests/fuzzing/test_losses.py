"""Odd tensors: every loss gives a finite value and gradient, or one of the package's errors."""

from __future__ import annotations

import contextlib
import functools
import warnings

import pytest
import torch
from hypothesis import strategies as st

from sr_perceptual_loss import CriticLoss, SSIMLoss, SSIMPerceptualRatioLoss
from sr_perceptual_loss.errors import InputError, NonFiniteError

from .twice import twice

ERRORS = (InputError, NonFiniteError)
LOSSES = {
    "haarpsi": lambda: CriticLoss("haarpsi"),
    "haarpsi, crops, none": lambda: CriticLoss("haarpsi", crops={"size": 16, "count": 2}, reduction="none"),
    "haarpsi, reflect, hinge": lambda: CriticLoss(
        "haarpsi", crops={"size": 24, "small": "reflect"}, form="hinge", margin=1.0
    ),
    "haarpsi, sum": lambda: CriticLoss("haarpsi", reduction="sum"),
    "pban": lambda: CriticLoss("tiny_efficient_pban", weights=None),
    "maniqa": lambda: CriticLoss("tiny_rqi_maniqa", weights=None, form="softplus", crops={"small": "resize"}),
    "ssim": lambda: SSIMLoss(),
    "ratio": lambda: SSIMPerceptualRatioLoss(critic="haarpsi"),
    "ratio, eq12": lambda: SSIMPerceptualRatioLoss(critic="haarpsi", loss_balance="eq12", alpha=0.6, beta=0.4),
}


@functools.cache
def loss_named(name):
    torch.manual_seed(0)
    return LOSSES[name]()


sides = st.sampled_from([0, 1, 3, 7, 8, 11, 15, 16, 17, 24, 32, 33])
images = st.tuples(st.sampled_from([0, 1, 2, 2, 3]), st.just(3), sides, sides)
likely = st.sampled_from([(2, 3, 24, 24), (1, 3, 17, 33), (2, 3, 32, 32), (3, 3, 16, 40)])
shapes = st.one_of(likely, likely, images, st.lists(st.sampled_from([0, 1, 2, 3, 4, 16, 24]), max_size=5).map(tuple))
dtypes = st.sampled_from(
    [torch.float32] * 5
    + [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool, torch.complex64]
)
values = st.sampled_from(
    ["random"] * 4
    + ["zeros", "ones", "gray", "equal", "nan", "inf", "-inf", "1e30", "bytes", "signed", "denormal", "one pixel nan"]
)
layouts = st.sampled_from(["plain", "plain", "channels_last", "strided", "expanded", "transposed"])
tensors = st.fixed_dictionaries({"shape": shapes, "dtype": dtypes, "values": values, "layout": layouts})
calls = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(sorted(LOSSES)),
        "sr": tensors,
        "hr": tensors,
        "alike": st.sampled_from([True] * 5 + [False]),
        "mode": st.sampled_from(["grad", "grad", "grad", "no_grad", "inference", "autocast", "target requires grad"]),
        "other": st.sampled_from([None] * 20 + ["meta", "none", "list"]),
    }
)


def laid_out(tensor, layout):
    """The same values in another layout in memory."""
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.to(memory_format=torch.channels_last)
    if layout == "strided" and tensor.dim():
        return torch.stack([tensor, tensor], -1).flatten(-2)[..., ::2]
    if layout == "expanded" and tensor.dim() and tensor.shape[0]:
        return tensor[:1].expand_as(tensor)
    if layout == "transposed" and tensor.dim() >= 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor


def tensor_of(shape, dtype, values, layout, seed):
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fills = {"zeros": 0.0, "ones": 1.0, "gray": 0.5, "nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}
    if values in fills:
        tensor = torch.full_like(tensor, fills[values])
    elif values == "one pixel nan" and tensor.numel():
        tensor.view(-1)[-1] = float("nan")
    else:
        tensor = {"1e30": 1e30, "bytes": 255.0, "signed": 2.0, "denormal": 1e-40}.get(values, 1.0) * tensor
        tensor = tensor - 1 if values == "signed" else tensor
    if not dtype.is_floating_point:
        tensor = tensor.nan_to_num(0, 0, 0).clamp(-100, 255)
    return laid_out(tensor.to(dtype), layout)


def pair_of(case):
    sr, hr = dict(case["sr"]), dict(case["hr"])
    if case["alike"]:
        hr["shape"] = sr["shape"]
        hr["dtype"] = sr["dtype"] if hr["dtype"] is not torch.float32 else torch.float32
    if sr["values"] == "equal":
        hr = sr
    return tensor_of(**sr, seed=1), tensor_of(**hr, seed=1 if sr["values"] == "equal" else 2)


def context(mode):
    if mode == "no_grad":
        return torch.no_grad()
    if mode == "inference":
        return torch.inference_mode()
    if mode == "autocast":
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


def result_of(case):
    """None after an error of the package, else (value, gradient or None)."""
    loss, mode = loss_named(case["loss"]), case["mode"]
    sr, hr = pair_of(case)
    if case["other"]:
        hr = {"meta": hr.to("meta"), "none": None, "list": [hr]}[case["other"]]
    elif mode == "target requires grad" and hr.is_floating_point():
        hr = hr.requires_grad_()
    wants = mode not in ("no_grad", "inference") and sr.is_floating_point()
    sr = sr.detach().requires_grad_(wants)
    try:
        with context(mode), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = loss(sr, hr)
            if value.requires_grad:
                value.sum().backward()
    except ERRORS as error:
        assert len(str(error)) > 20
        return None
    assert not isinstance(hr, torch.Tensor) or hr.grad is None
    return value, sr.grad


@twice(calls, cases=200)
def test_odd_tensors(case, folder):
    result = result_of(case)
    if result is None:
        return
    value, gradient = result
    assert bool(torch.isfinite(value).all()), "a value that is not finite went through"
    assert value.dtype in (torch.float32, torch.float64)
    assert value.dim() == 0 or value.shape == (case["sr"]["shape"][0],)
    if gradient is not None:
        assert bool(torch.isfinite(gradient).all()), "a gradient that is not finite went through"
        assert gradient.shape == case["sr"]["shape"] and gradient.dtype == case["sr"]["dtype"]


def test_good_tensors_give_a_result(recwarn):
    """The fuzzer is not satisfied by errors alone."""
    good = {"shape": (2, 3, 32, 32), "dtype": torch.float32, "values": "random", "layout": "channels_last"}
    for name in LOSSES:
        case = {"loss": name, "sr": good, "hr": good, "alike": True, "mode": "grad", "other": None}
        value, gradient = result_of(case)
        assert torch.isfinite(value).all() and gradient.abs().sum() > 0, name


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_layouts_hold_the_same_values(layout):
    plain = tensor_of((2, 3, 4, 5), torch.float32, "random", "plain", 0)
    assert torch.equal(laid_out(plain, layout), plain)
    assert laid_out(plain, layout).stride() != plain.stride()
