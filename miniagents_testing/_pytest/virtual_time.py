"""Virtual time for marked tests, whichever plugin runs them: pytest-asyncio, anyio's, or none."""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Iterator

    from miniagents_testing._clock import VirtualClock, VirtualTimeLoop

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_MARKER = "miniagents_virtual_time"
_FIXTURE = "virtual_clock"

_gives_loops: pytest.StashKey[bool] = pytest.StashKey()
"""Whether a test of this session runs in virtual time."""


def pytest_configure(config: pytest.Config) -> None:
    """The option counts for those, too, who ask for `schedules()` themselves."""
    seed = config.getoption("--miniagents-schedule-seed")
    if seed is not None:
        from miniagents_testing._clock import replay_only

        replay_only(seed)
        config.add_cleanup(lambda: replay_only(None))


# --- what a test asks for


def _asked(node: Any) -> bool:
    return node.get_closest_marker(_MARKER) is not None or _FIXTURE in getattr(node, "fixturenames", ())


def _seeds(node: Any) -> list[int | None]:
    """The seeds that a test is to be run with, one after the other."""
    chosen: int | None = node.config.getoption("--miniagents-schedule-seed")
    arguments = _arguments(node)
    if chosen is not None:
        return [chosen]
    if arguments.get("schedules") is not None:
        return list(range(arguments["schedules"]))
    return [arguments.get("seed")]


def _arguments(node: Any) -> dict[str, Any]:
    marker = node.get_closest_marker(_MARKER)
    if marker is None:
        return {}
    if marker.args or not {"seed", "schedules", "timeout"}.issuperset(marker.kwargs):
        pytest.fail(f"{node.nodeid}: {_MARKER} takes seed=, schedules= and timeout= only", pytrace=False)
    return dict(marker.kwargs)


def _factories(node: Any) -> dict[str, LoopFactory]:
    """A loop factory for each seed, by the name that tells the test cases from each other."""
    from miniagents_testing._clock import VirtualTimeLoop

    timeout = _arguments(node).get("timeout")
    return {f"seed{seed}": functools.partial(VirtualTimeLoop, seed=seed, timeout=timeout) for seed in _seeds(node)}


def _ids(names: Any) -> list[Any]:
    return list(names) if len(names) > 1 else [pytest.HIDDEN_PARAM]


# --- giving it the loop


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, object, object]:
    """Have the plugin that will run a test in virtual time make our loop."""
    node = metafunc.definition
    if not _asked(node) and _FIXTURE not in metafunc.fixturenames:
        return (yield)
    if "anyio_backend" in metafunc.fixturenames:
        factories = _factories(node)
        backends = [("asyncio", {"loop_factory": factory}) for factory in factories.values()]
        # a parametrization by a marker is the one that counts beside the fixture's own
        node.add_marker(pytest.mark.parametrize("anyio_backend", backends, ids=_ids(factories)))
    elif not _is_async(node.obj):
        if _FIXTURE in metafunc.fixturenames:
            seeds = _seeds(node)
            metafunc.parametrize(_FIXTURE, seeds, ids=_ids([f"seed{seed}" for seed in seeds]), indirect=True)
    else:
        marker = node.get_closest_marker("asyncio")
        if marker is not None and "loop_factories" in marker.kwargs:
            pytest.fail(f"{node.nodeid} asks for virtual time, and for loop_factories of its own", pytrace=False)
    node.config.stash[_gives_loops] = True
    with _registered(node.config, _factories(node)):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Let pytest-asyncio see that there are loop factories: only then does it set up again what had another loop.

    It asks nobody here for a factory, so that this concerns tests that are not marked only in so far as one before was.
    """
    if not item.config.stash.get(_gives_loops, False):
        return (yield)
    with _registered(item.config, {}):
        return (yield)


class _LoopFactories:
    """The hook of pytest-asyncio, for one test."""

    def __init__(self, factories: dict[str, LoopFactory]) -> None:
        self._factories = factories

    @pytest.hookimpl(tryfirst=True)
    def pytest_asyncio_loop_factories(self, config: pytest.Config, item: pytest.Item) -> dict[str, LoopFactory]:
        """The loops that the test is run on."""
        return self._factories


@contextmanager
def _registered(config: pytest.Config, factories: dict[str, LoopFactory]) -> Iterator[None]:
    """Implement the hook of pytest-asyncio for a while.

    It must not be there all the time: it would have to answer for every async test, and would silently take the place
    of the project's own.
    """
    plugins = config.pluginmanager
    plugins.register(ours := _LoopFactories(factories))
    try:
        yield
    finally:
        plugins.unregister(ours)


# --- running it


def _is_async(function: Any) -> bool:
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a marked test whose loop is not ours, before it runs; say with which schedule a test has failed."""
    if not _asked(item) or not isinstance(item, pytest.Function):
        return (yield)
    if not _is_async(item.obj):
        _check_that_it_runs_something(item)
        return (yield)
    from miniagents_testing._clock import name_seed
    from miniagents_testing.errors import IdleLoopError, VirtualTimeoutError

    seed = _checked_loop(item).seed
    try:
        return (yield)
    except (IdleLoopError, VirtualTimeoutError) as error:
        # its traceback is that of the loop; the lines that count are in the message
        name_seed(error, seed)
        text = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
        raise pytest.fail.Exception(text, pytrace=False) from None
    except (Exception, pytest.fail.Exception) as error:
        name_seed(error, seed)
        raise


def _check_that_it_runs_something(item: pytest.Function) -> None:
    if _FIXTURE not in item.fixturenames and any(mark.name == _MARKER for mark in item.own_markers):
        pytest.fail(
            f"{item.nodeid} asks for virtual time, but is not async: use the fixture {_FIXTURE}, "
            f"as in {_FIXTURE}.run(coroutine())",
            pytrace=False,
        )


def _checked_loop(item: pytest.Function) -> VirtualTimeLoop:
    """The loop that an async test is about to run on, or one like it."""
    from miniagents_testing._clock import VirtualTimeLoop

    loop = _loop(item.funcargs)
    if not isinstance(loop, VirtualTimeLoop):
        pytest.fail(
            f"{item.nodeid} asks for virtual time, but {f'its loop is {loop}' if loop else 'nobody runs it'}. It can "
            f"be had with pytest-asyncio 1.4 or later, with anyio's plugin, or in a test that is not async with the "
            f"fixture {_FIXTURE}, or with run_in_virtual_time().",
            pytrace=False,
        )
    return loop


def _loop(funcargs: dict[str, Any]) -> Any:
    """The loop that a test will run on: pytest-asyncio's runner has it; anyio's plugin is yet to make one like it."""
    import asyncio

    for value in funcargs.values():
        if isinstance(value, asyncio.Runner):
            return value.get_loop()
    match funcargs.get("anyio_backend"):
        case ("asyncio", {"loop_factory": factory}):
            loop = factory()
            loop.close()
            return loop
        case backend:
            return backend


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> VirtualClock:
    """Virtual time: for tests that are not async, `virtual_clock.run(coroutine())`; for all, `virtual_clock.time()`."""
    from miniagents_testing._clock import VirtualClock

    return VirtualClock(seed=getattr(request, "param", None), timeout=_arguments(request.node).get("timeout"))
