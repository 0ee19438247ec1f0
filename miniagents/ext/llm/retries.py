"""When a request is sent again, and after how long. The only place that decides it: the SDKs' own retries are off."""

from __future__ import annotations

import email.utils
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniagents.errors import LLMError

__all__ = ["NO_RETRY", "Retry", "requested_wait", "retry_wish"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how patiently.

    A request is only ever repeated while no part of its answer was delivered, because what a reader has seen cannot
    be taken back.
    """

    attempts: int = 3
    """Requests at most, the first one included."""
    time_budget: float = 120.0
    """Seconds from the first request, within which a wait must end."""
    wait_cap: float = 60.0
    """Seconds to wait at most, also where the provider asks for more."""
    first_wait: float = 0.5
    """Seconds before the second attempt, where the provider does not say how long; doubles each time."""
    max_wait: float = 8.0
    """Seconds up to which that doubles."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts!r}")
        for name in ("time_budget", "wait_cap", "first_wait", "max_wait"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be a number of seconds, not {getattr(self, name)!r}")

    def wait(self, error: LLMError, attempt: int, elapsed: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        Args:
            error: what became of this attempt.
            attempt: its number, from 1.
            elapsed: seconds since the first attempt began.
        """
        if not error.retryable or error.delivered_any or attempt >= self.attempts:
            return None
        if error.retry_after is not None:
            wait = min(error.retry_after, self.wait_cap)
        else:
            # jitter, so that agents which failed together do not come back together
            wait = min(self.first_wait * 2.0 ** min(attempt - 1, 60), self.max_wait) * (1 - random.random() / 4)
            wait = min(wait, self.wait_cap)
        return wait if elapsed + wait <= self.time_budget else None


NO_RETRY = Retry(attempts=1)


def requested_wait(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds the provider asks to wait: `retry-after-ms`, else `retry-after` in seconds or as an HTTP date.

    Values that say nothing (nan, infinite, negative, in the past, not a number) count as absent.

    Args:
        headers: of the response; looked up in lower case.
        now: seconds since the epoch, for dates; by default the clock's.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    wait = moment - (time.time() if now is None else now)
    return wait if wait >= 0 else None


def retry_wish(headers: Mapping[str, str]) -> bool | None:
    """What `x-should-retry` says, which both providers send where they know better than the status."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
