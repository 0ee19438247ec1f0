"""Reports of failing schedules: agents, their calls, and lines that race, over models, cassettes and faults alike."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ScriptedLLM, Step, faults, search_schedules
from miniagents_testing._cancelling import cancel_at_every_step
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.cassette import Interaction, ReplayTransport
from miniagents_testing.errors import UncleanCancellationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from miniagents_testing._cancelling import Trial

    Scenario = Callable[[], Coroutine[Any, Any, None]]


def report_of(scenario: Scenario, **options: Any) -> list[str]:
    """Return the lines of the report of a search that fails with an `AssertionError`."""
    with pytest.raises(AssertionError) as caught:
        search_schedules(scenario, **options)
    return "\n".join(caught.value.__notes__).splitlines()


def line_of(text: str) -> str:
    """Return this file and the number of its first line that ends with a text."""
    source = Path(__file__).read_text(encoding="utf-8")
    numbers = [number for number, line in enumerate(source.splitlines(), 1) if line.endswith(text)]
    number = numbers[0]
    return f"test_interleaving.py:{number}"


class Board:
    """Text on which several agents write: each reads it, asks a model, and writes what it has read and the answer."""

    def __init__(self) -> None:
        self.text = ""

    async def add(self, writer: Any, question: str) -> None:
        """Append the answer of a model to the text, which loses what another agent appends meanwhile."""
        seen = self.text  # the reading
        answer = await writer.trigger(question)
        self.text = seen + str(answer[0])  # the writing


def board_of(model: Callable[[], Any], seconds: float = 1) -> Scenario:
    """Return a scenario in which two calls of an agent add to a board, the second one after the first in plain order.

    The answer of the model takes so many virtual seconds.
    """

    @miniagent
    async def author(ctx: InteractionContext, board: Board, writer: Any, late: bool) -> None:
        if late:
            await asyncio.sleep(seconds)  # as long as the answer for the first call takes
            for _ in range(100):
                await asyncio.sleep(0)
        await board.add(writer, "Write!")

    async def scenario() -> None:
        board, writer = Board(), model()
        async with MiniAgents():
            for late in (False, True):
                author.trigger(board=board, writer=writer, late=late)
        assert len(board.text) == 2

    return scenario


def check_report_of_board(report: list[str]) -> None:
    """Check that a report names the reading and the writing line, and the calls of the agent."""
    text = "\n".join(report)
    assert "Two lines race for self.text:" in report
    start = report.index("Two lines race for self.text:")
    assert re.search(rf"{line_of('# the reading')} .*AUTHOR#\d, before it (was held back|waited)", report[start + 1]), (
        text
    )
    assert re.search(rf"{line_of('# the writing')} .*AUTHOR#\d, meanwhile", report[start + 2]), text
    assert {"AUTHOR#1", "AUTHOR#2"} <= set(re.findall(r"AUTHOR#\d", text))
    assert len(report) <= 40
    assert any("was held back" in line for line in report)


def scripted_model() -> Any:
    """Return an agent of a scripted model."""
    return ScriptedLLM([Step("a", first_wait=1), Step("b", first_wait=1)]).agent()


def model_of_sdk() -> Any:
    """Return an agent on OpenAI's client, which gets the script as bytes."""
    llm = ScriptedLLM([Step("a", first_wait=1), Step("b", first_wait=1)])
    return create_openai_agent("gpt-4o", async_client=llm.openai_client())


def model_with_faults() -> Any:
    """Return an agent on OpenAI's client whose first stream repeats an event."""
    transport = faults.FaultyTransport(
        ScriptedLLM([Step("a", first_wait=1), Step("b", first_wait=1)]).transport(), faults.duplicate(at=1)
    )
    client = openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
    return create_openai_agent("gpt-4o", async_client=client)


def recorded_model() -> Any:
    """Return an agent that posts the question by httpx2, and gets the answers of a cassette."""
    url = "https://model.test/answer"
    answers = [Interaction("POST", url, b"Write!", ResponseStream((Chunk(0, text),))) for text in (b"a", b"b")]
    client = httpx2.AsyncClient(transport=ReplayTransport(answers))

    @miniagent
    async def recorded(ctx: InteractionContext) -> None:
        [question] = await ctx.message_promises
        ctx.reply((await client.post(url, content=str(question))).text)

    return recorded


@pytest.mark.parametrize(
    ("model", "seconds"),
    [(scripted_model, 1), (model_of_sdk, 1), (model_with_faults, 1), (recorded_model, 0)],
    ids=["script", "script of the SDK", "faults", "cassette"],
)
def test_search_explains_a_race_of_agents(model: Callable[[], Any], seconds: float) -> None:
    """`search_schedules` finds an update that two calls of an agent lose, over any model; its report names them."""
    check_report_of_board(report_of(board_of(model, seconds)))


async def queue_of_one() -> None:
    """Lose an item: the consumer asks if there is one, and takes it after another consumer has."""
    items: asyncio.Queue[int] = asyncio.Queue()
    items.put_nowait(1)

    async def consume(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        if not items.empty():
            await asyncio.sleep(0)
            items.get_nowait()

    await asyncio.gather(consume(0), consume(2))


def test_report_of_plain_asyncio_has_a_line_for_each_switch() -> None:
    """A report names asyncio tasks by their functions; each row has the line of code, and how the task went on."""
    with pytest.raises(asyncio.QueueEmpty) as caught:
        search_schedules(queue_of_one)
    (report,) = caught.value.__notes__
    place = line_of("items.get_nowait()")
    lines = report.splitlines()
    rows = lines[lines.index("Order of the steps, one line a switch:") + 1 : -2]
    assert [row.split()[1] for row in rows] == [
        *("queue_of_one", "consume#1", "consume#2", "consume#1", "queue_of_one"),
    ]
    assert [row.partition("<- ")[2] for row in rows] == [
        *("", "then held back", "ends", "was held back, raises QueueEmpty", "raises QueueEmpty"),
    ]
    assert f"{place}  items.get_nowait()" in rows[3]
    assert "Two lines race for items:" in lines


def test_long_report_keeps_the_rows_that_matter() -> None:
    """A report of hundreds of switches has at most 40 lines, among them the lines that race and a step held back."""

    async def scenario() -> None:
        total = 0

        async def add(turns: int) -> None:
            nonlocal total
            for _ in range(turns):
                await asyncio.sleep(0)
            seen = total  # the long reading
            await asyncio.sleep(0)
            total = seen + 1  # the long writing

        async def idle() -> None:
            for _ in range(100):
                await asyncio.sleep(0)

        await asyncio.gather(idle(), add(60), idle(), add(64), idle())
        assert total == 2

    report = report_of(scenario)
    assert len(report) <= 40
    text = "\n".join(report)
    assert re.search(r"^ +\.\.\. \d+ more$", text, re.MULTILINE)
    assert text.count(line_of("# the long reading")) >= 1
    assert text.count(line_of("# the long writing")) >= 1
    assert "held back" in text


def test_report_of_a_failure_without_a_race_has_the_order_of_steps() -> None:
    """A scenario that fails in each order is reported with its steps, without lines that race."""

    async def scenario() -> None:
        await asyncio.sleep(0)
        raise AssertionError

    report = report_of(scenario)
    assert report[1] == "Order of the steps, one line a switch:"
    assert re.fullmatch(
        r" +1 +scenario +test_interleaving.py:\d+ +raise AssertionError  <- raises AssertionError", report[2]
    )


def test_trace_function_of_a_debugger_is_kept() -> None:
    """A trace function, as debuggers set it, is still set after a search that reported a failure."""

    def trace(frame: object, event: str, argument: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        report_of(board_of(recorded_model, 0))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


async def leaks(trial: Trial) -> None:
    """Keep a connection open if the task is cancelled before its `try`."""
    connections: list[str] = []
    trial.must_close("the connection", lambda: not connections)

    async def query() -> None:
        connections.append("open")
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(0)
        finally:
            connections.clear()

    await asyncio.wait([trial.victim(asyncio.create_task(query()))])


def test_report_of_a_cancellation_has_the_order_of_steps() -> None:
    """The report of `cancel_at_every_step` shows the steps, and the cancellation between them."""
    with pytest.raises(UncleanCancellationError) as caught:
        cancel_at_every_step(leaks)
    lines = str(caught.value).splitlines()
    rows = lines[lines.index("Order of the steps, one line a switch:") + 1 : -1]
    texts = [row.split(maxsplit=1)[1] for row in rows]
    (cancellation,) = [index for index, text in enumerate(texts) if text == "query#1 is cancelled from outside"]
    assert [text.split()[0] for text in texts[cancellation - 1 : cancellation + 2]] == ["query#1"] * 3
    assert texts[cancellation + 1].endswith("<- is cancelled")
    assert re.fullmatch(r"To see it again: cancel_at_every_step\(..., seeds=\[None\], steps=\[\d\]\)", lines[-1])
