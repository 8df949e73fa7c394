"""Scores of a label set, the table made of them, the gravest disagreements and the report."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from pairs import make_pair
from torchvision.io import write_png

from sr_perceptual_loss.critics.haarpsi import HaarPSI
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote
from sr_perceptual_loss.lab.evaluation.agreement import judge
from sr_perceptual_loss.lab.evaluation.disagreements import worst_disagreements
from sr_perceptual_loss.lab.evaluation.protocol import PROTOCOLS, score_pair
from sr_perceptual_loss.lab.evaluation.report import report_html, write_report, write_result
from sr_perceptual_loss.lab.evaluation.scoring import ScoreFile, critic_digest, pairs_of, score_labels

pytest.importorskip("scipy", reason="scipy (extra eval) is not installed")

SIDE = 32


@pytest.fixture
def labels(tmp_path):
    """Three scenes with four noise levels; people like less noise, but in scene c they like it the other way round."""
    rated = []
    for number, scene in enumerate("abc"):
        _, hr = make_pair(1, SIDE, SIDE, seed=number)
        ref = tmp_path / f"{scene}.png"
        write_png((hr[0] * 255).byte(), str(ref))
        for level in range(4):
            noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(level))
            dist = tmp_path / f"{scene}_{level}.png"
            write_png(((hr[0] + 0.06 * (level + 1) * noise).clamp(0, 1) * 255).byte(), str(dist))
            score = 4.0 - level if scene != "c" else 1.0 + level
            rated.append(RatedImage(scene, dist, ref, score, "noise" if level < 2 else "<b>much & noise</b>"))
    return LabelSet("made", tuple(rated), score_range=(1, 4), notes=("Made <for> a test.",))


def scored(labels, **options):
    return score_labels(HaarPSI().eval(), labels, PROTOCOLS["full"], **options)


def test_scores_are_those_of_score_pair_and_each_image_is_scored_once(labels):
    from sr_perceptual_loss.lab.data.images import read_image

    seen = []
    scores = scored(labels, track=lambda left: seen.extend(left) or left)
    assert seen == pairs_of(labels) == sorted(seen, key=lambda p: (p[1], p[0]))
    assert len(seen) == len(set(seen)) == 12
    first = labels.rated[0]
    images = read_image(first.dist), read_image(first.ref)
    assert scores[first.dist, first.ref] == score_pair(HaarPSI(), *images, PROTOCOLS["full"], seed=0)


def test_missing_files_are_found_before_the_work(labels):
    labels.rated[5].dist.unlink()
    labels.rated[7].dist.unlink()
    started = []
    with pytest.raises(InputError, match=r"2 problem\(s\)(.|\n)*b_1.png: no such file(.|\n)*b_3.png"):
        scored(labels, track=lambda left: started.append(1) or left)
    assert not started


def test_an_image_that_cannot_be_scored_is_named(labels):
    write_png(torch.zeros(3, 8, 8, dtype=torch.uint8), str(labels.rated[2].dist))
    with pytest.raises(InputError, match=r"a_2.png and a.png differ in size"):
        scored(labels)


def test_score_file_goes_on_where_it_stopped(labels, tmp_path):
    path = tmp_path / "out" / "scores.csv"
    done = []

    def stop_after_five(left):
        for pair in left:
            if len(done) == 5:
                raise KeyboardInterrupt
            done.append(pair)
            yield pair

    with pytest.raises(KeyboardInterrupt):
        scored(labels, known=ScoreFile(path, {"a": 1}), track=stop_after_five)
    with path.open("a") as file:
        file.write("0123456789abcdef,/half/a/ro")  # the power went off while a row was written
    rest = []
    scores = scored(labels, known=ScoreFile(path, {"a": 1}), track=lambda left: rest.extend(left) or left)
    assert rest == pairs_of(labels)[5:]
    assert scores == scored(labels)
    again = []
    assert scored(labels, known=ScoreFile(path, {"a": 1}), track=lambda left: again.extend(left) or left) == scores
    assert again == []
    assert len(path.read_text().splitlines()) == 13
    other = []
    scored(labels, known=ScoreFile(path, {"a": 2}), track=lambda left: other.extend(left) or left)
    assert len(other) == 12


def test_score_file_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("dist,ref\na,b\n")
    with pytest.raises(InputError, match=r"no file of scores.*move it away"):
        ScoreFile(path, {})
    path.write_text("settings,dist,ref,score\nx,a,b\n")
    with pytest.raises(InputError, match=r"line 2.*delete the line"):
        ScoreFile(path, {})


def test_critic_digest_sees_weights_and_arguments():
    from sr_perceptual_loss.critics.efficient_pban.network import EfficientPBAN

    first = EfficientPBAN.tiny()
    digest = critic_digest(first)
    assert digest == critic_digest(first) != critic_digest(HaarPSI())
    with torch.no_grad():
        next(first.parameters()).view(-1)[0] += 1e-3
    assert critic_digest(first) != digest


def test_judge_rated(labels):
    result = judge(labels, scored(labels), bootstrap=0)
    rows = {row.name: row for row in result.rows}
    assert rows["srcc_mean"].value == pytest.approx(1 / 3)  # +1, +1, -1
    assert rows["srcc_mean"].count == 3
    assert rows["win_rate"].value == pytest.approx(2 / 3)
    assert rows["pairwise_accuracy"].value == pytest.approx(12 / 18)
    assert rows["srcc"].count == 12
    assert result.notes[0] == "Made <for> a test."


def test_judge_votes_and_their_parts(labels):
    def vote(scene, a, b, p):
        images = [r for r in labels.rated if r.scene == scene]
        return Vote(scene, images[a].dist, images[b].dist, images[0].ref, p)

    votes = (vote("a", 0, 3, 0.9), vote("a", 3, 1, 0.2), vote("b", 2, 0, 0.7))
    split = {"train": frozenset(v.a for v in votes[:2]), "test": frozenset({votes[2].a})}
    only = LabelSet("voted", (), votes, official_split=split)
    scores = scored(only)
    assert len(scores) == 5
    rows = {row.name: row.value for row in judge(only, scores, bootstrap=0).rows}
    assert rows["two_afc"] == pytest.approx((0.9 + 0.8 + 0.3) / 3)
    assert rows["two_afc_ceiling"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert (rows["two_afc_train"], rows["two_afc_test"]) == (pytest.approx(0.85), pytest.approx(0.3))
    (case,) = worst_disagreements(only, scores)
    assert (case.better.name, case.worse.name, case.size) == ("b_2.png", "b_0.png", pytest.approx(0.4))
    assert "70% of votes" in report_html(judge(only, scores, bootstrap=0), {"critic": "haarpsi"})


@pytest.mark.fault(74)
def test_judge_refuses_gaps(labels):
    scores = scored(labels)
    scores.popitem()
    with pytest.raises(InputError, match=r"c_3.png.*no score"):
        judge(labels, scores)
    with pytest.raises(InputError, match="nothing to judge"):
        judge(LabelSet("empty", ()), {})


def test_worst_disagreements(labels):
    """Scene c is reversed: its best against its worst contradicts most, then the two in the middle."""
    cases = worst_disagreements(labels, scored(labels))
    assert [(c.better.name, c.worse.name) for c in cases] == [("c_3.png", "c_0.png"), ("c_2.png", "c_1.png")]
    assert [c.size for c in cases] == [pytest.approx(1.0), pytest.approx(1 / 3)]
    assert cases[0].opinions == (4.0, 1.0)
    assert cases[0].ranks == (4.0, 1.0)
    assert cases[0].predictions[0] < cases[0].predictions[1]
    assert len(worst_disagreements(labels, scored(labels), count=1)) == 1
    assert worst_disagreements(labels.subset("ab"), scored(labels)) == []


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


def test_report_is_whole_escaped_and_loads_nothing(labels, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib (extra eval) is not installed")
    result = judge(labels, scored(labels), bootstrap=5)
    settings = {"critic": "<script>haarpsi</script>", "protocol": {"name": "full"}}
    write_report(tmp_path / "report.html", result, settings, warning="Random & meaningless")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "b", "iframe"} & set(page.tags)
    assert page.tags.count("img") == 2 + 3 * 2  # two plots, three pictures for each of two disagreements
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert not re.search(r"https?://|url\(", text)
    for part in ("<script>haarpsi</script> on made", "Made <for> a test.", "Random & meaningless", "win_rate"):
        assert part in page.text
    assert "people prefer c_3.png: opinion 4" in page.text
    assert "rank 4 in the scene" in page.text


def test_large_pictures_are_reduced_and_say_so(labels):
    pytest.importorskip("matplotlib", reason="matplotlib (extra eval) is not installed")
    scores = scored(labels)
    gravest = worst_disagreements(labels, scores, count=1)[0]
    for path in (gravest.ref, gravest.worse):
        write_png(torch.zeros(3, 40, 800, dtype=torch.uint8), str(path))
    text = Page(report_html(judge(labels, scores, bootstrap=0), {"critic": "x"}, worst=1)).text
    assert text.count("reduced from 800x40") == 2


@pytest.mark.fault(73)
def test_result_is_strict_json_and_undefined_numbers_are_null(labels, tmp_path):
    one = LabelSet("one", labels.rated[:4])
    result = judge(one, scored(one), bootstrap=0)
    write_result(tmp_path / "result.json", result, {"root": "x"})
    found = json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert found["numbers"]["srcc_mean"]["value"] == pytest.approx(1.0)
    assert found["numbers"]["plcc_fitted"]["value"] is None
    assert found["numbers"]["srcc"]["low"] is None
    assert found["settings"] == {"root": "x"}
    assert found["scene_srcc"] == {"a": pytest.approx(1.0)}


def test_sets_whose_scenes_do_not_compare(labels):
    apart = LabelSet("apart", labels.rated, comparable_across_scenes=False)
    result = judge(apart, scored(apart), bootstrap=0)
    assert {"srcc", "rmse", "plcc_fitted"}.isdisjoint(row.name for row in result.rows)
    assert all(math.isfinite(row.value) for row in result.rows)
    text = report_html(result, {"critic": "x"}, worst=0)
    assert "do not compare" in text
