"""Connections to a server of the chat API, through the official ``openai`` client."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from rlpa_env.errors import ConfigError

_WIDTH = 8  # requests in flight of one official client


class Connections:
    """Official clients side by side, as many as are wanted at once.

    At every request the HTTP library under an official client looks at each idle connection of its pool: with 64 in one pool that is
    half of the processor time of a call, with eight in each of eight pools next to nothing. Belongs to one event loop.
    """

    def __init__(self, base_url: str, key_variable: str, timeout: float) -> None:
        """Opens nothing. Raises ConfigError if the server is far away and the environment variable holds no key."""
        self.key = os.environ.get(key_variable, "")
        if not self.key and not _near(base_url):
            hint = f"A server that asks for none takes any value, for instance: export {key_variable}=none"
            raise ConfigError(f"llm: expected an API key in the environment variable {key_variable}; it is not set. {hint}")
        self._base_url, self._timeout = base_url, timeout
        self._busy: dict[Any, int] = {}  # official client -> requests in flight

    @contextmanager
    def one(self) -> Iterator[Any]:
        """An official client, for one request."""
        sdk = next((sdk for sdk, busy in self._busy.items() if busy < _WIDTH), None) or self._another()
        self._busy[sdk] += 1
        try:
            yield sdk
        finally:
            self._busy[sdk] -= 1

    def _another(self) -> Any:
        from openai import AsyncOpenAI

        sdk = AsyncOpenAI(base_url=self._base_url, api_key=self.key or "none", max_retries=0, timeout=self._timeout)
        self._busy[sdk] = 0
        return sdk

    async def close(self) -> None:
        """Hang up, whatever is in flight."""
        for sdk in list(self._busy):
            await sdk.close()


def _near(base_url: str) -> bool:
    """Whether a server is on this machine or in its own network, and so may well ask for no key."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name
        return "." not in host or host.endswith(".local")
