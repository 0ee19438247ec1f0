"""Opening a cassette: `use_cassette` for a file, `stream_layer` around a cassette that vcrpy has opened already.

A cassette as a transport, for one client instead of all: the same session, and nothing is patched.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import httpx2

from miniagents_testing.cassette import _vcrpy as vcrpy
from miniagents_testing.cassette._file import load
from miniagents_testing.cassette._patches import Family, patched
from miniagents_testing.cassette._recording import recording_lock
from miniagents_testing.cassette._session import Session, activate, deactivate
from miniagents_testing.cassette._settings import RecordSettings, mode_of, refuse_under_ci
from miniagents_testing.errors import RecordingRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._settings import Options, RecordMode


_HTTPX2 = Family.of("httpx2")


class ReplayTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Answers each request with the recorded stream of the same request, chunk for chunk.

    Args:
        cassette: a file, or the interactions themselves.
        pace: factor on the recorded waits, see `use_cassette`.
    """

    def __init__(self, cassette: str | os.PathLike[str] | Sequence[Interaction], *, pace: float = 0.0) -> None:
        if isinstance(cassette, (str, os.PathLike)):
            name, interactions = os.fspath(cassette), load(cassette)
        else:
            name, interactions = "the cassette", tuple(cassette)
        self.session = Session(name, interactions, RecordSettings(pace=pace))

    def assert_complete(self) -> None:
        """Raise what was missed or not played, see `Session.assert_complete`."""
        self.session.assert_complete()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The recorded response; its body streams."""
        response: httpx2.Response = await _HTTPX2.aanswer(self.session, request, _nobody_sends)
        return response

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for threads."""
        response: httpx2.Response = _HTTPX2.answer(self.session, request, _nobody_sends)
        return response


def _nobody_sends() -> Any:
    raise AssertionError("a session that only plays sends nothing")


class CassetteContext:
    """Opens a cassette with `with` or `async with`, and gives its session; each time a new one."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Session]]) -> None:
        self._opened = opened
        self._entered: list[AbstractContextManager[Session]] = []

    def __enter__(self) -> Session:
        manager = self._opened()
        session = manager.__enter__()
        self._entered.append(manager)
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._entered.pop().__exit__(kind, error, traceback)

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.__exit__(kind, error, traceback)


def use_cassette(
    path: str | os.PathLike[str],
    *,
    record_mode: RecordMode = "none",
    also_patch: Iterable[type] = (),
    **settings: Unpack[Options],
) -> CassetteContext:
    """While this is open, what clients of httpx2 and httpx ask is answered from the cassette, or recorded into it.

    ```python
    with use_cassette("cassettes/greeting.yaml") as session:
        ...  # any OpenAI or Anthropic client, sync or async
    ```

    Args:
        path: the file; it is written when the context is left.
        record_mode: as in VCR. `none` only plays; `once` records a file that does not exist, and otherwise only plays;
            `new_episodes` plays what is there and records the rest; `all` records everything, and keeps of the file
            what was not asked for again; `rewrite` begins the file anew.
        also_patch: transport classes beside those that open sockets, such as `httpx2.MockTransport`.
        pace: factor on the recorded waits. 1 plays as recorded; 0, the default, plays at once, with one step of the
            loop a chunk. Chunks are due at moments of the loop's clock, so that delays of the reader do not add up.
        anchor: `timeline`, the default, keeps the recorded order of streams that run at once, at any pace; with
            `request`, each stream has its recorded times from its own start on.
        on_early_close: when a reader leaves before the end, what came until then is kept (`truncate`, the default), or
            the rest is read and recorded before the response is closed (`drain`).
        at_incomplete: what comes after the end of an answer that is not whole: an `error` (the default), nothing for
            as long as the client waits (`hang`), or a plain `end`.
        retry_after: whether a recorded failure makes clients wait before they try again at pace 0, too: `skip` (the
            default) or `keep`.
        chunking: `recorded` (the default), one `event` a chunk, or a function from a stream to a stream, such as those
            of `miniagents_testing.recut`.
        match: which requests are the same; a `Matching`.
        redact: what keeps secrets out of the file, a `Redaction` with rules of yours. The default knows keys by their
            looks, from the environment and from live requests. Live requests are changed by it, too, before they are
            looked for.
        unplayed: whether interactions that nobody asked for `fail` at the end, where nothing is recorded (the
            default), or are `ignore`d.
        record_as: what a URL that starts like this is called in the cassette, so that a recording made with a local
            server plays for the provider's own address: `{"http://127.0.0.1:8000/v1": "https://api.openai.com/v1"}`.

    Raises:
        CassetteFormatError: on entering, the file is no cassette, or not the one that was saved.
        RecordingRefusedError: on entering, recording under CI, or while another records the file; on leaving, a
            secret would be written.
        CassetteMissError: in the client, a request that is not in the cassette; on leaving, when it was swallowed.
        UnplayedError: on leaving.
    """
    checked, more = RecordSettings(**settings), tuple(also_patch)
    return CassetteContext(lambda: _opened(path, record_mode, checked, more))


def stream_layer(cassette: Any, *, also_patch: Iterable[type] = (), **settings: Unpack[Options]) -> CassetteContext:
    """Streams for a cassette that vcrpy has opened, such as that of pytest-recording's `vcr` fixture.

    Within it, clients of httpx2 and httpx stream, out of the cassette and into it; other libraries are still vcrpy's.
    Its record mode, its hooks and its filters hold; its matchers do not.

    Args:
        cassette: vcrpy's.
        also_patch: see `use_cassette`.
        settings: see `use_cassette`.
    """
    checked, more = RecordSettings(**settings), tuple(also_patch)
    return CassetteContext(lambda: _layered(cassette, checked, more))


@contextmanager
def _opened(
    path: str | os.PathLike[str], mode: RecordMode, settings: RecordSettings, also_patch: Iterable[type]
) -> Iterator[Session]:
    with ExitStack() as stack:
        if mode_of(mode, exists=Path(path).exists()).records:
            refuse_under_ci(os.fspath(path), mode)
            stack.enter_context(recording_lock(path))
        plays, records = mode_of(mode, exists=Path(path).exists())
        cassette = stack.enter_context(vcrpy.configured(path, mode, settings.match))
        session = Session(
            os.fspath(path),
            vcrpy.interactions_of(cassette),
            settings,
            plays=plays,
            records=records,
            advice=_advice(path, mode),
            on_played=partial(_count, cassette),
        )
        yield stack.enter_context(_running(session, cassette, also_patch))


@contextmanager
def _layered(cassette: Any, settings: RecordSettings, also_patch: Iterable[type]) -> Iterator[Session]:
    if cassette is None:
        raise TypeError("stream_layer() needs a cassette of vcrpy; pytest-recording's `vcr` is None in unmarked tests")
    mode, path = str(getattr(cassette.record_mode, "value", cassette.record_mode)), cassette.path
    plays, records = mode_of("new_episodes" if mode == "any" else mode, exists=cassette.rewound)
    with ExitStack() as stack:
        if records:
            refuse_under_ci(path, mode)
            stack.enter_context(recording_lock(path))
            vcrpy.hand_over_saving(cassette)
        if any("stream" in response for response in cassette.responses):
            load(path)  # vcrpy does not look at the seal
        session = Session(
            path,
            vcrpy.interactions_of(cassette),
            settings,
            plays=plays,
            records=records,
            advice=_advice(path, mode),
            seen_as=partial(vcrpy.filtered, cassette),
            repeats=cassette.allow_playback_repeats,
            on_played=partial(_count, cassette),
        )
        yield stack.enter_context(_running(session, cassette, also_patch))


def _count(cassette: Any, index: int) -> None:
    """What we play counts as played for those who ask vcrpy's cassette."""
    cassette.play_counts[index] += 1


@contextmanager
def _running(session: Session, cassette: Any, also_patch: Iterable[type]) -> Iterator[Session]:
    """The session while it is open; then what was recorded goes into the cassette, and what was swallowed is raised."""
    try:
        with patched(also_patch):
            activate(session)
            try:
                yield session
            finally:
                deactivate(session)
    except BaseException as error:
        try:
            _store(session, cassette)
        except RecordingRefusedError as refusal:
            error.add_note(str(refusal))
        if session.misses and error not in session.misses:
            error.add_note(f"Before that, a request was missed: {session.misses[0]}")
        raise
    _store(session, cassette)
    session.assert_complete()


def _store(session: Session, cassette: Any) -> None:
    for interaction in session.finish():
        vcrpy.append(cassette, interaction)
    for index in cassette.play_counts:
        if index < len(session.interactions):
            session.played_elsewhere(index)


def _advice(path: str | os.PathLike[str], mode: str) -> str:
    """What to do about a miss."""
    if not Path(path).exists():
        return f"  there is no such file; record it with record_mode='once' (now: {mode!r})"
    return f"  to record it again, use record_mode='rewrite', or 'new_episodes' to add to it (now: {mode!r})"
