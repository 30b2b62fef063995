"""The cross-simulator matrix: it trains with the style it names, and counts what it claims to count."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rlpa_agent.cli import environments

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def matrix():
    path, before = list(sys.path), set(sys.modules)
    spec = importlib.util.spec_from_file_location("simulator_matrix", FOLDER / "simulator_matrix" / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_it_runs_and_goes_on_where_it_was(matrix, tmp_path, monkeypatch, capsys):
    command = ["run.py", "--smoke", "--users", "1", "--styles", "terse", "impatient", "--runs", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    matrix.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures["cells"]) == ["terse", "impatient", "own"]
    assert list(figures["cells"]["own"]) == ["start", "attentive", "on terse", "on impatient"]
    assert list(figures["home_minus_away"]) == ["terse", "impatient", "all"]
    record = json.loads((tmp_path / "simulator_matrix.json").read_text())
    assert record["figures"] == figures
    assert str(tmp_path) not in json.dumps(record)

    def never(*args, **kwargs):
        raise AssertionError("begun again")

    monkeypatch.setitem(matrix.ensure_trained.__globals__, "run_ppo", never)
    monkeypatch.setattr("rlpa_agent.evaluate.policy_agent", never)
    monkeypatch.setattr(sys, "argv", command)
    matrix.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    monkeypatch.setattr(sys, "argv", [*command[:1], *command[2:]])
    with pytest.raises(SystemExit, match="finished with others"):
        matrix.main()


def test_everybody_trained_with_talks_in_the_style_of_the_row(matrix):
    args = matrix.study.read(matrix.options(), [])
    assert args.styles == ["plain", "terse", "chatty", "evasive", "impatient"]
    for style in args.styles:
        env = environments(matrix.config_of(style, 0, args).rollout)()
        heard = set()
        for seed in range(6):
            env.reset(seed=seed)
            heard.add(env.unwrapped._user.style.name)
        assert heard == {style}
    assert len({matrix.config_of(style, 0, args).hash() for style in args.styles}) == 5


def test_cells_and_what_home_is_worth_by_hand(matrix):
    styles = ["plain", "terse"]

    def talks(*totals):
        return [[{"stop_reason": "", "turns": [{"reward": total}]} for total in totals]]

    plain = {"on plain": talks(6.0, 10.0), "on terse": talks(4.0, 8.0), "prior": talks(2.0, 2.0), "oracle": talks(8.0, 16.0)}
    terse = {"on plain": talks(1.0, 1.0), "on terse": talks(2.0, 2.0), "prior": talks(0.0, 0.0), "oracle": talks(4.0, 4.0)}
    found = matrix.compared({"plain": plain, "terse": terse, "own": plain}, styles)
    assert found["cells"]["plain"]["on plain"].value == pytest.approx(0.6)  # (8 − 2) / (12 − 2)
    assert found["cells"]["plain"]["on plain"].low == pytest.approx(8 / 14)
    assert found["cells"]["plain"]["on plain"].high == pytest.approx(4 / 6)
    assert found["cells"]["own"]["on terse"].value == pytest.approx(0.4)
    assert found["home_minus_away"]["plain"].value == pytest.approx(0.2)
    assert found["home_minus_away"]["terse"].value == pytest.approx(0.25)
    assert found["home_minus_away"]["all"].value == pytest.approx(0.225)
    assert "prior" not in found["cells"]["plain"]
    assert matrix.compared({"plain": plain}, ["plain"])["home_minus_away"] == {}


def test_people_with_whom_one_failed_are_left_out_of_every_row(matrix):
    def talks(*totals):
        return [[{"stop_reason": "", "turns": [{"reward": total}]} for total in totals]]

    rows = {"on plain": talks(4.0, 0.0), "on terse": talks(4.0, 0.0), "prior": talks(0.0, 0.0), "oracle": talks(8.0, 8.0)}
    rows["on plain"][0][1]["stop_reason"] = "failure"
    found = matrix.compared({"plain": rows, "terse": rows}, ["plain", "terse"])
    assert found["cells"]["plain"]["on plain"].value == found["cells"]["plain"]["on terse"].value == pytest.approx(0.5)
    assert found["home_minus_away"]["plain"] == (0.0, 0.0, 0.0)


def test_three_styles_are_compared_with_the_mean_of_the_others(matrix):
    names = ["on plain", "on terse", "on chatty", "prior", "oracle"]
    mean_CR = np.array([[0.9, 0.5, 0.3, 0.0, 1.0]] * 3)
    assert matrix.home_and_away(mean_CR, names, ["plain", "terse", "chatty"], [1]) == pytest.approx(0.5 - 0.6)
