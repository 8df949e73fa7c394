"""Keys of ``train`` that nobody reads, whoever the model is; what the log says about the losses."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
import yaml

from sr_perceptual_loss import InputError

from .conftest import GAN, L1

import sr_perceptual_loss.integrations.basicsr  # noqa: F401
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import MODEL_REGISTRY

from sr_perceptual_loss.integrations.basicsr.models import perceptual
from sr_perceptual_loss.integrations.basicsr.read_keys import ReadKeys
from sr_perceptual_loss.integrations.basicsr.projects import build_model, check_losses, ensure_model

CRITIC = {"type": "CriticLoss", "critic": "haarpsi"}


@pytest.mark.parametrize(
    ("model_type", "train", "names"),
    [
        ("SRModel", {"losses": [CRITIC]}, r"train\.losses: SRModel.*PerceptualSRModel"),
        ("SRModel", {"balance": {"shares": {"l1": 1}}}, r"train\.balance: SRModel"),
        ("SRModel", {"guard": {"every": 5}}, r"train\.guard: SRModel"),
        ("SRGANModel", {"losses": [L1]}, r"train\.losses: SRGANModel.*PerceptualSRGANModel"),
        ("SRModel", {"rqi_opt": CRITIC}, r"train\.rqi_opt: SRModel"),
        ("SRModel", {"gan_opt": GAN}, r"train\.gan_opt: SRModel"),
        ("SRModel", {"extra": {"type": "L1Loss"}}, r"train\.extra: SRModel"),
        ("SRModel", {"extra": [{"loss_weight": 1}]}, r"train\.extra: SRModel"),
        ("SRModel", {"ema_deacy": 0.9}, r"train\.ema_deacy: .*'ema_decay'"),
        ("SRGANModel", {"ldl_opt": L1}, r"train\.ldl_opt: SRGANModel"),
        ("SRGANModel", {"gan_opt": None}, r"train\.gan_opt"),
    ],
)
def test_a_loss_that_nobody_reads_is_an_error_in_stock_models_too(options, model_type, train, names):
    with pytest.raises(InputError, match=names):
        build_model(options(model_type, {"pixel_opt": L1, **train}))


@pytest.mark.parametrize(
    ("model_type", "train", "names"),
    [
        ("SRModel", {"perceptual_opt": {**CRITIC, "schedule": {"start": 2}}}, "^schedule: SRModel.*PerceptualSRModel"),
        ("SRModel", {"perceptual_opt": {"type": "LossList", "losses": [{**L1, "schedule": {"end": 2}}]}}, "^schedule"),
        (
            "PerceptualSRModel",
            {"losses": [L1, {**CRITIC, "schedule": {"start": 9}}], "total_iter": 8},
            "'haarpsi' never",
        ),
        ("PerceptualSRModel", {"losses": [{**L1, "schedule": {"every": 9}}], "total_iter": 8}, "'l1' never"),
        ("PerceptualSRModel", {"pixel_opt": L1, "losses": [{**CRITIC, "name": "pix"}]}, "another loss 'pix'"),
        ("PerceptualSRModel", {"losses": [{**L1, "loss_weight": -1}]}, r"losses\[0\] \(L1Loss\): loss_weight: got -1"),
        ("SRGANModel", {"pixel_opt": L1, "gan_opt": {**GAN, "loss_weight": -0.1}}, r"train\.gan_opt.*got -0\.1"),
        ("SRModel", {"perceptual_opt": L1}, r"train\.perceptual_opt: L1Loss.*`pixel_opt`"),
        ("PerceptualSRGANModel", {"pixel_opt": L1, "gan_opt": CRITIC}, r"train\.gan_opt \(CriticLoss\)"),
        ("SRModel", {"pixel_opt": "L1Loss"}, r"train\.pixel_opt: got 'L1Loss'"),
        ("SRModel", {"perceptual_opt": {"loss_weight": 1}}, r"train\.perceptual_opt: got"),
    ],
)
def test_losses_that_could_not_act_or_would_be_inverted_are_refused(options, model_type, train, names):
    with pytest.raises(InputError, match=names):
        build_model(options(model_type, train))


def dead(step, builds=True):
    """A project's model whose training step is ``step``, and which builds the perceptual loss or does not."""

    def init_training_settings(self):
        self.net_g.train()
        if builds:
            self.cri_perceptual = build_loss(self.opt["train"]["perceptual_opt"])
        self.setup_optimizers()
        self.setup_schedulers()

    def optimize_parameters(self, current_iter):
        self.output = self.net_g(self.lq)
        step(self).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict({})

    parts = {"init_training_settings": init_training_settings, "optimize_parameters": optimize_parameters}
    return type("ProjectsModel", (SRModel,), parts)


STEPS = {
    "not called": lambda m: m.output.mean(),
    "not added": lambda m: m.output.mean() + 0 * len(m.cri_perceptual(m.output, m.gt)),
    "detached": lambda m: m.output.mean() + m.cri_perceptual(m.output.detach(), m.gt)[0],
    "swapped": lambda m: m.output.mean() + m.cri_perceptual(m.gt, m.output)[0],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_list_without_a_gradient_stops_the_first_step(build, name):
    perceptual(dead(STEPS[name]))
    try:
        model = build("PerceptualProjectsModel", {"losses": [L1, CRITIC]})
        with pytest.raises(InputError, match=r"train\.losses: .*PerceptualProjectsModel|only hr requires"):
            model.optimize_parameters(1)
        later = [{**L1, "schedule": {"start": 3}}]
        model = build("PerceptualProjectsModel", {"losses": later})
        model.optimize_parameters(2)
        with pytest.raises(InputError, match="no gradient"):
            model.optimize_parameters(3)
    finally:
        MODEL_REGISTRY._obj_map.pop("PerceptualProjectsModel")


def test_a_model_without_the_perceptual_slot_cannot_take_the_list(build):
    perceptual(dead(STEPS["not called"], builds=False))
    try:
        with pytest.raises(InputError, match=r"train\.losses: PerceptualProjectsModel builds no `cri_perceptual`"):
            build("PerceptualProjectsModel", {"losses": [L1]})
    finally:
        MODEL_REGISTRY._obj_map.pop("PerceptualProjectsModel")


class LateModel(SRModel):
    """Reads keys of its own in the training step."""

    def optimize_parameters(self, current_iter):
        self.fft = build_loss(self.opt["train"]["fft_opt"])
        self.clip = self.opt["train"].get("ema_decai")
        super().optimize_parameters(current_iter)


def test_a_key_that_the_code_mentions_may_be_read_later(options, basicsr_log):
    MODEL_REGISTRY.register(LateModel)
    try:
        model = build_model(options("LateModel", {"pixel_opt": L1, "fft_opt": L1, "ema_decai": 2}))
        model.lq, model.gt = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
        model.optimize_parameters(1)
        assert model.fft.loss_weight == 1.0 and model.clip == 2
        assert not [line for line in basicsr_log.messages if "has not read" in line]
        with pytest.raises(InputError, match=r"train\.fff_opt"):
            build_model(options("LateModel", {"pixel_opt": L1, "fff_opt": L1}))
    finally:
        MODEL_REGISTRY._obj_map.pop("LateModel")


def test_losses_are_built_before_the_run_without_a_trace(options):
    entry = {"type": "CriticLoss", "critic": "tiny_efficient_pban", "weights": None}
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_losses(options("PerceptualSRModel", {"losses": [entry]}))
        check_losses(options("SRModel", {"perceptual_opt": entry}))
        check_losses(options("SRModel", {"pixel_opt": L1}))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InputError, match="margin"):
        check_losses(options("SRModel", {"perceptual_opt": {**CRITIC, "margin": "high"}}))


@pytest.mark.parametrize("copied", [copy.deepcopy, dict, lambda train: {**train}, lambda train: train | {}])
def test_options_that_a_projects_own_code_reads_are_no_error(options, copied):
    class CopyModel(SRModel):
        def init_training_settings(self):
            super().init_training_settings()
            train = copied(self.opt["train"])
            self.extra = build_loss(train["fft_opt"])

    opt = options("CopyModel", {"pixel_opt": L1, "fft_opt": L1})
    MODEL_REGISTRY.register(CopyModel)
    try:
        for name in ("CopyModel", "PerceptualCopyModel"):
            assert build_model({**opt, "model_type": name}).extra.loss_weight == 1.0
    finally:
        for name in ("CopyModel", "PerceptualCopyModel"):
            MODEL_REGISTRY._obj_map.pop(name, None)


def test_the_section_is_a_dict_that_notes_what_is_read():
    train = ReadKeys({"a": {"b": 1}, "c": 2, "d": 3})
    assert train.get("x") is None and "c" in train and train["a"] == {"b": 1}
    assert train.asked == {"x", "c", "a"}
    twin = copy.deepcopy(train)
    assert twin.pop("d") == 3 and train.asked == {"x", "c", "a", "d"} and twin["a"] is not train["a"]
    assert type(pickle.loads(pickle.dumps(train))) is dict and pickle.loads(pickle.dumps(train)) == train.plain()
    for dumper in (yaml.SafeDumper, yaml.Dumper, ordered_yaml()[1]):
        assert yaml.safe_load(yaml.dump({"train": train}, Dumper=dumper)) == {"train": train.plain()}
    assert dict(**ReadKeys({"a": 1})) == {"a": 1} and isinstance(train, dict)


@pytest.mark.parametrize("model_type", ["SRModel", "PerceptualSRModel"])
def test_other_unread_keys_are_named_once_after_the_first_step(options, build, basicsr_log, model_type):
    opt = options(model_type, {"pixel_opt": L1, "total_iter": 9, "warmup_iter": -1, "colour": "red"})
    from sr_perceptual_loss.integrations.basicsr import projects

    model = projects.build_model(opt)
    model.lq, model.gt = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    for iteration in (1, 2):
        model.optimize_parameters(iteration)
    assert [line for line in basicsr_log.messages if "has not read" in line] == [
        f"train: {model_type} has not read colour."
    ]


@pytest.mark.parametrize("model_type", ["SRModel", "PerceptualSRModel"])
def test_the_log_names_every_loss_and_random_weights(options, basicsr_log, model_type):
    entry = {"type": "CriticLoss", "critic": "tiny_efficient_pban", "weights": None, "loss_weight": 0.25}
    train = {"pixel_opt": {**L1, "loss_weight": 2.0}, "perceptual_opt": entry}
    if model_type.startswith("Perceptual"):
        train["losses"] = [{**CRITIC, "crops": {"size": 32}, "schedule": {"start": 7}}]
    for _ in range(2):
        basicsr_log.clear()
        build_model(options(model_type, train))
        lines = {line.split(": ")[0]: line for line in basicsr_log.messages if line.startswith("loss ")}
        assert "L1Loss(loss_weight=2.0)" in lines["loss pix"]
        warned = [r.getMessage() for r in basicsr_log.records if r.levelname == "WARNING"]
        assert [line.split(":")[0] for line in warned if "random weights" in line] == ["loss percep"]
        assert any("loss_weight=0.25" in line and "tiny_efficient_pban" in line for line in basicsr_log.messages)
        if "losses" in train:
            assert all(part in lines["loss haarpsi"] for part in ("haarpsi", "32", "start", "7", "linear"))


def test_the_log_names_a_critic_that_is_no_loss(options, basicsr_log):
    build_model(options("PerceptualSRModel", {"losses": [{"type": "CriticLoss", "critic": "lpips"}, CRITIC]}))
    warned = [r.getMessage() for r in basicsr_log.records if r.levelname == "WARNING"]
    assert [line.split(": ")[:2] for line in warned if "as a loss" in line] == [
        ["loss lpips", "not recommended as a loss"]
    ]


def test_every_sr_model_can_be_perceptual():
    before = dict(MODEL_REGISTRY._obj_map)
    names = [name.removesuffix("_basicsr") for name, cls in before.items() if issubclass(cls, SRModel)]
    names = [name for name in names if not name.startswith("Perceptual")]
    try:
        for name in names:
            ensure_model(f"Perceptual{name}")
            assert issubclass(MODEL_REGISTRY.get(f"Perceptual{name}"), MODEL_REGISTRY.get(name))
        assert {"SRModel", "SwinIRModel", "ESRGANModel", "RealESRGANModel", "RealESRNetModel", "EDVRModel"} <= set(
            names
        )
        with pytest.raises(KeyError, match="PerceptualPerceptualSRModel.* PerceptualSRModel,"):
            ensure_model("PerceptualPerceptualSRModel")
        assert perceptual(SRModel) is MODEL_REGISTRY.get("PerceptualSRModel")
    finally:
        for name in set(MODEL_REGISTRY._obj_map) - set(before):
            MODEL_REGISTRY._obj_map.pop(name)
