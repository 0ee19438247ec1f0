"""The cassettes that are open, and the one that answers a request.

`current_session` says to which open cassette a request belongs: the one opened in its context, else the only one that
is open. A task has a context, and so has a thread that was started with it (`asyncio.to_thread`); other threads have
none.
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
_lock = threading.Lock()


def activate(session: Session) -> None:
    """Make the session current in this context, and in tasks that are started from it."""
    session.outer = _current.get()
    with _lock:
        _open.append(session)
    _current.set(session)


def deactivate(session: Session) -> None:
    """Make the session before this one current again. The context may be another than that of `activate`."""
    with _lock:
        _open.remove(session)
    if _current.get() is session:
        _current.set(session.outer)


def current_session() -> Session | None:
    """Return the open session for a request made in this context, or None.

    None is also the result while a cassette itself sends a request.

    Raises:
        CassetteError: several sessions are open, and none of them was opened in this context.
    """
    if _passing.get():
        return None
    session = _current.get()
    while session is not None and session.closed:
        session = session.outer
    if session is not None:
        return session
    with _lock:
        candidates = list(_open)
    if len(candidates) > 1:
        raise with_sdk_bases(CassetteError)(
            f"a request is made where no cassette was opened, while several are open elsewhere: "
            f"{', '.join(each.name for each in candidates)}. Open its cassette in the task or thread that makes it"
        )
    return candidates[0] if candidates else None


def sessions_here() -> list[Session]:
    """Return the sessions that may judge a client here: the one of this context, else all that are open."""
    session = _current.get()
    while session is not None and session.closed:
        session = session.outer
    if session is not None:
        return [session] if session.judges else []
    with _lock:
        return [each for each in _open if not each.closed and each.judges]


def is_passing() -> bool:
    """Return True if this context is sending a request to the network."""
    return _passing.get()


def may_look_up() -> bool:
    """Return True if this context, which may be a thread of an event loop without context, works for a sent request."""
    return _passing.get() or (_sending > 0 and _current.get() is None)


@contextmanager
def passing() -> Iterator[None]:
    """Let requests of this context go past all cassettes until the `with` block ends."""
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
