"""The results as JSON."""

from __future__ import annotations

import json

import pytest

from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.evaluation.agreement import evaluate_scores
from sr_perceptual_loss.lab.evaluation.result import write_result


@pytest.mark.fault(73)
def test_result_is_strict_json_and_undefined_numbers_are_null(labels, score, tmp_path):
    one = LabelSet("one", labels.rated[:4])
    result = evaluate_scores(one, score(one), bootstrap=0)
    write_result(tmp_path / "result.json", {"haarpsi": result}, {"haarpsi": {"root": "x"}})
    found = json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert found["numbers"]["srcc_mean"]["value"] == pytest.approx(1.0)
    assert found["numbers"]["plcc_fitted"]["value"] is None
    assert found["numbers"]["srcc"]["low"] is None
    assert found["settings"] == {"root": "x"}
    assert found["srcc_per_reference"] == {"a": pytest.approx(1.0)}


def test_several_critics_with_their_differences(labels, score, tmp_path):
    results = {name: evaluate_scores(labels, score(labels), bootstrap=5) for name in "ab"}
    write_result(tmp_path / "result.json", results, {"a": {"seed": 0}, "b": {"seed": 1}})
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["critics"]["b"]["settings"] == {"seed": 1}
    assert found["critics"]["a"]["numbers"] == found["critics"]["b"]["numbers"]
    first = found["differences"][0]
    assert first == {"first": "a", "second": "b", "number": "srcc_mean", "value": 0, "low": 0, "high": 0,
                     "significant": False}  # fmt: skip
