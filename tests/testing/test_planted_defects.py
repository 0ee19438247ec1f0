"""Three defects of other frameworks, planted here: checks, strategies and state machines find and report each."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, find, settings
from hypothesis.stateful import run_state_machine_as_test
from state_machines import promise_machine

from miniagents import AssistantMessage, InteractionContext, Message, MessagePromise, MiniAgents, miniagent
from miniagents_testing import ScriptedLLM, checks, strategies
from miniagents_testing.checks import CheckFailedError
from miniagents_testing.faults import cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents import MiniAgent
    from miniagents_testing._wire.dialects import ProviderStream

quiet = settings(
    database=None, derandomize=True, deadline=None, max_examples=5_000, suppress_health_check=list(HealthCheck)
)


# --- a cancelled reader that cancels the promise


class CancelledByReaders(MessagePromise):
    """Promise that is cancelled whenever one of its readers is."""

    async def _read(self) -> AsyncIterator[str]:
        try:
            async for token in super().__aiter__():
                yield token
        except asyncio.CancelledError:
            self.cancel()
            raise

    def __aiter__(self) -> AsyncIterator[str]:
        return self._read()


@miniagent
async def agent_cancelled_by_readers(ctx: InteractionContext) -> None:
    """Reply a message that streams, and is cancelled with its first cancelled reader."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for token in "Hello, world.":
            await asyncio.sleep(0)
            yield token

    ctx.reply(CancelledByReaders(streamer))


async def test_check_finds_a_promise_that_its_readers_cancel() -> None:
    """`check_reader_cancellation` fails for a promise that a cancelled reader cancels, and says how to repeat it."""
    with pytest.raises(CheckFailedError) as caught:
        await checks.check_reader_cancellation(agent_cancelled_by_readers)
    assert str(caught.value) == (
        "check_reader_cancellation: a reader that was cancelled has ended the message for the others\n"
        "  expected: no error\n"
        "  came:     PromiseCancelledError: The source of this promise was stopped before its end\n"
        "  again:    await check_reader_cancellation(agent, 'Hello', steps=[1])"
    )


def test_machine_finds_a_promise_that_its_readers_cancel() -> None:
    """The promise machine fails for a promise that a cancelled reader cancels, and shows at most six steps."""

    def make(*, message_token_streamer: Any, start_soon: bool) -> MessagePromise:
        return CancelledByReaders(message_token_streamer, start_soon=start_soon)

    once = settings(quiet, report_multiple_bugs=False, stateful_step_count=6)
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(promise_machine(make), settings=once)
    assert str(caught.value).startswith("the end of a reader: expected ")
    assert str(caught.value).endswith(", came 'PromiseCancelledError'")
    program = "\n".join(caught.value.__notes__).split("\n")
    steps = [line for line in program if "state." in line and "all_readers_see" not in line]
    assert any(step.startswith(("state.cancel_reader(reader=readers_", "state.read_some(")) for step in steps)
    assert len(steps) <= 6


# --- a split that depends on cuts


async def split_by_token(message: MessagePromise, delimiter: str) -> AsyncIterator[MessagePromise]:
    """Split at delimiters within single tokens only."""
    part = ""
    async for token in message:
        *parts, rest = token.split(delimiter)
        for text in parts:
            if part + text:
                yield Message(part + text).as_promise
            part = ""
        part += rest
    if part:
        yield Message(part).as_promise


async def test_check_finds_a_split_that_depends_on_tokens() -> None:
    """`check_splitter` fails for a splitter that misses delimiters across tokens, and shows the tokens."""
    with pytest.raises(CheckFailedError) as caught:
        await checks.check_splitter(split_by_token)
    assert str(caught.value) == (
        "check_split_ignores_cuts: the parts depend on how the text was cut into tokens\n"
        "  expected: ['one', 'two']\n"
        "  came:     ['one\\n\\ntwo']\n"
        "  again:    await check_split_ignores_cuts("
        "split, 'one\\n\\ntwo', delimiter='\\n\\n', tokens=['one\\n', '\\ntwo'])"
    )


def test_strategies_find_a_split_that_depends_on_tokens() -> None:
    """With `token_splits`, Hypothesis finds two tokens with a delimiter across them that a splitter misses."""

    def fails(tokens: list[str]) -> bool:
        try:
            asyncio.run(checks.check_split_ignores_cuts(split_by_token, "".join(tokens), tokens=tokens))
        except CheckFailedError:
            return True
        return False

    texts = strategies.texts(pieces=strategies.MARKDOWN)
    first, second = find(strategies.token_splits(texts), fails, settings=quiet)
    assert first.endswith("\n")
    assert second.startswith("\n")


# --- a truncation without an error


def naive_agent(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
    """Return an agent that treats the end of the SDK's stream as the end of the answer."""
    client = openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport), max_retries=0)

    @miniagent
    async def naive(ctx: InteractionContext) -> None:
        async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
            stream = await client.chat.completions.create(model="any", messages=[], stream=True)
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

        ctx.reply(AssistantMessage.promise(message_token_streamer=streamer))

    return naive


async def test_check_finds_a_truncation_without_an_error() -> None:
    """`check_truncation` fails for an agent that takes a truncated answer for a complete one."""
    with pytest.raises(CheckFailedError) as caught:
        await checks.check_truncation(naive_agent)
    assert re.sub(r"\d[\d,]*", "<n>", str(caught.value)) == (
        "check_truncation: a truncated answer passes as a complete one\n"
        "  expected: an error after <n> of <n> bytes\n"
        "  came:     a message: 'One, zwei, três,\\n四 😀.'\n"
        "  again:    await check_truncation(make_agent, api='chat', lengths=[<n>])"
    )


def test_strategies_find_a_truncation_without_an_error() -> None:
    """With `provider_streams`, Hypothesis shrinks a truncation that passes as complete to the plainest stream."""

    async def passes_as_complete(stream: ProviderStream) -> bool:
        torn = cut(after=1)(stream.response)
        async with MiniAgents():
            (message,) = await naive_agent(ScriptedLLM(lambda call: torn).transport()).trigger("Hi")
        return isinstance(message, Message)

    streams = strategies.provider_streams(apis=["chat"])
    few = settings(quiet, max_examples=20)  # nearly any example shows the defect
    found = find(streams, lambda stream: asyncio.run(passes_as_complete(stream)), settings=few)
    assert repr(found) == "provider_stream('chat', Step([''], reasoning=(), refusal=()))"
