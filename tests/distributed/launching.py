"""Start a script on several gloo processes and collect what each rank wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

__all__ = ["RANKS", "launch", "written"]

#: Two processes in every run of the suite, four when asked for.
RANKS = [2, pytest.param(4, marks=pytest.mark.slow)]


def launch(script: str, ranks: int, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` (beside this file) under torchrun; a hang ends in TimeoutExpired."""
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [*command, str(Path(__file__).with_name(script)), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tests), **environment},
    )


def written(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank left in ``<rank>.json``."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
