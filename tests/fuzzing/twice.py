"""A property as two tests: a few hundred cases in every run of the suite, a hundred times as many when asked for.

Both are derandomised: a case that fails, fails again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

__all__ = ["twice"]

#: How many times as many cases the slow run has.
MORE = 100


def twice(strategy: SearchStrategy, cases: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: ``check(case, folder)`` -> a test with ``cases`` cases and a slow one with 100 times as many."""

    def decorate(check: Callable[[Any, Any], None]) -> Callable[..., None]:
        @pytest.mark.parametrize("cases", [cases, pytest.param(MORE * cases, marks=pytest.mark.slow)])
        def test(cases, tmp_path):
            run = settings(
                max_examples=cases,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )

            @run
            @given(strategy)
            def one(case):
                check(case, tmp_path)

            one()

        test.__doc__ = check.__doc__
        return test

    return decorate
