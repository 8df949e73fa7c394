"""Accelerate on two (slow: four) processes: equal weights and logs, and a NaN of one process stops `srpl train`."""

from __future__ import annotations

import json

import pytest
import yaml
from lab.training.conftest import TINY, make_rated_set
from pairs import make_pair

from sr_perceptual_loss import CriticLoss

from .launching import RANKS, launch, written

pytest.importorskip("accelerate", reason="accelerate (extra train) is not installed")
pytest.importorskip("scipy", reason="scipy (extra train) is not installed")


@pytest.mark.fault(45)
@pytest.mark.parametrize("ranks", RANKS)
def test_accelerate(tmp_path, ranks):
    content = {
        "out": str(tmp_path / "run"),
        "critic": {"name": "rqi_maniqa", "config": TINY},
        "data": {"dataset": "table", "root": str(make_rated_set(tmp_path / "data"))},
        "epochs": 2,
        "batch": 4,
        "workers": 0,
        "device": "cpu",
        "log_every": 1,
    }
    (tmp_path / "train.yml").write_text(yaml.safe_dump(content))
    done = launch("accelerate_ranks.py", ranks, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = written(tmp_path, ranks)
    sr, hr = make_pair(8, 32, 32)
    expected = CriticLoss("haarpsi", reduction="none")(sr, hr).tolist()
    for rank in found:
        assert rank["weights"] == found[0]["weights"] and rank["scores"] == found[0]["scores"]
        assert rank["log"] == ["loss", "score"]
        assert rank["final"] == pytest.approx(expected, abs=1e-7)
    assert len(found[0]["scores"]) == 4 // ranks
    a_nan_of_one_process_stops_all(tmp_path / "run", found)


def a_nan_of_one_process_stops_all(out, found):
    last = len(found) - 1
    for rank, own in enumerate(found):
        assert own["error"].startswith("step 3: ") and f"because of process {last}" in own["error"]
        suspects = own["error"].partition("suspects on this process: ")[2]
        assert suspects.startswith("r" if rank == last else "none"), suspects
    assert sorted(path.name for path in out.glob("bad_batch_*")) == [
        f"bad_batch_step3_rank{rank}.safetensors" for rank in range(len(found))
    ]
    losses = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in losses] == [1, 2]
