"""A published checkpoint -> our file. Opt-in, and never with a loader that can run code.

``torch.load`` is called here, with ``weights_only=True``, and nowhere else in ``weights``. There is no second attempt
without it: whoever makes a file decides whether the first attempt fails, so a fallback would serve an attacker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sr_perceptual_loss._checks import WeightsError
from sr_perceptual_loss.weights.container import save
from sr_perceptual_loss.weights.disk import (
    SUFFIX,
    looks_like_html,
    looks_like_safetensors,
    safetensors_header,
    sha256_of,
)
from sr_perceptual_loss.weights.matching import Storable, Suggest, drop_aliases, load_state

__all__ = ["WRAPPERS", "ConversionReport", "convert"]

#: Keys under which training codes keep the weights, the preferred one first (averaged weights before raw ones).
WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict", "model")

# DistributedDataParallel inside torch.compile, and the other way round.
_PREFIXES = ("module.", "_orig_mod.", "module.")


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        out: the written file.
        sha256: of the written file.
        entries: number of entries in it.
        wrapper: key under which the weights lay in the checkpoint, empty for a plain state dict.
        dropped: published entries that never influence the score and were left out.
        source_sha256: of the checkpoint.
    """

    out: Path
    sha256: str
    entries: int
    wrapper: str
    dropped: tuple[str, ...]
    source_sha256: str


def convert(
    checkpoint: str | Path,
    critic: Storable,
    out: str | Path,
    *,
    key: str | None = None,
    remap: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
    suggest: Suggest | None = None,
    training: str = "",
    training_data: str = "",
    licence: str = "",
    commercial_use: bool | None = None,
    origin: str = "",
) -> ConversionReport:
    """Convert a checkpoint of the reference code, or of one's own training, into one ``.safetensors`` file.

    Args:
        checkpoint: ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or somebody else's ``.safetensors``.
        critic: network of the right size; filled in place.
        out: file to write.
        key: key under which the weights lie; by default the first of :data:`WRAPPERS` that is there.
        remap: published key layout -> ours; the critic's own ``remap_official`` by default.
        suggest: names the critic that a set of keys looks like, for the error message.
        training: summary for the header.
        training_data: for the header.
        licence: for the header.
        commercial_use: for the header.
        origin: for the header.

    Returns:
        A report.

    Raises:
        WeightsError: not a checkpoint, holds anything but tensors and plain values, or does not fit the critic.
    """
    path = Path(checkpoint).expanduser()
    content = _load(path)
    source_sha256 = sha256_of(path)
    published, wrapper = _unwrap(content, key, path)
    source = f"{path} [{wrapper}]" if wrapper else str(path)
    # Before and after: the aliases may be written in the published layout only.
    state = drop_aliases(published, critic.aliases, source)
    state = (remap or critic.remap_official)(state)
    own = critic.state_dict()
    dropped = tuple(k for k in state if k not in own and k.startswith(critic.unused)) if critic.unused else ()
    load_state(critic, {k: v for k, v in state.items() if k not in dropped}, source, suggest)
    out = Path(out).expanduser()
    sha256 = save(
        critic,
        out,
        training=training,
        training_data=training_data,
        licence=licence,
        commercial_use=commercial_use,
        origin=origin,
        source_sha256=source_sha256,
    )
    entries = sum(name != "__metadata__" for name in safetensors_header(out))
    left = tuple(sorted({*dropped, *_left_out(published, state, critic.unused)}))
    return ConversionReport(out, sha256, entries, wrapper, left, source_sha256)


def _left_out(published: Mapping[str, Tensor], state: Mapping[str, Tensor], unused: tuple[str, ...]) -> set[str]:
    """Unused entries that the critic's own ``remap_official`` has dropped already."""
    return {key for key in published if key not in state and key.startswith(unused)} if unused else set()


def _load(path: Path) -> object:
    """The content of a checkpoint; never runs code of it."""
    if not path.exists():
        raise WeightsError(f"{path}: no such file. Give the path of the downloaded checkpoint.")
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder, expected a checkpoint file; give the path of the file inside it.")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise WeightsError(f"{path}: is empty (0 bytes), probably an interrupted download. Download it again.")
    if looks_like_html(head):
        raise WeightsError(
            f"{path}: is a web page (HTML), not a checkpoint: the download saved an error or login page. Download the "
            "file itself (on the hub: the /resolve/ address, not /blob/)."
        )
    if path.suffix == SUFFIX or looks_like_safetensors(head, path.stat().st_size):
        return _load_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or cut file may raise anything; whatever it is, there is no second attempt
        raise WeightsError(f"{path}: {_why_not(error)}") from None


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    metadata = safetensors_header(path).get("__metadata__")
    if isinstance(metadata, dict) and "srpl.format" in metadata:
        raise WeightsError(f"{path}: is a file of this package already; use it as it is: weights: {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged safetensors file ({error}). Get it again.") from None


def _why_not(error: Exception) -> str:
    """Why a checkpoint was refused, without torch's own advice to load it unsafely."""
    text = " ".join(str(error).split())
    blocked = re.search(r"GLOBAL ([\w.]*\w)", text)
    if blocked:
        return (
            f"refused: it asks for the Python object '{blocked[1]}', which may run code when the file is opened; "
            "expected tensors and plain values only. Nothing of it was executed and there is no unsafe fallback. Ask "
            "its authors for a plain state dict or a .safetensors file, or export one in a sandbox: "
            "torch.save(model.state_dict(), FILE)."
        )
    detail = type(error).__name__ if "weights_only" in text or not text else f"{type(error).__name__}: {text[:200]}"
    return (
        f"no checkpoint that can be read safely ({detail}); expected a file of torch.save with tensors and plain "
        "values. It may be damaged (compare its size and SHA-256 with the published ones) or a whole pickled module, "
        "for which there is no unsafe fallback."
    )


def _unwrap(content: object, key: str | None, path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict inside a checkpoint and the key it lay under."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a state dict (names and tensors).")
    wrapper = ""
    if key is not None:
        if key not in content:
            raise WeightsError(f"{path}: has no key '{key}'. Its keys: {_some(content)}.")
        content, wrapper = content[key], key
    elif not _is_state(content):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), "")
        content = content[wrapper] if wrapper else content
    if not isinstance(content, Mapping) or not _is_state(content):
        where = f" under '{wrapper}'" if wrapper else ""
        names = _some(content) if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(
            f"{path}: no state dict found{where} (holds: {names}); expected names and tensors, plain or under one of "
            f"{', '.join(WRAPPERS)}. Name the right key: srpl convert {path} --key KEY"
        )
    state = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state, wrapper


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _some(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "") if names else "nothing"
