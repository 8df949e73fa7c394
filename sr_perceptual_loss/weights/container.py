"""Our weights file: one self-contained safetensors file per critic, described in its own header.

Reading looks at the bytes before it trusts them: pickles, web pages, cut and padded files are refused by name, and
nothing is ever unpickled. Writing goes to a temporary file first, so an interrupted run leaves no half file behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_perceptual_loss import __version__
from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.disk import SUFFIX, atomic_path, safetensors_header, sha256_of, what_is
from sr_perceptual_loss.weights.matching import Storable, Suggest, load_state, own_entries, refuse_non_finite

__all__ = ["WeightsFile", "load_weights", "read", "save"]

FORMAT = "1"


@dataclass(frozen=True)
class WeightsFile:
    """A weights file in memory.

    Attributes:
        path: where it was read from.
        critic: name of the critic it belongs to.
        config: constructor arguments of that critic.
        state: entries of its state dict, without aliases.
        metadata: the whole header, ``srpl.*`` keys.
        sha256: of the file.
    """

    path: Path
    critic: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def read(path: str | Path) -> WeightsFile:
    """Read a ``.safetensors`` file written by :func:`save`.

    Args:
        path: the file; ``~`` is expanded.

    Returns:
        Its content; nothing has been checked against a network yet.

    Raises:
        WeightsError: not found, not ours, damaged, or a format that could run code when opened.
    """
    path = as_path(path)
    foreign = what_is(path)
    if foreign:
        raise WeightsError(f"{path}: {foreign}")
    header = safetensors_header(path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or "srpl.format" not in metadata or "srpl.critic" not in metadata:
        names = [key for key in header if key != "__metadata__"]
        raise WeightsError(
            f"{path}: a safetensors file, but not one of this package: its header has no 'srpl.format' "
            f"and 'srpl.critic' (entries: {', '.join(names[:5]) or 'none'}). If it holds weights of a critic, "
            f"convert it once: srpl convert {path} --critic NAME"
        )
    odd = [key for key, value in metadata.items() if not isinstance(value, str)]
    if odd:
        raise WeightsError(f"{path}: '{odd[0]}' in its header is no text: a damaged file. Fetch or convert it again.")
    if metadata["srpl.format"] != FORMAT:
        raise WeightsError(
            f"{path}: written in format {metadata['srpl.format']!r} by sr_perceptual_loss "
            f"{metadata.get('srpl.version', '?')}; this version ({__version__}) reads format {FORMAT!r}. "
            "Upgrade the package."
        )
    config = _config(path, metadata.get("srpl.config", "{}"))
    digest = sha256_of(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged safetensors file ({error}). Delete it and fetch or convert it again."
        ) from None
    return WeightsFile(path, metadata["srpl.critic"], config, state, dict(metadata), digest)


def save(
    critic: Storable,
    path: str | Path,
    *,
    training: str = "",
    training_data: str = "",
    licence: str = "",
    commercial_use: bool | None = None,
    origin: str = "",
    source_sha256: str = "",
) -> str:
    """Write a critic's weights as one self-contained file; an existing file is replaced in one step.

    Args:
        critic: the critic; its aliases are left out, since reading fills them in again.
        path: file to write, ``.safetensors``; missing folders are made.
        training: summary of how the weights were trained.
        training_data: what they were trained on.
        licence: licence of the weights.
        commercial_use: True, False, or None where nobody has said.
        origin: who made them, in one sentence.
        source_sha256: SHA-256 of the checkpoint they were converted from.

    Returns:
        SHA-256 of the written file.

    Raises:
        WeightsError: NaN or infinity in the weights, or the place cannot be written.
        InputError: another suffix, or constructor arguments that JSON cannot hold.
    """
    path = as_path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: got the suffix {path.suffix!r}, expected a file name that ends in {SUFFIX}.")
    config = _config_text(critic)
    state = own_entries(critic)
    refuse_non_finite(state, f"{critic.card.name} (not saved)")
    metadata = {
        "srpl.format": FORMAT,
        "srpl.critic": critic.card.name,
        "srpl.config": config,
        "srpl.version": __version__,
        "srpl.training": training,
        "srpl.training_data": training_data,
        "srpl.licence": licence,
        "srpl.commercial_use": {True: "yes", False: "no", None: "unknown"}[commercial_use],
        "srpl.origin": origin,
        "srpl.source_sha256": source_sha256,
    }
    with atomic_path(path) as temporary:
        save_file(_separate(state), temporary, metadata=metadata)
    return sha256_of(path)


def load_weights(critic: Storable, path: str | Path, *, suggest: Suggest | None = None) -> WeightsFile:
    """Fill a critic with the weights of a file; every entry must fit.

    Args:
        critic: filled in place.
        path: ``.safetensors`` file written by ``save_weights`` or ``srpl convert``.
        suggest: names the critic that a set of keys looks like, for the error message.

    Returns:
        The file, for its metadata.

    Raises:
        WeightsError: damaged, of another critic, or of the same critic with other constructor arguments.
    """
    file = read(path)
    name = critic.card.name
    if file.critic != name:
        raise WeightsError(f"{file.path} holds weights of the critic '{file.critic}', not '{name}'.")
    config = _config(file.path, _config_text(critic))
    if file.config != config:
        differ = sorted(k for k in {*file.config, *config} if file.config.get(k) != config.get(k))
        raise WeightsError(
            f"{file.path}: saved with "
            + ", ".join(f"{k}={file.config.get(k)!r}" for k in differ)
            + "; this critic was built with "
            + ", ".join(f"{k}={config.get(k)!r}" for k in differ)
            + f". Build it from the file instead: create_critic('{name}', weights='{file.path}')."
        )
    load_state(critic, file.state, source=str(file.path), suggest=suggest)
    return file


def _config_text(critic: Storable) -> str:
    try:
        return json.dumps(critic.config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{critic.card.name}: its constructor arguments cannot be stored ({error}); "
            "they must be plain numbers, strings, booleans, lists and tuples."
        ) from None


def _config(path: Path, text: str) -> dict[str, Any]:
    """Constructor arguments from JSON; lists become the tuples they were."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: 'srpl.config' in its header is no valid JSON ({error}). Convert or save it again."
        ) from None
    if not isinstance(config, dict):
        raise WeightsError(
            f"{path}: 'srpl.config' holds {type(config).__name__}, expected an object. Convert it again."
        )
    return {str(key): _tuples(value) for key, value in config.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies without shared storage, which safetensors refuses."""
    seen: set[int] = set()
    out = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        out[key] = tensor
    return out
