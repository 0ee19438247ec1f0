"""Agents of other frameworks, with a tool, against a server of a provider's API: live, recorded and played alike.

The frameworks are not among the dependencies: `tox -e clients` has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from wire_server import Answer, WireServer

from miniagents_testing import ProviderServer, Step, run_in_virtual_time, use_cassette
from miniagents_testing.cassette import load
from miniagents_testing.errors import CassetteMissError, causes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from miniagents_testing._script import Call

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks warn of each other, and of old clients

PROMPT = "How is the weather in Rome?"


# --- the server


def said_by_model(call: Call) -> Step:
    """Call the tool of a request, and then tell its result word by word."""
    if not call.tool_results:
        return Step(tool_calls=[("get_weather", {"city": "Rome"})], gap=0.002)
    return Step("The tool says it is dry in Rome", gap=0.002)


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """Run a server until the test ends."""
    with ProviderServer(said_by_model) as started:
        yield started


# --- the frameworks


class Framework:
    """Agent of a framework, with a tool that reads the weather.

    Args:
        api: API of a provider that it speaks.
        url: scheme, host and port of the provider.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    apis: ClassVar[tuple[str, ...]] = ("chat", "responses", "messages")
    """APIs of providers that the framework speaks."""

    def __init__(self, api: str, url: str) -> None:
        self.api = api
        self.base_url = url if api == "messages" else f"{url}/v1"
        self.callbacks: list[Any] = []
        """Tracers that langchain calls."""
        self.cities: list[str] = []
        """Arguments of the calls of the tool."""
        self._clients: list[Any] = []
        """Clients of SDKs, which frameworks keep open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    def _client(self) -> Any:
        """Make a client of OpenAI or Anthropic, which is closed with the agent."""
        kind = AsyncAnthropic if self.api == "messages" else AsyncOpenAI
        self._clients.append(kind(api_key="not-needed", base_url=self.base_url))
        return self._clients[-1]

    def get_weather(self, city: str) -> str:
        """Return the weather of a city."""
        self.cities.append(city)
        return f"It is dry in {city}."

    async def answer(self, prompt: str) -> str:
        """Return the final answer of the agent, whose requests ask for no streams."""
        raise NotImplementedError

    def texts(self, prompt: str) -> AsyncIterator[str]:
        """Yield the texts of the agent's answers, as they stream."""
        raise NotImplementedError

    async def read(self, prompt: str, *, streams: bool) -> list[str]:
        """Return the texts of the answer, one by one if the agent streams."""
        return [text async for text in self.texts(prompt) if text] if streams else [await self.answer(prompt)]


class PydanticAI(Framework):
    """pydantic-ai."""

    name = "pydantic-ai"
    module = "pydantic_ai"

    def _agent(self) -> Any:
        from pydantic_ai import Agent
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.anthropic import AnthropicProvider
        from pydantic_ai.providers.openai import OpenAIProvider

        model: Any
        if self.api == "messages":
            model = AnthropicModel("claude-sonnet-5-5", provider=AnthropicProvider(anthropic_client=self._client()))
        else:
            kind = OpenAIChatModel if self.api == "chat" else OpenAIResponsesModel
            model = kind("gpt-4o", provider=OpenAIProvider(openai_client=self._client()))
        return Agent(model, tools=[self.get_weather])

    async def answer(self, prompt: str) -> str:
        return str((await self._agent().run(prompt)).output)

    async def texts(self, prompt: str) -> AsyncIterator[str]:
        async with self._agent().run_stream(prompt) as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text


class OpenAIAgents(Framework):
    """openai-agents."""

    name = "openai-agents"
    module = "agents"
    apis = ("chat", "responses")

    def _agent(self) -> Any:
        from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, function_tool

        kind = OpenAIChatCompletionsModel if self.api == "chat" else OpenAIResponsesModel
        return Agent("forecaster", model=kind("gpt-4o", self._client()), tools=[function_tool(self.get_weather)])

    async def answer(self, prompt: str) -> str:
        from agents import Runner

        return str((await Runner.run(self._agent(), prompt)).final_output)

    async def texts(self, prompt: str) -> AsyncIterator[str]:
        from agents import Runner

        async for event in Runner.run_streamed(self._agent(), prompt).stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                yield event.data.delta


class LangChain(Framework):
    """langchain-openai and langchain-anthropic, and the loop of an agent on them."""

    name = "langchain"
    module = "langchain_core"

    def _model(self) -> Any:
        from langchain_anthropic import ChatAnthropic
        from langchain_openai import ChatOpenAI

        model: Any
        if self.api == "messages":
            model = ChatAnthropic(model="claude-sonnet-5-5", base_url=self.base_url, api_key="not-needed")
            self._clients.append(model._async_client)  # no public name closes it
        else:
            is_responses = self.api == "responses"
            model = ChatOpenAI(
                model="gpt-4o", base_url=self.base_url, api_key="not-needed", use_responses_api=is_responses
            )
            self._clients.append(model.root_async_client)
        return model

    async def _parts(self, prompt: str, *, streams: bool) -> AsyncIterator[Any]:
        """Yield the answers of the model, or their parts if it streams; run tools until an answer calls none."""
        from langchain_core.messages import HumanMessage
        from langchain_core.tools import tool

        weather = tool(self.get_weather)
        model = self._model().bind_tools([weather])
        messages: list[Any] = [HumanMessage(prompt)]
        while True:
            whole: Any = None
            if streams:
                async for part in model.astream(messages, {"callbacks": self.callbacks}):
                    yield part
                    whole = part if whole is None else whole + part
            else:
                whole = await model.ainvoke(messages, {"callbacks": self.callbacks})
                yield whole
            if not whole.tool_calls:
                return
            messages += [whole, *[await weather.ainvoke(call) for call in whole.tool_calls]]

    async def answer(self, prompt: str) -> str:
        return [str(message.text) async for message in self._parts(prompt, streams=False)][-1]

    async def texts(self, prompt: str) -> AsyncIterator[str]:
        async for part in self._parts(prompt, streams=True):
            yield str(part.text)


FRAMEWORKS: tuple[type[Framework], ...] = (PydanticAI, OpenAIAgents, LangChain)
PAIRS = [(kind, api) for kind in FRAMEWORKS for api in kind.apis]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0].name}, {pair[1]}")
def agent(request: pytest.FixtureRequest) -> Callable[[str], Framework]:
    """Return a function that makes an agent for the URL of a provider; skip the test without the framework."""
    kind, api = request.param
    pytest.importorskip(kind.module)
    return partial(kind, api)


@pytest.fixture(autouse=True)
def without_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frameworks send no traces unless a test asks for them."""
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


# --- agents


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
async def test_agent_with_a_tool_is_the_same_live_recorded_and_played(
    agent: Callable[[str], Framework], server: ProviderServer, path: Path, streams: bool
) -> None:
    """A framework's agent gives the same texts and tool calls live, recorded and played, and a replay sends nothing."""
    async with agent(server.url) as framework:
        live = await framework.read(PROMPT, streams=streams)
        with use_cassette(path, record_mode="once"):
            assert await framework.read(PROMPT, streams=streams) == live
        assert len(server.calls) == 4
        with use_cassette(path):
            assert await framework.read(PROMPT, streams=streams) == live
    assert "".join(live) == "The tool says it is dry in Rome"
    assert (len(live) > 1) == streams
    assert len(server.calls) == 4
    assert framework.cities == ["Rome"] * 3


def test_texts_of_an_agent_come_at_the_recorded_moments(
    agent: Callable[[str], Framework], server: ProviderServer, path: Path
) -> None:
    """At pace 1, in virtual time, each text comes when a chunk of its answer came, one after the other."""
    provider = f"https://provider{server.url.rpartition(':')[2]}.test"  # some frameworks keep a client for each host

    async def record() -> list[str]:
        async with agent(server.url) as framework:
            return await framework.read(PROMPT, streams=True)

    async def play() -> list[float]:
        now = asyncio.get_running_loop().time
        async with agent(provider) as framework:
            return [now() async for text in framework.texts(PROMPT) if text]

    with use_cassette(path, record_mode="once", record_as={server.url: provider}):
        texts = asyncio.run(record())
    with use_cassette(path, pace=1) as session:
        seen = run_in_virtual_time(play())
    chunks = [moment for moment in session.timeline() if (moment.number, moment.what) == (2, "chunk")]
    recorded = [next(each.ms for each in chunks if f'"{text}"'.encode() in each.data) for text in texts]
    assert [moment - seen[0] for moment in seen] == pytest.approx([(ms - recorded[0]) / 1000 for ms in recorded])
    assert recorded == sorted(set(recorded))


async def test_changed_prompt_of_an_agent_is_a_miss(
    agent: Callable[[str], Framework], server: ProviderServer, path: Path
) -> None:
    """A changed prompt is a miss: the framework's error or one of its causes, with the difference; nothing is sent."""
    async with agent(server.url) as framework:
        with use_cassette(path, record_mode="once"):
            await framework.read(PROMPT, streams=True)
        with pytest.raises(CassetteMissError, match="Oslo") as outer, use_cassette(path, unplayed="ignore"):
            with pytest.raises(Exception, match="has no answer for POST") as inner:
                await framework.read("How is the weather in Oslo?", streams=True)
    assert outer.value in causes(inner.value)
    assert len(server.calls) == 2


# --- traces of frameworks


@contextmanager
def traces_of_openai_agents(framework: Framework, url: str) -> Iterator[Callable[[], None]]:
    """Let openai-agents send traces to a URL from a thread of its own; yield a function that waits for them."""
    from agents.tracing import get_trace_provider, set_trace_provider
    from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor
    from agents.tracing.provider import DefaultTraceProvider

    exporter = BackendSpanExporter("not-needed", endpoint=f"{url}/v1/traces/ingest", max_retries=1, base_delay=0.001)
    processor = BatchTraceProcessor(exporter)
    provider = DefaultTraceProvider()
    provider.set_disabled(False)
    provider.set_processors([processor])
    before = get_trace_provider()
    set_trace_provider(provider)
    try:
        yield processor.force_flush
    finally:
        set_trace_provider(before)
        processor.shutdown()
        exporter.close()


@contextmanager
def traces_of_langchain(framework: LangChain, url: str) -> Iterator[Callable[[], None]]:
    """Let langchain send traces to a URL from a thread of its own; yield a function that waits for them."""
    from langchain_core.tracers import LangChainTracer
    from langsmith import Client
    from urllib3 import Retry

    client = Client(url, api_key="not-needed", retry_config=Retry(0), info={})
    framework.callbacks = [LangChainTracer(client=client)]
    yield client.flush
    client.cleanup()


each_that_traces = pytest.mark.parametrize(
    ("kind", "traces"),
    [
        pytest.param(OpenAIAgents, traces_of_openai_agents, id="openai-agents"),
        pytest.param(LangChain, traces_of_langchain, id="langchain"),
    ],
)
Traces = Callable[[Framework, str], AbstractContextManager[Callable[[], None]]]


@pytest.fixture
def receiver() -> Iterator[WireServer]:
    """Run a server that receives traces, until the test ends."""
    with WireServer(lambda _: Answer((), 202, {"content-length": "0"})) as started:
        yield started


@each_that_traces
async def test_traces_of_a_framework_stay_out_of_the_cassette(
    kind: type[Framework], traces: Traces, server: ProviderServer, receiver: WireServer, path: Path
) -> None:
    """With `ignore_hosts`, traces are sent and not recorded; in a replay none is sent, and the result is the same."""
    pytest.importorskip(kind.module)

    async with kind("chat", server.url) as framework:

        async def run(**options: Any) -> list[str]:
            with traces(framework, receiver.url) as flush, use_cassette(path, ignore_hosts=[receiver.url], **options):
                read = await framework.read(PROMPT, streams=True)
                await asyncio.to_thread(flush)
            return read

        live = await run(record_mode="once")
        assert receiver.requests
        assert len(load(path)) == 2
        sent = len(receiver.requests), receiver.connections
        assert await run() == live
    assert (len(server.calls), len(receiver.requests), receiver.connections) == (2, *sent)


@each_that_traces
async def test_traces_of_a_framework_are_a_miss_by_default(
    kind: type[Framework], traces: Traces, server: ProviderServer, receiver: WireServer, path: Path
) -> None:
    """Without `ignore_hosts`, traces of a replay are not sent, and the error at its end names their address."""
    pytest.importorskip(kind.module)

    async with kind("chat", server.url) as framework:
        with use_cassette(path, record_mode="once"):
            await framework.read(PROMPT, streams=True)
        with traces(framework, receiver.url) as flush:
            with pytest.raises(CassetteMissError, match=f"has no answer for POST {receiver.url}/"):
                with use_cassette(path):
                    await framework.read(PROMPT, streams=True)
                    await asyncio.to_thread(flush)
    assert (receiver.requests, receiver.connections) == ([], 0)
