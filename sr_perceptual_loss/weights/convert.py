"""A published checkpoint -> our file. Opt-in, and never with a loader that can run code (see ``checkpoint.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.absolute import recognise
from sr_perceptual_loss.weights.checkpoint import read_checkpoint, state_dict_in
from sr_perceptual_loss.weights.container import save
from sr_perceptual_loss.weights.disk import safetensors_header, sha256_of
from sr_perceptual_loss.weights.matching import Storable, Suggest, drop_aliases, load_state, parts_of

__all__ = ["ConversionReport", "convert"]


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
        key: key under which the weights lie; by default the first known one that is there.
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
        WeightsError: not a checkpoint, holds anything but tensors and plain values, does not fit the critic, or is a
            known file of another metric that only fits it (see ``warm_start.py``).
    """
    path = as_path(checkpoint)
    content = read_checkpoint(path)
    source_sha256 = sha256_of(path)
    _refuse_absolute(path, source_sha256, critic)
    published, wrapper = state_dict_in(content, path, key, parts_of(critic))
    source = f"{path} [{wrapper}]" if wrapper else str(path)
    # Before and after: the aliases may be written in the published layout only.
    state = drop_aliases(published, critic.aliases, source)
    state = (remap or critic.remap_official)(state)
    own = critic.state_dict()
    dropped = tuple(k for k in state if k not in own and k.startswith(critic.unused)) if critic.unused else ()
    start = f" To start a training from it, random where it is incomplete: {_warm_start(path, critic)}"
    incomplete = start if critic.card.relative else ""
    load_state(critic, {k: v for k, v in state.items() if k not in dropped}, source, suggest, incomplete)
    out = as_path(out)
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


def _refuse_absolute(path: Path, sha256: str, critic: Storable) -> None:
    """A file that is known to hold another metric may fit entry by entry; its scores would be taken for differences."""
    known = recognise(path.name, sha256)
    if known is None or known.critic != critic.card.name:
        return
    raise WeightsError(
        f"{path}: is {known.what}, which predicts absolute quality, not how much better an image is than its "
        f"reference: scores of '{critic.card.name}' with it would mean something else. To start a training from it: "
        f"{_warm_start(path, critic)}"
    )


def _warm_start(path: Path, critic: Storable) -> str:
    return f"srpl convert {path} --critic {critic.card.name} --warm-start"
