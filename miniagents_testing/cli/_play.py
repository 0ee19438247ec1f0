"""`play`: a recorded conversation, as a person would have seen it.

What one stream says, as styled text: pieces in, text to print out. Knows no screen and no clock.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from miniagents.ext._terminal import TerminalFilter
from miniagents_testing.cassette import load, timeline
from miniagents_testing.cli._reading import Reading, read
from miniagents_testing.cli._screen import Screen, one_line, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._reading import Piece, Reading


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


_IDLE = 1.0
"""Seconds of silence that are kept between two turns: nobody wants to watch a person think."""
_COLOURS = ("blue", "magenta", "cyan", "green", "yellow", "red")


def add_play(commands: Commands) -> None:
    """Add the arguments of `play`."""
    play = commands.add_parser(
        "play",
        help="the conversation as a person would have seen it, at the recorded pace",
        description="Plays a cassette: what was asked, and the answers as they came. Streams that ran at the same time "
        f"are shown below each other while they run. Pauses between turns are cut to {_IDLE:g} s.",
    )
    play.add_argument("file")
    play.add_argument(
        "--speed",
        type=_speed,
        help="how many times faster than recorded; 0 is at once (default: 1 on a terminal, 0 in a pipe)",
    )
    play.set_defaults(run=_run_play)


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 <= speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no speed")
    return speed


def _run_play(options: argparse.Namespace) -> int:
    screen = Screen()
    speed = options.speed if options.speed is not None else float(screen.live)
    Player(screen, speed).play(load(Path(options.file)))
    return 0


@dataclass(slots=True)
class _Stream:
    """An interaction with its moments, in seconds since the recording began."""

    number: int
    interaction: Interaction
    reading: Reading
    start: float
    arrivals: tuple[float, ...]
    """Of its chunks."""
    end: float
    transcript: Transcript = field(default_factory=Transcript)
    said: Text = field(default_factory=Text)

    @classmethod
    def of(cls, number: int, interaction: Interaction) -> _Stream:
        moments = timeline([interaction])
        arrivals = tuple(moment.ms / 1000 for moment in moments if moment.what == "chunk")
        return cls(number, interaction, read(interaction), moments[0].ms / 1000, arrivals, moments[-1].ms / 1000)

    @property
    def label(self) -> Text:
        name = self.interaction.agent_path or self.reading.model or f"{self.interaction.method} {self.interaction.uri}"
        return Text(one_line(name), f"bold {self.colour}")

    @property
    def colour(self) -> str:
        return _COLOURS[(self.number - 1) % len(_COLOURS)]

    def last_line(self) -> Text:
        return self.transcript.end(self.interaction, self.reading, self.end - self.start)


class Player:
    """Plays streams on a screen.

    Args:
        screen: where.
        speed: times the recorded pace; 0 waits for nothing.
        clock: gives seconds.
        sleep: takes seconds.
    """

    def __init__(
        self,
        screen: Screen,
        speed: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._screen = screen
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._zero = 0.0  # when the recording began, on the clock
        self._known: set[str] = set()

    def play(self, interactions: Sequence[Interaction]) -> None:
        """Play them all, those at the same time together."""
        before: float | None = None
        for scene in _scenes([_Stream.of(number, it) for number, it in enumerate(interactions, 1)]):
            start = scene[0].start
            self._set_clock(start if before is None else max(before, start - _IDLE))
            self._until(start)
            if len(scene) == 1:
                self._one(scene[0], "")
            elif self._screen.live and self._speed:
                self._together(scene)
            else:  # as somebody reads them who waits for one after the other, while all go on
                for stream in scene:
                    self._one(stream, f"#{stream.number} ")
            before = max(stream.end for stream in scene)

    def _one(self, stream: _Stream, mark: str) -> None:
        """Write a stream where the cursor is, as it comes."""
        write = self._write
        write(prompt_text(stream.reading, mark, self._known))
        write(_name(stream, mark))
        for moment, pieces in zip(stream.arrivals, stream.reading.chunks, strict=True):
            self._until(moment)
            for piece in pieces:
                write(stream.transcript.add(piece))
        write(stream.last_line().append("\n"))

    def _together(self, scene: Sequence[_Stream]) -> None:
        """Show running streams below each other; each goes up into the text above when it has ended."""
        running: list[_Stream] = []
        left = [iter(stream.reading.chunks) for stream in scene]
        with Live(console=self._screen, auto_refresh=False) as live:
            for moment in timeline([stream.interaction for stream in scene]):
                stream = scene[moment.number - 1]
                if self._wait(moment.ms / 1000) > 0:
                    live.update(self._region(running), refresh=True)
                    self._until(moment.ms / 1000)
                if moment.what == "request":
                    running.append(stream)
                elif moment.what == "chunk":
                    for piece in next(left[moment.number - 1]):
                        stream.said.append_text(stream.transcript.add(piece))
                elif moment.what == "end":
                    running.remove(stream)
                    live.update(self._region(running), refresh=True)
                    self._write(self._whole(stream))

    def _region(self, running: Sequence[_Stream]) -> Group:
        """Each stream with as many of its last lines as there is room for."""
        room = max(1, (self._screen.height - 1) // max(1, len(running)) - 2)
        width = self._screen.width
        parts = []
        for stream in running:
            head = Text().append(f"#{stream.number} ", stream.label.style).append_text(stream.label).append("  ")
            asked = " · ".join(turn.text for turn in stream.reading.prompt.turns)
            head.append(one_line(asked, max(1, width - len(head) - 1)), "dim")
            said = stream.said[-width * room :].append("▌", stream.colour)
            parts += [head, *said.wrap(self._screen, width, no_wrap=False)[-room:], Text()]
        return Group(*parts)

    def _whole(self, stream: _Stream) -> Text:
        mark = f"#{stream.number} "
        text = prompt_text(stream.reading, mark, self._known)
        text.append_text(_name(stream, mark))
        return text.append_text(stream.said).append_text(stream.last_line()).append("\n")

    def _write(self, text: Text) -> None:
        if text:
            self._screen.print(text, end="")

    def _set_clock(self, moment: float) -> None:
        """Let this moment of the recording be now."""
        self._zero = self._clock() - (moment / self._speed if self._speed else 0)

    def _wait(self, moment: float) -> float:
        """Seconds until this moment of the recording."""
        return self._zero + moment / self._speed - self._clock() if self._speed else 0.0

    def _until(self, moment: float) -> None:
        wait = self._wait(moment)
        if wait > 0:
            self._sleep(wait)


def _name(stream: _Stream, mark: str) -> Text:
    return Text().append(mark, stream.label.style).append_text(stream.label).append(": ", stream.label.style)


def _scenes(streams: Sequence[_Stream]) -> Iterator[list[_Stream]]:
    """Streams in order of their start, those together that have moments in common."""
    scene: list[_Stream] = []
    end = 0.0
    for stream in sorted(streams, key=lambda stream: stream.start):
        if scene and stream.start >= end:
            yield scene
            scene = []
        scene.append(stream)
        end = max(end, stream.end)
    if scene:
        yield scene
