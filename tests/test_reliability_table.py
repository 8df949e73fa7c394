"""Every row of the fault matrix has a test, and docs/reliability.md lists the tests that exist."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("reliability_table", ROOT / "benchmarks" / "reliability_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_rows_are_the_78(table):
    rows = table.read_rows()
    assert [row["row"] for row in rows] == list(range(1, 79))
    required = {"row", "area", "fault", "expectation"}
    assert all(required <= set(row) <= required | {"note", "supported"} for row in rows)


def test_every_supported_row_has_a_test(table):
    tests = table.tests_by_row()
    unsupported = [row["row"] for row in table.read_rows() if not row.get("supported", True)]
    assert [number for number in range(1, 79) if not tests.get(number)] == unsupported == [48]
    assert set(tests) <= set(range(1, 79)), "a test names a row that does not exist"


def test_the_page_lists_the_tests_of_the_tree(table):
    assert table.named_in(table.PAGE.read_text(encoding="utf-8")) == table.tests_by_row(), "run: make reliability"


def test_what_is_read_from_a_run(table, tmp_path):
    tests = tmp_path / "tests" / "losses"
    tests.mkdir(parents=True)
    (tests / "test_x.py").write_text(
        "@pytest.mark.slow\n@pytest.mark.fault(7, 8)\ndef test_both(): ...\ndef test_other(): ...\n"
    )
    found = table.tests_by_row(tmp_path / "tests")
    assert found == {7: ["losses/test_x.py::test_both"], 8: ["losses/test_x.py::test_both"]}
    (tmp_path / "run.xml").write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.losses.test_x" name="test_both[a]"/>'
        '<testcase classname="tests.losses.test_x" name="test_both[b]"><skipped message="no GPU"/></testcase>'
        '<testcase classname="tests.losses.test_x" name="test_both[c]"><failure/></testcase>'
        "</testsuite></testsuites>"
    )
    outcomes = table.read_outcomes(tmp_path / "run.xml")
    assert str(outcomes["losses/test_x.py::test_both"]) == "1 failed, 1 passed, 1 skipped: no GPU"
    rows = [{"row": n, "area": "a", "fault": "x | y", "expectation": "z", "supported": n < 10} for n in (7, 8, 9, 10)]
    text = table.page(rows, found, outcomes)
    assert "4 rows, 1 tests, 3 cases: 1 passed, 1 skipped, 1 failed" in text and "Rows without a test: 9." in text
    assert table.named_in(text) == found
    assert "not supported" in text.splitlines()[-1]
