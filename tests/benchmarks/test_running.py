"""Cells, subjects, calibration, ratios and tables."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from speed.calibrating import calibrate, pictures
from speed.cases import Subject, build_subjects
from speed.memory import peak_in_subprocess, resident_peak
from speed.running import Plan, Row, cells
from speed.table import exponent_grid, markdown, memory_grid, ratios, time_grid
from sr_perceptual_loss.benchmarking import subjects as subjects_module
from torchvision.models.vgg import cfgs, make_layers

from sr_perceptual_loss import InputError, create_critic
from sr_perceptual_loss.critics.base import SizeRule


def row(name, form, side, batch, ms, kept=100, peak=None):
    return Row(name, form, side, batch, tuple(m / 1000 for m in ms), kept, 2 * kept, peak)


def test_cells_by_size_rule():
    def subject(name, rule, form="fast"):
        return Subject(name, form, rule, lambda hr: lambda sr: sr, ())

    made = [
        subject("any", SizeRule(minimum=64)),
        subject("fixed", SizeRule(fixed=224)),
        subject("rival", SizeRule(minimum=32), "rival"),
    ]
    found = [(side, batch, [s.name for s in fits]) for side, batch, fits in cells(made, Plan((48, 96), (1, 4)))]
    assert found == [
        (96, 1, ["any", "rival"]),
        (96, 4, ["any", "rival"]),
        (224, 1, ["fixed", "rival"]),
        (224, 4, ["fixed", "rival"]),
    ]
    found = [(side, [s.name for s in fits]) for side, _, fits in cells(made, Plan((224,), (1,)))]
    assert found == [(224, ["any", "fixed", "rival"])]
    assert [side for side, _, _ in cells(made[2:], Plan((48, 96), (1,)))] == [48, 96]


def test_subjects_share_one_critic_and_leave_the_random_state():
    before = torch.get_rng_state()
    made = {s.form: s for s in build_subjects(["rqi_topiq"], [], critic_size="tiny")}
    assert torch.equal(torch.get_rng_state(), before)
    assert list(made) == ["reference", "fast", "target", "bf16"]
    sr, hr = pictures(2, 64)
    scores = {form: s.bind(hr)(sr) for form, s in made.items()}
    torch.testing.assert_close(scores["fast"], scores["reference"], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores["target"], scores["fast"], rtol=0, atol=1e-6)
    assert not torch.equal(scores["bf16"], scores["fast"]) and scores["bf16"].dtype == torch.float32
    again = build_subjects(["rqi_topiq"], [], critic_size="tiny", forms=["reference"])
    assert torch.equal(again[0].bind(hr)(sr), scores["reference"])


def test_given_features_are_computed_outside_the_measured_call(monkeypatch):
    made = {s.form: s for s in build_subjects(["efficient_pban"], [], critic_size="tiny")}
    calls = []
    real = subjects_module.Critic.encode_target
    monkeypatch.setattr(subjects_module.Critic, "encode_target", lambda self, hr: calls.append(1) or real(self, hr))
    sr, hr = pictures(1, 64)
    forward = made["target"].bind(hr)
    assert len(calls) == 1
    forward(sr), forward(sr)
    assert len(calls) == 1
    made["fast"].bind(hr)(sr)
    assert len(calls) == 2


def test_calibration_gives_offsets_of_a_pixel_and_unit_activations():
    critic = create_critic("efficient_pban", weights=None, size="tiny")
    generator = critic.block2.br1.param_generators[1]
    assert not generator.weight.any()
    calibrate(critic, shift=1.0)
    seen = {}
    generator.register_forward_hook(lambda m, i, o: seen.update(offsets=float(o.std())))
    critic.stem[1].register_forward_hook(lambda m, i, o: seen.update(activations=float(o.var((0, 2, 3)).mean())))
    with torch.no_grad():
        critic.score(*pictures(1, 64))
    assert seen["offsets"] == pytest.approx(1.0, abs=1e-3)
    # The judged image came last, so the statistics are its own.
    assert seen["activations"] == pytest.approx(1.0, abs=0.2)
    assert not torch.equal(critic.stem[1].running_mean, torch.zeros(4))


def test_rivals_are_frozen_distances(monkeypatch):
    lpips = pytest.importorskip("lpips")
    pytest.importorskip("piq")
    # A whole VGG16 draws 120 million numbers for a classifier that LPIPS drops.
    trunk = SimpleNamespace(features=make_layers(cfgs["D"]))
    monkeypatch.setattr(lpips.pretrained_networks.tv, "vgg16", lambda pretrained: trunk)
    sr, hr = pictures(2, 32)
    for subject in build_subjects([], ["dists", "vgg19", "lpips_vgg"]):
        with torch.no_grad():
            apart, same = subject.bind(hr)(sr), subject.bind(hr)(hr)
        assert apart.shape == (2,) and (apart - same).abs().min() > 1e-6
        assert not any(tensor.requires_grad for tensor in subject.held)
        # 13 convolutions of a VGG16 and 16 of a VGG19 at full width.
        numbers = sum(t.numel() for t in subject.held)
        assert numbers > (20_000_000 if subject.name == "vgg19" else 14_000_000)


def test_a_missing_package_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"lpips cannot be imported .*\[eval\]"):
        build_subjects([], ["lpips_vgg"])


def test_nothing_to_measure():
    with pytest.raises(InputError, match="nothing to measure"):
        build_subjects([], [])
    with pytest.raises(InputError, match="sizes: got nothing"):
        Plan((), (1,))
    assert Plan(("64", 64), (2,)).sizes == (64,)


ROWS = [
    row("a", "reference", 64, 1, [100, 90, 400], kept=1000, peak=500),
    row("a", "fast", 64, 1, [25, 20, 30], kept=400, peak=300),
    row("lpips_vgg", "rival", 64, 1, [50, 50, 50]),
    row("a", "reference", 128, 1, [800, 800, 800], kept=4000),
    row("a", "fast", 128, 1, [100, 100, 100], kept=1600),
    row("a", "fast", 64, 4, [100, 100, 100]),
]


def test_ratios_are_of_medians_inside_one_cell():
    assert ratios(ROWS[1], ROWS) == pytest.approx(
        {"faster": 4.0, "lpips": 0.5, "kept": 0.4, "recorded": 0.4, "peak": 0.6}
    )
    assert ratios(ROWS[4], ROWS) == pytest.approx({"faster": 8.0, "kept": 0.4, "recorded": 0.4})
    assert ratios(ROWS[5], ROWS) == {}


def test_tables():
    _, heads, lines = time_grid(ROWS)
    found = {tuple(line[:3]): dict(zip(heads, line, strict=True)) for line in lines}
    assert found["64", "1", "a fast"]["x faster"] == "4.00" and found["64", "1", "a fast"]["of LPIPS"] == "0.50"
    assert found["64", "1", "a reference"]["ms"] == "100" and found["64", "1", "a reference"]["spread"] == "310 %"
    assert found["64", "4", "a fast"]["x faster"] == "-"
    assert memory_grid(ROWS)[2][1][-2:] == ["0", "0.60"]
    _, _, exponents = exponent_grid(ROWS)
    assert exponents == [
        ["a reference", "3.00", "64, 128", "-", "-"],
        ["a fast", "2.00", "64, 128", "1.00", "1, 4"],
    ]
    assert markdown(exponent_grid(ROWS)).splitlines()[2] == "| a reference | 3.00 | 64, 128 | - | - |"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_peak_sees_what_a_call_takes_and_gives_back():
    def takes(megabytes):
        return resident_peak(lambda: torch.ones(megabytes * 250_000).sum())

    small, large = takes(40), takes(120)
    if small is None:
        pytest.skip("this container forbids the reset of the high-water mark")
    # To within a few pages.
    assert 39e6 < small < 60e6 and 119e6 < large < 140e6


def test_peak_is_taken_in_a_fresh_process_on_one_thread(monkeypatch):
    asked = {}

    def run(command, **options):
        asked.update(command=command, environment=options["env"])
        return subprocess.CompletedProcess(command, answer[0], answer[1], answer[2])

    monkeypatch.setattr(subprocess, "run", run)
    answer = (0, "1234", "")
    assert peak_in_subprocess("efficient_pban", "fast", 64, 2, critic_size="tiny") == 1234
    assert asked["command"][1:3] == ["-m", "speed.memory"]
    assert json.loads(asked["command"][3]) == ["efficient_pban", "fast", 64, 2, "tiny"]
    assert asked["environment"]["OMP_NUM_THREADS"] == "1"
    answer = (0, "null", "")
    assert peak_in_subprocess("vgg19", "rival", 64, 2) is None
    answer = (1, "", "Traceback\n  some line\nMemoryError: too large\n")
    with pytest.raises(RuntimeError, match=r"peak memory of vgg19 \(rival\) at 64, batch 1: MemoryError: too large"):
        peak_in_subprocess("vgg19", "rival", 64, 1)


@pytest.mark.slow
def test_peak_of_a_critic_in_a_real_process():
    found = peak_in_subprocess("efficient_pban", "reference", 128, 1, critic_size="tiny")
    assert found is None or 0 < found < 200e6
