"""Text made of messages, and messages made of text, both while it streams.

Where a text splits, decided while it streams: no promises, no messages, no agents.

The rules, at each place of the text, in this order:

1. At the start of a line, a run of the fence's character at least as long as the fence opens a block of code. It
   ends with the next run at the start of a line that is at least as long as the opening one, or with the text. A block
   is a part of its own.
2. The delimiter ends a part. It matches leftmost, without overlap.
3. One line break right before a block, or right after it, is no text either.

What is no text is a separator. Empty parts are dropped; the separators around them come together. Text and separators,
in the order in which they are reported, are the whole text, however it was cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from miniagents._promising.promise import Cell
from miniagents._promising.sequence_cell import SequenceCell
from miniagents.errors import INTERRUPTS
from miniagents.messages._message import MessageCell, MessagePromise
from miniagents.messages._sequence import MessageSequencePromise, joined, lasting_metadata

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable

    from miniagents.messages._sequence import MessageType


TEXT: Final = True
SEPARATOR: Final = False

_OPENING: Final = -2
"""The run that opens the block is still being read."""
_LINE_BREAK: Final = frozenset("\n")
_PAST: Final = -1
"""The start of the line is past: what follows in it closes nothing."""


class TextSplitter:
    """Takes a text in tokens, and tells what of it is text and where parts end.

    `feed` and `close` return pairs: `(TEXT, piece)` goes on with the current part or begins one; `(SEPARATOR, piece)`
    ends it (the piece may be empty). Time is linear in the text. At most `len(delimiter) - 1` characters are held back,
    or as many as it takes to tell whether a line begins with a fence.

    Args:
        delimiter: what stands between parts.
        fence: what opens and closes a block of code, one character repeated; None for no blocks.

    Raises:
        ValueError: the delimiter is empty, or the fence is not one character repeated.
    """

    def __init__(self, delimiter: str, fence: str | None) -> None:
        if not delimiter:
            raise ValueError("delimiter must not be empty: say what stands between the parts")
        if fence is not None and len(set(fence)) != 1:
            raise ValueError(f"code_block_delimiter must be one character repeated, such as '```', not {fence!r}")
        self._delimiter = delimiter
        self._pending = ""  # what may become a separator, outside of blocks
        self._before = "\n"  # the last character before it: a text begins like a line
        self._after_block = False
        self._block = 0  # length of the run that opened the current block; 0 outside of blocks
        self._run = _PAST  # in a block: length of the run at the start of the current line, so far
        special = set(delimiter)
        separators = [re.escape(delimiter)]
        if fence is not None:
            least, run = len(fence), re.escape(fence[0])
            special |= {fence[0], "\n"}
            separators = [rf"(?P<block>(?<=\n){run}{{{least}}})", *separators, rf"\n(?={run}{{{least}}})"]
            self._rest_of_run = re.compile(rf"{run}*")
            self._almost_block = re.compile(rf"(?:\n{run}{{0,{least - 1}}}|(?<=\n){run}{{0,{least - 1}}})\Z")
        self._fence_length = 0 if fence is None else len(fence)
        self._special = frozenset(special)
        self._watched: frozenset[str] | None = None  # which characters matter now; None for all
        self._separator = re.compile("|".join(separators))

    def is_plain(self, token: str) -> bool:
        """Whether a token is text of the current part and nothing else, whatever comes next; it need not be fed."""
        return self._watched is not None and self._watched.isdisjoint(token)

    def feed(self, token: str) -> list[tuple[bool, str]]:
        """The next piece of the text."""
        if not token:
            return []
        if self.is_plain(token):
            return [(TEXT, token)]
        return self._scan(token, final=False)

    def close(self) -> list[tuple[bool, str]]:
        """The text has ended."""
        return self._scan("", final=True)

    def _scan(self, token: str, *, final: bool) -> list[tuple[bool, str]]:
        found: list[tuple[bool, str]] = []
        text = self._before + self._pending + token
        position = len(self._before)
        self._pending = ""
        while position < len(text) and not self._pending:
            position = (
                self._in_block(text, position, found) if self._block else self._outside(text, position, found, final)
            )
        self._before = text[position - 1 : position]
        self._watched = self._characters_that_matter()
        return found

    def _characters_that_matter(self) -> frozenset[str] | None:
        if self._block:
            return _LINE_BREAK if self._run == _PAST else None
        if self._pending or self._after_block or self._before == "\n":
            return None
        return self._special

    def _outside(self, text: str, position: int, found: list[tuple[bool, str]], final: bool) -> int:
        """Up to and with the next separator, to a block, or to where more text is needed; returns where that is."""
        end = len(text) if final else self._undecided_from(text, position)
        if self._after_block and position < end:
            self._after_block = False
            if text[position] == "\n" and not text.startswith(self._delimiter, position):
                found.append((SEPARATOR, "\n"))
                return position + 1
        match = None if position == end else self._separator.search(text, position)
        if match is not None and match.start() < end:
            end = match.start()
        else:
            match = None
            self._pending = text[end:]
        if end > position:
            found.append((TEXT, text[position:end]))
        if match is None:
            return end
        if self._fence_length and match["block"]:
            found.append((SEPARATOR, ""))
            found.append((TEXT, match["block"]))
            self._block, self._run = self._fence_length, _OPENING
            return match.end()
        found.append((SEPARATOR, match[0]))
        return match.end()

    def _undecided_from(self, text: str, position: int) -> int:
        """Where the end of the text begins that could still become a separator or open a block."""
        undecided = len(text)
        for length in range(min(len(self._delimiter) - 1, len(text) - position), 0, -1):
            if text.endswith(self._delimiter[:length]):
                undecided -= length
                break
        if self._fence_length:
            match = self._almost_block.search(text, max(position, len(text) - self._fence_length))
            if match is not None:
                undecided = min(undecided, match.start())
        return undecided

    def _in_block(self, text: str, position: int, found: list[tuple[bool, str]]) -> int:
        """Up to the end of the block, or of the text; returns where that is."""
        start = position
        while position < len(text):
            if self._run != _PAST:
                length = -position
                position = self._rest_of_run.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
                length += position
                if self._run == _OPENING:
                    self._block += length
                else:
                    self._run += length
                if position == len(text):
                    break
                if self._run >= self._block:
                    self._block, self._after_block = 0, True
                    break
                self._run = _PAST
            line_break = text.find("\n", position)
            if line_break < 0:
                position = len(text)
            else:
                position = line_break + 1
                self._run = 0
        if position > start:
            found.append((TEXT, text[start:position]))
        if not self._block:
            found.append((SEPARATOR, ""))
        return position


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
    promise = MessageSequencePromise.of_cell(cell)
    cell.keep_promise(promise)
    cell.pump_from(lambda: source, start_soon=start_soon, batches=False)
    return promise


class _PartCell(MessageCell):
    """One part. It has no task of its own: it is filled by the one that splits, which works for the other parts too."""

    parts: _PartsCell

    def request_more(self) -> None:
        """Whoever waits for this part waits for the splitting to go on."""
        self.parts.request_more()

    def handle_lost_promise(self) -> None:
        """Stop the splitting only if no other part can be read either."""
        self.call_in_loop(self._stop_unread)

    def notify_settled(self, result: Any) -> None:
        """Keep the task no longer, and so what it was reading."""
        self.task = None
        super().notify_settled(result)

    def _stop_unread(self) -> None:
        if self.parts.is_lost and self.parts.part is self:
            Cell.cancel(self.parts)

    def cancel(self) -> None:
        """Only this part ends."""
        self.settle_as_cancelled()


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
    stops_without_readers = True
    is_lost = False
    """No reader can reach the sequence; only the last part may still be read."""

    def handle_lost_promise(self) -> None:
        """Stop the splitting, unless a reader has the part that still grows; then with the end of that part."""
        self.call_in_loop(self._stop_unread)

    def _stop_unread(self) -> None:
        self.is_lost = True
        self.drop_pieces()
        if self.part is None:
            Cell.cancel(self)

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        async for promise in source:
            await self._split(promise)

    _pump_on_demand = _pump

    @property
    def has_waiting_reader(self) -> bool:
        """Somebody waits for a part, or for more of the last one."""
        return super().has_waiting_reader or (self.part is not None and self.part.has_waiting_reader)

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
                    await self.wait_for_reader()
            await promise
            self._close_part(splitter)
        except INTERRUPTS:
            raise
        except BaseException as error:
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
            if self.is_lost:
                Cell.cancel(self)

    def _close_part(self, splitter: TextSplitter) -> None:
        self._apply(splitter.close())
        if self.part is not None and self.separator:
            self.part.metadata = {"end_separator": self.separator}
        self._end_part()

    def _fail_part(self, splitter: TextSplitter, error: BaseException) -> None:
        self._apply(splitter.close())
        if self.part is None or self.ended:
            self._end_part()
            self.send(error)
        else:
            part, self.part = self.part, None
            part.fail(error)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """The last part must not stay open when the splitting is stopped."""
        part, self.part = self.part, None
        if part is not None:
            part.settle_as_cancelled()
        super().task_ended(task)
