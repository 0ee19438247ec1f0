"""Comparisons and failure messages of checks, without pytest and bare asserts, so that they also work under `-O`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

from miniagents_testing.errors import CheckFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


DEFAULT_TIMEOUT = 10.0
"""Seconds of the loop's clock after which a check gives up waiting."""
_MAX_SHOWN = 300
"""Maximum number of characters of a value in a message."""


class Case:
    """One case that a check tries.

    Args:
        again: source code of the call that repeats this case alone.
    """

    def __init__(self, again: str) -> None:
        self.again = again

    def fail(self, what: str, *, expected: str, came: str, cause: BaseException | None = None) -> NoReturn:
        """Raise `CheckFailedError`.

        Args:
            what: the problem, in one sentence.
            expected: the expected result, in words.
            came: the actual result, in words.
            cause: the error that the case raised, if any.
        """
        check = self.again.removeprefix("await ").partition("(")[0]
        raise CheckFailedError(
            f"{check}: {what}\n  expected: {expected}\n  came:     {came}\n  again:    {self.again}"
        ) from cause

    def equal(self, came: object, expected: object, what: str) -> None:
        """Raise `CheckFailedError` with the problem `what` unless both values are equal."""
        if came != expected:
            start = _first_difference(str(came), str(expected)) if isinstance(came, str) else 0
            self.fail(what, expected=_short_repr(expected, start), came=_short_repr(came, start))

    def true(self, holds: bool, what: str, *, expected: str, came: str) -> None:
        """Raise `CheckFailedError` with the problem `what` unless `holds` is True."""
        if not holds:
            self.fail(what, expected=expected, came=came)

    @asynccontextmanager
    async def no_error(self, what: str, *, timeout: float = DEFAULT_TIMEOUT) -> AsyncIterator[None]:
        """Fail the case if the block raises an error or a cancellation of its own, or takes too long.

        A `CheckFailedError`, and the cancellation of the check itself, pass unchanged.

        Args:
            what: the problem in this case, or the action that failed.
            timeout: seconds that the block may take.
        """
        try:
            async with asyncio.timeout(timeout):
                yield
        except CheckFailedError:
            raise
        except TimeoutError as error:
            self.fail(what, expected="an end", came=f"nothing for {timeout:g} seconds", cause=error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the check itself is cancelled
            self.fail(
                what, expected="no error", came="CancelledError, although the check was not cancelled", cause=error
            )
        except Exception as error:
            self.fail(what, expected="no error", came=f"{type(error).__name__}: {error}".rstrip(": "), cause=error)


def _first_difference(one: str, other: str) -> int:
    """Return the index at which two texts begin to differ; the length of the shorter one if it begins the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def _short_repr(value: object, start: int) -> str:
    """Return the repr of a value, cut with "..." if it is long; of a long text, the part around index `start`."""
    if isinstance(value, str) and start > _MAX_SHOWN // 2:
        return f"...{_short_repr(value[start - _MAX_SHOWN // 4 :], 0)}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
