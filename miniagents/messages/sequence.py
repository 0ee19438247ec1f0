"""Sequences of messages: whatever may be sent, flattened to message promises."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Union

from pydantic import BaseModel

from miniagents.messages.joining import joined
from miniagents.messages.message import Message
from miniagents.messages.promise import MessagePromise
from miniagents.promising.sequence import FlatSequence, SequencePromise

if TYPE_CHECKING:
    from miniagents.promising.promise import Promise

__all__ = ["MessageSequence", "MessageSequencePromise", "MessageType"]

MessageType = Union[
    str,
    Message,
    MessagePromise,
    Mapping[str, Any],
    BaseModel,
    Exception,
    "MessageSequencePromise",
    Iterable["MessageType"],
    AsyncIterable["MessageType"],
]
"""What may be sent: text, messages, their promises, a dict of fields, any pydantic model, an exception (raised where it
stands), and sequences, iterables and async iterables of these, nested at will."""


class MessageSequencePromise(SequencePromise[MessagePromise, tuple[Message, ...]]):
    """A promise of a sequence of messages.

    `async for message_promise in sequence` gives message promises as they come; `await sequence` gives the tuple of
    messages, or raises the first error in their order.
    """

    __slots__ = ()

    leaf_class: ClassVar[type[Promise[Any]]] = MessagePromise
    value_class: ClassVar[type] = Message

    def as_single_text_promise(
        self,
        delimiter: str | None = "\n\n",
        *,
        strip_leading_newlines: bool = False,
        reference_original_messages: bool = True,
        start_soon: bool | None = False,
        **metadata: Any,
    ) -> MessagePromise:
        """All messages as one, joined as it is read; the arguments are those of `join_messages`."""
        return joined(
            self,
            delimiter,
            strip_leading_newlines=strip_leading_newlines,
            reference_original_messages=reference_original_messages,
            start_soon=start_soon,
            metadata=metadata,
        )

    @classmethod
    def make_value(cls, item: Any) -> Message:
        """A message out of text, a dict of fields or another pydantic model."""
        if isinstance(item, str):
            return Message(item)
        if isinstance(item, (dict, Mapping)):
            return _of_fields(item)
        if isinstance(item, BaseModel):
            return _of_fields(dict(item))
        raise TypeError(
            f"Cannot send {item!r:.100} of type {type(item).__name__}. What can be sent: str, Message, "
            f"message promises, dicts of fields, pydantic models, exceptions, and lists, tuples, iterators "
            f"and async iterables of these"
        )

    @classmethod
    def leaf_of_value(cls, value: Any) -> MessagePromise:
        """A promise of a message that is there already."""
        return MessagePromise.of_message(value)

    @classmethod
    def failed_leaf(cls, error: BaseException, *, observed: bool = False) -> MessagePromise:
        """A message that has failed already."""
        return MessagePromise.of_error(error, observed=observed)


def _of_fields(fields: Mapping[Any, Any]) -> Message:
    if not all(isinstance(name, str) for name in fields):
        raise TypeError("A dict that is sent as a message must have field names (str) as keys")
    rest = {name: value for name, value in fields.items() if name not in ("content", "class_")}
    return Message(fields.get("content"), **rest)


class MessageSequence(FlatSequence[MessagePromise]):
    """The sending end of a sequence of messages: `with sequence: sequence.append("Hello")`."""

    promise_class: ClassVar[type[SequencePromise[Any, Any]]] = MessageSequencePromise

    @property
    def sequence_promise(self) -> MessageSequencePromise:
        """What readers read."""
        return MessageSequencePromise.of_cell(self._cell)

    @classmethod
    def turn_into_sequence_promise(cls, messages: MessageType | None) -> MessageSequencePromise:
        """Anything that may be sent, as a sequence promise; a sequence promise is returned as it is.

        Raises:
            TypeError: a part of it cannot be sent.
        """
        return MessageSequencePromise.of_items(messages)
