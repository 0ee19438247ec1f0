"""Splitting messages while they stream; a fence such as three backticks encloses a block of code (laws 42-44)."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miniagents import AssistantMessage, Message, MessagePromise, MiniAgents, join_messages, split_messages
from miniagents.messages._text import SEPARATOR, TEXT, TextSplitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def streamed(*tokens: str, error: Exception | None = None) -> MessagePromise:
    """Return a message promise that streams one of these tokens in each loop step."""

    async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token
        if error is not None:
            raise error

    return Message.promise(message_token_streamer=stream, role="assistant")


async def contents(messages: Any, *arguments: Any, **keywords: Any) -> list[Any]:
    """Return the texts of the parts that `split_messages` yields."""
    return [part.content for part in await split_messages(messages, *arguments, **keywords)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\n\nb", ["a", "b"]),
        ("a\n\n\nb", ["a", "\nb"]),
        ("\n\na\n\n\n\nb\n\n", ["a", "b"]),
        ("", []),
        ("\n\n", []),
        ("a\n```\nx\n\ny\n```\nb", ["a", "```\nx\n\ny\n```", "b"]),
        ("```py\nx\n\ny\n```", ["```py\nx\n\ny\n```"]),
        ("````\n```\n\n```\n````\n\nb", ["````\n```\n\n```\n````", "b"]),
        ("```\nx\n`````\nb", ["```\nx\n`````", "b"]),
        ("a\n```\nx\n\ny", ["a", "```\nx\n\ny"]),
        ("a ```\n\nb\n``\n\nc", ["a ```", "b\n``", "c"]),
    ],
)
async def test_split_cuts_at_delimiters_outside_of_code_blocks(text: str, parts: list[str]) -> None:
    """A code block is a part of its own; empty parts are dropped; a block that is not closed reaches to the end."""
    async with MiniAgents():
        assert await contents(text) == parts


async def test_split_ignores_fences_without_a_code_block_delimiter() -> None:
    """Without a code block delimiter, fences are text like any other."""
    async with MiniAgents():
        assert await contents("```\na\n\nb\n```", code_block_delimiter=None) == ["```\na", "b\n```"]


async def test_split_never_joins_two_messages() -> None:
    """A part of a split belongs to one message, and an open code block ends with its message."""
    async with MiniAgents():
        assert await contents(["a\n\n```\nb", "c\n\nd"]) == ["a", "```\nb", "c", "d"]


async def test_part_streams_before_the_rest_has_arrived() -> None:
    """A reader gets tokens of a part while the source of the message is still streaming."""
    async with MiniAgents():
        go_on = asyncio.Event()

        async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
            yield "Hel"
            yield "lo"
            await go_on.wait()
            yield ".\n\nBye"

        parts = aiter(split_messages(Message.promise(message_token_streamer=stream)))
        tokens = aiter(await anext(parts))
        assert [await anext(tokens), await anext(tokens)] == ["Hel", "lo"]
        go_on.set()
        assert [token async for token in tokens] == ["."]
        assert str(await (await anext(parts))) == "Bye"


async def test_part_has_the_metadata_of_its_message() -> None:
    """A part of a split message has the caller's keywords and the message's fields, but not those of one answer."""
    async with MiniAgents():
        answer = AssistantMessage("a\n\nb", mood="calm", model="m", finish_reason="stop")
        first, second = await split_messages([answer], topic="none")
        assert dict(first) == {
            "content": "a",
            "role": "assistant",
            "mood": "calm",
            "topic": "none",
            "part_index": 0,
            "separator": "",
        }
        assert (second.part_index, second.separator) == (1, "\n\n")
        (part,) = [part async for part in split_messages([streamed("c")])]
        assert part.known_beforehand == {"role": "assistant", "part_index": 0, "separator": ""}


async def test_part_fails_after_the_text_before_the_error() -> None:
    """If a message fails, its open part has the tokens so far and then the error; other messages still come."""
    async with MiniAgents():
        seen = []
        async for part in split_messages([streamed("a\n\nb", "c\n", error=ValueError("broken")), "d"]):
            tokens: list[str] = []
            try:
                async for token in part:
                    tokens.append(token)
            except ValueError:
                tokens.append("!")
            seen.append("".join(tokens))
        assert seen == ["a", "bc\n!", "d"]


async def test_error_between_parts_is_a_part_of_its_own() -> None:
    """If a message fails right after a complete part, one additional part fails with the error."""
    async with MiniAgents():
        first, failed = [part async for part in split_messages([streamed("a\n\n", error=ValueError("broken"))])]
        assert str(await first) == "a"
        with pytest.raises(ValueError, match="broken"):
            await failed


async def test_split_reads_its_source_on_demand() -> None:
    """If nothing starts soon, the source is read when a part is read, at most one token ahead of the reader."""
    async with MiniAgents(start_everything_soon_by_default=False):
        given: list[str] = []

        async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
            for token in ("a", "b", "\n\n", "c", "d"):
                given.append(token)
                yield token

        parts = aiter(split_messages(Message.promise(message_token_streamer=stream)))
        assert given == []
        tokens = aiter(await anext(parts))
        assert await anext(tokens) == "a"
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(given) <= 2
        assert [token async for token in tokens] == ["b"]
        assert [str(await part) async for part in parts] == ["cd"]


async def test_cancelled_or_unread_part_stops_no_other() -> None:
    """Cancelling one part of a split, or never reading one, leaves the other parts whole."""
    async with MiniAgents():
        seen: list[str] = []
        async for part in split_messages(streamed("a", "b\n\n", "c", "d\n\n", "e")):
            if not seen:
                part.cancel()
                seen.append("cancelled")
                continue
            seen.append(str(await part))
            del part
        assert seen == ["cancelled", "cd", "e"]


async def test_cancelled_split_fails_its_open_part() -> None:
    """If the whole split is cancelled, the part that is still streaming fails."""
    async with MiniAgents():
        sequence = split_messages(streamed("a", *"b" * 100))
        part = await anext(aiter(sequence))
        sequence.cancel()
        with pytest.raises(Exception, match="stopped"):
            await part


async def test_split_refuses_bad_delimiters() -> None:
    """`split_messages` raises `ValueError` for an empty delimiter, and for a fence of different characters."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="must not be empty"):
            split_messages("a", "")
        with pytest.raises(ValueError, match="one character repeated"):
            split_messages("a", "\n\n", "<code>")


# --- the splitter itself

TEXTS = st.lists(
    st.sampled_from(["a", "b", "-", "\n", "`", "```", "\n```", "\n\n", "~~~"]) | st.text(max_size=2), max_size=16
).map("".join)
DELIMITERS = st.sampled_from(["\n\n", "\n", "-", "--", "ab", "aab", "`", "\n`", "```", "\n```a", "a`"])
FENCES = st.sampled_from([None, "```", "`", "``", "~~~"])


def cut(text: str, places: list[int]) -> list[str]:
    """Return the text in pieces, cut at these places."""
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def split(tokens: list[str], delimiter: str, fence: str | None) -> tuple[list[str], list[str]]:
    """Return the parts that the splitter finds, and the separators before, between and after them."""
    splitter = TextSplitter(delimiter, fence)
    parts, separators, part = [], [""], ""
    for is_text, piece in [*(pair for token in tokens for pair in splitter.feed(token)), *splitter.close()]:
        if is_text:
            part += piece
        elif part:
            parts.append(part)
            separators.append(piece)
            part = ""
        else:
            separators[-1] += piece
    return ([*parts, part], [*separators, ""]) if part else (parts, separators)


def model(text: str, delimiter: str, fence: str | None) -> tuple[list[str], list[str]]:
    """Return the parts and separators that a slow splitter finds, which reads the whole text character by character."""
    parts, separators, part, place = [], [""], "", 0

    def end(separator: str) -> None:
        nonlocal part
        if part:
            parts.append(part)
            separators.append(separator)
            part = ""
        else:
            separators[-1] += separator

    while place < len(text):
        rest = text[place:]
        if fence and rest.startswith(fence) and (not place or text[place - 1] == "\n"):
            end("")
            part = block_at(rest, fence[0])
            place += len(part)
            end("")
            if text[place : place + 1] == "\n" and not text.startswith(delimiter, place):
                end("\n")
                place += 1
        elif rest.startswith(delimiter):
            end(delimiter)
            place += len(delimiter)
        elif fence and rest.startswith("\n" + fence):
            end("\n")
            place += 1
        else:
            part += text[place]
            place += 1
    end("")
    return parts, separators


def block_at(text: str, mark: str) -> str:
    """Return the code block at the beginning of the text."""
    opening = len(text) - len(text.lstrip(mark))
    place = text.find("\n")
    while place >= 0:
        line = text[place + 1 :]
        run = len(line) - len(line.lstrip(mark))
        if run >= opening:
            return text[: place + 1 + run]
        place = text.find("\n", place + 1)
    return text


@given(TEXTS, DELIMITERS, FENCES, st.lists(st.integers(0, 100), max_size=8))
@example("``\n-", "`", "```", [0, 2, 3])
def test_splitter_finds_the_same_parts_for_any_tokens(
    text: str, delimiter: str, fence: str | None, places: list[int]
) -> None:
    """However the text is cut into tokens, the parts are those of a slow splitter that sees the whole text."""
    expected = model(text, delimiter, fence)
    assert split(cut(text, places), delimiter, fence) == expected
    assert split(list(text), delimiter, fence) == expected


@given(TEXTS, DELIMITERS, FENCES)
def test_splitter_loses_no_text(text: str, delimiter: str, fence: str | None) -> None:
    """Parts and separators that the splitter finds join to the text."""
    parts, separators = split([text], delimiter, fence)
    assert "".join(piece for pair in zip(separators, [*parts, ""], strict=True) for piece in pair) == text


@given(TEXTS, DELIMITERS)
def test_splitter_without_fences_is_str_split(text: str, delimiter: str) -> None:
    """Without fences, the splitter finds the non-empty parts of `str.split`."""
    assert split(list(text), delimiter, None)[0] == [part for part in text.split(delimiter) if part]


@given(
    st.lists(st.sampled_from(["a", "b", "\n", "a\n", " ", "c"]).map(lambda piece: piece * 2), max_size=6), DELIMITERS
)
def test_split_undoes_join(parts: list[str], delimiter: str) -> None:
    """`split(join(parts)) == parts`, if no delimiter is inside a part or across two parts."""
    joined = delimiter.join(parts)
    if joined.split(delimiter) != parts:
        return

    async def main() -> None:
        async with MiniAgents():
            text = join_messages(parts, delimiter)
            assert await contents(text, delimiter, None) == parts

    asyncio.run(main())


@given(TEXTS, DELIMITERS, FENCES, st.lists(st.integers(0, 100), max_size=4))
def test_part_records_its_separator(text: str, delimiter: str, fence: str | None, places: list[int]) -> None:
    """The parts' texts and `separator`s, with the last part's `end_separator`, join to the whole text."""

    async def main() -> None:
        async with MiniAgents():
            parts = await split_messages(streamed(*cut(text, places)), delimiter, fence)
            again = "".join(part.separator + str(part) for part in parts)
            again += getattr(parts[-1], "end_separator", "") if parts else text
            assert again == text
            assert [part.part_index for part in parts] == list(range(len(parts)))

    asyncio.run(main())


@given(st.text("ab", max_size=12), DELIMITERS)
def test_splitter_passes_a_token_without_delimiter_on_unchanged(text: str, delimiter: str) -> None:
    """The splitter returns a token that cannot be part of a delimiter at once, unchanged and in one piece."""
    if set(text) & set(delimiter):
        return
    assert TextSplitter(delimiter, "```").feed(text) == ([(TEXT, text)] if text else [])


def test_splitter_holds_back_only_the_start_of_a_delimiter() -> None:
    """The splitter holds text back only while it may become a delimiter or a fence."""
    splitter = TextSplitter("<END>", "```")
    assert splitter.feed("abc<EN") == [(TEXT, "abc")]
    assert splitter.feed("X") == [(TEXT, "<ENX")]
    assert splitter.feed("\n``") == []
    assert splitter.feed("x") == [(TEXT, "\n``x")]
    assert splitter.feed("<END>") == [(SEPARATOR, "<END>")]
