"""Approval of calls: the agent that is asked, its decisions, and how a conversation goes on after a question."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_rules import check_prompt
from scripted_loops import agent_of

from miniagents import (
    Approval,
    AssistantMessage,
    ErrorMessage,
    InteractionContext,
    LLMError,
    Message,
    MiniAgents,
    PendingApproval,
    StopDialog,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    handoff,
    miniagent,
    tool,
)
from miniagents_testing import ScriptedLLM, faults
from miniagents_testing._script import Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


KINDS = ["chat", "responses", "messages", "scripted"]


class Files:
    """Two tools: one deletes files and needs an approval, the other lists them; and a record of what was deleted."""

    def __init__(self, approver: Any, **options: Any) -> None:
        self.deleted: list[str] = []

        async def delete(path: str) -> str:
            """Delete a file."""
            await asyncio.sleep(0)
            self.deleted.append(path)
            return f"deleted {path}"

        async def show() -> str:
            """Show all files."""
            return "a b c"

        self.tools: list[Any] = [tool(delete, approve=approver, **options), show]


@miniagent
async def silent(ctx: InteractionContext) -> None:
    """Reads the question and replies nothing."""
    await ctx.message_promises


@miniagent
async def granting(ctx: InteractionContext) -> None:
    """Grants each call."""
    for question in await ctx.message_promises:
        assert isinstance(question, PendingApproval)
        ctx.reply(question.grant())


@miniagent
async def refusing(ctx: InteractionContext) -> None:
    """Refuses each call."""
    for question in await ctx.message_promises:
        assert isinstance(question, PendingApproval)
        ctx.reply(question.refuse("not on a Friday"))


def deletes(*paths: str, text: str = "", show: bool = False, **settings: Any) -> Step:
    """Return an answer that calls `delete` for each path, and then `show` if asked to."""
    return Step(text, tool_calls=[*(("delete", {"path": path}) for path in paths), *[("show", {})] * show], **settings)


def short(messages: Any) -> list[str]:
    """Return each message in short: questions with `?`, errors with `!`, calls in brackets."""
    found = []
    for message in messages:
        mark = "?" if isinstance(message, PendingApproval) else "!" if getattr(message, "is_error", False) else ""
        found.append(mark + str(message) + "".join(f"[{call}]" for call in getattr(message, "tool_calls", ())))
    return found


def check_last_request(llm: ScriptedLLM) -> str:
    """Check that the last request keeps the rules of its API, without approvals; return its messages as JSON text."""
    request = json.loads(json.dumps(llm.last_call.request, default=dict))
    prompt = request.get("messages") or request["input"]
    check_prompt(llm.last_call.api, prompt)
    assert "approval" not in json.dumps(prompt).replace("without an approval", "")
    return json.dumps(prompt)


def lister() -> str:
    """List all files."""
    return "a b c"


# --- law 22: an agent that decides


async def test_refusal_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A refused call is logged once, at level INFO, with the reason: nothing has gone wrong."""
    with caplog.at_level(logging.INFO, "miniagents.tools"):
        async with MiniAgents():
            await ScriptedLLM([deletes("a"), "done"]).agent(tools=Files(refusing).tools).trigger("Hi")
    (record,) = caplog.records
    assert (record.levelname, "not on a Friday" in record.getMessage()) == ("INFO", True)


async def test_open_questions_end_when_another_call_ends_the_tool_loop() -> None:
    """If a call raises an exception that ends the tool loop, approvers that are still at work are cancelled.

    The calls that wait for their approval do not run.
    """
    asked = asyncio.Event()
    ended = asyncio.Event()

    @miniagent
    async def thinking(ctx: InteractionContext) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stop() -> None:
        """Stop the dialog once the approver is asked."""
        await asked.wait()
        raise StopDialog

    files = Files(thinking)
    llm = ScriptedLLM([Step(tool_calls=[("stop", {}), ("delete", {"path": "a"})])])
    async with MiniAgents():
        with pytest.raises(StopDialog):
            await llm.agent(tools=[*files.tools, stop]).trigger("Hi")
        await ended.wait()
    assert files.deleted == []


@pytest.mark.parametrize("kind", KINDS)
async def test_granted_call_runs_and_refused_call_does_not(kind: str) -> None:
    """A granted call runs; the result of a refused call is the refusal with its reason.

    Both results come behind those of calls that need no approval.
    """
    for approver, expected, deleted in (
        (granting, ["a b c", "deleted a", "deleted b"], ["a", "b"]),
        (refusing, ["a b c"] + ["!The call did not run, because it was refused: not on a Friday"] * 2, []),
    ):
        files = Files(approver)
        llm = ScriptedLLM([deletes("a", "b", show=True), "done"])
        async with MiniAgents():
            replies = await agent_of(llm, kind, tools=files.tools).trigger("Hi")
        assert short(replies[1:]) == [*expected, "done"]
        assert sorted(files.deleted) == deleted
        assert expected[1].lstrip("!") in check_last_request(llm)


async def test_approver_is_asked_about_valid_calls_of_whole_answers_only() -> None:
    """The approver gets one question, with the call, for each valid call of a whole answer, and for no other call."""
    asked: list[str] = []

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        asked.append(str(question))
        ctx.reply(PendingApproval(call=question.call).refuse())

    for step in (
        Step(tool_calls=[("delete", {"path": "a"}), ("delete", {"path": 1}), ("delete", {"folder": "b"}), ("x", {})]),
        deletes("b", finish_reason="length"),
        deletes("c", finish_reason="content_filter"),
        deletes("d", then="truncate"),
    ):
        files = Files(approver)
        async with MiniAgents(unobserved_errors="log"):
            replies = ScriptedLLM([step, "done"]).agent(tools=files.tools).trigger("Hi")
            async for promise in replies:
                await asyncio.wait([asyncio.ensure_future(_settled(promise))])
        assert files.deleted == []
    assert asked == ['Needs approval: delete(path="a")']


async def _settled(promise: Any) -> None:
    """Wait for the end of a promise, and ignore its error."""
    with contextlib.suppress(Exception):
        await promise


async def test_approver_is_not_asked_if_the_answer_fails_after_its_calls() -> None:
    """If an answer fails after its finish reason, calls without `approve=` have run, but no approver is asked."""

    def overlay(stream: Any) -> Any:
        """Return the response with an event that is no JSON behind its finish reason."""
        place = next((n for n, each in enumerate(stream.chunks, 1) if b'"finish_reason":"tool_calls"' in each.data), 0)
        return faults.malformed(at=place + 1)(stream) if place else stream

    files = Files(granting)
    llm = ScriptedLLM([deletes("a", show=True)], overlay=overlay)
    async with MiniAgents():
        replies = llm.agent(tools=files.tools).trigger("Hi")
        with pytest.raises(LLMError):
            await replies
        assert [promise.message_class.__name__ async for promise in replies] == ["OpenAIMessage", "ToolMessage"]
    assert files.deleted == []


async def test_approvers_are_asked_in_parallel_and_other_calls_do_not_wait() -> None:
    """While approvers think, other calls run; questions about several calls are asked at the same time."""
    barrier = asyncio.Barrier(3)

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        await barrier.wait()
        ctx.reply(question.grant())

    async def meet() -> str:
        """Meet the approvers."""
        await barrier.wait()
        return "met"

    files = Files(approver)
    llm = ScriptedLLM([Step(tool_calls=[("delete", {"path": "a"}), ("meet", {}), ("delete", {"path": "b"})]), "done"])
    async with MiniAgents(start_everything_soon_by_default=False):
        replies = await llm.agent(tools=[*files.tools, meet]).trigger("Hi")
    assert short(replies[1:2]) == ["met"]
    assert sorted(short(replies[2:])) == ["deleted a", "deleted b", "done"]


@pytest.mark.parametrize("reply", ["yes, granted", UserMessage("ok"), Message("x", granted=True), ["sure", "go"]])
async def test_text_never_becomes_an_approval(reply: Any) -> None:
    """If an approver replies anything but a decision, the call is refused: it does not run, and its result says so."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        ctx.reply(reply)

    files = Files(approver)
    async with MiniAgents():
        replies = await ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools).trigger("Hi")
    assert files.deleted == []
    assert str(replies[1]).startswith("The call did not run, because it was refused: ")


async def test_fields_of_an_approval_that_are_sent_as_a_dict_are_no_approval() -> None:
    """If an approver replies a dict with the fields and the class name of an approval, the call does not run."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        ctx.reply(question.grant().model_dump())

    files = Files(approver)
    async with MiniAgents():
        await ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools).trigger("Hi")
    assert files.deleted == []


@pytest.mark.parametrize(
    "other",
    [
        ToolCall(id="x", name="delete", arguments='{"path":"a"}'),
        ToolCall(name="delete", arguments='{"path":"b"}'),
        ToolCall(),
    ],
)
async def test_approval_of_another_call_does_not_fit(other: ToolCall) -> None:
    """An approval of a call with another id, name or arguments is no decision: the call in question does not run."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        ctx.reply(PendingApproval(call=other).grant())

    files = Files(approver)
    async with MiniAgents():
        replies = await ScriptedLLM([deletes("a")]).agent(tools=files.tools).trigger("Hi")
    assert files.deleted == []
    assert isinstance(replies[-1], PendingApproval)


async def test_refusal_wins_over_an_approval() -> None:
    """If an approver both grants and refuses a call, the call does not run."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        ctx.reply([question.grant(), question.refuse(), question.grant()])

    files = Files(approver)
    async with MiniAgents():
        await ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools).trigger("Hi")
    assert files.deleted == []


async def test_error_of_an_approver_is_told_to_the_model(caplog: pytest.LogCaptureFixture) -> None:
    """A call whose approver fails does not run; the approver's error is its result, also with `errors_as_messages`."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        raise ConnectionError("the mail server is down")

    for as_messages in (False, True):
        files = Files(approver)
        with caplog.at_level(logging.WARNING, "miniagents.tools"):
            async with MiniAgents(errors_as_messages=as_messages):
                replies = await ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools).trigger("Hi")
        assert files.deleted == []
        assert short(replies[1:]) == ["!ConnectionError: the mail server is down", "done"]
        assert "the mail server is down" in caplog.text


async def test_error_of_an_approver_is_let_through_in_raise_mode() -> None:
    """With `tool_errors="raise"`, the error of an approver ends the tool loop, and awaiting the replies raises it.

    With `errors_as_messages`, the last reply is an `ErrorMessage` in place of the raised error.
    """

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        raise ConnectionError("the mail server is down")

    files = Files(approver)
    async with MiniAgents():
        agent = ScriptedLLM([deletes("a"), deletes("a")]).agent(tools=files.tools, tool_errors="raise")
        with pytest.raises(ConnectionError):
            await agent.trigger("Hi")
        assert isinstance((await agent.trigger("Hi", errors_as_messages=True))[-1], ErrorMessage)
    assert files.deleted == []


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@pytest.mark.parametrize("way", ["replied", "returned", "in a list", "in a stream"])
@pytest.mark.parametrize("given", [True, False, 1, print], ids=repr)
async def test_reply_of_an_approver_that_is_no_message_is_raised(given: Any, way: str, api: Any) -> None:
    """An approver that replies a bool ends the replies with a `TypeError` that says what to write; the call is not run.

    The model, which can do nothing about it, is not told.
    """

    async def stream() -> AsyncIterator[Any]:
        yield given

    @miniagent
    async def approver(ctx: InteractionContext) -> Any:
        if way == "returned":
            return given
        ctx.reply({"replied": given, "in a list": [given], "in a stream": stream()}[way])
        return None

    files = Files(approver)
    llm = ScriptedLLM([deletes("a")])
    async with MiniAgents():
        with pytest.raises(
            TypeError, match=r"The agent APPROVER, .* replied .*`ctx.reply\(question.grant\(\)\)`"
        ) as caught:
            await llm.agent(tools=files.tools, api=api).trigger("Hi")
    assert "question.refuse(" in str(caught.value)
    assert f"{given!r:.100} of type" in str(caught.value)
    assert files.deleted == []


async def test_mistake_in_the_approver_of_an_inner_agent_is_raised() -> None:
    """An approver that replies True, of an agent that runs as a tool, ends the outer agent's replies with the error."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        ctx.reply(True)  # type: ignore[arg-type]  # the mistake

    files = Files(approver)
    inner = ScriptedLLM([deletes("a")]).agent(alias="INNER", tools=files.tools)
    outer = ScriptedLLM([Step(tool_calls=[("inner", {"message": "Go"})])]).agent(tools=[inner])
    async with MiniAgents():
        with pytest.raises(TypeError, match="The agent APPROVER"):
            await outer.trigger("Hi")
    assert files.deleted == []


async def test_approver_can_end_a_dialog() -> None:
    """A `StopDialog` of an approver ends the tool loop: awaiting the replies raises it, and the call does not run."""

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        raise StopDialog

    files = Files(approver)
    async with MiniAgents():
        with pytest.raises(StopDialog):
            await ScriptedLLM([deletes("a")]).agent(tools=files.tools).trigger("Hi")
    assert files.deleted == []


async def test_timeout_of_a_tool_does_not_count_the_time_of_its_approver() -> None:
    """If an approver takes longer than the tool's timeout, the call still runs, and its result comes."""

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        await asyncio.sleep(0.3)
        ctx.reply(question.grant())

    files = Files(slow, timeout=0.2)
    async with MiniAgents():
        replies = await ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools).trigger("Hi")
    assert short(replies[1:]) == ["deleted a", "done"]


@pytest.mark.parametrize("approver", [True, "person", lambda pending: pending.grant(), tool(silent)])
def test_approver_must_be_an_agent(approver: Any) -> None:
    """Anything but an agent as `approve=` is refused when the tool is made."""
    with pytest.raises(TypeError, match="approve must be an agent"):
        Files(approver)


def test_approver_must_need_no_arguments() -> None:
    """An agent that needs arguments is refused as `approve=`; a fork that has bound them is accepted."""

    @miniagent
    async def asker(ctx: InteractionContext, channel: str) -> None:
        """Asks in a channel."""

    with pytest.raises(TypeError, match=r"needs no arguments.*'channel'"):
        Files(asker)
    Files(asker.fork(channel="ops"))


async def test_agent_as_a_tool_can_need_an_approval() -> None:
    """An agent that is a tool with `approve=` runs once its approver has granted the call, as a function does."""
    asked: list[Any] = []

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        asked.append(await ctx.message_promises)
        ctx.reply(granting.trigger(ctx.message_promises))

    @miniagent
    async def cleaner(ctx: InteractionContext, folder: str) -> None:
        """Cleans a folder."""
        ctx.reply(f"cleaned {folder}")

    llm = ScriptedLLM([Step(tool_calls=[("cleaner", {"folder": "x"})]), "done"])
    async with MiniAgents():
        replies = await llm.agent(tools=[tool(cleaner, approve=approver)]).trigger("Hi")
    assert short(replies[1:]) == ["cleaned x", "done"]
    assert len(asked) == 1


# --- law 23: no decision


async def ask_and_continue(
    kind: str, step: Step, then: Callable[[list[PendingApproval]], list[Any]], approver: Any = silent
) -> tuple[list[Any], list[Any], Files, ScriptedLLM]:
    """Run an agent until it asks, and again with the messages that `then` makes of its questions.

    Return the replies of both runs, the files, and the scripted model.
    """
    files = Files(approver)
    llm = ScriptedLLM([step, "done"])
    agent = agent_of(llm, kind, tools=files.tools)
    async with MiniAgents():
        first = [*await agent.trigger("Hi")]
        assert files.deleted == []
        questions = [message for message in first if isinstance(message, PendingApproval)]
        second = [*await agent.trigger([UserMessage("Hi"), *first, *then(questions)])]
    return first, second, files, llm


@pytest.mark.parametrize("kind", KINDS)
async def test_question_without_a_decision_is_the_last_reply(kind: str) -> None:
    """If an approver does not decide, other calls finish, and its question is the last reply.

    A later approval runs the call.
    """
    first, second, files, llm = await ask_and_continue(
        kind, deletes("a", text="Well.", show=True), lambda questions: [questions[0].grant()]
    )
    assert short(first) == ['Well.[delete(path="a")][show()]', "a b c", '?Needs approval: delete(path="a")']
    assert first[-1].agent == llm.calls[0].agent
    assert short(second) == ["deleted a", "done"]
    assert files.deleted == ["a"]
    assert "deleted a" in check_last_request(llm)
    assert len(llm.calls) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_refusal_after_a_question_is_the_result(kind: str) -> None:
    """A refusal with its reason becomes the result of the call, and the model goes on."""
    _, second, files, llm = await ask_and_continue(
        kind, deletes("a"), lambda questions: [questions[0].refuse("keep it")]
    )
    assert short(second) == ["!The call did not run, because it was refused: keep it", "done"]
    assert files.deleted == []
    assert "keep it" in check_last_request(llm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["yes, do it", {"class_": "Approval", "granted": True}, AssistantMessage("ok")])
async def test_any_other_message_after_a_question_is_a_refusal(kind: str, other: Any) -> None:
    """If the conversation goes on with anything but a decision, the call does not run, and the model is told so."""
    _, second, files, llm = await ask_and_continue(kind, deletes("a"), lambda questions: [other])
    refused = "The call did not run, because it was refused: the conversation went on without an approval"
    assert short(second) == [f"!{refused}", "done"]
    assert files.deleted == []
    assert refused in check_last_request(llm)


@pytest.mark.parametrize(
    ("after", "deleted"),
    [
        (lambda p: [p.grant(), p.grant()], ["a"]),
        (lambda p: [p, p.grant()], ["a"]),
        (lambda p: ["and tell me", p.grant()], ["a"]),
        (lambda p: [p.grant(), SystemMessage("It is Friday."), ErrorMessage("lost")], ["a"]),
        (lambda p: [p.grant(), "stop!"], []),
        (lambda p: [p.grant(), "stop!", p.grant()], ["a"]),
        (lambda p: [p.grant(), p.refuse()], []),
        (lambda p: [p.refuse(), p.grant()], []),
        (lambda p: [PendingApproval(call=p.call.model_copy(update={"arguments": '{"path":"b"}'})).grant()], []),
        (lambda p: [SystemMessage("It is Friday.")], []),
        (lambda p: [], []),
    ],
)
async def test_call_runs_when_an_approval_follows_all_texts_and_no_refusal_comes(
    after: Any, deleted: list[str]
) -> None:
    """A call runs once if an approval follows the user's last text, and no refusal comes before or after the approval.

    Else the call does not run.
    """
    _, second, files, llm = await ask_and_continue("chat", deletes("a"), lambda questions: after(questions[0]))
    assert files.deleted == deleted
    if len(llm.calls) == 2:
        check_last_request(llm)
    else:
        assert short(second) == ['?Needs approval: delete(path="a")']


async def test_approver_is_asked_again_if_the_conversation_does_not_go_on() -> None:
    """Triggered with the same messages again, the agent asks its approver again instead of the model."""
    answers = iter([None, True])

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        if next(answers):
            ctx.reply(question.grant())

    _, second, _, _ = await ask_and_continue("chat", deletes("a"), lambda questions: [], approver)
    assert short(second) == ["deleted a", "done"]


@pytest.mark.parametrize("kind", KINDS)
async def test_model_is_asked_when_all_calls_are_decided(kind: str) -> None:
    """If one of two calls is approved, it runs, and the other call is asked about again.

    The model is called when both are decided.
    """
    files = Files(silent)
    llm = ScriptedLLM([deletes("a", "b", show=True), "done"])
    agent = agent_of(llm, kind, tools=files.tools)
    history: list[Any] = [UserMessage("Hi")]
    async with MiniAgents():
        history += await agent.trigger(history)
        assert short(history[-2:]) == [f'?Needs approval: delete(path="{name}")' for name in "ab"]
        history.append(history[-1].grant())
        history += await agent.trigger(history)
        assert short(history[-2:]) == ["deleted b", '?Needs approval: delete(path="a")']
        assert len(llm.calls) == 1
        history.append(history[-1].grant())
        history += await agent.trigger(history)
    assert short(history[-2:]) == ["deleted a", "done"]
    assert files.deleted == ["b", "a"]
    check_last_request(llm)


async def test_approval_does_nothing_once_the_call_has_a_result() -> None:
    """An approval that comes a second time, after the result, leads to no second run."""
    files = Files(silent)
    llm = ScriptedLLM([deletes("a"), "done", "done again", "and again"])
    agent = llm.agent(tools=files.tools)
    history: list[Any] = [UserMessage("Hi")]
    async with MiniAgents():
        history += await agent.trigger(history)
        approval = history[-1].grant()
        history += [approval, *await agent.trigger([*history, approval])]
        for more in ([approval], [approval, UserMessage("And now?")]):
            history += [*more, *await agent.trigger([*history, *more])]
    assert files.deleted == ["a"]
    assert short(history)[-1] == "and again"


@pytest.mark.parametrize("kind", KINDS)
async def test_approval_counts_without_its_question(kind: str) -> None:
    """An approval runs its call also if the conversation lacks the question.

    Once the call has a result, the approval does nothing.
    """
    files = Files(silent)
    llm = ScriptedLLM([deletes("a", show=True), "done", "again"])
    agent = agent_of(llm, kind, tools=files.tools)
    async with MiniAgents():
        answer, shown, question = await agent.trigger("Hi")
        assert isinstance(question, PendingApproval)
        history = [UserMessage("Hi"), answer, shown, question.grant()]
        second = await agent.trigger(history)
        assert short(second) == ["deleted a", "done"]
        await agent.trigger([*history, second[0], question.grant()])
    assert files.deleted == ["a"]
    check_last_request(llm)


async def test_approval_does_not_fit_a_later_call_with_the_same_arguments() -> None:
    """A later call is asked about again, also if a server gives it the id and the arguments of an approved one."""
    call = ToolCall(id="call_0", name="delete", arguments='{"path":"a"}')
    answer = AssistantMessage("", tool_calls=[call])
    question = PendingApproval.of(call)
    done = ToolMessage("deleted a", tool_call_id="call_0", name="delete")
    files = Files(silent)
    llm = ScriptedLLM("done")
    async with MiniAgents():
        replies = await llm.agent(tools=files.tools).trigger(
            ["Hi", answer, question, question.grant(), done, answer, question]
        )
    assert files.deleted == []
    assert short(replies) == ['?Needs approval: delete(path="a")']


@pytest.mark.parametrize("ids", [("a", "b"), ("", ""), (None, None), ("same", "same")])
async def test_two_calls_of_one_tool_are_decided_one_by_one(ids: tuple[Any, Any]) -> None:
    """Of two calls of one tool in one answer, only the approved one runs, also if a server gives them the same id."""
    calls = [ToolCall(id=id_, name="delete", arguments=f'{{"path":"{n}"}}') for n, id_ in enumerate(ids)]
    questions = [PendingApproval.of(call) for call in calls]
    files = Files(silent)
    async with MiniAgents():
        replies = await (
            ScriptedLLM("done")
            .agent(tools=files.tools)
            .trigger(["Hi", AssistantMessage("", tool_calls=calls), *questions, questions[1].grant()])
        )
    assert files.deleted == ["1"]
    assert short(replies) == ["deleted 1", '?Needs approval: delete(path="0")']


async def test_one_approval_runs_one_of_two_equal_calls() -> None:
    """Two calls that are equal in all fields have the same question; its approval runs one of them."""
    call = ToolCall(id="", name="delete", arguments='{"path":"a"}')
    question = PendingApproval.of(call)
    files = Files(silent)
    llm = ScriptedLLM("done")
    async with MiniAgents():
        await llm.agent(tools=files.tools).trigger(
            ["Hi", AssistantMessage("", tool_calls=[call, call]), question, question, question.grant()]
        )
    assert files.deleted == ["a"]
    check_last_request(llm)


async def test_handoff_waits_for_the_approval() -> None:
    """If an answer has a handoff and a call to approve, the other agent gets the conversation after the decision."""
    files = Files(silent)
    expert_llm = ScriptedLLM("I take over.")
    expert = expert_llm.agent(alias="EXPERT", description="Knows.")
    llm = ScriptedLLM([Step(tool_calls=[("handoff_to_expert", {}), ("delete", {"path": "a"})])])
    agent = llm.agent(tools=[*files.tools, handoff(expert)])
    async with MiniAgents():
        first = await agent.trigger("Hi")
        assert isinstance(first[-1], PendingApproval)
        assert expert_llm.calls == ()
        second = await agent.trigger([UserMessage("Hi"), *first, first[-1].grant()])
    assert short(second) == ["deleted a", "I take over."]
    check_last_request(expert_llm)


async def test_question_of_an_agent_that_took_over_names_it() -> None:
    """After a handoff, the question names the agent that asks; the call runs once that agent gets the decision."""
    files = Files(silent)
    expert = ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools, alias="EXPERT", description="Knows.")
    greeter = ScriptedLLM([Step(tool_calls=[("handoff_to_expert", {})])]).agent(tools=[handoff(expert)])
    async with MiniAgents():
        first = await greeter.trigger("Hi")
        question = first[-1]
        assert isinstance(question, PendingApproval)
        assert question.agent == expert.alias
        assert short(await expert.trigger(["Hi", *first, question.grant()])) == ["deleted a", "done"]


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("has_approvals", [True, False])
async def test_decision_for_an_agent_that_took_over_is_an_error_of_the_agent_that_handed_over(
    *, has_approvals: bool, granted: bool
) -> None:
    """A decision sent to the agent that handed over is a `ValueError` that names the agent that asked.

    No model is called.
    """
    files = Files(silent)

    async def remove(path: str) -> str:
        """Remove a file."""
        return f"removed {path}"

    expert = ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools, alias="EXPERT", description="Knows.")
    llm = ScriptedLLM([Step(tool_calls=[("handoff_to_expert", {})]), "I go on"])
    own = [tool(remove, approve=silent)] if has_approvals else []
    greeter = llm.agent(tools=[handoff(expert), *own], alias="GREETER")
    async with MiniAgents():
        first = await greeter.trigger("Hi")
        question = first[-1]
        assert isinstance(question, PendingApproval)
        decision = question.grant() if granted else question.refuse("no")
        with pytest.raises(ValueError, match=r"delete.* came to GREETER, which has no such tool: .*asked, EXPERT "):
            await greeter.trigger(["Hi", *first, decision])
        assert len(llm.calls) == 1
        last = short(await expert.trigger(["Hi", *first, decision]))
        assert (last[-1], files.deleted) == ("done", ["a"] if granted else [])
        assert short(await greeter.trigger(["Hi", *first, decision, "What else?"]))[-1] == "I go on"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("tools", [None, "without an approval"])
async def test_decision_for_an_agent_without_approvals_is_an_error_that_names_the_right_one(
    kind: str, tools: str | None, *, granted: bool
) -> None:
    """A decision that comes to an agent without approvals and handoffs is an error, and its model is not asked."""
    files = Files(silent)
    own = None if tools is None else [lister]
    asking = ScriptedLLM([deletes("a"), "done"]).agent(tools=files.tools, alias="EXPERT")
    llm = ScriptedLLM(["I go on", "So it is"])
    settings: dict[str, Any] = {} if kind == "scripted" else {"api": kind}
    other = llm.agent(tools=own, alias="OTHER", **settings)
    async with MiniAgents():
        first = await asking.trigger("Hi")
        question = first[-1]
        assert isinstance(question, PendingApproval)
        decision = question.grant() if granted else question.refuse("no")
        for sent in (first, first[:-1]):  # the question may be lost
            named = r"asked, EXPERT " if sent is first else "asked, or give this agent the tool with `approve=`"
            with pytest.raises(ValueError, match=rf"delete.* came to OTHER, which has no tools that .*{named}"):
                await other.trigger(["Hi", *sent, decision])
        assert (llm.calls, files.deleted) == ((), [])
        assert short(await other.trigger(["Hi", *first, decision, "What else?"])) == ["I go on"]
        done = await asking.trigger(["Hi", *first, decision])
        assert short(await other.trigger(["Hi", *first, decision, *done[:1]])) == ["So it is"]


@pytest.mark.parametrize("answered", [False, True])
async def test_calls_of_the_caller_are_answered_beside_an_approval(answered: bool) -> None:
    """If an answer also calls a tool that the caller runs, the model is called only once that call has a result."""
    files = Files(silent)
    dict_tool = {"type": "function", "function": {"name": "mine", "parameters": {}}}
    llm = ScriptedLLM([Step(tool_calls=[("delete", {"path": "a"}), ("mine", {})]), "done"])
    agent = llm.agent(tools=[*files.tools, dict_tool])
    async with MiniAgents():
        first = await agent.trigger("Hi")
        answer, question = first
        assert isinstance(answer, AssistantMessage)
        assert isinstance(question, PendingApproval)
        mine = [ToolMessage("42", tool_call_id=answer.tool_calls[1].id)] if answered else []
        second = await agent.trigger(["Hi", *first, *mine, question.grant()])
    assert short(second) == ["deleted a", "done"][: 1 + answered]


async def test_tool_that_is_gone_is_told_to_the_model() -> None:
    """An approved call of a tool that the agent does not have any more gets an error as its result."""
    files = Files(silent)
    llm = ScriptedLLM([deletes("a"), "done"])
    async with MiniAgents():
        first = await llm.agent(tools=files.tools).trigger("Hi")
        question = first[-1]
        assert isinstance(question, PendingApproval)
        other = tool(granting, name="other", approve=granting)
        second = await llm.agent(tools=[other]).trigger(["Hi", *first, question.grant()])
    assert short(second) == ["!UnknownToolError: there is no tool 'delete'. The tools are: other", "done"]


async def test_agent_inside_a_tool_tells_that_an_approval_is_missing() -> None:
    """If an agent that is a tool ends with a question, the result of its call is the question, and nothing has run."""
    files = Files(silent)
    inner = ScriptedLLM([deletes("a")]).agent(tools=files.tools, alias="CLEANER", description="Cleans.")
    llm = ScriptedLLM([Step(tool_calls=[("cleaner", {"message": "clean"})]), "done"])
    async with MiniAgents():
        replies = await llm.agent(tools=[inner]).trigger("Hi")
    assert str(replies[1]) == 'Needs approval: delete(path="a")'
    assert files.deleted == []


# --- law 24, and what is stored


async def test_hash_key_of_the_call_is_an_idempotency_key() -> None:
    """In each run of an approved call, the tool's agent finds the call as `ctx.tool_call`, with the same hash key.

    The approval has this hash key, too.
    """
    keys: list[str] = []

    @miniagent
    async def cleaner(ctx: InteractionContext, folder: str) -> None:
        """Cleans a folder."""
        assert ctx.tool_call is not None
        keys.append(ctx.tool_call.hash_key)

    llm = ScriptedLLM([Step(tool_calls=[("cleaner", {"folder": "x"})]), "done", "done"])
    agent = llm.agent(tools=[tool(cleaner, approve=silent)])
    async with MiniAgents():
        first = await agent.trigger("Hi")
        question = first[-1]
        assert isinstance(question, PendingApproval)
        for _ in range(2):  # as after a kill before the result was stored
            await agent.trigger(["Hi", *first, question.grant()])
    assert keys == [question.grant().call_hash_key] * 2 == [question.call.hash_key] * 2


def messages_about_a_call() -> list[Message]:
    """Return a question and both decisions on it."""
    call = ToolCall(id="1", name="f", arguments='{"x": "\\u001b"}', echo={"s": "sig"}, sig="§")
    question = PendingApproval.of(call, "AGENT")
    return [question, question.grant(), question.refuse(), question.refuse("no\x1b")]


@pytest.mark.parametrize("message", messages_about_a_call())
def test_questions_and_decisions_come_back_equal(message: Message) -> None:
    """A question or decision that was dumped or pickled, and loaded, is equal, with the same class and hash."""
    copies: list[Any] = [
        Message.model_validate_json(message.model_dump_json()),
        Message.model_validate(message.model_dump()),
        Message.model_validate(message.model_dump(mode="json")),
        pickle.loads(pickle.dumps(message)),
        message.model_copy(),
    ]
    for copy in copies:
        assert copy == message
        assert (type(copy), copy.hash_key) == (type(message), message.hash_key)
    if isinstance(message, PendingApproval):
        assert copies[0].grant() == message.grant()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city": "Rome", "days": [1, null]}', 'f(city="Rome", days=[1, null])'),
        ("", "f()"),
        ("{}", "f()"),
        ('{"x": ', 'f({"x": )'),
        ("[1]", "f([1])"),
        ("null", "f(null)"),
        ('{"x": "é\\u001b"}', 'f(x="é\\u001b")'),
        ("[" * 100_000, f"f({'[' * 100_000})"),
    ],
)
def test_text_of_a_call_shows_its_arguments(arguments: str, shown: str) -> None:
    """The text of a call is its name with the arguments as JSON, or as the model wrote them if they are no object."""
    assert str(ToolCall(name="f", arguments=arguments)) == shown


def test_approval_needs_the_call_it_fits() -> None:
    """Making a decision without `call_hash_key` or `granted`, or a question without its call, raises `ValueError`."""
    make: Any = Approval
    ask: Any = PendingApproval
    for fields in ({}, {"granted": True}, {"call_hash_key": "x"}):
        with pytest.raises(ValueError, match="Field required"):
            make(**fields)
    with pytest.raises(ValueError, match="Field required"):
        ask()


# --- any conversation


_CALLS = [
    ToolCall(id=id_, name="delete", arguments=json.dumps({"path": path})) for id_, path in ("1a", "2b", "2c", "1d")
]
"""Calls of which some have the same id, as some servers send them."""


@st.composite
def _turns(draw: st.DrawFn) -> list[Message]:
    """Draw an answer with calls, and what may follow it: questions, and then decisions, results and other messages."""
    calls = draw(st.lists(st.sampled_from(_CALLS), min_size=1, max_size=3))
    asked = draw(st.lists(st.sampled_from(calls), max_size=3))
    call = st.sampled_from(calls)
    question = call.map(PendingApproval.of)
    result = st.builds(
        lambda made, interrupted: ToolMessage("deleted", tool_call_id=made.id, interrupted=interrupted),
        *(call, st.booleans()),
    )
    other = st.sampled_from([UserMessage("Go on."), AssistantMessage("Well."), SystemMessage("s"), ErrorMessage("e")])
    grant = question.map(PendingApproval.grant)
    later = draw(st.lists(grant | grant | question.map(PendingApproval.refuse) | question | result | other, max_size=4))
    answer = AssistantMessage("", tool_calls=calls, interrupted=draw(st.booleans()))
    return [answer, *map(PendingApproval.of, asked), *later]


@given(turns=st.lists(_turns(), max_size=2), api=st.sampled_from(["chat", "responses", "messages"]))
async def test_only_approved_calls_run_whatever_a_conversation_holds(turns: list[list[Message]], api: Any) -> None:
    """A call runs once, and only if its approval follows the last answer with calls.

    No call runs that was refused, or if a message of a user or a model comes last. The next prompt keeps the rules of
    its API.
    """
    history = [message for turn in turns for message in turn]
    files = Files(silent)
    llm = ScriptedLLM(lambda call: "done")
    conversation = [UserMessage("Hi"), *history]
    async with MiniAgents():
        replies = await llm.agent(api=api, tools=files.tools).trigger(conversation)
        if not isinstance(replies[-1], PendingApproval):
            await llm.agent(api=api, tools=files.tools).trigger([*conversation, *replies, UserMessage("And now?")])
    if llm.calls:
        check_last_request(llm)
    starts = [number for number, each in enumerate(history) if getattr(each, "tool_calls", ())]
    later = history[starts[-1] + 1 :] if starts else []
    for path in files.deleted:
        (call,) = [each for each in _CALLS if json.loads(each.arguments)["path"] == path]
        assert call in getattr(history[starts[-1]], "tool_calls", ())
        question = PendingApproval.of(call)
        assert question.grant() in later
        assert question.refuse() not in later
        assert files.deleted.count(path) == 1
    last = next((each for each in reversed(history) if each.role not in ("system", "error", "tool")), None)
    assert not files.deleted or isinstance(last, (Approval, PendingApproval))
