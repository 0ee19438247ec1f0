"""Errors that the testing kit raises itself.

```
Exception
└── MiniAgentsTestingError
    ├── CassetteError
    │   ├── CassetteFormatError     (ValueError) the file is damaged, or is not a cassette
    │   ├── CassetteMissError       (LookupError) a request that is not in the cassette
    │   ├── IncompleteRecordingError  a read beyond the point where the recording stopped
    │   ├── RecordedCallError       a call of a `@recorded` function that raised an error while it was recorded
    │   ├── RecordingRefusedError   nothing is recorded: under CI, beside another recorder, or with a secret
    │   └── UnplayedError           interactions that were not requested
    ├── CheckFailedError            (AssertionError) an object breaks a rule that all of its kind must keep
    ├── IdleLoopError               (DeadlockError) tasks of a virtual-time loop wait, and nothing can wake them
    ├── LiveRequestError            a request that a test must not send
    ├── NotVirtualError             (RuntimeError) an operation that a virtual-time loop cannot wait for
    ├── ScriptError                 the calls do not fit the script
    │   ├── UnconsumedStepsError    steps of the script that no call has used
    │   └── UnexpectedCallError     (LookupError) a call for which the script has no step
    ├── UnusedFaultError            a fault of a transport that has changed nothing
    ├── UncleanCancellationError    (AssertionError) a cancellation that left something behind, or lost something
    └── VirtualTimeoutError         (TimeoutError) more virtual time has passed than the limit allows
```

`UnrecordedWarning`, a `UserWarning`, is about recordings that miss connections, or are empty.

A class in brackets is a second base class, so that `except ValueError` works as usual.

`with_sdk_bases` makes an error class that the providers' SDKs pass on unchanged. An SDK takes an unknown exception of
its transport for a lost connection: it sends the request again, and raises an error of its own in the end. Errors that
derive from the SDK's base error are passed on at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar, cast

from miniagents import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = [
    "CassetteError",
    "CassetteFormatError",
    "CassetteMissError",
    "CheckFailedError",
    "IdleLoopError",
    "IncompleteRecordingError",
    "LiveRequestError",
    "MiniAgentsTestingError",
    "NotVirtualError",
    "RecordedCallError",
    "RecordingRefusedError",
    "ScriptError",
    "UncleanCancellationError",
    "UnconsumedStepsError",
    "UnexpectedCallError",
    "UnplayedError",
    "UnrecordedWarning",
    "UnusedFaultError",
    "VirtualTimeoutError",
]


class MiniAgentsTestingError(Exception):
    """Base class of all errors of the testing kit."""


class CassetteError(MiniAgentsTestingError):
    """A cassette cannot be read, written or played."""


class CassetteFormatError(CassetteError, ValueError):
    """The file is damaged, or its checksum was not updated after an edit; the message names file and interaction."""


class CassetteMissError(CassetteError, LookupError):
    """No interaction of the cassette matches this request; the message names the differences from the nearest one."""


class IncompleteRecordingError(CassetteError):
    """The client reads beyond the point where the recorded client stopped; the bytes after it are unknown."""


class RecordedCallError(CassetteError):
    """A call of a `@recorded` function raised an error of a library or of the application when it was recorded.

    Builtin exceptions are raised as themselves.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(f"{type_name}: {text}" if text else type_name)
        self.type_name = type_name
        """Module and name of the recorded exception class, as in `psycopg.errors.OperationalError`."""
        self.text = text
        """Text of the recorded exception."""

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.type_name, self.text)


class RecordingRefusedError(CassetteError):
    """Nothing is recorded: under CI, while another process records the file, or because a secret would be written."""


class UnplayedError(CassetteError):
    """The test has not requested all interactions of the cassette; the message names those that are left."""


class UnrecordedWarning(UserWarning):
    """A recording is empty, or the test made connections that no cassette records; the message names them."""


class CheckFailedError(MiniAgentsTestingError, AssertionError):
    """A check has failed; the message has the expected value, the actual one, and a way to reproduce the failure."""


class IdleLoopError(MiniAgentsTestingError, DeadlockError):
    """Tasks wait on a virtual-time loop, and nothing is left that could wake them; the message names them."""


class LiveRequestError(MiniAgentsTestingError):
    """A test tried to reach the network; the message names the request or address, and the line of code."""


class NotVirtualError(MiniAgentsTestingError, RuntimeError):
    """Code on a virtual-time loop uses a socket, pipe or subprocess, which that loop cannot wait for."""


class ScriptError(MiniAgentsTestingError):
    """The calls of a scripted model do not fit its script."""


class UnconsumedStepsError(ScriptError):
    """The script has more steps than the model got calls; the message names the steps that are left."""


class UnexpectedCallError(ScriptError, LookupError):
    """The script has no step for a call; the message describes the call."""


class UnusedFaultError(MiniAgentsTestingError):
    """A fault changed nothing, so the test does not cover it; the message says how close the streams came to it."""


class UncleanCancellationError(MiniAgentsTestingError, AssertionError):
    """A scenario with a cancellation ended badly; the message names the place of the cancellation and what is left."""


class VirtualTimeoutError(MiniAgentsTestingError, TimeoutError):
    """A virtual-time loop passed its time limit, by its own clock; the message names the tasks that wait."""


def causes(error: BaseException, *, shown: bool = False) -> Iterator[BaseException]:
    """Yield an error, and all errors that it was caused by or that its group contains.

    Args:
        error: the error.
        shown: True for those only that a traceback shows: a cause hides the context, and so does `from None`.
    """
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in found:
            found[id(each)] = each
            left.append(each.__cause__)
            if not (shown and each.__suppress_context__):
                left.append(each.__context__)
            if isinstance(each, BaseExceptionGroup):
                left += each.exceptions
    yield from found.values()


_E = TypeVar("_E", bound=type[Exception])

_SDK_BASES = (("openai", "OpenAIError"), ("anthropic", "AnthropicError"))
_combined_classes: dict[tuple[type[Exception], ...], type[Exception]] = {}


def with_sdk_bases(error_class: _E, *others: tuple[str, str]) -> _E:
    """Return a subclass of `error_class` that the imported SDKs neither retry nor wrap.

    The subclass derives from the base error of each SDK that is imported already; no SDK is imported here.

    Args:
        error_class: the error class of the testing kit.
        others: module and name of further base classes; they are used if the module is imported already.
    """
    imported = (getattr(sys.modules.get(module), name, None) for module, name in (*others, *_SDK_BASES))
    bases: tuple[type[Exception], ...] = (error_class, *(base for base in imported if base is not None))
    if bases not in _combined_classes:
        attributes = {
            "__module__": error_class.__module__,
            "__qualname__": error_class.__qualname__,
            "__doc__": error_class.__doc__,
        }
        _combined_classes[bases] = type(error_class.__name__, bases, attributes)
    return cast("_E", _combined_classes[bases])
