"""Which open cassette a request belongs to: the one opened in its context, else the only one that is open.

A context goes with a task, and with a thread that was started with it (`asyncio.to_thread`); other threads have none.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from miniagents_testing.errors import CassetteError, sdk_proof

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing.cassette.session import Session

__all__ = ["activate", "deactivate", "is_passing", "passing", "session_here"]

_current: ContextVar[Session | None] = ContextVar("miniagents_testing_cassette", default=None)
_passing: ContextVar[bool] = ContextVar("miniagents_testing_cassette_passing", default=False)
_open: list[Session] = []
_lock = threading.Lock()


def activate(session: Session) -> None:
    """From here on, and in the tasks that are started from here, requests belong to this cassette."""
    session.outer = _current.get()
    with _lock:
        _open.append(session)
    _current.set(session)


def deactivate(session: Session) -> None:
    """Requests belong to whom they belonged to before. May be called in another context than `activate`."""
    with _lock:
        _open.remove(session)
    if _current.get() is session:
        _current.set(session.outer)


def session_here() -> Session | None:
    """The cassette for a request that is made here; None: it is nobody's.

    Raises:
        CassetteError: several are open, and none of them was opened here.
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
        raise sdk_proof(CassetteError)(
            f"a request is made where no cassette was opened, while several are open elsewhere: "
            f"{', '.join(each.name for each in candidates)}. Open its cassette in the task or thread that makes it"
        )
    return candidates[0] if candidates else None


def is_passing() -> bool:
    """Whether a request is on its way to the network here."""
    return _passing.get()


@contextmanager
def passing() -> Iterator[None]:
    """While a request is really sent, the transports below that of the client have nothing to do with cassettes."""
    token = _passing.set(True)
    try:
        yield
    finally:
        _passing.reset(token)
