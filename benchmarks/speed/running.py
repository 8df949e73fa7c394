"""A whole benchmark: cells of one side and one batch, each an interleaved run of everything that takes the size."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import cosine_similarity

from speed.calibrating import pictures
from speed.cases import Subject
from speed.measuring import gradient, interleaved, saved_bytes
from speed.memory import cuda_peak, peak_in_subprocess
from sr_perceptual_loss.checks import as_int
from sr_perceptual_loss.errors import InputError

__all__ = ["Plan", "Results", "Row", "cells", "has_bf16", "machine", "run"]


@dataclass(frozen=True)
class Row:
    """One subject in one cell.

    Attributes:
        name: critic or rival.
        form: one of ``FORMS``, or ``rival``.
        side: of the square images.
        batch: images.
        seconds: of each repeat, forward and backward to sr.
        kept: bytes that autograd keeps between forward and backward.
        recorded: the same, with what was saved for results that nobody used.
        peak: bytes of peak memory, or None if not measured.
        cosine: smallest cosine, over images, of the gradient and that of the reference form (of ``fast`` where there
            is none in the run), both in float32 but for ``bf16``; None for a rival.
    """

    name: str
    form: str
    side: int
    batch: int
    seconds: tuple[float, ...]
    kept: int
    recorded: int
    peak: int | None = None
    cosine: float | None = None

    @property
    def median(self) -> float:
        """Median of the repeats, in seconds."""
        return statistics.median(self.seconds)

    @property
    def place(self) -> tuple[int, int]:
        """(side, batch)."""
        return self.side, self.batch


@dataclass(frozen=True)
class Plan:
    """What is measured, apart from the subjects.

    Attributes:
        sizes: image sides.
        batches: numbers of images.
        repeats: rounds of each cell.
        device: where it computes.
        memory: measure peak memory too (a fresh process for each row on the CPU).
        critic_size: ``full`` or ``tiny``, for those processes.
    """

    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    repeats: int = 5
    device: str = "cpu"
    memory: bool = True
    critic_size: str = "full"

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, values in (("sizes", self.sizes), ("batch", self.batches)):
            if not values:
                raise InputError(f"{name}: got nothing, expected whole numbers such as 128,256.")
            object.__setattr__(self, "batches" if name == "batch" else name, _whole(name, values))
        object.__setattr__(self, "repeats", as_int("repeats", self.repeats, minimum=1))


def _whole(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(as_int(name, value, minimum=1) for value in values))


def cells(subjects: Sequence[Subject], plan: Plan) -> Iterator[tuple[int, int, list[Subject]]]:
    """(side, batch, subjects that take the side); a critic of one fixed size adds its own cell.

    Rivals are measured wherever a critic is, and everywhere if there is no critic.
    """
    fixed = {s.takes.fixed for s in subjects if s.takes.fixed is not None}
    critics = any(s.form != "rival" for s in subjects)
    for side in sorted({*plan.sizes, *fixed}):
        fits = [s for s in subjects if s.takes.accepts(side, side)]
        if side not in plan.sizes:
            fits = [s for s in fits if s.takes.fixed == side or s.form == "rival"]
        if fits and (not critics or any(s.form != "rival" for s in fits)):
            for batch in plan.batches:
                yield side, batch, fits


def machine(device: str) -> dict[str, str]:
    """Device and versions, as a table must name them."""
    name = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    if device == "cpu":
        name += f" ({torch.backends.cpu.get_cpu_capability()}; bf16 instructions: {'yes' if has_bf16() else 'no'})"
    return {"device": name, "torch": torch.__version__, "torchvision": torchvision.__version__}


def has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is emulated, and slower than float32."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags


@dataclass
class Results:
    """Rows with what they were measured on; kept in a file so that a stopped run goes on.

    Attributes:
        setting: device, versions and options; two runs may share a file only if it is the same.
        rows: what was measured.
        dates: days on which it was.
    """

    setting: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)

    def has(self, subject: Subject, side: int, batch: int) -> bool:
        """Whether the row is there."""
        return any((r.name, r.form, *r.place) == (subject.name, subject.form, side, batch) for r in self.rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Put in the rows of one cell, in place of older ones: only numbers of one run may be compared."""
        places = {row.place for row in rows}
        self.rows = [row for row in self.rows if row.place not in places] + list(rows)
        today = datetime.date.today().isoformat()
        self.dates = sorted({*self.dates, today})

    def write(self, path: Path) -> None:
        """As JSON, replacing the file in one step."""
        content = {"setting": self.setting, "dates": self.dates, "rows": [asdict(row) for row in self.rows]}
        partial = path.with_name(path.name + ".part")
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(path)

    @classmethod
    def resume(cls, path: Path | None, setting: dict[str, Any]) -> Results:
        """What the file holds, or nothing yet.

        Raises:
            InputError: it is no such file, or was measured under another setting.
        """
        if path is None or not path.exists():
            return cls(setting)
        cure = "Give another file, or delete it to measure again."
        try:
            content = json.loads(path.read_text())
            rows = [Row(**{**row, "seconds": tuple(row["seconds"])}) for row in content["rows"]]
            found, dates = dict(content["setting"]), list(content["dates"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is no result of a benchmark ({type(error).__name__}: {error}). {cure}") from None
        other = sorted(key for key in {*found, *setting} if found.get(key) != setting.get(key))
        if other:
            differences = "; ".join(f"{key}: {found.get(key)!r}, now {setting.get(key)!r}" for key in other)
            raise InputError(f"{path} was measured under another setting ({differences}). {cure}")
        return cls(setting, rows, dates)


def run(
    subjects: Sequence[Subject],
    plan: Plan,
    results: Results,
    *,
    path: Path | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> Results:
    """Measure every cell that is not in the results yet.

    Args:
        subjects: from ``build_subjects``.
        plan: sizes and batches.
        results: what is there already; grows.
        path: written after each cell.
        report: told what is being done.

    Returns:
        The results.
    """
    for side, batch, fits in cells(subjects, plan):
        if all(results.has(subject, side, batch) for subject in fits):
            report(f"side {side}, batch {batch}: already there")
            continue
        report(f"side {side}, batch {batch}: {', '.join(subject.key for subject in fits)}")
        results.add(_cell(fits, side, batch, plan, report))
        if path is not None:
            results.write(path)
    return results


def _cell(fits: Sequence[Subject], side: int, batch: int, plan: Plan, report: Callable[[str], None]) -> list[Row]:
    sr, hr = (image.to(plan.device) for image in pictures(batch, side))
    forwards = {subject.key: subject.bind(hr) for subject in fits}
    saved = {}
    for subject in fits:
        forward = forwards[subject.key]
        saved[subject.key] = saved_bytes(lambda f=forward: f(sr.detach().requires_grad_()), subject.held)  # type: ignore[misc]
    cosines = _cosines(fits, {key: gradient(forward, sr) for key, forward in forwards.items()})
    calls = {key: (lambda f=forward: gradient(f, sr)) for key, forward in forwards.items()}
    # The gradients above were the warm-up.
    seconds = interleaved(calls, plan.repeats, warmup=0, device=plan.device)
    rows = []
    for subject in fits:
        key = subject.key
        peak = _peak(subject, calls[key], side, batch, plan) if plan.memory else None
        row = Row(
            subject.name,
            subject.form,
            side,
            batch,
            tuple(seconds[key]),
            saved[key].kept,
            saved[key].recorded,
            peak,
            cosines.get(key),
        )
        rows.append(row)
        report(f"  {key}: {1000 * row.median:.0f} ms" + ("" if peak is None else f", peak {peak / 1e6:.0f} MB"))
    return rows


def _peak(subject: Subject, call: Callable[[], object], side: int, batch: int, plan: Plan) -> int | None:
    if plan.device.startswith("cuda"):
        return cuda_peak(call, plan.device)
    return peak_in_subprocess(subject.name, subject.form, side, batch, critic_size=plan.critic_size)


def _cosines(fits: Sequence[Subject], slopes: dict[str, Tensor]) -> dict[str, float]:
    found = {}
    for subject in fits:
        base = slopes.get(f"{subject.name}:reference", slopes.get(f"{subject.name}:fast"))
        if base is not None:
            pairs = (slopes[subject.key].double().flatten(1), base.double().flatten(1))
            found[subject.key] = float(cosine_similarity(*pairs, dim=1).min())
    return found
