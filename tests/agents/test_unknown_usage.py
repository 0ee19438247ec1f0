"""Limits after answers without usage: a limit that cannot be checked refuses the next request, and says why."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from miniagents import InteractionContext, LimitExceededError, Limits, MiniAgents, Usage, UsageUnknownError, miniagent
from miniagents.ext.llm.openai import Retry, create_openai_agent
from miniagents_testing import Failure, ProviderServer, ScriptedLLM, Step

if TYPE_CHECKING:
    from miniagents.miniagents import MiniAgent

NO_USAGE: Any = {"stream_options": {"include_usage": False}}
LIMITS = (Limits(input_tokens=100), Limits(output_tokens=100), Limits(cost=100))


def price(model: str, usage: Usage) -> float:
    """Return a quarter for each token; fail for a usage without numbers."""
    return 0.25 * (usage.input_tokens + usage.output_tokens)  # type: ignore[operator]  # the failure


def step(text: str = "hi", **options: Any) -> Step:
    """Return an answer that takes ten tokens of input and five of output."""
    return Step(text, usage=Usage(input_tokens=10, output_tokens=5), **options)


def model(script: Any, **options: Any) -> MiniAgent[Any]:
    """Return an agent of a scripted model."""
    return ScriptedLLM(script).agent(model="m", alias="MODEL", **options)


@pytest.mark.parametrize("limits", LIMITS, ids=("input", "output", "cost"))
@pytest.mark.parametrize("of_run", [True, False])
async def test_limit_refuses_the_request_after_an_answer_without_usage(limits: Limits, of_run: bool) -> None:
    """A limit of tokens or cost refuses the request after an answer without usage, and the error says what to do."""
    llm = ScriptedLLM(lambda call: Step("hi"))
    agent = llm.agent(model="m", alias="MODEL", **NO_USAGE)

    @miniagent
    async def desk(ctx: InteractionContext) -> None:
        for _ in range(3):
            ctx.reply(await agent.trigger("q"))

    async with MiniAgents(price=lambda model, usage: 1.0, limits=limits if of_run else None):
        with pytest.raises(UsageUnknownError) as caught:
            await desk.trigger("q", limits=None if of_run else limits)
    assert len(llm.calls) == 1
    assert caught.value.agent_trace == ("MODEL", "DESK")
    assert getattr(limits, caught.value.limit) == 100
    for part in ("model 'm'", "MODEL <- DESK", 'stream_options={"include_usage": True}', "Limits(requests=...)"):
        assert part in str(caught.value)


async def test_limit_of_requests_needs_no_usage() -> None:
    """A limit of requests needs no usage, and raises `LimitExceededError` even if a limit of tokens lacks usage."""
    llm = ScriptedLLM(lambda call: Step("hi"))
    agent = llm.agent(model="m", **NO_USAGE)
    async with MiniAgents():
        assert len(await agent.trigger("q", limits=Limits(requests=1))) == 1
    async with MiniAgents(price=price, limits=Limits(requests=1, output_tokens=10)):
        await agent.trigger("q")
        with pytest.raises(LimitExceededError):
            await agent.trigger("q")


@pytest.mark.parametrize(
    ("usage", "refused"),
    [
        ({"prompt_tokens": 10}, {"output_tokens", "cost"}),
        ({"completion_tokens": 5}, {"input_tokens", "cost"}),
        ({}, {"input_tokens", "output_tokens", "cost"}),
        ({"prompt_tokens": 10, "completion_tokens": 5}, set()),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_limit_needs_only_its_own_numbers(usage: dict[str, int], refused: set[str], stream: bool) -> None:
    """If a usage lacks input or output tokens, only limits that need the missing number refuse the next request."""
    content = {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "delta" if stream else "message": content, "finish_reason": "stop"}
    kind = "chat.completion.chunk" if stream else "chat.completion"
    text = json.dumps({"model": "m", "object": kind, "choices": [choice], "usage": usage})
    text = f"data: {text}\n\ndata: [DONE]\n\n" if stream else text
    headers = {"content-type": "text/event-stream" if stream else "application/json"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, text=text, headers=headers))
    async with httpx2.AsyncClient(transport=transport) as http_client:
        client = openai.AsyncOpenAI(api_key="none", http_client=http_client)
        agent = create_openai_agent("m", async_client=client, stream=stream)
        for name in ("input_tokens", "output_tokens", "cost"):
            async with MiniAgents(price=price) as run:

                @miniagent
                async def twice(ctx: InteractionContext) -> None:
                    for _ in range(2):
                        ctx.reply(await agent.trigger("q"))

                results = await asyncio.gather(twice.trigger("q", limits=Limits(**{name: 100})), return_exceptions=True)
                assert isinstance(results[0], UsageUnknownError) == (name in refused)
                assert run.usage.unknown == (0 if not refused else 1 if name in refused else 2)
                assert (run.usage.cost is None) == ("cost" in refused)


@pytest.mark.parametrize("given", [{"stream_options": {"include_usage": True}}, {}])
async def test_error_of_an_unknown_usage_says_if_the_request_asked_for_it(given: dict[str, Any]) -> None:
    """The error says that the server ignores `stream_options` if the request had them; else it advises to set them."""
    choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    text = f"data: {json.dumps({'model': 'm', 'choices': [choice]})}\n\ndata: [DONE]\n\n"
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, text=text))
    async with httpx2.AsyncClient(transport=transport) as http_client, MiniAgents(limits=Limits(output_tokens=9)):
        client = openai.AsyncOpenAI(api_key="none", http_client=http_client, base_url="http://127.0.0.1:1/v1")
        agent = create_openai_agent("m", async_client=client, **given)
        await agent.trigger("q")
        with pytest.raises(UsageUnknownError) as caught:
            await agent.trigger("q")
    assert ("the server ignores that" in str(caught.value)) == bool(given)
    assert ('stream_options={"include_usage": True}' in str(caught.value)) == (not given)


async def test_limit_lets_failed_and_cancelled_requests_be_sent_again() -> None:
    """Under a limit, a request is sent although an earlier one failed or was cancelled, and so has no usage."""
    script = [Failure(503), step(), step("a b c", then="hold", after=2), step()]
    agent = model(script, retry=Retry(attempts=2, first_wait=0.0))
    async with MiniAgents(price=price, limits=Limits(input_tokens=100, output_tokens=100, cost=100)) as run:
        await agent.trigger("q")
        (promise,) = [promise async for promise in agent.trigger("q")]
        assert await anext(aiter(promise)) == "a"
        promise.cancel()
        await agent.trigger("q")
        assert (run.usage.requests, run.usage.unknown, run.usage.cost) == (4, 2, 0.25 * 30)


async def test_unknown_usage_travels_with_the_rows_of_another_process() -> None:
    """Totals that get the rows of other totals, or are copied, know which limits cannot be checked and why."""
    async with MiniAgents(price=price) as run:
        await model([Step("hi")], **NO_USAGE).trigger("q")
        rows = json.loads(json.dumps(run.usage.rows()))
    async with MiniAgents(price=price, limits=Limits(cost=1)) as run:
        for path, row in rows:
            run.usage.add_row(tuple(path), row)
        assert run.usage.cost is run.usage.copy().cost is run.usage.by_agent["MODEL"].cost is None
        with pytest.raises(UsageUnknownError, match="The answer of the model 'm' to MODEL"):
            await model([step()]).trigger("q")


def test_run_with_a_server_that_sends_no_usage_stops_at_its_second_request() -> None:
    """After an answer without usage over HTTP, a cost limit ends the run, and no second request tells a model of it."""

    async def main(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            agent = create_openai_agent("m", async_client=client)

            @miniagent
            async def expert(ctx: InteractionContext) -> None:
                """Ask an expert."""
                ctx.reply(agent.trigger("q"))

            await create_openai_agent("m", async_client=client, tools=[expert]).trigger("go")

    with ProviderServer([Step(tool_calls=[("expert", {})]), *[Step("hi")] * 5]) as server:
        with pytest.raises(UsageUnknownError):
            MiniAgents(limits=Limits(cost=1), price=lambda model, usage: 0.0).run(main(server.openai_base_url))
        assert len(server.calls) == 1


def test_error_of_an_unknown_usage_survives_pickle() -> None:
    """A `UsageUnknownError` keeps its attributes in a pickle."""
    unknown = pickle.loads(pickle.dumps(UsageUnknownError("text", limit="cost", agent_trace=("A",))))
    assert (str(unknown), unknown.limit, unknown.agent_trace) == ("text", "cost", ("A",))
