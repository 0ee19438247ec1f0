"""The life of one answer: send the request, read the response, deliver text as it comes, try again where it is safe.

The one place where a session's outcome becomes fields of a message.

What a response turns out to be: an event stream, one JSON document, or something else altogether.

A clock that notices when an answer makes no progress any more.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from miniagents.bounds import MAX_DOCUMENT_BYTES, MAX_EVENT_BYTES, MAX_PAGE_BYTES
from miniagents.errors import (
    EventTooLargeError,
    LLMError,
    StreamProtocolError,
    StreamStalledError,
    StreamTruncatedError,
)
from miniagents.ext.llm._failures import as_llm_error
from miniagents.ext.llm.sse import SSEDecoder, inflater_for
from miniagents.messages import AssistantMessage, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from miniagents.ext.llm._failures import Retry
    from miniagents.ext.llm._redaction import Redactor
    from miniagents.ext.llm._sessions import Choice, Outcome, Session, Tokens, ToolUse
    from miniagents.ext.llm.sse import ServerSentEvent


def metadata_of(outcome: Outcome) -> dict[str, Any]:
    """Fields of an `AssistantMessage` for what an answer came to; all but its content."""
    metadata: dict[str, Any] = {
        "id": outcome.id,
        "model": outcome.model,
        "finish_reason": outcome.finish_reason,
        "provider_finish_reason": outcome.provider_finish_reason,
        "usage": _usage(outcome.usage, outcome.raw_usage),
        "tool_calls": _tool_calls(outcome.tool_calls),
        "refusal": outcome.refusal,
        "reasoning": outcome.reasoning,
        "choices": tuple(map(_choice, outcome.choices)),
    }
    if outcome.unknown_events:
        metadata["unknown_events"] = outcome.unknown_events
    if outcome.lossy:
        metadata["lossy"] = True
    if outcome.doubts:
        metadata["doubts"] = outcome.doubts
    for name, value in outcome.extra.items():
        # a provider may call a field what a message calls a method
        taken = name in metadata or hasattr(AssistantMessage, name) or name in AssistantMessage.model_fields
        metadata[f"provider_{name}" if taken or name.startswith("_") or name == "class_" else name] = value
    return {name: value for name, value in metadata.items() if value not in (None, ())}


def _usage(tokens: Tokens | None, raw: dict[str, Any] | None) -> Usage | None:
    if tokens is None:
        return None
    counted = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cached_tokens": tokens.cached,
        "reasoning_tokens": tokens.reasoning,
        "total_tokens": tokens.total,
    }
    said_already = counted.keys() | {"prompt_tokens", "completion_tokens"}
    more = {
        name: value
        for name, value in (raw or {}).items()
        if name not in said_already and value is not None and not hasattr(Usage, name)
    }
    return Usage(**counted, **more)


def _tool_calls(calls: tuple[ToolUse, ...]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(
            id=call.id or None,
            name=call.name or None,
            arguments=call.arguments,
            **({} if call.type == "function" else {"type": call.type}),
        )
        for call in calls
    )


def _choice(choice: Choice) -> AssistantMessage:
    return AssistantMessage(
        choice.content,
        finish_reason=choice.finish_reason,
        tool_calls=_tool_calls(choice.tool_calls),
        refusal=choice.refusal,
        reasoning=choice.reasoning,
    )


_EXCERPT = 200
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""What the lines of an event stream begin with."""


class ResponseBody:
    """Takes the raw bytes of a successful response: `feed` gives the events in them, `close` the text that is left.

    A stream is read as it comes. Where the answer was not asked for as a stream, or the server answers with one JSON
    document all the same, the document is collected and parsed at its end. HTML and the like (a proxy's page, a wrong
    base URL) is refused.

    Args:
        session: what the events will be fed to, by the caller, and a document by us.
        streamed: whether a stream was asked for.
        content_type: the header of that name.
        content_encoding: the header of that name, None where the bytes are decoded already.
        max_event_bytes: see `SSEDecoder`.

    Raises:
        StreamDecodeError: the body is compressed in a way we cannot read.
    """

    def __init__(
        self,
        session: Session,
        *,
        streamed: bool,
        content_type: str,
        content_encoding: str | None,
        max_event_bytes: int,
    ) -> None:
        self.decoder = SSEDecoder(max_event_bytes=max_event_bytes)
        self._session = session
        session.decoder = self.decoder
        self._inflater = inflater_for(content_encoding)
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._document: list[bytes] = []
        self._page = False
        self._size = 0
        self.feed: Callable[[bytes], list[ServerSentEvent]] = self._feed_first if streamed else self._feed_document
        """The events that end in these bytes. Becomes shorter once it is known what the bytes are."""

    def _feed_first(self, chunk: bytes) -> list[ServerSentEvent]:
        """The first bytes decide; the content type is wrong too often, and counts only where they say nothing."""
        plain = chunk if self._inflater is None else self._inflater.feed(chunk)
        text = plain.lstrip()
        if not text:
            return []  # so far there was nothing but white space, which is no event either
        self._page = text.startswith(b"<") or (self._content_type == "text/html" and not text.startswith(_FIELDS))
        if self._page or text.startswith((b"{", b"[")):
            self.feed = self._feed_document
            return self._collect(plain)
        self.feed = self.decoder.feed if self._inflater is None else self._feed_compressed
        return self.decoder.feed(plain)

    def _feed_compressed(self, chunk: bytes) -> list[ServerSentEvent]:
        return self.decoder.feed(chunk if self._inflater is None else self._inflater.feed(chunk))

    def _feed_document(self, chunk: bytes) -> list[ServerSentEvent]:
        return self._collect(chunk if self._inflater is None else self._inflater.feed(chunk))

    def _collect(self, plain: bytes) -> list[ServerSentEvent]:
        self._document.append(plain)
        self._size += len(plain)
        if self._page and self._size > MAX_PAGE_BYTES:
            raise self._unexpected()
        if self._size > MAX_DOCUMENT_BYTES:
            raise EventTooLargeError(f"the response is larger than {MAX_DOCUMENT_BYTES} bytes")
        return []

    def skip(self, chunk: bytes) -> None:
        """Bytes after the end of the answer; only the end of the compression still matters."""
        if self._inflater is not None:
            self._inflater.feed(chunk)

    def close(self) -> str:
        """The end of the bytes; returns the text of an answer that came as one document.

        Raises:
            StreamTruncatedError: the compressed body was cut, or the stream inside an event that was still needed.
            StreamProtocolError: this is not an answer of the provider.
            LLMError: as the session's `parse` does.
        """
        if self._inflater is not None:
            self._inflater.close()
        if self._page:
            raise self._unexpected()
        if self.feed == self._feed_document:
            return self._session.parse(b"".join(self._document)).content
        if self.decoder.close() and not self._session.outcome().complete:
            raise StreamTruncatedError(f"the stream was cut inside an event, after {self.decoder.bytes_fed} bytes")
        return ""

    def _unexpected(self) -> StreamProtocolError:
        text = b"".join(self._document)[:_EXCERPT].decode(errors="replace")
        kind = self._content_type or "without a content type"
        return StreamProtocolError(
            f"the response is not an answer of the API but a page ({kind}), which begins: {text!r}"
        )


class StallWatch:
    """Interrupts whoever waits for the next bytes when the last progress is too long ago.

    Progress is what the answer gains, not the bytes that arrive: pings and keep-alives can come for ever. One timer
    for the whole stream; what a chunk costs is two attribute writes and a look at the clock. The time a consumer takes
    between two tokens does not count. It is entered in the task that waits.

    Args:
        seconds: without progress; None watches nothing.
    """

    def __init__(self, seconds: float | None, provider: str) -> None:
        self._seconds = seconds
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self.since: float | None = None
        """When the wait for progress began, by the loop's clock; to be set to None while the task does something
        else."""
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self.since = self._loop.time()
        if self._seconds is not None:
            self._timer = self._loop.call_later(self._seconds, self._check)
        return self

    def _check(self) -> None:
        seconds = self._seconds or 0.0
        idle = 0.0 if self.since is None else self._loop.time() - self.since
        if self._task is not None and idle >= seconds:
            self._fired = True
            self._cancelling = self._task.cancelling()
            self._task.cancel()
            return
        self._timer = self._loop.call_later(max(seconds - idle, 0.001), self._check)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        # as asyncio.timeout does it: if somebody else cancelled the task as well, that goes first
        if self._fired and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise StreamStalledError(
                f"{self._provider} made no progress for {self._seconds:g} seconds", provider=self._provider
            ) from error


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
    max_event_bytes: int = MAX_EVENT_BYTES


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
        delivered, answer = False, None
        try:
            # one generator for everything: each one more on the way costs every token as much as its decoding
            async with call.slot():
                with StallWatch(call.stall_timeout if call.streamed else None, call.provider) as watch:
                    async with call.send() as response:
                        answer = response.http_response
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
            if (known := _complete_outcome(session, error)) is None:
                _note_partial(session, metadata)
                failure = _failure(call, error, answer, delivered)
                wait = _wait(call, failure, attempt, clock() - started)
                if wait is None:
                    if session.withheld:  # it came with the failure, and no reader has got it
                        failure.delivered_any = True
                        yield session.withheld
                    raise failure  # noqa: B904 - its cause is set already
                await asyncio.sleep(wait)
                continue
            outcome = known
        except BaseException:
            _note_partial(session, metadata)
            raise
        metadata.clear()
        metadata.update(metadata_of(outcome))
        return


def _complete_outcome(session: Session, error: Exception) -> Outcome | None:
    """A connection that is lost, or held open, after the provider has said its last word does not harm the answer."""
    if isinstance(error, LLMError) and not isinstance(error, StreamStalledError):
        return None
    outcome = session.outcome()
    return outcome if outcome.complete else None


def _failure(call: LLMCall, error: Exception, answer: Any, delivered: bool) -> LLMError:
    """Return our error for another one; raises that one where it is no failure of the provider or the network."""
    call.redactor.learn_from(answer)
    failure = as_llm_error(error, provider=call.provider, redactor=call.redactor, responded=answer is not None)
    if failure is None:
        raise error
    failure.delivered_any = delivered
    return failure


def _wait(call: LLMCall, failure: LLMError, attempt: int, elapsed: float) -> float | None:
    """Return the seconds until the next attempt, None where there is none."""
    wait = call.retry.wait(failure, attempt, elapsed)
    if wait is None:
        return None
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
