"""Databases for the tests of histories in SQL: SQLite everywhere, PostgreSQL where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from databases import REASON, empty_database, postgres_server
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the URL of a PostgreSQL server, or skip the test with a reason that says how to get one."""
    with postgres_server() as url:
        if url is None:
            pytest.skip(REASON)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Return the URL of an empty database; a test runs once with SQLite and once with PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}"
        return
    async with empty_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    """Return an engine of an application, and close it afterwards."""
    made = create_async_engine(database)
    yield made
    await made.dispose()
