"""Every error MiniAgents raises on its own account.

```
Exception
├── StopDialog                      a signal, not a failure: ends a loop in an orderly way
└── MiniAgentsError                 .partial: what had arrived before it
    ├── PromiseCancelledError       the promise was cancelled, or nobody could read it any more
    ├── DeadlockError               a ring of waits that could never end
    ├── NoActiveContextError        (RuntimeError) something needs `async with MiniAgents()`
    ├── AppenderClosedError         (RuntimeError) appended before `open` or after `close`
    ├── CopyError               (TypeError) a copy or a pickle of something that belongs to a run
    ├── CyclicValueError            (ValueError) a container that contains itself
    ├── FreezeError                 (TypeError) a value that cannot be made immutable
    ├── MissingExtraError           (ImportError) an optional package is not installed
    ├── HistoryError                a chat history on disk cannot be read or written
    │   ├── HistoryFormatError
    │   └── HistoryWriteError
    └── LLMError                    .retryable .delivered_any .provider .status
        ├── StreamError             the answer began, and did not come to its end
        │   ├── StreamTruncatedError
        │   ├── EmptyStreamError
        │   ├── StreamBrokenError
        │   ├── StreamStalledError
        │   ├── StreamDecodeError
        │   └── StreamProtocolError
        │       └── EventTooLargeError
        ├── ProviderError           the provider itself reports a failure
        │   ├── ProviderOverloadedError
        │   └── RateLimitedError
        ├── ConnectionFailedError   no response at all
        ├── AuthenticationFailedError
        │   └── MissingAPIKeyError
        └── RequestRejectedError    the provider will not answer this request, however often it is sent
```
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AppenderClosedError",
    "AuthenticationFailedError",
    "ConnectionFailedError",
    "CopyError",
    "CyclicValueError",
    "DeadlockError",
    "EmptyStreamError",
    "EventTooLargeError",
    "FreezeError",
    "HistoryError",
    "HistoryFormatError",
    "HistoryWriteError",
    "LLMError",
    "MiniAgentsError",
    "MissingAPIKeyError",
    "MissingExtraError",
    "NoActiveContextError",
    "PromiseCancelledError",
    "ProviderError",
    "ProviderOverloadedError",
    "RateLimitedError",
    "RequestRejectedError",
    "StopDialog",
    "StreamBrokenError",
    "StreamDecodeError",
    "StreamError",
    "StreamProtocolError",
    "StreamStalledError",
    "StreamTruncatedError",
]


INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
"""Exceptions that end tasks and programs and never travel through promises. Every other one is a failure, also where it
derives from `BaseException`, as pytest's `fail` and `skip` do."""


def is_failure(error: BaseException | None) -> TypeGuard[BaseException]:
    """Whether this is an error that its readers get, and not one of `INTERRUPTS`."""
    return error is not None and not isinstance(error, INTERRUPTS)


class StopDialog(Exception):  # noqa: N818 - a signal that passes through, not an error to handle
    """Raised by an agent to end the loop it takes part in; the loop returns instead of failing."""


class MiniAgentsError(Exception):
    """Base of all our errors."""

    partial: Any = None
    """A frozen message of the promised class with what had arrived, or None where nothing streams."""


class PromiseCancelledError(MiniAgentsError):
    """The source of this promise was stopped for good: by `cancel()`, or by leaving the run context with an error.

    An ordinary exception, unlike `asyncio.CancelledError`: the reader that gets it was not cancelled itself.
    """


class DeadlockError(MiniAgentsError):
    """Tasks wait for each other in a ring that no other task can end; the message names them in order."""


class NoActiveContextError(MiniAgentsError, RuntimeError):
    """What was asked for needs a running context: `MiniAgents().run(...)` or `async with MiniAgents():`."""


class AppenderClosedError(MiniAgentsError, RuntimeError):
    """An appender accepts pieces only between `open` (or `with`) and `close`, and opens once."""


class CopyError(MiniAgentsError, TypeError):
    """A promise, or what makes or fills one, can be neither copied nor pickled; what it resolves to can."""


class CyclicValueError(MiniAgentsError, ValueError):
    """A list, tuple or dict that contains itself cannot be sent or frozen."""


class FreezeError(MiniAgentsError, TypeError):
    """A value of this type cannot be made immutable; the message names the field that holds it."""


class MissingExtraError(MiniAgentsError, ImportError):
    """An optional dependency is missing; the message has the pip command that installs it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The error for `package`, which the extra `extra` of this distribution would have installed."""
        return cls(f"{package!r} is not installed. Install it with: pip install 'miniagents[{extra}]'")


class HistoryError(MiniAgentsError):
    """A chat history could not be kept."""


class HistoryFormatError(HistoryError):
    """A history file holds something that is not a history; the message names file and line."""


class HistoryWriteError(HistoryError):
    """A history could not be written; the messages are still in memory."""


class LLMError(MiniAgentsError):
    """Something went wrong between a request and the end of its answer; the SDK's own error is the cause.

    Args:
        message: what happened, where, and what to do; must hold no key.
        provider: "openai" or "anthropic".
        status: HTTP status of the response, None where there was none.
        delivered_any: whether a reader could already have seen a part of the answer.
        retryable: whether sending the same request again may help; by default, what is usual for the class.
        retry_after: seconds the provider asks to wait.
    """

    usually_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        status: int | None = None,
        delivered_any: bool = False,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.delivered_any = delivered_any
        self.retryable = self.usually_retryable if retryable is None else retryable
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Callable[..., LLMError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class StreamError(LLMError):
    """The answer began and did not come to its end; `partial` has what arrived."""

    usually_retryable = True


class StreamTruncatedError(StreamError):
    """The stream ended before the provider said that the answer is complete."""


class EmptyStreamError(StreamError):
    """A successful response without a single event."""


class StreamBrokenError(StreamError):
    """The connection was lost in the middle of the answer."""


class StreamStalledError(StreamError):
    """Nothing arrived for longer than the stall timeout."""


class StreamDecodeError(StreamError):
    """The bytes are not what their headers say: broken compression, invalid UTF-8 in strict mode."""


class StreamProtocolError(StreamError):
    """Events that the provider's protocol does not allow: malformed JSON, a delta without a start."""

    usually_retryable = False


class EventTooLargeError(StreamProtocolError):
    """A single event, or the whole body, is larger than the limit."""


class ProviderError(LLMError):
    """The provider reports a failure on its side (5xx, or an error event in the stream)."""

    usually_retryable = True


class ProviderOverloadedError(ProviderError):
    """The provider has no capacity now (529, 503, `overloaded_error`)."""


class RateLimitedError(ProviderError):
    """Too many requests or tokens (429); `retry_after` has the provider's wish in seconds."""


class ConnectionFailedError(LLMError):
    """No response came: the connection could not be made, or was lost before the response headers."""

    usually_retryable = True


class AuthenticationFailedError(LLMError):
    """The key is missing, wrong, or not allowed to do this (401, 403)."""


class MissingAPIKeyError(AuthenticationFailedError):
    """No API key was given; the message names the environment variable."""


class RequestRejectedError(LLMError):
    """The provider refuses the request itself (400, 404, 413, 422): sending it again cannot help."""
