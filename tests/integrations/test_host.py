"""The adapter base: what all hosts rely on. Each host's own contract is tested in its own file.

With the real ones: `SRPL_NEOSR=<clone of neosr>`, `SRPL_TRAINNER=<clone of traiNNer-redux>`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, InputError, SSIMLoss, create_critic, list_critics
from sr_perceptual_loss.critics.whole_image import score_whole_image
from sr_perceptual_loss.errors import InstallError, NonFiniteInputError
from sr_perceptual_loss.integrations import host, metrics

from .host_standins import Registry


class PlainLoss(host.HostLoss):
    how_to_step = "Use the model that tells it."


class SignedLoss(host.HostLoss):
    value_range = (-1.0, 1.0)


@pytest.fixture
def registry():
    registry = Registry()
    host.register_under(registry, host.loss_classes(PlainLoss))
    return registry


def build(registry, kind, **options):
    return registry.build({"type": kind, **options})


@pytest.mark.fault(68)
def test_all_losses_and_one_per_critic_are_registered_once(registry):
    names = host.register_under(registry, host.loss_classes(PlainLoss))
    assert {"CriticLoss", "RQILoss", "EfficientPBANLoss", "SSIMLoss", "SSIMPerceptualRatioLoss"} <= set(names)
    assert {f"{critic}Loss" for critic in list_critics()} <= set(names)
    assert set(names) == set(registry.map)


@pytest.mark.fault(68)
def test_a_name_of_the_host_is_left_to_it(caplog):
    registry, theirs = Registry(), type("SSIMLoss", (), {"__module__": "theirs.losses"})
    registry.register(theirs)
    for _ in range(2):
        names = host.register_under(registry, host.loss_classes(PlainLoss))
        assert registry.get("SSIMLoss") is theirs and "SRPLSSIMLoss" in names
    assert caplog.text.count("registered as SRPLSSIMLoss") == 1


def test_keys_are_those_of_the_loss(registry):
    assert build(registry, "haarpsiLoss", loss_weight="5e-1").loss.loss_weight == 0.5
    with pytest.raises(InputError, match=r"haarpsiLoss.*'loss_wieght'.*'loss_weight'"):
        build(registry, "haarpsiLoss", loss_wieght=1.0)
    with pytest.raises(InputError, match="unknown key 'critic'"):
        build(registry, "haarpsiLoss", critic="efficient_pban")
    with pytest.raises(InputError, match=r"(?s)critic.*haarpsi"):
        build(registry, "CriticLoss")
    with pytest.raises(InputError, match=r"SSIMPerceptualRatioLoss: `critic`"):
        build(registry, "SSIMPerceptualRatioLoss")


@pytest.mark.parametrize("kind", ["SSIMLoss", "haarpsiLoss"])
def test_autocast_layout_and_default_device_change_nothing(registry, kind):
    sr, hr = make_pair(2, 48, 48)
    plain = {"SSIMLoss": SSIMLoss, "haarpsiLoss": lambda: CriticLoss("haarpsi")}[kind]()
    leaf = sr.clone().requires_grad_()
    expected = plain(leaf, hr)
    expected.backward()
    other = sr.to(memory_format=torch.channels_last).requires_grad_()
    torch.set_default_device("meta")  # as neosr's "cuda": what is made without a device lands elsewhere
    try:
        loss = build(registry, kind)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(other, hr.to(memory_format=torch.channels_last))
        value.backward()
    finally:
        torch.set_default_device(None)
    assert value.dtype == torch.float32 and value.shape == ()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(other.grad, leaf.grad)
    assert float(leaf.grad.abs().max()) > 0


def test_random_crops_survive_another_default_device(registry):
    sr, hr = make_pair(2, 48, 48)
    torch.set_default_device("meta")
    try:
        loss = build(registry, "haarpsiLoss", crops={"size": 32, "count": 2})
        loss.step(7)
        first, second = loss(sr, hr), loss(sr, hr)
    finally:
        torch.set_default_device(None)
    alone = CriticLoss("haarpsi", crops={"size": 32, "count": 2})
    alone.step(7)
    assert float(first) == float(second) == pytest.approx(float(alone(sr, hr)))


@pytest.mark.parametrize("kind", ["SSIMLoss", "haarpsiLoss", "SSIMPerceptualRatioLoss"])
def test_target_made_in_inference_mode(registry, kind):
    sr, hr = make_pair()
    with torch.inference_mode():
        teacher = hr + 0
    leaf = sr.clone().requires_grad_()
    build(registry, kind, **({"critic": "haarpsi"} if "Ratio" in kind else {}))(leaf, teacher).backward()
    assert float(leaf.grad.abs().max()) > 0


@pytest.mark.fault(22)
def test_overflow_of_a_scaled_fp16_gradient_is_left_to_the_scaler(registry):
    sr, hr = make_pair()
    leaf = sr.half().requires_grad_()
    (build(registry, "haarpsiLoss")(leaf, hr.half()) * 2.0**30).backward()
    assert torch.isinf(leaf.grad).any()


def test_schedule_without_an_iteration_names_the_cure(registry):
    sr, hr = make_pair()
    loss = build(registry, "haarpsiLoss", schedule={"start": 3})
    with pytest.raises(InputError, match=r"iteration.*Use the model that tells it"):
        loss(sr, hr)
    loss.step(2)
    assert float(loss(sr, hr)) == 0
    loss.step(3)
    assert float(loss(sr, hr)) < 0


def test_images_in_another_range_are_mapped():
    sr, hr = make_pair(2, 48, 48)
    loss = host.loss_classes(SignedLoss)["haarpsiLoss"]()
    leaf = (sr * 2 - 1).requires_grad_()
    value = loss(leaf, hr * 2 - 1)
    torch.testing.assert_close(value, CriticLoss("haarpsi")(sr, hr))
    value.backward()
    plain = sr.clone().requires_grad_()
    CriticLoss("haarpsi")(plain, hr).backward()
    torch.testing.assert_close(leaf.grad, plain.grad / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [(1.0, 0.0), (0.0, 0.0), (0.0,), 255, "01", (0.0, float("nan")), (None, 1.0)])
def test_a_wrong_value_range_stops_the_class(value):
    with pytest.raises(InputError, match=r"WrongLoss\.value_range: got .*" + re.escape(repr(value))):
        type("WrongLoss", (host.HostLoss,), {"value_range": value})


def test_an_error_about_the_range_names_the_mapping():
    sr, hr = (image * 255 for image in make_pair(2, 48, 48))
    with pytest.raises(InputError, match=r"0\.\.255.*mapped from \(-1\.0, 1\.0\) to \[0, 1\]"):
        host.loss_classes(SignedLoss)["haarpsiLoss"]()(sr, hr)
    with pytest.raises(InputError, match=r"0\.\.255") as error:
        host.loss_classes(PlainLoss)["haarpsiLoss"]()(sr, hr)
    assert "mapped" not in str(error.value)
    with pytest.raises(NonFiniteInputError, match=r"mapped from"):
        host.loss_classes(SignedLoss)["haarpsiLoss"]()(hr / 255, hr * float("nan"))


def test_the_base_class_and_a_value_per_image_are_refused(registry):
    with pytest.raises(InputError, match=r"loss_classes\(PlainLoss\)"):
        PlainLoss(loss_weight=1.0)
    for kind in ("haarpsiLoss", "SSIMLoss"):
        with pytest.raises(InputError, match=rf"{kind}.*reduction 'none'"):
            build(registry, kind, reduction="none")


def test_a_host_that_says_nothing_about_steps():
    loss = host.loss_classes(type("QuietLoss", (host.HostLoss,), {}))["SSIMLoss"](schedule={"start": 3})
    with pytest.raises(InputError, match=r"Call loss\.step\(iteration\) before each step"):
        loss(*make_pair())


def test_registries_of_another_kind():
    losses = {"SSIMLoss": type("SSIMLoss", (), {"__module__": "theirs.losses"})}
    for _ in range(2):
        names = host.register_under(losses, host.loss_classes(PlainLoss), put=losses.__setitem__)
        assert "SRPLSSIMLoss" in names and {*names, "SSIMLoss"} == set(losses)
    assert losses["SSIMLoss"].__module__ == "theirs.losses" and issubclass(losses["haarpsiLoss"], PlainLoss)


# --- the mixin --------------------------------------------------------------------------------------------------------


class Trainer:
    """Calls its loss in every second step, as a GAN trainer with more discriminator steps does."""

    def __init__(self, **losses):
        self.losses, self.log_dict = losses, {}

    def optimize_parameters(self, current_iter):
        self.log_dict = {}
        return self._step(current_iter)

    def _step(self, current_iter):
        pair = make_pair(2, 48, 48, seed=current_iter)
        return [float(loss(*pair)) for loss in self.losses.values() if current_iter % 2 == 0]

    def train_batch(self, batch, iteration):
        return self._step(iteration)


class PerceptualTrainer(host.IterationMixin, Trainer):
    def host_losses(self):
        return self.losses

    def train_batch(self, batch, iteration):
        with self.at_iteration(iteration):
            return super().train_batch(batch, iteration)


@pytest.mark.parametrize(
    "step", [lambda model, i: model.optimize_parameters(i), lambda model, i: model.train_batch(None, i)]
)
def test_a_step_without_the_loss_logs_zero_under_the_same_key(registry, step):
    model = PerceptualTrainer(
        haarpsi=build(registry, "haarpsiLoss"), late=build(registry, "SSIMLoss", schedule={"start": 4})
    )
    results, logs = {}, {}
    for i in range(1, 6):
        results[i], logs[i] = step(model, i), dict(model.log_dict)
    assert all(list(log) == ["score_haarpsi", "score_late"] for log in logs.values())
    for i in (1, 3, 5):
        assert results[i] == [] and set(logs[i].values()) == {0.0}
    for i in (2, 4):
        assert logs[i]["score_haarpsi"] == pytest.approx(-results[i][0]) and results[i][0] < 0
    assert logs[2]["score_late"] == 0 < logs[4]["score_late"]
    assert logs[2]["score_haarpsi"] != logs[4]["score_haarpsi"]


def test_a_step_that_fails_logs_nothing(registry):
    model = PerceptualTrainer(haarpsi=build(registry, "haarpsiLoss"))
    with pytest.raises(KeyError), model.at_iteration(1):
        raise KeyError
    assert model.log_dict == {}


def test_a_mixin_without_losses_names_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Unfinished.*host_losses"):
        type("Unfinished", (host.IterationMixin, Trainer), {})().optimize_parameters(1)


# --- metrics ----------------------------------------------------------------------------------------------------------


def as_bytes(image, channels="rgb"):
    array = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return np.ascontiguousarray(array if channels == "rgb" else array[:, :, ::-1])


def pair(height=64, width=72):
    return tuple((x * 255).round() / 255 for x in make_pair(1, height, width))


@pytest.mark.fault(70)
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_metric_equals_the_float_path(channels):
    sr, hr = pair()
    metric = metrics.critic_metrics(channels)["calculate_haarpsi"]
    expected = create_critic("haarpsi").score(sr[..., 4:-4, 4:-4], hr[..., 4:-4, 4:-4]).item()
    with torch.inference_mode():  # as neosr validates
        value = metric(img=as_bytes(sr, channels), img2=as_bytes(hr, channels), crop_border=4, better="higher")
    assert isinstance(value, float) and value == pytest.approx(expected, abs=1e-6)
    other = "bgr" if channels == "rgb" else "rgb"
    swapped = metric(as_bytes(sr, other), as_bytes(hr, other), crop_border=4, device=torch.device("cpu"))
    assert abs(swapped - expected) > 1e-4


def test_critics_of_fixed_size_score_the_covering_crops():
    sr, hr = pair(80, 100)
    value = metrics.critic_metrics("rgb")["calculate_tiny_rqi_maniqa"](as_bytes(sr), as_bytes(hr), weights=None)
    frozen = metrics._critic("tiny_rqi_maniqa", None, "cpu")
    assert frozen.critic.input_size.fixed is not None
    assert value == pytest.approx(score_whole_image(frozen, sr[0], hr[0], "x"), abs=1e-6)


def test_a_metric_builds_its_critic_once_per_process(monkeypatch):
    built, real = [], metrics.FrozenCritic
    monkeypatch.setattr(metrics, "FrozenCritic", lambda *a, **k: built.append(a) or real(*a, **k))
    metrics._critic.cache_clear()
    image = as_bytes(pair()[0])
    for _ in range(3):
        assert metrics.critic_metrics("rgb")["calculate_haarpsi"](image, image) == pytest.approx(1.0, abs=1e-5)
    assert len(built) == 1


def test_gray_images_are_repeated():
    gray = [as_bytes(x)[:, :, 0] for x in pair()]
    three = [np.repeat(g[:, :, None], 3, axis=2) for g in gray]
    metric = metrics.critic_metrics("bgr")["calculate_haarpsi"]
    assert metric(*gray) == metric(*three)


def test_channels_and_names_of_metrics():
    with pytest.raises(InputError, match=r"channels: got 'RGB'.*rgb"):
        metrics.critic_metrics("RGB")
    for name, metric in metrics.critic_metrics("bgr").items():
        assert name == metric.__name__ == metric.__qualname__


def test_bad_metrics():
    image, metric = as_bytes(pair()[0]), metrics.critic_metrics("rgb")["calculate_haarpsi"]
    with pytest.raises(InputError, match="img2 is missing"):
        metric(image)
    with pytest.raises(InputError, match="img: got dtype float64"):
        metric(image / 255, image)
    with pytest.raises(InputError, match="differ in size"):
        metric(image, image[:-1])
    with pytest.raises(InputError, match="img2: got Tensor"):
        metric(image, torch.from_numpy(image))
    with pytest.raises(InputError, match="crop_border: got 32.*64x72"):
        metric(image, image, crop_border=32)
    with pytest.raises(InputError, match="better: got 'lower'"):
        metric(image, image, better="lower")
    with pytest.raises(TypeError, match="crop_boarder"):
        metric(image, image, crop_boarder=4)


@pytest.mark.fault(69)
@pytest.mark.parametrize("name", ["neosr", "trainner"])
def test_runner_outside_of_a_clone(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InstallError, match="clone of"):
        import_module(f"sr_perceptual_loss.integrations.{name}").main()


#: Variable with the root of a clone -> (prologue, value of haarpsiLoss with weight 0.5 for equal images).
CLONES = {
    # neosr reads the command line when it is imported.
    "SRPL_NEOSR": (
        "import sys; sys.argv = ['x', '-opt', 'options/train_compact.toml']; import neosr as h",
        -0.5,
    ),
    # traiNNer multiplies by the weight itself.
    "SRPL_TRAINNER": ("import traiNNer as h", -1.0),
}


@pytest.mark.fault(67)
@pytest.mark.parametrize("variable", CLONES)
def test_the_real_registry_and_build_loss(variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} names no clone")
    prologue, value = CLONES[variable]
    module = variable.removeprefix("SRPL_").lower()
    code = (
        f"{prologue}; from importlib import import_module; import torch\n"
        "build_loss = import_module(h.__name__ + '.losses').build_loss\n"
        f"ours = import_module('sr_perceptual_loss.integrations.{module}'); ours.register()\n"
        "[getattr(ours, name)() for name in ('register_models', 'install_models') if hasattr(ours, name)]\n"
        "loss = build_loss({'type': 'haarpsiLoss', 'loss_weight': 0.5}).to('cpu', memory_format=torch.channels_last)\n"
        f"x = torch.rand(1, 3, 32, 32); assert abs(float(loss(x, x)) - {value}) < 1e-4, float(loss(x, x))\n"
    )
    clone = os.environ[variable]
    paths = os.pathsep.join([clone, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, cwd=clone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
