"""Cost of streams, calls and messages as programs use them: short, paced, on demand, and on their way out of a process.

Both sides of a row do the same: `gather` beside `gather`, a stream for several readers beside a list and a future.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

from benchmarks.bare import consume, generator, tokens_of
from benchmarks.calls import HELLO, agent_call, compare_calls
from benchmarks.floors import token_by_token
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.messages import FrozenModel, times
from benchmarks.tokens import LENGTH, ours, stream_again
from miniagents import InteractionContext, Message, MiniAgents, miniagent, split_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

METADATA: dict[str, Any] = {
    "parts": [{"type": "text", "n": n, "tags": ["a", f"t{n}"], "score": n * 1.5} for n in range(40)],
    "trace": {"id": "x" * 32, "steps": [{"name": f"step{n}", "ms": n} for n in range(20)]},
}
"""Three kilobytes of nested metadata."""
PART = "A part of forty-one characters of a text."


@miniagent
async def upper(ctx: InteractionContext) -> None:
    """Reply the text of the last message in upper case."""
    ctx.reply(str((await ctx.message_promises)[-1]).upper())


async def bare_upper(text: str) -> str:
    """Return the text in upper case."""
    return text.upper()


def _on_demand(count: int) -> Side:
    """Return a side that reads a message of `count` tokens which works on demand."""

    async def side() -> None:
        await consume(aiter(Message.promise(message_token_streamer=lambda _: tokens_of(count), start_soon=False)))

    return side


async def _calls(table: Table, plan: Plan) -> None:
    """Compare calls with tasks: many at once, one after the other, and with texts in and out."""
    await compare_calls(table, agent_call, plan)
    size = plan.sized(5_000)

    async def bare_texts() -> None:
        for _ in range(size):
            assert await asyncio.create_task(bare_upper("hello")) == "HELLO"

    async def texts() -> None:
        for _ in range(size):
            assert str((await upper.trigger("hello"))[-1]) == "HELLO"

    name = "calls one after the other, str in and str out"
    row: dict[str, Any] = {"unit": "us a call", "base_name": "bare task", "goal": 4}
    await table.compare(name, bare_texts, texts, plan, units=size, **row)


async def _streams(table: Table, plan: Plan) -> None:
    """Compare short streams, streams on demand, and streams that agents stream again, at the pace of the loop."""
    size = plan.sized(20_000)
    await table.compare("on demand", generator(size), _on_demand(size), plan, units=size, repeat=5, goal=5)
    sides = generator(20), ours(20)
    name = "an answer of 20 tokens through one agent"
    await table.compare(name, *sides, plan, units=1, unit="us an answer", repeat=2_000, goal=8)
    size, links = plan.sized(5_000), LENGTH - 1
    again = ours(size, *[stream_again] * links, paced=True)
    for base_name, side, goal in (
        ("a list and a future", token_by_token(size, paced=True, links=links), 1.15),
        ("10 generators", generator(size, paced=True, links=links), None),
    ):
        name = f"streamed again by each of 10, paced, beside {base_name}"
        await table.compare(name, side, again, plan, units=size, base_name=base_name, goal=goal)


async def _metadata(table: Table, plan: Plan) -> None:
    """Compare dumping and loading a message with dumping and loading a frozen pydantic model."""
    size = plan.sized(300)
    message, model = Message("hello", role="user", **METADATA), FrozenModel(content="hello", role="user", **METADATA)
    text, model_text = message.model_dump_json(), model.model_dump_json()
    row: dict[str, Any] = {"units": size, "unit": "us each", "base_name": "frozen pydantic model", "goal": 2}
    for name, base, work in (
        ("serialize()", model.model_dump, message.serialize),
        ("pickle", lambda: pickle.loads(pickle.dumps(model)), lambda: pickle.loads(pickle.dumps(message))),
        ("model_dump_json", model.model_dump_json, message.model_dump_json),
        (
            "model_validate_json",
            lambda: FrozenModel.model_validate_json(model_text),
            lambda: Message.model_validate_json(text),
        ),
    ):
        await table.compare(f"3 KB of metadata: {name}", times(size, base), times(size, work), plan, **row)


async def _splitting(table: Table, plan: Plan) -> None:
    """Compare parts of a text that streams in tokens of four characters with `str.split`."""
    size = plan.sized(2_000)
    text = "\n\n".join([PART] * size)

    async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
        for start in range(0, len(text), 4):
            yield text[start : start + 4]

    async def base() -> None:
        assert len(("".join([token async for token in stream({})])).split("\n\n")) == size

    async def parts() -> None:
        count = 0
        async for part in split_messages(Message.promise(message_token_streamer=stream)):
            count += 1
            await consume(aiter(part))
        assert count == size

    name = f"split, a part of {len(PART)} characters (goal: <= 10 us)"
    await table.compare(name, base, parts, plan, units=size, unit="us a part", base_name="str.split")


async def benchmark(plan: Plan) -> Table:
    """Measure calls, streams, metadata, and parts."""
    table = Table("What a user feels: streams, calls and messages")
    async with MiniAgents():
        assert (await agent_call(0)) == (HELLO,)
        await _streams(table, plan)
        await _calls(table, plan)
        await _splitting(table, plan)
    await _metadata(table, plan)
    return table


if __name__ == "__main__":
    main(benchmark)
