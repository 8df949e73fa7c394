"""Which pairs are drawn, and with which label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote
from sr_perceptual_loss.lab.data.scale import ScoreScale
from sr_perceptual_loss.lab.training.config import PairsConfig
from sr_perceptual_loss.lab.training.pairs import ContentPairs, opinion_pairs, vote_pairs


def label_set(contents=3, kinds=("a", "b"), levels=3, **more):
    rated = tuple(
        RatedImage(f"s{s}", Path(f"s{s}_{k}_{n}"), Path(f"s{s}"), float(10 * s + n + 5 * (k == "b")), k)
        for s in range(contents)
        for k in kinds
        for n in range(levels)
    )
    return LabelSet(name="test", rated=rated, score_range=(0, 30), **more)


SCALE = ScoreScale(0.0, 20.0)
REFERENCES = ("s0", "s1", "s2")


def draw(count, *, epoch=0, seed=1, labels=None, **options):
    pairs = ContentPairs(labels or label_set(), SCALE, seed=seed, options=PairsConfig(**options))
    return [pairs.pair(epoch, i) for i in range(count)]


def test_pairs_are_of_one_content_and_labels_are_differences_of_scaled_scores():
    scores = {r.dist: r.score for r in label_set().rated}
    pairs = draw(200)
    for pair in pairs:
        assert pair.image != pair.reference and pair.image.name[:2] == pair.reference.name[:2]
        assert pair.label == pytest.approx((scores[pair.image] - scores[pair.reference]) / 20)
    assert any(p.image.name[3] != p.reference.name[3] for p in pairs)
    assert not any(p.image.name in REFERENCES for p in pairs)


def test_every_ordered_pair_of_a_content_is_equally_likely():
    count = Counter((p.image, p.reference) for p in draw(9000))
    assert len(count) == 3 * 6 * 5
    assert all(50 <= n <= 160 for n in count.values()), count.most_common()[-3:]


def test_same_distortion_pairs():
    pairs = draw(200, same_distortion=True)
    assert all(p.image.name[3] == p.reference.name[3] for p in pairs)
    assert {p.image.name[3] for p in pairs} == {"a", "b"}


def test_the_reference_joins_its_content_with_its_score():
    pairs = [p for p in draw(300, pristine=1.0) if p.image.name in REFERENCES]
    assert pairs and all(p.label > 0 for p in pairs if p.reference.name.startswith("s0"))


def test_share_of_pairs_with_the_reference():
    pairs = draw(2000, pristine=1.0, pristine_share=0.4)
    scores = {r.dist: r.score / 20 for r in label_set().rated} | {Path(name): 1.0 for name in REFERENCES}
    assert all(p.label == pytest.approx(scores[p.image] - scores[p.reference]) for p in pairs)
    second, first = sum(p.reference.name in REFERENCES for p in pairs), sum(p.image.name in REFERENCES for p in pairs)
    assert 340 < second < 460 and 340 < first < 460
    with pytest.raises(InputError, match=r"pairs\.pristine"):
        draw(1, pristine_share=0.4)


def test_a_pair_is_a_function_of_seed_epoch_and_index():
    pairs = ContentPairs(label_set(), SCALE, seed=1, options=PairsConfig())
    assert draw(20, epoch=2) == [pairs.pair(2, i) for i in reversed(range(20))][::-1]
    assert draw(20, epoch=2) != draw(20, epoch=3)
    assert draw(20, epoch=2) != draw(20, epoch=2, seed=2)


def test_length_is_one_per_image_or_as_asked():
    for options, length in ((PairsConfig(), 18), (PairsConfig(per_epoch=500), 500)):
        assert len(ContentPairs(label_set(), SCALE, seed=1, options=options)) == length


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (label_set(kinds=("a",), levels=1), {}, "two images"),
        (label_set(levels=1), {"same_distortion": True}, "one distortion type"),
        (label_set(comparable_across_contents=False), {"pristine": 1.0}, r"pairs\.pristine"),
    ],
)
def test_labels_without_pairs(labels, options, words):
    with pytest.raises(InputError, match=words):
        draw(1, labels=labels, **options)


def test_opinions_come_once_per_epoch_in_another_order_each_time():
    labels = label_set()
    opinions = opinion_pairs(labels, None, seed=0)
    first, second = ([opinions.pair(e, i) for i in range(18)] for e in (0, 1))
    assert len(opinions) == 18
    assert {p.image for p in first} == {r.dist for r in labels.rated} and first != second
    assert {p.image: p.label for p in second} == {r.dist: r.score for r in labels.rated}
    scaled = opinion_pairs(labels, SCALE, seed=0)
    assert scaled.pair(0, 4).label == pytest.approx(opinions.pair(0, 4).label / 20)


def test_votes_come_in_both_orders_with_opposite_labels():
    votes = tuple(Vote("s", Path("a"), Path(f"b{i}"), Path("r"), 0.75) for i in range(40))
    labels = LabelSet("v", (), votes)
    pairs = [vote_pairs(labels, seed=0, per_epoch=80).pair(0, i) for i in range(40)]
    assert {p.label for p in pairs} == {0.5, -0.5}
    assert all((p.image.name == "a") == (p.label > 0) for p in pairs)
    assert len({p.image.name + p.reference.name for p in pairs}) == 40
    with pytest.raises(InputError, match="scheme: rqi"):
        opinion_pairs(labels, None, seed=0)
