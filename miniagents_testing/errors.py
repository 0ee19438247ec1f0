"""Every error the workshop raises on its own account.

```
Exception
└── WorkshopError
    ├── CassetteError
    │   ├── CassetteFormatError     (ValueError) the file is damaged, or no cassette
    │   ├── CassetteMissError       (LookupError) a request that is not in the cassette
    │   ├── IncompleteRecordingError  read past the point where the recording was broken off
    │   ├── RecordingRefusedError   nothing is recorded: under CI, beside another, with a secret in it
    │   └── UnplayedError           interactions that nobody asked for
    ├── ScriptError                 a script and what was asked of it do not fit
    │   ├── UnconsumedStepsError    steps that nobody asked for
    │   └── UnexpectedCallError     (LookupError) a call for which there is no step
    └── UnusedFaultError            a fault that was laid over a transport has changed nothing
```
"""

from __future__ import annotations

import sys
from typing import TypeVar

__all__ = [
    "CassetteError",
    "CassetteFormatError",
    "CassetteMissError",
    "IncompleteRecordingError",
    "RecordingRefusedError",
    "ScriptError",
    "UnconsumedStepsError",
    "UnexpectedCallError",
    "UnplayedError",
    "UnusedFaultError",
    "WorkshopError",
    "for_sdks",
]

E = TypeVar("E", bound="WorkshopError")


class WorkshopError(Exception):
    """Base of all errors of the workshop."""


class CassetteError(WorkshopError):
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


class ScriptError(WorkshopError):
    """What a scripted model was asked is not what its script was written for."""


class UnconsumedStepsError(ScriptError):
    """Fewer calls came than the script has steps; the message names those that are left."""


class UnexpectedCallError(ScriptError, LookupError):
    """A call came for which the script has no step; the message says what was asked."""


class UnusedFaultError(WorkshopError):
    """A fault changed nothing, so the test does not test it; the message says how near the streams came to it."""


def for_sdks(kind: type[E]) -> type[E]:
    """`kind`, and at once the base error of each SDK in use: none of them wraps it, or sends the request again."""
    named = (("openai", "OpenAIError"), ("anthropic", "AnthropicError"))
    bases = [base for sdk, name in named if (base := getattr(sys.modules.get(sdk), name, None)) is not None]
    return type(kind.__name__, (kind, *bases), {"__module__": kind.__module__}) if bases else kind
