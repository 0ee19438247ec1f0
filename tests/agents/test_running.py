"""Running a program: interrupts, signals and exit statuses of real processes (law 1)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from common import echo

from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(os.name != "posix", reason="signals as a POSIX shell knows them")

PRELUDE = """
import asyncio, contextlib, os, signal, sys, threading, time
from miniagents import Message, MiniAgents, miniagent

def say(text):
    print(text, flush=True)

@miniagent
async def agent(ctx, name="agent", clean_up=0.0):
    try:
        ctx.reply("hello")
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(clean_up)
        say(f"{name} cleaned up")

@miniagent
async def interrupting(ctx, kind=KeyboardInterrupt):
    await asyncio.sleep(0)
    raise kind

async def tokens(metadata):
    try:
        while True:
            yield "x"
            await asyncio.sleep(0.001)
    finally:
        say("stream cleaned up")
"""


class Child:
    """Program in a process of its own."""

    def __init__(self, root: Path, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-c", PRELUDE + code],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, line: str) -> None:
        """Wait for this line on the standard output."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{line}\n", self.process.communicate()[1]

    def signal(self, number: int) -> None:
        """Send the program a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        """Wait for the end; return a shell's exit status, the rest of the output, and the standard error."""
        try:
            output, errors = self.process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # `-X dev` prints the stacks of all threads then
            pytest.fail(f"The program did not end:\n{self.process.communicate()[1]}", pytrace=False)
        status = self.process.returncode
        assert "was destroyed" not in errors
        assert "never retrieved" not in errors
        assert "never awaited" not in errors
        assert "Exception ignored" not in errors
        return 128 - status if status < 0 else status, output.splitlines(), errors


MAIN = """
async def amain():
    agent.trigger()
    replies = agent.trigger(Message.promise(message_token_streamer=tokens), name="other", clean_up=0.01)
    await replies.__aiter__().__anext__()
    say("ready")
    try:
        await replies
    finally:
        say("main cleaned up")

MiniAgents().run(amain())
"""


@posix
def test_C13_ctrl_c_cleans_up_everything(root: Path) -> None:
    """Ctrl-C ends a program with status 130, after the clean-ups of main, agents and streams."""
    child = Child(root, MAIN)
    child.until("ready")
    child.signal(signal.SIGINT)
    status, output, errors = child.end()
    assert status == 130
    assert sorted(output) == ["agent cleaned up", "main cleaned up", "other cleaned up", "stream cleaned up"]
    assert errors.rstrip().endswith("KeyboardInterrupt")


@posix
def test_ctrl_c_ends_the_run_normally_when_main_catches_it(root: Path) -> None:
    """If `amain` catches the `KeyboardInterrupt` of Ctrl-C, agents are cancelled, and `run` returns its result."""
    child = Child(
        root,
        """
async def amain():
    replies = agent.trigger(clean_up=0.01)
    say("ready")
    try:
        await replies
    except KeyboardInterrupt:
        say("caught")
        await asyncio.sleep(0.01)
        say("still here")
    return "result"

say(MiniAgents().run(amain()))
say(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""",
    )
    child.until("ready")
    child.signal(signal.SIGINT)
    assert child.end() == (0, ["caught", "still here", "agent cleaned up", "result", "True"], "")


@posix
def test_ctrl_c_cancels_agents_after_main_has_ended(root: Path) -> None:
    """If Ctrl-C comes after main has ended, running agents clean up, and the interrupt ends the program."""
    child = Child(
        root,
        """
async def amain():
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(say, "ready"))
    agent.trigger()

MiniAgents().run(amain())
""",
    )
    child.until("ready")
    child.signal(signal.SIGINT)
    status, output, errors = child.end()
    assert (status, output) == (130, ["agent cleaned up"])
    assert errors.rstrip().endswith("KeyboardInterrupt")


@posix
def test_C14_second_ctrl_c_ends_the_process_without_clean_ups(root: Path) -> None:
    """If a clean-up hangs after Ctrl-C, a second Ctrl-C ends the process without waiting for it."""
    child = Child(
        root,
        """
@miniagent
async def stubborn(ctx):
    try:
        await asyncio.Event().wait()
    finally:
        say("cleaning up")
        await asyncio.Event().wait()

async def amain():
    replies = stubborn.trigger()
    asyncio.get_running_loop().call_soon(say, "ready")
    await replies

MiniAgents().run(amain())
""",
    )
    child.until("ready")
    child.signal(signal.SIGINT)
    child.until("cleaning up")
    child.signal(signal.SIGINT)
    status, _, errors = child.end()
    assert status == 130
    assert errors.rstrip().endswith("KeyboardInterrupt")


@posix
@pytest.mark.parametrize("main_catches", [False, True])
def test_C15_sigterm_cleans_up_and_exits_with_143(root: Path, main_catches: bool) -> None:
    """SIGTERM runs all clean-ups and ends the process with status 143, even if main swallows its cancellation."""
    child = Child(
        root,
        f"""
async def amain():
    replies = agent.trigger(clean_up=0.01)
    await replies.__aiter__().__anext__()
    say("ready")
    try:
        await replies
    except {"asyncio.CancelledError" if main_catches else "ValueError"}:
        say("swallowed")
    finally:
        say("main cleaned up")

MiniAgents().run(amain())
""",
    )
    child.until("ready")
    child.signal(signal.SIGTERM)
    swallowed = ["swallowed"] if main_catches else []
    assert child.end() == (143, [*swallowed, "main cleaned up", "agent cleaned up"], "")


@posix
@pytest.mark.parametrize("loop", ["asyncio.SelectorEventLoop", "uvloop.new_event_loop"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_signal_wakes_a_waiting_loop_whose_wait_it_does_not_interrupt(root: Path, number: int, loop: str) -> None:
    """A signal that reaches another thread ends the program, although it does not interrupt the main thread's wait.

    The case stands for a signal that comes just before the wait begins, which does not interrupt the wait, either.
    """
    child = Child(
        root,
        f"""
import uvloop

async def amain():
    replies = agent.trigger(clean_up=0.01)
    await replies.__aiter__().__anext__()
    threading.Thread(target=get_signal, daemon=True).start()
    await replies

def get_signal():
    time.sleep(0.1)
    signal.pthread_kill(threading.get_ident(), {int(number)})

MiniAgents().run(amain(), loop_factory={loop})
""",
    )
    status, output, _ = child.end()
    assert (status, output) == (128 + number, ["agent cleaned up"])


@posix
@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)], ids=str)
def test_sigterm_as_second_signal_ends_the_process_without_clean_ups(root: Path, signals: tuple[int, int]) -> None:
    """SIGTERM after a first SIGINT or SIGTERM ends a process whose clean-up hangs, with status 143."""
    child = Child(
        root,
        """
async def amain():
    try:
        say("ready")
        await agent.trigger()
    finally:
        say("hanging")
        await asyncio.Event().wait()

MiniAgents().run(amain())
""",
    )
    child.until("ready")
    child.signal(signals[0])
    child.until("hanging")
    child.signal(signals[1])
    assert child.end()[0] == 143


@pytest.mark.parametrize("main_catches", [False, True])
def test_C16_interrupt_of_an_agent_is_raised_in_main(root: Path, main_catches: bool) -> None:
    """If two agents raise `KeyboardInterrupt`, main gets it once and others clean up; uncaught, the status is 130."""
    child = Child(
        root,
        f"""
async def amain():
    replies = agent.trigger(clean_up=0.01)
    await replies.__aiter__().__anext__()
    interrupting.trigger()
    interrupting.trigger()
    try:
        await replies
    except {"KeyboardInterrupt" if main_catches else "ValueError"}:
        say("caught")
        await asyncio.sleep(0.01)
    return "result"

say(MiniAgents().run(amain()))
""",
    )
    status, output, errors = child.end()
    if main_catches:
        assert (status, output, errors) == (0, ["caught", "agent cleaned up", "result"], "")
    else:
        assert (status, output) == (130, ["agent cleaned up"])
        assert errors.rstrip().endswith("KeyboardInterrupt")


def test_signal_and_interrupt_of_an_agent_are_one_interrupt(root: Path) -> None:
    """If Ctrl-C also makes a prompt in an agent raise `KeyboardInterrupt`, main gets one interrupt only."""
    child = Child(
        root,
        """
async def amain():
    replies = agent.trigger()
    await replies.__aiter__().__anext__()
    interrupting.trigger()
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await replies
    except KeyboardInterrupt:
        say("caught")
    await asyncio.sleep(0.01)
    return "result"

say(MiniAgents().run(amain()))
""",
    )
    assert child.end() == (0, ["caught", "agent cleaned up", "result"], "")


def test_system_exit_of_an_agent_ends_the_program_with_its_status(root: Path) -> None:
    """`SystemExit` in an agent ends the program with its status and no output, after another agent has cleaned up."""
    child = Child(
        root,
        """
async def amain():
    replies = agent.trigger(clean_up=0.01)
    await replies.__aiter__().__anext__()
    interrupting.trigger(kind=SystemExit(7))
    await replies

MiniAgents().run(amain())
""",
    )
    assert child.end() == (7, ["agent cleaned up"], "")


@pytest.mark.parametrize("how", ["in main", "in a task group", "under wait_for", "in the body of a reader"])
def test_interrupt_is_raised_in_main_wherever_main_waits(root: Path, how: str) -> None:
    """An agent's interrupt reaches main in a task group, under a timeout, or in the middle of a stream."""
    waits = {
        "in main": "await replies",
        "in a task group": "\n        async with asyncio.TaskGroup() as group:\n            group.create_task(wait())",
        "under wait_for": "await asyncio.wait_for(wait(), 60)",
        "in the body of a reader": "\n        async for promise in replies: await asyncio.Event().wait()",
    }
    child = Child(
        root,
        f"""
async def amain():
    replies = agent.trigger()
    await replies.__aiter__().__anext__()
    async def wait():
        await replies
    asyncio.get_running_loop().call_later(0.01, interrupting.trigger)
    try:
        {waits[how]}
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        say(type(error).__name__)

MiniAgents().run(amain())
""",
    )
    assert child.end() == (0, ["KeyboardInterrupt", "agent cleaned up"], "")


WAITS_OF_MAIN = {
    "in a task group": "\n        async with asyncio.TaskGroup() as group:\n            group.create_task(helper())",
    "in the body of a task group": """
        async with asyncio.TaskGroup() as group:
            group.create_task(helper())
            await replies""",
    "in a task group in a task group": """
        async with asyncio.TaskGroup() as outer:
            outer.create_task(helper())
            async with asyncio.TaskGroup() as group:
                group.create_task(helper())""",
    "in a task group that fails already": """
        async with asyncio.TaskGroup() as group:
            group.create_task(helper())
            group.create_task(failing())""",
    "for gather": "await asyncio.gather(helper(), helper())",
    "for a task": "await asyncio.create_task(helper())",
    "for a task that returns all the same": "await asyncio.create_task(suppressing())",
    "under wait_for": "await asyncio.wait_for(helper(), 60)",
    "while it leaves a context": """
        async with MiniAgents():
            agent.trigger(name="helper", clean_up=0.05)
            await asyncio.sleep(0)
            raise ValueError""",
}


@pytest.mark.parametrize(
    ("where", "fails"),
    [
        *((where, False) for where in WAITS_OF_MAIN),
        ("in a task group", True),
        ("for gather", True),
        ("for a task", True),
    ],
)
def test_interrupt_is_raised_in_main_after_the_clean_ups_of_its_helpers(root: Path, where: str, fails: bool) -> None:
    """Main gets an interrupt after its helpers' clean-ups, and an error in a clean-up does not hide it."""
    child = Child(
        root,
        f"""
async def helper():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)
        say("helper cleaned up")
        if {fails}: raise ValueError("in the clean-up")

async def suppressing():
    with contextlib.suppress(asyncio.CancelledError):
        await helper()

async def failing():
    raise ValueError("already")

async def amain():
    replies = agent.trigger()
    await replies.__aiter__().__anext__()
    asyncio.get_running_loop().call_later(0.01, interrupting.trigger)
    try:
        {WAITS_OF_MAIN[where]}
    except BaseException as error:
        say(type(error).__name__)
    await asyncio.sleep(0.01)

MiniAgents().run(amain())
""",
    )
    status, output, _ = child.end()
    assert status == 0
    helpers = 2 if where in ("for gather", "in a task group in a task group") else 1
    assert output == ["helper cleaned up"] * helpers + ["KeyboardInterrupt", "agent cleaned up"]


# --- without signals


async def amain() -> str:
    """Ask an agent, and return the text of its reply, as the main function of a program."""
    (message,) = await echo.trigger("hello")
    return str(message)


def test_run_makes_a_loop_and_closes_it() -> None:
    """`run` returns main's result or raises its error, closes its loop, and restores the handler of SIGINT."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main(fail: bool) -> str:
        loops.append(asyncio.get_running_loop())
        if fail:
            raise ValueError("broken")
        return await amain()

    assert MiniAgents().run(main(fail=False)) == "hello"
    with pytest.raises(ValueError, match="broken"):
        MiniAgents().run(main(fail=True))
    assert [loop.is_closed() for loop in loops] == [True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_run_uses_the_loop_of_its_loop_factory() -> None:
    """`run(loop_factory=...)` runs main in a loop that the factory made."""

    class Loop(asyncio.SelectorEventLoop):
        """Loop of the test."""

    async def main() -> bool:
        return isinstance(asyncio.get_running_loop(), Loop)

    assert MiniAgents().run(main(), loop_factory=Loop)


def test_run_works_outside_of_the_main_thread() -> None:
    """`run` works in a thread that is not the main thread, where Python can handle no signals."""
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(MiniAgents().run(amain())))
    thread.start()
    thread.join()
    assert results == ["hello"]


async def test_arun_works_in_a_running_loop() -> None:
    """`arun` opens the context, awaits its argument in the running loop, and returns the result."""
    assert await MiniAgents().arun(amain()) == "hello"


def test_run_leaves_signal_handlers_of_the_application() -> None:
    """`run` leaves a signal handler that the application has installed in place, during the run and after it."""

    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGINT, mine)
    try:

        async def main() -> bool:
            return signal.getsignal(signal.SIGINT) is mine

        assert MiniAgents().run(main())
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


@posix
def test_tests_of_signals_pass_when_started_with_signals_ignored(root: Path) -> None:
    """Tests that send signals pass if pytest was started with SIGINT and SIGTERM ignored, as under `nohup`."""

    def ignore_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    chosen = (
        "tests/agents/test_running.py::test_C13_ctrl_c_cleans_up_everything",
        "tests/testing/cli/test_serve.py::test_serve_answers_with_texts_or_with_recorded_streams",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        cwd=root,
        preexec_fn=ignore_signals,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
