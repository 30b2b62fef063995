"""Starts the stand-in model server of benchmarks/llm_concurrency for a test."""

import gc
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(__file__).parents[2] / "benchmarks" / "llm_concurrency" / "server.py"


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The base URL of a server that lives as long as the block."""
    process = subprocess.Popen([sys.executable, str(SERVER), *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        gc.collect()  # drops the connections of clients that are gone
        process.kill()
        process.wait()
        process.stdout.close()


def stats(base_url: str) -> dict[str, int]:
    """What the server counted."""
    with urllib.request.urlopen(base_url) as response:
        return json.load(response)
