"""Tool loops, cancelled at every step: no call is left without a result, none runs twice, no effect is forgotten.

Three calls run in parallel. The victims are the replies, the task that stores them, and the run.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from prompt_rules import check_prompt
from scripted_loops import agent_of, store_while_cancelled

from miniagents import (
    ChatHistory,
    InMemoryChatHistory,
    InteractionContext,
    MiniAgents,
    PromiseCancelledError,
    ToolMessage,
    UserMessage,
    miniagent,
)
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm._prompts import chat_prompt, messages_for_model, messages_prompt, responses_prompt
from miniagents_testing import ScriptedLLM
from miniagents_testing._cancelling import cancel_at_every_step
from miniagents_testing._script import Step

if TYPE_CHECKING:
    from pathlib import Path

    from miniagents import Message
    from miniagents_testing._cancelling import Trial
    from miniagents_testing._script import API, Call
    from tests.conftest import Effort

NAMES = ("Ann", "Bob", "Cy")


def _prompt(api: API, messages: list[Message]) -> list[dict[str, Any]]:
    """Return the prompt that an agent of this API would send after these messages."""
    kept = messages_for_model(messages, "AGENT")
    if api == "messages":
        return messages_prompt(kept)[1]
    return chat_prompt(kept) if api == "chat" else responses_prompt(kept)


class Letters:
    """Tools that send letters, as functions and as an agent, and a record of what they have done."""

    def __init__(self, trial: Trial) -> None:
        self.begun: list[str] = []
        self.sent: list[str] = []
        self.running = 0
        trial.must_close("a tool", lambda: self.running == 0)

        async def send(to: str) -> str:
            """Send a letter."""
            return await self._send(to)

        @miniagent
        async def sender(ctx: InteractionContext, to: str) -> None:
            """Sends a letter."""
            ctx.reply(await self._send(to))

        self.tools: list[Any] = [send, sender]

    async def _send(self, to: str) -> str:
        """Send a letter, which takes some steps and some time."""
        self.begun.append(to)
        self.running += 1
        try:
            for _ in range(len(to)):
                await asyncio.sleep(0)
            await asyncio.sleep(0.01 * len(to))
            self.sent.append(to)
            return f"sent to {to}"
        finally:
            self.running -= 1


async def _run_loop(trial: Trial, kind: str, victim: str, history: ChatHistory, *, by_agent: bool = False) -> None:
    """Store the replies of a tool loop of three calls, cancel the victim at the trial's step, and check the history."""
    letters = Letters(trial)
    api: Any = "chat" if kind == "scripted" else kind
    name = "sender" if by_agent else "send"
    llm = ScriptedLLM([Step("Well.", tool_calls=[(name, {"to": to}) for to in NAMES], cut=9), Step("All sent.")])
    agent = agent_of(llm, kind, tools=letters.tools)
    sent: list[str] = []
    begun: list[str] = []

    def note_effects() -> None:
        """Note which letters were begun and sent until now."""
        begun.extend(letters.begun)
        sent.extend(letters.sent)

    try:
        await store_while_cancelled(trial, victim, agent, history, note_effects)
    finally:
        stored = list(await history.aload_chat_history())
        assert len(letters.begun) == len(set(letters.begun)), "a call ran twice"
        _check(api, begun, sent, stored, by_agent)


def _check(api: API, begun: list[str], sent: list[str], stored: list[Message], by_agent: bool) -> None:
    """Check that the stored messages give a valid prompt, which has the result of each sent letter once."""
    prompt = _prompt(api, [UserMessage("Hi"), *stored])
    check_prompt(api, prompt)
    if begun:
        assert all(name in str(prompt) for name in NAMES), "the prompt has forgotten a call that was started"
    if by_agent:
        return  # the result of an agent comes some steps after its effect
    kept = {str(message) for message in stored if isinstance(message, ToolMessage) and not message.is_error}
    for name in sent:
        assert f"sent to {name}" in kept, f"the history has forgotten the letter to {name}"
        assert str(prompt).count(f"sent to {name}") == 1, f"the prompt has forgotten the letter to {name}"


KINDS = ["chat", "responses", "messages", "scripted"]


@pytest.mark.parametrize("victim", ["replies", "storing", "run"])
@pytest.mark.parametrize("kind", KINDS)
def test_tool_loop_forgets_no_effect_when_cancelled_at_any_step(kind: str, victim: str, effort: Effort) -> None:
    """Whenever a tool loop is cancelled, the next prompt has a result for each call: the real one if its tool ended."""

    async def scenario(trial: Trial) -> None:
        await _run_loop(trial, kind, victim, InMemoryChatHistory())

    sample = effort(8, ci=100, nightly=None)
    assert cancel_at_every_step(scenario, seeds=[None, 1, 2, 3], sample=sample) > 10


@pytest.mark.parametrize("victim", ["replies", "run"])
def test_agents_in_tools_end_when_their_tool_loop_is_cancelled_at_any_step(victim: str, effort: Effort) -> None:
    """Whenever a tool loop is cancelled, the agents that its tools run are cancelled, too."""

    async def scenario(trial: Trial) -> None:
        await _run_loop(trial, "chat", victim, InMemoryChatHistory(), by_agent=True)

    assert cancel_at_every_step(scenario, seeds=[None, 1, 2, 3], sample=effort(8, ci=100, nightly=None)) > 10


@pytest.mark.parametrize("victim", ["replies", "storing", "run"])
def test_markdown_history_forgets_no_effect_when_cancelled_at_any_step(
    victim: str, tmp_path: Path, effort: Effort
) -> None:
    """After a cancelled tool loop, a Markdown history has each ended tool's result, and its prompt one per call."""
    numbers = iter(range(1_000_000))

    async def scenario(trial: Trial) -> None:
        await _run_loop(trial, "scripted", victim, ChatHistoryMD(tmp_path / f"{next(numbers)}.md"))

    assert cancel_at_every_step(scenario, seeds=[None, 1], sample=effort(8, ci=100, nightly=None)) > 10


@pytest.mark.parametrize("out_of_order", [False, True])
@pytest.mark.parametrize("kind", ["chat", "scripted"])
def test_model_stops_when_the_agent_that_replies_its_answers_is_cancelled_at_any_step(
    kind: str, out_of_order: bool, effort: Effort
) -> None:
    """Whenever an agent is cancelled that replies the answers of a model, no request and no tool begins any more."""

    async def scenario(trial: Trial) -> None:
        late: list[str] = []

        def script(call: Call) -> Step:
            """Return an answer with a call for the first requests, and note a request after the cancellation."""
            late.extend(["a request"] * trial.has_cancelled)
            return Step("Well.", tool_calls=[("send", {})]) if call.number < 3 else Step("All sent.")

        async def send() -> str:
            """Send a letter."""
            late.extend(["a tool"] * trial.has_cancelled)
            await asyncio.sleep(0.01)
            return "sent"

        model = agent_of(ScriptedLLM(script), kind, tools=[send])

        @miniagent
        async def inner(ctx: InteractionContext) -> None:
            ctx.reply(passing.trigger(model.trigger(ctx.message_promises)))

        @miniagent
        async def passing(ctx: InteractionContext) -> None:
            ctx.reply(ctx.message_promises)

        @miniagent
        async def app(ctx: InteractionContext) -> None:
            (ctx.reply_out_of_order if out_of_order else ctx.reply)(inner.trigger(ctx.message_promises))

        async with MiniAgents():
            replies = trial.victim(app.trigger("Hi"))
            await asyncio.sleep(1)
        with suppress(PromiseCancelledError):
            await replies
        assert late == []

    assert cancel_at_every_step(scenario, seeds=effort([None], ci=[None], nightly=[None, 1, 2])) > 10
