"""Hypothesis strategies for all that an app on MiniAgents sends, stores and receives (extra `testing`).

```python
@given(strategies.messages())
def test_my_store_returns_each_message(message): ...
```

Strategies draw values, or plans of objects that need a run context, so that async tests on one loop can use them too.
Most arguments are keywords with the same meaning everywhere: `text` is a strategy for texts within the values,
`max_leaves` limits nested values. A wrong argument raises `ValueError` at the call. Failing examples shrink towards
plain values.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, overload

from hypothesis import strategies as st

from miniagents import (
    AssistantMessage,
    ErrorMessage,
    Frozen,
    InteractionContext,
    Message,
    MessageSequence,
    SystemMessage,
    ToolCall,
    Usage,
    UserMessage,
    miniagent,
)
from miniagents_testing import faults
from miniagents_testing._odd_texts import LOOKALIKES, MARKDOWN
from miniagents_testing._script import Step
from miniagents_testing._wire.dialects import QUIRKS, ProviderStream, provider_stream
from miniagents_testing.recut import EventEnds, cut_at, risky_places

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence

    from miniagents import MessagePromise
    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.faults import Fault


__all__ = [
    "LOOKALIKES",
    "MARKDOWN",
    "Boom",
    "Sendable",
    "cancellation_points",
    "delimiters",
    "fences",
    "leaves",
    "messages",
    "provider_streams",
    "recuts",
    "roles",
    "schedule_seeds",
    "sendables",
    "stream_faults",
    "texts",
    "token_splits",
    "values",
]


# --- messages, and the values of their fields


_CLASSES: tuple[type[Message], ...] = (Message, UserMessage, AssistantMessage, SystemMessage, ErrorMessage)
_EXTRA_NAMES = ("a", "b", "items", "class__", "$x", "self", "name with blanks", "é", "\U0001f600")
"""Names of extra fields, which no class of messages declares."""


def leaves(*, text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Any]:
    """Return a strategy for values without other values in them, of every type a field may have but own Enums.

    Args:
        text: strategy for the texts among them.
    """
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        texts(max_size=3) if text is None else text,
        st.binary(max_size=4),
        st.decimals(allow_nan=False),
        st.uuids(),
        st.dates(),
        st.datetimes(timezones=st.none() | st.just(UTC)),
        st.times(),
        st.timedeltas(),
        st.sampled_from([PurePosixPath("a"), PurePosixPath("b/c")]),
    )


def values(
    *, leaf: st.SearchStrategy[Any] | None = None, text: st.SearchStrategy[str] | None = None, max_leaves: int = 4
) -> st.SearchStrategy[Any]:
    """Return a strategy for values of fields: leaves, and lists, tuples, dicts, sets and messages of them.

    Its lists, dicts and sets are mutable; a message that is made of them must not show later changes.

    Args:
        leaf: strategy for values without other values in them; `leaves()` by default.
        text: strategy for the texts among them, and for keys of dicts.
        max_leaves: approximate maximum number of leaves in a value.
    """
    text = texts(max_size=3) if text is None else text
    leaf = leaves(text=text) if leaf is None else leaf
    hashable = leaf | st.tuples(leaf) | st.builds(lambda value: Frozen(v=value), leaf)

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        """Return a strategy for lists, dicts, tuples, sets, frozen models and messages of such inner values."""
        fields = st.dictionaries(st.sampled_from(_EXTRA_NAMES), inner, max_size=2)
        return st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(text, inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.sets(hashable, max_size=3),
            st.builds(lambda fields: Frozen(**fields), fields),
            st.builds(lambda fields: UserMessage("text", **fields), fields),
        )

    return st.recursive(leaf, nested, max_leaves=max_leaves)


def roles() -> st.SearchStrategy[str | None]:
    """Return a strategy for roles: the usual words, None, and other texts."""
    return st.sampled_from(["user", "assistant", "system", "tool", "developer", "a / b", "", None]) | texts(max_size=3)


def messages(
    *,
    classes: Sequence[type[Message]] = _CLASSES,
    content: st.SearchStrategy[Any] | None = None,
    fields: Mapping[str, st.SearchStrategy[Any]] | None = None,
    value: st.SearchStrategy[Any] | None = None,
    max_fields: int = 1,
) -> st.SearchStrategy[Message]:
    """Return a strategy for messages with texts, parts or fields only, and with typed and extra fields.

    Raise `ValueError` without classes.

    Args:
        classes: classes of the messages. Required fields of a class have to be among `fields`.
        content: strategy for contents; texts, parts and None by default.
        fields: strategies for fields that each message has, by name.
        value: strategy for values of extra fields.
        max_fields: maximum number of extra fields.
    """
    if not classes:
        raise ValueError("classes is empty: give at least one class of messages")
    typed = {cls: _typed_fields(cls) for cls in classes}
    extra = st.dictionaries(st.sampled_from(_EXTRA_NAMES), values() if value is None else value, max_size=max_fields)
    fixed = st.fixed_dictionaries(dict(fields or {}))
    content = _contents() if content is None else content

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        cls = draw(st.sampled_from(tuple(classes)))
        return cls(draw(content), **{**draw(extra), **draw(typed[cls]), **draw(fixed)})

    return build()


def _contents() -> st.SearchStrategy[Any]:
    """Return a strategy for contents: texts, None, or lists of parts."""
    text = texts()
    part = text | st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": text})
    return st.one_of(text, st.none(), st.lists(part, min_size=1, max_size=3))


def _typed_fields(cls: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for the optional fields that a class of the framework declares."""
    optional: dict[str, st.SearchStrategy[Any]] = {"role": roles()}
    if issubclass(cls, AssistantMessage):
        counts = st.none() | st.integers(0, 10_000)
        calls = st.builds(
            lambda name, arguments: ToolCall(id=f"call_{name}", name=name, arguments=arguments),
            texts(max_size=2),
            texts(),
        )
        optional |= {
            "finish_reason": st.sampled_from(["stop", "length", "tool_calls"]),
            "usage": st.builds(lambda n, m: Usage(input_tokens=n, output_tokens=m), counts, counts),
            "tool_calls": st.lists(calls, max_size=2),
            "reasoning": texts(max_size=3),
            "interrupted": st.booleans(),
        }
    return st.fixed_dictionaries({}, optional=optional)


# --- what can be sent


class Boom(Exception):  # noqa: N818 - a short public name
    """Error that the sources in a `Sendable` raise."""


@dataclass(frozen=True, slots=True)
class Sendable:
    """Plan of a value that can be sent: `build()` makes a new one in the current loop and run context."""

    kind: str
    content: str | tuple[Sendable, ...]

    def build(self) -> Any:
        """Return a new value as planned; a run context must be active."""
        if isinstance(self.content, str):
            return _LEAVES[self.kind](self.content)
        return _CONTAINERS[self.kind](self.content)

    @property
    def seen(self) -> tuple[str | type[Exception], ...]:
        """Results of a reader in order: the text of each message, or the class of its error."""
        if isinstance(self.content, str):
            return (_ERRORS.get(self.kind, self.content),)
        inner = tuple(each for child in self.content for each in child.seen)
        return (*inner, Boom) if self.kind.startswith(("broken", "failing")) else inner

    def __repr__(self) -> str:
        inner = repr(self.content) if isinstance(self.content, str) else ", ".join(map(repr, self.content))
        return f"{self.kind.replace(' ', '_')}({inner})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the repr in IPython and Hypothesis, which print the fields of dataclasses otherwise."""
        printer.text(repr(self))


def sendables(
    *, text: st.SearchStrategy[str] | None = None, errors: bool = True, max_leaves: int = 8
) -> st.SearchStrategy[Sendable]:
    """Return a strategy for plans of values that can be sent: every kind of `MessageType`, nested.

    Args:
        text: strategy for texts of messages; short ones by default.
        errors: True to include exceptions, wrong types and sources that fail.
        max_leaves: approximate maximum number of messages in a plan.
    """
    text = st.text(max_size=3) if text is None else text
    leaf = st.builds(Sendable, st.sampled_from([kind for kind in _LEAVES if errors or kind not in _ERRORS]), text)
    containers = [kind for kind in _CONTAINERS if errors or not kind.startswith(("broken", "failing"))]

    def nested(inner: st.SearchStrategy[Sendable]) -> st.SearchStrategy[Sendable]:
        return st.builds(Sendable, st.sampled_from(containers), st.lists(inner, max_size=4).map(tuple))

    return st.recursive(leaf, nested, max_leaves=max_leaves)


def _stream(text: str, *, broken: bool = False) -> MessagePromise:
    """Return a message that streams a text letter by letter; if it is broken, it fails after the last letter."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        """Yield the letters one by one, and raise `Boom` after them if the message is broken."""
        for letter in text:
            await asyncio.sleep(0)
            yield letter
        if broken:
            raise Boom

    return Message.promise(message_token_streamer=streamer)


def _iterator(children: Sequence[Sendable], *, broken: bool = False) -> Iterator[Any]:
    """Yield the built children, and raise `Boom` at the end if the iterator is broken."""
    for child in children:
        yield child.build()
    if broken:
        raise Boom


async def _async_iterator(children: Sequence[Sendable], *, broken: bool = False) -> AsyncIterator[Any]:
    """Yield the built children with pauses, and raise `Boom` at the end if the iterator is broken."""
    for child in children:
        await asyncio.sleep(0)
        yield child.build()
    if broken:
        raise Boom


@miniagent
async def _replier(ctx: InteractionContext, children: Sequence[Sendable], fail: bool) -> None:
    """Reply the children one after the other, or the `TypeError` of one that cannot be sent; then fail if `fail`."""
    for child in children:
        try:
            ctx.reply(child.build())
        except TypeError as error:  # the child has a value of a wrong type
            ctx.reply(error)
        await asyncio.sleep(0)
    if fail:
        raise Boom


def _list(children: Sequence[Sendable]) -> list[Any]:
    """Return the built children as a list.

    A value of a wrong type is wrapped in an iterator: otherwise the call that sends the list would refuse all of it.
    """
    return [iter([child.build()]) if child.kind == "wrong type" else child.build() for child in children]


_LEAVES: dict[str, Callable[[str], Any]] = {
    "text": str,
    "message": Message,
    "user message": UserMessage,
    "fields": lambda text: {"content": text, "k": 1},
    "promise": lambda text: AssistantMessage(text).as_promise,
    "stream": _stream,
    "broken stream": lambda text: _stream(text, broken=True),
    "error": Boom,
    "wrong type": lambda text: {text},
}
_ERRORS: dict[str, type[Exception]] = {"broken stream": Boom, "error": Boom, "wrong type": TypeError}
_CONTAINERS: dict[str, Callable[[Sequence[Sendable]], Any]] = {
    "list": _list,
    "tuple": lambda children: tuple(_list(children)),
    "iterator": _iterator,
    "async iterator": _async_iterator,
    "broken iterator": lambda children: _iterator(children, broken=True),
    "broken async iterator": lambda children: _async_iterator(children, broken=True),
    "sequence": lambda children: MessageSequence.turn_into_sequence_promise(_list(children)),
    "agent": lambda children: _replier.trigger(children=children, fail=False),
    "failing agent": lambda children: _replier.trigger(children=children, fail=True),
}


# --- texts


def texts(
    *, pieces: Sequence[str] = LOOKALIKES, characters: st.SearchStrategy[str] | None = None, max_size: int = 6
) -> st.SearchStrategy[str]:
    """Return a strategy for texts of special pieces, with characters of all kinds between them.

    Raise `ValueError` without pieces.

    Args:
        pieces: pieces of the texts; examples shrink to the first ones.
        characters: strategy for single characters between the pieces; by default any, lone surrogates included. Give
            `st.nothing()` for pieces only.
        max_size: maximum number of pieces, and of characters.
    """
    if not pieces:
        raise ValueError("pieces is empty: give at least one piece of text")
    # Each piece is drawn as a character: a text is one draw and a list is many, which takes three times as long.
    piece_of = {chr(_FIRST_CODE + number): piece for number, piece in enumerate(pieces)}
    drawn = st.text("".join(piece_of), max_size=max_size)
    between = st.text(st.characters(exclude_categories=()) if characters is None else characters, max_size=max_size)

    @st.composite
    def text(draw: st.DrawFn) -> str:
        mixed = zip_longest(map(piece_of.get, draw(drawn)), draw(between), fillvalue="")
        return "".join(f"{piece}{char}" for piece, char in mixed)

    return text()


_FIRST_CODE = ord("0")
"""Code of the character for the first piece: Hypothesis shrinks texts to this character."""


def token_splits(text: str | st.SearchStrategy[str], *, max_cuts: int = 8) -> st.SearchStrategy[list[str]]:
    """Return a strategy for ways to cut a text into tokens, some of which may be empty.

    Args:
        text: the text, or a strategy for it.
        max_cuts: maximum number of cuts.
    """
    texts = st.just(text) if isinstance(text, str) else text
    places = st.binary(max_size=max_cuts)  # one draw, and the length of the text is not known yet

    @st.composite
    def split(draw: st.DrawFn) -> list[str]:
        """Draw a text and places in it, and return the pieces between these places."""
        whole = draw(texts)
        size = len(whole)
        edges = sorted(place % (size + 1) if size < 256 else place * size // 255 for place in draw(places))
        return [whole[start:end] for start, end in zip([0, *edges], [*edges, size], strict=True)]

    return split()


def delimiters(*, extra: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Return a strategy for delimiters of parts: line breaks, pieces of fences, strings that overlap themselves.

    Args:
        extra: further delimiters.
    """
    return st.sampled_from(
        ("\n\n", "\n", "-", "--", "aa", "aab", "---a", "\n\n\n", "`", "```", "a```", "``\n", "\n`", *extra)
    )


def fences(*, none: bool = True) -> st.SearchStrategy[str | None]:
    """Return a strategy for fences of code blocks: one character, repeated.

    Args:
        none: True to include None, for no code blocks.
    """
    return st.sampled_from(("```", *([None] if none else []), "~~~", "`", "-"))


# --- answers of providers, cuts, faults and schedules


def provider_streams(
    *,
    apis: Sequence[API] = ("chat", "responses", "messages"),
    text: st.SearchStrategy[str] | None = None,
    quirks: bool = True,
    max_calls: int = 2,
) -> st.SearchStrategy[ProviderStream]:
    """Return a strategy for complete answers of providers, with the message fields that must result.

    Raise `ValueError` for unknown or no `apis`.

    Args:
        apis: `chat`, `responses` (both OpenAI's), `messages` (Anthropic's).
        text: strategy for texts; any text without lone surrogates by default. Characters may be cut into surrogates.
        quirks: True to include unusual variants, see `dialects.QUIRKS`.
        max_calls: maximum number of tool calls.
    """
    if not apis or not set(apis) <= QUIRKS.keys():
        raise ValueError(f"apis must be some of {', '.join(QUIRKS)}, not {apis!r}")
    text_pieces = token_splits(st.text(max_size=12) if text is None else text, max_cuts=4)
    more: st.SearchStrategy[tuple[str, ...]] = st.just(()) | token_splits(
        st.text(min_size=1, max_size=6), max_cuts=2
    ).map(tuple)
    calls = _calls(max_calls)
    names = sorted({name for api in apis for name in QUIRKS[api]}) if quirks else []
    chosen = st.lists(st.sampled_from(names), max_size=5) if names else st.just([])

    @st.composite
    def stream(draw: st.DrawFn) -> ProviderStream:
        """Draw an API, the parts of an answer and quirks, and return the stream that they make."""
        api = draw(st.sampled_from(tuple(apis)))
        pieces, splits_surrogates = draw(st.tuples(text_pieces, st.booleans()))
        step = Step(
            _with_split_surrogates(pieces) if splits_surrogates else pieces,
            reasoning=draw(more),
            refusal=draw(more),
            tool_calls=draw(calls),
            finish_reason=draw(_FINISH_REASONS),
            usage=draw(_USAGES),
        )
        return provider_stream(api, step, quirks=[quirk for quirk in draw(chosen) if quirk in QUIRKS[api]])

    return stream()


_COUNTS = st.integers(0, 999)
_USAGES = st.none() | st.builds(lambda n, m: Usage(input_tokens=n, output_tokens=m), _COUNTS, _COUNTS)
_FINISH_REASONS = st.sampled_from((None, "length", "content_filter"))
_ARGUMENTS = st.sampled_from(('{"x": 1}', "{}", "", '{"q": "é \U0001f600 \\n"}', "no JSON"))


def _calls(max_calls: int) -> st.SearchStrategy[tuple[ToolCall, ...]]:
    """Return a strategy for tuples of tool calls with ids."""
    drawn = st.lists(st.tuples(st.sampled_from(("search", "f")), _ARGUMENTS), max_size=max_calls)
    return drawn.map(
        lambda calls: tuple(ToolCall(id=f"call_{n}", name=name, arguments=text) for n, (name, text) in enumerate(calls))
    )


def _with_split_surrogates(pieces: list[str]) -> list[str]:
    """Return the pieces with one character cut into its two surrogates, as some servers do.

    It is the first one that JSON may write as two escapes; its halves stand in two pieces. Without such a character,
    return the pieces unchanged.
    """
    for index, piece in enumerate(pieces):
        for place, char in enumerate(piece):
            if char > "\uffff":
                units = char.encode("utf-16-be")
                first, second = (half.decode("utf-16-be", "surrogatepass") for half in (units[:2], units[2:]))
                return [*pieces[:index], piece[:place] + first, second + piece[place + 1 :], *pieces[index + 1 :]]
    return pieces


@overload
def recuts(stream: ResponseStream, *, max_cuts: int = 6) -> st.SearchStrategy[ResponseStream]: ...
@overload
def recuts(stream: bytes, *, max_cuts: int = 6) -> st.SearchStrategy[tuple[bytes, ...]]: ...
def recuts(
    stream: ResponseStream | bytes, *, max_cuts: int = 6
) -> st.SearchStrategy[ResponseStream | tuple[bytes, ...]]:
    """Return a strategy for the same bytes with other cuts, more often at places that are risky for decoders.

    Args:
        stream: a response, or bytes.
        max_cuts: maximum number of cuts.
    """
    body = stream if isinstance(stream, bytes) else stream.body
    risky = risky_places(body)
    # Three bytes for each place: one strategy for all streams, and a single draw, are the fastest way.
    drawn = st.binary(max_size=3 * max_cuts)

    @st.composite
    def recut(draw: st.DrawFn) -> ResponseStream | tuple[bytes, ...]:
        """Draw up to `max_cuts` places, about half of them risky ones, and return the stream cut there."""
        chosen = draw(drawn)
        places = set()
        for kind, high, low in zip(chosen[::3], chosen[1::3], chosen[2::3], strict=False):
            number = high << 8 | low
            places.add(risky[number % len(risky)] if kind % 2 and risky else number % (len(body) + 1))
        return cut_at(stream, places)

    return recut()


_FAULTS: dict[str, Callable[[int], Fault]] = {
    "cut": lambda event: faults.cut(after=event - 1),
    "reset": lambda event: faults.reset(after=event - 1),
    "stall": lambda event: faults.stall(after=event - 1),
    "malformed": lambda event: faults.malformed(at=event),
    "drop": lambda event: faults.drop(at=event),
    "duplicate": lambda event: faults.duplicate(at=event),
    "overloaded": lambda event: faults.overloaded(at=event),
    "rate_limit": lambda event: faults.rate_limit(at=event),
    "error_event": lambda event: faults.error_event(at=event),
}


def stream_faults(stream: ResponseStream, *, kinds: Collection[str] = tuple(_FAULTS)) -> st.SearchStrategy[Fault]:
    """Return a strategy for faults at places that this stream has; examples shrink to early places.

    Args:
        stream: the stream that the faults will be applied to.
        kinds: names of functions of `miniagents_testing.faults` that take a place.
    """
    if not kinds or not set(kinds) <= set(_FAULTS):
        raise ValueError(f"kinds must be some of {', '.join(_FAULTS)}, not {kinds!r}")
    events = sum(1 for _ in EventEnds().feed(stream.body))
    if not events:
        raise ValueError("the stream has no event that a fault could change")
    return st.builds(lambda kind, event: _FAULTS[kind](event), st.sampled_from(tuple(kinds)), st.integers(1, events))


def cancellation_points(*, max_steps: int = 50) -> st.SearchStrategy[int]:
    """Return a strategy for numbers of loop steps (`await asyncio.sleep(0)`) after which a test cancels a task.

    Args:
        max_steps: maximum number of steps; 0 is before the first one.
    """
    if max_steps < 0:
        raise ValueError(f"max_steps must be a number of steps, not {max_steps!r}")
    return st.integers(0, max_steps)


def schedule_seeds() -> st.SearchStrategy[int]:
    """Return a strategy for seeds of schedules of `VirtualTimeLoop`; examples shrink to small seeds."""
    return st.integers(0, 2**32 - 1)
