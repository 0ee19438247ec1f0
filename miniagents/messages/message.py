"""Messages: immutable values that agents send each other. Their promises are in `promise`, sequences in `sequence`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from miniagents.messages.llm_fields import ToolCall, Usage
from miniagents.messages.references import serialized
from miniagents.promising.class_names import BARE
from miniagents.promising.frozen import Frozen, children_first, freeze_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents.messages.promise import MessagePromise, MessageTokenStreamer

__all__ = ["AssistantMessage", "ErrorMessage", "Message", "SystemMessage", "ToolCall", "Usage", "UserMessage"]


class Message(Frozen):
    """An immutable message: a text, a list of parts as providers take them, or only fields.

    Subclass it for typed fields: `Note("text", size=3)`. `str(message)` is its text; of a message without content, the
    JSON of its fields.

    Args:
        content: the text, or parts: str, or dicts such as `{"type": "text", "text": "..."}`.
        fields: everything else, by any name.

    Raises:
        pydantic.ValidationError: a field is not what its annotation says.
        FreezeError: a value cannot be made immutable; names the field.
    """

    # Which handlers have persisted this object: it belongs to the object, not to the value.
    __slots__ = ("_persisted",)

    # kw_only=False is for type checkers: the constructor they derive for a subclass takes the content first, like ours.
    content: str | Sequence[str | Mapping[str, Any]] | None = Field(default=None, kw_only=False)
    """The text or its parts; a tuple and `FrozenDict`s, whatever was given."""
    role: str | None = None
    """"user", "system", "assistant", "error", or what a provider wants ("developer", "tool"); None counts as "user"."""

    def __init__(self, content: Any = None, /, **fields: Any) -> None:
        if self.__dict__:
            raise TypeError(f"{type(self).__qualname__} is immutable: it cannot be initialized again")
        if content is not None:
            if "content" in fields:
                raise TypeError(f"{type(self).__qualname__}: content is given twice")
            fields["content"] = content
        self.__pydantic_validator__.validate_python(fields, self_instance=self)
        freeze_fields(self)

    @classmethod
    def promise(
        cls,
        content: Any = None,
        /,
        *,
        message_token_streamer: MessageTokenStreamer | None = None,
        start_soon: bool | None = None,
        **known_beforehand: Any,
    ) -> MessagePromise:
        """A promise of a message of this class.

        Args:
            content: the content, where it is known already.
            message_token_streamer: async generator function that gets one dict, which it may fill with fields of the
                resolved message, and yields the text as plain str tokens.
            start_soon: whether the streamer begins without a reader; None takes the context's default.
            known_beforehand: fields that can be read before the message is resolved.

        Raises:
            TypeError: both a content and a streamer, or a streamer that is no function.
        """
        from miniagents.messages.promise import MessagePromise  # it is made of messages

        if message_token_streamer is None:
            return MessagePromise.of_message(cls(content, **known_beforehand))
        if content is not None:
            raise TypeError("A message has either content or a message_token_streamer, not both")
        return MessagePromise(
            message_token_streamer, message_class=cls, start_soon=start_soon, known_beforehand=known_beforehand
        )

    @property
    def as_promise(self) -> MessagePromise:
        """A promise of this very object; it costs no task."""
        from miniagents.messages.promise import MessagePromise  # it is made of messages

        return MessagePromise.of_message(self)

    def __str__(self) -> str:
        content = self.content
        if isinstance(content, str):
            return content
        if content is None:
            return _bare_json(self)
        return "\n".join(text for text in map(_text_of_part, content) if text is not None)

    def sub_messages(self) -> Iterator[Message]:
        """The messages in the fields of this one, at any depth: depth first, children first, each object once."""
        return (each for each in children_first(self) if isinstance(each, Message) and each is not self)

    def serialize(self) -> dict[str, Any]:
        """This message as JSON types, with the messages in it by reference: what a store keeps of it.

        A field that holds a message becomes `<field>__hash_key`, a tuple of messages `<field>__hash_keys`; a message
        among other values becomes `{"__hash_key": "..."}`. `class_` is the name of the class.

        Raises:
            ValueError: another field already has the name that a reference would get.
        """
        return serialized(self)

    @classmethod
    def class_for_unknown_name(cls) -> type[Frozen]:
        """A plain message."""
        return Message


def _bare_json(message: Message) -> str:
    try:
        fields = message.model_dump(mode="json", exclude={"content", "role"}, context=BARE)
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):  # nested too deep for pydantic or json: still no reason for str() to fail
        return repr(message)


def _text_of_part(part: str | Mapping[str, Any]) -> str | None:
    if isinstance(part, str):
        return part
    text = part.get("text")
    return text if isinstance(text, str) else None


class UserMessage(Message):
    """What a person, or an agent in their place, says to a model."""

    role: str | None = "user"

    # Type checkers derive a constructor from the fields of each model, which would refuse fields of other names.
    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class SystemMessage(Message):
    """Instructions to a model."""

    role: str | None = "system"

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


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

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class ErrorMessage(Message):
    """An error put in the place of a message (`errors_as_messages`). Not a word of it is a model's."""

    role: str | None = "error"

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...
