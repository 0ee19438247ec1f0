"""Hypothesis state machines: random operations on a promise, a sequence or a history, compared with a simple model.

Each function returns a machine for one implementation:

```python
TestMyHistory = history_machine(MyHistory).TestCase                     # pytest collects it
run_state_machine_as_test(history_machine(MyHistory))                   # or run it anywhere
```

Hypothesis shows a failing run as a program, shortened as far as possible.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from miniagents import AssistantMessage, Message, MessageSequence, MiniAgents, PromiseCancelledError
from miniagents_testing.strategies import Boom, Sendable, messages, sendables, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from miniagents import ChatHistory, MessagePromise

__all__ = ["history_machine", "promise_machine", "sequence_machine"]

_RUNNING = "running"
_PATIENCE = 30.0
"""Seconds after which an operation counts as endless."""
_IDLE_STEPS = 12
"""Steps of the loop after which all tasks wait."""


class _LoopMachine(RuleBasedStateMachine):
    """State machine whose rules run in one event loop and one run context."""

    has_failed = False

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()  # `Runner.run` sets signal handlers each time, which takes too long
        self._context = MiniAgents(unobserved_errors="log")
        self.run(self._open())

    async def _open(self) -> None:
        self._context.activate()

    def expect(self, came: object, expected: object, what: str) -> None:
        """Raise `AssertionError` with both values if they differ."""
        if came != expected:
            self.has_failed = True
            raise AssertionError(f"{what}: expected {expected!r}, came {came!r}")

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Await an operation in the machine's loop, for `_PATIENCE` seconds at most."""

        async def main() -> Any:
            async with asyncio.timeout(_PATIENCE):
                return await awaitable

        try:
            return self._loop.run_until_complete(main())
        except TimeoutError:
            self.has_failed = True
            raise AssertionError(f"nothing came for {_PATIENCE:g} seconds") from None

    def settle(self, steps: int = _IDLE_STEPS) -> None:
        """Run the loop until all tasks wait."""

        async def main() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)

        self._loop.run_until_complete(main())

    def teardown(self) -> None:
        """Close context and loop."""
        try:
            self.run(self._context.afinalize())
        finally:
            self._runner.close()


class _Reader:
    """Task that reads a stream, and keeps the values that it got and its end."""

    def __init__(self, read: Callable[[list[Any]], Awaitable[object]]) -> None:
        self.seen: list[Any] = []
        self.end = _RUNNING
        self.task = asyncio.get_running_loop().create_task(self._run(read))

    async def _run(self, read: Callable[[list[Any]], Awaitable[object]]) -> None:
        try:
            await read(self.seen)
            self.end = "end"
        except asyncio.CancelledError:
            self.end = "cancelled here"
        except (Boom, PromiseCancelledError) as error:
            self.end = type(error).__name__


def promise_machine(
    make_promise: Callable[..., MessagePromise] = Message.promise, *, text: st.SearchStrategy[str] | None = None
) -> type[RuleBasedStateMachine]:
    """Return a machine that starts, stops and cancels readers while a message streams, ends, fails or is cancelled.

    Args:
        make_promise: makes a promise from `message_token_streamer=` and `start_soon=`.
        text: strategy for tokens.
    """
    tokens = texts(max_size=2) if text is None else text

    class PromiseMachine(_LoopMachine):
        readers = Bundle("readers")

        @initialize(start_soon=st.booleans())
        def make(self, start_soon: bool) -> None:
            self.start_soon = start_soon
            self.wanted = start_soon
            self.sent: list[str] = []
            self.taken: list[str] = []
            self.end = _RUNNING
            self.closed = False
            self.all: list[tuple[_Reader, bool]] = []

            async def main() -> None:
                self.source: asyncio.Queue[str | Exception | None] = asyncio.Queue()
                self.promise = make_promise(message_token_streamer=self.stream, start_soon=start_soon)

            self.run(main())

        async def stream(self, metadata: dict[str, Any]) -> AsyncIterator[str]:
            try:
                while (token := await self.source.get()) is not None:
                    if isinstance(token, Exception):
                        raise token
                    self.taken.append(token)
                    yield token
            finally:
                self.closed = True

        @precondition(lambda self: self.end == _RUNNING)
        @rule(token=tokens)
        def send(self, token: str) -> None:
            self.sent.append(token)
            self.source.put_nowait(token)
            self.settle()

        @precondition(lambda self: self.end == _RUNNING)
        @rule(fail=st.booleans())
        def finish(self, fail: bool) -> None:
            self.end = "Boom" if fail else "end"
            self.source.put_nowait(Boom() if fail else None)
            self.settle()

        @precondition(lambda self: self.end == _RUNNING)
        @rule()
        def cancel_promise(self) -> None:
            self.stop()
            self.settle()
            self.expect(self.closed, self.wanted, "the source is closed after cancel()")

        def stop(self) -> None:
            """Cancel the promise; from a source on demand, readers then expect only what it has yielded."""
            if not self.closed:
                self.end = "PromiseCancelledError"
            if not self.start_soon:
                self.sent = list(self.taken)
            self.promise.cancel()

        @rule(target=readers)
        def read(self) -> _Reader:
            return self.keep(self.start(self.read_all), awaits=False)

        @rule(pieces=st.integers(1, 3))
        def read_some(self, pieces: int) -> None:
            async def read(seen: list[str]) -> None:
                async for token in self.promise:
                    seen.append(token)
                    if len(seen) == pieces:
                        break

            reader = self.start(read)
            self.expect(reader.seen, self.sent[:pieces], "the tokens of a reader that stopped early")
            reader.task.cancel()  # the reader still waits if there are fewer tokens
            self.settle()

        @rule(target=readers)
        def await_whole(self) -> _Reader:
            return self.keep(self.start(self.await_it), awaits=True)

        @rule(reader=readers)
        def cancel_reader(self, reader: _Reader) -> None:
            reader.task.cancel()
            self.settle()

        @rule()
        def time_out(self) -> None:
            async def main() -> None:
                try:
                    async with asyncio.timeout(0):
                        await self.promise
                except (TimeoutError, Boom, PromiseCancelledError):
                    pass

            self.wanted = True
            self.run(main())
            self.settle()

        def start(self, read: Callable[[list[Any]], Awaitable[object]]) -> _Reader:
            async def main() -> _Reader:
                return _Reader(read)

            self.wanted = True
            reader: _Reader = self.run(main())
            self.settle(_IDLE_STEPS + 2 * len(self.sent))
            return reader

        def keep(self, reader: _Reader, *, awaits: bool) -> _Reader:
            """Check a reader after each rule until the end of the run, or until it is cancelled."""
            self.all.append((reader, awaits))
            return reader

        async def read_all(self, seen: list[str]) -> None:
            async for token in self.promise:
                seen.append(token)

        async def await_it(self, seen: list[str]) -> None:
            seen.append(str((await self.promise).content))

        @invariant()
        def all_readers_see_what_was_sent(self) -> None:
            for reader, awaits in getattr(self, "all", ()):
                if reader.end == "cancelled here":
                    self.expect(
                        bool(reader.task.cancelling()),
                        True,
                        "the machine has cancelled the cancelled reader",
                    )
                    continue
                self.expect(reader.end, self.end, "the end of a reader")
                if not awaits:
                    self.expect(reader.seen, self.sent, "the tokens of a reader")
                elif self.end == "end":
                    self.expect(reader.seen, ["".join(self.sent)], "the message that was awaited")

        def teardown(self) -> None:
            try:
                if hasattr(self, "promise") and not self.has_failed:  # one more reader after the end
                    self.stop()
                    self.read()
                    self.all_readers_see_what_was_sent()
            finally:
                if hasattr(self, "source"):
                    self.source.put_nowait(None)  # for a source that cannot be cancelled
                super().teardown()

    return PromiseMachine


_OUT_OF_ORDER = "out of order"


def _is_out_of_order(message: Any) -> bool:
    """Return True if the message was sent out of order, as its text says."""
    return isinstance(message, str) and message.startswith(_OUT_OF_ORDER)


def sequence_machine(
    make_sequence: Callable[[], MessageSequence] = MessageSequence, *, sent: st.SearchStrategy[Sendable] | None = None
) -> type[RuleBasedStateMachine]:
    """Return a machine that sends values of all kinds while readers start and stop; all must get the same.

    Items sent in order come in that order. Items sent out of order come at once, also while one sent in order before
    them is still to come.

    Args:
        make_sequence: makes the sending end, with `append`, `append_out_of_order`, `open`, `close` and
            `sequence_promise`.
        sent: strategy for sent values.
    """
    items = sendables(max_leaves=5) if sent is None else sent

    class SequenceMachine(_LoopMachine):
        readers = Bundle("readers")

        @initialize()
        def make(self) -> None:
            self.expected: list[Any] = []
            self.early: list[str] = []
            self.pending: list[asyncio.Event] = []
            self.all: list[_Reader] = []
            self.open = True

            async def main() -> None:
                self.sequence = make_sequence().open()

            self.run(main())

        @precondition(lambda self: self.open)
        @rule(item=items)
        def send(self, item: Sendable) -> None:
            async def main() -> None:
                self.sequence.append([iter([item.build()])] if item.kind == "wrong type" else item.build())

            self.expected += item.seen
            self.run(main())
            self.settle()

        @precondition(lambda self: self.open)
        @rule()
        def send_pending(self) -> None:
            release, text = asyncio.Event(), f"in order, pending {len(self.expected)}"

            async def items() -> AsyncIterator[str]:
                await release.wait()
                yield text

            async def main() -> None:
                self.sequence.append(items())

            self.pending.append(release)
            self.expected.append(text)
            self.run(main())
            self.settle()

        @precondition(lambda self: self.pending)
        @rule()
        def release(self) -> None:
            self.pending.pop(0).set()
            self.settle()

        @precondition(lambda self: self.open)
        @rule(form=st.sampled_from(["text", "iterable", "sequence", "list"]))
        def send_out_of_order(self, form: str) -> None:
            text = f"{_OUT_OF_ORDER} {len(self.early)}"

            async def items() -> AsyncIterator[str]:
                yield text

            async def main() -> None:
                forms: dict[str, Callable[[], Any]] = {
                    "text": lambda: text,
                    "iterable": items,
                    "sequence": lambda: MessageSequence.turn_into_sequence_promise([items()]),
                    "list": lambda: [[text]],
                }
                self.sequence.append_out_of_order(forms[form]())

            self.early.append(text)
            self.run(main())
            self.settle(20 * _IDLE_STEPS)
            for reader in self.all:
                if reader.end == _RUNNING:
                    self.expect(text in reader.seen, True, "a reader has seen at once what was sent out of order")

        @precondition(lambda self: self.open)
        @rule()
        def close(self) -> None:
            self.open = False
            self.sequence.close()
            self.settle()

        @rule(target=readers)
        def read(self) -> _Reader:
            async def main() -> _Reader:
                return _Reader(self.read_all)

            reader: _Reader = self.run(main())
            self.all.append(reader)
            self.settle()
            return reader

        @rule(reader=readers)
        def cancel_reader(self, reader: _Reader) -> None:
            reader.task.cancel()
            self.settle()

        async def read_all(self, seen: list[Any]) -> None:
            async for promise in self.sequence.sequence_promise:
                try:
                    seen.append(str(await promise))
                except (Boom, TypeError) as error:
                    seen.append(type(error))

        @invariant()
        def readers_see_nothing_else(self) -> None:
            readers: list[_Reader] = getattr(self, "all", [])
            longest: list[Any] = max((reader.seen for reader in readers), key=len, default=[])
            for reader in readers:
                self.expect(reader.seen, longest[: len(reader.seen)], "the messages of a reader so far")
            in_order = [each for each in longest if not _is_out_of_order(each)]
            self.expect(in_order, self.expected[: len(in_order)], "the messages of a reader so far")

        def teardown(self) -> None:
            try:
                for release in getattr(self, "pending", ()):
                    release.set()
                if hasattr(self, "sequence") and not self.has_failed:  # one more reader after the end
                    self.sequence.close()
                    self.read()
                    self.settle(20 * _IDLE_STEPS)
                    for reader in self.all:
                        if reader.end != "cancelled here":
                            in_order = [each for each in reader.seen if not _is_out_of_order(each)]
                            self.expect(in_order, self.expected, "all messages of a reader")
                            self.expect(
                                len(reader.seen) - len(in_order), len(self.early), "the number of messages out of order"
                            )
            finally:
                super().teardown()

    return SequenceMachine


def history_machine(
    make_history: Callable[[Path], ChatHistory],
    *,
    reopens: bool = True,
    message: st.SearchStrategy[Message] | None = None,
) -> type[RuleBasedStateMachine]:
    """Return a machine that appends messages one by one, as lists, as streams and as failing streams, and loads them.

    Args:
        make_history: makes a history in a folder. A second one in the same folder must load the same messages.
        reopens: False if a second history does not load them, because the history lives in memory.
        message: strategy for messages.
    """
    any_message = messages() if message is None else message
    tokens = st.lists(texts(max_size=2), max_size=3)

    class HistoryMachine(_LoopMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = Path(tempfile.mkdtemp(prefix="history-"))
            self.history = make_history(self.folder)
            self.expected: list[Message] = []

        @rule(message=any_message)
        def append(self, message: Message) -> None:
            self.run(self.history.aappend(message))
            self.expected.append(message)

        @rule(messages=st.lists(any_message, max_size=3))
        def append_several(self, messages: list[Message]) -> None:
            self.run(self.history.aappend(messages))
            self.expected += messages

        @rule(tokens=tokens)
        def append_stream(self, tokens: list[str]) -> None:
            self.run(self.append_tokens(tokens, None))
            self.expected.append(AssistantMessage("".join(tokens)))

        @rule(tokens=tokens)
        def append_failing_stream(self, tokens: list[str]) -> None:
            raised = False
            try:
                self.run(self.append_tokens(tokens, Boom()))
            except Boom:
                raised = True
            self.expect(raised, True, "aappend() raised the error of a failed message")
            if "".join(tokens):
                self.expected.append(AssistantMessage("".join(tokens), interrupted=True))

        async def append_tokens(self, tokens: list[str], error: Exception | None) -> None:
            async def stream(metadata: dict[str, Any]) -> AsyncIterator[str]:
                for token in tokens:
                    await asyncio.sleep(0)
                    yield token
                if error is not None:
                    raise error

            await self.history.aappend(AssistantMessage.promise(message_token_streamer=stream))

        @precondition(lambda self: reopens)
        @rule()
        def reopen(self) -> None:
            self.history = make_history(self.folder)

        @rule()
        def load(self) -> None:
            loaded = self.run(self.history.aload_chat_history())
            self.expect(loaded, tuple(self.expected), "the messages in the history")

        def teardown(self) -> None:
            try:
                if not self.has_failed:
                    self.load()
            finally:
                super().teardown()
                shutil.rmtree(self.folder, ignore_errors=True)

    return HistoryMachine
