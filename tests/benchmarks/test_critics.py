"""Cases, calibration, ratios and tables of benchmarks/critics.py."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import critics
import pytest
import torch
from critics import Part, Row, cell_table, exponent_table
from speed.cases import build_cases, calibrate, image_pair
from tiny_critics import tiny
from torchvision.models.vgg import cfgs, make_layers

from sr_perceptual_loss.critics.base import Critic


def row(name, form, side, batch, ms, kept=100, peak=None):
    return Row(name, form, side, batch, tuple(m / 1000 for m in ms), kept, 2 * kept, peak)


ROWS = [
    row("a", "reference", 64, 1, [100, 90, 400], kept=1000, peak=500_000_000),
    row("a", "fast", 64, 1, [25, 20, 30], kept=400, peak=300_000_000),
    row("lpips_vgg", "baseline", 64, 1, [50, 50, 50]),
    row("a", "reference", 128, 1, [800, 800, 800], kept=4000),
    row("a", "fast", 128, 1, [100, 100, 100], kept=1600),
    row("a", "fast", 64, 4, [100, 100, 100]),
]


def test_forms_share_one_critic_and_leave_the_random_state():
    before = torch.get_rng_state()
    cases = {case.form: case for case in build_cases([tiny("rqi_topiq")])}
    assert torch.equal(torch.get_rng_state(), before)
    assert list(cases) == ["reference", "fast", "target", "bf16"]
    sr, hr = image_pair(2, 64)
    scores = {form: case.bind(hr)(sr) for form, case in cases.items()}
    torch.testing.assert_close(scores["fast"], scores["reference"], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores["target"], scores["fast"], rtol=0, atol=1e-6)
    assert not torch.equal(scores["bf16"], scores["fast"]) and scores["bf16"].dtype == torch.float32
    assert [case.form for case in build_cases(["haarpsi"])] == ["fast"]


def test_given_features_are_computed_outside_the_measured_call(monkeypatch):
    cases = {case.form: case for case in build_cases([tiny("efficient_pban")])}
    calls = []
    real = Critic.encode_target
    monkeypatch.setattr(Critic, "encode_target", lambda self, hr: calls.append(1) or real(self, hr))
    sr, hr = image_pair(1, 64)
    forward = cases["target"].bind(hr)
    forward(sr), forward(sr)
    assert len(calls) == 1
    cases["fast"].bind(hr)(sr)
    assert len(calls) == 2


def test_calibration_gives_offsets_of_a_pixel_and_unit_activations():
    critic = tiny("efficient_pban")
    generator = critic.block2.br1.param_generators[1]
    calibrate(critic, shift=1.0)
    seen = {}
    generator.register_forward_hook(lambda m, i, o: seen.update(offsets=float(o.std())))
    critic.stem[1].register_forward_hook(lambda m, i, o: seen.update(activations=float(o.var((0, 2, 3)).mean())))
    with torch.no_grad():
        critic.score(*image_pair(1, 64))
    assert seen["offsets"] == pytest.approx(1.0, abs=1e-3)
    # The SR image came last, so the statistics are those of the SR image.
    assert seen["activations"] == pytest.approx(1.0, abs=0.2)


def test_baselines_are_frozen_distances(monkeypatch):
    lpips = pytest.importorskip("lpips")
    pytest.importorskip("piq")
    # A whole VGG16 draws 120 million numbers for a classifier that LPIPS drops.
    trunk = SimpleNamespace(features=make_layers(cfgs["D"]))
    monkeypatch.setattr(lpips.pretrained_networks.tv, "vgg16", lambda pretrained: trunk)
    sr, hr = image_pair(2, 32)
    for case in build_cases([], ["dists", "vgg19", "lpips_vgg"]):
        with torch.no_grad():
            apart, same = case.bind(hr)(sr), case.bind(hr)(hr)
        assert apart.shape == (2,) and (apart - same).abs().min() > 1e-6
        assert not any(tensor.requires_grad for tensor in case.weights)
        # 13 convolutions of a VGG16 and 16 of a VGG19 at full width.
        assert sum(t.numel() for t in case.weights) > (20_000_000 if case.name == "vgg19" else 14_000_000)


def test_a_cell_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(critics, "peak_in_process", lambda *case: asked.append(case) or 1)
    part = Part((), (), repeats=2)
    rows = critics.measure_cell(build_cases([tiny("rqi_topiq")], forms=["reference", "fast"]), 64, 2, part, "cpu")
    assert asked == [("tiny_rqi_topiq", "reference", 64, 2), ("tiny_rqi_topiq", "fast", 64, 2)]
    assert [(r.form, r.cell, len(r.seconds), r.peak) for r in rows] == [
        ("reference", (64, 2), 2, 1),
        ("fast", (64, 2), 2, 1),
    ]
    assert rows[1].kept < rows[0].kept and rows[1].cosine == pytest.approx(1, abs=1e-4)


def cells(table):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return lines[0], {tuple(line[:3]): line for line in lines[2:]}


def test_ratios_are_of_medians_inside_one_cell():
    heads, found = cells(cell_table(ROWS))
    fast = found["64", "1", "a fast"]
    assert fast[heads.index("x faster")] == "4.00" and fast[heads.index("of LPIPS")] == "0.50"
    assert fast[heads.index("of ref.")] == "0.40" and fast[heads.index("peak MB")] == "300"
    assert fast[heads.index("peak MB") + 1] == "0.60"
    reference = found["64", "1", "a reference"]
    assert reference[heads.index("ms")] == "100" and reference[heads.index("spread")] == "310 %"
    assert found["64", "4", "a fast"][heads.index("x faster")] == "-"


def test_exponents():
    lines = exponent_table(ROWS).splitlines()
    assert lines[2:] == ["| a reference | 3.00 | 64, 128 |", "| a fast | 2.00 | 64, 128 |"]


def test_peak_is_taken_in_a_fresh_process_on_one_thread(monkeypatch):
    asked = {}

    def run(command, **options):
        asked.update(command=command, environment=options["env"])
        return subprocess.CompletedProcess(command, *answer)

    monkeypatch.setattr(subprocess, "run", run)
    answer = (0, "1234", "")
    assert critics.peak_in_process("efficient_pban", "fast", 64, 2) == 1234
    assert json.loads(asked["command"][-1]) == ["efficient_pban", "fast", 64, 2]
    assert asked["environment"]["OMP_NUM_THREADS"] == "1"
    answer = (1, "", "Traceback\n  some line\nMemoryError: too large\n")
    with pytest.raises(RuntimeError, match=r"vgg19 \(baseline\) at 64, batch 1: MemoryError: too large"):
        critics.peak_in_process("vgg19", "baseline", 64, 1)


@pytest.mark.slow
def test_peak_of_a_critic_in_a_real_process():
    found = critics.peak_in_process("haarpsi", "fast", 128, 1)
    assert found is None or 0 < found < 200e6
