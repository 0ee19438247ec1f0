"""Commands `play` and `export`: show a recorded conversation as its user saw it, on the screen or as a page.

`Player` prints the streams at the recorded times. `_Transcript` turns the pieces of one stream into text,
independent of screen and clock. `export` writes a picture, one HTML page without any other file.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.text import Text

from miniagents.ext._terminal import TerminalFilter
from miniagents_testing._pictures import LONGEST_PAUSE, overlapping, read_run
from miniagents_testing._pictures.page import facts_of, is_page, write_page
from miniagents_testing._reading import NewTurns, Reading, excerpt_of, prefix_of, read_interaction
from miniagents_testing._streams import TICKS_PER_SECOND
from miniagents_testing._words import counted
from miniagents_testing.cassette import load, timeline
from miniagents_testing.cli._lint import secrets_in
from miniagents_testing.cli._screen import (
    PROBLEMS_FOUND,
    CommandError,
    Screen,
    line_breaks,
    make_safe,
    make_safe_line,
    parse_file,
    parse_not_negative,
    print_error,
    read_cassette,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from miniagents_testing._reading import Piece, Turn
    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands


_MAX_PAUSE = LONGEST_PAUSE / TICKS_PER_SECOND
"""Seconds of a pause between two turns that are kept."""
_COLOURS = ("blue", "magenta", "cyan", "green", "yellow", "red")
_STYLES = {"reasoning": "dim italic", "refusal": "red", "tool": "cyan"}
_MAX_PROMPT_CHARS = 1000


def add_play(commands: Commands) -> None:
    """Register the command `play` with its help and its arguments."""
    play = commands.add_parser(
        "play",
        help="show a conversation as its user saw it, at the recorded pace",
        description="Shows the prompts of a cassette, and its answers piece by piece. Streams that ran at the same "
        f"time are shown below each other while they run. Pauses between turns are cut to {_MAX_PAUSE:g} s.",
    )
    play.add_argument("file", type=parse_file, metavar="FILE", help="a cassette")
    play.add_argument(
        "--speed",
        type=partial(parse_not_negative, refusal="is not a speed: give 0 or a positive number"),
        metavar="FACTOR",
        help="factor on the recorded speed; 0 shows everything at once (default: 1 on a terminal, 0 in a pipe)",
    )
    play.set_defaults(run=_run_play)


def _run_play(options: argparse.Namespace) -> int:
    """Play a cassette on the screen, and return exit code 0.

    Without `--speed` a terminal plays at the recorded speed, a pipe without waits.
    """
    screen = Screen()
    speed = options.speed if options.speed is not None else float(screen.live)
    Player(screen, speed).play(load(options.file))
    return 0


class Player:
    """Player of recorded streams on a screen.

    Args:
        screen: the screen to print on.
        speed: factor on the recorded speed; 0 prints without waits.
        clock: function that returns the time in seconds.
        sleep: function that waits for a number of seconds.
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
        self._clock_at_start = 0.0  # moment 0 of the recording, on the clock

    def play(self, interactions: Sequence[Interaction]) -> None:
        """Play the interactions of a recording; interactions that overlap in time are played together."""
        streams = [_Stream.from_interaction(number, each) for number, each in enumerate(interactions, 1)]
        new = NewTurns()
        for stream in sorted(streams, key=lambda stream: stream.start):
            stream.asked = new.take(stream.interaction.agent_path, stream.reading)
        last_end: float | None = None
        for group in overlapping(streams):
            start = group[0].start
            self._set_clock(start if last_end is None else max(last_end, start - _MAX_PAUSE))
            self._sleep_until(start)
            if len(group) == 1:
                self._play_single(group[0], "")
            elif self._screen.live and self._speed:
                self._play_parallel(group)
            else:  # one after the other: the second one has often ended before it is shown
                for stream in group:
                    self._play_single(stream, f"#{stream.number} ")
            last_end = max(stream.end for stream in group)

    def _play_single(self, stream: _Stream, mark: str) -> None:
        """Print a stream below the text before: its prompt, and then each piece and the ending when they are due."""
        before = _format_prompt(stream.asked, mark).append_text(_heading(stream, mark))
        chunks = [Text().join([stream.transcript.add(piece) for piece in pieces]) for pieces in stream.reading.chunks]
        first, *texts, last = self._wrapped([before, *chunks, stream.last_line().append("\n")])
        self._write(first)
        for moment, text in zip(stream.arrivals, texts, strict=True):
            self._sleep_until(moment)
            self._write(text)
        self._sleep_until(stream.end)
        self._write(last)

    def _wrapped(self, parts: Sequence[Text]) -> list[Text]:
        """Return the parts of a text with line breaks between words, so that a terminal breaks no word."""
        if not self._screen.is_for_people:
            return [*parts]
        for part in parts:
            part.expand_tabs(8)
        breaks = deque(line_breaks("".join(part.plain for part in parts), self._screen.width))
        found, begin = [], 0
        for part in parts:
            end, wrapped, done = begin + len(part), Text(), begin
            while breaks and breaks[0][0] < end:
                start, stop = breaks[0]
                wrapped.append_text(part[done - begin : max(start, done) - begin])
                if stop > end:  # white space that goes on in the next part
                    breaks[0] = (end, stop)
                    done = end
                    break
                wrapped.append("\n")
                done = stop
                breaks.popleft()
            found.append(wrapped.append_text(part[done - begin :]))
            begin = end
        return found

    def _play_parallel(self, group: Sequence[_Stream]) -> None:
        """Show streams that run at the same time below each other.

        When one has ended, print it above the others for good.
        """
        running: list[_Stream] = []
        chunks = [iter(stream.reading.chunks) for stream in group]
        with Live(console=self._screen, auto_refresh=False) as live:
            for moment in timeline([stream.interaction for stream in group]):
                stream = group[moment.number - 1]
                if self._seconds_until(moment.ms / 1000) > 0:
                    live.update(self._render_running(running), refresh=True)
                    self._sleep_until(moment.ms / 1000)
                if moment.what == "request":
                    running.append(stream)
                elif moment.what == "chunk":
                    for piece in next(chunks[moment.number - 1]):
                        stream.text.append_text(stream.transcript.add(piece))
                elif moment.what == "end":
                    running.remove(stream)
                    live.update(self._render_running(running), refresh=True)
                    self._write(self._render_ended(stream))

    def _render_running(self, running: Sequence[_Stream]) -> Group:
        """Return all running streams, each with as many of its last lines as the screen has space for."""
        height = max(1, (self._screen.height - 1) // max(1, len(running)) - 2)
        width = self._screen.width
        parts = []
        for stream in running:
            head = Text().append(f"#{stream.number} ", stream.label.style).append_text(stream.label).append("  ")
            asked = make_safe_line(
                " · ".join(turn.text for turn in stream.asked), max(1, width - cell_len(head.plain) - 1)
            )
            if asked.startswith("…"):  # it begins with a whole word
                asked = f"…{asked.partition(' ')[2]}"
            head.append(asked, "dim")
            shown = stream.text[-width * height :].append("▌", stream.colour)
            parts += [head, *shown.wrap(self._screen, width, no_wrap=False)[-height:], Text()]
        return Group(*parts)

    def _render_ended(self, stream: _Stream) -> Text:
        """Return the whole text of a stream that has ended: prompt, heading, answer and ending."""
        mark = f"#{stream.number} "
        text = _format_prompt(stream.asked, mark)
        text.append_text(_heading(stream, mark))
        text.append_text(stream.text).append_text(stream.last_line()).append("\n")
        return self._wrapped([text])[0]

    def _write(self, text: Text) -> None:
        """Print text without a line break after it."""
        if text:
            self._screen.print(text, end="", soft_wrap=True)  # it is wrapped already

    def _set_clock(self, moment: float) -> None:
        """Set the player's clock so that `moment`, in seconds of the recording, is now."""
        self._clock_at_start = self._clock() - (moment / self._speed if self._speed else 0)

    def _seconds_until(self, moment: float) -> float:
        """Return the seconds until a moment of the recording, at the speed of the player.

        0 if it plays without waits.
        """
        return self._clock_at_start + moment / self._speed - self._clock() if self._speed else 0.0

    def _sleep_until(self, moment: float) -> None:
        """Sleep until a moment of the recording, in seconds; do nothing if it is over."""
        wait = self._seconds_until(moment)
        if wait > 0:
            self._sleep(wait)


def _heading(stream: _Stream, mark: str) -> Text:
    """Return the text before an answer, in its colour: its mark, and the agent or model."""
    return Text().append(mark, stream.label.style).append_text(stream.label).append(": ", stream.label.style)


class _Transcript:
    """Text of one stream, with line breaks and names between pieces of different kinds.

    The text does not depend on the places where the stream was cut into pieces.
    """

    def __init__(self) -> None:
        self._filter = TerminalFilter()
        self._part: tuple[str, str] | None = None
        self._is_line_start = True

    def add(self, piece: Piece) -> Text:
        """Return the text to print for the next piece, made safe for a terminal.

        A piece of another kind or part than the last one begins a new line with its prefix.
        """
        text = Text()
        style = _STYLES.get(piece.kind, "")
        if (piece.kind, piece.part) != self._part:
            text.append_text(self.break_line())
            self._part = (piece.kind, piece.part)
            text.append(prefix_of(piece), style)
        safe_text = self._filter.feed(piece.text)
        self._is_line_start = safe_text.endswith("\n")
        return text.append(safe_text, style)

    def break_line(self) -> Text:
        """Return the text that the terminal filter still holds back, and a line break unless a line has just begun."""
        text = Text(self._filter.finish())
        if self._part is not None and (text or not self._is_line_start):
            text.append("\n")
        self._is_line_start = True
        return text

    def end(self, interaction: Interaction, reading: Reading, seconds: float) -> Text:
        """Return the last lines: the ending, and before it an excerpt of a body that is not a model's answer."""
        text = self.break_line()
        if reading.outcome is None and not reading.failure:
            excerpt = excerpt_of(interaction.response.body, interaction.response.headers)
            text.append_text(make_safe(excerpt)).append("\n")
        facts = [reading.ending.sentence, *([f"{seconds:.2f} s"] if seconds else [])]
        return text.append(f"[{make_safe_line(', '.join(facts))}]\n", "dim" if reading.ending.complete else "yellow")


@dataclass(slots=True)
class _Stream:
    """Interaction with its times, in seconds since the start of the recording."""

    number: int
    interaction: Interaction
    reading: Reading
    start: float
    arrivals: tuple[float, ...]
    """Arrival times of the chunks."""
    end: float
    asked: tuple[Turn, ...] = ()
    """Messages of the prompt that are shown."""
    transcript: _Transcript = field(default_factory=_Transcript)
    text: Text = field(default_factory=Text)
    """The text of the answer that was shown up to now."""

    @classmethod
    def from_interaction(cls, number: int, interaction: Interaction) -> _Stream:
        """Return the `number`-th interaction of a cassette with its content and the times of its arrivals."""
        moments = timeline([interaction])
        arrivals = tuple(moment.ms / 1000 for moment in moments if moment.what == "chunk")
        start, end = moments[0].ms / 1000, moments[-1].ms / 1000
        return cls(number, interaction, read_interaction(interaction), start, arrivals, end)

    @property
    def label(self) -> Text:
        """Name of the agent or the model, or the address of the request."""
        name = self.interaction.agent_path or self.reading.model or f"{self.interaction.method} {self.interaction.uri}"
        return Text(make_safe_line(name), f"bold {self.colour}")

    @property
    def colour(self) -> str:
        """Colour of the label."""
        return _COLOURS[(self.number - 1) % len(_COLOURS)]

    def last_line(self) -> Text:
        """Return the last lines of the stream, with its ending."""
        return self.transcript.end(self.interaction, self.reading, self.end - self.start)


def _format_prompt(turns: Sequence[Turn], mark: str) -> Text:
    """Return the messages of a prompt with their roles; of a long one, the end is shown.

    Messages of the model are marked as given by the application.
    """
    text = Text()
    for turn in turns:
        shown = turn.text
        if len(shown) > _MAX_PROMPT_CHARS:  # the end has the question; it begins with a whole word
            shown = f"… {shown[-_MAX_PROMPT_CHARS:].partition(' ')[2] or shown[-_MAX_PROMPT_CHARS:]}"
        role = make_safe_line(turn.role).upper()
        given = " (given)" if turn.role in ("assistant", "model") else ""
        text.append(f"{mark}{role}{given}: ", "bold green").append_text(make_safe(shown)).append("\n")
    return text


def add_export(commands: Commands) -> None:
    """Register the command `export` with its help and its arguments."""
    export = commands.add_parser(
        "export",
        help="write a cassette as one HTML page that shows and plays the run",
        description="The page has a lane for each agent, with its requests and tokens over time, the transcript, and "
        "a player. It needs no network and no other file. A cassette with a secret is refused.",
    )
    export.add_argument("file", type=parse_file, metavar="FILE", help="a cassette")
    export.add_argument("-o", "--output", required=True, type=Path, metavar="PAGE", help="the HTML file to write")
    export.add_argument(
        "--force", action="store_true", help="write the page also if a secret is in it, or another file is in its place"
    )
    export.set_defaults(run=_run_export)


def _run_export(options: argparse.Namespace) -> int:
    """Write the page, and return 0; write nothing and return 1 if the cassette is damaged or has a secret.

    Raises:
        CommandError: there is another file at the path of the page.
        OSError: the cassette cannot be read, or the page cannot be written.
    """
    file, target = options.file, options.output
    cassette = read_cassette(file)
    problems = [*cassette.damage]
    if not (problems or options.force):
        problems += [
            f"{file}, {secret.where}, {secret.what}: a secret; remove it, or write the page with --force"
            for secret in secrets_in(cassette.interactions)
        ]
    if problems:
        for problem in problems:
            print_error(problem)
        return PROBLEMS_FOUND
    if target.is_dir():
        raise CommandError(f"{target} is a folder: give the path of a file, such as {target / file.stem}.html")
    if target.exists() and (target.samefile(file) or not (options.force or is_page(target))):
        raise CommandError(f"{target} exists already and is no picture; --force replaces it, but never the cassette")
    run = read_run(cassette.interactions, cassette.readings)
    size = write_page(target, run, file.name)
    Screen().print_row(str(target), facts_of(run), counted(size, "byte"), style="green")
    return 0
