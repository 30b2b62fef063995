"""A text space that holds ordinary language: any string up to a length."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium.error import CustomSpaceError
from gymnasium.vector.utils import create_shared_memory

_SAMPLE = 120  # characters of a random sample, at most
_PRINTABLE = "".join(chr(code) for code in range(32, 127))


class UnicodeText(gym.spaces.Text):
    """All strings of at most ``max_length`` characters. Samples are short printable ASCII.

    >>> space = UnicodeText(10)
    >>> "héllo, 你好" in space, "x" * 11 in space, 3 in space
    (True, False, False)
    """

    def __init__(self, max_length: int, seed: int | None = None) -> None:
        super().__init__(max_length=max_length, min_length=0, charset=_PRINTABLE, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random string; masks make no sense for an open character set."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample: expected no mask and no probability; got one.")
        length = int(self.np_random.integers(0, min(_SAMPLE, self.max_length) + 1))
        return "".join(_PRINTABLE[i] for i in self.np_random.integers(len(_PRINTABLE), size=length))

    def __deepcopy__(self, memo: object) -> UnicodeText:
        """The same space with its own random stream; the character tables, which never change, are shared."""
        twin = object.__new__(type(self))
        twin.__dict__ = {**self.__dict__, "_np_random": copy.deepcopy(self._np_random)}
        return twin

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]


@create_shared_memory.register(UnicodeText)
def _no_shared_memory(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    raise CustomSpaceError(
        "UnicodeText: expected a vector environment without shared memory, since text has no fixed bytes; "
        "pass vector_kwargs={'shared_memory': False} to gym.make_vec."
    )
