"""Messages: immutable values that agents send each other. Their promises are in `promise`, sequences of them in `sequence`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from miniagents.messages.llm_fields import ToolCall, Usage
from miniagents.promising.class_names import BARE
from miniagents.promising.frozen import Frozen, FrozenDict, freeze_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AssistantMessage", "ErrorMessage", "Message", "SystemMessage", "ToolCall", "Usage", "UserMessage"]


class Message(Frozen):
    """An immutable message: a text, a list of parts as providers take them, or only fields. Subclass it for typed fields.

    `str(message)` is its text; of a message without content, the JSON of its fields.

    Args:
        content: the text, or parts: str, or dicts such as `{"type": "text", "text": "..."}`.
        fields: everything else, by any name.

    Raises:
        pydantic.ValidationError: a field is not what its annotation says.
        FreezeError: a value cannot be made immutable; names the field.
    """

    # The promise of this message, and the handlers that persisted it: they belong to the object, not to the value.
    __slots__ = ("_persisted", "_promise")

    content: str | tuple[str | FrozenDict[str, Any], ...] | None = None
    role: str | None = None
    """"user", "system", "assistant", "error", or what a provider wants ("developer", "tool"); None counts as "user"."""

    def __init__(self, content: Any = None, /, **fields: Any) -> None:
        if content is not None:
            if "content" in fields:
                raise TypeError(f"{type(self).__qualname__}: content is given twice")
            fields["content"] = content
        self.__pydantic_validator__.validate_python(fields, self_instance=self)
        freeze_fields(self)

    def __str__(self) -> str:
        content = self.content
        if isinstance(content, str):
            return content
        if content is None:
            return self.model_dump_json(exclude={"content", "role"}, context=BARE)
        return "\n".join(text for text in map(_text_of_part, content) if text is not None)


def _text_of_part(part: str | FrozenDict[str, Any]) -> str | None:
    if isinstance(part, str):
        return part
    text = part.get("text")
    return text if isinstance(text, str) else None


class UserMessage(Message):
    """What a person, or an agent in their place, says to a model."""

    role: str | None = "user"


class SystemMessage(Message):
    """Instructions to a model."""

    role: str | None = "system"


class AssistantMessage(Message):
    """What a model says, and how its answer ended. What else the provider tells is kept as extra fields."""

    role: str | None = "assistant"

    model: str | None = None
    """What the API says the model was."""
    id: str | None = None
    """The provider's id of the answer."""
    finish_reason: str | None = None
    """Why the answer ended, in common words: stop, length, tool_calls, content_filter, refusal, ..."""
    provider_finish_reason: str | None = None
    """The same in the provider's own word."""
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    """The model's words for not answering."""
    reasoning: str | None = None
    """What the model thought before the answer, as far as the provider shows it."""
    choices: tuple[AssistantMessage, ...] = ()
    """The other answers, where several were asked for; this message is the first."""
    interrupted: bool = False
    """Whether the answer broke off: what is here is what had arrived."""


class ErrorMessage(Message):
    """An error put in the place of a message (`errors_as_messages`). Not a word of it is a model's."""

    role: str | None = "error"
