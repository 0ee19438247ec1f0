"""Sequences and streams beside plain models of them: whatever is sent, however it is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.messages import AssistantMessage, Message, MessageSequence, UserMessage
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from miniagents.messages import MessageSequencePromise

Plan = tuple[Any, ...]
"""What is to be sent, as data: the name of its kind and its parts. Each example builds it anew, in its own loop."""

texts = st.text(max_size=3)
leaves = st.one_of(
    st.tuples(st.sampled_from(["str", "message", "user", "dict", "promise", "stream", "broken stream"]), texts),
    st.tuples(st.sampled_from(["error", "wrong"]), texts),
)
containers = [
    "list",
    "tuple",
    "iterator",
    "async",
    "broken iterator",
    "broken async",
    "sequence",
    "agent",
    "failing agent",
]


def nested(children: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    """Containers of plans."""
    return st.tuples(st.sampled_from(containers), st.lists(children, max_size=4))


plans: st.SearchStrategy[Plan] = st.recursive(leaves, nested, max_leaves=12)


class Boom(Exception):  # noqa: N818 - what happens, in one word
    """What sources here fail with."""


def model(plan: Plan) -> list[str]:
    """The texts and the names of errors that `plan` comes to, in order."""
    kind, content = plan
    if kind in ("error", "broken stream"):
        return ["Boom"]
    if kind == "wrong":
        return ["TypeError"]
    if isinstance(content, str):
        return [content]
    flat = [text for child in content for text in model(child)]
    return [*flat, "Boom"] if kind.startswith(("broken", "failing")) else flat


def build(plan: Plan) -> Any:
    """The thing itself."""
    kind, content = plan
    return LEAVES[kind](content) if isinstance(content, str) else CONTAINERS[kind](content)


def stream(text: str, *, broken: bool = False) -> Any:
    """A message that comes letter by letter."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for letter in text:
            await asyncio.sleep(0)
            yield letter
        if broken:
            raise Boom

    return Message.promise(message_token_streamer=streamer)


def iterator(children: list[Plan], *, broken: bool = False) -> Iterator[Any]:
    """A generator."""
    for child in children:
        yield build(child)
    if broken:
        raise Boom


async def asynchronous(children: list[Plan], *, broken: bool = False) -> AsyncIterator[Any]:
    """An async generator."""
    for child in children:
        await asyncio.sleep(0)
        yield build(child)
    if broken:
        raise Boom


@miniagent
async def replier(ctx: InteractionContext, children: list[Plan], fail: bool) -> None:
    """Replies them one by one."""
    for child in children:
        try:
            ctx.reply(build(child))
        except TypeError as error:  # of a wrong type somewhere in it
            ctx.reply(error)
        await asyncio.sleep(0)
    if fail:
        raise Boom


def as_list(children: list[Plan]) -> Any:
    """A list, of which a wrong type is a part that comes later: at the call it would refuse the whole."""
    return [iter([build(child)]) if child[0] == "wrong" else build(child) for child in children]


LEAVES: dict[str, Callable[[str], Any]] = {
    "str": str,
    "message": Message,
    "user": UserMessage,
    "dict": lambda text: {"content": text, "k": 1},
    "promise": lambda text: AssistantMessage(text).as_promise,
    "stream": stream,
    "broken stream": lambda text: stream(text, broken=True),
    "error": lambda text: Boom(text),
    "wrong": lambda text: {text},
}
CONTAINERS: dict[str, Callable[[list[Plan]], Any]] = {
    "list": as_list,
    "tuple": lambda children: tuple(as_list(children)),
    "iterator": iterator,
    "async": asynchronous,
    "broken iterator": lambda children: iterator(children, broken=True),
    "broken async": lambda children: asynchronous(children, broken=True),
    "sequence": lambda children: MessageSequence.turn_into_sequence_promise(as_list(children)),
    "agent": lambda children: replier.trigger(children=children, fail=False),
    "failing agent": lambda children: replier.trigger(children=children, fail=True),
}


async def read(sequence: MessageSequencePromise, *, by_token: bool) -> list[str]:
    """What a reader sees: the texts, and the names of errors in their places."""
    result = []
    async for promise in sequence:
        try:
            if by_token:
                result.append("".join([token async for token in promise]))
            else:
                result.append(str(await promise))
        except (Boom, TypeError) as error:
            result.append(type(error).__name__)
    return result


@given(st.lists(plans, max_size=4), st.booleans())
def test_any_nesting_flattens_to_what_a_plain_model_says(children: list[Plan], start_soon: bool) -> None:
    """Read message by message, token by token, at the same time and again; awaiting raises the first error in order."""

    async def main() -> None:
        async with MiniAgents(start_everything_soon_by_default=start_soon, unobserved_errors="log"):
            sequence = MessageSequence.turn_into_sequence_promise(as_list(children))
            expected = model(("list", children))
            readers = [read(sequence, by_token=by_token) for by_token in (False, True)]
            assert await asyncio.gather(*readers) == [expected, expected]
            assert await read(sequence, by_token=True) == expected
            errors = [text for text in expected if text in ("Boom", "TypeError")]
            if errors:
                with pytest.raises({"Boom": Boom, "TypeError": TypeError}[errors[0]]):
                    await sequence
            else:
                assert [str(message) for message in await sequence] == expected

    asyncio.run(main())


@given(st.lists(plans, max_size=4))
def test_out_of_order_loses_and_invents_nothing(children: list[Plan]) -> None:
    """The same messages and errors come, in some order."""

    async def main() -> None:
        async with MiniAgents(unobserved_errors="log"):
            with MessageSequence(capture_errors=True) as sequence:
                for child in children:
                    sequence.append_out_of_order(as_list([child]))
                raise Boom
            result = await read(sequence.sequence_promise, by_token=False)
            assert sorted(result) == sorted([*model(("list", children)), "Boom"])
            assert result[-1] == "Boom"

    asyncio.run(main())


readers = st.tuples(
    st.sampled_from(["read", "await", "read some", "cancelled", "timed out"]), st.integers(0, 10), st.integers(0, 10)
)


@given(
    st.lists(st.text(min_size=1, max_size=2), max_size=8),
    st.lists(readers, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_readers_of_a_message_get_what_a_plain_model_says(
    tokens: list[str], plan: list[tuple[str, int, int]], start_soon: bool, fail: bool
) -> None:
    """However many come at any time and leave in any way, each sees a prefix of the tokens, and then the end."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token
        if fail:
            raise Boom

    async def main() -> None:
        async with MiniAgents():
            promise = Message.promise(message_token_streamer=streamer, start_soon=start_soon)

            async def reader(how: str, pieces: int) -> None:
                seen: list[str] = []
                try:
                    if how == "await":
                        assert (await promise).content == "".join(tokens)
                        return
                    async with asyncio.timeout(0 if how == "timed out" else None):
                        async for token in promise:
                            seen.append(token)
                            if how == "read some" and len(seen) > pieces:
                                break
                        else:
                            assert not fail
                            assert seen == tokens
                except Boom:
                    assert fail
                    assert how == "await" or seen == tokens
                except TimeoutError:
                    assert how == "timed out"
                assert seen == tokens[: len(seen)]

            tasks = []
            for how, wait, pieces in plan:
                for _ in range(wait):
                    await asyncio.sleep(0)
                tasks.append(asyncio.create_task(reader(how, pieces)))
                if how == "cancelled":
                    for _ in range(pieces):
                        await asyncio.sleep(0)
                    tasks[-1].cancel()
            for task in tasks:
                try:
                    await task
                except asyncio.CancelledError:
                    assert task.cancelled()
            await reader("read", 0)
            await reader("await", 0)

    asyncio.run(main())
