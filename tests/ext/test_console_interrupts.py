"""Ctrl-C and errors at the console, on a real pseudo-terminal (laws 21, 22 and 38)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from miniagents.ext._console_input import ConsoleInterrupts
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tests.conftest import Effort

if sys.platform == "win32":
    pytest.skip("this system has no pseudo-terminals", allow_module_level=True)

import fcntl
import pty
import termios

PROGRAM = """
import asyncio, json, os, sys
if "--plain" in sys.argv:
    sys.modules["prompt_toolkit"] = None  # as if the extra were not installed
from miniagents import AssistantMessage, InMemoryChatHistory, MiniAgents, adialog_loop, miniagent
from miniagents.errors import AuthenticationFailedError, MissingAPIKeyError, MissingExtraError, RateLimitedError
from miniagents.ext.console_user_agent import create_console_user_agent

history = InMemoryChatHistory()
prompts = []

@miniagent
async def assistant(ctx):
    said = str((await ctx.message_promises)[-1])
    prompts.append([str(message) for message in await ctx.message_promises])

    async def streamer(fields):
        if said == "think":
            await asyncio.Event().wait()
        if said == "no key":
            raise MissingAPIKeyError("no API key: set X")
        if said == "401":
            raise AuthenticationFailedError("status 401:\\nwrong key")
        if said == "extra":
            raise MissingExtraError.of("openai", "openai")
        if said == "busy" and len(prompts) == 1:
            yield "half an "
            raise RateLimitedError("status 429: too many requests,\\nwait")
        for number in range(10**9 if said == "go on" else 3):
            yield f"word{number} "
            await asyncio.sleep(0.01)

    if said == "block":
        import time
        print("BLOCKED", flush=True)
        time.sleep(1000)
    try:
        ctx.reply(AssistantMessage.promise(message_token_streamer=streamer))
        if said == "tools":
            await asyncio.Event().wait()
    finally:
        print("<ASSISTANT ENDED>", flush=True)

async def amain():
    try:
        await adialog_loop(user_agent=create_console_user_agent(history), assistant_agent=assistant)
        print("ENDED")
    except KeyboardInterrupt:
        print("INTERRUPTED")
    with open(os.environ["REPORT"], "w") as report:
        stored = [(m.role, str(m), getattr(m, "interrupted", False)) for m in await history.aload_chat_history()]
        json.dump({"stored": stored, "prompts": prompts}, report)

MiniAgents().run(amain())
print("GONE")
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
CTRL_C = "\x03"
LONG = 100
"""Seconds after which a program counts as hung: many, as a busy machine is slow."""


class Terminal:
    """Program on a pseudo-terminal."""

    def __init__(self, folder: Path, *arguments: str, ignored: bool = False) -> None:
        self.screen, self.keyboard = pty.openpty()
        self.shown = ""
        self.report, self._errors = folder / "report.json", folder / "errors.txt"

        def own_the_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
            signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)

        self.mode_before = termios.tcgetattr(self.keyboard)
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                stdin=self.keyboard,
                stdout=self.keyboard,
                stderr=errors,
                env={**os.environ, "TERM": "xterm", "REPORT": str(self.report)},
                start_new_session=True,
                preexec_fn=own_the_terminal,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)
        os.close(self.keyboard)

    @property
    def errors(self) -> str:
        """The standard error."""
        return self._errors.read_text()

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self.screen, keys.encode())

    def expect(self, text: str) -> str:
        """Wait until the text is shown; return the output up to the text's end, and drop it."""
        while text not in self.shown:
            ready, _, _ = select.select([self.screen], [], [], LONG)
            data = os.read(self.screen, 65536) if ready else b""
            assert data, f"{text!r} did not come, but {self.shown!r}"
            self.shown = ESCAPES.sub("", self.shown + data.decode())
        seen, _, self.shown = self.shown.partition(text)
        return seen + text

    def expect_cleared_line(self) -> None:
        """Wait until the editor clears text where it stands."""
        raw = b""
        while b"\x1b[K" not in raw:
            raw += os.read(self.screen, 65536)

    def expect_the_end(self, how: str) -> tuple[list[list[Any]], list[list[str]]]:
        """Check how the program ends; return the stored messages, and the prompts that the assistant got."""
        assert how in self.expect("GONE\r\n")
        assert self.process.wait(LONG) == 0
        assert self.errors == ""
        assert termios.tcgetattr(self.keyboard) == self.mode_before
        report = json.loads(self.report.read_text())
        return report["stored"], report["prompts"]


both = pytest.mark.parametrize("args", [[], ["--plain"]], ids=["editor", "plain"])


@both
@pytest.mark.parametrize("question", ["go on", "think", "tools"])
def test_C13_ctrl_c_after_enter_stops_the_answer(
    tmp_path: Path, args: list[str], question: str, effort: Effort
) -> None:
    """Ctrl-C at any moment after Enter stops the answer, and the prompt returns; the program goes on."""
    moments = [0, 5, 20, 100, 1000]  # each in a new program, as two presses in short order end a program
    for milliseconds in effort([0, 20, 100], ci=moments, nightly=moments):
        with Terminal(tmp_path, *args) as terminal:
            terminal.expect("USER: ")
            terminal.press(f"{question}\r")
            time.sleep(milliseconds / 1000)
            terminal.press(CTRL_C)
            terminal.expect("[the answer was stopped]")
            terminal.expect("USER: ")
            terminal.press("short\r")
            terminal.expect("word2")
            terminal.expect("USER: ")
            terminal.press("exit\r")
            stored, prompts = terminal.expect_the_end("ENDED")
            assert stored[0] == ["user", question, False]
            assert stored[-2:] == [["user", "short", False], ["assistant", "word0 word1 word2 ", False]]
            assert [role for role, _, _ in stored[1:-2]] in ([], ["assistant"])  # the part that came, if there is one
            if question == "go on":
                assert all(interrupted for _, _, interrupted in stored[1:-2])
            assert prompts[-1][-1] == "short"


@both
def test_part_of_a_stopped_answer_is_stored_as_interrupted(tmp_path: Path, args: list[str]) -> None:
    """The text that came before Ctrl-C is in the history, as an interrupted message."""
    with Terminal(tmp_path, *args) as terminal:
        terminal.expect("USER: ")
        terminal.press("go on\r")
        terminal.expect("word3")
        terminal.press(CTRL_C)
        terminal.expect("USER: ")
        terminal.press("\x04")
        (_, (role, text, interrupted)), _ = terminal.expect_the_end("ENDED")
        assert (role, interrupted) == ("assistant", True)
        assert text.startswith("word0 word1 word2 word3")


@both
@pytest.mark.parametrize("waits", ["no", "for the prompt"])
def test_second_ctrl_c_ends_the_program(tmp_path: Path, args: list[str], waits: str) -> None:
    """A second Ctrl-C ends the program with `KeyboardInterrupt`, whether or not the prompt has returned."""
    with Terminal(tmp_path, *args) as terminal:
        terminal.expect("USER: ")
        terminal.press("go on\r")
        terminal.expect("word0")
        terminal.press(CTRL_C)
        terminal.expect("[the answer was stopped]" if waits == "no" else "USER: ")
        terminal.press(CTRL_C)
        terminal.expect_the_end("INTERRUPTED")


@both
def test_ctrl_c_ends_a_program_whose_event_loop_is_blocked(tmp_path: Path, args: list[str]) -> None:
    """If an agent blocks the event loop, repeated Ctrl-C ends the program with a status other than 0."""
    with Terminal(tmp_path, *args) as terminal:
        terminal.expect("USER: ")
        terminal.press("block\r")
        terminal.expect("BLOCKED")
        deadline = time.monotonic() + LONG
        while terminal.process.poll() is None and time.monotonic() < deadline:
            terminal.press(CTRL_C)
            time.sleep(0.05)
        assert terminal.process.returncode not in (None, 0)


@both
def test_ctrl_c_clears_the_text_at_the_prompt(tmp_path: Path, args: list[str]) -> None:
    """Ctrl-C with text at the prompt drops the text; the next line is sent without it."""
    with Terminal(tmp_path, *args) as terminal:
        terminal.expect("USER: ")
        terminal.press("never mi")
        terminal.expect("never mi")
        terminal.press(CTRL_C)
        if args:
            terminal.expect("USER: ")
        else:
            terminal.expect_cleared_line()
        terminal.press("short\r")
        terminal.expect("word2")
        terminal.expect("USER: ")
        terminal.press(CTRL_C)
        stored, _ = terminal.expect_the_end("INTERRUPTED")
        assert stored[0] == ["user", "short", False]


@both
def test_ctrl_c_works_where_the_program_was_started_with_it_ignored(tmp_path: Path, args: list[str]) -> None:
    """At a terminal, Ctrl-C stops an answer and ends the program even if the parent process ignored SIGINT."""
    with Terminal(tmp_path, *args, ignored=True) as terminal:
        terminal.expect("USER: ")
        terminal.press("go on\r")
        terminal.expect("word0")
        terminal.press(CTRL_C)
        terminal.expect("USER: ")
        terminal.press(CTRL_C)
        terminal.expect_the_end("INTERRUPTED")


@both
def test_first_line_says_the_keys(tmp_path: Path, args: list[str]) -> None:
    """On a terminal, the first line says how to send, to stop and to leave, once."""
    with Terminal(tmp_path, *args) as terminal:
        new_line = "" if args else "Alt+Enter starts a line, "
        keys = f'Enter sends, {new_line}Ctrl-C stops an answer, Ctrl-D or "exit" leaves.'
        assert terminal.expect("USER: ").startswith(f"{keys}\r\n")
        terminal.press("short\r")
        assert "Enter sends" not in terminal.expect("USER: ")
        terminal.press("exit\r")
        terminal.expect_the_end("ENDED")


@both
def test_provider_error_is_one_line_and_the_message_can_be_sent_again(tmp_path: Path, args: list[str]) -> None:
    """After an error of the provider, Enter sends the failed message again, and the history has it once."""
    with Terminal(tmp_path, *args) as terminal:
        terminal.expect("USER: ")
        terminal.press("busy\r")
        terminal.expect("half an ")
        terminal.expect("ERROR: RateLimitedError: status 429: too many requests, wait\r\n")
        terminal.expect("USER: " if args else "USER: busy")
        terminal.press("\r")
        terminal.expect("word2")
        terminal.expect("USER: ")
        terminal.press("exit\r")
        stored, prompts = terminal.expect_the_end("ENDED")
        assert stored == [
            ["user", "busy", False],
            ["assistant", "half an ", True],
            ["assistant", "word0 word1 word2 ", False],
        ]
        assert prompts == [["busy"], ["busy", "half an "]]


@both
def test_message_is_stored_again_if_it_was_changed_after_an_error(tmp_path: Path, args: list[str]) -> None:
    """If the user changes a message that was answered by an error, the history has both the old and the new message."""
    with Terminal(tmp_path, *args) as terminal:
        terminal.expect("USER: ")
        terminal.press("busy\r")
        terminal.expect("ERROR: ")
        terminal.expect("USER: " if args else "USER: busy")
        terminal.press("busy now\r" if args else " now\r")
        terminal.expect("word2")
        terminal.expect("USER: ")
        terminal.press("exit\r")
        stored, _ = terminal.expect_the_end("ENDED")
        assert [text for role, text, _ in stored if role == "user"] == ["busy", "busy now"]


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("no key", "MissingAPIKeyError: no API key: set X\n"),
        ("401", "AuthenticationFailedError: status 401: wrong key\n"),
        ("extra", "MissingExtraError: 'openai' is not installed."),
    ],
)
@pytest.mark.parametrize("typed", [True, False], ids=["terminal", "pipe"])
def test_error_that_no_attempt_mends_ends_the_program(tmp_path: Path, question: str, line: str, typed: bool) -> None:
    """Without a key or an extra, and with a refused key, the program ends with status 1 and one line on stderr."""
    if typed:
        with Terminal(tmp_path) as terminal:
            terminal.expect("USER: ")
            terminal.press(f"{question}\r")
            assert terminal.process.wait(LONG) == 1
            errors = terminal.errors
            assert termios.tcgetattr(terminal.keyboard) == terminal.mode_before
    else:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], input=f"{question}\n", capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1
        errors = ended.stderr
    assert errors.startswith(line)
    assert errors.count("\n") == 1


def test_ctrl_c_on_a_pipe_interrupts_at_once(tmp_path: Path) -> None:
    """With piped input, the first SIGINT raises `KeyboardInterrupt` in the main coroutine, as law 38 says."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "REPORT": str(tmp_path / "report.json")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        seen = b""
        while b"word0" not in seen:
            seen += os.read(process.stdout.fileno(), 65536)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert b"Enter sends" not in seen
    assert rest.endswith(b"INTERRUPTED\nGONE\n")
    assert process.returncode == 0


async def test_second_dialog_of_a_run_catches_ctrl_c_again() -> None:
    """A dialog that begins after the end of another one catches Ctrl-C.

    The end of the run restores the handler that was there before.
    """
    before = signal.getsignal(signal.SIGINT)
    interrupts = ConsoleInterrupts()
    async with MiniAgents():
        interrupts.listen()
        assert signal.getsignal(signal.SIGINT) is not before
        interrupts.release()
        assert signal.getsignal(signal.SIGINT) is before
        interrupts.listen()
        for _ in range(5):
            await asyncio.sleep(0)
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
