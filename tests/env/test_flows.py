"""Flows: work that waits, run to its end or in the background."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future

import pytest

from rlpa_env.errors import ModelError
from rlpa_env.flows import alone, begin, finished, once, run


def flow(*futures):
    total = 0
    for future in futures:
        total += yield future
    return total


def failing(future, error):
    yield future
    raise error


def later(value, seconds=0.05):
    future: Future = Future()
    threading.Timer(seconds, future.set_result, [value]).start()
    return future


def in_background(flows):
    return begin(lambda: flows, lambda outcomes: outcomes).result(5)


@pytest.mark.parametrize("all_of", [run, in_background])
def test_flows_wait_together_and_a_failed_model_is_an_outcome(all_of):
    failure = ModelError("no answer")
    broken: Future = Future()
    broken.set_exception(failure)
    assert all_of([flow(later(1), finished(2)), flow(), flow(finished(3), broken), flow(finished(4))]) == [3, 0, failure, 4]


@pytest.mark.parametrize("all_of", [run, in_background])
@pytest.mark.parametrize("error", [KeyError("a fault of ours"), KeyboardInterrupt()])
def test_any_other_error_is_raised_and_what_is_awaited_is_cancelled(all_of, error):
    never: Future = Future()
    with pytest.raises(type(error)):
        all_of([flow(never), failing(later(1), error), flow(never)])
    assert never.cancelled()
    assert all_of([flow(finished(1))]) == [1]  # the thread has survived it


def test_a_model_error_of_one_flow_is_raised():
    with pytest.raises(ModelError, match="no answer"):
        alone(failing(finished(0), ModelError("no answer")))


def test_the_background_is_one_daemon_thread_and_the_caller_goes_on():
    threads = []

    def flows():
        threads.append(threading.current_thread())
        return [flow(gate)]

    def then(outcomes):
        threads.append(threading.current_thread())
        return sum(outcomes)

    gate: Future = Future()
    first, second = begin(flows, then), begin(list, then)
    assert second.result(5) == 0  # begun later, over sooner
    assert not first.done()
    gate.set_result(7)
    assert first.result(5) == 7
    assert len({*threads}) == 1
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon


@pytest.mark.parametrize("place", ["flows", "then"])
def test_what_is_raised_before_or_behind_the_flows_is_the_futures(place):
    def broken(*_):
        raise LookupError("lost")

    future = begin(broken, sum) if place == "flows" else begin(lambda: [flow(finished(1))], broken)
    with pytest.raises(LookupError, match="lost"):
        future.result(5)


def test_who_cancels_in_the_last_moment_takes_the_thread_from_nobody():
    held: list[Future] = []
    gate: Future = Future()
    first = begin(lambda: [flow(gate)], lambda outcomes: (held[0].cancel(), *outcomes))
    held.append(first)
    gate.set_result(7)
    assert first.result(5) == (False, 7)
    assert in_background([flow(finished(1))]) == [1]


def test_what_is_cancelled_before_its_turn_is_never_begun():
    gate, begun = threading.Event(), []
    busy = begin(list, lambda _: gate.wait(5))
    late = begin(lambda: begun.append(1) or [], lambda _: None)
    assert late.cancel()
    gate.set()
    assert busy.result(5)
    assert in_background([flow(finished(1))]) == [1]
    assert begun == []


def asked_by_many(key="a"):
    """The threads that ask for one slow thing at the same time, what is made and what they get; making has begun."""
    begun, got, gate = [], [], threading.Barrier(16)

    @once
    def thing(key):
        begun.append(key)
        time.sleep(0.2)
        return object()

    threads = [threading.Thread(target=lambda: (gate.wait(), got.append(thing(key)))) for _ in range(16)]
    for thread in threads:
        thread.start()
    while not begun:
        time.sleep(0.001)
    return threads, thing, begun, got


def test_threads_that_ask_first_at_the_same_time_get_one_thing():
    threads, thing, begun, got = asked_by_many()
    for thread in threads:
        thread.join()
    assert (begun, len({*map(id, got)}), len(got)) == (["a"], 1, 16)
    assert thing("b") is not thing("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_while_something_is_made_can_ask_too():
    threads, thing, _, _ = asked_by_many()
    if (child := os.fork()) == 0:
        signal.alarm(5)  # ends it if it waits for a thread that it does not have
        os._exit(thing("a") is None)
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
