"""Cassettes of tests, of modules and of the session: their names, their arguments and their record modes.

The command line goes before the marker, the marker before the nearest fixture `cassette_settings`, and that before the
ini file.

A fixture that several tests share is set up during the test that happens to come first. So cassettes of narrower scope
are out of its reach: its requests go to a wider one, or fail.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest import GUARD, fail_without_extra
from miniagents_testing._pytest.reports import reported
from miniagents_testing._words import short_path, similar_paths

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

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
    # which some file systems ignore. Names of functions seldom differ in case only, so they go without a digest. The
    # cassette of the module has the name "module".
    if name != test or parameters != parameters.casefold() or name.casefold() == "module":
        name = f"{name}-{hashlib.sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{module}/{name}.yaml"


_MARKER = "miniagents_cassette"
_FIXTURE = "stream_cassette"
_SETTINGS = "cassette_settings"


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the cassette be the first fixture of a test that is set up for each test anew.

    So the requests of the other ones are in the cassette. A test with the marker gets the fixture if it lacks it.
    """
    if not isinstance(item, pytest.Function):
        return
    names = item.fixturenames
    if item.get_closest_marker(_MARKER) is None and _FIXTURE not in names:
        return
    if _FIXTURE in names:
        names.remove(_FIXTURE)
    found = item._fixtureinfo.name2fixturedefs
    wider = (index for index, name in enumerate(names, 1) if name in found and found[name][-1].scope != "function")
    names.insert(max(wider, default=0), _FIXTURE)


def uses_cassette(item: pytest.Item) -> bool:
    """Return True if a test has a cassette, of its own or shared with others."""
    names = {_FIXTURE, "module_cassette", "session_cassette"}
    return item.get_closest_marker(_MARKER) is not None or not names.isdisjoint(getattr(item, "fixturenames", ()))


def may_record(item: pytest.Item) -> bool:
    """Return True if a test uses a cassette with a record mode that may send requests.

    The mode is that of the command line, the marker or the ini file; see `open_cassette` for that of a fixture.
    """
    return uses_cassette(item) and (
        _from_ini_and_marker(item)["record_mode"] != "none" or item.config.stash.get(_recording, 0) > 0
    )


def allowed_hosts(item: pytest.Item) -> Any:
    """Return `allow_hosts` of a test's marker, else of the ini file."""
    return _from_ini_and_marker(item).get("allow_hosts", ())


def ignored_hosts(item: pytest.Item) -> Any:
    """Return `ignore_hosts` of a test's marker, else of the ini file."""
    return _from_ini_and_marker(item).get("ignore_hosts", ())


def allows_loopback(item: pytest.Item) -> bool:
    """Return True if a test may connect to this machine: by its marker, or because it starts a server."""
    return item.get_closest_marker("miniagents_allow_loopback") is not None or "provider_server" in getattr(
        item, "fixturenames", ()
    )


# --- settings


def settings_for(request: pytest.FixtureRequest, node: Any) -> dict[str, Any]:
    """Return the arguments of `use_cassette` for the cassette of a test, of a module or of the session.

    A value of the command line goes before that of the marker, which goes before that of `cassette_settings`, which
    goes before that of the ini file. Values are replaced, and never merged.

    Args:
        request: of the fixture that opens the cassette.
        node: the test, the module or the session.
    """
    arguments = {**_from_ini(node.config), **_checked(_from_fixture(request, node), f"{_SETTINGS} of {node.nodeid}")}
    if (marker := node.get_closest_marker(_MARKER)) is not None:
        arguments |= _checked(_without_name(marker), f"{node.nodeid}: {_MARKER}")
    return arguments | _from_command_line(node.config)


def _from_ini(config: pytest.Config) -> dict[str, Any]:
    """Return the settings that the ini file gives: the record mode, and the lists that are not empty."""
    lists = {name: config.getini(f"miniagents_{name}") for name in ("allow_hosts", "ignore_hosts", "drop_headers")}
    return {"record_mode": config.getini("miniagents_record"), **{name: each for name, each in lists.items() if each}}


def _from_command_line(config: pytest.Config) -> dict[str, Any]:
    """Return the settings that the command line gives: record mode and pace, if they are given."""
    options = {"record_mode": "--miniagents-record", "pace": "--miniagents-pace"}
    given = {name: config.getoption(option) for name, option in options.items()}
    return {name: value for name, value in given.items() if value is not None}


def _from_ini_and_marker(item: pytest.Item) -> dict[str, Any]:
    """Return the settings of a test that are known before its fixtures are set up.

    The command line goes before the marker, and the marker before the ini file.
    """
    marker = item.get_closest_marker(_MARKER)
    marked = {} if marker is None else _without_name(marker)
    return {**_from_ini(item.config), **marked, **_from_command_line(item.config)}


def _from_fixture(request: pytest.FixtureRequest, node: Any) -> Any:
    """Return the value of the nearest fixture `cassette_settings` of a test, a module or the session.

    That of a module is the same for each of its tests, so it is not looked for in their classes.
    """
    if not isinstance(node, pytest.Item):
        nearest = request.session._fixturemanager.getfixturedefs(_SETTINGS, node)[-1]  # type: ignore[index]  # the plugin has one
        if not nearest.argnames and not inspect.isgeneratorfunction(nearest.func):
            return nearest.func()  # also where its scope is narrower
    return request.getfixturevalue(_SETTINGS)


def _checked(settings: Any, whose: str) -> dict[str, Any]:
    """Return settings as they are. Fail the test if they are no dict, or have names that no cassette knows."""
    from miniagents_testing.cassette import SETTINGS

    if not isinstance(settings, dict):
        pytest.fail(f"{whose} must be a dict of settings, not {settings!r}", pytrace=False)
    unknown = [str(name) for name in settings if name not in SETTINGS]
    if unknown:
        pytest.fail(
            f"{whose} has unknown settings: {', '.join(unknown)}. Known are {', '.join(SETTINGS)}", pytrace=False
        )
    return settings


def _wrong_setting(node: Any, error: Exception) -> BaseException:
    """Return the failure, without a traceback, of a test or a module whose cassette has a wrong setting."""
    return pytest.fail.Exception(f"{node.nodeid}: a setting of the cassette is wrong: {error}", pytrace=False)


def _without_name(marker: pytest.Mark) -> dict[str, Any]:
    """Return the settings in a marker: its keyword arguments without the name of the cassette."""
    return {name: value for name, value in marker.kwargs.items() if name != "name"}


# --- the cassette of a test


class _OpenCassette:
    """Cassette of a test, from its setup until the call ends, or until the fixtures have ended if one has a teardown.

    So an error of closing fails the test itself where it can, and requests of a teardown are in the cassette.
    """

    def __init__(self, context: AbstractContextManager[Session], path: Path, command: str, *, is_typed: bool) -> None:
        self.session = context.__enter__()
        self._path = path
        self._is_typed = is_typed
        self._command = command
        self.outlives_call = False
        self._context: AbstractContextManager[Session] | None = context
        self._error: BaseException | None = pytest.skip.Exception("the test was not run")

    def call_ends(self, error: BaseException | None) -> None:
        """Close the cassette; `error` is the error of the test's call, None if the call passed.

        If a teardown may use the cassette, keep it open, and only check that all requests were answered.
        """
        self._error = error
        if not self.outlives_call:
            self.close()
        elif error is None:
            try:
                self.session.assert_answered()
            except BaseException as miss:
                self._error = miss
                raise
        else:
            self.session.add_notes(error)

    @property
    def was_asked(self) -> bool:
        """True if the test has sent a request to the cassette: one was played, recorded or missed."""
        session = self.session
        return bool(session.recorded or session.misses or len(session.unplayed) < len(session.interactions))

    def describe_failure(self, error: BaseException) -> str:
        """Return a text for a failed test: that its cassette is missing, or else which recorded failures were played.

        A missing cassette counts only if the session does not record, no request missed, and `error` is no
        `pytest.fail`. A client without an API key fails so, before its first request. `pytest.fail` has other reasons:
        pytest calls it for an async test that no plugin runs.

        Return an empty text if neither applies.
        """
        is_said = isinstance(error, pytest.fail.Exception)
        if is_said or self.session.records or self.session.misses or self._path.exists():
            return self.session.describe_played_failures()
        question = similar_paths(self._path) if self._is_typed else ""
        return "\n".join(
            [
                f"there is no cassette {short_path(self._path)} yet",
                *([f"  {question}"] if question else []),
                f"  to record it: {self._command}once (to play one, any key will do: OPENAI_API_KEY=none)",
            ]
        )

    def close(self) -> None:
        """Close the cassette, if it is open. A test that has failed, or was not run, gets no second failure."""
        if self._context is not None:
            context, self._context = self._context, None
            error = self._error
            context.__exit__(*((None, None, None) if error is None else (type(error), error, error.__traceback__)))


_opened: pytest.StashKey[_OpenCassette] = pytest.StashKey()
_last_users: pytest.StashKey[dict[Path, str]] = pytest.StashKey()
"""The last test of this run that has sent a request to each cassette."""


@pytest.fixture
def stream_cassette(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Open the cassette of the test, and return its session, with `misses`, `unplayed`, `incomplete` and `timeline()`.

    The test fails if it sends a request that is not in the cassette, even if the application catches that error. It
    fails, too, if it leaves interactions of the cassette unplayed. Requests of its fixtures are in the cassette, too.
    """
    item = request.node
    name = _name_in_marker(item)
    path, is_typed = _path(item, name), name is not None
    users = request.config.stash.setdefault(_last_users, {})
    other = users.get(path, "")
    other_user = other if other != item.nodeid else ""  # a test can run more than once
    context = open_cassette(request, _FIXTURE, path, item, width=0, other_user=other_user, is_typed=is_typed)
    opened = item.stash[_opened] = _OpenCassette(context, path, recording_command(item), is_typed=is_typed)
    yield opened.session
    try:
        opened.close()
    finally:
        if opened.was_asked:
            users[path] = item.nodeid


def open_cassette(
    request: pytest.FixtureRequest,
    fixture: str,
    path: Path,
    node: Any,
    *,
    width: int,
    other_user: str = "",
    is_typed: bool = False,
    **defaults: Any,
) -> AbstractContextManager[Session]:
    """Return the context of a cassette of a test, a module or the session, with the settings that hold there.

    Args:
        request: of the fixture that opens the cassette.
        fixture: its name.
        path: of the cassette.
        node: see `settings_for`.
        width: see `use_shared_cassette`.
        other_user: see `use_shared_cassette`.
        is_typed: see `use_shared_cassette`.
        defaults: settings in place of those of `use_cassette`.
    """
    with fail_without_extra(fixture):
        from miniagents_testing.cassette import use_shared_cassette

    settings = {**defaults, **settings_for(request, node)}
    item = request.config.stash.get(current_item, None)
    command = recording_command(node)
    try:
        context = use_shared_cassette(
            path, width=width, command=command, other_user=other_user, is_typed=is_typed, **settings
        )
    except (TypeError, ValueError) as error:
        raise _wrong_setting(node, error) from None
    if settings["record_mode"] == "none":
        return context
    if item is not None and GUARD in item.stash:
        item.stash[GUARD].stop_blocking()  # only a fixture knew that requests are recorded
    _count_recording(request)
    return reported(request.config, path, context)


def recording_command(node: Any, option: str = "--miniagents-record") -> str:
    """Return the command line that runs a test or a module, with the option for the record mode at its end.

    It is empty for the session: recording one cassette again is no reason to record all of them.

    Args:
        node: the test, the module or the session.
        option: that has the record mode.
    """
    if not isinstance(node, (pytest.Item, pytest.Module)):
        return ""
    path = os.path.relpath(node.path, node.config.invocation_params.dir)
    name = "".join([path, *node.nodeid.partition("::")[1:]])
    return f"pytest {shlex.quote(name)} {option}="


_recording: pytest.StashKey[int] = pytest.StashKey()
"""Number of open cassettes that may record."""


def _count_recording(request: pytest.FixtureRequest) -> None:
    """Count one cassette more that may record, and one less when the fixture that has opened it ends."""
    stash = request.config.stash
    stash[_recording] = stash.get(_recording, 0) + 1

    def end() -> None:
        stash[_recording] -= 1

    request.addfinalizer(end)


def _name_in_marker(item: Any) -> str | os.PathLike[str] | None:
    """Return the name of the cassette in a test's marker, or None. Fail the test if the marker has more than one."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None or not (marker.args or "name" in marker.kwargs):
        return None
    names = [*marker.args, *(value for key, value in marker.kwargs.items() if key == "name")]
    name, *others = names
    if others or not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        got = ", ".join(map(repr, names))
        pytest.fail(
            f"{item.nodeid}: {_MARKER} takes the name of one cassette, such as 'greeting.yaml', and settings by name; "
            f"got {got}",
            pytrace=False,
        )
    return name


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


# --- the life of a test

current_item: pytest.StashKey[pytest.Item] = pytest.StashKey()
"""The test that is set up, called or torn down, in the stash of the configuration."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Note the test that runs, in the stash of the session, before its fixtures are set up."""
    __tracebackhide__ = True
    item.config.stash[current_item] = item
    return (yield)


@pytest.hookimpl(tryfirst=True, specname="pytest_runtest_setup")
def pytest_runtest_setup_checks_settings(item: pytest.Item) -> None:
    """Fail a test with a wrong setting in its marker before fixtures that several tests share need the setting.

    Without the extra, the fixture of the cassette says what to install.
    """
    if (marker := item.get_closest_marker(_MARKER)) is None:
        return
    try:
        from miniagents_testing.cassette import check_settings
    except ModuleNotFoundError:
        return
    settings = _checked(_without_name(marker), f"{item.nodeid}: {_MARKER}")
    try:
        check_settings(settings)
    except (TypeError, ValueError) as error:
        raise _wrong_setting(item, error) from None


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Keep the cassette of a test open until the teardown of its fixtures, if one has a teardown that may use it."""
    __tracebackhide__ = True
    item = request.config.stash.get(current_item, None)
    if item is not None and fixturedef.scope == "function" and _opened in item.stash:
        function = fixturedef.func
        package = getattr(function, "__module__", None) or ""
        if not package.startswith(_WITHOUT_REQUESTS) and (
            inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
            or "request" in fixturedef.argnames
        ):
            item.stash[_opened].outlives_call = True
    return (yield)


_WITHOUT_REQUESTS = ("_pytest.", "pytest_", "anyio.", "miniagents_testing.")
"""Beginnings of the modules whose fixtures send no requests."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a section to the report of a failed test whose cassette is missing, or has played failures."""
    report = yield
    opened = item.stash.get(_opened, None)
    if report.failed and opened is not None and call.excinfo is not None:
        text = opened.describe_failure(call.excinfo.value)
        report.sections += [("cassette", text)] if text else []
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Tell the cassette of a test that its call has ended, and with which error; the cassette may be closed then."""
    opened = item.stash.get(_opened, None)
    try:
        result = yield
    except BaseException as error:
        if opened is not None:
            opened.call_ends(error)
        raise
    if opened is not None:
        opened.call_ends(None)
    return result


_WIDTHS = {scope: width for width, scope in enumerate(("function", "class", "module", "package", "session"))}


def _given_to_tests(session: Session, request: pytest.FixtureRequest) -> Iterator[Session]:
    """Yield the session to the tests that share it; then note in the session if one of them has failed."""
    failed_before = request.session.testsfailed
    yield session
    session.shared_by_failed_test = request.session.testsfailed > failed_before


@pytest.fixture(scope="module")
def module_cassette(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Open the cassette that the fixtures of a module share, `<module>/module.yaml`, and return its session.

    A fixture of the scope `module` or `class` asks for it, and its requests go there. Interactions that were not played
    are no error, because not all tests of a module may run; each one is played as often as it is requested.
    """
    node = request.node
    path = node.path.parent / request.config.getini("miniagents_cassette_dir") / node.path.stem / "module.yaml"
    with open_cassette(request, "module_cassette", path, node, width=_WIDTHS["module"], unplayed="ignore") as session:
        yield from _given_to_tests(session, request)


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
        yield from _given_to_tests(session, request)


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
