"""The board is what its entries give, and a broken entry is refused with what was expected."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "leaderboard"
REFERENCES = FOLDER.parent / "results" / "references" / "references.json"


@pytest.fixture(scope="module")
def board():
    names, path = ("entry", "add", "build"), list(sys.path)
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}  # there is a package called build
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = path
    for name in names:
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture
def good():
    return json.loads((FOLDER / "entries" / "rlpa-v0-attentive.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_entries_give(board, capsys):
    board["build"].main(["--check"])
    assert "up to date" in capsys.readouterr().out


def test_the_reference_agents_are_those_of_the_committed_result(board, tmp_path):
    figures = json.loads(REFERENCES.read_text())["figures"]["agents"]
    entries = {entry["agent"]: entry for entry in board["build"].read_all(FOLDER / "entries")}
    for name, row in figures.items():
        assert entries[name]["scores"]["return"] == pytest.approx([row["return"], row["return_lo"], row["return_hi"]], abs=1e-6)
        assert entries[name]["scores"]["al"] == pytest.approx(row["al"], abs=1e-5)


BROKEN = {  # what is done to a good entry -> what the refusal says
    "no commit": (lambda e: e.pop("commit"), "commit: expected a commit of 7 to 40 hexadecimal digits"),
    "changed tree": (lambda e: e.update(commit="1a2b3c4+"), 'commit first, then measure); got "1a2b3c4+"'),
    "typo": (lambda e: e.update(comand="x"), "comand: expected no such field; did you mean 'command'?"),
    "kind": (lambda e: e.update(kind="magic"), "kind: expected one of 'rules', 'policy', 'prompted', 'person'; got \"magic\""),
    "name": (lambda e: e.update(agent="<script>"), "agent: expected 1 to 40 letters"),
    "two lines": (lambda e: e.update(description="a\nb"), "description: expected one line"),
    "seeds": (lambda e: e.update(seeds=[0, 0]), "seeds: expected a list of distinct whole numbers"),
    "true is no seed": (lambda e: e.update(seeds=[True]), "seeds: expected a list of distinct whole numbers"),
    "few people": (lambda e: e.update(users=20), "users: expected all 74 people of vanilla/test; got 20"),
    "split": (lambda e: e.update(split="vanilla/train"), "split: expected one of 'vanilla/test', 'extended/test'"),
    "split of another": (lambda e: e.update(split="extended/test"), "split: expected vanilla/test with RLPA-v0"),
    "no cost": (lambda e: e["cost"].pop("usd"), "cost.usd: expected a number from 0 to inf; it is missing"),
    "cost a word": (lambda e: e.update(cost="free"), 'cost.: expected an object with training_minutes, usd; got "free"'),
    "true is no number": (lambda e: e["cost"].update(usd=True), "cost.usd: expected a number from 0 to inf; got true"),
    "share above 1": (lambda e: e["scores"].update(response=[1.2, 1.1, 1.3]), "scores.response: expected [figure, lower, upper] from 0 to 1"),
    "interval beside": (lambda e: e["scores"].update(response=[0.5, 0.6, 0.7]), "lower <= figure <= upper; got [0.5, 0.6, 0.7]"),
    "not finite": (lambda e: e["scores"].update(tokens_per_turn=float("nan")), "scores.tokens_per_turn: expected a number"),
    "nine turns": (lambda e: e["scores"]["al"].pop(), "scores.al: expected 10 turns of RLPA-v0; got 9"),
    "another mean": (lambda e: e["scores"].update(avg=[99.0, 98.0, 99.5]), "scores.avg: expected the mean of al, 83.78; got 99.00"),
    "too high a return": (lambda e: e["scores"].update({"return": [19.0, 18.0, 19.5]}), "scores.return: expected 10 turns of profile F1 + response, 10.769; got 19.000"),
    "grounded above F1": (lambda e: e["scores"].update(profile_grounded_f1=[0.9, 0.8, 1.0]), "scores.profile_grounded_f1: expected no more than profile_f1"),
    "failures": (lambda e: e["scores"].update(failures=3), "scores.failures: expected a number from 0 to 0; got 3"),
    "single returns": (lambda e: e.update(returns_by_user=[1.0] * 74), "returns_by_user: expected 74 numbers with the mean 10.769"),
    "format": (lambda e: e.update(format=2), "format: expected one of 1; got 2"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_entry_is_refused_with_what_was_expected(board, good, what):
    entry = board["entry"]
    assert entry.checked(copy.deepcopy(good), "x.json") == good
    change, told = BROKEN[what]
    change(good)
    with pytest.raises(entry.ConfigError) as refused:
        entry.checked(good, "x.json")
    assert told in str(refused.value)
    assert all(line.startswith("x.json: ") for line in str(refused.value).splitlines())


@pytest.mark.parametrize(("text", "told"), [("{", "expected JSON"), ("[]", "the entry: expected an object with format"), ('{"format": 1}', "agent: expected")])
def test_what_is_no_entry(board, tmp_path, capsys, text, told):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        board["build"].main(["--entries", str(tmp_path), "--page", str(tmp_path / "page.md")])
    assert ended.value.code == 1
    problems = capsys.readouterr().err
    assert f"mine.json: {told}" in problems
    assert not (tmp_path / "page.md").exists()


def test_normalised_must_follow_from_the_boards_own_scale(board, good, tmp_path):
    for name in ("prior", "oracle"):
        (tmp_path / f"{name}.json").write_text((FOLDER / "entries" / f"rlpa-v0-{name}.json").read_text())
    good["scores"]["normalised"] = [0.9, 0.8, 1.0]
    (tmp_path / "mine.json").write_text(json.dumps(good))
    with pytest.raises(board["build"].ConfigError, match=r"attentive: scores.normalised: expected 0\.603.*got 0\.900"):
        board["build"].read_all(tmp_path)
    (tmp_path / "prior.json").unlink()
    with pytest.raises(board["build"].ConfigError, match="missing: prior"):
        board["build"].read_all(tmp_path)


def scored(name, value, low, high, returns=None):
    entry = {"agent": name, "description": "rules", "scores": {"return": [value, low, high]}}
    return entry | ({"returns_by_user": returns} if returns else {})


def test_a_rank_counts_who_is_clearly_better_paired_where_single_returns_are_known(board):
    ranks = board["build"].ranks
    assert ranks([scored("a", 10, 9, 11), scored("b", 9.5, 8.5, 10.5), scored("c", 5, 4, 6)]) == [1, 1, 3]
    people = [float(i) for i in range(50)]
    better = [value + 0.5 for value in people]
    assert ranks([scored("a", 25, 21, 29, better), scored("b", 24.5, 20.5, 28.5, people)]) == [1, 2]  # overlapping, yet apart
    noisy = [value + (-1) ** i for i, value in enumerate(people)]
    assert ranks([scored("a", 25, 21, 29, noisy), scored("b", 24.5, 20.5, 28.5, people)]) == [1, 1]
    chain = [scored("a", 10, 9, 11), scored("b", 9, 8, 10), scored("c", 8, 7, 8.5)]  # neighbours overlap; the first and the last do not
    assert ranks(chain) == [1, 1, 2]
    oracle, trick = scored("oracle", 15, 14, 16), scored("cheat", 12, 11, 13) | {"description": "trick: pads"}
    assert ranks([oracle, trick, *chain]) == [None, None, 1, 1, 2]  # who does not compete has no rank and takes none
    tricky = scored("planner", 12, 11, 13) | {"description": "Tricky questions, planned ahead"}
    assert ranks([oracle, tricky, *chain]) == [None, 1, 1, 2, 3]


def test_words_of_an_entry_are_text_on_the_page(board, good):
    good["description"] = "a | b <script>alert(1)</script> [x](javascript:y)"
    text = board["build"].page([good])
    assert "<script>" not in text
    assert "](javascript" not in text
    assert "a &#124; b" in text


def test_an_entry_from_a_result_and_its_episodes(board, tmp_path, capsys, monkeypatch):
    add = board["add"]
    figures = json.loads(REFERENCES.read_text())["figures"]["agents"]
    results = tmp_path / "results.json"
    results.write_text(json.dumps([figures["echo"]]))
    monkeypatch.setattr(add, "commit", lambda: "1a2b3c4")
    mine = [str(results), "--kind", "rules", "--description", "says it again", "--entries", str(tmp_path / "entries")]
    add.main([*mine, "--agent", "echo", "--command", "python my_agent.py", "--training-minutes", "3"])
    entry = json.loads((tmp_path / "entries" / "rlpa-v0-echo.json").read_text())
    assert (entry["command"], entry["commit"], entry["cost"]["training_minutes"]) == ("python my_agent.py", "1a2b3c4", 3.0)
    add.main([*mine, "--agent", "echo", "--name", "the parrot", "--command", "python my_agent.py"])
    parrot = json.loads((tmp_path / "entries" / "rlpa-v0-the-parrot.json").read_text())
    assert (parrot["agent"], parrot["scores"]) == ("the parrot", entry["scores"])
    add.main([*mine, "--agent", "echo", "--name", "the parrot", "--command", "python my_agent.py --better"])  # the same agent, anew
    with pytest.raises(SystemExit, match=r"expected another name than 'the parrot\+': .* holds 'the parrot'"):
        add.main([*mine, "--agent", "echo", "--name", "the parrot+", "--command", "x"])
    assert json.loads((tmp_path / "entries" / "rlpa-v0-the-parrot.json").read_text())["command"] == "python my_agent.py --better"
    with pytest.raises(SystemExit, match="command: expected one line"):
        add.main([*mine, "--agent", "echo"])
    with pytest.raises(SystemExit, match="--agent: expected one of echo; got 'eco'"):
        add.main([*mine, "--agent", "eco"])
    results.write_text(json.dumps([{key: value for key, value in figures["echo"].items() if key != "normalised"}]))
    with pytest.raises(SystemExit, match="prior and oracle beside it; it has no normalised"):
        add.main([*mine, "--agent", "echo", "--command", "x"])
    results.write_text(json.dumps([figures["echo"]]))
    monkeypatch.setattr(add, "commit", lambda: "1a2b3c4+")
    with pytest.raises(SystemExit, match="commit first"):
        add.main([*mine, "--agent", "echo", "--command", "x"])
    for other in ({"al_judge": {"class": "Lenient"}}, {"kwargs": {"matcher": "embedding"}}):
        results.write_text(json.dumps([figures["echo"] | other]))
        with pytest.raises(SystemExit, match="expected an evaluation of the environment as it is registered"):
            add.main([*mine, "--agent", "echo", "--command", "x"])
    results.write_text("{}")
    with pytest.raises(SystemExit, match="expected results with rows of agents"):
        add.main([*mine, "--agent", "echo"])


def test_returns_of_single_people_are_means_over_seeds_in_file_order(board, tmp_path, capsys):
    row = {"agent": "a", "env": "RLPA-v0", "split": "vanilla/test", "users": 2, "seed": [0, 1]}
    about = {"agent": "a", "env": "RLPA-v0", "split": "vanilla/test", "stop_reason": "turn_limit"}
    lines = [
        about | {"profile": who, "seed": seed, "turns": [{"reward": reward}]}
        for who, seed, reward in (("y", 1_000_004, 4.0), ("x", 0, 1.0), ("x", 1_000_003, 2.0), ("y", 1, 3.0))
    ]
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert board["add"].paired_returns(path, row) == [1.5, 3.5]
    others = [lines[1] | {"stop_reason": "failure", "turns": []}, lines[1] | {"identity": {"weights": "other"}, "turns": [{"reward": 9.0}]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in [others[0], *lines, others[1]]))  # one that failed was played again
    assert board["add"].paired_returns(path, row) == [1.5, 3.5]
    assert capsys.readouterr().out == ""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    assert board["add"].paired_returns(path, row) is None
    assert "expected 4 episodes of a; got 3" in capsys.readouterr().out
    assert board["add"].paired_returns(tmp_path / "nowhere.jsonl", row) is None
