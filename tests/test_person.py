"""The live example as a user runs it: a program on a terminal, with keys pressed, and a real HTTP server."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from miniagents import UserMessage
from miniagents_testing import ProviderServer, Step
from miniagents_testing.cassette import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pty = pytest.importorskip("pty", reason="pseudo-terminals need POSIX", exc_type=ImportError)

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "live_conversation.py"
PATIENCE = 100
"""Seconds after which a test fails; a test that passes never waits that long."""

# Ctrl-C is turned into a signal by the terminal that controls a program, and only a session leader can take one.
ON_ITS_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"
HELD = ["One ", "two ", "three."]


class Person:
    """User who runs the example, reads its output, and types."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int, screen: int) -> None:
        self._process = process
        self._keyboard = keyboard
        self._screen = screen
        self._seen = b""

    @classmethod
    def at_a_terminal(cls, environment: Mapping[str, str]) -> Self:
        """Start the example with stdin, stdout and stderr on one terminal, as in a shell."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", ON_ITS_TERMINAL, sys.executable, str(EXAMPLE)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**environment, "TERM": "xterm"},
        )
        os.close(slave)
        return cls(process, master, master)

    @classmethod
    def with_pipes(cls, environment: Mapping[str, str]) -> Self:
        """Start the example with pipes, as in `echo Hello | python ... | cat`."""
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=dict(environment),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        keyboard, screen = os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno())
        process.stdin.close()
        process.stdout.close()
        return cls(process, keyboard, screen)

    @property
    def seen(self) -> str:
        """Output so far, without colours and cursor movements."""
        text = self._seen.decode("utf-8", "replace").replace("\r", "")
        return re.sub(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|[=>])", "", text)

    def types(self, keys: str) -> None:
        """Press keys."""
        os.write(self._keyboard, keys.encode())

    def closes_stdin(self) -> None:
        """End the piped input."""
        os.close(self._keyboard)
        self._keyboard = -1

    def interrupts(self) -> None:
        """Send the program SIGINT, which a terminal would send for Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def waits_for(self, text: str) -> None:
        """Read output until `text` is in it."""
        while text not in self.seen:
            if not self._reads():
                pytest.fail(f"{text!r} did not come; there is only:\n{self.seen}")

    def waits_for_the_end(self) -> int:
        """Read the rest of the output, and return the exit status."""
        while self._reads():
            pass
        return self._process.wait(PATIENCE)

    def _reads(self) -> bool:
        """Read some output; return False at its end."""
        if not select.select([self._screen], [], [], PATIENCE)[0]:
            pytest.fail(f"nothing came for {PATIENCE} s after:\n{self.seen}")
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # on Linux: the program has closed its side of the terminal
            return False
        self._seen += data
        return bool(data)

    def leaves(self) -> None:
        """End the program if it still runs, and close all descriptors."""
        self._process.kill()
        self._process.wait()
        for descriptor in {self._keyboard, self._screen} - {-1}:
            os.close(descriptor)


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """Start a server: its first answer stops after a word until the test releases it; the others are recorded."""
    recorded = load(ROOT / "cassettes" / "openai" / "conversation.yaml")
    answers = [interaction.response for interaction in recorded]
    with ProviderServer([Step(HELD, after=1, then="hold"), *answers], pace=0.05) as server:
        yield server


@pytest.fixture
def environment(server: ProviderServer) -> dict[str, str]:
    """Return the environment variables of the example."""
    return {
        **os.environ,
        "OPENAI_BASE_URL": server.openai_base_url,
        "OPENAI_API_KEY": "sk-dummy",
        "PYTHONWARNINGS": "error",
    }


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Person]:
    """Start the example on a terminal, and wait for its first prompt."""
    person = Person.at_a_terminal(environment)
    try:
        person.waits_for("USER: ")
        yield person
    finally:
        person.leaves()


@pytest.fixture
def pipes(environment: dict[str, str]) -> Iterator[Person]:
    """Start the example with pipes."""
    person = Person.with_pipes(environment)
    try:
        yield person
    finally:
        person.leaves()


def test_example_prints_a_token_before_the_answer_is_complete(terminal: Person, server: ProviderServer) -> None:
    """The example shows the first word of an answer while the provider has not sent the second."""
    terminal.types("Hello" + ENTER)
    terminal.waits_for("ASSISTANT: One ")
    assert "two" not in terminal.seen
    server.release()
    terminal.waits_for("three.")
    assert server.calls[0].messages == (UserMessage("Hello"),)


def test_exit_ends_the_example(terminal: Person, server: ProviderServer) -> None:
    """The word "exit" ends the example after two turns; the second request holds the whole chat."""
    server.release()
    terminal.types("Hello" + ENTER)
    terminal.waits_for("three.")
    terminal.waits_for("USER: ")
    terminal.types("Go on" + ENTER)
    terminal.waits_for("🙂")
    terminal.types("exit" + ENTER)
    assert terminal.waits_for_the_end() == 0
    assert "Traceback" not in terminal.seen
    assert [message.content for message in server.calls[1].messages] == ["Hello", "One two three.", "Go on"]


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D], ids=["ctrl_c", "ctrl_d"])
def test_ctrl_c_or_ctrl_d_at_the_prompt_ends_the_example(terminal: Person, key: str) -> None:
    """Ctrl-C and Ctrl-D at the prompt end the example with status 0 and without a traceback."""
    terminal.types(key)
    assert terminal.waits_for_the_end() == 0
    assert "Traceback" not in terminal.seen


def test_two_ctrl_c_end_the_example_in_the_middle_of_an_answer(terminal: Person) -> None:
    """The first Ctrl-C stops an answer that the provider never finishes, and the next one ends the example."""
    terminal.types("Hello" + ENTER)
    terminal.waits_for("ASSISTANT: One ")
    terminal.types(CTRL_C)
    terminal.waits_for("[the answer was stopped]")
    terminal.types(CTRL_C)
    assert terminal.waits_for_the_end() == 0
    assert "Traceback" not in terminal.seen
    assert "two" not in terminal.seen


def test_example_reads_piped_input(pipes: Person, server: ProviderServer) -> None:
    """Piped lines are printed as if typed, tokens come one by one, and the end of the input ends the example."""
    pipes.types("Hello\n")
    pipes.waits_for("ASSISTANT: One ")
    assert "USER: Hello\n" in pipes.seen
    assert "two" not in pipes.seen
    server.release()
    pipes.waits_for("three.")
    pipes.types("Go on\n")
    pipes.closes_stdin()
    assert pipes.waits_for_the_end() == 0
    assert "🙂" in pipes.seen
    assert "Traceback" not in pipes.seen
    assert "\x1b" not in pipes._seen.decode()


def test_piped_exit_ends_the_example(pipes: Person, server: ProviderServer) -> None:
    """The example ends at the piped line "exit", and does not read the lines after it."""
    pipes.types("exit\nHello\n")
    assert pipes.waits_for_the_end() == 0
    assert server.calls == ()


def test_sigint_ends_the_example_in_the_middle_of_an_answer(pipes: Person) -> None:
    """SIGINT ends the example even if stdin is a pipe that stays open."""
    pipes.types("Hello\n")
    pipes.waits_for("ASSISTANT: One ")
    pipes.interrupts()
    assert pipes.waits_for_the_end() == 0
    assert "Traceback" not in pipes.seen


def test_sigint_ends_the_wait_for_piped_input(pipes: Person) -> None:
    """SIGINT ends the example while it waits for a line of an open pipe."""
    pipes.waits_for("USER: ")
    pipes.interrupts()
    assert pipes.waits_for_the_end() == 0
    assert "Traceback" not in pipes.seen
