"""Model servers for a test: the stand-in of benchmarks/llm_concurrency, and one that answers by a function."""

import gc
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


Reply = tuple[int, Mapping[str, str], Any]  # status, headers, body as JSON


def completion(text: str = "Hello there.", finish: str = "stop", **more: Any) -> Reply:
    """An answer of a model; ``usage={…}`` says what it cost."""
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [message], **more}


def refusal(status: int, **headers: str) -> Reply:
    """An answer without one; ``Retry_After="1"`` sends that header."""
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": {"message": "no"}}


@contextmanager
def scripted(reply: Callable[[int], Reply]) -> Iterator[tuple[str, list[float]]]:
    """Base URL of a server whose answer to request 0, 1, … is ``reply(number)``, and when each came, monotonic seconds."""
    came: list[float] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = len(came)
                came.append(time.monotonic())
            status, headers, body = reply(number)
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # connections that come at once
        daemon_threads = True
        block_on_close = False  # a kept connection would keep its thread

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", came
        finally:
            gc.collect()  # drops the connections of clients that are gone
            server.shutdown()
