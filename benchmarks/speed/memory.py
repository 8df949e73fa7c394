"""Peak memory of one forward and backward pass.

CPU: the resident high-water mark of a fresh process, reset before the call, minus where it stood, after a warm call.
Linux only; includes the libraries' scratch memory. CUDA: the allocator's own peak, in this process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from speed.calibrating import pictures
from speed.cases import FORMS, build_subjects
from speed.measuring import gradient, one_thread

__all__ = ["cuda_peak", "peak_in_subprocess", "resident_peak"]

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def resident_peak(call: Callable[[], object]) -> int | None:
    """Bytes by which a call raises the resident memory of this process at its highest, after a warm call.

    Args:
        call: run twice; the second run counts.

    Returns:
        Bytes, or None where the system cannot tell (no Linux, or a container that forbids the reset).
    """
    if not (_RESET.exists() and _STATUS.exists()):
        return None
    call()
    gc.collect()
    # Freed blocks that malloc keeps would hide what the call takes anew.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def cuda_peak(call: Callable[[], object], device: str) -> int:
    """Bytes that a call takes from CUDA's allocator at its highest, after a warm call.

    Args:
        call: run twice; the second run counts.
        device: such as ``cuda:0``.

    Returns:
        Bytes.
    """
    call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_in_subprocess(name: str, form: str, side: int, batch: int, *, critic_size: str = "full") -> int | None:
    """:func:`resident_peak` of one subject with random weights, in a fresh process.

    Args:
        name: critic or rival.
        form: one of ``FORMS``, or ``rival``.
        side: image side.
        batch: images.
        critic_size: ``full`` or ``tiny``.

    Returns:
        Bytes, or None where it cannot be measured.

    Raises:
        RuntimeError: the process failed; the message ends with its last line.
    """
    command = [sys.executable, "-m", __name__, json.dumps([name, form, side, batch, critic_size])]
    # Every larger block is mapped by itself and given back when freed, so that the mark shows what is alive.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"peak memory of {name} ({form}) at {side}, batch {batch}: {last}")
    found: int | None = json.loads(done.stdout)
    return found


def _main(spec: str) -> str:
    name, form, side, batch, critic_size = json.loads(spec)
    rival = form not in FORMS
    subjects = build_subjects(
        () if rival else (name,),
        (name,) if rival else (),
        forms=tuple(FORMS) if rival else (form,),
        critic_size=critic_size,
        calibrated=False,
    )
    sr, hr = pictures(batch, side)
    forward = subjects[0].bind(hr)
    with one_thread():
        return json.dumps(resident_peak(lambda: gradient(forward, sr)))


if __name__ == "__main__":
    sys.stdout.write(_main(sys.argv[1]))
