"""What is measured: forms of critics, and rivals, each as one function of an image pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speed.baselines import RIVALS, build_rival
from speed.calibrating import calibrate
from speed.reference import has_reference_form, reference_form, shallow_copy
from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.critics.base import Critic, SizeRule
from sr_perceptual_loss.critics.registry import create_critic, list_critics
from sr_perceptual_loss.errors import InputError

__all__ = ["FORMS", "RANDOM", "Subject", "build_subjects"]

#: Forms of a critic, in the order of a table.
FORMS = {
    "reference": "as published, parameters frozen",
    "fast": "critic.inference_form(), what the losses use",
    "target": "fast, with the target's features given",
    "bf16": "fast, products and convolutions in bfloat16: not equal",
}
#: The value of ``weights`` that stands for calibrated random ones.
RANDOM = "random"

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        name: of the critic or rival.
        form: one of :data:`FORMS`, or ``rival``.
        takes: sizes.
        bind: from ``hr`` to the function of ``sr`` that is measured; what happens in it is not.
        held: parameters and buffers, which are no memory of a call.
    """

    name: str
    form: str
    takes: SizeRule
    bind: Callable[[Tensor], Forward]
    held: tuple[Tensor, ...]

    @property
    def key(self) -> str:
        """``name:form``, or the name of a rival."""
        return self.name if self.form == "rival" else f"{self.name}:{self.form}"


def build_subjects(
    critics: Sequence[str],
    rivals: Sequence[str],
    *,
    forms: Sequence[str] = tuple(FORMS),
    weights: str = RANDOM,
    critic_size: str = "full",
    device: str = "cpu",
    calibrated: bool = True,
) -> list[Subject]:
    """Build critics (each once, its forms share it) and rivals.

    A form that a critic lacks is left out: a formula has no reference form, and one that takes nothing from the target
    alone has no form with given features.

    Args:
        critics: registered names.
        rivals: names of ``RIVALS``.
        forms: names of :data:`FORMS`.
        weights: ``random``, or as in ``create_critic``.
        critic_size: ``full`` or ``tiny``.
        device: where they compute.
        calibrated: adapt random weights, see :func:`calibrate`; memory and time hardly depend on it.

    Returns:
        Subjects, critic by critic, then the rivals.

    Raises:
        InputError, UnknownNameError, WeightsError, InstallError: a name, weights or a package that is not there.
    """
    for name in critics:
        check_choice("critics", name, tuple(list_critics()))
    for rival in rivals:
        check_choice("rivals", rival, tuple(RIVALS))
    for form in forms:
        check_choice("forms", form, tuple(FORMS))
    if not (critics or rivals) or not forms:
        raise InputError("got nothing to measure, expected a critic or a rival, and a form.")
    subjects: list[Subject] = []
    # Reproducible, and the caller's random state stays what it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in critics:
            critic = create_critic(name, weights=_weights(name, weights), size=critic_size)
            if weights == RANDOM and calibrated:
                calibrate(critic)
            critic.requires_grad_(False).to(device)
            subjects += _of_critic(critic, [form for form in FORMS if form in forms])
        subjects += [_of_rival(rival, build_rival(rival, device=device)) for rival in rivals]
    return subjects


def _weights(name: str, weights: str) -> str | None:
    # Critics that are a formula take both.
    return None if weights == RANDOM else weights


def _of_critic(critic: Critic, forms: Sequence[str]) -> list[Subject]:
    has_network = has_reference_form(critic.card.name)
    fast = critic.inference_form()
    low = shallow_copy(fast, type(fast))
    low.autocast_dtype = torch.bfloat16
    made = {"fast": fast, "target": fast, "bf16": low}
    if has_network:
        made["reference"] = reference_form(critic)
    # A formula gains nothing from half precision and keeps nothing worth giving.
    known = [form for form in forms if has_network or form == "fast"]
    return [_of_form(critic.card.name, form, made[form], critic) for form in known]


def _of_form(name: str, form: str, critic: Critic, master: Critic) -> Subject:
    def bind(hr: Tensor) -> Forward:
        given = critic.encode_target(hr) if form == "target" else None
        return lambda sr: critic.score(sr, hr, target_features=given)

    return Subject(name, form, master.input_size, bind, _held(master, critic))


def _of_rival(name: str, module: nn.Module) -> Subject:
    # Four halvings, and something left to look at.
    return Subject(name, "rival", SizeRule(minimum=32), lambda hr: lambda sr: module(sr, hr), _held(module))


def _held(*modules: nn.Module) -> tuple[Tensor, ...]:
    return tuple(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
