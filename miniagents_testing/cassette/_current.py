"""The cassettes that are open, and the one that answers a request.

`current_session` says to which open cassette a request belongs: the one opened in its context, else the only one that
is open. A task has a context, and so has a thread that was started with it (`asyncio.to_thread`); other threads have
none.

Sessions of a test runner have a *width* (`Session.width`), and are open in all contexts: the narrowest of them answers.
`out_of_reach` hides the narrow ones while a test runner prepares what several tests share.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from miniagents_testing.errors import CassetteError, with_sdk_bases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing.cassette._session import Session


_current: ContextVar[Session | None] = ContextVar("miniagents_testing_cassette", default=None)
_passing: ContextVar[bool] = ContextVar("miniagents_testing_cassette_passing", default=False)
_sending = 0
"""Number of requests that are being sent past the cassettes, in all contexts."""
_open: list[Session] = []
_least_widths: list[int] = []
"""The least width of a session that answers, of each `out_of_reach` that is entered; the last one holds."""
_lock = threading.Lock()


def activate(session: Session) -> None:
    """Open a session, and make it the current one in this context and in tasks that are started from it."""
    session.outer = _current.get()
    with _lock:
        _open.append(session)
    _current.set(session)


def deactivate(session: Session) -> None:
    """Close a session, and make the one before it current again. The context may be another than that of `activate`."""
    with _lock:
        _open.remove(session)
    if _current.get() is session:
        _current.set(session.outer)


def is_only_played() -> bool:
    """Return True if cassettes are open, and none of them records."""
    with _lock:
        return bool(_open) and not any(session.records for session in _open)


def current_session() -> Session | None:
    """Return the open session for a request made in this context, or None.

    None is also the result while a cassette itself sends a request.

    Raises:
        CassetteError: several sessions are open, and none of them was opened in this context.
    """
    if _passing.get():
        return None
    session = _session_of_context()
    if session is not None:
        return session
    candidates = _open_elsewhere()
    if len(candidates) > 1:
        raise with_sdk_bases(CassetteError)(
            f"a request is made where no cassette was opened, while several are open elsewhere: "
            f"{', '.join(each.name for each in candidates)}. Open its cassette in the task or thread that makes it"
        )
    return candidates[0] if candidates else None


def sessions_here() -> list[Session]:
    """Return the sessions that may judge a client here: the one of this context, else all that are open.

    Closed ones, and those that judge no client, are left out.
    """
    session = _session_of_context()
    found = _open_elsewhere() if session is None else [session]
    return [each for each in found if not each.closed and each.judges]


def _session_of_context() -> Session | None:
    """Return the open session that was opened last in this context, or None.

    If it is a test runner's, which has a width, return the narrowest of these: it may be newer than this context.
    """
    session = _current.get()
    while session is not None:
        if not session.closed:
            if session.width is None:
                return session
            if (narrowest := _narrowest()) is not None:
                return narrowest
        session = session.outer
    return None


def _open_elsewhere() -> list[Session]:
    """Return the open sessions for a context that has none: of those with a width, only the narrowest one."""
    narrowest = _narrowest()
    with _lock:
        others = [each for each in _open if each.width is None]
    return others if narrowest is None else [*others, narrowest]


def _narrowest() -> Session | None:
    """Return the narrowest open session with a width that is in reach; None if there is none.

    Of the same width, it is the last.
    """
    least = _least_widths[-1] if _least_widths else 0
    with _lock:
        reached = [each for each in _open if each.width is not None and each.width >= least and not each.closed]
    return min(reversed(reached), key=lambda each: each.width or 0, default=None)


@contextmanager
def out_of_reach(least: int) -> Iterator[None]:
    """Keep the sessions that are narrower than `least` from answering, in all contexts, until the `with` block ends."""
    _least_widths.append(least)
    try:
        yield
    finally:
        _least_widths.remove(least)


def is_passing() -> bool:
    """Return True if requests of this context go past all cassettes, see `passing`."""
    return _passing.get()


def may_look_up() -> bool:
    """Return True if this context may look up names for a request that a cassette sends to the network.

    It may be a thread of an event loop, which has no context.
    """
    return _passing.get() or (_sending > 0 and _current.get() is None)


@contextmanager
def passing() -> Iterator[None]:
    """Let requests of this context go past all cassettes until the `with` block ends; such blocks nest."""
    global _sending
    token = _passing.set(True)
    with _lock:
        _sending += 1
    try:
        yield
    finally:
        with _lock:
            _sending -= 1
        _passing.reset(token)
