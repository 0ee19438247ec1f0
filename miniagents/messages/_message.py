"""Messages, the immutable values that agents send each other, and promises of messages, whose text streams.

`Message`, and `MessagePromise` with its cell, which collects the tokens. Independent of roles, of sequences of messages
and of agents.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, cast

from pydantic import Field
from typing_extensions import TypeVar

from miniagents._promising.freezing import ATOMS, BARE, CONSTRUCTING, freeze
from miniagents._promising.frozen import Frozen, children_first, freeze_fields, frozen_fields, nested_frozen
from miniagents._promising.naming import CLASS_KEY, FROZEN_CLASSES, escaped
from miniagents._promising.promise import METHODS_OF_TEXT, NotAwaited, Spelling
from miniagents._promising.streamed import KEPT_ELSEWHERE, StreamCell, StreamedPromise, start_reader
from miniagents._promising.values import IN_PLACE, Form
from miniagents.errors import MiniAgentsError
from miniagents.messages._events import (
    STORED_EVENTS,
    MessageEvent,
    StoredEvent,
    read_events,
    read_partial_json,
)
from miniagents.messages._parsing import OutputType, output_type

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator

    from typing_extensions import TypeForm

    from miniagents.observing import Observation


T = TypeVar("T")


class Message(Frozen):
    """An immutable message: a text, a list of parts in a provider's form, or fields only.

    Subclass it for typed fields: `Note("text", size=3)`. `str(message)` is its text. A message without content has the
    JSON of its fields as its text.

    Args:
        content: the text, or a list of parts: str, or dicts such as `{"type": "text", "text": "..."}`.
        fields: all other fields, by any name.

    Raises:
        TypeError: the content is given twice, or has to be awaited, or the message is initialized again.
        pydantic.ValidationError: a field is not of the type of its annotation.
        FreezeError: a value cannot be made immutable; the text names the field.
    """

    # Persistence handlers that have taken this object. They belong to the object and are no part of its value.
    __slots__ = ("_persisted",)

    # kw_only=False is for type checkers: the constructor they derive for a subclass takes the content first, like ours.
    content: str | Sequence[str | Mapping[str, Any]] | None = Field(default=None, kw_only=False)
    """The text or its parts; parts become a tuple of str and `FrozenDict`."""
    role: str | None = None
    """"user", "system", "assistant", "error", or a provider's own role ("developer", "tool"); None counts as "user"."""

    def __init__(self, content: Any = None, /, **fields: Any) -> None:
        if self.__dict__:
            raise TypeError(f"{type(self).__qualname__} is immutable: it cannot be initialized again")
        if content is not None:
            if "content" in fields:
                raise TypeError(f"{type(self).__qualname__}: content is given twice")
            fields["content"] = content if type(content) is str else _check_content(content, type(self))
        self._fields_validator.validate_python(fields, self_instance=self, context=CONSTRUCTING)
        freeze_fields(self)

    @classmethod
    def promise(
        cls,
        content: Any = None,
        /,
        *,
        message_token_streamer: _MessageTokenStreamer | None = None,
        start_soon: bool | None = None,
        **known_beforehand: Any,
    ) -> MessagePromise:
        """Return a promise of a message of this class.

        Args:
            content: the content, if it is known already.
            message_token_streamer: async generator function that yields the text as str tokens. It gets a dict, which
                it may fill with fields of the resolved message.
            start_soon: True if the streamer begins without a reader; None takes the context's default.
            known_beforehand: fields that can be read before the message is resolved.

        Raises:
            TypeError: both a content and a streamer are given, or the streamer is not callable.
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
        """A resolved promise of this object; it needs no task."""
        return MessagePromise.of_message(self)

    def __str__(self) -> str:
        content = self.content
        if isinstance(content, str):
            return content
        if content is None:
            return _json_of_fields(self)
        return "\n".join(text for text in map(_text_of_part, content) if text is not None)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return an extra field; raise `AttributeError`, with the line to write for `text` and methods of a str."""
            try:
                extra = object.__getattribute__(self, "__pydantic_extra__")
            except AttributeError:  # pydantic has not filled the object yet
                extra = None
            if extra and name in extra:
                return extra[name]
            kind = type(self)
            if hasattr(kind, name):  # a property has failed, and fails again with its own error
                return object.__getattribute__(self, name)
            problem = f"{kind.__name__!r} object has no attribute {name!r}"
            if name == "text":
                problem += ": write `message.content` or `str(message)`, not `message.text`"
            elif name in METHODS_OF_TEXT:
                problem += f": write `str(message).{name}(...)`, not `message.{name}`"
            raise AttributeError(problem)

    def __contains__(self, item: object) -> NoReturn:
        """Raise `TypeError`, with the line to write: pydantic would look among pairs of a name and a value."""
        short = repr(item) if isinstance(item, str) and len(item) <= 30 else "..."
        raise TypeError(
            f"A {type(self).__name__} has a text and fields: write `{short} in str(message)`, "
            f"or `hasattr(message, ...)` for a field, not `{short} in message`"
        )

    def parse(self, type_: TypeForm[T], /) -> T:
        """Return the value of the text, which is JSON of this type.

        Args:
            type_: any type that pydantic knows. A value that is no object may stand inside of `{"value": ...}`.

        Raises:
            OutputInvalidError: the text is no JSON of this type; `partial` is this message.
            TypeError: pydantic does not know the type.
        """
        value: T = output_type(type_).read_message(self)
        return value

    def sub_messages(self) -> Iterator[Message]:
        """Return an iterator of the messages inside this one, at any depth.

        Each object comes once, after the messages inside it, in the order of the fields.
        """
        return (each for each in children_first(self) if isinstance(each, Message) and each is not self)

    def serialize(self) -> dict[str, Any]:
        """Return this message as JSON types for a store, with references in place of the messages inside it.

        A field with a message becomes `<field>__hash_key`; a field with a tuple of messages becomes
        `<field>__hash_keys`. A message among other values becomes `{"__hash_key": "..."}`. `class_` is the name of the
        class. Other values have the form that `miniagents.values.encode` returns.

        Raises:
            ValueError: another field already has the name that a reference gets.
        """
        plain = self._has_plain_fields()
        nested = not plain and nested_frozen(self)
        form = _BY_REFERENCE if nested else IN_PLACE  # the latter is faster: it does not look for messages
        return cast("dict[str, Any]", form.json(_fields_with_class(self), plain=plain))


M_co = TypeVar("M_co", bound=Message, covariant=True, default=Message)
"""A class of messages."""

FROZEN_CLASSES.unknown = Message  # a dump whose class is not known becomes a plain message


def _check_content(content: Any, kind: type) -> Any:
    """Return the content of a new message of the class `kind`, unless it has to be awaited, or is a message itself.

    Close a coroutine, which is never awaited.

    Raises:
        TypeError: the content is a promise, an awaitable or a message.
    """
    if isinstance(content, (str, list, tuple)):
        return content
    if isinstance(content, NotAwaited):
        wrong, right = content.spelling.promise, content.spelling.text or content.spelling.whole
    elif isinstance(content, Message):
        wrong, right = "message", "message.content"
    elif inspect.isawaitable(content):
        if inspect.iscoroutine(content):
            content.close()  # or Python would warn that it was never awaited, too
        wrong, right = "coroutine", "await coroutine"
    else:
        return content
    name = kind.__name__
    raise TypeError(
        f"The content of a message is a text or a list of parts, no {type(content).__name__}: write `{name}({right})`, "
        f"not `{name}({wrong})`"
    )


def _is_message(value: Any) -> bool:
    """Return True if a value is a `Message`."""
    return isinstance(value, Message)


def _fields_with_class(value: Frozen) -> dict[str, Any]:
    """Return the fields of an object after the name of its class, with references in place of messages."""
    return {CLASS_KEY: type(value).class_name, **_with_references(dict(frozen_fields(value)))}


def _reference_or_fields(value: Frozen) -> dict[str, Any]:
    """Return the form of an object inside another value: a reference to a message, the fields of anything else."""
    return {"__hash_key": value.hash_key} if _is_message(value) else _fields_with_class(value)


def _with_references(items: dict[str, Any]) -> dict[str, Any]:
    """Return items of an object or a dict with references in place of messages and of tuples of messages.

    A reference is the hash key, under the name `<name>__hash_key`, or for tuples a list under `<name>__hash_keys`.

    Raises:
        ValueError: two items get the same name.
    """
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


_BY_REFERENCE: Final = Form(_reference_or_fields, _with_references, nests=True)


def _json_of_fields(message: Message) -> str:
    """Return the fields besides content and role as JSON, without names of classes.

    If they nest too deep for that, return the repr of the message.
    """
    try:
        fields = message.model_dump(mode="json", exclude={"content", "role"}, context=BARE)
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):  # nested too deep for pydantic or json: str() must not fail for that
        return repr(message)


def _text_of_part(part: str | Mapping[str, Any]) -> str | None:
    """Return the text of a part of the content: the part itself, or its `text`; None for a part without text."""
    if isinstance(part, str):
        return part
    text = part.get("text")
    return text if isinstance(text, str) else None


_MessageTokenStreamer = Callable[[dict[str, Any]], AsyncIterable[Any]]
"""An async generator function that yields str tokens. It gets a dict, to fill with fields of the resolved message."""


class MessageCell(StreamCell[str, Message]):
    """Shared state of the promises of one message: its tokens and its other fields."""

    stops_without_readers = True
    message_class: type[Message] = Message
    known_fields: Mapping[str, Any] | None = None
    """Fields known before the message is resolved; None if the promise was made of a message."""
    metadata: dict[str, Any] | None = None
    """Fields that the token streamer has set so far."""
    may_call_tools = False
    """True if the message may be an answer with calls of tools: only its end tells if it is for readers."""
    output_type: OutputType | None = None
    """The type of the output that the message is asked to be."""
    events: list[tuple[int, StoredEvent]] | None = None
    """Events that the source has yielded beside tokens, each with the number of tokens before it."""
    event_waiters: set[asyncio.Future[None]] | None = None
    """Those of the futures in `waiters` whose tasks wait for events as well."""

    def whole(self) -> Message:
        """Return the message of the tokens so far; without a token, that of the content that the streamer has set.

        Fields that the streamer has set win over those known before.
        """
        fields = {**(self.known_fields or {}), **(self.metadata or {})}
        if not self.pieces and self.metadata and "content" in self.metadata:
            message = self.message_class(**fields)
        else:
            message = self.message_class("".join(self.pieces), **fields)
        if self.output_type is not None:
            object.__setattr__(message, "_output_type", self.output_type)
        return message

    def check(self, piece: Any) -> str:
        """Return a token as it is: a str, or a value of a subclass of str.

        Add an event to `events`, wake the tasks that wait for events, and return `KEPT_ELSEWHERE`.

        Raises:
            TypeError: the piece is neither a token nor an event.
        """
        if isinstance(piece, str):
            return piece
        if not isinstance(piece, STORED_EVENTS):
            raise TypeError(
                f"A token must be a str, not {piece!r:.100} of type {type(piece).__name__}: "
                f"yield plain strings from the token streamer"
            )
        if self.events is None:
            self.events = []
        self.events.append((len(self.pieces), piece))
        self.wake_event_readers()
        return KEPT_ELSEWHERE  # type: ignore[no-any-return]  # a mark, no token

    def take_batch(self, batch: list[str]) -> None:
        """Append tokens and wake the readers; an empty list stands for an event, and wakes readers of events only."""
        if batch:
            super().take_batch(batch)
        else:
            self.wake_event_readers()

    def share_events_of(self, other: MessageCell) -> None:
        """Use the list of events of another message, whose tokens this one streams again (`read_batches_for_events`).

        Later events of either come into this list.
        """
        if other.events is None:
            other.events = []
        self.events = other.events

    def wake_event_readers(self) -> None:
        """Wake the tasks that wait for events."""
        futures, self.event_waiters = self.event_waiters, None
        for future in futures or ():
            self.remove_waiter(future)
            if not future.done():
                future.set_result(None)

    async def wait_for_event(self) -> None:
        """Wait until there is a token or an event to read, or until the end."""
        future = self.add_waiter()
        if self.event_waiters is None:
            self.event_waiters = set()
        self.event_waiters.add(future)
        try:
            await future
        finally:
            self.remove_waiter(future)
            if self.event_waiters is not None:
                self.event_waiters.discard(future)

    async def read_batches_for_events(self) -> AsyncIterator[list[str]]:
        """Yield lists of the tokens that have come since the last list; a list is empty if only events have come.

        At the end, raise the failure, if any. It is for a cell that streams these tokens again, and shares the list of
        events.
        """
        position, events = 0, 0
        while True:
            done = self.done
            if position < len(self.pieces) or events < len(self.events or ()):
                batch, events = self.pieces[position:], len(self.events or ())
                position += len(batch)
                yield batch
            elif done:
                break
            else:
                await self.wait_for_event()
        self.result()  # raises what it failed with

    def fail(self, error: BaseException) -> None:
        """End the message with an error, unless it has ended.

        An error of MiniAgents without a `partial` gets the message so far as its `partial`.
        """
        if not self.done and isinstance(error, MiniAgentsError) and error.partial is None:
            error.partial = self.so_far()
        super().fail(error)

    def so_far(self) -> Message:
        """Return the message so far; that is a plain `Message` with the text if the other fields are not valid yet."""
        try:
            return self.whole()
        except (TypeError, ValueError):
            return Message("".join(self.pieces))

    def handle_lost_promise(self) -> None:
        """Stop the source, because no reader can reach the message any more."""
        self.call_in_loop(self.cancel)


class _LastCell(MessageCell):
    """State of the promise of the last message of a sequence, which resolves to that message itself."""

    found: list[MessagePromise]
    """The last message, once it is known."""

    def whole(self) -> Message:
        """Return the last message; before it has ended, a message of its tokens so far."""
        message = self.found[0]._cell.value if self.found else None
        return super().whole() if message is None else message


class MessagePromise(StreamedPromise[str, M_co]):
    """A promise of a message: `async for token in promise` streams its text, `await promise` returns the `Message`.

    `Message.promise(...)` makes it. A token is a str, a delta of the text. The source of the tokens is stopped
    when no reader can reach the promise any more. The class parameter is for type checkers: the class of the message.
    """

    __slots__ = ()

    _cell: MessageCell
    spelling: ClassVar[Spelling] = Spelling(piece="token", whole="str(await promise)", text="str(await promise)")

    def __init__(
        self,
        message_token_streamer: _MessageTokenStreamer,
        *,
        message_class: type[Message] = Message,
        start_soon: bool | None = None,
        batches: bool = False,
        known_beforehand: Mapping[str, Any] | None = None,
        may_call_tools: bool = False,
        output_type: OutputType | None = None,
        observation: Observation | None = None,
    ) -> None:
        if not callable(message_token_streamer):
            raise TypeError(
                f"message_token_streamer must be an async generator function of a dict, not {message_token_streamer!r}"
            )
        cell = self._cell = MessageCell(type(self))
        cell.message_class = message_class
        if may_call_tools:
            cell.may_call_tools = True
        if output_type is not None:
            cell.output_type = output_type
        # Frozen now: later changes of a list must not show, and a value that cannot be frozen is refused at this call.
        cell.known_fields = {name: freeze(value, name) for name, value in (known_beforehand or {}).items()}
        metadata: dict[str, Any] = {}
        cell.metadata = metadata
        cell.keep_promise(self)
        source: Callable[[], AsyncIterable[Any]] = partial(message_token_streamer, metadata)
        if observation is None:
            cell.pump_from(source, start_soon=start_soon, batches=batches)
        else:
            source = partial(observation.stream, cell, source)
            cell.pump_from(source, start_soon=start_soon, batches=batches, variables=observation.variables)
            if cell.deferred_start is not None:
                observation.leave_agent()  # which would go on until the message has a reader

    @classmethod
    def of_message(cls, message: Message) -> MessagePromise:
        """Return a resolved promise of this message; it needs no task."""
        cell = MessageCell(cls)
        cell.message_class = message.__class__
        if text := str(message):
            cell.pieces.append(text)
        cell.resolve_at_creation(message)
        promise = cls.__new__(cls)
        promise._cell = cell
        return promise

    @classmethod
    def of_fields(
        cls, message_class: type[Message], known_beforehand: Mapping[str, Any] | None, *, may_call_tools: bool = False
    ) -> MessagePromise:
        """Return a promise whose maker puts tokens, events and the end into its cell, without a task; not for users.

        Args:
            message_class: the class of the message.
            known_beforehand: fields that can be read before the message is resolved; None if the source had them with
                the message only.
            may_call_tools: True if the message may be an answer with calls of tools.
        """
        cell = MessageCell(cls)
        cell.message_class = message_class
        cell.known_fields = known_beforehand
        cell.may_call_tools = may_call_tools
        cell.produced_only_by_its_task = False
        promise = cls.of_cell(cell)
        cell.keep_promise(promise)
        return promise

    @classmethod
    def of_error(cls, error: BaseException, *, observed: bool = False) -> MessagePromise:
        """Return a failed promise; with `observed`, its error is not reported as one that no reader observed."""
        cell = MessageCell(cls)
        cell.observed = observed
        cell.fail(error)
        return cls.of_cell(cell)

    @classmethod
    def of_last(cls, promises: AsyncIterable[MessagePromise]) -> MessagePromise:
        """Return a promise of the last of these messages, which begins with its first reader; not for users.

        Its failure is that of the last message, or `IndexError` without any.
        """
        found: list[MessagePromise] = []
        cell = _LastCell(cls)
        cell.found = found

        async def batches() -> AsyncIterator[list[str]]:
            """Wait for the end of the sequence, and yield the tokens of its last message; `IndexError` without any."""
            last = None
            async for promise in promises:
                last = promise
            if last is None:
                raise IndexError("There is no last message: the sequence has ended without any")
            found.append(last)
            cell.share_events_of(last._cell)
            async for batch in last._cell.read_batches_for_events():
                yield batch
            await last

        promise = cls.of_cell(cell)
        cell.keep_promise(promise)
        cell.pump_from(batches, start_soon=False, batches=True)
        return promise

    def _scope(self) -> object:
        """Return the agent call that makes the message; None if the message was there before its promise."""
        return None if self._cell.known_fields is None else super()._scope()

    @property
    def known_beforehand(self) -> Mapping[str, Any]:
        """Fields known before the message is resolved; all fields but the content, if it was made of a message."""
        cell = self._cell
        if cell.known_fields is not None:
            return MappingProxyType(dict(cell.known_fields))
        message = cell.value
        return {} if message is None else {name: value for name, value in message if name != "content"}

    def events(self) -> AsyncIterator[MessageEvent]:
        """Return an iterator over the events of the message in the order of their arrival, from the first one on.

        Any number of readers may read them, at any time. `TextDelta` is a token; `ReasoningDelta`, `RefusalDelta` and
        `ToolCallDelta` are other pieces of a model's answer; `ToolCallReady` is a whole call. `AnswerRestarted` voids
        the events before it. The last event is `AnswerFinished`, with the message; a failure is raised in its place.
        """
        return start_reader(read_events(self._cell, self))

    def partial_json(self) -> AsyncIterator[Any]:
        """Return an iterator over the value of the text as JSON, as far as it has come, and at last the whole value.

        It gives a value at most once for each 2 % of growth. A failure of the message is raised in its place.

        Raises:
            ValueError: the whole text is no JSON.
        """
        return read_partial_json(self.batches())

    @property
    def message_class(self) -> type[Message]:
        """The class of the message."""
        return self._cell.message_class

    @property
    def may_call_tools(self) -> bool:
        """True if the message has calls of tools, or if only its end tells that; not for users."""
        cell = self._cell
        return cell.may_call_tools or (cell.value is not None and bool(getattr(cell.value, "tool_calls", ())))

    def __del__(self) -> None:
        """Tell the cell of an unfinished message that no reader can reach the promise any more; it stops the source."""
        cell = getattr(self, "_cell", None)
        if cell is not None and not cell.done:
            cell.handle_lost_promise()
