from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from pairs import make_pair
from torch import nn
from torch.utils.checkpoint import checkpoint

from sr_perceptual_loss import Critic, CriticCard, InputError, NonFiniteError, SizeRule, create_critic, ssim
from sr_perceptual_loss.losses import ratio_loss
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

RATIOS = [(0.9, 0.1), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.1, 0.9)]
#: Every balance except the printed ratio.
USABLE = ["grad_norm", "none"]


class Toy(Critic):
    """score = factor * q(sr) + shift, q = 3 + local contrast (rewards noise), or the mean of the second channel."""

    card = CriticCard("toy", "none", SizeRule(minimum=1), (-9.0, 9.0), relative=False, needs_weights=False)

    def __init__(self, factor=1.0, shift=0.0, channel=False, reentrant=None, bad=None):
        super().__init__({})
        self.factor, self.shift, self.channel, self.reentrant, self.bad = factor, shift, channel, reentrant, bad
        self.calls, self.dtypes = 0, set()

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return (hr.mean((1, 2, 3)),)

    def _q(self, sr):
        if self.channel:
            return sr[:, 1].mean((1, 2))
        return 3 + 2 * ((sr[..., 1:] - sr[..., :-1]) ** 2 + 1e-4).sqrt().mean((1, 2, 3)) + 0.1 * sr[:, 0].mean((1, 2))

    def _compare(self, sr, hr, target):
        self.calls += 1
        q = self._q(sr) if self.reentrant is None else checkpoint(self._q, sr, use_reentrant=self.reentrant)
        score = self.factor * q + self.shift
        self.dtypes.add(score.dtype)
        if self.bad == "value":
            score = score * float("nan")
        if self.bad == "gradient":
            score = score + (0 * (sr * 0).sum((1, 2, 3))).sqrt()
        return score + 0 * target[0]


@pytest.fixture
def channels(monkeypatch):
    """Distortion score = mean of the first channel, the critic's of the second: the two gradients do not mix."""
    monkeypatch.setitem(ratio_loss.DISTORTIONS, "ssim", (lambda sr, hr: sr[:, 0].mean((1, 2)), 1.0))

    def at(s, q, factor=1.0, shift=0.0):
        sr = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
        sr[:, 0], sr[:, 1] = s, (q - shift) / factor
        return sr.requires_grad_(), torch.zeros_like(sr)

    return at


def gradient(loss, sr, hr):
    x = sr.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x, hr), x)
    return found


def make(critic=None, **options):
    """The loss; what eq12 warns of at construction has its own test."""
    with warnings.catch_warnings():
        if options.get("loss_balance") == "eq12":
            warnings.simplefilter("ignore")
        return SSIMPerceptualRatioLoss(critic or Toy(), **options)


def pair(n=2, seed=0):
    return make_pair(n, 24, 24, seed=seed, dtype=torch.float64)


class Network(nn.Sequential):
    """A tiny residual network, to see parameter gradients and steps."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 3, padding=1))
        self.double()

    def forward(self, x):
        return x + 0.1 * super().forward(x)


def train(loss, steps, rate, *, seed=0):
    """Parameter displacement after some Adam steps, and the network."""
    network = Network()
    start = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    sr, hr = pair(seed=seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(sr), hr).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(network.parameters()).detach() - start, network


# 1, 2: the printed ratio ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [r for r in RATIOS if r[0] != r[1]])
def test_eq12_is_the_closed_form_on_the_batch_means(alpha, beta):
    sr, hr = pair()
    loss = make(alpha=alpha, beta=beta, loss_balance="eq12")
    s, q = (x.mean() for x in (ssim(sr, hr), Toy().score(sr, hr)))
    expected = alpha + (beta - alpha) * q / (s + q)
    torch.testing.assert_close(loss(sr, hr), expected)


@pytest.mark.fault(61)
def test_eq12_at_equal_weights_is_refused():
    with pytest.raises(InputError, match="alpha = beta"):
        SSIMPerceptualRatioLoss(Toy(), loss_balance="eq12")


def test_one_step_of_eq12_with_beta_larger_lowers_the_critics_score():
    sr, hr = pair()
    loss = make(alpha=0.3, beta=0.7, loss_balance="eq12")
    g = gradient(loss, sr, hr)
    before = loss.terms["score"]
    loss(sr - 0.01 * g / g.abs().max(), hr)
    assert loss.terms["score"] < before


def test_eq12_announces_which_score_will_fall():
    with pytest.warns(UserWarning, match="only the sign of beta - alpha.*critic's score will go down"):
        SSIMPerceptualRatioLoss(Toy(), loss_balance="eq12", alpha=0.3, beta=0.7)


@pytest.mark.fault(62)
@pytest.mark.parametrize(("q", "error"), [(-0.7001, NonFiniteError), (-2.5, InputError)])
def test_eq12_stops_where_the_ratio_means_nothing(channels, q, error):
    loss = make(Toy(channel=True), alpha=0.7, beta=0.3, loss_balance="eq12")
    with pytest.raises(error, match=f"S = 0.7, Q = {q}"):
        loss(*channels(0.7, q))


@pytest.mark.parametrize("options", [{"distortion": "l1"}, {"form": "hinge"}])
def test_eq12_needs_two_scores(options):
    with pytest.raises(InputError, match="ratio of two scores"):
        SSIMPerceptualRatioLoss(Toy(), loss_balance="eq12", alpha=0.7, beta=0.3, **options)


# 3, 4, 5: the usable balances -----------------------------------------------------------------------------------------


@pytest.mark.fault(61)
@pytest.mark.parametrize("balance", USABLE)
@pytest.mark.parametrize("s", [0.7, 0.3])
@pytest.mark.parametrize("q", [3, 0.3, -0.3, -2.5, -0.7])
def test_every_usable_balance_rewards_both_scores(channels, balance, s, q):
    sr, hr = channels(s, q)
    for alpha, beta in RATIOS:
        g = gradient(make(Toy(channel=True), alpha=alpha, beta=beta, loss_balance=balance), sr, hr)
        assert (g[:, :2] < 0).all() and (g[:, 2] == 0).all()


@pytest.mark.fault(61)
@pytest.mark.parametrize(("alpha", "beta"), [*RATIOS, (3, 1)])
def test_grad_norm_shares_at_the_output(channels, alpha, beta):
    sr, hr = channels(0.7, 3.0)
    loss = make(Toy(100, channel=True), alpha=alpha, beta=beta)
    g = gradient(loss, sr, hr)
    assert float(g[:, 0].norm() / g[:, 1].norm()) == pytest.approx(alpha / beta, rel=1e-9)
    assert float(loss.terms["lambda"]) == pytest.approx(0.01)


@pytest.mark.parametrize(("factor", "shift"), [(10, 0), (100, -350), (1, -4)])
def test_grad_norm_is_blind_to_scale_and_offset_of_the_critic(factor, shift):
    plain, changed = make(alpha=0.4, beta=0.6), make(Toy(factor, shift), alpha=0.4, beta=0.6)
    for seed in range(3):
        a, b = (gradient(loss, *pair(seed=seed)) for loss in (plain, changed))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))
    assert float(changed.terms["lambda"]) == pytest.approx(float(plain.terms["lambda"]) / factor)


# 6: one-sided ---------------------------------------------------------------------------------------------------------


def cosine(a, b):
    return float((a * b).sum() / a.norm() / b.norm())


@pytest.mark.parametrize("balance", USABLE)
def test_one_sided_weights(balance):
    sr, hr = pair()
    critic = Toy()
    loss = make(critic, alpha=0.5, beta=0, loss_balance=balance)
    g = gradient(loss, sr, hr)
    assert critic.calls == 0 and float(loss.terms["score"]) == 0
    assert cosine(g, -gradient(lambda x, y: ssim(x, y).mean(), sr, hr)) == pytest.approx(1)
    loss = make(alpha=0, beta=0.5, loss_balance=balance)
    g = gradient(loss, sr, hr)
    assert cosine(g, -gradient(lambda x, y: Toy().score(x, y).mean(), sr, hr)) == pytest.approx(1)
    assert float(loss.terms["distortion_score"]) == 0
    if balance == "grad_norm":
        assert float(loss.terms["lambda"]) == 1


# 7: surrogate, value, state -------------------------------------------------------------------------------------------


def test_surrogate_leaf_and_lambda_forms_agree_and_the_value_is_the_weighted_sum():
    a, b = 0.25, 0.75
    sr, hr = pair()
    network, critic = Network(), Toy()

    def grads(loss):
        network.zero_grad()
        loss.backward()
        return nn.utils.parameters_to_vector([p.grad for p in network.parameters()]).clone()

    ours = SSIMPerceptualRatioLoss(critic, alpha=a, beta=b)
    value = ours(network(sr), hr)
    found = grads(value)
    x = network(sr)
    parts = [1 - ssim(x, hr).mean(), -critic.score(x, hr).mean()]
    torch.testing.assert_close(value.detach(), (a * parts[0] + b * parts[1]).detach())
    g = [torch.autograd.grad(p, x, retain_graph=True)[0] for p in parts]
    sizes = [v.flatten(1).norm(dim=1).mean() for v in g]
    weight = sizes[0] / sizes[1]
    plain = grads(a * parts[0] + b * weight * parts[1])
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-12)
    direct = grads((network(sr) * (a * g[0] + b * weight * g[1])).sum())
    torch.testing.assert_close(found, direct, rtol=1e-5, atol=1e-12)
    assert float(ours.terms["lambda"]) == pytest.approx(float(weight))
    assert float(ours.terms["cosine"]) == pytest.approx(cosine(*g))


def test_validation_returns_the_same_value_and_leaves_the_state():
    sr, hr = pair()
    loss = make()
    trained = loss(sr.clone().requires_grad_(), hr).detach()
    state = copy.deepcopy(loss.state_dict())
    assert state["balancer._extra_state"]["perceptual"][1] == 1
    with torch.no_grad():
        torch.testing.assert_close(loss(sr, hr), trained)
        loss(*pair(seed=3))
    loss(*pair(seed=3))
    assert loss.state_dict() == state


@pytest.mark.fault(36, 40)
def test_state_round_trip_and_interrupted_run():
    whole, first, second = make(), make(), make()
    for seed in range(4):
        whole.step(seed)
        expected = gradient(whole, *pair(seed=seed))
        if seed < 2:
            first.step(seed)
            gradient(first, *pair(seed=seed))
        if seed == 2:
            file = io.BytesIO()
            torch.save(first.state_dict(), file)
            assert file.tell() < 10_000
            file.seek(0)
            second.load_state_dict(torch.load(file, weights_only=True))
        if seed >= 2:
            second.step(seed)
            assert torch.equal(gradient(second, *pair(seed=seed)), expected)


@pytest.mark.fault(31, 78)
def test_accumulation_advances_the_averages_once_per_iteration():
    loss = make()
    for iteration in range(2):
        loss.step(iteration)
        for seed in range(3):
            gradient(loss, *pair(seed=seed))
    assert loss.state_dict()["balancer._extra_state"]["distortion"][1] == 2


# 8, 9: what the optimizer makes of it ---------------------------------------------------------------------------------


def test_eq12_under_adam_knows_the_sign_of_beta_minus_alpha_only():
    def move(beta, balance):
        return train(make(alpha=1 - beta, beta=beta, loss_balance=balance), 20, 1e-3)[0]

    low, middle, high = (move(beta, "eq12") for beta in (0.1, 0.3, 0.7))
    assert (low - middle).norm() < 0.02 * low.norm()
    assert cosine(middle, high) < 0
    low, middle = (move(beta, "none") for beta in (0.1, 0.3))
    assert (low - middle).norm() > 0.1 * low.norm()


def test_grad_norm_trades_both_scores_smoothly():
    sr, hr = pair()
    found = []
    for beta in (0.1, 0.5, 0.9):
        _, network = train(make(Toy(40, -130), alpha=1 - beta, beta=beta), 60, 3e-3)
        with torch.no_grad():
            found.append((float(Toy().score(network(sr), hr).mean()), float(ssim(network(sr), hr).mean())))
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[0][1] > found[1][1] > found[2][1]


# 10: precision, and the table of errors -------------------------------------------------------------------------------


@pytest.mark.fault(20)
@pytest.mark.parametrize("balance", [*USABLE, "eq12"])
def test_scores_are_single_precision_inside_autocast(balance, monkeypatch):
    seen = set()
    monkeypatch.setitem(ratio_loss.DISTORTIONS, "ssim", (lambda a, b: seen.add(a.dtype) or ssim(a, b), 1.0))
    sr, hr = (x.bfloat16() for x in pair())
    critic = Toy()
    loss = make(critic, alpha=0.6, beta=0.4, loss_balance=balance)
    x = sr.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, hr)
    value.backward()
    assert seen == critic.dtypes == {torch.float32} and value.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16 and x.grad.abs().max() > 0


@pytest.mark.parametrize(("options", "words"), [
    ({"alpha": float("nan")}, "alpha: .*finite"), ({"beta": float("inf")}, "beta: .*finite"),
    ({"alpha": -1}, "alpha: got -1"), ({"beta": True}, "beta: got True"), ({"alpha": "much"}, "alpha: .*much"),
    ({"alpha": 0, "beta": 0}, "both 0"), ({"loss_balance": "gradnorm"}, "Did you mean 'grad_norm'"),
    ({"distortion": "ssmi"}, "Did you mean 'ssim'"),
])  # fmt: skip
def test_options_that_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        SSIMPerceptualRatioLoss(Toy(), **options)


def test_numbers_that_yaml_left_as_text():
    loss = SSIMPerceptualRatioLoss(Toy(), alpha="1e-1", beta="9e-1")
    assert (loss.alpha, loss.beta) == (0.1, 0.9)


@pytest.mark.fault(4, 6)
@pytest.mark.parametrize("balance", USABLE)
@pytest.mark.parametrize(("bad", "words"), [("value", "perceptual: the loss is NaN"), ("gradient", "gradient")])
def test_non_finite_parts_stop_by_name(balance, bad, words):
    sr, hr = pair()
    loss = make(Toy(bad=bad), loss_balance=balance)
    words = words if balance == "grad_norm" else {"value": "value", "gradient": "gradient"}[bad]
    with pytest.raises(NonFiniteError, match=rf"SSIMPerceptualRatioLoss\(toy\): .*{words}"):
        loss(sr.requires_grad_(), hr).backward()
    assert loss.state_dict()["balancer._extra_state"] == {}


@pytest.mark.fault(4)
@pytest.mark.parametrize("balance", USABLE)
def test_a_diverged_network_is_named(balance):
    sr, hr = pair()
    sr[1, 0, 3, 3] = float("nan")
    words = {"grad_norm": "distortion: the loss is NaN", "none": "sr holds NaN"}[balance]
    with pytest.raises(NonFiniteError, match=words):
        make(loss_balance=balance)(sr.requires_grad_(), hr).backward()


@pytest.mark.fault(4)
@pytest.mark.parametrize("balance", USABLE)
def test_ignore(balance):
    sr, hr = pair()
    loss = make(Toy(bad="value"), loss_balance=balance)
    loss.on_nonfinite = "ignore"
    assert not torch.isfinite(loss(sr.requires_grad_(), hr))


@pytest.mark.fault(63)
def test_vanished_gradients_warn():
    sr, hr = pair()
    with pytest.warns(UserWarning, match="'perceptual' at the SR output has vanished"):
        g = gradient(make(Toy(0.0)), sr, hr)
    torch.testing.assert_close(g, -0.5 * gradient(lambda x, y: ssim(x, y).mean(), sr, hr))
    loss = make(distortion="l1")
    with pytest.warns(UserWarning, match="'distortion' at the SR output has vanished"):
        g = gradient(loss, hr, hr)
    assert float(loss.terms["lambda"]) == 1 and g.abs().max() > 0


# 11: hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(29, 32)
def test_checkpointed_critics_and_inference_mode_targets():
    sr, hr = pair()
    plain = gradient(make(), sr, hr)
    torch.testing.assert_close(gradient(make(Toy(reentrant=False)), sr, hr), plain)
    with pytest.raises(InputError, match=r"perceptual: .*reentrant checkpoint.*use_reentrant=False"):
        gradient(make(Toy(reentrant=True)), sr, hr)
    with torch.inference_mode():
        target = hr + 0
    for balance in USABLE:
        expected = gradient(make(loss_balance=balance), sr, hr)
        torch.testing.assert_close(gradient(make(loss_balance=balance), sr, target), expected)


RANK = """
import json, sys, torch, torch.distributed as dist
from sr_perceptual_loss import NonFiniteError
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss
rank, store, data = int(sys.argv[1]), sys.argv[2], torch.load(sys.argv[3], weights_only=True)
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
loss, weights = SSIMPerceptualRatioLoss("haarpsi", alpha=0.3, beta=0.7), []
for sr, hr in data:
    # Three images here, one there.
    mine = slice(0, 3) if rank == 0 else slice(3, 4)
    loss(sr[mine].requires_grad_(), hr[mine])
    weights.append(float(loss.terms["lambda"]))
with torch.no_grad():
    if rank == 0:
        loss(sr[:1], hr[:1])  # validation on one rank waits for nobody
stopped = ""
try:
    GradNormBalancer({"a": 1})(sr[mine].requires_grad_(), {"a": lambda x: x.sum() * (float("nan") if rank else 1.0)})
except NonFiniteError as error:
    stopped = str(error)
print(json.dumps([weights, loss.balancer.get_extra_state(), stopped]))
dist.destroy_process_group()
"""


@pytest.mark.fault(45)
def test_two_ranks_have_the_lambda_of_the_joined_batch(tmp_path):
    data = [make_pair(4, 32, 32, seed=seed, dtype=torch.float64) for seed in range(2)]
    torch.save(data, tmp_path / "data.pt")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    places = [str(tmp_path / "store"), str(tmp_path / "data.pt")]
    ranks = [
        subprocess.Popen([*command, str(rank), *places], stdout=subprocess.PIPE, env=environment, text=True)
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in ranks)
    loss, expected = SSIMPerceptualRatioLoss("haarpsi", alpha=0.3, beta=0.7), []
    for sr, hr in data:
        loss(sr.requires_grad_(), hr)
        expected.append(float(loss.terms["lambda"]))
    assert first[:2] == second[:2]
    assert first[0] == pytest.approx(expected, rel=1e-9)
    # A NaN on the second rank stops the first one too; else it would wait for ever.
    assert all("a: the loss is NaN" in found[2] for found in (first, second))


# The rest of the interface --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [*USABLE, "eq12"])
@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_terms_have_the_same_keys_in_every_call(balance, beta):
    sr, hr = pair()
    loss = make(alpha=0.4, beta=beta, loss_balance=balance)
    for x in (sr, sr.clone().requires_grad_()):
        value = loss(x, hr)
        assert set(loss.terms) == {"loss", *loss.term_names}
        assert all(t.dim() == 0 and not t.requires_grad for t in loss.terms.values())
        assert value.dim() == 0
    torch.testing.assert_close(loss.terms["distortion_score"], ssim(sr, hr).mean().float())
    torch.testing.assert_close(loss.terms["distortion_loss"], 1 - ssim(sr, hr).mean().float())
    if beta:
        torch.testing.assert_close(loss.terms["score"], Toy().score(sr, hr).mean().float())
        torch.testing.assert_close(loss.terms["perceptual_loss"], -loss.terms["score"])


def test_the_weight_multiplies_everything():
    sr, hr = pair()
    torch.testing.assert_close(gradient(make(loss_weight="3e0"), sr, hr), 3 * gradient(make(), sr, hr))


@pytest.mark.parametrize("distortion", ["l1", "charbonnier"])
def test_pixel_distortions(distortion):
    sr, hr = pair()
    loss = make(distortion=distortion, alpha=1, beta=0, loss_balance="none")
    torch.testing.assert_close(loss(sr, hr), (sr - hr).abs().mean(), atol=1e-6, rtol=0)
    assert float(loss.terms["distortion_score"]) == pytest.approx(-float((sr - hr).abs().mean()), abs=1e-6)
    assert make(distortion=distortion).optimises == ("toy", "psnr")


def test_ms_ssim_and_its_smallest_patch():
    import pytorch_msssim

    sr, hr = make_pair(1, 161, 168)
    loss = make(distortion="ms_ssim", alpha=1, beta=0, loss_balance="none")
    torch.testing.assert_close(loss(sr, hr), 1 - pytorch_msssim.ms_ssim(sr, hr, data_range=1.0))
    with pytest.raises(InputError, match="ms_ssim: got 160x168.*161.*gt_size"):
        loss(sr[:, :, :160], hr[:, :, :160])


def test_the_critic_sees_its_crops_and_the_distortion_the_whole_patch():
    sr, hr = make_pair(2, 48, 48)
    loss = SSIMPerceptualRatioLoss("haarpsi", crops={"size": 24, "position": "center"}, loss_balance="none")
    loss(sr, hr)
    torch.testing.assert_close(loss.terms["distortion_score"], ssim(sr, hr).mean())
    cut = (..., slice(12, 36), slice(12, 36))
    torch.testing.assert_close(loss.terms["score"], create_critic("haarpsi").score(sr[cut], hr[cut]).mean())


@pytest.mark.fault(40)
def test_random_crops_follow_the_iteration():
    sr, hr = make_pair(2, 48, 48)
    values = []
    for iteration in (7, 8, 7):
        loss = SSIMPerceptualRatioLoss("haarpsi", crops=24, loss_balance="none")
        loss.step(iteration)
        values.append(float(loss(sr, hr)))
    assert values[0] == values[2] != values[1]


def test_a_guard_cuts_the_share_of_the_critic_only():
    sr, hr = pair()
    for balance in USABLE:
        loss = make(loss_balance=balance)
        whole = gradient(loss, sr, hr)
        distortion = gradient(make(alpha=0.5, beta=0, loss_balance="none"), sr, hr)
        loss.limit_weight(1.0, 0.5)
        half = gradient(loss, sr, hr)
        torch.testing.assert_close(half, (whole + distortion) / 2)
        loss.limit_weight(0.0, 1.0)
        torch.testing.assert_close(gradient(loss, sr, hr), distortion)
        alone = make(alpha=0, beta=1, loss_balance=balance)
        alone.limit_weight(0.0, 1.0)
        assert gradient(alone, sr, hr).abs().max() == 0
    printed = make(alpha=0.7, beta=0.3, loss_balance="eq12")
    whole = gradient(printed, sr, hr)
    printed.limit_weight(1.0, 0.5)
    torch.testing.assert_close(gradient(printed, sr, hr), whole / 2)


def test_a_schedule_is_of_the_whole_loss():
    sr, hr = pair()
    loss = make(schedule={"start": 10, "ramp": 10})
    for iteration, factor in ((5, 0), (15, 0.5), (30, 1)):
        loss.step(iteration)
        torch.testing.assert_close(gradient(loss, sr, hr), factor * gradient(make(), sr, hr))


@pytest.mark.fault(36, 37, 38)
def test_the_host_sees_no_critic():
    loss = SSIMPerceptualRatioLoss("tiny_efficient_pban", weights=None)
    assert not list(loss.parameters()) and list(loss.state_dict()) == ["balancer._extra_state"]
    sr, hr = make_pair(2, 64, 64)
    twin = copy.deepcopy(loss)
    assert twin.critic is loss.critic and twin.label == "SSIMPerceptualRatioLoss(tiny_efficient_pban)"
    torch.testing.assert_close(gradient(twin, sr, hr), gradient(loss, sr, hr))
    loss.scores(sr, hr)
    torch.testing.assert_close(loss.scores(sr, hr), loss.critic.score(sr, hr))
