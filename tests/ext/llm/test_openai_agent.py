"""The OpenAI agent with the real SDK client: its requests, its replies and its errors."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import errors
from miniagents.ext.llm.openai import OpenAIMessage, create_openai_agent
from miniagents.messages import AssistantMessage, ErrorMessage, Message, SystemMessage, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit


async def ask(agent: Any, *messages: Any) -> OpenAIMessage:
    """Return the one reply to these messages."""
    async with MiniAgents():
        (message,) = await agent.trigger(list(messages) or "Hello")
    assert isinstance(message, OpenAIMessage)
    return message


async def test_agent_streams_deltas_and_fills_the_fields_of_its_message(kit: Kit) -> None:
    """The agent's tokens are the provider's deltas, and its message has id, model, usage and finish reason."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 0.1}
    chunks = kit.chat("Hel", "lo")
    chunks[-1:-1] = kit.events({**kit.chat_chunk(), "choices": [], "usage": usage, "system_fingerprint": "fp"})
    wire = kit.Wire(kit.Reply(chunks))
    async with MiniAgents():
        (promise,) = [promise async for promise in create_openai_agent("m", async_client=wire.openai()).trigger("Hi")]
        assert [token async for token in promise] == ["Hel", "lo"]
        message = await promise
    assert isinstance(message, OpenAIMessage)
    assert (message.content, message.role, message.model, message.id) == ("Hello", "assistant", "m-1", "chatcmpl-1")
    assert (message.finish_reason, message.provider_finish_reason) == ("stop", "stop")
    assert message.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens, message.usage.total_tokens) == (3, 2, 5)
    assert message.usage.cost == 0.1
    assert message.system_fingerprint == "fp"


async def test_H2_request_has_the_conversation_and_no_private_fields(kit: Kit) -> None:
    """The request has roles, texts, parts and parameters, without class names, errors or interrupted answers."""
    wire = kit.Wire(kit.Reply(kit.chat("ok")))
    agent = create_openai_agent(
        "m", async_client=wire.openai(), system="Be brief", temperature=0.5, brand_new_option={"x": 1}, user="u"
    )
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    await ask(
        agent,
        SystemMessage("more rules"),
        "plain",
        Message("without a role", custom=1),
        UserMessage(parts),
        UserMessage(["bare", {"type": "text", "text": "part"}], name="ann"),
        AssistantMessage("an answer", model="other", id="x"),
        AssistantMessage("half an ans", interrupted=True),
        ErrorMessage("ValueError: secret"),
        {"content": "a dict", "role": "developer"},
        Message(None, temperature=21, unit="C"),
    )
    (body,) = wire.bodies
    assert body.pop("messages") == [
        {"role": "system", "content": "Be brief"},
        {"role": "system", "content": "more rules"},
        {"role": "user", "content": "plain"},
        {"role": "user", "content": "without a role"},
        {"role": "user", "content": parts},
        {
            "role": "user",
            "content": [{"type": "text", "text": "bare"}, {"type": "text", "text": "part"}],
            "name": "ann",
        },
        {"role": "assistant", "content": "an answer"},
        {"role": "developer", "content": "a dict"},
        {"role": "user", "content": '{"temperature":21,"unit":"C"}'},
    ]
    assert body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "brand_new_option": {"x": 1},
        "user": "u",
    }
    assert wire.requests[0].headers["accept-encoding"] == "identity"


async def test_request_repeats_tool_calls_and_has_results_under_their_ids(kit: Kit) -> None:
    """A later prompt has the tool calls of an answer, and the results with the ids of the calls."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    chunks = kit.events(kit.chat_chunk(tool_calls=[call]), kit.chat_chunk(finish_reason="tool_calls"), "[DONE]")
    wire = kit.Wire(kit.Reply(chunks), kit.Reply(kit.chat("1")))
    agent = create_openai_agent("m", async_client=wire.openai())
    asked = await ask(agent, "compute")
    assert (asked.content, asked.finish_reason) == ("", "tool_calls")
    (tool_call,) = asked.tool_calls
    assert (tool_call.id, tool_call.name, tool_call.arguments) == ("c1", "f", '{"x":1}')
    await ask(agent, "compute", asked, Message("1", role="tool", tool_call_id="c1"))
    del call["index"]
    assert wire.bodies[1]["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ]


async def test_agent_asks_for_one_document_when_stream_is_false(kit: Kit) -> None:
    """With `stream=False` of agent or context, the agent sends a request for one document, and replies its content."""
    body = {
        "id": "c",
        "model": "m-1",
        "object": "chat.completion",
        "created": 1,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}],
    }
    wire = kit.Wire(kit.Reply.json(body))
    agent = create_openai_agent("m", async_client=wire.openai())
    for context, stream in ((True, False), (False, None)):
        async with MiniAgents(stream_llm_tokens_by_default=context):
            (message,) = await agent.fork(stream=stream).trigger("Hello")
        assert (message.content, message.finish_reason) == ("Hi", "length")
    assert all(sent["stream"] is False and "stream_options" not in sent for sent in wire.bodies)


async def test_message_marks_lost_characters_and_unknown_parts(kit: Kit) -> None:
    """Lone surrogates set `lossy`, and unknown parts are counted in `unknown_events`."""
    parts: Any = [{"type": "brand_new", "x": 1}]
    chunks = kit.events(kit.chat_chunk("a\ud83d"), kit.chat_chunk(parts), kit.chat_chunk(finish_reason="stop"))
    message: Any = await ask(create_openai_agent("m", async_client=kit.Wire(kit.Reply(chunks)).openai()))
    assert (message.content, message.lossy, message.unknown_events) == ("a\ufffd", True, 1)


async def test_S9_message_is_lossy_when_bytes_are_not_utf8(kit: Kit) -> None:
    """Bytes that are not UTF-8 become U+FFFD and set `lossy`; a sent U+FFFD does not."""
    for text, lossy in ((b"a\xffb", True), (b"a\xe2\x82b", True), ("a\ufffdb".encode(), False)):
        chunks = [chunk.replace(b"MARK", text) for chunk in kit.chat("MARK")]
        message: Any = await ask(create_openai_agent("m", async_client=kit.Wire(kit.Reply(chunks)).openai()))
        assert (message.content, getattr(message, "lossy", False)) == ("a\ufffdb", lossy)


async def test_S9_message_is_lossy_when_its_connection_breaks(kit: Kit) -> None:
    """`lossy` is set on a partial message, and on a complete one whose connection broke after the last event."""
    import httpx2

    said = kit.chat_chunk("a?"), kit.chat_chunk(finish_reason="stop")
    first, last, done = (event.replace(b"a?", b"a\xff") for event in kit.events(*said, "[DONE]"))
    broken = kit.Wire(kit.Reply([first, httpx2.ReadError("reset")]))
    with pytest.raises(errors.StreamBrokenError) as caught:
        await ask(create_openai_agent("m", async_client=broken.openai()))
    assert (caught.value.partial.content, caught.value.partial.lossy) == ("a\ufffd", True)
    for rest in ([last, httpx2.ReadError("reset")], [last, done, httpx2.ReadError("reset")]):
        wire = kit.Wire(kit.Reply([first, *rest]))
        message: Any = await ask(create_openai_agent("m", async_client=wire.openai()))
        assert (message.content, message.lossy) == ("a\ufffd", True)


async def test_message_has_further_choices_as_messages(kit: Kit) -> None:
    """With `n`, the content is the first choice and `choices` has the others as messages; a missing one is an error."""
    chunks = kit.events(*(kit.chat_chunk(text) for text in "ab"), kit.chat_chunk(finish_reason="stop"))
    other = kit.events(*(kit.chat_chunk(text) for text in "cd"), kit.chat_chunk(finish_reason="length"))
    second = [chunk.replace(b'"index": 0', b'"index": 1') for chunk in other]
    wire = kit.Wire(kit.Reply([chunk for pair in zip(chunks, second, strict=True) for chunk in pair]))
    message = await ask(create_openai_agent("m", async_client=wire.openai(), n=2))
    assert message.content == "ab"
    assert [(choice.content, choice.finish_reason) for choice in message.choices] == [("cd", "length")]
    wire = kit.Wire(kit.Reply(chunks))
    with pytest.raises(errors.StreamTruncatedError):
        await ask(create_openai_agent("m", async_client=wire.openai(), n=2, retry=None))


async def test_request_keeps_extra_headers_and_extra_body(kit: Kit) -> None:
    """Values in `extra_headers` and `extra_body` take precedence over those that the agent would send itself."""
    wire = kit.Wire(kit.Reply(kit.chat("Hi")))
    agent = create_openai_agent("m", async_client=wire.openai(), new_option=1, extra_body={"new_option": 2, "more": 3})
    await ask(agent.fork(extra_headers={"Accept-Encoding": "gzip", "x-mine": "1"}))
    assert (wire.bodies[0]["new_option"], wire.bodies[0]["more"]) == (2, 3)
    assert (wire.requests[0].headers["accept-encoding"], wire.requests[0].headers["x-mine"]) == ("gzip", "1")


async def test_request_has_custom_tool_calls_in_the_form_of_each_api(kit: Kit) -> None:
    """Calls of custom tools and of functions are sent in the form of chat completions and of Responses."""
    calls = [
        {"id": "a", "name": "sql", "arguments": "select 1", "type": "custom"},
        {"id": "b", "name": "f", "arguments": "{}"},
    ]
    answer = AssistantMessage("", tool_calls=calls)
    wire = kit.Wire(kit.Reply(kit.chat("ok")))
    await ask(create_openai_agent("m", async_client=wire.openai()), "q", answer)
    assert wire.bodies[0]["messages"][1]["tool_calls"] == [
        {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select 1"}},
        {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]
    response = {"id": "resp", "status": "completed", "output": []}
    wire = kit.Wire(kit.Reply(kit.events({"type": "response.completed", "response": response})))
    await ask(create_openai_agent("m", async_client=wire.openai(), api="responses"), "q", answer)
    assert wire.bodies[0]["input"][1:3] == [
        {"type": "custom_tool_call", "call_id": "a", "name": "sql", "input": "select 1"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
    ]
    assert [item["type"] for item in wire.bodies[0]["input"][3:]] == [
        "custom_tool_call_output",
        "function_call_output",
    ]


async def test_agent_reads_a_document_when_it_asked_for_a_stream(kit: Kit) -> None:
    """A JSON document in place of a stream is read, with any content type."""
    body = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    for kind in ("application/json", "text/event-stream", ""):
        wire = kit.Wire(kit.Reply([b" \n", json.dumps(body).encode()], headers={"content-type": kind}))
        assert (await ask(create_openai_agent("m", async_client=wire.openai()))).content == "Hi"


async def test_request_asks_for_usage_when_the_server_is_openai_or_azure(kit: Kit) -> None:
    """`stream_options` asks OpenAI and Azure for the usage; for other servers, the application decides."""
    reply = kit.Reply(kit.chat("x"))
    for client, options, expected in (
        ("openai", {}, {"include_usage": True}),
        ("azure", {}, {"include_usage": True}),
        ("local", {}, None),
        ("local", {"stream_options": {"include_usage": True}}, {"include_usage": True}),
        ("openai", {"stream_options": {"include_usage": False}}, {"include_usage": False}),
    ):
        wire = kit.Wire(reply)
        base_url = "http://localhost:1234/v1" if client == "local" else None
        async_client = wire.azure() if client == "azure" else wire.openai(base_url=base_url)
        agent: Any = create_openai_agent("m", async_client=async_client)
        await ask(agent.fork(**options))
        assert wire.bodies[0].get("stream_options") == expected
        if client == "azure":
            assert wire.requests[0].url.path == "/openai/deployments/m/chat/completions"
        if client == "local":
            assert str(wire.requests[0].url) == "http://localhost:1234/v1/chat/completions"


RESPONSE_ITEMS = [
    {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "opaque"},
    {"type": "message", "id": "msg", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
    {"type": "function_call", "id": "fc", "call_id": "call", "name": "f", "arguments": "{}"},
]


async def test_agent_uses_the_responses_api_when_api_is_responses(kit: Kit) -> None:
    """The input has the items of an earlier answer unchanged, and results of tools under the ids of their calls."""
    added = [
        {"type": "response.output_item.added", "output_index": i, "item": item} for i, item in enumerate(RESPONSE_ITEMS)
    ]
    delta = {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hi"}
    done = [
        {"type": "response.output_item.done", "output_index": i, "item": item} for i, item in enumerate(RESPONSE_ITEMS)
    ]
    response = {"id": "resp", "model": "m-1", "status": "completed", "output": RESPONSE_ITEMS}
    chunks = kit.events(*added, delta, *done, {"type": "response.completed", "response": response})
    wire = kit.Wire(kit.Reply(chunks))
    agent = create_openai_agent("m", async_client=wire.openai(), api="responses", system="Be brief", store=False)
    message = await ask(agent, "Hello")
    assert (message.content, message.finish_reason) == ("Hi", "tool_calls")
    await ask(
        agent, "Hello", message, Message("2", role="tool", tool_call_id="call"), AssistantMessage("edited", output=1)
    )
    assert wire.requests[0].url.path == "/v1/responses"
    assert wire.bodies[0]["input"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hello"},
    ]
    assert wire.bodies[1]["input"][2:] == [
        *RESPONSE_ITEMS,
        {"type": "function_call_output", "call_id": "call", "output": "2"},
        {"role": "assistant", "content": "edited"},
    ]


async def test_reply_is_available_before_the_request_is_sent(kit: Kit) -> None:
    """A caller gets the promise of the reply, with its known fields, before the messages of the call are complete."""
    wire = kit.Wire(kit.Reply(kit.chat("Hi")))
    agent = create_openai_agent("m", async_client=wire.openai(), reply_metadata={"mood": "calm", "turn": 3})
    async with MiniAgents():
        call = agent.initiate_call()
        replies = call.reply_sequence(finish_call=False)
        (promise,) = [promise async for promise in replies]
        assert dict(promise.known_beforehand) == {"mood": "calm", "turn": 3}
        assert wire.requests == []
        call.send_message("late question")
        call.finish()
        message = await promise
    assert (message.content, message.mood) == ("Hi", "calm")
    assert wire.bodies[0]["messages"] == [{"role": "user", "content": "late question"}]


async def test_agent_raises_value_error_when_there_is_no_message_to_answer(kit: Kit) -> None:
    """If a call has no messages, or errors and interrupted ones only, the agent raises and sends no request."""
    wire = kit.Wire()
    agent = create_openai_agent("m", async_client=wire.openai(), alias="WRITER")
    for messages in ([], [ErrorMessage("no")], [AssistantMessage("ha", interrupted=True)]):
        async with MiniAgents():
            with pytest.raises(ValueError, match="WRITER was sent no message"):
                await agent.trigger(messages)
    assert wire.requests == []


async def test_agent_raises_an_error_among_its_messages_and_sends_no_request(kit: Kit) -> None:
    """An error among the messages is raised to the reader of the reply, and no request is sent."""
    wire = kit.Wire()
    async with MiniAgents():
        with pytest.raises(KeyError, match="first"):
            await create_openai_agent("m", async_client=wire.openai()).trigger(["a", KeyError("first")])
    assert wire.requests == []


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"model": ""}, TypeError),
        ({"model": None}, TypeError),
        ({"api": "completions"}, ValueError),
        ({"retry": 3}, TypeError),
        ({"stall_timeout": 0}, ValueError),
        ({"max_concurrent_requests": 0}, ValueError),
        ({"max_concurrent_requests": 1.5}, TypeError),
    ],
    ids=str,
)
async def test_agent_refuses_invalid_settings_when_they_are_given(
    settings: dict[str, Any], error: type, kit: Kit
) -> None:
    """Invalid settings are refused by the call that creates, forks or triggers the agent."""
    with pytest.raises(error):
        create_openai_agent(**{"model": "m", **settings})
    agent = create_openai_agent("m", async_client=kit.Wire().openai())
    with pytest.raises(error):
        agent.fork(**settings)
    async with MiniAgents():
        with pytest.raises(error):
            agent.trigger("x", **settings)
        with pytest.raises(error):
            agent.initiate_call(**settings)


async def test_fork_changes_the_settings_that_it_names(kit: Kit) -> None:
    """A fork sends its own model and parameters, `trigger` adds parameters, and the original agent keeps its alias."""
    wire = kit.Wire(kit.Reply(kit.chat("x")))
    agent = create_openai_agent("m", async_client=wire.openai(), temperature=0.1)
    fork = agent.fork(model="other", temperature=0.9, alias="HOT")
    await ask(fork)
    async with MiniAgents():
        await fork.trigger("Hello", top_p=0.3)
    assert [(sent["model"], sent["temperature"], sent.get("top_p")) for sent in wire.bodies] == [
        ("other", 0.9, None),
        ("other", 0.9, 0.3),
    ]
    assert (agent.alias, fork.alias) == ("OPENAI_AGENT", "HOT")


async def test_forks_share_the_limit_of_concurrent_requests(kit: Kit) -> None:
    """Ten calls of an agent and its forks have three concurrent requests at most, even if one fails."""
    slow = kit.Reply([*[0] * 50, *kit.chat("x")])
    wire = kit.Wire(slow, slow, kit.Reply.json({"error": {"message": "no"}}, 400), slow)
    agent = create_openai_agent("m", async_client=wire.openai(), max_concurrent_requests=3)
    async with MiniAgents():
        await agent.trigger("x")  # before its first request the client asks a thread for the platform, which takes long
        calls = [(agent if i % 2 else agent.fork(temperature=i / 10)).trigger("x") for i in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results].count(errors.RequestRejectedError) == 1
    assert len(wire.requests) == 11
    assert wire.most_in_flight == 3
    assert wire.in_flight == 0


async def test_S20_answer_is_complete_when_the_server_keeps_the_connection_open(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `[DONE]`, an open or broken connection, or further data, does not delay or change the answer."""
    import httpx2

    monkeypatch.setattr("miniagents.ext.llm._streaming.AFTER_END", 0.01)
    for rest in ([kit.HANG], [httpx2.ReadError("reset")], kit.chat("other"), [b"rubbish"]):
        wire = kit.Wire(kit.Reply([*kit.chat("Hi"), *rest]))
        assert (await ask(create_openai_agent("m", async_client=wire.openai()))).content == "Hi"
        assert wire.responses[0].closed


@pytest.mark.parametrize("way", ["cancel", "forget", "leave the context"])
async def test_C1_response_is_closed_when_no_reader_is_left(way: str, kit: Kit) -> None:
    """The HTTP response is closed soon after its reply is cancelled or dropped, or its context fails."""
    wire = kit.Wire(kit.Reply([*kit.chat("Hi")[:1], kit.HANG]))
    agent = create_openai_agent("m", async_client=wire.openai())
    caught: Any = None
    try:
        async with MiniAgents():
            (promise,) = [promise async for promise in agent.trigger("Hello")]
            reader = aiter(promise)
            assert await anext(reader) == "Hi"
            if way == "leave the context":
                raise KeyError(way)
            if way == "cancel":
                promise.cancel()
                with pytest.raises(errors.PromiseCancelledError) as caught:
                    await promise
                assert caught.value.partial.content == "Hi"
                assert caught.value.partial.interrupted
            else:
                del promise, reader
                gc.collect()
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert wire.responses[0].closed
    except KeyError:
        pass
    assert wire.responses[0].closed
    assert wire.in_flight == 0


@pytest.mark.miniagents_virtual_time
async def test_S13_S34_P17_agent_raises_stalled_error_when_an_answer_makes_no_progress(kit: Kit) -> None:
    """Silence and endless pings end with `StreamStalledError` after `stall_timeout`; its `partial` has the text."""

    def endless(chunk: bytes) -> Any:
        yield from kit.chat("Hi")[:1]
        while True:
            yield chunk
            yield 0.001

    pings = [b": keep-alive\n\n", *kit.events(kit.chat_chunk("")), *kit.events({"choices": []})]
    for script in ([*kit.chat("Hi")[:1], kit.HANG], *map(endless, pings)):
        wire = kit.Wire(kit.Reply(script))
        agent = create_openai_agent("m", async_client=wire.openai(), stall_timeout=0.03)
        async with MiniAgents():
            with pytest.raises(errors.StreamStalledError, match=r"no progress for 0\.03 seconds") as caught:
                await agent.trigger("Hello")
        assert caught.value.partial.content == "Hi"
        assert wire.responses[0].closed


@pytest.mark.miniagents_virtual_time
async def test_S34_agent_raises_stalled_error_when_no_response_begins(kit: Kit) -> None:
    """`stall_timeout` limits the wait for the response of a stream, and not that of a document."""

    class Silent(kit.Wire):  # type: ignore[name-defined, misc]  # the class comes from a fixture
        async def handle_async_request(self, request: Any) -> Any:
            await asyncio.Event().wait()

    agent = create_openai_agent("m", async_client=Silent().openai(), stall_timeout=0.02, retry=None)
    async with MiniAgents():
        with pytest.raises(errors.StreamStalledError):
            await agent.trigger("Hello")
        (promise,) = [promise async for promise in agent.fork(stream=False).trigger("Hello")]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(promise, 0.1)
        promise.cancel()
        with pytest.raises(errors.PromiseCancelledError):
            await promise


@pytest.mark.miniagents_virtual_time
async def test_S2_S33_answer_is_complete_when_the_connection_breaks_after_the_finish_reason(kit: Kit) -> None:
    """After a finish reason, a broken or silent connection without `[DONE]` does not harm the answer."""
    import httpx2

    for rest in (httpx2.ReadError("reset"), kit.HANG):
        wire = kit.Wire(kit.Reply([*kit.chat("Hi")[:-1], rest]))
        message = await ask(create_openai_agent("m", async_client=wire.openai(), stall_timeout=0.02))
        assert (message.content, message.finish_reason, message.interrupted) == ("Hi", "stop", False)
        assert len(wire.requests) == 1


@pytest.mark.miniagents_virtual_time
async def test_P17_stream_does_not_stall_while_the_model_thinks_or_the_reader_is_slow(kit: Kit) -> None:
    """A stream does not stall while reasoning arrives, or while the reader takes longer than `stall_timeout`."""
    thoughts = kit.events(*(kit.chat_chunk(reasoning_content="hm") for _ in range(12)))
    script = [step for thought in thoughts for step in (thought, 0.01)]
    wire = kit.Wire(kit.Reply([*script, *kit.chat("Hi", "there")]))
    agent = create_openai_agent("m", async_client=wire.openai(), stall_timeout=0.06)
    async with MiniAgents(start_everything_soon_by_default=False):
        (promise,) = [promise async for promise in agent.trigger("Hello")]
        tokens = []
        async for token in promise:
            tokens.append(token)
            await asyncio.sleep(0.1)
    assert tokens == ["Hi", "there"]


async def test_S25_agent_refuses_an_event_above_the_limit(kit: Kit) -> None:
    """An event of 100 MB is refused after less than a fifth of it was received."""
    import itertools

    wire = kit.Wire(kit.Reply(itertools.chain([b"data: "], itertools.repeat(b"x" * 65536, 1600))))
    async with MiniAgents():
        with pytest.raises(errors.EventTooLargeError):
            await create_openai_agent("m", async_client=wire.openai()).trigger("Hello")
    assert wire.responses[0].served < 300
    assert wire.responses[0].closed


async def test_agent_answers_many_calls_at_once(kit: Kit) -> None:
    """Each of 300 concurrent calls over one client gets its own answer."""
    wire = kit.Wire(kit.Reply(kit.chat("a", "b")))
    agent = create_openai_agent("m", async_client=wire.openai())
    async with MiniAgents():
        replies = await asyncio.gather(*(agent.trigger(str(i)) for i in range(300)))
    assert [message.content for (message,) in replies] == ["ab"] * 300
    assert sorted(int(sent["messages"][0]["content"]) for sent in wire.bodies) == list(range(300))
