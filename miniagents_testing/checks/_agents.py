"""Checks of agents: the replies of any agent, the loop of a model that calls tools, and structured outputs.

Where a model is needed, a transport of the checks sends its answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel

from miniagents import MiniAgents, OutputInvalidError, PromiseCancelledError, ToolError, ToolMessage
from miniagents_testing._script import Step, ids_of_calls_and_results
from miniagents_testing._scripted import ScriptedLLM
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case
from miniagents_testing.checks._messages import check_message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    import httpx2

    from miniagents import Message, MessagePromise, MessageType, MiniAgent
    from miniagents_testing._script import API, Call


async def check_agent(agent: MiniAgent[Any], messages: MessageType = "Hello") -> None:
    """Run all checks of an agent that need no knowledge of its answers, with seven calls of the agent.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    await check_stream_equals_resolved(agent, messages)
    await check_rereading(agent, messages)
    await check_tokens_before_completion(agent, messages)
    await check_reader_cancellation(agent, messages, steps=(0, 1, 5))
    case = Case(f"await check_agent(agent, {messages!r})")
    async with case.no_error("reading the replies"), MiniAgents():
        async for promise in _replies(case, agent, messages):
            check_message(await promise)


async def check_stream_equals_resolved(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that the tokens of each reply join to the text of its message.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: the tokens are another text.
    """
    case = Case(f"await check_stream_equals_resolved(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            tokens = [token async for token in promise]
            for token in tokens:
                case.true(isinstance(token, str), "a token is no text", expected="a str", came=repr(token))
            case.equal(str(await promise), "".join(tokens), "the text of the message differs from its tokens")


async def check_rereading(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that two readers at the same time, and one after the end, get the same tokens of each reply.

    Awaiting a reply twice must give the same message object.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: a reader got other tokens, or another message.
    """
    case = Case(f"await check_rereading(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            first, second = await asyncio.gather(_read_tokens(promise), _read_tokens(promise))
            case.equal(second, first, "two readers at the same time saw different tokens")
            case.equal(await _read_tokens(promise), first, "a reader after the end saw other tokens")
            case.true(
                await promise is await promise,
                "awaiting twice gives two messages",
                expected="the same object",
                came="another one",
            )


async def check_tokens_before_completion(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that the first token of each reply can be read while the message is not complete.

    For agents whose answers take time; an agent that has its text at once has nothing to stream.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: a message was complete when its first token came.
    """
    case = Case(f"await check_tokens_before_completion(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            async for _ in promise:
                case.true(
                    not promise.is_done,
                    "the first token came with the last one",
                    expected="a message that is not complete",
                    came="one that is",
                )
                break


async def check_reader_cancellation(
    agent: MiniAgent[Any],
    messages: MessageType = "Hello",
    *,
    steps: Iterable[int] = range(8),
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that a cancelled reader takes no token and no message from other readers.

    Args:
        agent: an agent that is called once for each of `steps`.
        messages: messages that are sent to the agent.
        steps: numbers of loop steps after which a reader is cancelled.
        timeout: seconds that a call may take.

    Raises:
        CheckFailedError: another reader got less, or an error.
    """
    for step in steps:
        case = Case(f"await check_reader_cancellation(agent, {messages!r}, steps=[{step}])")
        what = "a reader that was cancelled has ended the message for the others"
        async with case.no_error(what, timeout=timeout), MiniAgents():
            promise = await anext(_replies(case, agent, messages))
            readers = [asyncio.create_task(_read_tokens(promise)), asyncio.create_task(_read_text(promise))]
            for _ in range(step):
                await asyncio.sleep(0)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            tokens = await _read_tokens(promise)
            case.equal("".join(tokens), str(await promise), "after a reader was cancelled, others read less")


async def check_cancel_closes_source(
    agent: MiniAgent[Any],
    messages: MessageType = "Hello",
    *,
    closed: Callable[[], bool],
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that `cancel()` of a streaming reply closes its source.

    Readers must then get the tokens that came before, and a `PromiseCancelledError`.

    Args:
        agent: an agent whose reply has not ended when its first token has come.
        messages: messages that are sent to the agent.
        closed: returns True if the source (a generator, a response) is closed; called some loop steps after `cancel()`.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: the source stayed open, the first token was lost, or the reply ended early or without
                an error.
    """
    case = Case(f"await check_cancel_closes_source(agent, {messages!r}, closed=closed)")
    async with case.no_error("cancelling a reply", timeout=timeout), MiniAgents():
        promise = await anext(_replies(case, agent, messages))
        seen = [await anext(aiter(promise))]
        case.true(
            not promise.is_done,
            "the reply ended before it could be cancelled",
            expected="a reply that streams",
            came="one that has ended",
        )
        promise.cancel()
        for _ in range(_CLOSING_STEPS):
            await asyncio.sleep(0)
        case.true(closed(), "cancel() left the source open", expected="closed", came="open")
        again: list[str] = []
        try:
            async for token in promise:
                again.append(token)  # noqa: PERF401 - what came before the error counts
        except PromiseCancelledError:
            case.equal(again[:1], seen, "cancel() removed tokens that had come before it")
        else:
            case.fail(
                "a cancelled reply looks like a complete one",
                expected="PromiseCancelledError",
                came="the end of the tokens",
            )


_CLOSING_STEPS = 5
"""Loop steps after which a source must be closed: one for a generator, and one for each layer of an HTTP library."""


async def check_usage(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that each reply has the numbers of its input and output tokens.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: a number is missing.
    """
    case = Case(f"await check_usage(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            usage = getattr(await promise, "usage", None)
            for name in ("input_tokens", "output_tokens"):
                count = getattr(usage, name, None)
                case.true(
                    isinstance(count, int) and count >= 0,
                    f"the message has no number of {name}",
                    expected=f"usage.{name}: a number",
                    came=repr(usage if usage is None else count),
                )


async def _replies(case: Case, agent: MiniAgent[Any], messages: MessageType) -> AsyncGenerator[MessagePromise]:
    """Yield the replies of the agent to the messages as they come; fail the case if there is none."""
    count = 0
    async for promise in agent.trigger(messages):
        count += 1
        yield promise
    case.true(count > 0, "the agent replied nothing", expected="at least one message", came="none")


async def _read_tokens(promise: MessagePromise) -> list[str]:
    """Return all tokens of a message."""
    return [token async for token in promise]


async def _read_text(promise: MessagePromise) -> str:
    """Return the text of the resolved message."""
    return str(await promise)


# --- tools


class MakeToolAgent(Protocol):
    """Function that makes an agent with these tools, on a client that uses this transport, and without retries."""

    def __call__(self, transport: httpx2.AsyncBaseTransport, *, tools: list[Any]) -> MiniAgent[Any]:
        """Return an agent with these tools on a client that uses this transport."""


_MESSAGES = "Hello"
_NAMES = ("Ann", "Bob", "Cy")
_TOOL_CLOSING_STEPS = 10
"""Loop steps after which a cancelled tool must have ended."""


async def check_tool_loop(make_agent: MakeToolAgent, *, api: API = "chat") -> None:
    """Run all checks of the loop of an agent with tools: order, parallel calls, errors, and cancellations.

    ```python
    def make_agent(transport, tools):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None, tools=tools)

    await check_tool_loop(make_agent)
    ```

    Args:
        make_agent: makes the agent on a given transport, with the given tools; called often.
        api: API of the agent: "chat" (OpenAI's chat completions), "responses" (OpenAI's) or "messages" (Anthropic's).

    Raises:
        CheckFailedError: one of these checks failed; the later ones are not run.
    """
    await check_tool_order(make_agent, api=api)
    await check_tool_errors(make_agent, api=api)
    await check_tool_cancellation(make_agent, api=api)


class _Letters:
    """Tool that sends letters; if `together`, three calls wait for each other."""

    def __init__(self, *, together: bool) -> None:
        self.sent: list[str] = []
        self.running = 0
        self._barrier = asyncio.Barrier(len(_NAMES) if together else 1)

    async def send(self, to: str) -> str:
        """Send a letter, and return `sent to <name>`. Wait before for the other letters, if they are sent together."""
        self.running += 1
        try:
            await self._barrier.wait()
            for _ in range(2 * len(to)):
                await asyncio.sleep(0)
            self.sent.append(to)
            return f"sent to {to}"
        finally:
            self.running -= 1


_CALLS = Step("One moment.", tool_calls=[("send", {"to": name}) for name in _NAMES], cut=5)


async def check_tool_order(make_agent: MakeToolAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that calls run in parallel, and that replies and the next request have the results in call order.

    Args:
        make_agent: see `check_tool_loop`.
        api: API of the agent.
        timeout: seconds that the loop may take.

    Raises:
        CheckFailedError: the calls wait for each other, or a result is missing or in another place.
    """
    case = Case(f"await check_tool_order(make_agent, api={api!r})")
    llm = ScriptedLLM([_CALLS, "All sent."])
    replies: list[Message] = []
    what = "a loop with three calls that wait for each other"
    async with case.no_error(what, timeout=timeout), MiniAgents():
        agent = make_agent(llm.transport(), tools=[_Letters(together=True).send])
        replies += await agent.trigger(_MESSAGES)
    expected = ["One moment.", *(f"sent to {name}" for name in _NAMES), "All sent."]
    case.equal([str(each.content) for each in replies], expected, "the replies of the loop are not in order")
    case.equal(_results_of(llm.calls), expected[1:-1], "the next request has other results than the replies")
    calls = getattr(replies[0], "tool_calls", ())
    ids = [each.tool_call_id for each in replies if isinstance(each, ToolMessage)]
    case.equal(ids, [call.id for call in calls], "the results have other ids than the calls")


def _results_of(calls: Iterable[Call]) -> list[str]:
    """Return the texts of the results in the last request."""
    return [str(result) for result in list(calls)[-1].tool_results]


async def check_tool_errors(make_agent: MakeToolAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that failing tools, wrong arguments and unknown tools become results, without a traceback.

    Args:
        make_agent: see `check_tool_loop`.
        api: API of the agent.
        timeout: seconds that the loop may take.

    Raises:
        CheckFailedError: an error is lost, ends the loop, or shows more than its class and text.
    """
    case = Case(f"await check_tool_errors(make_agent, api={api!r})")

    async def fail() -> None:
        """Fail."""
        raise ValueError("broken")

    async def refuse() -> None:
        """Refuse."""
        raise ToolError("not today")

    step = Step(tool_calls=[("fail", {}), ("refuse", {}), ("refuse", {"unknown": 1}), ("missing", {})])
    llm = ScriptedLLM([step, "Sorry."])
    replies: list[Message] = []
    async with case.no_error("a loop whose tools fail", timeout=timeout), MiniAgents():
        replies += await make_agent(llm.transport(), tools=[fail, refuse]).trigger(_MESSAGES)
    results = [each for each in replies if isinstance(each, ToolMessage)]
    case.equal([each.is_error for each in results], [True] * 4, "a failed call has no result that is an error")
    case.equal([str(each) for each in results[:2]], ["ValueError: broken", "not today"], "an error has another text")
    for result, word in zip(results[2:], ("unknown", "missing"), strict=True):
        case.true(word in str(result), "an error does not say what is wrong", expected=word, came=str(result))
    case.equal(_results_of(llm.calls), [str(each) for each in results], "the model is told other errors")


async def check_tool_cancellation(
    make_agent: MakeToolAgent,
    *,
    api: API = "chat",
    steps: Iterable[int] = range(0, 60, 3),
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that a cancelled loop stops its tools, and that a request which goes on from its replies is complete.

    Each call must have one result in that request, and each letter that was sent must be among them.

    Args:
        make_agent: see `check_tool_loop`.
        api: API of the agent.
        steps: numbers of loop steps after which the replies are cancelled.
        timeout: seconds that a loop may take.

    Raises:
        CheckFailedError: a tool goes on, a call ran twice or has no result, or an effect is forgotten.
    """
    for step in steps:
        case = Case(f"await check_tool_cancellation(make_agent, api={api!r}, steps=[{step}])")
        letters = _Letters(together=False)
        llm = ScriptedLLM([_CALLS, "All sent.", "Let us go on."])
        async with case.no_error("a loop that is cancelled", timeout=timeout), MiniAgents():
            agent = make_agent(llm.transport(), tools=[letters.send])
            replies = agent.trigger(_MESSAGES)
            for _ in range(step):
                await asyncio.sleep(0)
            replies.cancel()
            for _ in range(_TOOL_CLOSING_STEPS):
                await asyncio.sleep(0)
            case.true(not letters.running, "a tool goes on after the cancellation", expected="its end", came="running")
            kept = [message async for promise in replies if (message := await _kept(promise)) is not None]
            again = ScriptedLLM(["Let us go on."])
            await make_agent(again.transport(), tools=[letters.send]).trigger([_MESSAGES, *kept, "And now?"])
        case.equal(len(letters.sent), len({*letters.sent}), "a call ran twice")
        text = str(again.last_call.messages)
        for name in letters.sent:
            shown = text.count(f"sent to {name}")
            case.equal(shown, 1, f"the next request has not exactly one result of the letter to {name}")
        calls, results = ids_of_calls_and_results(again.last_call)
        case.equal(results, calls, "the next request has not exactly one result for each call")


async def _kept(promise: MessagePromise) -> Message | None:
    """Return a reply, or the part of it that had arrived when it was cancelled, as a history would keep it.

    Else None.
    """
    try:
        return await promise
    except PromiseCancelledError as error:
        partial: Message | None = error.partial
        return partial if getattr(partial, "interrupted", False) else None


# --- structured outputs


Mode = Literal["schema", "tool"]


class MakeOutputAgent(Protocol):
    """Function that makes an agent with this output, on a client that uses this transport, and without retries."""

    def __call__(self, transport: httpx2.AsyncBaseTransport, *, output: Any, output_mode: Mode) -> MiniAgent[Any]:
        """Return an agent with this output and mode on a client that uses this transport."""


class _Review(BaseModel):
    """A review of a text."""

    title: str
    score: int
    notes: list[str] = []


_VALID: tuple[tuple[Any, Any], ...] = (
    (_Review, _Review(title="é 😀", score=3, notes=["a", "b"])),
    (list[_Review], [_Review(title="t", score=1)]),
    (int, 7),
    (_Review | None, None),
)


async def check_output(make_agent: MakeOutputAgent, *, api: API = "chat", timeout: float = DEFAULT_TIMEOUT) -> None:
    """Check that a valid output is `parsed`, and that any other end of the answer is an `OutputInvalidError`.

    ```python
    def make_agent(transport, output, output_mode):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None, output=output, output_mode=output_mode)

    await check_output(make_agent)
    ```

    Args:
        make_agent: makes the agent on a given transport, with the given output; called often.
        api: API of the agent: "chat" (OpenAI's chat completions), "responses" (OpenAI's) or "messages" (Anthropic's).
        timeout: seconds that one answer may take.

    Raises:
        CheckFailedError: an output has another value, or an answer that is no output passes as one.
    """
    case = Case(f"await check_output(make_agent, api={api!r})")
    modes: tuple[Mode, ...] = ("schema", "tool")
    for mode in modes:
        for type_, value in _VALID:
            llm = ScriptedLLM([Step.of_output(value, cut=3)])
            came: Any = None
            async with case.no_error(f"a valid {type_} (output_mode={mode!r})", timeout=timeout), MiniAgents():
                agent = make_agent(llm.transport(), output=type_, output_mode=mode)
                came = await agent.trigger("Hello").last
            case.equal(came.parsed, value, f"an output has another value (output_mode={mode!r})")
            case.true(llm.last_call.output_schema is not None, "the request has no schema", expected="one", came="none")
        for answer, text in (
            (Step("No JSON"), "No JSON"),
            (Step({"title": "only"}), '{"title": "only"}'),
            (Step('{"title": "cu', finish_reason="length"), '{"title": "cu'),
            (Step("", refusal="I will not."), ""),
        ):
            await _check_invalid(case, make_agent, mode, answer, text, timeout)


async def _check_invalid(
    case: Case, make_agent: MakeOutputAgent, mode: Mode, answer: Step, text: str, timeout: float
) -> None:
    """Fail the case unless this answer becomes an `OutputInvalidError` whose `partial` has the received text."""
    llm = ScriptedLLM([answer])
    error: OutputInvalidError | None = None
    message = None
    async with case.no_error(f"an answer that is no output ({answer!r})", timeout=timeout), MiniAgents():
        try:
            message = await make_agent(llm.transport(), output=_Review, output_mode=mode).trigger("Hello").last
        except OutputInvalidError as raised:
            error = raised
    if error is None:
        case.fail(f"{answer!r} passes as an output", expected="an OutputInvalidError", came=repr(message))
    case.equal(
        str(error.partial.content or ""), text, f"the error of {answer!r} has another text than the received one"
    )
