"""Approvals: ask an agent about a call, and read the decisions of a conversation that goes on after a question.

A decision is an `Approval`; text never becomes one. A conversation that any other message has continued without a
decision has refused the call. Independent of models and of the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.messages import Approval, AssistantMessage, ErrorMessage, Message, PendingApproval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents._agents.agent import MiniAgent
    from miniagents.messages import ToolCall

_NO_DECISION = "the conversation went on without an approval"
"""Reason of a refusal by any other message."""


async def ask_for_approval(approver: MiniAgent[Any], question: PendingApproval) -> Approval | None:
    """Send an agent the question about a call, and return its decision; None if it replies nothing.

    An agent that replies anything else has refused the call, with its text as the reason.

    Raises:
        Exception: the agent has failed.
    """
    replies = approver.trigger(question, errors_as_messages=False)
    try:
        messages = await replies
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
    """Return the calls that have a question or a decision and no result; None if there are none.

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
    """Return what identifies a call: further fields may come after the question was asked."""
    return call.id, call.name, call.arguments


def _decision_among(messages: Sequence[Message], question: PendingApproval) -> Approval | None:
    """Return a refusal of the call among the messages, or else its last approval, or None."""
    key = question.call.hash_key
    decisions = [each for each in messages if isinstance(each, Approval) and each.call_hash_key == key]
    return next((each for each in decisions if not each.granted), decisions[-1] if decisions else None)


def _is_other(message: Message) -> bool:
    """Return True for a message of a user or a model that is no part of an approval."""
    return not isinstance(message, (Approval, PendingApproval, ErrorMessage)) and message.role not in (
        "tool",
        "system",
        "developer",
        "error",
    )
