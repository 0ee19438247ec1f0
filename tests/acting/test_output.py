"""Outputs of a type: requests, `parsed`, errors, and outputs together with tools, on the bytes of each API."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field
from scripted_loops import agent_of
from typing_extensions import TypedDict

from miniagents import (
    AnswerFinished,
    AssistantMessage,
    InMemoryChatHistory,
    InteractionContext,
    LLMError,
    Message,
    MiniAgents,
    OutputInvalidError,
    PendingApproval,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolMessage,
    TooManyRoundsError,
    handoff,
    miniagent,
    tool,
)
from miniagents.ext.llm.anthropic import AnthropicMessage
from miniagents.ext.llm.openai import OpenAIMessage
from miniagents_testing import ScriptedLLM, create_scripted_agent, faults
from miniagents_testing._script import Step
from miniagents_testing._wire.dialects import QUIRKS, provider_stream
from miniagents_testing.recut import cut_at

if TYPE_CHECKING:
    from miniagents_testing._script import API

APIS: list[API] = ["chat", "responses", "messages"]
MODES: list[Literal["schema", "tool"]] = ["schema", "tool"]


class Source(BaseModel):
    """Where a claim comes from."""

    url: str


class Verdict(BaseModel):
    """A verdict on a text."""

    good: bool
    why: str = ""
    sources: list[Source] = []


@dataclass
class Point:
    """A place."""

    x: int
    y: int | None = None


class Options(TypedDict):
    """Options."""

    fast: bool


GOOD = Verdict(good=True, why="é 😀", sources=[Source(url="a")])


async def double(number: int) -> int:
    """Double a number."""
    return number * 2


async def final_answer_of(llm: ScriptedLLM, api: API, **settings: Any) -> Any:
    """Return the last reply of an agent."""
    async with MiniAgents():
        return await agent_of(llm, api, **settings).trigger("Hello").last


async def error_of(llm: ScriptedLLM, api: API, **settings: Any) -> OutputInvalidError:
    """Return the `OutputInvalidError` that awaiting the last reply of an agent raises."""
    with pytest.raises(OutputInvalidError) as caught:
        await final_answer_of(llm, api, **settings)
    return caught.value


# --- values


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Verdict, GOOD),
        (list[Verdict], [GOOD, Verdict(good=False)]),
        (int, 7),
        (str, "text"),
        (Verdict | None, None),
        (Verdict | None, GOOD),
        (Point, Point(1)),
        (Options, {"fast": True}),
        (Literal["a", "b"], "b"),
    ],
    ids=str,
)
async def test_parsed_is_the_value_of_the_answer(type_: Any, value: Any, api: API, mode: str, stream: bool) -> None:
    """`parsed` of the final answer is the value, for any type that pydantic knows, sent as a text or as a call."""
    llm = ScriptedLLM([Step.of_output(value, cut=3)])
    message = await final_answer_of(llm, api, output=type_, output_mode=mode, stream=stream)
    assert message.parsed == value
    assert type(message) is (AnthropicMessage if api == "messages" else OpenAIMessage)
    assert (message.tool_calls, message.finish_reason) == ((), "stop")
    assert message.parse(type_) == value, "also without knowing the agent"
    llm.assert_complete()


@pytest.mark.parametrize("api", APIS)
async def test_a_type_without_strict_schema_goes_with_a_tool(api: API) -> None:
    """`output=dict[str, int]` is a `TypeError` at creation by default, and works with `output_mode="tool"`."""
    llm = ScriptedLLM([Step.of_output({"a": 1})])
    with pytest.raises(TypeError, match=r"'dict\[str, int\]'.*any keys.*output_mode=\"tool\""):
        agent_of(llm, api, output=dict[str, int])
    assert (await final_answer_of(llm, api, output=dict[str, int], output_mode="tool")).parsed == {"a": 1}


async def test_parsed_is_made_of_the_text_and_is_no_part_of_the_message() -> None:
    """`parsed` is a new value each time; it is neither hashed nor stored, and a message from a store has none."""
    async with MiniAgents():
        message: Any = await create_scripted_agent(Step(GOOD), output=Verdict).trigger("Hello").last
    plain = OpenAIMessage(**{name: value for name, value in message if name not in ("class_",)})
    assert (plain, plain.hash_key) == (message, message.hash_key)
    assert message.parsed == GOOD
    assert message.parsed is not message.parsed
    assert "parsed" not in message.model_dump()
    for loaded in (pickle.loads(pickle.dumps(message)), Message.model_validate(message.serialize())):
        assert loaded == message
        assert loaded.parsed is None
        assert loaded.parse(Verdict) == GOOD


async def test_parsed_is_none_without_output() -> None:
    """An answer of an agent without `output=` has no value, also if its text is JSON."""
    async with MiniAgents():
        message: Any = await create_scripted_agent(Step(GOOD)).trigger("Hello").last
    assert message.parsed is None
    assert AssistantMessage("{}").parsed is None


def test_parse_reads_the_text_of_any_message() -> None:
    """`parse` reads a text, joined parts or fields; a value that is no object may also stand in `{"value": ...}`."""
    assert Message('{"good": true}').parse(Verdict) == Verdict(good=True)
    assert Message(["[1, ", "2]"]).parse(list[int]) == [1, 2]
    assert Message('{"value": [1]}').parse(list[int]) == [1]
    assert Message('{"value": null}').parse(Verdict | None) is None
    assert Message('{"value": 1}').parse(dict[str, int]) == {"value": 1}, "an object is not unpacked"
    assert Message(good=True, why="fields").parse(Verdict) == Verdict(good=True, why="fields")
    with pytest.raises(OutputInvalidError, match="empty"):
        AssistantMessage(finish_reason="stop").parse(Verdict)
    with pytest.raises(TypeError, match="cannot be the type of an output"):
        Message("{}").parse(object())  # type: ignore[arg-type]  # wrong on purpose


async def test_scripted_output_of_a_model_leaves_out_computed_fields() -> None:
    """`Step.of_output` answers what the type reads, which has no computed fields."""

    class Sum(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: int

        @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
        @property
        def twice(self) -> int:
            """Return the double."""
            return 2 * self.a

    async with MiniAgents():
        answer: Any = await create_scripted_agent(Step.of_output(Sum(a=1)), output=Sum).trigger("Hi").last
    assert answer.parsed == Sum(a=1)


def test_parse_prefers_the_first_class_of_a_union() -> None:
    """`A | B` and `B | A` are equal for Python, but a text that fits both classes becomes a value of the first one."""

    class Other(BaseModel):
        good: bool

    message = Message('{"good": true}')
    for _ in range(2):
        assert type(message.parse(Verdict | Other)) is Verdict
        assert type(message.parse(Other | Verdict)) is Other
    assert [type(each) for each in Message('[{"good": true}]').parse(list[Other | Verdict])] == [Other]


# --- errors


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("answer", "says", "count"),
    [
        (Step('{"why": 1}'), "the text is no valid Verdict: good: Field required; why: Input should be", 2),
        (Step('```json\n{"good": true}\n```'), "begins '```json", 1),
        (Step("I think it is good."), "Invalid JSON", 1),
        (Step('{"good": true, "why": "cu', finish_reason="length"), "length limit", 0),
        (Step('{"good": true}', finish_reason="length"), "length limit", 0),
        (Step("", refusal="I will not."), "refuses to answer", 0),
        (Step('{"good": tr', finish_reason="content_filter"), "filter", 0),
        (Step(""), "it is empty", 1),
    ],
    ids=["fields", "fence", "prose", "cut", "whole at the limit", "refusal", "filter", "empty"],
)
async def test_an_answer_that_is_no_output_is_an_error_with_the_answer(
    answer: Step, says: str, count: int, api: API, mode: str, stream: bool
) -> None:
    """An invalid, truncated, filtered or refused answer is an `OutputInvalidError` with this answer and the reasons."""
    if api == "messages" and answer.finish_reason == "content_filter":
        pytest.skip("Anthropic has no such reason")
    llm = ScriptedLLM(answer)
    error = await error_of(llm, api, output=Verdict, output_mode=mode, stream=stream)
    assert says in str(error)
    assert len(error.errors) == count
    assert isinstance(error.__cause__, ValidationError) is bool(count)
    partial = error.partial
    assert (partial.content or "") == ("" if api == "messages" and answer.refusal else "".join(answer.deltas.text)) or (
        answer.refusal and partial.content == answer.refusal  # Anthropic's refusals are text
    )
    assert isinstance(partial, AssistantMessage)
    assert partial.usage is not None
    if "true}" not in str(partial.content):
        with pytest.raises(OutputInvalidError):
            _ = partial.parsed
    assert pickle.loads(pickle.dumps(error)).errors == error.errors


async def test_readers_get_the_tokens_before_the_error_and_a_history_keeps_the_answer() -> None:
    """The tokens of an invalid answer can be read, its error comes after them, and a history keeps its text."""
    history = InMemoryChatHistory()
    async with MiniAgents():
        promise = create_scripted_agent(Step("No JSON", cut=2), output=Verdict).trigger("Hello").last
        tokens: list[str] = []
        with pytest.raises(OutputInvalidError):
            async for token in promise:
                tokens.append(token)
        with pytest.raises(OutputInvalidError):
            await history.aappend(promise)
        assert "".join(tokens) == "No JSON"
    assert [(str(each), getattr(each, "interrupted", None)) for each in await history.aload_chat_history()] == [
        ("No JSON", True)
    ]


async def test_asking_again_with_the_error_gives_the_model_its_answer_and_the_reasons() -> None:
    """`error.partial` and the text of the error, sent after the question, let the model correct itself."""
    llm = ScriptedLLM([Step('{"good": "maybe"}'), Step(GOOD)])
    async with MiniAgents():
        agent = llm.agent(output=Verdict)
        try:
            message: Any = await agent.trigger("Is it good?").last
        except OutputInvalidError as error:
            message = await agent.trigger(["Is it good?", error.partial, str(error)]).last
    assert message.parsed == GOOD
    assert [str(each) for each in llm.last_call.messages][:2] == ["Is it good?", '{"good": "maybe"}']
    assert "good: Input should be a valid boolean" in llm.last_call.text


def test_errors_of_long_texts_are_short() -> None:
    """The text of an `OutputInvalidError` is short, even if the answer is long or has thousands of wrong places."""
    for text in ("no json " * 10_000, json.dumps(["x"] * 10_000)):
        with pytest.raises(OutputInvalidError) as caught:
            Message(text).parse(list[int])
        assert len(str(caught.value)) < 1_200


# --- requests


def asked(llm: ScriptedLLM, number: int = 0) -> dict[str, Any]:
    """Return those parameters of a request that ask for outputs and tools, as plain values."""
    request = json.loads(json.dumps(llm.calls[number].request, default=dict))
    names = ("response_format", "text", "output_config", "tool_choice", "tools")
    return {name: request[name] for name in names if name in request}


@pytest.mark.parametrize("api", APIS)
async def test_schema_mode_asks_in_the_form_of_the_api(api: API) -> None:
    """The schema goes out as `response_format`, `text.format` or `output_config`, beside the user's options."""
    more: dict[str, Any] = {"chat": {}, "responses": {"text": {"verbosity": "low"}}}.get(
        api, {"output_config": {"effort": "low"}}
    )
    llm = ScriptedLLM([Step.of_output(7)])
    await final_answer_of(llm, api, output=int, **more)
    schema = {
        "type": "object",
        "properties": {"value": {"type": "integer"}},
        "required": ["value"],
        "additionalProperties": False,
    }
    named = {"name": "int", "schema": schema, "strict": True}
    assert (
        asked(llm)
        == {
            "chat": {"response_format": {"type": "json_schema", "json_schema": named}},
            "responses": {"text": {"verbosity": "low", "format": {"type": "json_schema", **named}}},
            "messages": {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}}},
        }[api]
    )
    assert llm.last_call.output_schema is not None


@pytest.mark.parametrize("api", APIS)
async def test_tool_mode_forces_a_call_in_the_form_of_the_api(api: API) -> None:
    """Without other tools, `tool_choice` forces the output's tool.

    Beside other tools, it forces a call of any tool, in each request.
    """
    name = {"name": "final_answer"}
    one, some = {
        "chat": ({"type": "function", "function": name}, "required"),
        "responses": ({"type": "function", **name}, "required"),
        "messages": ({"type": "tool", **name}, {"type": "any"}),
    }[api]
    llm = ScriptedLLM([Step.of_output(GOOD), Step(tool_calls=[("double", {"number": 2})]), Step.of_output(GOOD)])
    async with MiniAgents():
        agent = agent_of(llm, api, output=Verdict, output_mode="tool")
        await agent.trigger("Hello")
        await agent.fork(tools=[double]).trigger("Hello")
    assert [asked(llm, number)["tool_choice"] for number in range(3)] == [one, some, some]
    assert [len(asked(llm, number)["tools"]) for number in range(3)] == [1, 2, 2]


@pytest.mark.parametrize(
    ("api", "forced", "later"),
    [
        ("chat", "required", None),
        ("chat", {"type": "function", "function": {"name": "double"}}, None),
        (
            "chat",
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        ),
        ("chat", "auto", "auto"),
        ("responses", "required", None),
        ("responses", {"type": "function", "name": "double"}, None),
        (
            "responses",
            {"type": "allowed_tools", "mode": "required", "tools": []},
            {"type": "allowed_tools", "mode": "auto", "tools": []},
        ),
        ("messages", {"type": "any"}, None),
        ("messages", {"type": "tool", "name": "double"}, None),
        (
            "messages",
            {"type": "any", "disable_parallel_tool_use": True},
            {"type": "auto", "disable_parallel_tool_use": True},
        ),
        ("messages", {"type": "none"}, {"type": "none"}),
    ],
)
async def test_a_forced_choice_of_the_user_goes_out_once(api: API, forced: Any, later: Any) -> None:
    """A `tool_choice` that forces a call goes out with the first request only; else it would force calls without end.

    A `tool_choice` that forces no call goes out with each request.
    """
    llm = ScriptedLLM([Step(tool_calls=[("double", {"number": 2})]), "4"])
    await final_answer_of(llm, api, tools=[double], tool_choice=forced)
    assert [asked(llm, number).get("tool_choice") for number in range(2)] == [forced, later]


async def test_a_forced_choice_goes_unchanged_with_tools_that_the_caller_runs() -> None:
    """With only tools that the caller runs, a `tool_choice` that forces a call goes out with each request."""
    described = {"type": "function", "function": {"name": "theirs", "parameters": {}}}
    llm = ScriptedLLM([Step(tool_calls=[("theirs", {})]), Step(tool_calls=[("theirs", {})])])
    async with MiniAgents():
        agent = llm.agent(tools=[described], tool_choice="required")
        answer: Any = await agent.trigger("Hello").last
        await agent.trigger(["Hello", answer, ToolMessage("done", tool_call_id=answer.tool_calls[0].id)])
    assert [asked(llm, number)["tool_choice"] for number in range(2)] == ["required", "required"]


@pytest.mark.parametrize(
    ("api", "settings", "says"),
    [
        ("chat", {"response_format": {"type": "json_object"}}, "response_format"),
        ("responses", {"text": {"format": {"type": "text"}}}, "format of text"),
        ("messages", {"output_config": {"format": {}}}, "format of output_config"),
        ("chat", {"output_mode": "json"}, "output_mode must be"),
        ("chat", {"output_mode": "tool", "tools": [tool(double, name="final_answer")]}, "which one of the tools has"),
        ("messages", {"output_mode": "tool", "thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
    ],
)
def test_settings_that_contradict_an_output_are_refused_at_creation(api: API, settings: Any, says: str) -> None:
    """A second format, a tool of the output's name, and thinking with a forced call are `ValueError`s at creation."""
    llm = ScriptedLLM([])
    with pytest.raises(ValueError, match=says):
        agent_of(llm, api, output=Verdict, **settings)
    with pytest.raises(ValueError, match=says):
        agent_of(llm, api, output=Verdict).fork(**settings)


async def test_thinking_goes_with_a_schema_and_with_a_call_that_is_not_forced() -> None:
    """Anthropic's thinking is accepted with a schema.

    In tool mode it is accepted if it is adaptive, or if `tool_choice` is `auto`.
    """
    thinking = {"type": "enabled", "budget_tokens": 2048}
    for settings in (
        {"thinking": thinking},
        {"thinking": {"type": "adaptive"}, "output_mode": "tool"},
        {"thinking": thinking, "output_mode": "tool", "tool_choice": {"type": "auto"}},
    ):
        llm = ScriptedLLM([Step.of_output(GOOD, reasoning="Hm.")])
        message = await final_answer_of(llm, "messages", output=Verdict, **settings)
        assert (message.parsed, message.reasoning) == (GOOD, "Hm.")
        if "tool_choice" in settings:
            assert asked(llm)["tool_choice"] == {"type": "auto"}


async def test_forks_and_calls_change_the_output() -> None:
    """`fork` and `trigger` take another output, None for none, and `fork` raises `TypeError` for a wrong type."""
    llm = ScriptedLLM([Step.of_output(GOOD), Step.of_output(3), "text"])
    async with MiniAgents():
        agent = llm.agent(output=Verdict)
        replies: list[Any] = [
            await agent.trigger("Hello").last,
            await agent.fork(output=int).trigger("Hello").last,
            await agent.trigger("Hello", output=None).last,
        ]
    assert [each.parsed for each in replies] == [GOOD, 3, None]
    with pytest.raises(TypeError, match="any keys"):
        agent.fork(output=dict[str, str])
    with pytest.raises(TypeError, match="cannot be the type of an output"):
        agent.fork(output=object())


# --- tools


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
async def test_only_the_final_answer_of_a_loop_is_the_output(api: API, mode: str, stream: bool) -> None:
    """Answers with calls may have any text: only the last answer, without calls, is the output."""
    steps: list[Any] = [Step("Let me see.", tool_calls=[("double", {"number": 2})]), Step.of_output(GOOD, cut=4)]
    llm = ScriptedLLM(steps)
    async with MiniAgents():
        replies: Any = await agent_of(
            llm, api, tools=[double], output=Verdict, output_mode=mode, stream=stream
        ).trigger("Hello")
    assert [str(each.content) for each in replies[:2]] == ["Let me see.", "4"]
    assert (len(replies), replies[-1].parsed) == (3, GOOD)
    assert [str(each) for each in llm.last_call.tool_results] == ["4"]


@pytest.mark.parametrize("api", APIS)
async def test_an_output_beside_other_calls_waits_for_their_results(api: API) -> None:
    """If an answer has the output's call beside other calls, these run, and the model is asked for the output again."""
    both = Step(tool_calls=[("double", {"number": 2}), ("final_answer", {"good": False})])
    llm = ScriptedLLM([both, Step.of_output(GOOD)])
    async with MiniAgents():
        replies: Any = await agent_of(llm, api, tools=[double], output=Verdict, output_mode="tool").trigger("Hello")
    assert [each.name for each in replies[0].tool_calls] == ["double"]
    assert (len(replies), replies[-1].parsed) == (3, GOOD)
    assert [str(each) for each in llm.last_call.tool_results] == ["4"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", APIS)
async def test_the_first_call_of_the_output_counts(api: API, stream: bool) -> None:
    """If a model gives its output twice, the first one counts, and neither the message nor its events have a call."""
    llm = ScriptedLLM([Step(tool_calls=[("final_answer", {"good": True}), ("final_answer", {"good": False})])])
    async with MiniAgents():
        promise = agent_of(llm, api, output=Verdict, output_mode="tool", stream=stream).trigger("Hello").last
        message: Any = await promise
        events = [type(event) async for event in promise.events()]
    assert message.parsed == Verdict(good=True)
    assert message.tool_calls == ()
    assert ToolCallDelta not in events


@pytest.mark.parametrize("api", APIS)
async def test_calls_of_the_callers_tools_end_without_an_output(api: API) -> None:
    """An answer that calls a tool which the caller runs stays whole.

    An `OutputInvalidError` with this answer follows it.
    """
    described: dict[str, Any] = {
        "chat": {"type": "function", "function": {"name": "theirs", "parameters": {}}},
        "responses": {"type": "function", "name": "theirs", "parameters": {}},
        "messages": {"name": "theirs", "input_schema": {"type": "object"}},
    }[api]
    for tools in ([described], [described, double]):
        llm = ScriptedLLM([Step(tool_calls=[("theirs", {})])])
        async with MiniAgents():
            replies = agent_of(llm, api, tools=tools, output=Verdict).trigger("Hello")
            promises = [promise async for promise in replies]
            answer: Any = await promises[0]
            with pytest.raises(OutputInvalidError, match="no Verdict: its tools are the caller's to run") as caught:
                await replies.last
        assert [call.name for call in answer.tool_calls] == ["theirs"]
        assert caught.value.partial is answer
        assert len(promises) == 2


async def test_a_handoff_ends_without_an_output() -> None:
    """After a handoff come the other agent's replies, and then an `OutputInvalidError`.

    Its `partial` is the last of these replies, or an empty message.
    """

    @miniagent
    async def clerk(ctx: InteractionContext) -> None:
        """Answers questions on bills."""
        ctx.reply("I take over.")

    @miniagent
    async def silent(ctx: InteractionContext) -> None:
        """Replies nothing."""

    for agent, partial in ((clerk, "I take over."), (silent, "")):
        llm = ScriptedLLM([Step(tool_calls=[(f"handoff_to_{agent.alias.lower()}", {})])])
        error = await error_of(llm, "chat", tools=[handoff(agent)], output=Verdict)
        assert "handed over" in str(error)
        assert error.partial.content == partial


async def test_a_call_that_waits_for_its_approval_ends_without_an_output() -> None:
    """If a call waits for its approval, an `OutputInvalidError` with the question follows it.

    Once the call is approved, the model gives the output.
    """

    @miniagent
    async def absent(ctx: InteractionContext) -> None:
        """Decides nothing."""

    tools = [tool(double, approve=absent)]
    llm = ScriptedLLM([Step(tool_calls=[("double", {"number": 1})]), Step.of_output(GOOD)])
    error = await error_of(llm, "chat", tools=tools, output=Verdict)
    assert "waits for its approval" in str(error)
    assert isinstance(error.partial, PendingApproval)
    async with MiniAgents():
        asked = AssistantMessage("", tool_calls=[error.partial.call])
        conversation: list[Message | str] = ["Hello", asked, error.partial, error.partial.grant()]
        answer = await llm.agent(tools=tools, output=Verdict).trigger(conversation).last
    assert answer.parsed == GOOD


async def test_a_model_that_goes_on_calling_fails_with_the_error_of_the_loop() -> None:
    """More rounds than allowed are a `TooManyRoundsError`, also with an output."""
    llm = ScriptedLLM(lambda call: Step(tool_calls=[("double", {"number": 1})]))
    async with MiniAgents():
        with pytest.raises(TooManyRoundsError):
            await llm.agent(tools=[double], output=Verdict, max_rounds=2).trigger("Hello").last


# --- calls read as text


@pytest.mark.parametrize("api", APIS)
async def test_an_output_by_call_streams_as_text(api: API) -> None:
    """The arguments of the output's call stream as text; the text before the call and events of calls are left out."""
    llm = ScriptedLLM([Step("Here it is: ", tool_calls=[("final_answer", GOOD.model_dump())], cut=5)])
    async with MiniAgents():
        promise = agent_of(llm, api, output=Verdict, output_mode="tool").trigger("Hello").last
        events = [event async for event in promise.events()]
        values = [value async for value in promise.partial_json()]
        message: Any = await promise
    assert [type(event) for event in events[:-1]] == [TextDelta] * (len(events) - 1)
    assert len(events) > 5
    assert events[-1] == AnswerFinished(message)
    assert values[-1] == GOOD.model_dump()
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == message.content


@pytest.mark.parametrize("api", APIS)
async def test_a_text_instead_of_the_call_is_delivered(api: API) -> None:
    """If a model answers with JSON text in place of the forced call, as on some servers, this text is the output."""
    llm = ScriptedLLM(Step(GOOD, cut=4))
    message = await final_answer_of(llm, api, output=Verdict, output_mode="tool")
    assert message.parsed == GOOD


@pytest.mark.parametrize("api", APIS)
async def test_outputs_by_call_are_read_in_every_variant_of_an_api(api: API) -> None:
    """An output by a call is read in each variant in which servers of an API send calls."""
    call = ToolCall(id="call_1", name="final_answer", arguments=GOOD.model_dump_json())
    step = Step("Hm.", tool_calls=[call], cut=3, reasoning="Hm.")
    for quirk in QUIRKS[api]:
        llm = ScriptedLLM([provider_stream(api, step, quirks=[quirk]).response])
        message = await final_answer_of(llm, api, output=Verdict, output_mode="tool")
        assert message.parsed == GOOD, quirk


@pytest.mark.parametrize("api", APIS)
async def test_an_answer_by_call_goes_back_as_text(api: API) -> None:
    """In a later prompt an output that came by a call is the assistant's text, so that no call lacks a result."""
    llm = ScriptedLLM([Step.of_output(GOOD), "Thanks."])
    async with MiniAgents():
        answer = await agent_of(llm, api, output=Verdict, output_mode="tool").trigger("Hello").last
        await agent_of(llm, api).trigger(["Hello", answer, "And now?"])
    assert [message.role for message in llm.last_call.messages] == ["user", "assistant", "user"]
    assert json.loads(str(llm.last_call.messages[1])) == GOOD.model_dump()


@pytest.mark.parametrize("api", APIS)
async def test_a_broken_answer_by_call_keeps_what_arrived(api: API) -> None:
    """If the connection breaks, the error has the text and the arguments that had arrived."""
    arguments = json.dumps({"good": True})
    for step, text in (
        (Step(tool_calls=[("final_answer", arguments)], cut=2, after=4, then="reset"), arguments[:8]),
        (Step("One two three", after=2, then="reset"), "One two"),
    ):
        with pytest.raises(Exception, match=r".") as caught:
            await final_answer_of(ScriptedLLM([step]), api, output=Verdict, output_mode="tool")
        partial: Any = getattr(caught.value, "partial", None)
        assert (str(partial.content), partial.interrupted) == (text, True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
async def test_an_output_that_is_cut_anywhere_is_an_error_with_its_beginning(api: API, mode: str) -> None:
    """Wherever the stream ends, the answer is whole, or an `LLMError` has the beginning that had arrived."""
    text = GOOD.model_dump_json()
    call = ToolCall(id="call_1", name="final_answer", arguments=text)
    step = Step(text, cut=5) if mode == "schema" else Step("Hm.", tool_calls=[call], cut=5)
    stream = provider_stream(api, step).response
    partials: list[Any] = []
    for events in range(1, len(stream.chunks)):
        llm = ScriptedLLM([faults.cut(after=events)(stream)])
        try:
            message = await final_answer_of(llm, api, output=Verdict, output_mode=mode)
        except LLMError as error:
            partials.append(error.partial)
        else:
            assert message.parsed == GOOD
    assert all(each.interrupted and each.content in ("Hm.", text[: len(each.content)]) for each in partials)
    assert len({each.content for each in partials}) > 10


@pytest.mark.parametrize("api", APIS)
async def test_an_output_by_call_does_not_depend_on_the_chunks(api: API) -> None:
    """Byte by byte, and all at once, an output by a call is the same, and so are its tokens joined."""
    call = ToolCall(id="call_1", name="final_answer", arguments=GOOD.model_dump_json())
    stream = provider_stream(api, Step("Hm.", tool_calls=[call], cut=3)).response
    for cut in (range(1, len(stream.body)), ()):
        llm = ScriptedLLM([cut_at(stream, cut)])
        async with MiniAgents():
            promise = agent_of(llm, api, output=Verdict, output_mode="tool").trigger("Hello").last
            tokens = [token async for token in promise]
            message: Any = await promise
        assert message.parsed == GOOD
        assert "".join(tokens) == message.content == call.arguments


async def test_events_of_other_calls_stay_beside_an_output_by_call() -> None:
    """With `output_mode="tool"`, an answer that calls another tool has the events of its text and of this call."""
    llm = ScriptedLLM([Step("Hm.", tool_calls=[("double", {"number": 2})]), Step.of_output(GOOD)])
    async with MiniAgents():
        replies = llm.agent(tools=[double], output=Verdict, output_mode="tool").trigger("Hello")
        first = await anext(aiter(replies))
        events = [event async for event in first.events()]
    assert events[0] == TextDelta("Hm.")
    assert any(isinstance(event, ToolCallDelta) and event.name == "double" for event in events)


def test_parse_uses_aliases_and_limits_of_the_type() -> None:
    """The type's own validators decide: aliases, limits and conversions."""

    class Limited(BaseModel):
        score: int = Field(alias="Score", le=5)

    assert Message('{"Score": 5}').parse(Limited).score == 5
    with pytest.raises(OutputInvalidError, match="Score: Input should be less than or equal to 5"):
        Message('{"Score": 6}').parse(Limited)
