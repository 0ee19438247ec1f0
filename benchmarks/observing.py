"""Cost of observers: agent calls and tokens without an observer, with one, and with spans of OpenTelemetry.

The seam is the code of `InteractionContext.start` that asks for observers; some rows compare with a build without it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.calls import HELLO, echo
from benchmarks.measure import Plan, Side, Table, main
from miniagents import InteractionContext, MessageSequencePromise, MiniAgents, miniagent
from miniagents.ext.opentelemetry import AGENT_DESCRIPTION, AGENT_NAME, OPERATION_NAME, trace_agents
from miniagents_testing import ScriptedLLM, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType

    from opentelemetry.trace import Tracer

    from miniagents import MiniAgent
    from miniagents.observing import Observer, Operation

_UNIT = "us a call"


class _Dropping(SpanExporter):
    """Exporter that drops all spans."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Drop the spans."""
        return SpanExportResult.SUCCESS


def ignore(operation: Operation) -> AbstractContextManager[None]:
    """Observe an operation, and do nothing."""
    return nullcontext()


def take_tokens(operation: Operation) -> AbstractContextManager[None]:
    """Observe an operation, and keep its tokens."""
    tokens: list[str] = []
    operation.on_token = tokens.append
    return nullcontext()


@contextmanager
def without_seam() -> Iterator[None]:
    """Run a block with an `InteractionContext.start` that lacks the lines which look for observers."""

    def start(self: InteractionContext, start_soon: bool | None) -> MessageSequencePromise:
        replies = self._replies
        assert replies is not None
        promise = MessageSequencePromise.of_cell(replies)
        alias = self.this_agent.alias
        self.task_name = f"{alias}#{next(self.run_context.call_numbers[alias])}"
        replies.set_work(self._run, start_soon)
        return promise

    with patch.object(InteractionContext, "start", start):
        yield


def agent_with_a_span(tracer: Tracer) -> MiniAgent[Any]:
    """Return an agent that replies its messages inside of a span, with the attributes that ours has."""
    attributes = {OPERATION_NAME: "invoke_agent", AGENT_NAME: "ECHO", AGENT_DESCRIPTION: echo.description or ""}

    @miniagent(alias="ECHO")
    async def spanned(ctx: InteractionContext) -> None:
        span = tracer.start_span("invoke_agent ECHO", attributes=attributes)
        token = context.attach(trace.set_span_in_context(span))
        try:
            ctx.reply(ctx.message_promises)
        finally:
            context.detach(token)
            span.end()

    return spanned


def calls(count: int, *observers: Observer, agent: MiniAgent[Any] = echo) -> Side:
    """Return a side that makes agent calls one after the other, in a run with these observers."""

    async def work() -> None:
        for _ in range(count):
            await agent.trigger(HELLO)

    async def side() -> None:
        async with MiniAgents(observers=observers):
            await work()

    return side


def calls_without_seam(count: int) -> Side:
    """Return a side that makes agent calls one after the other in a build without the seam."""
    work = calls(count)

    async def side() -> None:
        with without_seam():
            await work()

    return side


def answer(tokens: int, *observers: Observer) -> Side:
    """Return a side that reads an answer of a scripted model, in a run with these observers."""
    agent = ScriptedLLM(lambda call: Step(["token "] * tokens)).agent()

    async def side() -> None:
        async with MiniAgents(observers=observers):
            async for _ in agent.trigger("Hi").as_single_text_promise():
                pass

    return side


async def instructions(side: Side) -> int:
    """Return the number of bytecode instructions of Python that a side runs; it is the same in each run."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return note

    await side()
    before = sys.gettrace()
    sys.settrace(note)
    try:
        await side()
    finally:
        sys.settrace(before)
    return count


async def benchmark(plan: Plan) -> Table:
    """Measure calls and tokens without observers, with one that does nothing, and with spans."""
    table = Table("Observers")
    size = plan.sized(2_000)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_Dropping()))
    await table.compare(
        "no observer",
        calls_without_seam(size),
        calls(size),
        plan,
        units=size,
        unit=_UNIT,
        base_name="a build without the seam",
        pairs=3,
        goal=1.03,
    )
    traced = trace_agents(tracer_provider=provider)
    for name, observer, goal in (
        ("an observer that does nothing", ignore, None),
        ("spans, the API alone", trace_agents(), 1.1),
        ("spans, with the SDK", traced, 2.5),
    ):
        sides = calls(size), calls(size, observer)
        await table.compare(name, *sides, plan, units=size, unit=_UNIT, base_name="no observer", goal=goal)
    by_hand = calls(size, agent=agent_with_a_span(provider.get_tracer("benchmarks")))
    await table.compare(
        "spans, with the SDK",
        by_hand,
        calls(size, traced),
        plan,
        units=size,
        unit=_UNIT,
        base_name="a span by hand in the agent",
        goal=1.3,
    )
    tokens = plan.sized(10_000)
    for name, observer in (
        ("tokens, an observer that does nothing", ignore),
        ("tokens, an observer of tokens", take_tokens),
    ):
        await table.compare(name, answer(tokens), answer(tokens, observer), plan, units=tokens, base_name="no observer")
    counted = plan.sized(200)
    few = [await instructions(side) for side in (calls_without_seam(counted), calls(counted))]
    if all(few):  # Python 3.12 and later tell no instructions of functions that run already
        table.facts["instructions of a call without observers, to a build without the seam (goal: <= 1.03)"] = (
            few[1] / few[0]
        )
    return table


if __name__ == "__main__":
    main(benchmark)
