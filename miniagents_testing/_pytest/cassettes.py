"""Cassettes of tests, by marker and fixture: their names, their arguments and their record modes.

The command line goes before the marker, and the marker before the ini file.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest import enter_until_test_ends, fail_without_extra

if TYPE_CHECKING:
    from miniagents_testing.cassette import Session


_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""Characters that some system forbids in file names; Windows has the longest list."""
_MAX_NAME_BYTES = 100
"""Most bytes of a test's name in a file name. File systems allow 255; temporary and lock files have longer names."""


def cassette_name(module: str, test: str) -> str:
    """Return the path of a test's cassette, relative to the folder of the cassettes. No two tests have the same path.

    Independent of pytest.

    Args:
        module: name of the test file, without its suffix.
        test: name of the test with its parameters, `Class.test` for a method.
    """
    short = test.encode("utf-8", "ignore")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    name = _FORBIDDEN.sub("-", short)
    parameters = name.partition("[")[2]
    # A digest keeps two tests apart whose names differ only in replaced characters, or only in the case of parameters,
    # which some file systems ignore. Names of functions seldom differ in case only, so they go without a digest.
    if name != test or parameters != parameters.casefold():
        name = f"{name}-{hashlib.sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{module}/{name}.yaml"


_MARKER = "miniagents_cassette"
_FIXTURE = "stream_cassette"


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Insert the cassette fixture as the first one into tests that have the marker, but do not name the fixture."""
    if item.get_closest_marker(_MARKER) is None or not isinstance(item, pytest.Function):
        return
    if _FIXTURE not in item.fixturenames:
        item.fixturenames.insert(0, _FIXTURE)


def may_record(item: pytest.Item) -> bool:
    """Return True if a test uses a cassette with a record mode that may send requests."""
    has_cassette = item.get_closest_marker(_MARKER) is not None or _FIXTURE in getattr(item, "fixturenames", ())
    return has_cassette and _record_mode(item) != "none"


def allowed_hosts(item: pytest.Item) -> Any:
    """Return `allow_hosts` of a test's marker, else of the ini file."""
    marker = item.get_closest_marker(_MARKER)
    hosts = item.config.getini("miniagents_allow_hosts")
    return hosts if marker is None else marker.kwargs.get("allow_hosts", hosts)


@pytest.fixture
def stream_cassette(request: pytest.FixtureRequest) -> Session:
    """Open the cassette of the test, and return its session, with `misses`, `unplayed`, `incomplete` and `timeline()`.

    The test fails if it sends a request that is not in the cassette, even if the application catches that error. It
    fails, too, if it leaves interactions of the cassette unplayed.
    """
    with fail_without_extra(_FIXTURE):
        from miniagents_testing.cassette import use_cassette

    item = request.node
    arguments = _arguments(item)
    return enter_until_test_ends(item, use_cassette(_path(item, arguments.pop("name")), **arguments))


def _arguments(item: Any) -> dict[str, Any]:
    """Return the settings for `use_cassette`, and under `name` the name in the marker, or None."""
    marker = item.get_closest_marker(_MARKER)
    arguments = {"name": None} if marker is None else {"name": None, **marker.kwargs}
    if marker is not None and marker.args:
        arguments["name"], *others = marker.args
        if others or not isinstance(arguments["name"], (str, os.PathLike)):
            pytest.fail(f"{item.nodeid}: {_MARKER} takes the name of one cassette, and settings by name", pytrace=False)
    arguments["record_mode"] = _record_mode(item)
    for name in ("allow_hosts", "ignore_hosts"):
        if name not in arguments and (hosts := item.config.getini(f"miniagents_{name}")):
            arguments[name] = hosts
    if (pace := item.config.getoption("--miniagents-pace")) is not None:
        arguments["pace"] = pace
    return arguments


def _record_mode(item: Any) -> Any:
    """Return the record mode of the command line, else of the marker, else of the ini file."""
    marker = item.get_closest_marker(_MARKER)
    marked = {} if marker is None else marker.kwargs
    return item.config.getoption("--miniagents-record") or marked.get(
        "record_mode", item.config.getini("miniagents_record")
    )


def _path(item: Any, name: str | os.PathLike[str] | None) -> Path:
    """Return the path of a test's cassette: the marker's name, or by default one made of file and test.

    The name is below the cassette folder. The test fails if a relative name leads out of it.
    """
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
