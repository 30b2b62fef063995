"""Connections to a server of the chat API, through the official ``openai`` client."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast
from urllib.parse import urlsplit

from rlpa_env.errors import ConfigError


class Connections:
    """Official clients side by side, one for each request in flight, all with the same certificates.

    At every request the HTTP library under an official client looks at each connection of its pool: with 64 in one pool that is half
    of the processor time of a call, with one in each of 64 nothing. Belongs to one event loop.
    """

    def __init__(self, base_url: str, key_variable: str, timeout: float) -> None:
        """Opens nothing. Raises ConfigError if the server is far away and the environment variable holds no key."""
        self.key = os.environ.get(key_variable, "")
        if not self.key and not _near(base_url):
            hint = f"A server that asks for none takes any value, for instance: export {key_variable}=none"
            raise ConfigError(f"llm: expected an API key in the environment variable {key_variable}; it is not set. {hint}")
        self._base_url, self._timeout = base_url, timeout
        self._all: list[Any] = []
        self._idle: list[Any] = []  # of them those without a request

    @contextmanager
    def one(self) -> Iterator[Any]:
        """An official client, for one request."""
        sdk = self._idle.pop() if self._idle else self._another()
        try:
            yield sdk
        finally:
            self._idle.append(sdk)

    def _another(self) -> Any:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        http = DefaultAsyncHttpxClient(verify=_certificates(), timeout=self._timeout)
        sdk = AsyncOpenAI(base_url=self._base_url, api_key=self.key or "none", max_retries=0, timeout=self._timeout, http_client=http)
        self._all.append(sdk)
        return sdk

    async def close(self) -> None:
        """Hang up, whatever is in flight."""
        for sdk in list(self._all):
            await sdk.close()


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Those that the HTTP library trusts. Reading them is twenty milliseconds and half a megabyte, more than all else of a client."""
    library = import_module("httpx2" if find_spec("httpx2") else "httpx")  # what openai stands on from 3.0, and before
    return cast(ssl.SSLContext, library.create_ssl_context())


def _near(base_url: str) -> bool:
    """Whether a server is on this machine or in its own network, and so may well ask for no key."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name
        return "." not in host or host.endswith(".local")
