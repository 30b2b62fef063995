"""Every example runs."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
NEEDS = {"07_foreign_environment": "textarena", "08_trl_grpo": "trl"}
"""Packages of extras that an example is about."""


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # TRL asks by the old name
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, monkeypatch, capsys, tmp_path):
    extra = NEEDS.get(path.stem)
    if extra is not None and find_spec(extra) is None:
        pytest.skip(f"needs {extra}, of an extra")
    monkeypatch.setattr(sys, "argv", [str(path), "--smoke"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()
