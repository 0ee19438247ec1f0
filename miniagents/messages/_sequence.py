"""Sequences of messages: whatever may be sent, flattened to message promises.

Several messages as one, live: the mechanism behind `join_messages` and `as_single_text_promise`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Union

from pydantic import BaseModel

from miniagents._promising.sequence import FlatSequence, SequencePromise
from miniagents.errors import INTERRUPTS
from miniagents.messages._message import AssistantMessage, Message, MessagePromise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents._promising.promise import Promise


def joined(
    messages: SequencePromise[MessagePromise, tuple[Message, ...]],
    delimiter: str | None,
    *,
    strip_leading_newlines: bool,
    reference_original_messages: bool,
    start_soon: bool | None,
    metadata: Mapping[str, Any],
) -> MessagePromise:
    """One message promise with the tokens of all of them; see `miniagents.messages._text.join_messages`."""

    async def batches(fields: dict[str, Any]) -> AsyncIterator[list[str]]:
        originals: list[Message] = []
        try:
            async for promise in messages:
                if originals and delimiter:
                    yield [delimiter]
                at_start = strip_leading_newlines
                async for tokens in promise.batches():
                    if at_start:
                        tokens = _without_leading_newlines(tokens)
                        at_start = not tokens
                    yield tokens
                originals.append(await promise)
                fields.update(lasting_metadata(type(originals[-1]), originals[-1]))
        except INTERRUPTS:
            raise
        except BaseException as error:
            messages._cell.mark_all_observed(error)
            raise
        for name in metadata:
            fields.pop(name, None)  # what the caller says wins
        if reference_original_messages:
            fields["original_messages"] = tuple(originals)

    return MessagePromise(batches, start_soon=start_soon, batches=True, known_beforehand=metadata)


def lasting_metadata(message_class: type[Message], fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a message besides its content, without what belongs to one answer of a provider."""
    of_the_answer = _ANSWER_FIELDS
    if issubclass(message_class, AssistantMessage):
        of_the_answer = of_the_answer | (message_class.model_fields.keys() - Message.model_fields.keys())
    dropped = {"content", "original_messages", *of_the_answer}
    return {name: value for name, value in fields if name not in dropped and value is not None}


_ANSWER_FIELDS = AssistantMessage.model_fields.keys() - Message.model_fields.keys()


def _without_leading_newlines(tokens: list[str]) -> list[str]:
    """The tokens from the first character on that is no newline; empty when all are newlines."""
    for index, token in enumerate(tokens):
        if rest := token.lstrip("\r\n"):
            return [rest, *tokens[index + 1 :]]
    return []


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
