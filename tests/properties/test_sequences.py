"""Laws 19 to 23 as properties: readers get nested items in the order of the plain list `Sendable.seen`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import MessageSequence, MiniAgents
from miniagents_testing import strategies
from miniagents_testing.strategies import Boom, Sendable

if TYPE_CHECKING:
    from miniagents import MessageSequencePromise

LISTS = st.lists(strategies.sendables(max_leaves=4), max_size=2).map(lambda items: Sendable("list", tuple(items)))


async def read(sequence: MessageSequencePromise, *, by_token: bool) -> list[Any]:
    """Return the texts that a reader gets, and the classes of errors in their places."""
    result: list[Any] = []
    async for promise in sequence:
        try:
            if by_token:
                result.append("".join([token async for token in promise]))
            else:
                result.append(str(await promise))
        except (Boom, TypeError) as error:
            result.append(type(error))
    return result


@given(LISTS, st.booleans())
async def test_nested_items_are_read_flat_in_order(items: Sendable, start_soon: bool) -> None:
    """Readers by message and by token get any nested items flat and in order; an await raises the first error."""
    async with MiniAgents(start_everything_soon_by_default=start_soon, unobserved_errors="log"):
        sequence = MessageSequence.turn_into_sequence_promise(items.build())
        expected = list(items.seen)
        readers = [read(sequence, by_token=by_token) for by_token in (False, True)]
        assert await asyncio.gather(*readers) == [expected, expected]
        assert await read(sequence, by_token=True) == expected
        errors = [each for each in expected if not isinstance(each, str)]
        if errors:
            with pytest.raises(errors[0]):
                await sequence
        else:
            assert [str(message) for message in await sequence] == expected


@given(LISTS)
async def test_items_sent_out_of_order_all_arrive_once(items: Sendable) -> None:
    """Readers get all items sent out of order, each once and in some order, and the sender's error last."""
    async with MiniAgents(unobserved_errors="log"):
        with MessageSequence(capture_errors=True) as sequence:
            for item in items.build():
                sequence.append_out_of_order(item)
            raise Boom
        result = await read(sequence.sequence_promise, by_token=False)
        assert sorted(map(str, result)) == sorted(map(str, [*items.seen, Boom]))
        assert result[-1] is Boom


IN_ORDER = strategies.sendables(text=st.text("abc", min_size=1, max_size=2), errors=False, max_leaves=4)
OUT_OF_ORDER = strategies.sendables(text=st.text("xyz", min_size=1, max_size=2), errors=False, max_leaves=4)


@given(st.lists(st.tuples(st.booleans(), IN_ORDER, OUT_OF_ORDER, st.integers(0, 3)), max_size=6), st.booleans())
async def test_items_sent_in_order_keep_it_among_those_sent_out_of_order(
    sent: list[tuple[bool, Sendable, Sendable, int]], start_soon: bool
) -> None:
    """All readers get the same order, in which items sent in order keep it among items sent out of order."""
    async with MiniAgents(start_everything_soon_by_default=start_soon):
        sequence = MessageSequence().open()
        outer = MessageSequence.turn_into_sequence_promise([sequence.sequence_promise])
        early = asyncio.create_task(read(sequence.sequence_promise, by_token=True))
        readers = [early]
        for out_of_order, in_order_item, out_of_order_item, steps in sent:
            if out_of_order:
                sequence.append_out_of_order(out_of_order_item.build())
            else:
                sequence.append(in_order_item.build())
            for _ in range(steps):
                await asyncio.sleep(0)
            readers.append(asyncio.create_task(read(outer, by_token=False)))
        sequence.close()
        expected = await early
        for reader in readers:
            assert await reader == expected
        assert await read(outer, by_token=True) == expected
        assert [str(message) for message in await outer] == expected
        in_order = [text for out_of_order, item, _, _ in sent if not out_of_order for text in item.seen]
        the_others = [text for out_of_order, _, item, _ in sent if out_of_order for text in item.seen]
        assert [text for text in expected if set(text) <= set("abc")] == in_order
        assert sorted(text for text in expected if set(text) <= set("xyz")) == sorted(map(str, the_others))
