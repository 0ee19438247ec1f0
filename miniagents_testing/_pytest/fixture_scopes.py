"""Cassettes of modules and of the session, and the requests of fixtures that several tests share.

Such a fixture is set up during the test that happens to come first. So cassettes of narrower scope are out of its
reach: its requests go to a wider one, or fail.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest.cassettes import (
    allowed_hosts,
    allows_loopback,
    current_item,
    ignored_hosts,
    may_record,
    open_cassette,
    uses_cassette,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from miniagents_testing.cassette import Session

_WIDTHS = {scope: width for width, scope in enumerate(("function", "class", "module", "package", "session"))}


@pytest.fixture(scope="module")
def module_cassette(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Open the cassette that the fixtures of a module share, `<module>/module.yaml`, and return its session.

    A fixture of the scope `module` or `class` asks for it, and its requests go there. Interactions that were not played
    are no error, because not all tests of a module may run; each one is played as often as it is requested.
    """
    node = request.node
    path = node.path.parent / request.config.getini("miniagents_cassette_dir") / node.path.stem / "module.yaml"
    with open_cassette(request, "module_cassette", path, node, width=_WIDTHS["module"], unplayed="ignore") as session:
        yield session


@pytest.fixture(scope="session")
def session_cassette(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Open the cassette that the fixtures of all tests share, `session.yaml`, and return its session.

    It is in the folder of cassettes below the root folder of pytest. See `module_cassette`.
    """
    config = request.config
    path = config.rootpath / config.getini("miniagents_cassette_dir") / "session.yaml"
    # The root folder is a node below the session, which has the fixtures of its conftest.py.
    nodes = config.stash[current_item].listchain()
    root = next((node for node in nodes if node.path == config.rootpath and node.parent), request.session)
    with open_cassette(request, "session_cassette", path, root, width=_WIDTHS["session"], unplayed="ignore") as session:
        yield session


@pytest.hookimpl(wrapper=True, specname="pytest_fixture_setup")
def pytest_fixture_setup_of_shared_fixtures(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Keep narrower cassettes out of reach of a fixture that several tests share, in its setup and its teardown."""
    __tracebackhide__ = True
    item = request.config.stash.get(current_item, None)
    if (
        fixturedef.scope == "function"
        or item is None
        or not uses_cassette(item)
        or fixturedef.func.__module__ == __name__
    ):
        return (yield)
    teardown = ExitStack()
    fixturedef.addfinalizer(teardown.close)  # runs last
    with _narrow_out_of_reach(fixturedef, item):
        value = yield
    fixturedef.addfinalizer(lambda: teardown.enter_context(_narrow_out_of_reach(fixturedef, item)))  # runs first
    return value


def _narrow_out_of_reach(fixturedef: pytest.FixtureDef[Any], item: pytest.Item) -> AbstractContextManager[None]:
    """Return a context in which the requests of a fixture find no cassette that is narrower than the fixture."""
    from miniagents_testing.cassette import without_narrow_cassettes

    width = _WIDTHS[fixturedef.scope]
    wider = "module_cassette" if width <= _WIDTHS["module"] else "session_cassette"
    return without_narrow_cassettes(
        f"fixture {fixturedef.argname!r} ({fixturedef.scope})",
        f"let it ask for {wider}",
        width=width,
        records=may_record(item),
        allow_loopback=allows_loopback(item),
        allow_hosts=allowed_hosts(item),
        ignore_hosts=ignored_hosts(item),
    )
