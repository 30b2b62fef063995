"""Where a turn's reward falls due, and what its lines cost."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from rlpa_agent.advantages import rloo, turn_returns
from rlpa_agent.batch import make_batch
from rlpa_agent.config import PPOConfig, TrainConfig
from rlpa_agent.credit import profile_payments
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError, parse_action

CHAT = tiny_models.policy().chat


def turn_of(text, reward, partial=(), profile=None, weight=1.0, cost=0.0):
    ids = np.array([*CHAT.tokenizer.encode(text, add_special_tokens=False), CHAT.end_id])
    earned = profile if profile is not None else partial[-1] if partial else 0.0
    parts = {"reward/profile": earned, "reward/profile_share": weight * earned - cost, "privacy/cost": cost}
    return Turn(np.arange(2), ids, np.zeros(len(ids), np.float32), reward, parts=parts, partial=partial)


def answer(*lines):
    return "<profile>\n" + "".join(f"{line}\n" for line in lines) + "</profile>\n\n<response>\nHi!\n</response>"


def batch_of(turn, payments):
    return make_batch([Trajectory((turn,), np.arange(5), True, False)], max_turns=1, payments=payments)


def test_the_profile_block_decides_its_reward_and_the_reply_the_rest():
    turn = turn_of(tiny_models.ANSWER, 1.5, profile=0.25, weight=2.0)
    size = len(turn.action_ids)
    payments = profile_payments(CHAT, "block")
    (tokens, early), rest = payments(turn)
    assert CHAT.decode(turn.action_ids[:tokens]).rstrip().endswith("</profile>")
    assert (early, rest) == (0.5, (size, 1.0))
    assert payments(replace(turn, parts={})) == ((size, 1.5),)  # of an environment without profiles, where a block decides nothing
    assert payments(replace(turn, action_ids=turn.action_ids[:3])) == ((3, 0.5), (3, 1.0))  # all of it is one segment


@pytest.mark.parametrize("reward", [0.5, -3.0, 1.0, 7.0])
@pytest.mark.parametrize("paid_at", ["block", "line"])
def test_what_a_wrapper_takes_or_adds_is_the_replys(reward, paid_at):
    """2.0 = 1.0 for the profile and 1.0 for the reply, before a wrapper made something else of it."""
    turn = turn_of(answer("- Job: baker"), reward, (0.2,), weight=5.0)
    *profile, (end, rest) = profile_payments(CHAT, paid_at)(turn)
    assert sum(part for _, part in profile) == pytest.approx(1.0)
    assert (end, rest) == (len(turn.action_ids), pytest.approx(reward - 1.0))


def test_turns_of_an_earlier_version_are_not_credited_by_guess():
    turn = replace(turn_of(tiny_models.ANSWER, 1.0), parts={"reward/profile": 0.5})
    with pytest.raises(ConfigError, match="expected reward/profile_share"):
        profile_payments(CHAT, "block")(turn)
    assert profile_payments(CHAT, "turn")(turn) == ((len(turn.action_ids), 1.0),)


@pytest.mark.parametrize(
    ("lines", "partial", "added"),
    [
        (["- Job: baker", "- Age: 30", "- Hobby: chess"], (0.25, 0.2, 0.5), [0.5, -0.1, 0.6]),
        (["* Job: baker", "• Age: 30", "- Hobby: chess"], (0.25, 0.2, 0.5), [0.5, -0.1, 0.6]),  # whatever marks a line
        (["- Job: baker", "- Job: baker", "- Hobby: chess"], (0.25, 0.4), [0.5, 0.0, 0.3]),  # repeated
        (["- Job: unknown", "", "- Job: baker"], (0.25,), [0.0, 0.5]),  # an empty line is none
    ],
)
@pytest.mark.parametrize("cost", [0.0, 0.15])
def test_each_line_is_paid_what_it_added_less_what_a_line_costs(lines, partial, added, cost):
    turn = turn_of(answer(*lines), 2 * partial[-1] + 1, partial, weight=2.0)
    size = len(turn.action_ids)
    assert len(parse_action(answer(*lines)).profile) == len(partial)
    payments = profile_payments(CHAT, "line", cost)
    *paid, (end, left), rest = payments(turn)
    assert [part for _, part in paid] == pytest.approx([each - cost for each in added])
    assert (end, left) == (CHAT.prefix_where(turn.action_ids.tolist(), lambda text: "</profile>" in text), pytest.approx(0.0))
    assert rest == (size, pytest.approx(1.0))
    for tokens, _ in paid:
        assert CHAT.decode(turn.action_ids[:tokens]).endswith("\n")
    batch = batch_of(turn, payments)
    assert float(batch.reward_A.sum()) == pytest.approx(turn.reward - cost * len(added))
    assert float(batch.reward_A[-1]) == pytest.approx(1.0)
    assert len(set(batch.segment_A.tolist())) == len(paid) + 2  # the lines, the end of the block, the reply
    private = payments(turn_of(answer(*lines), turn.reward - 0.7, partial, weight=2.0, cost=0.7))
    assert [part for _, part in private] == pytest.approx([*(each - cost for each in added), -0.7, 1.0])  # of the block, not of the reply
    block = profile_payments(CHAT, "block", cost)
    assert block(turn) == ((end, pytest.approx(2 * partial[-1] - cost * len(added))), rest)


def test_a_line_that_goes_on_for_ever_costs_every_time_it_is_written():
    """What a greedy policy fell into: the block is cut off at the token limit, earns nothing, and had cost nothing."""
    text = answer("- Job: baker", *["- Age: 30"] * 9).split("</profile>")[0]
    turn = turn_of(text, 0.0)
    for paid_at in ("turn", "block", "line"):
        payments = profile_payments(CHAT, paid_at, 0.1)
        assert sum(part for _, part in payments(turn)) == pytest.approx(-1.0)
        assert float(batch_of(turn, payments).reward_A.sum()) == pytest.approx(-1.0)
    lines = [tokens for tokens, part in payments(turn) if part]
    assert len(lines) == 10
    assert lines == sorted(set(lines))
    free = profile_payments(CHAT, "block")(turn)
    assert free == ((len(turn.action_ids), 0.0), (len(turn.action_ids), 0.0))


@pytest.mark.parametrize(
    "block",
    [
        "- Job: baker\n- Age: 30\n- Hobby: chess\n",
        "• Job: baker\n* Age: 30\n- Hobby: chess\n",
        "- Job: baker, 30 or chess\n",
        "- Job: baker\n- Age: 30, chess",  # closed on the line of its last point
        '{"Job": "baker", "Age": 30, "Hobby": "chess"}',
        '{\n"Job": "baker",\n"Age": [30, "chess"]\n}\n',
    ],
)
def test_no_other_way_to_write_three_points_is_cheaper(block):
    text = f"<profile>\n{block}</profile>\n\n<response>\nHi!\n</response>"
    assert len(parse_action(text).profile) == 3
    assert not parse_action(text).error
    turn = turn_of(text, 2.5, (0.5, 1.0, 1.5))
    for paid_at in ("turn", "block", "line"):
        paid = profile_payments(CHAT, paid_at, 0.1)(turn)
        assert sum(part for _, part in paid) == pytest.approx(2.5 - 0.3)
    assert paid[-1] == (len(turn.action_ids), pytest.approx(1.0))
    assert all(0 < tokens <= len(turn.action_ids) for tokens, _ in paid)


@pytest.mark.parametrize("paid_at", ["turn", "block", "line"])
@pytest.mark.parametrize("tag", ["</Profile>", "</profile >", "< /PROFILE>", "</pro\u200bfile>"])
def test_a_block_is_paid_for_however_its_tag_is_written(tag, paid_at):
    plain = answer("- Job: baker", "- Age: 30").replace("Hi!", "- Hobby: chess\n- Pet: cat")
    written = plain.replace("</profile>", tag)
    assert parse_action(written) == parse_action(plain)
    ours, theirs = (turn_of(text, 2.5, (0.5, 1.0)) for text in (written, plain))
    payments = profile_payments(CHAT, paid_at, 0.25)
    assert [part for _, part in payments(ours)] == [part for _, part in payments(theirs)]
    assert sum(part for _, part in payments(ours)) == 2.0  # two lines at a quarter: those of the reply are free
    tokens = CHAT.block_tokens(ours.action_ids)
    assert CHAT.decode(ours.action_ids[:tokens]).rstrip().endswith(tag)
    assert paid_at == "turn" or payments(ours)[-2][0] == tokens


def test_a_block_that_the_reply_cuts_off_ends_there():
    turn = turn_of(answer("- Job: baker").replace("</profile>\n\n", "") + " </profile>", 0.0)
    assert CHAT.block_tokens(turn.action_ids) == 0
    assert CHAT.decode(turn.action_ids[: CHAT.block_end(turn.action_ids)]).rstrip().endswith("<response>")
    assert profile_payments(CHAT, "block", 0.5)(turn)[0] == (len(turn.action_ids), -0.5)


def test_lines_of_a_reply_are_free():
    text = answer("- Job: baker").replace("Hi!", "- Age: 30\n- Hobby: chess")
    for whole in (text, text.replace("</profile>", "")):
        paid = profile_payments(CHAT, "block", 0.5)(turn_of(whole, 0.0))
        assert sum(part for _, part in paid) == -0.5


def test_where_it_is_paid_follows_from_what_is_compared(tmp_path):
    config = TrainConfig(ppo=PPOConfig(profile_paid="auto"))
    assert config.profile_paid == "line"
    assert replace(config, algo="grpo").profile_paid == "block"
    assert replace(config, mode="official").profile_paid == "turn"
    assert replace(config, ppo=PPOConfig(profile_paid="block")).profile_paid == "block"
    with pytest.raises(ConfigError, match="expected turn, block or auto with algo='rloo'"):
        TrainConfig(algo="rloo", ppo=PPOConfig(profile_paid="line"))


def test_in_official_mode_a_sample_pays_for_its_lines():
    turn = turn_of(answer("- Job: baker", "- Job: baker"), 0.75, (0.25,))
    other = replace(turn, reward=0.5)
    whole = Trajectory((replace(turn, others=(other,)),), np.arange(5), True, False)
    batch = make_batch([whole], max_turns=1, payments=profile_payments(CHAT, "turn", 0.1), per_turn=True)
    assert batch.reward_A[batch.reward_A != 0].tolist() == pytest.approx([0.55, 0.3])


def test_a_block_that_was_never_closed_is_punished_by_comparison_with_whole_turns():
    """Were it compared with its sibling's reply only, it would cost nothing to leave out a profile that earns."""
    good, bad = turn_of(answer("- Job: baker"), 5.0, profile=1.0, weight=5.0), turn_of("- Job: baker", 0.0)
    payments = profile_payments(CHAT, "block")
    batch = make_batch([Trajectory((turn,), np.arange(5), True, False) for turn in (good, bad)], max_turns=1, payments=payments, group=2)
    returns_CK = turn_returns(batch.reward_A, batch.segment_A, batch.starts_C)
    advantage_CK = rloo(returns_CK, batch.group_C)
    segments = batch.segment_A[int(batch.starts_C[1]) :]
    assert set(segments.tolist()) == {0}
    assert float(advantage_CK[1, 0]) == pytest.approx(-5.0)


@pytest.mark.parametrize("paid_at", ["turn", "block", "line"])
def test_where_no_profile_is_paid_a_list_costs_nothing(paid_at):
    turn = turn_of(answer("- 1234", "- 5678"), 1.5)
    foreign = replace(turn, parts={})
    assert profile_payments(CHAT, paid_at, 0.1)(foreign) == ((len(turn.action_ids), 1.5),)  # of one segment, so that gamma_turn=0 loses none of it
    assert sum(paid for _, paid in profile_payments(CHAT, paid_at, 0.1)(turn)) == pytest.approx(1.3)
