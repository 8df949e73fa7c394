"""Whether two critics differ on a label set: paired bootstrap over the same reference contents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sr_perceptual_loss.lab.evaluation.agreement import Evaluation
from sr_perceptual_loss.lab.evaluation.correlation import interval

__all__ = ["Difference", "differences"]


@dataclass(frozen=True)
class Difference:
    """The number ``number`` of the critic ``first`` minus that of ``second``."""

    first: str
    second: str
    number: str
    value: float
    low: float  # of its 95 % interval; NaN where the two numbers are not of the same references
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0. Of twenty comparisons of equal critics one would be, on average."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; None where a number is not defined."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(self).items()}
        return {**plain, "significant": self.significant}


def differences(evaluations: Mapping[str, Evaluation]) -> list[Difference]:
    """Every pair of critics at every number that has an interval.

    Args:
        evaluations: name of the critic -> its evaluation; all of one label set, with one seed and number of resamples.

    Returns:
        The differences, number by number.
    """
    rows = {name: {row.name: row for row in evaluation.rows} for name, evaluation in evaluations.items()}
    numbers = dict.fromkeys(row.name for evaluation in evaluations.values() for row in evaluation.rows)
    compared = []
    for number in numbers:
        for first, second in combinations(rows, 2):
            a, b = rows[first].get(number), rows[second].get(number)
            if a is None or b is None or not len(a.draws) or not len(b.draws):
                continue
            # A critic without a correlation at some reference has draws of other references.
            same = evaluations[first].content_srcc.keys() == evaluations[second].content_srcc.keys()
            paired = a.draws - b.draws if a.count == b.count and same else np.empty(0)
            compared.append(Difference(first, second, number, a.value - b.value, *interval(paired)))
    return compared
