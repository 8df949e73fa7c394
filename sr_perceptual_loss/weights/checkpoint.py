"""Foreign checkpoints: what lies in them, read without ever running code of theirs.

``torch.load`` is called here, with ``weights_only=True``, and nowhere else in ``weights``. There is no second attempt
without it: whoever makes a file decides whether the first attempt fails, so a fallback would serve an attacker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.disk import SUFFIX, looks_like_html, looks_like_safetensors, safetensors_header

__all__ = ["WRAPPERS", "read_checkpoint", "state_dict_in"]

#: Keys under which training codes keep the weights, the preferred one first (averaged weights before raw ones).
WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict", "model")

# DistributedDataParallel inside torch.compile, and the other way round.
_PREFIXES = ("module.", "_orig_mod.", "module.")
# One dict per part of a network: regressor_model_state_dict, regressor_state_dict.
_PART = re.compile(r"(?P<part>\w+?)(_model)?_state_dict")


class _NumpyType:
    """Stands in for ``numpy.dtype`` while a checkpoint is read; what it was called with is forgotten."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _numpy_number(*_: object) -> None:
    """Stands in for the function that makes a numpy scalar: epochs and losses beside the weights become None."""


#: Training codes leave numpy numbers beside the weights. Of numpy's own code nothing is run: the two names that such a
#: number needs, in the spelling of numpy 1 and 2, lead to the stand-ins above.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumpyType, "numpy.dtype"),
    (_numpy_number, "numpy.core.multiarray.scalar"),
    (_numpy_number, "numpy._core.multiarray.scalar"),
]


def read_checkpoint(path: Path) -> object:
    """The content of a checkpoint; never runs code of it.

    Args:
        path: ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or somebody else's ``.safetensors``.

    Returns:
        What ``torch.save`` was given; numpy numbers come back as None.

    Raises:
        WeightsError: absent, damaged, or it holds anything but tensors and plain values.
    """
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
        with torch.serialization.safe_globals(_STAND_INS):
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


def state_dict_in(
    content: object, path: Path, key: str | None = None, parts: Collection[str] = ()
) -> tuple[dict[str, Tensor], str]:
    """The state dict inside a checkpoint.

    Args:
        content: of the checkpoint.
        path: where it comes from, for the message.
        key: key under which the weights lie; by default the first of :data:`WRAPPERS` that is there.
        parts: names of the network's parts; a checkpoint with one dict per part (``NAME_state_dict`` or
            ``NAME_model_state_dict``) is put together, each entry under its part's name.

    Returns:
        Names and tensors, and the key or keys they lay under (empty for a plain state dict).

    Raises:
        WeightsError: there is none.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a state dict (names and tensors).")
    wrapper = ""
    if key is not None:
        if key not in content:
            raise WeightsError(f"{path}: has no key '{key}'. Its keys: {_some(content)}.")
        content, wrapper = content[key], key
    elif not _is_state(content):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), "")
        pieces = {} if wrapper else _pieces(content, parts)
        if pieces:
            state = {f"{part}.{k}": v for part, name in pieces.items() for k, v in _bare(content[name]).items()}
            return state, ", ".join(pieces.values())
        content = content[wrapper] if wrapper else content
    if not isinstance(content, Mapping) or not _is_state(content):
        where = f" under '{wrapper}'" if wrapper else ""
        names = _some(content) if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(
            f"{path}: no state dict found{where} (holds: {names}); expected names and tensors, plain or under one of "
            f"{', '.join(WRAPPERS)}. Name the right key: srpl convert {path} --key KEY"
        )
    return _bare(content), wrapper


def _pieces(content: Mapping[Any, Any], parts: Collection[str]) -> dict[str, str]:
    """Part of the network -> key of the checkpoint that holds its state dict."""
    found = {}
    for name, value in content.items():
        match = _PART.fullmatch(name) if isinstance(name, str) else None
        if match and match["part"] in parts and isinstance(value, Mapping) and _is_state(value):
            found[match["part"]] = name
    return found


def _bare(content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries without the prefixes of training wrappers."""
    state = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _some(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "") if names else "nothing"
