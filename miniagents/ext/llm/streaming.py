"""The life of one answer: send the request, read the response, deliver text as it comes, try again where it is safe."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miniagents.errors import LLMError, StreamStalledError
from miniagents.ext.llm.bodies import ResponseBody
from miniagents.ext.llm.failures import as_llm_error
from miniagents.ext.llm.metadata import metadata_of
from miniagents.ext.llm.sse import DEFAULT_MAX_EVENT_BYTES
from miniagents.ext.llm.watch import StallWatch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from miniagents.ext.llm.redaction import Redactor
    from miniagents.ext.llm.retries import Retry
    from miniagents.ext.llm.sessions import Outcome, Session

__all__ = ["AFTER_END", "LLMCall", "stream_answer"]

logger = logging.getLogger("miniagents.llm")

AFTER_END = 1.0
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
    metadata["interrupted"] = True  # until the end has come: whoever cancels sees what there is at that moment
    call = await prepare()
    clock = asyncio.get_running_loop().time
    started = clock()
    attempt = 0
    while True:
        attempt += 1
        session = call.new_session()
        delivered = responded = False
        try:
            # one generator for everything: each one more on the way costs every token as much as its decoding
            async with call.slot():
                with StallWatch(call.stall_timeout if call.streamed else None, call.provider) as watch:
                    async with call.send() as response:
                        responded = True
                        async with aclosing(await _Incoming.of(call, session, response)) as incoming:
                            body, take = incoming.body, incoming.take
                            async for chunk in incoming.chunks:
                                idle = session.idle_events
                                events = body.feed(chunk)
                                for event in events:
                                    token = take(event)
                                    if token:
                                        delivered = True
                                        watch.since = None
                                        yield token
                                if session.ended:
                                    break
                                if watch.since is None or len(events) > session.idle_events - idle:
                                    watch.since = clock()
                            watch.since = None
                            token = await incoming.finish()
                            if token:
                                delivered = True
                                yield token
            outcome = session.close()
        except Exception as error:
            if (known := _complete_all_the_same(session, error)) is None:
                _note_partial(session, metadata)
                wait = _wait_or_raise(call, error, attempt, clock() - started, responded, delivered)
                await asyncio.sleep(wait)
                continue
            outcome = known
        except BaseException:
            _note_partial(session, metadata)
            raise
        metadata.clear()
        metadata.update(metadata_of(outcome))
        return


def _complete_all_the_same(session: Session, error: Exception) -> Outcome | None:
    """A connection that is lost, or held open, after the provider has said its last word does not harm the answer."""
    if isinstance(error, LLMError) and not isinstance(error, StreamStalledError):
        return None
    outcome = session.outcome()
    return outcome if outcome.complete else None


def _wait_or_raise(
    call: LLMCall, error: Exception, attempt: int, elapsed: float, responded: bool, delivered: bool
) -> float:
    """Seconds until the next attempt; where there is none, what the reader gets."""
    failure = as_llm_error(error, provider=call.provider, redactor=call.redactor, responded=responded)
    if failure is None:
        raise error
    failure.delivered_any = delivered
    wait = call.retry.wait(failure, attempt, elapsed)
    if wait is None:
        raise failure
    # no text of the error: it may quote the prompt
    logger.warning(
        "%s: attempt %d of %d failed (%s, status %s); trying again in %.1f s",
        call.alias,
        attempt,
        call.retry.attempts,
        type(failure).__name__,
        failure.status,
        wait,
    )
    return wait


class _Incoming:
    """The body of a response, as chunks and a way to make events of them."""

    def __init__(self, session: Session, body: Any, chunks: AsyncGenerator[Any], take: Callable[[Any], str]) -> None:
        self.session = session
        self.body = body
        self.chunks = chunks
        self.take = take

    @classmethod
    async def of(cls, call: LLMCall, session: Session, response: Any) -> _Incoming:
        """Find out how this response is to be read."""
        http_response = response.http_response
        content_type = response.headers.get("content-type", "")
        if content_type.startswith(_PARSED_BY_SDK):
            return cls(session, _ParsedBySDK(), aiter(await response.parse()), session.feed_parsed)
        encoding = response.headers.get("content-encoding")
        if http_response.is_stream_consumed:  # a transport that gives the whole body at once; it is decoded by now
            encoding = None
            chunks = http_response.aiter_bytes()
        else:
            chunks = http_response.aiter_raw()
        body = ResponseBody(
            session,
            streamed=call.streamed,
            content_type=content_type,
            content_encoding=encoding,
            max_event_bytes=call.max_event_bytes,
        )
        return cls(session, body, chunks, session.feed)

    async def finish(self) -> str:
        """Read what may come after the last word, and close the body; returns the text of an answer in one piece."""
        if self.session.ended:
            try:
                async with asyncio.timeout(AFTER_END):
                    async for chunk in self.chunks:
                        self.body.skip(chunk)
            except LLMError:
                raise
            except Exception:
                return ""
        text: str = self.body.close()
        return text

    async def aclose(self) -> None:
        """Nothing more is read: whoever gave the chunks is not left to the event loop to be closed."""
        await self.chunks.aclose()


class _ParsedBySDK:
    """Takes the place of a body where the SDK has decoded it."""

    def feed(self, event: Any) -> tuple[dict[str, Any]]:
        if event.type == "content_block_delta":
            delta = event.delta
            if delta.type == "text_delta":  # nearly all are; `to_dict` would cost 10 us
                return (
                    {"type": event.type, "index": event.index, "delta": {"type": "text_delta", "text": delta.text}},
                )
        fields: dict[str, Any] = event.to_dict()
        return (fields,)

    def skip(self, event: Any) -> None:
        pass

    def close(self) -> str:
        return ""


def _note_partial(session: Session, metadata: dict[str, Any]) -> None:
    with suppress(LLMError):  # the session has refused an event already; this is about what came before it
        metadata.clear()
        metadata.update(metadata_of(session.outcome()), interrupted=True)
