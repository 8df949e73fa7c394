"""Golden numbers of the published networks: weights and images by formula, and comparison. See README.md."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLDER = Path(__file__).parent
TABLES = {"pos_embed", "cls_token", "h_emb", "w_emb", "relative_position_bias_table"}
SMALL_MATRICES = {"param_generators", "conv_offset", "c_q", "c_k", "fc_weight"}
STAGE_VALUES = 16
SUBSAMPLE = 4096
#: Largest relative error allowed: float64 is the strict check; float32 leaves room for another order of summation.
TOLERANCE = {"f64": 1e-9, "f32": 1e-4}
#: The same for gradients: in float32 a ReLU input or a sampling position may fall on the other side of its kink.
GRADIENT_TOLERANCE = {"f64": 1e-9, "f32": 1e-3}
GRADIENT_L2_TOLERANCE = 1e-2
DTYPE = {"f64": torch.float64, "f32": torch.float32}


def entries(name: str) -> list[dict]:
    """The published state dict of a network: key, shape, rule and check values of every entry."""
    return json.loads((FOLDER / f"{name}.keys.json").read_text())["entries"]


def load(name: str) -> dict[str, np.ndarray]:
    """All golden quantities of a network."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def seeded(key: str, shape: Iterable[int]) -> Tensor:
    """The float64 value of an entry, from its key alone (rules 2 to 8; rule 1, "as constructed", is the caller's)."""
    shape = tuple(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode("utf-8")))
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    parts = key.split(".")
    if parts[-1] == "running_var":
        return 0.5 + base.abs()
    if parts[-1] == "running_mean":
        return 0.1 * base
    if parts[-1] in TABLES:
        return 0.5 * base
    if len(shape) >= 2:
        small = not SMALL_MATRICES.isdisjoint(parts)
        return base * (0.3 if small else 1.0) / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * base if parts[-1] == "weight" else 0.1 * base


def fill(network: nn.Module, name: str) -> list[dict]:
    """Set every entry of a network from its key, in place and in the network's dtype.

    Returns:
        The entries whose value differs from the check values in keys.json (should be none).
    """
    state, wrong = network.state_dict(), []
    for entry in entries(name):
        if entry["rule"] in ("constructed", "alias"):
            continue
        value = seeded(entry["key"], entry["shape"])
        found = (value.flatten()[0].item(), value.sum().item(), value.square().mean().sqrt().item())
        if not np.allclose(found, [entry[k] for k in ("first", "sum", "rms")], rtol=1e-9, atol=1e-9):
            wrong.append(entry)
        state[entry["key"]].copy_(value)
    return wrong


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """(sr, hr), each (2, 3, H, W) float64 in [0, 1] with 8-bit levels."""

    def parts(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        low = torch.rand(2, 3, height // 8, width // 8, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
        return F.interpolate(low, size=(height, width), mode="bilinear", align_corners=False), noise

    def quantise(image: Tensor) -> Tensor:
        return (image.clamp(0, 1) * 255).round() / 255

    (low_a, noise_a), (low_b, noise_b) = parts(1234), parts(5678)
    hr = quantise(low_a + 0.05 * noise_a)
    sr = quantise(0.8 * low_a + 0.2 * low_b + 0.05 * noise_b)
    return sr, hr


def image_hash(images: Tensor) -> str:
    """SHA-256 of a batch as uint8, C order."""
    return hashlib.sha256((255 * images).round().to(torch.uint8).numpy().tobytes()).hexdigest()


def summary(output: Tensor) -> np.ndarray:
    """What is stored of a stage: mean, population standard deviation, first 16 values, NaN where there are fewer."""
    flat = output.detach().double().flatten()
    values = torch.full((2 + STAGE_VALUES,), math.nan, dtype=torch.float64)
    values[0], values[1] = flat.mean(), flat.std(correction=0)
    values[2 : 2 + min(STAGE_VALUES, flat.numel())] = flat[:STAGE_VALUES]
    return values.numpy()


@contextmanager
def record(network: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, np.ndarray]]:
    """Collect the summaries of module outputs as ``module#call`` (``module#call[i]`` for a tuple)."""
    stages: dict[str, np.ndarray] = {}
    calls: dict[str, int] = {}

    def note(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        call = calls[name] = calls.get(name, -1) + 1
        if isinstance(output, Tensor):
            stages[f"{name}#{call}"] = summary(output)
            return
        for i, part in enumerate(output):
            stages[f"{name}#{call}[{i}]"] = summary(part)

    handles = [
        network.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name in modules
    ]
    try:
        yield stages
    finally:
        for handle in handles:
            handle.remove()


def stage_names(golden: Mapping[str, np.ndarray], case: str) -> list[str]:
    """``module#call`` of all stages recorded for a case such as ``128x128.raw.f64``."""
    prefix = f"{case}.stage."
    return [key.removeprefix(prefix) for key in golden if key.startswith(prefix)]


def swap_calls(stage: str, shared: Iterable[str]) -> str:
    """The name under which we see a stage: a module that both images pass sees hr first here, sr first there."""
    name, call = stage.split("#")
    encodes = any(name == prefix or name.startswith(f"{prefix}.") for prefix in shared)
    return f"{name}#{1 - int(call)}" if encodes else stage


def subsample(gradient: Tensor) -> np.ndarray:
    """The 4096 stored elements of a gradient."""
    flat = gradient.detach().flatten()
    return flat[torch.arange(SUBSAMPLE) * flat.numel() // SUBSAMPLE].double().numpy()


def gradient_stats(gradient: Tensor) -> np.ndarray:
    """L2 norm, mean, largest absolute value."""
    flat = gradient.detach().double().flatten()
    return np.array([flat.norm().item(), flat.mean().item(), flat.abs().max().item()])


def error(found: np.ndarray | Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value; infinite where shape or NaN pattern differ."""
    found = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    if found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
        return math.inf
    return float(np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)))


def l2_error(found: Tensor, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    reference = torch.from_numpy(expected).double()
    return float((found.detach().double() - reference).norm() / reference.norm())


def report(errors: Mapping[str, float], limits: float | Mapping[str, float]) -> None:
    """Print the table of errors and raise AssertionError at any that is over its limit.

    Args:
        errors: relative error by quantity.
        limits: one for all, or by quantity.
    """
    limit = {name: limits if isinstance(limits, float) else limits[name] for name in errors}
    for name, value in sorted(errors.items(), key=lambda item: -item[1]):
        print(f"{value:10.2e}  (limit {limit[name]:.0e})  {name}")  # noqa: T201
    over = {name: value for name, value in errors.items() if not value <= limit[name]}
    assert not over, f"{len(over)} of {len(errors)} over the limit: {over}"
