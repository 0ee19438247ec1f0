"""Calls from another thread than that of the event loop: an error says what to write, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import InteractionContext, MessageSequence, MiniAgents, StreamAppender, miniagent
from miniagents_testing import Step, create_scripted_agent

if TYPE_CHECKING:
    from collections.abc import Callable


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Repeat each message."""
    async for promise in ctx.message_promises:
        ctx.reply(f"heard {await promise}")


async def error_in_a_thread(call: Callable[[], object]) -> str:
    """Return the text of the `RuntimeError` that a call raises in another thread."""
    with pytest.raises(RuntimeError, match=r"in the thread '.*', and the event loop runs in another thread") as caught:
        await asyncio.to_thread(call)
    return str(caught.value)


@pytest.mark.parametrize("method", ["reply", "reply_out_of_order"])
async def test_reply_in_another_thread_is_an_error_that_says_what_to_write(method: str) -> None:
    """A reply from another thread raises an error with the line to write, and that line works."""
    errors: list[str] = []

    @miniagent
    async def worker(ctx: InteractionContext) -> None:
        loop = asyncio.get_running_loop()
        errors.append(await error_in_a_thread(lambda: getattr(ctx, method)("lost")))
        await asyncio.to_thread(loop.call_soon_threadsafe, getattr(ctx, method), "said")

    async with MiniAgents():
        replies = [str(message) for message in await worker.trigger()]
    assert replies == ["said"]
    assert "`loop.call_soon_threadsafe(ctx.reply, ...)`" in errors[0]


async def test_reply_of_a_sync_tool_is_an_error_that_the_model_reads() -> None:
    """A tool that is no async function runs in a thread: its `ctx.reply` is an error, with the line to write."""

    @miniagent
    async def assistant(ctx: InteractionContext) -> None:
        def look_up() -> str:
            """Look something up."""
            ctx.reply("half of it")
            return "found"

        script: list[Any] = [Step(tool_calls=[("look_up", {})]), "end"]
        replies = create_scripted_agent(script, tools=[look_up]).trigger("go")
        ctx.reply(await replies)

    async with MiniAgents():
        result = (await assistant.trigger())[1]
    assert "in the thread 'tool look_up'" in str(result)
    assert "call_soon_threadsafe(ctx.reply, ...)" in str(result)


CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "send_message": (lambda call: call.send_message("x"), "loop.call_soon_threadsafe(call.send_message, ...)"),
    "send_out_of_order": (
        lambda call: call.send_out_of_order("x"),
        "loop.call_soon_threadsafe(call.send_message, ...)",
    ),
    "finish": (lambda call: call.finish(), "loop.call_soon_threadsafe(call.finish)"),
    "reply_sequence": (lambda call: call.reply_sequence(), "loop.call_soon_threadsafe(call.finish)"),
    "cancel": (
        lambda call: call.reply_sequence(finish_call=False).cancel(),
        "loop.call_soon_threadsafe(promise.cancel)",
    ),
    "trigger": (lambda call: echo.trigger("x"), "asyncio.run_coroutine_threadsafe(ask(), loop).result()"),
    "initiate_call": (lambda call: echo.initiate_call("x"), "asyncio.run_coroutine_threadsafe(ask(), loop).result()"),
}
"""What is done with a call in another thread, and the line to write, by the name of the method."""


@pytest.mark.parametrize("method", CALLS)
async def test_call_in_another_thread_is_an_error_that_says_what_to_write(method: str) -> None:
    """A method of a call, or a new call, raises an error in another thread; the call then goes on as before."""
    call, right = CALLS[method]
    async with MiniAgents():
        opened = echo.initiate_call()
        assert f"`{right}`" in await error_in_a_thread(lambda: call(opened))
        opened.send_message("more")
        assert [str(message) for message in await opened.reply_sequence()] == ["heard more"]
        await asyncio.to_thread(opened.finish)  # which does nothing any more
        await asyncio.to_thread(opened.reply_sequence().cancel)


@pytest.mark.parametrize("make", [StreamAppender[Any], MessageSequence])
@pytest.mark.parametrize("in_run", [True, False])
async def test_append_in_another_thread_is_an_error_while_a_reader_waits(make: Any, in_run: bool) -> None:
    """An appender refuses pieces from another thread that would not wake its reader, also outside of a run."""

    async def append() -> None:
        with make() as appender:
            reading = asyncio.ensure_future(anext(aiter(appender.promise)))
            await asyncio.sleep(0)
            assert "(appender.append, ...)" in await error_in_a_thread(lambda: appender.append("lost"))
            assert "(appender.close)" in await error_in_a_thread(appender.close)
            appender.append("come")
            assert str(await reading)

    if in_run:
        async with MiniAgents():
            await append()
    else:
        await append()


@pytest.mark.parametrize("make", [StreamAppender[Any], MessageSequence])
async def test_appender_may_be_filled_in_a_thread_that_made_it(make: Any) -> None:
    """A thread fills an appender of its own before a task reads it; while a task waits, an append is an error."""

    def fill() -> Any:
        appender = make().open()
        return appender.append("one")

    async with MiniAgents():
        appender = await asyncio.to_thread(fill)
        pieces = aiter(appender.promise)
        assert str(await anext(pieces))
        reading = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        await error_in_a_thread(lambda: appender.append("two"))
        appender.append("three")
        assert str(await reading)
        appender.close()


def test_appender_needs_no_loop() -> None:
    """Appenders are filled and closed before a loop runs, in any thread, and read in the loop."""
    appender = MessageSequence().open()
    thread = threading.Thread(target=lambda: appender.append("one").append("two").close())
    thread.start()
    thread.join()

    async def read() -> list[str]:
        return [str(message) for message in await appender.sequence_promise]

    assert asyncio.run(read()) == ["one", "two"]


def test_replies_between_two_runs_of_the_loop() -> None:
    """In the thread of a loop that does not run at the moment, replies and messages are taken as ever."""
    loop = asyncio.new_event_loop()
    contexts: list[InteractionContext] = []
    end = asyncio.Event()

    @miniagent
    async def waiting(ctx: InteractionContext) -> None:
        contexts.append(ctx)
        await end.wait()

    async def begin() -> Any:
        run = MiniAgents().activate()
        call = waiting.initiate_call()
        await asyncio.sleep(0)
        return run, call

    run, call = loop.run_until_complete(begin())
    contexts[0].reply("said")
    call.send_message("x").finish()
    end.set()

    async def read() -> list[str]:
        return [str(message) for message in await call.reply_sequence()]

    assert loop.run_until_complete(read()) == ["said"]
    loop.run_until_complete(run.afinalize())
    loop.close()


async def test_run_in_a_thread_calls_the_handlers_of_the_run_around_it() -> None:
    """A sync tool begins a run of its own: handlers of the outer run get its promises too, in the loop of that run."""
    seen: list[tuple[str, bool]] = []
    outer = threading.current_thread()

    async def note(promise: object, result: object) -> None:
        seen.append((str(result), threading.current_thread() is outer))

    async with MiniAgents(on_promise_resolved=[note]):
        await asyncio.to_thread(lambda: MiniAgents().run_agent(echo, "x"))
    assert ("heard x", True) in seen
