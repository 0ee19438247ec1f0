"""Spans of a run: their tree, their attributes by the conventions, and what they do not hold."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from common import Boom
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode
from scripted_loops import agent_of

from miniagents import (
    AssistantMessage,
    InteractionContext,
    LLMError,
    MiniAgents,
    MissingExtraError,
    OutputInvalidError,
    PromiseCancelledError,
    StopDialog,
    ToolMessage,
    Usage,
    UserMessage,
    miniagent,
    tool,
)
from miniagents.errors import install_line
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import Retry, create_openai_agent
from miniagents.ext.opentelemetry import CONVENTIONS, trace_agents
from miniagents_testing import Failure, ProviderServer, ScriptedLLM, Step

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from miniagents import MiniAgent

KINDS = ["chat", "responses", "messages", "scripted"]
NEVER = 3600.0
KEY = "sk-canary-0123456789abcdef"

COMMON: dict[str, type | tuple[type, ...]] = {"gen_ai.operation.name": str, "error.type": str}
TABLE: dict[str, dict[str, type | tuple[type, ...]]] = {
    "invoke_agent": {**COMMON, "gen_ai.agent.name": str, "gen_ai.agent.description": str},
    "chat": {
        **COMMON,
        "gen_ai.provider.name": str,
        "gen_ai.output.type": str,
        "gen_ai.request.choice.count": int,
        "gen_ai.request.frequency_penalty": float,
        "gen_ai.request.max_tokens": int,
        "gen_ai.request.model": str,
        "gen_ai.request.presence_penalty": float,
        "gen_ai.request.previous_response.id": str,
        "gen_ai.request.reasoning.level": str,
        "gen_ai.request.seed": int,
        "gen_ai.request.stop_sequences": tuple,
        "gen_ai.request.stream": bool,
        "gen_ai.request.temperature": float,
        "gen_ai.request.top_k": int,
        "gen_ai.request.top_p": float,
        "gen_ai.response.finish_reasons": tuple,
        "gen_ai.response.id": str,
        "gen_ai.response.model": str,
        "gen_ai.response.time_to_first_chunk": float,
        "gen_ai.usage.cache_read.input_tokens": int,
        "gen_ai.usage.cache_write.input_tokens": int,
        "gen_ai.usage.input_tokens": int,
        "gen_ai.usage.output_tokens": int,
        "gen_ai.usage.reasoning.output_tokens": int,
        "gen_ai.input.messages": str,
        "gen_ai.output.messages": str,
        "gen_ai.system_instructions": str,
        "server.address": str,
        "server.port": int,
    },
    "execute_tool": {
        **COMMON,
        "gen_ai.tool.name": str,
        "gen_ai.tool.call.id": str,
        "gen_ai.tool.type": str,
        "gen_ai.tool.call.arguments": str,
        "gen_ai.tool.call.result": str,
    },
}
"""Attributes of each span by version 0.1.0 of the conventions, with their types in Python."""
REQUIRED = {
    "invoke_agent": {"gen_ai.operation.name", "gen_ai.agent.name"},
    "chat": {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "server.address", "server.port"},
    "execute_tool": {"gen_ai.operation.name", "gen_ai.tool.name", "gen_ai.tool.type"},
}


class Spans:
    """The spans of a test: a provider with an exporter in memory."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in the order of their beginnings; each is checked by the table."""
        spans = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        for span in spans:
            check_by_table(span)
        return spans

    def named(self, name: str) -> ReadableSpan:
        """Return the only span of this name."""
        (span,) = (span for span in self.all() if span.name == name)
        return span

    def tree(self) -> list[str]:
        """Return the names of the spans, each with the names of its parents before it: `parent > child`."""
        spans = {span.context.span_id: span for span in self.all() if span.context}

        def path(span: ReadableSpan) -> str:
            return span.name if span.parent is None else f"{path(spans[span.parent.span_id])} > {span.name}"

        return sorted(path(span) for span in spans.values())

    def text(self) -> str:
        """Return everything that the spans hold as one text."""
        return "\n".join(span.to_json() for span in self.all())


def check_by_table(span: ReadableSpan) -> None:
    """Check the name, the kind and the attributes of one of our spans by the table of the conventions."""
    operation = span.name.partition(" ")[0]
    if operation not in TABLE:
        return
    attributes = dict(span.attributes or {})
    for name, value in attributes.items():
        assert type(value) is TABLE[operation][name], (name, value)
    assert REQUIRED[operation] <= attributes.keys()
    assert attributes["gen_ai.operation.name"] == operation
    assert span.kind is (SpanKind.CLIENT if operation == "chat" else SpanKind.INTERNAL)


@pytest.fixture
def spans(caplog: pytest.LogCaptureFixture) -> Any:
    """Give the spans of a test, and check that no observer has failed, and each context was detached where it began."""
    yield (found := Spans())
    assert "is off for the rest of this run" not in caplog.text
    assert "Failed to detach" not in caplog.text
    for span in found.all():
        assert span.end_time is not None


def traced(spans: Spans, **options: Any) -> MiniAgents:
    """Return a run whose spans go to `spans`."""
    return MiniAgents(observers=[trace_agents(tracer_provider=spans.provider, **options)])


def agent_on(client: Any, kind: str) -> MiniAgent[Any]:
    """Return an agent of an API on a client of its SDK."""
    if kind == "messages":
        return create_anthropic_agent("m", async_client=client)
    api: Any = kind
    return create_openai_agent("m", async_client=client, api=api)


async def search(query: str) -> str:
    """Search for something."""
    if query == "nothing":
        raise ValueError(f"nothing for {query} with {KEY}")
    return f"result of {query}"


# --- the tree


@pytest.mark.parametrize("kind", KINDS)
async def test_parallel_agents_have_the_right_parents(kind: str, spans: Spans) -> None:
    """Spans of parallel agents, their requests and tools, and spans that their code starts are nested as the calls."""
    tracer = spans.provider.get_tracer("test")

    async def look(query: str) -> str:
        """Look for something."""
        with tracer.start_as_current_span(f"look {query}"):
            await asyncio.sleep(0)
        return query

    def writer(name: str) -> Any:
        llm = ScriptedLLM([Step(tool_calls=[("look", {"query": name})]), Step("Done it", gap=0.001)])
        return agent_of(llm, kind, alias=name, tools=[look])

    model = "scripted-model" if kind == "scripted" else "m"

    @miniagent(description="Asks.")
    async def boss(ctx: InteractionContext) -> None:
        replies = [writer(name).trigger("Go") for name in ("ANN", "BOB")]
        with tracer.start_as_current_span("wait"):
            for each in replies:
                await each

    async with traced(spans):
        await asyncio.gather(*(asyncio.ensure_future(boss_call(boss)) for _ in range(2)))
    one = ["invoke_agent BOSS", "invoke_agent BOSS > wait"]
    for name in ("ANN", "BOB"):
        agent = f"invoke_agent BOSS > invoke_agent {name}"
        one += [agent, f"{agent} > execute_tool look", f"{agent} > execute_tool look > look {name}"]
        one += [f"{agent} > chat {model}"] * 2
    assert spans.tree() == sorted(one * 2)
    assert len({span.context.trace_id for span in spans.all() if span.context}) == 2
    boss_attributes = spans.all()[0].attributes
    assert boss_attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "BOSS",
        "gen_ai.agent.description": "Asks.",
    }


async def boss_call(boss: Any) -> None:
    """Call an agent and await its replies."""
    await boss.trigger()


@pytest.mark.parametrize("kind", ["chat", "responses", "messages"])
async def test_span_of_an_http_client_nests_in_the_span_of_its_request(kind: str, spans: Spans) -> None:
    """Instrumentation of the HTTP client sees the span of the request as the current one, in each attempt."""
    instrumentor = pytest.importorskip("opentelemetry.instrumentation.httpx")
    if not hasattr(instrumentor, "HTTPX2ClientInstrumentor"):
        pytest.skip("this version of the instrumentation does not know httpx2")
    llm = ScriptedLLM([Failure(500), "Hello"])
    client: Any = llm.anthropic_client() if kind == "messages" else llm.openai_client()
    instrumentor.HTTPX2ClientInstrumentor.instrument_client(client._client, tracer_provider=spans.provider)
    agent = agent_on(client, kind).fork(retry=Retry(first_wait=0.001), alias="WRITER")
    async with traced(spans):
        await agent.trigger("Hi")
    assert spans.tree() == [
        "invoke_agent WRITER",
        "invoke_agent WRITER > chat m",
        "invoke_agent WRITER > chat m > POST",
        "invoke_agent WRITER > chat m > POST",
    ]
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_agent_joins_the_trace_of_its_caller(spans: Spans) -> None:
    """An agent called inside a span, such as a web server's, is a child of that span, which stays the current one."""
    tracer = spans.provider.get_tracer("test")
    async with traced(spans):
        with tracer.start_as_current_span("GET /") as span:
            await agent_of(ScriptedLLM("Hello"), "chat", alias="WRITER").trigger("Hi")
            assert trace.get_current_span() is span
    assert "GET / > invoke_agent WRITER > chat m" in spans.tree()


# --- attributes


@pytest.mark.parametrize("kind", KINDS)
async def test_span_of_a_request_has_the_attributes_of_the_conventions(kind: str, spans: Spans) -> None:
    """A request has its provider, model, server, parameters, answer and usage; an agent ends after its request."""
    usage = Usage(input_tokens=20, output_tokens=10, cached_tokens=5, reasoning_tokens=3)
    anthropic = kind == "messages"
    settings = {
        "chat": {"max_completion_tokens": 99, "stop": ["END"], "seed": 7, "reasoning_effort": "low", "n": 1},
        "responses": {"max_output_tokens": 99, "reasoning": {"effort": "low"}, "previous_response_id": "resp_1"},
        "messages": {"max_tokens": 99, "stop_sequences": ["END"], "top_k": 4, "output_config": {"effort": "low"}},
        "scripted": {"max_tokens": 99, "stop": "END"},
    }[kind]
    llm = ScriptedLLM(Step("Hello there", usage=usage, first_wait=0.01))
    async with traced(spans):
        (answer,) = await agent_of(llm, kind, alias="WRITER", temperature=1, top_p=0.5, **settings).trigger("Hi")
    assert isinstance(answer, AssistantMessage)
    model = "scripted-model" if kind == "scripted" else "m"
    span = spans.named(f"chat {model}")
    attributes = dict(span.attributes or {})
    first_chunk: Any = attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first_chunk < ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    provider = "anthropic" if anthropic else "openai"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.max_tokens": 99,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "server.address": f"api.{provider}.com",
        "server.port": 443,
    }
    if kind != "responses":
        expected["gen_ai.request.stop_sequences"] = ("END",)
    if kind != "scripted":
        expected["gen_ai.request.reasoning.level"] = "low"
    if kind == "chat":
        expected["gen_ai.request.seed"] = 7
    if kind == "responses":
        expected["gen_ai.request.previous_response.id"] = "resp_1"
    if anthropic:
        expected["gen_ai.request.top_k"] = 4
    assert answer.usage is not None
    for name, field in (
        ("reasoning.output_tokens", "reasoning_tokens"),
        ("cache_write.input_tokens", "cache_write_tokens"),
    ):
        if (count := getattr(answer.usage, field)) is not None:
            expected[f"gen_ai.usage.{name}"] = count
    assert attributes == expected
    agent = spans.named("invoke_agent WRITER")
    assert (agent.end_time or 0) >= (span.end_time or 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_request_that_does_not_stream_has_no_time_to_its_first_chunk(kind: str, spans: Spans) -> None:
    """With `stream=False`, the attributes of streams are missing; with `output=`, the output type is "json"."""
    async with traced(spans):
        await agent_of(ScriptedLLM('{"value": 3}'), kind, stream=False, output=int).trigger("Hi")
    span = next(span for span in spans.all() if span.name.startswith("chat"))
    assert span.attributes is not None
    assert span.attributes["gen_ai.output.type"] == "json"
    assert not {"gen_ai.request.stream", "gen_ai.response.time_to_first_chunk"} & span.attributes.keys()


@pytest.mark.parametrize("kind", ["chat", "responses", "messages"])
async def test_span_of_a_request_names_the_server_of_its_client(kind: str, spans: Spans) -> None:
    """The span of a request has the address and the port of the client's URL, such as a server on this machine."""
    with ProviderServer("Hello") as server:
        url = server.anthropic_base_url if kind == "messages" else server.openai_base_url
        client = openai.AsyncOpenAI if kind != "messages" else anthropic.AsyncAnthropic
        async with client(base_url=url, api_key="no-key-is-needed") as opened, traced(spans):
            await agent_on(opened, kind).trigger("Hi")
    attributes: Any = spans.named("chat m").attributes
    assert f"http://{attributes['server.address']}:{attributes['server.port']}" in url


async def test_several_choices_have_their_reasons(spans: Spans) -> None:
    """A request for several answers has their number, and a reason for the end of each."""

    def answer(call: Any) -> Any:
        return Step("Hello")

    async with traced(spans, capture_content=True):
        await agent_of(ScriptedLLM(answer), "chat", n=2).trigger("Hi")
    attributes = spans.named("chat m").attributes or {}
    assert attributes["gen_ai.request.choice.count"] == 2
    reasons: Any = attributes["gen_ai.response.finish_reasons"]
    messages = json.loads(str(attributes["gen_ai.output.messages"]))
    assert [message["finish_reason"] for message in messages] == [*reasons] == ["stop"] * len(messages)


@pytest.mark.parametrize("kind", KINDS)
async def test_repeated_request_is_one_span(kind: str, spans: Spans) -> None:
    """A request with its repetitions is one span without an error, with an event for each repetition."""
    llm = ScriptedLLM([Failure(529), Failure(500), "Hello"])
    async with traced(spans):
        await agent_of(llm, kind).fork(retry=Retry(first_wait=0.001)).trigger("Hi")
    (span,) = (span for span in spans.all() if span.name.startswith("chat"))
    assert [event.name for event in span.events] == ["retry", "retry"]
    assert span.status.status_code is StatusCode.UNSET


# --- failures


@pytest.mark.parametrize("kind", KINDS)
async def test_failed_request_has_its_error_with_a_redacted_message(kind: str, spans: Spans) -> None:
    """The spans of a failed request and its agent have the error's class, and an error status with redacted text."""
    async with traced(spans):
        with pytest.raises(LLMError) as caught:
            await agent_of(ScriptedLLM(Failure(401, f"wrong key {KEY}")), kind, alias="WRITER").trigger("Hi")
    for span in spans.all():
        assert (span.attributes or {})["error.type"] == type(caught.value).__name__
        assert span.status.status_code is StatusCode.ERROR
        assert "wrong key [redacted]" in (span.status.description or "")
    assert KEY not in spans.text()


@pytest.mark.parametrize("kind", KINDS)
async def test_answer_that_breaks_off_has_what_had_come(kind: str, spans: Spans) -> None:
    """The span of an answer that breaks off has the attributes that had arrived, and `error` as the finish reason."""
    async with traced(spans):
        with pytest.raises(LLMError):
            await agent_of(ScriptedLLM(Step("Hello there", after=1, then="reset")), kind).trigger("Hi")
    attributes = next(span for span in spans.all() if span.name.startswith("chat")).attributes or {}
    assert attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert "gen_ai.response.model" in attributes


async def test_failed_agent_has_its_error_and_its_callers_too(spans: Spans) -> None:
    """An agent that fails has its error, with keys redacted; so has a caller that gets this error."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        raise Boom(f"broken by {KEY}")

    @miniagent
    async def caller(ctx: InteractionContext) -> None:
        await failing.trigger()

    async with traced(spans):
        with pytest.raises(Boom):
            await caller.trigger()
    assert [span.status.description for span in spans.all()] == ["broken by [redacted]"] * 2
    assert [(span.attributes or {})["error.type"] for span in spans.all()] == ["Boom"] * 2


@pytest.mark.parametrize("how", ["break", "cancel", "leave"])
@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_abandoned_answer_has_the_type_of_the_cancellation_only(
    kind: str, on_demand: bool, how: str, spans: Spans
) -> None:
    """If a reader stops or the run ends within a stream, the span of the request has no error status.

    Its error type is `CancelledError`.
    """
    agent = agent_of(ScriptedLLM(Step("one two three", gap=0.001, after=3, then="hold")), kind, alias="WRITER")
    run = MiniAgents(
        observers=[trace_agents(tracer_provider=spans.provider)], start_everything_soon_by_default=not on_demand
    )
    with pytest.raises(Boom):
        async with run:
            replies = agent.trigger("Hi")
            promise = await anext(aiter(replies))
            await anext(aiter(promise))
            if how == "cancel":
                promise.cancel()
            if how != "leave":
                del promise, replies
                await asyncio.sleep(0.01)
            raise Boom
    agent_span, request = spans.all()
    assert (request.attributes or {})["error.type"] == "CancelledError"
    assert {agent_span.status.status_code, request.status.status_code} == {StatusCode.UNSET}
    assert (request.attributes or {})["gen_ai.response.finish_reasons"] == ("error",)


async def test_signals_and_cancellations_are_no_errors(spans: Spans) -> None:
    """A `StopDialog` or a cancelled promise sets no error status of a span.

    The attribute `error.type` is set for the cancelled promise only.
    """

    @miniagent
    async def stopping(ctx: InteractionContext) -> None:
        raise StopDialog

    @miniagent
    async def waiting(ctx: InteractionContext) -> None:
        replies = stopping.trigger()
        replies.cancel()
        await replies

    async with traced(spans):
        for agent, error in ((stopping, StopDialog), (waiting, PromiseCancelledError)):
            with pytest.raises(error):
                await agent.trigger()
    assert [(span.attributes or {}).get("error.type") for span in spans.all()] == [None, "PromiseCancelledError"]
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


# --- content


CONVERSATION = [
    UserMessage("first canary-prompt"),
    UserMessage([{"type": "text", "text": "second canary-prompt"}]),
]


async def run_with_content(spans: Spans, kind: str, **options: Any) -> tuple[Any, ...]:
    """Run an agent whose prompt, answers, arguments, results and failures hold canaries; return its replies."""
    llm = ScriptedLLM(
        [
            Step(
                "canary-answer",
                reasoning="canary-thought",
                tool_calls=[
                    ("search", {"query": "canary-argument"}),
                    ("search", {"query": "nothing"}),
                    ("search", {"canary": 1}),
                ],
            ),
            f"canary-answer {KEY}",
        ]
    )
    agent = agent_of(llm, kind, alias="SEEKER", system="canary-system", tools=[tool(search)])
    async with traced(spans, **options):
        return await agent.trigger(CONVERSATION)


@pytest.mark.parametrize("kind", KINDS)
async def test_spans_hold_no_content_by_default(kind: str, spans: Spans) -> None:
    """No span holds a text of prompts, answers, thoughts, arguments or results, also of a tool that fails, or a key."""
    await run_with_content(spans, kind, token_events=True)
    text = spans.text()
    assert "canary" not in text
    assert "nothing for" not in text
    assert "tools" not in text
    tools = [span for span in spans.all() if span.name == "execute_tool search"]
    assert [(span.attributes or {}).get("error.type") for span in tools] == [None, "ValueError", "ToolError"]
    assert [span.status.status_code for span in tools] == [StatusCode.UNSET, StatusCode.ERROR, StatusCode.ERROR]
    assert {span.status.description for span in tools} == {None}


@pytest.mark.parametrize("kind", KINDS)
async def test_captured_content_has_the_form_of_the_conventions(kind: str, spans: Spans) -> None:
    """With `capture_content`, spans have the messages, arguments and results as redacted JSON."""
    replies = await run_with_content(spans, kind, capture_content=True)
    first, second = (dict(span.attributes or {}) for span in spans.all() if span.name.startswith("chat"))

    def value(attributes: dict[str, Any], name: str) -> Any:
        return json.loads(attributes[f"gen_ai.{name}"])

    ids = [call.id for call in replies[0].tool_calls]
    arguments = [{"query": "canary-argument"}, {"query": "nothing"}, {"canary": 1}]
    results = [str(reply) for reply in replies if isinstance(reply, ToolMessage)]
    assert value(first, "system_instructions") == [{"type": "text", "content": "canary-system"}]
    prompt = [
        {"role": "user", "parts": [{"type": "text", "content": f"{each} canary-prompt"}]}
        for each in ("first", "second")
    ]
    assert value(first, "input.messages") == prompt
    (answer,) = value(first, "output.messages")
    assert answer == {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "canary-thought"},
            {"type": "text", "content": "canary-answer"},
            *(
                {"type": "tool_call", "id": id_, "name": "search", "arguments": each}
                for id_, each in zip(ids, arguments, strict=True)
            ),
        ],
        "finish_reason": "tool_call",
    }
    del answer["finish_reason"]
    assert value(second, "input.messages") == [
        *prompt,
        answer,
        *(
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": id_, "response": result}]}
            for id_, result in zip(ids, results, strict=True)
        ),
    ]
    assert value(second, "output.messages") == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "canary-answer [redacted]"}],
            "finish_reason": "stop",
        }
    ]
    tools = [span for span in spans.all() if span.name == "execute_tool search"]
    assert [value(dict(span.attributes or {}), "tool.call.arguments") for span in tools] == arguments
    assert [value(dict(span.attributes or {}), "tool.call.result") for span in tools] == results
    assert tools[1].status.description == "nothing for nothing with [redacted]"
    assert KEY not in spans.text()


@pytest.mark.parametrize("kind", ["chat", "responses", "messages"])
async def test_captured_content_does_not_hold_the_key_of_the_client(kind: str, spans: Spans) -> None:
    """With `capture_content`, the client's key is redacted in prompts and answers, even if its shape is unknown."""
    plain = "plainkey-of-the-client"
    llm = ScriptedLLM(lambda call: f"Your key is {plain}")
    client: Any = llm.anthropic_client(api_key=plain) if kind == "messages" else llm.openai_client(api_key=plain)
    async with traced(spans, capture_content=True, token_events=True):
        await agent_on(client, kind).trigger(f"My key is {plain}")
    assert "Your key is [redacted]" in spans.text()
    assert plain not in spans.named("chat m").to_json().replace("\\u", "")


async def test_answer_that_is_no_output_is_not_quoted_by_default(spans: Spans) -> None:
    """If an answer is no valid output, its span has the type of the error.

    The error quotes the answer, so the span has the error's text with `capture_content` only.
    """
    for captures in (False, True):
        async with traced(spans, capture_content=captures):
            with pytest.raises(OutputInvalidError):
                await agent_of(ScriptedLLM('{"value": "canary"}'), "chat", alias="WRITER", output=int).trigger("Hi")
        assert ("canary" in spans.text()) == captures
    assert [(span.attributes or {})["error.type"] for span in spans.all()] == ["OutputInvalidError"] * 4
    assert {span.status.status_code for span in spans.all()} == {StatusCode.ERROR}


async def test_tokens_are_events_if_the_user_wants_them(spans: Spans) -> None:
    """With `token_events`, each token is an event of its request, with its length and without its text."""
    async with traced(spans, capture_content=True, token_events=True):
        await agent_of(ScriptedLLM("one two"), "chat").trigger("Hi")
    assert [(event.name, event.attributes) for event in spans.named("chat m").events] == [
        ("token", {"length": 3}),
        ("token", {"length": 4}),
    ]


# --- without an SDK, and without the API


@pytest.mark.parametrize("provider", [None, NoOpTracerProvider()])
async def test_run_without_an_sdk_has_no_observer(provider: Any) -> None:
    """With the API alone, or its provider that does nothing, a run is as without observers."""
    async with MiniAgents(observers=[trace_agents(tracer_provider=provider)]) as run:
        assert run.observers == ()
        assert str(await agent_of(ScriptedLLM("Hello"), "chat").trigger("Hi").last) == "Hello"
        assert trace.get_current_span() is trace.INVALID_SPAN


async def test_provider_that_is_set_later_makes_the_spans_of_later_runs(
    monkeypatch: pytest.MonkeyPatch, spans: Spans
) -> None:
    """An observer that was made before the application has set its provider makes spans afterwards."""
    observer = trace_agents()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    async with MiniAgents(observers=[observer]):
        await agent_of(ScriptedLLM("Hello"), "chat", alias="WRITER").trigger("Hi")
    assert spans.tree() == ["invoke_agent WRITER", "invoke_agent WRITER > chat m"]


async def test_disabled_sdk_makes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `OTEL_SDK_DISABLED`, the SDK makes no spans, and no span is the current one."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    spans = Spans()
    async with traced(spans):
        assert str(await agent_of(ScriptedLLM("Hello"), "chat").trigger("Hi").last) == "Hello"
    assert spans.all() == []


async def test_trace_that_is_not_sampled_has_no_spans() -> None:
    """If the sampler drops a trace, no span is exported, and the agent's code finds a span that is not sampled."""
    spans = Spans(sampler=ALWAYS_OFF)
    seen: list[bool] = []

    @miniagent
    async def looking(ctx: InteractionContext) -> None:
        context = trace.get_current_span().get_span_context()
        seen.append(context.is_valid and not context.trace_flags.sampled)

    async with traced(spans):
        await looking.trigger()
    assert seen == [True]
    assert spans.all() == []


def test_missing_api_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the API of OpenTelemetry, `trace_agents` raises an error with the extra to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError) as caught:
        trace_agents()
    assert install_line("opentelemetry") in str(caught.value)


def test_conventions_have_a_version() -> None:
    """`CONVENTIONS` of the module is the version of the semantic conventions that these tests follow."""
    assert CONVENTIONS == "0.1.0"
