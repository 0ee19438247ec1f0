"""What one stream says, as styled text: pieces in, text to print out. Knows no screen and no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from miniagents.ext._terminal import TerminalFilter
from miniagents_testing.cli.screen import one_line, styled

if TYPE_CHECKING:
    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette.pieces import Piece
    from miniagents_testing.cassette.reading import Reading

__all__ = ["Transcript", "prompt_text"]

_BEGINNINGS = {"reasoning": "thinking: ", "refusal": "refusal: ", "tool": "→ "}
_STYLES = {"reasoning": "dim italic", "refusal": "red", "tool": "cyan"}
_PROMPT_LIMIT = 1000
_EXCERPT = 300


class Transcript:
    """Puts line breaks and names between pieces of different kinds; what is printed does not depend on any cuts."""

    def __init__(self) -> None:
        self._filter = TerminalFilter()
        self._part: tuple[str, str] | None = None
        self._fresh_line = True

    def add(self, piece: Piece) -> Text:
        """The text to print for this piece."""
        text = Text()
        style = _STYLES.get(piece.kind, "")
        if (piece.kind, piece.part) != self._part:
            text.append_text(self.break_line())
            self._part = (piece.kind, piece.part)
            text.append(_BEGINNINGS.get(piece.kind, f"choice {piece.part}: " if piece.kind == "choice" else ""), style)
        said = self._filter.feed(piece.text)
        self._fresh_line = said.endswith("\n")
        return text.append(said, style)

    def break_line(self) -> Text:
        """What is still held back, and the end of the line that has begun."""
        text = Text(self._filter.finish())
        if self._part is not None and not self._fresh_line:
            text.append("\n")
        self._fresh_line = True
        return text

    def end(self, interaction: Interaction, reading: Reading, seconds: float) -> Text:
        """The last lines: how it ended, and what there is to say of a body that is no answer of a model."""
        text = self.break_line()
        if reading.outcome is None and not reading.failure:
            text.append_text(_excerpt(interaction))
        facts = [reading.ending.sentence, *([f"{seconds:.2f} s"] if seconds else [])]
        return text.append(f"[{one_line(', '.join(facts))}]\n", "dim" if reading.ending.whole else "yellow")


def prompt_text(reading: Reading, mark: str, known: set[str]) -> Text:
    """What was asked, since the model's last word; system prompts that are `known` are not said again."""
    text = Text()
    for turn in reading.prompt.turns:
        if turn.role in ("system", "developer"):
            if turn.text in known:
                continue
            known.add(turn.text)
        said = turn.text if len(turn.text) <= _PROMPT_LIMIT else f"… {turn.text[-_PROMPT_LIMIT:]}"
        text.append(f"{mark}{one_line(turn.role).upper()}: ", "bold green").append_text(styled(said)).append("\n")
    return text


def _excerpt(interaction: Interaction) -> Text:
    """A body that is none of a model's: its beginning, or what it is."""
    body = interaction.response.body
    try:
        text = body.decode()
    except UnicodeDecodeError:
        kind = ", ".join(interaction.response.headers.get("content-type", ["no known type"]))
        return styled(f"({len(body):,} bytes, {kind})\n", "dim")
    return styled(text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…").append("\n")
