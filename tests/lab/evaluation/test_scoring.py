"""Scores of a label set and the file from which an interrupted run continues."""

from __future__ import annotations

import pytest
import torch
from tiny_critics import tiny
from torchvision.transforms.functional import to_pil_image

from sr_perceptual_loss.critics.haarpsi import HaarPSI
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.evaluation import scoring
from sr_perceptual_loss.lab.evaluation.protocol import PROTOCOLS, score_pair
from sr_perceptual_loss.lab.evaluation.scoring import ScoreFile, critic_digest, pairs_of


def test_scores_are_those_of_score_pair_and_each_image_is_scored_once(labels, score):
    seen = []
    scores = score(labels, track=lambda left: seen.extend(left) or left)
    assert seen == pairs_of(labels) == sorted(seen, key=lambda p: (p[1], p[0]))
    assert len(seen) == len(set(seen)) == 12
    first = labels.rated[0]
    images = read_image(first.dist), read_image(first.ref)
    assert scores[first.dist, first.ref] == score_pair(HaarPSI(), *images, PROTOCOLS["full"], seed=0)


def test_missing_files_are_reported_before_the_work(labels, score):
    labels.rated[5].dist.unlink()
    labels.rated[7].dist.unlink()
    started = []
    with pytest.raises(InputError, match=r"2 problem(.|\n)*b_1.png(.|\n)*b_3.png"):
        score(labels, track=lambda left: started.append(1) or left)
    assert not started
    with pytest.raises(InputError, match="no images"):
        score(LabelSet("empty", ()))


@pytest.mark.fault(73)
def test_an_image_that_cannot_be_scored_is_named(labels, score, monkeypatch):
    to_pil_image(torch.zeros(3, 8, 8)).save(labels.rated[2].dist)
    with pytest.raises(InputError, match=r"a_2.png and a.png"):
        score(labels)
    labels.rated[2].dist.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"a_2.png"):
        score(labels)

    def nan(*args, **options):
        raise NonFiniteError("the score is nan")

    monkeypatch.setattr(scoring, "score_pair", nan)
    with pytest.raises(NonFiniteError, match=r"a_0.png.*nan"):
        score(labels)


def test_score_file_continues_where_it_stopped(labels, score, tmp_path):
    path = tmp_path / "out" / "scores.csv"
    done = []

    def stop_after_five(left):
        for pair in left:
            if len(done) == 5:
                raise KeyboardInterrupt
            done.append(pair)
            yield pair

    with pytest.raises(KeyboardInterrupt):
        score(labels, known=ScoreFile(path, {"a": 1}), track=stop_after_five)
    with path.open("a") as file:
        file.write("0123456789abcdef,/half/a/ro")  # the power failed while a row was written
    rest = []
    scores = score(labels, known=ScoreFile(path, {"a": 1}), track=lambda left: rest.extend(left) or left)
    assert rest == pairs_of(labels)[5:]
    assert scores == score(labels)
    again = []
    assert score(labels, known=ScoreFile(path, {"a": 1}), track=lambda left: again.extend(left) or left) == scores
    assert again == []
    assert len(path.read_text().splitlines()) == 13
    other = []
    score(labels, known=ScoreFile(path, {"a": 2}), track=lambda left: other.extend(left) or left)
    assert len(other) == 12


def test_score_file_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("dist,ref\na,b\n")
    with pytest.raises(InputError, match=r"scores.csv.*settings,dist,ref,score"):
        ScoreFile(path, {})
    path.write_text("settings,dist,ref,score\nx,a,b\n")
    with pytest.raises(InputError, match="line 2"):
        ScoreFile(path, {})


def test_critic_digest_depends_on_weights_and_arguments():
    first = tiny("efficient_pban")
    digest = critic_digest(first)
    assert digest == critic_digest(first) != critic_digest(HaarPSI())
    with torch.no_grad():
        next(first.parameters()).view(-1)[0] += 1e-3
    assert critic_digest(first) != digest
