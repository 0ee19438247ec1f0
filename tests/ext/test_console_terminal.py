"""The console user agent as a user sees it: a program on a pseudo-terminal, and keys pressed one after the other."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from types import TracebackType

if sys.platform == "win32":
    pytest.skip("this system has no pseudo-terminals", allow_module_level=True)

import fcntl
import pty
import termios

PROGRAM = """
import asyncio, signal, sys
if "--plain" in sys.argv:
    sys.modules["prompt_toolkit"] = None  # as if the extra were not installed
from miniagents.ext.console_user_agent import create_console_user_agent
from miniagents.messages import AssistantMessage
from miniagents.miniagents import MiniAgents, miniagent
from miniagents.utils import adialog_loop

go_on = asyncio.Event()

@miniagent
async def assistant(ctx):
    said = (await ctx.message_promises)[-1].content
    async def streamer(_):
        yield "You said "
        await go_on.wait()
        yield repr(said)
    ctx.reply(AssistantMessage.promise(message_token_streamer=streamer))

async def amain():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go_on.set)
    try:
        await adialog_loop(user_agent=create_console_user_agent(), assistant_agent=assistant)
        print("ENDED")
    except KeyboardInterrupt:
        print("INTERRUPTED")

MiniAgents().run(amain())
print("GONE")
"""
APPROVAL_PROGRAM = """
import sys
if "--plain" in sys.argv:
    sys.modules["prompt_toolkit"] = None  # as if the extra were not installed
from miniagents import MiniAgents, adialog_loop, tool
from miniagents.ext.console_user_agent import create_console_approver, create_console_user_agent
from miniagents_testing import Step, create_scripted_agent

def delete(path: str) -> str:
    'Delete a file.'
    return f"deleted {path}"

paths = ["a\x1b[2J", "b"]
assistant = create_scripted_agent(
    [Step("I will delete both.", tool_calls=[("delete", {"path": path}) for path in paths]), "All done."],
    tools=[tool(delete, approve=create_console_approver())],
)

async def amain():
    try:
        await adialog_loop(user_agent=create_console_user_agent(), assistant_agent=assistant)
        print("ENDED")
    except KeyboardInterrupt:
        print("INTERRUPTED")

MiniAgents().run(amain())
print("GONE")
"""
PROMPT = r"USER: (?:\x1b\[[0-9;?]*[a-zA-Z])*$"  # only escape sequences may follow: the program waits for keys
ASKED = PROMPT.replace("USER: ", r"Run it\? \(y/n\) ")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Screen:
    """Reader of the output of a program."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.shown = ""

    def expect(self, pattern: str) -> str:
        """Wait until new output matches; return the output up to the end of the match, and drop it."""
        compiled = re.compile(pattern)
        while (match := compiled.search(self.shown)) is None:
            ready, _, _ = select.select([self.descriptor], [], [], 100)
            data = os.read(self.descriptor, 65536) if ready else b""
            assert data, f"{pattern!r} did not come, but {self.shown!r}"
            self.shown += data.decode()
        seen, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return seen


class Terminal(Screen):
    """Program on a pseudo-terminal, and its output."""

    program = PROGRAM

    def __init__(self, *args: str, **environment: str) -> None:
        screen, self._keyboard = pty.openpty()
        super().__init__(screen)
        self.mode_before = self.mode

        def own_the_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored

        self.process = subprocess.Popen(
            [sys.executable, "-c", self.program, *args],
            stdin=self._keyboard,
            stdout=self._keyboard,
            stderr=self._keyboard,
            env={**os.environ, "TERM": "xterm", **environment},
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
        os.close(self.descriptor)
        os.close(self._keyboard)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self.descriptor, keys.encode())

    @property
    def mode(self) -> int:
        """Local flags of the terminal: echo, line mode, signals."""
        local: int = termios.tcgetattr(self._keyboard)[3]
        return local

    def expect_the_end(self, how: str) -> None:
        """Check that the dialog ended in this way, the program ended, and the terminal has its old mode."""
        end = self.expect("GONE\r\n")
        assert how in end
        assert "Traceback" not in end
        assert self.process.wait(100) == 0
        assert self.mode == self.mode_before


@pytest.mark.parametrize("args", [[], ["--plain"]], ids=["editor", "plain"])
class TestBothWaysToAsk:
    """Tests of behaviour that the console has with prompt-toolkit and without it."""

    def test_console_prints_a_token_before_the_message_is_complete(self, args: list[str]) -> None:
        """The first token is on the screen while the second does not exist yet; "exit" then ends the dialog."""
        with Terminal(*args) as terminal:
            terminal.expect(PROMPT)
            terminal.press("Ahoj, světe!\r")
            terminal.expect("ASSISTANT: .*You said ")
            assert "světe" not in terminal.shown
            terminal.process.send_signal(signal.SIGUSR1)
            terminal.expect("'Ahoj, světe!'")
            terminal.expect(PROMPT)
            terminal.press("exit\r")
            terminal.expect_the_end("ENDED")

    def test_line_feed_is_enter(self, args: list[str]) -> None:
        """A line feed that another program writes to the terminal sends the line, as Enter does."""
        with Terminal(*args) as terminal:
            terminal.expect(PROMPT)
            terminal.press("exit\n")
            terminal.expect_the_end("ENDED")

    def test_ctrl_c_at_an_empty_prompt_raises_keyboard_interrupt(self, args: list[str]) -> None:
        """Ctrl-C at an empty prompt raises `KeyboardInterrupt` in the main coroutine."""
        with Terminal(*args) as terminal:
            terminal.expect(PROMPT)
            terminal.press("\x03")
            terminal.expect_the_end("INTERRUPTED")

    def test_ctrl_d_ends_the_dialog(self, args: list[str]) -> None:
        """Ctrl-D on an empty line ends the dialog."""
        with Terminal(*args) as terminal:
            terminal.expect(PROMPT)
            terminal.press("\x04")
            terminal.expect_the_end("ENDED")

    def test_sigint_at_the_prompt_raises_keyboard_interrupt(self, args: list[str]) -> None:
        """SIGINT of another program raises `KeyboardInterrupt` at the prompt, and the terminal has its old mode."""
        with Terminal(*args) as terminal:
            terminal.expect(PROMPT)
            terminal.process.send_signal(signal.SIGINT)
            terminal.expect_the_end("INTERRUPTED")

    def test_console_uses_colours_unless_no_color_is_set(self, args: list[str]) -> None:
        """The console prints role names in colour, unless NO_COLOR is set."""
        with Terminal(*args) as terminal:
            assert "32;1m" in terminal.expect("USER:")
        with Terminal(*args, NO_COLOR="1") as terminal:
            assert "32;1m" not in terminal.expect("USER:")


class ApprovalTerminal(Terminal):
    """Program on a pseudo-terminal whose assistant needs two approvals."""

    program = APPROVAL_PROGRAM


@pytest.mark.parametrize("args", [[], ["--plain"]], ids=["editor", "plain"])
def test_approver_asks_below_the_answer(args: list[str]) -> None:
    """The answer, its calls, and the questions come in this order; each key answers its own question."""
    with ApprovalTerminal(*args) as terminal:
        terminal.expect(PROMPT)
        terminal.press("Delete both!\r")
        seen = ESCAPES.sub("", terminal.expect(ASKED))
        shown = r'delete(path="a\u001b[2J")'
        assert (
            f'I will delete both.\r\n[{shown}]\r\n[delete(path="b")]\r\n\r\nAPPROVAL: {shown}\r\nRun it? (y/n) ' in seen
        )
        terminal.press("y\r")
        seen = ESCAPES.sub("", terminal.expect(ASKED))
        assert 'APPROVAL: delete(path="b")' in seen
        terminal.press("keep b\r")
        seen += ESCAPES.sub("", terminal.expect(PROMPT))
        assert r"TOOL: deleted a\x1b[2J" in seen
        assert "TOOL: The call did not run, because it was refused: keep b" in seen
        assert "ASSISTANT: All done." in seen
        terminal.press("exit\r")
        terminal.expect_the_end("ENDED")


@pytest.mark.parametrize("args", [[], ["--plain"]], ids=["editor", "plain"])
@pytest.mark.parametrize(("key", "how"), [("\x03", "INTERRUPTED"), ("\x04", "ENDED"), ("exit\r", "ENDED")])
def test_ctrl_c_ctrl_d_and_exit_end_the_dialog_at_an_approval(args: list[str], key: str, how: str) -> None:
    """At a question, Ctrl-C raises `KeyboardInterrupt` in the main coroutine; Ctrl-D and "exit" end the dialog."""
    with ApprovalTerminal(*args) as terminal:
        terminal.expect(PROMPT)
        terminal.press("Delete both!\r")
        terminal.expect(ASKED)
        terminal.press(key)
        terminal.expect_the_end(how)


def test_editor_accepts_several_lines() -> None:
    """Alt+Enter begins a new line, pasted lines stay together, and Enter sends them all."""
    with Terminal() as terminal:
        terminal.expect(PROMPT)
        terminal.press("one\x1b\rtwo")
        terminal.expect("two")
        terminal.press("\x1b[200~\nthree\nfour\x1b[201~\r")
        terminal.process.send_signal(signal.SIGUSR1)
        assert r"'one\ntwo\nthree\nfour'" in ESCAPES.sub("", terminal.expect("four'"))
        terminal.expect(PROMPT)
        terminal.press("exit\r")
        terminal.expect_the_end("ENDED")


@pytest.mark.parametrize("ending", ["exit\nnot read\n", "", "\n"], ids=repr)
def test_console_prints_piped_input_without_colours(ending: str) -> None:
    """Piped lines are printed as if typed, without colours, and the end of the input ends the dialog."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello\n" + ending.encode())
        process.stdin.close()
        screen = Screen(process.stdout.fileno())
        try:
            assert screen.expect("said ") == "\nUSER: hello\n\nASSISTANT: You said "
            process.send_signal(signal.SIGUSR1)
            rest = screen.expect("GONE\n")
        finally:
            process.kill()
    assert rest.startswith("'hello'\n\nUSER: ")
    assert rest.endswith("ENDED\nGONE\n")
    assert "\x1b" not in rest


def test_console_reads_a_file_as_stdin(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a file as stdin (`program < file`), the console prints its line "exit", which ends the dialog."""
    path = tmp_path_factory.mktemp("input") / "lines.txt"
    path.write_text("exit")
    with path.open() as stdin:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdin=stdin, capture_output=True, text=True, check=False
        )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("\nUSER: exit\nENDED\nGONE\n", "", 0)
