"""The machine for promises of messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from miniagents import Message, PromiseCancelledError
from miniagents_testing.strategies._sequences import Boom
from miniagents_testing.strategies._texts import texts
from miniagents_testing.strategies.machines.loop import IDLE_STEPS, RUNS, LoopMachine, Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from miniagents import MessagePromise

__all__ = ["promise_machine"]


def promise_machine(
    make_promise: Callable[..., MessagePromise] = Message.promise, *, text: st.SearchStrategy[str] | None = None
) -> type[RuleBasedStateMachine]:
    """Readers and awaiters come, leave and are cancelled while a message streams, ends, fails or is stopped.

    Args:
        make_promise: makes a promise out of `message_token_streamer=` and `start_soon=`.
        text: the tokens.
    """
    tokens = texts(max_size=2) if text is None else text

    class PromiseMachine(LoopMachine):
        readers = Bundle("readers")

        @initialize(start_soon=st.booleans())
        def make(self, start_soon: bool) -> None:
            self.start_soon = start_soon
            self.wanted = start_soon
            self.sent: list[str] = []
            self.taken: list[str] = []
            self.end = RUNS
            self.closed = False
            self.all: list[tuple[Reader, bool]] = []

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

        @precondition(lambda self: self.end == RUNS)
        @rule(token=tokens)
        def send(self, token: str) -> None:
            self.sent.append(token)
            self.source.put_nowait(token)
            self.settle()

        @precondition(lambda self: self.end == RUNS)
        @rule(fail=st.booleans())
        def finish(self, fail: bool) -> None:
            self.end = "Boom" if fail else "end"
            self.source.put_nowait(Boom() if fail else None)
            self.settle()

        @precondition(lambda self: self.end == RUNS)
        @rule()
        def cancel_promise(self) -> None:
            self.stop()
            self.settle()
            self.expect(self.closed, self.wanted, "whether cancel() closed the source")

        def stop(self) -> None:
            """Cancel the promise. A source that goes on when somebody reads may not have been asked for its end yet."""
            if not self.closed:
                self.end = "PromiseCancelledError"
            if not self.start_soon:
                self.sent = list(self.taken)
            self.promise.cancel()

        @rule(target=readers)
        def read(self) -> Reader:
            return self.stay(self.start(self.read_all), awaits=False)

        @rule(pieces=st.integers(1, 3))
        def read_some(self, pieces: int) -> None:
            async def read(seen: list[str]) -> None:
                async for token in self.promise:
                    seen.append(token)
                    if len(seen) == pieces:
                        break

            reader = self.start(read)
            self.expect(reader.seen, self.sent[:pieces], "what a reader saw that left early")
            reader.task.cancel()  # there may not have been so many yet
            self.settle()

        @rule(target=readers)
        def await_whole(self) -> Reader:
            return self.stay(self.start(self.await_it), awaits=True)

        @rule(reader=readers)
        def cancel_reader(self, reader: Reader) -> None:
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

        def start(self, read: Callable[[list[Any]], Awaitable[object]]) -> Reader:
            async def main() -> Reader:
                return Reader(read)

            self.wanted = True
            reader: Reader = self.run(main())
            self.settle(IDLE_STEPS + 2 * len(self.sent))
            return reader

        def stay(self, reader: Reader, *, awaits: bool) -> Reader:
            """A reader that stays until the end, or until it is cancelled."""
            self.all.append((reader, awaits))
            return reader

        async def read_all(self, seen: list[str]) -> None:
            async for token in self.promise:
                seen.append(token)  # noqa: PERF401 - what came before an error counts

        async def await_it(self, seen: list[str]) -> None:
            seen.append(str((await self.promise).content))

        @invariant()
        def everybody_sees_what_was_sent(self) -> None:
            for reader, awaits in getattr(self, "all", ()):
                if reader.end == "cancelled here":
                    self.expect(
                        bool(reader.task.cancelling()), True, "whether somebody cancelled the reader that was cancelled"
                    )
                    continue
                self.expect(reader.end, self.end, "what became of a reader")
                if not awaits:
                    self.expect(reader.seen, self.sent, "the tokens that a reader saw")
                elif self.end == "end":
                    self.expect(reader.seen, ["".join(self.sent)], "the message that somebody awaited")

        def teardown(self) -> None:
            try:
                if hasattr(self, "promise") and not self.has_failed:  # one more reader, after everything
                    self.stop()
                    self.read()
                    self.everybody_sees_what_was_sent()
            finally:
                if hasattr(self, "source"):
                    self.source.put_nowait(None)  # for a source that cannot be cancelled
                super().teardown()

    return PromiseMachine
