"""Which pairs are drawn, and with which label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote
from sr_perceptual_loss.lab.data.scale import ScoreScale
from sr_perceptual_loss.lab.training.pairs import OpinionDraws, ScenePairDraws, VoteDraws


def label_set(scenes=3, kinds=("a", "b"), levels=3, **more):
    rated = tuple(
        RatedImage(f"s{s}", Path(f"s{s}_{k}_{n}"), Path(f"s{s}"), float(10 * s + n + 5 * (k == "b")), k)
        for s in range(scenes)
        for k in kinds
        for n in range(levels)
    )
    return LabelSet(name="test", rated=rated, score_range=(0, 30), **more)


SCALE = ScoreScale(0.0, 20.0)


def draws(**options):
    return ScenePairDraws(label_set(), SCALE, seed=1, **options)


def test_pairs_are_of_one_scene_and_labels_are_differences_of_scaled_scores():
    scores = {r.dist: r.score for r in label_set().rated}
    found = [draws().draw(0, i) for i in range(200)]
    for pair in found:
        assert pair.judged != pair.reference and pair.judged.name[:2] == pair.reference.name[:2]
        assert pair.label == pytest.approx((scores[pair.judged] - scores[pair.reference]) / 20)
    assert any(p.judged.name[3] != p.reference.name[3] for p in found)


def test_every_ordered_pair_of_a_scene_is_equally_likely():
    count = Counter((p.judged, p.reference) for p in (draws().draw(0, i) for i in range(9000)))
    assert len(count) == 3 * 6 * 5
    assert all(50 <= n <= 160 for n in count.values()), count.most_common()[-3:]


def test_same_distortion_pairs():
    found = [draws(same_distortion=True).draw(0, i) for i in range(200)]
    assert all(p.judged.name[3] == p.reference.name[3] for p in found)
    assert {p.judged.name[3] for p in found} == {"a", "b"}


def test_the_pristine_picture_joins_its_scene_with_its_score():
    found = [p for p in (draws(pristine=1.0).draw(0, i) for i in range(300)) if p.judged.name in ("s0", "s1", "s2")]
    assert found and all(p.label > 0 for p in found if p.reference.name.startswith("s0"))
    assert not any(p.judged.name in ("s0", "s1", "s2") for p in (draws().draw(0, i) for i in range(300)))


def test_share_of_pairs_with_the_pristine_picture():
    found = [draws(pristine=1.0, pristine_share=0.4).draw(0, i) for i in range(2000)]
    scores = {r.dist: r.score / 20 for r in label_set().rated} | {Path(f"s{s}"): 1.0 for s in range(3)}
    assert all(p.label == pytest.approx(scores[p.judged] - scores[p.reference]) for p in found)
    as_reference = sum(len(p.reference.name) == 2 for p in found)
    as_judged = sum(len(p.judged.name) == 2 for p in found)
    assert 340 < as_reference < 460 and 340 < as_judged < 460
    with pytest.raises(InputError, match=r"needs pairs\.pristine"):
        draws(pristine_share=0.4)


def test_a_draw_is_a_function_of_seed_epoch_and_index():
    one, other = draws(), draws()
    assert [one.draw(2, i) for i in range(20)] == [other.draw(2, i) for i in reversed(range(20))][::-1]
    assert [one.draw(2, i) for i in range(20)] != [one.draw(3, i) for i in range(20)]
    assert [one.draw(2, i) for i in range(20)] != [
        ScenePairDraws(label_set(), SCALE, seed=2).draw(2, i) for i in range(20)
    ]


def test_length_is_one_per_image_or_as_asked():
    assert len(draws()) == 18 and len(draws(per_epoch=500)) == 500


def test_no_pairs_is_an_error():
    with pytest.raises(InputError, match="no scene has two images"):
        ScenePairDraws(label_set(kinds=("a",), levels=1), SCALE, seed=0)
    with pytest.raises(InputError, match="of one distortion type"):
        ScenePairDraws(label_set(levels=1), SCALE, seed=0, same_distortion=True)
    with pytest.raises(InputError, match="per scene"):
        ScenePairDraws(label_set(comparable_across_scenes=False), SCALE, seed=0, pristine=1.0)


def test_opinions_come_once_per_epoch_in_another_order_each_time():
    labels = label_set()
    opinions = OpinionDraws(labels, None, seed=0)
    first, second = ([opinions.draw(e, i) for i in range(18)] for e in (0, 1))
    assert {p.judged for p in first} == {r.dist for r in labels.rated} and first != second
    assert {p.judged: p.label for p in second} == {r.dist: r.score for r in labels.rated}
    scaled = OpinionDraws(labels, SCALE, seed=0)
    assert scaled.draw(0, 4).label == pytest.approx(opinions.draw(0, 4).label / 20)


def test_votes_come_in_both_orders_with_opposite_labels():
    votes = tuple(Vote("s", Path("a"), Path(f"b{i}"), Path("r"), 0.75) for i in range(40))
    found = [VoteDraws(LabelSet("v", (), votes), seed=0).draw(0, i) for i in range(40)]
    assert {p.label for p in found} == {0.5, -0.5}
    assert all((p.judged.name == "a") == (p.label > 0) for p in found)
    assert len({p.judged.name + p.reference.name for p in found}) == 40


def test_opinion_scheme_needs_scores():
    votes = (Vote("s", Path("a"), Path("b"), Path("r"), 0.75),)
    with pytest.raises(InputError, match="scheme: rqi"):
        OpinionDraws(LabelSet("v", (), votes), None, seed=0)
