"""Figures from records: by hand on a few numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rlpa_env import ModelError
from rlpa_env.rendering import results_table
from rlpa_env.results import (
    by_user,
    normalised,
    paired_difference,
    paired_normalised,
    per_turn,
    result_rows,
    returns,
    summarise,
    ties,
    weights,
)


def turn(reward=0.0, profile=0.0, response=0.0, al=0.0, valid=True, **more):
    base = dict.fromkeys(("f1", "grounded_f1", "precision", "recall", "ceiling", "revealed", "invented"), profile)
    return {**base, "reward": reward, "profile": profile, "response": response, "al": al, "valid": valid, "tokens": 3, "parse_error": "", **more}


def record(profile, turns, seed=0, left=False, stop="turn_limit", limit=3, error=""):
    return {"profile": profile, "seed": seed, "turns": turns, "left": left, "limit": limit, "stop_reason": stop,
            "error": error, "env": "RLPA-v0", "split": "vanilla/test"}  # fmt: skip


A = [record("a", [turn(1.0, 0.5, 0.5)] * 3), record("b", [turn(2.0, 1.0, 1.0)] * 3)]
FLOOR = [record("a", [turn(0.0)] * 3), record("b", [turn(0.0)] * 3)]
TOP = [record("a", [turn(2.0, 1.0, 1.0)] * 3), record("b", [turn(4.0, 2.0, 2.0)] * 3)]


def test_turns_after_the_user_left_count_0_in_every_mean():
    short = [record("a", [turn(1.0, 0.9, 1.0)], left=True, stop="user_left")]
    assert per_turn(short, "f1").tolist() == [[0.9, 0.0, 0.0]]
    row = summarise("x", short, FLOOR[:1], TOP[:1], [0])
    assert row["profile_f1"] == pytest.approx(0.3)
    assert row["return"] == pytest.approx(1.0)
    assert row["left_early"] == 1.0


def test_a_failure_is_missing_and_never_a_0():
    failed = [record("a", [turn(1.0, 0.6), turn(valid=False)], stop="failure"), record("b", [turn(1.0, 0.6)] * 3)]
    table = per_turn(failed, "f1")
    assert np.isnan(table[0, 1:]).all()
    assert table[0, 0] == 0.6
    row = summarise("x", failed, FLOOR, TOP, [0])
    assert row["profile_f1"] == pytest.approx(0.6)
    assert row["return"] == pytest.approx(3.0)  # of the whole episode; the sum of a part says nothing
    assert row["failures"] == 1
    assert row["ranked"] is True


def failed(profile):
    return record(profile, [turn(valid=False)], stop="failure", error="the server is down")


def whole(profile, reward):
    return record(profile, [turn(reward, reward)] * 3)


def test_a_resample_that_holds_only_failures_is_left_out_of_the_interval():
    row = summarise("x", [whole("a", 2.0), failed("b"), failed("c")], None, None, [0])
    assert [row["return"], row["return_lo"], row["return_hi"]] == [6.0, 6.0, 6.0]
    assert [row["profile_f1_lo"], row["profile_f1_hi"]] == [2.0, 2.0]


def test_agents_that_failed_on_each_others_people_have_no_difference_and_are_no_tie():
    ours, theirs = [whole("a", 2.0), failed("b")], [failed("a"), whole("b", 1.0)]
    assert np.isnan(paired_difference(ours, theirs)).all()
    assert ties({"ours": ours, "theirs": theirs}) == []
    assert ties({"ours": ours, "broken": [failed("a"), failed("b")], "again": ours}) == [("ours", "again")]


def test_every_pair_of_ranked_agents_that_cannot_be_told_apart_is_a_tie():
    """b lies between a and c, whose interval covers 0 as well; an agent off schema is no neighbour that hides it."""
    rewards = {"a": [1.0, 2.0, 3.0, 0.9] * 4, "b": [2.9, 0.9, 2.0, 1.0] * 4, "c": [2.0, 3.0, 0.8, 0.9] * 4, "worse": [-9.0] * 16}
    records = {name: [whole(str(i), reward) for i, reward in enumerate(own)] for name, own in rewards.items()}
    assert ties(records) == [("a", "b"), ("a", "c"), ("b", "c")]
    rows, _ = result_rows(records, [0])
    assert {row["agent"]: row["tied_with"] for row in rows} == {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"], "worse": []}
    records["b"][12:] = [record(own["profile"], [turn(valid=False)], stop="failure", error="off schema: no JSON") for own in records["b"][12:]]
    rows, _ = result_rows(records, [0])
    assert {row["agent"]: row["tied_with"] for row in rows if row["ranked"]} == {"a": ["c"], "c": ["a"], "worse": []}


def test_one_person_tells_nobody_apart():
    assert ties({"better": [whole("x", 2.0)], "worse": [whole("x", 1.0)]}) == [("better", "worse")]
    two = {name: [whole("x", reward), whole("y", reward)] for name, reward in (("better", 2.0), ("worse", 1.0))}
    assert ties(two) == []


LATE = [turn(f1, f1, f1) for f1 in (0.0, 0.3, 0.6)]  # guesses get better as people tell more


def test_dialogues_cut_short_by_failures_bias_no_mean():
    cut = [record(str(i), [*LATE[:2], turn(valid=False)] if i % 2 else LATE, stop="failure" if i % 2 else "turn_limit") for i in range(20)]
    row = summarise("x", cut, None, None, [0])
    for key in ("profile_f1", "profile_grounded_f1", "profile_precision", "profile_recall", "ceiling", "response"):
        assert [row[key], row[f"{key}_lo"], row[f"{key}_hi"]] == pytest.approx([0.3] * 3)
    assert row["return"] == pytest.approx(0.9)


def test_differences_and_normalised_scores_are_of_the_episodes_that_everybody_finished():
    def played(second):
        return [record("a", LATE), second, record("b", LATE)]

    easy, hard, cut = record("a", [turn(1.0, 1.0, 1.0)] * 3, seed=1), record("a", LATE, seed=1), record("a", LATE[:1], seed=1, stop="failure")
    for key in ("return", "f1", "response"):
        assert paired_difference(played(easy), played(cut), key) == (0.0, 0.0, 0.0)
        assert paired_difference(played(easy), played(hard), key)[0] > 0.1
    floor, top = ([record(r["profile"], [turn(level)] * 3, seed=r["seed"]) for r in played(hard)] for level in (0.0, 0.6))
    floor[1] = record("a", [turn(0.3)] * 3, seed=1)  # the only episode with a higher floor is the one that was cut
    assert normalised(played(cut), floor, top)[0] == pytest.approx(0.5)


def test_turns_off_schema_are_shown_as_missing_and_as_0_and_too_many_forbid_a_rank():
    bad = record("a", [turn(1.0, 0.6), turn(valid=False)], stop="failure", error="off schema: judge: ...")
    row = summarise("x", [bad, record("b", [turn(1.0, 0.6)] * 3)], FLOOR, TOP, [0])
    assert row["off_schema"] == 1
    assert row["profile_f1"] == pytest.approx(0.6)
    assert row["off_schema_as_0"]["profile_f1"] == pytest.approx((0.2 + 0.6) / 2)
    assert row["off_schema_as_0"]["return"] == pytest.approx((1.0 + 3.0) / 2)
    assert row["ranked"] is False
    many = [record(str(i), [turn(1.0)] * 3) for i in range(40)]
    few = [record("a", [turn(1.0), turn(1.0), turn(valid=False)], stop="failure", error="off schema: judge: ..."), *many]
    zero, top = ([record(r["profile"], [turn(reward, reward, reward)] * 3) for r in few] for reward in (0.0, 2.0))
    assert summarise("x", few, zero, top, [0])["ranked"] is True


def test_an_agent_whose_every_episode_failed_has_no_scores():
    failed = [record(name, [turn(valid=False)], stop="failure", error="the server is down") for name in "ab"]
    with pytest.raises(ModelError, match="server is down"):
        summarise("x", failed, FLOOR, TOP, [0])


def test_an_agent_that_was_off_schema_in_every_episode_has_a_row_without_rank_and_its_scores_as_0():
    bad = [record(name, [turn(1.0, 0.6), turn(valid=False)], stop="failure", error="off schema: judge: ...") for name in "ab"]
    row = summarise("x", bad, FLOOR, TOP, [0])
    assert row["ranked"] is False
    assert not {"return", "profile_f1", "al", "avg", "normalised"} & set(row)
    assert row["off_schema_as_0"]["return"] == 1.0
    assert row["off_schema_as_0"]["profile_f1"] == pytest.approx(0.2)
    assert (row["off_schema"], row["failures"], row["tokens_per_turn"]) == (2, 2, 3.0)
    silent = [record("a", [turn(valid=False)], stop="failure", error="off schema: judge: ...", limit=200), failed("b")]
    json.dumps(summarise("x", silent, None, None, [0]), allow_nan=False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # 0 / 0
def test_a_score_that_is_no_number_is_absent():
    row = summarise("x", A, FLOOR, FLOOR, [0])
    assert "normalised" not in row
    json.dumps(row, allow_nan=False)


def test_normalised_is_a_ratio_of_means_with_a_joint_interval():
    estimate, low, high = normalised(A, FLOOR, TOP)
    assert estimate == pytest.approx(0.5)
    assert low == pytest.approx(0.5)  # every user is exactly half way: a joint bootstrap has no spread
    assert high == pytest.approx(0.5)


def test_a_paired_normalised_difference_is_that_of_the_scores_and_its_scale_is_resampled_with_it():
    assert paired_normalised(TOP, A, FLOOR, TOP) == pytest.approx((0.5, 0.5, 0.5))  # of every user half the scale: no spread
    gap, scale = np.array([1.0, 0.0, 2.0]), np.array([3.0, 1.0, 8.0])
    floor = [whole(name, 1.0) for name in "abc"]
    b = [whole(name, level) for name, level in zip("abc", (2.0, 3.0, 1.0), strict=True)]
    a = [whole(name, level) for name, level in zip("abc", (3.0, 3.0, 3.0), strict=True)]
    top = [whole(name, 1.0 + level) for name, level in zip("abc", scale, strict=True)]
    estimate, *ends = paired_normalised(a, b, floor, top)
    draws = weights(3)
    assert estimate == pytest.approx(normalised(a, floor, top)[0] - normalised(b, floor, top)[0]) == pytest.approx(gap.mean() / scale.mean())
    assert ends == pytest.approx(np.percentile((draws @ gap) / (draws @ scale), [2.5, 97.5]).tolist())
    cut = [*a[:2], failed("c")]
    assert paired_normalised(cut, b, floor, top)[0] == pytest.approx(1.0 / 4.0)  # without the third person anywhere
    with pytest.raises(ValueError, match="same users"):
        paired_normalised(a, b, floor[::-1], top)


def test_values_above_1_are_legal():
    assert normalised(TOP, FLOOR, A)[0] == pytest.approx(2.0)


def test_paired_difference_by_hand_and_refuses_other_users():
    estimate, low, high = paired_difference(TOP, A)
    assert estimate == pytest.approx((3.0 + 6.0) / 2)
    assert low == pytest.approx(3.0)
    assert high == pytest.approx(6.0)
    with pytest.raises(ValueError, match="same users"):
        paired_difference(TOP, [record("c", [turn()] * 3), A[1]])


def test_seeds_of_one_user_are_averaged_before_the_bootstrap():
    twice = [record("a", [turn(1.0)] * 3, seed=0), record("a", [turn(3.0)] * 3, seed=1), record("b", [turn(5.0)] * 3)]
    assert by_user(twice, returns(twice)).tolist() == [6.0, 15.0]


def test_al_is_in_percent_and_a_flat_row_has_no_slope():
    flat = [record(name, [turn(al=1.0)] * 3) for name in "ab"]
    row = summarise("x", flat, FLOOR, TOP, [0])
    assert row["al"] == [100.0, 100.0, 100.0]
    assert row["avg"] == 100.0
    assert (row["n_ir"], row["n_r2"]) == (0.0, 0.0)


def talked(profile, replies, **more):
    said = [f"<profile>\n- Age: 34\n</profile>\n<response>\n{reply}\n</response>" if reply else "" for reply in replies]
    messages = [{"role": role, "content": text} for own in said for role, text in (("user", "Hello"), ("assistant", own))]
    return record(profile, [turn(1.0) for _ in said], **more) | {"messages": messages}


def test_one_safe_reply_shows_in_the_row_of_an_agent_and_a_failure_is_no_reply():
    records = [talked("a", ["Hi there", "so it is", "so it is"]), talked("b", ["Hi there", "so was it", ""], stop="failure", error="the server is down")]
    row = summarise("x", records, None, None, [0])
    assert row["most_common_reply"] == pytest.approx(2 / 3)  # of what was said after the first turn; not the Hi there
    assert row["distinct_2"] == pytest.approx(5 / 8)  # Hi-there, so-it, it-is, so-was and was-it


OLDER = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "references" / "references.json").read_text(encoding="utf-8"))


def test_rows_from_before_there_were_figures_of_replies_look_as_they_did():
    assert "most_common_reply" not in summarise("x", A, None, None, [0])  # records that do not tell what was said
    told = [row | {"most_common_reply": 0.5, "distinct_2": 0.5} for row in OLDER["figures"]["agents"].values()]
    rows = [{key: value for key, value in row.items() if key not in ("most_common_reply", "distinct_2")} for row in told]
    older, newer = io.StringIO(), io.StringIO()
    for out, table in ((older, results_table(rows)), (newer, results_table(told))):
        Console(file=out, width=160).print(table)
    assert "attentive" in older.getvalue()
    assert older.getvalue() == newer.getvalue()


def test_every_score_has_its_interval_around_it():
    row = summarise("x", A, FLOOR, TOP, [0])
    scores = [key[:-3] for key in row if key.endswith("_lo") and key != "al_lo"]
    assert {"return", "normalised", "normalised_profile", "normalised_response", "profile_f1", "profile_f1_final",
            "profile_grounded_f1", "profile_precision", "profile_recall", "ceiling", "response", "avg", "n_ir",
            "n_r2"} <= set(scores)  # fmt: skip
    for key in scores:
        assert row[f"{key}_lo"] <= row[key] + 1e-9
        assert row[key] <= row[f"{key}_hi"] + 1e-9
