"""The guard on simulated series of images and scores; benchmarks/guard.py runs it on trained networks."""

from __future__ import annotations

import inspect
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair

from sr_perceptual_loss import Critic, CriticCard, CriticLoss, InputError, SizeRule, SSIMLoss
from sr_perceptual_loss.monitor import guard as guard_module
from sr_perceptual_loss.monitor.guard import HackingError, HackingGuard
from sr_perceptual_loss.monitor.measures import MEASURES

_, HR = make_pair(4, 64, 64, seed=1)
HR = 0.2 + 0.6 * HR
BLUR = F.avg_pool2d(F.pad(HR, (1, 1, 1, 1), mode="replicate"), 3, 1)
GRID = torch.cos(2 * math.pi * torch.arange(64) / 4).expand(64, 64)


def hacked(strength):
    """The blurred output with more and more of a grid of period 4."""
    return BLUR + strength * GRID


class Weak(Critic):
    """The mean of an untrained CNN."""

    card = CriticCard("weak", "none", SizeRule(minimum=8), (-1.0, 1.0), relative=False, needs_weights=False)

    def __init__(self):
        super().__init__({})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(8, 1, 3, stride=2)
            )

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return ()

    def _compare(self, sr, hr, target):
        return self.net(sr).mean((1, 2, 3))


def make_guard(every=1, off=("dists",), **options):
    """A guard and the list of its alarms; without DISTS, which takes most of the time."""
    alarms = []
    guard = HackingGuard(every=every, off=off, **options)
    guard.on_alarm = alarms.append
    return guard, alarms


@pytest.fixture
def unsmoothed(monkeypatch):
    monkeypatch.setattr(guard_module, "EMA", 0.0)


def feed(guard, images, levels, *, first=1, name="rqi", **more):
    """One check per image, with scores around the level and a GT score of 0."""
    for i, (image, level) in enumerate(zip(images, levels, strict=True), first):
        guard.check(i, image, HR, {name: level + torch.tensor([-0.1, 0.0, 0.1, 0.0])}, {name: torch.zeros(4)}, **more)


def test_the_guard_has_five_keys():
    assert list(inspect.signature(HackingGuard).parameters) == ["every", "action", "patience", "tolerance", "off"]


@pytest.mark.fault(65)
def test_an_exploited_critic_raises_one_alarm_with_a_reason():
    guard, alarms = make_guard()
    feed(guard, [BLUR] * 3 + [hacked(0.15)] * 6, [-0.5] * 3 + [0.6] * 6)
    assert [(alarm.loss, alarm.iteration) for alarm in alarms] == [("rqi", 5)]
    text = str(alarms[0])
    assert all(word in text for word in ("iteration 5", "'rqi'", "PSNR", "HaarPSI", "period 4", "ground truth"))
    assert guard.values["alarm"] == 1


@pytest.mark.fault(65)
@pytest.mark.parametrize(
    ("images", "levels"),
    [
        ([hacked(0.15 - 0.02 * i) for i in range(8)], [-0.5 + 0.1 * i for i in range(8)]),
        ([BLUR] * 3 + [hacked(0.15)] * 5, [-0.5] * 8),
        ([BLUR] * 3 + [hacked(0.15)] * 5, [-0.5] * 3 + [-1.0] * 5),
        ([BLUR] * 8, [-0.5 + 0.2 * i for i in range(8)]),
        ([BLUR] * 3 + [hacked(0.15)] + [BLUR] * 6, [-0.5] * 3 + [0.6] + [-0.5] * 6),
    ],
    ids=["both rise", "score stays", "score falls", "images stay", "one check only"],
)
def test_no_alarm(unsmoothed, images, levels):
    guard, alarms = make_guard()
    feed(guard, images, levels)
    assert alarms == [] and guard.values["alarm"] == 0


@pytest.mark.parametrize(("images", "expected"), [(4, 0), (16, 1)])
def test_a_rise_within_the_scatter_of_few_images_is_none(images, expected):
    guard, alarms = make_guard(off=("dists", "dots"))
    scores = torch.tensor([-1.0, 1.0, -1.0, 1.0]).repeat(images // 4)
    for i in range(1, 9):
        image, level = (BLUR, 0.0) if i <= 3 else (hacked(0.15), 0.8)
        guard.check(i, image.repeat(images // 4, 1, 1, 1), HR.repeat(images // 4, 1, 1, 1), {"rqi": scores + level})
    assert len(alarms) == expected


@pytest.mark.fault(65)
def test_an_alarm_needs_patience_and_ends_before_the_next(unsmoothed):
    guard, alarms = make_guard(patience=3)
    feed(guard, [BLUR] * 2 + [hacked(0.15)] * 2 + [BLUR], [-0.5] * 2 + [0.6] * 2 + [-0.5])
    assert alarms == []
    feed(guard, [hacked(0.15)] * 10, [0.6] * 10, first=10)
    assert [a.iteration for a in alarms] == [12]
    feed(guard, [BLUR] * 3 + [hacked(0.15)] * 4, [-0.5] * 3 + [0.6] * 4, first=20)
    assert [a.iteration for a in alarms] == [12, 25]


def test_a_weight_of_zero_is_not_at_fault():
    guard, alarms = make_guard()
    feed(guard, [BLUR] * 3 + [hacked(0.15)] * 5, [-0.5] * 3 + [0.6] * 5, ramp_factors={"rqi": 0.0})
    assert alarms == []


@pytest.mark.parametrize(("tolerance", "expected"), [(1, 1), (100, 0)])
def test_tolerance_multiplies_the_limits_of_fidelity_alone(tolerance, expected):
    guard, alarms = make_guard(tolerance=tolerance, off=("dists", "hf", "grid", "dots", "over_gt"))
    assert guard.limits["psnr"] == tolerance and guard.limits["ssim"] == pytest.approx(0.03 * tolerance)
    assert guard.limits["dists"] == pytest.approx(0.06 * tolerance)
    assert (guard.limits["grid"], guard.limits["dots"], guard.limits["colour"]) == (1, 1, 2)
    feed(guard, [BLUR] * 3 + [hacked(0.15)] * 5, [-0.5] * 3 + [0.6] * 5)
    assert len(alarms) == expected


def test_measures_that_are_off_or_optimised_by_a_loss_are_left_out():
    guard, _ = make_guard(off=("ssim", "grid", "dists"))
    guard.step(1, BLUR.clone(), HR, {"haarpsi": CriticLoss("haarpsi")})
    assert guard.values["psnr"] > 20
    assert set(guard.values) == {"psnr", "overshoot", "hf", "dots", "colour", "over_gt", "alarm"}


def test_dists_is_used_unless_a_loss_compares_such_features():
    guard, _ = make_guard(off=[name for name in MEASURES if name != "dists"])
    guard.step(1, BLUR.clone(), HR, {"ssim": SSIMLoss()})
    assert 0.3 < guard.values["dists"] < 1
    for number, name in enumerate(("dists", "lpips", "pyiqa:lpips"), 2):
        loss = SSIMLoss()
        loss.optimises = (name,)
        guard.step(number, BLUR.clone(), HR, {"loss": loss})
        assert "dists" not in guard.values


def test_with_one_measure_left_there_is_no_second_vote():
    guard, alarms = make_guard(off=[name for name in MEASURES if name != "psnr"])
    feed(guard, [BLUR] * 3 + [hacked(0.15)] * 5, [-0.5] * 3 + [0.6] * 5)
    assert alarms == [] and set(guard.values) == {"psnr", "overshoot", "alarm"}


def test_a_measure_switched_off_at_a_resume_decides_nothing():
    first, _ = make_guard()
    feed(first, [BLUR] * 3 + [hacked(0.15)], [-0.5] * 3 + [0.6])
    second, alarms = make_guard(off=[name for name in MEASURES if name != "psnr"])
    second.load_state_dict(first.state_dict())
    feed(second, [hacked(0.15)] * 5, [0.6] * 5, first=5)
    assert alarms == []


def dotted(strength):
    """The blurred output with dots of random sign at one phase of a period of 4 pixels, on the left half."""
    signs = torch.randint(0, 2, (4, 1, 16, 8), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    image = BLUR.clone()
    image[..., 1::4, 2:32:4] += strength * signs
    return image.clamp(0, 1)


def test_dots_raise_an_alarm_with_a_small_rise_of_the_score_and_their_places_are_kept():
    guard, alarms = make_guard()
    feed(guard, [BLUR] * 3 + [dotted(0.1)] * 3, [-0.5] * 3 + [-0.45] * 3)
    assert len(alarms) == 1 and "dots on the output grid" in alarms[0].reason and "period" not in alarms[0].reason
    assert guard.values["dots"] > 0.2 and guard.values["grid"] < 1
    assert [place[0] for place in guard.worst] == [0, 1, 2, 3] and all(place[2] < 40 for place in guard.worst)
    guard, alarms = make_guard()
    feed(guard, [BLUR] * 3 + [dotted(0.1)] * 3, [-0.5] * 3 + [-0.55] * 3)
    assert alarms == [], "the score fell"


def test_a_colour_cast_counts_as_one_measure():
    cast = BLUR + torch.tensor([8.0, 0.0, -8.0]).view(3, 1, 1) / 255
    for used, expected in ((("colour",), 0), (("colour", "over_gt"), 1)):
        guard, alarms = make_guard(off=[name for name in MEASURES if name not in used])
        feed(guard, [BLUR] * 3 + [cast] * 4, [-0.5] * 3 + [0.6] * 4)
        assert len(alarms) == expected and guard.values["colour"] > 5
    assert "colours moved" in alarms[0].reason


def run(guard, loss, steps):
    """Factors of a loss over the steps; its critic gives -0.5 for three steps and 0.6 from then on."""
    level = {"now": -0.5}
    loss.scores = lambda sr, hr: torch.zeros(len(sr)) if sr is hr else torch.full((len(sr),), level["now"])
    factors = []
    for i in range(1, steps + 1):
        level["now"] = -0.5 if i <= 3 else 0.6
        loss.step(i)
        guard.step(i, BLUR if i <= 3 else hacked(0.15), HR, {"ssim": loss})
        factors.append(loss.factor)
    return factors


@pytest.mark.fault(65)
def test_freeze_keeps_the_weight_where_it_is_on_its_ramp():
    guard, alarms = make_guard(action="freeze_weight")
    factors = run(guard, SSIMLoss(schedule={"ramp": 20, "end": 12, "every": 1}), 14)
    assert len(alarms) == 1 and "0.25" in alarms[0].action
    assert factors[:4] == [0.05, 0.1, 0.15, 0.2] and factors[4:11] == [0.25] * 7 and factors[11:] == [0.0] * 3


@pytest.mark.fault(65)
def test_halve_acts_in_the_step_of_the_alarm():
    guard, _ = make_guard(action="halve")
    assert run(guard, SSIMLoss(), 10) == [1.0] * 4 + [0.5] * 6
    assert guard.values["weight"] == 0.5


@pytest.mark.fault(65)
def test_stop_raises_with_the_reason():
    guard, alarms = make_guard(action="stop")
    with pytest.raises(HackingError, match=r"iteration 5: .*'ssim'.*score rose") as error:
        run(guard, SSIMLoss(), 10)
    assert [str(alarm) for alarm in alarms] == [str(error.value)] and guard.values["alarm"] == 1


def test_by_default_the_packages_logger_warns(caplog):
    guard = HackingGuard(every=1, off=["dists"])
    with caplog.at_level(logging.WARNING, logger="sr_perceptual_loss"):
        assert run(guard, SSIMLoss(), 8) == [1.0] * 8
    assert len(caplog.records) == 1 and "'ssim'" in caplog.text


def learn_a_tile(guard, loss, steps):
    """What the biases of a pixel-shuffle head can do: one 4x4 tile, the same everywhere in every image."""
    tile = torch.zeros(1, 3, 4, 4, requires_grad=True)
    optimizer = torch.optim.Adam([tile], 2e-3)
    for i in range(1, steps + 1):
        sr = BLUR + tile.repeat(1, 1, 16, 16)
        loss.step(i)
        guard.step(i, sr, HR, {"critic": loss})
        optimizer.zero_grad()
        loss(sr, HR).backward()
        optimizer.step()
    return tile.detach().std()


@pytest.mark.fault(65)
@pytest.mark.parametrize("kind", ["weak", "haarpsi", "ssim"])
def test_a_weak_critic_raises_an_alarm_and_a_sound_one_does_not(kind):
    losses = {"weak": lambda: CriticLoss(Weak()), "haarpsi": lambda: CriticLoss("haarpsi"), "ssim": SSIMLoss}
    guard, alarms = make_guard(every=5)
    contrast = learn_a_tile(guard, losses[kind](), 40)
    if kind == "weak":
        assert len(alarms) == 1 and "a pattern of period" in str(alarms[0]) and contrast > 5 / 255
    else:
        assert alarms == [] and contrast < 3 / 255


def attack(critic, images, size, steps=15):
    """Projected gradient descent on the critic: the images of highest score within +-size of the given ones."""
    x = images.clone()
    for _ in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(critic.score(x, HR).sum(), x)
        x = (x.detach() + size / 5 * gradient.sign()).clamp(images - size, images + size).clamp(0, 1)
    return x.detach()


@pytest.mark.fault(66)
@pytest.mark.parametrize(("levels", "flagged"), [(0, False), (8, True)])
def test_pixel_attacks_on_a_weak_critic_are_flagged(levels, flagged):
    """docs/guard.md has the rates: 10, 40, 90, 100 % at 1, 2, 4, 8 of 255 levels, 0 % without an attack."""
    critic = Weak()
    guard, alarms = make_guard()
    for iteration in range(1, 7):
        sr = attack(critic, BLUR, levels / 255) if iteration > 3 and levels else BLUR
        with torch.no_grad():
            guard.check(iteration, sr, HR, {"weak": critic.score(sr, HR)}, {"weak": critic.score(HR, HR)})
    assert bool(alarms) == flagged
    if flagged:
        assert "PSNR" in alarms[0].reason


def test_due_depends_on_the_iteration_alone():
    guard, _ = make_guard(every=10)
    checked, last = [], []
    for i in (1, 1, 2, 9, 10, 10, 11, 23, 24, 31):
        if guard.due(i):
            checked.append(i)
        guard.step(i, BLUR, HR, {"ssim": SSIMLoss()})
        last.append(guard.last_check)
    assert checked == [1, 10, 23, 31] and last == [1, 1, 1, 1, 10, 10, 10, 23, 23, 31]


def test_a_saved_guard_continues_as_if_nothing_had_happened(tmp_path):
    images, levels = [BLUR] * 3 + [hacked(0.05 * i) for i in range(6)], [-0.5] * 3 + [0.2 * i for i in range(6)]
    whole, alarms = make_guard(action="halve")
    feed(whole, images, levels)
    first, early = make_guard(action="halve")
    feed(first, images[:4], levels[:4])
    saved = first.state_dict()
    torch.save(saved, tmp_path / "guard.pt")
    feed(first, images[4:], levels[4:], first=5)
    second, late = make_guard(action="halve")
    second.load_state_dict(torch.load(tmp_path / "guard.pt", weights_only=True))
    assert second.state_dict() == saved, "the state is a copy"
    feed(second, images[4:], levels[4:], first=5)
    assert second.state_dict() == whole.state_dict() and second.values == whole.values
    assert early == late == alarms and len(alarms) == 1
    loss = SSIMLoss()
    second.limit_weight({"rqi": loss})
    assert loss.factor == 0.5


def test_the_state_stays_small():
    guard, _ = make_guard()
    feed(guard, [BLUR] * 2, [-0.5] * 2)
    size = len(str(guard.state_dict()))
    feed(guard, [hacked(0.1)] * 12, [0.5] * 12, first=3)
    assert len(str(guard.state_dict())) < 2 * size < 16_000


def test_states_with_other_keys_are_refused():
    guard, _ = make_guard()
    state = guard.state_dict()
    with pytest.raises(InputError, match="anchors.*another version"):
        guard.load_state_dict({k: v for k, v in state.items() if k != "anchors"})
    with pytest.raises(InputError, match="quiet.*another version"):
        guard.load_state_dict({**state, "quiet": {}})


def test_a_wrong_pair_is_named():
    sr, hr = make_pair(2, 32, 32)
    guard = HackingGuard()
    for a, b in ((sr, hr[..., :-1]), (sr[0], hr[0])):
        with pytest.raises(InputError):
            guard.step(1, a, b, {"ssim": SSIMLoss()})


def test_no_graph_and_no_gradient():
    guard, _ = make_guard()
    sr = BLUR.clone().requires_grad_()
    guard.step(1, sr, HR, {"haarpsi": CriticLoss("haarpsi")})
    assert sr.grad is None and all(isinstance(v, float) for v in guard.values.values())


def test_a_check_that_meets_nan_decides_nothing():
    guard, alarms = make_guard()
    feed(guard, [BLUR * float("nan")], [float("nan")])
    assert guard.state_dict()["smooth"] == {} and guard.values == {} and alarms == []
    feed(guard, [BLUR], [0.0], first=2)
    assert guard.values["psnr"] > 20


def test_an_empty_batch_is_no_check():
    guard, _ = make_guard()
    guard.step(1, BLUR[:0], HR[:0], {"haarpsi": CriticLoss("haarpsi")})
    assert guard.last_check is None


def test_values_of_a_check():
    guard, _ = make_guard(action="halve")
    assert guard.values == {}
    feed(guard, [BLUR * 1.5], [0.1])
    values = guard.values
    names = ["psnr", "ssim", "haarpsi", "overshoot", "dots", "hf", "grid", "colour", "over_gt", "weight", "alarm"]
    assert list(values) == names
    assert values["overshoot"] == pytest.approx(float((BLUR * 1.5 > 1).float().mean())) and values["overshoot"] > 0
    assert 0 < values["hf"] < 1 and (values["over_gt"], values["weight"], values["alarm"]) == (0.75, 1, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"action": "freeze"}, "guard.action: .*'freeze'.*'freeze_weight'"),
        ({"every": 0}, "guard.every: .*0"),
        ({"patience": 0}, "guard.patience: .*0"),
        ({"tolerance": -1}, "guard.tolerance: .*-1"),
        ({"off": ("harpsi",)}, "guard.off: .*'harpsi'.*'haarpsi'"),
        ({"off": "ssim"}, "guard.off: .*'ssim'.*list"),
        ({"off": None}, "guard.off: .*None.*list"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(InputError, match=words):
        HackingGuard(**options)
