"""Prompts with calls and results: every call has one result, broken answers keep their effects (laws 7, 8 and 11)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_rules import check_prompt

from miniagents import (
    Approval,
    AssistantMessage,
    Message,
    MiniAgents,
    PendingApproval,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from miniagents.ext.llm._prompts import chat_prompt, messages_for_model, messages_prompt, responses_prompt
from miniagents.ext.llm.anthropic import AnthropicMessage, create_anthropic_agent
from miniagents.ext.llm.openai import OpenAIMessage
from miniagents_testing import ScriptedLLM

ANTHROPIC: Any = AnthropicMessage
OPENAI: Any = OpenAIMessage
STOPPED = "stopped; whether it took effect is unknown"


def calling(*ids: str | None, arguments: str = "{}", **fields: Any) -> AssistantMessage:
    """Return an answer that calls the tool `f`."""
    return AssistantMessage(
        fields.pop("content", ""), tool_calls=[ToolCall(id=i, name="f", arguments=arguments) for i in ids], **fields
    )


def result(id_: str | None, text: str = "", **fields: Any) -> ToolMessage:
    """Return the result of a call, with its id as the text by default."""
    return ToolMessage(text or str(id_), tool_call_id=id_, **fields)


def prompt_of(api: str, messages: list[Any], **options: Any) -> list[dict[str, Any]]:
    """Return the prompt that an agent on this API would send."""
    kept = messages_for_model(messages, "AGENT")
    if api == "messages":
        return messages_prompt(kept, **options)[1]
    return chat_prompt(kept, **options) if api == "chat" else responses_prompt(kept, **options)


def pairs(api: str, prompt: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return, in the order of a prompt, (id, None) for each call and (id, content) for each result."""
    found: list[tuple[str, Any]] = []
    for item in prompt:
        if api == "chat":
            found += [(call["id"], None) for call in item.get("tool_calls", ())]
            found += [(item["tool_call_id"], item["content"])] if item["role"] == "tool" else []
        elif api == "responses":
            found += [(item["call_id"], item.get("output"))] if "call_id" in item else []
        else:
            blocks = item["content"] if isinstance(item["content"], list) else []
            found += [(b["id"], None) for b in blocks if b["type"] == "tool_use"]
            found += [(b["tool_use_id"], b["content"]) for b in blocks if b["type"] == "tool_result"]
    return found


APIS = ["chat", "responses", "messages"]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("history", "paired"),
    [
        pytest.param(
            [calling("a", "b"), result("b")], [("a", None), ("b", None), ("a", STOPPED), ("b", "b")], id="one missing"
        ),
        pytest.param([calling("a")], [("a", None), ("a", STOPPED)], id="missing at the end"),
        pytest.param([result("a"), calling("a")], [("a", None), ("a", STOPPED)], id="result before its call"),
        pytest.param([result("x"), "hi", result("y")], [], id="results without calls"),
        pytest.param([calling("a"), result("a", "1"), result("a", "2")], [("a", None), ("a", "1")], id="two results"),
        pytest.param(
            [calling("c"), result("c", "1"), calling("c"), result("c", "2")],
            [("c", None), ("c", "1"), ("c_2", None), ("c_2", "2")],
            id="repeated ids",
        ),
        pytest.param(
            [calling("c", "c"), result("c", "1"), result("c", "2")],
            [("c", None), ("c_2", None), ("c", "1"), ("c_2", "2")],
            id="one id for two calls",
        ),
        pytest.param(
            [calling(None, None), result(None, "1"), result(None, "2")],
            [("call_1", None), ("call_2", None), ("call_1", "1"), ("call_2", "2")],
            id="no ids",
        ),
        pytest.param([calling("", arguments=""), result("", "1")], [("call_1", None), ("call_1", "1")], id="empty id"),
        pytest.param(
            [calling("a"), calling("b"), result("a"), result("b")],
            [("a", None), ("a", "a"), ("b", None), ("b", "b")],
            id="two answers at once",
        ),
        pytest.param([calling("a", interrupted=True)], [], id="broken answer without results"),
        pytest.param(
            [calling("a", "b", interrupted=True, content="Well"), result("b")],
            [("b", None), ("b", "b")],
            id="broken answer with a result",
        ),
        pytest.param(
            [calling("a", "", interrupted=True), result("a")],
            [("a", None), ("a", "a")],
            id="broken answer with an empty id",
        ),
        pytest.param(
            [calling("a", "b", interrupted=True, finish_reason="stop"), result("b")],
            [("a", None), ("b", None), ("a", STOPPED), ("b", "b")],
            id="answer that broke off after its calls had started",
        ),
        pytest.param(
            [calling("a"), result("a", "half", interrupted=True)], [("a", None), ("a", STOPPED)], id="broken result"
        ),
    ],
)
def test_every_call_has_one_result(api: str, history: list[Any], paired: list[tuple[str, Any]]) -> None:
    """Each call in a prompt has one result behind it, and each result a call, whatever the history lacks."""
    messages = [UserMessage("q"), *(UserMessage(each) if isinstance(each, str) else each for each in history)]
    prompt = prompt_of(api, messages)
    assert pairs(api, prompt) == paired
    check_prompt(api, prompt)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("id_", ["same", "", None])
def test_result_of_one_id_for_two_calls_goes_to_the_call_of_its_name(api: str, id_: str | None) -> None:
    """If two calls of an answer have one id or none, each result goes to the call with its name, in any order."""
    calls = [ToolCall(id=id_, name=name, arguments="{}") for name in ("f", "g")]
    results = [ToolMessage(f"of {name}", tool_call_id=id_, name=name) for name in ("g", "f")]
    prompt = prompt_of(api, [UserMessage("q"), AssistantMessage("", tool_calls=calls), *results])
    check_prompt(api, prompt)
    assert [content for _, content in pairs(api, prompt) if content] == ["of f", "of g"]


def test_missing_result_is_an_error_for_anthropic() -> None:
    """In a prompt for Anthropic's API, a call without a result gets a placeholder that is marked with `is_error`."""
    block = prompt_of("messages", [UserMessage("q"), calling("a")])[-1]["content"][0]
    assert block == {"type": "tool_result", "tool_use_id": "a", "content": STOPPED, "is_error": True}


def test_ids_fit_the_api() -> None:
    """An id that is too long, or has characters that Anthropic refuses, is replaced where the API needs it.

    Chat Completions gets the id unchanged.
    """
    long = "functions.f:0" + "x" * 100
    history = [UserMessage("q"), calling(long), result(long, "1")]
    assert pairs("chat", prompt_of("chat", history)) == [(long, None), (long, "1")]
    for api in ("responses", "messages"):
        prompt = prompt_of(api, history)
        check_prompt(api, prompt)
        assert [content for _, content in pairs(api, prompt)] == [None, "1"]


def test_content_blocks_of_an_answer_are_sent_with_its_thinking() -> None:
    """The `content_blocks` of an unedited answer are sent, thinking included.

    An id of a call that an earlier call has gets a suffix.
    """
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "text", "text": "Well"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "f", "input": {}},
    ]
    calls = [ToolCall(id=id_, name="f", arguments="{}") for id_ in ("a", "b")]
    answer = ANTHROPIC("Well", content_blocks=blocks, tool_calls=calls)
    prompt = prompt_of("messages", [UserMessage("q"), answer, result("a"), answer, result("b")])
    check_prompt("messages", prompt)
    assert prompt[1]["content"] == blocks
    assert prompt[3]["content"] == [*blocks[:2], {**blocks[2], "id": "a_2"}, {**blocks[3], "id": "b_2"}]


def test_content_blocks_of_a_broken_answer_are_sent_if_they_are_whole() -> None:
    """Of the `content_blocks` of a broken answer, only signed thinking, texts, and calls with a result are sent."""
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "thinking", "thinking": "not sig"},
        {"type": "text", "text": "Well"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "f", "input": {}},
    ]
    calls = [ToolCall(id=id_, name="f", arguments="{}") for id_ in ("a", "b")]
    answer = ANTHROPIC("Well", content_blocks=blocks, tool_calls=calls, interrupted=True)
    prompt = prompt_of("messages", [UserMessage("q"), answer, result("b")])
    check_prompt("messages", prompt)
    assert prompt[1]["content"] == [blocks[0], blocks[2], blocks[4]]


def test_edited_calls_win_over_those_in_the_providers_form_of_an_answer() -> None:
    """If `tool_calls` of an answer were edited, the prompt has these, not the calls in `content_blocks` or `output`."""
    blocks = [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]
    items = [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}]
    for api, answer in (
        ("messages", ANTHROPIC("", content_blocks=blocks, tool_calls=[ToolCall(id="b", name="g")])),
        ("responses", OPENAI("", output=items, tool_calls=[ToolCall(id="b", name="g")])),
    ):
        prompt = prompt_of(api, [UserMessage("q"), answer, result("b")])
        check_prompt(api, prompt)
        assert pairs(api, prompt) == [("b", None), ("b", "b")]


@pytest.mark.parametrize("api", APIS)
def test_call_in_a_part_is_a_call_for_every_api(api: str) -> None:
    """A call that is a `tool_use` block in the content of an answer is sent as a call to each API."""
    part = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    answer = AssistantMessage([{"type": "text", "text": "Well"}, part])
    prompt = prompt_of(api, [UserMessage("q"), answer, result("a")])
    check_prompt(api, prompt)
    assert pairs(api, prompt) == [("a", None), ("a", "a")]


@pytest.mark.parametrize("api", APIS)
def test_call_that_is_a_part_and_a_field_is_one_call(api: str) -> None:
    """A call that stands in the content of an answer and in its `tool_calls` is sent once, with its result."""
    part = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    answer = AssistantMessage((part,), tool_calls=(ToolCall(id="a", name="f", arguments="{}"),))
    assert pairs(api, prompt_of(api, [UserMessage("q"), answer, result("a", "done")])) == [("a", None), ("a", "done")]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("url", ["data:image/png;base64,iVBO", "https://example.com/cat.png"])
def test_image_of_a_result_has_the_form_of_the_api(api: str, url: str) -> None:
    """An image of a result, in any API's format, is sent in the format of the API that gets the prompt.

    Chat Completions gets the image in a user message behind the results.
    """
    is_data = url.startswith("data:")
    source = {"type": "base64", "media_type": "image/png", "data": "iVBO"} if is_data else {"type": "url", "url": url}
    forms: dict[str, dict[str, Any]] = {
        "chat": {"type": "image_url", "image_url": {"url": url}},
        "responses": {"type": "input_image", "image_url": url},
        "messages": {"type": "image", "source": source},
    }
    for form in forms.values():
        results = [result("a", "first"), ToolMessage(["A cat:", form], tool_call_id="b")]
        prompt = prompt_of(api, [UserMessage("q"), calling("a", "b"), *results, UserMessage("And?")])
        check_prompt(api, prompt)
        assert str(forms[api]) in str(prompt)
        assert str(prompt).count(url.rpartition(",")[2]) == 1
        if api == "chat":
            assert [message["role"] for message in prompt] == ["user", "assistant", "tool", "tool", "user", "user"]
            assert [part["type"] for part in prompt[3]["content"]] == ["text", "text"]
            assert prompt[4]["content"] == [{"type": "text", "text": "[images of the result b]"}, forms["chat"]]


@pytest.mark.parametrize("api", APIS)
def test_part_of_a_result_in_the_format_of_the_api_is_unchanged(api: str) -> None:
    """A part of a result in the API's own format, an image or another type, is sent with all its fields."""
    forms: dict[str, dict[str, Any]] = {
        "responses": {"type": "input_image", "image_url": "https://example.com/cat.png", "detail": "low"},
        "messages": {"type": "image", "source": {"type": "file", "file_id": "f"}, "cache_control": {"type": "x"}},
    }
    own = forms.get(api, {"type": "file", "file": {"file_id": "f"}})
    answer = ToolMessage([own], tool_call_id="a")
    assert str(own) in str(prompt_of(api, [UserMessage("q"), calling("a"), answer]))


async def test_result_of_an_earlier_request_is_sent_when_the_server_knows_its_call() -> None:
    """With `previous_response_id` or `conversation`, a result without its call is sent, as the server has the call.

    Without these options, such a result is left out.
    """
    for options, items in (({"previous_response_id": "r"}, 2), ({"extra_body": {"conversation": "c"}}, 2), ({}, 1)):
        llm = ScriptedLLM(["ok"])
        async with MiniAgents():
            await llm.agent(api="responses", **options).trigger(["Hi", result("a")])
        assert len(llm.last_call.request["input"]) == items


# --- law 11


def test_calls_are_text_in_a_request_without_tools() -> None:
    """Without tools, Anthropic's API gets calls as text in the answer, and results as texts in the calls' order."""
    history = [
        UserMessage("q"),
        calling("a", "b", content="Well.", arguments='{"x": 1}'),
        result("b", "two"),
        result("a", "ValueError", is_error=True),
    ]
    assert prompt_of("messages", history, has_tools=False)[1:] == [
        {"role": "assistant", "content": 'Well.\n[called f with {"x": 1}]\n[called f with {"x": 1}]'},
        {
            "role": "user",
            "content": [{"type": "text", "text": f"[f {text}"} for text in ("failed] ValueError", "answered] two")],
        },
    ]


async def test_anthropic_agent_without_tools_sends_no_tool_blocks() -> None:
    """An Anthropic agent without tools sends calls and results of a conversation as text, one with tools as blocks."""
    answer = ANTHROPIC(
        "",
        content_blocks=[{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
        tool_calls=[ToolCall(id="a", name="f", arguments="{}")],
    )
    llm = ScriptedLLM(["ok", "ok"])
    agent = create_anthropic_agent("m", async_client=llm.anthropic_client())
    async with MiniAgents():
        await agent.trigger(["Hi", answer, result("a", "42")])
        await agent.trigger(["Hi", answer, result("a", "42")], tools=[{"name": "f", "input_schema": {}}])
    without, with_tools = (call.request["messages"] for call in llm.calls)
    assert [(turn["role"], turn["content"]) for turn in without] == [
        ("user", "Hi"),
        ("assistant", "[called f with {}]"),
        ("user", "[f answered] 42"),
    ]
    assert with_tools[1]["content"][0]["type"] == "tool_use"


# --- any mix of messages


_IDS = st.sampled_from(["a", "b", "c", "a.b:0", "x" * 70, "", None])
_ARGUMENTS = st.sampled_from(["{}", '{"x": 1}', '{"x": ', "", "null", "[1]", "NaN"])
_TEXTS = st.sampled_from(["", " ", "text", "\n"])


@st.composite
def _answers(draw: st.DrawFn) -> Any:
    """Draw an answer with calls, in any form, complete or broken off."""
    made = draw(st.lists(st.tuples(_IDS, st.sampled_from(["f", "g"]), _ARGUMENTS), max_size=3))
    text = draw(_TEXTS)
    calls: list[Any] = [ToolCall(id=id_, name=name, arguments=arguments) for id_, name, arguments in made]
    fields: dict[str, Any] = {"interrupted": draw(st.booleans())}
    form = draw(st.sampled_from(["fields", "blocks", "items", "chat", "parts", "edited"]))
    blocks = [{"type": "tool_use", "id": id_ or "", "name": name, "input": {}} for id_, name, _ in made]
    if text.strip():
        blocks.insert(0, {"type": "text", "text": text})
    if form == "blocks":
        return ANTHROPIC(text.strip(), content_blocks=blocks, tool_calls=calls, **fields)
    if form == "edited":
        return ANTHROPIC(text.strip(), content_blocks=blocks, tool_calls=calls[1:], **fields)
    if form == "items":
        items: list[Any] = [
            {"type": "function_call", "call_id": id_ or "", "name": name, "arguments": arguments}
            for id_, name, arguments in made
        ]
        if text:
            items.insert(
                0, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
            )
        return OPENAI(text, output=items, tool_calls=calls, **fields)
    if form == "chat":
        calls = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in made]
        return Message(text, role="assistant", tool_calls=calls, **fields)
    if form == "parts":
        return Message(blocks, role="assistant", **fields)
    return AssistantMessage(text, tool_calls=calls, **fields)


def _results() -> st.SearchStrategy[Message]:
    """Draw a result in any provider's form."""
    messages = st.builds(
        lambda id_, text, name, interrupted: ToolMessage(text, tool_call_id=id_, name=name, interrupted=interrupted),
        *(_IDS, _TEXTS, st.sampled_from(["f", "g", None]), st.booleans()),
    )
    parts = st.builds(
        lambda id_, text: UserMessage([{"type": "tool_result", "tool_use_id": id_, "content": text}, "and?"]),
        *(_IDS, _TEXTS),
    )
    fields = st.builds(lambda id_, text: Message(text, role="tool", call_id=id_), _IDS, _TEXTS)
    return messages | parts | fields


def _approvals() -> st.SearchStrategy[Message]:
    """Draw a question about a call, or a decision on one."""
    calls = st.builds(lambda id_, arguments: ToolCall(id=id_, name="f", arguments=arguments), _IDS, _ARGUMENTS)
    decide = st.sampled_from([PendingApproval.grant, PendingApproval.refuse, lambda question: question])
    return st.builds(lambda call, decide: decide(PendingApproval.of(call)), calls, decide)


_CONVERSATIONS = st.lists(_answers() | _results() | _approvals() | st.builds(UserMessage, _TEXTS), max_size=9)


@given(history=_CONVERSATIONS, api=st.sampled_from(APIS), has_tools=st.booleans())
def test_any_mix_of_messages_gives_a_prompt_that_the_api_accepts(history: list[Any], api: str, has_tools: bool) -> None:
    """The prompt of a conversation of any messages, in any order, keeps the rules of the API.

    The prompt is the same without the questions about calls and the decisions on them.
    """
    options = {"has_tools": has_tools} if api == "messages" else {}
    prompt = prompt_of(api, [UserMessage("q"), *history], **options)
    check_prompt(api, prompt, has_tools=has_tools or api != "messages")
    others = [message for message in history if not isinstance(message, (Approval, PendingApproval))]
    assert prompt == prompt_of(api, [UserMessage("q"), *others], **options)


@given(history=_CONVERSATIONS)
def test_prompts_of_all_apis_have_equally_many_results(history: list[Any]) -> None:
    """For any conversation, the prompts of all APIs have the same number of results, placeholders not counted."""
    counts = set()
    for api in APIS:
        found = pairs(api, prompt_of(api, [UserMessage("q"), *history]))
        counts.add(len([content for _, content in found if content is not None and content != STOPPED]))
    assert len(counts) == 1
