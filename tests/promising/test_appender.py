"""Streams that are filled by hand (laws 16-18)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miniagents._promising.context import PromisingContext
from miniagents._promising.streamed import StreamAppender, StreamedPromise
from miniagents.errors import AppenderClosedError, FreezeError, PromiseCancelledError
from miniagents.messages import MessageSequence

APPENDERS = [StreamAppender[Any], MessageSequence]


async def pieces_and_error(promise: StreamedPromise[Any, Any]) -> tuple[list[Any], BaseException | None]:
    """Return the pieces that a reader gets, and the error at their end."""
    seen: list[Any] = []
    try:
        async for piece in promise:
            seen.append(piece)
    except Exception as error:
        return seen, error
    return seen, None


@pytest.mark.parametrize("make", APPENDERS)
async def test_append_is_refused_when_the_appender_is_not_open(make: Any) -> None:
    """`append` before `open` or after `close` raises an error that names the state; other pieces arrive."""
    appender = make()
    with pytest.raises(AppenderClosedError, match="not open yet"):
        appender.append("early")
    with appender:
        appender.append("in time")
    with pytest.raises(AppenderClosedError, match="has been closed"):
        appender.append("late")
    assert len(await appender.promise) == 1


@pytest.mark.parametrize("make", APPENDERS)
async def test_appender_can_be_closed_twice_and_opened_once(make: Any) -> None:
    """A second `close` does nothing, and `open` raises an error for an appender that was opened or closed before."""
    appender = make().open()
    appender.close()
    appender.close()
    unused = make()
    unused.close()
    opened = make().open()
    for each in (appender, unused, opened):
        with pytest.raises(AppenderClosedError, match="make a new one"):
            each.open()
    assert await unused.promise == ()


async def test_captured_error_ends_the_stream() -> None:
    """With `capture_errors=True`, an error leaves the block silently, and each reader gets it after the pieces."""
    async with PromisingContext():
        error = ValueError("broken")
        with StreamAppender[str](capture_errors=True) as appender:
            appender.append("piece")
            raise error
        assert await pieces_and_error(appender.promise) == (["piece"], error)
        assert await pieces_and_error(appender.promise) == (["piece"], error)


async def test_uncaptured_error_ends_the_stream_and_is_raised() -> None:
    """Without `capture_errors`, an error ends the stream and is raised from the block, so it counts as observed."""
    async with PromisingContext():
        appender = StreamAppender[str]()
        with pytest.raises(ValueError, match="broken"), appender:
            raise ValueError("broken")
        sequence = MessageSequence()
        with pytest.raises(ValueError, match="broken"), sequence:
            raise ValueError("broken")
    assert isinstance((await pieces_and_error(appender.promise))[1], ValueError)
    with pytest.raises(ValueError, match="broken"):
        await sequence.promise


@pytest.mark.parametrize("make", APPENDERS)
async def test_captured_error_is_reported_when_no_reader_gets_it(make: Any) -> None:
    """A captured error that no reader got is raised by the context when the context is left."""
    with pytest.raises(ExceptionGroup) as caught:
        async with PromisingContext():
            with make(capture_errors=True):
                raise ValueError("broken")
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


@pytest.mark.parametrize("make", APPENDERS)
async def test_error_after_close_is_raised(make: Any) -> None:
    """An error in the block after `close` is raised from the block, even with `capture_errors=True`."""
    with pytest.raises(ValueError, match="broken"), make(capture_errors=True) as appender:
        appender.append("piece")
        appender.close()
        raise ValueError("broken")
    assert len(await appender.promise) == 1


@pytest.mark.parametrize("make", APPENDERS)
@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_interrupts_and_cancellations_are_raised_always(make: Any, signal: type[BaseException]) -> None:
    """Interrupts, exits and cancellations leave the block as they are, and the stream ends as cancelled."""
    async with PromisingContext():
        appender = make(capture_errors=True)
        with pytest.raises(signal), appender:
            appender.append("piece")
            raise signal
        with pytest.raises(PromiseCancelledError):
            await appender.promise


async def test_C27_piece_is_frozen_when_it_is_appended() -> None:
    """Changes to a list or dict after it was appended do not show in the stream."""
    numbers, fields = [1, 2], {"a": [1]}
    with StreamAppender[Any]() as appender:
        appender.append(numbers).append(fields)
        numbers.append(3)
        fields["a"].append(2)
    assert await appender.promise == ((1, 2), {"a": (1,)})


async def test_message_of_a_dict_keeps_its_fields_when_the_dict_changes() -> None:
    """A dict that is sent becomes a message at once, so later changes of the dict do not show."""
    fields: dict[str, Any] = {"content": "hi", "tags": ["a"]}
    with MessageSequence() as sequence:
        sequence.append([fields])
        fields["tags"].append("b")
        fields["content"] = "bye"
    (message,) = await sequence.promise
    assert (message.content, message.tags) == ("hi", ("a",))


async def test_append_refuses_a_piece_that_cannot_be_frozen() -> None:
    """`append` of a value that cannot be made immutable raises `FreezeError`, and the stream goes on without it."""
    with StreamAppender[Any]() as appender:
        with pytest.raises(FreezeError, match="piece"):
            appender.append([object()])
        appender.append("fine")
    assert await appender.promise == ("fine",)
    assert issubclass(FreezeError, TypeError)


async def test_readers_get_pieces_while_the_appender_is_open() -> None:
    """A reader gets each piece some loop steps after it was appended, and the end after `close`."""
    async with PromisingContext():
        appender = StreamAppender[int]().open()
        seen: list[int] = []

        async def read() -> None:
            async for piece in appender.promise:
                seen.append(piece)

        reader = asyncio.create_task(read())
        for number in range(3):
            appender.append(number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert seen == list(range(number + 1))
        appender.close()
        await reader
