"""Our losses in BasicSR's registry: stock slots, our list, and what the errors say."""

from __future__ import annotations

import importlib
import logging

import pytest
import torch

from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError, UnknownNameError

from .conftest import GAN, L1

CRITIC = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": "5e-1"}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.net_g.parameters()])


@pytest.fixture
def broken_losses():
    """A stock-style loss that goes wrong in its value or its gradient, registered for the length of a test."""
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.utils.registry import LOSS_REGISTRY
    from torch import nn

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


def test_the_sum_is_what_is_trained(build):
    """The weights of the list reach the network: a zero weight changes nothing, a large one does."""

    def step(entries):
        model = build("PerceptualSRModel", {"losses": entries, "optim_g": {"type": "Adam", "lr": 1e-3, "eps": 1.0}})
        model.optimize_parameters(1)
        return weights(model)

    alone = step([L1])
    torch.testing.assert_close(step([L1, {**CRITIC, "loss_weight": 0}]), alone, rtol=0, atol=0)
    assert (step([L1, {**CRITIC, "loss_weight": 100}]) - alone).abs().max() > 1e-6


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


def test_losses_learn_the_global_iteration(build):
    model = build("PerceptualSRModel", {"losses": [{**CRITIC, "crops": {"size": 24}}]})
    model.optimize_parameters(17)
    (loss,) = model.cri_perceptual.pair_losses().values()
    assert isinstance(loss, CriticLoss) and loss._iteration == 17


@pytest.mark.fault(67)
def test_basicsr_wrong_slot_says_so(build):
    model = build("SRModel", {"pixel_opt": CRITIC})
    with pytest.raises(InputError, match=r"CriticLoss\(haarpsi\) returns the pair .* stands in `pixel_opt`. Move"):
        model.optimize_parameters(1)
    ours = build("PerceptualSRModel", {"pixel_opt": CRITIC, "losses": [L1]})
    with pytest.raises(InputError, match="stands in `pixel_opt`"):
        ours.optimize_parameters(1)


@pytest.mark.fault(75)
@pytest.mark.parametrize(
    ("train", "error", "words"),
    [
        ({"losses": [{**CRITIC, "loss_wieght": 1}]}, InputError, "'loss_wieght'. Did you mean 'loss_weight'"),
        ({"perceptual_opt": {**CRITIC, "formm": "hinge"}, "pixel_opt": L1}, InputError, "'formm'. Did you mean 'form'"),
        ({"losses": [{**L1, "los_weight": 1}]}, InputError, r"losses\[0\] \(L1Loss\): unknown key 'los_weight'"),
        ({"losses": [{"type": "RQLoss"}]}, UnknownNameError, "no loss 'RQLoss' is registered. Did you mean 'RQILoss'"),
        ({"losses": [{"critic": "haarpsi"}]}, InputError, "expected a mapping with `type"),
        ({"losses": ["haarpsi"]}, InputError, r"losses\[0\]: got 'haarpsi'"),
        ({"losses": {"a": CRITIC}}, InputError, r"losses\[0\]: got 'a'"),
        ({"losses": [CRITIC, CRITIC]}, InputError, "a second entry would be logged as 'haarpsi'; give it its own"),
        ({"losses": [{**CRITIC, "name": "a b"}]}, InputError, "must be a letter"),
        ({"losses": [{**CRITIC, "critic": "harpsi"}]}, UnknownNameError, "Did you mean 'haarpsi'"),
        ({"losses": [{**CRITIC, "reduction": "none"}], "pixel_opt": L1}, None, "expected a 0-d tensor"),
        ({"pixel_opt": L1, "rqi_opt": CRITIC}, InputError, "train.rqi_opt: PerceptualSRModel does not read this key"),
        ({"pixel_opt": L1, "pixle_opt": L1}, InputError, "Did you mean 'pixel_opt'"),
        ({"pixel_opt": L1, "gan_opt": GAN}, InputError, "train.gan_opt: PerceptualSRModel does not read"),
        ({"pixel_opt": L1, "extra_losses": [CRITIC]}, InputError, "Rename the key to `losses`"),
        ({"losses": [CRITIC], "balence": {"type": "grad_norm"}}, InputError, "Rename the key to `balance`"),
        ({"losses": [{"type": "CriticLoss"}]}, InputError, r"losses\[0\] .*: `critic` is missing; one of .*haar"),
    ],
)
def test_bad_yaml(build, train, error, words):
    if error is None:
        model = build("PerceptualSRModel", train)
        with pytest.raises(InputError, match=words):
            model.optimize_parameters(1)
        return
    with pytest.raises(error, match=words):
        build("PerceptualSRModel", train)


def test_bad_yaml_of_gan_models(build, options):
    with pytest.raises(InputError, match="builds ldl_opt in this model but never calls it"):
        build("PerceptualSRGANModel", {"pixel_opt": L1, "ldl_opt": L1})
    opt = options("PerceptualSRGANModel", {"pixel_opt": L1})
    del opt["train"]["gan_opt"]
    with pytest.raises(InputError, match=r"train\.gan_opt is missing"):
        build(None, None, opt=opt)
    with pytest.raises(InputError, match="unknown key 'loss_wieght'"):
        build("SRModel", {"pixel_opt": L1, "perceptual_opt": {**CRITIC, "loss_wieght": 1}})
    with pytest.raises(InputError, match="CriticLoss: `critic` is missing"):
        build("SRModel", {"pixel_opt": L1, "perceptual_opt": {"type": "CriticLoss"}})


@pytest.mark.fault(4)
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_non_finite_loss_stops_before_the_optimizer_by_name(build, broken_losses, where, caplog):
    bad = {"type": "NaNLoss", "where": where, "name": "culprit"}
    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [CRITIC, bad], "ema_decay": 0.9})
    before, ema = weights(model), torch.cat([p.flatten() for p in model.net_g_ema.parameters()])
    logging.getLogger("basicsr").propagate = True
    with pytest.raises(NonFiniteError, match=r"iteration 7: culprit: the .* is NaN or infinite"):
        model.optimize_parameters(7)
    assert torch.equal(weights(model), before)
    assert torch.equal(torch.cat([p.flatten() for p in model.net_g_ema.parameters()]), ema)


def test_a_non_finite_pixel_or_gan_loss_is_named_too(build, broken_losses):
    model = build("PerceptualSRModel", {"pixel_opt": {"type": "NaNLoss"}, "losses": [CRITIC]})
    with pytest.raises(NonFiniteError, match="iteration 1: pixel_opt: the loss is NaN"):
        model.optimize_parameters(1)
    gan = build("PerceptualSRGANModel", {"pixel_opt": L1})
    with torch.no_grad():
        next(gan.net_d.parameters()).fill_(float("nan"))
    before = weights(gan)
    with pytest.raises(NonFiniteError, match="iteration 1: gan_opt: the loss is NaN"):
        gan.optimize_parameters(1)
    assert torch.equal(weights(gan), before)


@pytest.mark.fault(6)
def test_the_last_door_looks_at_the_gradients_of_the_network(build):
    model = build("PerceptualSRModel", {"losses": [L1]})
    name, parameter = next(iter(model.net_g.named_parameters()))
    parameter.register_hook(lambda g: g * float("inf"))
    before = weights(model)
    with pytest.raises(NonFiniteError, match=f"the gradient of net_g.{name} is NaN or infinite although"):
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
    entry = {"type": "EfficientPBANLoss", "weights": None, "critic_size": "tiny"}
    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [entry], "ema_decay": 0.9})
    (loss,) = model.cri_perceptual.pair_losses().values()
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


def test_a_projects_own_model_gets_the_list_by_one_call(build):
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import MODEL_REGISTRY

    from sr_perceptual_loss.integrations.basicsr.models import perceptual

    class CAModel(SRModel):
        pass

    try:
        model_class = perceptual(CAModel)
        assert perceptual(CAModel) is model_class and MODEL_REGISTRY.get("PerceptualCAModel") is model_class
        model = build("PerceptualCAModel", {"losses": [L1, CRITIC]})
        model.optimize_parameters(1)
        assert "l_haarpsi" in model.log_dict
    finally:
        MODEL_REGISTRY._obj_map.pop("PerceptualCAModel", None)


def test_entries_with_equal_critics_hold_one(build):
    critic = {"type": "CriticLoss", "critic": "haarpsi"}
    losses = [dict(critic, name="whole"), dict(critic, name="crops", crops={"size": 16}), dict(L1)]
    members = build("PerceptualSRModel", {"losses": losses}).cri_perceptual.pair_losses()
    assert members["whole"].frozen is members["crops"].frozen
    assert members["whole"].crops.size is None and members["crops"].crops.size == 16


@pytest.mark.fault(68)
def test_a_projects_own_loss_keeps_its_name_and_ours_gets_another(build, monkeypatch, caplog):
    from basicsr.utils.registry import LOSS_REGISTRY

    from sr_perceptual_loss.integrations.basicsr import losses

    theirs = type("SSIMLoss", (torch.nn.Module,), {"__module__": "project.losses"})
    known = {name: cls for name, cls in LOSS_REGISTRY._obj_map.items() if name != "SSIMLoss"}
    monkeypatch.setattr(LOSS_REGISTRY, "_obj_map", {"SSIMLoss": theirs, **known})
    for _ in range(2):
        losses.register()
    assert LOSS_REGISTRY.get("SSIMLoss") is theirs
    assert "another SSIMLoss already; ours is registered as SRPLSSIMLoss" in caplog.text
    model = build("PerceptualSRModel", {"losses": [{"type": "SRPLSSIMLoss"}]})
    model.optimize_parameters(1)
    assert 0 < model.log_dict["l_srplssim"] < 2


@pytest.mark.fault(68)
def test_registering_again_changes_nothing():
    from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

    from sr_perceptual_loss.integrations.basicsr import losses, metrics, models

    before = [dict(r._obj_map) for r in (LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)]
    losses.register()
    metrics.register()
    for module in (losses, metrics):
        importlib.reload(module)
    assert models.perceptual(models.SRModel) is models.PerceptualSRModel
    assert [dict(r._obj_map) for r in (LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY)] == before
