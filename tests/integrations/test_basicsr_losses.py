"""Our losses in BasicSR's registry: stock slots, our list, and what the errors say."""

from __future__ import annotations

import contextlib
import functools
import importlib

import numpy as np
import pytest
import torch
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import InputError, NonFiniteError, UnknownNameError, WeightsError, create_critic

from .conftest import GAN, L1

CRITIC = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": "5e-1"}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.net_g.parameters()])


@pytest.fixture
def broken_losses():
    """A stock-style loss that goes wrong in its value or its gradient, registered for the length of a test."""
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.utils.registry import LOSS_REGISTRY

    class NaNLoss(nn.Module):
        def __init__(self, where="value"):
            super().__init__()
            self.where = where

        def forward(self, pred, target):
            if self.where == "value":
                return (pred - target).mean() * float("nan")
            return (pred * 0).sum().sqrt() * 0

    LOSS_REGISTRY.register(NaNLoss)
    yield
    LOSS_REGISTRY._obj_map.pop("NaNLoss")


@pytest.mark.fault(67)
@pytest.mark.parametrize("stock", ["SRModel", "SRGANModel", "ESRGANModel"])
def test_basicsr_stock_slot_and_our_list_take_the_same_step(build, stock):
    in_slot = build(stock, {"pixel_opt": L1, "perceptual_opt": CRITIC})
    in_list = build(f"Perceptual{stock}", {"losses": [L1, CRITIC]})
    before = weights(in_slot)
    assert torch.equal(before, weights(in_list))
    for model in (in_slot, in_list):
        model.optimize_parameters(1)
    after = weights(in_slot)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(after, weights(in_list))
    prefix = "l_g_" if "GAN" in stock else "l_"
    assert in_slot.log_dict[f"{prefix}percep"] == pytest.approx(in_list.log_dict[f"{prefix}haarpsi"], rel=1e-5)
    assert in_slot.log_dict[f"{prefix}pix"] == pytest.approx(in_list.log_dict[f"{prefix}l1"], rel=1e-5)
    assert in_list.log_dict["score_haarpsi"] == pytest.approx(-2 * in_list.log_dict[f"{prefix}haarpsi"], rel=1e-5)
    assert f"{prefix}percep" not in in_list.log_dict


def test_all_stock_slots_at_once_become_entries(build, small_vgg):
    percep = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "perceptual_weight": 1.0, "criterion": "l1"}
    model = build(
        "PerceptualSRGANModel",
        {"pixel_opt": L1, "perceptual_opt": percep, "losses": [CRITIC, {"type": "SSIMLoss", "name": "structure"}]},
    )
    model.optimize_parameters(1)
    generator = {"l_g_pix", "l_g_percep", "l_g_haarpsi", "l_g_structure", "l_g_gan"}
    assert generator | {"l_d_real", "l_d_fake"} <= set(model.log_dict)
    assert {"score_haarpsi", "score_structure"} <= set(model.log_dict)
    assert all(isinstance(v, float) for v in model.log_dict.values())


def test_gated_gan_steps_log_the_same_keys(build):
    gates = {"net_d_iters": 2, "net_d_init_iters": 1}
    model = build("PerceptualESRGANModel", {"pixel_opt": L1, "losses": [CRITIC], **gates})
    keys = []
    for iteration in range(1, 5):
        model.optimize_parameters(iteration)
        keys.append(list(model.log_dict))
        generator_ran = iteration in (2, 4)
        assert (model.log_dict["l_g_haarpsi"] != 0) == generator_ran
        assert (model.log_dict["l_g_gan"] != 0) == generator_ran
    assert keys[0] == keys[1] == keys[2] == keys[3]


@pytest.mark.fault(67)
@pytest.mark.parametrize("model_type", ["SRModel", "PerceptualSRModel"])
@pytest.mark.parametrize("entry", [CRITIC, {"type": "LossList", "losses": [L1]}])
def test_basicsr_wrong_slot_says_so(build, model_type, entry):
    with pytest.raises(InputError, match=rf"train\.pixel_opt \({entry['type']}\).*`train.perceptual_opt`"):
        build(model_type, {"pixel_opt": entry, "perceptual_opt": CRITIC})


@pytest.mark.fault(75)
@pytest.mark.parametrize(
    ("train", "error", "names"),
    [
        ({"losses": [{**CRITIC, "loss_wieght": 1}]}, InputError, r"losses\[0\].*'loss_wieght'.*'loss_weight'"),
        ({"perceptual_opt": {**CRITIC, "formm": "hinge"}, "pixel_opt": L1}, InputError, "'formm'.*'form'"),
        ({"losses": [{**L1, "los_weight": 1}]}, InputError, r"losses\[0\].*L1Loss.*'los_weight'"),
        ({"losses": [{"type": "RQLoss"}]}, UnknownNameError, r"losses\[0\].*'RQLoss'.*'RQILoss'"),
        ({"losses": [{"critic": "haarpsi"}]}, InputError, r"losses\[0\].*type"),
        ({"losses": [None, L1]}, InputError, r"losses\[0\]: got None"),
        ({"losses": None, "pixel_opt": L1}, InputError, "losses: got None"),
        ({"losses": [], "pixel_opt": L1}, InputError, r"losses: got \[\]"),
        ({"losses": "L1Loss"}, InputError, "losses: got 'L1Loss'"),
        ({"losses": L1}, InputError, "losses: got {'type': 'L1Loss'"),
        ({"losses": [{**L1, "reduction": "men"}]}, InputError, r"losses\[0\] \(L1Loss\).*men"),
        ({"losses": [{"type": "PerceptualLoss"}]}, InputError, r"losses\[0\].*`layer_weights`"),
        ({"pixel_opt": {**L1, "los_weight": 1}, "losses": [CRITIC]}, InputError, r"train\.pixel_opt.*'loss_weight'"),
        ({"losses": [CRITIC], "ema_deacy": 0.9}, InputError, "train.ema_deacy.*'ema_decay'"),
        ({"losses": ["haarpsi"]}, InputError, r"losses\[0\]: got 'haarpsi'"),
        ({"losses": {"a": CRITIC}}, InputError, "losses: got {'a'"),
        ({"losses": [CRITIC, CRITIC]}, InputError, r"losses\[1\].*'haarpsi'.*`name:`"),
        ({"losses": [{**CRITIC, "name": "a b"}]}, InputError, "'a b'"),
        ({"losses": [{**CRITIC, "critic": "harpsi"}]}, UnknownNameError, "'haarpsi'"),
        ({"pixel_opt": L1, "rqi_opt": CRITIC}, InputError, "train.rqi_opt: PerceptualSRModel"),
        ({"pixel_opt": L1, "pixle_opt": L1}, InputError, "'pixel_opt'"),
        ({"pixel_opt": L1, "gan_opt": GAN}, InputError, "train.gan_opt: PerceptualSRModel"),
        ({"pixel_opt": L1, "extra_losses": [CRITIC]}, InputError, "train.extra_losses.*`losses`"),
        ({"losses": [CRITIC], "balence": {"type": "grad_norm"}}, InputError, "train.balence.*'balance'"),
        ({"losses": [{"type": "CriticLoss"}]}, InputError, "(?s)critic.*haarpsi"),
        ({"losses": [{**CRITIC, "reduction": "none"}]}, InputError, r"losses\[0\].*reduction 'none'"),
        ({"losses": [{"type": "LossList", "losses": [L1]}]}, InputError, r"losses\[0\]: a LossList"),
    ],
)
def test_bad_yaml(build, train, error, names):
    with pytest.raises(error, match=names):
        build("PerceptualSRModel", train)


def test_a_loss_of_basicsr_that_is_no_number_is_named_in_its_first_step(build):
    model = build("PerceptualSRModel", {"losses": [{**L1, "reduction": "none"}], "pixel_opt": L1})
    with pytest.raises(InputError, match=r"'l1'.*\(2, 3,.*0-d"):
        model.optimize_parameters(1)


def test_bad_yaml_of_gan_models(build, options):
    with pytest.raises(InputError, match=r"train\.ldl_opt"):
        build("PerceptualSRGANModel", {"pixel_opt": L1, "ldl_opt": L1})
    opt = options("PerceptualSRGANModel", {"pixel_opt": L1})
    del opt["train"]["gan_opt"]
    with pytest.raises(InputError, match=r"train\.gan_opt"):
        build(None, None, opt=opt)
    with pytest.raises(InputError, match="'loss_wieght'"):
        build("SRModel", {"pixel_opt": L1, "perceptual_opt": {**CRITIC, "loss_wieght": 1}})


class One(nn.Module):
    def forward(self, pred):
        return pred.abs().mean()


class OptionalMap(nn.Module):
    def forward(self, pred, weight_map=None):
        return pred.abs().mean() if weight_map is None else pred.abs().mean() * weight_map.mean()


class OptionalTarget(nn.Module):
    def forward(self, pred, y=None, weight=None, *, reduction="mean"):
        return (pred - y).abs().mean()


class Variadic(nn.Module):
    def forward(self, *images):
        return (images[0] - images[1]).abs().mean()


class Mask(nn.Module):
    def forward(self, pred, mask):
        return (pred * mask).mean()


class Annotated(nn.Module):
    def forward(self, pred, flag: bool):
        return pred.mean()


class Reversed(nn.Module):
    def forward(self, gt, pred):
        return (pred - gt).mean()


class Three(nn.Module):
    def forward(self, pred, target, weight):
        return pred.mean()


class KeywordOnly(nn.Module):
    def forward(self, pred, *, target):
        return pred.mean()


def a_function(pred, target, reduction="mean"):
    return (pred - target).abs().mean()


def makes_a_function(scale=1.0):
    return lambda pred, target: scale * (pred - target).abs().mean()


@pytest.fixture
def projects_losses():
    """Losses with other signatures than (output, ground truth), and a function, as a project may register them."""
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.utils.registry import LOSS_REGISTRY

    parts = (One, OptionalMap, OptionalTarget, Variadic, Mask, Annotated, Reversed, Three, KeywordOnly)
    parts += (a_function, makes_a_function)
    for part in parts:
        LOSS_REGISTRY.register(part)
    yield
    for part in parts:
        LOSS_REGISTRY._obj_map.pop(part.__name__)


@pytest.mark.parametrize(
    ("kind", "alone"),
    [("WeightedTVLoss", True), ("One", True), ("OptionalMap", True), ("OptionalTarget", False), ("Variadic", False)],
)
def test_a_loss_of_the_output_alone_gets_the_output_alone(projects_losses, kind, alone):
    from basicsr.utils.registry import LOSS_REGISTRY

    from sr_perceptual_loss.integrations.basicsr.losses import LossList

    sr, hr = make_pair(2, 32, 32)
    losses = LossList([{"type": kind, "name": "entry"}, L1])
    losses(sr, hr)
    expected = LOSS_REGISTRY.get(kind)()(*([sr] if alone else [sr, hr]))
    torch.testing.assert_close(losses.parts["entry"], expected)


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({"type": "GANLoss", "gan_type": "vanilla"}, "target_is_real"),
        ({"type": "Mask"}, "`mask`"),
        ({"type": "Annotated"}, "`flag`"),
        ({"type": "Reversed"}, r"\(gt, pred\)"),
        ({"type": "Three"}, r"\(pred, target, weight\)"),
        ({"type": "KeywordOnly"}, "target"),
        ({"type": "a_function"}, "`pred`"),
        ({"type": "makes_a_function"}, "function"),
    ],
)
def test_a_loss_that_takes_no_output_and_ground_truth_is_refused(projects_losses, build, entry, names):
    with pytest.raises(InputError, match=rf"losses\[1\] \({entry['type']}\).*{names}"):
        build("PerceptualSRModel", {"losses": [L1, entry]})


def test_other_kinds_of_callables_are_no_traceback(projects_losses, build, monkeypatch):
    from basicsr.utils.registry import LOSS_REGISTRY

    part = functools.partial(a_function, reduction="sum")
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "part", part)
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "jit", lambda: torch.jit.script(nn.L1Loss()))
    for entry in ({"type": "part"}, {"type": "a_function"}):
        with pytest.raises(InputError, match=rf"losses\[0\] \({entry['type']}\)"):
            build("PerceptualSRModel", {"losses": [entry]})
        with pytest.raises(InputError, match=rf"train\.pixel_opt \({entry['type']}\)"):
            build("SRModel", {"pixel_opt": entry})
    model = build("PerceptualSRModel", {"losses": [{"type": "jit"}]})
    model.optimize_parameters(1)
    assert model.log_dict["l_jit"] == pytest.approx((model.output - model.gt).abs().mean().item())


def test_values_for_the_log_are_float32_whatever_the_default_dtype_is():
    from sr_perceptual_loss.integrations.basicsr.losses import LossList

    losses = LossList([CRITIC, {**L1, "schedule": {"end": 5}}])
    torch.set_default_dtype(torch.bfloat16)
    try:
        losses.step(1)
        values = {**losses.terms(), **losses.members[0].terms}
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in values.values()} == {torch.float32} and len(values) == 4


def test_a_projects_own_parts_take_names_of_ours_later_too(monkeypatch):
    from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY

    for registry, name in ((LOSS_REGISTRY, "SSIMLoss"), (METRIC_REGISTRY, "calculate_haarpsi")):
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
        ours, theirs = registry.get(name), type(name, (), {})
        registry.register(theirs)
        assert registry.get(name) is theirs and registry.get(f"SRPL{name}") is ours
        with pytest.raises(AssertionError):
            registry.register(type(name, (), {}))
        ours.__name__ = ours.__qualname__ = name


HAARPSI = {"type": "calculate_haarpsi"}


@pytest.mark.parametrize("model_type", ["PerceptualSRModel", "SRModel"])
@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ({"type": "calculate_harpsi"}, "val.metrics.m.*'calculate_haarpsi'"),
        ({**HAARPSI, "test_y_channel": True}, "val.metrics.m.*test_y_channel: got True"),
        ({**HAARPSI, "input_order": "CHW"}, "val.metrics.m.*input_order.*'CHW'"),
        ({**HAARPSI, "better": "lower"}, "val.metrics.m.*better.*'lower'"),
        ({**HAARPSI, "crop_boarder": 4}, "val.metrics.m.*'crop_boarder'.*'crop_border'"),
        ({**HAARPSI, "crop_border": "four"}, "val.metrics.m.*crop_border.*'four'"),
        ({"type": "calculate_rqi", "weights": "nowhere.safetensors"}, "val.metrics.m.*nowhere.safetensors"),
        ({"crop_border": 4}, "val.metrics.m.*type"),
        ("psnr", "val.metrics.m: got 'psnr'"),
        ({"type": "calculate_psnr"}, "val.metrics.m: `crop_border`"),
        ({"type": "calculate_psnr", "crop_border": "four"}, "val.metrics.m.*crop_border: got 'four'"),
        ({"type": "calculate_psnr", "crop_border": 4, "input_order": "XYZ"}, "val.metrics.m.*input_order.*'XYZ'"),
        ({"type": "calculate_psnr", "crop_border": 4, "better": "hihger"}, "val.metrics.m.*better.*'hihger'"),
        ({"type": "calculate_psnr", "crop_border": 4, "test_y_chanel": True}, "'test_y_chanel'.*'test_y_channel'"),
    ],
)
def test_bad_metrics_are_named_before_the_first_iteration(options, model_type, metric, names):
    from sr_perceptual_loss.integrations.basicsr.projects import build_model

    opt = options(model_type, {"pixel_opt": L1})
    opt["val"] = {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}, "m": metric}}
    with pytest.raises((InputError, UnknownNameError, WeightsError), match=names):
        build_model(opt)


def test_neutral_options_of_basicsrs_metrics_are_taken_and_the_critic_is_built(options, monkeypatch):
    from basicsr.metrics import calculate_metric

    from sr_perceptual_loss.integrations import metrics
    from sr_perceptual_loss.integrations.basicsr.projects import build_model

    built = []
    real = metrics.FrozenCritic
    monkeypatch.setattr(metrics, "FrozenCritic", lambda name, **kw: built.append(name) or real(name, **kw))
    metrics._critic.cache_clear()
    metric = {**HAARPSI, "crop_border": 2, "test_y_channel": False, "input_order": "HWC", "better": "higher"}
    opt = options("SRModel", {"pixel_opt": L1})
    opt["val"] = {"metrics": {"m": metric}}
    build_model(opt)
    assert built == ["haarpsi"]
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert calculate_metric({"img": image, "img2": image}, metric) == pytest.approx(1.0, abs=1e-5)
    assert built == ["haarpsi"]


def test_options_that_a_projects_model_reads_are_its_own(build, options, broken_losses):
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.losses import build_loss
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import MODEL_REGISTRY

    from sr_perceptual_loss.integrations.basicsr.models import perceptual

    class FrequencyModel(SRModel):
        def init_training_settings(self):
            super().init_training_settings()
            self.cri_fft = build_loss(self.opt["train"]["fft_opt"])

        def optimize_parameters(self, current_iter):
            self.cri_fft(self.gt, self.gt)
            super().optimize_parameters(current_iter)

    perceptual(FrequencyModel)
    try:
        model = build("PerceptualFrequencyModel", {"losses": [L1], "fft_opt": {"type": "NaNLoss"}})
        with pytest.raises(NonFiniteError, match="cri_fft: the loss"):
            model.optimize_parameters(1)
        with pytest.raises(InputError, match=r"train\.ffft_opt.*'fft_opt'"):
            build("PerceptualFrequencyModel", {"losses": [L1], "fft_opt": L1, "ffft_opt": L1})
    finally:
        MODEL_REGISTRY._obj_map.pop("PerceptualFrequencyModel")


def test_basicsrs_models_under_a_suffixed_name(options, monkeypatch):
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.models import build_model
    from basicsr.utils.registry import MODEL_REGISTRY

    from sr_perceptual_loss.integrations.basicsr.projects import ensure_model

    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self, *_: self)  # it puts its degradations on the GPU
    for name in ("PerceptualRealESRNetModel", "PerceptualRealESRGANModel"):
        ensure_model(name)
        assert name in MODEL_REGISTRY
    opt = options("PerceptualRealESRGANModel", {"losses": [CRITIC], "ldl_opt": L1, "ema_decay": 0.9})
    opt |= {"queue_size": 4, "l1_gt_usm": False, "percep_gt_usm": False, "gan_gt_usm": False}
    model = build_model(opt)
    sr, hr = make_pair(2, 64, 64)
    model.lq, model.gt, model.gt_usm = torch.nn.functional.avg_pool2d(sr, 4), hr, hr
    model.optimize_parameters(1)
    assert {"l_g_ldl", "l_g_haarpsi", "l_g_gan"} <= set(model.log_dict)


@pytest.mark.fault(4)
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_non_finite_loss_stops_before_the_optimizer_by_name(build, broken_losses, where):
    bad = {"type": "NaNLoss", "where": where, "name": "culprit"}
    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [CRITIC, bad], "ema_decay": 0.9})
    before, ema = weights(model), torch.cat([p.flatten() for p in model.net_g_ema.parameters()])
    with pytest.raises(NonFiniteError, match=f"iteration 7: culprit: the {'loss' if where == 'value' else 'gradient'}"):
        model.optimize_parameters(7)
    assert torch.equal(weights(model), before)
    assert torch.equal(torch.cat([p.flatten() for p in model.net_g_ema.parameters()]), ema)


@pytest.mark.fault(4)
def test_all_entries_with_a_fault_are_named_and_the_cause(build):
    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [CRITIC, {"type": "SSIMLoss"}]})
    model.optimize_parameters(1)
    with torch.no_grad():
        next(model.net_g.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"iteration 2: haarpsi: .*; ssim: .*; pixel_opt: .*SR output holds NaN"):
        model.optimize_parameters(2)


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_in_a_stock_model_the_list_checks_in_the_backward_pass(build, broken_losses, where):
    bad = {"type": "NaNLoss", "where": where, "name": "culprit"}
    entry = {"type": "LossList", "losses": [CRITIC, bad, {**L1, "name": "other"}]}
    model = build("SRModel", {"perceptual_opt": entry})
    before = weights(model)
    with pytest.raises(NonFiniteError, match="culprit: the"):
        model.optimize_parameters(1)
    assert torch.equal(weights(model), before)
    losses = model.cri_perceptual
    with torch.no_grad(), pytest.raises(NonFiniteError) if where == "value" else contextlib.nullcontext():
        losses(model.output, model.gt)


def test_one_device_sync_and_no_hook_of_the_losses_own_per_step(build, monkeypatch):
    """Flags stay on the device until the one reading before the optimizer step."""
    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [CRITIC, {"type": "SSIMLoss"}], "guard": False})
    for iteration in range(1, 5):  # the value range is read in the first calls
        model.optimize_parameters(iteration)
    assert {loss.on_nonfinite for loss in model.cri_perceptual.pair_losses.values()} == {"ignore"}
    syncs, checks = [], model.checks
    for name in ("__bool__", "item", "tolist"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, real=real, name=name: syncs.append(name) or real(t))
    real_check = checks.check

    def check(*args):
        syncs.append("check")
        real_check(*args)
        syncs.append("done")

    monkeypatch.setattr(checks, "check", check)
    model.optimize_parameters(5)
    # What comes later is BasicSR's log, one item per value.
    assert syncs[: syncs.index("done")] == ["check", "tolist"]


def test_a_non_finite_pixel_or_gan_loss_is_named_too(build, broken_losses):
    model = build("PerceptualSRModel", {"pixel_opt": {"type": "NaNLoss"}, "losses": [CRITIC]})
    with pytest.raises(NonFiniteError, match="iteration 1: pixel_opt: the loss"):
        model.optimize_parameters(1)
    gan = build("PerceptualSRGANModel", {"pixel_opt": L1})
    with torch.no_grad():
        next(gan.net_d.parameters()).fill_(float("nan"))
    before = weights(gan)
    with pytest.raises(NonFiniteError, match="iteration 1: gan_opt: the loss"):
        gan.optimize_parameters(1)
    assert torch.equal(weights(gan), before)
    gated = build("PerceptualSRGANModel", {"pixel_opt": L1, "net_d_iters": 2})
    with torch.no_grad():
        next(gated.net_d.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"gan_opt \(discriminator\): the loss"):
        gated.optimize_parameters(1)


@pytest.mark.fault(6)
def test_the_gradients_of_the_network_are_checked_last(build):
    model = build("PerceptualSRModel", {"losses": [L1]})
    name, parameter = next(iter(model.net_g.named_parameters()))
    parameter.register_hook(lambda g: g * float("inf"))
    before = weights(model)
    with pytest.raises(NonFiniteError, match=f"net_g.{name}"):
        model.optimize_parameters(1)
    assert torch.equal(weights(model), before)


def test_the_list_works_in_a_stock_slot(build):
    model = build("SRModel", {"perceptual_opt": {"type": "LossList", "losses": [L1, CRITIC]}})
    model.optimize_parameters(1)
    assert set(model.log_dict) == {"l_percep"}


def test_the_callers_option_tree_keeps_its_loss_keys(build, options):
    opt = options("PerceptualSRModel", {"pixel_opt": L1, "losses": [CRITIC]})
    build(None, None, opt=opt)
    assert opt["train"]["losses"] == [CRITIC] and "perceptual_opt" not in opt["train"]


@pytest.mark.fault(35, 36, 37)
def test_frozen_in_a_basicsr_run(build):
    entry = {"type": "CriticLoss", "critic": "tiny_efficient_pban", "weights": None}
    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [entry], "ema_decay": 0.9})
    (loss,) = model.cri_perceptual.pair_losses.values()
    before = loss.frozen.digest()
    for iteration in range(1, 4):
        model.cri_perceptual.train()
        model.cri_perceptual.requires_grad_(True)
        model.optimize_parameters(iteration)
    assert loss.frozen.digest() == before and not loss.critic.training
    assert list(model.cri_perceptual.parameters()) == []


@pytest.mark.parametrize("model_type", ["PerceptualSwinIRModel", "PerceptualSwinIRGANModel"])
def test_swinir_is_padded_in_the_test(build, model_type):
    swinir = {"type": "SwinIR", "upscale": 4, "img_size": 16, "window_size": 8, "img_range": 1.0, "depths": [1]}
    swinir.update(embed_dim=8, num_heads=[1], mlp_ratio=1, upsampler="pixelshuffle", resi_connection="1conv")
    model = build(model_type, {"pixel_opt": L1, "losses": [CRITIC]}, network_g=swinir)
    model.optimize_parameters(1)
    model.lq = torch.rand(1, 3, 21, 30)
    model.test()
    assert model.output.shape == (1, 3, 84, 120)


def test_entries_with_equal_critics_share_one(build):
    critic = {"type": "CriticLoss", "critic": "haarpsi"}
    losses = [dict(critic, name="whole"), dict(critic, name="crops", crops={"size": 16}), dict(L1)]
    members = build("PerceptualSRModel", {"losses": losses}).cri_perceptual.pair_losses
    assert members["whole"].frozen is members["crops"].frozen
    assert members["whole"].crops.size is None and members["crops"].crops.size == 16


@pytest.mark.fault(68)
def test_a_projects_own_loss_keeps_its_name_and_ours_gets_another(build, monkeypatch):
    from basicsr.utils.registry import LOSS_REGISTRY

    from sr_perceptual_loss.integrations import basicsr

    theirs = type("SSIMLoss", (torch.nn.Module,), {"__module__": "project.losses"})
    known = {name: cls for name, cls in LOSS_REGISTRY._obj_map.items() if name != "SSIMLoss"}
    monkeypatch.setattr(LOSS_REGISTRY, "_obj_map", {"SSIMLoss": theirs, **known})
    for _ in range(2):
        basicsr.register()
    assert LOSS_REGISTRY.get("SSIMLoss") is theirs
    model = build("PerceptualSRModel", {"losses": [{"type": "SRPLSSIMLoss"}]})
    model.optimize_parameters(1)
    assert 0 < model.log_dict["l_srplssim"] < 2


@pytest.mark.fault(68)
def test_registering_again_changes_nothing():
    from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

    from sr_perceptual_loss.integrations import basicsr

    before = [dict(r._obj_map) for r in (LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)]
    basicsr.register()
    importlib.reload(basicsr)
    assert basicsr.models.perceptual(basicsr.models.SRModel) is basicsr.models.PerceptualSRModel
    assert [dict(r._obj_map) for r in (LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)] == before


@pytest.mark.fault(70)
def test_metrics_through_basicsrs_own_call():
    """BasicSR hands over BGR bytes and every YAML key; it copies its options for every image."""
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.metrics import calculate_metric

    sr, hr = ((x * 255).round() / 255 for x in make_pair(1, 64, 72))
    bgr = {key: (x[0].permute(1, 2, 0).flip(2) * 255).byte().numpy() for key, x in (("img", sr), ("img2", hr))}
    expected = create_critic("haarpsi").score(sr[..., 4:-4, 4:-4], hr[..., 4:-4, 4:-4]).item()
    options = {"type": "calculate_haarpsi", "crop_border": 4, "better": "higher"}
    assert calculate_metric(bgr, options) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(TypeError, match="crop_boarder"):
        calculate_metric(bgr, {"type": "calculate_haarpsi", "crop_boarder": 4})
    with pytest.raises(InputError, match=r"64.* pixels.*rqi_maniqa.*224"):
        calculate_metric(bgr, {"type": "calculate_rqi", "weights": None})
