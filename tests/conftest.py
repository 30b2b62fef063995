"""No test may open a connection: everything here works offline, or it is not the default."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    connect = socket.socket.connect

    def refused(self, address):
        if self.family == getattr(socket, "AF_UNIX", None):  # worker processes talk over local sockets
            return connect(self, address)
        raise AssertionError(f"a test tried to connect to {address!r}; tests run without network")

    monkeypatch.setattr(socket.socket, "connect", refused)
