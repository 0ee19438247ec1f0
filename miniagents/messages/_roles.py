"""Messages by role, and the parts of an answer: its usage and its calls of tools.

`Approval` and `PendingApproval` are about the approval of a tool's call: the decision, and the question. They are parts
of a conversation, so a history keeps them; no prompt for a model has them. Independent of agents and tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miniagents._promising.frozen import Frozen
from miniagents.messages._message import Message
from miniagents.messages._parsing import O_co, OutputOf


class Usage(Frozen):
    """Numbers of tokens that a request took, with one meaning for all providers; None for a number that is not known.

    Other numbers that the provider sends are extra fields.
    """

    input_tokens: int | None = None
    """Tokens of the prompt, including those that were read from or written to a cache."""
    output_tokens: int | None = None
    """Tokens of the answer, including reasoning."""
    cached_tokens: int | None = None
    """Tokens of the prompt that were read from a cache: a part of `input_tokens`."""
    cache_write_tokens: int | None = None
    """Tokens of the prompt that were written to a cache: a part of `input_tokens`."""
    reasoning_tokens: int | None = None
    """Tokens of the model's thoughts: a part of `output_tokens`."""
    total_tokens: int | None = None
    """Tokens of prompt and answer."""
    raw: Mapping[str, Any] | None = None
    """The provider's own usage object, unchanged."""

    # Type checkers derive a constructor from the declared fields, which would refuse extra fields.
    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class ToolCall(Frozen):
    """A call of a tool that the model asks for. Other fields that the provider sends, such as `type`, are extra."""

    id: str | None = None
    name: str | None = None
    arguments: str = ""
    """The arguments as the model wrote them: usually JSON, but not checked."""
    echo: Mapping[str, str] | None = None
    """Extra fields that go back to the provider with the call: its names for them, with the names they have here."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...

    def __str__(self) -> str:
        """Return the call as Python would write it, such as `get_weather(city="Rome")`, with values as JSON."""
        try:
            values = json.loads(self.arguments or "{}")
            pairs = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        except (ValueError, AttributeError, RecursionError):  # no JSON object: as the model wrote it
            return f"{self.name}({self.arguments})"
        return f"{self.name}({', '.join(pairs)})"


class UserMessage(Message):
    """A message to a model, from a user or from an agent in the user's place."""

    role: str | None = "user"

    # Type checkers derive a constructor from the declared fields, which would refuse extra fields.
    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class SystemMessage(Message):
    """Instructions to a model."""

    role: str | None = "system"

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class AssistantMessage(Message, OutputOf[O_co]):
    """An answer of a model: its text, its other parts, and how it ended. Other fields of the provider are extra.

    The class parameter is for type checkers: the type of `parsed`. `AssistantMessage[int]` is the class itself.
    """

    # The type of the output that was asked for. It belongs to the object and is no part of its value.
    __slots__ = ("_output_type",)

    role: str | None = "assistant"

    model: str | None = None
    """The name of the model, as the API reports it."""
    id: str | None = None
    """The provider's id of the answer."""
    finish_reason: str | None = None
    """The reason for the end, in words of all providers: stop, length, tool_calls, content_filter, refusal, ..."""
    provider_finish_reason: str | None = None
    """The reason for the end in the provider's own word."""
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    """The text with which the model refuses to answer."""
    reasoning: str | None = None
    """The model's thoughts before the answer, as far as the provider shows them."""
    choices: tuple[AssistantMessage, ...] = ()
    """The second and later answers, if the request asked for several; this message is the first answer."""
    interrupted: bool = False
    """True if the answer broke off: the fields hold the part that had arrived."""
    origin: str | None = None
    """The API and the host that the answer came from, such as "chat api.openai.com"; None if it did not come from one.

    A prompt for the same origin gets what only that provider can read, such as the fields of `echo`.
    """
    echo: Mapping[str, str] | None = None
    """Fields that go back to the provider in a prompt: its names for them, with the names they have here.

    `{"reasoning_content": "reasoning"}` says that `reasoning` goes back as `reasoning_content`.
    """

    @property
    def parsed(self) -> O_co:
        """The output that the agent was asked for (`output=`), made of the text; None for an agent without output.

        Each access makes a new value. A message that was stored and loaded again has no type: `parse` takes one.

        Raises:
            OutputInvalidError: the text is no valid output, as in the message of `OutputInvalidError.partial`.
        """
        type_ = getattr(self, "_output_type", None)
        return None if type_ is None else type_.read_message(self)  # type: ignore[return-value]  # its type says None

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...

    else:
        # Pydantic's own would make another class, with another name in hashes and dumps.
        __class_getitem__ = OutputOf.__dict__["__class_getitem__"]


class ToolMessage(Message):
    """The result of a tool, for the model that called it."""

    role: str | None = "tool"

    tool_call_id: str | None = None
    """The id of the call; None if the provider has sent none."""
    name: str | None = None
    """The name of the tool."""
    is_error: bool = False
    """True if the call failed: the content says why."""

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class ErrorMessage(Message):
    """An error in the place of a message (`errors_as_messages`). It has no text of a model."""

    role: str | None = "error"

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


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
        """Return the question about a call, with a text that shows the call.

        Args:
            call: the call as the model made it.
            agent: alias of the agent that wants to run the call.
        """
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
