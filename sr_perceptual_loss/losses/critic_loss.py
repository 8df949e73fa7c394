"""CriticLoss and its named forms: any critic as a loss for the network that made ``sr``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import as_float, check_choice
from sr_perceptual_loss.critics.base import Critic, TargetFeatures
from sr_perceptual_loss.critics.registry import get_card, list_critics
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.augment import AugmentPlan, augment_pair
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.ops.crops import CropPlan, crop_pairs
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.losses.target_memo import TargetCache

__all__ = ["CriticLoss", "EfficientPBANLoss", "RQILoss", "apply_form"]

FORMS = ("linear", "hinge", "softplus")


def apply_form(score: Tensor, form: str, margin: float, temperature: float) -> Tensor:
    """From a score (higher is better) to a loss (lower is better).

    Args:
        score: any shape.
        form: ``linear``: -score; ``hinge``: relu(margin - score); ``softplus``: T * softplus((margin - score) / T).
        margin: score beyond which there is nothing more to gain (``hinge``, ``softplus``).
        temperature: T, width of the soft corner.

    Returns:
        Tensor of the same shape.
    """
    if form == "hinge":
        return F.relu(margin - score)
    if form == "softplus":
        return temperature * F.softplus((margin - score) / temperature)
    return -score


def _as_list(ensemble: Sequence[str | Path | None], critic: str | Critic) -> list[str | Path | None]:
    if isinstance(ensemble, str | Path) or not isinstance(ensemble, Sequence):
        raise InputError(f"ensemble: got {ensemble!r}, expected a list of weights such as [a.safetensors].")
    if ensemble and isinstance(critic, Critic):
        raise InputError("ensemble: needs the critic by name, to build it with other weights; got a critic object.")
    if ensemble and isinstance(critic, str) and critic in list_critics() and not get_card(critic).needs_weights:
        raise InputError(f"ensemble: {critic} is a formula and has no weights; leave it out.")
    return list(ensemble)


class CriticLoss(PairLoss):
    """loss_weight * mean(form(score(sr, hr))) over images and crops.

    Args:
        critic: registered name, or a :class:`Critic` (frozen in place).
        weights: as in :func:`create_critic`: ``"local"``, a tag, a path, or None.
        loss_weight: factor.
        crops: a :class:`CropPlan`, a mapping of its fields, a crop side, or None (the critic's fixed size, else the
            whole image).
        form: ``linear`` (the papers'), ``hinge`` or ``softplus``; the last two stop paying for scores beyond the
            margin, which is where learned critics are exploited. None: ``hinge`` where the critic's card says
            ``capped``, else ``linear``.
        margin: for ``hinge`` and ``softplus``; 0 means "as good as the reference" for a relative critic.
        temperature: for ``softplus``.
        reduction: ``mean``, ``sum`` or ``none``, over images.
        on_nonfinite: ``raise``, ``raise_all`` (ranks agree), ``skip`` or ``propagate``; see :class:`PairLoss`.
        critic_size: ``"full"`` or ``"tiny"`` (tests).
        schedule: ``start``, ``ramp``, ``end``, ``every`` in global iterations; see :class:`Schedule`.
        precision: ``fp32`` (default: the critic's own), or ``bf16``: the critic computes in bfloat16 autocast, which
            changes its gradients (their dtype to ``sr`` stays); see :class:`FrozenCritic`.
        target_cache: megabytes for features of reference crops that come again with the same pixels (fixed validation
            sets, fixed crops), or None; see :class:`TargetCache`. Its counters are ``loss.target_cache.hits`` and
            ``.misses``.
        augment: an :class:`AugmentPlan` or a mapping of its fields (``noise``, ``shift``, ``rescale``, ``phases``):
            both images are changed alike before the critic sees them, so that a fixed pattern pays less.
        ensemble: further weights of the same critic, as for ``weights``; an image's score is the smallest of all, so
            that what fools one of them does not pay.

    Raises:
        InputError, UnknownNameError, WeightsError: at construction.
    """

    def __init__(
        self,
        critic: str | Critic,
        *,
        weights: str | Path | None = "local",
        loss_weight: float = 1.0,
        crops: CropPlan | Mapping[str, object] | int | None = None,
        form: str | None = None,
        margin: float = 0.0,
        temperature: float = 1.0,
        reduction: str = "mean",
        on_nonfinite: str = "raise",
        critic_size: str = "full",
        schedule: Schedule | Mapping[str, object] | None = None,
        precision: str = "fp32",
        target_cache: float | None = None,
        augment: AugmentPlan | Mapping[str, object] | None = None,
        ensemble: Sequence[str | Path | None] = (),
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction, on_nonfinite=on_nonfinite, schedule=schedule)
        if form is not None:
            check_choice("form", form, FORMS)
        self.augment = AugmentPlan.of(augment)
        if self.augment.active and target_cache is not None:
            raise InputError("target_cache: with augment no reference crop comes again; leave one of them out.")
        ensemble = _as_list(ensemble, critic)
        self.margin = as_float("margin", margin)
        self.temperature = as_float("temperature", temperature, minimum=1e-6)
        self.crops = CropPlan.from_config(crops)
        self.target_cache = None if target_cache is None else TargetCache(target_cache)
        # The cheap checks are done: now the heavy part.
        self.frozen = FrozenCritic(critic, weights=weights, critic_size=critic_size, precision=precision)
        self.others = torch.nn.ModuleList(
            FrozenCritic(critic, weights=other, critic_size=critic_size, precision=precision) for other in ensemble
        )
        self.form = form or ("hinge" if self.critic.card.capped else "linear")
        self._crop_size = self._check_crop_size()
        self._generator = torch.Generator().manual_seed(self.crops.seed)

    @property
    def critic(self) -> Critic:
        """The frozen critic."""
        return self.frozen.critic

    @property
    def label(self) -> str:
        """Name of this loss in messages."""
        return f"{type(self).__name__}({self.critic.card.name})"

    @property
    def term_names(self) -> tuple[str, ...]:
        """``score``, and for a relative critic ``over_gt_rate``, the share of crops scored above their GT."""
        return ("score", "over_gt_rate") if self.critic.card.relative else ("score",)

    @property
    def optimises(self) -> tuple[str, ...]:
        """The critic's own name."""
        return (self.critic.card.name,)

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor | None:
        """Scores for an onlooker, as in :meth:`PairLoss.scores`; the boxes of the next call stay what they were."""
        boxes = torch.Generator()
        boxes.set_state(self._generator.get_state())
        with torch.no_grad(), torch.autocast(device_type=sr.device.type, enabled=False):
            score = self._values(sr.detach(), hr.detach(), boxes=boxes)[1]["score"]
        return score.float().reshape(-1, len(sr)).mean(0)

    def forward(self, sr: Tensor, hr: Tensor, *, target_key: Sequence[Hashable] | None = None) -> Tensor:
        """The loss of a batch; see :meth:`PairLoss.forward`.

        Args:
            sr: judged images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape.
            target_key: N names for the pictures in ``hr``, each standing for sample, crop and augmentation: the
                ``target_cache`` then looks at them instead of the pixels, and a name given to two pictures gives wrong
                features. For crops that do not move: whole images, ``position: grid`` or ``center``.

        Returns:
            0-d tensor, or (N,) for ``reduction="none"``.

        Raises:
            InputError: as in :meth:`PairLoss.forward`; keys without a cache, or with crops that move.
            NonFiniteError: as in :meth:`PairLoss.forward`.
        """
        if target_key is not None:
            self._check_target_key(sr)
        # Handed on, not kept: another thread may call this loss with other keys.
        return self._run(sr, hr, partial(self._values, target_key=target_key))

    def _check_target_key(self, sr: Tensor) -> None:
        if self.target_cache is None:
            raise InputError("target_key: this loss has no target_cache; construct it with target_cache: <MB>.")
        size = self._crop_size
        whole = size is None or tuple(sr.shape[-2:]) == (size, size)
        if self.crops.position == "random" and not whole:
            raise InputError(
                "target_key: the crops are random, so that a name would stand for another region in every call; use "
                "`crops: {position: grid}` or `center`, whole images, or leave target_key out."
            )

    def _check_crop_size(self) -> int | None:
        rule, size = self.critic.input_size, self.crops.size
        if size is None:
            return rule.fixed
        rule.check(size, size, self.critic.card.name)
        return size

    def _values(
        self,
        sr: Tensor,
        hr: Tensor,
        *,
        target_key: Sequence[Hashable] | None = None,
        boxes: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        boxes = boxes or self._generator
        if self._iteration is not None:
            # The same boxes whether or not the run was interrupted before this iteration; an own generator, so that
            # another thread cannot draw from it.
            boxes = torch.Generator().manual_seed(self.crops.seed * 1_000_003 + self._iteration)
        scores = []
        for _ in range(self.augment.phases):
            pairs = crop_pairs(*augment_pair(sr, hr, self.augment, boxes), self.crops, self._crop_size, boxes)
            scores += [self._score(a, b, self._target(b, i, target_key)) for i, (a, b) in enumerate(pairs)]
        stacked = torch.stack(scores)
        terms = {"score": stacked}
        if self.critic.card.relative:
            terms["over_gt_rate"] = (stacked.detach() > 0).float()
        return apply_form(stacked, self.form, self.margin, self.temperature).mean(0), terms

    def _score(self, sr: Tensor, hr: Tensor, target: TargetFeatures | None) -> Tensor:
        """The score of the critic, or the smallest of the ensemble."""
        score = self.frozen.score(sr, hr, target_features=target)
        for other in self.others:
            score = torch.minimum(score, cast(FrozenCritic, other).score(sr, hr))
        return score

    def _target(self, hr: Tensor, crop: int, names: Sequence[Hashable] | None) -> TargetFeatures | None:
        """Features from the cache; None where there is no cache, so that the frozen critic finds or makes them."""
        cache = self.target_cache
        if cache is None or len(hr) == 0:
            return None
        keys = None if names is None else [(key, crop) for key in names]
        # Past the memo, which would hold the same features a second time.
        return cache.features(hr, self.frozen.target_digest(), self.frozen.form.encode_target, keys)

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["_generator"] = self._generator.get_state()
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self._generator = torch.Generator()
        self._generator.set_state(state["_generator"])  # type: ignore[arg-type]


class RQILoss(CriticLoss):
    """-f(sr, hr) with a relative critic: the lambda = -0.1 of the RQI paper is ``loss_weight: 0.1``.

    The arguments are those of :class:`CriticLoss`; ``critic`` must be relative (its score is 0 for "as good as GT").

    Source: "Bridging the Perception Gap in Image Super-Resolution Evaluation", arXiv 2503.13074.
    """

    def __init__(
        self,
        critic: str | Critic = "rqi_maniqa",
        *,
        weights: str | Path | None = "local",
        loss_weight: float = 1.0,
        crops: CropPlan | Mapping[str, object] | int | None = None,
        form: str | None = None,
        margin: float = 0.0,
        temperature: float = 1.0,
        reduction: str = "mean",
        on_nonfinite: str = "raise",
        critic_size: str = "full",
        schedule: Schedule | Mapping[str, object] | None = None,
        precision: str = "fp32",
        target_cache: float | None = None,
        augment: AugmentPlan | Mapping[str, object] | None = None,
        ensemble: Sequence[str | Path | None] = (),
    ) -> None:
        card = critic.card if isinstance(critic, Critic) else get_card(critic)
        if not card.relative:
            relative = [name for name in list_critics() if get_card(name).relative]
            raise InputError(
                f"RQILoss: '{card.name}' is not a relative critic; use CriticLoss, or one of {', '.join(relative)}."
            )
        super().__init__(
            critic,
            weights=weights,
            loss_weight=loss_weight,
            crops=crops,
            form=form,
            margin=margin,
            temperature=temperature,
            reduction=reduction,
            on_nonfinite=on_nonfinite,
            critic_size=critic_size,
            schedule=schedule,
            precision=precision,
            target_cache=target_cache,
            augment=augment,
            ensemble=ensemble,
        )


class EfficientPBANLoss(CriticLoss):
    """-Q(sr, hr) with the Efficient-PBAN critic. No weights are published: give a path to trained ones.

    The other arguments are those of :class:`CriticLoss`.

    Source: "Perceptual Quality Optimization of Image Super-Resolution", arXiv 2602.21482, L_P of equation (12).
    """

    def __init__(
        self,
        *,
        weights: str | Path | None = "local",
        loss_weight: float = 1.0,
        crops: CropPlan | Mapping[str, object] | int | None = None,
        form: str | None = None,
        margin: float = 0.0,
        temperature: float = 1.0,
        reduction: str = "mean",
        on_nonfinite: str = "raise",
        critic_size: str = "full",
        schedule: Schedule | Mapping[str, object] | None = None,
        precision: str = "fp32",
        target_cache: float | None = None,
        augment: AugmentPlan | Mapping[str, object] | None = None,
        ensemble: Sequence[str | Path | None] = (),
    ) -> None:
        super().__init__(
            "efficient_pban",
            weights=weights,
            loss_weight=loss_weight,
            crops=crops,
            form=form,
            margin=margin,
            temperature=temperature,
            reduction=reduction,
            on_nonfinite=on_nonfinite,
            critic_size=critic_size,
            schedule=schedule,
            precision=precision,
            target_cache=target_cache,
            augment=augment,
            ensemble=ensemble,
        )
