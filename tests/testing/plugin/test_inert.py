"""The plugin in projects that do not use it: it is loaded for every project, and changes nothing there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from miniagents_testing import plugin
from miniagents_testing._pytest import FIXTURES

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Project = Callable[..., pytest.RunResult]

OPTIONS_OF_OTHERS = {"--record-mode", "--block-network", "--allowed-hosts", "--disable-recording", "--record"}
FIXTURES_OF_OTHERS = {"vcr", "vcr_config", "cassette", "record_mode", "llm_cassette", "block_network", "allowed_hosts"}

PROJECT = """
import asyncio, socket, threading
import pytest

@pytest.fixture(params=[1, 2])
def number(request):
    return request.param

def test_plain(number, tmp_path):
    assert number

@pytest.mark.asyncio
async def test_asyncio():
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(0.001)
    assert 0 < asyncio.get_running_loop().time() - before

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(anyio_backend):
    pass

def test_socket():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()

def test_fails():
    assert 1 == 2
"""


def test_plugin_changes_nothing_for_tests_that_do_not_use_it(pytester: pytest.Pytester) -> None:
    """Pytest prints the same names, outcomes and warnings of a project's tests with the plugin and without it."""
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers -p no:randomly -p no:cacheprovider\n"
        "asyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makepyfile(test_it=PROJECT)
    outputs = []
    for arguments in (["-p", "no:miniagents"], []):
        result = pytester.runpytest_inprocess("-v", *arguments)
        result.assert_outcomes(passed=5, failed=1)
        outputs.append([line for line in result.outlines if not line.startswith(("plugins:", "=", "cachedir:"))])
    assert outputs[0] == outputs[1]


def test_options_ini_names_and_fixtures_collide_with_no_other_plugin() -> None:
    """Options and ini names begin with "miniagents", and no fixture has the name of a known plugin's."""

    class Spy:
        def __init__(self) -> None:
            self.names: list[str] = []

        def __getattr__(self, name: str) -> Callable[..., Spy]:
            def note(*arguments: object, **options: object) -> Spy:
                if name in ("addoption", "addini"):
                    self.names.append(str(arguments[0]))
                return self

            return note

    spy: Any = Spy()
    plugin.pytest_addoption(spy)
    fixtures: set[str] = set()
    for name in plugin.PARTS:
        module = import_module(name)
        assert not hasattr(module, "pytest_addoption")  # topics are loaded too late for options
        fixtures |= {
            name for name, value in vars(module).items() if type(value).__name__ == "FixtureFunctionDefinition"
        }
    assert len(spy.names) > 3
    assert all(name.startswith(("--miniagents-", "miniagents_")) for name in spy.names)
    assert not OPTIONS_OF_OTHERS & set(spy.names)
    assert {name for name in fixtures if not name.startswith("miniagents_")} <= FIXTURES | {"cassette_settings"}
    assert not FIXTURES_OF_OTHERS & fixtures


def test_plugin_has_no_autouse_fixtures() -> None:
    """The source of the plugin has no autouse fixture, which would be set up for every test of every project."""
    for name in plugin.PARTS:
        assert "autouse" not in inspect.getsource(import_module(name))


def test_plugin_imports_pytest_and_the_standard_library_only() -> None:
    """The plugin loads none of its parts at once; the parts import pytest and the standard library, not asyncio."""
    code = (
        "import sys, pytest, importlib\n"
        "before = set(sys.modules)\n"
        "import miniagents_testing.plugin as plugin\n"
        "assert not set(plugin.PARTS) & set(sys.modules)\n"
        "for name in plugin.PARTS: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert loaded - set(sys.stdlib_module_names) == {"miniagents_testing"}
    assert "asyncio" not in loaded


def test_plugin_can_be_disabled(pytester: pytest.Pytester) -> None:
    """With the option `-p no:miniagents`, the help of pytest has no option of the plugin."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    result = pytester.runpytest_inprocess("--help", "-p", "no:miniagents")
    result.stdout.no_fnmatch_line("*miniagents*seed*")


def test_plugin_works_beside_xdist_randomly_and_recording(pytester: pytest.Pytester) -> None:
    """Tests in virtual time pass under pytest-xdist and pytest-randomly, with the options of pytest-recording."""
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "miniagents_block_live_requests = true\n"
    )
    pytester.makepyfile(
        test_it="import asyncio, pytest\n"
        "@pytest.mark.miniagents_virtual_time(schedules=10)\n"
        "async def test_virtual():\n"
        "    await asyncio.sleep(3600)\n"
        "def test_sync(virtual_clock):\n"
        "    virtual_clock.run(asyncio.sleep(3600))\n"
        "@pytest.mark.vcr\n"
        "async def test_recorded():\n"
        "    pass\n"
    )
    result = pytester.runpytest_subprocess("-n", "1", "-p", "randomly", "--record-mode=none", "--block-network")
    result.assert_outcomes(passed=12)
