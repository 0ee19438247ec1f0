"""Text made of messages, and messages made of text, both while it streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.messages import MessagePromise, MessageSequencePromise
from miniagents.messages.joining import joined, lasting_metadata
from miniagents.messages.promise import MessageCell
from miniagents.promising.sequence import SequenceCell
from miniagents.splitting import TextSplitter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable

    from miniagents.messages import MessageType

__all__ = ["join_messages", "split_messages"]


def join_messages(
    messages: MessageType,
    delimiter: str | None = "\n\n",
    *,
    strip_leading_newlines: bool = False,
    reference_original_messages: bool = True,
    start_soon: bool | None = None,
    **metadata: Any,
) -> MessagePromise:
    """One message out of many; the tokens of each pass through as they arrive.

    Args:
        messages: whatever may be sent.
        delimiter: what stands between two messages, as a token of its own; None or "" for nothing.
        strip_leading_newlines: whether each message loses the line breaks it begins with.
        reference_original_messages: whether the result has the messages in its field `original_messages`.
        start_soon: whether it begins without a reader; None takes the context's default.
        metadata: fields of the result, known beforehand. They beat the fields of the messages, which are merged, the
            later winning; what belongs to one answer of a provider (usage, id, finish reason, tool calls) is left
            out.

    Raises:
        TypeError: a part of `messages` cannot be sent.
    """
    return joined(
        MessageSequencePromise.of_items(messages),
        delimiter,
        strip_leading_newlines=strip_leading_newlines,
        reference_original_messages=reference_original_messages,
        start_soon=start_soon,
        metadata=metadata,
    )


def split_messages(
    messages: MessageType,
    delimiter: str = "\n\n",
    code_block_delimiter: str | None = "```",
    *,
    start_soon: bool | None = None,
    **metadata: Any,
) -> MessageSequencePromise:
    """The parts of messages, each a message that streams while the rest has not arrived.

    The parts do not depend on how the text was cut into tokens. Each carries the fields that were known of its message
    when it began (all of them, if it was no stream), `part_index`, and in `separator` what stood before it; the last
    part of a message has in `end_separator` what stood after it. Empty parts are dropped. So the separators and the
    contents of the parts, one after the other, are the text again.

    A part is resolved when the next one begins. An error comes after the text before it, as the end of the part in
    which it happened; later messages still come.

    Args:
        messages: whatever may be sent; each message is split for itself.
        delimiter: what stands between parts; matches leftmost, without overlap.
        code_block_delimiter: what fences code; at least so many of its characters at the start of a line open a block,
            and as many close it. A block is a part of its own, in which nothing splits. None to split everywhere.
        start_soon: whether it begins without a reader; None takes the context's default.
        metadata: fields of each part, known beforehand; they beat the fields of the messages.

    Raises:
        ValueError: the delimiter is empty.
        TypeError: a part of `messages` cannot be sent.
    """
    TextSplitter(delimiter, code_block_delimiter)  # so that a delimiter that cannot work fails here
    source = MessageSequencePromise.of_items(messages)
    cell = _PartsCell(MessageSequencePromise)
    cell.delimiters = (delimiter, code_block_delimiter)
    cell.metadata = metadata
    cell.pump_from(lambda: source, start_soon=start_soon, batches=False)
    return MessageSequencePromise.of_cell(cell)


class _PartCell(MessageCell):
    """One part. It has no task of its own: it is filled by the one that splits, which works for the other parts too."""

    parts: _PartsCell

    def demanded(self) -> None:
        """Whoever waits for this part waits for the splitting to go on."""
        self.parts.demanded()

    def abandon(self) -> None:
        """That nobody reads this part stops no other."""

    def cancel(self) -> None:
        """Only this part ends."""
        self.cancelled()


class _PartsCell(SequenceCell):
    """The parts, and what splits messages into them."""

    delimiters: tuple[str, str | None]
    metadata: dict[str, Any]
    part: _PartCell | None = None
    """The part that may still grow."""
    count = 0
    known: dict[str, Any]
    separator = ""
    ended = False
    """A separator has come after the part, or there is none yet."""

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        async for promise in source:
            await self._split(promise)

    _pump_on_demand = _pump

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for a part, or for more of the last one."""
        return super().is_wanted or (self.part is not None and self.part.is_wanted)

    async def _split(self, promise: MessagePromise) -> None:
        splitter = TextSplitter(*self.delimiters)
        known = lasting_metadata(promise.message_class, promise.known_beforehand.items())
        self.known = {**known, **self.metadata}
        self.separator = ""
        try:
            async for tokens in promise.batches():
                for token in tokens:
                    if self.part is not None and not self.ended and splitter.is_plain(token):
                        self.part.pieces.append(token)
                    else:
                        self._apply(splitter.feed(token))
                if self.part is not None:
                    self.part.wake()
                if self.on_demand:
                    await self.until_wanted()
            await promise
            self._close_part(splitter)
        except Exception as error:
            self._fail_part(splitter, error)

    def _apply(self, found: list[tuple[bool, str]]) -> None:
        for is_text, piece in found:
            if not is_text:
                self.ended = True
                self.separator += piece
            elif self.part is None or self.ended:
                self._new_part().pieces.append(piece)
            else:
                self.part.pieces.append(piece)

    def _new_part(self) -> _PartCell:
        self._end_part()
        part = _PartCell(MessagePromise)
        part.parts, part.on_demand = self, self.on_demand
        part.task = self.task
        part.known = {**self.known, "part_index": self.count, "separator": self.separator}
        part.metadata = {}
        self.part = part
        self.count += 1
        self.ended, self.separator = False, ""
        self.send(MessagePromise.of_cell(part))
        return part

    def _end_part(self) -> None:
        part, self.part = self.part, None
        if part is not None:
            part.finish()

    def _close_part(self, splitter: TextSplitter) -> None:
        self._apply(splitter.close())
        if self.part is not None and self.separator:
            self.part.metadata = {"end_separator": self.separator}
        self._end_part()

    def _fail_part(self, splitter: TextSplitter, error: Exception) -> None:
        self._apply(splitter.close())
        if self.part is None or self.ended:
            self._end_part()
            self.send(error)
        else:
            part, self.part = self.part, None
            part.fail(error)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """The last part must not stay open when the splitting is stopped."""
        if self.part is not None:
            self.part.cancelled()
        super().task_ended(task)
