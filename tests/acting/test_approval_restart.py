"""Approvals that outlive a process: stored questions and decisions, kills at every place, and cancellations."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from prompt_rules import check_prompt
from scripted_loops import agent_of, store_while_cancelled

from miniagents import (
    Approval,
    ChatHistory,
    InMemoryChatHistory,
    InteractionContext,
    MiniAgents,
    PendingApproval,
    PromiseCancelledError,
    ToolMessage,
    UserMessage,
    miniagent,
    tool,
)
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm._prompts import chat_prompt, messages_for_model
from miniagents_testing import ScriptedLLM
from miniagents_testing._cancelling import cancel_at_every_step
from miniagents_testing._script import Step

if TYPE_CHECKING:
    from pathlib import Path

    from miniagents import Message
    from miniagents_testing._cancelling import Trial
    from tests.conftest import Effort

PROGRAM = '''
import asyncio, sys
from pathlib import Path
from miniagents import MiniAgents, InteractionContext, PendingApproval, UserMessage, miniagent, tool
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents_testing import ScriptedLLM, Step

folder, command = Path(sys.argv[1]), sys.argv[2]
history = ChatHistoryMD(folder / "chat.md")

async def hang(word):
    print(word, flush=True)
    await asyncio.sleep(3600)

@miniagent
async def pay(ctx: InteractionContext, amount: int):
    """Pay an amount."""
    with open(folder / "ledger", "a") as ledger:
        print(ctx.tool_call.hash_key, amount, file=ledger)
    if command == "grant":
        await hang("PAID")
    ctx.reply(f"paid {amount}")

@miniagent
async def approver(ctx: InteractionContext):
    """Leaves the decision to a later process."""

def script(call):
    if call.tool_results:
        return "; ".join(map(str, call.tool_results))
    return Step(tool_calls=[("pay", {"amount": 7})])

async def amain():
    async with MiniAgents():
        agent = ScriptedLLM(script).agent(tools=[tool(pay, approve=approver)])
        if command == "ask":
            await history.aappend(UserMessage("Pay 7!"))
        if command == "grant" or command == "grant again":
            question = next(each for each in await history.aload_chat_history() if isinstance(each, PendingApproval))
            await history.aappend(question.grant())
        await history.aappend(agent.trigger(await history.aload_chat_history()))
        print(repr(str((await history.aload_chat_history())[-1])), flush=True)
        await hang("STORED")

asyncio.run(amain())
'''


def run_until(folder: Path, command: str, word: str) -> str:
    """Run the program in a process of its own, kill the process once it prints a word, and return its output."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        printed = ""
        while word not in printed:
            line = process.stdout.readline()
            assert line, f"the program ended before it printed {word!r}, after {printed!r}"
            printed += line
        return printed
    finally:
        process.kill()
        process.communicate()


def test_approval_goes_on_in_other_processes(tmp_path: Path) -> None:
    """A question of a killed process is answered in a second, which is killed while the tool runs; a third goes on.

    The tool gets the same idempotency key in both runs. Once the result is stored, the same approval does nothing, also
    when the model makes a call with the same id and the same arguments again.
    """
    assert "Needs approval: pay(amount=7)" in run_until(tmp_path, "ask", "STORED")
    assert not (tmp_path / "ledger").exists()
    run_until(tmp_path, "grant", "PAID")
    assert "'paid 7'" in run_until(tmp_path, "go on", "STORED")
    assert "Needs approval: pay(amount=7)" in run_until(tmp_path, "grant again", "STORED")
    ledger = (tmp_path / "ledger").read_text().splitlines()
    assert len(ledger) == 2
    assert len(set(ledger)) == 1
    key, amount = ledger[0].split()
    assert amount == "7"
    stored = asyncio.run(ChatHistoryMD(tmp_path / "chat.md").aload_chat_history())
    assert {each.call_hash_key for each in stored if isinstance(each, Approval)} == {key}
    assert [str(each) for each in stored if isinstance(each, ToolMessage)] == ["paid 7"]


@miniagent
async def silent(ctx: InteractionContext) -> None:
    """Reads the question and replies nothing."""
    await ctx.message_promises


class Files:
    """Tools of which one deletes files and needs an approval, and a record of what was deleted."""

    def __init__(self, approver: Any = silent) -> None:
        self.deleted: list[str] = []

        async def delete(path: str) -> str:
            """Delete a file."""
            await asyncio.sleep(0)
            self.deleted.append(path)
            return f"deleted {path}"

        self.shown = 0

        async def show() -> str:
            """Show all files."""
            await asyncio.sleep(0)
            self.shown += 1
            return "a b"

        self.tools: list[Any] = [tool(delete, approve=approver), show]


def script() -> list[Any]:
    """Return answers that delete two files, one after the other."""
    return [
        Step("Well.", tool_calls=[("delete", {"path": "a"}), ("show", {})]),
        Step(tool_calls=[("delete", {"path": "b"})]),
        "done",
    ]


async def store_whole_conversation(api: Any, path: Path) -> None:
    """Store a conversation in which one call was granted and another refused."""
    files = Files()
    agent = ScriptedLLM(script()).agent(api=api, tools=files.tools)
    history = ChatHistoryMD(path)
    async with MiniAgents():
        await history.aappend(UserMessage("Hi"))
        for decide in (PendingApproval.grant, PendingApproval.refuse, None):
            await history.aappend(agent.trigger(await history.aload_chat_history()))
            if decide is not None:
                question = (await history.aload_chat_history())[-1]
                assert isinstance(question, PendingApproval)
                await history.aappend(decide(question))
    assert files.deleted == ["a"]


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_history_of_a_killed_process_runs_what_was_approved_and_nothing_else(api: Any, tmp_path: Path) -> None:
    """Wherever a kill truncates a history, an approved call without a result runs once, and no other call does."""
    await store_whole_conversation(api, tmp_path / "whole.md")
    data = (tmp_path / "whole.md").read_bytes()
    ends = {match.end() for match in re.finditer(rb"<!-- /miniagents -->\n", data)}
    assert len(ends) == 11
    seen = set()
    for length in sorted({*ends, *range(0, len(data), 53)}):
        cut = ChatHistoryMD(tmp_path / f"{length}.md")
        cut.path.write_bytes(data[:length])
        messages = await cut.aload_chat_history()
        whole = [each for each in messages if not getattr(each, "interrupted", False)]
        granted = any(isinstance(each, Approval) and each.granted for each in messages)
        has_result = any(str(each) == "deleted a" for each in whole)
        files = Files()
        llm = ScriptedLLM(lambda call: "Let us go on.")
        async with MiniAgents():
            await llm.agent(api=api, tools=files.tools).trigger([UserMessage("Hi"), *messages])
        assert files.deleted == (["a"] if granted and not has_result else []), length
        seen.add((granted, has_result))
        for call in llm.calls:
            request = json.loads(json.dumps(call.request, default=dict))
            check_prompt(api, request.get("messages") or request["input"])
    assert seen == {(False, False), (True, False), (True, True)}


# --- cancellations


async def _run_with_waiting_approver(
    trial: Trial, victim: str, history: ChatHistory, decides: bool, api: str = "scripted"
) -> None:
    """Store the replies of a tool loop whose approver takes its time, and check what is left after a cancellation."""
    working: set[str] = set()

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        working.add("approver")
        try:
            (question,) = await ctx.message_promises
            assert isinstance(question, PendingApproval)
            await asyncio.sleep(0.05 if "b" in question.call.arguments else 0.01)
            if decides:
                ctx.reply(question.grant())
            await asyncio.sleep(0.01)
        finally:
            working.discard("approver")

    trial.must_close("the approver", lambda: not working)
    files = Files(approver)
    calls: list[Any] = [("delete", {"path": "a"}), ("show", {}), ("delete", {"path": "b"}), ("show", {})]
    agent = agent_of(ScriptedLLM([Step("Well.", tool_calls=calls), "done"]), api, tools=files.tools)
    effects: list[str] = []

    def note_effects() -> None:
        """Note what the tools have done until now."""
        effects.extend([*(f"deleted {path}" for path in files.deleted), *["a b"] * files.shown])

    try:
        await store_while_cancelled(trial, victim, agent, history, note_effects)
    finally:
        stored = list(await history.aload_chat_history())
        _check(stored, files, decides)
        kept = Counter(map(str, stored))
        assert not Counter(effects) - kept, f"the history has forgotten {Counter(effects) - kept}"


def _check(stored: list[Message], files: Files, decides: bool) -> None:
    """Check that no call ran twice or without an approval, and that the stored messages give a right prompt."""
    assert len(set(files.deleted)) == len(files.deleted)
    assert decides or not files.deleted
    check_prompt("chat", chat_prompt(messages_for_model([UserMessage("Hi"), *stored], "AGENT")))


@pytest.mark.parametrize("decides", [True, False])
@pytest.mark.parametrize("victim", ["replies", "storing", "run"])
def test_waiting_approver_ends_when_its_loop_is_cancelled_at_any_step(
    victim: str, decides: bool, effort: Effort
) -> None:
    """Whenever a tool loop is cancelled, its approvers end, no call has run unapproved, and no effect is forgotten."""

    async def scenario(trial: Trial) -> None:
        await _run_with_waiting_approver(trial, victim, InMemoryChatHistory(), decides)

    sample = effort(25, ci=100, nightly=None)
    assert cancel_at_every_step(scenario, seeds=[None, 1, 2, 3], sample=sample) > 10


@pytest.mark.parametrize("api", ["responses", "messages"])
@pytest.mark.parametrize("victim", ["replies", "storing", "run"])
def test_waiting_approver_over_an_sdk_ends_when_its_loop_is_cancelled_at_any_step(
    victim: str, api: str, effort: Effort
) -> None:
    """If a tool loop over an SDK's client is cancelled at any step, its approver ends, and no effect is forgotten."""

    async def scenario(trial: Trial) -> None:
        await _run_with_waiting_approver(trial, victim, InMemoryChatHistory(), True, api)

    assert cancel_at_every_step(scenario, seeds=[None, 1], sample=effort(25, ci=100, nightly=None)) > 10


@pytest.mark.parametrize("victim", ["replies", "run"])
def test_resumed_call_ends_when_its_loop_is_cancelled_at_any_step(victim: str, effort: Effort) -> None:
    """If a run that goes on after an approval is cancelled at any step, the call ends, and ran at most once."""

    async def scenario(trial: Trial) -> None:
        files = Files()
        llm = ScriptedLLM(script())
        agent = llm.agent(tools=files.tools)
        try:
            async with MiniAgents():
                first = await agent.trigger("Hi")
                question = first[-1]
                assert isinstance(question, PendingApproval)
                replies = agent.trigger(["Hi", *first, question.grant()])
                if victim == "replies":
                    trial.victim(replies)
                async for promise in replies:
                    await asyncio.wait([asyncio.ensure_future(_ended(promise))])
        finally:
            assert files.deleted in ([], ["a"])

    assert cancel_at_every_step(scenario, seeds=[None, 1], sample=effort(25, ci=100, nightly=None)) > 10


async def _ended(promise: Any) -> None:
    """Wait for the end of a message that may be cancelled."""
    try:
        await promise
    except PromiseCancelledError:
        return
