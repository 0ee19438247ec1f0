"""Agents on a script: what they say, what goes wrong, and that they are what the wire makes of the same script."""

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
    """The message, its tokens as they came, and the error that it ended with; the message is then what there was."""
    async with MiniAgents():
        (promise,) = [promise async for promise in agent.trigger(["Hi", UserMessage("there")])]
        tokens: list[str] = []
        try:
            async for token in promise:
                tokens.append(token)
            return await promise, tokens, None
        except Exception as error:
            return getattr(error, "partial", None), tokens, error


async def on_the_wire(script: Script, api: API, **settings: Any) -> tuple[Any, list[str], Exception | None]:
    """The same from the provider's agent, through the real SDK."""
    llm = ScriptedLLM(script)
    if api == "messages":
        async with llm.anthropic_client() as client:
            return await ask(create_anthropic_agent("scripted-model", async_client=client, **settings))
    async with llm.openai_client() as openai_client:
        return await ask(create_openai_agent("scripted-model", async_client=openai_client, api=api, **settings))


# --- what is said


async def test_a_text_is_all_it_takes() -> None:
    """It streams word by word, and the message is the one of a provider's agent."""
    message, tokens, error = await ask(create_scripted_agent("Hello there, you!"))
    assert error is None
    assert tokens == ["Hello", " there,", " you!"]
    assert message.content == "Hello there, you!"
    assert (message.role, message.finish_reason, message.usage.output_tokens) == ("assistant", "stop", 3)


@pytest.mark.parametrize("api", APIS)
async def test_the_message_has_all_that_was_scripted(api: API) -> None:
    """In the fields that each provider's agent fills."""
    usage = Usage(input_tokens=11, output_tokens=7, cached_tokens=5, reasoning_tokens=3)
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
async def test_a_custom_tool_is_called_with_a_text(api: API, stream: bool) -> None:
    """OpenAI's kind of tools whose input is no JSON."""
    step = Step(tool_calls=[ToolCall(id="call_a", name="run", arguments="print(1, 2)", type="custom")])
    message, _, _ = await ask(create_scripted_agent(step, api=api, stream=stream))
    (call,) = message.tool_calls
    assert (call.id, call.name, call.arguments, call.type) == ("call_a", "run", "print(1, 2)", "custom")


async def test_arguments_may_be_cut_short() -> None:
    """As by a limit of tokens; Anthropic has no way to send that in one piece."""
    step = Step(tool_calls=[("look", '{"where": "ov')], finish_reason="length")
    for stream, arguments in ((True, '{"where": "ov'), (False, "{}")):
        message, _, _ = await ask(create_scripted_agent(step, api="messages", stream=stream))
        assert (message.finish_reason, message.tool_calls[0].arguments) == ("length", arguments)


@pytest.mark.parametrize("api", APIS)
async def test_half_characters_are_sent_as_providers_send_them(api: API) -> None:
    """As JSON escapes, which the decoder puts together again."""
    message, tokens, _ = await ask(create_scripted_agent(Step(["a\ud83d", "\ude00b"]), api=api))
    assert message.content == "".join(tokens) == "a😀b"


async def test_an_error_page_can_be_a_step() -> None:
    """That of a proxy, say, which is not JSON."""
    page = ResponseStream((Chunk(0, b"<h1>Bad gateway</h1>"),), status=502, headers={"content-type": ["text/html"]})
    _, _, error = await ask(create_scripted_agent([page]))
    assert isinstance(error, LLMError)
    assert error.status == 502
    assert "Bad gateway" in str(error)


async def test_a_message_can_be_a_step() -> None:
    """Such as one that was said before."""
    scripted = AssistantMessage("Hello", finish_reason="length", reasoning="Hm", usage=Usage(input_tokens=1))
    message, _, _ = await ask(create_scripted_agent([scripted]))
    assert (message.content, message.finish_reason, message.reasoning) == ("Hello", "length", "Hm")
    assert message.usage.input_tokens == 1
    message, _, _ = await ask(create_scripted_agent([UserMessage("Hello")]))
    assert message.content == "Hello"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_is_not_streamed_is_the_same(stream: bool) -> None:
    """Only its tokens are fewer."""
    message, tokens, _ = await ask(create_scripted_agent("Hello there", stream=stream))
    assert message.content == "Hello there"
    assert tokens == (["Hello", " there"] if stream else ["Hello there"])


async def test_a_function_answers_any_number_of_calls() -> None:
    """It sees each call; what it returns can be all that a step can be."""
    llm = ScriptedLLM(lambda call: f"{call.number}: {call.text}" if call.number < 3 else Failure(400, "Enough"))
    assert [(await ask(llm.agent()))[0].content for _ in range(2)] == ["1: there", "2: there"]
    assert isinstance((await ask(llm.agent()))[2], LLMError)


async def test_a_function_can_be_one_of_the_steps() -> None:
    """For the one call that it stands for."""
    llm = ScriptedLLM(["Hello", lambda call: Step(call.agent or "")])
    assert [(await ask(llm.agent(alias="MODEL")))[0].content for _ in range(2)] == ["Hello", "MODEL"]
    llm.assert_complete()


async def test_a_recorded_stream_can_be_a_step() -> None:
    """Its bytes are played as they are."""
    body = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    recorded = ResponseStream(
        (Chunk(0, body[:30]), Chunk(0, body[30:])), headers={"content-type": ["text/event-stream"]}
    )
    message, _, _ = await ask(create_scripted_agent([recorded]))
    assert message.content == "Hi"


async def test_forks_and_several_agents_share_a_script() -> None:
    """Steps go to calls in the order in which they start; a fork keeps its client whatever else it changes."""
    llm = ScriptedLLM(["one", "two", "three"])
    agents = [llm.agent(), llm.agent(api="messages", alias="OTHER"), llm.agent().fork(alias="FORK", temperature=0.5)]
    assert [(await ask(agent))[0].content for agent in agents] == ["one", "two", "three"]
    assert [call.agent for call in llm.calls] == ["SCRIPTED_AGENT", "OTHER", "FORK"]
    assert llm.last_call.parameters["temperature"] == 0.5


async def test_an_agent_on_a_script_takes_what_a_providers_agent_takes() -> None:
    """So a test can put it in the place of `create_openai_agent`; a client that it is given is never used."""
    llm = ScriptedLLM(["Hello"])
    agent = llm.agent(
        model="gpt-4", async_client=object(), system="Be brief.", reply_metadata={"speaker": "me"}, top_p=1
    )
    message, _, _ = await ask(agent)
    assert message.speaker == "me"
    assert (llm.last_call.model, llm.last_call.system) == ("gpt-4", "Be brief.")
    assert llm.last_call.parameters == {"top_p": 1, "stream_options": {"include_usage": True}}


# --- what goes wrong


async def test_an_exception_is_raised_where_its_call_comes() -> None:
    """A class does as well as an object; what an SDK would take for the network's comes as the agents report it."""
    llm = ScriptedLLM(
        ["Hello", ZeroDivisionError, KeyError("k"), RateLimitedError("slow down"), ConnectionError("no route")]
    )
    errors = [(await ask(llm.agent()))[2] for _ in range(5)]
    assert [type(error) for error in errors] == [
        type(None), ZeroDivisionError, KeyError, RateLimitedError, ConnectionFailedError,
    ]  # fmt: skip
    llm.assert_complete()


async def test_a_failure_is_the_typed_error_of_the_agents() -> None:
    """One call, one step: an agent on a script does not retry, unless it is told to."""
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


async def test_a_connection_that_failed_when_it_was_recorded_fails_again() -> None:
    """Such a stream has no status, and an end only; the agent says so on a script as on the wire."""
    failed = ResponseStream(status=0, end="raise ConnectError: no route", complete=False)
    _, _, error = await ask(create_scripted_agent([failed]))
    _, _, on_wire = await on_the_wire([failed], "chat", retry=None)
    assert isinstance(error, ConnectionFailedError)
    assert isinstance(on_wire, ConnectionFailedError)
    assert "no route" in str(error)


async def test_an_agent_retries_if_it_is_told_to() -> None:
    """Each attempt is a call."""
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
async def test_a_stream_breaks_after_the_tokens_that_are_said(api: API, then: Any, kind: type[LLMError]) -> None:
    """The error has the part that came."""
    partial, tokens, error = await ask(create_scripted_agent(Step("one two three", after=2, then=then), api=api))
    assert tokens == ["one", " two"]
    assert type(error) is kind
    assert isinstance(error, LLMError)
    assert error.delivered_any
    assert partial.content == "one two"
    assert partial.interrupted


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("api", APIS)
async def test_a_stall_is_given_up_by_the_agent(api: API) -> None:
    """After its own stall timeout."""
    step = Step("one two three", after=1, then="stall")
    partial, _, error = await ask(create_scripted_agent(step, api=api, stall_timeout=60))
    assert isinstance(error, StreamStalledError)
    assert partial.content == "one"


async def test_a_held_answer_goes_on_when_it_is_released() -> None:
    """What came before is with the reader by then."""
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


async def test_a_call_too_much_reaches_the_reader_and_the_end_of_the_test() -> None:
    """Also where the app has caught it: `assert_complete` raises it again."""
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
    """Steps of all kinds, some of which break."""
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
async def test_an_agent_on_a_script_is_what_the_wire_makes_of_it(step: Step, api: API, stream: bool) -> None:
    """The same message and tokens through the real SDK, or the same error with the same part."""
    settings: dict[str, Any] = {"stream": stream, "retry": None}
    message, tokens, error = await ask(ScriptedLLM(step).agent(api=api, **settings))
    expected = await on_the_wire(step, api, **settings)
    assert (message, tokens, type(error), str(error)) == (*expected[:2], type(expected[2]), str(expected[2]))


@given(
    script=st.lists(st.sampled_from(["Hi", Failure(503), Failure(401), Step("", then="reset"), OSError("no route")]))
)
async def test_both_levels_retry_alike(script: list[Any]) -> None:
    """With the same number of calls, and the same end, also where the script is exhausted."""
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
async def test_where_the_bytes_are_cut_does_not_matter(step: Step, api: API, size: int) -> None:
    """Chunks of any size, everything at once: the same message."""

    def recut(stream: ResponseStream) -> ResponseStream:
        return cut_at(stream, range(0, len(stream.body), size))

    message, _, error = await ask(ScriptedLLM(step).agent(api=api))
    recut_message, _, recut_error = await ask(ScriptedLLM(step, overlay=recut).agent(api=api))
    assert (message, type(error)) == (recut_message, type(recut_error))


# --- what was asked


async def test_calls_say_what_was_asked_whichever_api() -> None:
    """Instructions apart from messages, parameters apart from both, and who asked on whose behalf."""
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


async def test_a_chain_on_scripts_runs_as_with_models() -> None:
    """An exception that is a signal is one here, too: it ends the loop."""
    writer = ScriptedLLM(["Draft", "Better draft"])
    critic = ScriptedLLM(["Too short", StopDialog])
    async with MiniAgents():
        await achain_loop([writer.agent(), AWAIT, critic.agent(), AWAIT], "Write!")
    assert [call.text for call in writer.calls + critic.calls] == ["Write!", "Too short", "Draft", "Better draft"]
    writer.assert_complete()
    critic.assert_complete()
