"""The benchmarks of the paper run, say only what they can, and count what they claim to count."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import runpy
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "paper"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/run.py"))


@pytest.fixture(scope="module")
def clean():
    """Scripts put folders on the path, and their modules have short names that others have too."""
    path, before = list(sys.path), set(sys.modules)
    sys.modules.pop("cases", None)
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(FOLDER.parent) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture(scope="module")
def say(clean):
    return importlib.import_module("claims")


@pytest.fixture(scope="module")
def study(clean):
    return importlib.import_module("study")


def script(name):
    spec = importlib.util.spec_from_file_location(f"paper_{name}", FOLDER / name / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def run(name, runs, monkeypatch, capsys, *more):
    command = [str(FOLDER / name / "run.py"), "--users", "5", "--seeds", "1", "--smoke", "--runs", str(runs), "--out", str(runs), *more]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(command[0], run_name="__main__")
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    record = json.loads((runs / f"{name}.json").read_text())
    assert record["figures"] == figures
    assert str(runs) not in record["command"]
    return figures


def test_nine_benchmarks_are_there_and_make_runs_them():
    recipe = (FOLDER.parents[1] / "Makefile").read_text().split("bench-paper:")[1].split("\n\n")[0]
    assert all(name in recipe for name in NAMES)
    assert set(NAMES) == set("table1 table2 table4_5 fig4a_shift fig4b_long fig5_efficiency table6_users table8_matcher table9_judge".split())


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_five_people_decide_nothing(name, clean, runs, monkeypatch, capsys):
    figures = run(name, runs, monkeypatch, capsys)
    assert figures["claims"]
    assert {claim["outcome"] for claim in figures["claims"]} == {"cannot be said"}
    assert name != "fig4a_shift" or "cost_of_change" in figures["rows"]["start"]


def test_finished_parts_are_not_held_again_and_other_weights_are(clean, study, runs, monkeypatch, capsys, tmp_path):
    figures = run("table2", runs, monkeypatch, capsys)
    assert [claim["sentence"].startswith("AVG") for claim in figures["claims"]] == [True] * 3 + [False] * 4  # the paper's, ours

    def forbidden(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr("rlpa_agent.evaluate.policy_agent", forbidden)
    again = run("table2", runs, monkeypatch, capsys, "--model", "other-name=tiny")
    assert again["rows"]["other-name"] == figures["rows"]["start"]
    with pytest.raises(AssertionError, match="loaded"):
        run("table2", runs, monkeypatch, capsys, "--temperature", "0.5")
    for weights in (b"one", b"two"):
        (tmp_path / weights.decode()).mkdir()
        (tmp_path / weights.decode() / "model.safetensors").write_bytes(weights)
    assert study.fingerprint(str(tmp_path / "one")) != study.fingerprint(str(tmp_path / "two"))


def test_policies_side_by_side_say_what_they_say_one_by_one(study, tmp_path, monkeypatch):
    short = {"max_turns": 2, "max_episode_steps": 2}
    held = {}
    for workers in (1, 2):
        args = study.read(study.parser("", ("start=tiny", "again=tiny", "script")), ["--users", "2", "--seeds", "0", "1", "--workers", str(workers)])
        args.runs = tmp_path / str(workers)
        held[workers] = study.hold(args, study.VANILLA, **short)
        files = list(args.runs.rglob("episodes.jsonl"))
        assert len(files) == 4  # of one policy under two names, once
        assert all(len(file.read_text().splitlines()) == 2 for file in files)
    said = {workers: {name: [[r["messages"] for r in records] for records in seeds] for name, seeds in found.items()} for workers, found in held.items()}
    assert said[1] == said[2]
    assert said[1]["start"] == said[1]["again"] != said[1]["script"]
    assert said[1]["start"][0] != said[1]["start"][1]  # another seed, other words
    alone, quiet = study.read(study.parser("", ("script",)), ["--users", "2", "--seeds", "0"]), []
    alone.runs = tmp_path / "alone"
    collect = study.collect
    monkeypatch.setattr(study, "collect", lambda *parts, **more: quiet.append(more["quiet"]) or collect(*parts, **more))
    study.hold(alone, study.VANILLA, **short)
    assert quiet == [False]  # one part alone has its own bar
    with pytest.raises(SystemExit):
        study.read(study.parser(""), ["--workers", "0"])
    assert study.read(study.parser(""), ["--base-url", "http://x/v1", "--model-name", "m"]).workers == 1


@pytest.mark.parametrize("model", [["a=tiny", "a=script"], ["=tiny"], ["a="]])
def test_models_have_distinct_names(study, model):
    with pytest.raises(study.ConfigError, match="NAME=SOURCE"):
        study.contestants(model)


def test_nobodys_folders_are_published(study):
    hidden = {"a=/x/y": "a=y", "/x/y": "y", "cot=cot@/x/y": "cot=cot@y", "cot@/x/y": "cot@y"}
    assert {text: study._without_folders(text) for text in hidden} == hidden
    for text in ("a=b", "runs/x", "--base-url=http://x/y"):
        assert study._without_folders(text) == text


def test_sources(study):
    assert study.contestants(["tiny", "runs/ppo-3", "rlpa=runs/a=b"]) == {"start": "tiny", "ppo-3": "runs/ppo-3", "rlpa": "runs/a=b"}
    args = study.read(study.parser(""), ["--users", "3"])
    assert study.source_of("script", 0, args).agent is None
    with pytest.raises(SystemExit, match=r"no folder .\./nowhere-7"):
        study.source_of("./nowhere-{seed}", 7, args)
    with pytest.raises(SystemExit, match="--base-url"):
        study.source_of("cot", 0, args)
    plain, prompted = study.source_of("tiny", 0, args), study.source_of("self-critic@tiny", 0, args)
    assert prompted.key == f"self-critic-{plain.key}"  # its dialogues are not taken for the policy's own
    with pytest.raises(SystemExit):
        study.read(study.parser(""), ["--base-url", "http://localhost:1"])
    with pytest.raises(SystemExit):
        study.read(study.parser(""), ["--seeds", "1", "1"])


@pytest.fixture(scope="module")
def server():
    sys.path.insert(0, str(Path(__file__).parent / "env"))
    try:
        serving = importlib.import_module("chat_servers").serving
    finally:
        sys.path.pop(0)
    with serving() as url:
        yield url


@pytest.mark.parametrize("name", ["table6_users", "table8_matcher", "table9_judge", "fig5_efficiency"])
def test_the_parts_for_a_served_model(name, clean, server, runs, monkeypatch, capsys):
    figures = run(name, runs, monkeypatch, capsys, "--users", "2", "--base-url", server, "--model-name", "stand-in")
    if name == "table6_users":
        assert [rating["value"] for rating in figures["ratings"]["scripted, with attentive"]] == [3.0] * 4
        assert list(figures["shares"]) == ["scripted, with attentive", "worded by stand-in, with attentive"]
    elif name == "table8_matcher":  # the stand-in matches by the lexical rules
        by_words, by_model = ([r for r in figures["rows"] if r["matcher"] == who] for who in ("lexical", "llm stand-in"))
        assert [row["mse"] for row in by_words] == [row["mse"] for row in by_model]
        assert list((runs / "answers" / "stand-in").rglob("*"))
    elif name == "table9_judge":
        assert any(row["judge"] == "stand-in" and row["kappa"]["value"] == 1 for row in figures["rows"])
    else:
        assert figures["claims"][1]["why"] == "stand-in wrote no <think>"


def test_a_context_that_seventy_turns_fit(study, tmp_path):
    from rlpa_agent.config import shipped_start

    config = json.loads((Path(shipped_start()) / "config.json").read_text())
    for room, context in ((3_072, "window"), (32_768, "latest")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": room}))
        assert study.fitting_context(str(tmp_path), 70) == context
    parser = study.parser("")
    parser.add_argument("--context")
    args = study.read(parser, [])
    assert study.source_of("tiny", 0, args).context == ""
    assert study.source_of("tiny", 0, args, 70).context == "window"
    assert study.source_of("tiny", 0, args).key != study.source_of("tiny", 0, args, 70).key


def table(seed, rate, seeds=3, users=40, turns=10):
    return (np.random.default_rng(seed).random((seeds, users, turns)) < rate).astype(float)


def test_a_claim_holds_only_where_every_seed_and_the_interval_say_so(say):
    low, high = table(0, 0.3), table(1, 0.6)
    claim = say.above("s", {"a": high, "b": low}, "a", "b")
    assert claim.outcome == say.HELD
    assert claim.seeds == pytest.approx([100 * (high[s].mean() - low[s].mean()) for s in range(3)])
    assert say.above("s", {"a": low, "b": high}, "a", "b").outcome == say.NOT
    tie = say.above("s", {"a": table(2, 0.5), "b": table(3, 0.5)}, "a", "b")
    assert tie.outcome == say.NOT
    assert "tie" in tie.why
    mixed = high.copy()
    mixed[2] = table(4, 0.25)[0]
    one = say.decided("s", say.Estimate(20.0, 5.0, 30.0), [30.0, 30.0, -1.0])
    assert one.outcome == say.NOT
    assert "not in every seed" in one.why
    assert say.above("s", {"a": mixed, "b": low}, "a", "b").seeds[2] < 0


def test_dialogues_that_failed_for_one_make_no_difference_between_two_who_are_alike(say):
    al = table(0, 0.6) * (np.arange(40) >= 10)[:, None]  # with ten people nothing ever fits
    failed = al.copy()
    failed[:, :10, 4:] = np.nan
    claim = say.above("s", {"a": failed, "b": al}, "a", "b")
    assert (claim.outcome, claim.why, claim.seeds) == (say.NOT, "+0.0 [+0.0, +0.0]: a tie, the interval covers 0", (0.0, 0.0, 0.0))
    assert say.above("s", {"a": al, "b": failed}, "a", "b").why == claim.why
    assert say.grows("s", {"a": failed}, "a").seeds == pytest.approx(say.grows("s", {"a": al[:, 10:]}, "a").seeds)


def test_as_good_as_is_open_where_the_interval_holds_the_bound(say, clean):
    outcomes = {(-3.0, 5.0): say.UNKNOWN, (-3.0, 0.0): say.UNKNOWN, (-3.0, -1.0): say.NOT, (0.0, 5.0): say.HELD}
    assert {bounds: say.reaches("s", say.Estimate(1.0, *bounds), 0.0, "t", [1.0]).outcome for bounds in outcomes} == outcomes
    assert "not in every seed" in say.reaches("s", say.Estimate(1.0, 0.5, 5.0), 0.0, "t", [1.0, -1.0]).why
    assert say.reaches("s", say.Estimate(1.0, 0.5, 5.0), 0.0, "t", [1.0, np.nan]).outcome == say.UNKNOWN
    error = np.array([[0.0] * 30 + [1.0] * 30] * 3)
    better, long = script("table8_matcher").better, script("fig4b_long")
    assert [better("s", error, than).outcome for than in (0.2, 0.49, 0.9)] == [say.HELD, say.UNKNOWN, say.NOT]
    there = np.ones((3, 40, 4))
    own = {"grounded_f1": np.where(np.arange(40)[:, None] < 20, 0.8, 1.0) * there, "ceiling": there, "there": there}
    own["f1"] = np.where(np.arange(4) < 2, 1.0, own["grounded_f1"])
    assert long.keeps_up("s", {"rlpa": own}, "rlpa", 2).outcome == say.UNKNOWN
    assert long._rises("s", {"rlpa": own}, 1, 4, share=0.9).outcome == say.UNKNOWN
    assert long._rises("s", {"rlpa": own}, 1, 4, share=1.0).outcome == say.NOT  # above it: no


def test_a_row_that_always_passes_neither_rises_nor_has_a_band(say):
    """Resampled means of ones are a rounding away from one, which is no shape."""
    figures = say.alignment_figures(np.ones((3, 74, 10)))
    assert (tuple(figures["n_ir"]), tuple(figures["n_r2"])) == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert (figures["null"].n_ir, figures["null"].n_r2) == (0.0, 0.0)


def test_what_cannot_be_said(say):
    assert "no policy named b" in say.above("s", {"a": table(0, 0.5)}, "a", "b").why
    few = {"a": np.ones((3, 19, 10)), "b": np.zeros((3, 19, 10))}
    assert say.above("s", few, "a", "b").outcome == say.UNKNOWN
    assert say.grows("s", few, "a").outcome == say.UNKNOWN


def test_people_whose_dialogues_failed_do_not_make_up_the_twenty(clean, say):
    good, failed = np.ones((3, 25, 10)), np.ones((3, 25, 10))
    failed[:, :6, 4:] = np.nan
    claims = [
        say.above("s", {"a": good, "b": 0.5 * failed}, "a", "b"),
        say.above("s", {"a": failed, "b": 0.5 * good}, "a", "b"),
        say.grows("s", {"a": failed}, "a"),
        script("table4_5").holds_up("s", {"rlpa": failed}),
        script("fig4a_shift").moves("s", {"a": failed}, "a", 6, 9, up=True),
        script("table8_matcher").better("s", failed[..., 4], 0.9),
    ]
    assert [claim.outcome for claim in claims] == [say.UNKNOWN] * 6
    assert {claim.why for claim in claims[:5]} == {"19 people of 25, those with all figures, are too few: at least 20"}
    failed[0, :6] = 1.0  # of whom one seed has a whole dialogue
    assert say.above("s", {"a": failed, "b": 0.5 * good}, "a", "b").outcome == say.HELD


def test_a_seed_that_says_nothing_or_otherwise_is_heard(clean, say):
    al = np.ones((3, 25, 10))
    al[0, :, 5:] = np.nan
    assert say.above("s", {"a": al, "b": 0.5 * al}, "a", "b").outcome == say.UNKNOWN
    al[0] = 0.8 - 0.009 * np.arange(10)
    holds_up = script("table4_5").holds_up
    assert holds_up("s", {"rlpa": al}).outcome == say.HELD  # 4.5 points down in one seed, within the margin
    al[0, :, 7:] -= 0.2
    al[1:, :, 7:] += 0.2
    claim = holds_up("s", {"rlpa": np.repeat(al, [1, 9, 9], axis=0)})
    assert (claim.outcome, claim.seeds[0]) == (say.NOT, pytest.approx(-24.5))
    assert claim.why.endswith("but not in every seed for itself")


def test_intervals_cover_seeds_and_users(say):
    users = np.random.default_rng(0).normal(size=(1, 100, 1))
    found = say.estimate(users, lambda row: row[0])
    assert found.value == pytest.approx(users.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * users.std() / 10, rel=0.1)
    apart = np.array([0.0, 1.0, 2.0])[:, None, None] * np.ones((3, 50, 1))  # seeds differ, people do not
    assert say.estimate(apart, lambda row: row[0])[1:] == (0.0, 2.0)
    missing = users.copy()
    missing[0, :50] = np.nan
    assert say.estimate(missing, lambda row: row[0]).value == pytest.approx(users[0, 50:].mean())
    assert math.isnan(say.estimate(np.full((2, 3, 1), np.nan), lambda row: row[0]).value)


def test_growth_is_measured_against_chance(say):
    rising = np.stack([table(k, 0.1 + 0.08 * k, turns=1)[..., 0] for k in range(10)], axis=-1)
    assert say.grows("s", {"rlpa": rising}, "rlpa").outcome == say.HELD
    assert say.grows("s", {"rlpa": rising[..., ::-1]}, "rlpa").outcome == say.NOT
    flat = [say.grows("s", {"a": table(seed, 0.5)}, "a").outcome for seed in range(20)]
    assert flat.count(say.HELD) <= 3


def test_growth_is_not_what_flat_rows_show_where_verdicts_persist(say):
    passed = np.array([20, 22, 25, 21, 27, 23, 29, 30, 25, 28])
    row = (np.arange(50)[None, :, None] < passed).astype(float)
    slope, fit = say.improvement((2.0 * passed).tolist())
    narrow = say.band(50, 0.5, "independent")
    assert slope > narrow.n_ir  # more than by chance, did every verdict stand on its own
    assert fit > narrow.n_r2
    assert say.grows("s", {"rlpa": row}, "rlpa").outcome == say.NOT


def test_growth_holds_only_where_every_seed_and_the_interval_say_so(say):
    rising = np.stack([table(k, 0.1 + 0.08 * k, turns=1)[..., 0] for k in range(10)], axis=-1)
    held = say.grows("s", {"a": rising}, "a")
    assert (held.outcome, len(held.seeds)) == (say.HELD, 3)
    assert re.search(r"N-IR 0\.\d+ \[0\.\d+, 0\.\d+\], N-R²", held.why)  # the interval, above 0
    mixed = rising.copy()
    mixed[2] = rising[2, :, ::-1]
    assert say.beyond_chance(say.alignment_figures(mixed))
    claim = say.grows("s", {"a": mixed[[0, 1, 0, 1, 0, 1, 2]]}, "a")
    assert (claim.outcome, claim.why.endswith("but not in every seed for itself")) == (say.NOT, True)
    one = np.zeros((3, 20, 10))
    one[:, :10], one[:, 19, 5:] = 1.0, 1.0  # all growth is one person's, whom a third of the draws leave out
    assert say.beyond_chance(say.alignment_figures(one))
    assert say.grows("s", {"a": one}, "a").outcome == say.NOT
    rising[2, :, 5:] = np.nan
    assert say.grows("s", {"a": rising}, "a").outcome == say.UNKNOWN


def test_long_dialogues_count_who_is_still_there(clean):
    long = script("fig4b_long")
    record = {"limit": 4, "stop_reason": "user_left", "turns": [{"valid": True, "f1": 0.2, "grounded_f1": 0.3, "ceiling": 0.5}] * 2}
    whole = {"limit": 4, "stop_reason": "turn_limit", "turns": [{"valid": True, "f1": 0.2, "grounded_f1": 0.6, "ceiling": 0.5}] * 4}
    own = long.shares([[record, whole]])
    assert own["there"][0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    ratio, alone = long.kept_up(own, 3)
    assert ratio.value == pytest.approx(0.6 / (2 * 0.5 / 1.5))  # of the one who stayed
    assert alone == pytest.approx([0.9])
    assert math.isnan(long.kept_up(long.shares([[record]]), 3)[0].value)
    few = {"rlpa": long.shares([[record] * 10 + [whole] * 19])}
    assert long.keeps_up("s", few, "rlpa", 3).why == "19 people were still there at turn 3: at least 20"
    held = long.keeps_up("s", {"rlpa": long.shares([[record] * 10 + [whole] * 20])}, "rlpa", 3)
    assert held.seeds == pytest.approx((0.9,))
    assert long.keeps_up("s", {"rlpa": long.shares([[record] * 20])}, "rlpa", 2).outcome == "did not hold"


def test_a_late_turn_with_one_person_left_weighs_as_one_turn(clean):
    long = script("fig4b_long")
    ceiling = np.where((np.arange(8) > 0)[:, None] & (np.arange(3) > 0), np.nan, 1.0)[None]  # eight people, then one
    own = {"grounded_f1": ceiling * np.array([0.9, 0.1, 0.1]), "ceiling": ceiling}
    ratio, alone = long.kept_up(own, 1)
    assert ratio.value == pytest.approx((8 * 0.9 + 2 * 0.1) / 10)
    assert alone == pytest.approx([ratio.value])


def test_the_change_costs_what_the_same_dialogues_without_it_had_more(clean, study):
    shift = script("fig4a_shift")
    same, changed = np.ones((2, 25, 10)), np.ones((2, 25, 10))
    changed[..., 5:7] = 0.0
    changed[:, :5, 6:] = np.nan  # failures
    same[:, :5] = 0.0
    found = shift.cost(same, changed)
    assert (found.value, found.low, found.high) == pytest.approx((50.0, 50.0, 50.0))
    held = [study.collect({"attentive": None}, study.Setting(*task, 3), workers=1, quiet=True)["attentive"] for task in (study.VANILLA, shift.SHIFT)]
    plain, moved = ([message["content"] for message in talks[1]["messages"]] for talks in held)
    until = next(i for i, (one, other) in enumerate(zip(plain, moved, strict=False)) if one != other)
    assert until >= 11  # system, then five turns of two


def test_who_is_not_there_at_both_turns_makes_no_difference_between_them(clean, say):
    shift, long = script("fig4a_shift"), script("fig4b_long")
    score = np.where(np.arange(60) < 30, 0.2, 0.8)[:, None] * np.ones((3, 60, 10))  # nobody changes
    score[:, :30, 7:] = np.nan  # of the lower half nothing is known at the end
    for up in (True, False):
        claim = shift.moves("s", {"a": score}, "a", 6, 9, up)
        assert claim.outcome == say.NOT
        assert (claim.why, claim.seeds) == ("+0.0 [+0.0, +0.0]: a tie, the interval covers 0", (0.0,) * 3)
    own = {"rlpa": {"f1": score, "there": (~np.isnan(score)).astype(float)}}
    assert long._rises("s", own, 1, 9, share=1.0).why == "+0.0 [+0.0, +0.0]: a tie, the interval covers 0"
    assert long._rises("s", own, 1, 9, share=0.9).seeds == pytest.approx((8.0,) * 3)
    left = np.where(np.isnan(score), 0.0, score)  # a person who left is no failure: alignment has fallen
    assert shift.moves("s", {"a": left}, "a", 6, 9, up=False).seeds == pytest.approx((10.0,) * 3)


def test_the_noise_floor_is_the_spread_of_one_agent_over_seeds(clean):
    floor = script("table1").noise_floor
    found = {"start": {"avg_by_seed": [40.0, 43.0, 41.0]}, "rlpa": {"avg_by_seed": [60.0, 50.0, 55.0]}}
    assert floor(found, {"start": "tiny", "rlpa": "x/rlpa-{seed}"}) == {"start": {"avg_by_seed": [40.0, 43.0, 41.0], "spread": 3.0}}
    assert floor({"start": {"avg_by_seed": [40.0]}}, {"start": "tiny"}) == {}


def test_seventy_turns_are_held_with_as_many_people_as_the_result_in_the_repository(clean, monkeypatch, tmp_path):
    committed = json.loads((FOLDER.parent / "results" / "paper" / "fig4b_long.json").read_text())["figures"]["users"]
    long, asked = script("fig4b_long"), []

    def hold(args, *_, **__):
        asked.append(args.users)
        raise SystemExit

    monkeypatch.setattr(long.study, "hold", hold)
    monkeypatch.setattr(sys, "argv", ["run.py", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        long.main()
    assert asked == [committed]


def test_tokens_of_profile_and_reply(clean):
    efficiency = script("fig5_efficiency")
    text = "<profile>\n- Age: 34\n</profile>\n\n<response>\nOh, hello there.\n</response>"
    broken = "<profile>\n- Age: 34\n<response>\nOh.\n</response>"
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text}]
    assert efficiency.lengths([[{"messages": messages}]], efficiency.words)[0, 0].tolist() == [5, 5]
    messages = [{"role": "assistant", "content": broken}]
    assert efficiency.lengths([[{"messages": messages}]], efficiency.words)[0, 0].tolist() == [4, 3]

    class Thinker:
        usage = type("Usage", (), {"completion_tokens": 200})

        def begin(self, messages, **options):
            future = Future()
            future.set_result("<think>" + "x" * 85 + "</think>" + "y" * 100)
            return future

    found = efficiency.thinking(Thinker(), [{"messages": [{"role": "user", "content": "Hello"}]}] * 2)
    assert found == {"asked": 2, "tokens": 100.0, "thinking_tokens": pytest.approx(50.0)}


def test_the_user_is_read_from_its_messages(clean):
    users = script("table6_users")
    said = ["Hello", "I'm a nurse, nights mostly.", "I'm a nurse, nights mostly.", "I am a baker, you know."]
    messages = [{"role": "system", "content": ""}]
    for line in said:
        messages += [{"role": "user", "content": line}, {"role": "assistant", "content": "<profile>\n</profile>\n\n<response>\nI see.\n</response>"}]
    record = {"profile": "x", "truth": {"Occupation": "nurse", "Age": "34"}, "messages": messages}
    coherence, stability, proactivity, fit = users.shares(record)
    assert coherence == pytest.approx(2 / 3)
    assert stability == pytest.approx(2 / 3)
    assert proactivity == pytest.approx(1 / 3)
    assert fit < 1
    assert users._rating('{"coherence": 5, "stability": 4, "proactivity": 3, "persona-fit": 1}') == [5, 4, 3, 1]
    assert np.isnan(users._rating('{"coherence": 9, "stability": 4, "proactivity": 3, "persona-fit": 1}')[0])
    assert np.isnan(users._rating("five of five")).all()


def test_matcher_figures_by_hand(clean):
    matcher = script("table8_matcher")
    found = matcher.figures_of(np.array([[0.0, 1.0, -3.0, np.nan]]))
    assert found["exact"].value == pytest.approx(1 / 3)
    assert found["within_1"].value == pytest.approx(2 / 3)
    assert found["mse"].value == pytest.approx(10 / 3)
    assert found["rmse"].value == pytest.approx((10 / 3) ** 0.5)


def test_replies_of_one_person_are_resampled_together(clean):
    intervals = script("table9_judge").with_intervals
    verdict, label = [1, 1, 0, 0] * 5, [1, 0, 0, 1] * 5
    once = intervals(verdict, label, range(20))
    often = intervals(verdict * 15, label * 15, [*range(20)] * 15)  # the same twenty, each said fifteen times
    assert often["accuracy"] == pytest.approx(once["accuracy"])
    assert once["accuracy"].high - once["accuracy"].low > 0.3


def test_judge_figures_and_labels(clean, tmp_path):
    judge = script("table9_judge")
    verdict = np.array([1] * 20 + [1] * 5 + [0] * 10 + [0] * 15)
    label = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    assert judge.agreement(verdict, label) == pytest.approx([0.7, 0.8, 2 / 3, 8 / 11, 0.4])
    assert np.isnan(judge.agreement(np.ones(4), np.ones(4))[4])  # all alike: agreement by chance is 1
    item = judge.Item((judge.Point("Age", "34"),), (judge.Message("user", "Hello"),), "Hi.", None)
    sheet = tmp_path / "sheet.jsonl"
    assert judge.write_sheet(sheet, [item] * 400, 0) == 300
    assert "label" in sheet.read_text()
    with pytest.raises(SystemExit, match="may hold labels"):
        judge.write_sheet(sheet, [item], 0)
    with pytest.raises(judge.ConfigError, match="at least one line with a label"):
        judge.read_labels(sheet)
    lines = sheet.read_text().splitlines()
    sheet.write_text("\n".join([lines[0].replace("null", "1"), lines[1]]))
    assert judge.read_labels(sheet) == [judge.Item(item.points, item.dialogue, "Hi.", 1)]
    sheet.write_text(lines[0].replace("null", "1").replace("Hi.", "Hi.\u2028Ho\x85.") + "\n", encoding="utf-8")
    assert judge.read_labels(sheet)[0].reply == "Hi.\u2028Ho\x85."
    sheet.write_text(lines[0].replace("null", '"yes"'))
    with pytest.raises(judge.ConfigError, match=r"sheet.jsonl:1: expected label 0, 1 or null; got 'yes'"):
        judge.read_labels(sheet)
    sheet.write_text(lines[0].replace("null", "1") + "\n{}")
    with pytest.raises(judge.ConfigError, match="jsonl:2: expected a line of a sheet"):
        judge.read_labels(sheet)
