"""Real photographs in the folders that the hosts' data sets want: links where the files fit, bicubic LR where not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sr_perceptual_loss.integrations.basicsr_shim import install_shims

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import small_sr  # noqa: E402 - the examples' network, crops and measurements

SCALE = small_sr.SCALE
#: Title -> folder of ../shared/data.
SETS = {"Set5": "Set5", "Set14": "Set14_x4", "BSD100": "BSD100_x4"}
OUT = ROOT / "runs" / "hosts"


def _link(source: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.exists():
        name.symlink_to(source.resolve())


def test_set(data: Path, title: str) -> tuple[Path, Path]:
    """(HR folder, LR folder) of a x4 test set, equal file names in both."""
    folder, out = data / SETS[title], OUT / "data" / title
    pairs = [(p, p.with_name(p.name.replace("_HR", "_LR"))) for p in sorted(folder.glob("*_SRF_4_HR.png"))]
    pairs += [(p, folder / "LR_bicubic" / "X4" / f"{p.stem}x4.png") for p in sorted(folder.glob("HR/*.png"))]
    if not pairs:
        raise SystemExit(f"{folder}: no x4 pairs found")
    for hr, lr in pairs:
        _link(hr, out / "HR" / hr.name)
        _link(lr, out / "LR" / hr.name)
    return out / "HR", out / "LR"


def training_set(data: Path) -> tuple[Path, Path]:
    """(HR folder, LR folder) of CID22's photographs; LR by BasicSR's MATLAB-like bicubic reduction, made once."""
    install_shims()
    from basicsr.utils.matlab_functions import imresize

    out = OUT / "data" / "cid22"
    for path in sorted((data / "cid22_512_train").glob("*.png")):
        target = out / "LR" / path.name
        _link(path, out / "HR" / path.name)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        small = imresize(np.array(Image.open(path).convert("RGB")).astype(np.float32) / 255, 1 / SCALE)
        Image.fromarray((np.clip(small, 0, 1) * 255).round().astype(np.uint8)).save(target)
    return out / "HR", out / "LR"
