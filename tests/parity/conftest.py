"""Full-size networks: the heavy fixtures here are made once per module, before the threads of a single test are set."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _all_cores():
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
