"""Where a turn's reward falls due, and what its lines cost."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from rlpa_agent.batch import make_batch
from rlpa_agent.config import PPOConfig
from rlpa_agent.credit import profile_payments
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError, parse_action

CHAT = tiny_models.policy().chat


def turn_of(text, reward, partial=(), profile=None):
    ids = np.array([*CHAT.tokenizer.encode(text, add_special_tokens=False), CHAT.end_id])
    parts = {"reward/profile": profile if profile is not None else partial[-1] if partial else 0.0}
    return Turn(np.arange(2), ids, np.zeros(len(ids), np.float32), reward, parts=parts, partial=partial)


def answer(*lines):
    return "<profile>\n" + "".join(f"{line}\n" for line in lines) + "</profile>\n\n<response>\nHi!\n</response>"


def batch_of(turn, payments):
    return make_batch([Trajectory((turn,), np.arange(5), True, False)], max_turns=1, payments=payments)


def test_the_profile_block_decides_its_reward_and_never_more_than_was_paid():
    turn = turn_of(tiny_models.ANSWER, 1.5, profile=0.25)
    size = len(turn.action_ids)
    payments = profile_payments(CHAT, weight=2.0)
    (tokens, early), rest = payments(turn)
    assert CHAT.decode(turn.action_ids[:tokens]).rstrip().endswith("</profile>")
    assert (early, rest) == (0.5, (size, 1.0))
    assert payments(replace(turn, reward=0.1)) == ((tokens, 0.1), (size, 0.0))
    assert payments(replace(turn, parts={})) == ((tokens, 0.0), (size, 1.5))
    assert payments(replace(turn, action_ids=turn.action_ids[:3])) == ((0, 0.5), (3, 1.0))  # both at the last token


@pytest.mark.parametrize(
    ("lines", "partial", "added"),
    [
        (["- Job: baker", "- Age: 30", "- Hobby: chess"], (0.25, 0.2, 0.5), [0.5, -0.1, 0.6]),
        (["- Job: baker", "- Job: baker", "- Hobby: chess or go"], (0.25, 0.5, 0.4), [0.5, 0.0, 0.3]),  # repeated; two on a line
        (["- Job: unknown", "", "- Job: baker"], (0.25,), [0.0, 0.5]),  # an empty line is none
    ],
)
@pytest.mark.parametrize("cost", [0.0, 0.15])
def test_each_line_is_paid_what_it_added_less_what_a_line_costs(lines, partial, added, cost):
    turn = turn_of(answer(*lines), 2 * partial[-1] + 1, partial)
    size = len(turn.action_ids)
    assert len(parse_action(answer(*lines)).profile) == len(partial)
    payments = profile_payments(CHAT, weight=2.0, per_line=True, line_cost=cost)
    *paid, (end, left), rest = payments(turn)
    assert [part for _, part in paid] == pytest.approx([each - cost for each in added])
    assert (end, left) == (CHAT.prefix_with(turn.action_ids.tolist(), "</profile>"), pytest.approx(0.0))
    assert rest == (size, pytest.approx(1.0))
    for tokens, _ in paid:
        assert CHAT.decode(turn.action_ids[:tokens]).endswith("\n")
    batch = batch_of(turn, payments)
    assert float(batch.reward_A.sum()) == pytest.approx(turn.reward - cost * len(added))
    assert float(batch.reward_A[-1]) == pytest.approx(1.0)
    assert len(set(batch.segment_A.tolist())) == len(paid) + 2  # the lines, the end of the block, the reply
    costly = payments(replace(turn, reward=0.1))  # what each line added was not paid out
    assert [part for _, part in costly] == pytest.approx([-cost] * len(added) + [0.1, 0.0])
    block = profile_payments(CHAT, weight=2.0, line_cost=cost)
    assert block(turn) == ((end, pytest.approx(2 * partial[-1] - cost * len(added))), rest)


def test_a_line_that_goes_on_for_ever_costs_every_time_it_is_written():
    """What a greedy policy fell into: the block is cut off at the token limit, earns nothing, and had cost nothing."""
    text = answer("- Job: baker", *["- Age: 30"] * 9).split("</profile>")[0]
    turn = turn_of(text, 0.0)
    for per_line in (False, True):
        payments = profile_payments(CHAT, weight=2.0, per_line=per_line, line_cost=0.1)
        assert sum(part for _, part in payments(turn)) == pytest.approx(-1.0)
        assert float(batch_of(turn, payments).reward_A.sum()) == pytest.approx(-1.0)
    lines = [tokens for tokens, part in payments(turn) if part]
    assert len(lines) == 10
    assert lines == sorted(set(lines))
    free = profile_payments(CHAT, weight=2.0)(turn)
    assert free == ((0, 0.0), (len(turn.action_ids), 0.0))


def test_lines_of_a_reply_are_free():
    text = answer("- Job: baker").replace("Hi!", "- Age: 30\n- Hobby: chess")
    for whole in (text, text.replace("</profile>", "")):
        paid = profile_payments(CHAT, weight=1.0, line_cost=0.5)(turn_of(whole, 0.0))
        assert sum(part for _, part in paid) == -0.5


def test_a_line_can_cost_only_where_lines_are_known():
    with pytest.raises(ConfigError, match="line_cost: expected 0 with"):
        PPOConfig(line_cost=0.1)
    assert PPOConfig(line_cost=0.1, profile_paid="block").line_cost == 0.1
