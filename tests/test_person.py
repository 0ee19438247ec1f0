"""The example as a person runs it: a program on a terminal, keys in, text out, a real HTTP server at the other end."""

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

pty = pytest.importorskip("pty", reason="pseudo-terminals are a thing of POSIX", exc_type=ImportError)

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "live_conversation.py"
PATIENCE = 30
"""Seconds until a test gives up on a program; nothing waits that long if all is well."""

# Ctrl-C is turned into a signal by the terminal that controls a program, and only a session leader can take one.
ON_ITS_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"
HELD = ["One ", "two ", "three."]


class Person:
    """Somebody who runs the example, reads what it prints, and types."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int, screen: int) -> None:
        self._process = process
        self._keyboard = keyboard
        self._screen = screen
        self._seen = b""

    @classmethod
    def at_a_terminal(cls, environment: Mapping[str, str]) -> Self:
        """Stdin, stdout and stderr are one terminal, as in a shell."""
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
        """As in `echo Hello | python ... | cat`."""
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
        """What was printed so far, without colours and movements of the cursor."""
        text = self._seen.decode("utf-8", "replace").replace("\r", "")
        return re.sub(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|[=>])", "", text)

    def types(self, keys: str) -> None:
        """Press keys."""
        os.write(self._keyboard, keys.encode())

    def hangs_up_the_keyboard(self) -> None:
        """The end of piped input."""
        os.close(self._keyboard)
        self._keyboard = -1

    def interrupts(self) -> None:
        """Ctrl-C where no terminal makes a signal of it."""
        self._process.send_signal(signal.SIGINT)

    def waits_for(self, text: str) -> None:
        """Read until `text` stands there."""
        while text not in self.seen:
            if not self._reads():
                pytest.fail(f"{text!r} did not come; there is only:\n{self.seen}")

    def waits_for_the_end(self) -> int:
        """Read what is left, and give the exit status."""
        while self._reads():
            pass
        return self._process.wait(PATIENCE)

    def _reads(self) -> bool:
        """Take what is there; False when there will be no more."""
        if not select.select([self._screen], [], [], PATIENCE)[0]:
            pytest.fail(f"nothing came for {PATIENCE} s after:\n{self.seen}")
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # how a terminal on Linux says that nobody is at the other side
            return False
        self._seen += data
        return bool(data)

    def leaves(self) -> None:
        """Whatever happened, nothing of it stays."""
        self._process.kill()
        self._process.wait()
        for descriptor in {self._keyboard, self._screen} - {-1}:
            os.close(descriptor)


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """Answers in three words and stops after the first, until it is told to go on; then with recorded streams."""
    recorded = load(ROOT / "cassettes" / "openai" / "conversation.yaml")
    answers = [interaction.response for interaction in recorded]
    with ProviderServer([Step(HELD, after=1, then="hold"), *answers], pace=0.05) as server:
        yield server


@pytest.fixture
def environment(server: ProviderServer) -> dict[str, str]:
    """All that the example is told."""
    return {
        **os.environ,
        "OPENAI_BASE_URL": server.openai_base_url,
        "OPENAI_API_KEY": "sk-dummy",
        "PYTHONWARNINGS": "error",
    }


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Person]:
    """A person at a terminal, who sees the first prompt."""
    person = Person.at_a_terminal(environment)
    try:
        person.waits_for("USER: ")
        yield person
    finally:
        person.leaves()


@pytest.fixture
def pipes(environment: dict[str, str]) -> Iterator[Person]:
    """A program instead of a person."""
    person = Person.with_pipes(environment)
    try:
        yield person
    finally:
        person.leaves()


def test_tokens_are_seen_before_the_answer_has_ended(terminal: Person, server: ProviderServer) -> None:
    """The first word is on the screen while the provider has not sent the second."""
    terminal.types("Hello" + ENTER)
    terminal.waits_for("ASSISTANT: One ")
    assert "two" not in terminal.seen
    server.release()
    terminal.waits_for("three.")
    assert server.calls[0].messages == (UserMessage("Hello"),)


def test_exit_ends_a_conversation(terminal: Person, server: ProviderServer) -> None:
    """After a second turn, with a recorded stream of 40 chunks and the whole chat in its prompt."""
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
def test_a_key_at_the_prompt_ends_it(terminal: Person, key: str) -> None:
    """No traceback, and status 0: the example catches what has to be caught."""
    terminal.types(key)
    assert terminal.waits_for_the_end() == 0
    assert "Traceback" not in terminal.seen


def test_ctrl_c_ends_it_in_the_middle_of_an_answer(terminal: Person) -> None:
    """The provider would never go on; nobody waits for it."""
    terminal.types("Hello" + ENTER)
    terminal.waits_for("ASSISTANT: One ")
    terminal.types(CTRL_C)
    assert terminal.waits_for_the_end() == 0
    assert "Traceback" not in terminal.seen
    assert "two" not in terminal.seen


def test_piped_input_is_a_conversation_too(pipes: Person, server: ProviderServer) -> None:
    """What was piped in is shown as if it had been typed, tokens come one by one, and the end of input is the end."""
    pipes.types("Hello\n")
    pipes.waits_for("ASSISTANT: One ")
    assert "USER: Hello\n" in pipes.seen
    assert "two" not in pipes.seen
    server.release()
    pipes.waits_for("three.")
    pipes.types("Go on\n")
    pipes.hangs_up_the_keyboard()
    assert pipes.waits_for_the_end() == 0
    assert "🙂" in pipes.seen
    assert "Traceback" not in pipes.seen
    assert "\x1b" not in pipes._seen.decode()


def test_piped_exit_ends_it(pipes: Person, server: ProviderServer) -> None:
    """What comes after "exit" is not read."""
    pipes.types("exit\nHello\n")
    assert pipes.waits_for_the_end() == 0
    assert server.calls == ()


def test_an_interrupt_ends_piped_input_in_the_middle_of_an_answer(pipes: Person) -> None:
    """Also where stdin is a pipe that somebody holds open."""
    pipes.types("Hello\n")
    pipes.waits_for("ASSISTANT: One ")
    pipes.interrupts()
    assert pipes.waits_for_the_end() == 0
    assert "Traceback" not in pipes.seen


def test_an_interrupt_ends_the_wait_for_piped_input(pipes: Person) -> None:
    """Nothing sits in a thread that keeps the program alive."""
    pipes.waits_for("USER: ")
    pipes.interrupts()
    assert pipes.waits_for_the_end() == 0
    assert "Traceback" not in pipes.seen
