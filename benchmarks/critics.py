"""What the critics cost, in the cells that docs/performance.md shows. A thin front of `srpl bench`.

    python benchmarks/critics.py            # about 40 minutes of one idle core; a stopped run goes on where it was
    python benchmarks/critics.py --part 128 256      # some parts; see PARTS
    python benchmarks/critics.py --print             # the tables of what is there, nothing measured
    python benchmarks/critics.py --print --write docs/performance.md     # put them into the document
    python benchmarks/critics.py --device cuda       # on a GPU; the tables name it
    python benchmarks/critics.py --equality          # forms against the published formulation in float64, full size

Rows go to runs/bench/<device>_<part>.json; delete a file to measure it again after the code has changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from speed.equality import FULL_SIZES, equality
from speed.running import Results, has_bf16, machine
from speed.table import Grid, exponent_grid, markdown, memory_grid, time_grid

OUT = Path(__file__).resolve().parent.parent / "runs" / "bench"

#: part -> options of `srpl bench`. Each part takes less than about eight minutes of an idle core.
PARTS: dict[str, list[str]] = {
    "128": ["--critics", "efficient_pban,haarpsi", "--sizes", "128", "--batch", "1,4", "--rivals", "all"],
    "256": ["--critics", "efficient_pban,haarpsi", "--sizes", "256", "--batch", "1", "--rivals", "all"],
    "256b4": ["--critics", "efficient_pban", "--sizes", "256", "--batch", "4", "--rivals", "lpips_vgg"],
    "topiq": ["--critics", "rqi_topiq", "--sizes", "384", "--batch", "1", "--rivals", "lpips_vgg"],
    "ahiq": ["--critics", "rqi_ahiq", "--sizes", "224", "--batch", "1", "--rivals", "lpips_vgg"],
    "maniqa": ["--critics", "rqi_maniqa", "--sizes", "224", "--batch", "1", "--rivals", "lpips_vgg"],
    "scaling": ["--critics", "efficient_pban,rqi_topiq", "--sizes", "96,128,192,256,384", "--batch", "1",
                "--rivals", "all", "--forms", "fast", "--no-memory", "--repeats", "3"],
    "512": ["--critics", "efficient_pban", "--sizes", "512", "--batch", "1", "--rivals", "lpips_vgg"],
}  # fmt: skip
RIVALS = "lpips_vgg,dists,vgg19"


def options(part: str, device: str) -> list[str]:
    """Of `srpl bench`, without the form bf16 where it is emulated: there it takes minutes and says nothing."""
    chosen = [RIVALS if option == "all" else option for option in PARTS[part]]
    if device == "cpu" and not has_bf16() and "--forms" not in chosen:
        chosen += ["--forms", "reference,fast,target"]
    return chosen


def measure(part: str, device: str) -> None:
    """Run one part in a process of its own, so that the memory of one part does not stand in the way of the next."""
    command = [sys.executable, "-m", "sr_perceptual_loss.cli.app", "bench", *options(part, device), "--device", device]
    subprocess.run([*command, "--json", str(place(part, device))], check=True, stdout=subprocess.DEVNULL)


def compared() -> str:
    """Differences of the prepared forms from the reference forms in float64, as Markdown."""
    heads = ["what", "side", "batch", "score", "gradient, relative L2", "change of score", "offsets"]
    lines = []
    for name, side in FULL_SIZES.items():
        for batch in (1, 2) if name == "efficient_pban" else (1,):
            found = equality(name, side, batch)
            numbers = [f"{found.score:.1e}", f"{found.slope:.1e}", f"{found.change:.1e}"]
            offsets = "-" if found.offsets is None else f"{found.offsets:.2f}"
            lines.append([name, str(side), str(batch), *numbers, offsets])
            print(*lines[-1], file=sys.stderr)
    grid: Grid = ("Equality", heads, lines)
    about = ", ".join(f"{key}: {value}" for key, value in machine("cpu").items())
    return f"`python benchmarks/critics.py --equality`\n\n{about}; {datetime.date.today()}.\n\n{markdown(grid)}\n"


def place(part: str, device: str) -> Path:
    return OUT / f"{device.replace(':', '')}_{part}.json"


def shown(part: str, device: str) -> str:
    """The tables of a part as Markdown."""
    path, title = place(part, device), f"### {part}\n\n`srpl bench {' '.join(options(part, device))}`\n"
    if not path.is_file():
        return f"{title}\nNot measured yet.\n"
    results = Results.resume(path, json.loads(path.read_text())["setting"])
    setting = ", ".join(f"{key}: {value}" for key, value in results.setting.items())
    text = f"{title}\n{setting}; {', '.join(results.dates)}.\n"
    for grid in (time_grid(results.rows), memory_grid(results.rows), exponent_grid(results.rows)):
        if grid[2]:
            text += f"\n{grid[0]}:\n\n{markdown(grid)}\n"
    return text


def put_between_marks(path: Path, mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- /mark --> in a document."""
    head, middle = path.read_text().split(f"<!-- {mark} -->")
    tail = middle.split(f"<!-- /{mark} -->")[1]
    path.write_text(f"{head}<!-- {mark} -->\n\n{text.strip()}\n\n<!-- /{mark} -->{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--equality", action="store_true", help="compare values in float64; nothing is timed")
    parser.add_argument("--write", type=Path, help="a document with the marks <!-- critics cpu --> around the tables")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments.equality:
        text = compared()
        print(text)
        if arguments.write is not None:
            put_between_marks(arguments.write, "equality", text)
        return
    for part in arguments.part:
        if not arguments.only_print:
            measure(part, arguments.device)
        print(shown(part, arguments.device))
    if arguments.write is not None:
        text = "\n".join(shown(part, arguments.device) for part in PARTS)
        put_between_marks(arguments.write, f"critics {arguments.device}", text)


if __name__ == "__main__":
    main()
