"""Running a program: its loop, and what Ctrl-C, SIGTERM and interrupts inside tasks do to it.

A plain `asyncio.Runner` shows the main coroutine a `CancelledError` on Ctrl-C, and an interrupt raised inside another
task passes the main coroutine by. Here either one arrives in the main coroutine, once, as `KeyboardInterrupt`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType


T = TypeVar("T")

logger = logging.getLogger("miniagents")

_MAX_WAITS = 100
"""How many waits of a coroutine that is given up are skipped; one that waits in a loop has no end."""

SIGTERM_EXIT_STATUS = 128 + signal.SIGTERM


class _Main(Generic[T]):
    """Awaits the main coroutine, and gives it an interrupt in place of what the cancellation for it has led to."""

    def __init__(self, awaitable: Awaitable[T], runner: Runner[T]) -> None:
        self._awaitable = awaitable
        self._runner = runner

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaitable.__await__()
        try:
            return (yield from self._run(steps))
        finally:
            steps.close()

    def _run(self, steps: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        step = steps.__next__
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                yield waits_for
                step = steps.__next__
            except GeneratorExit:
                raise
            except BaseException as error:
                step = partial(steps.throw, error)
            if (interrupt := self._runner.take_interrupt()) is not None:
                # whatever came with it: a task that main waited for may have ended by an error, or with a result
                yield from _until_ended(_released_helpers(self._awaitable))
                step = partial(steps.throw, interrupt)


class Runner(Generic[T]):
    """Runs one awaitable in a loop of its own.

    Args:
        interrupted: called when an interrupt is on its way to the main coroutine.
        loop_factory: makes the event loop; asyncio's default if None.
    """

    def __init__(
        self, interrupted: Callable[[], None], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    ) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self._interrupted = interrupted
        self._main: asyncio.Task[T] | None = None
        self._interrupt: BaseException | None = None
        self._told = False
        """Main has been interrupted: further interrupts out of tasks are a part of the same one."""
        self._signalled = False
        self._at_once = False
        """A second signal came: nobody waits for clean-ups any more."""
        self._terminated = False

    def run(self, awaitable: Awaitable[T]) -> T:
        """Run to the end; the loop, its tasks and its generators are closed in every case."""
        self._loop = self._runner.get_loop()
        handlers = self._install_handlers()
        try:
            try:
                return self._run(awaitable)
            finally:
                self._close()
                if self._terminated:
                    raise SystemExit(SIGTERM_EXIT_STATUS) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _run(self, awaitable: Awaitable[T]) -> T:
        async def main() -> T:
            return await _Main(awaitable, self)

        main_task = self._main = self._loop.create_task(main(), name="main")
        while True:
            try:
                return self._loop.run_until_complete(main_task)
            except (KeyboardInterrupt, SystemExit) as interrupt:
                # from another task; or from main itself, or from a second signal: then there is nobody left to tell
                if main_task.done() or self._at_once:
                    raise
                self._tell_main(interrupt)

    def _close(self) -> None:
        try:
            if not self._at_once:
                self._runner.close()
        finally:
            if not self._loop.is_closed():
                self._loop.set_exception_handler(_say_nothing)
                for task in asyncio.all_tasks(self._loop):
                    _destroy(task.get_coro())
                asyncio.set_event_loop(None)
                self._loop.close()

    def _tell_main(self, interrupt: BaseException) -> None:
        if not self._told:
            self._interrupt = interrupt
            self._cancel_main()

    def _cancel_main(self) -> None:
        self._told = True
        self._interrupted()
        if self._main is not None:
            self._main.cancel()

    def take_interrupt(self) -> BaseException | None:
        """What the main coroutine, which was cancelled for it, is to see now."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None and self._main is not None:
            self._main.uncancel()  # no cancellation after all: what `main` awaits in its clean-up must go on
        return interrupt

    # --- signals

    def _install_handlers(self) -> dict[signal.Signals, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        handlers: dict[signal.Signals, Any] = {}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_interrupt)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_terminate)
        return handlers

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._first_or_raise(KeyboardInterrupt())
        self._loop.call_soon_threadsafe(self._tell_main, KeyboardInterrupt())

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
        self._first_or_raise(SystemExit(SIGTERM_EXIT_STATUS))
        self._loop.call_soon_threadsafe(self._cancel_main)

    def _first_or_raise(self, interrupt: BaseException) -> None:
        if self._signalled or self._told:
            self._at_once = True
            raise interrupt
        self._signalled = True


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The exception handler of a loop whose tasks are left behind on purpose."""


def _destroy(coroutine: Any) -> None:
    """Close a coroutine as far as that goes without a loop: its `finally` blocks run, but must not wait."""
    for _ in range(_MAX_WAITS):
        try:
            coroutine.close()
        except RuntimeError:  # it waits for something in a `finally`: close it there
            continue
        except Exception:
            logger.debug("Nobody waits for the clean-up that failed here", exc_info=True)
        return


def _released_helpers(waits: Any) -> list[asyncio.Task[Any]]:
    """Cancel the tasks of task groups, and of `wait_for` on 3.11, that an awaitable waits in.

    Those know a cancellation as the one thing that can end their wait: an interrupt would leave their tasks behind.
    """
    helpers: list[asyncio.Task[Any]] = []
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
        names = {} if frame is None else frame.f_locals
        if isinstance(group := names.get("self"), asyncio.TaskGroup):
            helpers.extend(group._tasks)
            group._aborting = True  # type: ignore[attr-defined]  # as when it is cancelled: no task can be added
        elif getattr(waits, "__name__", "") == "wait_for" and isinstance(names.get("fut"), asyncio.Task):
            helpers.append(names["fut"])
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)
    for task in helpers:
        if not task.cancelling():  # twice would cut its clean-up short
            task.cancel()
    return helpers


def _until_ended(tasks: list[asyncio.Task[Any]]) -> Generator[Any, Any, None]:
    """Wait for the clean-up of cancelled tasks."""
    while pending := [task for task in tasks if not task.done()]:
        try:
            yield from asyncio.wait(pending).__await__()
        except asyncio.CancelledError:
            continue  # whoever hurries: an interrupt is on its way already
