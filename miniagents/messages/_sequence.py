"""Sequences of messages: everything that may be sent, flattened to message promises.

`MessageSequence` is the sending end, `MessageSequencePromise` the reading end. `join_sequence` makes one message of a
sequence while it streams, for `join_messages` and `as_single_text_promise`. Independent of agents.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Union

from pydantic import BaseModel, ValidationError

from miniagents._promising.promise import Spelling
from miniagents._promising.sequence import FlatSequence, SequencePromise
from miniagents.errors import INTERRUPTS
from miniagents.messages._message import M_co, Message, MessagePromise
from miniagents.messages._roles import AssistantMessage, ToolMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from miniagents._promising.promise import Promise


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
"""Values that may be sent: text, messages, their promises, a dict of fields, any pydantic model, an exception, and
sequences, iterables and async iterables of these, nested at will.

Readers get an exception as a failed message in its place.
"""


class MessageSequencePromise(SequencePromise[MessagePromise[M_co], tuple[M_co, ...]]):
    """A promise of a sequence of messages. The class parameter is for type checkers: the class of the messages.

    `async for message_promise in sequence` yields message promises as they come. `await sequence` returns the tuple of
    messages, or raises the error of the first message that failed, in the order of the messages.
    """

    __slots__ = ()

    spelling: ClassVar[Spelling] = Spelling(
        promise="replies",
        piece="reply",
        whole="await replies",
        single="(await replies.last)",
        text="str(await replies.last)",
    )
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
        """Join all messages to one message promise, which by default begins with its first reader.

        Results of tools and answers with calls of tools are left out. The arguments are those of `join_messages`.
        """
        return join_sequence(
            self,
            delimiter,
            strip_leading_newlines=strip_leading_newlines,
            reference_original_messages=reference_original_messages,
            start_soon=start_soon,
            metadata=metadata,
            without_tools=True,
        )

    def values_so_far(self) -> Iterator[Message]:
        """Return the messages that were sent as values by now, without nested sequences; not for users."""
        return (piece for piece in self._cell.pieces if Message in type(piece).__mro__)

    @property
    def last(self) -> MessagePromise[M_co]:
        """A promise of the last message, such as the final answer of an agent with tools.

        It begins with its first reader. Its tokens come once it is known to be the last message. It fails with the
        error of that message, or with an `IndexError` if there is no message.
        """
        last: MessagePromise[Any] = MessagePromise.of_last(self)
        return last

    @classmethod
    def make_value(cls, item: Any) -> Message:
        """Return a message made of a text, a dict of fields, or the fields of a pydantic model.

        Raises:
            TypeError: the item is none of these.
        """
        if isinstance(item, str):
            return Message(item)
        if isinstance(item, (dict, Mapping)):
            return _message_of_fields(item)
        if isinstance(item, BaseModel):
            return _message_of_fields(dict(item))
        sent = f"{item!r:.100} of type {type(item).__name__}"
        error = TypeError(
            f"Cannot send {sent}{_hint(item)}. What can be sent: str, Message, message promises, dicts of fields, "
            "pydantic models, exceptions, and lists, tuples, iterators and async iterables of these"
        )
        error.sent = sent  # type: ignore[attr-defined]  # the tool loop knows by it what an approver replied
        raise error

    @classmethod
    def leaf_of_value(cls, value: Any) -> MessagePromise:
        """Return a resolved promise of a message that was sent, for the readers of the sequence."""
        return MessagePromise.of_message(value)

    @classmethod
    def failed_leaf(cls, error: BaseException, *, observed: bool = False) -> MessagePromise:
        """Return a failed promise in place of a message.

        With `observed`, its error is not reported as one that no reader observed.
        """
        return MessagePromise.of_error(error, observed=observed)


def _hint(item: Any) -> str:
    """Return what to write in place of an agent, an awaitable or a number that was sent; "" for other items.

    Close a coroutine, which is never awaited.
    """
    if hasattr(type(item), "trigger"):
        return ": send `agent.trigger(...)`, not `agent`"
    if inspect.isawaitable(item):
        if inspect.iscoroutine(item):
            item.close()  # or Python would warn that it was never awaited, too
        return ": write `await` before it, `await coroutine`, not `coroutine`"
    return f': send `"{item}"`, not `{item}`' if isinstance(item, (int, float)) else ""


def _message_of_fields(fields: Mapping[Any, Any]) -> Message:
    """Return a plain message with these fields; a name of a class among them is ignored.

    Raise `TypeError` if a name is not a str, or a field is of a wrong type.
    """
    if not all(isinstance(name, str) for name in fields):
        raise TypeError("A dict that is sent as a message must have field names (str) as keys")
    rest = {name: value for name, value in fields.items() if name not in ("content", "class_")}
    try:
        return Message(fields.get("content"), **rest)
    except ValidationError as error:
        name = error.errors(include_url=False)[0]["loc"][0]
        wrong = fields.get(name)
        raise TypeError(
            f"Cannot send a dict whose {name!r} is of type {type(wrong).__name__}: write `{{{str(name)!r}: '...'}}`, "
            f"not `{{{str(name)!r}: {wrong!r:.40}}}`"
        ) from None


class MessageSequence(FlatSequence[MessagePromise]):
    """The sending end of a sequence of messages: `with sequence: sequence.append("Hello")`."""

    promise_class: ClassVar[type[SequencePromise[Any, Any]]] = MessageSequencePromise

    @property
    def sequence_promise(self) -> MessageSequencePromise:
        """The promise that readers read."""
        return MessageSequencePromise.of_cell(self._cell)

    @classmethod
    def turn_into_sequence_promise(cls, messages: MessageType | None) -> MessageSequencePromise:
        """Return a sequence promise of anything that may be sent; a sequence promise is returned unchanged.

        Raises:
            TypeError: a part of `messages` cannot be sent.
        """
        return MessageSequencePromise.of_items(messages)


def join_sequence(
    messages: SequencePromise[MessagePromise, tuple[Message, ...]],
    delimiter: str | None,
    *,
    strip_leading_newlines: bool,
    reference_original_messages: bool,
    start_soon: bool | None,
    metadata: Mapping[str, Any],
    without_tools: bool = False,
) -> MessagePromise:
    """Return one message promise with the tokens of all messages, and `delimiter` between two messages.

    The arguments are those of `miniagents.messages._text.join_messages`. Fields of later messages win, and `metadata`
    wins over all. An error among the messages ends the joined message and counts as observed.

    With `without_tools`, leave out results of tools, and answers with calls of tools.
    """

    async def stream_batches(fields: dict[str, Any]) -> AsyncIterator[list[str]]:
        originals: list[Message] = []
        try:
            async for promise in messages:
                if without_tools and await _is_for_tools(promise):
                    continue
                if originals and delimiter:
                    yield [delimiter]
                at_start = strip_leading_newlines
                async for tokens in promise.batches():
                    if at_start:
                        tokens = _strip_leading_newlines(tokens)
                        at_start = not tokens
                    yield tokens
                originals.append(await promise)
                fields.update(inherited_fields(type(originals[-1]), originals[-1]))
        except INTERRUPTS:
            raise
        except BaseException as error:
            messages._cell.mark_all_observed(error)
            raise
        for name in metadata:
            fields.pop(name, None)  # the caller's fields win
        if reference_original_messages:
            fields["original_messages"] = tuple(originals)

    return MessagePromise(stream_batches, start_soon=start_soon, batches=True, known_beforehand=metadata)


async def _is_for_tools(promise: MessagePromise) -> bool:
    """Return True for the result of a tool, and for an answer with calls of tools, whose end this waits for.

    Return False for a message that fails, so that its readers get the tokens before the error.
    """
    is_result = issubclass(promise.message_class, ToolMessage)
    if not (is_result or promise.may_call_tools):
        return False
    try:
        message = await promise
    except INTERRUPTS:
        raise
    except BaseException:
        return False
    return is_result or bool(getattr(message, "tool_calls", ()))


def inherited_fields(message_class: type[Message], fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields that a joined message or a part of a split one takes over from a message of this class.

    These are all fields but the content, the original messages, the fields of one answer of a provider, and those
    that are None.
    """
    answer_fields = _ANSWER_FIELDS
    if issubclass(message_class, AssistantMessage):
        answer_fields = answer_fields | (message_class.model_fields.keys() - Message.model_fields.keys())
    dropped = {"content", "original_messages", *answer_fields}
    return {name: value for name, value in fields if name not in dropped and value is not None}


_ANSWER_FIELDS = AssistantMessage.model_fields.keys() - Message.model_fields.keys()


def _strip_leading_newlines(tokens: list[str]) -> list[str]:
    """Return the tokens from the first character that is no line break; an empty list if there is none."""
    for index, token in enumerate(tokens):
        if rest := token.lstrip("\r\n"):
            return [rest, *tokens[index + 1 :]]
    return []
