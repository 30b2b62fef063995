"""Every example runs."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"07_foreign_environment": "textarena", "08_trl_grpo": "trl"}
"""Packages of extras that an example is about."""
READ = {"05_stable_baselines3": {"ppo", "prior", "script", "attentive"}, "07_foreign_environment": {"1", "2"}}
"""What `benchmarks/examples` reads of an example's words."""


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # TRL asks by the old name
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, monkeypatch, capsys, tmp_path):
    extra = NEEDS.get(path.stem)
    if extra is not None and find_spec(extra) is None:
        pytest.skip(f"needs {extra}, of an extra")
    monkeypatch.setattr(sys, "argv", [str(path), "--smoke"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip()
    if path.stem in READ:
        script = runpy.run_path(str(ROOT / "benchmarks/examples/run.py"))
        assert set(script["read"](printed)) == READ[path.stem]


def test_who_learned_is_above_what_needs_no_learning(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    learned = runpy.run_path(str(ROOT / "benchmarks/examples/run.py"))["learned"]
    assert learned("a2c", {"a2c": 4.6, "script": 4.5})
    assert not learned("a2c", {"a2c": 4.4, "script": 4.5})
    assert learned("foreign", {"1": 0.2, "90": 0.5, "100": 0.95})  # by the last iteration, not the last text
    assert not learned("foreign", {"1": 0.2, "90": 0.95, "100": 0.5})
