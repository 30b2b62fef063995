"""Where within a turn its reward was earned, and what a line of the profile costs."""

from __future__ import annotations

from functools import partial

from rlpa_agent.batch import Payments
from rlpa_agent.chat import Chat
from rlpa_agent.trajectory import Turn
from rlpa_env import parse_action


def profile_payments(chat: Chat, weight: float, paid_at: str, line_cost: float = 0.0) -> Payments:
    """For `batch.make_batch`: what a turn's profile earned, due where it was decided.

    ``paid_at``: "turn", the last token of all; "block", that of the profile block; "line", that of each line, which is paid
    what its points added to the reward of the lines before it (less than nothing for a wrong one, nothing for a repeated
    one). ``weight`` is the environment's ``profile_weight``. A turn whose costs left less than its profile earned is paid
    that at its block. Every line costs ``line_cost``, due with what it earned, also where the block was never closed. With
    "block" such an answer is one segment, so that `rloo` compares it with the whole turns of its siblings.
    """

    def payments(turn: Turn) -> tuple[tuple[int, float], ...]:
        ids = turn.action_ids.tolist()
        if paid_at == "turn" and not line_cost:
            return ((len(ids), turn.reward),)
        end = chat.prefix_with(ids, "</profile>")
        block = ids[: end or chat.prefix_with(ids, "<response>") or len(ids)]
        lines = _lines(chat, block) if paid_at == "line" or line_cost else []
        if paid_at == "turn":
            return ((len(ids), turn.reward - line_cost * len(lines)),)
        full = weight * turn.parts.get("reward/profile", 0.0)
        earned = min(turn.reward, full)
        rest = (len(ids), turn.reward - earned)
        if paid_at == "block":
            return (end or len(ids), earned - line_cost * len(lines)), rest
        known = bool(turn.partial) and earned == full
        sums = [0.0, *(weight * each for each in turn.partial)] if known else [0.0]
        paid, before = [], 0.0
        for tokens, listed in lines:
            so_far = sums[min(listed, len(sums) - 1)]
            paid.append((tokens, so_far - before - line_cost))
            before = so_far
        return (*paid, (len(block) if end or lines else 0, earned - before), rest)

    return payments


def _lines(chat: Chat, block: list[int]) -> list[tuple[int, int]]:
    """(tokens up to its end, different points listed so far) of every finished line of a block that lists something."""
    texts = chat.decode(block).split("\n")[:-1]
    found = []
    for number, text in enumerate(texts, 1):
        if text.lstrip().startswith("-"):
            listed = len(parse_action("\n".join(texts[:number]) + "</profile>").profile)
            found.append((chat.prefix_where(block, partial(_has_lines, number)), listed))
    return found


def _has_lines(number: int, text: str) -> bool:
    return text.count("\n") >= number
