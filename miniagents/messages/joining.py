"""Several messages as one, live: the mechanism behind `join_messages` and `as_single_text_promise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.messages.message import AssistantMessage, Message
from miniagents.messages.promise import MessagePromise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from miniagents.promising.sequence import SequencePromise

__all__ = ["joined", "lasting_metadata"]


def joined(
    messages: SequencePromise[MessagePromise, tuple[Message, ...]],
    delimiter: str | None,
    *,
    strip_leading_newlines: bool,
    reference_original_messages: bool,
    start_soon: bool | None,
    metadata: Mapping[str, Any],
) -> MessagePromise:
    """One message promise with the tokens of all of them; see `miniagents.text.join_messages`."""

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
        except Exception as error:
            messages._cell.observe_all(error)
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
