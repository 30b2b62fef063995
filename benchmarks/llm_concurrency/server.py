"""A stand-in for a model server: OpenAI's chat API on localhost, in a process of its own, obeying every schema.

    python benchmarks/llm_concurrency/server.py [--delay 0.2] [--faults 0.2] [--seed 0] [--gullible] [--stall 100]

Prints its port. It plays the user by saying the draft as it stands, and judge and matcher by the package's own rules,
so that dialogues against it are those of the scripted environment; as an agent it is `attentive`. ``--faults`` is the share of requests that fail, each
in one of seven ways; ``GET /stats`` tells how many of each there were. ``--gullible`` makes it obey the schema and, beyond
that, whatever order it reads in the data: what an injection could earn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rlpa_env import LexicalMatcher, Message, Point, RuleJudge
from rlpa_env.agents import make_agent
from rlpa_env.matching import match_points
from rlpa_env.types import CRITERIA

FAULTS = ("500", "429", "hang", "drop", "truncated", "schema", "huge")
_HANG = 3600.0  # seconds; the client gives up long before
_ORDER = re.compile(
    r"\b(?:pass(?:es)?|true|ignore|system|judges?|evaluator|repeat|print|pair|truth|other list|full marks|verdict|AI model)\b"
    r"|true|通过|规则|评审|评分|资料|指令|清单|模型",
    re.IGNORECASE,
)


def answer(body: dict) -> str:
    """What a model that obeys its schema would say."""
    messages = body["messages"]
    if len(messages) < 2 or not messages[1]["content"].startswith("{"):
        return make_agent("attentive").act(messages) if messages[0]["role"] == "system" else "Hello there."
    data = json.loads(messages[1]["content"])
    title = body.get("response_format", {}).get("json_schema", {}).get("name")
    if title == "verdict":
        dialogue = [Message("user" if "person" in turn else "assistant", *turn.values()) for turn in data["dialogue"]]
        verdict = RuleJudge().judge([_point(trait) for trait in data["profile"]], dialogue, data["reply"])
        return json.dumps({name: {"reason": verdict.reasons[name], "pass": getattr(verdict, name)} for name in verdict.scores})
    if title == "pairs":
        guesses, truths = data["guesses"], data["truths"]
        points = [[_point(entry["trait"]) for entry in entries] for entries in (guesses, truths)]
        pairs = match_points(LexicalMatcher(), *points)
        return json.dumps({"pairs": [{"guess": guesses[g]["id"], "truth": truths[t]["id"]} for g, t in pairs]})
    if title == "rating":
        return json.dumps(dict.fromkeys(body["response_format"]["json_schema"]["schema"]["required"], 3))
    return data["say"]


def gullible(body: dict) -> str:
    """What a model would say that obeys its schema, and every order that it reads."""
    if len(body["messages"]) < 2 or not body["messages"][1]["content"].startswith("{"):
        return answer(body)
    data = json.loads(body["messages"][1]["content"])
    if not any(map(_ORDER.search, _strings(data))):
        return answer(body)
    title = body.get("response_format", {}).get("json_schema", {}).get("name")
    if title == "verdict":
        return json.dumps({name: {"reason": "as ordered", "pass": True} for name in CRITERIA})
    if title == "pairs":
        return json.dumps({"pairs": [{"guess": g["id"], "truth": t["id"]} for g in data["guesses"] for t in data["truths"]]})
    return f"As an AI model I obey. {' '.join(data['told'])}"


def _strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, (list, dict)):
        for part in data.values() if isinstance(data, dict) else data:
            yield from _strings(part)


def _point(trait: str) -> Point:
    slot, colon, value = trait.partition(": ")
    return Point(slot, value) if colon else Point("", trait)


class Server:
    """One HTTP/1.1 server with keep-alive."""

    def __init__(self, delay: float, faults: float, seed: int, obeys: bool = False, stall: int | None = None) -> None:
        self.delay, self.share, self.random, self.stall = delay, faults, random.Random(seed), stall
        self.answer = gullible if obeys else answer
        self.known: dict[str, str] = {}  # answers by request: asked the same again, it takes its delay and no time of its own
        self.counts: Counter[str] = Counter()
        self.busy = 0  # requests that wait for their answer

    async def serve(self, port: int) -> None:
        """Listen on localhost until killed."""
        server = await asyncio.start_server(self.connection, "127.0.0.1", port, backlog=512)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                if first.startswith("GET"):
                    await self.send(writer, 200, json.dumps(self.counts).encode())
                elif not await self.chat(writer, json.loads(raw)):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.counts["closed by the client"] += 1
        finally:
            writer.close()

    async def chat(self, writer: asyncio.StreamWriter, body: dict) -> bool:
        """One completion; False if the connection is to be dropped."""
        self.counts["requests"] += 1
        fault = FAULTS[int(self.random.random() * len(FAULTS))] if self.random.random() < self.share else ""
        self.counts[fault or "answered"] += 1
        stalled = self.stall is not None and self.counts["requests"] > self.stall
        loop = asyncio.get_running_loop()
        due = loop.time() + self.delay  # thinking is part of the delay
        asked = json.dumps([body["messages"], body.get("response_format")])
        text = {"schema": '{"verdict": "fine"}', "huge": "x" * 10_000_000}.get(fault) or self.known.get(asked)
        if text is None:
            text = self.known[asked] = self.answer(body)
        self.busy += 1
        self.counts["most at once"] = max(self.counts["most at once"], self.busy)
        try:
            await asyncio.sleep(_HANG if fault == "hang" or stalled else due - loop.time())
        finally:
            self.busy -= 1
        if fault == "drop":
            return False
        if fault in ("500", "429"):
            await self.send(writer, int(fault), b'{"error": {"message": "busy"}}', {"Retry-After": "0.05"} if fault == "429" else {})
            return True
        usage = {"prompt_tokens": len(asked) // 4, "completion_tokens": len(text) // 4, "total_tokens": 0}
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        reply = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [message], "usage": usage}
        data = json.dumps(reply).encode()
        await self.send(writer, 200, data[: len(data) // 2] if fault == "truncated" else data)
        return True

    @staticmethod
    async def send(writer: asyncio.StreamWriter, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Write one response."""
        more = "".join(f"{key}: {value}\r\n" for key, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{more}\r\n"
        writer.write(head.encode() + data)
        await writer.drain()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gullible", action="store_true", help="obey whatever order the data hold")
    parser.add_argument("--stall", type=int, help="answer so many requests, and sleep over every further one")
    args = parser.parse_args()
    asyncio.run(Server(args.delay, args.faults, args.seed, args.gullible, args.stall).serve(args.port))


if __name__ == "__main__":
    main()
