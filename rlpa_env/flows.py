"""Work that has to wait, without threads: a *flow* is a generator that yields futures and returns its result.

>>> def doubled(future):
...     value = yield future
...     return 2 * value
>>> ready = Future()
>>> ready.set_result(21)
>>> run([doubled(ready)])
[42]
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from rlpa_env.errors import ModelError

T = TypeVar("T")
Flow = Generator["Future[Any]", Any, T]


def run(flows: Sequence[Flow[Any]]) -> list[Any]:
    """Advance all flows until each has returned, whichever future comes first; only waiting takes time.

    Returns:
        Per flow what it returned, or the ModelError that it ended with. Any other exception, ctrl-C included, is raised
        at once, after the futures still awaited were cancelled.
    """
    outcomes: list[Any] = [None] * len(flows)
    awaited: dict[int, Future[Any]] = {}
    ready: SimpleQueue[int] = SimpleQueue()

    def advance(index: int, done: Future[Any] | None) -> None:
        flow = flows[index]
        try:
            if done is None:
                future = next(flow)
            else:
                error = done.exception()
                future = flow.throw(error) if error else flow.send(done.result())
        except StopIteration as stop:
            outcomes[index] = stop.value
        except ModelError as failure:
            outcomes[index] = failure
        else:
            awaited[index] = future
            future.add_done_callback(partial(_announce, ready, index))

    try:
        for index in range(len(flows)):
            advance(index, None)
        while awaited:
            index = ready.get()
            advance(index, awaited.pop(index))
    finally:
        for future in awaited.values():
            future.cancel()
    return outcomes


def _announce(ready: SimpleQueue[int], index: int, _: Future[Any]) -> None:
    ready.put(index)


def alone(flow: Flow[T]) -> T:
    """The result of one flow; its ModelError is raised."""
    (outcome,) = run([flow])
    if isinstance(outcome, ModelError):
        raise outcome
    return outcome
