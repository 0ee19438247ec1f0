"""Virtual time: the clock, threads, errors of an idle loop, and the refusal of sockets."""

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
from miniagents_testing.errors import IdleLoopError, NotVirtualError, VirtualTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def now() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()


async def poll(condition: Callable[[], bool]) -> None:
    """Sleep for one turn of the event loop after another until `condition()` is true."""
    while not condition():  # noqa: ASYNC110 - polling is what these tests are about
        await asyncio.sleep(0)


class Job:
    """Job for a thread, which takes some milliseconds of real time."""

    done = False

    def __call__(self) -> int:
        time.sleep(0.02)
        self.done = True
        return 7


# --- the clock


def test_clock_jumps_to_the_end_of_a_sleep() -> None:
    """The virtual clock starts at 0, and jumps to exactly 3600 at the end of an hour of sleep."""

    async def main() -> float:
        assert now() == 0
        await asyncio.sleep(3600)
        return now()

    assert run_in_virtual_time(main()) == 3600


def test_equal_deadlines_run_in_the_order_of_scheduling() -> None:
    """A thousand sleeps with the same deadline end in the order in which they began, in one turn of the loop."""
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


def test_timers_never_run_before_their_deadline() -> None:
    """Three timers whose deadlines differ only in the last digits run in their order, each at its own time."""
    seen: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for when in (0.3, 0.1 + 0.2, math.nextafter(0.3, 0)):
            loop.call_at(when, lambda: seen.append(loop.time()))
        await asyncio.sleep(1)

    run_in_virtual_time(main())
    assert seen == [math.nextafter(0.3, 0), 0.3, 0.1 + 0.2]


@pytest.mark.parametrize("years", [1, 1000, 1e9])
def test_clock_works_after_very_long_times(years: float) -> None:
    """Short sleeps end at the right time even after a sleep of a billion years."""

    async def main() -> float:
        await asyncio.sleep(years * 365.25 * 86400)
        before = now()
        await asyncio.sleep(3600)
        await asyncio.sleep(1e-9)
        return now() - before

    assert run_in_virtual_time(main()) == pytest.approx(3600, abs=16)


def test_timeout_and_sleep_end_in_the_order_of_their_deadlines() -> None:
    """A sleep that ends before the timeout is not timed out, and one that ends after it is."""

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


def test_run_in_virtual_time_raises_the_error_of_the_coroutine() -> None:
    """`run_in_virtual_time` raises the coroutine's error unchanged, without a note if no seed was given."""

    async def fails() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match=r"^broken$") as caught:
        run_in_virtual_time(fails())
    assert not hasattr(caught.value, "__notes__")


def test_virtual_time_loop_is_a_loop_factory() -> None:
    """`MiniAgents.run` and `asyncio.Runner` take `VirtualTimeLoop` as their loop factory, and run in virtual time."""

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
def test_clock_stands_still_while_a_thread_has_a_job(in_thread: Callable[..., Coroutine[Any, Any, int]]) -> None:
    """A job in a thread takes no virtual time, so that a short timeout beside it does not expire."""

    async def main() -> int:
        async with asyncio.timeout(0.001):
            result = await in_thread(Job())
        assert now() == 0
        return result

    assert run_in_virtual_time(main()) == 7


def test_clock_stands_still_for_a_job_whose_reader_was_cancelled() -> None:
    """The clock waits for a job in a thread, even after the task that started it was cancelled."""

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


def test_clock_moves_on_when_a_job_waits_for_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves on if a thread's job outlasts a short real wait, because the job may itself wait for a timer."""
    monkeypatch.setattr(clock, "_PATIENCE", 0.02)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0.03), loop).result())
        return now()

    assert run_in_virtual_time(main()) == 0.03


def test_results_of_jobs_come_in_the_order_of_submission() -> None:
    """Results of jobs come in the order of submission, after all else that can run, whichever thread is faster."""
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


def test_job_may_wait_for_a_later_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first job of a thread does not end, the result of a later job is delivered first."""
    monkeypatch.setattr(clock, "_PATIENCE", 0.02)
    go_on = threading.Event()

    async def main() -> None:
        first = asyncio.create_task(asyncio.to_thread(go_on.wait))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        go_on.set()
        await first

    run_in_virtual_time(main())


def test_loop_waits_for_threads_that_it_did_not_start() -> None:
    """A thread that the loop did not start can wake it, while nothing else can run."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        threading.Timer(0.02, lambda: loop.call_soon_threadsafe(future.set_result, 7)).start()
        result: int = await future
        return result

    assert run_in_virtual_time(main()) == 7


def test_loop_without_tasks_waits_for_calls_of_other_threads() -> None:
    """A loop that runs in a thread without tasks waits for coroutines of other threads, and is not idle."""
    loop = VirtualTimeLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(100, "slept"), loop).result() == "slept"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_closing_the_loop_waits_for_its_jobs() -> None:
    """Closing the loop waits in real time until the jobs of its threads have ended."""
    job = Job()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, job)

    run_in_virtual_time(main())
    assert job.done


# --- nothing can run


@miniagent
async def patient(ctx: InteractionContext, queue: asyncio.Queue[str]) -> None:
    """Wait for an item of a queue in another task."""
    await asyncio.create_task(queue.get(), name="getter")


@miniagent
async def boss(ctx: InteractionContext, queue: asyncio.Queue[str]) -> None:
    """Wait for another agent."""
    await patient.trigger(queue=queue)


@pytest.mark.parametrize("seconds", [0.001, 1, 60])
def test_clock_moves_while_a_task_polls(seconds: float) -> None:
    """While a task polls in each turn of the loop, virtual time moves, and a timer runs soon after its deadline."""

    async def poll_for_a_timer() -> float:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, done.set)
        await poll(done.is_set)
        return now()

    assert seconds <= run_in_virtual_time(poll_for_a_timer()) < seconds * 1.1


def test_clock_follows_real_time_while_a_task_polls_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a task polls with real work in each turn, a timer runs when real time has passed its deadline."""
    monkeypatch.setattr(clock, "_BUSY_PATIENCE", 0.0)
    monkeypatch.setattr(clock, "_FREE_SLOW_TURNS", 10)

    async def poll_for_a_timer() -> float:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, done.set)

        def works() -> bool:
            time.sleep(0.001)
            return done.is_set()

        await poll(works)
        return now()

    assert run_in_virtual_time(poll_for_a_timer()) >= 0.02


def test_clock_stands_still_for_turns_that_are_few() -> None:
    """In virtual time, nearly 100,000 turns of the loop in a row take no time."""

    async def take_turns() -> float:
        for _ in range(99_990):
            await asyncio.sleep(0)
        return now()

    assert run_in_virtual_time(take_turns()) == 0


def test_clock_stands_still_for_slow_turns_that_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns with so much work that real time passes take no virtual time, unless there are thousands of them."""
    monkeypatch.setattr(clock, "_BUSY_PATIENCE", 0.0)

    async def work() -> float:
        for _ in range(100):
            time.sleep(0.0001)  # noqa: ASYNC251 - blocks the loop on purpose
            await asyncio.sleep(0)
        return now()

    assert run_in_virtual_time(work()) == 0


def test_result_of_a_job_comes_while_a_task_polls() -> None:
    """The job of a thread ends, and a task that polls for it sees that."""

    async def poll_for_a_job() -> int:
        job = asyncio.ensure_future(asyncio.to_thread(lambda: 5))
        await poll(job.done)
        return job.result()

    assert run_in_virtual_time(poll_for_a_job()) == 5


def test_polling_in_vain_exceeds_the_timeout() -> None:
    """`timeout=` of `run_in_virtual_time` ends a task that polls for ever."""
    with pytest.raises(VirtualTimeoutError, match="5 s of virtual time were not enough"):
        run_in_virtual_time(poll(lambda: False), timeout=5)


def test_polling_in_vain_raises_an_idle_loop_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a loop without a timeout, a task that polls for a virtual day gets an `IdleLoopError`, and cleans up."""
    monkeypatch.setattr(clock, "_TURNS_A_DOUBLING", 100)
    cleaned_up = []

    async def poll_in_vain() -> None:
        try:
            await poll(lambda: False)
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)

    with pytest.raises(IdleLoopError, match=r"(?s)polled for a day of virtual time.*await asyncio.sleep\(0\)"):
        run_in_virtual_time(poll_in_vain())
    assert cleaned_up == [True]


def test_idle_loop_raises_an_error_that_lists_waiting_tasks() -> None:
    """The error of an idle loop lists tasks, agents with their callers, and the line in which each waits."""
    log: list[str] = []

    async def main() -> None:
        try:
            async with MiniAgents():
                await asyncio.sleep(5)
                await boss.trigger(queue=asyncio.Queue())
        finally:
            log.append("cleaned up")

    with pytest.raises(IdleLoopError, match=r"Nothing can run, 5 s of virtual time after the start") as caught:
        MiniAgents().run(main(), loop_factory=VirtualTimeLoop)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.rpartition(", ")[2] if line.startswith("File") else line for line in lines] == [
        "main",
        "in test_idle_loop_raises_an_error_that_lists_waiting_tasks.<locals>.main",
        "await boss.trigger(queue=asyncio.Queue())",
        "BOSS#1",
        "in boss",
        "await patient.trigger(queue=queue)",
        "PATIENT#1 <- BOSS",
        "in patient",
        'await asyncio.create_task(queue.get(), name="getter")',
        "getter of PATIENT <- BOSS",
        "in Queue.get",
        "await getter",
    ]
    assert log == ["cleaned up"]


@pytest.mark.parametrize("before", ["nothing", "a thread"])
def test_idle_loop_raises_its_error_without_delay(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle loop raises its error at once, even if idle threads of a pool exist."""

    async def main() -> None:
        if before == "a thread":
            await asyncio.to_thread(int)
        await asyncio.Event().wait()

    monkeypatch.setattr(clock, "_PATIENCE", 60.0)
    began = time.monotonic()
    with pytest.raises(IdleLoopError, match=r"await asyncio.Event\(\).wait\(\)"):
        run_in_virtual_time(main())
    assert time.monotonic() - began < clock._PATIENCE


def test_error_of_an_idle_loop_shows_the_innermost_generator() -> None:
    """For a reader of nested generators, the error shows the line of the innermost one."""

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


def test_error_of_an_idle_loop_counts_tasks_beyond_thirty() -> None:
    """The error of an idle loop lists 30 waiting tasks, and counts the others."""

    async def main() -> None:
        await asyncio.gather(*[asyncio.Event().wait() for _ in range(100)])

    with pytest.raises(IdleLoopError, match=r"and 71 more$"):
        run_in_virtual_time(main())


def test_sleep_without_end_counts_as_idle() -> None:
    """A loop whose only timer has its deadline at infinity counts as idle."""

    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(IdleLoopError, match=r"math\.inf"):
        run_in_virtual_time(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's, about the task that is left
def test_cleanup_that_waits_for_ever_raises_an_idle_loop_error() -> None:
    """A clean-up that waits for ever after an idle loop raises an `IdleLoopError` of its own."""

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


# --- sockets, pipes and subprocesses


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


@pytest.mark.parametrize("operation", [_address, _connection, _server, _subprocess, _file])
def test_loop_refuses_sockets_pipes_and_subprocesses(operation: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Opening a socket, pipe or subprocess raises `NotVirtualError`, whose message says what to do instead."""
    with pytest.raises(NotVirtualError, match=r"time is virtual.*allow_io=True"):
        run_in_virtual_time(operation())


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_sdks_raise_the_refusal_without_retries(provider: str) -> None:
    """The SDKs neither retry after a `NotVirtualError` nor wrap it as a lost connection."""
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


def test_loop_with_allow_io_follows_real_time_while_it_watches_files() -> None:
    """With `allow_io`, sockets and subprocesses work; the clock follows real time only while the loop watches them."""

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
