"""The example `examples/research.py` once more, on OpenAI's SDK alone, with the same requests and the same output.

What is written by hand here: the schema of the tool, the loop that calls it, the pairs of calls and results, the tasks,
the schema of the verdict and its check, the history, the limits and the sums of tokens. What is left out, and the
example has: answers that stream to the reader, errors of tools that the model is told, wrong arguments, calls of an
answer that was cut, cancellation of what still runs, retries with a limit, usage of broken requests.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from miniagents_testing import use_cassette

CASSETTE = Path(__file__).parent.parent.parent / "cassettes" / "openai" / "research.yaml"
QUESTION = "Why do swifts hardly ever land?"
TOPICS = ["food", "wings", "sleep"]
ARTICLES = {
    "swift food": "Swifts catch insects and spiders in flight, and drink drops of rain.",
    "swift wings": "The wings are long and narrow, and save energy at high speed. The legs are very short.",
    "swift sleep": "Swifts climb to 2,500 m at dusk, and glide there with half of the brain asleep.",
    "swift nest": "Swifts land to breed: in holes high up in walls, from which they drop into flight.",
}


class Verdict(BaseModel):
    """What a critic says on notes."""

    missing: list[str] = Field(description="Topics to look into; empty if the notes answer the question.")


VERDICT_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "Verdict",
        "strict": True,
        "schema": {
            "title": "Verdict",
            "description": "What a critic says on notes.",
            "type": "object",
            "properties": {
                "missing": {
                    "description": "Topics to look into; empty if the notes answer the question.",
                    "type": "array",
                    "items": {"type": "string"},
                }
            },
            "required": ["missing"],
            "additionalProperties": False,
        },
    },
}
LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up an article of the encyclopedia, by two words.",
        "parameters": {
            "type": "object",
            "properties": {"words": {"type": "string"}},
            "required": ["words"],
            "additionalProperties": False,
        },
    },
}
MAX_ROUNDS = 10


async def look_up(words: str) -> str:
    """Look up an article of the encyclopedia, by two words."""
    return ARTICLES.get(words, "There is no such article.")


class Totals:
    """Numbers of requests and tokens, with a limit on the requests and on the tokens that are written."""

    def __init__(self) -> None:
        self.requests = self.read = self.written = 0
        self.most_requests, self.most_written = 10**9, 10**9

    def allow(self, requests: int, written: int) -> None:
        """Allow so many more requests and tokens from now on."""
        self.most_requests, self.most_written = self.requests + requests, self.written + written

    def begin(self) -> None:
        """Count a request, or raise an error at a limit."""
        if self.requests >= self.most_requests or self.written >= self.most_written:
            raise RuntimeError(f"a limit is reached after {self.requests} requests and {self.written} tokens")
        self.requests += 1

    def add(self, usage: Any) -> None:
        """Add the tokens of an answer."""
        self.read += usage.prompt_tokens
        self.written += usage.completion_tokens


async def ask(client: AsyncOpenAI, totals: Totals, messages: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """Send a request, and return the message that its stream makes."""
    totals.begin()
    stream: Any = await client.chat.completions.create(  # type: ignore[call-overload]  # dicts instead of its classes
        model="gpt-4o", messages=messages, stream=True, stream_options={"include_usage": True}, **settings
    )
    text, refusal, finish_reason = "", "", None
    calls: dict[int, dict[str, Any]] = {}
    async for chunk in stream:
        if chunk.usage is not None:
            totals.add(chunk.usage)
        for choice in chunk.choices:
            finish_reason = choice.finish_reason or finish_reason
            text += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            for piece in choice.delta.tool_calls or ():
                function = {"name": "", "arguments": ""}
                call = calls.setdefault(piece.index, {"id": piece.id, "type": "function", "function": function})
                call["function"]["name"] += piece.function.name or ""
                call["function"]["arguments"] += piece.function.arguments or ""
    if finish_reason not in ("stop", "tool_calls") or refusal:
        raise RuntimeError(f"the answer ended with {finish_reason}: {refusal or text}")
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


async def run_call(call: dict[str, Any]) -> dict[str, Any]:
    """Run a call of a tool, and return the message with its result."""
    function = call["function"]
    result = await {"look_up": look_up}[function["name"]](**json.loads(function["arguments"]))
    return {"role": "tool", "content": result, "tool_call_id": call["id"], "name": function["name"]}


async def research(client: AsyncOpenAI, totals: Totals, history: list[dict[str, Any]], topic: str) -> dict[str, Any]:
    """Let a model look into a topic with its tool, and return its final answer."""
    system = {"role": "system", "content": "Look it up. Then one sentence."}
    messages = [system, *history, {"role": "user", "content": f"Topic: {topic}"}]
    for _ in range(MAX_ROUNDS):
        answer = await ask(client, totals, messages, tools=[LOOK_UP])
        messages.append(answer)
        if "tool_calls" not in answer:
            return answer
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run_call(call)) for call in answer["tool_calls"]]
        messages += [task.result() for task in tasks]
    raise RuntimeError(f"the model goes on after {MAX_ROUNDS} rounds")


async def amain(client: AsyncOpenAI) -> None:
    """Let team and critic take turns, and print notes and verdicts."""
    totals = Totals()
    history: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    topics = TOPICS
    while topics:
        totals.allow(requests=10, written=2_000)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(research(client, totals, history, topic)) for topic in topics]
        for task in tasks:
            print(task.result()["content"])
            history.append(task.result())
        system = {"role": "system", "content": "You check notes."}
        question = {"role": "user", "content": "What is missing?"}
        answer = await ask(client, totals, [system, *history, question], response_format=VERDICT_SCHEMA)
        topics = Verdict.model_validate_json(answer["content"]).missing
        print(f"[missing: {', '.join(topics) or 'nothing'}]")
    print(f"{totals.requests} requests, {totals.read} tokens read, {totals.written} written.")


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1):
        asyncio.run(amain(AsyncOpenAI(api_key="not needed")))
