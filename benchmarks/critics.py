"""Time and memory of the critics as losses, against their reference formulations; the tables of docs/performance.md.

    python benchmarks/critics.py            # all parts, about 40 minutes of one idle core; a stopped run continues
    python benchmarks/critics.py --part 128 256      # some parts; see PARTS
    python benchmarks/critics.py --print             # the tables of the results that exist; nothing is measured
    python benchmarks/critics.py --device cuda       # on a GPU; the tables name it
    python benchmarks/critics.py --equality          # scores and gradients of the forms in float64, full size

Results go to runs/bench/<device>_<part>.json; delete a file to measure it again after the code has changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision
from speed.cases import FORMS, OFFSETS, Case, build_cases, calibrate, image_pair
from speed.measuring import gradient, interleaved, one_thread, peak_memory, power, saved_bytes
from speed.reference import reference_form
from torch import Tensor, nn

from sr_perceptual_loss import Critic, create_critic

OUT = Path(__file__).resolve().parent.parent / "runs" / "bench"
BASELINES = ("lpips_vgg", "dists", "vgg19")
#: Side of the images at which each critic is used.
FULL_SIZES = {"efficient_pban": 256, "rqi_ahiq": 224, "rqi_maniqa": 224, "rqi_topiq": 384}


@dataclass(frozen=True)
class Part:
    """One part of the benchmark; it takes less than about eight minutes of an idle core."""

    critics: tuple[str, ...]
    sides: tuple[int, ...]
    batches: tuple[int, ...] = (1,)
    baselines: tuple[str, ...] = ("lpips_vgg",)
    forms: tuple[str, ...] = tuple(FORMS)
    repeats: int = 5
    memory: bool = True


PARTS = {
    "128": Part(("efficient_pban", "haarpsi"), (128,), (1, 4), BASELINES),
    "256": Part(("efficient_pban", "haarpsi"), (256,), (1,), BASELINES),
    "256b4": Part(("efficient_pban",), (256,), (4,)),
    "topiq": Part(("rqi_topiq",), (384,)),
    "ahiq": Part(("rqi_ahiq",), (224,)),
    "maniqa": Part(("rqi_maniqa",), (224,)),
    "scaling": Part(("efficient_pban", "rqi_topiq"), (96, 128, 192, 256, 384), (1,), BASELINES, ("fast",), 3, False),
    "512": Part(("efficient_pban",), (512,)),
}


@dataclass(frozen=True)
class Row:
    """One case at one side and batch.

    Attributes:
        name: critic or baseline.
        form: one of ``FORMS``, or ``baseline``.
        side: of the square images.
        batch: images.
        seconds: of each repeat, forward and backward to sr.
        kept: bytes that autograd keeps between forward and backward.
        recorded: the same, with what was saved for results that nobody used.
        peak: bytes of peak memory, or None if not measured.
        cosine: smallest cosine, over images, of the gradient and that of the reference form (else ``fast``).
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
    def cell(self) -> tuple[int, int]:
        """(side, batch): only rows of one cell may be compared."""
        return self.side, self.batch

    @property
    def title(self) -> str:
        """For a table."""
        return self.name if self.form == "baseline" else f"{self.name} {self.form}"


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
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def measure_cell(cases: Sequence[Case], side: int, batch: int, part: Part, device: str) -> list[Row]:
    """Rows of all cases at one side and batch, in one interleaved run."""
    sr, hr = (image.to(device) for image in image_pair(batch, side))
    forwards = {case.key: case.bind(hr) for case in cases}
    saved = {
        case.key: saved_bytes(lambda f=forwards[case.key]: f(sr.detach().requires_grad_()), case.weights)
        for case in cases
    }
    gradients = {key: gradient(forward, sr) for key, forward in forwards.items()}
    calls = {key: (lambda f=forward: gradient(f, sr)) for key, forward in forwards.items()}
    # The gradients above were the warm-up.
    seconds = interleaved(calls, part.repeats, warmup=0, device=device)
    rows = []
    for case in cases:
        peak = None
        if part.memory:
            cuda = device.startswith("cuda")
            peak = peak_memory(calls[case.key], device) if cuda else peak_in_process(case.name, case.form, side, batch)
        base = gradients.get(f"{case.name}:reference", gradients.get(f"{case.name}:fast"))
        cosine = None if base is None else smallest_cosine(gradients[case.key], base)
        row = Row(case.name, case.form, side, batch, tuple(seconds[case.key]), *saved[case.key], peak, cosine)
        print(f"{side}, batch {batch}, {row.title}: {1000 * row.median:.0f} ms", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def smallest_cosine(a: Tensor, b: Tensor) -> float:
    """Over the images of a batch."""
    return float(torch.cosine_similarity(a.double().flatten(1), b.double().flatten(1), dim=1).min())


def peak_in_process(name: str, form: str, side: int, batch: int) -> int | None:
    """Peak memory of one case in a fresh process, where nothing else has been freed before."""
    command = [sys.executable, str(Path(__file__)), "--peak", json.dumps([name, form, side, batch])]
    # Every larger block is mapped by itself and given back when freed, so that the peak shows what is alive.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"peak memory of {name} ({form}) at {side}, batch {batch}: {last}")
    return json.loads(done.stdout)


def peak_of(name: str, form: str, side: int, batch: int) -> int | None:
    """What the fresh process measures."""
    baseline = form == "baseline"
    critics, baselines = ([], [name]) if baseline else ([name], [])
    (case,) = build_cases(critics, baselines, forms=[form], calibrated=False)
    sr, hr = image_pair(batch, side)
    forward = case.bind(hr)
    with one_thread():
        return peak_memory(lambda: gradient(forward, sr))


def measure(name: str, device: str) -> None:
    """Measure the cells of a part that its file does not contain yet."""
    part, path = PARTS[name], OUT / f"{device.replace(':', '')}_{name}.json"
    # Without instructions for bfloat16 that form takes minutes and shows nothing.
    forms = [form for form in part.forms if form != "bf16" or device != "cpu" or has_bf16()]
    content = {"setting": {**machine(device), "part": json.loads(json.dumps(asdict(part)))}, "dates": [], "rows": []}
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved["setting"] != content["setting"]:
            raise SystemExit(f"{path} was measured with {saved['setting']}; delete it to measure again.")
        content = saved
    cells = [(side, batch) for side in part.sides for batch in part.batches]
    cells = [c for c in cells if c not in {(row["side"], row["batch"]) for row in content["rows"]}]
    cases = build_cases(part.critics, part.baselines, forms=forms, device=device) if cells else []
    for side, batch in cells:
        fits = [case for case in cases if case.input_size.accepts(side, side)]
        content["rows"] += [asdict(row) for row in measure_cell(fits, side, batch, part, device)]
        content["dates"] = sorted({*content["dates"], datetime.date.today().isoformat()})
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(path)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, numbers to the right."""
    rule = ["---" if head == "what" else "---:" for head in heads]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines)) + "\n"


def cell_table(rows: Sequence[Row]) -> str:
    """Time and memory of every row, and their ratios to the reference form and LPIPS-VGG of the same cell."""
    heads = ["side", "batch", "what", "ms", "spread", "x faster", "of LPIPS", "kept MB", "of ref.", "recorded of ref."]
    heads += ["peak MB", "of ref.", "gradient cosine"]
    lines = []
    for row in sorted(rows, key=lambda row: row.cell):
        cell = {(other.name, other.form): other for other in rows if other.cell == row.cell}
        base, lpips = cell.get((row.name, "reference")), cell.get(("lpips_vgg", "baseline"))
        peak = None if base is None or not base.peak or row.peak is None else row.peak / base.peak
        lines.append([
            str(row.side), str(row.batch), row.title, f"{1000 * row.median:.0f}",
            f"{100 * (max(row.seconds) - min(row.seconds)) / row.median:.0f} %",
            number(base and base.median / row.median, "{:.2f}"),
            number(lpips and row.median / lpips.median, "{:.2f}"),
            f"{row.kept / 1e6:.1f}", number(base and row.kept / base.kept, "{:.2f}"),
            number(base and row.recorded / base.recorded, "{:.2f}"),
            number(row.peak and row.peak / 1e6, "{:.0f}"), number(peak, "{:.2f}"), number(row.cosine, "{:.5f}"),
        ])  # fmt: skip
    return markdown(heads, lines)


def exponent_table(rows: Sequence[Row]) -> str:
    """P of time = c * side^p at batch 1, for a series of sides."""
    lines = []
    for title in dict.fromkeys(row.title for row in rows):
        points = {row.side: row.median for row in rows if row.title == title and row.batch == 1}
        exponent = power(points)
        if exponent is not None:
            lines.append([title, f"{exponent:.2f}", ", ".join(map(str, points))])
    return markdown(["what", "exponent of the side", "sides"], lines) if lines else ""


def tables(name: str, device: str) -> str:
    """The tables of a part as Markdown."""
    path = OUT / f"{device.replace(':', '')}_{name}.json"
    if not path.is_file():
        return f"### {name}\n\nNot measured yet.\n"
    content = json.loads(path.read_text())
    rows = [Row(**{**row, "seconds": tuple(row["seconds"])}) for row in content["rows"]]
    setting = ", ".join(f"{key}: {value}" for key, value in content["setting"].items() if key != "part")
    parts = [f"### {name}\n", f"{setting}; {', '.join(content['dates'])}.\n", cell_table(rows), exponent_table(rows)]
    return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Equality:
    """How far the inference form is from the reference form, both in float64 over the same weights.

    Attributes:
        score: largest absolute difference of a score.
        gradient: L2 norm of the difference of the gradients to sr, relative to that of the reference's gradient.
        change: mean change of the score when the contrast of sr is reduced to 0.7, as a scale for ``score``.
        norm: L2 norm of the reference's gradient.
        offsets: standard deviation of the sampling offsets in pixels; None without deformable convolution.
    """

    score: float
    gradient: float
    change: float
    norm: float
    offsets: float | None


def equality(critic: Critic, side: int, batch: int = 1, *, seed: int = 0) -> Equality:
    """Compare ``critic.inference_form()`` with ``reference_form(critic)`` in float64, on one thread.

    Args:
        critic: with random weights; changed in place: float64, biases and statistics away from 0 and 1.
        side: of the square images.
        batch: images.
        seed: of weights and images.

    Returns:
        The differences.
    """
    critic = critic.double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in critic.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))
    with one_thread():
        calibrate(critic, seed=seed)
        fast, plain = critic.inference_form(), reference_form(critic)
        sr, hr = (image.double() for image in image_pair(batch, side, seed=seed + 1))
        expected, actual = (gradient(lambda x, form=form: form.score(x, hr), sr) for form in (plain, fast))
        with torch.no_grad():
            score = fast.score(sr, hr)
            difference = (score - plain.score(sr, hr)).abs().max()
            flat = fast.score(0.7 * sr + 0.3 * sr.mean(), hr)
            offsets = sampling_offsets(critic, lambda: critic.score(sr, hr))
    relative = (actual - expected).norm() / expected.norm()
    numbers = (difference, relative, (flat - score).abs().mean(), expected.norm())
    return Equality(*map(float, numbers), float(offsets.std()) if len(offsets) else None)


def sampling_offsets(critic: Critic, call: Callable[[], object]) -> Tensor:
    """All offsets of deformable convolutions that a call computes."""
    seen: list[Tensor] = [torch.empty(0)]
    for path, module in critic.named_modules():
        if isinstance(module, nn.Conv2d) and any(part in path.split(".") for part in OFFSETS):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach().flatten()))
    call()
    return torch.cat([values.double() for values in seen])


def equality_table() -> str:
    """Differences of the inference forms from the reference forms in float64, as Markdown."""
    lines = []
    for name, side in FULL_SIZES.items():
        for batch in (1, 2) if name == "efficient_pban" else (1,):
            result = equality(create_critic(name, weights=None), side, batch)
            numbers = [f"{result.score:.1e}", f"{result.gradient:.1e}", f"{result.change:.1e}"]
            lines.append([name, str(side), str(batch), *numbers, number(result.offsets, "{:.2f}")])
            print(*lines[-1], file=sys.stderr)
    about = ", ".join(f"{key}: {value}" for key, value in machine("cpu").items())
    heads = ["what", "side", "batch", "score", "gradient, relative L2", "change of score", "offsets"]
    return f"{about}; {datetime.date.today()}.\n\n{markdown(heads, lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--equality", action="store_true", help="compare values in float64; nothing is timed")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_of(*json.loads(options.peak))))
        return
    OUT.mkdir(parents=True, exist_ok=True)
    if options.equality:
        print(equality_table())
        return
    for name in options.part:
        if not options.only_print:
            measure(name, options.device)
        print(tables(name, options.device))


if __name__ == "__main__":
    main()
