"""Virtual time for tests with the marker or the fixture, under pytest-asyncio, anyio's plugin, or neither of them."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Iterator

    from miniagents_testing._clock import VirtualClock, VirtualTimeLoop

    Chosen = tuple[int | None, str | None]
    """Seed and token of a schedule; None and None for asyncio's own order of callbacks."""
    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_MARKER = "miniagents_virtual_time"
_FIXTURE = "virtual_clock"

_has_virtual_tests: pytest.StashKey[bool] = pytest.StashKey()
"""True once a test in virtual time was collected in this session."""


def pytest_configure(config: pytest.Config) -> None:
    """Let `search_schedules` and `schedules` use one schedule only, if the command line gives its seed or token."""
    seed, token = _of_command_line(config)
    if seed is not None or token is not None:
        from miniagents_testing._schedules import replay_only

        replay_only(seed, token)
        config.add_cleanup(lambda: replay_only(None))


# --- the settings of a test


def _wants_virtual_time(node: Any) -> bool:
    """Return True if a test has the marker or the fixture."""
    return node.get_closest_marker(_MARKER) is not None or _FIXTURE in getattr(node, "fixturenames", ())


def _of_command_line(config: pytest.Config) -> Chosen:
    """Return seed and token of the schedule that the command line chooses; None for what it does not say."""
    return config.getoption("--miniagents-schedule-seed"), config.getoption("--miniagents-schedule")


def _schedules(node: Any) -> dict[str, Chosen]:
    """Return the schedules of a test, by the id of its test case: from the command line, else as the marker says."""
    arguments = _arguments(node)
    chosen = _of_command_line(node.config)
    if chosen == (None, None):
        if arguments.get("schedules") is not None:
            return {f"seed{seed}": (seed, None) for seed in range(arguments["schedules"])}
        chosen = arguments.get("seed"), arguments.get("schedule")
    return {f"seed{chosen[0]}": chosen}


def _arguments(node: Any) -> dict[str, Any]:
    """Return the arguments of a test's marker. Fail the test if the marker does not know them."""
    marker = node.get_closest_marker(_MARKER)
    if marker is None:
        return {}
    if marker.args or not {"seed", "schedules", "schedule", "timeout"}.issuperset(marker.kwargs):
        pytest.fail(f"{node.nodeid}: {_MARKER} takes seed=, schedules=, schedule= and timeout= only", pytrace=False)
    return dict(marker.kwargs)


def _loop_factories(node: Any) -> dict[str, LoopFactory]:
    """Return a factory of virtual-time loops, with the marker's timeout, for each schedule, by its test case's id."""
    timeout = _arguments(node).get("timeout")
    return {
        case: _LoopFactory(seed=seed, schedule=token, timeout=timeout)
        for case, (seed, token) in _schedules(node).items()
    }


class _LoopFactory:
    """Factory of virtual-time loops that remembers the newest one; the arguments are those of the loop."""

    newest: VirtualTimeLoop | None = None

    def __init__(self, **options: Any) -> None:
        self._options = options

    def __call__(self) -> VirtualTimeLoop:
        """Make a virtual-time loop, and remember it as `newest`."""
        from miniagents_testing._clock import VirtualTimeLoop

        self.newest = VirtualTimeLoop(**self._options)
        return self.newest


def _case_ids(names: Any) -> list[Any]:
    """Return ids for the test cases of these names. A single case gets no id, so that the name of the test stays."""
    return list(names) if len(names) > 1 else [pytest.HIDDEN_PARAM]


# --- the loop of a test


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, object, object]:
    """Parametrize a test in virtual time with one loop for each schedule, for the plugin that runs it.

    The plugin is anyio's or pytest-asyncio; a sync test has the schedules as parameters of its fixture.
    """
    node = metafunc.definition
    if not _wants_virtual_time(node) and _FIXTURE not in metafunc.fixturenames:
        return (yield)
    if "anyio_backend" in metafunc.fixturenames:
        factories = _loop_factories(node)
        backends = [("asyncio", {"loop_factory": factory}) for factory in factories.values()]
        # a parametrization by a marker goes before that of the fixture
        node.add_marker(pytest.mark.parametrize("anyio_backend", backends, ids=_case_ids(factories)))
    elif not _is_async(node.obj):
        if _FIXTURE in metafunc.fixturenames:
            chosen = _schedules(node)
            metafunc.parametrize(_FIXTURE, list(chosen.values()), ids=_case_ids(chosen), indirect=True)
    else:
        marker = node.get_closest_marker("asyncio")
        if marker is not None and "loop_factories" in marker.kwargs:
            pytest.fail(f"{node.nodeid} asks for virtual time, and for loop_factories of its own", pytrace=False)
    node.config.stash[_has_virtual_tests] = True
    with _registered(node.config, _loop_factories(node)):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Make pytest-asyncio set up fixtures again that belong to the loop of another test.

    It does so only while its hook for loop factories is implemented. The implementation that is registered here gives
    no factory. So tests without the marker are affected only after a test in virtual time was collected.
    """
    if not item.config.stash.get(_has_virtual_tests, False):
        return (yield)
    with _registered(item.config, {}):
        return (yield)


class _LoopFactories:
    """Implementation of the loop factory hook of pytest-asyncio, for one test."""

    def __init__(self, factories: dict[str, LoopFactory]) -> None:
        self._factories = factories

    @pytest.hookimpl(tryfirst=True)
    def pytest_asyncio_loop_factories(self, config: pytest.Config, item: pytest.Item) -> dict[str, LoopFactory]:
        """Return the loop factories of the test, by the ids of their test cases."""
        return self._factories


@contextmanager
def _registered(config: pytest.Config, factories: dict[str, LoopFactory]) -> Iterator[None]:
    """Implement the loop factory hook of pytest-asyncio inside the `with` block.

    A permanent implementation would have to answer for every async test, and would silently replace the project's own.
    """
    plugins = config.pluginmanager
    plugins.register(implementation := _LoopFactories(factories))
    try:
        yield
    finally:
        plugins.unregister(implementation)


# --- the run of a test


def _is_async(function: Any) -> bool:
    """Return True for a coroutine function, also under Hypothesis' `@given`."""
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test in virtual time before its call if its loop is no loop of virtual time.

    If the call fails, add the schedule of the loop to the error.
    """
    if not _wants_virtual_time(item) or not isinstance(item, pytest.Function):
        return (yield)
    if not _is_async(item.obj):
        _check_use_of_marker(item)
        return (yield)
    from miniagents_testing._clock import add_schedule_note
    from miniagents_testing.errors import IdleLoopError, VirtualTimeoutError

    _checked_loop(item)
    try:
        return (yield)
    except (IdleLoopError, VirtualTimeoutError) as error:
        # the traceback shows the loop only; the message has the lines where the tasks wait
        add_schedule_note(error, _checked_loop(item))
        text = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
        raise pytest.fail.Exception(text, pytrace=False) from None
    except (Exception, pytest.fail.Exception) as error:
        add_schedule_note(error, _checked_loop(item))
        raise


def _check_use_of_marker(item: pytest.Function) -> None:
    """Fail a test that is not async, and has the marker but not the fixture: the marker would have no effect."""
    if _FIXTURE not in item.fixturenames and any(mark.name == _MARKER for mark in item.own_markers):
        pytest.fail(
            f"{item.nodeid} asks for virtual time, but is not async: use the fixture {_FIXTURE}, "
            f"as in {_FIXTURE}.run(coroutine())",
            pytrace=False,
        )


def _checked_loop(item: pytest.Function) -> VirtualTimeLoop:
    """Return the virtual-time loop among the fixtures of an async test. Fail the test if there is none."""
    from miniagents_testing._clock import VirtualTimeLoop

    loop = _find_loop(item.funcargs)
    if not isinstance(loop, VirtualTimeLoop):
        pytest.fail(
            f"{item.nodeid} asks for virtual time, but {f'its loop is {loop}' if loop else 'no plugin runs it'}. "
            f"Install pytest-asyncio 1.4 or later, use anyio's plugin, or write a test that is not async with the "
            f"fixture {_FIXTURE} or with run_in_virtual_time().",
            pytrace=False,
        )
    return loop


def _find_loop(funcargs: dict[str, Any]) -> Any:
    """Return the loop of pytest-asyncio's runner, or of anyio's plugin: before it has one, a closed one of its kind.

    If neither is there, return the anyio backend, or None.
    """
    import asyncio

    for value in funcargs.values():
        if isinstance(value, asyncio.Runner):
            return value.get_loop()
    match funcargs.get("anyio_backend"):
        case ("asyncio", {"loop_factory": _LoopFactory(newest=loop)}) if loop is not None:
            return loop
        case ("asyncio", {"loop_factory": factory}):
            loop = factory()
            loop.close()
            return loop
        case backend:
            return backend


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> VirtualClock:
    """Return the clock of virtual time: `time()` is for all tests, `run(coroutine())` for tests that are not async."""
    from miniagents_testing._clock import VirtualClock

    seed, token = getattr(request, "param", (None, None))
    return VirtualClock(seed=seed, schedule=token, timeout=_arguments(request.node).get("timeout"))
