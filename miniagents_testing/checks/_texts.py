"""What must hold for whatever joins messages, and splits them while they stream."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from miniagents import Message, MiniAgents
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from miniagents import MessagePromise

    Join = Callable[..., MessagePromise]
    """Called with a list of messages and a delimiter."""
    Split = Callable[..., Any]
    """Called with a message promise and a delimiter; gives an async iterable of message promises."""


TEXTS: tuple[str, ...] = (
    "",
    "one",
    "one\n\ntwo",
    "\n\none\n\n\n\ntwo\n\n",
    "one\n\n\ntwo\nthree",
    "before\n```py\nx\n\ny\n```\nafter",
    "````\n```\n\n````\n\nnot closed: ```\n\n```\nopen\n\nto the end",
    "é\U0001f600\r\n\r\n\n\nend",
)
"""Delimiters alone, in rows, at both ends, in code, half of one, and characters of several bytes."""


async def check_splitter(split: Split, *, delimiter: str = "\n\n", texts: Iterable[str] = TEXTS) -> None:
    """The parts of a text are the same however it arrives, and they are the text without what separates them.

    Args:
        split: such as `split_messages`.
        delimiter: what it splits at.
        texts: what is split.

    Raises:
        CheckFailedError: something does not hold.
    """
    for text in texts:
        await check_split_ignores_cuts(split, text, delimiter=delimiter)
        await check_split_keeps_text(split, text, delimiter=delimiter)


async def check_split_ignores_cuts(
    split: Split,
    text: str,
    *,
    delimiter: str = "\n\n",
    tokens: Sequence[str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """The parts do not depend on how the text was cut into tokens: in two at any place, by character, and at once.

    Args:
        split: what splits.
        text: what is split.
        delimiter: what it splits at.
        tokens: the text as it arrives; by default all of the above, one after the other.
        timeout: seconds that splitting it may take.
    """
    cuts = [tokens] if tokens is not None else [*([text[:n], text[n:]] for n in range(1, len(text))), list(text)]
    whole = await _parts(split, [text], text, delimiter, timeout)
    for cut in cuts:
        case = Case(_again("check_split_ignores_cuts", text, delimiter, cut))
        came = await _parts(split, cut, text, delimiter, timeout)
        case.equal(came, whole, "the parts depend on how the text was cut into tokens")


async def check_split_keeps_text(
    split: Split, text: str, *, delimiter: str = "\n\n", timeout: float = DEFAULT_TIMEOUT
) -> None:
    """All parts together are the text; between them there are only delimiters and line breaks. No part is empty."""
    case = Case(_again("check_split_keeps_text", text, delimiter, None))
    parts = await _parts(split, list(text), text, delimiter, timeout)
    case.true(all(parts), "a part is empty", expected="no empty parts", came=repr(parts))
    # of line breaks alone there is one way to read them, so that a long row of them takes no exponential time
    between = "\n*" if not delimiter.strip("\n") else f"(?:{re.escape(delimiter)}|\n)*"
    pattern = between + "".join(re.escape(part) + between for part in parts)
    case.true(
        re.fullmatch(pattern, text) is not None,
        "the parts and what stands between them are not the text",
        expected=f"{text!r}, without delimiters",
        came=repr(parts),
    )


async def check_join_split(
    join: Join, split: Split, parts: Sequence[str], *, delimiter: str = "\n\n", timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Parts that are joined and split again are the same parts, and the joined message knows what it was made of.

    Args:
        join: such as `join_messages`.
        split: such as `split_messages`.
        parts: texts that are not empty, without code, in which the delimiter does not occur, nor across two of them.
        delimiter: what stands between them.
        timeout: seconds that it may take.
    """
    case = Case(f"await check_join_split(join, split, {list(parts)!r}, delimiter={delimiter!r})")
    joined_text = delimiter.join(parts)
    if not all(parts) or joined_text.split(delimiter) != list(parts):
        raise ValueError(
            f"{list(parts)!r} cannot come back: the delimiter {delimiter!r} occurs in one, or one is empty"
        )
    async with case.no_error("joining and splitting", timeout=timeout), MiniAgents():
        joined = join(list(parts), delimiter)
        came = [str(await part) async for part in split(joined, delimiter)]
        case.equal(str(await joined), joined_text, "the joined text is not the parts with the delimiter between them")
        case.equal(came, list(parts), "the parts did not come back")
        originals = getattr(await joined, "original_messages", ())
        case.equal([str(each) for each in originals], list(parts), "the joined message lost what it was made of")


async def _parts(split: Split, tokens: Sequence[str], text: str, delimiter: str, timeout: float) -> list[str]:
    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token

    case = Case(_again("check_split_ignores_cuts", text, delimiter, tokens))
    texts: list[str] = []
    async with case.no_error("splitting a stream", timeout=timeout), MiniAgents():
        parts = split(Message.promise(message_token_streamer=streamer), delimiter)
        texts = [await _text(case, part) async for part in parts]
    return texts


async def _text(case: Case, part: MessagePromise) -> str:
    read = "".join([token async for token in part])
    case.equal(read, str(await part), "the tokens of a part are not its text")
    return read


def _again(check: str, text: str, delimiter: str, tokens: Sequence[str] | None) -> str:
    cut = "" if tokens is None else f", tokens={list(tokens)!r}"
    return f"await {check}(split, {text!r}, delimiter={delimiter!r}{cut})"
