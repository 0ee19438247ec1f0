"""What must hold for an agent that answers with a model: its transport is ours, so everything can be tried."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents import LLMError, MiniAgents, ToolCall
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import faults
from miniagents_testing._playing import aplay
from miniagents_testing._responding import AsyncBody, response_with
from miniagents_testing._script import Step
from miniagents_testing._scripted import ScriptedLLM
from miniagents_testing._wire.dialects import QUIRKS, provider_stream
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
    """Makes the agent, on a client that sends its requests to this transport, and without retries."""


MESSAGES = "Hello"
PLACES_TRIED = 40


async def check_llm_agent(make_agent: MakeAgent, *, api: API = "chat") -> None:
    """All that an agent on a model must do: stream, end, fail and stop as it should, whatever comes from the provider.

    ```python
    def make_agent(transport):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None)

    await check_llm_agent(make_agent)
    ```

    Args:
        make_agent: makes the agent on a transport that is given; called often. The agent must not retry.
        api: what it speaks: "chat" (OpenAI's chat completions), "responses" (OpenAI's) or "messages" (Anthropic's).

    Raises:
        CheckFailedError: something does not hold.
    """
    await check_scripted_answer(make_agent, api=api)
    await check_live_tokens(make_agent, api=api)
    await check_chunk_invariance(make_agent, api=api)
    await check_truncation(make_agent, api=api)
    await check_dialects(make_agent, api=api)
    await check_errors_keep_text(make_agent, api=api)
    await check_cancel_closes_response(make_agent, api=api)


TYPICAL = Step("One, zwei, três,\n四 😀.", reasoning="Counting.", cut=4)
"""An answer with characters of one to four bytes."""
THREE_TOKENS = Step(["first", " second", " third"])


async def check_scripted_answer(make_agent: MakeAgent, *, api: API = "chat") -> None:
    """What holds for every agent holds for this one on an answer of ours; and it tells how many tokens it took."""
    agent = make_agent(_transport(provider_stream(api, TYPICAL).response))
    await check_agent(agent, MESSAGES)
    await check_usage(agent, MESSAGES)


async def check_live_tokens(make_agent: MakeAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Whatever the provider has sent can be read, though it sends nothing more and does not end the answer."""
    stream = provider_stream(api, THREE_TOKENS)
    case = Case(f"await check_live_tokens(make_agent, api={api!r})")
    stalled = faults.stall(after=_events_until(stream, b" second"))(stream.response)
    tokens: list[str] = []
    what = "what had come could not be read while the answer was not complete"
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
    """The message is the same wherever the network cuts the bytes: inside of events, of characters, of line ends.

    Args:
        make_agent: see `check_llm_agent`.
        api: what the agent speaks.
        places: where to cut; by default everywhere at once, and then at each risky place by itself.
        timeout: seconds that one answer may take.
    """
    stream = provider_stream(api, TYPICAL, quirks=["CRLF"])
    body = stream.response.body
    risky = risky_places(body)
    some = risky[:: len(risky) // PLACES_TRIED + 1]
    cuts: list[Any] = [range(1, len(body)), *([place] for place in some)] if places is None else [list(places)]
    for cut in cuts:
        case = Case(f"await check_chunk_invariance(make_agent, api={api!r}, places={cut!r})")
        message = await _whole(case, make_agent, cut_at(stream.response, cut), "an answer that is cut there", timeout)
        _expect(case, stream, message, "the message depends on where the network cuts the bytes")


async def check_truncation(
    make_agent: MakeAgent, *, api: API = "chat", lengths: Iterable[int] | None = None, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """An answer that ends before the provider has said that it is whole is an error, with the text that had come.

    Args:
        make_agent: see `check_llm_agent`.
        api: what the agent speaks.
        lengths: how many bytes come; by default up to the end of each event, and one less.
        timeout: seconds that one answer may take.
    """
    stream = provider_stream(api, TYPICAL)
    ends = list(EventEnds().feed(stream.response.body))
    # the longest first: what fails then shows a whole text that nobody said was whole
    longest_first = sorted({*ends, *(end - 1 for end in ends)}, reverse=True)
    for length in longest_first if lengths is None else lengths:
        case = Case(f"await check_truncation(make_agent, api={api!r}, lengths=[{length}])")
        torn = faults.cut(after=length, of="bytes")(stream.response)
        if length >= stream.complete_after:
            await _whole(case, make_agent, torn, "an answer of which nothing is missing", timeout)
            continue
        came = await _outcome(case, make_agent, torn, "an answer that breaks off", timeout)
        if not isinstance(came, LLMError):
            case.fail(
                "an answer that breaks off passes for a whole one",
                expected=f"an error after {length} of {len(stream.response.body)} bytes",
                came=f"a message: {str(came)!r}",
            )
        case.equal(_partial_text(case, came), _text_of(torn), "the error has another text than what had come")


def _text_of(stream: ResponseStream) -> str:
    """The deltas of text in the events that are whole, of whichever API."""
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
    """Text, tool calls, reasoning, refusal and how it ended are understood in every form in which they are sent.

    Args:
        make_agent: see `check_llm_agent`.
        api: what the agent speaks.
        quirks: which of `dialects.QUIRKS[api]` to try; all by default, one at a time.
        timeout: seconds that one answer may take.
    """
    for quirk in [None, *QUIRKS[api]] if quirks is None else quirks:
        chosen = [] if quirk is None else [quirk]
        case = Case(f"await check_dialects(make_agent, api={api!r}, quirks={chosen!r})")
        for step in (TYPICAL, WITH_TOOLS, Step(refusal="No, sorry.", cut=3), Step("Too lon", finish_reason="length")):
            stream = provider_stream(api, step, quirks=chosen)
            message = await _whole(case, make_agent, stream.response, "a whole answer", timeout)
            _expect(case, stream, message, "the message is not what the provider said")
            check_message(message)


WITH_TOOLS = Step(
    "Looking.",
    tool_calls=[
        ToolCall(id="call_a", name="search", arguments='{"q": "é"}'),
        ToolCall(id="call_b", name="clock", arguments="{}"),
    ],
    reasoning=["I should", " look."],
    cut=3,
)


async def check_errors_keep_text(make_agent: MakeAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """What goes wrong is an `LLMError`, whose `partial` has the text that had come: none, where no answer began."""
    stream = provider_stream(api, THREE_TOKENS)
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
            case.fail(f"a fault passes unseen: {fault}", expected="an LLMError", came=f"a message: {str(came)!r}")
        case.equal(_partial_text(case, came), text, f"the error lost the text that had come: {fault}")


async def check_cancel_closes_response(
    make_agent: MakeAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Cancelling the reply closes the response within a few steps of the loop: no more is generated, and billed."""
    stream = provider_stream(api, THREE_TOKENS)
    transport = _Watched(faults.stall(after=_events_until(stream, b"first"))(stream.response))
    await check_cancel_closes_source(make_agent(transport), MESSAGES, closed=lambda: transport.closed, timeout=timeout)


class _Watched(httpx2.AsyncBaseTransport):
    """Answers with a stream, and knows whether it was closed."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self.closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async def chunks() -> AsyncGenerator[bytes]:
            try:
                async for data in aplay(self._stream, asyncio.get_running_loop().time()):
                    yield data
            finally:
                self.closed = True

        return response_with(AsyncBody(chunks()), self._stream)


def _events_until(stream: ProviderStream, text: bytes) -> int:
    """The number of the event that says this."""
    return next(number for number, chunk in enumerate(stream.response.chunks, 1) if text in chunk.data)


def _transport(stream: ResponseStream) -> httpx2.AsyncBaseTransport:
    return ScriptedLLM(lambda call: stream).transport()


async def _reply(case: Case, agent: MiniAgent[Any]) -> MessagePromise:
    async for promise in agent.trigger(MESSAGES):
        return promise
    case.fail("the agent replied nothing", expected="one message", came="none")


async def _outcome(
    case: Case, make_agent: MakeAgent, stream: ResponseStream, what: str, timeout: float
) -> Message | LLMError:
    """What the agent makes of a response; any other error fails the check."""
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


async def _whole(case: Case, make_agent: MakeAgent, stream: ResponseStream, what: str, timeout: float) -> Message:
    outcome = await _outcome(case, make_agent, stream, what, timeout)
    if isinstance(outcome, LLMError):
        case.fail(
            f"{what} is refused", expected="a message", came=f"{type(outcome).__name__}: {outcome}", cause=outcome
        )
    return outcome


def _expect(case: Case, stream: ProviderStream, message: Message, what: str) -> None:
    for name, expected, came in stream.differences(message):
        case.fail(what, expected=f"{name}={expected!r}", came=f"{name}={came!r}")


def _partial_text(case: Case, error: LLMError) -> str:
    if error.partial is None:
        case.fail("an error does not have what had come", expected="error.partial: a message", came="None", cause=error)
    return str(error.partial.content or "")
