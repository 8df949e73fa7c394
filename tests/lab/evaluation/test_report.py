"""The results as JSON and as a page."""

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
from sr_perceptual_loss.lab.evaluation.report import write_report, write_result


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def report(tmp_path):
    """``report(evaluation, settings, **options)``: the page."""

    def written(result, settings, **options):
        write_report(tmp_path / "report.html", result, settings, **options)
        return (tmp_path / "report.html").read_text()

    return written


def test_report_is_whole_escaped_and_loads_nothing(labels, score, report):
    result = evaluate_scores(labels, score(labels), bootstrap=5)
    settings = {"critic": "<script>haarpsi</script>", "protocol": {"name": "full"}}
    text = report(result, settings, warning="Random & meaningless")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "b", "iframe"} & set(page.tags)
    assert page.tags.count("img") == 2 + 3 * 2  # two plots, three images for each of two disagreements
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert not re.search(r"https?://|url\(", text)
    for part in ("<script>haarpsi</script> on made", "Made <for> a test.", "Random & meaningless", '{"name": "full"}'):
        assert part in page.text
    for row in result.rows:
        assert row.name in page.text and f"{row.value:.4f}" in page.text and f"[{row.low:.4f}, " in page.text
    assert "people prefer c_3.png: opinion 4" in page.text
    assert "rank 4" in page.text


def test_large_and_damaged_images(labels, score, report):
    scores = score(labels)
    result = evaluate_scores(labels, scores, bootstrap=0)
    largest = largest_disagreements(labels, scores, count=1)[0]
    for path in (largest.ref, largest.worse):
        to_pil_image(torch.zeros(3, 40, 800)).save(path)
    text = Page(report(result, {"critic": "x"}, worst=1)).text
    assert text.count("reduced from 800x40") == 2
    largest.better.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"c_3.png"):
        report(result, {"critic": "x"}, worst=1)


def test_votes_and_references_that_cannot_be_compared(labels, score, report):
    first, second = labels.rated[:2]
    voted = LabelSet("voted", (), (Vote("a", first.dist, second.dist, first.ref, 0.3),))
    assert "70% of votes" in Page(report(evaluate_scores(voted, score(voted)), {})).text
    apart = LabelSet("apart", labels.rated, comparable_across_contents=False)
    assert "cannot be compared" in report(evaluate_scores(apart, score(apart), bootstrap=0), {}, worst=0)


@pytest.mark.fault(73)
def test_result_is_strict_json_and_undefined_numbers_are_null(labels, score, tmp_path):
    one = LabelSet("one", labels.rated[:4])
    result = evaluate_scores(one, score(one), bootstrap=0)
    write_result(tmp_path / "result.json", result, {"root": "x"})
    found = json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert found["numbers"]["srcc_mean"]["value"] == pytest.approx(1.0)
    assert found["numbers"]["plcc_fitted"]["value"] is None
    assert found["numbers"]["srcc"]["low"] is None
    assert found["settings"] == {"root": "x"}
    assert found["srcc_per_reference"] == {"a": pytest.approx(1.0)}
