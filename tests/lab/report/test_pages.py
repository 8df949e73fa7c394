"""The HTML of both reports, without a browser; what a run's folder may hold."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.evaluation.agreement import evaluate_scores
from sr_perceptual_loss.lab.evaluation.disagreements import largest_disagreements
from sr_perceptual_loss.lab.report.evaluation_page import write_evaluation_report
from sr_perceptual_loss.lab.report.run import read_run
from sr_perceptual_loss.lab.report.run_page import write_run_report


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text, self.charts, self.open = [], [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("img", "br", "meta", "input", "link"):
            self.open.append(tag if ("type", "application/json") not in attrs else "chart")
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() in (tag, "chart")

    def handle_data(self, data):
        if self.open[-1:] == ["chart"]:
            self.charts.append(json.loads(data))
        elif self.open[-1:] not in (["script"], ["style"]):
            self.text += " ".join(data.split()) + " "


@pytest.fixture
def report(tmp_path):
    """``report(evaluation, settings, **options)``: the page about one critic."""

    def written(result, settings, **options):
        name = settings.get("critic", "x")
        write_evaluation_report(tmp_path / "report.html", {name: result}, {name: settings}, **options)
        return Page((tmp_path / "report.html").read_text())

    return written


def test_evaluation_is_whole_escaped_and_loads_nothing(labels, score, report, tmp_path):
    result = evaluate_scores(labels, score(labels), bootstrap=5)
    settings = {"critic": "<script>haarpsi</script>", "protocol": {"name": "full"}}
    page = report(result, settings, warning="Random & meaningless")
    assert page.open == [] and not {"b", "iframe"} & set(page.tags)
    assert page.tags.count("img") == 5 * 2  # reference, two versions and two differences of two disagreements
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://|url\(", (tmp_path / "report.html").read_text())
    for part in ("<script>haarpsi</script> on made", "Made <for> a test.", "Random & meaningless", '{"name": "full"}'):
        assert part in page.text
    for row in result.rows:
        assert row.name in page.text and f"{row.value:.4f}" in page.text and f"[{row.low:.4f}, " in page.text
    assert "people prefer c_3.png: opinion 4" in page.text and "rank 4" in page.text
    scatter, boxes = page.charts
    assert [trace["name"] for trace in scatter["data"]] == ["<b>much & noise</b>", "noise", "logistic fit"]
    assert sorted(scatter["data"][1]["y"]) == sorted(r.score for r in labels.rated if r.distortion == "noise")
    assert boxes["data"][0]["x"] == list(result.content_srcc.values())


def test_large_and_damaged_images(labels, score, report):
    scores = score(labels)
    result = evaluate_scores(labels, scores, bootstrap=0)
    largest = largest_disagreements(labels, scores, count=1)[0]
    for path in (largest.ref, largest.worse):
        to_pil_image(torch.zeros(3, 40, 800)).save(path)
    page = report(result, {"critic": "x"}, worst=1)
    assert page.text.count("reduced from 800x40") == 1 and page.tags.count("img") == 4  # no difference of two sizes
    largest.better.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"c_3.png"):
        report(result, {"critic": "x"}, worst=1)


def test_votes_and_references_that_cannot_be_compared(labels, score, report):
    first, second = labels.rated[:2]
    voted = LabelSet("voted", (), (Vote("a", first.dist, second.dist, first.ref, 0.3),))
    assert "70% of votes" in report(evaluate_scores(voted, score(voted)), {}).text
    apart = LabelSet("apart", labels.rated, comparable_across_contents=False)
    assert "cannot be compared" in report(evaluate_scores(apart, score(apart), bootstrap=0), {}, worst=0).text


def test_a_run_in_progress_with_an_alarm(run_folder, tmp_path):
    folder = run_folder()
    write_run_report(tmp_path / "run.html", [read_run(folder)])
    page = Page((tmp_path / "run.html").read_text())
    assert page.open == [] and page.tags.count("img") == 5
    for part in ("run <b> & 1", "in progress or interrupted: iteration 60 of 80", "Continued from iteration 50",
                 "iteration 60: <i>odd</i>", "c, official, 0123", "name: run scale: 4", "before, iteration 20",
                 "now, iteration 60"):  # fmt: skip
        assert part in page.text, part
    psnr = next(c for c in page.charts if c["data"][0]["y"][0] == 20.1)
    assert psnr["data"][0]["x"] == list(range(1, 51))  # what came after the state is gone
    assert [shape["x0"] for shape in psnr["layout"]["shapes"]] == [60]
    single, mean = next(c for c in page.charts if len(c["data"]) == 2)["data"]
    assert single["y"][-1] is None and mean["y"][0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_several_runs_share_their_charts(run_folder, tmp_path):
    runs = [read_run(run_folder(name)) for name in ("first", "second")]
    write_run_report(tmp_path / "run.html", runs)
    page = Page((tmp_path / "run.html").read_text())
    assert "first and second" in page.text
    assert [[t["name"] for t in c["data"]] for c in page.charts] == [
        ["first", "second"], ["first", "first mean", "second", "second mean"]
    ]  # fmt: skip


def test_runs_without_a_record_are_refused_and_empty_ones_are_not(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('7\n\n{"start": 0, "total": 5}\n')
    run = read_run(tmp_path)
    assert (run.skipped, run.state, run.curves, run.images) == (
        1,
        "in progress or interrupted: iteration 0 of 5",
        {},
        {},
    )
