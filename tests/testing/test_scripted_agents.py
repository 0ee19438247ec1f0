"""Agents on a script: their answers and errors, and that they equal those of the real SDKs on the same script."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import AssistantMessage, MiniAgents, SystemMessage, ToolCall, Usage, UserMessage, achain_loop, miniagent
from miniagents.errors import (
    ConnectionFailedError,
    LLMError,
    ProviderOverloadedError,
    RateLimitedError,
    StopDialog,
    StreamBrokenError,
    StreamStalledError,
    StreamTruncatedError,
)
from miniagents.ext.llm._failures import Retry
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.utils import AWAIT
from miniagents_testing import Failure, ScriptedLLM, Step, create_scripted_agent
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.errors import UnexpectedCallError
from miniagents_testing.recut import cut_at

if TYPE_CHECKING:
    from miniagents import InteractionContext, MiniAgent
    from miniagents_testing._script import API, Script

APIS: tuple[API, ...] = ("chat", "responses", "messages")
AT_ONCE = Retry(attempts=2, first_wait=0.0)


async def ask(agent: MiniAgent[Any]) -> tuple[Any, list[str], Exception | None]:
    """Return the message of an agent, its tokens, and its error; after an error, the message is the partial one."""
    async with MiniAgents():
        (promise,) = [promise async for promise in agent.trigger(["Hi", UserMessage("there")])]
        tokens: list[str] = []
        try:
            async for token in promise:
                tokens.append(token)
            return await promise, tokens, None
        except Exception as error:
            return getattr(error, "partial", None), tokens, error


async def ask_through_sdk(script: Script, api: API, **settings: Any) -> tuple[Any, list[str], Exception | None]:
    """Ask the provider's agent through the real SDK, and return the same as `ask`."""
    llm = ScriptedLLM(script)
    if api == "messages":
        async with llm.anthropic_client() as client:
            return await ask(create_anthropic_agent("scripted-model", async_client=client, **settings))
    async with llm.openai_client() as openai_client:
        return await ask(create_openai_agent("scripted-model", async_client=openai_client, api=api, **settings))


# --- answers


async def test_scripted_agent_streams_a_text_by_words() -> None:
    """A text as script streams word by word, and becomes the message of a provider's agent."""
    message, tokens, error = await ask(create_scripted_agent("Hello there, you!"))
    assert error is None
    assert tokens == ["Hello", " there,", " you!"]
    assert message.content == "Hello there, you!"
    assert (message.role, message.finish_reason, message.usage.output_tokens) == ("assistant", "stop", 3)


@pytest.mark.parametrize("api", APIS)
async def test_message_has_all_fields_of_the_step(api: API) -> None:
    """Text, reasoning, tool calls, finish reason and usage of a step arrive in the message, for each API."""
    usage = Usage(input_tokens=11, output_tokens=7, cached_tokens=5, cache_write_tokens=4, reasoning_tokens=3)
    calls: Any = [ToolCall(id="call_a", name="get_weather", arguments='{"city": "Paris"}'), ("get_time", {})]
    step = Step("Let me see.", reasoning="Hm, well.", tool_calls=calls, usage=usage)
    message, _, _ = await ask(create_scripted_agent(step, api=api, alias="MODEL"))
    assert message.content == "Let me see."
    assert message.reasoning == "Hm, well."
    assert message.finish_reason == "tool_calls"
    assert message.model == "scripted-model"
    assert [(call.name, call.arguments) for call in message.tool_calls] == [
        ("get_weather", '{"city": "Paris"}'),
        ("get_time", "{}"),
    ]
    assert message.tool_calls[0].id == "call_a"
    assert all(getattr(message.usage, name) == count for name, count in usage if count is not None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_custom_tool_call_has_its_text_as_arguments(api: API, stream: bool) -> None:
    """A call of OpenAI's custom tools, whose input is a text and not JSON, arrives with this text."""
    step = Step(tool_calls=[ToolCall(id="call_a", name="run", arguments="print(1, 2)", type="custom")])
    message, _, _ = await ask(create_scripted_agent(step, api=api, stream=stream))
    (call,) = message.tool_calls
    assert (call.id, call.name, call.arguments, call.type) == ("call_a", "run", "print(1, 2)", "custom")


async def test_incomplete_arguments_arrive_only_when_streamed() -> None:
    """Arguments that a token limit cut short arrive when streamed; in Anthropic's whole answer, they are `{}`."""
    step = Step(tool_calls=[("look", '{"where": "ov')], finish_reason="length")
    for stream, arguments in ((True, '{"where": "ov'), (False, "{}")):
        message, _, _ = await ask(create_scripted_agent(step, api="messages", stream=stream))
        assert (message.finish_reason, message.tool_calls[0].arguments) == ("length", arguments)


@pytest.mark.parametrize("api", APIS)
async def test_surrogates_in_two_deltas_become_one_character(api: API) -> None:
    """The two surrogates of a character that are scripted in two deltas arrive as one character, for each API."""
    message, tokens, _ = await ask(create_scripted_agent(Step(["a\ud83d", "\ude00b"]), api=api))
    assert message.content == "".join(tokens) == "a😀b"


async def test_error_page_as_a_step_becomes_an_llm_error() -> None:
    """An HTML page with an error status, as proxies send it, becomes an `LLMError` with its text."""
    page = ResponseStream((Chunk(0, b"<h1>Bad gateway</h1>"),), status=502, headers={"content-type": ["text/html"]})
    _, _, error = await ask(create_scripted_agent([page]))
    assert isinstance(error, LLMError)
    assert error.status == 502
    assert "Bad gateway" in str(error)


async def test_message_as_a_step_arrives_with_its_fields() -> None:
    """A message as step arrives with its text, finish reason, reasoning and usage."""
    scripted = AssistantMessage("Hello", finish_reason="length", reasoning="Hm", usage=Usage(input_tokens=1))
    message, _, _ = await ask(create_scripted_agent([scripted]))
    assert (message.content, message.finish_reason, message.reasoning) == ("Hello", "length", "Hm")
    assert message.usage.input_tokens == 1
    message, _, _ = await ask(create_scripted_agent([UserMessage("Hello")]))
    assert message.content == "Hello"


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_without_streaming_has_the_same_text(stream: bool) -> None:
    """Without streaming, the same text arrives as one token."""
    message, tokens, _ = await ask(create_scripted_agent("Hello there", stream=stream))
    assert message.content == "Hello there"
    assert tokens == (["Hello", " there"] if stream else ["Hello there"])


async def test_function_as_script_answers_all_calls() -> None:
    """A function as script gets each call, and returns a text or a failure."""
    llm = ScriptedLLM(lambda call: f"{call.number}: {call.text}" if call.number < 3 else Failure(400, "Enough"))
    assert [(await ask(llm.agent()))[0].content for _ in range(2)] == ["1: there", "2: there"]
    assert isinstance((await ask(llm.agent()))[2], LLMError)


async def test_function_as_a_step_answers_its_call() -> None:
    """A function as one of several steps answers the call whose turn it is."""
    llm = ScriptedLLM(["Hello", lambda call: Step(call.agent or "")])
    assert [(await ask(llm.agent(alias="MODEL")))[0].content for _ in range(2)] == ["Hello", "MODEL"]
    llm.assert_complete()


async def test_recorded_stream_as_a_step_is_played_unchanged() -> None:
    """A `ResponseStream` as step is played with its bytes."""
    body = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    recorded = ResponseStream(
        (Chunk(0, body[:30]), Chunk(0, body[30:])), headers={"content-type": ["text/event-stream"]}
    )
    message, _, _ = await ask(create_scripted_agent([recorded]))
    assert message.content == "Hi"


async def test_agents_and_forks_of_one_script_take_its_steps_in_order() -> None:
    """Several agents and a fork use one script, and each call takes the next step."""
    llm = ScriptedLLM(["one", "two", "three"])
    agents = [llm.agent(), llm.agent(api="messages", alias="OTHER"), llm.agent().fork(alias="FORK", temperature=0.5)]
    assert [(await ask(agent))[0].content for agent in agents] == ["one", "two", "three"]
    assert [call.agent for call in llm.calls] == ["SCRIPTED_AGENT", "OTHER", "FORK"]
    assert llm.last_call.parameters["temperature"] == 0.5


async def test_scripted_agent_takes_the_arguments_of_a_providers_agent() -> None:
    """`ScriptedLLM.agent` takes the arguments of `create_openai_agent`, with their effect, and ignores a client."""
    llm = ScriptedLLM(["Hello"])
    agent = llm.agent(
        model="gpt-4", async_client=object(), system="Be brief.", reply_metadata={"speaker": "me"}, top_p=1
    )
    message, _, _ = await ask(agent)
    assert message.speaker == "me"
    assert (llm.last_call.model, llm.last_call.system) == ("gpt-4", "Be brief.")
    assert llm.last_call.parameters == {"top_p": 1, "stream_options": {"include_usage": True}}


# --- errors


async def test_exception_as_a_step_is_raised_by_its_call() -> None:
    """An exception class or object is raised in place of an answer; `ConnectionError` as `ConnectionFailedError`."""
    llm = ScriptedLLM(
        ["Hello", ZeroDivisionError, KeyError("k"), RateLimitedError("slow down"), ConnectionError("no route")]
    )
    errors = [(await ask(llm.agent()))[2] for _ in range(5)]
    assert [type(error) for error in errors] == [
        type(None), ZeroDivisionError, KeyError, RateLimitedError, ConnectionFailedError,
    ]  # fmt: skip
    llm.assert_complete()


async def test_failure_becomes_the_typed_error_of_agents() -> None:
    """A `Failure` becomes the typed error of its status, and the agent does not retry by default."""
    llm = ScriptedLLM(
        [Failure(429, "Too fast", headers={"Retry-After": "7"}), Failure(529, headers={"x-should-retry": "false"})]
    )
    _, _, error = await ask(llm.agent())
    assert isinstance(error, RateLimitedError)
    assert "Too fast" in str(error)
    assert (error.status, error.retry_after, error.retryable) == (429, 7.0, True)
    _, _, error = await ask(llm.agent(api="messages"))
    assert isinstance(error, ProviderOverloadedError)
    assert error.retryable is False


async def test_recorded_connection_failure_fails_again() -> None:
    """A recorded response without a status becomes a `ConnectionFailedError`, with and without the SDK."""
    failed = ResponseStream(status=0, end="raise ConnectError: no route", complete=False)
    _, _, error = await ask(create_scripted_agent([failed]))
    _, _, on_wire = await ask_through_sdk([failed], "chat", retry=None)
    assert isinstance(error, ConnectionFailedError)
    assert isinstance(on_wire, ConnectionFailedError)
    assert "no route" in str(error)


async def test_scripted_agent_with_retry_takes_one_step_for_each_attempt() -> None:
    """With `retry`, the agent tries again, and each attempt is a call."""
    llm = ScriptedLLM([Failure(503), ConnectionError("no route"), "Here you are"])
    message, _, _ = await ask(llm.agent(retry=Retry(attempts=3, first_wait=0.0)))
    assert message.content == "Here you are"
    assert len(llm.calls) == 3


@pytest.mark.parametrize(
    ("then", "kind"),
    [
        ("truncate", StreamTruncatedError),
        ("reset", StreamBrokenError),
        (Failure(429), RateLimitedError),
        (Failure(529), ProviderOverloadedError),
    ],
)
@pytest.mark.parametrize("api", APIS)
async def test_stream_fails_after_the_given_number_of_tokens(api: API, then: Any, kind: type[LLMError]) -> None:
    """A step with `after=2` and a failing `then` streams two tokens, then raises its error with both in `partial`."""
    partial, tokens, error = await ask(create_scripted_agent(Step("one two three", after=2, then=then), api=api))
    assert tokens == ["one", " two"]
    assert type(error) is kind
    assert isinstance(error, LLMError)
    assert error.delivered_any
    assert partial.content == "one two"
    assert partial.interrupted


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("api", APIS)
async def test_stalled_answer_fails_after_the_stall_timeout(api: API) -> None:
    """A stalled answer raises `StreamStalledError` after the agent's own timeout, with the received text."""
    step = Step("one two three", after=1, then="stall")
    partial, _, error = await ask(create_scripted_agent(step, api=api, stall_timeout=60))
    assert isinstance(error, StreamStalledError)
    assert partial.content == "one"


async def test_held_answer_continues_after_release() -> None:
    """With `then="hold"`, the tokens before the hold arrive at once, and the others after `release()`."""
    llm = ScriptedLLM(Step("one two three", after=1, then="hold"))
    async with MiniAgents():
        (promise,) = [promise async for promise in llm.agent().trigger("Hi")]
        tokens = aiter(promise)
        assert await anext(tokens) == "one"
        rest = asyncio.ensure_future(anext(tokens))
        await asyncio.sleep(0)
        assert not rest.done()
        llm.release()
        assert await rest == " two"


async def test_call_without_a_step_raises_its_error_again_in_assert_complete() -> None:
    """A call without a step raises `UnexpectedCallError`, and `assert_complete` raises the same error again."""
    llm = ScriptedLLM("Hello")
    await ask(llm.agent())
    _, _, error = await ask(llm.agent(retry=AT_ONCE))
    assert isinstance(error, UnexpectedCallError)
    assert len(llm.calls) == 2
    with pytest.raises(UnexpectedCallError) as caught:
        llm.assert_complete()
    assert caught.value is error


# --- both levels


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Draw steps of all kinds, some of which fail."""
    text = st.text(max_size=12) | st.lists(st.text(max_size=3), max_size=4)
    arguments = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)
    step: dict[str, Any] = {
        "text": draw(text),
        "reasoning": draw(st.just("") | text),
        "refusal": draw(st.just("") | st.text(max_size=6)),
        "tool_calls": draw(st.lists(st.tuples(st.sampled_from(["look", "find"]), arguments), max_size=2)),
        "finish_reason": draw(st.none() | st.sampled_from(["stop", "length", "content_filter"])),
        "cut": draw(st.sampled_from(["word", "character", 2])),
    }
    then: Any = draw(st.sampled_from([None, None, "truncate", "reset", 0.0, Failure(429), Failure(529), Failure(500)]))
    after = None if then is None else draw(st.none() | st.integers(0, Step(**step).deltas.tokens))
    return Step(**step, then=then, after=after)


@given(step=steps(), api=st.sampled_from(APIS), stream=st.booleans())
async def test_scripted_agent_equals_the_real_sdk_on_the_same_step(step: Step, api: API, stream: bool) -> None:
    """Message, tokens and error of a scripted agent equal those of the provider's agent through the real SDK."""
    settings: dict[str, Any] = {"stream": stream, "retry": None}
    message, tokens, error = await ask(ScriptedLLM(step).agent(api=api, **settings))
    expected = await ask_through_sdk(step, api, **settings)
    assert (message, tokens, type(error), str(error)) == (*expected[:2], type(expected[2]), str(expected[2]))


@given(
    script=st.lists(st.sampled_from(["Hi", Failure(503), Failure(401), Step("", then="reset"), OSError("no route")]))
)
async def test_scripted_agent_retries_like_the_real_sdk(script: list[Any]) -> None:
    """With retries, a scripted agent sends the same requests as the provider's agent, and ends in the same way."""
    llm = ScriptedLLM(script)
    message, _, error = await ask(llm.agent(api="messages", retry=AT_ONCE))
    other = ScriptedLLM(script)
    async with other.anthropic_client() as client:
        agent = create_anthropic_agent("scripted-model", async_client=client, retry=AT_ONCE)
        expected_message, _, expected_error = await ask(agent)
    assert message == expected_message
    assert [call.request for call in llm.calls] == [call.request for call in other.calls]
    if isinstance(error, UnexpectedCallError):
        assert isinstance(expected_error, UnexpectedCallError)
    else:
        assert type(error) is type(expected_error)


@given(step=steps(), api=st.sampled_from(APIS), size=st.integers(1, 40))
async def test_message_does_not_depend_on_chunk_sizes(step: Step, api: API, size: int) -> None:
    """If a scripted answer is cut into chunks of any size, the message and the class of error are the same."""

    def recut(stream: ResponseStream) -> ResponseStream:
        return cut_at(stream, range(0, len(stream.body), size))

    message, _, error = await ask(ScriptedLLM(step).agent(api=api))
    recut_message, _, recut_error = await ask(ScriptedLLM(step, overlay=recut).agent(api=api))
    assert (message, type(error)) == (recut_message, type(recut_error))


# --- what was asked


async def test_calls_have_the_same_fields_for_each_api() -> None:
    """`last_call` of a scripted model has messages, system, text, tools, parameters and agents alike for each API."""
    history = [SystemMessage("Be kind."), UserMessage("Hi"), AssistantMessage("Hello"), UserMessage("How are you?")]
    tools: Any = [{"type": "function", "name": "look"}]
    for api in APIS:
        llm = ScriptedLLM(["Fine."])
        model = llm.agent(api=api, system="Be brief.", tools=tools, temperature=0)

        @miniagent
        async def asker(ctx: InteractionContext, model: MiniAgent[Any] = model) -> None:
            ctx.reply(model.trigger(ctx.message_promises))

        async with MiniAgents():
            await asker.trigger(history)
        call = llm.last_call
        assert call.messages == (UserMessage("Hi"), AssistantMessage("Hello"), UserMessage("How are you?"))
        assert call.system == "Be brief.\n\nBe kind."
        assert call.text == "How are you?"
        assert call.tools == tuple(tools)
        assert call.parameters["temperature"] == 0
        assert (call.agent, call.agents) == ("SCRIPTED_AGENT", ("SCRIPTED_AGENT", "ASKER"))
        assert (call.stream, call.api, call.number) == (True, api, 1)


async def test_stop_dialog_as_a_step_ends_a_chain() -> None:
    """`StopDialog` as a step of a scripted model ends `achain_loop`."""
    writer = ScriptedLLM(["Draft", "Better draft"])
    critic = ScriptedLLM(["Too short", StopDialog])
    async with MiniAgents():
        await achain_loop([writer.agent(), AWAIT, critic.agent(), AWAIT], "Write!")
    assert [call.text for call in writer.calls + critic.calls] == ["Write!", "Too short", "Draft", "Better draft"]
    writer.assert_complete()
    critic.assert_complete()
