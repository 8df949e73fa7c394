"""``srpl evaluate``: how well a critic agrees with people on a human-scored set of images."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_perceptual_loss.cli.device import Device, check_device
from sr_perceptual_loss.cli.terminal import log, print_table, track
from sr_perceptual_loss.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sr_perceptual_loss.critics.base import Critic
    from sr_perceptual_loss.lab.data.labels import LabelSet
    from sr_perceptual_loss.lab.evaluation.agreement import Evaluation, Row
    from sr_perceptual_loss.lab.evaluation.comparison import Difference
    from sr_perceptual_loss.lab.evaluation.protocol import Protocol
    from sr_perceptual_loss.lab.evaluation.scoring import Pair

__all__ = ["evaluate"]

RANDOM = "random"


def evaluate(
    critics: Annotated[
        list[str], typer.Argument(help="Critic, one of `srpl list`; several are compared.", metavar="CRITIC...")
    ],
    data: Annotated[str, typer.Option(help="Data set, such as kadid10k; table for your own CSV.", metavar="NAME")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    labels: Annotated[Path | None, typer.Option(help="A label file other than the one under the root.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="local (the default; never downloads), a tag, a path, or random (trials); once, or once per critic."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="all, a published part, or train / val by reference content.")] = "all",
    train_share: Annotated[
        float | None, typer.Option(help="Share of train, by default 0.8; published parts are not used then.")
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Of the split by reference content and of --limit.")] = 0,
    protocol: Annotated[
        str | None,
        typer.Option(help="paper (default with crops), released, single_scale, centre, full (whole images)."),
    ] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of the crops for a critic of free size.")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of images (votes), content by content.", min=1)] = None,
    device: Device = "cpu",
    crops_at_once: Annotated[int, typer.Option(help="Batch size; limits the memory.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.csv, result.json and report.html.")] = None,
    seed: Annotated[int, typer.Option(help="Of the crop positions, the bootstrap and random weights.")] = 0,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals; 0 for none.")] = 1000,
    worst: Annotated[int, typer.Option(help="Largest disagreements that the report shows as images.")] = 8,
) -> None:
    """Compare critics' scores with human opinions; prints name, value, low, high, count, meaning.

    On a terminal that is a table, else tabs separate the columns. Intervals are 95 % bootstrap intervals over reference
    contents. With several critics, the first column names the critic, and lines follow for the difference of each two
    of them, from the same resamples. With --out, an interrupted run continues. Without --crop-size, the default
    protocol of a critic of free size is full.
    """
    from sr_perceptual_loss import __version__
    from sr_perceptual_loss.lab.data.registry import read_labels
    from sr_perceptual_loss.lab.evaluation.agreement import evaluate_scores
    from sr_perceptual_loss.lab.evaluation.comparison import differences
    from sr_perceptual_loss.lab.evaluation.file_lock import file_lock
    from sr_perceptual_loss.lab.evaluation.result import write_result
    from sr_perceptual_loss.lab.evaluation.scoring import ScoreFile, critic_digest, score_labels

    if out:  # fails before hours of scoring
        importlib.import_module("plotly")
        report = importlib.import_module("sr_perceptual_loss.lab.report.evaluation_page")
    check_device(device)
    # Wrong names and missing weights are reported before the labels are read.
    chosen = [(name, critic, tag, _critic(critic, tag, device, seed)) for name, critic, tag in _named(critics, weights)]
    label_set = _part(read_labels(data, root, labels=labels), split, train_share, split_seed)
    label_set = _limited(label_set, limit, split_seed)
    for note in label_set.notes:
        log(f"{label_set.name}: {note}")
    common: dict[str, object] = {"data": data, "root": str(root), "labels": str(labels or "of the root")}
    common |= {"split": split, "train_share": train_share, "split_seed": split_seed, "limit": limit}
    common |= {"device": device, "bootstrap": bootstrap, "version": __version__}
    results: dict[str, Evaluation] = {}
    settings: dict[str, dict[str, object]] = {}
    for name, critic, tag, network in chosen:
        rule = _protocol(network, protocol, crop_size)
        # What a score depends on; the other settings concern only the use of the scores.
        own: dict[str, object] = {"critic": critic, "weights_digest": critic_digest(network)}
        own |= {"protocol": rule.as_dict(), "crop_size": crop_size, "seed": seed}
        crops: Any = {"seed": seed, "crop_size": crop_size, "crops_at_once": crops_at_once}
        with file_lock(out / "scores.csv" if out else None):
            known = ScoreFile(out / "scores.csv", own) if out else None
            scores = score_labels(network, label_set, rule, **crops, device=device, known=known, track=_track)
        results[name] = evaluate_scores(label_set, scores, bootstrap=bootstrap, seed=seed)
        used = tag if network.card.needs_weights else "none needed (a formula)"
        scales = _by_scales(network, rule, list(scores), crop_size)
        settings[name] = {**own, "weights": used, **common, "images_by_scales": scales}
    random = [name for name, _, tag, network in chosen if network.card.needs_weights and tag == RANDOM]
    warning = f"The weights are random ({', '.join(random)}): such numbers say nothing about a critic." * bool(random)
    _print(results, differences(results), warning)
    if not out:
        return
    write_result(out / "result.json", results, settings)
    report.write_evaluation_report(out / "report.html", results, settings, worst=worst, warning=warning)
    log(f"wrote {out / 'scores.csv'}, {out / 'result.json'} and {out / 'report.html'}")


def _named(critics: Sequence[str], weights: Sequence[str] | None) -> list[tuple[str, str, str]]:
    """(name for the tables, critic, its weights) of each."""
    tags = list(weights or ["local"])
    tags *= len(critics) if len(tags) == 1 else 1
    if len(tags) != len(critics):
        raise InputError(f"--weights: got {len(tags)} for {len(critics)} critics; give it once, or once per critic.")
    pairs = list(zip(critics, tags, strict=True))
    if twice := [f"{critic} ({tag})" for critic, tag in pairs if pairs.count((critic, tag)) > 1]:
        raise InputError(f"{twice[0]}: named twice; give different critics or --weights.")
    return [(f"{critic} ({tag})" if critics.count(critic) > 1 else critic, critic, tag) for critic, tag in pairs]


def _critic(name: str, weights: str, device: str, seed: int) -> Critic:
    """The network in eval mode; random weights come from the seed, the global random state does not change."""
    import torch

    from sr_perceptual_loss.critics import create_critic

    if weights != RANDOM:
        return create_critic(name, weights=weights, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_critic(name, weights=None, device=device)


def _protocol(critic: Critic, name: str | None, crop_size: int | None) -> Protocol:
    """The requested protocol, or the default, which is logged."""
    from sr_perceptual_loss.lab.evaluation.protocol import get_protocol

    if name is None:
        name = "full" if critic.input_size.fixed is None and crop_size is None else "paper"
        log(f"protocol: {name} ({get_protocol(name).source})")
    return get_protocol(name)


def _part(labels: LabelSet, split: str, train_share: float | None, seed: int) -> LabelSet:
    """The requested part of the set; logs which kind of split it is."""
    from sr_perceptual_loss.lab.data.labels import split_contents

    if split == "all":
        return labels
    if split in labels.official_split and train_share is None:
        log(f"split: {split}, as {labels.name} publishes it")
        return labels.part(split)
    if split not in ("train", "val"):
        official = ", ".join(labels.official_split) or "none"
        raise InputError(f"--split: got '{split}', expected all, train, val or a published part ({official}).")
    share = 0.8 if train_share is None else train_share
    train, val = split_contents(labels.contents, train=share, seed=seed)
    log(f"split: {split} of {len(train)} + {len(val)} reference contents (share {share:g}, seed {seed})")
    return labels.subset(train if split == "train" else val)


def _limited(labels: LabelSet, limit: int | None, seed: int) -> LabelSet:
    """The first images (votes), with the contents in a seeded order, so that most contents are complete."""
    from dataclasses import replace

    import numpy as np

    if limit is None:
        return labels
    names = labels.contents
    place = dict(zip(names, np.random.default_rng(seed).permutation(len(names)), strict=True))
    rated = sorted(labels.rated, key=lambda image: place[image.content])[:limit]
    votes = sorted(labels.votes, key=lambda vote: place[vote.content])[:limit]
    note = f"Limited to {len(rated)} of {len(labels.rated)} images and {len(votes)} of {len(labels.votes)} votes."
    return replace(labels, rated=tuple(rated), votes=tuple(votes), notes=(*labels.notes, note))


def _track(pairs: list[Pair]) -> Iterable[Pair]:
    log(f"{len(pairs)} image(s) to score")
    return track(pairs, "scoring")


def _by_scales(critic: Critic, protocol: Protocol, pairs: list[Pair], crop_size: int | None) -> dict[str, int]:
    """How many images were scored at which scales: one not larger than the crop is scored at a single scale."""
    from collections import Counter

    from sr_perceptual_loss.lab.data.images import image_size
    from sr_perceptual_loss.lab.evaluation.protocol import scales_used

    counts: Counter[str] = Counter()
    for dist, _ in pairs:
        scales = scales_used(critic, protocol, *image_size(dist), crop_size=crop_size)
        counts[", ".join(f"{scale:.3g}" for scale in scales)] += 1
    return dict(counts)


def _print(results: Mapping[str, Evaluation], compared: Sequence[Difference], warning: str) -> None:
    for note in dict.fromkeys(note for result in results.values() for note in result.notes):
        if note not in next(iter(results.values())).labels.notes:
            log(note)
    if warning:
        log(f"warning: {warning}")
    rows = [
        (name, row.name, *_numbers(row), str(row.count), row.meaning)
        for name, result in results.items()
        for row in result.rows
    ]
    for pair in compared:
        verdict = "different: the interval excludes 0" if pair.significant else "no clear difference"
        rows.append((f"{pair.first} - {pair.second}", pair.number, *_numbers(pair), "", verdict))
    first = 0 if len(results) > 1 else 1
    print_table(("critic", "number", "value", "low", "high", "count", "meaning")[first:], [row[first:] for row in rows])


def _numbers(row: Row | Difference) -> list[str]:
    return [f"{v:.6f}" if math.isfinite(v) else "nan" for v in (row.value, row.low, row.high)]
