"""Real-ESRGAN's models, and HAT's Real models, without a GPU: for a check, not part of the package.

``srpl basicsr --import cuda_on_cpu ...`` with this folder on PYTHONPATH. Two things of theirs need a GPU whatever
``num_gpu`` is: they call ``.cuda()``, and their blur takes a view of a padded image that is contiguous on a GPU only.
"""

from __future__ import annotations

from typing import Any

import torch
from basicsr.utils import DiffJPEG
from torch import Tensor

_jpeg = DiffJPEG.forward


def _stay(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


def _contiguous_jpeg(self: DiffJPEG, x: Tensor, quality: Tensor) -> Tensor:
    return _jpeg(self, x, quality).contiguous()


if not torch.cuda.is_available():
    torch.Tensor.cuda = _stay  # type: ignore[method-assign, assignment]  # nn.Module.cuda calls it
    DiffJPEG.forward = _contiguous_jpeg
