"""Virtual time: what a loop does whose clock jumps."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents_testing import _clock as clock
from miniagents_testing._clock import VirtualTimeLoop, run_in_virtual_time
from miniagents_testing.errors import IdleLoopError, NotVirtualError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def now() -> float:
    """What the clock of the running loop says."""
    return asyncio.get_running_loop().time()


class Job:
    """Work for a thread: takes a moment on the wall."""

    done = False

    def __call__(self) -> int:
        time.sleep(0.02)
        self.done = True
        return 7


# --- the clock


def test_hours_pass_at_once() -> None:
    """The clock starts at 0 and stands exactly where the last sleep ended."""

    async def main() -> float:
        assert now() == 0
        await asyncio.sleep(3600)
        return now()

    assert run_in_virtual_time(main()) == 3600


def test_what_is_due_at_once_comes_in_the_order_of_asking() -> None:
    """Equal deadlines are first come, first served, however many, and come in one turn of the loop."""
    order: list[int] = []
    turns: list[int] = []

    async def sleeper(number: int) -> None:
        await asyncio.sleep(1)
        order.append(number)
        await asyncio.sleep(0)
        turns.append(len(order))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(sleeper(number))
        assert now() == 1

    run_in_virtual_time(main())
    assert order == list(range(1000))
    assert set(turns) == {1000}


def test_nothing_comes_early() -> None:
    """Deadlines that differ in the last digit only are two moments."""
    seen: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for when in (0.3, 0.1 + 0.2, math.nextafter(0.3, 0)):
            loop.call_at(when, lambda: seen.append(loop.time()))
        await asyncio.sleep(1)

    run_in_virtual_time(main())
    assert seen == [math.nextafter(0.3, 0), 0.3, 0.1 + 0.2]


@pytest.mark.parametrize("years", [1, 1000, 1e9])
def test_time_goes_on_after_any_length_of_it(years: float) -> None:
    """The clock's last digit is worth more and more, and deadlines still come."""

    async def main() -> float:
        await asyncio.sleep(years * 365.25 * 86400)
        before = now()
        await asyncio.sleep(3600)
        await asyncio.sleep(1e-9)
        return now() - before

    assert run_in_virtual_time(main()) == pytest.approx(3600, abs=16)


def test_timeouts_are_exact() -> None:
    """Of two things that take as long, the one that began first is first."""

    async def main() -> list[str]:
        outcomes = []
        for seconds in (0.9, 1.1):
            try:
                async with asyncio.timeout(1):
                    await asyncio.sleep(seconds)
                outcomes.append(f"slept {now():g}")
            except TimeoutError:
                outcomes.append(f"timed out {now():g}")
        return outcomes

    assert run_in_virtual_time(main()) == ["slept 0.9", "timed out 1.9"]


def test_a_result_or_an_error_comes_out() -> None:
    """As from `asyncio.run`; without a seed, nothing is added to it."""

    async def fails() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match=r"^broken$") as caught:
        run_in_virtual_time(fails())
    assert not hasattr(caught.value, "__notes__")


def test_it_is_a_loop_factory() -> None:
    """For everybody who takes one."""

    @miniagent
    async def sleeper(ctx: InteractionContext) -> None:
        await asyncio.sleep(10)
        ctx.reply(f"{now():g} s")

    async def main() -> list[str]:
        return [str(message) for message in await sleeper.trigger()]

    assert MiniAgents().run(main(), loop_factory=VirtualTimeLoop) == ["10 s"]
    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, seed=3)) as runner:
        assert runner.run(MiniAgents().arun(main())) == ["10 s"]


# --- threads


@pytest.mark.parametrize("in_thread", [asyncio.to_thread, anyio.to_thread.run_sync], ids=["asyncio", "anyio"])
def test_the_clock_stands_still_while_a_thread_works(in_thread: Callable[..., Coroutine[Any, Any, int]]) -> None:
    """A job in a thread takes no time: a deadline beside it is not missed because the machine is slow."""

    async def main() -> int:
        async with asyncio.timeout(0.001):
            result = await in_thread(Job())
        assert now() == 0
        return result

    assert run_in_virtual_time(main()) == 7


def test_a_job_that_nobody_waits_for_is_waited_for() -> None:
    """Its reader was cancelled, and it may still do something."""

    async def main() -> None:
        job = Job()
        task = asyncio.create_task(asyncio.to_thread(job))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not job.done
        await asyncio.sleep(1)
        assert job.done

    run_in_virtual_time(main())


def test_a_thread_may_wait_for_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that outlasts the next deadline and some patience is taken for one that waits for it."""
    monkeypatch.setattr(clock, "PATIENCE", 0.02)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0.03), loop).result())
        return now()

    assert run_in_virtual_time(main()) == 0.03


def test_which_thread_is_faster_decides_nothing() -> None:
    """Results come in the order of the jobs, and after everything else that can run at that moment."""
    log: list[str] = []

    async def work(name: str, seconds: float) -> None:
        await asyncio.to_thread(time.sleep, seconds)
        log.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work("slow", 0.02))
            group.create_task(work("fast", 0))
            for _ in range(100):
                await asyncio.sleep(0)
            time.sleep(0.03)  # noqa: ASYNC251 - both are done now
            await asyncio.sleep(0)
            log.append("busy")

    run_in_virtual_time(main())
    assert log == ["busy", "slow", "fast"]


def test_a_job_may_wait_for_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With some patience, in which their order counts; and errors, too, are delivered."""
    monkeypatch.setattr(clock, "PATIENCE", 0.02)
    go_on = threading.Event()

    async def main() -> None:
        first = asyncio.create_task(asyncio.to_thread(go_on.wait))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        go_on.set()
        await first

    run_in_virtual_time(main())


def test_any_thread_may_wake_the_loop() -> None:
    """Also one that the loop has not started, while nothing else goes on."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        threading.Timer(0.02, lambda: loop.call_soon_threadsafe(future.set_result, 7)).start()
        result: int = await future
        return result

    assert run_in_virtual_time(main()) == 7


def test_a_loop_without_tasks_waits_for_work() -> None:
    """One that runs in a thread and serves others is idle all the time."""
    loop = VirtualTimeLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(100, "slept"), loop).result() == "slept"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_closing_waits_for_the_threads() -> None:
    """The jobs that are left end before the loop does, and asyncio's five minutes for that are no virtual ones."""
    job = Job()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, job)

    run_in_virtual_time(main())
    assert job.done


# --- nothing can go on


@miniagent
async def patient(ctx: InteractionContext, queue: asyncio.Queue[str]) -> None:
    """Waits for something to be put into a queue."""
    await asyncio.create_task(queue.get(), name="getter")


@miniagent
async def boss(ctx: InteractionContext, queue: asyncio.Queue[str]) -> None:
    """Has somebody else wait."""
    await patient.trigger(queue=queue)


def test_an_idle_loop_is_an_error_that_names_who_waits() -> None:
    """At once, with tasks, agents with their callers, and the line of each."""
    log: list[str] = []

    async def main() -> None:
        try:
            async with MiniAgents():
                await asyncio.sleep(5)
                await boss.trigger(queue=asyncio.Queue())
        finally:
            log.append("cleaned up")

    with pytest.raises(IdleLoopError, match=r"Nothing can go on, 5 s of virtual time after the start") as caught:
        MiniAgents().run(main(), loop_factory=VirtualTimeLoop)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.rpartition(", ")[2] if line.startswith("File") else line for line in lines] == [
        "main",
        "in test_an_idle_loop_is_an_error_that_names_who_waits.<locals>.main",
        "await boss.trigger(queue=asyncio.Queue())",
        "BOSS",
        "in boss",
        "await patient.trigger(queue=queue)",
        "PATIENT <- BOSS",
        "in patient",
        'await asyncio.create_task(queue.get(), name="getter")',
        "getter of PATIENT <- BOSS",
        "in Queue.get",
        "await getter",
    ]
    assert log == ["cleaned up"]


@pytest.mark.parametrize("before", ["nothing", "a thread"])
def test_it_comes_at_once(before: str) -> None:
    """Idle threads of a pool are nobody to wait for."""

    async def main() -> None:
        if before == "a thread":
            await asyncio.to_thread(int)
        await asyncio.Event().wait()

    began = time.monotonic()
    with pytest.raises(IdleLoopError, match=r"await asyncio.Event\(\).wait\(\)"):
        run_in_virtual_time(main())
    assert time.monotonic() - began < clock.PATIENCE


def test_those_who_read_through_generators_are_found() -> None:
    """The line is where the last reader waits."""

    async def inner() -> Any:
        yield 1
        await asyncio.Event().wait()

    async def outer() -> Any:
        async for piece in inner():
            yield piece

    async def main() -> None:
        async for _ in outer():
            pass

    with pytest.raises(IdleLoopError, match=r"in \S+\.inner\n +await asyncio.Event\(\).wait\(\)"):
        run_in_virtual_time(main())


def test_many_waiters_are_counted() -> None:
    """A report that nobody can read helps nobody."""

    async def main() -> None:
        await asyncio.gather(*[asyncio.Event().wait() for _ in range(100)])

    with pytest.raises(IdleLoopError, match=r"and 71 more$"):
        run_in_virtual_time(main())


def test_to_sleep_for_ever_is_to_wait() -> None:
    """A deadline at infinity is none."""

    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(IdleLoopError, match=r"math\.inf"):
        run_in_virtual_time(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's, about the task that is left
def test_a_clean_up_that_waits_for_ever_is_reported_too() -> None:
    """It ends, all the same."""

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Queue[str]().get()

    with pytest.raises(IdleLoopError, match="Queue") as caught:
        run_in_virtual_time(main())
    assert "Event" in str(caught.value.__context__)
    del caught
    gc.collect()


# --- the world outside


async def _address() -> Any:
    return await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _connection() -> Any:
    return await asyncio.open_connection("127.0.0.1", 9)


async def _server() -> Any:
    return await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def _subprocess() -> Any:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", "")


async def _file() -> Any:
    reading, writing = os.pipe()
    try:
        asyncio.get_running_loop().add_reader(reading, int)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("way", [_address, _connection, _server, _subprocess, _file])
def test_the_outside_is_refused(way: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """A loop that waits for the real world cannot be virtual, and says what to do instead."""
    with pytest.raises(NotVirtualError, match=r"time is virtual.*allow_io=True"):
        run_in_virtual_time(way())


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_sdks_hand_the_refusal_on(provider: str) -> None:
    """It is no lost connection: nobody tries again, and nobody hides it."""
    import anthropic
    import openai

    async def main() -> None:
        if provider == "openai":
            async with openai.AsyncOpenAI(api_key="none") as chat:
                await chat.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        else:
            async with anthropic.AsyncAnthropic(api_key="none") as messages:
                await messages.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])

    with pytest.raises(NotVirtualError, match="time is virtual"):
        run_in_virtual_time(main())


def test_the_outside_can_be_let_in() -> None:
    """Sockets and subprocesses work then; the clock goes with the wall while they are watched, and jumps otherwise."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def main() -> tuple[bytes, bytes]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            line = await reader.readline()
            await asyncio.sleep(0.01)
            writer.close()
        assert 0.01 <= now() < 1000
        await asyncio.sleep(1000)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('hello')", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return line, output.strip()

    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, allow_io=True)) as runner:
        assert runner.run(main()) == (b"hello\n", b"hello")
