"""Everything that can be sent, nested at will, each with what a reader must see of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from miniagents import AssistantMessage, InteractionContext, Message, MessageSequence, UserMessage, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from miniagents import MessagePromise


class Boom(Exception):  # noqa: N818 - what happens, in one word
    """What the sources in `Sendable`s fail with."""


@dataclass(frozen=True, slots=True)
class Sendable:
    """Something that can be sent, as a plan: `build()` makes it anew, in the loop and the context of that moment."""

    kind: str
    content: str | tuple[Sendable, ...]

    def build(self) -> Any:
        """The thing itself; to be called inside of a run context."""
        if isinstance(self.content, str):
            return _LEAVES[self.kind](self.content)
        return _CONTAINERS[self.kind](self.content)

    @property
    def seen(self) -> tuple[str | type[Exception], ...]:
        """What a reader sees, in order: the text of each message, and the class of the error where one failed."""
        if isinstance(self.content, str):
            return (_ERRORS.get(self.kind, self.content),)
        inner = tuple(each for child in self.content for each in child.seen)
        return (*inner, Boom) if self.kind.startswith(("broken", "failing")) else inner

    def __repr__(self) -> str:
        inner = repr(self.content) if isinstance(self.content, str) else ", ".join(map(repr, self.content))
        return f"{self.kind.replace(' ', '_')}({inner})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For the printers of IPython and Hypothesis, which show the fields of dataclasses otherwise."""
        printer.text(repr(self))


def sendables(
    *, text: st.SearchStrategy[str] | None = None, errors: bool = True, max_leaves: int = 8
) -> st.SearchStrategy[Sendable]:
    """Plans of whatever can be sent: every kind of `MessageType`, nested at will.

    Args:
        text: the texts of messages; short ones by default.
        errors: whether exceptions, wrong types and sources that break are among them.
        max_leaves: about how many messages a plan comes to at most.
    """
    text = st.text(max_size=3) if text is None else text
    leaf = st.builds(Sendable, st.sampled_from([kind for kind in _LEAVES if errors or kind not in _ERRORS]), text)
    containers = [kind for kind in _CONTAINERS if errors or not kind.startswith(("broken", "failing"))]

    def nested(inner: st.SearchStrategy[Sendable]) -> st.SearchStrategy[Sendable]:
        return st.builds(Sendable, st.sampled_from(containers), st.lists(inner, max_size=4).map(tuple))

    return st.recursive(leaf, nested, max_leaves=max_leaves)


def _stream(text: str, *, broken: bool = False) -> MessagePromise:
    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for letter in text:
            await asyncio.sleep(0)
            yield letter
        if broken:
            raise Boom

    return Message.promise(message_token_streamer=streamer)


def _iterator(children: Sequence[Sendable], *, broken: bool = False) -> Iterator[Any]:
    for child in children:
        yield child.build()
    if broken:
        raise Boom


async def _async_iterator(children: Sequence[Sendable], *, broken: bool = False) -> AsyncIterator[Any]:
    for child in children:
        await asyncio.sleep(0)
        yield child.build()
    if broken:
        raise Boom


@miniagent
async def _replier(ctx: InteractionContext, children: Sequence[Sendable], fail: bool) -> None:
    """Replies one after the other."""
    for child in children:
        try:
            ctx.reply(child.build())
        except TypeError as error:  # of a wrong type somewhere in it
            ctx.reply(error)
        await asyncio.sleep(0)
    if fail:
        raise Boom


def _list(children: Sequence[Sendable]) -> list[Any]:
    """A list, of which a wrong type is a part that comes later: at the call it would refuse the whole."""
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
