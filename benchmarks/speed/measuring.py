"""Time and memory of calls, in a way that tolerates a busy machine.

CPU time: process time on one thread; the calls of one comparison are interleaved in random order, and medians are
compared. Only ratios inside one such run mean anything. CUDA: events around each call.

Peak memory on a CPU: the resident high-water mark of this process, reset before the call, minus the memory before it.
Linux only; it includes the libraries' scratch memory. CUDA: the allocator's peak.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

__all__ = ["gradient", "interleaved", "one_thread", "peak_memory", "power", "saved_bytes"]

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for CPU operators inside, the earlier number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gradient(forward: Callable[[Tensor], Tensor], sr: Tensor) -> Tensor:
    """Gradient of sum(forward(sr)) to ``sr``."""
    image = sr.detach().requires_grad_()
    (result,) = torch.autograd.grad(forward(image).sum(), image)
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
        warmup: rounds before, not counted.
        seed: of the orders.
        device: where the calls compute.
        each: called with the name after every call, for progress.

    Returns:
        ``repeats`` numbers by name, in seconds.
    """
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


class SavedBytes(NamedTuple):
    """Bytes of distinct storages: kept between forward and backward; and with what was freed before."""

    kept: int
    recorded: int


class _Box:
    """What autograd stores in place of the tensor; freed with the node of the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(forward: Callable[[], Tensor], existing: Iterable[Tensor] = ()) -> SavedBytes:
    """Bytes of distinct storages that autograd saves, counted with saved-tensor hooks.

    Args:
        forward: makes the graph; its result is alive while the bytes are counted.
        existing: parameters and buffers, whose storages do not count.

    Returns:
        ``kept`` between forward and backward, and ``recorded``: kept, or saved for results that nobody used.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in existing}
    boxes: WeakSet[_Box] = WeakSet()
    # All of them stay alive until the end: a freed storage would give its address to the next one.
    seen: list[Tensor] = []

    def pack(tensor: Tensor) -> _Box:
        # Detached, so that this list keeps no graph alive.
        box = _Box(tensor.detach())
        boxes.add(box)
        seen.append(box.tensor)
        return box

    def distinct(tensors: Iterable[Tensor]) -> int:
        storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}
        return sum(size for address, size in storages.items() if address not in excluded)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        result = forward()
    counted = SavedBytes(distinct([box.tensor for box in boxes]), distinct(seen))
    del result
    return counted


def peak_memory(call: Callable[[], object], device: str = "cpu") -> int | None:
    """Bytes by which a call raises the memory at its highest, after a warm call.

    Args:
        call: run twice; the second run counts.
        device: ``cpu`` or ``cuda...``.

    Returns:
        Bytes, or None where the system cannot tell (no Linux, or a container that forbids the reset).
    """
    if device.startswith("cuda"):
        call()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not (RESET.exists() and STATUS.exists()):
        return None
    call()
    gc.collect()
    # Freed blocks that malloc keeps would hide what the call takes anew.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        RESET.write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def power(points: Mapping[int, float]) -> float | None:
    """Exponent p of value = c * x^p by least squares of the logarithms; None for fewer than two points."""
    if len(points) < 2:
        return None
    logs = torch.tensor(sorted(points.items()), dtype=torch.float64).log()
    return float(statistics.linear_regression(logs[:, 0].tolist(), logs[:, 1].tolist()).slope)
