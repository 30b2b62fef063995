"""No test may leave this machine: everything here works offline, or it is not the default."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    connect = socket.socket.connect

    def refused(self, address):
        local = self.family == getattr(socket, "AF_UNIX", None) or address[0] in ("127.0.0.1", "::1", "localhost")
        if local:  # worker processes, and model servers that a test has started
            return connect(self, address)
        raise AssertionError(f"a test tried to connect to {address!r}; tests run without network")

    monkeypatch.setattr(socket.socket, "connect", refused)
