"""One run per results file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.file_lock import file_lock


def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    with file_lock(path):
        with pytest.raises(InputError, match=r"scores.csv"), file_lock(path):
            pass
        with file_lock(tmp_path / "other.csv"), file_lock(None):
            pass
    with file_lock(path):
        pass


def test_a_killed_process_frees_the_lock(tmp_path):
    path = tmp_path / "scores.csv"
    code = (
        "import os, sys; from pathlib import Path; from sr_perceptual_loss.lab.evaluation.file_lock import file_lock\n"
        "with file_lock(Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    with file_lock(path):
        pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), file_lock(tmp_path / "file" / "scores.csv"):
        pass
