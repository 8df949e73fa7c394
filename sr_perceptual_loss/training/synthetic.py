"""A data set in the layout of KADID-10k from one's own pictures: true distortions, labels by type and level.

The labels are **not ratings of these pictures**. Each is the mean of KADID-10k's published scores over all its pictures
with the same type and level. What the table knows of single pictures was measured before: it predicts the scores of a
picture that it has not seen with a rank correlation of 0.94.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sr_perceptual_loss._checks import InputError, as_int
from sr_perceptual_loss._version import __version__
from sr_perceptual_loss.data.images import SUFFIXES, read_image
from sr_perceptual_loss.data.labels import Problems
from sr_perceptual_loss.training.distortions import DISTORTIONS, LEVELS, MINIMUM_SIDE, distort
from sr_perceptual_loss.training.distortions.codecs import to_pictures
from sr_perceptual_loss.training.distortions.level_table import LevelMean, level_means

__all__ = ["LevelMean", "MadeSet", "level_means", "make_kadid_like"]

_RECORD = "made.json"


@dataclass(frozen=True)
class MadeSet:
    """What :func:`make_kadid_like` wrote.

    Attributes:
        labels: the file ``dmos.csv``.
        scenes: number of references.
        written: distorted pictures that were made now.
        kept: distorted pictures that were there before.
    """

    labels: Path
    scenes: int
    written: int
    kept: int


@dataclass(frozen=True)
class _Job:
    """One picture to make. Holds all that its pixels depend on."""

    scene: str
    reference: Path
    target: Path
    kind: int
    level: int
    seed: int


def make_kadid_like(
    refs: Path,
    out: Path,
    table: Mapping[tuple[int, int], LevelMean],
    *,
    types: Sequence[int] | None = None,
    levels: Sequence[int] = LEVELS,
    seed: int = 0,
    limit: int | None = None,
    crop: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> MadeSet:
    """Distort one's own pictures and write them in the layout of KADID-10k.

    Writes ``images/I01.png``, ``images/I01_<type>_<level>.png``, ``dmos.csv``, ``README.txt`` and ``made.json``.
    Pictures that are there are kept, so an interrupted run goes on where it stopped. Each picture depends on its
    source, type, level and the seed alone: not on the order, the number of processes or an interruption.

    Args:
        refs: folder of pristine pictures; they become I01, I02, ... in the order of their names.
        out: folder to write, made if missing.
        table: labels, of :func:`level_means`.
        types: numbers from 1 to 25; all by default.
        levels: numbers from 1 to 5.
        seed: of everything random.
        limit: number of pictures to take; all by default.
        crop: cut the middle square of this side out of each picture first.
        workers: processes; 1 works in this one.
        progress: called with (pictures done, pictures in all) after each.

    Returns:
        What was written.

    Raises:
        InputError: nothing to do, unusable pictures, labels missing in the table, or ``out`` holds another data set.
    """
    kinds = _numbers("types", types if types is not None else sorted(DISTORTIONS), sorted(DISTORTIONS), table, levels)
    seed = as_int("seed", seed)
    workers = as_int("workers", workers, minimum=1)
    sources = _sources(refs, None if limit is None else as_int("limit", limit, minimum=1))
    crop = None if crop is None else as_int("crop", crop, minimum=MINIMUM_SIDE)
    _check_sizes(sources, crop)
    _check_record(out, sources, seed, crop)
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    jobs = [
        _Job(scene, images / f"{scene}.png", images / f"{scene}_{kind:02d}_{level:02d}.png", kind, level, seed)
        for scene in sources
        for kind in kinds
        for level in levels
    ]
    for scene, path in sources.items():
        if not (images / f"{scene}.png").exists():
            _save(_reference(path, crop), images / f"{scene}.png")
    open_jobs = [job for job in jobs if not job.target.exists()]
    _run(open_jobs, len(jobs), workers, progress)
    _write_labels(out / "dmos.csv", jobs, table)
    _write_readme(out, sources, table, seed, crop)
    return MadeSet(out / "dmos.csv", len(sources), len(open_jobs), len(jobs) - len(open_jobs))


def _numbers(
    name: str,
    given: Sequence[int],
    known: Sequence[int],
    table: Mapping[tuple[int, int], LevelMean],
    levels: Sequence[int],
) -> list[int]:
    """Checked types; also checks the levels and that the table has a label for each pair."""
    kinds = [as_int(name, one, minimum=1) for one in given]
    for role, numbers, allowed in ((name, kinds, known), ("levels", list(levels), LEVELS)):
        wrong = [n for n in numbers if n not in allowed]
        if wrong or not numbers or len(set(numbers)) < len(numbers):
            raise InputError(
                f"{role}: got {numbers}, expected one or more different numbers from {min(allowed)} to {max(allowed)}."
            )
    missing = [(kind, level) for kind in kinds for level in levels if (kind, level) not in table]
    if missing:
        raise InputError(
            f"table: no label for (type, level) {missing[0]} and {len(missing) - 1} more; give a complete KADID-10k "
            "label list or ask for fewer types."
        )
    return kinds


def _sources(refs: Path, limit: int | None) -> dict[str, Path]:
    """Scene name -> picture, in the order of the file names."""
    if not refs.is_dir():
        raise InputError(f"{refs}: got no folder, expected a folder of pristine pictures ({', '.join(SUFFIXES)}).")
    found = sorted(p for p in refs.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())[:limit]
    if not found:
        raise InputError(f"{refs}: no picture in this folder, expected files that end in {', '.join(SUFFIXES)}.")
    return {f"I{number:02d}": path for number, path in enumerate(found, start=1)}


def _check_sizes(sources: Mapping[str, Path], crop: int | None) -> None:
    """Look at all pictures before the first is distorted: a run may take hours."""
    problems = Problems("pristine pictures")
    needed = crop or MINIMUM_SIDE
    for path in sources.values():
        try:
            with Image.open(path) as picture:
                size = picture.size
        except OSError as error:
            problems.add(path, None, f"no readable picture ({str(error).splitlines()[0]})")
            continue
        if min(size) < needed:
            problems.add(
                path, None, f"got {size[0]}x{size[1]} pixels, expected sides of at least {needed}; take it away"
            )
    problems.check()


def _check_record(out: Path, sources: Mapping[str, Path], seed: int, crop: int | None) -> None:
    """Write what the pictures depend on, or compare it with what an earlier run wrote."""
    settings = {"seed": seed, "crop": crop}
    marks = {scene: _fingerprint(path) for scene, path in sources.items()}
    file = out / _RECORD
    if file.exists():
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            old, scenes = {key: record[key] for key in settings}, dict(record["sources"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: not written by this command; write into another folder.") from None
        if old != settings:
            raise InputError(f"{out}: holds a data set made with {old}, now {settings}; write into another folder.")
        for scene, mark in marks.items():
            if scenes.get(scene, mark) != mark:
                raise InputError(
                    f"{out}: {scene} was made of {scenes[scene]['name']}, now it would be {mark['name']} (the folder "
                    "of pristine pictures changed); write into another folder."
                )
        marks = {**scenes, **marks}
    elif (out / "images").is_dir() and any((out / "images").iterdir()):
        raise InputError(f"{out / 'images'}: holds pictures of unknown origin; write into another folder.")
    out.mkdir(parents=True, exist_ok=True)
    _write_text(file, json.dumps({**settings, "sources": marks}, indent=1, sort_keys=True) + "\n")


def _fingerprint(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _reference(path: Path, crop: int | None) -> Tensor:
    image = read_image(path)
    if crop is None:
        return image
    top, left = (image.shape[-2] - crop) // 2, (image.shape[-1] - crop) // 2
    return image[:, top : top + crop, left : left + crop]


def _make(job: _Job) -> None:
    """Write one distorted picture. The seed is a hash, so it is the same in every process and order."""
    text = f"{job.seed}/{job.scene}/{job.kind}/{job.level}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(number)
    _save(distort(read_image(job.reference)[None], job.kind, job.level, generator)[0], job.target)


def _run(jobs: Sequence[_Job], total: int, workers: int, progress: Callable[[int, int], None] | None) -> None:
    done = total - len(jobs)
    for _ in _finished(jobs, workers):
        done += 1
        if progress:
            progress(done, total)


def _finished(jobs: Sequence[_Job], workers: int) -> Iterator[None]:
    """Yield once for each finished job."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _make(job)
            yield
        return
    # A process that was forked while torch's threads run may hang, so new ones are started.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(_make, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _save(image: Tensor, path: Path) -> None:
    """Write a PNG under another name first, so that what has the right name is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    to_pictures(image[None])[0].save(partial, format="PNG")
    partial.replace(path)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _write_labels(path: Path, jobs: Sequence[_Job], table: Mapping[tuple[int, int], LevelMean]) -> None:
    lines = ["dist_img,ref_img,dmos,var"]
    for job in jobs:
        cell = table[job.kind, job.level]
        lines.append(f"{job.target.name},{job.reference.name},{cell.mean:.4f},{cell.std**2:.4f}")
    _write_text(path, "\n".join(lines) + "\n")


def _write_readme(
    out: Path,
    sources: Mapping[str, Path],
    table: Mapping[tuple[int, int], LevelMean],
    seed: int,
    crop: int | None,
) -> None:
    count = max(cell.n for cell in table.values())
    cut = "whole pictures" if crop is None else f"the middle {crop}x{crop} pixels"
    names = "\n".join(f"  {scene}: {path.name}" for scene, path in sources.items())
    _write_text(
        out / "README.txt",
        f"""Synthetic data set in the layout of KADID-10k, made by sr_perceptual_loss {__version__} (srpl distort).

THE LABELS ARE NOT RATINGS OF THESE PICTURES. The column dmos (1..5, higher is better, as in KADID-10k) holds the mean
of KADID-10k's published scores over up to {count} OTHER pictures with the same type and level of distortion; the column
var holds the variance over those pictures, not over people.
Cite for the scores and the distortions: H. Lin, V. Hosu, D. Saupe, KADID-10k, QoMEX 2019.
The distortions are re-implementations; type 15 (denoise) uses another denoiser than KADID-10k.

Seed {seed}; {cut}. Names: I<reference>_<type>_<level>.png. Sources (hashes in {_RECORD}):
{names}
""",
    )
