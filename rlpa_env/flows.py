"""Work that has to wait, without a thread for each: a *flow* is a generator that yields futures and returns its result.

>>> def doubled(future):
...     value = yield future
...     return 2 * value
>>> run([doubled(finished(21))])
[42]
>>> begin(lambda: [doubled(finished(21))], sum).result()
42
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial, wraps
from queue import SimpleQueue
from typing import Any, TypeVar

from rlpa_env.errors import ModelError

T = TypeVar("T")
Flow = Generator["Future[Any]", Any, T]
Work = Callable[[], None]
_FIRST = threading.RLock()  # held over a fork: a child whose parent was making something would wait for it for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_FIRST.acquire, after_in_parent=_FIRST.release, after_in_child=_FIRST.release)


def once(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """A function that makes one thing per argument, whatever number of threads ask first at the same time; keeps the newest 64."""
    cached = lru_cache(maxsize=64)(make)

    @wraps(make)
    def made(key: Any) -> T:
        with _FIRST:  # lru_cache alone runs ``make`` in each of them
            return cached(key)

    return made


class _Group:
    """Flows that go on as their futures come in: each then hands ``post`` the work that is to be done."""

    def __init__(self, flows: Sequence[Flow[Any]], post: Callable[[Work], None]) -> None:
        self.flows, self.post = flows, post
        self.outcomes: list[Any] = [None] * len(flows)
        self.awaited: dict[int, Future[Any]] = {}

    def start(self) -> None:
        for index in range(len(self.flows)):
            self._advance(index, None)

    def _advance(self, index: int, done: Future[Any] | None) -> None:
        flow = self.flows[index]
        self.awaited.pop(index, None)
        try:
            if done is None:
                future = next(flow)
            else:
                error = done.exception()
                future = flow.throw(error) if error else flow.send(done.result())
        except StopIteration as stop:
            self.outcomes[index] = stop.value
        except ModelError as failure:
            self.outcomes[index] = failure
        else:
            self.awaited[index] = future
            future.add_done_callback(lambda done: self.post(partial(self._advance, index, done)))

    def cancel(self) -> None:
        for future in self.awaited.values():
            future.cancel()


def run(flows: Sequence[Flow[Any]]) -> list[Any]:
    """Advance all flows until each has returned, whichever future comes first; only waiting takes time.

    Returns:
        Per flow what it returned, or the ModelError that it ended with. Any other exception, ctrl-C included, is raised
        at once, after the futures still awaited were cancelled.
    """
    posted: SimpleQueue[Work] = SimpleQueue()
    group = _Group(flows, posted.put)
    try:
        group.start()
        while group.awaited:
            posted.get()()
    finally:
        group.cancel()
    return group.outcomes


def begin(flows: Callable[[], Sequence[Flow[Any]]], then: Callable[[list[Any]], T]) -> Future[T]:
    """`run` the flows that ``flows()`` makes while the caller does something else; a future of ``then`` of their outcomes.

    Everything begun in this way, ``flows`` and ``then`` included, happens on one thread of the process, a piece at a time: what
    these pieces share needs no lock. The thread keeps no interpreter alive. What they raise, the future does. Once begun it
    cannot be cancelled.
    """
    posted = _background(os.getpid())
    outcome: Future[T] = Future()
    group: _Group | None = None

    def work(piece: Work | None) -> None:
        nonlocal group
        if outcome.done():  # something failed, and this was cancelled
            return
        # Nobody else may end it from here on: a result that is not taken would end the thread, and all that waits for it.
        if piece is None and not outcome.set_running_or_notify_cancel():
            return
        try:
            if piece is None:
                group = _Group(flows(), lambda piece: posted.put(partial(work, piece)))
                group.start()
            else:
                piece()
            assert group is not None
            if not group.awaited:
                outcome.set_result(then(group.outcomes))
        except BaseException as error:  # whatever it is: it belongs to whoever waits for the outcome
            outcome.set_exception(error)
            if group is not None:
                group.cancel()

    posted.put(partial(work, None))
    return outcome


@once
def _background(pid: int) -> SimpleQueue[Work]:
    """What is put here is done on the thread of this process."""
    posted: SimpleQueue[Work] = SimpleQueue()

    def forever() -> None:
        while True:
            posted.get()()

    threading.Thread(target=forever, name=f"rlpa-flows-{pid}", daemon=True).start()
    return posted


def finished(value: T) -> Future[T]:
    """A future of what is known already."""
    future: Future[T] = Future()
    future.set_result(value)
    return future


def alone(flow: Flow[T]) -> T:
    """The result of one flow; its ModelError is raised."""
    (outcome,) = run([flow])
    if isinstance(outcome, ModelError):
        raise outcome
    return outcome
