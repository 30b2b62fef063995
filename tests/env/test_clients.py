"""The client: limits, retries, the breaker, the budget, keys, recording. Against real HTTP servers."""

import asyncio
import copy
import json
import os
import pickle
import random
import signal
import ssl
import threading
import time
import warnings
from concurrent.futures import wait
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from chat_servers import completion, refusal, scripted, serving, stats

from rlpa_env import BudgetError, ChatClient, ChatConfig, ConfigError, ModelError, connections
from rlpa_env.clients import _loop, client_of
from rlpa_env.connections import Connections
from rlpa_env.flows import _background
from rlpa_env.limits import Breaker, retry_after
from rlpa_env.store import Store

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def url():
    with serving() as base_url:
        yield base_url


def client(url, **settings):
    return ChatClient(base_url=url, model="m", backoff=0.01, **settings)


def test_an_answer_and_its_usage(url):
    own = client(url, price=(1e6, 2e6))
    assert own.ask(HELLO) == "Hello there."
    assert (own.usage.calls, own.usage.attempts, own.usage.failed) == (1, 1, 0)
    assert own.usage.cost == own.usage.prompt_tokens + 2 * own.usage.completion_tokens > 0


def test_nothing_connects_before_the_first_call_and_copies_are_the_same_client():
    own = client("http://127.0.0.1:9/v1")
    assert copy.deepcopy(own) is own
    assert pickle.loads(pickle.dumps(own)).config == own.config
    settings = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    assert client_of(settings) is client_of(dict(settings))
    assert client_of(own) is own


@pytest.mark.parametrize(
    "first",
    [lambda: _loop(-1), lambda: _background(-1), lambda: client_of({"base_url": "http://127.0.0.1:9/v1", "model": "asked for by many at once"})],
    ids=["loop", "flows", "client"],
)
def test_threads_that_ask_first_at_the_same_time_share_loop_thread_and_client(first):
    gate, made = threading.Barrier(16), []
    threads = [threading.Thread(target=lambda: (gate.wait(), made.append(first()))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 16
    assert len({*map(id, made)}) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modell": "x"}, "Did you mean 'model'"),
        ({"mode": "recrod"}, "Did you mean 'record'"),
        ({"mode": "replay"}, "store"),
        ({"retries": -1}, "retries"),
        ({"timeout": 0}, "timeout: expected a finite number >= 0.001; got 0"),
        ({"language": "fr"}, "language"),
        ({"concurrency": 0}, "concurrency"),
        ({"budget": 1.0}, r"price=\(INPUT, OUTPUT\)"),
        ({"base_url": "localhost:8000/v1"}, "http://"),
        ({"base_url": None}, "http://"),
        ({"retries": "3"}, "llm retries: expected an integer >= 0; got '3'"),
        ({"concurrency": 2.5}, "concurrency: expected an integer"),
        ({"concurrency": True}, "concurrency: expected an integer >= 1; got True"),
        ({"temperature": None}, "temperature: expected a finite number >= 0; got None"),
        ({"temperature": float("nan")}, "temperature: expected a finite number >= 0; got nan"),
        ({"timeout": "60"}, "timeout: expected a finite number >= 0.001; got '60'"),
        ({"longest_wait": []}, r"longest_wait: expected a finite number >= 0; got \[\]"),
        ({"price": 3}, r"price: expected \(INPUT, OUTPUT\) per million tokens; got 3"),
        ({"price": ["1", "2"]}, "price: expected a finite number >= 0; got '1'"),
        ({"price": [1.0]}, r"price: expected \(INPUT, OUTPUT\)"),
        ({"price": [1.0, -1.0]}, "price: expected a finite number >= 0; got -1.0"),
        ({"budget": "9", "price": [1, 2]}, "budget: expected None or a finite number >= 0; got '9'"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ConfigError, match=words):
        ChatConfig.from_mapping(settings)


@pytest.mark.parametrize("most", [2, 6])
def test_concurrency_is_used_and_bounded(most):
    with serving("--delay", "0.5") as url:
        own = client(url, concurrency=most)
        for future in [own.begin(HELLO) for _ in range(6)]:
            future.result()
        assert stats(url)["most at once"] == most


def test_failing_attempts_are_repeated_and_counted():
    with serving("--faults", "0.5", "--seed", "1") as url:
        own = client(url, retries=12, timeout=3.0, longest_wait=0.2, breaker=1000)
        answers = [future.result() for future in [own.begin(HELLO) for _ in range(40)]]
        served = stats(url)
    usage = own.usage
    assert set(answers) <= {"Hello there.", '{"verdict": "fine"}'}
    assert usage.calls == 40
    assert usage.lost == 0
    assert usage.attempts == served["requests"] == usage.calls + usage.failed
    assert sum(usage.reasons.values()) == usage.failed >= 10
    assert usage.failed == sum(served.get(kind, 0) for kind in ("500", "429", "hang", "drop", "truncated", "huge"))


def test_a_call_that_cannot_succeed_ends_as_a_named_error_without_endless_tries():
    own = client("http://127.0.0.1:9/v1", retries=2)
    with pytest.raises(ModelError, match="3 attempts"):
        own.ask(HELLO)
    assert (own.usage.lost, own.usage.attempts) == (1, 3)


def _date(seconds):
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("form", [lambda: "1", lambda: _date(2)], ids=["seconds", "date"])
def test_retry_after_is_waited_for(form):
    with scripted(lambda number: refusal(429, Retry_After=form()) if number == 0 else completion()) as (url, came):
        assert client(url).ask(HELLO) == "Hello there."
    assert came[1] - came[0] > 0.9  # a date has whole seconds: two from now are at least one


@pytest.mark.parametrize(
    "header",
    ["", "soon", "nan", "1e999", "-5", f"Wed, 31 Dec {'9' * 20} 00:00:00 GMT", "Wed, 31 Dec 2027 00:00:00 +99999999999", "Mon, 01 Jan 0001 00:00:00 +2300"],
)
def test_a_retry_after_that_names_no_time_to_come_is_none(header):
    assert retry_after(header) == 0.0


def test_a_retry_draws_nothing_from_the_global_generator_that_environments_may_draw_from():
    before = random.getstate()
    with scripted(lambda number: [refusal(429, Retry_After="0.01"), refusal(500), completion()][number]) as (url, came):
        assert client(url).ask(HELLO) == "Hello there."
    assert len(came) == 3
    assert random.getstate() == before


def test_a_pause_that_the_server_asked_for_holds_for_every_call():
    with scripted(lambda number: refusal(429, Retry_After="1") if number == 0 else completion()) as (url, came):
        own = client(url)
        first = own.begin(HELLO)
        while not own.usage.failed:
            time.sleep(0.01)
        assert {own.ask(HELLO), first.result()} == {"Hello there."}
    assert came[1] - came[0] > 0.9


def test_a_pause_longer_than_longest_wait_is_a_named_failure_and_nobody_asks_before_it_is_over():
    with scripted(lambda number: refusal(429, Retry_After="120")) as (url, came):
        own = client(url)
        for _ in range(3):
            with pytest.raises(ModelError, match=r"rate limited for 1(20|19) s .*longest_wait=30"):
                own.ask(HELLO)
    assert len(came) == 1
    assert (own.usage.attempts, own.usage.lost, own.usage.refused) == (1, 3, 2)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_error_that_another_try_cannot_mend_is_not_tried_again(status):
    with scripted(lambda number: refusal(status)) as (url, came), pytest.raises(ModelError, match=f"HTTP {status}"):
        client(url).ask(HELLO)
    assert len(came) == 1


def test_a_burst_of_rate_limits_loses_no_call():
    with scripted(lambda number: refusal(429, Retry_After="1") if number < 64 else completion()) as (url, _):
        own = ChatClient(base_url=url, model="m")  # the defaults
        answers = [future.result() for future in [own.begin(HELLO) for _ in range(64)]]
    assert answers == ["Hello there."] * 64
    assert (own.usage.lost, own.usage.refused) == (0, 0)
    assert own.usage.reasons == {"HTTP 429": 64}  # four times what would open the breaker, were they failures


def test_the_breaker_opens_after_failures_in_a_row_and_closes_again():
    own = client("http://127.0.0.1:9/v1", retries=0, breaker=3, cooldown=1.0)
    for _ in range(3):
        with pytest.raises(ModelError, match="no answer"):
            own.ask(HELLO)
    with pytest.raises(ModelError, match="not asked"):
        own.ask(HELLO)
    assert own.usage.attempts == 3
    assert own.usage.refused == 1
    time.sleep(1.1)
    with pytest.raises(ModelError, match="no answer"):
        own.ask(HELLO)  # one that tries
    with pytest.raises(ModelError, match="not asked"):
        own.ask(HELLO)


@pytest.mark.parametrize("between", [completion(), refusal(429)], ids=["answer", "rate limit"])
def test_an_answer_ends_a_row_of_failures_and_so_does_a_rate_limit_which_is_none(between):
    with scripted(lambda number: refusal(500) if number in (0, 3) else between) as (url, came):
        own = client(url, retries=0, breaker=2)
        for _ in range(6):
            wait([own.begin(HELLO)])
    assert (len(came), own.usage.refused) == (6, 0)
    assert own.usage.reasons["HTTP 500"] == 2


def test_requests_that_are_refused_for_themselves_do_not_open_the_breaker():
    with scripted(lambda number: refusal(400) if number < 32 else completion()) as (url, _):
        own = client(url)  # the defaults: 16 failures in a row would open it
        wait([own.begin(HELLO) for _ in range(32)])
        assert [future.result() for future in [own.begin(HELLO) for _ in range(8)]] == ["Hello there."] * 8
    assert (own.usage.reasons, own.usage.lost, own.usage.refused) == ({"HTTP 400": 32}, 32, 0)


@pytest.mark.parametrize("status", [401, 403, 404, 408, 500])
def test_what_every_request_would_meet_does_open_it(status):
    with scripted(lambda number: refusal(status)) as (url, came):
        own = client(url, retries=0, breaker=2)
        for _ in range(4):
            wait([own.begin(HELLO)])
    assert (len(came), own.usage.refused) == (2, 2)


def test_what_was_sent_before_the_breaker_opened_does_not_count_as_a_failed_probe():
    async def five_at_once():
        breaker = Breaker(most=2, cooldown=10.0)
        assert [await breaker.passed() for _ in range(5)] == [True] * 5
        for _ in range(5):
            breaker.failed(None)
        return breaker.row, breaker.openings

    assert asyncio.run(five_at_once()) == (2, 1)


def test_calls_that_had_begun_sit_out_the_cooldown_and_one_of_them_probes():
    times, all_in = {}, threading.Barrier(20)

    def reply(number):
        if number < 20:
            all_in.wait()
        if number == 20:
            times["probe came"] = time.monotonic()
            time.sleep(0.5)
            times["probe answered"] = time.monotonic()
        return refusal(500) if number < 20 else completion()

    with scripted(reply) as (url, came):
        own = client(url, concurrency=20, breaker=1, cooldown=0.3)
        answers = [future.result() for future in [own.begin(HELLO) for _ in range(40)]]  # half of them queue
        assert answers == ["Hello there."] * 40
    assert (own.usage.lost, own.usage.refused, own.usage.attempts) == (0, 0, 60)
    assert came[20] - came[19] > 0.25
    assert not [moment for moment in came if times["probe came"] < moment < times["probe answered"]]


def test_a_cooldown_sat_out_in_vain_costs_a_retry():
    own = client("http://127.0.0.1:9/v1", retries=3, breaker=1, cooldown=0.3)
    began, ended = time.monotonic(), []
    futures = [own.begin(HELLO) for _ in range(8)]
    for future in futures:
        future.add_done_callback(lambda _: ended.append(time.monotonic() - began))
    for future in futures:
        with pytest.raises(ModelError, match=r"no answer after [1-4] attempts"):
            future.result()
    assert min(ended) > 0.85  # three cooldowns for every call
    assert 8 + 3 <= own.usage.attempts <= 8 + 3 + 3  # after each a probe; more by a call whose first attempt was slow


def test_a_dead_server_loses_queued_calls_too_and_soon():
    own = client("http://127.0.0.1:9/v1", retries=2, breaker=1, cooldown=0.2, concurrency=4)
    wait([own.begin(HELLO) for _ in range(60)])
    assert own.usage.lost == 60
    assert own.usage.attempts <= 4 + 3 + 2  # two probes in all, not two for each of fifteen rounds


def test_after_the_cooldown_exactly_one_call_probes():
    own = client("http://127.0.0.1:9/v1", retries=0, breaker=3, cooldown=1.0)
    for _ in range(3):
        with pytest.raises(ModelError, match="no answer"):
            own.ask(HELLO)
    time.sleep(1.1)
    wait([own.begin(HELLO) for _ in range(20)])
    assert own.usage.attempts == 4
    assert own.usage.refused == 19


def test_a_probe_that_is_called_off_makes_room_for_another():
    def reply(number):
        time.sleep(5 if number == 3 else 0)
        return refusal(500) if number < 3 else completion()

    with scripted(reply) as (url, came):
        own = client(url, retries=0, breaker=3, cooldown=0.1)
        wait([own.begin(HELLO) for _ in range(3)])
        time.sleep(0.15)
        probe = own.begin(HELLO)
        while len(came) < 4:
            time.sleep(0.01)
        with pytest.raises(ModelError, match="not asked"):
            own.begin(HELLO).result(timeout=3)
        probe.cancel()
        time.sleep(0.05)
        assert own.begin(HELLO).result(timeout=3) == "Hello there."


def test_calls_in_flight_when_a_client_is_closed_go_on_over_new_connections_and_open_no_breaker():
    gone, closed = threading.Barrier(9), threading.Event()

    def reply(number):
        if number < 8:
            gone.wait()
            closed.wait(5)  # what was asked before is answered to nobody
        return completion()

    with scripted(reply) as (url, _):
        own = client(url, breaker=2, concurrency=8)
        futures = [own.begin(HELLO) for _ in range(12)]  # a third of them queue
        gone.wait()
        own.close()
        assert {future.result(timeout=4) for future in futures} == {"Hello there."}
        closed.set()
    assert (own.usage.calls, own.usage.lost, own.usage.failed) == (12, 0, 8)
    assert own._breaker.openings == own._breaker.row == 0
    own.close()
    own.close()


def test_the_budget_ends_cleanly(url):
    own = client(url, price=(1e6, 1e6), budget=1.0)
    own.ask(HELLO)
    with pytest.raises(BudgetError, match="budget"):
        own.ask(HELLO)
    assert own.usage.attempts == 1


def test_calls_in_flight_together_keep_to_the_budget():
    reply = completion(usage={"prompt_tokens": 1, "completion_tokens": 1})
    with scripted(lambda number: (time.sleep(0.05), reply)[1]) as (url, _):
        own = client(url, price=(0.5e6, 0.5e6), budget=3.0, retries=0)  # an answer costs 1.0, its estimate some 500
        futures = [own.begin(HELLO) for _ in range(64)]
        wait(futures)
    failures = [future.exception() for future in futures]
    assert own.usage.cost == 3.0
    assert failures.count(None) == 3
    assert all(isinstance(failure, BudgetError) for failure in failures if failure)
    assert (own.usage.calls, own.usage.lost, own.usage.refused) == (3, 61, 61)


def test_ctrl_c_while_an_answer_is_waited_for_calls_the_request_off():
    with scripted(lambda number: (time.sleep(0.3), refusal(500))[1]) as (url, came):
        own = client(url, retries=50)
        begin, begun = own.begin, []
        own.begin = lambda *args, **options: begun.append(begin(*args, **options)) or begun[0]
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            own.ask(HELLO)
        sent = len(came)
        assert begun[0].cancelled()
        time.sleep(1.5)
    assert 0 < sent <= len(came) <= sent + 1 < 50  # one may just have been on its way


def test_what_is_set_aside_is_free_again_when_calls_fail_or_are_called_off():
    def reply(number):
        time.sleep(5 if number < 4 else 0)
        return refusal(400) if number < 8 else completion(usage={"prompt_tokens": 1, "completion_tokens": 1})

    with scripted(reply) as (url, came):
        own = client(url, price=(1e6, 1e6), budget=2300.0)  # four estimates
        given_up = [own.begin(HELLO) for _ in range(4)]
        while len(came) < 4:
            time.sleep(0.01)
        for future in given_up:
            future.cancel()
        for _ in range(4):
            with pytest.raises(ModelError, match="HTTP 400"):
                own.begin(HELLO).result(timeout=3)
        assert own.begin(HELLO).result(timeout=3) == "Hello there."
    assert own.usage.cost == 2.0


def test_many_calls_run_together_where_the_budget_has_room(url):
    with serving("--delay", "0.5") as url:
        own = client(url, price=(1.0, 1.0), budget=1.0)
        wait([own.begin(HELLO) for _ in range(8)])
        assert stats(url)["most at once"] == 8


def test_an_answer_without_usage_is_charged_by_estimate_and_said_once():
    with scripted(lambda number: completion()) as (url, _):
        own = client(url, price=(0.0, 1e6), max_tokens=7)
        with pytest.warns(UserWarning, match="usage"):
            own.ask(HELLO)
        own.ask(HELLO)  # a second warning would be an error here
        assert own.usage.cost == 2 * 7
        own = client(url, price=(1e6, 0.0), max_tokens=7)
        with pytest.warns(UserWarning, match="usage"):
            own.ask([{"role": "user", "content": "x" * 3000}])
        assert 1000 < own.usage.cost < 1100
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            client(url).ask(HELLO)  # no price: nothing to charge


def test_the_key_reaches_no_text(url, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    own = client(url, api_key_env="MY_KEY", mode="record", store=str(tmp_path))
    own.ask(HELLO)
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "sk-secret" not in repr(own) + kept + repr(own.config) + pickle.dumps(own).decode("latin-1")
    assert own._failed(ValueError("bad key sk-secret-123"))[0] == "ValueError: bad key <key>"
    monkeypatch.setenv("MY_KEY", "another")  # what was sent is what a server may quote
    assert own._failed(ValueError("bad key sk-secret-123"))[0] == "ValueError: bad key <key>"
    own.close()
    own.ask([{"role": "user", "content": "again"}])
    assert own._failed(ValueError("neither sk-secret-123 nor another"))[0] == "ValueError: neither <key> nor <key>"


@pytest.mark.parametrize("password", ["secret", "p@secret", "@secret@"])
def test_the_password_of_an_address_is_not_shown(password):
    own = client(f"http://me:{password}@127.0.0.1:9/v1", retries=0, timeout=5.0)
    with pytest.raises(ModelError, match=r"at http://127\.0\.0\.1:9/v1: no answer") as caught:
        own.ask(HELLO)
    assert "secret" not in repr(own) + repr(own.config) + str(caught.value)
    assert own.config.base_url == f"http://me:{password}@127.0.0.1:9/v1"
    with pytest.raises(ConfigError, match="base_url") as refused:
        ChatConfig(base_url="me:secret@127.0.0.1:9/v1")
    assert "secret" not in str(refused.value)


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    own = ChatClient(base_url="https://example.invalid/v1", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        own.ask(HELLO)
    assert (own.usage.lost, own.usage.attempts) == (1, 0)


@pytest.mark.parametrize("pasted", ["sk-proj-abc123", "gsk_" + "a1B2" * 8, "AIza" + "Sy1_" * 8, "0123abcd", "two words", "ab/cd"])
def test_a_key_given_as_the_name_of_its_variable_is_refused_unseen(pasted):
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        ChatClient(base_url="https://example.invalid/v1", api_key_env=pasted)
    assert pasted not in str(caught.value)
    assert ChatConfig(api_key_env="_My_Key2").api_key_env == "_My_Key2"


def test_a_missing_key_says_what_a_server_without_keys_takes(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="export NO_SUCH_KEY=none"):
        ChatClient(base_url="https://localhost.example.invalid/v1", api_key_env="NO_SUCH_KEY").ask(HELLO)


@pytest.mark.parametrize("host", ["192.168.1.7:8000", "10.0.0.2", "172.16.3.4", "box.local:8000", "gpu-box", "[::1]:80", "[fd00::1]", "localhost"])
def test_a_server_of_the_own_network_needs_no_key(host, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with Connections(f"http://{host}/v1", "NO_SUCH_KEY", 60.0).one() as official:
        assert official.api_key == "none"


@pytest.mark.parametrize("host", ["8.8.8.8", "api.example.com", "192.168.1.7.example.com", "[2606:4700::1111]", "localhost.example.com"])
def test_a_server_elsewhere_needs_one(host, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        Connections(f"http://{host}/v1", "NO_SUCH_KEY", 60.0)


def test_each_request_in_flight_has_an_official_client_of_its_own_and_free_ones_are_used_again():
    here = threading.Barrier(21)

    def reply(number):
        if number < 20:
            here.wait()  # all twenty are in flight
        return completion()

    with scripted(reply) as (url, _):
        own = client(url)
        futures = [own.begin(HELLO) for _ in range(20)]
        while here.n_waiting < 20:
            time.sleep(0.01)
        free = len(own._open._idle)
        here.wait()
        wait(futures)
        assert own.ask(HELLO) == "Hello there."
        assert free == 0
        assert len(set(own._open._idle)) == len(own._open._all) == 20


def test_the_certificates_are_read_once_for_all_connections_and_are_checked():
    pool = Connections("https://example.invalid/v1", "HOME", 60.0)
    read = connections._certificates()
    with pool.one() as first, pool.one() as second:
        contexts = [official._client._transport._pool._ssl_context for official in (first, second)]
    assert contexts == [read, read]
    assert read.verify_mode is ssl.CERT_REQUIRED
    assert read.check_hostname


@pytest.mark.parametrize("answer", [[], 1, "x", None, {}, {"choices": []}, {"choices": [{"message": None}]}, {"choices": [{"message": {"content": 3}}]}, {"usage": 1}])
def test_json_that_is_no_completion_is_a_failed_attempt(answer):
    with scripted(lambda number: (200, {}, answer)) as (url, came):
        own = client(url, retries=1)
        with pytest.raises(ModelError, match="no answer after 2 attempts"):
            own.ask(HELLO)
    assert (len(came), own.usage.lost, own.usage.failed, own.usage.calls) == (2, 1, 2, 0)


def test_a_usage_that_is_no_record_is_as_good_as_none():
    with scripted(lambda number: completion(usage=1)) as (url, came):
        own = client(url, retries=1)
        assert own.ask(HELLO) == "Hello there."
    assert (len(came), own.usage.prompt_tokens, own.usage.failed) == (1, 0, 0)


SCHEMA = {"title": "pairs", "type": "object"}


def test_equal_requests_at_once_get_the_answer_that_is_kept(tmp_path):
    settings = {"mode": "record", "store": str(tmp_path)}
    with scripted(lambda number: (time.sleep(0.3), completion(f"answer {number}"))[1]) as (url, came):
        own = client(url, **settings)
        said = {future.result() for future in [own.begin(HELLO) for _ in range(8)]}
    assert len(came) == 8
    assert said == {client(url, **settings | {"mode": "replay"}).ask(HELLO)}


def test_a_store_that_cannot_be_written_or_read_is_named(url, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    own = client(url, mode="record", store=str(blocked))
    with pytest.raises(ModelError, match=r"store .*file.*(NotADirectory|FileExists)"):
        own.ask(HELLO)
    assert (own.usage.attempts, own.usage.failed, own.usage.calls, own.usage.lost) == (1, 1, 0, 1)
    own = client(url, mode="record", store=str(tmp_path))
    own.ask(HELLO)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text('{"request": ')
    with pytest.raises(ModelError, match=r"store .*JSONDecodeError.*[Dd]elete"):
        own.begin(HELLO).result()
    assert own.usage.lost == 1


@pytest.mark.parametrize("damaged", ["[1]", "3", "null", '{"answer": 3}', '{"answer": null}', "{}", "[" * 100_000])
def test_a_recorded_answer_that_is_none_is_a_named_failure(tmp_path, damaged):
    store = Store(tmp_path)
    store.write({"a": 1}, "x")
    store.path({"a": 1}).write_text(damaged)
    with pytest.raises(ModelError, match=r"store .*got \w+Error.*[Dd]elete"):
        store.read({"a": 1})


def test_recorded_answers_replay_without_a_server(tmp_path):
    with serving() as url:
        first = client(url, mode="record", store=str(tmp_path))
        said = first.ask(HELLO, seed=3)
        assert first.ask(HELLO, seed=3) == said
        assert first.usage.attempts == 1
    later = client(url, mode="replay", store=str(tmp_path))
    assert later.ask(HELLO, seed=3) == said
    assert later.usage.replayed == 1
    with pytest.raises(ModelError, match="replay"):
        later.ask(HELLO, seed=4)


def test_extra_fields_are_sent_and_tell_recorded_answers_apart(tmp_path):
    settings = {"mode": "record", "store": str(tmp_path)}
    with serving() as url:
        client(url, **settings, extra_body={"top_k": 1}).ask(HELLO)
    with pytest.raises(ModelError, match="replay"):
        client(url, **settings | {"mode": "replay"}, extra_body={"top_k": 2}).ask(HELLO)
    assert client(url, **settings | {"mode": "replay"}, extra_body={"top_k": 1}).ask(HELLO) == "Hello there."


@pytest.mark.parametrize("seeds", [False, True])
def test_a_seed_goes_out_only_where_it_is_wanted(url, seeds):
    own, sent = client(url, seeds=seeds, extra_body={"top_k": 5}), []
    own.ask(HELLO)  # connects
    (official,) = own._open._idle
    post = official.post

    def noting(path, *, body, **options):
        sent.append(body)
        return post(path, body=body, **options)

    official.post = noting
    own.ask(HELLO, seed=3)
    assert sent[0].get("seed") == (3 if seeds else None)
    assert sent[0]["top_k"] == 5
    assert "extra_body" not in sent[0]


@pytest.mark.parametrize("mode", ["live", "record"])
def test_half_a_surrogate_pair_in_a_text_is_sent_as_a_question_mark_and_one_in_an_answer_replays(mode, tmp_path):
    half, settings = [{"role": "user", "content": "hi \ud83d"}], {"store": str(tmp_path), "retries": 0}
    with scripted(lambda number: completion("so \ude00")) as (url, came):
        own = client(url, mode=mode, **settings)
        assert own.ask(half) == "so \ude00"
        assert (len(came), own.usage.attempts, own.usage.failed) == (1, 1, 0)
        if mode == "record":
            later = client(url, mode="replay", **settings)
            assert later.ask(half) == later.ask([{"role": "user", "content": "hi ?"}]) == "so \ude00"


def test_an_interrupted_write_leaves_no_half_answer(tmp_path):
    store = Store(tmp_path)
    store.write({"a": 1}, "x")
    assert json.loads(store.path({"a": 1}).read_text())["answer"] == "x"
    assert store.read({"a": 2}) is None
    assert store.write({"a": 1}, "y") == "x"
    assert store.read({"a": 1}) == "x"
    assert len([*tmp_path.rglob("*.*")]) == 1  # nothing beside it
