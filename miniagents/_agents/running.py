"""Running a program: its event loop, and the effects of Ctrl-C, SIGTERM and interrupts that tasks raise.

With `asyncio.Runner`, the main coroutine gets a `CancelledError` on Ctrl-C, and it does not see an interrupt that
another task raises. With `Runner`, the main coroutine gets either of them once, as the interrupt itself.
`catch_signal` gives a signal to another handler first. Independent of agents and messages.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from types import FrameType


T = TypeVar("T")

logger = logging.getLogger("miniagents")

_MAX_SKIPPED_WAITS = 100
"""Number of waits that are skipped in the `finally` blocks of one coroutine; a loop of waits would have no end."""

_SIGTERM_EXIT_STATUS = 128 + signal.SIGTERM

_STEPS_BEFORE_HANDLER = 5
"""Steps of the loop between a caught signal and its handler: in them, the loop reads what was typed before Ctrl-C."""


class _InterruptibleMain(Generic[T]):
    """Awaitable that runs the main coroutine, and throws an interrupt into it in place of a `CancelledError`."""

    def __init__(self, awaitable: Awaitable[T], runner: Runner[T]) -> None:
        self._awaitable = awaitable
        self._runner = runner

    def __await__(self) -> Generator[Any, Any, T]:
        """Run the main coroutine and return its result; close the iterator of its steps at the end."""
        steps = self._awaitable.__await__()
        try:
            return (yield from self._run(steps))
        finally:
            steps.close()

    def _run(self, steps: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Drive the steps of the main coroutine; throw an interrupt into it in place of its next step.

        Before the throw, cancel the tasks of the task groups in which the coroutine waits, and wait for their ends.
        """
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
                # In place of the next step: the task that main waited for may have ended with an error or a result.
                yield from _wait_until_ended(_cancel_helpers(self._awaitable))
                step = partial(steps.throw, interrupt)


class Runner(Generic[T]):
    """Runner of one awaitable in an event loop of its own.

    Args:
        on_interrupt: function to call when the main coroutine is about to get an interrupt.
        loop_factory: function that makes the event loop; asyncio's default if None.
    """

    def __init__(
        self, on_interrupt: Callable[[], None], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    ) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self._on_interrupt = on_interrupt
        self._main: asyncio.Task[T] | None = None
        self._pending_interrupt: BaseException | None = None
        self._main_interrupted = False
        """True if main was interrupted: further interrupts of tasks belong to the same one."""
        self._signal_received = False
        self._skip_clean_ups = False
        """True after a second signal: the run ends without waiting for clean-ups."""
        self._terminated = False
        """True after SIGTERM."""

    def run(self, awaitable: Awaitable[T]) -> T:
        """Run the awaitable to its end, close the loop with its tasks and generators, and return the result.

        The handlers of SIGINT and SIGTERM are replaced meanwhile.

        Raises:
            KeyboardInterrupt: SIGINT came, or a task raised it, and the awaitable did not handle it.
            SystemExit: SIGTERM came; with status 143.
        """
        self._loop = self._runner.get_loop()
        handlers = self._install_handlers()
        try:
            try:
                return self._run(awaitable)
            finally:
                self._close()
                if self._terminated:
                    raise SystemExit(_SIGTERM_EXIT_STATUS) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _run(self, awaitable: Awaitable[T]) -> T:
        """Run the awaitable as the main task, raise other tasks' interrupts inside it, and return its result.

        An interrupt that comes out of the main task ends the run, and so does a second signal.
        """

        async def main() -> T:
            return await _InterruptibleMain(awaitable, self)

        main_task = self._main = self._loop.create_task(main(), name="main")
        while True:
            try:
                return self._loop.run_until_complete(main_task)
            except (KeyboardInterrupt, SystemExit) as interrupt:
                # Main must get the interrupt of another task. One of main itself, or of a second signal, ends the run.
                if main_task.done() or self._skip_clean_ups:
                    raise
                self._interrupt_main(interrupt)

    def _close(self) -> None:
        """Close the loop; after a second interrupt, close the coroutines of its tasks without waiting for them."""
        try:
            if not self._skip_clean_ups:
                self._runner.close()
        finally:
            if not self._loop.is_closed():
                self._loop.set_exception_handler(_ignore_exception)
                for task in asyncio.all_tasks(self._loop):
                    _close_coroutine(task.get_coro())
                asyncio.set_event_loop(None)
                self._loop.close()

    def _interrupt_main(self, interrupt: BaseException) -> None:
        """Cancel the main coroutine for an interrupt, which it gets instead of the cancellation.

        Do nothing for a second interrupt.
        """
        if not self._main_interrupted:
            self._pending_interrupt = interrupt
            self._cancel_main()

    def _cancel_main(self) -> None:
        """Cancel the main coroutine for an interrupt, note that it is interrupted, and call `on_interrupt`."""
        self._main_interrupted = True
        self._on_interrupt()
        if self._main is not None:
            self._main.cancel()

    def take_interrupt(self) -> BaseException | None:
        """Return the interrupt that main was cancelled for, and undo that cancellation; None if there is none."""
        interrupt, self._pending_interrupt = self._pending_interrupt, None
        if interrupt is not None and self._main is not None:
            self._main.uncancel()  # or the waits in the clean-up of `main` would be cancelled, too
        return interrupt

    # --- signals

    def _install_handlers(self) -> dict[signal.Signals, Any]:
        """Handle SIGINT and SIGTERM where Python's default handling is in place, and return the replaced handlers.

        Outside the main thread, install nothing, and return an empty dict.
        """
        if threading.current_thread() is not threading.main_thread():
            return {}
        handlers: dict[signal.Signals, Any] = {}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = self._install_handler(signal.SIGINT, self._on_sigint)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            handlers[signal.SIGTERM] = self._install_handler(signal.SIGTERM, self._on_sigterm)
        return handlers

    def _install_handler(self, number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Any:
        """Handle a signal, which also wakes the loop, and return the replaced handler.

        Python runs a handler between two steps of the main thread. If a signal comes after the last step before the
        loop waits for events, or to another thread, then its handler runs only after the wait.
        """
        replaced = signal.getsignal(number)
        with suppress(NotImplementedError):  # on Windows, where the default loop wakes up by itself
            self._loop.add_signal_handler(number, _do_nothing)
        signal.signal(number, handler)  # in place of the loop's: it runs during code that blocks, too
        return replaced

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the main coroutine with `KeyboardInterrupt` at the first signal; raise it at once at the second."""
        self._raise_if_second(KeyboardInterrupt())
        self._loop.call_soon_threadsafe(self._interrupt_main, KeyboardInterrupt())

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Cancel the main coroutine at the first signal; raise `SystemExit` at once at the second."""
        self._terminated = True
        self._raise_if_second(SystemExit(_SIGTERM_EXIT_STATUS))
        self._loop.call_soon_threadsafe(self._cancel_main)

    def _raise_if_second(self, interrupt: BaseException) -> None:
        """Note that the run is interrupted; if it was before, skip its clean-ups and raise the interrupt."""
        if self._signal_received or self._main_interrupted:
            self._skip_clean_ups = True
            raise interrupt
        self._signal_received = True


class _CaughtSignal:
    """A signal that a handler of a program gets before the handler that it replaces.

    Args:
        number: the signal.
        handler: called in the event loop; if it returns False, the signal has its former effect.
    """

    def __init__(self, number: int, handler: Callable[[], object]) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._replaced = signal.getsignal(number)
        self._steps_left = 0
        self._caught = False
        self.is_active = True

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Let the event loop call the handler some steps later.

        Pass the signal on at once if the loop has not called the handler for the last signal yet, or has been closed,
        or if the `with` block of `catch_signal` has ended. Pass on a SIGTERM twice if another signal came before: the
        run then waits for no clean-up.
        """
        if not self.is_active or self._steps_left or self._loop.is_closed():
            self._pass_on(number, frame)
            return
        if number == signal.SIGTERM and self._caught:
            for _ in range(2):  # as the second of two signals, which waits for no clean-up
                self._pass_on(number, frame)
            return
        self._caught = True
        self._steps_left = _STEPS_BEFORE_HANDLER
        self._loop.call_soon_threadsafe(self._step, number)

    def _step(self, number: int) -> None:
        """Count one of the loop steps before the handler, and call the handler after the last one.

        Pass the signal on if the handler returns False, or if the `with` block of `catch_signal` has ended.
        """
        self._steps_left -= 1
        if self._steps_left:
            self._loop.call_soon(self._step, number)
        elif not self.is_active or self._handler() is False:
            self._pass_on(number, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Let the signal have its former effect; SIGINT without a handler of Python raises `KeyboardInterrupt`."""
        if callable(self._replaced):
            self._replaced(number, frame)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif self._replaced is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def catch_signal(number: int, handler: Callable[[], object]) -> Iterator[None]:
    """Call `handler` in the event loop when the signal `number` comes during the `with` block.

    If `handler` returns False, the signal has its former effect. Outside the main thread, do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = _CaughtSignal(number, handler)
    on_signal = caught.on_signal  # one bound method, to find it again
    replaced = signal.signal(number, on_signal)
    try:
        yield
    finally:
        caught.is_active = False  # another handler that was entered later may still call it
        if signal.getsignal(number) is on_signal:
            signal.signal(number, replaced)


def _do_nothing() -> None:
    """Do nothing: the loop wakes up to call this function."""


def _ignore_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore an exception of a loop whose tasks are left unfinished on purpose."""


def _close_coroutine(coroutine: Any) -> None:
    """Close a coroutine without a loop: its `finally` blocks run, but their waits are skipped.

    Log an error of these blocks for debugging, and give up after `_MAX_SKIPPED_WAITS` waits.
    """
    for _ in range(_MAX_SKIPPED_WAITS):
        try:
            coroutine.close()
        except RuntimeError:  # it waits in a `finally` block: close it there
            continue
        except Exception:
            logger.debug("A clean-up failed in a coroutine that was closed after a second signal", exc_info=True)
        return


def _cancel_helpers(awaited: Any) -> list[asyncio.Task[Any]]:
    """Cancel the tasks of the task groups, and of `wait_for` on Python 3.11, that an awaitable is waiting in.

    Both cancel their tasks only when they are cancelled themselves: after an interrupt the tasks would go on. The
    groups take no new tasks then. Return the tasks, including those that were being cancelled already.
    """
    helpers: list[asyncio.Task[Any]] = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        names = {} if frame is None else frame.f_locals
        if isinstance(group := names.get("self"), asyncio.TaskGroup):
            helpers.extend(group._tasks)
            group._aborting = True  # type: ignore[attr-defined]  # as after a cancellation: it takes no new tasks
        elif getattr(awaited, "__name__", "") == "wait_for" and isinstance(names.get("fut"), asyncio.Task):
            helpers.append(names["fut"])
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    for task in helpers:
        if not task.cancelling():  # a second cancellation would end its clean-up
            task.cancel()
    return helpers


def _wait_until_ended(tasks: list[asyncio.Task[Any]]) -> Generator[Any, Any, None]:
    """Wait for the clean-ups of cancelled tasks, and ignore cancellations of the waiting task meanwhile."""
    while pending := [task for task in tasks if not task.done()]:
        try:
            yield from asyncio.wait(pending).__await__()
        except asyncio.CancelledError:
            continue  # main is about to get an interrupt anyway
