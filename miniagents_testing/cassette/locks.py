"""One recorder for one file, in all processes of a user.

The lock is the operating system's, on a file in the folder for temporary files: it ends with the process that holds it,
however that ends, and leaves nothing beside the cassette.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from miniagents_testing.errors import RecordingRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["recording_lock"]


@contextmanager
def recording_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Nobody else records this file meanwhile.

    Raises:
        RecordingRefusedError: somebody does already; the message says who.
    """
    real = os.path.realpath(path)
    name = hashlib.sha256(os.path.normcase(real).encode()).hexdigest()[:32]
    user = getattr(os, "getuid", lambda: "")()  # where there is none, each user has a temporary folder anyway
    folder = Path(tempfile.gettempdir()) / f"miniagents-cassettes-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    holder = folder / f"{name}.holder"
    lock = FileLock(folder / f"{name}.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RecordingRefusedError(
            f"{path} is being recorded already, by {_who_holds(holder)}. Two recordings of one file would mix: give "
            "each its own file, or run them one after the other"
        ) from None
    try:
        holder.write_text(_who_am_i(), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _who_am_i() -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return f"process {os.getpid()}" + (f", in {test}" if test else "")


def _who_holds(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "a process that has just begun"
    except OSError:
        return "a process that has just begun"
