"""Whatever goes wrong between us and a provider, as one of our errors.

Three kinds of things come here: errors of the SDKs (before the response), errors of the HTTP library (while its body
is read), and errors of the sessions, which are ours already. The SDKs and the HTTP library are known by the names of
their classes, so that none of them is imported here.

When a request is sent again, and after how long. The only place that decides it: the SDKs' own retries are off.
"""

from __future__ import annotations

import email.utils
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miniagents.errors import (
    ConnectionFailedError,
    LLMError,
    MissingAPIKeyError,
    StreamBrokenError,
    StreamDecodeError,
    StreamStalledError,
)
from miniagents.ext.llm._sessions.base import error_from_payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniagents.ext.llm._redaction import Redactor


_LIBRARIES = frozenset({"httpx2", "httpx", "httpcore2", "httpcore", "anyio", "aiohttp", "ssl", "socket"})
_EXCERPT = 500


def as_llm_error(error: BaseException, *, provider: str, redactor: Redactor, responded: bool) -> LLMError | None:
    """Our error for another one, with no key in it or in its causes; None for what is neither provider nor network.

    Args:
        error: what was raised.
        provider: "openai" or "anthropic".
        redactor: knows the secrets of the request.
        responded: whether there was a response already.

    Raises:
        Exception: what an SDK has wrapped as a connection error although it is none, such as a bug in a transport.
    """
    ours = error if isinstance(error, LLMError) else _from_sdk(error, provider)
    ours = ours or _from_library(error, provider, responded)
    if ours is None:
        return None
    if ours is not error:
        ours.__cause__ = error
    ours.provider = ours.provider or provider
    redactor.exception(ours)
    return ours


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _from_sdk(error: BaseException, provider: str) -> LLMError | None:
    package = next((kind.__module__.partition(".")[0] for kind in type(error).__mro__[:-3]), "")
    names = _names(error)
    if "APIStatusError" in names:
        return _from_status(error, provider)
    if "APIConnectionError" in names:
        return _from_connection(error, provider)
    if "APIError" in names and package in ("openai", "anthropic"):  # an error event in a stream that the SDK decoded
        return error_from_payload(
            getattr(error, "body", None) or {"message": str(error)}, provider=provider, status=200
        )
    if isinstance(error, TypeError) and "authentication method" in str(error):  # anthropic, at the first request
        return MissingAPIKeyError(
            "no API key: set the environment variable ANTHROPIC_API_KEY, or give a client with `async_client=`",
            provider=provider,
        )
    return None


def _from_status(error: Any, provider: str) -> LLMError:
    status, body = error.status_code, error.body
    if 300 <= status < 400:  # from a client that follows no redirects
        place = error.response.headers.get("location", "nowhere").partition("?")[0]
        body = {"message": f"the request was redirected to {place}: set the client's base_url to where the API is"}
    elif not isinstance(body, dict):
        text = str(body or getattr(error, "message", "") or "").strip()
        body = {"message": text[:_EXCERPT] + ("..." if len(text) > _EXCERPT else "") or "no explanation"}
    ours = error_from_payload(body, provider=provider, status=status)
    ours.args = (f"status {status}: {ours}",)
    wish = should_retry(error.response.headers)
    if wish is not None:
        ours.retryable = wish
    ours.retry_after = requested_wait(error.response.headers)
    return ours


def _from_connection(error: BaseException, provider: str) -> LLMError:
    cause = error.__cause__
    if cause is not None and not _is_network(cause):
        raise cause  # some SDKs wrap whatever a transport raises, bugs too
    timed_out = "APITimeoutError" in _names(error)
    what = "timed out before the response began" if timed_out else f"failed before the response began: {cause or error}"
    return ConnectionFailedError(f"the request to {provider} {what}", provider=provider)


def _from_library(error: BaseException, provider: str, responded: bool) -> LLMError | None:
    if not _is_network(error):
        return None
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if not responded:
        return ConnectionFailedError(f"the request to {provider} failed: {what}", provider=provider)
    names = _names(error)
    if "TimeoutException" in names or isinstance(error, TimeoutError):
        return StreamStalledError(f"{provider} sent nothing for too long ({what})", provider=provider)
    if "DecodingError" in names:
        return StreamDecodeError(f"the response of {provider} cannot be decoded ({what})", provider=provider)
    return StreamBrokenError(
        f"the connection to {provider} broke in the middle of the response ({what})", provider=provider
    )


def _is_network(error: BaseException) -> bool:
    return isinstance(error, OSError | EOFError) or any(
        kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__
    )


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


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """What `x-should-retry` says, which both providers send where they know better than the status."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
