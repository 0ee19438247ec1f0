"""A tool loop and an answer of a type on OpenAI's SDK alone, with which `benchmarks.acting` compares."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from benchmarks.measure import Side

WORDS = 100
"""Words of the final answer."""
CITIES = ("Oslo", "Palermo", "Rome")
QUESTION: Any = {"role": "user", "content": "Where is it dry?"}


class City(BaseModel):
    """A city in a forecast."""

    name: str
    days: list[int]


class Forecast(BaseModel):
    """A forecast for some cities."""

    title: str
    cities: list[City]


FORECAST = Forecast(title="dry", cities=[City(name=f"city {number}", days=[1, 2, 3]) for number in range(12)])


async def get_weather(city: str, days: int = 1) -> dict[str, Any]:
    """The weather of a city, for the next days."""
    return {"city": city, "dry": city != "Oslo", "days": days}


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, for the next days.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


async def read_answer(stream: Any) -> tuple[dict[str, Any], int]:
    """Return the message that a stream makes, and the number of its words."""
    text, words = "", 0
    calls: dict[int, dict[str, Any]] = {}
    async for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                text += choice.delta.content
                words += 1
            for piece in choice.delta.tool_calls or ():
                function = {"name": "", "arguments": ""}
                call = calls.setdefault(piece.index, {"id": piece.id, "type": "function", "function": function})
                call["function"]["name"] += piece.function.name or ""
                call["function"]["arguments"] += piece.function.arguments or ""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    return ({**message, "tool_calls": [*calls.values()]} if calls else message), words


def tools(client: AsyncOpenAI) -> Side:
    """Return a side that answers a question with a tool: two requests, three calls at once."""

    async def run(call: dict[str, Any]) -> dict[str, Any]:
        result = await get_weather(**json.loads(call["function"]["arguments"]))
        return {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}

    async def side() -> None:
        messages = [QUESTION]
        for _ in range(10):
            stream: Any = await client.chat.completions.create(
                model="gpt-4o",
                messages=messages,
                tools=[TOOL],
                stream=True,
                stream_options={"include_usage": True},
            )
            answer, words = await read_answer(stream)
            messages.append(answer)
            if "tool_calls" not in answer:
                break
            messages += await asyncio.gather(*(run(call) for call in answer["tool_calls"]))
        assert (words, len(messages)) == (WORDS, 6)

    return side


def output(client: AsyncOpenAI) -> Side:
    """Return a side that asks for an answer of a type."""
    from openai.lib._parsing import type_to_response_format_param

    form: Any = type_to_response_format_param(Forecast)

    async def side() -> None:
        stream: Any = await client.chat.completions.create(
            model="gpt-4o",
            messages=[QUESTION],
            response_format=form,
            stream=True,
            stream_options={"include_usage": True},
        )
        answer, _ = await read_answer(stream)
        assert Forecast.model_validate_json(answer["content"]) == FORECAST

    return side
