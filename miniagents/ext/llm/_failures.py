"""Failures of requests: their translation into `LLMError`, and the policy for sending a request again.

`as_llm_error` translates errors of the SDKs (before the response) and of the HTTP library (while its body is read).
Errors of the sessions are `LLMError` already. SDKs and HTTP libraries are recognised by the names of their classes, so
this module imports none of them.

`Retry` decides alone when a request is sent again: the retries of the SDKs are switched off.
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
    describe_error,
    names_its_arguments,
)
from miniagents.ext.llm._sessions.base import error_from_payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniagents.ext.llm._redaction import Redactor


_LIBRARIES = frozenset({"httpx2", "httpx", "httpcore2", "httpcore", "anyio", "aiohttp", "ssl", "socket"})
"""Packages whose exceptions are failures of the network."""
_RECORDED_WAIT = "miniagents_retry_after"
"""Extension of a response from a cassette: the recorded headers, where its own headers ask for a wait of 1 ms."""
_EXCERPT = 500
"""Characters of an error response without JSON that the error text quotes."""


def as_llm_error(error: BaseException, *, provider: str, redactor: Redactor, responded: bool) -> LLMError | None:
    """Translate an error into an `LLMError`; return None if neither the provider nor the network caused the error.

    Secrets are removed from the error and from the errors that caused it.

    Args:
        error: the error that was raised; it becomes the cause of the `LLMError`.
        provider: "openai" or "anthropic".
        redactor: redactor that knows the secrets of the request.
        responded: True if the provider's response had begun.

    Raises:
        Exception: an exception that an SDK wrapped as a connection error although it is another failure, such as a bug
            in a transport.
    """
    failure = error if isinstance(error, LLMError) else _from_sdk(error, provider)
    failure = failure or _from_library(error, provider, responded)
    if failure is None:
        return None
    if failure is not error:
        failure.__cause__ = error
    failure.provider = failure.provider or provider
    redactor.redact_exception(failure)
    return failure


def _class_names(error: BaseException) -> set[str]:
    """Return the names of the classes that the error is an instance of."""
    return {kind.__name__ for kind in type(error).__mro__}


def _from_sdk(error: BaseException, provider: str) -> LLMError | None:
    """Translate an SDK's error of a status, a connection, a stream or a missing key; return None for other errors.

    Raise the cause of a connection error that is no error of the network.
    """
    package = next((kind.__module__.partition(".")[0] for kind in type(error).__mro__[:-3]), "")
    names = _class_names(error)
    if "APIStatusError" in names:
        return _from_status(error, provider)
    if "APIConnectionError" in names:
        return _from_connection(error, provider)
    if "APIError" in names and package in ("openai", "anthropic"):  # an error event in a stream that the SDK decoded
        return error_from_payload(
            getattr(error, "body", None) or {"message": str(error)}, provider=provider, status=200
        )
    if isinstance(error, TypeError) and "authentication method" in str(error):  # of Anthropic's SDK without a key
        return MissingAPIKeyError(
            "no API key: set the environment variable ANTHROPIC_API_KEY, or give a client with `async_client=`",
            provider=provider,
        )
    return None


def _from_status(error: Any, provider: str) -> LLMError:
    """Translate an SDK's error for an error status, with the waits and retries that the response asks for.

    The error for a redirection names the address, and asks to set `base_url`.
    """
    status, body = error.status_code, error.body
    if 300 <= status < 400:  # from a client that follows no redirects
        place = error.response.headers.get("location", "nowhere").partition("?")[0]
        body = {"message": f"the request was redirected to {place}: set the client's base_url to where the API is"}
    elif not isinstance(body, dict):
        text = str(body or getattr(error, "message", "") or "").strip()
        body = {"message": text[:_EXCERPT] + ("..." if len(text) > _EXCERPT else "") or "no explanation"}
    failure = error_from_payload(body, provider=provider, status=status)
    advice = f". Check the environment variable {provider.upper()}_API_KEY, or the client that `async_client=` gives"
    failure.args = (f"status {status}: {failure}{advice if status == 401 else ''}",)
    retryable = should_retry(error.response.headers)
    if retryable is not None:
        failure.retryable = retryable
    recorded = getattr(error.response, "extensions", {}).get(_RECORDED_WAIT)
    failure.retry_after = requested_wait(error.response.headers if recorded is None else recorded)
    return failure


def _from_connection(error: BaseException, provider: str) -> LLMError:
    """Translate an SDK's connection error; raise its cause instead if that is no error of the network."""
    cause = error.__cause__
    if cause is not None and not _is_network_error(cause):
        raise cause  # some SDKs wrap all exceptions of a transport, even those of bugs
    timed_out = "APITimeoutError" in _class_names(error)
    description = (
        "timed out before the response began" if timed_out else f"failed before the response began: {cause or error}"
    )
    return ConnectionFailedError(f"the request to {provider} {description}", provider=provider)


def _from_library(error: BaseException, provider: str, responded: bool) -> LLMError | None:
    """Translate an error of the HTTP library or the network; return None for other errors.

    The error is a failed connection, or, if the response had begun (`responded`), a stalled, undecodable or broken
    stream. `provider` is for the message.
    """
    description = describe_error(error)
    if isinstance(error, UnicodeError) and not isinstance(error, UnicodeEncodeError) and not responded:
        return StreamDecodeError(
            f"{provider} answered with an error status, and a text that is not in the charset of its headers "
            f"({description})",
            provider=provider,
        )
    if not _is_network_error(error):
        return None
    if not responded:
        return ConnectionFailedError(f"the request to {provider} failed: {description}", provider=provider)
    names = _class_names(error)
    if "TimeoutException" in names or isinstance(error, TimeoutError):
        return StreamStalledError(f"{provider} sent nothing for too long ({description})", provider=provider)
    if "DecodingError" in names:
        return StreamDecodeError(f"the response of {provider} cannot be decoded ({description})", provider=provider)
    return StreamBrokenError(
        f"the connection to {provider} broke in the middle of the response ({description})", provider=provider
    )


def _is_network_error(error: BaseException) -> bool:
    """Return True if the error is an `OSError` or `EOFError`, or is of a network library's class; ignore its causes."""
    return isinstance(error, OSError | EOFError) or any(
        kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__
    )


@names_its_arguments
@dataclass(frozen=True, slots=True)
class Retry:
    """Policy for sending a failed request again.

    A request is sent again only if its failure is retryable and no text of its answer was delivered, because text that
    a reader has seen cannot be taken back. If the provider asks for a wait, that wait is kept, up to `wait_cap`.
    Otherwise the first wait is `first_wait` seconds, and each further wait is twice as long, up to `max_wait`. Up to
    a quarter of such a wait is subtracted at random, so that agents which failed together do not retry together.

    Raises:
        ValueError: `attempts` is less than 1, or a time is negative or not a number.
    """

    attempts: int = 3
    """Highest number of requests, including the first one."""
    time_budget: float = 120.0
    """Seconds after the start of the first attempt; the request is given up if the next wait would end later."""
    wait_cap: float = 60.0
    """Longest wait in seconds, even if the provider asks for a longer one."""
    first_wait: float = 0.5
    """Wait in seconds before the second attempt, if the provider does not ask for a certain wait."""
    max_wait: float = 8.0
    """Longest wait in seconds that the doubling of waits can reach."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts!r}")
        for name in ("time_budget", "wait_cap", "first_wait", "max_wait"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be a number of seconds, not {getattr(self, name)!r}")

    def wait(self, error: LLMError, attempt: int, elapsed: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None if the request is given up.

        Args:
            error: the failure of the last attempt.
            attempt: the number of the last attempt, from 1.
            elapsed: seconds since the first attempt began.
        """
        if not error.retryable or error.delivered_any or attempt >= self.attempts:
            return None
        asked = _wait_to_keep(error)
        if asked is not None:
            wait = min(asked, self.wait_cap)
        else:
            # jitter, so that agents which failed together do not retry together
            wait = min(self.first_wait * 2.0 ** min(attempt - 1, 60), self.max_wait) * (1 - random.random() / 4)
            wait = min(wait, self.wait_cap)
        return wait if elapsed + wait <= self.time_budget else None


NO_RETRY = Retry(attempts=1)


def _wait_to_keep(error: LLMError) -> float | None:
    """Return the seconds that the response to the last attempt asks to wait; None if it asks for no wait.

    `error.retry_after` is what the provider asked for. Only the response of a cassette may ask for less.
    """
    response = getattr(error.__cause__, "response", None)
    if _RECORDED_WAIT in getattr(response, "extensions", {}):
        return requested_wait(response.headers)  # type: ignore[union-attr]  # it has extensions, so it is a response
    return error.retry_after


def requested_wait(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds that the provider asks to wait, None if it asks for no wait.

    The header `retry-after-ms` goes before `retry-after`, which holds seconds or an HTTP date. Values without a meaning
    (nan, infinite, negative, in the past, not a number) count as absent.

    Args:
        headers: the headers of the response, looked up in lower case.
        now: the current time in seconds since the epoch, to which dates are compared; by default, the clock is asked.
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
    """Return the value of the header `x-should-retry`, None if it is absent or neither true nor false.

    Both providers send this header where the status alone would be misleading.
    """
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _number(value: str | None) -> float | None:
    """Parse a finite number that is not negative; return None for other texts, and for None."""
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
