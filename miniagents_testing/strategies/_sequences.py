"""Strategy for all kinds of values that can be sent, nested, each with the texts and errors that a reader must see."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from miniagents import AssistantMessage, InteractionContext, Message, MessageSequence, UserMessage, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from miniagents import MessagePromise


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
    """Return a message that streams a text letter by letter, and fails at its end if it is broken."""

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
    """Reply the children one after the other, and fail at the end if asked to."""
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
