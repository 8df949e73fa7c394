"""A few small photographs and a made-up label list: what a training of rqi_lite needs, in seconds."""

from __future__ import annotations

import torch
import yaml
from pairs import make_pair
from torchvision.transforms.functional import to_pil_image

from sr_perceptual_loss.training.lite.measures import Fusion

#: Like KADID-10k's own means for these: blur, white noise, mean shift (signed order), contrast (signed order).
MEANS = {
    1: (4.61, 4.38, 2.91, 1.87, 1.30),
    11: (3.9, 3.4, 3.0, 2.7, 2.3),
    18: (4.22, 4.52, 4.60, 4.37, 3.90),
    25: (3.42, 3.86, 4.29, 4.14, 3.32),
}


def score(kind, level, scene=1):
    """Published means where they are known, otherwise falling with the level; scenes differ by 0.2 around them."""
    mean = MEANS.get(kind, tuple(4.5 - 0.6 * step for step in range(5)))[level - 1]
    return 1.0 if scene == 3 else mean + (0.1 if scene == 1 else -0.1)


def write_labels(path):
    """KADID-10k's own form, three scenes; I03 is at the very bottom and must be left out."""
    lines = ["dist_img,ref_img,dmos,var"]
    for scene in (1, 2, 3):
        for kind in range(1, 26):
            for level in range(1, 6):
                lines.append(f"I0{scene}_{kind:02d}_{level:02d}.png,I0{scene}.png,{score(kind, level, scene):.3f},0.1")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_photographs(folder, count=6, side=72):
    folder.mkdir(parents=True)
    for seed in range(count):
        image = make_pair(1, side, side + 8, seed=seed)[1][0]
        to_pil_image((image * 255).round().to(torch.uint8)).save(folder / f"p{seed}.png")
    return folder


#: Fused measure as a calibration would give it, so that tests need not fit one.
FUSION = Fusion((0.8, 0.0, 0.2, 0.5, 0.0, 0.0), {(kind, level): 0.5 for kind in (1, 103) for level in range(1, 6)})


def content(root, **sections):
    """Content of a training file that takes seconds."""
    found = {
        "scheme": "synthetic",
        "out": str(root / "run"),
        "critic": {"widths": [6, 8, 12], "depths": [1, 1, 1], "dim": 16, "blocks": 1, "heads": 2},
        "data": {
            "photos": [str(root / "photos")],
            "labels": str(root / "labels.csv"),
            "leave_out": ["I03"],
            "held_out_photos": 0.34,
            "held_out_types": [3, 107],
        },
        "groups": {"count": 2, "versions": 5, "sides": [64], "networks": 0.3},
        "pairs": {"per_group": 4},
        "optimizer": {"lr": 1e-3, "warmup": 2, "average": 0.5},
        "attack": {
            "start": 1, "pool": 12, "pairs": 3, "pixels": 2, "pixel_images": 2, "pixel_steps": 2, "networks": 1,
            "restart": 2, "patterns": 2, "shift": 0, "rescale": 1.0, "penalty": 0.01, "penalty_every": 2,
        },
        "validation": {"groups": 2, "versions": 6, "side": 64, "every": 100, "attacked": 1},
        "steps": 4,
        "checkpoint": 100,
        "device": "cpu",
        "log_every": 1,
    }  # fmt: skip
    for name, value in sections.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    return found


def write_run(root, **sections):
    """Photographs, labels, calibration and training file below ``root``; the path of the file."""
    if not (root / "photos").exists():
        write_photographs(root / "photos")
        write_labels(root / "labels.csv")
    settings = content(root, **sections)
    out = root / settings["out"]
    settings["out"] = str(out)
    out.mkdir(parents=True, exist_ok=True)
    FUSION.save(out / "calibration.json")
    path = root / f"{out.name}.yml"
    path.write_text(yaml.safe_dump(settings))
    return path
