"""Time and saved memory of calls, in a way that survives a busy machine.

CPU: process CPU time on one thread, the calls of one comparison interleaved in random order, medians. Only ratios
inside one such run mean anything; absolute times drift with the machine. CUDA: events around each call.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_int
from sr_perceptual_loss.errors import InputError

__all__ = ["SavedBytes", "gradient", "interleaved", "one_thread", "power", "saved_bytes"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for CPU operators inside, what it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gradient(forward: Callable[[Tensor], Tensor], sr: Tensor) -> Tensor:
    """Forward and backward to the image: d sum(forward(sr)) / d sr.

    Args:
        forward: (N, 3, H, W) -> any shape.
        sr: judged images.

    Returns:
        Tensor of the shape of ``sr``.
    """
    own = sr.detach().requires_grad_()
    (result,) = torch.autograd.grad(forward(own).sum(), own)
    return result


def _seconds(call: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1000
    begun = time.process_time()
    call()
    return time.process_time() - begun


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warmup: int = 1,
    seed: int = 0,
    device: str = "cpu",
    each: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call, measured in rounds that run all calls in a new random order.

    Args:
        calls: by name; each runs on one thread.
        repeats: rounds.
        warmup: calls before, of each, not counted.
        seed: of the orders.
        device: where the calls compute; process CPU time for ``cpu``, events for ``cuda``.
        each: called with the name after every call, for progress.

    Returns:
        ``repeats`` numbers by name, in seconds.

    Raises:
        InputError: no calls, or no repeats.
    """
    repeats = as_int("repeats", repeats, minimum=1)
    if not calls:
        raise InputError("interleaved: got no calls, expected at least one to measure.")
    order, shuffled = list(calls), random.Random(seed)
    found: dict[str, list[float]] = {name: [] for name in calls}
    with one_thread():
        for number in range(warmup + repeats):
            shuffled.shuffle(order)
            for name in order:
                seconds = _seconds(calls[name], device)
                if number >= warmup:
                    found[name].append(seconds)
                if each is not None:
                    each(name)
    return found


@dataclass(frozen=True)
class SavedBytes:
    """What autograd saves in one forward pass, as bytes of distinct storages.

    Attributes:
        kept: alive between forward and backward.
        recorded: kept, and what was saved for results that nobody used and freed before the end of the forward pass.
    """

    kept: int
    recorded: int


class _Box:
    """What autograd holds in place of the tensor; dies with the node of the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(forward: Callable[[], Tensor], held: Iterable[Tensor] = ()) -> SavedBytes:
    """Bytes of distinct storages that autograd saves, seen through saved-tensor hooks.

    Tensors that an autograd Function keeps by itself, past ``save_for_backward``, are not seen.

    Args:
        forward: makes the graph; its result is held while the bytes are counted.
        held: tensors that exist anyway (parameters, buffers): their storages do not count.

    Returns:
        The bytes; the same for every run of the same code.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in held}
    boxes: WeakSet[_Box] = WeakSet()
    # Held until the end: a freed storage would give its address to the next one.
    seen: list[Tensor] = []

    def pack(tensor: Tensor) -> _Box:
        # Detached, so that the list of what was seen keeps no graph alive.
        box = _Box(tensor.detach())
        boxes.add(box)
        seen.append(box.tensor)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        result = forward()
    kept = _distinct([box.tensor for box in boxes], own)
    recorded = _distinct(seen, own)
    del result
    return SavedBytes(kept, recorded)


def _distinct(tensors: Iterable[Tensor], own: set[int]) -> int:
    storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}
    return sum(size for place, size in storages.items() if place not in own)


def power(points: Mapping[int, float]) -> float | None:
    """Exponent p of value = c * x^p, by least squares of the logarithms.

    Args:
        points: positive values by x > 0.

    Returns:
        p, or None for fewer than two points.
    """
    if len(points) < 2:
        return None
    logs = torch.tensor(sorted(points.items()), dtype=torch.float64).log()
    return float(statistics.linear_regression(logs[:, 0].tolist(), logs[:, 1].tolist()).slope)
