"""Events of a message that streams: its text, and whatever else of a model's answer arrives before, between and after.

A source yields events beside tokens. They lie in a list of their own, each with the number of tokens before it, so that
readers of tokens neither see nor pay for them. `read_events` puts both together; `read_partial_json` reads the text of
a message as JSON while it grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from miniagents._promising.pauses import FIRST_READ, MOST_READ_PER_LOOK, Pauses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents.messages._message import Message, MessageCell
    from miniagents.messages._roles import ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A token: the next piece of the text. All of them joined are the content of the message."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The next piece of the model's thoughts, as far as the provider shows them."""

    text: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """The next piece of the text with which the model refuses to answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next piece of a call of a tool. The call may still change, or never be made: `ToolCallReady` says that."""

    index: int
    """The place of the call among the calls of the answer, from 0."""
    id: str | None
    """The id of the call, if it came with this piece."""
    name: str | None
    """The name of the tool, if it came with this piece."""
    arguments: str
    """The next piece of the arguments, "" if there is none."""


@dataclass(frozen=True, slots=True)
class ToolCallReady:
    """A whole call of a tool. It comes when the provider has called the answer complete: no other try replaces it."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class AnswerFinished:
    """The end of the events of a message, with the whole message."""

    message: Message


@dataclass(frozen=True, slots=True)
class AnswerRestarted:
    """A note that the request has failed, and is sent again: the events of the answer so far do not count."""


StoredEvent = ReasoningDelta | RefusalDelta | ToolCallDelta | ToolCallReady | AnswerRestarted
"""Events that a source yields; the others are made for each reader."""
STORED_EVENTS: Final = (ReasoningDelta, RefusalDelta, ToolCallDelta, ToolCallReady, AnswerRestarted)
MessageEvent = TextDelta | StoredEvent | AnswerFinished

# A frozen dataclass takes twice as long to make by its constructor, and a reader makes one for each token.
_set_text: Final = TextDelta.__dict__["text"].__set__


async def read_events(cell: MessageCell, promise: object) -> AsyncIterator[Any]:
    """Yield all events of a message in the order of their arrival, from the first one on.

    At the end, yield `AnswerFinished` with the message, or raise its failure. The first `yield` gives `promise` instead
    of an event: `start_reader` takes it, before readers get the generator.

    Args:
        cell: the state of the message.
        promise: the promise of the message, which is kept alive as long as the generator.
    """
    yield promise
    pieces, position, next_event = cell.pieces, 0, 0
    pauses, turn = Pauses(FIRST_READ, MOST_READ_PER_LOOK), FIRST_READ
    make, set_text = object.__new__, _set_text
    while True:
        done = cell.done
        while True:
            events = cell.events or ()
            has_event = next_event < len(events)
            stop = events[next_event][0] if has_event else len(pieces)
            if stop - position > turn:
                turn = pauses.look() or await pauses.pause()
            batch = pieces[position : min(stop, position + turn)]
            position += len(batch)
            for text in batch:
                delta = make(TextDelta)
                set_text(delta, text)
                yield delta
            if batch and position < stop:
                continue
            if not has_event or position < stop:
                break
            yield events[next_event][1]
            next_event += 1
        if done:
            break
        if cell.done or position < len(pieces) or next_event < len(cell.events or ()):
            continue  # there is more since the reader was here
        await cell.wait_for_event()
    yield AnswerFinished(cell.result())


GROWTH: Final = 1.02
"""Factor by which a text must have grown before it is read as JSON again."""


async def read_partial_json(batches: AsyncIterator[list[str]]) -> AsyncIterator[Any]:
    """Yield the value of a growing JSON text, at most once for each 2 % of growth, and at last the whole value.

    The value of a text that ends inside of a string, a list or an object is the part that is there.

    Raises:
        ValueError: the whole text is no JSON.
    """
    text, waiting, size, next_size = "", [], 0, 1.0
    async for batch in batches:
        waiting += batch
        size += sum(map(len, batch))
        if size < next_size:
            continue
        text += "".join(waiting)
        waiting.clear()
        next_size = max(size + 1, size * GROWTH)
        try:
            value = from_json(text, allow_partial="trailing-strings")
        except (ValueError, TypeError):  # nothing but white space so far, or no JSON; TypeError: half a surrogate pair
            continue
        yield value
    try:
        whole = from_json(text + "".join(waiting))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the text of the message is no JSON ({error}): {text[:80]!r}") from None
    yield whole
