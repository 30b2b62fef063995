"""The client: limits, retries, the breaker, the budget, keys, recording. Against a real HTTP server in another process."""

import copy
import json
import pickle
import time

import pytest
from chat_servers import serving, stats

from rlpa_env import BudgetError, ChatClient, ChatConfig, ConfigError, ModelError
from rlpa_env.clients import client_of
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
    ("settings", "words"),
    [
        ({"modell": "x"}, "Did you mean 'model'"),
        ({"mode": "recrod"}, "Did you mean 'record'"),
        ({"mode": "replay"}, "store"),
        ({"retries": -1}, "retries"),
        ({"timeout": 0}, "timeout"),
        ({"language": "fr"}, "language"),
        ({"concurrency": 0}, "concurrency"),
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
        own = client(url, retries=12, timeout=0.5, longest_wait=0.2, breaker=1000)
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


def test_retry_after_is_waited_for():
    import rlpa_env.clients as clients

    class Refusal(Exception):
        status_code = 429
        response = type("R", (), {"headers": {"retry-after": "7"}})

    own = client("http://127.0.0.1:9/v1")
    text, wait, again = own._failed(Refusal("slow down"))
    assert (wait, again) == (7.0, True)
    assert text.startswith("HTTP 429")
    Refusal.status_code = 400
    assert own._failed(Refusal("no"))[2] is False
    assert clients._seconds("Wed, 21 Oct 2026 07:28:00 GMT") == 0.0


def test_the_breaker_opens_after_failures_in_a_row_and_closes_again():
    own = client("http://127.0.0.1:9/v1", retries=0, breaker=3, cooldown=0.2)
    for _ in range(3):
        with pytest.raises(ModelError, match="no answer"):
            own.ask(HELLO)
    with pytest.raises(ModelError, match="not asked"):
        own.ask(HELLO)
    assert own.usage.attempts == 3
    assert own.usage.refused == 1
    time.sleep(0.25)
    with pytest.raises(ModelError, match="no answer"):
        own.ask(HELLO)  # one that tries
    with pytest.raises(ModelError, match="not asked"):
        own.ask(HELLO)


def test_the_budget_ends_cleanly(url):
    own = client(url, price=(1e6, 1e6), budget=1.0)
    own.ask(HELLO)
    with pytest.raises(BudgetError, match="budget"):
        own.ask(HELLO)
    assert own.usage.attempts == 1


def test_the_key_reaches_no_text(url, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    own = client(url, api_key_env="MY_KEY", mode="record", store=str(tmp_path))
    own.ask(HELLO)
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "sk-secret" not in repr(own) + kept + repr(own.config) + pickle.dumps(own).decode("latin-1")
    assert own._failed(ValueError("bad key sk-secret-123"))[0] == "ValueError: bad key <key>"


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        ChatClient(base_url="https://example.invalid/v1", api_key_env="NO_SUCH_KEY").ask(HELLO)


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
    post = own._sdk.post

    def noting(path, *, body, **options):
        sent.append(body)
        return post(path, body=body, **options)

    own._sdk.post = noting
    own.ask(HELLO, seed=3)
    assert sent[0].get("seed") == (3 if seeds else None)
    assert sent[0]["top_k"] == 5
    assert "extra_body" not in sent[0]


def test_an_interrupted_write_leaves_no_half_answer(tmp_path):
    store = Store(tmp_path)
    store.write({"a": 1}, "x")
    assert json.loads(store.path({"a": 1}).read_text())["answer"] == "x"
    assert store.read({"a": 2}) is None
    store.write({"a": 1}, "y")
    assert store.read({"a": 1}) == "x"
