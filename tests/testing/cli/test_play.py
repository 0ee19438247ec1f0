"""`play`: a recorded conversation as its user saw it."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from miniagents_testing.cassette import Chunk, ResponseStream, load, save
from miniagents_testing.cli._play import Player
from miniagents_testing.cli._screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit


def test_play_prints_plain_text_without_waits_in_a_pipe(run: Callable[..., CommandResult], conversation: Path) -> None:
    """In a pipe, `play` prints prompts, answers and endings in turn, without colours and waits."""
    assert run("play", conversation) == (
        0,
        """\
USER: Hi, who are you?
gpt-4: A machine.
[stop, 0.60 s]

USER: Bye 👋
gpt-4: Auf Wiedersehen
[stop, 0.50 s]

""",
        "",
    )


def test_play_prints_parallel_streams_one_after_the_other_in_a_pipe(
    run: Callable[..., CommandResult], parallel: Path
) -> None:
    """In a pipe, `play` prints parallel streams whole, one after the other, each with its number."""
    assert (
        run("play", parallel).out
        == """\
#1 SYSTEM: You are a sailor.
#1 USER: What is it?
#1 gpt-4: The sea.
[stop, 0.60 s]

#2 SYSTEM: You are a baker.
#2 USER: What is it?
#2 gpt-4: Dough.
[stop, 0.50 s]

"""
    )


def test_play_shows_reasoning_text_refusals_and_tool_calls(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`play` prints reasoning, text, refusals and tool calls on lines of their own, each kind with its prefix."""
    fragments = [
        {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Rome"}'}},
        {"index": 1, "id": "call_2", "function": {"name": "wait", "arguments": "{}"}},
    ]
    events = [
        kit.delta(reasoning_content="Let me "),
        kit.delta(reasoning_content="see."),
        kit.delta(content="I look.\n"),
        *(kit.delta(tool_calls=[fragment]) for fragment in fragments),
        kit.delta(refusal="Not now."),
        kit.delta("tool_calls"),
    ]
    answer = ResponseStream(tuple(Chunk(0, event) for event in events))
    save(tmp_path / "c.yaml", [kit.interaction("Look!", answer)])
    assert (
        run("play", tmp_path / "c.yaml").out
        == """\
USER: Look!
gpt-4: thinking: Let me see.
I look.
→ look {"city": "Rome"}
→ wait {}
refusal: Not now.
[tool_calls]

"""
    )


def test_play_describes_the_ending_of_incomplete_answers(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`play` describes the endings of broken or unfinished streams, of errors, and of bodies that are no answers."""
    half: dict[str, Any] = {"finish_reason": None, "gap": 0.0, "headers_ms": 0.0}
    error = (Chunk(0, b'{"error": {"message": "slow down"}}'),)
    answers = [
        kit.answer("Half", **half, end="closed", complete=False),
        kit.answer("Half", **half, end="raise ReadError: peer reset", complete=False),
        kit.answer("Half", **half),
        ResponseStream(error, status=429),
        ResponseStream((Chunk(0, b"User-agent: *"),), headers={"content-type": ["text/plain"]}),
        ResponseStream((Chunk(0, b"\x89PNG\xff"),), headers={"content-type": ["image/png"]}),
    ]
    uris = [kit.URI] * 4 + ["https://x.test/robots.txt", "https://x.test/i.png"]
    save(
        tmp_path / "c.yaml", [kit.interaction("?", answer, uri=uri) for answer, uri in zip(answers, uris, strict=True)]
    )
    assert [line for line in run("play", tmp_path / "c.yaml").out.splitlines() if line and line != "USER: ?"] == [
        "gpt-4: Half",
        "[closed by its reader, before the answer was whole]",
        "gpt-4: Half",
        "[the connection broke: ReadError: peer reset]",
        "gpt-4: Half",
        "[the stream ends, and the provider has not said that the answer is whole]",
        "gpt-4: [HTTP 429: openai reported an error: slow down]",
        "gpt-4: User-agent: *",
        "[eof]",
        "gpt-4: (5 bytes, image/png)",
        "[eof]",
    ]


def test_commands_make_control_characters_of_texts_visible(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """Commands print escape sequences and rich's markup of a recorded text as plain text."""
    texts = ("\x1b", "]0;owned\x07 [red]x[/] :smile: a\r", "\nb\u202ec \x9b2J")
    asked = "\x1b[2J[bold]Hi"
    save(tmp_path / "c.yaml", [kit.interaction(asked, kit.answer(*texts), system="\x1b]52;c;x\x07")])
    for command in (("play", tmp_path / "c.yaml"), ("show", tmp_path / "c.yaml", "-n", "1"), ("show", tmp_path)):
        done = run(*command)
        assert done.code == 0
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.out)
        assert "[2J[bold]Hi" in done.out
    assert r"\x1b]0;owned\x07 [red]x[/] :smile: a" in run("play", tmp_path / "c.yaml").out


@pytest.mark.parametrize("pieces", [["\n\r"], ["\n", "\r"]])
def test_play_prints_the_ending_on_a_line_of_its_own_after_a_carriage_return(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit, pieces: list[str]
) -> None:
    """`play` begins a line for the ending of a text that ends with a carriage return, however the text was cut."""
    save(tmp_path / "c.yaml", [kit.interaction("Hi", kit.answer(*pieces, gap=0))])
    assert run("play", tmp_path / "c.yaml").out == "USER: Hi\ngpt-4: \n\\x0d\n[stop, 0.10 s]\n\n"


def test_play_shows_a_repeated_system_prompt_once(run: Callable[..., CommandResult], tmp_path: Path, kit: Kit) -> None:
    """`play` prints a system prompt once, if later requests repeat it."""
    turns = [kit.interaction(asked, kit.answer("Ho"), system="Be kind.") for asked in ("Hi", "Hey")]
    save(tmp_path / "c.yaml", turns)
    assert run("play", tmp_path / "c.yaml").out.count("Be kind.") == 1


def test_play_shows_what_is_new_since_the_last_request_of_an_agent(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`play` prints messages that the agent has not sent before, at least the last one, and prefilled answers."""
    user, ho, more = (
        {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Ho"), ("user", "More"))
    )
    edited, given = {"role": "assistant", "content": "He"}, {"role": "assistant", "content": "Once upon"}
    prompts = [[user], [user, ho, more], [user, ho, more], [user, edited, more, given], [user, given], [user, ho, user]]
    asked = [
        kit.interaction(
            "",
            kit.answer("Ho", gap=0.0, headers_ms=0.0),
            started=number,
            agent=f"A/M#{number}",
            request_body=json.dumps({"model": "m", "messages": prompt}).encode(),
        )
        for number, prompt in enumerate(prompts, 1)
    ]
    save(tmp_path / "c.yaml", asked)
    assert run("play", tmp_path / "c.yaml").out.replace("A/M: Ho\n[stop]\n", "--\n").split("\n\n") == [
        "USER: Hi\n--",
        "USER: More\n--",
        "USER: More\n--",
        "ASSISTANT (given): He\nUSER: More\nASSISTANT (given): Once upon\n--",
        "USER: Hi\nASSISTANT (given): Once upon\n--",
        "USER: Hi\n--",
        "",
    ]


class _Terminal(StringIO):
    """Terminal that keeps each text written to it with its time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.log: list[tuple[float, str]] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.log.append((round(self.now - 100.0, 6), text))
        return super().write(text)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + 0.001  # each sleep is a bit too long, and the delays must not add up

    def plain(self) -> str:
        """Return the text without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())

    def moment(self, text: str) -> float:
        """Return the time at which a text was first written."""
        return next(moment for moment, written in self.log if text in written)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Return a terminal of 80 columns and 24 lines."""
    terminal = _Terminal()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


def _play(terminal: _Terminal, path: Path, speed: float) -> None:
    Player(Screen(terminal), speed, clock=lambda: terminal.now, sleep=terminal.sleep).play(load(path))


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_play_shows_tokens_at_their_recorded_times(terminal: _Terminal, conversation: Path, speed: float) -> None:
    """On a terminal, tokens come at their times divided by the speed, and pauses between turns are cut to a second."""
    _play(terminal, conversation, speed)
    moments = {"who are you": 0, "A ": 0.2, "machine": 0.3, ".": 0.4, "stop": 0.6, "Bye": 1.6, "Auf ": 1.8}
    for text, moment in moments.items():
        assert terminal.moment(text) == pytest.approx(moment / speed, abs=0.003), text
    assert "\x1b[1;34mgpt-4" in terminal.getvalue()


@given(st.lists(st.text(st.sampled_from("ab  \n字"), max_size=8), max_size=12), st.integers(2, 12))
def test_lines_of_a_stream_do_not_depend_on_its_pieces(pieces: list[str], width: int) -> None:
    """However a text is cut into pieces, a terminal gets the same lines."""
    screen = Screen(_Terminal())
    screen.width = width
    player = Player(screen, 0)
    wrapped = player._wrapped([Text(piece) for piece in pieces])
    assert len(wrapped) == len(pieces)
    assert "".join(each.plain for each in wrapped) == player._wrapped([Text("".join(pieces))])[0].plain


def test_play_shows_parallel_streams_at_the_same_time_on_a_terminal(terminal: _Terminal, parallel: Path) -> None:
    """On a terminal, parallel streams grow in one frame; a stream that has ended moves above it."""
    _play(terminal, parallel, 1.0)
    frames = [written for _, written in terminal.log]
    assert any("The " in frame and "Dough" in frame and "stop" not in frame for frame in frames)
    assert terminal.moment("Dough.\n") < terminal.moment("The sea.\n")
    last = terminal.plain().rpartition("#1 SYSTEM")[2].rstrip("\r")
    assert last == ": You are a sailor.\n#1 USER: What is it?\n#1 gpt-4: The sea.\n[stop, 0.60 s]\n\n"
    assert "\x1b[?25h" in terminal.log[-2][1] + terminal.log[-1][1]  # the cursor is shown again


def test_play_fits_many_long_streams_on_the_screen(terminal: _Terminal, tmp_path: Path, kit: Kit) -> None:
    """On a small terminal, each running stream shows its last lines, and its whole text at the end."""
    texts = [f"{number} word " for number in range(300)]
    save(tmp_path / "c.yaml", [kit.interaction(f"Q{number}", kit.answer(*texts)) for number in range(4)])
    _play(terminal, tmp_path / "c.yaml", 50.0)
    frames = [written for _, written in terminal.log if "▌" in written and "stop" not in written]
    assert frames
    assert max(frame.count("\n") for frame in frames) < 24
    assert "299 word" in frames[-1]
    assert " ".join(terminal.plain().split()).count("".join(texts).strip()) == 4


def test_play_prints_parallel_streams_in_turn_on_a_dumb_terminal(
    terminal: _Terminal, parallel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal that cannot move its cursor, `play` prints parallel streams one after the other."""
    monkeypatch.setenv("TERM", "dumb")
    _play(terminal, parallel, 1.0)
    assert "\x1b" not in terminal.getvalue()
    assert terminal.moment("sea") == pytest.approx(0.3, abs=0.01)
    assert terminal.moment("Dough") == pytest.approx(0.6, abs=0.01)  # its recorded time was earlier


@pytest.mark.parametrize("speed", ["-1", "nan", "inf", "fast"])
def test_play_refuses_an_invalid_speed(run: Callable[..., CommandResult], conversation: Path, speed: str) -> None:
    """`play` with an invalid speed prints its usage, with exit code 2."""
    done = run("play", f"--speed={speed}", conversation)
    assert done.code == 2
    assert "--speed" in done.err
