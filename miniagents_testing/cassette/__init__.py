"""Recorded streams of providers, chunk for chunk: the bytes, their times, and how each stream ended.

`use_cassette` plays a file to any client, or records it while tokens keep flowing. The file is a plain vcrpy cassette
with one more key. The names that open cassettes are imported on first use, so that reading files imports little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.cassette._file import load, save
from miniagents_testing.cassette._interaction import Interaction, Moment, timeline
from miniagents_testing.cassette._interaction import failure_of as failure_of
from miniagents_testing.cassette._matching import VOLATILE_FIELDS, Matching

if TYPE_CHECKING:
    from miniagents_testing.cassette._contexts import (
        CassetteContext,
        stream_layer,
        use_cassette,
    )
    from miniagents_testing.cassette._contexts import (
        layer_for_vcr_test as layer_for_vcr_test,
    )
    from miniagents_testing.cassette._contexts import (
        use_shared_cassette as use_shared_cassette,
    )
    from miniagents_testing.cassette._contexts import without_narrow_cassettes as without_narrow_cassettes
    from miniagents_testing.cassette._recorded import recorded
    from miniagents_testing.cassette._replay_transport import ReplayTransport
    from miniagents_testing.cassette._secrets import SECRET_FIELDS, JSONPath, Redaction
    from miniagents_testing.cassette._session import Session
    from miniagents_testing.cassette._settings import SETTINGS as SETTINGS
    from miniagents_testing.cassette._settings import check_settings as check_settings

__all__ = [
    "SECRET_FIELDS",
    "VOLATILE_FIELDS",
    "CassetteContext",
    "Chunk",
    "Interaction",
    "JSONPath",
    "Matching",
    "Moment",
    "Redaction",
    "ReplayTransport",
    "ResponseStream",
    "Session",
    "load",
    "recorded",
    "save",
    "stream_layer",
    "timeline",
    "use_cassette",
]

_MODULES = {
    "CassetteContext": "_contexts",
    "JSONPath": "_secrets",
    "Redaction": "_secrets",
    "ReplayTransport": "_replay_transport",
    "SECRET_FIELDS": "_secrets",
    "Session": "_session",
    "recorded": "_recorded",
    "stream_layer": "_contexts",
    "use_cassette": "_contexts",
    # for the pytest plugin
    "SETTINGS": "_settings",
    "check_settings": "_settings",
    "layer_for_vcr_test": "_contexts",
    "use_shared_cassette": "_contexts",
    "without_narrow_cassettes": "_contexts",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; raise `AttributeError` for other names."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
