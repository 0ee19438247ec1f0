"""The errors that MiniAgents raises, and the two kinds of exceptions: failures and interrupts.

Each docstring says what happened, when the error is raised and what to do. `except MiniAgentsError` catches all of them
but `StopDialog`. Names in parentheses are further bases: `except TypeError` catches a `FreezeError`, too.

```
Exception
├── StopDialog                          a signal, not a failure: an agent ends the loop it takes part in
└── MiniAgentsError                     .partial: the message as far as it had arrived
    ├── PromiseCancelledError           the source of a promise was stopped before its end
    ├── DeadlockError                   agents, tasks or sequences wait for each other in a ring
    ├── NoActiveContextError            (RuntimeError) a call needs `async with MiniAgents()` around it
    ├── AppenderClosedError             (RuntimeError) an append before `open` or after `close`
    ├── CopyError                       (TypeError) a copy or a pickle of an object that belongs to a run
    ├── CyclicValueError                (ValueError) a container that contains itself
    ├── FreezeError                     (TypeError) a value that cannot be made immutable
    ├── MissingExtraError               (ImportError) an optional package is not installed
    ├── ToolError                       a tool tells the model what went wrong
    ├── TooManyRoundsError              a model goes on calling tools
    ├── OutputInvalidError              a model's answer is not the output that was asked for
    ├── LimitExceededError              requests, tokens or costs have reached a limit
    ├── PriceUnknownError               a limit of the cost, and a model without a known price
    ├── UsageUnknownError               a limit of tokens or cost, and an answer without its usage
    ├── RemoteError                     a call of an agent in another process failed on its way
    │   ├── RemoteWorkerLostError       the process that ran the agent is gone
    │   ├── RemoteUnavailableError      no worker took the call, or the broker cannot be reached
    │   ├── RemoteAgentError            the agent failed with an error of a class that is not known here
    │   ├── RemoteProtocolError         a frame of another version, or one that cannot be read
    │   └── CallNotFoundError           there is no log of a call with this id
    ├── HistoryError                    a chat history on disk cannot be used
    │   ├── HistoryFormatError          a file is not a chat history
    │   └── HistoryWriteError           messages could not be written
    └── LLMError                        .retryable .retry_after .delivered_any .provider .status
        ├── StreamError                 the answer began and did not come to its end
        │   ├── StreamTruncatedError    the stream ended too early
        │   ├── EmptyStreamError        the response has no events
        │   ├── StreamBrokenError       the connection was lost
        │   ├── StreamStalledError      the answer made no progress for too long
        │   ├── StreamDecodeError       the bytes cannot be decoded
        │   └── StreamProtocolError     the provider's protocol does not allow these events
        │       └── EventTooLargeError  an event or the response is larger than its limit
        ├── ProviderError               the provider reports a failure on its side
        │   ├── ProviderOverloadedError the provider has no capacity now
        │   └── RateLimitedError        too many requests or tokens
        ├── ConnectionFailedError       no response came
        ├── AuthenticationFailedError   the provider refuses the API key
        │   └── MissingAPIKeyError      no API key was given
        └── RequestRejectedError        the provider refuses this request, however often it is sent
```
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import fields
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_T = TypeVar("_T")

__all__ = [
    "AppenderClosedError",
    "AuthenticationFailedError",
    "CallNotFoundError",
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
    "LimitExceededError",
    "MiniAgentsError",
    "MissingAPIKeyError",
    "MissingExtraError",
    "NoActiveContextError",
    "OutputInvalidError",
    "PriceUnknownError",
    "PromiseCancelledError",
    "ProviderError",
    "ProviderOverloadedError",
    "RateLimitedError",
    "RemoteAgentError",
    "RemoteError",
    "RemoteProtocolError",
    "RemoteUnavailableError",
    "RemoteWorkerLostError",
    "RequestRejectedError",
    "StopDialog",
    "StreamBrokenError",
    "StreamDecodeError",
    "StreamError",
    "StreamProtocolError",
    "StreamStalledError",
    "StreamTruncatedError",
    "TooManyRoundsError",
    "ToolError",
    "UsageUnknownError",
]


INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
"""Exceptions that end tasks and programs and never travel through promises.

Every other exception is a failure, also if it derives from `BaseException`, as those of pytest's `fail` and `skip` do.
"""


DISTRIBUTION: Final = "/path/to/clone"
"""Name under which pip installs this distribution: a path, because `miniagents` on PyPI is an older project.

Each line of errors and docs that installs MiniAgents has this name.
"""


def unknown_argument_error(function: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error for an argument that a function does not take, with the nearest of the known names."""
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(name, names, 1)
    meant = f", did you mean {near[0]!r}?" if near else ":"
    return TypeError(f"{function}() takes no argument {name!r}{meant} Its arguments are {', '.join(names)}")


def names_its_arguments(kind: type[_T]) -> type[_T]:
    """Let a dataclass say the nearest and all of its names in the error for an unknown argument; a decorator."""
    init: Any = kind.__init__
    known = frozenset(field.name for field in fields(cast("Any", kind)) if field.init)

    @wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if not kwargs.keys() <= known:
            raise unknown_argument_error(kind.__name__, min(kwargs.keys() - known), known)
        init(self, *args, **kwargs)

    kind.__init__ = checked  # type: ignore[method-assign]  # what the decorator is for
    return kind


def install_line(*extras: str) -> str:
    """Return the command that installs extras: `pip install '/path/to/clone[openai,console]'`.

    The path is that of the clone that is installed, if it is still there, so that the command can be run as it is.
    """
    return f"pip install '{_source()}[{','.join(extras)}]'"


@cache
def _source() -> str:
    """Return the folder that this distribution was installed from, or `DISTRIBUTION` if it is not there any more."""
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    clone = Path(__file__).resolve().parents[1]
    if not (clone / "pyproject.toml").is_file():
        try:
            # PEP 610: pip and other installers note the URL of what was not installed from an index.
            noted = json.loads(distribution("miniagents").read_text("direct_url.json") or "{}")
        except (PackageNotFoundError, ValueError):
            noted = {}
        clone = Path(url2pathname(urlsplit(noted.get("url", "")).path))
    return str(clone) if (clone / "pyproject.toml").is_file() else DISTRIBUTION


def is_failure(error: BaseException | None) -> TypeGuard[BaseException]:
    """Return True for an error that readers of a promise get: any but those in `INTERRUPTS`; False for None."""
    return error is not None and not isinstance(error, INTERRUPTS)


def text_of_error(error: BaseException) -> str:
    """Return the text of an error; "" if its class cannot make one."""
    try:
        return str(error)
    except Exception:
        return ""


def describe_error(error: BaseException) -> str:
    """Return an error as `NameOfClass: text`; the name alone if the error has no text.

    A group, such as that of an `asyncio.TaskGroup`, is followed by its first ten members in the same form.
    """
    text = f"{type(error).__name__}: {text_of_error(error)}".removesuffix(": ")
    if isinstance(error, BaseExceptionGroup):
        text = f"{text}: {'; '.join(map(describe_error, error.exceptions[:10]))}"
    return text


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error; leave an error as it is that takes no attributes, such as a frozen dataclass."""
    with suppress(Exception):
        error.add_note(note)


def find_error(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> Any:
    """Return the error if it is of one of these classes, or the first such error of a group at any depth; else None."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, kinds) else None
    found: Any = error.subgroup(kinds)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def find_stray_cancellation(error: BaseException, place: str) -> RuntimeError | None:
    """Return the error to raise in place of a `CancelledError` in a task that is not being cancelled; None for others.

    Code that awaits a cancelled task raises such an error, and would look as if it had been stopped itself.

    Args:
        error: the error that was raised.
        place: the name of the code that raised it.
    """
    if not isinstance(error, asyncio.CancelledError):
        return None
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return None
    return RuntimeError(
        f"{place} raised CancelledError, but was not cancelled: catch this error where a cancelled task is awaited"
    )


class NoStrayCancellation:
    """Block in which an error of `find_stray_cancellation` is raised in place of a `CancelledError`.

    Args:
        place: the name of the code in the block.
    """

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and (stray := find_stray_cancellation(error, self._place)) is not None:
            raise stray from error


class StopDialog(Exception):  # noqa: N818 - a signal that passes through, not an error to handle
    """Signal that an agent raises to end the loop it takes part in (`achain_loop`, `adialog_loop`).

    The loop returns instead of failing. Outside of these loops a caller gets it like an error; it never becomes an
    `ErrorMessage`.
    """


class MiniAgentsError(Exception):
    """Base of all errors of MiniAgents. Catch it to handle them all."""

    partial: Any = None
    """The message as far as it had arrived, of the promised class; None where no message was streaming."""


class PromiseCancelledError(MiniAgentsError):
    """Error of a promise whose source was stopped before its end.

    Readers get it after `cancel()`, and after the run context was left with an error; the source of a message is also
    stopped when no reader can reach its promise. Unlike `asyncio.CancelledError`, this error does not cancel the reader
    that gets it: catch it where a source may be stopped on purpose.
    """


class DeadlockError(MiniAgentsError):
    """Error of a ring of waits that no other task can end; its text names the agents and tasks in order.

    It is raised in one wait of the ring. Readers of sequences that were sent into each other get it as well. Remove one
    wait of the ring, or finish the call or close the appender that the ring waits for.
    """


class NoActiveContextError(MiniAgentsError, RuntimeError):
    """Error of a call that needs a run context, made where none is open.

    Make the call inside `MiniAgents().run(...)` or `async with MiniAgents():`.
    """


class AppenderClosedError(MiniAgentsError, RuntimeError):
    """Error of sending to a stream that is not open: an appender, a finished call, or the replies of an ended agent.

    An appender accepts pieces between `open` (or `with`) and `close`, and opens once: make a new one for each stream.
    """


class CopyError(MiniAgentsError, TypeError):
    """Error of a copy or a pickle of an object that belongs to a run: a promise, a call, an appender, a context.

    Await the promise, and copy the message or the value that it resolves to.
    """


class CyclicValueError(MiniAgentsError, ValueError):
    """Error of sending or freezing a container that contains itself, or of sending a sequence into itself.

    Its text names the place. Send the items without the container that holds them.
    """


class FreezeError(MiniAgentsError, TypeError):
    """Error of a value that cannot be made immutable: its type is not supported, or it nests too deep.

    It is raised where a message is made; its text names the field. Give JSON types, or types that
    `docs/how-to/histories.md` lists.
    """


class MissingExtraError(MiniAgentsError, ImportError):
    """Error of a feature whose optional package is not installed; its text has the pip command that installs it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Return the error for a package that is not installed; `extra` is the extra of MiniAgents that has it."""
        return cls(f"{package!r} is not installed. Install it with: {install_line(extra)}")


class ToolError(MiniAgentsError):
    """Error that a tool raises to tell the model what went wrong: its text becomes the result of the call.

    The model gets the text also from an agent with `tool_errors="raise"`, which lets all other errors of tools through.
    """


class TooManyRoundsError(MiniAgentsError):
    """Error of a model that has called tools in more than `max_rounds` answers; `partial` is the last answer.

    It comes after all replies. Give a higher `max_rounds`, or instructions with which the model comes to an end.
    """


class OutputInvalidError(MiniAgentsError):
    """Error of an answer that is not the output which was asked for; `partial` is the answer, with its whole text.

    The answer was refused, filtered or cut off, or its text is no JSON of the type. To ask again, send the conversation
    with `error.partial` and the text of the error.

    Args:
        message: text that names the type and what is wrong.
        errors: pydantic's errors of the text, as its `ValidationError.errors()` returns them; none for other reasons.
    """

    def __init__(self, message: str = "", *, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.errors: tuple[Mapping[str, Any], ...] = tuple(errors)

    def __reduce__(self) -> tuple[Callable[..., OutputInvalidError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class LimitExceededError(MiniAgentsError):
    """Error of a request to a model that was not sent, because a call or the run has reached one of its `Limits`.

    Give a higher limit, or end the work here: what was replied before is not lost.

    Args:
        message: text with limit, totals and agents.
        limit: name of the limit: requests, input_tokens, output_tokens or cost.
        value: the limit.
        totals: `UsageTotals` of the call or the run at this moment.
        agent_trace: aliases of the agent that wanted to send the request, and of its callers.
    """

    def __init__(
        self,
        message: str = "",
        *,
        limit: str = "",
        value: float | None = None,
        totals: Any = None,
        agent_trace: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value
        self.totals = totals
        self.agent_trace = agent_trace

    def __reduce__(self) -> tuple[Callable[..., LimitExceededError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class PriceUnknownError(MiniAgentsError):
    """Error of a request that was not sent: there is a limit of the cost, and the price of the model is not known.

    Install the extra `prices`, or give `MiniAgents(price=)` a function that knows the price.

    Args:
        message: text that names the model.
        model: name of the model.
    """

    def __init__(self, message: str = "", *, model: str = "") -> None:
        super().__init__(message)
        self.model = model

    def __reduce__(self) -> tuple[Callable[..., PriceUnknownError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class UsageUnknownError(MiniAgentsError):
    """Error of a request that was not sent: tokens or the cost are limited, and an earlier answer had no usage.

    Ask the server for the usage of streamed chat completions with `stream_options={"include_usage": True}`, or give a
    limit of requests if the server does not send it.

    Args:
        message: text that names the limit, the model that answered, and the agents that asked it.
        limit: name of the limit that cannot be checked: input_tokens, output_tokens or cost.
        agent_trace: aliases of the agent that wanted to send the next request, and of its callers.
    """

    def __init__(self, message: str = "", *, limit: str = "", agent_trace: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.limit = limit
        self.agent_trace = agent_trace

    def __reduce__(self) -> tuple[Callable[..., UsageUnknownError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class RemoteError(MiniAgentsError):
    """Error of a call of an agent in another process that is no error of the agent itself; its subclasses say why.

    An error that the agent raises keeps its class, if that is a class of Python or of MiniAgents.
    """


class RemoteWorkerLostError(RemoteError):
    """Error of a call whose worker has sent no sign of life for too long; nothing is run again by itself.

    The text that came before is in `partial`. Make a new call if the agent may run twice: effects of the lost one may
    have happened.

    Args:
        message: text that names the agent, the call and the worker.
        began: True if a message had begun to arrive.
    """

    def __init__(self, message: str = "", *, began: bool = False) -> None:
        super().__init__(message)
        self.began = began

    def __reduce__(self) -> tuple[Callable[..., RemoteWorkerLostError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class RemoteUnavailableError(RemoteError):
    """Error of a call that no worker took in time, or of a broker that cannot be reached; its text says which.

    A call that no worker took is withdrawn: the agent has not run. Start a worker, or give a longer `wait`.
    """


class RemoteAgentError(RemoteError):
    """Error that an agent in another process raised, of a class that is neither of Python nor of MiniAgents.

    Args:
        message: name of the class and text of the error.
        type_name: module and name of the class.
    """

    def __init__(self, message: str = "", *, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name

    def __reduce__(self) -> tuple[Callable[..., RemoteAgentError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class RemoteProtocolError(RemoteError):
    """Error of a frame that cannot be read: another version wrote it, or a process that is no worker.

    Processes that read are updated before those that write.
    """


class CallNotFoundError(RemoteError):
    """Error of `reopen` for a call without a log: no worker has taken it yet, or the log is no longer kept."""


class HistoryError(MiniAgentsError):
    """Error of a chat history on disk that cannot be used; its text names the file and the cause.

    It is raised when the file cannot be read, is not a regular file, or stays locked by another process for too long.
    """


class HistoryFormatError(HistoryError):
    """Error of a file that is not a chat history, or that another version wrote; its text names file and line.

    Correct that line, or choose another file for the history.
    """


class HistoryWriteError(HistoryError):
    """Error of writing messages to a chat history, which keeps them in memory and writes them with the next append."""


class LLMError(MiniAgentsError):
    """Error of a request to a model, anywhere from the request to the end of its answer.

    If an SDK raised it, the SDK's own error is the `__cause__`. Send the request again where `retryable` is True, after
    `retry_after` seconds.

    Args:
        message: text that says what happened, where, and what to do; must hold no API key.
        provider: "openai" or "anthropic".
        status: HTTP status of the response; None if there was no response.
        delivered_any: True if a reader may have seen a part of the answer already.
        retryable: True if sending the same request again may help; None takes the default of the class.
        retry_after: seconds that the provider asks to wait.
    """

    usually_retryable: ClassVar[bool] = False
    """The default of `retryable`."""

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
        self.retryable: bool = self.usually_retryable if retryable is None else retryable
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Callable[..., LLMError], tuple[Any, ...], dict[str, Any]]:
        return type(self), self.args, self.__dict__.copy()


class StreamError(LLMError):
    """Error of an answer that began and did not come to its end; `partial` has the part that arrived.

    Its subclasses say why. Sending the request again may help.
    """

    usually_retryable = True


class StreamTruncatedError(StreamError):
    """Error of a stream that ended before the provider said that the answer is complete. Send the request again."""


class EmptyStreamError(StreamError):
    """Error of a successful response that has no events. Send the request again, or look at proxies in between."""


class StreamBrokenError(StreamError):
    """Error of a connection that was lost in the middle of the answer. Send the request again."""


class StreamStalledError(StreamError):
    """Error of a stream that made no progress for longer than the stall timeout. Send the request again."""


class StreamDecodeError(StreamError):
    """Error of bytes that are not what their headers say: broken compression, or invalid UTF-8 in strict mode.

    Send the request again. If the error stays, look at the proxies in between.
    """


class StreamProtocolError(StreamError):
    """Error of events that the provider's protocol does not allow: malformed JSON, or a delta without a start.

    The address may belong to another API or to a proxy that changes answers. Sending the request again seldom helps.
    """

    usually_retryable = False


class EventTooLargeError(StreamProtocolError):
    """Error of an event or a response that is larger than its limit in `miniagents.bounds`; the rest is not read."""


class ProviderError(LLMError):
    """Error that the provider reports of itself: status 5xx, or an error event in the stream. Try again."""

    usually_retryable = True


class ProviderOverloadedError(ProviderError):
    """Error of a provider without capacity (529, 503, `overloaded_error`). Send the request again after a while."""


class RateLimitedError(ProviderError):
    """Error of too many requests or tokens (429). Wait `retry_after` seconds, if there are any, and try again."""


class ConnectionFailedError(LLMError):
    """Error of a request without a response: no connection could be made, or it was lost before the headers came.

    Check the address and the network, then send the request again.
    """

    usually_retryable = True


class AuthenticationFailedError(LLMError):
    """Error of an API key that is missing, wrong, or not allowed to do this (401, 403). Give another key."""


class MissingAPIKeyError(AuthenticationFailedError):
    """Error of an agent without an API key. Set the environment variable that the text names."""


class RequestRejectedError(LLMError):
    """Error of a request that the provider refuses (400, 404, 413, 422).

    Sending the same request again cannot help: change the model, the settings or the messages, as the text says.
    """
