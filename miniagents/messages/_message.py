"""Messages: immutable values that agents send each other. Their promises are in `promise`, sequences in `sequence`.

Messages as a store keeps them: JSON types, with other messages by their hash keys.

The parts of a model's answer that are neither its text nor a plain word: token counts and tool calls.

MessagePromise: a message whose text streams while it is written.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import Field

from miniagents._promising.freezing import ATOMS, BARE, CLASS_KEY, CONSTRUCTING, FROZEN_CLASSES, escaped, freeze
from miniagents._promising.frozen import Frozen, children_first, freeze_fields, frozen_fields, nested_frozen
from miniagents._promising.streamed import StreamCell, StreamedPromise
from miniagents._promising.values import IN_PLACE, Form
from miniagents.errors import MiniAgentsError

if TYPE_CHECKING:
    from collections.abc import Iterator


def serialized(message: Message) -> dict[str, Any]:
    """Return `Message.serialize()`."""
    nested = bool(nested_frozen(message))
    form = _BY_REFERENCE if nested else IN_PLACE  # the latter is faster: it does not look for messages
    return cast("dict[str, Any]", form.json(_fields(message), flat=not nested))


def _is_message(value: Any) -> bool:

    return isinstance(value, Message)


def _fields(value: Frozen) -> dict[str, Any]:
    return {CLASS_KEY: type(value).class_name, **_with_references(dict(frozen_fields(value)))}


def _nested(value: Frozen) -> dict[str, Any]:
    return {"__hash_key": value.hash_key} if _is_message(value) else _fields(value)


def _with_references(items: dict[str, Any]) -> dict[str, Any]:
    items = escaped(items)
    if ATOMS.issuperset(map(type, items.values())):
        return items
    result: dict[str, Any] = {}
    for name, value in items.items():
        if _is_message(value):
            name, value = f"{name}__hash_key", value.hash_key
        elif type(value) is tuple and value and all(map(_is_message, value)):
            name, value = f"{name}__hash_keys", [item.hash_key for item in value]
        if name in result:
            raise ValueError(f"Two fields would be serialized as {name!r}; rename one of them")
        result[name] = value
    return result


_BY_REFERENCE: Final = Form(_nested, _with_references, nests=True)


class Usage(Frozen):
    """How many tokens a request took, as the provider counts them.

    What else the provider tells is kept as extra fields. `cached_tokens` are a part of `input_tokens`,
    `reasoning_tokens` of `output_tokens`; None is what the provider did not say.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None

    # Type checkers derive a constructor from the fields of each model, which would refuse the extra ones.
    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


class ToolCall(Frozen):
    """A tool that the model wants called. What else the provider tells (its type, say) is kept as extra fields."""

    id: str | None = None
    name: str | None = None
    arguments: str = ""
    """The arguments as the model wrote them: usually JSON, which nobody has checked."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...


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
        self._fields_validator.validate_python(fields, self_instance=self, context=CONSTRUCTING)
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
        """Return this message as JSON types, with the messages in it by reference: what a store keeps of it.

        A field that holds a message becomes `<field>__hash_key`, a tuple of messages `<field>__hash_keys`; a message
        among other values becomes `{"__hash_key": "..."}`. `class_` is the name of the class; other values are as
        `miniagents.values.encode` gives them.

        Raises:
            ValueError: another field already has the name that a reference would get.
        """
        return serialized(self)


FROZEN_CLASSES.unknown = Message


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


MessageTokenStreamer = Callable[[dict[str, Any]], AsyncIterable[Any]]
"""An async generator function: gets a dict, which it may fill with fields of the resolved message, and yields str."""


class MessageCell(StreamCell[str, Message]):
    """Tokens, and what is known of the message beside its text."""

    stops_without_readers = True
    message_class: type[Message] = Message
    known: Mapping[str, Any] | None = None
    """Fields known before the message is resolved; None of a message that was there from the beginning."""
    metadata: dict[str, Any] | None = None
    """What the token streamer has told of the message."""

    def whole(self) -> Message:
        """The message the tokens make."""
        return self.message_class("".join(self.pieces), **{**(self.known or {}), **(self.metadata or {})})

    def check(self, piece: Any) -> str:
        """A token is a str; subclasses of it are taken as they are."""
        if not isinstance(piece, str):
            raise TypeError(
                f"A token must be a str, not {piece!r:.100} of type {type(piece).__name__}: "
                f"yield plain strings from the token streamer"
            )
        return piece

    def fail(self, error: BaseException) -> None:
        """What had arrived goes along with errors of our own."""
        if not self.done and isinstance(error, MiniAgentsError) and error.partial is None:
            try:
                error.partial = self.whole()
            except (TypeError, ValueError):  # metadata that does not fit yet: the text is what must not be lost
                error.partial = Message("".join(self.pieces))
        super().fail(error)

    def handle_lost_promise(self) -> None:
        """Stop the source, as no reader can reach this any more."""
        self.call_in_loop(self.cancel)


class MessagePromise(StreamedPromise[str, Message]):
    """A promise of a message: `async for token in promise` streams its text, `await promise` gives the `Message`.

    Made by `Message.promise(...)`. A token is a plain str, one delta of text. When nobody can read a promise any more,
    the source of its tokens is stopped.
    """

    __slots__ = ()

    _cell: MessageCell

    def __init__(
        self,
        message_token_streamer: MessageTokenStreamer,
        *,
        message_class: type[Message] = Message,
        start_soon: bool | None = None,
        batches: bool = False,
        known_beforehand: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(message_token_streamer):
            raise TypeError(
                f"message_token_streamer must be an async generator function of a dict, not {message_token_streamer!r}"
            )
        cell = self._cell = MessageCell(type(self))
        cell.message_class = message_class
        # frozen now: what its owner does to a list later must not show, and a value that cannot be kept is refused here
        cell.known = {name: freeze(value, name) for name, value in (known_beforehand or {}).items()}
        metadata: dict[str, Any] = {}
        cell.metadata = metadata
        cell.keep_promise(self)
        cell.pump_from(lambda: message_token_streamer(metadata), start_soon=start_soon, batches=batches)

    @classmethod
    def of_message(cls, message: Message) -> MessagePromise:
        """A promise that is resolved already; it costs no task."""
        cell = MessageCell(cls)
        cell.message_class = message.__class__
        if text := str(message):
            cell.pieces.append(text)
        cell.resolve_at_creation(message)
        promise = cls.__new__(cls)
        promise._cell = cell
        return promise

    @classmethod
    def of_error(cls, error: BaseException, *, observed: bool = False) -> MessagePromise:
        """A promise that has failed already."""
        cell = MessageCell(cls)
        cell.observed = observed
        cell.fail(error)
        return cls.of_cell(cell)

    @property
    def known_beforehand(self) -> Mapping[str, Any]:
        """Fields of the message that are known before it is resolved; all of a message that was there already."""
        cell = self._cell
        if cell.known is not None:
            return MappingProxyType(dict(cell.known))
        message = cell.value
        return {} if message is None else {name: value for name, value in message if name != "content"}

    @property
    def message_class(self) -> type[Message]:
        """The class of the message to come."""
        return self._cell.message_class

    def __del__(self) -> None:
        cell = getattr(self, "_cell", None)
        if cell is not None and not cell.done:
            cell.handle_lost_promise()
