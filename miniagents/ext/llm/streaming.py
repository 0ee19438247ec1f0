"""The life of one answer: send the request, read the response, deliver text as it comes, try again where it is safe."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miniagents.errors import LLMError
from miniagents.ext.llm.bodies import ResponseBody
from miniagents.ext.llm.failures import as_llm_error
from miniagents.ext.llm.metadata import metadata_of
from miniagents.ext.llm.sse import DEFAULT_MAX_EVENT_BYTES
from miniagents.ext.llm.watch import StallWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from miniagents.ext.llm.redaction import Redactor
    from miniagents.ext.llm.retries import Retry
    from miniagents.ext.llm.sessions import Session

__all__ = ["LLMCall", "stream_answer"]

logger = logging.getLogger("miniagents.llm")

_AFTER_END = 1.0
"""Seconds to wait, after the provider's last word, for the end of the response; with it the connection can be used
again."""
_PARSED_BY_SDK = "application/vnd.amazon.eventstream"
"""Bedrock's own framing, which only the SDK knows how to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMCall:
    """All that is needed to get one answer."""

    alias: str
    """The agent's, for log lines."""
    provider: str
    send: Callable[[], AbstractAsyncContextManager[Any]]
    """Makes the request; the context gives the SDK's response, whose body is not read yet, and closes it."""
    new_session: Callable[[], Session]
    slot: Callable[[], AbstractAsyncContextManager[Any]]
    """A context that holds one of the places for requests in flight."""
    streamed: bool
    retry: Retry
    stall_timeout: float | None
    redactor: Redactor
    max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES


async def stream_answer(prepare: Callable[[], Awaitable[LLMCall]], metadata: dict[str, Any]) -> AsyncIterator[str]:
    """The tokens of one answer; the rest of the message goes into `metadata`, also of an answer that broke off.

    In whatever way this generator is left, the response is closed before it is gone.

    Args:
        prepare: makes the call when the first token is wanted.
        metadata: filled at the end.

    Raises:
        LLMError: its class says what went wrong; the SDK's or the HTTP library's error is its cause.
    """
    metadata["interrupted"] = True  # until the end has come; whoever cancels sees what there is at that moment
    call = await prepare()
    clock = asyncio.get_running_loop().time
    started = clock()
    attempt = 0
    while True:
        attempt += 1
        session = call.new_session()
        take: Callable[[Any], str] = session.feed

        delivered = responded = False
        try:
            # one generator for everything: each one more on the way costs every token as much as its decoding
            async with call.slot():
                with StallWatch(call.stall_timeout if call.streamed else None, call.provider) as watch:
                    async with call.send() as response:
                        responded = True
                        incoming = _Incoming(call, session, response)
                        if incoming.parsed:
                            take = session.feed_parsed
                        body, chunks = incoming.body, incoming.chunks
                        async for chunk in chunks:
                            watch.waiting = None
                            idle = session.idle_events
                            events = body.feed(chunk)
                            for event in events:
                                token = take(event)
                                if token:
                                    delivered = True
                                    yield token
                            if session.ended:
                                break
                            watch.wait_begins(len(events) > session.idle_events - idle)
                        watch.waiting = None
                        token = await incoming.finish()
                        if token:
                            delivered = True
                            yield token
            metadata.update(metadata_of(session.close()))
            del metadata["interrupted"]
        except Exception as error:
            failure = as_llm_error(error, provider=call.provider, redactor=call.redactor, responded=responded)
            if failure is None:
                raise
            failure.delivered_any = delivered
            wait = call.retry.wait(failure, attempt, clock() - started)
            if wait is None:
                _note_partial(session, metadata)
                raise failure  # noqa: B904 - its cause is set already, where there is one
            _announce(call, failure, attempt, wait)
        except BaseException:
            _note_partial(session, metadata)
            raise
        else:
            return
        await asyncio.sleep(wait)


class _Incoming:
    """The body of a response, as chunks and a way to make events of them."""

    def __init__(self, call: LLMCall, session: Session, response: Any) -> None:
        headers = response.headers
        http_response = response.http_response
        self.session = session
        self.parsed = headers.get("content-type", "").startswith(_PARSED_BY_SDK)
        self.body: Any
        self.chunks: AsyncIterator[Any]
        if self.parsed:
            self.body = _AlreadyParsed()
            self.chunks = _sdk_events(response)
            return
        encoding = headers.get("content-encoding")
        if http_response.is_stream_consumed:  # a transport that gives the whole body at once; it is decoded by now
            encoding = None
            self.chunks = http_response.aiter_bytes()
        else:
            self.chunks = http_response.aiter_raw()
        self.body = ResponseBody(
            session,
            streamed=call.streamed,
            content_type=headers.get("content-type", ""),
            content_encoding=encoding,
            max_event_bytes=call.max_event_bytes,
        )

    async def finish(self) -> str:
        """Read what may come after the last word, and close the body; returns the text of an answer in one piece."""
        if self.session.ended:
            try:
                async with asyncio.timeout(_AFTER_END):
                    async for chunk in self.chunks:
                        self.body.skip(chunk)
            except LLMError:
                raise
            except Exception:
                return ""
        text: str = self.body.close()
        return text


class _AlreadyParsed:
    """Takes the place of a body where the SDK has decoded it."""

    def feed(self, event: Any) -> tuple[dict[str, Any]]:
        return (event.to_dict(),)

    def skip(self, event: Any) -> None:
        pass

    def close(self) -> str:
        return ""


async def _sdk_events(response: Any) -> AsyncIterator[Any]:
    async for event in await response.parse():
        yield event


def _note_partial(session: Session, metadata: dict[str, Any]) -> None:
    with suppress(LLMError):  # the session has refused an event already; this is about what came before it
        metadata.update(metadata_of(session.outcome()), interrupted=True)


def _announce(call: LLMCall, failure: LLMError, attempt: int, wait: float) -> None:
    """No text of the error: it may quote the prompt."""
    logger.warning(
        "%s: attempt %d of %d failed (%s, status %s); trying again in %.1f s",
        call.alias,
        attempt,
        call.retry.attempts,
        type(failure).__name__,
        failure.status,
        wait,
    )
