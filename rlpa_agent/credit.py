"""Where within a turn its reward was earned."""

from __future__ import annotations

from functools import partial

from rlpa_agent.batch import Payments
from rlpa_agent.chat import Chat
from rlpa_agent.trajectory import Turn
from rlpa_env import parse_action


def profile_payments(chat: Chat, weight: float, per_line: bool = False) -> Payments:
    """For `batch.make_batch`: what a turn's profile earned, due where it was decided.

    That is the last token of the profile block; or, ``per_line``, each line's last token, which is paid what its points
    added to the reward of the lines before it (less than nothing for a wrong one). ``weight`` is the environment's
    ``profile_weight``. A turn whose costs left less than its profile earned is paid that at its block.
    """

    def payments(turn: Turn) -> tuple[tuple[int, float], ...]:
        ids = turn.action_ids.tolist()
        end = chat.prefix_with(ids, "</profile>")
        if not end:
            return ((0, 0.0),)
        earned = weight * turn.parts.get("reward/profile", 0.0)
        if not per_line or not turn.partial or earned > turn.reward:
            return ((end, min(turn.reward, earned)),)
        return tuple(_line_payments(chat, ids[:end], [weight * each for each in turn.partial]))

    return payments


def _line_payments(chat: Chat, block: list[int], sums: list[float]) -> list[tuple[int, float]]:
    """(tokens up to its end, reward) of every line that lists something new, and of the end of the block."""
    lines = chat.decode(block).split("\n")[:-1]
    paid: list[tuple[int, float]] = []
    earned, before = 0.0, 0
    for number in range(1, len(lines) + 1):
        listed = len(parse_action("\n".join(lines[:number]) + "</profile>").profile)
        tokens = chat.prefix_where(block, partial(_has_lines, number))
        if before < listed <= len(sums) and (paid[-1][0] if paid else 0) < tokens < len(block):
            paid.append((tokens, sums[listed - 1] - earned))
            earned, before = sums[listed - 1], listed
    return [*paid, (len(block), sums[-1] - earned)]


def _has_lines(number: int, text: str) -> bool:
    return text.count("\n") >= number
