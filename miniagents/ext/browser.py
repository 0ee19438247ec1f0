"""Replies as server-sent events for browsers, which reconnect by themselves and go on where they were.

```python
async def stream(request):  # Starlette, FastAPI, or any other ASGI framework
    replies = RUNS[request.path_params["id"]]
    events = sse(replies, request.headers.get("last-event-id"))
    return StreamingResponse(events, media_type="text/event-stream")
```

The id of an event is `<message>.<characters>`: the number of the message, from 0, and how much of its text has come.
The server keeps nothing but the promise of the replies, which can be read from any position.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.errors import INTERRUPTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from miniagents.messages import MessagePromise, MessageSequencePromise

__all__ = ["sse"]

_ID = re.compile(r"(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})")
_KEEP_ALIVE = b": keep-alive\n\n"
"""Comment, which a browser ignores."""


class _Position(NamedTuple):
    """Position in replies up to which a browser has read."""

    message: int
    characters: int

    def __str__(self) -> str:
        return f"{self.message}.{self.characters}"


async def sse(
    replies: MessageSequencePromise, last_event_id: str | None = None, *, keep_alive: float = 15.0, retry: float = 1.0
) -> AsyncIterator[bytes]:
    """Yield replies as server-sent events while they stream.

    The data of each event are JSON. Events of a message: `message` (its number, and its role or null), then `token`
    (a text) any number of times, then `done`, or `failed` (name of the error's class). After the last message comes
    `end`: the page closes its source. `reset` says that the position is not known: the page forgets everything, and
    all events come again. After a reconnect, only `done`, `failed` and `end` may come a second time.

    A browser that leaves stops no agent.

    Args:
        replies: replies of an agent, live or finished.
        last_event_id: value of the header `Last-Event-ID`, if the browser has sent one.
        keep_alive: seconds without an event after which a comment is sent, so that proxies keep the connection.
        retry: seconds after which the browser connects again.

    Raises:
        ValueError: `keep_alive` or `retry` is not above 0.
    """
    if not (keep_alive > 0 and retry > 0):
        raise ValueError(f"keep_alive and retry are seconds above 0, not {keep_alive!r} and {retry!r}")
    yield b"retry: %d\n\n" % (retry * 1000)
    events = _events(replies, last_event_id)
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events, None))
            await asyncio.wait([coming], timeout=keep_alive)
            if not coming.done():
                yield _KEEP_ALIVE
                continue
            event, coming = coming.result(), None
            if event is None:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait([coming])
        await events.aclose()


async def _events(replies: MessageSequencePromise, last_event_id: str | None) -> AsyncGenerator[bytes]:
    """Yield the events after the position of `last_event_id`, or all of them if it is None or empty.

    If the replies do not have that position, yield `reset` first, and then all.
    """
    position = None
    if last_event_id:
        match = _ID.fullmatch(last_event_id)
        position = None if match is None else _Position(int(match[1]), int(match[2]))
        if position is None or not await _is_reached(replies, position):
            position = None
            yield _event("reset", "", None)
    number = 0
    async for promise in replies:
        if position is None or number >= position.message:
            seen = position.characters if position is not None and number == position.message else None
            async for event in _events_of(promise, number, seen):
                yield event
        number += 1
    yield _event("end", None, None)


async def _events_of(promise: MessagePromise, number: int, seen: int | None) -> AsyncIterator[bytes]:
    """Yield the events of the message with this number: `message`, its tokens, and `done` or `failed`.

    If the browser has seen `seen` characters of the message, yield only what comes after these; None if it has seen
    nothing of the message.
    """
    if seen is None:
        seen = 0
        role = promise.known_beforehand.get("role") or promise.message_class.model_fields["role"].default
        yield _event("message", _Position(number, 0), {"number": number, "role": role})
    count = 0
    try:
        async for batch in promise.batches():
            text = "".join(batch)
            new = text[max(0, seen - count) :]
            count += len(text)
            if new:
                yield _event("token", _Position(number, count), new)
    except INTERRUPTS:
        raise
    except BaseException as error:
        yield _event("failed", _Position(number, count), type(error).__name__)
    else:
        yield _event("done", _Position(number, count), None)


async def _is_reached(replies: MessageSequencePromise, position: _Position) -> bool:
    """Return True as soon as the replies have this position; return False if they end before it."""
    number = 0
    async for promise in replies:
        if number == position.message:
            return await _has_characters(promise, position.characters)
        number += 1
    return False


async def _has_characters(promise: MessagePromise, wanted: int) -> bool:
    """Return True as soon as the text of a message has `wanted` characters; return False if it ends before."""
    count = 0
    try:
        if wanted:
            async for batch in promise.batches():
                count += sum(map(len, batch))
                if count >= wanted:
                    break
    except INTERRUPTS:
        raise
    except BaseException:  # `_events_of` comes to the same error
        pass
    return count >= wanted


def _event(name: str, position: _Position | str | None, data: Any) -> bytes:
    """Return an event in the format of the WHATWG HTML standard.

    Args:
        name: type of the event.
        position: id of the event; "" makes the browser forget the last id, None lets it keep the last id.
        data: value that is sent as JSON. There are always data: a browser drops an event without.
    """
    id_line = "" if position is None else f"id: {position}\n"
    return f"event: {name}\n{id_line}data: {json.dumps(data)}\n\n".encode()
