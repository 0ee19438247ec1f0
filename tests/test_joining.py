"""Joining messages while they stream (laws 41 and 44)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from common import streamed
from hypothesis import given
from hypothesis import strategies as st

from miniagents import (
    AssistantMessage,
    InteractionContext,
    Message,
    MessageSequence,
    MiniAgents,
    ToolCall,
    Usage,
    join_messages,
    miniagent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_join_passes_tokens_on_unchanged() -> None:
    """A joined message streams the tokens of its messages unchanged, and the delimiter as a token between two."""
    async with MiniAgents():
        joined = join_messages([streamed("a", "b"), streamed("c")], "--")
        assert [token async for token in joined] == ["a", "b", "--", "c"]
        assert (await joined).content == "ab--c"


async def test_join_streams_before_later_messages_exist() -> None:
    """A joined message streams its first message while the second has not been sent yet."""
    async with MiniAgents():
        second = asyncio.Event()

        async def messages() -> AsyncIterator[Any]:
            yield streamed("a", "b")
            await second.wait()
            yield "c"

        tokens = aiter(join_messages(messages(), "-"))
        assert [await anext(tokens), await anext(tokens)] == ["a", "b"]
        second.set()
        assert [await anext(tokens), await anext(tokens)] == ["-", "c"]


@pytest.mark.parametrize(
    ("messages", "delimiter", "text"),
    [
        ([], "-", ""),
        (None, "-", ""),
        ("a", "-", "a"),
        (["a", "b"], None, "ab"),
        (["a", "b"], "", "ab"),
        (["a", "", "b"], "-", "a--b"),
        (["", "a"], "-", "-a"),
        (["a", ["b", ["c"]]], "-", "a-b-c"),
    ],
)
async def test_join_gives_the_text_of_str_join(messages: Any, delimiter: str | None, text: str) -> None:
    """`join_messages` gives the text of `str.join`: empty messages count, and nested ones are flattened."""
    async with MiniAgents():
        assert (await join_messages(messages, delimiter)).content == text


async def test_join_strips_leading_newlines_when_asked() -> None:
    """`strip_leading_newlines` drops newlines at the start of each message, even as tokens of their own."""
    async with MiniAgents():
        joined = join_messages(
            [streamed("\n", "\n\na\n", "\nb"), "\r\nc", streamed("\n")], "-", strip_leading_newlines=True
        )
        assert (await joined).content == "a\n\nb-c-"


async def test_join_merges_metadata() -> None:
    """Fields of later messages replace those of earlier ones, and keywords replace both and are known beforehand."""
    async with MiniAgents():
        joined = join_messages(
            [Message("a", role="user", x=1, y=1), Message("b", x=2, z=3)], reference_original_messages=False, z=4
        )
        assert joined.known_beforehand == {"z": 4}
        assert await joined == Message("a\n\nb", role="user", x=2, y=1, z=4)


async def test_join_drops_the_fields_of_one_answer() -> None:
    """Id, model, finish reason, usage and tool calls of one answer are not fields of the joined message."""
    answer = AssistantMessage(
        "a",
        id="1",
        model="m",
        finish_reason="stop",
        usage=Usage(),
        tool_calls=(ToolCall(id="c", name="f"),),
        mood="calm",
    )
    async with MiniAgents():
        joined = await join_messages([answer, Message("b", finish_reason="stop", usage={"input_tokens": 1})])
        fields = dict(joined)
        assert fields.pop("original_messages")[0] == answer
        assert fields == {"content": "a\n\nb", "role": "assistant", "mood": "calm"}


async def test_joined_message_references_the_original_messages() -> None:
    """`original_messages` holds the joined messages, unless the caller switches it off."""
    messages = (Message("a", x=1), Message(y=2), Message("c"))
    async with MiniAgents():
        joined = await join_messages(messages)
        assert joined.original_messages == messages
        assert "original_messages" not in dict(await join_messages(messages, reference_original_messages=False))


async def test_join_raises_an_error_after_the_tokens_before_it() -> None:
    """If a joined message fails, readers get all tokens before the failure, and then the failed message's error."""
    async with MiniAgents():
        joined = join_messages([streamed("a"), streamed("b", error=ValueError("broken")), "c"], "-")
        tokens = []
        with pytest.raises(ValueError, match="broken"):
            async for token in joined:
                tokens.append(token)
        assert tokens == ["a", "-", "b"]


@pytest.mark.parametrize("waits", [(0, 0), (1, 0), (0, 1)])
async def test_first_error_of_a_join_handles_the_others(waits: tuple[int, int]) -> None:
    """The context raises no error of joined messages; those before the join's end become notes of the first error."""

    @miniagent
    async def fail(ctx: InteractionContext, name: str, steps: int) -> None:
        for _ in range(10 * steps):
            await asyncio.sleep(0)
        raise ValueError(name)

    async with MiniAgents():
        calls = [fail.trigger(name=name, steps=steps) for name, steps in zip("ab", waits, strict=True)]
        message = streamed(error=ValueError("c"))
        joined = join_messages([calls, message])
        del calls, message
        with pytest.raises(ValueError, match="a") as caught:
            await joined
    assert ("Another message of the sequence failed as well: ValueError('b')" in caught.value.__notes__) == (
        not waits[1]
    )


async def test_as_single_text_promise_joins_when_it_is_read() -> None:
    """`as_single_text_promise` joins texts with the given separator and fields, and starts with its first reader."""
    async with MiniAgents():
        text = MessageSequence.turn_into_sequence_promise(["a", "b"]).as_single_text_promise("-", mood="calm")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not text.is_done
        assert await text == Message("a-b", mood="calm", original_messages=(Message("a"), Message("b")))


async def test_join_refuses_values_that_cannot_be_sent() -> None:
    """A value that cannot be sent is a `TypeError` at the call."""
    async with MiniAgents():
        with pytest.raises(TypeError, match="Cannot send"):
            join_messages(["a", 1])  # type: ignore[list-item]  # that is the mistake


@given(st.lists(st.lists(st.text(max_size=5), max_size=4), max_size=6), st.sampled_from(["", "-", "\n\n", None]))
def test_join_gives_the_same_text_for_any_tokens(messages: list[list[str]], delimiter: str | None) -> None:
    """However the messages are cut into tokens, the tokens of the result make up the joined text."""

    async def main() -> None:
        async with MiniAgents():
            joined = join_messages([streamed(*tokens) for tokens in messages], delimiter)
            text = (delimiter or "").join("".join(tokens) for tokens in messages)
            assert "".join([token async for token in joined]) == text == (await joined).content

    asyncio.run(main())
