"""Prompts for each API, made from all kinds of messages."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from miniagents.ext.llm._prompts import chat_prompt, messages_prompt, responses_prompt
from miniagents.ext.llm._sessions.base import repair_deep
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.messages import AssistantMessage, Message, SystemMessage, ToolCall, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit

PROVIDERS = ["openai", "anthropic"]
NO_OBJECTS = [
    *("", " ", "null", "[]", "[1]", "5", '"text"', "{", '{"x":', "{'x': 1}", "x" * 9, "[" * 5000),
    *('{"x": NaN}', '{"x": [-Infinity]}', '{"x": 1e999}'),
]


class Result(Message):
    """Message with the result of a tool, as applications define it."""

    role: str | None = "tool"
    tool_call_id: str | None = None
    call_id: str | None = None
    tool_use_id: str | None = None


def calling(*ids: str, arguments: str = '{"x":1}', **fields: Any) -> AssistantMessage:
    """Return an answer that calls tools."""
    return AssistantMessage("", tool_calls=[ToolCall(id=i, name="f", arguments=arguments) for i in ids], **fields)


def turns(*messages: Message, system: Any = None) -> list[Any]:
    """Return the turns of Anthropic's API in short: each role with its text, or with its blocks in short forms."""
    _, prompt = messages_prompt(messages, system)
    return [
        (
            turn["role"],
            turn["content"] if isinstance(turn["content"], str) else [_short_form(b) for b in turn["content"]],
        )
        for turn in prompt
    ]


def _short_form(block: dict[str, Any]) -> str:
    """Return the text of a block, or its type and the id of its call."""
    if block["type"] == "text":
        return str(block["text"])
    return " ".join([block["type"], str(block.get("id") or block.get("tool_use_id") or "")]).strip()


# --- results of tools


@pytest.mark.parametrize("name", ["tool_call_id", "tool_use_id", "call_id"])
@pytest.mark.parametrize("kind", ["message", "class", "without a role", "part", "part of a tool", "part without id"])
def test_P26_result_keeps_its_id_under_the_field_of_any_provider(kind: str, name: str) -> None:
    """A tool result with its call's id in any provider's field is sent with that id in each API's own field."""
    results = {
        "message": Message("42", role="tool", **{name: "c1"}),
        "class": Result("42", **{name: "c1"}),
        "without a role": Message("42", **{name: "c1"}),
        "part": UserMessage([{"type": "tool_result", name: "c1", "content": "42"}]),
        "part of a tool": Result([{"type": "tool_result", name: "c1", "content": "42"}]),
        "part without id": Result([{"type": "tool_result", "content": "42"}], **{name: "c1"}),
    }
    history = [UserMessage("q"), calling("c1"), results[kind]]
    assert chat_prompt(history)[2] == {"role": "tool", "tool_call_id": "c1", "content": "42"}
    assert responses_prompt(history)[2] == {"type": "function_call_output", "call_id": "c1", "output": "42"}
    block = {"type": "tool_result", "tool_use_id": "c1", "content": "42"}
    assert messages_prompt(history)[1][2] == {"role": "user", "content": [block]}


@pytest.mark.parametrize("provider", ["openai", "responses", "anthropic"])
async def test_P26_agent_sends_a_result_that_is_given_as_a_dict(provider: str, kit: Kit) -> None:
    """A call and its result that are dicts reach each API, and ids that are numbers become texts."""
    answer = kit.chat("ok") if provider == "openai" else kit.message("ok")
    if provider == "responses":
        answer = kit.events({"type": "response.completed", "response": {"status": "completed", "output": []}})
    wire = kit.Wire(kit.Reply(answer))
    tools = [{"name": "f", "input_schema": {"type": "object"}}]  # without tools, calls are text
    agent: Any = None
    if provider == "anthropic":
        agent = create_anthropic_agent("m", async_client=wire.anthropic(), tools=tools)
    agent = agent or create_openai_agent(
        "m", async_client=wire.openai(), api="chat" if provider == "openai" else "responses"
    )
    call = {"id": 7, "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    history = ["q", {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_use_id": 7, "content": "42"}]
    async with MiniAgents():
        await agent.trigger(history)
    (body,) = wire.bodies
    sent = body["input"] if provider == "responses" else body["messages"]
    if provider == "openai":
        called = sent[1]["tool_calls"][0]
        assert (called["id"], json.loads(called["function"]["arguments"])) == ("7", {"x": 1})
        assert sent[2] == {"role": "tool", "tool_call_id": "7", "content": "42"}
    elif provider == "responses":
        assert (sent[1]["call_id"], json.loads(sent[1]["arguments"])) == ("7", {"x": 1})
        assert sent[2] == {"type": "function_call_output", "call_id": "7", "output": "42"}
    else:
        assert sent[1]["content"] == [{"type": "tool_use", "id": "7", "name": "f", "input": {"x": 1}}]
        assert sent[2]["content"] == [{"type": "tool_result", "tool_use_id": "7", "content": "42"}]


def test_P26_call_in_the_form_of_responses_is_sent_with_its_call_id() -> None:
    """A call with an id of its item and a `call_id` is sent with the `call_id`, which its result names."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"x":1}'}
    answer = Message("", role="assistant", tool_calls=[call])
    late = [UserMessage("q"), answer, UserMessage("hurry"), Result("42", tool_call_id="c1")]
    chat, responses, (_, anthropic) = chat_prompt(late), responses_prompt(late), messages_prompt(late)
    assert (chat[1]["tool_calls"][0]["id"], chat[2]["tool_call_id"]) == ("c1", "c1")
    assert (responses[1]["call_id"], responses[2]["call_id"]) == ("c1", "c1")
    assert (anthropic[1]["content"][0]["id"], anthropic[2]["content"][0]["tool_use_id"]) == ("c1", "c1")


def test_P26_text_beside_the_result_in_a_message_of_a_tool_is_sent_as_the_users() -> None:
    """Parts of a tool's message that are no results follow the result in a message with the role `user`."""
    block = {"type": "tool_result", "tool_use_id": "c1", "content": "42"}
    history = [UserMessage("q"), calling("c1"), Result([block, "noted"])]
    text = {"role": "user", "content": [{"type": "text", "text": "noted"}]}
    assert chat_prompt(history)[2:] == [{"role": "tool", "tool_call_id": "c1", "content": "42"}, text]
    assert turns(*history)[-1] == ("user", ["tool_result c1", "noted"])


def test_P26_message_with_a_call_id_is_no_result_when_no_call_has_that_id() -> None:
    """A user's message with a field `call_id` stays a user's message, unless a call in the history has that id."""
    history = [
        UserMessage("q"),
        calling("c1"),
        Message("42", role="tool", tool_call_id="c1"),
        Message("hi", call_id="x"),
    ]
    assert chat_prompt(history)[3] == {"role": "user", "content": "hi"}
    assert turns(*history)[-1] == ("user", ["tool_result c1", "hi"])


def test_P26_responses_prompt_has_custom_results_for_custom_calls() -> None:
    """In a Responses prompt, the result of a custom tool's call has the type for custom tools."""
    call = {"id": "c1", "name": "sql", "arguments": "select 1", "type": "custom"}
    history = [AssistantMessage("", tool_calls=[call]), Result(["1"], tool_call_id="c1")]
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "1"}]}
    assert responses_prompt(history)[1] == output


def test_P26_prompts_put_results_directly_behind_their_calls() -> None:
    """Results come directly behind their calls, in the order of the calls.

    Messages between calls and results come behind the results.
    """
    first, second = (Result(each, tool_call_id=each) for each in ("c1", "c2"))
    start = [UserMessage("q"), calling("c1", "c2")]
    history = [*start, UserMessage("hurry"), second, SystemMessage("rules"), first, UserMessage("?")]
    assert [message.get("tool_call_id") or message["role"] for message in chat_prompt(history)] == [
        *("user", "assistant", "c1", "c2", "user", "system", "user")
    ]
    assert turns(*history) == [
        ("user", "q"),
        ("assistant", ["tool_use c1", "tool_use c2"]),
        ("user", ["tool_result c1", "tool_result c2", "hurry", "?"]),
    ]
    late = [UserMessage("q"), calling("c1"), UserMessage("a"), AssistantMessage("wait"), UserMessage("b"), first]
    assert turns(*late) == [
        ("user", "q"),
        ("assistant", ["tool_use c1"]),
        ("user", ["tool_result c1", "a"]),
        ("assistant", "wait"),
        ("user", "b"),
    ]


def test_P26_prompts_put_results_before_the_text_of_their_message() -> None:
    """Results among the parts of a message come before its text; results without a call are left out."""
    block = {"type": "tool_result", "tool_use_id": "c1", "content": "42", "is_error": True, "cache_control": {}}
    mixed = UserMessage(["so?", block, "?"])
    assert turns(calling("c1"), mixed) == [("assistant", ["tool_use c1"]), ("user", ["tool_result c1", "so?", "?"])]
    assert messages_prompt([calling("c1"), mixed])[1][1]["content"][0] == block
    assert [message["role"] for message in chat_prompt([calling("c1"), mixed])] == ["assistant", "tool", "user"]
    assert turns(UserMessage("a"), mixed) == [("user", ["a", "so?", "?"])]


def test_P26_answers_in_a_row_have_their_results_behind_each() -> None:
    """Of two answers with calls in a row, each has its results directly behind it, in Anthropic's turns as well."""
    history = [UserMessage("q"), calling("c1"), calling("c2"), *(Result(i, tool_call_id=i) for i in ("c1", "c2"))]
    assert turns(*history)[1:] == [
        ("assistant", ["tool_use c1"]),
        ("user", ["tool_result c1"]),
        ("assistant", ["tool_use c2"]),
        ("user", ["tool_result c2"]),
    ]
    assert [message["role"] for message in chat_prompt(history)] == ["user", "assistant", "tool", "assistant", "tool"]


def test_P26_result_follows_the_latest_call_when_ids_repeat() -> None:
    """If two calls have one id, a result goes behind the latest call before it, because some servers repeat ids."""
    history = [
        calling("c"),
        Result("1", call_id="c"),
        calling("c"),
        UserMessage("?"),
        Result("2", call_id="c"),
    ]
    assert [message["content"] for message in chat_prompt(history)] == [None, "1", None, "2", "?"]


# --- arguments


@pytest.mark.parametrize("arguments", NO_OBJECTS, ids=lambda text: repr(text[:12]))
def test_P23_prompts_send_an_empty_object_when_arguments_are_no_json_object(arguments: str) -> None:
    """All APIs get an empty object in place of invalid arguments; the message keeps the model's text."""
    history = [UserMessage("q"), calling("c1", arguments=arguments)]
    assert history[1].tool_calls[0].arguments == arguments
    assert chat_prompt(history)[1]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert responses_prompt(history)[1]["arguments"] == "{}"
    assert messages_prompt(history)[1][1]["content"][0]["input"] == {}
    item = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": arguments}
    assert responses_prompt([calling("c1", arguments=arguments, output=[item])])[0] == {**item, "arguments": "{}"}
    block = {"type": "tool_use", "id": "c1", "name": "f", "input": arguments}
    history = [calling("c1", arguments=arguments, content_blocks=[block]), UserMessage("?")]
    assert messages_prompt(history)[1][0]["content"] == [{**block, "input": {}}]


@pytest.mark.parametrize("value", [None, [], "x", 5, {"x": math.nan}, {"x": [math.inf]}], ids=repr)
def test_P23_prompts_repair_calls_with_arguments_that_are_no_text(value: Any) -> None:
    """Calls, items and blocks whose arguments are a value that is no JSON object are sent with an empty object."""
    item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": value}
    assert responses_prompt([calling("c1", output=[item])])[0]["arguments"] == "{}"
    block = {"type": "tool_use", "id": "c1", "name": "f", "input": value}
    assert messages_prompt([calling("c1", content_blocks=[block])])[1][0]["content"][0]["input"] == {}
    assert messages_prompt([AssistantMessage([block])])[1][0]["content"][0]["input"] == {}
    history = [Message("", role="assistant", tool_calls=[{"id": "c1", "name": "f", "arguments": value}])]
    assert chat_prompt(history)[0]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert responses_prompt(history)[0]["arguments"] == "{}"
    assert messages_prompt(history)[1][0]["content"][0]["input"] == {}


def test_P23_prompts_keep_the_text_of_valid_arguments() -> None:
    """Valid arguments keep their spaces and the order of keys; the input of a custom tool, which is no JSON, stays."""
    text = ' {"b": 1,\n "a": "\\u00e9"} '
    assert chat_prompt([calling("c", arguments=text)])[0]["tool_calls"][0]["function"]["arguments"] == text
    call = {"id": "c", "name": "sql", "arguments": "select 1", "type": "custom"}
    assert chat_prompt([AssistantMessage("", tool_calls=[call])])[0]["tool_calls"][0]["custom"]["input"] == "select 1"


# --- white space


@pytest.mark.parametrize("blank", ["", " ", "\n", "\t\r\n", "\u3000\xa0\u2003"], ids=ascii)
def test_P24_messages_prompt_leaves_out_blank_texts(blank: str) -> None:
    """Anthropic's prompts leave out blank texts, and lose no call or turn.

    A conversation of blank texts only is a `ValueError`.
    """
    part = {"type": "text", "text": blank}
    history = [
        SystemMessage(blank),
        SystemMessage([part, "rules"]),
        UserMessage("q"),
        AssistantMessage(blank),
        UserMessage([part, "more"]),
        AssistantMessage(blank, tool_calls=[ToolCall(id="c1", name="f", arguments="{}")]),
        UserMessage(blank),
        Result(blank, tool_call_id="c1"),
        AssistantMessage(blank, content_blocks=[{"type": "thinking", "thinking": "hm"}, part]),
        UserMessage([part]),
        AssistantMessage("a"),
    ]
    system, prompt = messages_prompt(history, blank)
    assert system == [{"type": "text", "text": "rules"}]
    assert turns(*history) == [
        ("user", ["q", "more"]),
        ("assistant", ["tool_use c1"]),
        ("user", ["tool_result c1"]),
        ("assistant", ["thinking", "a"]),
    ]
    assert prompt[2]["content"][0]["content"] == ""
    assert messages_prompt([UserMessage("q")], [part])[0] is None
    result = Result([part, "1"], tool_call_id="c1")
    assert messages_prompt([calling("c1"), result])[1][1]["content"][0]["content"] == [{"type": "text", "text": "1"}]
    with pytest.raises(ValueError, match="something to answer"):
        messages_prompt([UserMessage(blank), AssistantMessage(blank)])


def test_P24_messages_prompt_keeps_white_space_beside_words() -> None:
    """White space before, between and behind words is sent unchanged."""
    assert turns(UserMessage(" code:\n    x = 1\n")) == [("user", " code:\n    x = 1\n")]
    assert messages_prompt([UserMessage("q")], " be brief\n")[0] == " be brief\n"


# --- lone surrogates


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_P25_request_has_replacement_characters_for_lone_surrogates(provider: str, kit: Kit) -> None:
    """A request has U+FFFD for each lone surrogate in its strings and keys, and a character for a pair."""
    half, pair = "a\ud83d", "\ud83d\ude00"
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    wire = kit.Wire(kit.Reply(kit.chat("ok") if provider == "openai" else kit.message("ok")))
    tool = {"name": half, "description": half, "parameters": {"type": "object", "properties": {half: {"enum": [half]}}}}
    agent = create(
        half,
        async_client=getattr(wire, provider)(),
        system=half,
        tools=[tool],
        metadata={"user": half},
        brand_new=(half,),
    )
    history = [
        UserMessage(half, name=half),
        UserMessage([half, {"type": "text", "text": pair}]),
        calling("c\udc00", arguments=json.dumps({"x": half})),
        Result(half, tool_call_id="c\udc00"),
    ]
    async with MiniAgents():
        await agent.trigger(history)
    (body,) = wire.bodies
    sent = json.dumps(body, ensure_ascii=False)
    assert sent.encode().decode() == sent
    assert body["model"] == "a\ufffd"
    assert body["tools"][0]["parameters"]["properties"] == {"a\ufffd": {"enum": ["a\ufffd"]}}
    assert (body["metadata"], body["brand_new"]) == ({"user": "a\ufffd"}, ["a\ufffd"])
    assert "\U0001f600" in sent
    if provider == "openai":
        called = body["messages"][3]["tool_calls"][0]
        assert (called["id"], json.loads(called["function"]["arguments"])) == ("c\ufffd", {"x": "a\ufffd"})
    else:
        use = {"type": "tool_use", "id": "c_", "name": "f", "input": {"x": "a\ufffd"}}
        assert body["messages"][1]["content"] == [use]


def test_repair_returns_the_same_object_when_a_list_contains_itself() -> None:
    """A request with a list that contains itself is returned unchanged; the JSON encoder refuses it later."""
    cyclic: list[Any] = ["text"]
    cyclic += [cyclic, cyclic]
    request = {"metadata": cyclic}
    assert repair_deep(request) is request


def test_P25_repair_returns_the_same_object_when_there_is_no_surrogate() -> None:
    """A value without lone surrogates stays the same object, even if it holds objects that are no JSON."""
    value: Any = {"a": ["é", ("x", b"\xff")], "o": object(), "m": UserMessage("é")}
    assert repair_deep(value) is value
    broken = {"o": value["o"], "x": "\ud800"}
    assert repair_deep(broken) == {"o": value["o"], "x": "\ufffd"}
