"""The text space: holds ordinary language, samples printable text, refuses shared memory."""

from __future__ import annotations

import gymnasium as gym
import pytest
from gymnasium.error import CustomSpaceError
from gymnasium.vector.utils import create_shared_memory

from rlpa_env.spaces import UnicodeText


def test_any_text_up_to_the_length_is_inside():
    space = UnicodeText(20)
    assert all(text in space for text in ("", "Grüß dich, 你好!", "a\nb", "x" * 20))
    assert not any(thing in space for thing in ("x" * 21, None, 3, b"x", ["x"]))


def test_samples_are_inside_seeded_and_printable():
    one, two = UnicodeText(300, seed=3), UnicodeText(300, seed=3)
    samples = [one.sample() for _ in range(50)]
    assert samples == [two.sample() for _ in range(50)]
    assert len(set(samples)) > 40
    assert all(text in one and text.isprintable() for text in samples)
    with pytest.raises(ValueError, match="no mask"):
        one.sample(mask=(None, None))


def test_short_repr_and_equality():
    assert repr(UnicodeText(7)) == "UnicodeText(7)"
    assert UnicodeText(7) == UnicodeText(7) != UnicodeText(8)
    assert UnicodeText(7) != gym.spaces.Text(7)


def test_shared_memory_is_refused_with_the_remedy():
    with pytest.raises(CustomSpaceError, match="shared_memory"):
        create_shared_memory(UnicodeText(7), n=2)
