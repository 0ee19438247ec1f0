"""Costs of an answer and of its chunks, as counts of function calls, which are independent of clocks."""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import wrapt
from openai import AsyncOpenAI
from openai._base_client import AsyncAPIClient
from openai._models import FinalRequestOptions
from openai.resources.chat.completions import AsyncCompletions
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic_core import from_json

from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tests.ext.llm.conftest import Kit

WORDS = [f"word{number} " for number in range(200)]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_agent_parses_the_json_of_each_event_once(
    provider: str, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's session parses the JSON of each event once, and the SDK does not parse it again."""
    parsed: list[bytes] = []
    by_others: list[Any] = []

    def counting(parse: Callable[..., Any], seen: list[Any]) -> Callable[..., Any]:
        def counted(text: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(text)
            return parse(text, *arguments, **options)

        return counted

    chunks = kit.chat(*WORDS) if provider == "openai" else kit.message(*WORDS)
    wire = kit.Wire(kit.Reply(chunks))
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    agent = create("m", async_client=getattr(wire, provider)())
    monkeypatch.setattr("miniagents.ext.llm._sessions.base.from_json", counting(from_json, parsed))
    monkeypatch.setattr(json, "loads", counting(json.loads, by_others))
    async with MiniAgents():
        (message,) = await agent.trigger("Hello")
    assert message.content == "".join(WORDS)
    events = [line for chunk in chunks for line in chunk.splitlines() if line.startswith(b"data: {")]
    assert len(events) > len(WORDS)
    assert parsed == [event.removeprefix(b"data: ") for event in events]
    assert by_others == []


async def functions_of_an_answer(agent: Any, messages: Any) -> Counter[tuple[str, str]]:
    """Return how often one answer enters each function, by file and name.

    Another answer has filled the caches before.
    """
    entered: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    async with MiniAgents():
        await agent.trigger(messages)
        gc.disable()  # a collection calls finalizers of other tests' clients
        sys.setprofile(count)
        try:
            await agent.trigger(messages)
        finally:
            sys.setprofile(None)
            gc.enable()
    return entered


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openai_sdk_walks_no_message_of_a_prompt(api: str, kit: Kit) -> None:
    """OpenAI's SDK enters the same number of functions for a prompt of 50 messages as for one, and sends them all."""
    numbers = []
    for count in (1, 50):
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
        response = {"id": "r", "object": "response", "status": "completed", "model": "m", "output": [said]}
        wire = kit.Wire(kit.Reply(kit.chat("Hi")) if api == "chat" else kit.Reply.json(response))
        agent: Any = create_openai_agent("m", async_client=wire.openai(), api=api)  # type: ignore[call-overload]
        entered = await functions_of_an_answer(agent, [f"message {number}" for number in range(count)])
        numbers.append(sum(times for (file, _), times in entered.items() if "/openai/" in file))
        prompt = wire.bodies[-1]["messages" if api == "chat" else "input"]
        assert [message["content"] for message in prompt] == [f"message {number}" for number in range(count)]
    assert numbers[0] == numbers[1]


def traced_by_function(method: Any, seen: list[Any]) -> Any:
    """Return a function that replaces a method of a class, as tracers make it, and adds its arguments to `seen`."""

    @functools.wraps(method)
    async def traced(*arguments: Any, **named: Any) -> Any:
        seen.append((arguments, named))
        return await method(*arguments, **named)

    return traced


def traced_by_wrapt(method: Any, seen: list[Any]) -> Any:
    """Return a proxy of a method, as instrumentations of OpenTelemetry make it, that adds its arguments to `seen`."""

    def traced(wrapped: Any, _: object, arguments: Any, named: Any) -> Any:
        seen.append((arguments, named))
        return wrapped(*arguments, **named)

    return wrapt.FunctionWrapper(method, traced)


@pytest.mark.parametrize("tracer", [traced_by_function, traced_by_wrapt])
@pytest.mark.parametrize(
    ("owner", "method"), [(AsyncCompletions, "create"), (AsyncAPIClient, "post"), (AsyncAPIClient, "request")]
)
async def test_tracer_of_openai_sdk_sees_the_prompt(
    owner: type[Any], method: str, tracer: Any, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer that replaces a method of OpenAI's SDK gets the prompt in its usual place; the request is the same."""
    bodies: list[Any] = []
    seen: list[Any] = []
    for traced in (False, True):
        if traced:
            monkeypatch.setattr(owner, method, tracer(getattr(owner, method), seen))
        wire = kit.Wire(kit.Reply(kit.chat("Hi")))
        async with MiniAgents():
            await create_openai_agent("m", async_client=wire.openai()).trigger("Tell me")
        bodies.append(wire.bodies)
    assert bodies[0] == bodies[1]
    [(arguments, named)] = seen
    if method == "request":
        assert arguments[-1].json_data["messages"] == bodies[0][0]["messages"]
    else:
        assert named.get("body", named)["messages"] == bodies[0][0]["messages"]


@pytest.mark.parametrize("method", ["_prepare_options", "_build_request", "_build_headers", "_process_response"])
async def test_subclass_of_openai_client_sees_the_prompt(method: str, kit: Kit) -> None:
    """A subclass of OpenAI's client that overrides a method of the SDK gets the prompt in the request's options."""
    seen: list[Any] = []

    def replaced(self: Any, *arguments: Any, **named: Any) -> Any:
        seen.extend(each for each in (*arguments, *named.values()) if isinstance(each, FinalRequestOptions))
        return getattr(AsyncOpenAI, method)(self, *arguments, **named)

    client_class: Any = type("Client", (AsyncOpenAI,), {method: replaced})
    wire = kit.Wire(kit.Reply(kit.chat("Hi")))
    client = client_class(api_key="k", http_client=httpx2.AsyncClient(transport=wire, trust_env=False))
    async with MiniAgents():
        await create_openai_agent("m", async_client=client).trigger("Tell me")
    [options] = seen
    assert options.json_data["messages"] == wire.bodies[0]["messages"] == [{"role": "user", "content": "Tell me"}]


@pytest.mark.parametrize(("provider", "most"), [("openai", 280), ("anthropic", 310)])
async def test_short_answer_enters_few_functions(
    provider: str, most: int, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer of one chunk enters few functions of MiniAgents; none reads secrets, or checks the settings again."""
    caplog.set_level("WARNING", "httpx2")
    wire = kit.Wire(kit.Reply(kit.chat("Hi") if provider == "openai" else kit.message("Hi")))
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    entered = await functions_of_an_answer(create("m", async_client=getattr(wire, provider)()), "Hello")
    own = Counter({name: times for (file, name), times in entered.items() if "/miniagents/" in file})
    assert own.total() <= most
    assert not {"_secrets_in", "Redactor.learn", "ProviderAdapter.check_settings", "has_attribute"} & own.keys()
    assert not [name for file, name in entered if name == "BaseModel.__getattr__" and "/pydantic/" in file]


async def test_anthropic_sdk_prepares_no_span_without_a_reader(kit: Kit) -> None:
    """Anthropic's SDK prepares no span of a request when no provider of OpenTelemetry is installed."""
    agent = create_anthropic_agent("m", async_client=kit.Wire(kit.Reply(kit.message("Hi"))).anthropic())
    entered = await functions_of_an_answer(agent, "Hello")
    assert any("/anthropic/" in file for file, _ in entered)
    assert not [name for file, name in entered if file.endswith("/anthropic/_tracing.py")]


@pytest.mark.parametrize("place", ["client", "global"])
async def test_anthropic_sdk_records_its_span_when_a_provider_is_there(
    place: str, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider of OpenTelemetry gets the span of Anthropic's SDK, also one that is installed after an answer."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    wire = kit.Wire(kit.Reply(kit.message("Hi")))
    client = wire.anthropic(**({"open_telemetry": {"tracer_provider": provider}} if place == "client" else {}))
    agent = create_anthropic_agent("m", async_client=client)
    async with MiniAgents():
        if place == "global":
            await agent.trigger("Hello")
            assert not exporter.get_finished_spans()
            monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        await agent.trigger("Hello")
    assert [span.name for span in exporter.get_finished_spans()] == ["anthropic.messages.create"]
    assert "traceparent" in wire.requests[-1].headers


async def test_anthropic_sdk_sends_the_trace_of_the_context_without_a_provider(kit: Kit) -> None:
    """A current trace of another process is sent on by Anthropic's SDK when no provider is installed."""
    wire = kit.Wire(kit.Reply(kit.message("Hi")))
    agent = create_anthropic_agent("m", async_client=wire.anthropic())
    parent = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True))
    async with MiniAgents():
        await agent.trigger("Hello")
        with trace.use_span(parent):
            await agent.trigger("Hello")
    first, second = (request.headers.get("traceparent") for request in wire.requests)
    assert first is None
    assert second == f"00-{1:032x}-{2:016x}-00"


async def test_anthropic_sdk_sends_the_headers_of_a_propagator(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anthropic's SDK sends the headers of a propagator that writes headers even without a trace."""

    class Marking(TraceContextTextMapPropagator):
        def inject(self, carrier: Any, *_: Any, **named: Any) -> None:
            carrier["x-mark"] = "1"

    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", Marking())
    wire = kit.Wire(kit.Reply(kit.message("Hi")))
    async with MiniAgents():
        await create_anthropic_agent("m", async_client=wire.anthropic()).trigger("Hello")
    assert wire.requests[0].headers["x-mark"] == "1"
