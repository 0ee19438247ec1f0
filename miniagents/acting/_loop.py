"""The tool loop: ask a model, run the tools that it calls, and ask again with their results.

`run_loop` is the same for all providers and for scripted models. A provider's agent gives it a function that asks the
model and returns the promise of the answer. Independent of requests and of prompts.

A call may need an approval: an agent is asked about it, or the conversation goes on after the question. A decision is
an `Approval`; text never becomes one. A conversation that any other message has continued without a decision has
refused the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from miniagents.acting._tool import Handoff
from miniagents.errors import (
    AppenderClosedError,
    DeadlockError,
    LimitExceededError,
    NoStrayCancellation,
    PriceUnknownError,
    PromiseCancelledError,
    StopDialog,
    ToolError,
    TooManyRoundsError,
    UsageUnknownError,
    describe_error,
    find_error,
    text_of_error,
)
from miniagents.messages import (
    Approval,
    AssistantMessage,
    ErrorMessage,
    Message,
    MessagePromise,
    MessageSequencePromise,
    MessageType,
    PendingApproval,
    ToolCall,
    ToolMessage,
)
from miniagents.observing import observe_part

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from types import TracebackType

    from miniagents._agents.agent import MiniAgent
    from miniagents._agents.interaction import InteractionContext
    from miniagents.acting._output import Output
    from miniagents.acting._tool import Tool, Toolset
    from miniagents.observing import Observation

logger = logging.getLogger("miniagents.tools")

OnCalls = Callable[[tuple[ToolCall, ...], "str | None"], None]
"""Function that gets the calls of a complete answer, and its finish reason."""

Ask = Callable[[MessageType, OnCalls], MessagePromise]
"""Function that sends a conversation to a model, and returns the promise of its answer.

It calls its second argument at most once, as soon as the provider has said that an answer with calls is complete.
"""


class _NoDecisionError(TypeError):
    """Error of an approver that replied an object which is no message, such as True: a mistake in the application."""


_NEVER_TOLD = (
    _NoDecisionError,
    StopDialog,
    DeadlockError,
    LimitExceededError,
    PriceUnknownError,
    UsageUnknownError,
    PromiseCancelledError,
)
"""Exceptions of tools that end the tool loop and never become results: the model can do nothing about them."""

_Prepared = Union["tuple[Tool, dict[str, Any]]", Exception]
"""The tool and the arguments of a call, or the error why the call cannot run."""

_FOREIGN = "its tools are the caller's to run"
"""Reason for which the tool loop ends without an output, if the model has called tools that were given as dicts."""

_NOT_RUN = ("content_filter", "refusal")
"""Reasons for the end of an answer after which its calls do not run, and the tool loop ends."""

_CUT = (
    "The call did not run: the answer has reached its length limit, and the arguments may be incomplete. "
    "Write a shorter answer, or make fewer calls at once."
)


class _RefusedError(ToolError):
    """Error of a call that was refused: the model is told, and no warning is logged."""


@dataclass(slots=True, kw_only=True)
class LoopSettings:
    """Settings of a tool loop, and the redaction of error texts."""

    toolset: Toolset
    max_rounds: int
    """The highest number of answers whose calls are run."""
    tells_errors: bool
    """True if exceptions of tools become results; False if they end the tool loop."""
    output: Output | None
    """The output that the final answer is asked to be."""
    redact: Callable[[str], str]
    """Function that replaces secrets in the text of an error."""

    def is_final(self, fields: Mapping[str, Any]) -> bool:
        """Return True if an answer with these fields ends the tool loop, so that it has to be the output."""
        return not (self.toolset and fields.get("tool_calls")) or fields.get("finish_reason") in _NOT_RUN

    def check_output(self, text: str, fields: Mapping[str, Any]) -> None:
        """Check an answer of this text and these fields, if it is the last one and an output was asked for.

        Raise `OutputInvalidError` for an answer that is not the output.
        """
        if self.output is not None and self.is_final(fields):
            self.output.check(text, fields)

    def require_output(self, reason: str, message: Message | None) -> None:
        """Raise `OutputInvalidError` for `reason` if an output was asked for, because the tool loop ends without one.

        `message`, with which it ends instead, becomes the `partial` of the error.
        """
        if self.output is not None:
            raise self.output.missing(reason, message)


async def run_loop(ctx: InteractionContext, ask: Ask, settings: LoopSettings) -> None:
    """Reply the answers of a model and the results of its calls, until an answer has no call that this loop runs.

    A failed answer, or an exception that is let through, stands in its place among the replies, and ends the tool loop.

    Raises:
        TooManyRoundsError: more than `max_rounds` answers had calls.
        OutputInvalidError: an output was asked for, and the loop ends without a final answer.
        ValueError: the messages end with a decision on a call of another agent.
    """
    conversation: list[Message] | None = None
    asks = settings.toolset.needs_approval
    if asks or settings.toolset.hands_over:
        conversation = [*await ctx.message_promises]
        waiting = find_waiting_calls(conversation)
        if waiting is not None:
            _check_addressee(ctx, waiting, settings.toolset)
            if asks and not await _resume(ctx, waiting, conversation, settings):
                return
    for number in count(1):
        calls = _Calls(ctx, settings, run=number <= settings.max_rounds)
        answer = ask(ctx.message_promises if conversation is None else conversation, calls.start)
        ctx.reply(answer)
        try:
            message = await _end_of(answer)
            if isinstance(message, AssistantMessage):
                calls.start(message.tool_calls, message.finish_reason)  # those that could not start before the end
            results = await calls.end(asks=message is not None)
        except BaseException:
            answer.cancel()
            calls.cancel()
            raise
        if message is None or results is None or not (calls.are_own or calls.are_foreign):
            return
        if number > settings.max_rounds and calls.are_own:
            raise _too_many_rounds(ctx, settings, message)
        if conversation is None:
            conversation = [*await ctx.message_promises]
        conversation.append(message)
        if not await _go_on(ctx, calls, results, conversation, message):
            return


async def _resume(
    ctx: InteractionContext, waiting: WaitingCalls, conversation: list[Message], settings: LoopSettings
) -> bool:
    """Answer calls of an earlier answer that waited for approvals; return True if the model is to be asked again."""
    calls = _Calls(ctx, settings, run=True)
    try:
        calls.resume(waiting)
        results = await calls.end(asks=True)
    except BaseException:
        calls.cancel()
        raise
    return results is not None and await _go_on(ctx, calls, results, conversation, waiting.answer)


async def _go_on(
    ctx: InteractionContext, calls: _Calls, results: list[Message], conversation: list[Message], answer: Message
) -> bool:
    """Add the results of an answer's calls to the conversation; return True if the model is to be asked again.

    It is not asked after a handoff, which is carried out here, nor if the caller has calls to answer.

    Raises:
        OutputInvalidError: an output was asked for, and the model is not asked again.
    """
    conversation += results
    if calls.handoff is not None:
        last = await _hand_over(ctx, conversation, *calls.handoff)
        end = None if last is None else await _end_of(last)
        if last is None or end is not None:
            calls.settings.require_output("the conversation was handed over", end)
        return False
    if calls.are_foreign:
        calls.settings.require_output(_FOREIGN, answer)
    return not calls.are_foreign


class _Calls:
    """Calls of one answer: those that have started, and the promises of their results.

    Args:
        ctx: the context of the model's agent, which replies the results.
        settings: the settings of the tool loop.
        run: False if the answer is one too many, so that no call of it runs.
    """

    def __init__(self, ctx: InteractionContext, settings: LoopSettings, *, run: bool) -> None:
        self.handoff: tuple[Handoff, dict[str, Any]] | None = None
        """The handoff that the answer asks for, with its arguments."""
        self.are_own = False
        """True if the tool loop answers at least one of the calls."""
        self.are_foreign = False
        """True if the caller has to answer at least one of the calls, because its tool was given as a dict."""
        self._ctx = ctx
        self.settings = settings
        self._run = run
        self._seen = 0
        self._undecided: list[tuple[ToolCall, Tool, dict[str, Any]]] = []
        """Calls whose approvers are to be asked, with their tools and arguments."""
        self._questions: list[PendingApproval] = []
        """Questions on which the approvers have not decided."""
        self._asking: list[MessageSequencePromise] = []
        """For each call that an approver is asked about: a sequence of its result, or of nothing."""
        self._results: list[MessagePromise] = []
        """The results of all other calls."""

    def start(self, calls: tuple[ToolCall, ...], finish_reason: str | None) -> None:
        """Start the calls of an answer that have not started, and reply the promise of each result.

        A call that needs an approval waits for `end`; a call for the caller is only noted. After a filter or a refusal
        no call runs. After the length limit each call gets an error as its result.
        """
        if finish_reason in _NOT_RUN:
            return
        for call in calls[self._seen :]:
            self._seen += 1
            if call.name in self.settings.toolset.foreign_names:
                self.are_foreign = True
                continue
            self.are_own = True
            if self._run:
                self._add(call, self._prepare(call, finish_reason))

    def resume(self, waiting: WaitingCalls) -> None:
        """Start the calls of an earlier answer that have been decided on, and ask again about the others.

        Note a handoff of that answer, which is still to be carried out, and a call for the caller without a result.
        """
        answered = {getattr(message, "tool_call_id", None) for message in waiting.later}
        decisions = dict(waiting.decisions)
        for call in waiting.answer.tool_calls:
            if call.name in self.settings.toolset.foreign_names:
                self.are_foreign = self.are_foreign or call.id not in answered
                continue
            prepared = self._prepare(call, None)
            if call in decisions:
                self._add(call, prepared, decisions.pop(call))  # of two equal calls, one runs

    async def end(self, *, asks: bool) -> list[Message] | None:
        """Ask the approvers, wait for all results, and return them; reply the questions that approvers left open.

        Return None if a result has failed, or if a call waits for its approval. The result of a call that an approver
        decides on is replied at the decision, so that a history has all other results while the approver thinks.

        Args:
            asks: True to ask the approvers; False if the answer has failed.

        Raises:
            OutputInvalidError: an output was asked for, and a call waits for its approval.
        """
        for call, tool, arguments in self._undecided if asks else ():
            asking = self._ask_and_start(call, tool, arguments)
            self._asking.append(MessageSequencePromise.of_async_iterable(asking, start_soon=True))
        results = [await _end_of(promise) for promise in self._results]
        for sequence in self._asking:
            if None in results and not sequence.is_done:
                sequence.cancel()  # a question that is still open, while the loop ends by an error
            results += [await _end_of(promise) async for promise in sequence]
        self._ctx.reply(self._questions)
        answered = [result for result in results if result is not None]
        if len(answered) < len(results):
            return None
        if self._questions:
            self.settings.require_output("a call waits for its approval", self._questions[-1])
            return None
        return answered

    def cancel(self) -> None:
        """Stop all calls, and the agents that are asked about them."""
        for work in (*self._results, *self._asking):
            work.cancel()

    def _add(self, call: ToolCall, prepared: _Prepared, decision: Approval | None = None) -> None:
        """Start a call and reply its result; a call with an approver and without a decision is kept for `end`."""
        if isinstance(prepared, Exception) or prepared[0].approver is None or decision is not None:
            promise = self._start(call, prepared, decision)
            self._results.append(promise)
            self._ctx.reply(promise)
        else:
            self._undecided.append((call, *prepared))

    async def _ask_and_start(
        self, call: ToolCall, tool: Tool, arguments: dict[str, Any]
    ) -> AsyncGenerator[MessagePromise]:
        """Ask the approver of a tool, and reply and yield the result of the call.

        Without a decision, keep the question and yield nothing. If the approver fails, its error is the result.
        """
        question = PendingApproval.of(call, self._ctx.this_agent.alias)
        assert tool.approver is not None
        decision: Approval | None = None
        prepared: _Prepared = tool, arguments
        try:
            decision = await ask_for_approval(tool.approver, question)
        except Exception as error:
            prepared = error
        else:
            if decision is None:
                self._questions.append(question)
                return
        promise = self._start(call, prepared, decision)
        try:
            self._ctx.reply(promise)
        except AppenderClosedError:  # the replies were cancelled in this step of the event loop
            promise.cancel()
        else:
            yield promise

    def _start(self, call: ToolCall, prepared: _Prepared, decision: Approval | None = None) -> MessagePromise:
        """Start a call, and return the promise of its result; a refused call does not run, and its result says why."""
        if decision is not None and not decision.granted and not isinstance(prepared, Exception):
            reason = f": {decision.content}" if decision.content else ""
            prepared = _RefusedError(f"The call did not run, because it was refused{reason}")
        observation = None
        if self._ctx.run_context.observers:
            observation = observe_part(self._ctx, "tool", call.name or "", self.settings.redact)
        return MessagePromise(
            partial(self._stream_result, call, prepared, observation),
            message_class=ToolMessage,
            start_soon=True,
            known_beforehand={"tool_call_id": call.id, "name": call.name},
            observation=observation,
        )

    def _prepare(self, call: ToolCall, finish_reason: str | None) -> _Prepared:
        """Return the tool and the arguments of a call, or the error if the call cannot run; note a handoff."""
        tools = self.settings.toolset.by_name
        tool = tools.get(call.name or "")
        if finish_reason == "length":
            return ToolError(_CUT)
        if tool is None:
            return ToolError(f"UnknownToolError: there is no tool {call.name!r}. The tools are: {', '.join(tools)}")
        try:
            arguments = tool.read_arguments(call.arguments)
        except ToolError as error:
            return error
        except Exception as error:  # of a validator of the application, which pydantic lets through
            return ToolError(describe_error(error))
        if isinstance(tool, Handoff):
            if self.handoff is not None:
                return ToolError(
                    f"The call did not run: the conversation goes to {self.handoff[0].agent.alias} already"
                )
            self.handoff = tool, arguments
        return tool, arguments

    async def _stream_result(
        self, call: ToolCall, prepared: _Prepared, observation: Observation | None, fields: dict[str, Any]
    ) -> AsyncGenerator[str]:
        """Run a call and yield the text of its result.

        An error that the model is told is logged; its text, redacted, comes after the text so far, and the message gets
        `is_error`.

        Raises:
            Exception: an error of the tool that the model is not told.
        """
        has_text = False
        fields["interrupted"] = True  # for the message so far, if the call is cancelled
        if observation is not None:
            description = None if isinstance(prepared, Exception) else prepared[0].description
            observation.begin(lambda: {"call": call, "description": description})
        try:
            if isinstance(prepared, Exception):
                raise prepared
            tool, arguments = prepared
            with NoStrayCancellation(f"the tool {tool.name}"):
                async with _Deadline(tool), aclosing(tool.run(call, arguments)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, str):
                            has_text = True
                            yield piece
                        else:
                            fields["content"] = piece
        except ToolError as error:
            failure: Exception = error
            text = text_of_error(error) or type(error).__name__
        except Exception as error:
            never_told = find_error(error, _NEVER_TOLD)
            if never_told is not None and never_told is not error:
                raise never_told from None  # the group of a task group would hide it
            if never_told is error or not self.settings.tells_errors:
                raise
            failure = error
            text = describe_error(error)
        else:
            del fields["interrupted"]
            return
        if observation is not None:
            observation.failure = failure
        text = self.settings.redact(text)
        level = logging.INFO if isinstance(failure, _RefusedError) else logging.WARNING
        logger.log(level, "%s: tool %s: %s", self._ctx, call.name, text)
        logger.debug("%s: tool %s failed", self._ctx, call.name, exc_info=failure)
        fields.clear()
        fields["is_error"] = True
        yield f"\n{text}" if has_text else text


async def _end_of(promise: MessagePromise) -> Message | None:
    """Wait for the end of a message, and return it; None if it failed. Its error stays unobserved, for the readers."""
    cell = promise._cell
    if not cell.done:
        await cell.wait(for_end=True)
    return cell.value


class _Deadline:
    """Asynchronous context manager that raises a `TimeoutError` if its block takes longer than a tool's timeout.

    The error names the tool. This is a class because a context manager that is made of a generator sets the traceback
    of an error, which errors that are frozen dataclasses refuse.
    """

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._timeout = asyncio.timeout(tool.timeout)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            tool = self._tool
            raise TimeoutError(f"the tool {tool.name} did not end within {tool.timeout} s") from None


async def _hand_over(
    ctx: InteractionContext, conversation: list[Message], tool: Handoff, arguments: dict[str, Any]
) -> MessagePromise | None:
    """Send all messages so far to the agent of a handoff, reply its replies, and return the last one, or None.

    If the calling task is cancelled meanwhile, cancel that agent.
    """
    replies = tool.agent.trigger(conversation, **arguments)
    ctx.reply(replies)
    try:
        last = None
        async for promise in replies:
            last = promise
    except BaseException:
        replies.cancel()
        raise
    return last


def _too_many_rounds(ctx: InteractionContext, settings: LoopSettings, answer: Message) -> TooManyRoundsError:
    """Return the error of a model that goes on calling tools; its `partial` is the last answer."""
    names = ", ".join(str(call.name) for call in getattr(answer, "tool_calls", ()))
    error = TooManyRoundsError(
        f"{ctx} has called tools in more than max_rounds={settings.max_rounds} answers, at last: {names}"
    )
    error.partial = answer
    return error


# --- approvals of calls


_NO_DECISION = "the conversation went on without an approval"
"""Reason of a refusal by a message that is no decision."""


async def ask_for_approval(approver: MiniAgent[Any], question: PendingApproval) -> Approval | None:
    """Send an agent the question about a call, and return its decision; None if it replies nothing.

    An agent that replies anything else has refused the call, with its text as the reason.

    Raises:
        TypeError: the agent replied an object that is no message.
        Exception: the agent has failed.
    """
    replies = approver.trigger(question, errors_as_messages=False)
    try:
        messages = await replies
    except TypeError as error:
        sent = getattr(error, "sent", None)
        if sent is None:
            raise
        raise _NoDecisionError(
            f"The agent {approver.alias}, which decides on calls, replied {sent}, and that is no decision: write "
            "`ctx.reply(question.grant())` or `ctx.reply(question.refuse('reason'))`"
        ) from error
    finally:
        replies.cancel()  # an agent does not stop for want of readers
    decision = _decision_among(messages, question)
    others = [str(each) for each in messages if not isinstance(each, (Approval, PendingApproval))]
    return question.refuse("\n\n".join(others)) if decision is None and others else decision


class WaitingCalls(NamedTuple):
    """Calls of the last answer of a conversation that wait for an approval, with the decisions so far."""

    answer: AssistantMessage
    decisions: dict[ToolCall, Approval | None]
    """The decision on each call that has no result; None for a call that is still to be decided."""
    later: Sequence[Message]
    """The messages after the answer."""


def find_waiting_calls(conversation: Sequence[Message]) -> WaitingCalls | None:
    """Find the last answer with calls; return those of its calls that wait for an approval, or None if none does.

    They have a question or a decision, but no result.
    A refusal wins over an approval. Any other message is a refusal, too, unless an approval comes after it. A call is
    not returned if such a message comes after its approval: it may have run.
    """
    for start in range(len(conversation) - 1, -1, -1):
        answer = conversation[start]
        if isinstance(answer, AssistantMessage) and answer.tool_calls:
            break
    else:
        return None
    later = conversation[start + 1 :]
    last_other = max((number for number, each in enumerate(later) if _is_other(each)), default=-1)
    questions = _open_questions(answer, later)
    decisions: dict[ToolCall, Approval | None] = {}
    for call in answer.tool_calls:
        question = questions.get(_key(call))
        if question is None:
            continue
        decision = _decision_among(later, question)
        if decision is None and last_other >= 0:
            decision = question.refuse(_NO_DECISION)
        if decision is None or not decision.granted or decision in later[last_other + 1 :]:
            decisions[call] = decision
    return WaitingCalls(answer, decisions, later) if decisions else None


def _check_addressee(ctx: InteractionContext, waiting: WaitingCalls, toolset: Toolset) -> None:
    """Raise `ValueError` for a decision on another agent's question, about a tool that this agent does not have.

    After a handoff, the agent that took over asks, and the decision is for that agent. A decision is no error if the
    conversation went on after it.
    """
    own = ctx.this_agent.alias
    newest = takewhile(lambda message: not _is_other(message), reversed(waiting.later))
    decided = {each.call_hash_key for each in newest if isinstance(each, Approval)}
    for question in waiting.later:
        if not isinstance(question, PendingApproval) or question.agent in (None, own):
            continue
        name, is_decided = question.call.name, question.call.hash_key in decided
        if is_decided and question.call in waiting.decisions and name not in {*toolset.by_name, *toolset.foreign_names}:
            raise ValueError(
                f"The decision on the call {question.call} came to {own}, which has no such tool: send it to the agent "
                f"that asked, {question.agent} (`question.agent`)"
            )


def check_decisions(conversation: Sequence[Message], toolset: Toolset, own: str) -> None:
    """Raise `ValueError` for a decision at the end of a conversation that came to an agent without approvals.

    Such an agent would ask its model as if the call had never been decided. A decision that the conversation has gone
    on after is no error, and neither is one on a call of a tool that the caller runs.

    Args:
        conversation: the messages that the agent was sent.
        toolset: the tools of the agent. If one needs an approval or hands over, the loop looks at the decisions.
        own: alias of the agent.
    """
    if toolset.needs_approval or toolset.hands_over:
        return
    newest = [*takewhile(lambda message: not _is_other(message), reversed(conversation))]
    if not any(isinstance(message, Approval) for message in newest):
        return
    waiting = find_waiting_calls(conversation)
    for call, decision in () if waiting is None else waiting.decisions.items():
        if decision is None or decision not in newest or call.name in toolset.foreign_names:
            continue
        asked = {each.agent for each in newest if isinstance(each, PendingApproval) and each.call == call} - {None, own}
        others = "".join(f", {agent} (`question.agent`)" for agent in asked)
        raise ValueError(
            f"The decision on the call {call} came to {own}, which has no tools that need an approval: send it to the "
            f"agent that asked{others}, or give this agent the tool with `approve=`"
        )


def _open_questions(answer: AssistantMessage, later: Sequence[Message]) -> dict[Any, PendingApproval]:
    """Return the questions about calls of an answer that have no result in the messages after it, by their calls.

    A result belongs to the first question before it with the id of its call. A decision counts as its question, which
    may be lost.
    """
    questions: dict[Any, PendingApproval] = {}
    answered: set[Any] = set()
    ids_of_results: set[str | None] = set()
    by_hash = {call.hash_key: call for call in answer.tool_calls}
    for message in later:
        if isinstance(message, PendingApproval):
            questions.setdefault(_key(message.call), message)
        elif isinstance(message, Approval):
            call = by_hash.get(message.call_hash_key)
            if call is not None and call.id not in ids_of_results:
                questions.setdefault(_key(call), PendingApproval.of(call))
        elif message.role == "tool" and not getattr(message, "interrupted", False):
            id_ = getattr(message, "tool_call_id", None)
            ids_of_results.add(id_)
            open_keys = (key for key, each in questions.items() if each.call.id == id_ and key not in answered)
            answered.update([*open_keys][:1])
    return {key: question for key, question in questions.items() if key not in answered}


def _key(call: ToolCall) -> tuple[str | None, str | None, str]:
    """Return id, name and arguments of a call, which identify it: later it may have more fields."""
    return call.id, call.name, call.arguments


def _decision_among(messages: Sequence[Message], question: PendingApproval) -> Approval | None:
    """Return the decision on a question's call among the messages: a refusal, else the last approval, else None."""
    key = question.call.hash_key
    decisions = [each for each in messages if isinstance(each, Approval) and each.call_hash_key == key]
    return next((each for each in decisions if not each.granted), decisions[-1] if decisions else None)


def _is_other(message: Message) -> bool:
    """Return True if a message continues a conversation without a decision.

    Questions and decisions, errors, results of tools and instructions do not.
    """
    return not isinstance(message, (Approval, PendingApproval, ErrorMessage)) and message.role not in (
        "tool",
        "system",
        "developer",
        "error",
    )
