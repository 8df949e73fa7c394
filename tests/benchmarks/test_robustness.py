"""The trial of a critic on synthetic photographs: attacks, kept results, a control, gates."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair
from PIL import Image
from robustness import check_gates, ordered_pairs
from tiny_critics import tiny
from trials.measures import detail, measure
from trials.networks import HEADS, RLFN, SmallSR
from trials.training import Photographs, Plan, image_pairs, shrink
from trials.trial import Attack, Trial, enlarged, pixel_attack

from sr_perceptual_loss import CriticLoss
from sr_perceptual_loss.critics.haarpsi import HaarPSI


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("photographs")
    draw = torch.Generator().manual_seed(0)
    for number in range(3):
        coarse = torch.rand(1, 3, 20, 20, generator=draw)
        smooth = F.interpolate(coarse, size=(80, 80), mode="bicubic").clamp(0, 1)
        image = (smooth + 0.1 * torch.randn(smooth.shape, generator=draw)).clamp(0, 1)
        Image.fromarray((image[0] * 255).byte().permute(1, 2, 0).numpy()).save(place / f"p{number}.png")
    return place


def trial(folder, out, loss):
    plan = Plan(pixel_steps=2, steps=2, side=32, batch=2)
    return Trial("haarpsi", HaarPSI(), loss, 0.5, Photographs(folder), image_pairs(folder), plan, out, lambda _: None)


def test_crops_are_a_function_of_seed_and_step(folder):
    photographs = Photographs(folder)
    first = photographs.crops(0, 7, 3, 32)
    torch.testing.assert_close(first, photographs.crops(0, 7, 3, 32))
    assert not torch.equal(first, photographs.crops(0, 8, 3, 32))
    assert not torch.equal(first, photographs.crops(1, 7, 3, 32))
    with pytest.raises(SystemExit, match="no images"):
        Photographs(folder.parent)


def test_detail_is_an_amplitude():
    image = 0.5 + 0.1 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(detail(0.5 * image), 0.5 * detail(image))
    assert float(detail(torch.full((1, 3, 64, 64), 0.3))) == pytest.approx(0, abs=1e-6)


def test_measures_of_gt_itself(folder):
    pairs = image_pairs(folder)
    references = [(name, hr) for name, _, hr in pairs]
    found = measure(dict(references), references, HaarPSI())
    assert found["hf_ratio"] == 1
    assert found["haarpsi"] == pytest.approx(1, abs=1e-5)
    assert found["above_gt"] == found["dots"] == found["colour"] == 0
    blurred = measure({name: enlarged(shrink(hr)) for name, hr in references}, references)
    assert blurred["hf_ratio"] < 0.3


def test_dots_at_one_phase_are_measured(folder):
    references = [(name, hr) for name, _, hr in image_pairs(folder)]
    soft = {name: enlarged(shrink(hr)) for name, hr in references}
    dotted = {}
    for name, image in soft.items():
        cells = (image.shape[-2] // 4, image.shape[-1] // 4)
        signs = torch.randint(0, 2, cells, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        dotted[name] = image.clone()
        dotted[name][..., 1::4, 2::4] += 0.1 * signs
    found, clean = measure(dotted, references), measure(soft, references)
    assert found["lattice"] > 3 * clean["lattice"]
    assert found["dots"] > 0.9 > 0.3 > clean["dots"]


def test_rated_pairs_are_counted(folder, tmp_path):
    reference = next(folder.glob("*.png"))
    image = torch.from_numpy(np.array(Image.open(reference))).permute(2, 0, 1)[None].float() / 255
    rows = ["ref,dist,mos"]
    (tmp_path / "ref.png").write_bytes(reference.read_bytes())
    # The scores prefer more noise: no critic agrees, except in the pairs with the reference.
    for mos, noise in ((2.0, 0.05), (4.0, 0.2)):
        noisy = image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
        name = f"noise{noise}.png"
        Image.fromarray((noisy.clamp(0, 1)[0] * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / name)
        rows.append(f"ref.png,{name},{mos}")
    (tmp_path / "scores.csv").write_text("\n".join(rows) + "\n")
    assert ordered_pairs(HaarPSI(), tmp_path) == (2, 3)


def test_results_are_kept_and_repeat(folder, tmp_path):
    loss = CriticLoss("haarpsi")
    first = trial(folder, tmp_path, loss).head("shuffle")
    files = {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert trial(folder, tmp_path, loss).head("shuffle") == first
    assert files == {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = trial(folder, tmp_path / "other", loss).head("shuffle")
    assert again == pytest.approx(first, rel=1e-5)
    control = trial(folder, tmp_path, None).head("shuffle")
    assert control["psnr_y"] != first["psnr_y"]
    assert len(list((tmp_path / "pixel_stage").iterdir())) == 1


def test_attack_from_gt_cannot_pass_it(folder, tmp_path):
    found = trial(folder, tmp_path, CriticLoss("haarpsi")).attack(Attack("gt", 2, 0.002), side=64)
    assert found["before"]["score"] == pytest.approx(1, abs=1e-5)
    assert found["after"]["score"] <= 1
    assert found["after"]["above_gt"] == 0
    bicubic = trial(folder, tmp_path, CriticLoss("haarpsi")).attack(Attack("bicubic", 3, 0.004), side=64)
    assert bicubic["after"]["score"] > bicubic["before"]["score"]
    assert json.loads(next(tmp_path.glob("attack-*bicubic*.json")).read_text()) == bicubic


def measures(**changes):
    peaks = {f"peak_{period}": 1.0 for period in (2, 3, 4)}
    return {"psnr_y": 27.0, "hf_ratio": 0.8, "haarpsi": 0.75, **peaks, "dots": 0.01, "colour": 0.2, **changes}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, None),
        ({"hf_ratio": 0.5}, "high-frequency"),
        ({"hf_ratio": 1.2}, "high-frequency"),
        ({"psnr_y": 25.9}, "PSNR"),
        ({"peak_3": 2.1}, "period 3"),
        ({"dots": 0.06}, "dots"),
        ({"colour": 2.1}, "colour"),
    ],
)
def test_each_gate_fails_for_its_reason(change, failed):
    attack = {"before": measures(), "after": measures(haarpsi=0.8)}
    gates = check_gates("weight_free", attack, {"shuffle": (measures(), measures(**change))})
    names = [gate.name for gate in gates if not gate.passed]
    assert len(names) == (failed is not None)
    assert failed is None or failed in names[0]


def test_a_fallen_haarpsi_after_an_attack_fails_and_learned_critics_have_other_limits():
    attack = {"before": measures(), "after": measures(haarpsi=0.7)}
    heads = {"shuffle": (measures(), measures(hf_ratio=0.3, psnr_y=26.6))}
    failed = [gate.name for gate in check_gates("learned", attack, heads) if not gate.passed]
    assert failed == ["attack from bicubic: HaarPSI"]


def test_attack_raises_the_score_within_its_reach():
    critic = HaarPSI()
    sr, hr = make_pair(2, 32, 32)
    attacked = pixel_attack(critic, sr, hr, steps=5, rate=0.004)
    assert bool((critic.score(attacked, hr) > critic.score(sr, hr)).all())
    assert float((attacked - sr).abs().max()) <= 1.1 * 5 * 0.004
    assert not attacked.requires_grad
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1


def test_an_attack_gives_the_critic_no_gradient():
    critic = tiny("rqi_topiq")
    sr, hr = make_pair(1, 40, 40)
    pixel_attack(critic, sr, hr, steps=1, rate=0.01)
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_small_networks_start_as_bicubic_and_can_learn(head):
    torch.manual_seed(0)
    network = SmallSR(head)
    lr = torch.rand(2, 3, 12, 10)
    bicubic = F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False)
    out = network(lr)
    assert out.shape == (2, 3, 48, 40)
    assert float((out - bicubic).detach().abs().max()) < 0.02
    assert 50_000 < sum(p.numel() for p in network.parameters()) < 80_000
    (out - 0.5).square().mean().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.parameters() if p.dim() > 1)


def test_rlfn_enlarges_by_four():
    with torch.no_grad():
        assert RLFN(width=8, blocks=1)(torch.rand(1, 3, 24, 20)).shape == (1, 3, 96, 80)
