"""The readers under atheris (libFuzzer), where it is installed: pip install '.[fuzz]'."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris (extra fuzz) is not installed; test_files.py covers the same readers")
TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "runs"), [("weights", 20_000), ("labels", 20_000)])
def test_readers(target, runs, tmp_path):
    (tmp_path / "corpus").mkdir()
    command = [sys.executable, "-m", "fuzzing.atheris_targets", target, str(tmp_path / "corpus")]
    done = subprocess.run(
        [*command, f"-runs={runs}", "-seed=1", "-max_len=4096", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found and int(found[1]) >= runs, done.stderr[-500:]
