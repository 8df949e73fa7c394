"""Any metric as a critic: a function or module of your program, one named in a YAML file, or one of pyiqa.

Wherever a critic has a name, ``pyiqa:topiq_fr`` is that metric of pyiqa, if it is installed, and
``package.module:metric`` imports the module. Code, weights and licence are those of the metric: pyiqa is for
non-commercial use and may download weights when a metric is made.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.critics.base import Critic, TargetFeatures
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.construction import plain_construction
from sr_perceptual_loss.errors import InputError, InstallError, UnknownNameError, WeightsError

__all__ = ["ExternalCritic", "external", "is_external"]

#: Side of the images of the trial: that of most ViTs, and enough for MS-SSIM.
TRIAL_SIDE = 224
#: Relative difference of a score alone and within a batch that is taken for rounding.
TOLERANCE = 1e-3


def is_external(name: object) -> bool:
    """Whether this is a name that :func:`external` resolves."""
    return isinstance(name, str) and ":" in name


def external(
    metric: Callable[..., Any] | str,
    *,
    higher_is_better: bool | None = None,
    name: str = "",
    input_size: SizeRule | None = None,
) -> Critic:
    """A critic whose score is the metric, or minus the metric if lower is better.

    Args:
        metric: ``f(sr, hr)``, or ``f(sr)`` for a metric without reference: a function, a module, or a name. Images are
            (N, 3, H, W) RGB in [0, 1] with the overshoot of the network; the result is one number per image, or one for
            the batch. A class is called without arguments. A module is set to eval mode.
        higher_is_better: None takes the attribute ``higher_is_better`` or ``lower_better`` of the metric.
        name: name in logs and messages; that of the metric by default.
        input_size: sizes that the metric takes; any by default.

    Returns:
        The critic; a metric that is a :class:`Critic` already is returned as it is.

    Raises:
        InputError: direction unknown, or the metric failed in the trial; see :class:`ExternalCritic`.
        InstallError: pyiqa is not installed.
        UnknownNameError: no such module or metric.
        WeightsError: pyiqa could not download the weights.
    """
    resolved, origin = _resolve(metric) if isinstance(metric, str) else (metric, "external")
    resolved = resolved() if isinstance(resolved, type) else resolved
    if isinstance(resolved, Critic):
        if higher_is_better is not None:
            raise InputError(
                f"higher_is_better: got {higher_is_better!r}, but {resolved.card.name} is a critic: leave it out."
            )
        return resolved
    if not callable(resolved):
        raise InputError(f"critic: got {type(resolved).__name__}, expected a name, a Critic, or a function f(sr, hr).")
    name = name or (metric if isinstance(metric, str) else getattr(resolved, "__name__", type(resolved).__name__))
    if higher_is_better is None:
        lower = getattr(resolved, "lower_better", None)
        higher_is_better = getattr(resolved, "higher_is_better", None if lower is None else not lower)
    if not isinstance(higher_is_better, bool):
        raise InputError(
            f"higher_is_better: got {higher_is_better!r} for {name}, which does not say it itself; expected true for a "
            "quality, false for a distance."
        )
    card = CriticCard(
        name=name,
        paper=f"see {name}",
        input_size=input_size or SizeRule(),
        score_range=(float("-inf"), float("inf")),
        relative=False,
        notes=(f"Code, weights and licence: {origin}.", "If lower is better, the score is minus the metric."),
        needs_weights=False,
    )
    return ExternalCritic(resolved, higher_is_better, card, origin)


class ExternalCritic(Critic):
    """A metric in the interface of a critic, made by :func:`external`.

    The metric is tried once, with two images in one batch and alone. If it returns one number for the batch, or its
    values depend on the batch, it is called for one image at a time; the second case gives a warning.

    Attributes:
        per_image: whether it is called for one image at a time.
        differentiable: whether a gradient reached ``sr``.
    """

    def __init__(self, metric: Callable[..., Any], higher_is_better: bool, card: CriticCard, origin: str) -> None:
        self.card = card
        super().__init__()
        self.origin = origin
        self.metric = metric.eval() if isinstance(metric, nn.Module) else metric
        self.sign = 1 if higher_is_better else -1
        self.has_reference = _has_reference(metric, card.name)
        self.per_image, self.differentiable = False, False
        with plain_construction(), torch.random.fork_rng(devices=[]), torch.enable_grad():
            self._try()

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return ()

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        pairs = zip(sr.split(1), hr.split(1), strict=True) if self.per_image else [(sr, hr)]
        return torch.cat([self._call(*pair) for pair in pairs])

    def score_map(self, sr: Tensor, hr: Tensor) -> Tensor:
        """As of every critic; needs a metric with a gradient."""
        if not self.differentiable:
            raise InputError(
                f"{self.card.name}: no gradient reaches sr, so there is no map. Use a critic of `srpl list`."
            )
        return super().score_map(sr, hr)

    def _call(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(N,) scores, or (1,) if the metric returns one number for the batch."""
        result = torch.as_tensor(self.metric(sr, hr) if self.has_reference else self.metric(sr), device=sr.device)
        if result.numel() not in (1, len(sr)):
            raise InputError(
                f"{self.card.name}: got a result of shape {tuple(result.shape)} for {len(sr)} images, expected one "
                "number per image, or one for the batch. Wrap it in a function that averages over the other dimensions."
            )
        return self.sign * result.reshape(-1).to(sr.dtype)

    def _try(self) -> None:
        """Call the metric for a noisy and a hardly noisy image; sets ``per_image`` and ``differentiable``."""
        step, fixed = self.input_size.multiple_of, self.input_size.fixed
        side = fixed or -(-max(TRIAL_SIDE, self.input_size.minimum) // step) * step
        first = next(self.parameters(), torch.empty(0))
        generator = torch.Generator("cpu").manual_seed(0)
        hr = nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=generator), (side, side), mode="bicubic")
        noise = torch.rand(hr.shape, generator=generator) - 0.5
        sr = (hr + noise * torch.tensor([0.4, 0.02]).view(2, 1, 1, 1)).clamp(0, 1).to(first).requires_grad_()
        hr = hr.clamp(0, 1).to(first)
        try:
            together = self._call(sr, hr)
            alone = torch.cat([self._call(sr[i : i + 1], hr[i : i + 1]) for i in range(2)])
        except InputError:
            raise
        except Exception as error:  # foreign code may raise anything
            raise InputError(
                f"{self.card.name}: the metric failed for two {side}x{side} RGB images in [0, 1], (2, 3, H, W): "
                f"{type(error).__name__}: {str(error)[:300]}. Wrap it in a function that takes such a batch, or give "
                "the sizes that it takes: external(f, input_size=SizeRule(...))."
            ) from error
        self.differentiable = _reaches(alone, sr)
        together, alone = together.detach(), alone.detach()
        depends = len(together) == 2 and bool(((together - alone).abs() > TOLERANCE * alone.abs()).any())
        self.per_image = depends or len(together) == 1
        if depends:
            self._warn(
                f"gives {alone.tolist()} for two images alone, but {together.tolist()} in one batch: it depends on the "
                "batch, or on chance. It is called for one image at a time"
            )
        if self.has_reference and alone[0] > alone[1]:
            self._warn("prefers the noisier of two images: check higher_is_better")

    def _warn(self, message: str) -> None:
        warnings.warn(f"{self.card.name}: the metric {message}.", stacklevel=5)


def _resolve(name: str) -> tuple[Any, str]:
    """The object of this name, and package, version and licence."""
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), *attribute.split("."))) and path != "pyiqa":
        raise InputError(f"critic: got '{name}', expected package.module:metric or pyiqa:metric.")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        kind = InstallError if path == "pyiqa" else UnknownNameError
        raise kind(f"critic '{name}': {error}. Install it, or add its folder to PYTHONPATH.") from error
    if path == "pyiqa":
        if attribute not in module.list_models():
            raise UnknownNameError(f"pyiqa has no metric '{attribute}'.{nearest(attribute, module.list_models())}")
        try:
            # As a loss, or it would be computed without gradient.
            resolved = module.create_metric(attribute, as_loss=True, loss_reduction="none", device=torch.device("cpu"))
        except OSError as error:
            raise WeightsError(f"{name}: pyiqa could not download its weights: {error}") from error
        return resolved, _licence(path)
    resolved = module
    for part in attribute.split("."):
        if not hasattr(resolved, part):
            names = [key for key in vars(module) if not key.startswith("_")]
            raise UnknownNameError(f"critic '{name}': {path} has no '{attribute}'.{nearest(attribute, names)}")
        resolved = getattr(resolved, part)
    return resolved, _licence(path.partition(".")[0])


def _licence(package: str) -> str:
    """Name, version and licence of a package as it states them."""
    try:
        about = importlib.metadata.metadata(package).json
    except importlib.metadata.PackageNotFoundError:
        return package
    licence = str(about.get("license_expression") or about.get("license") or "licence not stated")
    return f"{package} {about['version']}, {licence.splitlines()[0]}"


def _has_reference(metric: Callable[..., Any], name: str) -> bool:
    """Whether the metric takes ``hr``: pyiqa says it, for others the signature decides."""
    if getattr(metric, "metric_mode", None) in ("FR", "NR"):
        return bool(metric.metric_mode == "FR")  # type: ignore[attr-defined]
    try:
        signature = inspect.signature(metric.forward if isinstance(metric, nn.Module) else metric)
    except ValueError:  # some built-in functions have none
        return True
    second = next(itertools.islice(signature.parameters.values(), 1, None), None)
    is_option = second is not None and second.default is not second.empty and second.default is not None
    for arguments in ((None,),) if is_option else ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    raise InputError(f"{name}: takes {signature}, expected (sr, hr), or (sr) without a reference.")


def _reaches(score: Tensor, image: Tensor) -> bool:
    """Whether the gradient of the score reaches the image."""
    if not score.requires_grad:
        return False
    try:
        return torch.autograd.grad(score.sum(), image, allow_unused=True)[0] is not None
    except RuntimeError:  # an operator without derivative
        return False
