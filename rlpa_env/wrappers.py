"""Wrappers: the newest message alone as observation, and episodes on disk, with what tells who and which task it was."""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import io
import json
import logging
import operator
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from types import CodeType, CoroutineType, GeneratorType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from rlpa_env.clients import ChatClient, ChatConfig
from rlpa_env.encoders import SentenceEncoder
from rlpa_env.errors import RLPAError, without_credentials
from rlpa_env.spaces import UnicodeText
from rlpa_env.types import Message


class LastMessage(gym.ObservationWrapper):
    """Observation is the newest user message alone; ``info["messages"]`` still holds the whole dialogue."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = UnicodeText(self.env.observation_space.max_length)  # type: ignore[attr-defined]

    def observation(self, observation: str) -> str:
        """The last user message of the dialogue; after a failure of a model, the one that had no answer."""
        dialogue = self.unwrapped.dialogue  # type: ignore[attr-defined]
        return next(message.content for message in reversed(dialogue) if message.role == "user")


class RecordEpisodes(gym.Wrapper):
    """Append every finished episode to a JSONL file, one line an episode, flushed to disk as it ends.

    A line holds the environment id and arguments (`described`: of ``llm`` the model and how it is asked, never where), the
    seed, the turn limit, the hidden profile, the messages with the agent's raw completions, and for each turn its reward, every scalar of
    ``info`` and what the guess was scored on (`scored_on`; ``points`` only where they are not those of the profile). An episode left by ``reset`` before its end is written
    with ``"finished": false``. One that `restore` takes back and that is then played to another end is written again.
    """

    records_episodes = True  # forks leave this wrapper out: a branch that is only tried is no episode

    def __init__(self, env: gym.Env, path: str | os.PathLike[str]) -> None:
        super().__init__(env)
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end_torn_line(self.path)
        self._kwargs = described(env.spec.kwargs if env.spec else {})  # now: a user among them changes as it is talked with
        self._episode: dict[str, Any] | None = None
        self._kept = 0  # turns of it that stand in a line already
        self._dialogue: tuple[Message, ...] = ()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new record."""
        observation, info = self.env.reset(seed=seed, options=options)  # one that raises leaves the dialogue as it is
        self._leave()
        spec = self.env.spec
        self._episode = {
            "env": spec.id if spec else type(self.unwrapped).__name__,
            "kwargs": self._kwargs,
            "seed": seed,
            "limit": (spec.max_episode_steps if spec else None) or self.unwrapped.max_turns,  # type: ignore[attr-defined]
            "profile": self.unwrapped.profile.to_mapping(),  # type: ignore[attr-defined]
            "turns": [],
            "messages": info["messages"],
        }
        self._kept, self._dialogue = 0, self.unwrapped.dialogue  # type: ignore[attr-defined]
        self._points = [list(point) for point in self.unwrapped.profile.points]  # type: ignore[attr-defined]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Note the turn; write the line when the episode ends."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._episode is not None and "terminated" not in self._episode:
            if info["turn"] > len(self._episode["turns"]):  # an action may be a token of one
                self._note(self._episode, reward, info)
            if terminated or truncated:
                self._episode |= {"terminated": bool(terminated), "truncated": bool(truncated)}
                self._write(self._episode, finished=True)
        return observation, reward, terminated, truncated, info

    def _note(self, episode: dict[str, Any], reward: Any, info: dict[str, Any]) -> None:
        scalars = {k: v for k, v in info.items() if isinstance(v, (bool, int, float, str))}
        scalars["error"] = without_credentials(info["error"])
        scored = scored_on(self.unwrapped)
        if scored["points"] == self._points:
            del scored["points"]
        episode["turns"].append({"reward": float(reward), **scalars, **scored})
        episode["messages"] = list(info["messages"])  # of our own: the caller may add to theirs
        self._dialogue = self.unwrapped.dialogue  # type: ignore[attr-defined]

    def close(self) -> None:
        """Write the episode in flight, if any, and close the environment."""
        self._leave()
        super().close()

    def restored(self) -> None:
        """The environment went back to an earlier turn: forget those after it. A state of another dialogue is not recorded."""
        core: Any = self.unwrapped
        now, seen = core.dialogue, self._dialogue
        if self._episode is None or len(now) > len(seen) or not all(map(operator.is_, now, seen)):  # the very messages, not equal ones
            warnings.warn("RecordEpisodes: restored to turns that it has not seen; nothing is recorded until reset.", stacklevel=3)
            self._leave()
        elif len(now) < len(seen):
            del self._episode["turns"][core.turn :]
            self._episode["messages"] = self._episode["messages"][: 2 + 2 * core.turn]  # instructions, greeting, two a turn
            self._kept, self._dialogue = min(self._kept, core.turn), now
            for key in ("terminated", "truncated"):
                self._episode.pop(key, None)

    def _leave(self) -> None:
        if self._episode is not None and len(self._episode["turns"]) > self._kept:
            self._write(self._episode, finished=False)
        self._episode = None

    def _write(self, episode: dict[str, Any], finished: bool) -> None:
        append_line(self.path, {**episode, "finished": finished})
        self._kept = len(episode["turns"])


def scored_on(core: Any) -> dict[str, list[list[Any]] | list[int]]:
    """What the newest guess of an `RLPAEnv` was scored on, for a record.

    Returns:
        ``hits``: pairs [index of guess, index of true point]; ``told``: indices of the true points that had been revealed
        before the guess; ``points``: the true points [slot, value] of that turn.
    """
    hits, truth, revealed = core.scored
    known = set(revealed)
    return {
        "hits": [[int(g), int(t)] for g, t in hits],
        "told": [index for index, point in enumerate(truth) if point in known],
        "points": [list(point) for point in truth],
    }


def described(value: Any, unread: list[str] | None = None) -> Any:
    """What tells an argument or an agent from others, as JSON, equal in every process: part of records and of their keys.

    Plain values, and lists and mappings of them, are themselves. Of a model it is its name and what else its answers depend
    on; not where it is served, how hard it is tried or what it may cost. An object is its ``identity`` if it has one, else its
    class, the models in it, and a digest of its other attributes, whose text may be anything, a key too: arrays, tensors, sets
    and bytes by what they hold, objects in objects `_DEEPEST` deep. Random generators, locks, loggers and pools are their class
    alone: chance, and how work is done, are no part of what somebody is.

    Args:
        unread: gets the names of what cannot be told from others of its class or name: a lambda, a function with a closure, an
            open file, an object of a C library that cannot be pickled.
    """
    return _Reader([] if unread is None else unread).read(value, _DEEPEST)


def source(value: Any) -> str | None:
    """A digest of the source of an object's class and its bases; of the compiled code where that is all there is (written at a prompt).

    None where all are Python's or ours, and of what says itself what it is, by ``identity``.
    `described` tells what an object holds, this what it does: methods and class attributes, not functions that they call.
    """
    own = [cls for cls in type(value).__mro__ if cls.__module__.partition(".")[0] not in _NO_SOURCE]
    if hasattr(type(value), "identity"):
        return None
    try:
        return digest([inspect.getsource(cls) for cls in own]) if own else None
    except (OSError, TypeError):
        return digest([_code(cls) for cls in own])


def _code(value: Any) -> Any:
    """What a class, function or code object does, as JSON values: compiled, for the source may be missing, and is slow to read."""
    value = inspect.unwrap(getattr(value, "__func__", value))
    if isinstance(value, type):
        return {name: _code(own) for name, own in sorted(vars(value).items()) if name not in _PLACE}
    if isinstance(value, (property, cached_property)):
        return [_code(getattr(value, part, None)) for part in ("fget", "fset", "fdel", "func")]
    code = getattr(value, "__code__", value)
    if isinstance(code, CodeType):
        given = [getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]
        return [code.co_code.hex(), code.co_names, code.co_varnames, *map(_code, (code.co_consts, given))]
    if isinstance(value, (list, tuple)):
        return list(map(_code, value))
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value).__qualname__


_NO_SOURCE = sys.stdlib_module_names | {"rlpa_env", "rlpa_agent"}  # of these the name of a class is enough
_PLACE = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"}  # of a class, whatever it does
_DEEPEST = 16  # objects in objects, as the layers of a network are
_ASIDE = (
    np.random.Generator, np.random.RandomState, np.random.BitGenerator, logging.Logger, Executor, type(threading.Lock()), type(threading.RLock())
)  # fmt: skip


def _name(value: Any) -> str:
    """Of a class or function; of somebody's own with its module, for equal names of two modules are two."""
    module = value.__module__ or ""
    return value.__qualname__ if module.partition(".")[0] in _NO_SOURCE else f"{module}.{value.__qualname__}"


class _Reader:
    """One reading of one value, in which an object that is met again is read once."""

    def __init__(self, unread: list[str]) -> None:
        self.unread = unread
        self._known: dict[int, tuple[Any, Any]] = {}  # with the object, so that no other gets its id

    def read(self, value: Any, depth: int) -> Any:
        if isinstance(value, (bool, int, float, str, type(None))):
            return value
        if isinstance(value, (np.generic, os.PathLike)):
            return value.item() if isinstance(value, np.generic) else os.fspath(value)
        if isinstance(value, (ChatClient, ChatConfig)):
            return _model(value.config if isinstance(value, ChatClient) else value)
        if isinstance(value, SentenceEncoder):
            return value.model
        if id(value) not in self._known:
            self._known[id(value)] = value, {"class": _name(type(value))}  # all it is where it is met inside itself
            self._known[id(value)] = value, self._inside(value, depth)
        return self._known[id(value)][1]

    def _inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            configs = {key: ChatConfig.from_mapping(own) for key, own in value.items() if key == "llm" and isinstance(own, Mapping)}
            return {str(key): self.read(own, depth) for key, own in {**value, **configs}.items()}
        if isinstance(value, (list, tuple)):
            return [self.read(own, depth) for own in value]
        identity = getattr(value, "identity", None)
        if isinstance(identity, Mapping):
            return _Reader([]).read(identity, depth)  # whoever says what it is has told enough
        if hasattr(value, "__qualname__"):
            return self._function(value, depth)
        return self._object(value, depth)

    def _function(self, value: Any, depth: int) -> Any:
        """A function or a class: its name, and of somebody's own what it does. A method of an object is what the object is, too."""
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, (type, ModuleType)):
            return {"method": value.__qualname__, "of": self.read(owner, depth)}
        inner = not isinstance(value, type) and ("<lambda>" in value.__qualname__ or "<locals>" in value.__qualname__)
        if inner or getattr(value, "__closure__", None) or isinstance(value, (GeneratorType, CoroutineType)):
            self.unread.append(value.__qualname__)
        own = (value.__module__ or "").partition(".")[0] not in _NO_SOURCE
        return {"name": _name(value), "code": digest(_code(value))} if own else _name(value)

    def _object(self, value: Any, depth: int) -> Any:
        found: dict[str, Any] = {"class": type(value).__qualname__}
        if depth < _DEEPEST:  # of the outermost there is `source`
            own = [cls for cls in type(value).__mro__ if cls.__module__.partition(".")[0] not in _NO_SOURCE]
            found = {"class": _name(type(value))} | ({"code": digest(list(map(_code, own)))} if own else {})
        if isinstance(value, ModuleType):
            return {**found, "name": value.__name__}
        if isinstance(value, _ASIDE):
            return found
        try:
            content = _content(value) if depth else None
        except Exception:  # of anybody's class, which may raise anything where it cannot be read
            content = None
        if content is None:
            self.unread.append(type(value).__qualname__)
            return found
        parts = self.read(content, depth - 1)
        if isinstance(value, (set, frozenset)):
            parts.sort(key=lambda own: json.dumps(own, sort_keys=True))
        if isinstance(content, dict):
            for key in [key for key, own in content.items() if isinstance(own, (ChatClient, ChatConfig))]:
                found[key] = parts.pop(key)
        return {**found, **({"settings": digest(parts)} if parts else {})}


def _content(value: Any) -> Any:
    """The attributes of an object, or what else it is made of: a text, list or mapping, empty if nothing; None, or any error, if there is no telling."""
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _sha(value)
    if isinstance(value, io.IOBase):
        return None
    if all(hasattr(value, name) for name in ("detach", "cpu", "numpy")):  # a tensor of torch, which need not be there
        tensor = value.detach().cpu()
        kind = str(tensor.dtype)
        known = "bfloat16" not in kind and "float8" not in kind  # to NumPy; of the others float32 holds all
        array = (tensor if known else tensor.float()).numpy()
        return [kind, list(array.shape), _sha(array.tobytes())]
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.hasobject else [value.dtype.str, list(value.shape), _sha(value.tobytes())]
    if getattr(value, "__dict__", None):
        return dict(vars(value))
    reduce = copyreg.dispatch_table.get(type(value))  # how it would be pickled: by slots, or as its library knows how
    made = reduce(value) if reduce else value.__reduce_ex__(2)
    if isinstance(made, str):
        return made
    function, arguments, *rest = made
    state = [list(own) if isinstance(own, Iterator) else own for own in rest]
    bare = function is copyreg.__newobj__ and tuple(arguments) == (type(value),) and not any(state)  # type: ignore[attr-defined]
    return [] if bare else [function, list(arguments), state]


def _sha(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _model(config: ChatConfig) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(config, name) for name in ("model", "temperature", "max_tokens", "language")}
    return found | ({"extra_body": digest(config.extra_body)} if config.extra_body else {})


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def end_torn_line(path: Path) -> None:
    """Close a line that a killed process left open, so that the next record starts on its own line."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON object as one line and force it to disk."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with path.open("a", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_episodes(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file of recorded episodes.

    A torn line, as a kill leaves it, is skipped with a warning that names it. Raises RLPAError if there are more of them, and
    more than one, than episodes: then this is some other kind of file.
    """
    episodes, torn = [], []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            episodes.append(record)
        else:
            torn.append(number)
    if len(torn) > max(1, len(episodes)):
        raise RLPAError(
            f"{path}: expected one JSON object a line; {len(torn)} of {len(torn) + len(episodes)} lines are none "
            f"(first: line {torn[0]}). Is this a file of recorded episodes?"
        )
    if torn:
        warnings.warn(f"{path}: skipped torn line {', '.join(map(str, torn))}", stacklevel=2)
    return episodes
