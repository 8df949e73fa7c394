"""Fixtures of the whole suite. Tests need no network, no GPU and nothing outside the repository."""

from __future__ import annotations

import os
import socket

import pytest
import tiny_critics  # noqa: F401  registers the tiny critics before any test module asks for the list
import torch


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """A test that opens a connection to another machine fails; the weights store is empty."""
    real = socket.socket.connect

    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setenv("SRPL_HOME", str(tmp_path / "srpl_home"))


@pytest.fixture(autouse=True)
def _threads(request):
    """Tiny tensors gain nothing from a second thread, and on a busy machine two threads wait for each other."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    torch.set_num_threads(2 if alone and request.node.get_closest_marker("parity") else 1)
