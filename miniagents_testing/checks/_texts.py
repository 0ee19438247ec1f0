"""Checks of functions that join messages, or split them while they stream."""

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
    """Function of a list of messages and a delimiter."""
    Split = Callable[..., Any]
    """Function of a message promise and a delimiter; returns an async iterable of message promises."""


_TEXTS: tuple[str, ...] = (
    "",
    "one",
    "one\n\ntwo",
    "\n\none\n\n\n\ntwo\n\n",
    "one\n\n\ntwo\nthree",
    "before\n```py\nx\n\ny\n```\nafter",
    "````\n```\n\n````\n\nnot closed: ```\n\n```\nopen\n\nto the end",
    "é\U0001f600\r\n\r\n\n\nend",
)
"""Texts with single and repeated delimiters, also at both ends, in code and incomplete, and with long characters."""


async def check_splitter(split: Split, *, delimiter: str = "\n\n", texts: Iterable[str] = _TEXTS) -> None:
    """Check that the parts of a text do not depend on its tokens, and are the text without delimiters.

    Args:
        split: the function to check, such as `split_messages`.
        delimiter: delimiter of the parts.
        texts: texts to split.

    Raises:
        CheckFailedError: a check failed.
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
    """Check that the parts do not depend on how the text was cut into tokens.

    Args:
        split: the function to check.
        text: text to split.
        delimiter: delimiter of the parts.
        tokens: the text as tokens; by default, each cut into two, and single characters are tried.
        timeout: seconds that one split may take.

    Raises:
        CheckFailedError: the parts differ from those of the text as one token.
    """
    cuts = [tokens] if tokens is not None else [*([text[:n], text[n:]] for n in range(1, len(text))), list(text)]
    whole = await _parts(split, [text], text, delimiter, timeout)
    for cut in cuts:
        case = Case(_call_source("check_split_ignores_cuts", text, delimiter, cut))
        came = await _parts(split, cut, text, delimiter, timeout)
        case.equal(came, whole, "the parts depend on how the text was cut into tokens")


async def check_split_keeps_text(
    split: Split, text: str, *, delimiter: str = "\n\n", timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that the parts join to the text, with only delimiters and line breaks between them, and that none is empty.

    Args:
        split: the function to check.
        text: text to split.
        delimiter: delimiter of the parts.
        timeout: seconds that the split may take.

    Raises:
        CheckFailedError: a part is empty, or text is lost or invented.
    """
    case = Case(_call_source("check_split_keeps_text", text, delimiter, None))
    parts = await _parts(split, list(text), text, delimiter, timeout)
    case.true(all(parts), "a part is empty", expected="no empty parts", came=repr(parts))
    # a pattern that reads line breaks in one way only: several ways take exponential time for many line breaks
    between = "\n*" if not delimiter.strip("\n") else f"(?:{re.escape(delimiter)}|\n)*"
    pattern = between + "".join(re.escape(part) + between for part in parts)
    case.true(
        re.fullmatch(pattern, text) is not None,
        "the parts with delimiters between them are not the text",
        expected=f"{text!r}, without delimiters",
        came=repr(parts),
    )


async def check_join_split(
    join: Join, split: Split, parts: Sequence[str], *, delimiter: str = "\n\n", timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that parts that are joined and split again are the same, and that the joined message keeps the originals.

    Args:
        join: the joining function, such as `join_messages`.
        split: the splitting function, such as `split_messages`.
        parts: texts that are not empty and have no code; the delimiter occurs neither in them nor across two of them.
        delimiter: delimiter between the parts.
        timeout: seconds that joining and splitting may take.

    Raises:
        ValueError: the parts are empty or have the delimiter in them.
        CheckFailedError: other parts came back, or the originals are lost.
    """
    case = Case(f"await check_join_split(join, split, {list(parts)!r}, delimiter={delimiter!r})")
    joined_text = delimiter.join(parts)
    if not all(parts) or joined_text.split(delimiter) != list(parts):
        raise ValueError(
            f"{list(parts)!r} cannot come back from a split: a part is empty, or has the delimiter {delimiter!r} in it"
        )
    async with case.no_error("joining and splitting", timeout=timeout), MiniAgents():
        joined = join(list(parts), delimiter)
        came = [str(await part) async for part in split(joined, delimiter)]
        case.equal(str(await joined), joined_text, "the joined text is not the parts with the delimiter between them")
        case.equal(came, list(parts), "the parts did not come back")
        originals = getattr(await joined, "original_messages", ())
        case.equal([str(each) for each in originals], list(parts), "the joined message lost its original messages")


async def _parts(split: Split, tokens: Sequence[str], text: str, delimiter: str, timeout: float) -> list[str]:
    """Split a text that streams in these tokens, and return the texts of the parts."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token

    case = Case(_call_source("check_split_ignores_cuts", text, delimiter, tokens))
    texts: list[str] = []
    async with case.no_error("splitting a stream", timeout=timeout), MiniAgents():
        parts = split(Message.promise(message_token_streamer=streamer), delimiter)
        texts = [await _read_text(case, part) async for part in parts]
    return texts


async def _read_text(case: Case, part: MessagePromise) -> str:
    """Return the text of a part; fail if its tokens are another text."""
    read = "".join([token async for token in part])
    case.equal(read, str(await part), "the tokens of a part are not its text")
    return read


def _call_source(check: str, text: str, delimiter: str, tokens: Sequence[str] | None) -> str:
    """Return the source code of a call of a check that repeats one case."""
    cut = "" if tokens is None else f", tokens={list(tokens)!r}"
    return f"await {check}(split, {text!r}, delimiter={delimiter!r}{cut})"
