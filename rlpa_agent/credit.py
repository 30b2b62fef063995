"""Where within a turn its reward was earned, and what a line of the profile costs."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from rlpa_agent.batch import Payments
from rlpa_agent.chat import Chat
from rlpa_agent.trajectory import Turn
from rlpa_env import ConfigError, parse_action
from rlpa_env.actions import LINE_MARKS, Block, cut_block


def profile_payments(chat: Chat, paid_at: str, line_cost: float = 0.0) -> Payments:
    """For `batch.make_batch`: what a turn's profile earned, due where it was decided; the rest is due at the turn's last token.

    ``paid_at``: "turn", the last token of all; "block", that of the profile block; "line", that of each line, which is paid
    what its points added to the reward of the lines before it (less than nothing for a wrong one, nothing for a repeated
    one). What the profile earned is the environment's ``reward/profile_share``, of which a cost of privacy falls due at the
    block's end; whatever a wrapper made of the reward is the reply's. Every line of a profile that is paid costs ``line_cost``, or that for each point
    where it lists several, due with what it earned, also where the block was never closed. With "block" such an answer is one segment,
    so that `rloo` compares it with the whole turns of its siblings. A turn of an environment that pays no profile (no ``reward/profile`` among its
    parts) is one segment, whatever it lists.

    Raises:
        ConfigError: of a turn of this environment without ``reward/profile_share``, which an earlier version left out.
    """

    def payments(turn: Turn) -> tuple[tuple[int, float], ...]:
        ids = turn.action_ids.tolist()
        if "reward/profile" not in turn.parts or (paid_at == "turn" and not line_cost):  # where no profile is paid, a list is no guess
            return ((len(ids), turn.reward),)
        block = ids[: chat.block_end(ids)]
        cut = cut_block(chat.decode(block))
        end = len(block) if cut.closed else 0
        lines = _lines(chat, block, cut) if paid_at == "line" or line_cost else []
        whole = line_cost * sum(line.price for line in lines)
        if paid_at == "turn":
            return ((len(ids), turn.reward - whole),)
        earned = _share(turn)
        rest = (len(ids), turn.reward - earned)
        if paid_at == "block":
            return (end or len(ids), earned - whole), rest
        unpaid, last = turn.parts.get("privacy/cost", 0.0), turn.partial[-1] if turn.partial else 0.0
        weight = (earned + unpaid) / last if last else 0.0
        sums = [0.0, *(weight * each for each in turn.partial)]
        paid, before = [], 0.0
        for line in lines:
            so_far = sums[min(line.listed, len(sums) - 1)]
            paid.append((line.tokens, so_far - before - line_cost * line.price))
            before = so_far
        return (*paid, (len(block) if end or lines else 0, earned - before), rest)

    return payments


def _share(turn: Turn) -> float:
    if "reward/profile" in turn.parts and "reward/profile_share" not in turn.parts:
        raise ConfigError("credit: expected reward/profile_share among the parts of a turn; this one was held by an earlier version. Hold new dialogues.")
    return turn.parts.get("reward/profile_share", 0.0)


class _Line(NamedTuple):
    tokens: int  # up to its end
    listed: int  # different points so far
    price: int  # its own points, or 1 where it lists what was listed, or nothing that can be read


def _lines(chat: Chat, block: list[int], cut: Block) -> list[_Line]:
    """Every line of a block that lists something, in whatever form the environment reads; one that is not finished only if the block is."""
    texts = cut.head.split("\n")
    found, before = [], 0
    for number, line in enumerate(texts, 1):
        finished = number < len(texts)
        if not finished and not cut.closed:
            break
        listed = len(parse_action("\n".join(texts[:number]) + "</profile>").profile)
        if line.strip().startswith(LINE_MARKS) or listed > before:
            tokens = chat.prefix_where(block, partial(_has_lines, number)) if finished else len(block)
            found.append(_Line(tokens, listed, max(1, listed - before)))
        before = listed
    return found


def _has_lines(number: int, text: str) -> bool:
    return text.count("\n") >= number
