"""Rollouts from an outside server: token ids in and out over HTTP, weights handed over as adapters under new names.

`VllmGenerator` speaks to a vLLM server that was started on the policy's base model with

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve BASE --enable-lora --max-lora-rank R --logprobs-mode processed_logprobs

and to anything else that keeps the same contract (`tests/agent/test_served.py` has one). Such a server computes a little
differently from the trainer, so the learner weighs every token by the truncated ratio of the two (``ppo.importance_cap``).
"""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from rlpa_agent.protocols import Sampled
from rlpa_env import ConfigError, RLPAError


class GeneratorError(RLPAError, RuntimeError):
    """A server that generates did not answer, or answered off the contract."""


class VllmGenerator:
    """A vLLM server whose base model is the policy's and whose adapters are the policy's versions.

    Args:
        base_url: e.g. ``http://localhost:8000``, without ``/v1``.
        folder: where adapters are written; the server must see the same path.
        end_ids, banned_ids: of the policy's chat: what ends a turn, what is never sampled.
        concurrency: requests in flight.
        timeout: seconds for one answer.
        tries: for a request that fails in transport.
    """

    def __init__(
        self,
        base_url: str,
        folder: str | Path,
        *,
        end_ids: Sequence[int],
        banned_ids: Sequence[int] = (),
        concurrency: int = 64,
        timeout: float = 300.0,
        tries: int = 3,
    ) -> None:
        self.base_url, self.folder = base_url.rstrip("/"), Path(folder)
        self.end_ids, self.timeout, self.tries = tuple(map(int, end_ids)), timeout, tries
        self._bias = {str(int(i)): -100.0 for i in banned_ids}
        self._slots = threading.BoundedSemaphore(concurrency)
        self._run, self._updates, self.version = uuid.uuid4().hex[:8], 0, ""  # a server may outlive a run that stopped

    def begin(self, context_ids: Sequence[int], key: Sequence[int], max_new_tokens: int, temperature: float) -> Future[Sampled]:
        """See `protocols.Generator`. The future's exception is a GeneratorError."""
        if not self.version:
            raise ConfigError("generator: expected update(policy) before the first rollout; the server has no weights of ours yet.")
        seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint32)[0]) // 2
        body = {
            "model": self.version,
            "prompt": [int(i) for i in context_ids],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": list(self.end_ids),
            "logit_bias": self._bias or None,
        }
        future: Future[Sampled] = Future()
        # A daemon: a run that is stopped, or fails, does not wait for answers that nobody will read.
        threading.Thread(target=self._answer, args=(future, body), daemon=True).start()
        return future

    def update(self, policy: Any) -> str:
        """Save the policy as a new version, load it under its name and drop the one before."""
        name, before = f"policy-{self._run}-{self._updates:06d}", self.version
        policy.save(self.folder / name)
        if not (self.folder / name / "adapter_config.json").is_file():
            raise ConfigError(
                "generator: expected a policy with LoRA, whose adapter a running server can load; this one trains the whole model. "
                "Add --model.lora-rank 16, or drop --rollout.server."
            )
        # A load that timed out may have succeeded, and a server that was started anew has forgotten what it should unload.
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str((self.folder / name).resolve())}, done="already been loaded")
        self._updates, self.version = self._updates + 1, name
        if before:
            self._post("/v1/unload_lora_adapter", {"lora_name": before}, done="cannot be found")
            shutil.rmtree(self.folder / before)
        return name

    def _answer(self, future: Future[Sampled], body: Mapping[str, Any]) -> None:
        with self._slots:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self._sample(body))
            except BaseException as error:
                future.set_exception(error)

    def _sample(self, body: Mapping[str, Any]) -> Sampled:
        answer = self._post("/v1/completions", body)
        try:
            choice = json.loads(answer)["choices"][0]
            ids, logp = [int(i) for i in choice["token_ids"]], [float(x) for x in choice["logprobs"]["token_logprobs"]]
            version, reason = str(json.loads(answer)["model"]), choice["finish_reason"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise GeneratorError(
                f"{self.base_url}: expected a completion with token_ids, token_logprobs, finish_reason and model; {error!r}"
            ) from error
        if version != body["model"]:
            raise GeneratorError(f"{self.base_url}: expected an answer of {body['model']!r}; got one of {version!r}.")
        ended = bool(ids) and ids[-1] in self.end_ids
        whole = len(ids) == body["max_tokens"] if reason == "length" else ended
        if len(ids) != len(logp) or not ids or not whole or not np.isfinite(logp).all():
            raise GeneratorError(
                f"{self.base_url}: expected one finite logprob for each id, and an end token at the end unless the answer was cut "
                f"at {body['max_tokens']}; got {len(ids)} ids, {len(logp)} logprobs, finish_reason {reason!r}, last id {ids[-1:]}."
            )
        return Sampled(ids, logp, version)

    def _post(self, path: str, body: Mapping[str, Any], done: str = "") -> str:
        """The answer. ``done``: what a refusal says that leaves nothing to do."""
        request = urllib.request.Request(
            self.base_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        for attempt in range(self.tries):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return response.read().decode("utf-8")
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode("utf-8", "replace")
                if done and error.code in (400, 404) and done in said:
                    return said
                if error.code < 500 or attempt + 1 == self.tries:
                    raise GeneratorError(f"{self.base_url}{path}: HTTP {error.code}: {said[:300]}") from error
            except (OSError, http.client.HTTPException) as error:  # the latter of an answer that breaks off
                if attempt + 1 == self.tries:
                    raise GeneratorError(f"{self.base_url}{path}: no answer in {self.tries} tries; the last: {error}") from error
            time.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable: the last try returns or raises")
