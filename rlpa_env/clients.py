"""One client for every language model behind the environment: any OpenAI-compatible HTTP server.

Nothing connects before the first call. Requests run on one background event loop; ``begin`` returns a future at once,
so a caller keeps as many requests in flight as it likes and waits where ctrl-C can reach it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any
from weakref import finalize

from rlpa_env.errors import BudgetError, ConfigError, ModelError, require, unknown_choice
from rlpa_env.store import Store

MODES = ("live", "record", "replay")
_MOST_BYTES = 1_000_000  # an answer is a few hundred bytes; a server that sends megabytes is broken
_PASSING = frozenset({408, 409, 425, 429})  # and every 5xx: worth another try


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
    longest_wait: float = 30.0  # seconds; caps the backoff and a server's Retry-After
    breaker: int = 16  # attempts failed in a row, over all calls, after which calls fail at once ...
    cooldown: float = 10.0  # ... for so many seconds; then one call tries again
    price: tuple[float, float] = (0.0, 0.0)  # per million prompt and completion tokens, in any currency
    budget: float | None = None  # in that currency; calls beyond it raise BudgetError
    mode: str = "live"  # "record" asks only what ``store`` does not hold and adds it; "replay" never asks
    store: str | None = None  # folder
    language: str = "en"  # of the prompts: "en" or "zh"
    seeds: bool = False  # send a seed with every request; vLLM 0.32 on a CPU dies of them when it splits a prompt
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # further fields of every request

    def __post_init__(self) -> None:
        """Check every value."""
        if self.mode not in MODES:
            raise unknown_choice("llm mode", self.mode, MODES)
        if self.mode != "live" and not self.store:
            raise ConfigError(f"llm: mode {self.mode!r} expects store='FOLDER'; got none.")
        if self.language not in ("en", "zh"):
            raise unknown_choice("llm language", self.language, ("en", "zh"))
        least = {"concurrency": 1, "retries": 0, "breaker": 1, "max_tokens": 1, "temperature": 0, "backoff": 0, "cooldown": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"llm {name}: expected a number >= {bound}; got {getattr(self, name)!r}.")
        if self.timeout <= 0 or (self.budget is not None and self.budget < 0) or min(self.price) < 0:
            raise ConfigError(f"llm: expected timeout > 0, budget and price >= 0; got {self.timeout}, {self.budget}, {self.price}.")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> ChatConfig:
        """From plain keys; an unknown one is an error that names the nearest."""
        known = [spec.name for spec in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown_choice("llm setting", name, known)
        settings = dict(settings)
        if "price" in settings:
            settings["price"] = tuple(settings["price"])
        return cls(**settings)


@dataclass
class Usage:
    """What a client has done. ``attempts`` = ``answered`` + ``failed``; each call ends as ``calls`` or ``lost``."""

    calls: int = 0  # answered
    lost: int = 0  # given up
    replayed: int = 0  # answered from the store
    attempts: int = 0  # requests sent
    failed: int = 0  # of them without an answer
    refused: int = 0  # calls that the open breaker or the budget turned away
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)  # kind of failure -> attempts


@lru_cache(maxsize=4)
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
        self._sdk: Any = None
        self._hang_up: Any = None
        self._slots: asyncio.Semaphore | None = None
        self._owner = 0  # process whose loop the two belong to
        self._row = 0  # failed attempts in a row
        self._closed_until = 0.0  # of the breaker, monotonic seconds

    def __repr__(self) -> str:
        return f"ChatClient({self.config.model!r} at {self.config.base_url!r}, {self.config.mode})"

    def __deepcopy__(self, memo: object) -> ChatClient:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (ChatClient, (self.config,))

    def close(self) -> None:
        """Drop the connections; a later call opens new ones."""
        self._slots = None
        if self._hang_up is not None:
            self._hang_up()

    def ask(self, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
        """The answer to ``messages``; see ``begin``. Raises ModelError when every attempt failed."""
        return self.begin(messages, **options).result()

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
            messages: chat messages, role and content.
            schema: JSON schema that the answer has to obey (``response_format``); None: free text.
            seed: part of what identifies a recorded answer; with ``seeds`` also of the server's sampling.

        Returns:
            A future of the answer's text. Its exception is a ModelError if no attempt succeeded.
        """
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [dict(message) for message in messages],
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
            answer = self._store.read(body)
            if answer is not None or self.config.mode == "replay":
                return self._replayed(answer)
        return asyncio.run_coroutine_threadsafe(self._call(body), _loop(os.getpid()))

    def _replayed(self, answer: str | None) -> Future[str]:
        future: Future[str] = Future()
        if answer is None:
            future.set_exception(
                ModelError(f"replay: expected a recorded answer in {self.config.store}; none fits this request. Record it first.")
            )
        else:
            self.usage.replayed += 1
            future.set_result(answer)
        return future

    async def _call(self, body: Mapping[str, Any]) -> str:
        """All attempts of one call."""
        if self._owner != os.getpid() or self._slots is None:
            self._owner, self._sdk, self._slots = os.getpid(), self._connect(), asyncio.Semaphore(self.config.concurrency)
            self._hang_up = finalize(self, _close, self._sdk, self._owner)
        async with self._slots:
            last = ""
            for attempt in range(self.config.retries + 1):
                self._admit(last)
                wait, last, again = 0.0, "", True
                self.usage.attempts += 1
                try:
                    answer = await self._attempt(body)
                except Exception as error:
                    last, wait, again = self._failed(error)
                else:
                    self._row = 0
                    self.usage.calls += 1
                    if self._store and self.config.mode == "record":
                        self._store.write(body, answer)
                    return answer
                if not again or attempt == self.config.retries:
                    break
                pause = min(self.config.longest_wait, self.config.backoff * 2**attempt) * (0.5 + 0.5 * random.random())
                await asyncio.sleep(min(self.config.longest_wait, max(wait, pause)))
            self.usage.lost += 1
            raise ModelError(f"{self.config.model} at {self.config.base_url}: no answer after {attempt + 1} attempts; the last: {last}")

    def _admit(self, last: str) -> None:
        """Raise if the breaker is open or the budget is spent."""
        spent = self.config.budget is not None and self.usage.cost >= self.config.budget
        if not spent and time.monotonic() >= self._closed_until:
            return
        self.usage.refused += 1
        self.usage.lost += 1
        if spent:
            raise BudgetError(f"llm budget: expected at most {self.config.budget}; {self.usage.cost:.4f} is spent. Raise `budget`.")
        raise ModelError(f"{self.config.base_url}: not asked, {self._row} attempts in a row had failed ({last or 'see earlier errors'})")

    async def _attempt(self, body: Mapping[str, Any]) -> str:
        from openai.types.chat import ChatCompletion

        sent = {key: value for key, value in body.items() if key not in ("extra_body", *(() if self.config.seeds else ("seed",)))}
        sent |= body.get("extra_body", {})
        # Not chat.completions.create: it walks every message against its declared types, a fifth of the time of a call.
        call = self._sdk.post("/chat/completions", cast_to=ChatCompletion, body=sent, options={"timeout": self.config.timeout})
        answer = await asyncio.wait_for(call, self.config.timeout + 1.0)
        usage = getattr(answer, "usage", None)
        prompt, completion = (int(getattr(usage, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens"))
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        self.usage.cost += (prompt * self.config.price[0] + completion * self.config.price[1]) / 1e6
        text = answer.choices[0].message.content or ""
        if not isinstance(text, str) or len(text) > _MOST_BYTES:
            raise ValueError(f"an answer of {len(text):,} characters, where {_MOST_BYTES:,} are the most that is read")
        return text

    def _failed(self, error: Exception) -> tuple[str, float, bool]:
        """Count a failed attempt: what happened in words, seconds that the server wants to be left alone, try again?"""
        status = getattr(error, "status_code", None)
        kind = f"HTTP {status}" if status else type(error).__name__
        self.usage.failed += 1
        self.usage.reasons[kind] = self.usage.reasons.get(kind, 0) + 1
        self._row += 1
        if self._row >= self.config.breaker:
            self._closed_until = time.monotonic() + self.config.cooldown
            self._row = self.config.breaker - 1  # after the pause one more failure closes it again
        headers = getattr(getattr(error, "response", None), "headers", {}) or {}
        again = status is None or status in _PASSING or status >= 500
        return f"{kind}: {self._scrubbed(str(error))[:300]}", _seconds(headers.get("retry-after", "")), again

    def _scrubbed(self, text: str) -> str:
        key = os.environ.get(self.config.api_key_env, "")
        return text.replace(key, "<key>") if key else text

    def _connect(self) -> Any:
        from openai import AsyncOpenAI

        key = os.environ.get(self.config.api_key_env, "")
        local = any(host in self.config.base_url for host in ("localhost", "127.0.0.1", "[::1]"))
        if not key and not local:
            raise ConfigError(f"llm: expected an API key in the environment variable {self.config.api_key_env}; it is not set.")
        return AsyncOpenAI(base_url=self.config.base_url, api_key=key or "none", max_retries=0, timeout=self.config.timeout)


def _close(sdk: Any, owner: int) -> None:
    """Close a connection pool on its own loop; in a forked process it is not ours."""
    if owner == os.getpid():
        asyncio.run_coroutine_threadsafe(sdk.close(), _loop(owner))


def _seconds(header: str) -> float:
    """Seconds of a Retry-After header; 0 for a date or nothing (the backoff then decides)."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0


@lru_cache(maxsize=64)
def _shared(settings: str) -> ChatClient:
    return ChatClient(ChatConfig.from_mapping(json.loads(settings)))


def client_of(llm: Mapping[str, Any] | ChatClient | None) -> ChatClient:
    """The client for an environment's ``llm`` argument; equal settings share one client, and so its limits."""
    if isinstance(llm, ChatClient):
        return llm
    if not llm:
        raise ConfigError("llm: expected settings such as {'base_url': 'http://localhost:8000/v1', 'model': 'NAME'}; got none.")
    return _shared(json.dumps(dict(llm), sort_keys=True))
