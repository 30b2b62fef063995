"""One client for every language model behind the environment: any OpenAI-compatible HTTP server.

Nothing connects before the first call. Requests run on one background event loop; ``begin`` returns a future at once,
so a caller keeps as many requests in flight as it likes and waits where ctrl-C can reach it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from random import SystemRandom
from typing import Any
from weakref import finalize

from rlpa_env.connections import Connections
from rlpa_env.errors import (
    BudgetError,
    ConfigError,
    ModelError,
    check_number,
    excerpt,
    require,
    unknown_choice,
    without_credentials,
)
from rlpa_env.flows import once
from rlpa_env.limits import Breaker, Purse, cost, estimated_cost, retry_after
from rlpa_env.store import Store, sendable

MODES = ("live", "record", "replay")
_MOST_BYTES = 1_000_000  # an answer is a few hundred bytes; a server that sends megabytes is broken
_PASSING = frozenset({408, 409, 425, 429})  # and every 5xx: worth another try
_VARIABLE = re.compile(r"(?!(?:gsk_|hf_|AIza)\w{20})[A-Za-z_][A-Za-z0-9_]*")  # and no key that could be one by its letters


@dataclass(frozen=True)
class ChatConfig:
    """Where a model is served and how hard to try. The environment's ``llm={…}`` holds these keys."""

    base_url: str = "https://api.openai.com/v1"
    model: str = "gpt-4o-mini"
    api_key_env: str = "OPENAI_API_KEY"  # name of the variable; the key itself is never kept, written or shown
    temperature: float = 0.7
    max_tokens: int = 512  # of an answer: enough for five reasons, 40 pairs, or a profile and a reply
    concurrency: int = 64  # requests in flight
    timeout: float = 60.0  # seconds, each attempt
    retries: int = 4  # further attempts after a failed one
    backoff: float = 0.5  # seconds before the first of them, doubled each time, with jitter
    longest_wait: float = 30.0  # seconds; caps the backoff; a server that asks for a longer pause fails the call
    breaker: int = 16  # attempts failed in a row, over all calls (no rate limit, no HTTP 400), after which new calls fail at once ...
    cooldown: float = 10.0  # ... for so many seconds; then one call tries. Those begun before sit it out for one of their retries
    price: tuple[float, float] = (0.0, 0.0)  # per million prompt and completion tokens, in any currency
    budget: float | None = None  # in that currency, see `Purse`; calls beyond it raise BudgetError
    mode: str = "live"  # "record" asks only what ``store`` does not hold and adds it; "replay" never asks
    store: str | None = None  # folder
    language: str = "en"  # of the prompts: "en" or "zh"
    seeds: bool = False  # send a seed with every request; vLLM 0.32 on a CPU dies of them when it splits a prompt
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # further fields of every request

    def __post_init__(self) -> None:
        """Check every value."""
        for name, choices in {"mode": MODES, "language": ("en", "zh")}.items():
            if getattr(self, name) not in choices:
                raise unknown_choice(f"llm {name}", getattr(self, name), choices)
        if not _VARIABLE.fullmatch(str(self.api_key_env)):  # not shown: it may well be the key
            raise ConfigError("llm api_key_env: expected the name of an environment variable; got something else. Put the key into a variable.")
        if not str(self.base_url).startswith(("http://", "https://")):
            raise ConfigError(f"llm base_url: expected http://… or https://…; got {str(self.base_url).rpartition('@')[2]!r}.")
        if self.mode != "live" and not self.store:
            raise ConfigError(f"llm: mode {self.mode!r} expects store='FOLDER'; got none.")
        for name, least in {"concurrency": 1, "retries": 0, "breaker": 1, "max_tokens": 1}.items():
            check_number(f"llm {name}", getattr(self, name), least)
        for name, low in {"timeout": 0.001, "temperature": 0, "longest_wait": 0, "backoff": 0, "cooldown": 0, "budget": 0}.items():
            check_number(f"llm {name}", getattr(self, name), low, whole=False, optional=name == "budget")
        if not isinstance(self.price, (list, tuple)) or len(self.price) != 2:
            raise ConfigError(f"llm price: expected (INPUT, OUTPUT) per million tokens; got {self.price!r}.")
        for part in self.price:
            check_number("llm price", part, 0, whole=False)
        if self.budget is not None and not any(self.price):
            raise ConfigError(f"llm budget: {self.budget} expects price=(INPUT, OUTPUT) per million tokens; got {self.price}, which spends nothing.")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> ChatConfig:
        """From plain keys; an unknown one is an error that names the nearest."""
        known = [spec.name for spec in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown_choice("llm setting", name, known)
        price = settings.get("price")
        return cls(**{**settings, **({"price": tuple(price)} if isinstance(price, list) else {})})

    def __repr__(self) -> str:
        return f"ChatConfig({self.model!r} at {self.address!r}, {self.mode})"

    @property
    def address(self) -> str:
        """``base_url`` without a user and password, as errors and logs show it."""
        return without_credentials(self.base_url)


@dataclass
class Usage:
    """What a client has done. A call ends as one of ``calls``, ``lost`` and ``replayed``, an attempt as one of ``calls`` and ``failed``;
    one that was called off (its future cancelled) as none of them."""

    calls: int = 0  # answered
    lost: int = 0  # given up, or without a key
    replayed: int = 0  # answered from the store
    attempts: int = 0  # requests sent
    failed: int = 0  # of them without an answer
    refused: int = 0  # of the lost, those that the breaker, a rate limit or the budget turned away
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)  # kind of failure -> attempts


@once
def _loop(pid: int) -> asyncio.AbstractEventLoop:
    """The event loop of this process, on a daemon thread: a request in flight keeps no interpreter alive."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"rlpa-chat-{pid}", daemon=True).start()
    return loop


class ChatClient:
    """Calls a served model. Safe to share between environments and threads; copies of it are the same client."""

    def __init__(self, config: ChatConfig | None = None, **settings: Any) -> None:
        """``ChatClient(base_url=…, model=…)``, or with a ready config. Opens nothing."""
        require("openai", "llm", "language models")
        self.config = replace(config, **settings) if config else ChatConfig.from_mapping(settings)
        self.usage = Usage()
        self._store = Store(self.config.store) if self.config.store else None
        self._open: Connections | None = None
        self._hang_up: Any = None
        self._slots = asyncio.Semaphore(self.config.concurrency)
        self._owner = 0  # process whose loop these belong to
        self._breaker = Breaker(self.config.breaker, self.config.cooldown)
        self._purse = Purse(self.config.budget, 0.0)
        self._quiet_until = 0.0  # monotonic seconds; the server asked not to be asked before
        self._warned = False
        self._keys: set[str] = set()  # that were sent; the environment may hold another by now

    def __repr__(self) -> str:
        return f"ChatClient({self.config.model!r} at {self.config.address!r}, {self.config.mode})"

    def __deepcopy__(self, memo: object) -> ChatClient:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (ChatClient, (self.config,))

    def close(self) -> None:
        """Drop the connections; whatever is asked later opens new ones, further attempts of calls in flight included.

        An attempt that is cut off in this way is a failed one, but says nothing of the server. To give calls up, cancel their futures.
        """
        hang_up, self._open = self._hang_up, None  # in this order: a call in flight may connect anew at once
        if hang_up is not None:
            hang_up()

    def ask(self, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
        """The answer to ``messages``; see ``begin``. Raises ModelError when every attempt failed."""
        future = self.begin(messages, **options)
        try:
            return future.result()
        finally:
            future.cancel()  # ctrl-C: nobody waits for it any more

    def begin(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        schema: Mapping[str, Any] | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Future[str]:
        """Send a request and return at once.

        Args:
            messages: chat messages, role and content, sent as `sendable` text.
            schema: JSON schema that the answer has to obey (``response_format``); None: free text.
            seed: part of what identifies a recorded answer; with ``seeds`` also of the server's sampling.

        Returns:
            A future of the answer's text. Its exception is a ModelError if no attempt succeeded.
        """
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{key: sendable(value) for key, value in message.items()} for message in messages],
            "temperature": self.config.temperature if temperature is None else temperature,
            "max_tokens": self.config.max_tokens if max_tokens is None else max_tokens,
        }
        if seed is not None:
            body["seed"] = seed
        if schema is not None:
            named = {"name": str(schema.get("title", "answer")), "schema": dict(schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if self.config.extra_body:
            body["extra_body"] = dict(self.config.extra_body)
        if self._store and self.config.mode != "live":
            try:
                answer = self._store.read(body)
            except ModelError as error:
                return self._ended(error)
            if answer is not None or self.config.mode == "replay":
                return self._replayed(answer)
        return asyncio.run_coroutine_threadsafe(self._call(body), _loop(os.getpid()))

    def _replayed(self, answer: str | None) -> Future[str]:
        if answer is None:
            return self._ended(ModelError(f"replay: expected a recorded answer in {self.config.store}; none fits this request. Record it first."))
        self.usage.replayed += 1
        return self._ended(answer)

    def _ended(self, outcome: str | ModelError) -> Future[str]:
        """A future of what is known already."""
        future: Future[str] = Future()
        if isinstance(outcome, ModelError):
            self.usage.lost += 1
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future

    async def _call(self, body: Mapping[str, Any]) -> str:
        """All attempts of one call, and how it ended."""
        try:
            self._connected()
            begun = self._breaker.openings
            if self._breaker.turns_away:
                raise self._refused(f"not asked, {self._breaker.row} attempts in a row had failed (see earlier errors)")
            async with self._slots:
                return await self._attempts(body, max(0, self._breaker.openings - begun))  # cooldowns that it stood in the queue
        except (ModelError, ConfigError) as error:
            self.usage.lost += 1
            self.usage.refused += isinstance(error, BudgetError)
            raise

    async def _attempts(self, body: Mapping[str, Any], first: int) -> str:
        """The answer to one of the attempts from ``first`` on. A cooldown that was sat out in vain takes the place of one."""
        last, sent = "", 0
        for attempt in range(first, self.config.retries + 1):
            await self._pause()
            async with self._purse.aside(estimated_cost(body, self.config.price)):
                if not await self._breaker.passed():
                    continue
                sent += 1
                pool = None
                try:
                    pool = self._connected()
                    with pool.one() as sdk:
                        return await self._attempt(sdk, body)
                except (ModelError, ConfigError):  # the server did answer, or there is no key any more
                    raise
                except Exception as error:
                    if pool is self._open:  # else closed meanwhile
                        self._breaker.failed(getattr(error, "status_code", None))
                    last, again = self._failed(error)
                finally:
                    self._breaker.left()
            if not again:
                break
            if attempt < self.config.retries:
                await asyncio.sleep(min(self.config.longest_wait, self.config.backoff * 2**attempt) * (0.5 + 0.5 * SystemRandom().random()))
        if not sent:
            raise self._refused(f"not asked, {self._breaker.row} attempts in a row had failed (see earlier errors)")
        raise ModelError(f"{self.config.model} at {self.config.address}: no answer after {sent} attempts; the last: {last}")

    async def _pause(self) -> None:
        """Leave the server alone for as long as it asked any call to, and not all come back at once; nothing is drawn from the global generator."""
        rest = self._quiet_until - time.monotonic()
        if rest > self.config.longest_wait:
            raise self._refused(self._too_long(rest))
        if rest > 0:
            await asyncio.sleep(rest + self.config.backoff * SystemRandom().random())

    def _too_long(self, seconds: float) -> str:
        most = self.config.longest_wait
        return f"rate limited for {seconds:.0f} s (Retry-After), longer than longest_wait={most:g} s. Ask later or raise `longest_wait`."

    def _refused(self, why: str) -> ModelError:
        self.usage.refused += 1
        return ModelError(f"{self.config.address}: {why}")

    async def _attempt(self, sdk: Any, body: Mapping[str, Any]) -> str:
        self.usage.attempts += 1
        sent = {key: value for key, value in body.items() if key not in ("extra_body", *(() if self.config.seeds else ("seed",)))}
        sent |= body.get("extra_body", {})
        # Not chat.completions.create: it walks every message and every answer against its declared types, a third of the time of a call.
        call = sdk.post("/chat/completions", cast_to=object, body=sent, options={"timeout": self.config.timeout})
        answer = await asyncio.wait_for(call, self.config.timeout + 1.0)
        self._charge(body, usage if isinstance(usage := answer.get("usage"), Mapping) else {})
        text = answer["choices"][0]["message"]["content"] or ""
        if not isinstance(text, str) or len(text) > _MOST_BYTES:
            raise ValueError(f"an answer of {len(text):,} characters, where {_MOST_BYTES:,} are the most that is read")
        self._breaker.answered()
        if self._store and self.config.mode == "record":
            try:
                text = self._store.write(body, text)
            except ModelError:
                self._count("store")
                raise
        self.usage.calls += 1
        return text

    def _charge(self, body: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        """Count the tokens and the cost of an answer; by estimate if the server does not say what it used."""
        prompt, completion = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        self.usage.cost += cost(prompt, completion, self.config.price) if prompt else estimated_cost(body, self.config.price)
        self._purse.spent = self.usage.cost
        if not prompt and any(self.config.price) and not self._warned:
            self._warned = True
            warnings.warn(f"{self.config.address} answers without usage: its cost is an estimate, about the most it can be.", stacklevel=2)

    def _failed(self, error: Exception) -> tuple[str, bool]:
        """Count a failed attempt: what happened in words, try again? Raises ModelError if the server wants too long a pause."""
        status = getattr(error, "status_code", None)
        kind = f"HTTP {status}" if status else type(error).__name__
        self._count(kind)
        headers = getattr(getattr(error, "response", None), "headers", {}) or {}
        wait = retry_after(headers.get("retry-after", ""))
        self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        again = status is None or status in _PASSING or status >= 500
        words = f"{kind}: {excerpt(self._scrubbed(str(error)), 300)}"
        if again and wait > self.config.longest_wait:
            raise ModelError(f"{self.config.address}: {self._too_long(wait)} It said {words}") from None
        return words, again

    def _count(self, kind: str) -> None:
        self.usage.failed += 1
        self.usage.reasons[kind] = self.usage.reasons.get(kind, 0) + 1

    def _scrubbed(self, text: str) -> str:
        for key in sorted(self._keys, key=len, reverse=True):
            text = text.replace(key, "<key>")
        return without_credentials(text)

    def _connected(self) -> Connections:
        """The connections of this process, whose slots, breaker and budget are its own."""
        pid, pool = os.getpid(), self._open  # once: another thread may close them at any time
        if self._owner != pid or pool is None:
            self._open = pool = Connections(self.config.base_url, self.config.api_key_env, self.config.timeout)
            self._keys |= {pool.key} - {""}
            self._hang_up = finalize(self, _close, pool, pid)
        if self._owner != pid:
            self._slots = asyncio.Semaphore(self.config.concurrency)
            self._breaker = Breaker(self.config.breaker, self.config.cooldown)
            self._purse = Purse(self.config.budget, self.usage.cost)
            self._owner = pid
        return pool


def _close(pool: Connections, owner: int) -> None:
    """Close connections on their own loop; in a forked process it is not ours."""
    if owner == os.getpid():
        asyncio.run_coroutine_threadsafe(pool.close(), _loop(owner))


@once
def _shared(settings: str) -> ChatClient:
    return ChatClient(ChatConfig.from_mapping(json.loads(settings)))


def client_of(llm: Mapping[str, Any] | ChatClient | None) -> ChatClient:
    """The client for an environment's ``llm`` argument; equal settings share one client, and so its limits."""
    if isinstance(llm, ChatClient):
        return llm
    if not llm or not isinstance(llm, Mapping):
        got = f"got a {type(llm).__name__}" if llm else "got none"
        raise ConfigError(f"llm: expected settings such as {{'base_url': 'http://localhost:8000/v1', 'model': 'NAME'}}; {got}.")
    try:
        return _shared(json.dumps(dict(llm), sort_keys=True))
    except TypeError as error:
        raise ConfigError(f"llm: expected plain values; {error}.") from error
