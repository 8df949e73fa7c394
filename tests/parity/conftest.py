"""Full-size networks: the heavy fixtures here are made once per module, before the threads of a single test are set."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _all_cores():
    torch.set_num_threads(2)
