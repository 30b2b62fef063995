"""The paper's prompting baselines for a model behind any OpenAI-compatible endpoint or beside us: Base, Reminder, Self-Critic, CoT, RAG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlpa_env.actions import parse_action
from rlpa_env.clients import client_of
from rlpa_env.encoders import MINILM, encoder_of
from rlpa_env.errors import unknown_choice
from rlpa_env.flows import Flow, alone, run
from rlpa_env.llm import prompt, without_thoughts

METHODS = ("base", "reminder", "self-critic", "cot", "rag")
RETRIEVED = 5  # past exchanges (paper, baselines)
Messages = Sequence[Mapping[str, str]]
Encoder = Callable[[list[str]], np.ndarray]  # texts -> unit vectors [n, d]


class PromptingAgent:
    """A model that is prompted and not trained. What it thinks before it answers is cut off.

    - ``base``: the instructions and the dialogue.
    - ``reminder``: a sentence that asks to respect what was told, after the newest message.
    - ``self-critic``: answer, critique, rewrite; three calls a turn.
    - ``cot``: five worked examples with a thought before the answer.
    - ``rag``: of the earlier dialogue only the five exchanges nearest to the newest message by sentence embedding.

    Args:
        llm: client, or settings of one (see `ChatConfig`); or anything with ``begin(messages) -> Future`` of an answer and
            ``config.language``.
        method: one of `METHODS`.
        encoder: for ``rag``: a function from texts to unit vectors, or the name or local folder of a sentence-transformers
            model (extra ``embed``).
    """

    def __init__(self, llm: Any, method: str = "base", encoder: Encoder | str = MINILM) -> None:
        if method not in METHODS:
            raise unknown_choice("prompting method", method, METHODS)
        self.client: Any = llm if hasattr(llm, "begin") else client_of(llm)
        self.method = method
        if method == "rag":
            self._encode: Encoder = encoder_of(encoder, "method 'rag'") if isinstance(encoder, str) else encoder

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells it from other prompted agents: the method and its model; see `Agent`."""
        return {"method": self.method, "llm": self.client, **({"encoder": self._encode} if self.method == "rag" else {})}

    def act(self, messages: Messages) -> str:
        """One completion; waits for the model. Raises ModelError if it cannot be reached."""
        return alone(self.act_flow(messages))

    def act_batch(self, dialogues: Sequence[Messages]) -> list[str]:
        """One completion a dialogue, all calls in flight together. Raises ModelError if any fails; ``act_flow`` keeps the others."""
        outcomes = run([self.act_flow(messages) for messages in dialogues])
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def act_flow(self, messages: Messages) -> Flow[str]:
        """``act`` as a flow."""
        prepared = self._prepared([dict(message) for message in messages])
        answer = without_thoughts((yield self.client.begin(prepared)))
        if self.method == "self-critic":
            language = self.client.config.language
            for step in ("agent-critique-v1", "agent-rewrite-v1"):
                prepared += [{"role": "assistant", "content": answer}, {"role": "user", "content": prompt(step, language)}]
                answer = without_thoughts((yield self.client.begin(prepared)))
        return answer

    def _prepared(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        if self.method == "reminder":
            messages[-1]["content"] += "\n\n" + prompt("agent-reminder-v1", self.client.config.language)
        elif self.method == "cot":
            examples = prompt("agent-examples-v1", self.client.config.language)
            if messages[0]["role"] == "system":
                messages[0]["content"] += "\n\n" + examples
            else:
                messages.insert(0, {"role": "system", "content": examples})
        elif self.method == "rag":
            return self._retrieved(messages)
        return messages

    def _retrieved(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """System message, the nearest exchanges in their order, the newest message."""
        head = messages[:1] if messages[0]["role"] == "system" else []
        turns = messages[len(head) :]
        exchanges = [turns[i : i + 2] for i in range(0, len(turns) - 1, 2)]
        if len(exchanges) <= RETRIEVED:
            return messages
        texts = [f"{user['content']} {parse_action(assistant['content']).reply}" for user, assistant in exchanges]
        vectors = self._encode([*texts, turns[-1]["content"]])
        nearest = sorted(np.argsort(-(vectors[:-1] @ vectors[-1]), kind="stable")[:RETRIEVED].tolist())
        return [*head, *(message for i in nearest for message in exchanges[i]), turns[-1]]
