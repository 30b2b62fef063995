"""What a rollout hands to the learner: frozen records of token ids, log-probabilities and rewards.

Letters: k turn (0-based index in the tuple), c_k context ids exactly as fed, a_k the sampled action ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Turn:
    """One agent turn: what the policy was fed, what it sampled, what that earned."""

    context_ids: np.ndarray  # int64 [n]; the whole context exactly as fed
    action_ids: np.ndarray  # int64 [m], m >= 1; sampled ids *including* a sampled end token
    logp: np.ndarray  # float32 [m]; log-probability at sampling time, temperature applied
    reward: float  # turn reward r_k, unscaled
    parts: Mapping[str, float] = field(default_factory=dict)  # numeric info of the turn, e.g. "reward/profile"
    partial: tuple[float, ...] = ()  # profile reward of the first 1, 2, … points listed, unweighted; (): unknown
    valid: bool = True  # False: the environment could not score this turn; it is cut with all after it
    stop: str = "eos"  # eos | length | context
    states: np.ndarray | None = None  # float32 [m, H]; hidden states that the tokens were drawn from, if they were kept
    others: tuple[Turn, ...] = ()  # further samples of the same turn, with which the dialogue did not go on


@dataclass(frozen=True)
class Trajectory:
    """One episode. Its chain of action tokens is the concatenation of its turns' ``action_ids``."""

    turns: tuple[Turn, ...]
    final_context_ids: np.ndarray  # int64; context after the last turn with the assistant header, for V_boot
    terminated: bool  # the user left: the value beyond is 0
    truncated: bool  # turn limit, context overflow or a failure
    stop_reason: str = ""
    episode: str = ""  # who and which seed, for logs: e.g. "vanilla/train/00017#3"
    messages: tuple[tuple[str, str], ...] = ()  # (role, content) transcript, for logs only
