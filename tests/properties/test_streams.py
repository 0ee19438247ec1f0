"""Laws 8 to 13 and 29 as properties: the pieces of a stream make its result, and each reader gets the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import Message, MiniAgents, StreamedPromise
from miniagents_testing import ScriptedLLM, strategies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents_testing._wire.dialects import ProviderStream

TOKENS = strategies.token_splits(strategies.texts())
WAITS = st.lists(st.integers(0, 3), max_size=8)


@given(TOKENS, WAITS, strategies.cancellation_points(max_steps=12), st.booleans())
async def test_message_has_the_same_tokens_for_each_reader_when_one_is_cancelled(
    tokens: list[str], waits: list[int], cancelled_after: int, start_soon: bool
) -> None:
    """A reader gets all tokens, even if another is cancelled at any step; so does a reader after the end."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        metadata["told"] = "later"
        for number, token in enumerate(tokens):
            for _ in range(waits[number] if number < len(waits) else 0):
                await asyncio.sleep(0)
            yield token

    async def read() -> list[str]:
        return [token async for token in promise]

    async with MiniAgents():
        promise = Message.promise(message_token_streamer=streamer, start_soon=start_soon, known="before")
        leaves = asyncio.create_task(read())
        stays = asyncio.create_task(read())
        for _ in range(cancelled_after):
            await asyncio.sleep(0)
        leaves.cancel()
        first = await stays
        assert first == tokens
        assert await promise == Message("".join(tokens), known="before", told="later")
        assert await read() == first
        batches = [batch async for batch in promise.batches()]
        assert [token for batch in batches for token in batch] == first
        await asyncio.gather(leaves, return_exceptions=True)


class Failed(Exception):  # noqa: N818 - a short name
    """Error of the source of a stream."""


@given(st.lists(strategies.leaves(), max_size=6), st.booleans())
async def test_stream_of_any_pieces_replays_with_its_error(pieces: list[Any], fails: bool) -> None:
    """Each reader of a stream of any values gets all of them, and then the source's error if there is one."""

    async def source() -> AsyncIterator[Any]:
        for piece in pieces:
            yield piece
        if fails:
            raise Failed

    async def read(promise: StreamedPromise[Any, Any]) -> list[Any]:
        seen: list[Any] = []
        try:
            async for piece in promise:
                seen.append(piece)
        except Failed:
            seen.append(Failed)
        return seen

    async with MiniAgents():
        promise = StreamedPromise(source)
        expected = [*map(repr, pieces), *([repr(Failed)] if fails else [])]
        for _ in range(2):
            assert [repr(piece) for piece in await read(promise)] == expected
        if fails:
            with pytest.raises(Failed):
                await promise
        else:
            assert [repr(piece) for piece in await promise] == expected


STREAMS = strategies.provider_streams()


@given(STREAMS, st.data())
async def test_agent_replies_the_answer_of_the_provider_wherever_it_was_cut(
    stream: ProviderStream, data: st.DataObject
) -> None:
    """An agent's tokens and message have the whole answer of a provider's stream that is cut anywhere."""
    recut = data.draw(strategies.recuts(stream.response))
    async with MiniAgents():
        async for promise in ScriptedLLM(lambda call: recut).agent(api=stream.api).trigger("Hi"):
            tokens = [token async for token in promise]
            message = await promise
    assert stream.differences(message) == []
    assert "".join(tokens) == message.content
