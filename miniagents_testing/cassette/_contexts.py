"""Contexts that open a cassette, or keep cassettes out of reach.

`use_cassette` opens a file for all clients, and `stream_layer` works on a cassette that vcrpy has opened already. Both
make a `Session`, and so does `ReplayTransport`, which is a module of its own because it needs httpx2.

`without_narrow_cassettes` stands in for the cassette of a request that belongs to no single test, while a test runner
prepares a fixture. A fixture that several tests share is set up once, during the test that happens to come first. Its
requests would go to the cassette of that test, and each other test would lack them. So cassettes that are narrower than
the fixture are out of reach, and a request that finds no wider one is an error, in a recording as well as in a replay.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from miniagents_testing._hosts import Address, is_loopback
from miniagents_testing._words import short_path, similar_paths
from miniagents_testing.cassette import _http_client, _httpx, _other_clients
from miniagents_testing.cassette import _vcrpy as vcrpy
from miniagents_testing.cassette._current import activate, deactivate, out_of_reach
from miniagents_testing.cassette._file import load
from miniagents_testing.cassette._interaction import failure_of
from miniagents_testing.cassette._patches import Patches, patched
from miniagents_testing.cassette._recording import (
    is_recorded_in_run,
    note_recorded_in_run,
    recording_lock,
    run_of_workers,
)
from miniagents_testing.cassette._session import Session
from miniagents_testing.cassette._settings import RecordSettings, check_path, classes_of, mode_of, refuse_under_ci
from miniagents_testing.errors import CassetteFormatError, RecordingRefusedError, UnrecordedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._playback import HTTPLibrary
    from miniagents_testing.cassette._session import LiveRequest
    from miniagents_testing.cassette._settings import Options, RecordMode


def _targets_of_aiohttp(module: Any) -> Iterable[Target]:
    """Yield the methods of aiohttp to replace. Their patches import aiohttp, so they are imported after `module`."""
    from miniagents_testing.cassette import _aiohttp

    return _aiohttp.targets(module)


def _targets_of_mcp(module: Any) -> Iterable[Target]:
    """Yield the methods of mcp to replace. Their patches import anyio, so they are imported after `module`."""
    from miniagents_testing.cassette import _mcp_stdio

    return _mcp_stdio.targets(module)


def _targets_of_websockets(module: Any) -> Iterable[Target]:
    """Yield the methods of websockets to replace. Their patches import it, so they are imported after `module`."""
    from miniagents_testing.cassette import _websockets

    return _websockets.targets(module)


_CLIENTS = (
    Patches(_httpx.MODULES, _httpx.targets),
    Patches(_http_client.MODULES, _http_client.targets),
    Patches(("aiohttp.client", "aiohttp.connector"), _targets_of_aiohttp),
    Patches(("mcp.client.stdio",), _targets_of_mcp),
    Patches(("websockets.asyncio.client", "websockets.sync.client"), _targets_of_websockets),
    Patches(_other_clients.MODULES, _other_clients.targets),
)
"""The clients that are patched. The last entry has those that are not recorded."""


class CassetteContext:
    """Context that opens a cassette, with `with` or `async with`; each use gives a new session."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Session]]) -> None:
        self._opened = opened
        self._entered: list[tuple[AbstractContextManager[Session], Session]] = []

    def __enter__(self) -> Session:
        manager = self._opened()
        session = manager.__enter__()
        self._entered.append((manager, session))
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Close the session; warn, unless the block raised an error, of what a recording lacks."""
        manager, session = self._entered.pop()
        suppresses = manager.__exit__(kind, error, traceback)
        if error is None and (text := session.warning()):
            warnings.warn(text, UnrecordedWarning, stacklevel=2)
        return suppresses

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Redact a large recording in a thread, so that the loop goes on, and then do what `__exit__` does."""
        try:
            await self._entered[-1][1].redact_in_thread()
        finally:
            suppresses = self.__exit__(kind, error, traceback)
        return suppresses


def use_cassette(
    path: str | os.PathLike[str],
    *,
    record_mode: RecordMode = "none",
    also_patch: Iterable[type] = (),
    **settings: Unpack[Options],
) -> CassetteContext:
    """Answer the requests of HTTP clients from a cassette, or record them into it, while the context is open.

    The clients are httpx2, httpx, aiohttp, and those on `http.client`: urllib, urllib3, requests and botocore; the
    asyncio and sync clients of websockets; and mcp's client for servers over stdio.

    ```python
    with use_cassette("cassettes/greeting.yaml") as session:
        ...  # any OpenAI or Anthropic client, sync or async
    ```

    Args:
        path: of the file; it is written when the context is left.
        record_mode: as in VCR. `none` only plays; `once` records a file that does not exist, and otherwise only plays;
            `new_episodes` plays what is in the file and records other requests; `all` records every request, and keeps
            the interactions that were not requested again; `rewrite` begins the file anew. If the block fails,
            `rewrite` keeps the old file in place of a recording with failures that the old file has not, and no mode
            writes a new file in which all answers are failures.
        also_patch: transport classes beside those that open sockets, such as `httpx2.MockTransport`.
        pace: factor on the recorded waits. 1 plays as recorded; 0, the default, plays at once, with one step of the
            loop a chunk. Chunks are due at moments of the loop's clock, so that delays of the reader do not add up.
        anchor: `timeline`, the default, keeps the recorded order of parallel streams, at any pace; with `request`,
            each stream has its recorded times from its own start on.
        on_early_close: when a reader closes a response before its end, `truncate` (the default) keeps what came until
            then; `drain` reads and records the rest before the response is closed.
        at_incomplete: what comes after the end of an incomplete answer: an `error` (the default), nothing until the
            client times out (`hang`), or a plain `end`.
        retry_after: `skip` (the default) lets clients retry a recorded failure at once at pace 0; `keep` makes them
            wait as long as the recorded headers say.
        chunking: `recorded` (the default), one `event` a chunk, or a function from a stream to a stream, such as those
            of `miniagents_testing.recut`.
        match: a `Matching`, which says which requests are the same.
        redact: a `Redaction`, with rules of yours, which keeps secrets out of the file. The default knows names of
            secret fields, values of the environment and of live requests, and shapes of keys. It also changes a live
            request before the request is looked up.
        unplayed: `fail` (the default) raises an error at the end for interactions that were not requested, unless the
            session records; `ignore` raises none.
        record_as: from the beginning of a URL to what the cassette has in its place. So a recording made with a local
            server plays for the provider's own address: `{"http://127.0.0.1:8000/v1": "https://api.openai.com/v1"}`.
        allow_hosts: names and `host:port` that every client reaches in every mode, such as a database or a server of
            the test: `["db", "127.0.0.1:6333"]`. Their requests are neither recorded nor missed.
        ignore_hosts: names, `*.example.com`, `host:port` and beginnings of URLs whose requests are no part of the test,
            such as telemetry. They are sent and not recorded while recording; otherwise their clients find the network
            down.
        drop_headers: names of headers of answers that are not recorded, beside those of the connection and noise such
            as `date`: `["x-served-by", "x-debug-*"]`.

    Raises:
        CassetteFormatError: on entering, the file is no cassette, or differs from the one that was saved.
        RecordingRefusedError: on entering, a recording would be made under CI, or another process or task records
            the file; on leaving, a secret would be written.
        CassetteMissError: in the client, a request is not in the cassette; also on leaving, if the application has
            caught that error.
        LiveRequestError: in the client, a client that is not recorded was about to reach the network, or an HTTP server
            on this machine, while the session only plays; also on leaving, if the application has caught that error.
        UnplayedError: on leaving, interactions were not requested.
        TypeError: a setting has a wrong type, such as a text where a list is meant; on entering, a class of
            `also_patch` is no transport.
        ValueError: a setting is not known, or a host or the name of a header cannot be read.

    Warns:
        UnrecordedWarning: on leaving, nothing was recorded, or clients that are not recorded have made connections.
    """
    checked, more = RecordSettings(**settings), classes_of(also_patch)
    check_path(path)
    mode_of(record_mode, exists=True)
    return CassetteContext(lambda: _opened(path, record_mode, checked, more))


def stream_layer(cassette: Any, *, also_patch: Iterable[type] = (), **settings: Unpack[Options]) -> CassetteContext:
    """Stream with a cassette that vcrpy has opened, such as that of pytest-recording's `vcr` fixture.

    While the context is open, all clients that `use_cassette` knows stream from the cassette and into it; vcrpy still
    serves other libraries. The record mode, hooks and filters of the cassette apply; its matchers do not.

    Args:
        cassette: of vcrpy, open.
        also_patch: see `use_cassette`.
        settings: see `use_cassette`.

    Raises:
        TypeError: on entering, there is no cassette.
        CassetteError, ValueError: as `use_cassette` does.
    """
    checked, more = RecordSettings(**settings), classes_of(also_patch)
    return CassetteContext(lambda: _layered(cassette, checked, more))


def use_shared_cassette(
    path: str | os.PathLike[str],
    *,
    width: int,
    command: str = "",
    other_user: str = "",
    is_typed: bool = True,
    record_mode: RecordMode = "none",
    also_patch: Iterable[type] = (),
    **settings: Unpack[Options],
) -> CassetteContext:
    """Open a cassette for a test runner, in all contexts, see `use_cassette`.

    The workers of a run of pytest-xdist take turns with a cassette that several tests share: the first records it, and
    the others play what it has recorded and add what it lacks. Of such a cassette, each interaction is played as often
    as it is requested.

    Args:
        path: see `use_cassette`.
        width: rank among the open cassettes with a width, of which the narrowest one answers; 0 for the cassette of a
            single test.
        command: command line that runs the test, without the record mode at its end, for messages.
        other_user: name of another test that has used the file in this run, for messages.
        is_typed: False for a path that was made of the test's name, which cannot be mistyped.
        record_mode: see `use_cassette`.
        also_patch: see `use_cassette`.
        settings: see `use_cassette`.

    Raises:
        TypeError, ValueError: a setting or the mode is wrong; raised before the context is entered.
    """
    checked, more = RecordSettings(**settings), classes_of(also_patch)
    mode_of(record_mode, exists=True)
    advice = partial(_advice, path, command=command, other_user=other_user, is_typed=is_typed)
    return CassetteContext(lambda: _opened(path, record_mode, checked, more, width, advice))


def layer_for_vcr_test(
    cassette: Any, *, by_content: bool = False, command: str = "", is_typed: bool = False, pace: float = 0.0
) -> CassetteContext | None:
    """Stream with a cassette of vcrpy, so that a test that was written for vcrpy keeps its verdict.

    The matchers of the cassette apply, and its misses are vcrpy's own error. Nothing but the streams differs: no client
    is refused or warned of, what was not played is no error, and recording is allowed where vcrpy allows it.

    Args:
        cassette: of vcrpy, open.
        by_content: True to match requests as `use_cassette` does.
        command: see `use_shared_cassette`.
        is_typed: see `use_shared_cassette`.
        pace: see `use_cassette`.

    Returns:
        The context of the layer, or None for a cassette that only vcrpy can read.

    Raises:
        ValueError: the pace is negative or infinite.
    """
    try:
        vcrpy.interactions_of(cassette)
    except CassetteFormatError:
        return None
    settings = RecordSettings(unplayed="ignore", retry_after="keep", pace=pace)
    advice = partial(_advice, cassette.path, command=command, is_typed=is_typed)
    return CassetteContext(lambda: _layered_as_vcrpy(cassette, settings, advice, by_content=by_content))


@contextmanager
def without_narrow_cassettes(
    fixture: str,
    advice: str,
    *,
    width: int,
    records: bool,
    allow_loopback: bool,
    allow_hosts: Iterable[str],
    ignore_hosts: Iterable[str],
) -> Iterator[None]:
    """Keep narrow cassettes out of reach of a fixture until the `with` block ends.

    Args:
        fixture: name of the fixture, for the error of its requests.
        advice: the way to give it a cassette, for the same error.
        width: rank of the narrowest cassettes that the fixture may use.
        records: True if the test at hand records.
        allow_loopback: True to send requests to this machine.
        allow_hosts: see `use_cassette`.
        ignore_hosts: see `use_cassette`.

    Raises:
        CassetteMissError: in the client, a request that no cassette answers; also at the end, if it was caught.
    """
    settings = RecordSettings(allow_hosts=allow_hosts, ignore_hosts=ignore_hosts)
    session = _NoCassette(fixture, advice, settings, records=records, allow_loopback=allow_loopback)
    with out_of_reach(width), answering(session):
        try:
            yield
        finally:
            session.closed = True
    session.assert_answered()


class _NoCassette(Session):
    """Session of a fixture that no cassette is open for: it sends what belongs to no test, and refuses other requests.

    Its width is the largest, so that any cassette in reach goes before it.
    """

    def __init__(
        self, fixture: str, advice: str, settings: RecordSettings, *, records: bool, allow_loopback: bool
    ) -> None:
        super().__init__(fixture, (), settings, plays=False, records=records, judges=False, width=sys.maxsize)
        self._said = f"{fixture} made a request; {advice}"
        self._allow_loopback = allow_loopback

    def answer(self, request: LiveRequest, library: HTTPLibrary, clock: Callable[[], float], started: float) -> None:
        """Return None for a request that may be sent past all cassettes, and raise an error for any other.

        Raises:
            CassetteMissError: no cassette answers the request.
            Exception: see `Session.answer`.
        """
        address = Address.of_url(request.url)
        if self._goes_by(request.url, library) or (self._allow_loopback and is_loopback(address.host)):
            return
        raise self.missed(
            f"{self._said}\n  {request.method} {self.settings.redact.scrub_uri(request.url)}\n"
            "  Several tests share the fixture, so that the cassette of one test cannot have its requests. "
            f"Let a server of the tests through: allow_hosts=[{str(address)!r}]"
        )


@contextmanager
def _opened(
    path: str | os.PathLike[str],
    mode: RecordMode,
    settings: RecordSettings,
    also_patch: Iterable[type],
    width: int | None = None,
    advice: Callable[[str], str] | None = None,
) -> Iterator[Session]:
    """Open a cassette file until the `with` block ends, and give its session.

    Hold the recording lock if it records, and refuse to record under CI. If another worker of this run has recorded the
    file, only add to it.
    """
    takes_turns = bool(width) and run_of_workers() != ""
    with ExitStack() as stack:
        if takes_turns and is_recorded_in_run(path):
            mode = "new_episodes"
        if mode_of(mode, exists=Path(path).exists()).records:
            refuse_under_ci(os.fspath(path), mode)
            stack.enter_context(recording_lock(path, waits=takes_turns))
            if takes_turns and is_recorded_in_run(path):  # by the worker that had the lock
                mode = "new_episodes"
        plays, records = mode_of(mode, exists=Path(path).exists())
        cassette = stack.enter_context(vcrpy.configured(path, mode, settings.match))
        session = Session(
            short_path(path),
            vcrpy.interactions_of(cassette),
            settings,
            plays=plays,
            records=records,
            exists=Path(path).exists(),
            advice=_advice(path, mode) if advice is None else advice(mode),
            repeats=bool(width),
            on_played=partial(_count_play, cassette),
            width=width,
        )
        try:
            with _running(session, cassette, also_patch, path=path, rewrites=mode == "rewrite"):
                yield session
        finally:
            if takes_turns and session.recorded and not session.not_written:
                note_recorded_in_run(path)


@contextmanager
def _layered(cassette: Any, settings: RecordSettings, also_patch: Iterable[type]) -> Iterator[Session]:
    """Let a session play and record streams in an open cassette of vcrpy, by the rules of `use_cassette`.

    A cassette that records is locked and will be saved with a checksum.

    Raises:
        TypeError: there is no cassette.
        RecordingRefusedError: it would record under CI, or is recorded already.
        CassetteFormatError: its file is damaged.
    """
    if cassette is None:
        raise TypeError(
            "stream_layer() needs a cassette of vcrpy, and got None: pytest-recording's fixture `vcr` is None in "
            "a test without the marker `vcr`"
        )
    mode, path = str(getattr(cassette.record_mode, "value", cassette.record_mode)), cassette.path
    plays, records = mode_of("new_episodes" if mode == "any" else mode, exists=cassette.rewound)
    with ExitStack() as stack:
        if records:
            refuse_under_ci(path, mode)
            stack.enter_context(recording_lock(path))
            vcrpy.replace_saving(cassette)
        if any("stream" in response for response in cassette.responses):
            load(path)  # vcrpy does not check the checksum
        session = Session(
            short_path(path),
            vcrpy.interactions_of(cassette),
            settings,
            plays=plays,
            records=records,
            exists=Path(path).exists(),
            advice=_advice(path, mode),
            seen_as=partial(vcrpy.filtered, cassette),
            repeats=cassette.allow_playback_repeats,
            on_played=partial(_count_play, cassette),
        )
        yield stack.enter_context(_running(session, cassette, also_patch))


@contextmanager
def _layered_as_vcrpy(
    cassette: Any, settings: RecordSettings, advice: Callable[[str], str], *, by_content: bool
) -> Iterator[Session]:
    """Let a session play and record in an open cassette of vcrpy, by vcrpy's own modes.

    It matches by vcrpy's rules, or as `use_cassette` does with `by_content`, and judges no other clients. A cassette
    that may be changed will be saved with a checksum.
    """
    mode = str(getattr(cassette.record_mode, "value", cassette.record_mode))
    if records := not cassette.write_protected:
        vcrpy.replace_saving(cassette, keeps_own=True)
    loaded, appended = vcrpy.interactions_of(cassette), vcrpy.Appended(cassette)
    session = Session(
        short_path(cassette.path),
        loaded,
        settings,
        plays=mode != "all" and (cassette.rewound or cassette.allow_playback_repeats),
        records=records,
        exists=Path(cassette.path).exists(),
        advice=advice(mode),
        seen_as=partial(vcrpy.filtered, cassette),
        repeats=cassette.allow_playback_repeats,
        on_played=partial(_count_play, cassette) if by_content else None,
        find=None if by_content else partial(vcrpy.play, cassette, loaded),
        on_recorded=appended.append,
        judges=False,
    )
    with _running(session, cassette, (), appended):
        yield session


def _count_play(cassette: Any, index: int) -> None:
    """Count an interaction as played in vcrpy's cassette, which tests may ask."""
    cassette.play_counts[index] += 1


@contextmanager
def answering(session: Session, also_patch: Iterable[type] = ()) -> Iterator[None]:
    """Let a session answer the requests of all patched clients until the `with` block ends.

    Connections of other clients are judged meanwhile.
    """
    with patched(_CLIENTS, _httpx.targets_of(also_patch)), _other_clients.watching():
        activate(session)
        try:
            yield
        finally:
            deactivate(session)


@contextmanager
def _running(
    session: Session,
    cassette: Any,
    also_patch: Iterable[type],
    appended: vcrpy.Appended | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    rewrites: bool = False,
) -> Iterator[Session]:
    """Activate the session until the `with` block ends; then store its recordings, and raise errors that were caught.

    An error of the block is raised with notes about these errors; its recordings are stored as well, unless
    `_reason_not_to_write` has a reason.

    Args:
        session: of the block.
        cassette: of vcrpy.
        also_patch: see `use_cassette`.
        appended: what vcrpy's cassette has from the session already.
        path: of the file; None to store the recordings of a failed block in any case.
        rewrites: True if the recordings replace the file.
    """
    try:
        with answering(session, also_patch):
            yield session
    except BaseException as error:
        try:
            _store_recorded(session, cassette, appended, path, rewrites=rewrites)
        except RecordingRefusedError as refusal:
            error.add_note(str(refusal))
        if session.not_written:
            error.add_note(f"{session.name} was not written: {session.not_written}")
        session.add_notes(error)
        raise
    _store_recorded(session, cassette, appended, path if session.shared_by_failed_test else None, rewrites=rewrites)
    session.assert_complete()


def _store_recorded(
    session: Session,
    cassette: Any,
    appended: vcrpy.Appended | None,
    path: str | os.PathLike[str] | None,
    *,
    rewrites: bool,
) -> None:
    """Finish the session, add what it recorded to vcrpy's cassette, and count in the session what vcrpy has played.

    What was appended already stays, unless a secret in it has become known since. A refusal takes all of it back.
    With the `path` of a failed block, nothing is added if `_reason_not_to_write` has a reason.
    """
    try:
        recorded = session.finish()
    except RecordingRefusedError:
        if appended is not None:
            appended.take_back()
        raise
    if path is not None:
        session.not_written = _reason_not_to_write(recorded, path, rewrites=rewrites)
        if session.not_written:
            return
    for interaction in recorded:
        if appended is None or not appended.holds(interaction):
            vcrpy.append(cassette, interaction)
    for index in cassette.play_counts:
        if index < len(session.interactions):
            session.played_elsewhere(index)


def _reason_not_to_write(recorded: Iterable[Interaction], path: str | os.PathLike[str], *, rewrites: bool) -> str:
    """Return the reason not to write what a failed block has recorded; an empty text if it is to be written.

    A new file of nothing but failures, such as those of a wrong key, would be played by the next run. A rewrite keeps a
    file that lacks one of the new kinds of failures.
    """
    kinds = dict.fromkeys(failure_of(each) for each in recorded)
    failures = [kind for kind in kinds if kind]
    if not failures:
        return ""
    if not Path(path).exists():
        some_succeeded = len(failures) < len(kinds)
        only_failures = f"there was no answer but failures ({', '.join(failures)}); the next run records again"
        return "" if some_succeeded else only_failures
    try:
        old = {failure_of(each) for each in load(path)} if rewrites else set()
    except CassetteFormatError:
        return ""
    return "the new recording has failures that the old one has not" if old and not old.issuperset(failures) else ""


def _advice(
    path: str | os.PathLike[str], mode: str, command: str = "", other_user: str = "", *, is_typed: bool = True
) -> str:
    """Return the lines at the end of a miss that say how to record the request; above them, another user of the file.

    Of a missing file whose path was typed, similar names come first.

    Args:
        path: of the cassette.
        mode: in which it is open.
        command: command line that runs the test with the record mode at its end; empty if no option has the mode.
        other_user: see `use_shared_cassette`.
        is_typed: see `use_shared_cassette`.
    """
    exists = Path(path).exists()
    again = "rewrite" if exists else "once"
    how = f"{command}{again}" if command else f"record_mode={again!r} (now: {mode!r})"
    lines = [f"to record it again: {how}" if exists else f"to record it: {how}"]
    if not exists and is_typed and (question := similar_paths(path)):
        lines.insert(0, question)
    if other_user:
        lines.insert(0, f"{other_user} has used the same file: each test needs a file of its own")
    return "\n".join(f"  {line}" for line in lines)
