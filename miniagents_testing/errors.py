"""Every error the workshop raises on its own account.

```
Exception
└── WorkshopError
    ├── CassetteError
    │   ├── CassetteFormatError     (ValueError) the file is damaged, or no cassette
    │   ├── CassetteMissError       (LookupError) a request that is not in the cassette
    │   ├── IncompleteRecordingError  read past the point where the recording was broken off
    │   └── UnplayedError           interactions that nobody asked for
    ├── ScriptError                 the script of the provider server and what was asked of it do not fit
    └── UnusedFaultError            a fault that was laid over a transport has changed nothing
```
"""

from __future__ import annotations

__all__ = [
    "CassetteError",
    "CassetteFormatError",
    "CassetteMissError",
    "IncompleteRecordingError",
    "ScriptError",
    "UnplayedError",
    "UnusedFaultError",
    "WorkshopError",
]


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


class UnplayedError(CassetteError):
    """Interactions of the cassette were never asked for; the message names them."""


class ScriptError(WorkshopError):
    """The provider server was asked for more than its script has, or has answers left over."""


class UnusedFaultError(WorkshopError):
    """A fault changed nothing, so the test does not test it; the message says how near the streams came to it."""
