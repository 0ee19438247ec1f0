"""`MiniAgents.catch_signal`: a handler of the program gets a signal in place of its usual effect (law 1)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from miniagents import MiniAgents

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(os.name != "posix", reason="signals as a POSIX shell knows them")

PRELUDE = """
import asyncio, signal, time
from miniagents import MiniAgents

def say(text):
    print(text, flush=True)

async def wait(handler, number):
    with MiniAgents.get_current().catch_signal(number, handler):
        say("ready")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            say("cleaned up")

def run(handler, number):
    {run}
"""
RUNS = {
    "run": "MiniAgents().run(wait(handler, number))",
    "uvloop": "import uvloop; MiniAgents().run(wait(handler, number), loop_factory=uvloop.new_event_loop)",
    "asyncio.run": "asyncio.run(MiniAgents().arun(wait(handler, number)))",
}


class Child:
    """Program in a process of its own, where SIGINT has its default effect unless `ignored`."""

    def __init__(self, root: Path, run: str, code: str, *, ignored: bool = False) -> None:
        action = signal.SIG_IGN if ignored else signal.default_int_handler
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-c", PRELUDE.format(run=RUNS[run]) + code],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, action),
        )

    def until(self, line: str) -> None:
        """Read the next line of the output, and check that it is this line."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n", self.process.communicate()[1]

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end; return a shell's exit status, and the rest of the output."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with self.process:
            output, errors = self.process.stdout.read(), self.process.stderr.read()
        for trouble in ("was destroyed", "never retrieved", "never awaited", "Exception ignored"):
            assert trouble not in errors
        status = self.process.returncode
        return 128 - status if status < 0 else status, output.splitlines()


@posix
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=str)
def test_caught_signal_has_no_other_effect(root: Path, run: str, number: int) -> None:
    """A handler is called in the event loop for each signal, and the program goes on until something else ends it."""
    child = Child(
        root,
        run,
        f"""
count = 0

def handler():
    global count
    count += 1
    assert asyncio.get_running_loop().is_running()
    say(str(count))
    if count == 3:
        (main,) = asyncio.all_tasks()
        main.cancel()

try:
    run(handler, {int(number)})
except asyncio.CancelledError:
    say("cancelled")
""",
    )
    child.until("ready")
    for count in (1, 2, 3):
        child.process.send_signal(number)
        child.until(str(count))
    assert child.end() == (0, ["cleaned up", "cancelled"])


@posix
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("ignored", [False, True], ids=["default", "ignored"])
def test_signal_interrupts_if_its_handler_returns_false(root: Path, run: str, ignored: bool) -> None:
    """If the handler returns False, SIGINT interrupts as if not caught, even if the program began by ignoring it."""
    child = Child(root, run, "run(lambda: say('passed on') or False, signal.SIGINT)", ignored=ignored)
    child.until("ready")
    child.process.send_signal(signal.SIGINT)
    assert child.end() == (130, ["passed on", "cleaned up"])


@posix
@pytest.mark.parametrize("run", RUNS)
def test_second_sigterm_ends_the_run_at_once(root: Path, run: str) -> None:
    """The handler gets the first SIGTERM, and the second SIGTERM ends the program with status 143."""
    child = Child(root, run, "run(lambda: say('draining'), signal.SIGTERM)")
    child.until("ready")
    child.process.send_signal(signal.SIGTERM)
    child.until("draining")
    child.process.send_signal(signal.SIGTERM)
    status, _ = child.end()
    assert status == 143


@posix
@pytest.mark.parametrize("run", ["run", "uvloop"])
def test_second_signal_has_its_usual_effect_while_the_loop_is_blocked(root: Path, run: str) -> None:
    """If code blocks the loop, so that the handler cannot run, a further signal interrupts the program."""
    child = Child(
        root,
        run,
        """
def block():
    say("blocked")
    while True:
        time.sleep(0.01)

def handler():
    say("called")

async def wait(handler, number):
    with MiniAgents.get_current().catch_signal(number, handler):
        block()

run(handler, signal.SIGINT)
""",
    )
    child.until("blocked")
    with child.process as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
    assert process.returncode in (-signal.SIGINT, 130)


@posix
async def test_handler_that_was_replaced_is_back_after_the_block() -> None:
    """After two `catch_signal` blocks the former handler is back; if the first is left first, the second's stays."""
    before = signal.getsignal(signal.SIGUSR1)
    seen: list[str] = []

    def see_inner() -> bool:
        seen.append("inner")
        return False

    async with MiniAgents() as app:
        outer = app.catch_signal(signal.SIGUSR1, lambda: seen.append("outer"))
        inner = app.catch_signal(signal.SIGUSR1, see_inner)
        with outer, inner:
            signal.raise_signal(signal.SIGUSR1)
            for _ in range(50):
                await asyncio.sleep(0)
            assert seen == ["inner", "outer"]  # the inner handler returned False
        assert signal.getsignal(signal.SIGUSR1) is before
        first = app.catch_signal(signal.SIGUSR1, lambda: seen.append("first"))
        second = app.catch_signal(signal.SIGUSR1, lambda: seen.append("second"))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        signal.raise_signal(signal.SIGUSR1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert seen[2:] == ["second"]
        second.__exit__(None, None, None)


async def test_nothing_is_caught_outside_of_the_main_thread() -> None:
    """In another thread, where Python sets no handlers, the block runs and catches nothing."""
    before = signal.getsignal(signal.SIGINT)
    inside = []

    async def amain() -> None:
        with MiniAgents.get_current().catch_signal(signal.SIGINT, lambda: None):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: MiniAgents().run(amain()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert inside == [before]
