"""What holds a client back: a breaker for a server that keeps failing, a purse for its money, a server's own wish for a pause.

Everything here runs on the one event loop of a client.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from rlpa_env.errors import BudgetError

# Of the 4xx those that every request would meet, or that say that the server is at its end. Any other refuses one request, such
# as a dialogue that has outgrown the served context, or asks for patience: whoever says so is there.
_OUT = frozenset({401, 403, 404, 408})


class Breaker:
    """Opens after ``most`` failed attempts in a row; ``cooldown`` seconds later one call probes while the others wait.

    All methods but `turns_away` belong into the task of the call that they are about.
    """

    def __init__(self, most: int, cooldown: float) -> None:
        self.row = 0  # failed attempts since the last answer
        self.openings = 0  # since the last answer; 0: closed, every call passes
        self._most, self._cooldown = most, cooldown
        self._until = 0.0  # end of the cooldown, monotonic seconds
        self._prober: asyncio.Task[Any] | None = None
        self._probed = asyncio.Event()

    @property
    def turns_away(self) -> bool:
        """Whether a call that begins now is not to be sent: a cooldown or a probe is under way."""
        return self.openings > 0 and (self._prober is not None or time.monotonic() < self._until)

    async def passed(self) -> bool:
        """Wait until a request may be sent. False: a cooldown was sat out, and the probe after it failed as well.

        Whoever is told True says how it went, by ``answered`` or ``failed``, and in any case by ``left``.
        """
        seen = self.openings
        while self.openings == seen > 0:
            if self._prober is not None:
                await self._probed.wait()
            elif (rest := self._until - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            else:
                self._prober, self._probed = asyncio.current_task(), asyncio.Event()
                return True
        return self.openings == 0

    def answered(self) -> None:
        """The server is there."""
        self.row = self.openings = 0

    def failed(self, status: int | None) -> None:
        """An attempt failed, with an HTTP status or without. Those sent before the breaker opened say nothing new."""
        if status is not None and 400 <= status < 500 and status not in _OUT:
            return self.answered()
        probing = self._prober is asyncio.current_task()
        if self.openings and not probing:
            return
        self.row += 1
        if probing or self.row >= self._most:
            self.openings += 1
            self._until = time.monotonic() + self._cooldown

    def left(self) -> None:
        """The attempt is over, by an answer, a failure, or because it was called off."""
        if self._prober is asyncio.current_task():
            self._prober = None
            self._probed.set()


class Purse:
    """A budget. What a call in flight may cost is set aside until its real cost is known.

    The estimate is high, as few answers use all their tokens; so a call that the rest may not cover waits for those in
    flight, and alone it goes as long as anything is left: what is spent passes the budget by one call at most.
    """

    def __init__(self, budget: float | None, spent: float) -> None:
        self.budget = budget
        self.spent = spent
        self._aside: list[float] = []  # of the calls in flight
        self._change = asyncio.Event()

    @asynccontextmanager
    async def aside(self, estimate: float) -> AsyncIterator[None]:
        """Hold an estimate for the length of a block, waiting for room. Raises BudgetError if nothing is left."""
        if self.budget is None:
            yield
            return
        while self.spent < self.budget and self._aside and self.spent + sum(self._aside) + estimate > self.budget:
            await self._change.wait()
        if self.spent >= self.budget:
            raise BudgetError(f"llm budget: expected at most {self.budget}; {self.spent:.4f} is spent. Raise `budget`.")
        self._aside.append(estimate)
        try:
            yield
        finally:
            self._aside.remove(estimate)
            self._change.set()
            self._change = asyncio.Event()


def cost(prompt: float, completion: float, price: tuple[float, float]) -> float:
    """Of so many tokens, at a price per million prompt and completion tokens."""
    return (prompt * price[0] + completion * price[1]) / 1e6


def estimated_cost(body: Mapping[str, Any], price: tuple[float, float]) -> float:
    """Of a request before its answer: three bytes a prompt token (one Chinese character), and all of ``max_tokens``."""
    return cost(len(json.dumps(body, ensure_ascii=False).encode()) / 3, body["max_tokens"], price) if any(price) else 0.0


def retry_after(header: str) -> float:
    """Seconds from now that a Retry-After header asks for, as a number or as a date; 0 for anything else."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
            seconds = (date.replace(tzinfo=date.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
