"""Construction of critics apart from the settings of the program around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["plain_construction"]


class _NoMetaDevice(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        to_meta = func is Tensor.to and "meta" in map(str, args[1:])
        return args[0] if to_meta else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def plain_construction() -> Iterator[None]:
    """Tensors made inside are float32, on the CPU and fit for training, whatever the program around it has set.

    That may be a default dtype or device, ``torch.device("meta")``, inference mode, autocast, or accelerate's
    ``init_empty_weights``, which replaces ``register_parameter``.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if nn.Module.register_parameter.__module__ != nn.Module.__module__:
            stack.enter_context(_NoMetaDevice())
        stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:  # all threads share it
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
