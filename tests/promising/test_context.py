"""The run context: what it owns, waits for, cancels and reports (laws 2-5, 15)."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import MessageSequencePromise
from miniagents._promising.context import PromisingContext
from miniagents._promising.promise import Promise
from miniagents._promising.streamed import StreamedPromise
from miniagents.errors import NoActiveContextError, PromiseCancelledError, StopDialog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Boom(Exception):  # noqa: N818 - what happens, in one word
    """What resolvers here fail with."""


async def fail() -> None:
    """A resolver that fails."""
    raise Boom("broken")


async def nap() -> str:
    """A resolver that takes a few steps."""
    for _ in range(5):
        await asyncio.sleep(0)
    return "rested"


def forever(log: list[str]) -> Callable[[], Awaitable[None]]:
    """A resolver that never ends by itself, and notes its clean-up."""

    async def resolver() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    return resolver


async def test_leaving_normally_waits_for_the_work() -> None:
    """Everything that was started inside has ended when the block is left."""
    async with PromisingContext():
        promise = Promise(nap)
    assert promise.is_done
    assert await promise == "rested"


async def test_C5_leaving_by_an_error_cancels_and_cleans_up() -> None:
    """The error comes out at once, after every `finally` has run; promises end as cancelled."""
    log: list[str] = []
    with pytest.raises(Boom):
        async with PromisingContext():
            promise = Promise(forever(log))
            await asyncio.sleep(0)
            raise Boom
    assert log == ["cleaned up"]
    with pytest.raises(PromiseCancelledError):
        await promise
    assert PromisingContext.find_current() is None


async def test_C6_leaving_by_cancellation_cancels_and_cleans_up() -> None:
    """A cancelled body takes its background work along, also while it already waits for it."""
    for leave_early in (True, False):
        log: list[str] = []

        async def body(log: list[str], leave_early: bool) -> None:
            async with PromisingContext():
                Promise(forever(log))
                if not leave_early:
                    await asyncio.Event().wait()

        task = asyncio.create_task(body(log, leave_early))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cleaned up"]


async def test_no_task_outlives_its_context() -> None:
    """Also what a clean-up starts while it is being cancelled has ended when the block is left."""
    before = asyncio.all_tasks()

    async def starts_more() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            Promise(forever([]))

    with pytest.raises(Boom):
        async with PromisingContext():
            Promise(starts_more)
            await asyncio.sleep(0)
            raise Boom
    assert asyncio.all_tasks() == before


async def test_C17_a_task_cancelled_before_its_first_step_is_accounted_for() -> None:
    """Leaving by an error right after starting something does not hang."""
    log: list[str] = []
    with pytest.raises(Boom):
        async with PromisingContext():
            promise = Promise(forever(log))
            raise Boom
    assert log == []
    assert promise.is_done


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_are_owned_as_well() -> None:
    """With the eager task factory a task may have ended before it was noted."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # 3.12

    async def at_once() -> int:
        return 1

    async with PromisingContext() as context:
        assert await Promise(at_once) == 1
        assert await Promise(nap) == "rested"
    assert not context.tasks


async def test_C33_a_task_that_has_ended_is_not_asked_for_its_coroutine() -> None:
    """Python 3.12.1 crashes then, if the task started eagerly; its cell may wait one more step for its callback."""

    class EndedTask:
        _fut_waiter = None

        def done(self) -> bool:
            return True

        def get_coro(self) -> Any:
            raise AssertionError("this is the crash")

    async with PromisingContext():
        promise = Promise(nap)
        task = promise._cell.task
        promise._cell.task = EndedTask()  # type: ignore[assignment]  # what a wait looks at
        waiting = asyncio.create_task(awaited(promise))
        await asyncio.sleep(0)
        promise._cell.task = task
        assert await waiting == "rested"


async def awaited(promise: Promise[Any]) -> Any:
    """Await a promise in a task."""
    return await promise


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
def test_C33_agents_that_end_in_the_step_in_which_they_start_crash_no_interpreter() -> None:
    """With eager tasks they have ended before their replies are told; waits, errors and cancellations come between."""
    program = """
        import asyncio
        from miniagents import Message, MiniAgents, miniagent

        @miniagent
        async def failing(ctx):
            raise KeyError

        @miniagent
        async def replying(ctx):
            ctx.reply(ctx.message_promises)

        async def tokens(fields):
            yield "token"

        async def main():
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            async with MiniAgents(unobserved_errors="log") as context:
                for agent in (replying, failing):
                    replies = agent.trigger(["text", Message.promise(message_token_streamer=tokens)])
                    try:
                        await replies
                    except KeyError:
                        pass
                    async for promise in agent.trigger():
                        try:
                            await promise
                        except KeyError:
                            pass
                    agent.trigger().cancel()
                    agent.initiate_call("text").cancel()
            print("fine")

        asyncio.run(main())
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.strip() == "fine", f"exit status {result.returncode}: {result.stderr}"


async def test_contexts_nest() -> None:
    """The inner one waits for its own work only, and the outer one is current again afterwards."""
    log: list[str] = []
    with pytest.raises(Boom):
        async with PromisingContext() as outer:
            outside = Promise(forever(log))
            async with PromisingContext() as inner:
                assert PromisingContext.get_current() is inner
                inside = Promise(nap)
            assert inside.is_done
            assert not outside.is_done
            assert PromisingContext.get_current() is outer
            raise Boom


async def test_a_context_is_opened_once() -> None:
    """Its book-keeping belongs to one run."""
    async with PromisingContext() as context:
        pass
    with pytest.raises(RuntimeError, match="make a new one"):
        async with context:
            pass


async def test_without_a_context_the_error_says_how_to_open_one() -> None:
    """`get_current` outside of any context."""
    with pytest.raises(NoActiveContextError, match="async with PromisingContext"):
        PromisingContext.get_current()


# --- failures nobody observed


async def test_C7_an_unobserved_failure_is_raised_at_a_clean_exit() -> None:
    """A failure that nobody looked at is not silent."""
    with pytest.raises(ExceptionGroup) as caught:
        async with PromisingContext():
            Promise(fail)
    assert [type(error) for error in caught.value.exceptions] == [Boom]


async def test_an_observed_failure_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever awaited it has got it; nothing is logged above DEBUG."""
    async with PromisingContext():
        with pytest.raises(Boom):
            await Promise(fail)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_one_failure_is_reported_once() -> None:
    """A failure that was passed on by others is reported as one."""

    async def passes_on() -> None:
        await first

    with pytest.raises(ExceptionGroup) as caught:
        async with PromisingContext():
            first = Promise(fail)
            for _ in range(3):
                Promise(passes_on)
    assert len(caught.value.exceptions) == 1


async def test_C7_unobserved_failures_can_be_logged_instead(caplog: pytest.LogCaptureFixture) -> None:
    """`unobserved_errors="log"` leaves a record with the traceback."""
    async with PromisingContext(unobserved_errors="log"):
        Promise(fail)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]
    with pytest.raises(ValueError, match="unobserved_errors"):
        PromisingContext(unobserved_errors="swallow")  # type: ignore[arg-type]  # that is the mistake


async def test_C31_logged_failures_are_logged_when_their_promise_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """Not before, and not once more at the exit; what is still there then is logged at the exit."""
    async with PromisingContext(unobserved_errors="log"):
        lost, kept, seen = Promise(fail), Promise(fail), Promise(fail)
        with pytest.raises(Boom):
            await seen
        await asyncio.sleep(0)
        gc.collect()
        assert caplog.records == []
        del lost, seen
        gc.collect()
        assert len(caplog.records) == 1
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom] * 2
    del kept
    gc.collect()
    assert len(caplog.records) == 2


async def test_an_error_passed_on_by_many_promises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """When the last of them is gone, unless a reader of one has got it."""

    async def passes_on(source: list[Promise[None]]) -> None:
        await source[0]

    async with PromisingContext(unobserved_errors="log"):
        for observed in (False, True):
            source = [Promise(fail)]
            promises = [Promise(partial(passes_on, source)) for _ in range(3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del promises[0]
            gc.collect()
            assert len(caplog.records) == int(observed)
            if observed:
                with pytest.raises(Boom):
                    await promises[1]
            del source, promises
            gc.collect()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["handler", "clean-up"])
async def test_what_no_promise_can_tell_is_logged_at_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The error of a handler, and of a clean-up after the end."""

    async def handler(promise: Promise[Any], result: Any) -> None:
        if kind == "handler":
            raise Boom

    async with PromisingContext(unobserved_errors="log", on_promise_resolved=[handler]):
        if kind == "handler":
            Promise(nap)
        else:
            promise = FailingCleanUp().resolver()
            await asyncio.sleep(0)
            promise.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("how", ["log", "activate"])
async def test_nothing_is_kept_of_errors_that_were_logged(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """As much is alive after 2,000 of them as after 200."""
    caplog.set_level(logging.CRITICAL)

    async def pieces() -> AsyncIterator[str]:
        yield "piece"
        raise Boom

    async def lose(count: int) -> int:
        for _ in range(count):
            Promise(fail)
            StreamedPromise(pieces)
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        return sys.getallocatedblocks()

    context = PromisingContext(unobserved_errors="log" if how == "log" else "raise")
    await context.__aenter__() if how == "log" else context.activate()
    await lose(200)
    few, many = await lose(200), await lose(2_000)
    assert many - few < 200
    await (context.__aexit__(None, None, None) if how == "log" else context.afinalize())


async def test_on_exit_by_another_error_the_rest_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The error that leaves the block is not hidden behind others."""
    with pytest.raises(KeyError):
        async with PromisingContext():
            Promise(fail)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise KeyError
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]


class FailingCleanUp:
    """Sources whose clean-up fails, each as a promise at work."""

    async def stuck(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom("in the clean-up")

    async def pieces(self, *, wait: bool) -> AsyncIterator[str]:
        try:
            yield "one"
            if wait:
                await asyncio.Event().wait()
            yield "two"
        finally:
            raise Boom("in the clean-up")

    def resolver(self) -> Promise[Any]:
        return Promise(self.stuck)

    def waiting_stream(self) -> StreamedPromise[str, Any]:
        return StreamedPromise(lambda: self.pieces(wait=True))

    def resting_stream(self) -> StreamedPromise[str, Any]:
        return StreamedPromise(lambda: self.pieces(wait=False), start_soon=False)

    def sequence(self) -> MessageSequencePromise:
        return MessageSequencePromise.of_async_iterable(self.pieces(wait=True))


@pytest.mark.parametrize("kind", ["resolver", "waiting_stream", "resting_stream", "sequence"])
async def test_an_error_in_the_clean_up_of_a_cancelled_promise_counts(kind: str) -> None:
    """Nobody can await it any more, whoever saw that the promise was cancelled."""
    with pytest.raises(ExceptionGroup, match="1 error") as raised:
        async with PromisingContext():
            promise: Any = getattr(FailingCleanUp(), kind)()
            if kind != "resolver":
                await anext(aiter(promise))
            await asyncio.sleep(0)
            promise.cancel()
            with pytest.raises(PromiseCancelledError):
                await promise
    [error] = raised.value.exceptions
    assert isinstance(error, Boom)


async def test_an_error_in_the_clean_up_of_a_source_at_rest_counts() -> None:
    """A source that nobody reads to its end is closed by the context that is left."""
    with pytest.raises(ExceptionGroup, match="1 error"):
        async with PromisingContext():
            await anext(aiter(FailingCleanUp().resting_stream()))


async def test_a_server_logs_an_error_in_the_clean_up_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """There is no promise with which it could be collected later."""
    context = PromisingContext().activate()
    promise = FailingCleanUp().resolver()
    await asyncio.sleep(0)
    promise.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]
    await context.afinalize()


async def test_signals_and_cancellations_do_not_count_as_failures() -> None:
    """`StopDialog` and cancelled promises are nobody's failure."""

    async def stop() -> None:
        raise StopDialog

    async with PromisingContext():
        Promise(stop)
        Promise(forever([])).cancel()


# --- servers


async def test_an_activated_context_serves_every_task_of_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """`activate` in one task, work in others that did not inherit from it, `afinalize` in a third one."""
    context = PromisingContext()

    async def start() -> None:
        context.activate()

    async def serve() -> Any:
        return await Promise(nap)

    async def lose_a_failure() -> None:
        Promise(fail)

    await asyncio.create_task(start())
    assert await asyncio.create_task(serve()) == "rested"
    await asyncio.create_task(lose_a_failure())
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]
    assert not context._unobserved
    await asyncio.create_task(context.afinalize())
    assert PromisingContext.find_current() is None


async def test_a_context_cannot_finalize_itself_from_its_own_task() -> None:
    """It would wait for the task that waits for it."""
    context = PromisingContext().activate()
    with pytest.raises(RuntimeError, match="wait for itself"):
        await Promise(context.afinalize)
    await context.afinalize()


# --- handlers


async def test_handlers_hear_of_each_promise_once() -> None:
    """Of results and of failures, in this context and in the outer ones."""
    heard: list[tuple[str, Any]] = []

    def handler(name: str) -> Callable[[Promise[Any], Any], Awaitable[None]]:
        async def hear(promise: Promise[Any], result: Any) -> None:
            assert promise.is_done
            heard.append((name, result if isinstance(result, str) else type(result)))

        return hear

    async with (
        PromisingContext(on_promise_resolved=[handler("outer")]),
        PromisingContext(on_promise_resolved=[handler("inner")]),
    ):
        promise = Promise(nap)
        await promise
        await promise
        with pytest.raises(Boom):
            await Promise(fail)
    assert sorted(heard, key=str) == [
        ("inner", "rested"),
        ("inner", Boom),
        ("outer", "rested"),
        ("outer", Boom),
    ]


async def test_a_failing_handler_is_not_silent() -> None:
    """Nobody can await a handler, so its error counts as unobserved."""

    async def handler(promise: Promise[Any], result: Any) -> None:
        raise Boom

    with pytest.raises(ExceptionGroup, match="1 error"):
        async with PromisingContext(on_promise_resolved=[handler]):
            await Promise(nap)
