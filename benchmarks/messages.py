"""Cost of messages: making, hashing, joining and splitting them, and dialogs that grow."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from benchmarks.measure import Plan, Side, Table, main
from miniagents import InteractionContext, Message, MessagePromise, MiniAgents, join_messages, miniagent, split_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

TEXT = "A sentence of a message, as they are. " * 27
"""About one kilobyte."""
METADATA: dict[str, Any] = {"a": 1, "b": "two", "c": 3.0}


class FrozenModel(BaseModel):
    """Model that pydantic freezes: its fields, but not the containers in them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    content: str | None = None
    role: str | None = None


def times(count: int, work: Callable[[], object]) -> Side:
    """Return a side that does the work `count` times."""

    async def side() -> None:
        for _ in range(count):
            work()

    return side


def _model() -> FrozenModel:
    """Return a frozen pydantic model with three metadata fields."""
    return FrozenModel(content="hello", role="user", **METADATA)


def _message() -> Message:
    """Return a message with the fields of `_model`."""
    return Message("hello", role="user", **METADATA)


def _json_digest(fields: dict[str, Any]) -> str:
    """Return the SHA-256 of the fields as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _message_digest(fields: dict[str, Any]) -> str:
    """Make a message of the fields, and return its hash key."""
    return Message(**fields).hash_key


def _nested(nodes: int) -> dict[str, Any]:
    """Return fields with about `nodes` dicts and lists in them."""
    return {"parts": [{"type": "text", "n": n} for n in range(nodes // 2)], "more": [[n] for n in range(nodes // 2)]}


async def tokens_of(count: int) -> AsyncIterator[str]:
    """Yield tokens of four characters; a blank line ends each paragraph of 50 tokens."""
    for number in range(count):
        yield "wor\n" if number % 50 == 48 else "\nwor" if number % 50 == 49 else "word"


async def _bare(count: int) -> None:
    """Read `count` tokens, and drop them."""
    async for _ in tokens_of(count):
        pass


def _streamed(count: int) -> MessagePromise:
    """Return a message promise that streams `count` tokens."""
    return Message.promise(message_token_streamer=lambda _: tokens_of(count))


async def join(count: int) -> None:
    """Join two streamed messages of `count` tokens together, and read the result."""
    halves = [_streamed(count // 2), _streamed(count - count // 2)]
    async for _ in join_messages(halves, reference_original_messages=False):
        pass


async def split(count: int) -> None:
    """Split a streamed message of `count` tokens, and read all parts."""
    async for part in split_messages(_streamed(count)):
        async for _ in part:
            pass


def _side(work: Any, count: int) -> Side:
    """Return a side that does async work of one size."""

    async def side() -> None:
        await work(count)

    return side


def look_at(history: Iterable[Message], turn: int) -> Message:
    """Compute the key of each message of the history, as a store does, and return an answer."""
    for message in history:
        assert message.hash_key
    return Message(f"Answer {turn} to what was said before")


@miniagent
async def answer(ctx: InteractionContext, turn: int) -> None:
    """Look at the whole history, and reply an answer."""
    ctx.reply(look_at(await ctx.message_promises, turn))


async def dialog(turns: int) -> None:
    """Run a dialog in which the agent is sent the whole history in each turn."""
    history: list[Message] = []
    for turn in range(turns):
        history.append(Message(f"Question {turn}", role="user"))
        history.extend(await answer.trigger(history, turn=turn))


async def dialog_without_agents(turns: int) -> None:
    """Run the same dialog with a function in place of the agent."""
    history: list[Message] = []
    for turn in range(turns):
        history.append(Message(f"Question {turn}", role="user"))
        history.append(look_at(history, turn))


async def benchmark(plan: Plan) -> Table:
    """Measure making, freezing, hashing, joining and splitting messages, and dialogs."""
    table = Table("Messages, join and split")
    size = plan.sized(5_000)
    base, ours = times(size, _model), times(size, _message)
    name = "a message with three metadata fields"
    await table.compare(name, base, ours, plan, units=size, unit="us each", base_name="frozen pydantic model", goal=2)
    fields = {"content": TEXT, "role": "user"}
    base, ours = times(size, lambda: _json_digest(fields)), times(size, lambda: _message_digest(fields))
    name = "a message of 1 KB and its hash_key"
    await table.compare(name, base, ours, plan, units=size, unit="us each", base_name="json.dumps + sha256", goal=2.5)
    nodes = plan.sized(1_000)
    await _freezing(table, plan, nodes)
    async with MiniAgents():
        await _text(table, plan)
        name = "a dialog with its whole history"
        await _growth(table, plan, f"{name}, 400 turns against 200", dialog, 200)
        await _growth(
            table, plan, f"{name} and no agents, 400 turns against 200", dialog_without_agents, 200, goal=None
        )
    return table


async def _freezing(table: Table, plan: Plan, nodes: int) -> None:
    """Compare messages of nested containers with `deepcopy`, and with a digest of their JSON."""
    fields = _nested(nodes)
    base, ours = times(10, lambda: deepcopy(fields)), times(10, lambda: Message(**fields))
    name = "a message of nested containers (goal: <= 1 us a node)"
    await table.compare(name, base, ours, plan, units=10 * nodes, unit="us a node", base_name="deepcopy")
    base, ours = times(10, lambda: _json_digest(fields)), times(10, lambda: _message_digest(fields))
    name, unit = "a message of nested containers and its hash_key", "us a node"
    await table.compare(name, base, ours, plan, units=10 * nodes, unit=unit, base_name="json.dumps + sha256", goal=2.5)


async def _text(table: Table, plan: Plan) -> None:
    """Compare join and split with reading the tokens alone, and at twice the size."""
    size = plan.sized(200_000)
    for name, work, goal in (("join", join, 5), ("split", split, 8)):
        await table.compare(f"{name}, a token", _side(_bare, size), _side(work, size), plan, units=size, goal=goal)
    for name, work in (("join", join), ("split", split)):
        await _growth(table, plan, f"{name}, 10 MB against 5 MB", work, 1_250_000)


async def _growth(table: Table, plan: Plan, name: str, work: Any, count: int, *, goal: float | None = 2.3) -> None:
    """Compare the work at a size with the work at twice that size."""
    size = plan.sized(count)
    unit, base_name = "us in all", f"{count:,}"
    sides = _side(work, size), _side(work, 2 * size)
    await table.compare(name, *sides, plan, units=1, unit=unit, base_name=base_name, goal=goal)


if __name__ == "__main__":
    main(benchmark)
