"""The run context: the tasks it owns, waits for and cancels, and the failures it reports (laws 2-5, 15)."""

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
from common import smallest_growth, steps

from miniagents import MessageSequencePromise
from miniagents._promising.context import PromisingContext
from miniagents._promising.promise import Promise
from miniagents._promising.streamed import StreamedPromise
from miniagents.errors import NoActiveContextError, PromiseCancelledError, StopDialog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Boom(Exception):  # noqa: N818 - a short name
    """Error that resolvers of these tests raise."""


async def fail() -> None:
    """Raise `Boom`; this is a resolver that fails."""
    raise Boom("broken")


async def nap() -> str:
    """Return a text after some loop steps, as a resolver."""
    for _ in range(5):
        await asyncio.sleep(0)
    return "rested"


def wait_for_ever(log: list[str]) -> Callable[[], Awaitable[None]]:
    """Return a resolver that never ends by itself, and logs its clean-up."""

    async def resolver() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    return resolver


async def test_leaving_normally_waits_for_background_work() -> None:
    """All work that was started inside the block has ended when the block is left."""
    async with PromisingContext():
        promise = Promise(nap)
    assert promise.is_done
    assert await promise == "rested"


async def test_C5_leaving_by_an_error_cancels_and_cleans_up() -> None:
    """If the block raises, the context cancels its promises; the error leaves it after their `finally` blocks."""
    log: list[str] = []
    with pytest.raises(Boom):
        async with PromisingContext():
            promise = Promise(wait_for_ever(log))
            await asyncio.sleep(0)
            raise Boom
    assert log == ["cleaned up"]
    with pytest.raises(PromiseCancelledError):
        await promise
    assert PromisingContext.find_current() is None


async def test_C6_leaving_by_cancellation_cancels_and_cleans_up() -> None:
    """If the body is cancelled, while it runs or while the context waits for its work, that work is cancelled."""
    for leave_early in (True, False):
        log: list[str] = []

        async def body(log: list[str], leave_early: bool) -> None:
            async with PromisingContext():
                Promise(wait_for_ever(log))
                if not leave_early:
                    await asyncio.Event().wait()

        task = asyncio.create_task(body(log, leave_early))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cleaned up"]


async def test_tasks_end_before_their_context_is_left() -> None:
    """If a clean-up starts a further task, the context is left only after that task has ended as well."""
    before = asyncio.all_tasks()

    async def starts_more() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            Promise(wait_for_ever([]))

    with pytest.raises(Boom):
        async with PromisingContext():
            Promise(starts_more)
            await asyncio.sleep(0)
            raise Boom
    assert asyncio.all_tasks() == before


async def test_C17_a_task_cancelled_before_its_first_step_is_accounted_for() -> None:
    """If the block fails right after starting a promise, the context does not hang, and the promise is done."""
    log: list[str] = []
    with pytest.raises(Boom):
        async with PromisingContext():
            promise = Promise(wait_for_ever(log))
            raise Boom
    assert log == []
    assert promise.is_done


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
async def test_context_tracks_eager_tasks() -> None:
    """With the eager task factory, a task that ends before the context tracks it is removed all the same."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # 3.12

    async def at_once() -> int:
        return 1

    async with PromisingContext() as context:
        assert await Promise(at_once) == 1
        assert await Promise(nap) == "rested"
    assert not context.tasks


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="some 3.13 give keywords to each task factory")
async def test_context_works_with_a_task_factory_that_takes_no_keywords() -> None:
    """The context works with a task factory of the older form, which takes a loop and a coroutine only."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))

    async with PromisingContext() as context:
        assert await Promise(nap) == "rested"
    assert not context.tasks


async def test_C33_wait_does_not_ask_an_ended_task_for_its_coroutine() -> None:
    """Awaiting a promise never calls `get_coro` of its ended task, which would crash Python 3.12.1 for eager tasks."""

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
    """Await a promise in a coroutine."""
    return await promise


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
def test_C33_agents_that_end_in_their_first_step_do_not_crash_the_interpreter() -> None:
    """Eager agents that end in their first step, with waits, errors and cancellations, do not crash a real process."""
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
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "fine", f"exit status {result.returncode}: {result.stderr}"


async def test_inner_context_waits_for_its_own_work_only() -> None:
    """Leaving an inner context restores the outer one as current, and does not wait for the outer one's work."""
    log: list[str] = []
    with pytest.raises(Boom):
        async with PromisingContext() as outer:
            outside = Promise(wait_for_ever(log))
            async with PromisingContext() as inner:
                assert PromisingContext.get_current() is inner
                inside = Promise(nap)
            assert inside.is_done
            assert not outside.is_done
            assert PromisingContext.get_current() is outer
            raise Boom


async def test_context_refuses_to_open_twice() -> None:
    """Entering a context again is a `RuntimeError`."""
    async with PromisingContext() as context:
        pass
    with pytest.raises(RuntimeError, match="make a new one"):
        async with context:
            pass


async def test_get_current_says_how_to_open_a_context_when_there_is_none() -> None:
    """`get_current` outside of any context is a `NoActiveContextError` with advice."""
    with pytest.raises(NoActiveContextError, match="async with PromisingContext"):
        PromisingContext.get_current()


# --- unobserved failures


async def test_C7_an_unobserved_failure_is_raised_at_a_clean_exit() -> None:
    """The context raises a failure that no reader got in an exception group when its block ends normally."""
    with pytest.raises(ExceptionGroup) as caught:
        async with PromisingContext():
            Promise(fail)
    assert [type(error) for error in caught.value.exceptions] == [Boom]


async def test_observed_failure_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that a reader got is not raised again, and nothing is logged above DEBUG."""
    async with PromisingContext():
        with pytest.raises(Boom):
            await Promise(fail)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_failure_of_many_promises_is_reported_once() -> None:
    """One failure that several promises pass on is one error in the group that the context raises."""

    async def passes_on() -> None:
        await first

    with pytest.raises(ExceptionGroup) as caught:
        async with PromisingContext():
            first = Promise(fail)
            for _ in range(3):
                Promise(passes_on)
    assert len(caught.value.exceptions) == 1


async def test_C7_unobserved_failure_is_logged_when_that_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """`unobserved_errors="log"` logs an unobserved failure with its traceback; unknown values of the argument raise."""
    async with PromisingContext(unobserved_errors="log"):
        Promise(fail)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]
    with pytest.raises(ValueError, match="unobserved_errors"):
        PromisingContext(unobserved_errors="swallow")  # type: ignore[arg-type]  # that is the mistake


async def test_C31_logged_failures_are_logged_when_their_promise_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """With `unobserved_errors="log"`, a failure is logged once: when its promise is collected, or else at the exit."""
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


async def test_error_of_many_promises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """An error that several promises share is logged when the last one is collected, unless a reader has got it."""

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
async def test_error_without_a_promise_is_logged_at_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """With `unobserved_errors="log"`, an error of a handler or of a late clean-up is logged at once, and only once."""

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
async def test_logged_errors_leave_nothing_in_memory(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """In a context that logs, 2,000 failed promises leave fewer than 100 further memory blocks in use."""
    caplog.set_level(logging.CRITICAL)

    async def pieces() -> AsyncIterator[str]:
        yield "piece"
        raise Boom

    async def lose_errors() -> None:
        for _ in range(1_000):
            Promise(fail)
            StreamedPromise(pieces)
        await steps(5)

    context = PromisingContext(unobserved_errors="log" if how == "log" else "raise")
    await context.__aenter__() if how == "log" else context.activate()
    assert await smallest_growth(lose_errors, below=100) < 100
    await (context.__aexit__(None, None, None) if how == "log" else context.afinalize())


async def test_unobserved_failures_are_logged_when_another_error_leaves_the_block(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the block raises an error, the context raises that error as it is, and logs the unobserved failures."""
    with pytest.raises(KeyError):
        async with PromisingContext():
            Promise(fail)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise KeyError
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]


class FailingCleanUp:
    """Promises and streams that raise `Boom` in the clean-up of their source."""

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
async def test_error_in_the_clean_up_of_a_cancelled_promise_is_reported(kind: str) -> None:
    """The context raises the error of a cancelled promise's clean-up, because readers get the cancellation only."""
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


async def test_error_in_the_clean_up_of_an_unfinished_source_is_reported() -> None:
    """If closing an on-demand source that was not read to its end fails, the context raises the error at its exit."""
    with pytest.raises(ExceptionGroup, match="1 error"):
        async with PromisingContext():
            await anext(aiter(FailingCleanUp().resting_stream()))


async def test_activated_context_logs_an_error_in_a_clean_up_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """In an activated context, the error of a cancelled promise's clean-up is logged before `afinalize`."""
    context = PromisingContext().activate()
    promise = FailingCleanUp().resolver()
    await asyncio.sleep(0)
    promise.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Boom]
    await context.afinalize()


async def test_stop_dialog_and_cancellations_are_not_reported() -> None:
    """The context raises no error at its exit for a promise that fails with `StopDialog` or is cancelled."""

    async def stop() -> None:
        raise StopDialog

    async with PromisingContext():
        Promise(stop)
        Promise(wait_for_ever([])).cancel()


# --- servers


async def test_activated_context_is_current_in_all_tasks_of_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """After one task calls `activate`, other tasks use the context and can close it, and a lost failure is logged."""
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


async def test_afinalize_refuses_a_task_of_its_own_context() -> None:
    """`afinalize` in a task of its own context raises `RuntimeError`, because the task would wait for itself."""
    context = PromisingContext().activate()
    with pytest.raises(RuntimeError, match="wait for itself"):
        await Promise(context.afinalize)
    await context.afinalize()


# --- handlers


async def test_handlers_are_called_once_for_each_promise() -> None:
    """Handlers of the inner and the outer context get the result or failure of each promise once."""
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


async def test_error_of_a_handler_is_reported() -> None:
    """The context raises the error of a handler at its exit, because no reader can get that error."""

    async def handler(promise: Promise[Any], result: Any) -> None:
        raise Boom

    with pytest.raises(ExceptionGroup, match="1 error"):
        async with PromisingContext(on_promise_resolved=[handler]):
            await Promise(nap)
