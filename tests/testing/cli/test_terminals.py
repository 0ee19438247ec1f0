"""Output of the commands on terminals of several widths: whole words, no line too wide, colours and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import load, save
from miniagents_testing.cli._screen import line_breaks, shorten

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testing.cli.conftest import Kit

PROGRAM = "import sys; from miniagents_testing.cli import main; sys.exit(main())"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _run_on_a_terminal(
    *arguments: str | Path, columns: int = 100, program: str = PROGRAM, **environment: str
) -> tuple[int, str]:
    """Run the program on a pseudo-terminal."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, columns))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    written = b""
    try:
        while data := os.read(ours, 65536):
            written += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return process.wait(), written.decode().replace("\r\n", "\n")


def test_show_prints_two_lines_for_each_request(tmp_path: Path, kit: Kit) -> None:
    """On a terminal, `show` prints the file and two lines a request, with the short names of agents."""
    asked = "Our town can pay for one of two: fruit trees along Main Street, or a new playground."
    agents = ("PANEL/GARDENER/OPENAI_AGENT#1", "PANEL/TREASURER/OPENAI_AGENT#1")
    cut = kit.answer("I", finish_reason=None, end="closed", complete=False)
    answers = (kit.answer("Trees."), cut)
    save(
        tmp_path / "c.yaml",
        [kit.interaction(asked, each, agent=agent) for each, agent in zip(answers, agents, strict=True)],
    )
    code, shown = _run_on_a_terminal(
        "show", "c.yaml", columns=80, program=f"import os; os.chdir({str(tmp_path)!r}); {PROGRAM}"
    )
    assert code == 0
    assert COLOURS.sub("", shown).splitlines() == [
        "c.yaml · 2 requests · 0.4 s",
        " 1  GARDENER    gpt-4   0.4 s   stop",
        "    Our town can pay for one of two: fruit trees along Main Street, or a new…",
        " 2  TREASURER   gpt-4   0.2 s   closed early",
        "    Our town can pay for one of two: fruit trees along Main Street, or a new…",
    ]
    assert "\x1b[33mclosed early" in shown


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["colours", "no colours", "dumb"]
)
def test_each_command_fits_the_terminal(root: Path, tmp_path: Path, columns: int, environment: dict[str, str]) -> None:
    """At any width, no line is too wide, no word broken that fits, and colours are the only control sequences."""
    panel, tools = root / "cassettes" / "both" / "panel.yaml", root / "cassettes" / "openai" / "tool_calls.yaml"
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    commands: list[list[str | Path]] = [
        ["show", panel, tools],
        ["show", "-n", "1", tools],
        ["play", "--speed", "0", panel],
        ["play", "--speed", "0", tools],
        ["verify", panel],
        ["lint", tmp_path / "bad.yaml"],
        ["play", tmp_path / "bad.yaml"],
        ["show", "--nmuber", "1"],
        ["shwo"],
        ["verify", "--help"],
        ["--help"],
    ]
    program = f"""
import sys
from miniagents_testing.cli import main
sys.argv[0] = "miniagents-testing"
for arguments in {[[str(word) for word in command] for command in commands]}:
    try:
        main(arguments)
    except SystemExit:
        pass
"""
    code, shown = _run_on_a_terminal(columns=columns, program=program, **environment)
    assert code == 0
    assert "Traceback" not in shown
    assert (COLOURS.search(shown) is not None) is not bool(environment)
    plain = COLOURS.sub("", shown)
    assert "\x1b" not in plain
    assert not [line for line in plain.splitlines() if cell_len(line) > columns]
    said = " ".join(piece.text for each in load(panel) for piece in read_interaction(each).pieces)
    assert {word for word in said.replace(" ", " ").split() if len(word) > 3} <= {*plain.split()}


@given(st.text(st.sampled_from("ab  \n字é"), max_size=60), st.integers(2, 12))
def test_line_breaks_keep_lines_narrow_and_words_whole(text: str, width: int) -> None:
    """With the breaks of `line_breaks`, each line fits, only words wider than a line are cut, and no letter is lost."""
    lines, done = "", 0
    for start, end in line_breaks(text, width):
        lines += f"{text[done:start]}\n"
        done = end
    lines += text[done:]
    assert all(cell_len(line.rstrip()) <= width for line in lines.split("\n"))
    assert "".join(lines.split()) == "".join(text.split())
    assert {word for word in text.split() if cell_len(word) <= width} <= {*lines.split()}


@given(st.text(st.sampled_from("ab  字."), max_size=60), st.integers(1, 12))
def test_shorten_keeps_the_beginning_of_a_line(text: str, width: int) -> None:
    """A shortened line fits, begins as the text does, and ends in an ellipsis unless it is whole."""
    short = shorten(text, width)
    assert cell_len(short) <= width
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_terminal_gets_colours_unless_no_color_is_set(conversation: Path) -> None:
    """On a terminal, commands print colours; with `NO_COLOR`, they print no control sequences at all."""
    assert "\x1b[1;32mUSER: " in _run_on_a_terminal("play", conversation, "--speed", "0")[1]
    assert "\x1b[32mok" in _run_on_a_terminal("verify", conversation)[1]
    assert "\x1b" not in _run_on_a_terminal("verify", conversation, NO_COLOR="1")[1]
