"""Three defects that others have shipped, planted here: checks, strategies and machines find each, and say it well."""

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
    database=None, derandomize=True, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck)
)


# --- a reader's cancellation that poisons


class Poisoned(MessagePromise):
    """A promise whose readers take their cancellation for everybody's."""

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
async def poisoned_agent(ctx: InteractionContext) -> None:
    """Replies slowly."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for token in "Hello, world.":
            await asyncio.sleep(0)
            yield token

    ctx.reply(Poisoned(streamer))


async def test_a_reader_that_poisons_is_found_by_the_check() -> None:
    """It says at which step of the loop."""
    with pytest.raises(CheckFailedError) as caught:
        await checks.check_reader_cancellation(poisoned_agent)
    assert str(caught.value) == (
        "check_reader_cancellation: a reader that was cancelled has ended the message for the others\n"
        "  expected: no error\n"
        "  came:     PromiseCancelledError: The source of this promise was stopped before its end\n"
        "  again:    await check_reader_cancellation(agent, 'Hello', steps=[1])"
    )


def test_a_reader_that_poisons_is_found_by_the_machine() -> None:
    """The shortest program that shows it: one reader, and its cancellation."""

    def make(*, message_token_streamer: Any, start_soon: bool) -> MessagePromise:
        return Poisoned(message_token_streamer, start_soon=start_soon)

    once = settings(quiet, report_multiple_bugs=False, stateful_step_count=6)
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(promise_machine(make), settings=once)
    assert str(caught.value).startswith("what became of a reader: expected ")
    assert str(caught.value).endswith(", came 'PromiseCancelledError'")
    program = "\n".join(caught.value.__notes__).split("\n")
    steps = [line for line in program if "state." in line and "all_readers_see" not in line]
    assert any(step.startswith(("state.cancel_reader(reader=readers_", "state.read_some(")) for step in steps)
    assert len(steps) <= 6


# --- a split that depends on cuts


async def split_by_token(message: MessagePromise, delimiter: str) -> AsyncIterator[MessagePromise]:
    """Looks for the delimiter in each token by itself."""
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


async def test_a_split_that_depends_on_cuts_is_found_by_the_check() -> None:
    """It says in which tokens the text came."""
    with pytest.raises(CheckFailedError) as caught:
        await checks.check_splitter(split_by_token)
    assert str(caught.value) == (
        "check_split_ignores_cuts: the parts depend on how the text was cut into tokens\n"
        "  expected: ['one', 'two']\n"
        "  came:     ['one\\n\\ntwo']\n"
        "  again:    await check_split_ignores_cuts("
        "split, 'one\\n\\ntwo', delimiter='\\n\\n', tokens=['one\\n', '\\ntwo'])"
    )


def test_a_split_that_depends_on_cuts_is_found_by_the_strategies() -> None:
    """Two tokens show it, between which a delimiter is cut."""

    def breaks(tokens: list[str]) -> bool:
        try:
            asyncio.run(checks.check_split_ignores_cuts(split_by_token, "".join(tokens), tokens=tokens))
        except CheckFailedError:
            return True
        return False

    texts = strategies.texts(pieces=strategies.MARKDOWN)
    first, second = find(strategies.token_splits(texts), breaks, settings=quiet)
    assert first.endswith("\n")
    assert second.startswith("\n")


# --- a truncation that is swallowed


def naive_agent(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
    """Takes the end of the SDK's stream for the end of the answer, as OpenAI's SDK invites to."""
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


async def test_a_swallowed_truncation_is_found_by_the_check() -> None:
    """It says after how many bytes."""
    with pytest.raises(CheckFailedError) as caught:
        await checks.check_truncation(naive_agent)
    assert re.sub(r"\d+", "<n>", str(caught.value)) == (
        "check_truncation: an answer that breaks off passes for a whole one\n"
        "  expected: an error after <n> of <n> bytes\n"
        "  came:     a message: 'One, zwei, três,\\n四 😀.'\n"
        "  again:    await check_truncation(make_agent, api='chat', lengths=[<n>])"
    )


def test_a_swallowed_truncation_is_found_by_the_strategies() -> None:
    """The plainest stream, cut where it may be; the example is code that makes it."""

    async def passes_for_whole(stream: ProviderStream) -> bool:
        torn = cut(after=1)(stream.response)
        async with MiniAgents():
            (message,) = await naive_agent(ScriptedLLM(lambda call: torn).transport()).trigger("Hi")
        return isinstance(message, Message)

    streams = strategies.provider_streams(apis=["chat"])
    few = settings(quiet, max_examples=20)  # nearly any shows it
    found = find(streams, lambda stream: asyncio.run(passes_for_whole(stream)), settings=few)
    assert repr(found) == "provider_stream('chat', Step([''], reasoning=(), refusal=()))"
