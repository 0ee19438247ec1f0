"""Request and streaming of one answer, the same for all providers.

`stream_answer` sends a request, yields the text of the answer as it arrives, and sends the request again if that is
safe. Its parts:

- `ResponseBody` reads the bytes of a response: an event stream, or one JSON document. It refuses other documents.
- `_StallWatch` ends the wait for an answer that makes no progress.
- `_metadata_of` turns the outcome of a session into fields of a message.

The module is independent of the providers' formats, which the sessions read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic_core import from_json

from miniagents._promising.schemas import has_attribute
from miniagents.bounds import MAX_DOCUMENT_BYTES, MAX_EVENT_BYTES, MAX_PAGE_BYTES
from miniagents.errors import (
    EventTooLargeError,
    LLMError,
    MiniAgentsError,
    StreamProtocolError,
    StreamStalledError,
    StreamTruncatedError,
)
from miniagents.ext.llm._failures import as_llm_error
from miniagents.ext.llm.sse import SSEDecoder, inflater_for
from miniagents.messages import AnswerRestarted, AssistantMessage, ToolCall, ToolCallDelta, ToolCallReady, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from miniagents._agents.usage import EndRequest, RequestMeter
    from miniagents.ext.llm._failures import Retry
    from miniagents.ext.llm._redaction import Redactor
    from miniagents.ext.llm._sessions import Choice, Outcome, Session, Tokens, ToolUse
    from miniagents.ext.llm.sse import ServerSentEvent
    from miniagents.messages._events import StoredEvent


def _metadata_of(outcome: Outcome, origin: str | None) -> dict[str, Any]:
    """Return the fields of an `AssistantMessage` for an outcome, with its further fields, and without the content.

    Fields that are None, `()` or `{}` are left out. Further fields get the names that `_free_name` returns.

    Args:
        outcome: the values of the answer.
        origin: the API and the host that sent the answer.
    """
    metadata: dict[str, Any] = {
        "id": outcome.id,
        "model": outcome.model,
        "finish_reason": outcome.finish_reason,
        "provider_finish_reason": outcome.provider_finish_reason,
        "usage": _usage(outcome.usage, outcome.raw_usage),
        "tool_calls": _tool_calls(outcome.tool_calls) if outcome.tool_calls else (),
        "refusal": outcome.refusal,
        "reasoning": outcome.reasoning,
        "choices": tuple([_choice(choice, origin) for choice in outcome.choices]) if outcome.choices else (),
        "origin": origin,
        "echo": _echo(outcome, AssistantMessage) if outcome.fields else {},
    }
    if outcome.unknown_events:
        metadata["unknown_events"] = outcome.unknown_events
    if outcome.lossy:
        metadata["lossy"] = True
    if outcome.doubts:
        metadata["doubts"] = outcome.doubts
    metadata |= {_free_name(name, AssistantMessage): value for name, value in outcome.extra.items()}
    # `in (None, (), {})` would compare the usage with each of them, by digests
    return {name: value for name, value in metadata.items() if value is not None and (value or value not in ((), {}))}


_TAKEN: Final = {
    AssistantMessage: frozenset({"unknown_events", "lossy", "doubts"}),
    ToolCall: frozenset({"function", "custom", "input", "call_id"}),  # a call in a provider's form is known by these
}
"""Names that have a meaning here, besides those of declared fields and methods."""


def _free_name(name: str, owner: type[AssistantMessage | ToolCall]) -> str:
    """Return the name that a provider's field gets in an object of class `owner`.

    The name gets the prefix `provider_` if these objects use it already, if it begins with `_`, or if it is `class_`.
    """
    taken = name in _TAKEN[owner] or has_attribute(owner, name)
    return f"provider_{name}" if taken or name.startswith("_") or name == "class_" else name


def _echo(holder: Outcome | Choice | ToolUse, owner: type[AssistantMessage | ToolCall]) -> dict[str, str]:
    """Return the provider's name of each field that a later prompt sends back, with its name in an `owner` object."""
    reasoning = getattr(holder, "reasoning", None)
    return {
        name: "reasoning" if reasoning and value == reasoning else _free_name(name, owner)
        for name, value in holder.fields.items()
    }


def _usage(tokens: Tokens | None, raw: dict[str, Any] | None) -> Usage | None:
    """Return a `Usage` with the numbers of tokens and the further fields of `raw`; None if the answer has no usage."""
    if tokens is None:
        return None
    counted = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cached_tokens": tokens.cached,
        "cache_write_tokens": tokens.written,
        "reasoning_tokens": tokens.reasoning,
        "total_tokens": tokens.total,
    }
    more = {
        name: value
        for name, value in (raw or {}).items()
        if not (value is None or name in ("prompt_tokens", "completion_tokens") or has_attribute(Usage, name))
    }
    return Usage(**counted, raw=raw, **more)


def _tool_calls(calls: tuple[ToolUse, ...]) -> tuple[ToolCall, ...]:
    """Convert the tool calls of an outcome."""
    return tuple(map(_tool_call, calls))


def _tool_call(call: ToolUse) -> ToolCall:
    """Convert a tool call; an empty id or name becomes None, and further fields get the names of `_free_name`."""
    more: dict[str, Any] = {} if call.type == "function" else {"type": call.type}
    if call.fields:
        more["echo"] = _echo(call, ToolCall)
        more |= {_free_name(name, ToolCall): value for name, value in call.fields.items()}
    return ToolCall(id=call.id or None, name=call.name or None, arguments=call.arguments, **more)


def _choice(choice: Choice, origin: str | None) -> AssistantMessage:
    """Convert a further choice into a message, which has no usage, id or model.

    Its further fields get the names that `_free_name` returns.
    """
    more = {name: value for name, value in choice.fields.items() if value != choice.reasoning}
    return AssistantMessage(
        choice.content,
        finish_reason=choice.finish_reason,
        tool_calls=_tool_calls(choice.tool_calls),
        refusal=choice.refusal,
        reasoning=choice.reasoning,
        origin=origin,
        echo=_echo(choice, AssistantMessage) or None,
        **{_free_name(name, AssistantMessage): value for name, value in more.items()},
    )


_EXCERPT = 200
"""Bytes of an unexpected page that the error text quotes."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""Beginnings of the lines of an event stream."""


class ResponseBody:
    """Reader of the body of a successful response: `feed` returns events, `close` the text of a document.

    An event stream is decoded as it arrives. A JSON document is collected and parsed at its end. A server may send a
    document even if a stream was asked for. An HTML page (of a proxy, or because of a wrong base URL) is refused.

    Args:
        session: the session of the answer. The caller feeds it the events; a document is parsed by it in `close`.
        streamed: True if a stream was asked for.
        content_type: the header of that name.
        content_encoding: the header of that name; None if the bytes are decompressed already.
        max_event_bytes: the limit for one event in bytes, see `SSEDecoder`.

    Raises:
        StreamDecodeError: the body is compressed with an unknown encoding.
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
        self._is_page = False
        self._size = 0
        self.feed: Callable[[bytes], list[ServerSentEvent]] = self._feed_first if streamed else self._feed_document
        """Function that takes bytes and returns the events that end in them.

        The first bytes decide which function reads the rest, so that each later chunk costs one call less.
        """

    def _feed_first(self, chunk: bytes) -> list[ServerSentEvent]:
        """Find out from the first bytes how the body is to be read, and read them.

        White space at the start is dropped. The content type counts only if the first bytes are ambiguous, because it
        is wrong too often.
        """
        plain = chunk if self._inflater is None else self._inflater.feed(chunk)
        text = plain.lstrip()
        if not text:
            return []  # only white space so far, which holds no event
        self._is_page = text.startswith(b"<") or (self._content_type == "text/html" and not text.startswith(_FIELDS))
        if self._is_page or text.startswith((b"{", b"[")):
            self.feed = self._feed_document
            return self._collect(plain)
        self.feed = self.decoder.feed if self._inflater is None else self._feed_compressed
        return self.decoder.feed(plain)

    def _feed_compressed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Decompress a chunk, and return the events that end in it."""
        return self.decoder.feed(chunk if self._inflater is None else self._inflater.feed(chunk))

    def _feed_document(self, chunk: bytes) -> list[ServerSentEvent]:
        """Collect a chunk of a document, which holds no events."""
        return self._collect(chunk if self._inflater is None else self._inflater.feed(chunk))

    def _collect(self, plain: bytes) -> list[ServerSentEvent]:
        """Collect decompressed bytes of a document, and return no events; raise an error above the limit for its size.

        For an HTML page, that is the error of a page, at a smaller limit.
        """
        self._document.append(plain)
        self._size += len(plain)
        if self._is_page and self._size > MAX_PAGE_BYTES:
            raise self._page_error()
        if self._size > MAX_DOCUMENT_BYTES:
            raise EventTooLargeError(f"the response is larger than {MAX_DOCUMENT_BYTES} bytes")
        return []

    def skip(self, chunk: bytes) -> None:
        """Decompress bytes that come after the end of the answer, only to detect that a compressed body was cut off."""
        if self._inflater is not None:
            self._inflater.feed(chunk)

    def close(self) -> str:
        """End the body, and return the text of an answer that came as one document ("" for a stream).

        Raises:
            StreamDecodeError: the compressed body is damaged.
            StreamTruncatedError: the compressed body was cut, or an incomplete answer was cut inside an event.
            StreamProtocolError: the body is not an answer of the provider.
            LLMError: the session refuses the document, see `Session.parse`.
        """
        if self._inflater is not None:
            self._inflater.close()
        if self._is_page:
            raise self._page_error()
        if self.feed == self._feed_document:
            return self._session.parse(b"".join(self._document)).content
        if self.decoder.close() and not self._session.outcome().complete:
            raise StreamTruncatedError(f"the stream was cut inside an event, after {self.decoder.bytes_fed} bytes")
        return ""

    def _page_error(self) -> StreamProtocolError:
        """Return the error for an HTML page, with the beginning of the page."""
        text = b"".join(self._document)[:_EXCERPT].decode(errors="replace")
        kind = self._content_type or "without a content type"
        return StreamProtocolError(
            f"the response is not an answer of the API but a page ({kind}), which begins: {text!r}"
        )


class _StallWatch:
    """Context manager that ends a wait for the next bytes if the answer makes no progress for too long.

    An answer makes progress when its text or metadata grow. Pings and keep-alives are no progress, because they can
    arrive for ever. The time that the reader takes between two tokens does not count. The task that waits enters the
    context, and is cancelled in it. One timer serves the whole stream; each chunk costs two writes to attributes and
    one look at the clock.

    Args:
        seconds: seconds without progress after which the wait ends; None for no limit.
        provider: "openai" or "anthropic".

    Raises:
        StreamStalledError: on leaving the context, after `seconds` without progress.
    """

    def __init__(self, seconds: float | None, provider: str) -> None:
        self._seconds = seconds
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self.waiting_since: float | None = None
        """Time of the loop's clock when the wait for progress began; None while the task does not wait for bytes."""
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self.waiting_since = self._loop.time()
        if self._seconds is not None:
            self._timer = self._loop.call_later(self._seconds, self._check)
        return self

    def _check(self) -> None:
        """Cancel the task if it has waited too long; otherwise set the timer for the time that is left."""
        seconds = self._seconds or 0.0
        idle = 0.0 if self.waiting_since is None else self._loop.time() - self.waiting_since
        if self._task is not None and idle >= seconds:
            self._fired = True
            self._cancelling = self._task.cancelling()
            self._task.cancel()
            return
        self._timer = self._loop.call_later(max(seconds - idle, 0.001), self._check)

    def end_within(self, seconds: float) -> None:
        """End the wait for the rest of the answer after so many seconds from now, which progress does not prolong."""
        if self._timer is not None:
            self._timer.cancel()
        self._seconds = seconds
        self.waiting_since = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._check)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        # as in asyncio.timeout: if other code cancelled the task as well, that cancellation goes first
        if self._fired and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise StreamStalledError(
                f"{self._provider} made no progress for {self._seconds:g} seconds", provider=self._provider
            ) from error


logger = logging.getLogger("miniagents.llm")

AFTER_END = 1.0
"""Seconds to wait for the end of the response after the answer is complete.

A connection can be used again only after the end of its response.
"""
_PARSED_BY_SDK = "application/vnd.amazon.eventstream"
"""Content type of Bedrock's own event format, which only the SDK can decode."""


@dataclass(slots=True, kw_only=True)
class LLMCall:
    """Request for one answer, with the policies under which it is sent."""

    alias: str
    """Alias of the agent, for log lines."""
    provider: str
    origin: str
    """The API and the host that the request goes to, see `AssistantMessage.origin`."""
    model: str
    """The name of the model that is asked for."""
    meter: RequestMeter
    send: Callable[[], AbstractAsyncContextManager[Any]]
    """Function that returns a context: it sends the request, gives the SDK's response before its body is read, and
    closes the response."""
    new_session: Callable[[], Session]
    """Function that makes a session for one attempt."""
    admit: Callable[[], AbstractAsyncContextManager[Any]]
    """Function that returns a context manager, in which the request counts as one of the concurrent requests."""
    streamed: bool
    """True if a stream is asked for."""
    asks_for_usage: Callable[[], bool]
    """Function that returns True if the request asks for its usage by `stream_options`."""
    retry: Retry
    stall_timeout: float | None
    """Seconds without progress after which a stream is given up; None for no limit."""
    redactor: Redactor
    max_event_bytes: int = MAX_EVENT_BYTES
    on_calls: Callable[[tuple[ToolCall, ...], str | None], None] | None = None
    """Function that gets the calls of tools and the finish reason, once the provider has said that the answer is
    complete, also if the response goes on. It is not called for calls whose arguments are no JSON object."""
    check: Callable[[str, dict[str, Any]], None] | None = None
    """Function that gets the text and the other fields of a complete answer, and raises an error if it is not valid."""


async def stream_answer(
    prepare: Callable[[], Awaitable[LLMCall]], metadata: dict[str, Any]
) -> AsyncIterator[str | StoredEvent]:
    """Yield the tokens and other events of one answer, and put the other fields of its message into `metadata`.

    A request that fails before its first token and before a `ToolCallReady` is sent again, if the call's policy allows
    it. The reader gets an `AnswerRestarted` first. The metadata of an answer that broke off are filled in too, with
    `interrupted=True`. The response is closed when this generator ends, by an error or by `aclose` as well.

    Args:
        prepare: function that makes the call; it runs once, when the reader asks for the first token.
        metadata: dict that is filled at the end.

    Raises:
        LLMError: the request failed; the class tells how. The SDK's or the HTTP library's error is its cause.
        LimitExceededError, PriceUnknownError, UsageUnknownError: the request was not sent, see `Limits`.
        OutputInvalidError: the answer is complete, but is not the output that the caller asked for.
    """
    metadata["interrupted"] = True  # for a reader of the metadata after a cancellation; replaced at the end
    call = await prepare()
    clock = asyncio.get_running_loop().time
    started = clock()
    attempt = 0
    failure: LLMError | None = None
    while True:
        attempt += 1
        session = call.new_session()
        delivered, answer, end_request = False, None, None
        watches_calls = call.on_calls is not None
        ready: tuple[ToolCall, ...] = ()
        if failure is not None:
            yield AnswerRestarted()
        try:
            # One generator does all: to pass a token through a second one costs as much time as to decode it.
            async with call.admit():
                end_request = _begin_request(call, failure)
                with _StallWatch(call.stall_timeout if call.streamed else None, call.provider) as watch:
                    async with call.send() as response:
                        answer = response.http_response
                        incoming = await _IncomingBody.of(call, session, response)
                        try:
                            body, take = incoming.body, incoming.take
                            async for chunk in incoming.chunks:
                                idle = session.idle_events
                                events = body.feed(chunk)
                                for event in events:
                                    token = take(event)
                                    if session.beside:
                                        watch.waiting_since = None
                                        for each in session.take_beside():
                                            yield each
                                            watches_calls = watches_calls or type(each) is ToolCallDelta
                                    if token:
                                        delivered = True
                                        watch.waiting_since = None
                                        yield token
                                if watches_calls and not ready and session.is_complete:
                                    watches_calls = False
                                    ready = _announce_calls(call, session, metadata)
                                    delivered = delivered or bool(ready)
                                    watch.waiting_since = None
                                    for tool_call in ready:
                                        yield ToolCallReady(tool_call)
                                if session.ended:
                                    break
                                if watch.waiting_since is None or len(events) > session.idle_events - idle:
                                    watch.waiting_since = clock()
                            watch.waiting_since = None
                            token = await incoming.finish(watch)
                            for each in session.take_beside():
                                yield each
                            if token:
                                delivered = True
                                yield token
                        finally:
                            await incoming.aclose()
            outcome = session.close()
        except Exception as error:
            if (completed := _complete_outcome(session, error)) is None:
                _keep_partial_answer(session, call.origin, metadata)
                _count_request(end_request, metadata)
                failure = _translate_error(call, error, answer, delivered)
                wait = _seconds_until_retry(call, failure, attempt, clock() - started)
                if wait is None:
                    if session.withheld:  # text that came in the event of the failure, and was not delivered
                        failure.delivered_any = True
                        yield session.withheld
                    raise failure  # noqa: B904 - its cause is set already
                await asyncio.sleep(wait)
                continue
            outcome = completed
        except BaseException:
            _keep_partial_answer(session, call.origin, metadata)
            _count_request(end_request, metadata)
            raise
        metadata.clear()
        metadata.update(_metadata_of(outcome, call.origin))
        _count_request(end_request, metadata)
        for tool_call in metadata.get("tool_calls", ())[len(ready) :]:
            yield ToolCallReady(tool_call)
        if call.check is not None:
            call.check(outcome.content, metadata)
        return


def _begin_request(call: LLMCall, failure: LLMError | None) -> EndRequest:
    """Check the limits and count a request that is about to be sent; return the function to call at its end.

    Raises:
        LimitExceededError, PriceUnknownError, UsageUnknownError: the request is not sent; the cause is the failure of
            the last attempt.
    """
    try:
        return call.meter.begin(call.model, call.asks_for_usage)
    except MiniAgentsError as error:
        raise error from failure


def _count_request(end_request: EndRequest | None, metadata: dict[str, Any]) -> None:
    """Count what a request took, as its message says; do nothing for a request that was not sent."""
    if end_request is not None:
        end_request(metadata.get("model"), metadata.get("usage"), not metadata.get("interrupted"))


def _announce_calls(call: LLMCall, session: Session, metadata: dict[str, Any]) -> tuple[ToolCall, ...]:
    """Return the calls of a complete answer, and give them to `on_calls`; return none if they may not be whole.

    Before `on_calls` is called, put what is known of the answer into `metadata`: if the rest of the response fails, or
    the answer is cancelled, the message so far must have the calls that were started. Calls whose arguments are no JSON
    object yet are left to the end of the response, because some servers send a finish reason too early.
    """
    fields = _metadata_so_far(session, call.origin)
    calls: tuple[ToolCall, ...] = fields.get("tool_calls", ())
    if not calls or not all(_is_object(each.arguments) for each in calls):
        return ()
    metadata.clear()
    metadata.update(fields)
    if call.on_calls is not None:
        call.on_calls(calls, fields.get("finish_reason"))
    return calls


def _is_object(text: str) -> bool:
    """Return True if a text is a whole JSON object."""
    try:
        return isinstance(from_json(text), dict)
    except ValueError:
        return False


def _complete_outcome(session: Session, error: Exception) -> Outcome | None:
    """Return the outcome if the answer was complete before the error came; None if the error has to be raised.

    A connection that breaks or stalls after the last event of an answer does not harm that answer. An `LLMError` of
    another kind has to be raised.
    """
    if isinstance(error, LLMError) and not isinstance(error, StreamStalledError):
        return None
    outcome = session.outcome()
    return outcome if outcome.complete else None


def _translate_error(call: LLMCall, error: Exception, answer: Any, delivered: bool) -> LLMError:
    """Translate an error into an `LLMError`, which says if tokens were `delivered`.

    Raises:
        Exception: the same error, if neither the provider nor the network caused it.
    """
    call.redactor.learn_from(answer)
    failure = as_llm_error(error, provider=call.provider, redactor=call.redactor, responded=answer is not None)
    if failure is None:
        raise error
    failure.delivered_any = delivered
    return failure


def _seconds_until_retry(call: LLMCall, failure: LLMError, attempt: int, elapsed: float) -> float | None:
    """Return the seconds to wait before the next attempt, and log a warning; return None if there is no next one.

    Args:
        call: the request.
        failure: error of the last attempt.
        attempt: number of that attempt, from 1.
        elapsed: seconds since the first attempt began.
    """
    wait = call.retry.wait(failure, attempt, elapsed)
    if wait is None:
        return None
    # without the text of the error, which may quote the prompt
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


class _IncomingBody:
    """Body of a response: its chunks, the reader that makes events of them, and the session's function for events."""

    def __init__(self, session: Session, body: Any, chunks: AsyncIterator[Any], take: Callable[[Any], str]) -> None:
        self.session = session
        self.body = body
        self.chunks = chunks
        self.take = take

    @classmethod
    async def of(cls, call: LLMCall, session: Session, response: Any) -> _IncomingBody:
        """Return the body of this response with the reader for its content type.

        A body that the transport has given as a whole counts as decompressed.

        An event stream in a binary format, which only the SDK can decode, comes through the SDK's own parser.
        """
        http_response = response.http_response
        headers = response.headers
        content_type = headers.get("content-type", "")
        if content_type.startswith(_PARSED_BY_SDK):
            return cls(session, _ParsedBySDK(), aiter(await response.parse()), session.feed_parsed)
        encoding = headers.get("content-encoding")
        if http_response.is_stream_consumed:  # the transport gave the whole body at once, which is decompressed by now
            encoding = None
            chunks = http_response.aiter_bytes()
        else:
            # `aiter_raw` yields the same bytes through another generator, which takes a tenth of a short answer
            chunks = aiter(http_response.stream)
        body = ResponseBody(
            session,
            streamed=call.streamed,
            content_type=content_type,
            content_encoding=encoding,
            max_event_bytes=call.max_event_bytes,
        )
        return cls(session, body, chunks, session.feed)

    async def finish(self, watch: _StallWatch) -> str:
        """Read the rest of the response, close the body, and return the text of an answer that came as a document.

        Return "" for a stream. After an answer that has ended, drop the rest, for which `watch` waits `AFTER_END`
        seconds. Stop at an error that is no `LLMError`, and return "".
        """
        if self.session.ended:
            try:
                watch.end_within(AFTER_END)
                async for chunk in self.chunks:
                    self.body.skip(chunk)
            except LLMError:
                raise
            except Exception:
                return ""
            finally:
                watch.waiting_since = None
        text: str = self.body.close()
        return text

    async def aclose(self) -> None:
        """Close the generator of chunks at once, instead of leaving that to the event loop."""
        if (aclose := getattr(self.chunks, "aclose", None)) is not None:
            await aclose()


class _ParsedBySDK:
    """Reader in place of `ResponseBody` for events that the SDK has decoded."""

    def feed(self, event: Any) -> tuple[dict[str, Any]]:
        """Return the fields of an event of the SDK as the only item of a tuple."""
        if event.type == "content_block_delta":
            delta = event.delta
            if delta.type == "text_delta":  # the usual case; `to_dict` would cost 10 us
                return (
                    {"type": event.type, "index": event.index, "delta": {"type": "text_delta", "text": delta.text}},
                )
        fields: dict[str, Any] = event.to_dict()
        return (fields,)

    def skip(self, event: Any) -> None:
        """Do nothing: events after the end of an answer are dropped."""

    def close(self) -> str:
        """Return no text, because a stream has no document."""
        return ""


def _keep_partial_answer(session: Session, origin: str, metadata: dict[str, Any]) -> None:
    """Replace the metadata with the outcome of an answer that broke off, marked as interrupted.

    If the session has no outcome, the metadata are empty.
    """
    with suppress(LLMError):  # an error of the session has been raised already
        metadata.clear()
        metadata.update(_metadata_so_far(session, origin))


def _metadata_so_far(session: Session, origin: str) -> dict[str, Any]:
    """Return the fields of an answer that may still break off, marked as interrupted.

    A complete answer always has a finish reason here, by which prompts know that its calls may have started.
    """
    outcome = session.outcome()
    metadata = _metadata_of(outcome, origin) | {"interrupted": True}
    return {"finish_reason": "stop"} | metadata if outcome.complete else metadata
