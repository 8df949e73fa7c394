"""The scripts' folders on the path, as `python benchmarks/...` has them."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [path for path in (str(ROOT / "benchmarks"), str(ROOT / "examples")) if path not in sys.path]
