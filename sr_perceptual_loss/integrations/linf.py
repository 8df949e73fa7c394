"""LINF (CVPR 2023): our losses beside its ``vgg_l``, for its value range, its coordinates and its data sets.

LINF is plain PyTorch without registries or hooks, so a few lines go by hand into ``train`` and ``train_sep`` of its
``train.py`` (``docs/hosts/linf.md``). Its default wrapper draws *single pixels* of the HR crop and reshapes them to
48 x 48, which is no image; :class:`LINFPerceptual` finds that in the coordinates and raises an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from sr_perceptual_loss.checks import as_float, as_int
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.base import PairLoss

__all__ = ["CropPairs", "LINFPerceptual", "check_image_grid", "grid_coordinates", "register"]


def grid_coordinates(height: int, width: int) -> Tensor:
    """Centres of the pixels of an image whose corners are -1 and 1: (2 i + 1) / n - 1.

    Returns:
        (height, width, 2), row coordinate first, as LINF and LIIF have it.
    """
    rows, columns = ((2 * torch.arange(n, dtype=torch.float32) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def check_image_grid(coord: Tensor) -> None:
    """Raise InputError unless points (N, H, W, 2) are neighbouring pixels of one image, in order.

    The wrappers of LINF without ``-crop`` draw scattered points.
    """
    if coord.dim() != 4 or coord.shape[-1] != 2:
        raise InputError(f"coord: got shape {tuple(coord.shape)}, expected (N, H, W, 2) as LINF's wrappers give it.")
    # In a grid, rows depend on i alone and columns on j alone, in equal positive steps; each image has its own scale.
    rows, columns = coord[..., 0], coord[..., 1]
    bent = float((rows - rows[:, :, :1]).abs().max()) + float((columns - columns[:, :1]).abs().max())
    steps = [rows[:, :, 0].diff(dim=1), columns[:, 0].diff(dim=1)]
    even = all(s.numel() == 0 or (float(s.min()) > 0 and float((s - s[:, :1]).abs().max()) < 1e-4) for s in steps)
    if bent > 1e-4 or not even:
        raise InputError(
            "coord: the points are no image: LINF's default wrapper draws single pixels of the HR crop. Use a wrapper "
            "that cuts crops: 'sr-implicit-downsampled-fast-crop' (with --patch: '...-crop-patch'), or 'srpl-crop'. "
            "LINF appends '-crop' only where loss_weight.vgg > 0."
        )


class LINFPerceptual(nn.Module):
    """Our losses on one sample of LINF: clamp(query_rgb * div + sub, 0, 1) against ``batch['gt']``.

    All losses see the same sample, so that their gradients can be compared and balanced.

    Args:
        losses: name -> loss; each applies its own ``loss_weight``.
        sub: of ``data_norm.gt`` in LINF's YAML; a number or one per channel.
        div: of ``data_norm.gt``.
        temperature: of the sample; LINF takes 0.8 for its VGG term and 0 (no noise) for its pixel term.
        patch: LINF's ``--patch``, 0 without; there the network gives the residual to the bilinear enlargement.
        clamp: cut to [0, 1] as LINF's VGG term does: no gradient where a channel is outside. False lets it through.
    """

    def __init__(
        self,
        losses: Mapping[str, PairLoss],
        *,
        sub: float | Sequence[float] = 0.5,
        div: float | Sequence[float] = 0.5,
        temperature: float = 0.8,
        patch: int = 0,
        clamp: bool = True,
    ) -> None:
        super().__init__()
        for name, loss in losses.items():
            if not isinstance(loss, PairLoss):
                raise InputError(f"losses: '{name}' is a {type(loss).__name__}, expected CriticLoss, SSIMLoss, ...")
        if not losses:
            raise InputError("losses: got none, expected a mapping such as {'haarpsi': CriticLoss('haarpsi')}.")
        self.names = tuple(losses)
        self.members = nn.ModuleList(losses.values())
        self.temperature = as_float("temperature", temperature, minimum=0.0)
        self.patch = as_int("patch", patch)
        self.clamp = bool(clamp)
        self.sub, self.div = (
            [as_float(name, number) for number in (value if isinstance(value, list | tuple) else [value])]
            for name, value in (("sub", sub), ("div", div))
        )
        #: Detached values of the last call: ``<name>`` (weighted), ``score_<name>``.
        self.terms: dict[str, Tensor] = {}

    def step(self, iteration: int) -> None:
        """Set the iteration of the coming optimizer step; in ``train_sep``, that of the image losses."""
        for loss in self.members:
            loss.step(iteration)  # type: ignore[operator]

    def image(self, pred: Tensor) -> Tensor:
        """(N, 3, H, W) in LINF's range, (RGB - sub) / div -> RGB in [0, 1]."""
        shape = (1, -1, 1, 1)
        rgb = pred * pred.new_tensor(self.div).view(shape) + pred.new_tensor(self.sub).view(shape)
        return rgb.clamp(0, 1) if self.clamp else rgb

    def sample(self, model: nn.Module, inp: Tensor, feat: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """One RGB sample (N, 3, H, W) in [0, 1], as LINF's VGG term makes it.

        ``inp`` is the LR batch (N, 3, h, w) in LINF's range, and ``feat`` the result of ``model("gen_feat", inp=inp)``.
        ``batch`` is what the wrapper gave: ``coord``, ``cell``; with patches ``interpolate_coord`` as well.
        """
        pixels = "interpolate_coord" if self.patch else "coord"
        if pixels not in batch:
            raise InputError(f"batch: no '{pixels}'; with --patch use a wrapper that ends in '-crop-patch'.")
        check_image_grid(batch[pixels])
        pred = model(
            "query_rgb", inp=inp, feat=feat, coord=batch["coord"], cell=batch["cell"], temperature=self.temperature
        )
        if self.patch:
            where = batch["interpolate_coord"].flip(-1)
            pred = pred + F.grid_sample(inp, where, mode="bilinear", padding_mode="border", align_corners=False)
        return self.image(pred)

    def forward(self, model: nn.Module, inp: Tensor, feat: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Sum of the losses on one :meth:`sample`, a 0-d tensor.

        Args are those of :meth:`sample`; ``batch`` contains ``gt`` as well, (N, 3, H, W) RGB in [0, 1] (LINF normalises
        a copy). Raises InputError for scattered pixels or sizes that differ, NonFiniteError naming the loss.
        """
        rgb = self.sample(model, inp, feat, batch)
        total = rgb.new_zeros(())
        self.terms = {}
        for name, loss in zip(self.names, self.members, strict=True):
            total = total + loss(rgb, batch["gt"])
            terms: dict[str, Tensor] = loss.terms  # type: ignore[assignment]
            self.terms[name] = terms["loss"]
            if "score" in terms:
                self.terms[f"score_{name}"] = terms["score"]
        return total


class CropPairs(Dataset[dict[str, Tensor]]):
    """Crops for image losses in LINF's batch layout, with their own sizes and range of scales.

    LINF's ``-crop`` wrappers use ``inp_size`` as LR size *and* size of the HR crop and draw the scale from [1, 4], so a
    critic that wants 224 pixels would need HR regions of up to 896. Here 56 -> 224 at x4 is
    ``inp_size: 56, scale_min: 4``.

    Args:
        dataset: gives (3, H, W) RGB tensors in [0, 1], such as LINF's ``image-folder``.
        inp_size: side of the LR crop.
        out_size: side of the HR crop that is queried; default the whole HR region.
        scale_min: smallest scale.
        scale_max: largest scale; default ``scale_min``.
        augment: flips and transposition.
        seed: of the private generator; workers differ by their number.
    """

    def __init__(
        self,
        dataset: Any,
        inp_size: int = 56,
        out_size: int | None = None,
        scale_min: float = 4.0,
        scale_max: float | None = None,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        self.dataset = dataset
        self.inp_size = as_int("inp_size", inp_size, minimum=1)
        self.scale_min = as_float("scale_min", scale_min, minimum=1.0)
        self.scale_max = self.scale_min if scale_max is None else as_float("scale_max", scale_max, minimum=scale_min)
        smallest = round(self.inp_size * self.scale_min)
        self.out_size = None if out_size is None else as_int("out_size", out_size, minimum=1)
        if self.out_size is None and self.scale_max != self.scale_min:
            raise InputError(f"out_size: missing; with scales that differ, a batch needs one size <= {smallest}.")
        if self.out_size is not None and self.out_size > smallest:
            raise InputError(f"out_size: got {out_size}, expected <= inp_size * scale_min = {smallest}.")
        self.augment = bool(augment)
        self.seed = as_int("seed", seed)
        self._random: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def _generator(self) -> np.random.Generator:
        if self._random is None:
            info = torch.utils.data.get_worker_info()
            self._random = np.random.default_rng([self.seed, 0 if info is None else info.id + 1])
        return self._random

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``inp`` (3, h, w), ``coord`` (H, W, 2), ``cell`` (2,), ``gt`` (3, H, W); images in [0, 1].

        Raises:
            InputError: the image is smaller than the HR region.
        """
        image, random = self.dataset[index], self._generator()
        side = round(self.inp_size * random.uniform(self.scale_min, self.scale_max))
        if min(image.shape[-2:]) < side:
            raise InputError(f"image {index} is {image.shape[-2]}x{image.shape[-1]}, too small for {side} pixels.")
        top, left = (int(random.integers(0, size - side + 1)) for size in image.shape[-2:])
        hr = image[:, top : top + side, left : left + side]
        if self.augment:
            flips = [axis for axis in (1, 2) if random.random() < 0.5]
            hr = hr.flip(flips) if flips else hr
            hr = hr.transpose(1, 2) if random.random() < 0.5 else hr
        size = (self.inp_size, self.inp_size)
        lr = F.interpolate(hr[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
        out = self.out_size or side
        row, column = (int(random.integers(0, side - out + 1)) for _ in range(2))
        window = slice(row, row + out), slice(column, column + out)
        return {
            "inp": lr,
            "coord": grid_coordinates(side, side)[window],
            "cell": torch.full((2,), 2 / side),
            "gt": hr[:, window[0], window[1]].contiguous(),
        }


def register() -> None:
    """Make :class:`CropPairs` known to LINF as the wrapper ``srpl-crop``; call it in LINF's ``train.py``."""
    module = import_module("datasets")
    if not hasattr(module, "register"):
        raise InputError(f"datasets: got {module.__file__}, expected LINF's folder; run in the root of its clone.")
    module.register("srpl-crop")(CropPairs)
