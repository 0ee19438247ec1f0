"""Ctrl-C at a console: it stops the answer, clears the text at a prompt, or ends the program.

Ctrl-C must be a signal at all times. prompt-toolkit reads it as a key while it edits a line; pressed just after Enter,
the key waits for the next prompt, until the whole answer is printed. `make_input` keeps the signal, and also what was
typed before it, which terminals drop by default.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from miniagents.miniagents import MiniAgents

if sys.platform != "win32":
    import array
    import fcntl
    import termios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS_BETWEEN_TWO = 2.0
"""Seconds within which a second Ctrl-C ends the program."""


class ConsoleInterrupts:
    """Ctrl-C of one event loop: `listen` catches it, and the two context managers say what goes on at the console."""

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, ConsoleInterrupts]] = WeakKeyDictionary()

    @classmethod
    def of_running_loop(cls) -> ConsoleInterrupts:
        """Return the object of the running loop, which all consoles of a program share."""
        return cls._of_loops.setdefault(asyncio.get_running_loop(), cls())

    def __init__(self) -> None:
        self.answer_was_stopped = False
        """True if the user has stopped the answer that is printed, or the next one."""
        self._stop: Callable[[], object] | None = None
        self._clear: Callable[[], bool | None] | None = None
        self._last_stop = -math.inf
        self._caught = ExitStack()
        self._waiting: asyncio.Task[Any] | None = None

    def listen(self) -> None:
        """Catch Ctrl-C until the run ends, or `release` is called."""
        if self._waiting is not None:
            return
        self.answer_was_stopped = False  # it was an answer of a dialog that has ended
        context = MiniAgents.get_current()
        self._caught.enter_context(context.catch_signal(signal.SIGINT, self._on_ctrl_c))

        def run_ended(task: asyncio.Task[Any]) -> None:
            """Stop catching Ctrl-C, unless another dialog has begun to catch it."""
            context.forget(task)
            if self._waiting is task:
                self.release()

        self._waiting = context.spawn(
            asyncio.Event().wait(), run_ended, name="Ctrl-C", context=context.variables.copy()
        )
        context.park(self._waiting)  # the run does not wait for it

    def release(self) -> None:
        """Stop catching Ctrl-C, because the dialog has ended."""
        self._caught.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    @contextmanager
    def answer(self, stop: Callable[[], object]) -> Iterator[None]:
        """Let Ctrl-C call `stop` inside of the block; call it at once if Ctrl-C was pressed since the last prompt."""
        self._stop = stop
        if self.answer_was_stopped:
            stop()
        try:
            yield
        finally:
            self._stop = None
            self.answer_was_stopped = False

    @contextmanager
    def prompt(self, clear: Callable[[], bool | None]) -> Iterator[None]:
        """Let Ctrl-C clear the text at a prompt inside of the block.

        Args:
            clear: clears the text, and returns True; returns False if there is none, and the signal is to interrupt.
                It returns None if the text was sent just now: then the answer is to be stopped.
        """
        outer, self._clear = self._clear, clear
        try:
            yield
        finally:
            self._clear = outer

    def _on_ctrl_c(self) -> bool:
        """Clear the text at a prompt, or else stop the answer; return False if the program is to end.

        It ends at an empty prompt, and within `_SECONDS_BETWEEN_TWO` after a Ctrl-C that stopped an answer.
        """
        cleared = None if self._clear is None else self._clear()
        if cleared is not None:
            return cleared
        now = asyncio.get_running_loop().time()
        if now - self._last_stop < _SECONDS_BETWEEN_TWO:
            return False
        self._last_stop = now
        self.answer_was_stopped = True
        if self._stop is not None:
            self._stop()
        return True


# --- modes of a terminal, on POSIX


if sys.platform != "win32":

    def make_input(stdin: Any) -> Any:
        """Return the input of prompt-toolkit for a terminal, with Ctrl-C as a signal.

        Ctrl-Z and Ctrl-Backslash stay keys: the shell would not find the terminal as it was.
        """
        from prompt_toolkit.input.vt100 import Vt100Input, raw_mode

        class ModeWithCtrlC(raw_mode):
            def __enter__(self) -> None:
                super().__enter__()
                with _changed(self.fileno) as mode:
                    mode[_LOCAL] |= termios.ISIG | termios.NOFLSH
                    for key in (termios.VSUSP, termios.VQUIT):
                        mode[_KEYS][key] = os.fpathconf(self.fileno, "PC_VDISABLE").to_bytes(1, "big")

        class InputWithCtrlC(Vt100Input):
            def raw_mode(self) -> raw_mode:
                return ModeWithCtrlC(self.fileno())

        return InputWithCtrlC(stdin)

    @contextmanager
    def keep_typed_text(descriptor: int) -> Iterator[None]:
        """Let a terminal keep what was typed before Ctrl-C, inside of the block."""
        before = termios.tcgetattr(descriptor)
        with _changed(descriptor) as mode:
            mode[_LOCAL] |= termios.NOFLSH
        try:
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSANOW, before)

    def drop_typed_text(descriptor: int) -> bool:
        """Drop what was typed on the current line of a terminal; return False if that is nothing."""
        before = termios.tcgetattr(descriptor)
        with _changed(descriptor) as mode:
            mode[_LOCAL] &= ~termios.ICANON  # or the number of characters is that of whole lines
        count = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
        termios.tcflush(descriptor, termios.TCIFLUSH)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        return count[0] > 0

    _LOCAL, _KEYS = 3, 6  # places in the list of `tcgetattr`

    @contextmanager
    def _changed(descriptor: int) -> Iterator[list[Any]]:
        """Get the mode of a terminal for the block to change, and set it after the block."""
        mode = termios.tcgetattr(descriptor)
        yield mode
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)

else:  # prompt-toolkit reads Ctrl-C as a key there, and the console of Windows has no such modes

    def make_input(stdin: Any) -> Any:
        """Return the input of prompt-toolkit for a console of Windows."""
        from prompt_toolkit.input import create_input

        return create_input(stdin)

    @contextmanager
    def keep_typed_text(descriptor: int) -> Iterator[None]:
        """Do nothing: Windows keeps what was typed."""
        yield

    def drop_typed_text(descriptor: int) -> bool:
        """Return False: Windows drops what was typed by itself."""
        return False
