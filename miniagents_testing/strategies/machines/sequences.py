"""The machine for sequences of messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from miniagents import MessageSequence
from miniagents_testing.strategies._sequences import Boom, Sendable, sendables
from miniagents_testing.strategies.machines.loop import IDLE_STEPS, LoopMachine, Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis import strategies as st

__all__ = ["sequence_machine"]


def sequence_machine(
    make_sequence: Callable[[], MessageSequence] = MessageSequence, *, sent: st.SearchStrategy[Sendable] | None = None
) -> type[RuleBasedStateMachine]:
    """Whatever can be sent is sent while readers come and go; all of them see the same, in the order of sending.

    Args:
        make_sequence: makes the sending end, with `append`, `open`, `close` and `sequence_promise`.
        sent: what is sent.
    """
    items = sendables(max_leaves=5) if sent is None else sent

    class SequenceMachine(LoopMachine):
        readers = Bundle("readers")

        @initialize()
        def make(self) -> None:
            self.expected: list[Any] = []
            self.all: list[Reader] = []
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
        def close(self) -> None:
            self.open = False
            self.sequence.close()
            self.settle()

        @rule(target=readers)
        def read(self) -> Reader:
            async def main() -> Reader:
                return Reader(self.read_all)

            reader: Reader = self.run(main())
            self.all.append(reader)
            self.settle()
            return reader

        @rule(reader=readers)
        def cancel_reader(self, reader: Reader) -> None:
            reader.task.cancel()
            self.settle()

        async def read_all(self, seen: list[Any]) -> None:
            async for promise in self.sequence.sequence_promise:
                try:
                    seen.append(str(await promise))
                except (Boom, TypeError) as error:
                    seen.append(type(error))

        @invariant()
        def nobody_sees_anything_else(self) -> None:
            for reader in getattr(self, "all", ()):
                self.expect(reader.seen, self.expected[: len(reader.seen)], "what a reader saw so far")

        def teardown(self) -> None:
            try:
                if hasattr(self, "sequence") and not self.has_failed:  # one more reader, after everything
                    self.sequence.close()
                    self.read()
                    self.settle(20 * IDLE_STEPS)
                    for reader in self.all:
                        if reader.end != "cancelled here":
                            self.expect(reader.seen, self.expected, "all that a reader saw")
            finally:
                super().teardown()

    return SequenceMachine
