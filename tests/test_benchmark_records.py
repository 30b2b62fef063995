"""What a benchmark's result says of the code that was measured."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = Path(__file__).parents[1] / "benchmarks" / "common.py"
MEASURE = """
import pathlib, subprocess, sys
sys.path.insert(0, "benchmarks")
import common
if "moved" in sys.argv:
    pathlib.Path("code.py").write_text("later")
    subprocess.run(["git", "commit", "-qam", "later"], check=True)
common.finish("speed", {"turns": 3}, [0], pathlib.Path("benchmarks/results/speed"))
"""


def git(folder, *arguments):
    made = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(made, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "benchmarks" / "results" / "speed").mkdir(parents=True)
    shutil.copy(COMMON, tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "results" / "speed" / "speed.json").write_text("{}")
    (tmp_path / "code.py").write_text("first")
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.name", "a")
    git(tmp_path, "config", "user.email", "a@b")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def measured(folder, *how):
    done = subprocess.run([sys.executable, "-c", MEASURE, *how], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "benchmarks/results/speed/speed.json").read_text())
    assert json.loads(done.stdout) == record["figures"] == {"turns": 3}
    return record["commit"]


def test_a_result_names_the_commit_and_results_before_it_are_no_changes(checkout):
    head = git(checkout, "rev-parse", "--short", "HEAD")
    assert measured(checkout) == head
    assert git(checkout, "status", "--porcelain") != ""  # the result itself, which is tracked
    assert measured(checkout) == head


def test_entries_of_the_board_and_its_page_are_no_changes_and_other_pages_are(checkout):
    for name in ("benchmarks/leaderboard/entries/a.json", "docs/leaderboard.md", "docs/other.md"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("first")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "a board")
    head = git(checkout, "rev-parse", "--short", "HEAD")
    (checkout / "benchmarks/leaderboard/entries/a.json").write_text("another")
    (checkout / "docs/leaderboard.md").write_text("another")
    assert measured(checkout) == head
    (checkout / "docs/other.md").write_text("another")
    assert measured(checkout) == head + "+"


def test_changed_code_is_marked(checkout):
    (checkout / "code.py").write_text("changed")
    assert measured(checkout).endswith("+")


def test_it_is_the_commit_that_was_loaded_whatever_the_checkout_did_since(checkout):
    head = git(checkout, "rev-parse", "--short", "HEAD")
    assert measured(checkout, "moved") == head
    assert git(checkout, "rev-parse", "--short", "HEAD") != head


ROOT = COMMON.parents[1]


def whole_history():
    """False in an archive, or a clone of the newest commit alone."""
    asked = subprocess.run(["git", "rev-parse", "--is-shallow-repository", "--show-toplevel"], cwd=ROOT, capture_output=True, text=True)
    return asked.returncode == 0 and asked.stdout.split() == ["false", str(ROOT)]


MEASURED = sorted(path for path in (ROOT / "benchmarks" / "results").rglob("*.json") if path.is_file())


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_committed_result_names_the_clean_commit_that_it_was_measured_at(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "machine", "seeds", "figures"} <= set(record)
    assert not any(word.startswith("/") for word in record["command"].split()), "a path of the machine that measured: nobody else has it"
    assert re.fullmatch(r"[0-9a-f]{7,40}", record["commit"]), "measured with changes that nobody else has: commit, then measure again"
    if whole_history():
        assert git(ROOT, "merge-base", record["commit"], "HEAD").startswith(git(ROOT, "rev-parse", record["commit"]))
