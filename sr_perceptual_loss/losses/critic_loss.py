"""CriticLoss, RQILoss and EfficientPBANLoss: a critic as a loss for an SR network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import as_float, check_choice
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard
from sr_perceptual_loss.critics.external import ExternalCritic, external, is_external
from sr_perceptual_loss.critics.registry import get_card, list_critics
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.ops.crops import CropPlan, crop_pairs

__all__ = ["FORMS", "CriticLoss", "EfficientPBANLoss", "RQILoss"]

#: form -> loss (lower is better) of a score (higher is better) and a margin.
FORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linear": lambda score, margin: -score,
    "hinge": lambda score, margin: F.relu(margin - score),
    "softplus": lambda score, margin: F.softplus(margin - score),
}


class CriticLoss(PairLoss):
    """loss_weight * mean(form(score(sr, hr))) over images and crops.

    Args:
        critic: registered name, a :class:`Critic` (frozen in place), or any metric: a function ``f(sr, hr)`` or
            ``f(sr)``, ``pyiqa:metric`` or ``package.module:metric``, see :func:`external`. None takes the default
            critic of the class; ``CriticLoss`` itself has none.
        weights: as in :func:`create_critic`: ``"local"``, a tag, a path, or None.
        loss_weight: factor, >= 0: the sign is part of ``form``. At 0 the loss is computed and logged without effect.
        crops: a :class:`CropPlan`, a mapping of its fields, a crop side, or None (the critic's fixed size, else the
            whole image).
        form: ``linear``: -score, as in the papers; ``hinge``: relu(margin - score); ``softplus``: softplus(margin -
            score). Above the margin, where networks exploit a critic, the last two have no or a small gradient.
        margin: only for ``hinge``, where it must be above the critic's lowest score, and ``softplus``; 0 means "as good
            as the reference" for a relative critic.
        reduction: ``mean``, ``sum`` or ``none``, over images.
        schedule: ``start``, ``ramp``, ``end``, ``every`` in global iterations; see :class:`Schedule`.
        precision: ``fp32``, or ``bf16`` for the critic's matrix products; see :class:`FrozenCritic`.
        higher_is_better: direction of a metric that does not say it itself; only for such a metric.

    Terms: ``score``, the parts of a score that has some (``ssimulacra2``: structure, ringing, blur), and for a relative
    critic ``over_gt_rate``, the share of crops scored above their reference.

    A critic whose card says that it is no loss (``as_loss``) gives a UserWarning at construction.

    Raises:
        InputError, UnknownNameError, WeightsError: at construction.
    """

    #: Used if no critic is given.
    default_critic: ClassVar[str | None] = None

    def __init__(
        self,
        critic: str | Critic | Callable[..., Any] | None = None,
        *,
        weights: str | Path | None = "local",
        loss_weight: float = 1.0,
        crops: CropPlan | Mapping[str, object] | int | None = None,
        form: str = "linear",
        margin: float = 0.0,
        reduction: str = "mean",
        schedule: Schedule | Mapping[str, object] | None = None,
        precision: str = "fp32",
        higher_is_better: bool | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction, schedule=schedule)
        self.form = check_choice("form", form, tuple(FORMS))
        self.margin = as_float("margin", margin)
        if self.form == "linear" and self.margin:
            raise InputError(f"margin: got {self.margin:g}, but form: linear has none; use form: hinge or softplus.")
        self.crops = CropPlan.from_config(crops)
        critic = self.default_critic if critic is None else critic
        if critic is None:
            raise InputError(f"{type(self).__name__}: `critic` is missing; one of {', '.join(list_critics())}.")
        if is_external(critic) or (callable(critic) and not isinstance(critic, Critic)):
            critic = external(critic, higher_is_better=higher_is_better)
        elif higher_is_better is not None:
            known = critic.card.name if isinstance(critic, Critic) else critic
            raise InputError(f"higher_is_better: got {higher_is_better!r}, but for {known} it is known; leave it out.")
        card = critic.card if isinstance(critic, Critic) else get_card(critic)
        self._check_card(card)
        self._check_margin(card)
        # Weights are read last, after the cheap checks.
        self.frozen = FrozenCritic(critic, weights=weights, precision=precision)
        if isinstance(self.critic, ExternalCritic) and not self.critic.differentiable:
            raise InputError(
                f"{card.name}: no gradient reaches sr, as with NumPy, detach() or no_grad(): it can judge images, but "
                "not train a network. A pyiqa metric has one if it is made with as_loss=True, or given by its name."
            )
        rule = self.critic.input_size
        if self.crops.size is not None:
            rule.check(self.crops.size, self.crops.size, card.name)
        self.crops = replace(self.crops, size=self.crops.size or rule.fixed)
        if self.crops.size is None:
            self.crops.check_whole_images(card.name)
        self._whole_image = self.crops.size is None and self.crops.scales == (1,)
        self._relative, self._rule = card.relative, rule
        self.term_names = ("score", *self.critic.part_names, *(("over_gt_rate",) if card.relative else ()))
        self.optimises = (card.name,)
        self._generator = torch.Generator("cpu").manual_seed(self.crops.seed % 2**63)
        if card.as_loss:
            warnings.warn(f"{card.name} is not recommended as a loss: {card.as_loss}", stacklevel=2)

    def _check_margin(self, card: CriticCard) -> None:
        """Refuse a margin so low that the loss of every score is 0, or for ``softplus`` less than 2e-9."""
        low, high = card.score_range
        # The range of a network is that of its usual training labels, and others may be in [0, 1].
        lowest = min(low, 0.0) if card.needs_weights else low
        dead = {"hinge": lowest, "softplus": lowest - 20}.get(self.form)
        if dead is not None and self.margin <= dead:
            sensible = 0.0 if card.relative else low + 0.9 * (high - low)
            raise InputError(
                f"margin: got {self.margin:g} for form: {self.form}, but scores of {card.name} are in [{low:g}, "
                f"{high:g}]: the loss would always be 0. Give a margin such as {sensible:g}, or use form: linear."
            )

    @classmethod
    def _check_card(cls, card: CriticCard) -> None:
        """Raise InputError for a critic that this class is not meant for."""

    @property
    def critic(self) -> Critic:
        """The frozen critic."""
        return self.frozen.critic

    @property
    def label(self) -> str:
        """Name of this loss in messages."""
        return f"{type(self).__name__}({self.critic.card.name})"

    def extra_repr(self) -> str:
        """Critic, weights, loss weight, crops, form."""
        crops = "whole images" if self._whole_image else self.crops
        margin = "" if self.form == "linear" else f", margin={self.margin:g}"
        return f"{self.frozen.extra_repr()}, {super().extra_repr()}, crops={crops}, form={self.form}{margin}"

    @torch.no_grad()
    def scores(self, sr: Tensor, hr: Tensor) -> Tensor | None:
        """Scores for monitoring, see :meth:`PairLoss.scores`; the crops of the next call are not affected."""
        state = self._generator.get_state()
        try:
            return super().scores(sr, hr)
        finally:
            self._generator.set_state(state)

    def _values(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        scores, parts = [], []
        for sr_crop, hr_crop in [(sr, hr)] if self._whole_image else self._crops(sr, hr):
            scores.append(self._score(sr_crop, hr_crop))
            parts.append(self.frozen.form.parts)
        score = torch.stack(scores)
        terms = {"score": score, **{name: torch.stack([p[name] for p in parts]) for name in self.critic.part_names}}
        if self._relative:
            terms["over_gt_rate"] = (score.detach() > 0).float()
        return FORMS[self.form](score, self.margin).mean(0), terms

    def _score(self, sr: Tensor, hr: Tensor) -> Tensor:
        # The critic sees crops, so its size rule is checked here and not in `forward`.
        self._rule.check(sr.shape[2], sr.shape[3], self.critic.card.name)
        return self.frozen.score_checked(sr, hr)

    def _crops(self, sr: Tensor, hr: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if self._iteration is not None:
            # The same boxes whether or not the run was interrupted before this iteration.
            self._generator.manual_seed((self.crops.seed * 1_000_003 + self._iteration) % 2**63)
        return crop_pairs(sr, hr, self.crops, self.crops.size, self._generator)

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["_generator"] = self._generator.get_state()
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        generator = torch.Generator("cpu")
        generator.set_state(state["_generator"])  # type: ignore[arg-type]
        self._generator = generator


class RQILoss(CriticLoss):
    """-f(sr, hr) with a relative critic: lambda = -0.1 of the RQI paper is ``loss_weight: 0.1``.

    The arguments are those of :class:`CriticLoss`; the default critic is ``rqi_maniqa``. The critic must be relative:
    its score is 0 for "as good as the reference".

    Source: "Bridging the Perception Gap in Image Super-Resolution Evaluation", arXiv 2503.13074.
    """

    default_critic = "rqi_maniqa"

    @classmethod
    def _check_card(cls, card: CriticCard) -> None:
        if not card.relative:
            relative = [name for name in list_critics() if get_card(name).relative]
            raise InputError(
                f"{cls.__name__}: '{card.name}' is not a relative critic; use CriticLoss, or one of "
                f"{', '.join(relative)}."
            )


class EfficientPBANLoss(CriticLoss):
    """-Q(sr, hr) with the Efficient-PBAN critic. No weights are published: pass a path to trained ones.

    The arguments are those of :class:`CriticLoss`.

    Source: "Perceptual Quality Optimization of Image Super-Resolution", arXiv 2602.21482, L_P of equation (12).
    """

    default_critic = "efficient_pban"

    @classmethod
    def _check_card(cls, card: CriticCard) -> None:
        if card.paper != get_card("efficient_pban").paper:
            raise InputError(f"{cls.__name__}: got the critic '{card.name}'; use CriticLoss for it.")
