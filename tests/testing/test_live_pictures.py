"""`picture`: pictures of live runs."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import InteractionContext, MiniAgents, handoff, miniagent, tool
from miniagents.errors import LLMError
from miniagents.ext.llm.openai import Retry
from miniagents.observing import observe
from miniagents_testing import Failure, Step, create_scripted_agent, run_in_virtual_time
from miniagents_testing.pictures import RunRecorder, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from miniagents_testing._pictures import Run

SECOND = 100_000


def record(amain: Callable[[], Coroutine[Any, Any, None]], times: int = 1) -> Run:
    """Run a program `times` times in virtual time, and return all of it as one recorded run."""
    recorder = RunRecorder()
    with observe(recorder):
        for _ in range(times):
            run_in_virtual_time(amain())
    return recorder.run()


def test_picture_has_requests_with_the_times_of_their_tokens() -> None:
    """Requests of parallel agents have their lanes, prompts, texts, tokens and ends, in virtual time."""
    writer = create_scripted_agent(Step("one two three", gap=1), alias="WRITER")
    critic = create_scripted_agent(Step("good", gap=2, reasoning="Hm."), alias="CRITIC")

    async def amain() -> None:
        async with MiniAgents():
            await asyncio.gather(writer.trigger("Write!"), critic.trigger("Judge!"))

    run = record(amain)
    first, second = run.requests
    assert [(each.lane, each.target, each.ending, each.complete) for each in run.requests] == [
        ("WRITER", "scripted-model", "stop", True),
        ("CRITIC", "scripted-model", "stop", True),
    ]
    assert [(turn.role, turn.text) for turn in (*first.turns, *second.turns)] == [
        ("user", "Write!"),
        ("user", "Judge!"),
    ]
    assert [part.text for part in first.parts] == ["one two three"]
    assert [(token.moment, token.length) for token in first.tokens] == [(0, 3), (SECOND, 7), (2 * SECOND, 13)]
    assert [(part.kind, part.text) for part in second.parts] == [("reasoning", "thinking: Hm."), ("text", "good")]
    assert (first.start, second.start) == (0, 0)
    assert first.end >= 2 * SECOND


def test_picture_has_calls_of_tools_with_their_failures() -> None:
    """A picture has each tool call with its agent, its request, its duration, and its failure if it failed."""

    @tool
    async def look_up(words: str) -> str:
        """Look up words."""
        await asyncio.sleep(30)
        if words == "bad":
            raise ValueError("not found")
        return words

    calls = [("look_up", {"words": "good"}), ("look_up", {"words": "bad"})]
    agent = create_scripted_agent([Step(tool_calls=calls, gap=1), "Done"], alias="WRITER", tools=[look_up])

    async def amain() -> None:
        async with MiniAgents():
            await agent.trigger("Go")

    run = record(amain)
    first, second = run.requests
    assert [(call.name, call.lane, call.request, call.end - call.start) for call in run.tools] == [
        ("look_up", "WRITER", 1, 30 * SECOND)
    ] * 2
    assert sorted(call.failure for call in run.tools) == ["", "ValueError: not found"]
    assert [part.text for part in first.parts] == ['→ look_up {"words": "good"}', '→ look_up {"words": "bad"}']
    assert first.end <= run.tools[0].start
    assert run.tools[0].end <= second.start
    assert run.pauses == ()
    assert [turn.role for turn in second.turns] == ["user", "tool", "tool"]
    assert second.new == {1, 2}


def test_picture_says_how_a_request_failed() -> None:
    """A picture says which error ended a request, that its reader was cancelled, or how it ended after a retry."""
    broken = create_scripted_agent(Step("one two three", after=1, then="reset"), alias="BROKEN")
    refused = create_scripted_agent(Failure(401, "no such key"), alias="REFUSED")
    again = create_scripted_agent([Failure(503), "fine"], alias="AGAIN", retry=Retry())
    slow = create_scripted_agent(Step("one two three", gap=1), alias="SLOW")

    async def amain() -> None:
        async with MiniAgents():
            for agent in (broken, refused):
                with pytest.raises(LLMError):
                    await agent.trigger("Go")
            await again.trigger("Go")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await slow.trigger("Go")

    run = record(amain)
    endings = {each.lane: (each.complete, each.ending, [part.text for part in each.parts]) for each in run.requests}
    assert endings["BROKEN"][0] is False
    assert endings["BROKEN"][1].startswith("StreamBrokenError: ")
    assert endings["BROKEN"][2] == ["one"]
    assert "no such key" in endings["REFUSED"][1]
    assert endings["AGAIN"][:2] == (True, "stop")
    assert endings["AGAIN"][2][-1] == "fine"
    assert endings["SLOW"] == (False, "cancelled by its reader, before it was whole", ["one two"])


def test_picture_shows_runs_of_several_event_loops_one_after_the_other() -> None:
    """Two runs, each with an event loop of its own, follow each other on one time line."""
    agent = create_scripted_agent([Step("one two", gap=1)] * 2, alias="WRITER")

    async def amain() -> None:
        async with MiniAgents():
            await agent.trigger("Go")

    first, second = record(amain, times=2).requests
    assert 0 <= first.start < first.end <= second.start < second.end


@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_picture_is_written_also_after_a_failure(error: type[BaseException] | None, tmp_path: Path) -> None:
    """`picture` writes the page at its end, into a new folder, also if the program fails or is interrupted."""
    page = tmp_path / "new" / "run.html"
    writer = create_scripted_agent("The answer", alias="WRITER")

    async def amain() -> None:
        async with MiniAgents():
            await writer.trigger("Go")
            if error is not None:
                raise error

    with nullcontext() if error is None else pytest.raises(error), picture(page):
        run_in_virtual_time(amain())
    text = page.read_text(encoding="utf-8")
    assert "<h1>run.html</h1>" in text
    assert "The answer" in text


def test_picture_has_the_given_title(tmp_path: Path) -> None:
    """The heading of a page is the given title; the page of a run without requests says that there are none."""
    with picture(tmp_path / "run.html", title="My run"):
        pass
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<h1>My run</h1>" in text
    assert "There is no request." in text


def test_picture_does_not_change_the_run(tmp_path: Path) -> None:
    """Replies, and the error of a run, are the same within `picture` and without it."""

    async def amain() -> list[str]:
        async with MiniAgents():
            agent = create_scripted_agent([Step("one two", gap=0.1), Step("x", then="reset")], alias="WRITER")
            found = [str(await agent.trigger("Go"))]
            with pytest.raises(LLMError) as raised:
                await agent.trigger("Go")
            return [*found, str(raised.value)]

    plain = run_in_virtual_time(amain())
    with picture(tmp_path / "run.html"):
        assert run_in_virtual_time(amain()) == plain


def test_picture_names_the_agent_that_a_handoff_went_to() -> None:
    """The model agents of a handoff have lanes of their own, `TRIAGE` and `TRIAGE/BILLING`."""
    billing = create_scripted_agent("Refunded.", alias="BILLING", description="Refunds.")
    script = [Step(tool_calls=[("handoff_to_billing", {})])]
    triage = create_scripted_agent(script, alias="TRIAGE", tools=[handoff(billing)])

    @miniagent
    async def desk(ctx: InteractionContext) -> None:
        ctx.reply(triage.trigger(ctx.message_promises))

    async def amain() -> None:
        async with MiniAgents():
            await desk.trigger("Refund!")

    assert record(amain).lanes == ("TRIAGE", "TRIAGE/BILLING")
