"""kill -9, ctrl-C and a model that does not answer: nothing finished is lost, and nobody has to wait."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from chat_servers import serving, stats

USERS = 4
COLLECT = """
import sys
from pathlib import Path
from rlpa_env.evaluate import Setting, collect
url, out, users, *agents = sys.argv[1:]
llm = {"base_url": url, "model": "m"}
found = collect(dict.fromkeys(agents), Setting("RLPA-LLM-v0", users=int(users), env_kwargs=(("llm", llm),)), Path(out), quiet=True)
print(sum(map(len, found.values())))
"""


def collecting(url, out, *agents):
    """An evaluation without the references, which the command runs beside the agents."""
    return [sys.executable, "-c", COLLECT, url, str(out), str(USERS), *agents]


def command(url, out, *agents, users=USERS):
    where = ["--env", "RLPA-LLM-v0", "--base-url", url, "--model", "m", "--users", str(users), "--out", str(out)]
    return [sys.executable, "-c", "from rlpa_env.cli import main; main()", "eval", "--agent", *agents, *where]


def lines(out):
    path = out / "episodes.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@contextmanager
def started(arguments, **options):
    """A process of its own group, so that a signal to it reaches its children and nobody else."""
    process = subprocess.Popen(arguments, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_after_kill_9_finished_episodes_are_all_there_each_once(tmp_path):
    agents = ("attentive", "script", "echo", "blank")
    with serving("--delay", "0.02") as url:
        with started(collecting(url, tmp_path, *agents)) as process:
            until(lambda: len(lines(tmp_path)) > USERS)  # in the midst of the second agent or later
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        before = lines(tmp_path)
        assert USERS < len(before) < 4 * USERS
        with (tmp_path / "episodes.jsonl").open("ab") as file:
            file.write(b'{"agent": "script", "prof')  # what a kill in the midst of a write leaves
        done = subprocess.run(collecting(url, tmp_path, *agents), capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == str(4 * USERS), done.stderr
    assert "torn line" in done.stderr
    after = lines(tmp_path)
    assert after[: len(before)] == before
    assert after[len(before)] == b'{"agent": "script", "prof'
    records = [json.loads(line) for line in (*before, *after[len(before) + 1 :])]
    keys = {(record["agent"], record["profile"], record["seed"]) for record in records}
    assert len(records) == len(keys) == 4 * USERS
    assert all(record["left"] or len(record["turns"]) == 10 for record in records)


@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-C", "kill -INT"])
@pytest.mark.parametrize(("users", "stall"), [(4, 90), (12, 5)])  # the first after the first agent's four dialogues
def test_an_interrupt_ends_an_evaluation_whose_model_does_not_answer(tmp_path, whole_group, users, stall):
    with serving("--stall", str(stall)) as url:
        evaluation = command(url, tmp_path, "script", users=users)
        with started(evaluation, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            until(lambda: stats(url).get("requests", 0) > stall)
            kept = lines(tmp_path)
            began = time.monotonic()
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=30)
            took = time.monotonic() - began
    assert took < 10.0  # of load, at the worst; the model would keep it for its whole time-out of a minute, several times
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert lines(tmp_path) == kept
    assert len(kept) == (users if stall > 20 * users else 0)


def test_the_progress_bar_moves_while_a_model_does_not_answer(tmp_path):
    ours, theirs = pty.openpty()
    with serving("--stall", "0") as url, started(command(url, tmp_path, "script"), stdout=theirs, stderr=theirs, stdin=theirs):
        until(lambda: stats(url).get("requests", 0) > 0)
        drawn = []
        end = time.monotonic() + 3.0
        while time.monotonic() < end and len(drawn) < 12:
            if select.select([ours], [], [], 0.1)[0]:
                drawn.append((time.monotonic(), os.read(ours, 65536)))
    os.close(ours)
    os.close(theirs)
    assert b"script" in b"".join(text for _, text in drawn)
    assert len(drawn) >= 12
    assert drawn[-1][0] - drawn[0][0] > 0.5  # a stream of frames, not one burst
