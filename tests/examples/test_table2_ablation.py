"""The ablation script, with one step per row on synthetic photographs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pairs import make_pair
from rich.console import Console

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import table2_ablation

    for name in ("PRETRAIN_STEPS", "CRITIC_STEPS", "STEPS"):
        monkeypatch.setattr(table2_ablation, name, 1)
    return table2_ablation


def test_every_balance_moves_the_network(ablation, tmp_path):
    images = list(make_pair(2, 256, 256)[1])
    network, critic = ablation.prepare(tmp_path, images, Console(quiet=True))
    start = ablation.measure(network, critic, images)
    assert set(start) == set(ablation.MEASURES) and all(math.isfinite(value) for value in start.values())
    rows = []
    for balance in ablation.BALANCES:
        tuned, note = ablation.fine_tune(network, critic, images, balance, (3, 7), 0)
        assert note == ""
        rows.append({"balance": balance, "beta": 3, "alpha": 7, "seed": 0, **ablation.measure(tuned, critic, images)})
        assert rows[-1]["psnr"] != start["psnr"]
    text = ablation.report({"balance": "start", **start}, rows, "two images", 0.5)
    assert all(f"| {balance} | 3/7 | 0 |" in text for balance in ablation.BALANCES)
    # Prepared parts are kept.
    again, _ = ablation.prepare(tmp_path, images, Console(quiet=True))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_the_formula_is_highest_for_equal_images(ablation):
    sr, hr = make_pair(2, 80, 80)
    assert (ablation.pseudo_mos(hr, hr) > ablation.pseudo_mos(sr, hr)).all()
    torch.testing.assert_close(ablation.pseudo_mos(hr, hr), torch.full((2,), 5.0))
