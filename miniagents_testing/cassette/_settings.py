"""Settings for playing and recording a cassette, checked when they are made, and the record modes of VCR."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from miniagents_testing._hosts import AllowedHosts, IgnoredHosts
from miniagents_testing._streams import ResponseStream
from miniagents_testing.cassette._headers import HeaderRule
from miniagents_testing.cassette._matching import Matching
from miniagents_testing.cassette._secrets import Redaction
from miniagents_testing.errors import RecordingRefusedError

RecordMode = Literal["none", "once", "new_episodes", "all", "rewrite"]


class Mode(NamedTuple):
    """Meaning of a record mode: recorded requests are played, other requests are recorded."""

    plays: bool
    records: bool


def mode_of(mode: str, *, exists: bool) -> Mode:
    """Return if a record mode plays recorded requests, and records others, for a cassette that exists or does not.

    Only "once" depends on that: an existing cassette is played, a new one is recorded.

    Raises:
        ValueError: the mode is not known.
    """
    known = {
        "none": Mode(plays=True, records=False),
        "once": Mode(plays=exists, records=not exists),
        "new_episodes": Mode(plays=True, records=True),
        "all": Mode(plays=False, records=True),
        "rewrite": Mode(plays=False, records=True),
    }
    _check("record_mode", mode, RecordMode)
    return known[mode]


def refuse_under_ci(name: str, mode: str) -> None:
    """Refuse to record under CI, where no developer looks at the recording.

    Args:
        name: the file that would be recorded, for the error.
        mode: the record mode, for the error.

    Raises:
        RecordingRefusedError: the environment variable CI is set, and not to 0 or false.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise RecordingRefusedError(
            f"{name} would be recorded (record_mode={mode!r}), but this is CI: the environment variable CI is set. "
            "Record it on your own machine and commit it, or unset CI"
        )


_Anchor = Literal["timeline", "request"]
_AtIncomplete = Literal["error", "hang", "end"]
Chunking = Literal["recorded", "event"] | Callable[[ResponseStream], ResponseStream]
OnEarlyClose = Literal["truncate", "drain"]
_RetryAfter = Literal["skip", "keep"]
_Unplayed = Literal["fail", "ignore"]


class Options(TypedDict, total=False):
    """Arguments of `use_cassette` and `stream_layer` of which settings are made."""

    pace: float
    anchor: _Anchor
    on_early_close: OnEarlyClose
    at_incomplete: _AtIncomplete
    retry_after: _RetryAfter
    chunking: Chunking
    match: Matching
    redact: Redaction
    unplayed: _Unplayed
    record_as: Mapping[str, str]
    allow_hosts: Iterable[str]
    ignore_hosts: Iterable[str]
    drop_headers: Iterable[str]


SETTINGS = ("record_mode", "also_patch", *Options.__annotations__)
"""Names of the arguments of `use_cassette` besides the path."""

_MATCHING = Matching()
_NO_HOSTS, _NO_IGNORED = AllowedHosts(), IgnoredHosts()


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Settings of a cassette, with their defaults. `use_cassette` says what each means.

    Raises:
        TypeError: a value has a wrong type, such as a text where a list is meant.
        ValueError: a value is not allowed.
    """

    pace: float = 0.0
    anchor: _Anchor = "timeline"
    on_early_close: OnEarlyClose = "truncate"
    at_incomplete: _AtIncomplete = "error"
    retry_after: _RetryAfter = "skip"
    chunking: Chunking = "recorded"
    match: Matching = _MATCHING
    redact: Redaction = field(default_factory=Redaction)
    unplayed: _Unplayed = "fail"
    record_as: Mapping[str, str] = field(default_factory=dict)
    allow_hosts: Iterable[str] = ()
    ignore_hosts: Iterable[str] = ()
    drop_headers: Iterable[str] = ()
    headers: HeaderRule = field(init=False, repr=False, compare=False)
    """Rule for the headers that are recorded."""
    allowed: AllowedHosts = field(init=False, repr=False, compare=False)
    """The hosts of `allow_hosts`."""
    ignored: IgnoredHosts = field(init=False, repr=False, compare=False)
    """The hosts of `ignore_hosts`."""

    def __post_init__(self) -> None:
        if isinstance(self.pace, bool) or not isinstance(self.pace, (int, float)):
            raise TypeError(f"pace must be a number: 0 (no waits) or a factor on the recorded waits, not {self.pace!r}")
        if not 0 <= self.pace < float("inf"):
            raise ValueError(f"pace must be 0 (no waits) or a factor on the recorded waits, not {self.pace!r}")
        _check("anchor", self.anchor, _Anchor)
        _check("on_early_close", self.on_early_close, OnEarlyClose)
        _check("at_incomplete", self.at_incomplete, _AtIncomplete)
        _check("retry_after", self.retry_after, _RetryAfter)
        _check("unplayed", self.unplayed, _Unplayed)
        if not callable(self.chunking):
            _check("chunking", self.chunking, get_args(Chunking)[0], " or a function from a stream to a stream")
        if not isinstance(self.match, Matching):
            raise TypeError(f"match must be a Matching, such as Matching(ignore=[...]), not {self.match!r}")
        if not isinstance(self.redact, Redaction):
            raise TypeError(f"redact must be a Redaction, such as Redaction(fields=[...]), not {self.redact!r}")
        _check_addresses(self.record_as)

        object.__setattr__(self, "headers", HeaderRule(self.drop_headers, self.canonical_uri))
        object.__setattr__(self, "allowed", _NO_HOSTS if self.allow_hosts == () else AllowedHosts(self.allow_hosts))
        object.__setattr__(self, "ignored", _NO_IGNORED if self.ignore_hosts == () else IgnoredHosts(self.ignore_hosts))

    def canonical_uri(self, url: str) -> str:
        """Return a URL as the cassette has it: a beginning that `record_as` names is replaced."""
        for live, recorded in self.record_as.items():
            if url.startswith(live):
                return recorded + url.removeprefix(live)
        return url


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check arguments of `use_cassette` besides the path, of which no name is unknown.

    Raises:
        TypeError: a value has a wrong type, such as a text where a list is meant.
        ValueError: a value is not allowed.
    """
    options = dict(settings)
    mode_of(options.pop("record_mode", "none"), exists=True)
    classes_of(options.pop("also_patch", ()))
    RecordSettings(**options)


def classes_of(also_patch: Any) -> tuple[type, ...]:
    """Return the classes of the setting `also_patch`.

    Raises:
        TypeError: it is no collection of classes.
    """
    try:
        classes = None if isinstance(also_patch, (str, bytes)) else tuple(also_patch)
    except TypeError:
        classes = None
    if classes is None or not all(isinstance(each, type) for each in classes):
        raise TypeError(f"also_patch takes a list of classes, such as [httpx2.MockTransport]; got {also_patch!r}")
    return classes


def check_path(path: object) -> None:
    """Raise an error unless the path of a cassette names a file.

    Raises:
        TypeError: it is neither a text nor a path.
        ValueError: it is empty.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a cassette takes the path of a file, such as 'cassettes/greeting.yaml', not {path!r}")
    if not os.fspath(path):
        raise ValueError("a cassette takes the path of a file, such as 'cassettes/greeting.yaml', not an empty text")


def _check_addresses(record_as: object) -> None:
    """Raise `TypeError` unless the setting `record_as` is a mapping from texts to texts."""
    if not isinstance(record_as, Mapping) or not all(
        isinstance(text, str) for pair in record_as.items() for text in pair
    ):
        raise TypeError(
            "record_as takes a dict from the beginning of a URL to what the cassette has in its place, such as "
            f"{{'http://127.0.0.1:8000/v1': 'https://api.openai.com/v1'}}; got {record_as!r}"
        )


def _check(name: str, value: object, words: Any, others: str = "") -> None:
    """Raise `ValueError`, with the setting's `name`, unless its value is one of the words of a `Literal`.

    `others` says, for the message, what the value may also be.
    """
    known = get_args(words)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}{others}, not {value!r}")
