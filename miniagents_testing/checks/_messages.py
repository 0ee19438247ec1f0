"""Checks of messages of any class, and of functions that join messages, or split them while they stream."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from miniagents import Frozen, FrozenDict, Message, MiniAgents
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from miniagents import MessagePromise

    Join = Callable[..., MessagePromise]
    """Function of a list of messages and a delimiter."""
    Split = Callable[..., Any]
    """Function of a message promise and a delimiter; returns an async iterable of message promises."""

_LEAVES = (
    type(None), bool, int, float, Decimal, str, bytes, UUID, datetime, date, time, timedelta, PurePath, Enum,
)  # fmt: skip


def check_message(message: Message) -> None:
    """Check that a message is immutable at any depth, that copies equal it, and that its hash depends on its content.

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    check_immutable(message)
    check_hash(message)
    check_copies(message)


def check_message_class(make: Callable[[Mapping[str, Any]], Message], fields: Mapping[str, Any]) -> None:
    """Check that messages of a class pass `check_message`, and show no later changes of the values they were made of.

    Args:
        make: gets a dict of fields, and returns a message of the class.
        fields: fields of the message, best with lists, dicts and sets in them. They are copied and not changed.

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    case = Case(f"check_message_class(make, {fields!r})")
    changed = copy.deepcopy(dict(fields))
    message = make(changed)
    _change_containers(changed)
    case.equal(message, make(copy.deepcopy(dict(fields))), "the message shows later changes of its fields")
    check_message(message)


def check_immutable(message: Message) -> None:
    """Check that a message has only immutable values, and that its fields can be neither set nor deleted.

    Its hash must stay the same after all attempts.

    Raises:
        CheckFailedError: a value can be changed.
    """
    case = Case(f"check_immutable({message!r})")
    for path, value in _all_values(message, "message"):
        case.true(
            isinstance(value, (*_LEAVES, Frozen, FrozenDict, tuple, frozenset)),
            f"{path} could be changed",
            expected="a frozen value",
            came=f"{value!r:.80} of type {type(value).__name__}",
        )
    before = message.hash_key
    for name in [*(name for name, _ in message), "brand_new"]:
        for change, arguments in ((setattr, (message, name, 1)), (delattr, (message, name))):
            try:
                change(*arguments)
            except Exception:  # any error is a refusal
                continue
            case.fail(f"{change.__name__} changed message.{name}", expected="an error", came="none")
    case.equal(message.hash_key, before, "attempts to change the message changed its hash")


def check_hash(message: Message) -> None:
    """Check that hash and equality depend on class and content: another field makes another message.

    Raises:
        CheckFailedError: equal messages have different hashes, or different messages have equal ones.
    """
    case = Case(f"check_hash({message!r})")
    same = message.model_copy()
    case.true(same == message, "a copy is not equal", expected=repr(message), came=repr(same))
    case.equal(hash(same), hash(message), "equal messages have different hashes")
    case.equal(same.hash_key, message.hash_key, "equal messages have different hash keys")
    case.equal(message.full_hash_key[:40], message.hash_key, "hash_key is not the beginning of full_hash_key")
    other = message.model_copy(update={"brand_new": 1})
    case.true(other != message, "another field makes no difference", expected="two messages", came="equal ones")
    case.true(other.hash_key != message.hash_key, "another field makes no other hash", expected="two", came="one")


def check_copies(message: Message) -> None:
    """Check that pickle, deepcopy and dumps, in JSON too, return an equal message of the same class.

    Raises:
        CheckFailedError: a copy differs, or cannot be made.
    """
    case = Case(f"check_copies({message!r})")
    copies: dict[str, Callable[[], Message]] = {
        "pickle": lambda: pickle.loads(pickle.dumps(message)),
        "deepcopy": lambda: copy.deepcopy(message),
        "model_validate(model_dump())": lambda: Message.model_validate(message.model_dump()),
        "model_validate_json(model_dump_json())": lambda: Message.model_validate_json(message.model_dump_json()),
    }
    for name, make in copies.items():
        try:
            again = make()
        except Exception as error:
            case.fail(f"{name} fails", expected="a copy", came=f"{type(error).__name__}: {error}", cause=error)
        case.true(again == message, f"{name} gives another message", expected=repr(message), came=repr(again))
        case.equal(type(again), type(message), f"{name} gives another class")
        case.equal(again.hash_key, message.hash_key, f"{name} gives another hash")


def _all_values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield `value` and all values in it at any depth, each with its path; without recursion, as chains may be long."""
    stack = [(path, value)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if isinstance(value, Frozen):
            stack += [(f"{path}.{name}", field) for name, field in value]
        elif isinstance(value, FrozenDict):
            stack += [(f"{path}[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, (tuple, frozenset)):
            stack += [(f"{path}[{index}]", item) for index, item in enumerate(value)]


def _change_containers(value: Any) -> None:
    """Change each dict, list and set in a value, at any depth, by adding an entry "changed"."""
    if isinstance(value, dict):
        for item in list(value.values()):
            _change_containers(item)
        value["changed"] = True
    elif isinstance(value, (list, tuple)):
        for item in value:
            _change_containers(item)
        if isinstance(value, list):
            value.append("changed")
    elif isinstance(value, set):
        value.add("changed")


# --- joining and splitting


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
        CheckFailedError: one of these checks failed; the later ones are not run.
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
    """Split a text that streams in these tokens, and return the texts of the parts; fail the case at an error."""

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
