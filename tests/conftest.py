"""No test may leave this machine: everything here works offline, or it is not the default."""

from __future__ import annotations

import importlib.util
import signal
import socket
import sys
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background; tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    connect = socket.socket.connect

    def refused(self, address):
        local = self.family == getattr(socket, "AF_UNIX", None) or address[0] in ("127.0.0.1", "::1", "localhost")
        if local:  # worker processes, and model servers that a test has started
            return connect(self, address)
        raise AssertionError(f"a test tried to connect to {address!r}; tests run without network")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture(scope="module")
def benchmark_script():
    """A function that imports a script of benchmarks/ by its path there; it and its folder are forgotten after the test file."""
    folder, names = Path(__file__).parents[1] / "benchmarks", []

    def load(path: str):
        spec = importlib.util.spec_from_file_location("benchmark_" + path.removesuffix(".py").replace("/", "_"), folder / path)
        module = importlib.util.module_from_spec(spec)
        names.append(spec.name)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    sys.path.insert(0, str(folder))
    yield load
    sys.path.remove(str(folder))
    for name in set(names):
        del sys.modules[name]
