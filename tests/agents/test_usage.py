"""Totals, limits and prices: requests count for their call, its callers and the run, and stop at the limits."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
import re
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from miniagents import (
    InteractionContext,
    LimitExceededError,
    Limits,
    LLMError,
    MiniAgents,
    PriceUnknownError,
    Usage,
    UsageTotals,
    miniagent,
)
from miniagents.errors import install_line
from miniagents.ext.llm._base import known_price
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import Retry, create_openai_agent
from miniagents_testing import Failure, ScriptedLLM, Step

if TYPE_CHECKING:
    from miniagents.miniagents import MiniAgent

TEN_AND_FIVE = Usage(input_tokens=10, output_tokens=5, cached_tokens=4, cache_write_tokens=1, reasoning_tokens=2)
PRICES = {"m": 0.25}


def step(text: str = "hi", **options: Any) -> Step:
    """Return an answer that takes ten tokens of input and five of output."""
    return Step(text, usage=TEN_AND_FIVE, **options)


def price(model: str, usage: Usage) -> float | None:
    """Return the price of a model by its number of tokens; raise `LookupError` for a model without a price."""
    return PRICES[model] * ((usage.input_tokens or 0) + (usage.output_tokens or 0))


def model(script: Any, api: Any = "chat", **options: Any) -> MiniAgent[Any]:
    """Return an agent of a scripted model."""
    return ScriptedLLM(script).agent(model="m", alias="MODEL", api=api, **options)


def counts(totals: UsageTotals) -> tuple[int, int, int, int]:
    """Return the numbers of requests, input tokens, output tokens, and requests of unknown usage."""
    return totals.requests, totals.input_tokens, totals.output_tokens, totals.unknown


# --- totals


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_request_counts_for_its_call_its_callers_and_the_run(api: Any, stream: bool) -> None:
    """A request counts in the model agent's own call, in each call above it, and in the run.

    `by_agent` counts the request under the alias of each of these agents.
    """
    contexts: dict[str, InteractionContext] = {}
    agent = model(lambda call: step(), api, stream=stream)

    @miniagent
    async def inner(ctx: InteractionContext) -> None:
        contexts["inner"] = ctx
        ctx.reply(await agent.trigger("q"))

    @miniagent
    async def outer(ctx: InteractionContext) -> None:
        contexts["outer"] = ctx
        ctx.reply(await inner.trigger("q"))
        ctx.reply(await agent.trigger("q"))

    async with MiniAgents(price=price) as run:
        assert counts(run.usage) == (0, 0, 0, 0)
        assert run.usage.cost == 0
        await outer.trigger("q")
        await agent.trigger("q")
        assert counts(run.usage) == (3, 30, 15, 0)
        assert counts(contexts["outer"].usage) == (2, 20, 10, 0)
        assert counts(contexts["inner"].usage) == (1, 10, 5, 0)
        totals = run.usage
        assert (totals.cached_tokens, totals.cache_write_tokens, totals.reasoning_tokens) == (12, 3, 6)
        assert (totals.total_tokens, totals.cost) == (45, 0.25 * 45)
        assert {alias: counts(each) for alias, each in totals.by_agent.items()} == {
            "MODEL": (3, 30, 15, 0),
            "INNER": (1, 10, 5, 0),
            "OUTER": (2, 20, 10, 0),
        }
        assert totals.by_agent["OUTER"].cost == 0.25 * 30
        assert list(contexts["inner"].usage.by_agent) == ["MODEL", "INNER"]
        assert contexts["inner"].usage.by_agent["INNER"].cost == 0.25 * 15


async def test_failed_retried_and_cancelled_requests_count_as_unknown() -> None:
    """Each attempt counts as a request, and also as one of unknown usage if no whole answer with a usage came."""
    async with MiniAgents() as run:
        with pytest.raises(LLMError):
            await model([Failure(503), Failure(401)], retry=Retry(attempts=2, first_wait=0.0)).trigger("q")
        assert counts(run.usage) == (2, 0, 0, 2)
        with pytest.raises(LLMError):
            await model([step(then="reset", after=1)]).trigger("q")
        assert counts(run.usage) == (3, 0, 0, 3)
        held = model([step("a b c", then="hold", after=2)]).trigger("q")
        (promise,) = [promise async for promise in held]
        assert await anext(aiter(promise)) == "a"
        assert counts(run.usage) == (4, 0, 0, 3)
        promise.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert counts(run.usage) == (4, 0, 0, 4)
        await model([Failure(503), step()], retry=Retry(attempts=2, first_wait=0.0)).trigger("q")
        assert counts(run.usage) == (6, 10, 5, 5)


async def test_answer_without_usage_counts_as_unknown() -> None:
    """A whole answer without usage counts as a request of unknown usage, adds no tokens, and makes the cost None."""
    agent = model([Step("hi")], stream_options={"include_usage": False})
    async with MiniAgents(price=price) as run:
        await agent.trigger("q")
        assert counts(run.usage) == (1, 0, 0, 1)
        assert run.usage.cost is None


async def test_recursive_agent_counts_a_request_once() -> None:
    """A request counts once for an agent that stands in its chain of callers several times."""
    agent = model(lambda call: step())

    @miniagent
    async def recursive(ctx: InteractionContext, depth: int) -> None:
        ctx.reply(await (recursive.trigger("q", depth=depth - 1) if depth else agent.trigger("q")))

    async with MiniAgents() as run:
        await recursive.trigger("q", depth=5)
        assert counts(run.usage.by_agent["RECURSIVE"]) == (1, 10, 5, 0)


async def test_request_counts_for_the_runs_around_its_run() -> None:
    """A request inside a nested run counts for both runs, and for the agent in which the inner run was opened."""
    agent = model(lambda call: step())
    seen: list[tuple[int, ...]] = []

    @miniagent
    async def outer(ctx: InteractionContext) -> None:
        async with MiniAgents() as inner_run:
            await agent.trigger("q")
            seen.append(counts(inner_run.usage))
        seen.append(counts(ctx.usage))

    async with MiniAgents(price=price) as run:
        await agent.trigger("q")
        await outer.trigger("q")
        assert seen == [(1, 10, 5, 0)] * 2
        assert counts(run.usage) == (2, 20, 10, 0)
        assert run.usage.cost == 0.25 * 30


async def test_copy_of_totals_does_not_grow() -> None:
    """A copy keeps the numbers and costs of the time when it was made, in total and by agent."""
    agent = model(lambda call: step())
    async with MiniAgents(price=price) as run:
        await agent.trigger("q")
        copied = run.usage.copy()
        await agent.trigger("q")
        assert counts(copied) == counts(copied.by_agent["MODEL"]) == (1, 10, 5, 0)
        assert (copied.cost, copied.by_agent["MODEL"].cost) == (0.25 * 15, 0.25 * 15)
        assert counts(run.usage) == (2, 20, 10, 0)
        assert repr(run.usage) == "<UsageTotals: 2 requests, 20 input tokens, 10 output tokens>"


async def test_absurd_numbers_of_tokens_are_counted_up_to_a_limit() -> None:
    """A number of tokens beyond 64 bits counts as 2 ** 62, and does not harm the answer."""
    agent = model([Step("hi", usage=Usage(input_tokens=10**30, output_tokens=1))])
    async with MiniAgents() as run:
        await agent.trigger("q")
        assert run.usage.input_tokens == 2**62


# --- limits


async def test_limit_of_requests_is_exact_for_parallel_calls() -> None:
    """Of many calls in parallel, exactly as many requests are sent as the limit says; the others fail."""
    llm = ScriptedLLM(lambda call: step())
    agent = llm.agent()
    async with MiniAgents(limits=Limits(requests=7)) as run:
        results = await asyncio.gather(*(agent.trigger("q") for _ in range(20)), return_exceptions=True)
        assert len(llm.calls) == run.usage.requests == 7
        failed = [each for each in results if isinstance(each, BaseException)]
        assert len(failed) == 13
        assert all(isinstance(each, LimitExceededError) for each in failed)


async def test_limit_of_requests_counts_retries() -> None:
    """At the limit, a retry is not sent; the cause of `LimitExceededError` is the failure of the last attempt."""
    llm = ScriptedLLM([Failure(503), Failure(503), step()])
    agent = llm.agent(retry=Retry(attempts=3, first_wait=0.0))
    async with MiniAgents(limits=Limits(requests=2)):
        with pytest.raises(LimitExceededError) as caught:
            await agent.trigger("q")
        assert len(llm.calls) == 2
        assert isinstance(caught.value.__cause__, LLMError)


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        (Limits(requests=3), 3),
        (Limits(input_tokens=30), 3),
        (Limits(input_tokens=31), 4),
        (Limits(output_tokens=11), 3),
        (Limits(cost=0.25 * 15 * 2), 2),
        (Limits(cost=0.25 * 15 * 2 + 0.01), 3),
        (Limits(requests=0), 0),
        (Limits(cost=0), 0),
        (Limits(), 5),
    ],
)
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_no_request_begins_at_or_above_a_limit(limits: Limits, sent: int, api: Any) -> None:
    """Requests one after the other stop when a total has reached its limit, of the run as well as of a call."""
    for of_run in (True, False):
        llm = ScriptedLLM(lambda call: step())
        agent = llm.agent(model="m", api=api)

        @miniagent
        async def five(ctx: InteractionContext, agent: Any = agent) -> None:
            for _ in range(5):
                ctx.reply(await agent.trigger("q"))

        async with MiniAgents(price=price, limits=limits if of_run else None):
            replies = five.trigger("q", limits=None if of_run else limits)
            if sent == 5:
                assert len(await replies) == 5
                continue
            with pytest.raises(LimitExceededError):
                await replies
            assert len(llm.calls) == sent


async def test_innermost_limit_is_checked_first() -> None:
    """If several limits are reached, the error names the innermost call that has one, or the run, and the agents."""
    agent = model(lambda call: step())

    @miniagent
    async def inner(ctx: InteractionContext) -> None:
        ctx.reply(agent.trigger("q"))

    @miniagent
    async def outer(ctx: InteractionContext) -> None:
        ctx.reply(inner.trigger("q", limits=Limits(requests=0)))

    async with MiniAgents(limits=Limits(requests=0)) as run:
        with pytest.raises(LimitExceededError, match="the call of INNER") as caught:
            await outer.trigger("q", limits=Limits(input_tokens=0))
        error = caught.value
        assert (error.limit, error.value, error.agent_trace) == ("requests", 0, ("MODEL", "INNER", "OUTER"))
        assert "MODEL <- INNER <- OUTER" in str(error)
        assert counts(error.totals) == counts(run.usage) == (0, 0, 0, 0)
        with pytest.raises(LimitExceededError, match="the run"):
            await agent.trigger("q")
        with pytest.raises(LimitExceededError, match="the call of MODEL"):
            await agent.trigger("q", limits=Limits(output_tokens=0))


async def test_limit_of_a_call_leaves_other_calls_alone() -> None:
    """A call that has reached its limit stops, and other calls of the same agent go on."""
    agent = model(lambda call: step())

    @miniagent
    async def worker(ctx: InteractionContext, requests: int) -> None:
        for _ in range(requests):
            ctx.reply(await agent.trigger("q"))

    async with MiniAgents() as run:
        limits = Limits(requests=2)
        results = await asyncio.gather(
            worker.trigger("q", requests=2, limits=limits),
            worker.trigger("q", requests=3, limits=limits),
            worker.trigger("q", requests=4),
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [tuple, LimitExceededError, tuple]
        assert run.usage.requests == 8


async def test_initiate_call_takes_limits() -> None:
    """A call of `initiate_call` with a limit of no request raises `LimitExceededError` at its replies."""
    agent = model(lambda call: step())
    async with MiniAgents():
        call = agent.initiate_call(limits=Limits(requests=0))
        call.send_message("q")
        with pytest.raises(LimitExceededError):
            await call.reply_sequence()


async def test_error_of_a_limit_survives_pickle_and_copy() -> None:
    """A `LimitExceededError` and a `PriceUnknownError` keep their attributes in a pickle and in a copy."""
    totals = UsageTotals()
    limit = LimitExceededError("text", limit="cost", value=1.5, totals=totals, agent_trace=("A", "B"))
    for error in (pickle.loads(pickle.dumps(limit)), copy.copy(limit)):
        assert (str(error), error.limit, error.value, error.agent_trace) == ("text", "cost", 1.5, ("A", "B"))
        assert counts(error.totals) == counts(totals)
    assert pickle.loads(pickle.dumps(PriceUnknownError("text", model="m"))).model == "m"


# --- real clients, and tools


@pytest.mark.parametrize("provider", ["openai", "responses", "anthropic"])
@pytest.mark.parametrize("stream", [True, False])
async def test_requests_of_the_real_clients_count_and_stop_at_a_limit(provider: str, stream: bool) -> None:
    """With both SDKs, retries count as requests, a limit is exact for parallel calls, and answers count their usage."""
    llm = ScriptedLLM([Failure(503), *[step()] * 9])
    client: Any = llm.anthropic_client() if provider == "anthropic" else llm.openai_client()
    more = {"api": "responses"} if provider == "responses" else {}
    create: Any = create_anthropic_agent if provider == "anthropic" else create_openai_agent
    retry = Retry(attempts=2, first_wait=0.0)
    async with client, MiniAgents(limits=Limits(requests=6), price=price) as run:
        agent = create("m", async_client=client, stream=stream, retry=retry, alias="MODEL", **more)
        if provider == "openai" and stream:
            agent = agent.fork(stream_options={"include_usage": True})
        results = await asyncio.gather(*(agent.trigger("q") for _ in range(8)), return_exceptions=True)
        assert [type(each) for each in results].count(tuple) == 5
        assert counts(run.usage) == (6, 50, 25, 1)
        assert run.usage.cost == 0.25 * 75
        assert len(llm.calls) == 6


async def test_limit_ends_a_tool_loop_and_is_not_told_to_the_model() -> None:
    """Requests of an agent used as a tool count for the model's agent, whose limit ends the tool loop when reached."""
    inner = model(lambda call: step()).fork(alias="INNER")

    @miniagent
    async def search(ctx: InteractionContext, topic: str) -> None:
        """Search."""
        ctx.reply(inner.trigger(topic))

    calls = [("search", {"topic": "a"}), ("search", {"topic": "b"})]
    llm = ScriptedLLM([step("", tool_calls=calls), step("done")] * 2)
    agent = llm.agent(model="m", tools=[search], alias="OUTER")
    async with MiniAgents() as run:
        assert str((await agent.trigger("q"))[-1]) == "done"
        assert {alias: counts(each)[0] for alias, each in run.usage.by_agent.items()} == {
            "OUTER": 4,
            "INNER": 2,
            "SEARCH": 2,
        }
        with pytest.raises(LimitExceededError, match="the call of OUTER"):
            await agent.trigger("q", limits=Limits(requests=2))
        assert run.usage.requests == 6
        assert len(llm.calls) == 3


# --- prices


async def test_unknown_price_makes_the_cost_none() -> None:
    """If the price of one request is unknown, the cost of all totals that contain it is None, whatever others cost."""
    llm = ScriptedLLM(lambda call: step())
    async with MiniAgents(price=price) as run:
        costs = []
        for name in ("m", "other", "m"):
            await llm.agent(model=name, alias=name).trigger("q")
            costs.append(run.usage.cost)
        assert costs == [0.25 * 15, None, None]
        assert [run.usage.by_agent[name].cost for name in ("m", "other")] == [0.25 * 30, None]
    async with MiniAgents(price=lambda model, usage: None) as run:
        await llm.agent(model="m").trigger("q")
        assert run.usage.cost is None


@pytest.mark.parametrize("limits", [None, Limits(cost=1)])
async def test_price_that_is_no_number_is_an_error_that_names_function_value_and_model(limits: Limits | None) -> None:
    """A function for prices that returns a text fails the request, with or without a limit of the cost."""
    wrong: Any = lambda model, usage: "a"  # noqa: E731 - a wrong function for prices
    async with MiniAgents(price=wrong, limits=limits):
        with pytest.raises(TypeError, match="function for prices returned 'a' for the model m, which is no number"):
            await ScriptedLLM(lambda call: step()).agent(model="m").trigger("q")


@pytest.mark.parametrize("cost", [math.nan, -1.0, math.inf])
async def test_price_that_is_no_number_of_dollars_is_an_error(cost: float) -> None:
    """NaN would never reach a limit of the cost, and a negative price would lower the total."""
    async with MiniAgents(price=lambda model, usage: cost, limits=Limits(cost=1)):
        with pytest.raises(TypeError, match="which is no number of dollars"):
            await ScriptedLLM(lambda call: step()).agent(model="m").trigger("q")


async def test_cost_limit_refuses_a_model_without_a_price_before_its_first_request() -> None:
    """Under a limit of the cost, a model without a known price is not asked."""
    llm = ScriptedLLM(lambda call: step())
    async with MiniAgents(price=price, limits=Limits(cost=100)) as run:
        await llm.agent(model="m").trigger("q")
        with pytest.raises(PriceUnknownError, match="'other'") as caught:
            await llm.agent(model="other").trigger("q")
        assert caught.value.model == "other"
        assert len(llm.calls) == run.usage.requests == 1


@pytest.mark.parametrize(("answered", "asked"), [("m", ["m"]), ("m-2", ["m-2"]), ("m-unknown", ["m-unknown", "m"])])
async def test_price_is_that_of_the_model_that_answered(answered: str, asked: list[str]) -> None:
    """The price is asked for once: under the model's name in the answer, or if it has none, in the request."""
    seen: list[str] = []

    def by_name(model: str, usage: Usage) -> float | None:
        seen.append(model)
        return {"m": 1.0, "m-2": 2.0}.get(model)

    chunk = {"model": answered, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    text = f"data: {json.dumps({**chunk, 'usage': usage})}\n\ndata: [DONE]\n\n"
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, text=text))
    async with httpx2.AsyncClient(transport=transport) as http_client, MiniAgents(price=by_name) as run:
        client = openai.AsyncOpenAI(api_key="none", http_client=http_client)
        await create_openai_agent("m", async_client=client).trigger("q")
        costs = [run.usage.cost, run.usage.cost]
    assert costs == [2.0 if answered == "m-2" else 1.0] * 2
    assert seen == asked


async def test_failing_price_function_is_logged_and_harms_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the function for prices is logged, the answer arrives, and the cost is not known."""

    def broken(model: str, usage: Usage) -> float:
        raise ZeroDivisionError("oops")

    async with MiniAgents(price=broken) as run:
        assert str((await model([step()]).trigger("q"))[0]) == "hi"
        assert run.usage.cost is None
    assert "oops" in caplog.text


async def test_price_function_gets_the_usage_of_the_provider() -> None:
    """The price function gets the message's usage, whose `raw` is what the provider sent, and returns the cost."""
    seen: list[Any] = []

    def own_cost(model: str, usage: Usage) -> float | None:
        seen.append(usage.raw)
        return 2.0

    async with MiniAgents(price=own_cost) as run:
        await model([step()]).trigger("q")
        assert run.usage.cost == 2.0
    assert seen[0]["prompt_tokens"] == 10


async def test_innermost_price_function_counts() -> None:
    """The innermost run with a price function prices a request, and the runs around it count the same cost."""
    llm = ScriptedLLM(lambda call: step())
    async with MiniAgents(price=lambda model, usage: 1.0) as outer:
        async with MiniAgents() as middle:
            await llm.agent().trigger("q")
            async with MiniAgents(price=lambda model, usage: 5.0) as inner:
                await llm.agent().trigger("q")
            assert (inner.usage.cost, middle.usage.cost, outer.usage.cost) == (5.0, 6.0, 6.0)


def test_known_price_is_that_of_genai_prices() -> None:
    """`known_price` finds a price by URL or by provider, less for cached tokens, and none for an unknown model."""
    pytest.importorskip("genai_prices")
    usage = Usage(input_tokens=1000, output_tokens=100)
    plain = known_price("anthropic", "https://api.anthropic.com", "claude-sonnet-4-5", usage)
    cached = Usage(input_tokens=1000, output_tokens=100, cached_tokens=900)
    cheaper = known_price("anthropic", "https://api.anthropic.com", "claude-sonnet-4-5", cached)
    assert plain is not None
    assert cheaper is not None
    assert 0 < cheaper < plain
    assert known_price("anthropic", "http://127.0.0.1:1", "claude-sonnet-4-5", usage) == plain
    assert known_price("openai", "http://127.0.0.1:1", "no-such-model", usage) is None


async def test_price_is_not_known_without_genai_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `genai_prices` and a price function, the cost is None, and a cost limit's error has the install line."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    llm = ScriptedLLM(lambda call: step())
    async with MiniAgents() as run:
        await llm.agent(model="gpt-4o").trigger("q")
        assert run.usage.cost is None
        with pytest.raises(PriceUnknownError, match=re.escape(install_line("prices"))):
            await llm.agent(model="gpt-4o").trigger("q", limits=Limits(cost=1))


async def test_prices_are_imported_when_a_program_asks_for_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request does not import `genai_prices`; reading `usage.cost` after it does."""
    asked: list[str] = []

    class _Finder:
        @staticmethod
        def find_spec(name: str, path: Any, target: Any = None) -> None:
            asked.append(name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "genai_prices"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Finder, *sys.meta_path])
    async with MiniAgents() as run:
        await ScriptedLLM([step()]).agent(model="gpt-4o").trigger("q")
        assert run.usage.requests == 1
        assert "genai_prices" not in asked
        _ = run.usage.cost
        assert "genai_prices" in asked


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_cost_limit_takes_a_price_by_the_total_of_tokens(api: Any) -> None:
    """A price function that calculates with the numbers of a usage prices requests under a limit of the cost."""

    def by_total(model: str, usage: Usage) -> float:
        numbers: Any = usage
        return float(
            0.01 * numbers.total_tokens * (numbers.input_tokens / (numbers.total_tokens - numbers.output_tokens))
        )

    llm = ScriptedLLM([step(), step()])
    async with MiniAgents(price=by_total, limits=Limits(cost=1)) as run:
        for _ in range(2):
            await llm.agent(api=api).trigger("q")
        assert run.usage.cost == pytest.approx(0.3)


FAILED = "your price function failed for the model 'm': ZeroDivisionError: oops"


def fails_for_answers(model: str, usage: Usage) -> float:
    """Return a price before an answer, and fail for the usage of an answer."""
    if usage.raw is not None:
        raise ZeroDivisionError("oops")
    return 0.0


async def test_error_of_the_price_function_stands_in_the_totals(caplog: pytest.LogCaptureFixture) -> None:
    """If the price function fails for an answer, its error stands in the log and in the text of all totals."""
    async with MiniAgents(price=fails_for_answers) as run:
        await model([step()]).trigger("q")
        totals = [run.usage, run.usage.copy(), run.usage.by_agent["MODEL"]]
        run.usage.add_row(("FAR",), json.loads(json.dumps(run.usage.rows()[0][1])))
        totals.append(run.usage.by_agent["FAR"])
    assert all(each.cost is None and FAILED in str(each) for each in totals)
    assert FAILED in caplog.text


async def test_error_of_the_price_function_stands_in_the_error_of_a_cost_limit() -> None:
    """If the price function fails, before a request or for an earlier answer, the cost limit's error says why."""

    def fails(model: str, usage: Usage) -> float:
        raise ZeroDivisionError("oops")

    for own, answered in ((fails, 0), (fails_for_answers, 1)):
        llm = ScriptedLLM([step(), step()])
        async with MiniAgents(price=own, limits=Limits(cost=1)):
            with pytest.raises(PriceUnknownError, match=re.escape(FAILED)) as caught:
                for _ in range(2):
                    await llm.agent(model="m").trigger("q")
        assert len(llm.calls) == answered
        assert "Install" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "own", "advice"),
    [
        ("no-such-model", None, "The package genai-prices has no price"),
        ("scripted-model", None, '`agent(model="gpt-5.4-mini")`'),
        ("m", lambda model, usage: None, "Let the function of MiniAgents(price=) return a number"),
        ("m", lambda model, usage: {}[model], "Let the function of MiniAgents(price=) return a number"),
    ],
    ids=["other", "scripted", "none", "lookup"],
)
async def test_advice_for_an_unknown_price_is_no_installation_that_is_there(name: str, own: Any, advice: str) -> None:
    """With genai-prices or a price function, the error of a cost limit says to give a price, not to install."""
    pytest.importorskip("genai_prices")
    agent = ScriptedLLM([step()]).agent() if name == "scripted-model" else ScriptedLLM([step()]).agent(model=name)
    async with MiniAgents(price=own, limits=Limits(cost=1)):
        with pytest.raises(PriceUnknownError, match=re.escape(f"the price of the model {name!r}")) as caught:
            await agent.trigger("q")
    assert advice in str(caught.value)
    assert "Install" not in str(caught.value)


async def test_scripted_model_has_the_price_of_the_model_that_it_is_named_after() -> None:
    """A scripted model with the name of a known model works under a limit of the cost, as its error advises."""
    pytest.importorskip("genai_prices")
    async with MiniAgents(limits=Limits(cost=1)) as run:
        await ScriptedLLM([step()]).agent(model="gpt-5.4-mini").trigger("q")
        assert run.usage.cost


# --- bad input


@pytest.mark.parametrize("name", ["requests", "input_tokens", "output_tokens", "cost"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.nan, ValueError), (True, TypeError), ("5", TypeError), (1j, TypeError)],
)
def test_limits_refuse_what_is_no_limit(name: str, value: Any, error: type[Exception]) -> None:
    """A limit that is negative, NaN, a bool or no number is refused at creation, with its name."""
    with pytest.raises(error, match=name):
        Limits(**{name: value})


def test_limits_refuse_fractions_of_requests_and_positional_arguments() -> None:
    """`Limits` refuses a fraction of a request and a positional argument, and takes an infinite cost."""
    with pytest.raises(TypeError, match="requests"):
        Limits(requests=1.5)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError):
        Limits(1)  # type: ignore[call-arg]  # the mistake
    assert Limits(cost=math.inf).cost == math.inf


async def test_run_and_call_refuse_limits_of_another_type() -> None:
    """`limits` that are no `Limits`, and a price that is no function, are refused where they are given."""
    with pytest.raises(TypeError, match="Limits"):
        MiniAgents(limits=5)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match="price"):
        MiniAgents(price=0.5)  # type: ignore[arg-type]  # the mistake
    agent = model(["hi"])
    async with MiniAgents():
        for wrong in ({"requests": 1}, 5):
            with pytest.raises(TypeError, match="Limits"):
                agent.trigger("q", limits=wrong)
            with pytest.raises(TypeError, match="Limits"):
                agent.initiate_call("q", limits=wrong)  # type: ignore[arg-type]  # the mistake
