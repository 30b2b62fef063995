"""The paper's prompting baselines on a policy of our own: `rlpa_env.prompting` says what is asked, the policy answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlpa_agent.chat import Chat
from rlpa_agent.evaluate import PolicyAgent
from rlpa_env.clients import ChatConfig
from rlpa_env.encoders import MINILM
from rlpa_env.errors import ContextError
from rlpa_env.prompting import Encoder, PromptingAgent

Messages = Sequence[Mapping[str, str]]


class _Asked:
    """Takes the place of a client: what it is asked is answered by whoever drives the flow."""

    def __init__(self, language: str) -> None:
        self.config = ChatConfig(language=language)

    def begin(self, messages: Messages) -> Any:
        """The question itself, as it is now: the flow adds to its list later."""
        return [dict(message) for message in messages]


class _Completion(str):
    """A completion that knows the tokens of all the answers behind it: two of a batch may be equal and have cost different ones."""

    tokens = 0


class PromptedPolicy:
    """Implements ``act`` and ``act_batch`` of the Agent protocol with a policy that is prompted.

    Args:
        agent: the policy with its sampling. Its ``max_new_tokens`` bounds every answer, thoughts (cot) included. Not changed.
        method: one of `rlpa_env.prompting.METHODS`.
        encoder: of rag, see `PromptingAgent`.
        language: of the prompts.
    """

    def __init__(self, agent: PolicyAgent, method: str = "base", encoder: Encoder | str = MINILM, language: str = "en") -> None:
        self._prompting = PromptingAgent(_Asked(language), method, encoder)
        chat = agent.chat
        if method != "base":
            # The examples of cot stand in the system message, which a constant one would replace; and what is asked with a
            # user's message must not be cut with it; nor may the drafts and exchanges that are shown again be left out.
            kept = None if method in ("self-critic", "rag") else chat.kept
            chat = Chat(chat.tokenizer, None if method == "cot" else chat.system_prompt, None, kept)
        self._agent = PolicyAgent(
            agent.policy, temperature=agent.temperature, seed=agent.seed, max_new_tokens=agent.max_new_tokens, chat=chat
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """The policy's, and the method with the language of its prompts."""
        prompting = self._prompting.identity
        more = {"encoder": prompting["encoder"]} if "encoder" in prompting else {}
        return {**self._agent.identity, "method": prompting["method"], "language": self._prompting.client.config.language, **more}

    def act(self, messages: Messages) -> str:
        """One completion for a dialogue that ends with a user message."""
        answer = self.act_batch([messages])[0]
        if isinstance(answer, ContextError):
            raise answer
        return answer

    def act_batch(self, batch: Sequence[Messages], streams: Sequence[int] | None = None) -> list[str | ContextError]:
        """Completions for several dialogues; each of a method's calls is decoded for all of them together.

        A ContextError is in the place of one that the context had no room for, in whatever call of it. ``streams``: see `PolicyAgent`.
        """
        flows = [self._prompting.act_flow(messages) for messages in batch]
        asked: dict[int, Any] = {i: next(flow) for i, flow in enumerate(flows)}
        texts: list[str | ContextError] = [""] * len(flows)
        spent, call = [0] * len(flows), 0
        while asked:
            # A draft and its critique are two draws of one turn.
            named = None if streams is None else [streams[i] + (call << 64) for i in asked]
            answers, call = self._agent.act_batch(list(asked.values()), named), call + 1
            for i, answer in zip(list(asked), answers, strict=True):
                if isinstance(answer, ContextError):
                    texts[i] = answer
                    del asked[i]
                    continue
                spent[i] += self._agent.count_tokens(answer)
                try:
                    asked[i] = flows[i].send(answer)
                except StopIteration as stop:
                    texts[i] = completion = _Completion(stop.value)
                    completion.tokens = spent[i]
                    del asked[i]
        return texts

    def count_tokens(self, text: str) -> int:
        """Tokens of a text; of what `act` and `act_batch` returned with the thoughts, drafts and critiques that led to it."""
        return text.tokens if isinstance(text, _Completion) else self._agent.count_tokens(text)
