"""``srpl evaluate``: how well a critic agrees with people on a human-scored set of images."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_perceptual_loss.cli.terminal import say, stderr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sr_perceptual_loss.critics.base import Critic
    from sr_perceptual_loss.lab.data.labels import LabelSet
    from sr_perceptual_loss.lab.evaluation.agreement import Evaluation
    from sr_perceptual_loss.lab.evaluation.protocol import Protocol
    from sr_perceptual_loss.lab.evaluation.scoring import Pair

__all__ = ["evaluate"]

RANDOM = "random"
MEANINGLESS = "The weights are random: these numbers say nothing about the critic."


def evaluate(
    critic: Annotated[str, typer.Argument(help="Critic, one of `srpl list`.", metavar="CRITIC")],
    data: Annotated[str, typer.Option(help="Data set, such as kadid10k; table for your own CSV.", metavar="NAME")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    labels: Annotated[Path | None, typer.Option(help="Another label file than the one under the root.")] = None,
    weights: Annotated[
        str, typer.Option(help="local (never downloads), a tag, a path, or random (meaningless, for trials).")
    ] = "local",
    split: Annotated[
        str, typer.Option(help="all, a part that the set publishes, or train / val of a split by scenes.")
    ] = "all",
    train_share: Annotated[
        float | None,
        typer.Option(help="Share of train in the split by scenes [0.8]; given, it wins over a published one."),
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Of the split by scenes and of --limit.")] = 0,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="paper, released, single_scale, centre or full; by default paper where there are crops, full for a "
            "critic of free size without --crop-size."
        ),
    ] = None,
    crop_size: Annotated[int | None, typer.Option(help="Side of the crops for a critic of free size.")] = None,
    limit: Annotated[int | None, typer.Option(help="About this many images (votes): whole scenes, then cut.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    crops_at_once: Annotated[int, typer.Option(help="Batch size; bounds the memory.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.csv (goes on from there), result.json and report.html.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the crop positions, the bootstrap and random weights.")] = 0,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals; 0 for none.")] = 1000,
    worst: Annotated[int, typer.Option(help="Disagreements shown as pictures in the report.")] = 8,
) -> None:
    """Compare a critic's scores with human opinions; prints name, value, low, high, count, meaning (tab-separated).

    Intervals are 95 % bootstrap intervals over scenes. With --out, an interrupted run goes on where it stopped.
    """
    from sr_perceptual_loss import __version__
    from sr_perceptual_loss.lab.data.registry import read_labels
    from sr_perceptual_loss.lab.evaluation.agreement import judge
    from sr_perceptual_loss.lab.evaluation.file_lock import claimed
    from sr_perceptual_loss.lab.evaluation.optional import need
    from sr_perceptual_loss.lab.evaluation.scoring import ScoreFile, critic_digest, score_labels

    for module in ("scipy", *(["matplotlib"] if out else [])):
        need(module)  # before hours of scoring
    network = _critic(critic, weights, device, seed)
    chosen = _protocol(network, protocol, crop_size)
    wanted = _limited(_part(read_labels(data, root, labels=labels), split, train_share, split_seed), limit, split_seed)
    for note in wanted.notes:
        say(f"{wanted.name}: {note}")
    # What a score depends on; the rest of the settings only concerns what is done with the scores.
    behind: dict[str, object] = {
        "critic": critic,
        "weights_digest": critic_digest(network),
        "protocol": chosen.as_dict(),
        "crop_size": crop_size,
        "seed": seed,
    }
    settings = behind | {"weights": _named(network, weights), "data": data, "root": str(root), "split": split}
    settings |= {"labels": str(labels or "of the root"), "train_share": train_share, "split_seed": split_seed}
    settings |= {"limit": limit, "device": device, "bootstrap": bootstrap, "version": __version__}
    with claimed(out / "scores.csv" if out else None):
        known = ScoreFile(out / "scores.csv", behind) if out else None
        scores = score_labels(
            network,
            wanted,
            chosen,
            seed=seed,
            crop_size=crop_size,
            crops_at_once=crops_at_once,
            device=device,
            known=known,
            track=_track,
        )
    settings["images_by_scales"] = _by_scales(network, chosen, list(scores), crop_size)
    result = judge(wanted, scores, bootstrap=bootstrap, seed=seed)
    warning = MEANINGLESS if settings["weights"] == RANDOM else ""
    _print(result, warning)
    if out:
        _write(out, result, settings, worst, warning)


def _critic(name: str, weights: str, device: str, seed: int) -> Critic:
    """The network in eval mode; random weights come from the seed, the global random state stays as it is."""
    import torch

    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss.critics.registry import create_critic
    from sr_perceptual_loss.errors import InputError

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: {device!r} cannot be used here ({reason}); use cpu.") from None
    if weights != RANDOM:
        return create_critic(name, weights=weights, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_critic(name, weights=None, device=device)


def _by_scales(critic: Critic, protocol: Protocol, pairs: list[Pair], crop_size: int | None) -> dict[str, int]:
    """How many images were judged at which scales: one not larger than the crop is judged at a single scale."""
    from collections import Counter

    from PIL import Image

    from sr_perceptual_loss.lab.evaluation.protocol import scales_used

    found: Counter[str] = Counter()
    for dist, _ in pairs:
        with Image.open(dist) as image:
            scales = scales_used(critic, protocol, image.height, image.width, crop_size=crop_size)
        found[", ".join(f"{scale:.3g}" for scale in scales)] += 1
    return dict(found)


def _named(critic: Critic, weights: str) -> str:
    return weights if critic.card.needs_weights else "none needed (a formula)"


def _protocol(critic: Critic, name: str | None, crop_size: int | None) -> Protocol:
    """The protocol asked for, or the default, which is said aloud."""
    from sr_perceptual_loss.lab.evaluation.protocol import get_protocol

    if name is None:
        name = "full" if critic.input_size.fixed is None and crop_size is None else "paper"
        say(f"protocol: {name} ({get_protocol(name).source})")
    return get_protocol(name)


def _part(labels: LabelSet, split: str, train_share: float | None, seed: int) -> LabelSet:
    """The part of the set that was asked for; says which kind of split it is."""
    from sr_perceptual_loss.errors import InputError
    from sr_perceptual_loss.lab.data.labels import split_scenes

    if split == "all":
        return labels
    if split in labels.official_split and train_share is None:
        say(f"split: {split}, as {labels.name} publishes it")
        return labels.part(split)
    if split not in ("train", "val"):
        official = ", ".join(labels.official_split) or "none"
        raise InputError(f"--split: got '{split}', expected all, train, val or a published part ({official}).")
    share = 0.8 if train_share is None else train_share
    train, val = split_scenes(labels.scenes, train=share, seed=seed)
    say(f"split: {split} of {len(train)} + {len(val)} scenes (share {share:g}, seed {seed})")
    return labels.subset(train if split == "train" else val)


def _limited(labels: LabelSet, limit: int | None, seed: int) -> LabelSet:
    """The first images (votes) of the scenes in a seeded order: whole scenes, since correlations live inside them."""
    from dataclasses import replace

    import numpy as np

    from sr_perceptual_loss.checks import as_int

    if limit is None:
        return labels
    count = as_int("--limit", limit, minimum=1)
    place = dict(zip(labels.scenes, np.random.default_rng(seed).permutation(len(labels.scenes)), strict=True))
    rated = sorted(labels.rated, key=lambda image: place[image.scene])[:count]
    votes = sorted(labels.votes, key=lambda vote: place[vote.scene])[:count]
    note = f"Limited to {len(rated)} of {len(labels.rated)} images and {len(votes)} of {len(labels.votes)} votes."
    return replace(labels, rated=tuple(rated), votes=tuple(votes), notes=(*labels.notes, note))


def _track(pairs: list[Pair]) -> Iterable[Pair]:
    """A bar with the time left on stderr, if a person is looking."""
    from rich.progress import track

    say(f"{len(pairs)} image(s) to score")
    return track(pairs, "scoring", console=stderr(), disable=not sys.stderr.isatty(), transient=True)


def _print(result: Evaluation, warning: str) -> None:
    for note in result.notes:
        if note not in result.labels.notes:
            say(note)
    if warning:
        say(f"warning: {warning}")
    typer.echo("number\tvalue\tlow\thigh\tcount\tmeaning")
    for row in result.rows:
        numbers = (f"{v:.6f}" if math.isfinite(v) else "nan" for v in (row.value, row.low, row.high))
        typer.echo("\t".join((row.name, *numbers, str(row.count), row.meaning)))


def _write(out: Path, result: Evaluation, settings: dict[str, object], worst: int, warning: str) -> None:
    from sr_perceptual_loss.lab.evaluation.report import write_report, write_result

    write_result(out / "result.json", result, settings)
    write_report(out / "report.html", result, settings, worst=worst, warning=warning)
    say(f"wrote {out / 'scores.csv'}, {out / 'result.json'} and {out / 'report.html'}")
