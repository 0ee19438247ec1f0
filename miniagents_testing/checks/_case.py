"""How checks say what they found. They use neither pytest nor bare asserts: they run anywhere, even under -O."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

from miniagents_testing.errors import CheckFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


DEFAULT_TIMEOUT = 10.0
"""Seconds of the loop's clock after which something that a check waits for is taken to never come."""
SHOWN = 300
"""Characters of a value in a message."""


class Case:
    """One thing that a check tries, and how to try it again.

    Args:
        again: the call of the check that tries just this.
    """

    def __init__(self, again: str) -> None:
        self.again = again

    def fail(self, what: str, *, expected: str, came: str, cause: BaseException | None = None) -> NoReturn:
        """Raise `CheckFailedError`.

        Args:
            what: what is wrong, in a sentence.
            expected: what should have come.
            came: what did.
            cause: the error that came, if one did.
        """
        check = self.again.removeprefix("await ").partition("(")[0]
        raise CheckFailedError(
            f"{check}: {what}\n  expected: {expected}\n  came:     {came}\n  again:    {self.again}"
        ) from cause

    def equal(self, came: object, expected: object, what: str) -> None:
        """Fail unless the two are equal."""
        if came != expected:
            start = _first_difference(str(came), str(expected)) if isinstance(came, str) else 0
            self.fail(what, expected=_shown(expected, start), came=_shown(came, start))

    def true(self, holds: bool, what: str, *, expected: str, came: str) -> None:
        """Fail unless something holds."""
        if not holds:
            self.fail(what, expected=expected, came=came)

    @asynccontextmanager
    async def no_error(self, what: str, *, timeout: float = DEFAULT_TIMEOUT) -> AsyncIterator[None]:
        """Fail if an error comes out of the block, or nothing for too long.

        Args:
            what: what is wrong then.
            timeout: seconds.
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
                raise  # somebody cancels the check itself
            self.fail(what, expected="no error", came="CancelledError, although nobody cancelled this", cause=error)
        except Exception as error:
            self.fail(what, expected="no error", came=f"{type(error).__name__}: {error}".rstrip(": "), cause=error)


def _first_difference(one: str, other: str) -> int:
    same = zip(one, other, strict=False)
    return next((place for place, (mine, theirs) in enumerate(same) if mine != theirs), min(len(one), len(other)))


def _shown(value: object, start: int) -> str:
    """The repr of a value, of long texts the part where they begin to differ."""
    if isinstance(value, str) and start > SHOWN // 2:
        return f"...{_shown(value[start - SHOWN // 4 :], 0)}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
