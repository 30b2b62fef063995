"""Starts a real vLLM on a real model for the tests of this folder, or says why they are skipped.

RLPA_VLLM: a virtual environment with vLLM in it (``bin/vllm``). RLPA_MODELS: a folder that holds `qwen`
(Qwen2.5-Coder-0.5B-Instruct), `smollm2` (SmolLM2-135M-Instruct) and `minilm` (all-MiniLM-L6-v2), as Hugging Face folders.
`make test-models` looks for both below ~/.cache. Nothing is fetched.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

_START = 600  # seconds; the first start compiles
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def place(variable: str, *parts: str) -> Path:
    """A file below the folder that a variable names; skips the test, saying why, if it is not there."""
    folder = os.environ.get(variable, "")
    if not folder:
        pytest.skip(f"{variable} is not set; `make test-models` sets it, and says what it expects there")
    path = Path(folder).expanduser().joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{variable}: expected {path}; it is not there")
    return path


@pytest.fixture(scope="session", params=["smollm2", "qwen"])
def served(request, tmp_path_factory) -> Iterator[dict[str, object]]:
    """Settings of a client for a model that vLLM serves as long as the tests run."""
    vllm, model = place("RLPA_VLLM", "bin", "vllm"), place("RLPA_MODELS", request.param, "config.json").parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / f"{request.param}.log"
    command = [str(vllm), "serve", str(model), "--served-model-name", request.param, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "32", "--enforce-eager"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | _ENVIRONMENT, start_new_session=True)
        try:
            _wait(process, f"http://127.0.0.1:{port}/v1/models", log)
            yield {"base_url": f"http://127.0.0.1:{port}/v1", "model": request.param, "timeout": 600.0, "temperature": 0.3}
        finally:
            process.terminate()
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(2)
    process.terminate()
    pytest.fail(f"vLLM did not start; the end of its log:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def minilm() -> str:
    """The folder of the sentence encoder."""
    pytest.importorskip("sentence_transformers", reason="the extra `embed` is not installed")
    return str(place("RLPA_MODELS", "minilm", "config.json").parent)
