"""Joining messages to one and splitting their text into parts, both while the messages stream.

`join_messages` and `split_messages` are the public functions; two kinds of cells hold the parts of split messages, and
`TextSplitter` finds the places where a text splits. Independent of agents.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from miniagents._promising.promise import Cell
from miniagents._promising.sequence_cell import SequenceCell
from miniagents._promising.streamed import PumpPauses
from miniagents.errors import INTERRUPTS
from miniagents.messages._message import MessageCell, MessagePromise
from miniagents.messages._sequence import MessageSequencePromise, inherited_fields, join_sequence

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable

    from miniagents.messages._sequence import MessageType


def join_messages(
    messages: MessageType,
    delimiter: str | None = "\n\n",
    *,
    strip_leading_newlines: bool = False,
    reference_original_messages: bool = True,
    start_soon: bool | None = None,
    **metadata: Any,
) -> MessagePromise:
    """Join messages to one message promise, which passes on the tokens of each as they arrive.

    The result has the fields of all messages; of equal names, the field of the later message wins. Fields of one answer
    of a provider (usage, id, finish reason, tool calls) are left out.

    Args:
        messages: messages, or anything else that may be sent, see `MessageType`.
        delimiter: text between two messages, as a token of its own; None or "" for no delimiter.
        strip_leading_newlines: True to remove the line breaks at the beginning of each message.
        reference_original_messages: True to keep the messages in the field `original_messages` of the result.
        start_soon: True to begin without a reader; None takes the context's default.
        metadata: fields of the result, known beforehand; they win over the fields of the messages.

    Raises:
        TypeError: a part of `messages` cannot be sent.
    """
    return join_sequence(
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
    """Split messages into their parts, each a message that streams before the next part has arrived.

    The parts do not depend on how the text is divided into tokens. Each part has the fields that were known of its
    message when the part began (all fields, if the message was no stream). `part_index` is its number in the sequence,
    from 0, and `separator` the text before it. The last part of a message has the text after it in `end_separator`.
    Empty parts are dropped. So the separators and the contents of the parts, one after the other, are the text again.

    A part is resolved when the next one begins. An error comes after the text before it, as the end of the part in
    which it happened; parts of later messages still come.

    Args:
        messages: messages, or anything else that may be sent; each message is split for itself.
        delimiter: text between parts; it matches leftmost, without overlap.
        code_block_delimiter: fence of code, one character repeated. A run of this character at the start of a line, at
            least as long as the fence, opens a block; a run at least as long as the opening one closes it. A block is
            one part: no delimiter splits it. None to split everywhere.
        start_soon: True to begin without a reader; None takes the context's default.
        metadata: fields of each part, known beforehand; they win over the fields of the messages.

    Raises:
        ValueError: the delimiter is empty, or the fence is not one character repeated.
        TypeError: a part of `messages` cannot be sent.
    """
    TextSplitter(delimiter, code_block_delimiter)  # refuses a wrong delimiter at this call
    source = MessageSequencePromise.of_items(messages)
    cell = _PartsCell(MessageSequencePromise)
    cell.delimiters = (delimiter, code_block_delimiter)
    cell.metadata = metadata
    promise = MessageSequencePromise.of_cell(cell)
    cell.keep_promise(promise)
    cell.pump_from(lambda: source, start_soon=start_soon, batches=False)
    return promise


class _PartCell(MessageCell):
    """State of one part's promise. It has no task of its own: the task that splits the messages fills all parts."""

    parts: _PartsCell
    """The cell of the sequence that this part belongs to."""

    def wake_pump(self) -> None:
        """Wake the task that splits, because a reader of this part waits for more of it."""
        self.parts.wake_pump()

    def handle_lost_promise(self) -> None:
        """Stop the splitting if no reader can reach the sequence any more and this part is the last one."""
        self.call_in_loop(self._stop_unread)

    def notify_settled(self, result: Any) -> None:
        """Drop the reference to the splitting task, because this part has ended, and wake the readers of this part."""
        self.task = None
        super().notify_settled(result)

    def _stop_unread(self) -> None:
        """Cancel the splitting task if its sequence has no reader and this part is still growing."""
        if self.parts.is_unreachable and self.parts.growing_part is self:
            Cell.cancel(self.parts)

    def cancel(self) -> None:
        """End this part as cancelled, unless it has ended; the splitting goes on."""
        self.settle_as_cancelled()


class _PartsCell(SequenceCell):
    """State of the sequence of parts, whose task splits the messages."""

    delimiters: tuple[str, str | None]
    """The arguments of `TextSplitter`: the delimiter and the fence."""
    metadata: dict[str, Any]
    """Fields that the caller gave for each part."""
    growing_part: _PartCell | None = None
    """The last part, as long as more text may be added to it."""
    part_count = 0
    known_fields: dict[str, Any]
    """Fields of each part of the message that is being split."""
    separator = ""
    """Separators since the last text."""
    is_separated = False
    """True if a separator has come after the growing part: the next text begins a new part."""
    stops_without_readers = True
    is_unreachable = False
    """True if no reader can reach the sequence; the growing part may still have a reader."""

    def handle_lost_promise(self) -> None:
        """Stop the splitting, because no reader can reach the sequence; if a part is growing, stop at its end."""
        self.call_in_loop(self._stop_unread)

    def _stop_unread(self) -> None:
        """Drop the parts, which have no reader any more, and cancel the splitting task unless a part is growing."""
        self.is_unreachable = True
        self.drop_pieces()
        if self.growing_part is None:
            Cell.cancel(self)

    async def _pump(self, source: AsyncIterable[Any]) -> None:
        """Split each message of the sequence into parts."""
        async for promise in source:
            await self._split(promise)

    @property
    def has_waiting_reader(self) -> bool:
        """True if a reader waits for another part, or for more of the growing part."""
        return super().has_waiting_reader or (self.growing_part is not None and self.growing_part.has_waiting_reader)

    async def _split(self, promise: MessagePromise) -> None:
        """Read the tokens of one message, and add its parts to the sequence.

        If the message fails, its error ends the growing part, or comes after the last part.
        """
        splitter = TextSplitter(*self.delimiters)
        known = inherited_fields(promise.message_class, promise.known_beforehand.items())
        self.known_fields = {**known, **self.metadata}
        self.separator = ""
        pauses = PumpPauses(self, most_ahead=1)
        try:
            async for batch in promise.batches():
                for start in range(0, len(batch), _TOKENS_PER_LOOK):
                    for token in batch[start : start + _TOKENS_PER_LOOK]:
                        if self.growing_part is not None and not self.is_separated and splitter.is_plain(token):
                            self.growing_part.pieces.append(token)
                        else:
                            self._add_pieces(splitter.feed(token))
                    woken = self.has_waiting_reader
                    if self.growing_part is not None:
                        self.growing_part.wake()
                    if not pauses.look(woken=woken):
                        await pauses.pause()
            await promise
            self._end_message(splitter)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self._fail_message(splitter, error)

    def _add_pieces(self, pieces: list[tuple[bool, str]]) -> None:
        """Append text to the growing part, or begin a new part with it; keep separators for the fields of parts."""
        for is_text, piece in pieces:
            if not is_text:
                self.is_separated = True
                self.separator += piece
            elif self.growing_part is None or self.is_separated:
                self._begin_part().pieces.append(piece)
            else:
                self.growing_part.pieces.append(piece)

    def _begin_part(self) -> _PartCell:
        """End the growing part, send a new one to the readers, and return it.

        The new part takes over the kept separators.
        """
        self._end_part()
        part = _PartCell(MessagePromise)
        part.parts, part.on_demand = self, self.on_demand
        part.task = self.task
        part.known_fields = {**self.known_fields, "part_index": self.part_count, "separator": self.separator}
        part.metadata = {}
        self.growing_part = part
        self.part_count += 1
        self.is_separated, self.separator = False, ""
        self.send(MessagePromise.of_cell(part))
        return part

    def _end_part(self) -> None:
        """Resolve the growing part, if there is one; then cancel the splitting if no reader can reach the sequence."""
        part, self.growing_part = self.growing_part, None
        if part is not None:
            part.finish()
            if self.is_unreachable:
                Cell.cancel(self)

    def _end_message(self, splitter: TextSplitter) -> None:
        """End the last part of a message; text after that part becomes its `end_separator`."""
        self._add_pieces(splitter.close())
        if self.growing_part is not None and self.separator:
            self.growing_part.metadata = {"end_separator": self.separator}
        self._end_part()

    def _fail_message(self, splitter: TextSplitter, error: BaseException) -> None:
        """End the parts of a message with its error: in the growing part, or as a failed message after the last one."""
        self._add_pieces(splitter.close())
        if self.growing_part is None or self.is_separated:
            self._end_part()
            self.send(error)
        else:
            part, self.growing_part = self.growing_part, None
            part.fail(error)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Settle the sequence when the splitting task has ended; a part that is still growing ends as cancelled."""
        part, self.growing_part = self.growing_part, None
        if part is not None:
            part.settle_as_cancelled()
        super().task_ended(task)


TEXT: Final = True
SEPARATOR: Final = False

_TOKENS_PER_LOOK: Final = 64
"""Number of tokens that are split between two looks at the clock."""

_READING_OPENING: Final = -2
"""Length of a run while the run that opens the block is still being read."""
_PAST_LINE_START: Final = -1
"""Length of a run after the start of a line, where no run can close the block."""
_LINE_BREAK: Final = frozenset("\n")


class TextSplitter:
    """Splitter of a text that comes in tokens: it tells text from separators as early as possible.

    `feed` and `close` return pairs: `(TEXT, piece)` continues the current part or begins one; `(SEPARATOR, piece)`
    ends it (the piece may be empty). These rules hold at each place of the text, in this order:

    1. At the start of a line, a run of the fence's character at least as long as the fence opens a block of code. The
       next run at the start of a line that is at least as long as the opening run ends the block. The end of the text
       ends it, too. A block is a part of its own.
    2. The delimiter ends a part. It matches leftmost, without overlap.
    3. One line break right before or right after a block is a separator as well.

    All pieces together, in the order in which they are returned, are the whole text. The parts that they make do not
    depend on how the text is divided into tokens. Time is linear in the length of the text. The splitter holds back
    `len(delimiter) - 1` characters at most, or as many as may be the fence at the start of a line.

    Args:
        delimiter: text between parts.
        fence: text that opens and closes a block of code, one character repeated; None for no blocks.

    Raises:
        ValueError: the delimiter is empty, or the fence is not one character repeated.
    """

    def __init__(self, delimiter: str, fence: str | None) -> None:
        if not delimiter:
            raise ValueError("delimiter must not be empty: give the text that stands between the parts")
        if fence is not None and len(set(fence)) != 1:
            raise ValueError(f"code_block_delimiter must be one character repeated, such as '```', not {fence!r}")
        self._delimiter = delimiter
        self._pending = ""  # text that may become a separator, outside of blocks
        self._last_character = "\n"  # the one before the pending text; a text begins like a line
        self._after_block = False
        self._opening_length = 0  # of the run that opened the current block; 0 outside of blocks
        self._run_length = _PAST_LINE_START  # in a block: of the run at the start of the current line, so far
        special = set(delimiter)
        separators = [re.escape(delimiter)]
        if fence is not None:
            least, run = len(fence), re.escape(fence[0])
            special |= {fence[0], "\n"}
            separators = [rf"(?P<block>(?<=\n){run}{{{least}}})", *separators, rf"\n(?={run}{{{least}}})"]
            self._rest_of_run = re.compile(rf"{run}*")
            self._possible_opening = re.compile(rf"(?:\n{run}{{0,{least - 1}}}|(?<=\n){run}{{0,{least - 1}}})\Z")
        self._fence_length = 0 if fence is None else len(fence)
        self._special = frozenset(special)
        self._special_now: frozenset[str] | None = None  # characters that may end the part now; None for all
        self._separator = re.compile("|".join(separators))

    def is_plain(self, token: str) -> bool:
        """Return True if a token only continues the current part, for any text after it; it then needs no `feed`."""
        return self._special_now is not None and self._special_now.isdisjoint(token)

    def feed(self, token: str) -> list[tuple[bool, str]]:
        """Read the next token, and return the pieces of text and separators that no later token can change."""
        if not token:
            return []
        if self.is_plain(token):
            return [(TEXT, token)]
        return self._scan(token, final=False)

    def close(self) -> list[tuple[bool, str]]:
        """End the text, and return the pieces that were held back; a part of a delimiter is text then."""
        return self._scan("", final=True)

    def _scan(self, token: str, *, final: bool) -> list[tuple[bool, str]]:
        """Return the pieces of the pending text and the token, as far as they are decided; all of them if `final`."""
        found: list[tuple[bool, str]] = []
        text = self._last_character + self._pending + token
        position = len(self._last_character)
        self._pending = ""
        while position < len(text) and not self._pending:
            position = (
                self._scan_block(text, position, found)
                if self._opening_length
                else self._scan_outside(text, position, found, final)
            )
        self._last_character = text[position - 1 : position]
        self._special_now = self._find_special_characters()
        return found

    def _find_special_characters(self) -> frozenset[str] | None:
        """Return the characters that may end the current part: a token with none of them continues it.

        In a line of a block, that is the line break alone. Return None if each token must be scanned.
        """
        if self._opening_length:
            return _LINE_BREAK if self._run_length == _PAST_LINE_START else None
        if self._pending or self._after_block or self._last_character == "\n":
            return None
        return self._special

    def _scan_outside(self, text: str, position: int, found: list[tuple[bool, str]], final: bool) -> int:
        """Read text outside of blocks, up to the next separator or block, or to where more text is needed.

        Add the pieces to `found`, keep the undecided rest, and return the position of the text that is still to be
        read. If `final`, no more text comes, and nothing is undecided.
        """
        end = len(text) if final else self._find_undecided(text, position)
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
            self._opening_length, self._run_length = self._fence_length, _READING_OPENING
            return match.end()
        found.append((SEPARATOR, match[0]))
        return match.end()

    def _find_undecided(self, text: str, position: int) -> int:
        """Return the position from which on the end of the text may be the start of a separator or of a block."""
        undecided = len(text)
        for length in range(min(len(self._delimiter) - 1, len(text) - position), 0, -1):
            if text.endswith(self._delimiter[:length]):
                undecided -= length
                break
        if self._fence_length:
            match = self._possible_opening.search(text, max(position, len(text) - self._fence_length))
            if match is not None:
                undecided = min(undecided, match.start())
        return undecided

    def _scan_block(self, text: str, position: int, found: list[tuple[bool, str]]) -> int:
        """Read text of a block, up to its end or to the end of the text.

        Add the pieces to `found`, and return that position.
        """
        start = position
        while position < len(text):
            if self._run_length != _PAST_LINE_START:
                length = -position
                position = self._rest_of_run.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
                length += position
                if self._run_length == _READING_OPENING:
                    self._opening_length += length
                else:
                    self._run_length += length
                if position == len(text):
                    break
                if self._run_length >= self._opening_length:
                    self._opening_length, self._after_block = 0, True
                    break
                self._run_length = _PAST_LINE_START
            line_break = text.find("\n", position)
            if line_break < 0:
                position = len(text)
            else:
                position = line_break + 1
                self._run_length = 0
        if position > start:
            found.append((TEXT, text[start:position]))
        if not self._opening_length:
            found.append((SEPARATOR, ""))
        return position
