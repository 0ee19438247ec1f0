"""Messages about the approval of a tool's call: the question, and the decision.

They are parts of a conversation, so a history keeps them. No prompt for a model has them. Independent of tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.messages._message import Message, ToolCall


class Approval(Message):
    """A decision on one call of a tool, which `PendingApproval.grant` and `.refuse` make.

    Its content is the reason of a refusal. It fits no call with other arguments, and does nothing once the call has a
    result.
    """

    role: str | None = "approval"

    granted: bool
    """True if the call may run, False if it is refused."""
    call_hash_key: str
    """The `hash_key` of the call."""

    # Type checkers derive a constructor from the declared fields, which would refuse extra fields.
    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, *, granted: bool, call_hash_key: str, **fields: Any) -> None: ...


class PendingApproval(Message):
    """A question: may this call of a tool run? Its text shows the call to people; the decision is on the field `call`.

    The agent that a tool has as `approve=` is sent one for each call, and replies `grant()` or `refuse()`. If that
    agent replies nothing, the question is the last reply of the agent that wants to run the call.
    """

    role: str | None = "approval"

    call: ToolCall
    """The call as the model made it."""
    agent: str | None = None
    """Alias of the agent that wants to run the call, to which a later decision is sent."""

    if TYPE_CHECKING:

        def __init__(
            self, content: Any = None, /, *, call: ToolCall, agent: str | None = None, **fields: Any
        ) -> None: ...

    @classmethod
    def of(cls, call: ToolCall, agent: str | None = None) -> PendingApproval:
        """Return the question about a call, with a text that shows the call."""
        return cls(f"Needs approval: {call}", call=call, agent=agent)

    def grant(self) -> Approval:
        """Return the approval: the call may run."""
        return Approval(granted=True, call_hash_key=self.call.hash_key)

    def refuse(self, reason: str | None = None) -> Approval:
        """Return the refusal: the call does not run, and the model is told the reason.

        Args:
            reason: text for the model.
        """
        return Approval(reason, granted=False, call_hash_key=self.call.hash_key)
