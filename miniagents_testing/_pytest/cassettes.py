"""Cassettes by marker and fixture, and how they are recorded.

What the command line says goes before the marker, and that before the ini file.

What the cassette of a test is called where nobody says a name. Knows no pytest.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest import extra_needed, open_until_the_end

if TYPE_CHECKING:
    from miniagents_testing.cassette import Session


_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""In names of files, on one system or another (Windows has the longest list)."""
_LONGEST = 100
"""Bytes; file systems take 255, and who saves or replaces a file makes longer names of it."""


def cassette_name(module: str, test: str) -> str:
    """The path of a test's cassette, below the folder of the cassettes.

    Args:
        module: the name of the test file, without its ending.
        test: the name of the test with its parameters, `Class.test` for one in a class.
    """
    short = test.encode("utf-8", "ignore")[:_LONGEST].decode("utf-8", "ignore")
    name = _FORBIDDEN.sub("-", short)
    parameters = name.partition("[")[2]
    # two tests must not share a cassette because they differ in what cannot be in a name, or in what is one to a system
    # that knows no case: there parameters, unlike functions, differ easily
    if name != test or parameters != parameters.casefold():
        name = f"{name}-{hashlib.sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{module}/{name}.yaml"


_MARKER = "miniagents_cassette"
_FIXTURE = "stream_cassette"


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """A marker does without the fixture."""
    if item.get_closest_marker(_MARKER) is None or not isinstance(item, pytest.Function):
        return
    if _FIXTURE not in item.fixturenames:
        item.fixturenames.insert(0, _FIXTURE)


def may_record(item: pytest.Item) -> bool:
    """Whether the requests of a test may really be sent, because they are to be recorded."""
    asks = item.get_closest_marker(_MARKER) is not None or _FIXTURE in getattr(item, "fixturenames", ())
    return asks and _record_mode(item) != "none"


@pytest.fixture
def stream_cassette(request: pytest.FixtureRequest) -> Session:
    """The session of the test's cassette: its `misses`, `unplayed`, `incomplete` and `timeline()`.

    The test fails when it asks for something that is not in the cassette, also where the application has swallowed the
    error, and when it does not ask for all that is in it.
    """
    with extra_needed(_FIXTURE):
        from miniagents_testing.cassette import use_cassette

    item = request.node
    arguments = _arguments(item)
    return open_until_the_end(item, use_cassette(_path(item, arguments.pop("name")), **arguments))


def _arguments(item: Any) -> dict[str, Any]:
    """What `use_cassette` is to be called with, and the `name` that the marker gives."""
    marker = item.get_closest_marker(_MARKER)
    arguments = {"name": None} if marker is None else {"name": None, **marker.kwargs}
    if marker is not None and marker.args:
        arguments["name"], *others = marker.args
        if others or not isinstance(arguments["name"], (str, os.PathLike)):
            pytest.fail(f"{item.nodeid}: {_MARKER} takes the name of one cassette, and settings by name", pytrace=False)
    arguments["record_mode"] = _record_mode(item)
    if (pace := item.config.getoption("--miniagents-pace")) is not None:
        arguments["pace"] = pace
    return arguments


def _record_mode(item: Any) -> Any:
    """What the command line says, else the marker, else the ini file."""
    marker = item.get_closest_marker(_MARKER)
    marked = {} if marker is None else marker.kwargs
    return item.config.getoption("--miniagents-record") or marked.get(
        "record_mode", item.config.getini("miniagents_record")
    )


def _path(item: Any, name: str | os.PathLike[str] | None) -> Path:
    """Where the cassette of a test lies."""
    folder: Path = item.path.parent / item.config.getini("miniagents_cassette_dir")
    if name is None:
        return folder / cassette_name(item.path.stem, item.getmodpath())
    path = folder / name
    if not Path(name).is_absolute() and not path.resolve().is_relative_to(folder.resolve()):
        pytest.fail(
            f"{item.nodeid}: the cassette {os.fspath(name)!r} is not below {folder}. Give an absolute path, or set "
            "miniagents_cassette_dir",
            pytrace=False,
        )
    return path
