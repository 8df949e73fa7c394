"""Schedules, the guard, and both across an interruption, in BasicSR's models."""

from __future__ import annotations

import copy

import pytest
import torch

from sr_perceptual_loss import InputError
from sr_perceptual_loss.monitor.guard import HackingError, HackingGuard

from .conftest import L1

CRITIC = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": 0.5}


def batch(iteration, side=16):
    lq = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(iteration))
    return {"lq": lq, "gt": torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic").clamp(0, 1)}


def steps(model, iterations):
    """iteration -> log, with the data that belong to each iteration."""
    logs = {}
    for iteration in iterations:
        model.update_learning_rate(iteration)
        model.feed_data(batch(iteration))
        model.optimize_parameters(iteration)
        logs[iteration] = dict(model.log_dict)
    return logs


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.net_g.parameters()])


def test_any_entry_may_have_a_schedule(build):
    entries = [L1, {**CRITIC, "schedule": {"start": 2, "ramp": 4}}, {**L1, "name": "late", "schedule": {"start": "4"}}]
    model = build("PerceptualSRModel", {"losses": entries, "guard": False})
    logs = steps(model, range(1, 7))
    assert [logs[i]["weight_haarpsi"] for i in logs] == [0, 0, 0.25, 0.5, 0.75, 1]
    assert [logs[i]["weight_late"] for i in logs] == [0, 0, 0, 1, 1, 1]
    for log in logs.values():
        assert log["l_late"] == pytest.approx(log["l_l1"] * log["weight_late"])
        assert log["l_haarpsi"] == pytest.approx(-0.5 * log["weight_haarpsi"] * log["score_haarpsi"])
        assert list(log) == list(logs[1])


def test_a_ramp_on_basicsrs_own_losses_multiplies_them(build, small_vgg):
    percep = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "perceptual_weight": 1.0, "style_weight": 1.0,
              "criterion": "l1"}  # fmt: skip
    entries = [{**L1, "schedule": {"ramp": 4}}, {**L1, "name": "whole"}, {**percep, "schedule": {"start": 9}}]
    model = build("PerceptualSRModel", {"losses": entries})
    log = steps(model, [3])[3]
    assert log["l_l1"] == pytest.approx(0.75 * log["l_whole"]) and log["l_perceptual"] == 0


def test_a_loss_that_is_off_is_not_called_and_its_gradient_is_zero(build, monkeypatch):
    off = {"start": 100}
    model = build(
        "PerceptualSRModel", {"losses": [{**CRITIC, "schedule": off}, {**L1, "schedule": off}], "guard": False}
    )
    for member in model.cri_perceptual.members:
        monkeypatch.setattr(getattr(member, "loss", member), "_values", lambda *a: pytest.fail("called"), raising=False)
    monkeypatch.setattr(model.cri_perceptual.members[1], "forward", lambda *a: pytest.fail("called"))
    before = weights(model)
    log = steps(model, [5])[5]
    assert torch.equal(weights(model), before)
    assert log["l_haarpsi"] == log["l_l1"] == log["score_haarpsi"] == 0


@pytest.mark.fault(64)
def test_gated_gan_steps_do_not_shift_a_schedule(build):
    gates = {"net_d_iters": 2, "net_d_init_iters": 1}
    entries = [{**CRITIC, "schedule": {"ramp": 8}}]
    model = build("PerceptualSRGANModel", {"pixel_opt": L1, "losses": entries, **gates})
    logs = steps(model, range(1, 7))
    assert [logs[i]["weight_haarpsi"] for i in logs] == [i / 8 for i in range(1, 7)]
    assert [logs[i]["l_g_haarpsi"] != 0 for i in logs] == [i % 2 == 0 for i in range(1, 7)]
    assert logs[4]["l_g_haarpsi"] == pytest.approx(-0.5 * 0.5 * logs[4]["score_haarpsi"], rel=1e-5)
    assert [logs[i]["score_haarpsi"] for i in (1, 3, 5)] == [0, 0, 0]
    assert float(model.cri_perceptual.pair_losses["haarpsi"].terms["score"]) == pytest.approx(logs[6]["score_haarpsi"])
    assert all(list(log) == list(logs[1]) for log in logs.values())


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({**CRITIC, "schedule": {"stert": 1}}, "'stert'.*'start'"),
        ({**L1, "schedule": {"start": 5, "end": 5}}, "end 5.*start 5"),
        ({**L1, "scedule": {"start": 5}}, "'scedule'.*'schedule'"),
    ],
)
def test_bad_schedules_are_named(build, entry, names):
    with pytest.raises(InputError, match=names):
        build("PerceptualSRModel", {"losses": [entry]})


@pytest.mark.parametrize("entry", [{**CRITIC, "schedule": {"start": 5}},
                                   {"type": "LossList", "losses": [{**L1, "schedule": {"start": 5}}]}])  # fmt: skip
def test_a_stock_model_cannot_tell_the_iteration(build, entry):
    with pytest.raises(InputError, match=r"iteration.* PerceptualSRModel"):
        build("SRModel", {"pixel_opt": L1, "perceptual_opt": entry})


def test_the_guard_is_on_by_default_and_logs_at_checks_only(build, basicsr_log):
    model = build("PerceptualSRModel", {"losses": [L1, CRITIC]})
    guard = model.cri_perceptual.guard
    assert (guard.every, guard.action, guard.tolerance) == (200, "warn", 1.0)
    logs = steps(model, [1, 2, 3])
    lines = [line for line in basicsr_log.messages if line.startswith("guard, iteration")]
    assert len(lines) == 1 and lines[0].startswith("guard, iteration 1: ")
    assert "psnr: " in lines[0] and "alarm: 0" in lines[0]
    assert "haarpsi" not in lines[0]  # it is in the loss
    assert not any("guard" in key for key in logs[1]) and list(logs[1]) == list(logs[2])
    gan = build("PerceptualSRGANModel", {"pixel_opt": L1, "losses": [CRITIC]})
    assert gan.cri_perceptual.guard.tolerance == 3.0


def test_guard_values_go_to_tensorboard_at_each_check(build, options, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    opt = options("PerceptualSRModel", {"losses": [L1, CRITIC], "guard": {"every": 2}})
    opt |= {"root_path": str(tmp_path), "logger": {"use_tb_logger": True}}
    model = build(None, None, opt=opt)
    steps(model, range(1, 6))
    events = reader.EventAccumulator(str(tmp_path / "tb_logger" / "test" / "guard")).Reload()
    values = {event.step: event.value for event in events.Scalars("guard/psnr")}
    assert list(values) == [1, 2, 4]
    assert values[4] == pytest.approx(model.cri_perceptual.guard.values["psnr"], rel=1e-5)


@pytest.mark.parametrize("off", [False, None])
def test_the_guard_can_be_switched_off(build, off):
    assert build("PerceptualSRModel", {"losses": [L1, CRITIC], "guard": off}).cri_perceptual.guard is None


def test_a_guard_with_nothing_to_watch_is_reported(build, basicsr_log):
    model = build("PerceptualSRModel", {"losses": [L1], "guard": {"every": 5}})
    assert model.cri_perceptual.guard is None and "train.guard: no entry" in basicsr_log.text


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ({"guard": {"evry": 5}}, "train.guard.*'evry'.*'every'"),
        ({"guard": {"votes": 1}}, "train.guard.*'votes'"),
        ({"guard": {"action": "halt"}}, "guard.action.*'halt'.*'halve'"),
        ({"guard": "warn"}, "train.guard: got 'warn'"),
        ({"gaurd": {"every": 5}}, "train.gaurd.*'guard'"),
    ],
)
def test_bad_guards_are_named(build, train, names):
    with pytest.raises(InputError, match=names):
        build("PerceptualSRModel", {"losses": [L1, CRITIC], **train})


class Eager(HackingGuard):
    """Takes any second check for hacking."""

    def _evidence(self, name):
        return (9, 0.8, 1, ["PSNR fell by 2.1 dB"]) if self._last > 1 else (0, 0.0, 0, [])


@pytest.fixture
def eager(monkeypatch):
    from sr_perceptual_loss.integrations.basicsr import models

    monkeypatch.setattr(models, "HackingGuard", Eager)


def test_an_alarm_goes_to_basicsrs_log_once(build, eager, basicsr_log):
    model = build("PerceptualSRModel", {"losses": [L1, CRITIC], "guard": {"every": 1, "patience": 1}})
    steps(model, range(1, 5))
    assert basicsr_log.text.count("iteration 2: the network seems to exploit 'haarpsi': its score rose by 0.8") == 1
    lines = [line for line in basicsr_log.messages if line.startswith("guard, iteration")]
    assert ["alarm: 1" in line for line in lines] == [False, True, True, True]


def test_stop_comes_before_the_optimizer(build, eager, basicsr_log):
    options = {"every": 1, "patience": 1, "action": "stop"}
    model = build("PerceptualSRModel", {"losses": [L1, CRITIC], "guard": options})
    steps(model, [1])
    before = weights(model)
    with pytest.raises(HackingError, match="iteration 2: .*'haarpsi'"):
        steps(model, [2])
    assert torch.equal(weights(model), before) and "guard, iteration 2: " in basicsr_log.text


def test_halve_acts_on_the_step_of_the_alarm(build, eager):
    options = {"every": 1, "patience": 1, "action": "halve"}
    model = build("PerceptualSRModel", {"losses": [L1, CRITIC], "guard": options})
    logs = steps(model, [1, 2])
    assert logs[1]["l_haarpsi"] == pytest.approx(-0.5 * logs[1]["score_haarpsi"])
    assert logs[2]["l_haarpsi"] == pytest.approx(-0.25 * logs[2]["score_haarpsi"])


TRAIN = {
    "losses": [
        L1,
        {**CRITIC, "crops": {"size": 48}, "schedule": {"start": 2, "ramp": 6}},
        {"type": "SSIMLoss", "schedule": {"every": 2}},
    ],
    "guard": {"every": 2, "patience": 1, "action": "halve"},
    "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
}


def make(build, options, folder, resume=None, train=None):
    opt = options("PerceptualSRModel", copy.deepcopy(train or TRAIN))
    opt["path"] = {"models": str(folder / "models"), "training_states": str(folder / "training_states")}
    for name in ("models", "training_states"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if resume is not None:
        opt["path"]["resume_state"] = str(folder / "training_states" / f"{resume}.state")
        opt["path"].update(pretrain_network_g=str(folder / "models" / f"net_g_{resume}.pth"), strict_load_g=True)
    return build(None, None, opt=opt)


def resume(build, options, folder, iteration, train=None):
    model = make(build, options, folder, iteration, train)
    model.resume_training(torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True))
    return model


@pytest.mark.fault(40)
def test_an_interrupted_run_equals_an_uninterrupted_one_loss_by_loss(build, options, tmp_path, eager):
    whole_model = make(build, options, tmp_path / "whole")
    whole = steps(whole_model, range(1, 11))
    first = make(build, options, tmp_path / "halves")
    logs = steps(first, range(1, 6))
    first.save(0, 5)
    second = resume(build, options, tmp_path / "halves", 5)
    logs |= steps(second, range(6, 11))
    assert logs == whole
    assert torch.equal(weights(second), weights(whole_model))
    # What had to be remembered: the halved weight, in a step without a check.
    assert whole[5]["weight_haarpsi"] == 0.25
    assert second.cri_perceptual.guard.state_dict() == whole_model.cri_perceptual.guard.state_dict()


BALANCED = {
    "balance": {
        "losses": [L1, CRITIC, {"type": "SSIMLoss"}],
        "balance": {"shares": {"l1": 2, "haarpsi": 1, "ssim": 1}},
    },
    "ratio": {"losses": [L1, {"type": "SSIMPerceptualRatioLoss", "critic": "haarpsi", "name": "ratio"}]},
}


@pytest.mark.parametrize("name", BALANCED)
def test_a_balancers_averages_survive_the_interruption(build, options, tmp_path, name):
    train = {**BALANCED[name], "guard": False}
    whole = steps(make(build, options, tmp_path / "whole", train=train), range(1, 9))
    first = make(build, options, tmp_path / "halves", train=train)
    logs = steps(first, range(1, 5))
    first.save(0, 4)
    logs |= steps(resume(build, options, tmp_path / "halves", 4, train), range(5, 9))
    assert logs == whole
    # The averages do matter: without them the weight of the next iteration is another one.
    (tmp_path / "halves" / "srpl_states" / "4.srpl.state").unlink()
    forgetful = steps(resume(build, options, tmp_path / "halves", 4, train), range(5, 6))
    weight = "balance_weight_haarpsi" if name == "balance" else "lambda_ratio"
    assert forgetful[5][weight] != whole[5][weight]


def test_the_side_file_is_out_of_basicsrs_way(build, options, tmp_path):
    from basicsr.utils import scandir

    model = make(build, options, tmp_path)
    steps(model, [1])
    model.save(0, 1)
    model.save(0, -1)
    side = tmp_path / "srpl_states" / "1.srpl.state"
    assert [p.name for p in side.parent.iterdir()] == [side.name]  # no temporary file is left
    assert list(scandir(str(tmp_path / "training_states"), suffix="state")) == ["1.state"]
    state = torch.load(side, weights_only=True)
    assert state["iter"] == 1 and state["guard"]["last"] == 1 and side.stat().st_size < 30_000


@pytest.mark.fault(41)
def test_without_the_side_file_it_warns_and_schedules_go_on(build, options, tmp_path, basicsr_log):
    whole = steps(make(build, options, tmp_path / "whole"), range(1, 7))
    first = make(build, options, tmp_path)
    steps(first, range(1, 4))
    first.save(0, 3)
    (tmp_path / "srpl_states" / "3.srpl.state").unlink()
    logs = steps(resume(build, options, tmp_path, 3), range(4, 7))
    assert "3.srpl.state is missing" in basicsr_log.text
    for i in logs:
        assert logs[i] == whole[i]


def test_state_of_our_losses_travels_by_name_and_that_of_others_does_not(build, small_vgg):
    from sr_perceptual_loss.integrations.basicsr.losses import LossList

    percep = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}}
    lists = [LossList(entries) for entries in ([percep, CRITIC, {"type": "SSIMLoss"}], [{"type": "SSIMLoss"}, L1])]
    for losses in lists:
        losses.pair_losses["ssim"].register_buffer("mean", torch.zeros(()))
    lists[0].pair_losses["ssim"].mean.fill_(3.0)
    state = lists[0].training_state()
    assert {name: dict(part) for name, part in state.items()} == {"ssim": {"mean": torch.tensor(3.0)}}
    assert lists[1].load_training_state({**state, "gone": {"mean": torch.ones(())}}) == ["gone"]
    assert lists[1].pair_losses["ssim"].mean == 3.0
    assert lists[1].load_training_state({}) == ["ssim"]
