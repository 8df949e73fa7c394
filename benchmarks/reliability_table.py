"""docs/reliability.md: the fault matrix with the tests of each row and how they went.

    python benchmarks/reliability_table.py                 # runs the tests of all rows, without the slow ones
    python benchmarks/reliability_table.py --slow          # with them
    python benchmarks/reliability_table.py --junit a.xml b.xml  # takes the results of runs made before

A test belongs to the rows in its marker: @pytest.mark.fault(7, 8). The texts of the rows are in
tests/reliability_rows.yml.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# The fault matrix

What breaks losses of this kind, what must happen instead, and the tests for it. Written by `make reliability`
(`benchmarks/reliability_table.py`); do not edit. The rows are in `tests/reliability_rows.yml`; a test of rows 7 and 8
has the marker `@pytest.mark.fault(7, 8)`.

{summary}

| # | area | fault | expected | tests (in `tests/`) | status |
|--:|---|---|---|---|---|
"""


@dataclass
class Outcome:
    """How the cases of one test went.

    Attributes:
        counts: "passed", "skipped", "failed" -> number of cases.
        reasons: why cases were skipped.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """For the table."""
        if not self.counts:
            return "not run"
        words = [f"{self.counts[kind]} {kind}" for kind in ("failed", "passed", "skipped") if self.counts[kind]]
        return ", ".join(words) + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def read_rows() -> list[dict[str, object]]:
    """The rows in order: ``row``, ``area``, ``fault``, ``expectation``, sometimes ``note`` or ``supported: false``."""
    rows: list[dict[str, object]] = yaml.safe_load((TESTS / "reliability_rows.yml").read_text(encoding="utf-8"))
    return rows


def tests_by_row(tests: Path = TESTS) -> dict[int, list[str]]:
    """Row -> ``losses/test_inputs.py::test_...``, in the order of files and lines; read, not imported."""
    tests_of: dict[int, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    for row in mark.args:
                        name = f"{path.relative_to(tests).as_posix()}::{function.name}"
                        tests_of.setdefault(ast.literal_eval(row), []).append(name)
    return tests_of


def read_outcomes(junit: Path) -> dict[str, Outcome]:
    """Test -> outcome, from pytest's junit file."""
    outcomes: dict[str, Outcome] = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        file = case.get("classname", "").replace(".", "/").removeprefix("tests/") + ".py"
        outcome = outcomes.setdefault(f"{file}::{case.get('name', '').split('[')[0]}", Outcome())
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.counts["failed"] += 1
        elif skipped is not None:
            outcome.counts["skipped"] += 1
            reason = skipped.get("message", "")
            if reason not in outcome.reasons:
                outcome.reasons.append(reason)
        else:
            outcome.counts["passed"] += 1
    return outcomes


def page(rows: list[dict[str, object]], tests: dict[int, list[str]], outcomes: dict[str, Outcome]) -> str:
    """The text of docs/reliability.md."""
    named = {name for names in tests.values() for name in names}
    total: Counter[str] = Counter()
    for name in named:
        total += outcomes.get(name, Outcome()).counts
    supported = [row for row in rows if row.get("supported", True)]
    missing = [str(row["row"]) for row in supported if not tests.get(int(str(row["row"])))]
    summary = (
        f"{len(rows)} rows, {len(named)} tests, {sum(total.values())} cases: {total['passed']} passed, "
        f"{total['skipped']} skipped, {total['failed']} failed ({datetime.date.today()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {'CUDA' if torch.cuda.is_available() else 'no GPU'}). "
        + (f"Rows without a test: {', '.join(missing)}." if missing else "Every supported row has a test.")
    )
    lines = []
    for row in rows:
        names = tests.get(int(str(row["row"])), [])
        expected = f"{row['expectation']}" + (f" *{row['note']}*" if row.get("note") else "")
        untested = "**no test**" if row.get("supported", True) else "not supported"
        states = "<br>".join(str(outcomes.get(name, Outcome())) for name in names) or untested
        cells = [row["row"], row["area"], row["fault"], expected, "<br>".join(f"`{n}`" for n in names), states]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return HEAD.format(summary=summary) + "\n".join(lines) + "\n"


def named_in(text: str) -> dict[int, list[str]]:
    """Row -> tests, as a page names them."""
    named = {}
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 8 and cells[1].strip().isdigit():
            named[int(cells[1])] = re.findall(r"`([^`]+::[^`]+)`", cells[5])
    return {row: names for row, names in named.items() if names}


def run_tests(slow: bool) -> Path:
    """Run the tests of all rows; the junit file."""
    junit = Path(tempfile.mkdtemp()) / "rows.xml"
    files = sorted({str(TESTS / name.split("::")[0]) for names in tests_by_row().values() for name in names})
    marks = "fault" if slow else "fault and not slow"
    command = [sys.executable, "-m", "pytest", "-q", "-m", marks, f"--junitxml={junit}", *files]
    subprocess.run(command, cwd=ROOT, check=False)
    return junit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", action="store_true", help="run the slow tests too")
    parser.add_argument(
        "--junit", type=Path, nargs="+", help="take these results instead of running; of two for one test, the later"
    )
    arguments = parser.parse_args()
    outcomes: dict[str, Outcome] = {}
    for junit in arguments.junit or [run_tests(arguments.slow)]:
        outcomes.update(read_outcomes(junit))
    text = page(read_rows(), tests_by_row(), outcomes)
    PAGE.write_text(text, encoding="utf-8")
    print(next(line for line in text.splitlines() if " rows, " in line))


if __name__ == "__main__":
    main()
