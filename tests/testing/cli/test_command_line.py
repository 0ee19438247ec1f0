"""What all commands have in common: exit codes, pipes, terminals, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import Done

PROGRAM = [sys.executable, "-m", "miniagents_testing"]


def test_the_exit_codes_are_in_the_help(run: Callable[..., Done]) -> None:
    """A script that calls it can know what they mean."""
    done = run("--help")
    assert done.code == 0
    for line in ("0    fine", "1    something was found", "2    it could not be done", "130  ended by Ctrl-C"):
        assert line in done.out


@pytest.mark.parametrize("command", ["play", "show", "verify", "lint", "import"])
def test_what_is_not_there_is_a_line_and_code_2(run: Callable[..., Done], tmp_path: Path, command: str) -> None:
    """No traceback; the line names the file."""
    more = ["-o", tmp_path / "out"] if command == "import" else []
    done = run(command, tmp_path / "nothing.yaml", *more)
    assert (done.code, done.out) == (2, "")
    assert "nothing.yaml" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "verify", "lint"])
def test_a_folder_without_cassettes_is_code_2(run: Callable[..., Done], tmp_path: Path, command: str) -> None:
    """Checking nothing is not fine: the path is wrong."""
    (tmp_path / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    done = run(command, tmp_path)
    assert done.code == 2
    assert "no cassettes" in done.err


@pytest.mark.parametrize("arguments", [["play"], [], ["nothing"], ["show", "x", "-n", "one"]])
def test_wrong_arguments_are_code_2(run: Callable[..., Done], arguments: list[str]) -> None:
    """With the usage, as argparse says it."""
    done = run(*arguments)
    assert done.code == 2
    assert done.err.startswith("usage:")


def test_a_damaged_file_is_code_1(run: Callable[..., Done], conversation: Path) -> None:
    """The line names file, interaction, and what to do."""
    conversation.write_text(conversation.read_text(encoding="utf-8").replace("Auf ", "Ab "), encoding="utf-8")
    for command in (["play", conversation], ["show", conversation, "-n", "1"]):
        done = run(*command)
        assert done.code == 1
        assert f"{conversation}" in done.err
        assert "interaction 2" in done.err


KEYS = "interactions request method uri body headers content-type response status code message string"
KEYS_OF_OURS = f"{KEYS} stream v started_ms headers_ms chunks end digest version miniagents count"


@pytest.mark.parametrize(
    ("sealed", "key"),
    [*((True, key) for key in KEYS_OF_OURS.split()), *((False, key) for key in KEYS.split())],
)
def test_no_damage_is_a_traceback(run: Callable[..., Done], conversation: Path, sealed: bool, key: str) -> None:
    """A line that is missing, doubled, or has another value, in files with and without a seal."""
    text = conversation.read_text(encoding="utf-8")
    if not sealed:
        document = yaml.safe_load(text)
        del document["miniagents"]
        for entry in document["interactions"]:
            del entry["response"]["stream"]
        text = yaml.safe_dump(document)
    lines = text.splitlines()
    position = next(number for number, line in enumerate(lines) if line.strip(" -").startswith(f"{key}:"))
    line, name = lines[position], lines[position].partition(":")[0]
    damaged = conversation.with_name("damaged.yaml")
    for change in ("", f"{line}\n{line}", f"{name}:", f"{name}: 5", f"{name}: x", f"{name}: [1]", f"{name}: {{a: 1}}"):
        changed = "\n".join([*lines[:position], change, *lines[position + 1 :]])
        for command in (
            "play",
            "show",
            "verify",
            "lint",
            f"import --force -o {damaged.parent / 'out'}",
            "edit --reseal",
        ):
            damaged.write_text(changed, encoding="utf-8")
            arguments = command.split()
            assert run(arguments[0], damaged, *arguments[1:]).code in (0, 1)


def test_a_reader_that_stops_reading_is_no_traceback(conversation: Path) -> None:
    """As with `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "play", str(conversation)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal, and no pseudo-terminals")
def test_an_interrupt_ends_it_cleanly(conversation: Path) -> None:
    """Ctrl-C while it plays: no traceback, and what was said so far is there."""
    with subprocess.Popen(
        [*PROGRAM, "play", "--speed", "0.001", str(conversation)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        shown = "USER: Hi, who are you?\ngpt-4: "
        assert program.stdout.read(len(shown)) == shown
        program.send_signal(signal.SIGINT)
        assert program.stdout.read() == ""
        assert program.stderr.read() == ""
    assert program.returncode == 130


def _on_a_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Run the program on a pseudo-terminal of 100 columns."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}
    program = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while data := os.read(ours, 65536):
            written += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return program.wait(), written.decode()


def test_a_terminal_gets_colours_and_tables(conversation: Path) -> None:
    """And a pipe gets neither; `NO_COLOR` is respected."""
    code, shown = _on_a_terminal("show", conversation)
    assert code == 0
    assert "\x1b[" in shown
    assert "─" in shown
    assert "Hi, who are you?" in shown
    code, played = _on_a_terminal("play", conversation, "--speed", "0")
    assert "\x1b[1;32mUSER: " in played
    assert "\x1b[3" not in _on_a_terminal("verify", conversation, NO_COLOR="1")[1]
    assert "\x1b[32mok" in _on_a_terminal("verify", conversation)[1]


def test_colours_can_be_forced_in_a_pipe(conversation: Path) -> None:
    """For pagers; what moves the cursor is left out all the same."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [*PROGRAM, "play", str(conversation)], capture_output=True, env=environment, encoding="utf-8", check=True
    )
    assert "\x1b[1;32mUSER: \x1b[0mHi, who are you?" in done.stdout
    assert "\x1b[?25l" not in done.stdout


def test_characters_that_the_terminal_does_not_know_are_escaped(conversation: Path) -> None:
    """In place of a traceback in the middle of the output."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*PROGRAM, "play", str(conversation)], capture_output=True, env=environment, encoding="ascii", check=True
    )
    assert r"USER: Bye \U0001f44b" in done.stdout


def test_a_missing_extra_is_named_with_its_pip_line() -> None:
    """Without the extra there is no command that could work."""
    code = "import sys; sys.modules['rich'] = None; from miniagents_testing.cli import main; sys.exit(main(['show']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "'rich' is needed. Install it with: pip install 'miniagents[testing]'\n"
