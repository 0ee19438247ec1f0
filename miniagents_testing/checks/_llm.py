"""Checks of agents that answer with a model; a transport of the checks sends the model's responses."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents import LLMError, MiniAgents, ToolCall
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import faults
from miniagents_testing._responding import AsyncBody, response_with
from miniagents_testing._script import Step
from miniagents_testing._scripted import ScriptedLLM
from miniagents_testing._streams import aplay
from miniagents_testing._wire.dialects import QUIRKS, provider_stream
from miniagents_testing._words import counted
from miniagents_testing.checks._agents import check_agent, check_cancel_closes_source, check_usage
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case
from miniagents_testing.checks._messages import check_message
from miniagents_testing.recut import EventEnds, cut_at, risky_places

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from miniagents import Message, MessagePromise, MiniAgent
    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream
    from miniagents_testing._wire.dialects import ProviderStream

    MakeAgent = Callable[[httpx2.AsyncBaseTransport], MiniAgent[Any]]
    """Function that makes the agent, on a client that uses this transport, and without retries."""


_MESSAGES = "Hello"
_MAX_PLACES = 40


async def check_llm_agent(make_agent: MakeAgent, *, api: API = "chat") -> None:
    """Run all checks of an agent on a model: its streams, ends, errors and cancellations.

    ```python
    def make_agent(transport):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None)

    await check_llm_agent(make_agent)
    ```

    Args:
        make_agent: makes the agent on a given transport; called often. The agent must not retry.
        api: API of the agent: "chat" (OpenAI's chat completions), "responses" (OpenAI's) or "messages" (Anthropic's).

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    await check_scripted_answer(make_agent, api=api)
    await check_live_tokens(make_agent, api=api)
    await check_chunk_invariance(make_agent, api=api)
    await check_truncation(make_agent, api=api)
    await check_dialects(make_agent, api=api)
    await check_errors_keep_text(make_agent, api=api)
    await check_cancel_closes_response(make_agent, api=api)


_TYPICAL = Step("One, zwei, três,\n四 😀.", reasoning="Counting.", cut=4)
"""An answer with characters of one to four bytes."""
_THREE_TOKENS = Step(["first", " second", " third"])


async def check_scripted_answer(make_agent: MakeAgent, *, api: API = "chat") -> None:
    """Run the checks of any agent, and that of its usage, on a scripted answer.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    agent = make_agent(_transport(provider_stream(api, _TYPICAL).response))
    await check_agent(agent, _MESSAGES)
    await check_usage(agent, _MESSAGES)


async def check_live_tokens(make_agent: MakeAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that received tokens can be read while the provider sends nothing more and does not end the answer.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.
        timeout: seconds that the answer may take.

    Raises:
        CheckFailedError: a received token could not be read.
    """
    stream = provider_stream(api, _THREE_TOKENS)
    case = Case(f"await check_live_tokens(make_agent, api={api!r})")
    stalled = faults.stall(after=_events_until(stream, b" second"))(stream.response)
    tokens: list[str] = []
    what = "received tokens could not be read while the answer was not complete"
    async with case.no_error(what, timeout=timeout), MiniAgents():
        promise = await _reply(case, make_agent(_transport(stalled)))
        async for token in promise:
            tokens.append(token)
            if "".join(tokens) == "first second":
                break
        promise.cancel()
    case.equal("".join(tokens), "first second", what)


async def check_chunk_invariance(
    make_agent: MakeAgent,
    *,
    api: API = "chat",
    places: Iterable[int] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that the message does not depend on the cuts of the bytes: within events, characters or line ends.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.
        places: places to cut at; by default all at once, and then each risky place alone.
        timeout: seconds that one answer may take.

    Raises:
        CheckFailedError: the message differs from the expected one.
    """
    stream = provider_stream(api, _TYPICAL, quirks=["CRLF"])
    body = stream.response.body
    risky = risky_places(body)
    tried = risky[:: len(risky) // _MAX_PLACES + 1]
    cuts: list[Any] = [range(1, len(body)), *([place] for place in tried)] if places is None else [list(places)]
    for cut in cuts:
        case = Case(f"await check_chunk_invariance(make_agent, api={api!r}, places={cut!r})")
        message = await _message(case, make_agent, cut_at(stream.response, cut), "an answer with these cuts", timeout)
        _check_fields(case, stream, message, "the message depends on where the network cuts the bytes")


async def check_truncation(
    make_agent: MakeAgent, *, api: API = "chat", lengths: Iterable[int] | None = None, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that a truncated answer is an error, with the received text.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.
        lengths: numbers of bytes that come; by default up to the end of each event, and one less.
        timeout: seconds that one answer may take.

    Raises:
        CheckFailedError: a truncated answer passes as complete, or the error has another text.
    """
    stream = provider_stream(api, _TYPICAL)
    ends = list(EventEnds().feed(stream.response.body))
    # the longest first: a failure then shows the complete text, although the provider did not report its end
    longest_first = sorted({*ends, *(end - 1 for end in ends)}, reverse=True)
    for length in longest_first if lengths is None else lengths:
        case = Case(f"await check_truncation(make_agent, api={api!r}, lengths=[{length}])")
        torn = faults.cut(after=length, of="bytes")(stream.response)
        if length >= stream.complete_after:
            await _message(case, make_agent, torn, "a complete answer", timeout)
            continue
        came = await _outcome(case, make_agent, torn, "a truncated answer", timeout)
        if not isinstance(came, LLMError):
            case.fail(
                "a truncated answer passes as a complete one",
                expected=f"an error after {length} of {counted(len(stream.response.body), 'byte')}",
                came=f"a message: {str(came)!r}",
            )
        case.equal(_partial_text(case, came), _text_of(torn), "the error has another text than the received one")


def _text_of(stream: ResponseStream) -> str:
    """Return the text of an answer whose stream was cut, from its complete events."""
    text = ""
    for event in SSEDecoder().feed(stream.body):
        data = {} if event.data == b"[DONE]" else json.loads(event.data)
        deltas = [choice["delta"] for choice in data.get("choices", ())]
        if data.get("type") == "content_block_delta":
            deltas = [{"content": data["delta"].get("text")}]
        elif data.get("type") == "response.output_text.delta":
            deltas = [{"content": data["delta"]}]
        text += "".join([delta.get("content") or "" for delta in deltas])
    return text


async def check_dialects(
    make_agent: MakeAgent, *, api: API = "chat", quirks: Iterable[str] | None = None, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that text, tool calls, reasoning, refusal and finish reason are right for each variant of the API.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.
        quirks: names from `dialects.QUIRKS[api]`, tried one at a time; by default none and all.
        timeout: seconds that one answer may take.

    Raises:
        CheckFailedError: a message differs from the expected one.
    """
    for quirk in [None, *QUIRKS[api]] if quirks is None else quirks:
        chosen = [] if quirk is None else [quirk]
        case = Case(f"await check_dialects(make_agent, api={api!r}, quirks={chosen!r})")
        for step in (_TYPICAL, _WITH_TOOLS, Step(refusal="No, sorry.", cut=3), Step("Too lon", finish_reason="length")):
            stream = provider_stream(api, step, quirks=chosen)
            message = await _message(case, make_agent, stream.response, "a complete answer", timeout)
            _check_fields(case, stream, message, "the message differs from the provider's answer")
            check_message(message)


_WITH_TOOLS = Step(
    "Looking.",
    tool_calls=[
        ToolCall(id="call_a", name="search", arguments='{"q": "é"}'),
        ToolCall(id="call_b", name="clock", arguments="{}"),
    ],
    reasoning=["I should", " look."],
    cut=3,
)


async def check_errors_keep_text(make_agent: MakeAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that each fault is an `LLMError` whose `partial` has the received text, which may be empty.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.
        timeout: seconds that one answer may take.

    Raises:
        CheckFailedError: a fault passes unnoticed, or its error has another text.
    """
    stream = provider_stream(api, _THREE_TOKENS)
    sent = _events_until(stream, b" second")
    for fault, text in (
        (faults.reset(after=sent), "first second"),
        (faults.overloaded(at=sent + 1), "first second"),
        (faults.malformed(at=sent + 1), "first second"),
        (faults.overloaded(), ""),
        (faults.rate_limit(), ""),
        (faults.html_page(), ""),
        (faults.empty(), ""),
    ):
        case = Case(f"await check_errors_keep_text(make_agent, api={api!r})")
        came = await _outcome(case, make_agent, fault(stream.response), f"an answer with a fault ({fault})", timeout)
        if not isinstance(came, LLMError):
            case.fail(f"a fault passes unnoticed: {fault}", expected="an LLMError", came=f"a message: {str(came)!r}")
        case.equal(_partial_text(case, came), text, f"the error lost the received text: {fault}")


async def check_cancel_closes_response(
    make_agent: MakeAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that cancelling the reply closes the response soon, so that no more tokens are generated and billed.

    Args:
        make_agent: see `check_llm_agent`.
        api: API of the agent.
        timeout: seconds that the answer may take.

    Raises:
        CheckFailedError: the response stayed open for several steps of the loop.
    """
    stream = provider_stream(api, _THREE_TOKENS)
    transport = _ObservedTransport(faults.stall(after=_events_until(stream, b"first"))(stream.response))
    await check_cancel_closes_source(make_agent(transport), _MESSAGES, closed=lambda: transport.closed, timeout=timeout)


class _ObservedTransport(httpx2.AsyncBaseTransport):
    """Transport that answers with a stream, and records that the stream was closed."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self.closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return a response that plays the stream, and note when its body is closed."""

        async def chunks() -> AsyncGenerator[bytes]:
            """Yield the chunks of the stream, and set `closed` when the reader stops."""
            try:
                async for data in aplay(self._stream, asyncio.get_running_loop().time()):
                    yield data
            finally:
                self.closed = True

        return response_with(AsyncBody(chunks()), self._stream)


def _events_until(stream: ProviderStream, text: bytes) -> int:
    """Return the number of events until the one that has this text, which is included."""
    return next(number for number, chunk in enumerate(stream.response.chunks, 1) if text in chunk.data)


def _transport(stream: ResponseStream) -> httpx2.AsyncBaseTransport:
    """Return a transport that answers each request with this stream."""
    return ScriptedLLM(lambda call: stream).transport()


async def _reply(case: Case, agent: MiniAgent[Any]) -> MessagePromise:
    """Call the agent with a message, and return the promise of its first reply; fail the case if it has none."""
    async for promise in agent.trigger(_MESSAGES):
        return promise
    case.fail("the agent replied nothing", expected="one message", came="none")


async def _outcome(
    case: Case, make_agent: MakeAgent, stream: ResponseStream, what: str, timeout: float
) -> Message | LLMError:
    """Return the message, or the `LLMError`, that an agent makes of this response.

    Fail the case on any other error, if no message comes, or after `timeout` seconds; `what` is the problem to report.
    """
    outcome: Message | LLMError | None = None
    async with case.no_error(what, timeout=timeout), MiniAgents():
        promise = await _reply(case, make_agent(_transport(stream)))
        try:
            outcome = await promise
        except LLMError as error:
            outcome = error
    if outcome is None:
        case.fail(what, expected="a message or an error", came="nothing")
    return outcome


async def _message(case: Case, make_agent: MakeAgent, stream: ResponseStream, what: str, timeout: float) -> Message:
    """Return the message that an agent makes of this response; on an error, fail the case with `what` as the problem.

    `timeout` is in seconds.
    """
    outcome = await _outcome(case, make_agent, stream, what, timeout)
    if isinstance(outcome, LLMError):
        case.fail(
            f"{what} is an error", expected="a message", came=f"{type(outcome).__name__}: {outcome}", cause=outcome
        )
    return outcome


def _check_fields(case: Case, stream: ProviderStream, message: Message, what: str) -> None:
    """Fail the case, with `what` as the problem, if a field of a message is not as the stream requires."""
    for name, expected, came in stream.differences(message):
        case.fail(what, expected=f"{name}={expected!r}", came=f"{name}={came!r}")


def _partial_text(case: Case, error: LLMError) -> str:
    """Return the received text that an error has; fail if it has no partial message."""
    if error.partial is None:
        case.fail("an error has no partial message", expected="error.partial: a message", came="None", cause=error)
    return str(error.partial.content or "")
