"""Every error the workshop raises on its own account.

```
Exception
└── MiniAgentsTestingError
    ├── CassetteError
    │   ├── CassetteFormatError     (ValueError) the file is damaged, or no cassette
    │   ├── CassetteMissError       (LookupError) a request that is not in the cassette
    │   ├── IncompleteRecordingError  read past the point where the recording was broken off
    │   ├── RecordingRefusedError   nothing is recorded: under CI, beside another, with a secret in it
    │   └── UnplayedError           interactions that nobody asked for
    ├── CheckFailedError            (AssertionError) something does not behave as all of its kind do
    ├── IdleLoopError               (DeadlockError) a virtual-time loop on which nothing can go on
    ├── LiveRequestError            a request that a test must not send
    ├── NotVirtualError             (RuntimeError) something that a virtual-time loop cannot wait for
    ├── ScriptError                 a script and what was asked of it do not fit
    │   ├── UnconsumedStepsError    steps that nobody asked for
    │   └── UnexpectedCallError     (LookupError) a call for which there is no step
    ├── UnusedFaultError            a fault that was laid over a transport has changed nothing
    ├── UncleanCancellationError    (AssertionError) something was left, or lost, when something was cancelled
    └── VirtualTimeoutError         (TimeoutError) more virtual time has passed than was allowed
```

Errors of ours that the providers' SDKs hand on as they are.

An SDK takes an exception it does not know, out of its transport, for a lost connection: it sends the request again, and
in the end hides the exception behind one of its own. What derives from its own base error it lets through at once.
"""

from __future__ import annotations

import sys
from typing import TypeVar, cast

from miniagents import DeadlockError

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
    "RecordingRefusedError",
    "ScriptError",
    "UncleanCancellationError",
    "UnconsumedStepsError",
    "UnexpectedCallError",
    "UnplayedError",
    "UnusedFaultError",
    "VirtualTimeoutError",
]


class MiniAgentsTestingError(Exception):
    """Base of all errors of the workshop."""


class CassetteError(MiniAgentsTestingError):
    """A recording cannot be read, written or played."""


class CassetteFormatError(CassetteError, ValueError):
    """The file is damaged or was edited without resealing; the message names file and interaction."""


class CassetteMissError(CassetteError, LookupError):
    """No interaction of the cassette fits this request; the message says what differs from the nearest one."""


class IncompleteRecordingError(CassetteError):
    """Somebody read on where the one who recorded had stopped: what comes next is not known."""


class RecordingRefusedError(CassetteError):
    """Nothing is written: recording under CI, while another records the same file, or with a secret in what came."""


class UnplayedError(CassetteError):
    """Interactions of the cassette were never asked for; the message names them."""


class CheckFailedError(MiniAgentsTestingError, AssertionError):
    """A check found something; the message says what was expected, what came, and how to see it again."""


class IdleLoopError(MiniAgentsTestingError, DeadlockError):
    """Tasks wait on a virtual-time loop, and nothing is left that could wake them; the message names them."""


class LiveRequestError(MiniAgentsTestingError):
    """A test tried to reach the network; the message says what it wanted, and where in the code."""


class NotVirtualError(MiniAgentsTestingError, RuntimeError):
    """A socket, pipe or subprocess on a virtual-time loop, which cannot wait for the real world."""


class ScriptError(MiniAgentsTestingError):
    """What a scripted model was asked is not what its script was written for."""


class UnconsumedStepsError(ScriptError):
    """Fewer calls came than the script has steps; the message names those that are left."""


class UnexpectedCallError(ScriptError, LookupError):
    """A call came for which the script has no step; the message says what was asked."""


class UnusedFaultError(MiniAgentsTestingError):
    """A fault changed nothing, so the test does not test it; the message says how near the streams came to it."""


class UncleanCancellationError(MiniAgentsTestingError, AssertionError):
    """A scenario did not end well in which something was cancelled; the message says where, and what is left."""


class VirtualTimeoutError(MiniAgentsTestingError, TimeoutError):
    """A virtual-time loop ran for longer, by its own clock, than it was allowed to; the message names who waits."""


E = TypeVar("E", bound=type[Exception])

_SDK_BASES = (("openai", "OpenAIError"), ("anthropic", "AnthropicError"))
_made: dict[tuple[type[Exception], ...], type[Exception]] = {}


def sdk_proof(error_class: E, *others: tuple[str, str]) -> E:
    """The class to raise in place of `error_class`: a subclass that the SDKs in use neither retry nor wrap.

    A package that was never imported is in nobody's way, and is not imported here.

    Args:
        error_class: one of ours.
        others: module and name of further classes to be below.
    """
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in (*others, *_SDK_BASES))
    bases: tuple[type[Exception], ...] = (error_class, *(base for base in loaded if base is not None))
    if bases not in _made:
        names = {
            "__module__": error_class.__module__,
            "__qualname__": error_class.__qualname__,
            "__doc__": error_class.__doc__,
        }
        _made[bases] = type(error_class.__name__, bases, names)
    return cast("E", _made[bases])
