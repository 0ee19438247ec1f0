"""What the record modes mean for one cassette, in VCR's words, and where nothing is recorded."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, get_args

from miniagents_testing.errors import RecordingRefusedError

__all__ = ["RecordMode", "Ways", "refuse_under_ci", "ways"]

RecordMode = Literal["none", "once", "new_episodes", "all", "rewrite"]


class Ways(NamedTuple):
    """What is done with requests."""

    plays: bool
    records: bool


def ways(mode: str, *, exists: bool) -> Ways:
    """What this mode does with a cassette that exists, or does not.

    Raises:
        ValueError: there is no such mode.
    """
    known = {
        "none": Ways(plays=True, records=False),
        "once": Ways(plays=exists, records=not exists),
        "new_episodes": Ways(plays=True, records=True),
        "all": Ways(plays=False, records=True),
        "rewrite": Ways(plays=False, records=True),
    }
    if mode not in known:
        raise ValueError(f"record_mode must be one of {', '.join(map(repr, get_args(RecordMode)))}, not {mode!r}")
    return known[mode]


def refuse_under_ci(name: str, mode: str) -> None:
    """Nobody records by accident where nobody looks at what was recorded.

    Raises:
        RecordingRefusedError: the environment variable CI is set, and not to 0 or false.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise RecordingRefusedError(
            f"{name} would be recorded (record_mode={mode!r}), but this is CI: the environment variable CI is set. "
            "Record it on your own machine and commit it, or unset CI"
        )
