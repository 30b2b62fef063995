"""The study of how clearly each way of paying tells a right line from a wrong one."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

STUDY = Path(__file__).parents[2] / "benchmarks" / "credit_noise" / "run.py"


def test_clearness_is_the_difference_in_units_of_its_noise():
    clearness = runpy.run_path(str(STUDY))["clearness"]
    values = np.array([1.0, 3.0, 0.0, 0.0, 2.0, 2.0])
    assert clearness(values, np.array([0, 1]), np.array([2, 3, 4, 5])) == pytest.approx(1.0 / np.sqrt(2 / 2 + (4 / 3) / 4))
    assert clearness(values, np.array([0]), np.array([2, 3])) is None


def test_a_line_paid_for_itself_is_seen_clearest(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))  # which the script adds to
    monkeypatch.setattr(sys, "argv", [str(STUDY), "--smoke", "--out", str(tmp_path)])
    runpy.run_path(str(STUDY), run_name="__main__")
    figures = json.loads((tmp_path / "credit_noise.json").read_text())["figures"]
    assert min(figures["forks"]["right"], figures["forks"]["stop"]) >= 2
    assert len(figures["ways"]) == 9
    found = {way: figure["line"] for way, figure in figures["ways"].items()}
    assert max(found, key=found.get) == "line, 0"
    assert found["line, 0"] > 3 * found["turn, 1"]
