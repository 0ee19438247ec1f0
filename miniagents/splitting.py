"""Where a text splits, decided while it streams: no promises, no messages, no agents.

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
from typing import Final

__all__ = ["SEPARATOR", "TEXT", "TextSplitter"]

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
