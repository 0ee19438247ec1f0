"""The guard against live requests in pytest: the tests that it is on for, and its report of hidden refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]

BLOCK_ALL = "miniagents_block_live_requests = true"
LOOK_UP = "    socket.getaddrinfo('api.example.com', 443)\n"
HIDDEN_LOOK_UP = f"    try:\n    {LOOK_UP}    except Exception:\n        pass\n"
CONNECT = "    socket.create_connection(('127.0.0.1', server.getsockname()[1])).close()\n"
SERVER = """
@pytest.fixture
def server():
    with socket.create_server(('127.0.0.1', 0)) as server:
        yield server

"""


def test_X13_the_ini_file_blocks_live_requests_in_all_tests(project: Project) -> None:
    """With the ini option, a test that sends a live request fails once, with a message that says what to do."""
    result = project(f"def test_live():\n{LOOK_UP}", ini=BLOCK_ALL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *LiveRequestError: The address of api.example.com was about to be looked up*",
            "E *in test_live",
            "E *@pytest.mark.miniagents_allow_loopback.",
        ]
    )


@pytest.mark.parametrize("where", ["setup", "call", "teardown"])
def test_X13_a_test_that_hides_a_refusal_fails_at_its_teardown(project: Project, where: str) -> None:
    """When a test catches the guard's refusal in setup, call or teardown, its teardown fails and names the function."""
    source = {
        "setup": f"@pytest.fixture\ndef thing():\n{HIDDEN_LOOK_UP}\ndef test_hides(thing):\n    pass\n",
        "call": f"def test_hides():\n{HIDDEN_LOOK_UP}",
        "teardown": f"@pytest.fixture\ndef thing():\n    yield\n{HIDDEN_LOOK_UP}\ndef test_hides(thing):\n    pass\n",
    }[where]
    result = project(f"{source}\ndef test_next():\n    pass\n", ini=BLOCK_ALL)
    result.assert_outcomes(passed=2, errors=1)
    line = "test_hides" if where == "call" else "thing"
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_hides*", "The network was tried, and the refusal was caught (1):", f"*in {line}"]
    )


@pytest.mark.parametrize(
    "asks",
    [
        "@pytest.mark.miniagents_virtual_time\n@pytest.mark.asyncio\nasync def test_live():\n",
        "def test_live(virtual_clock):\n",
        "@pytest.mark.miniagents_allow_loopback\ndef test_live():\n",
    ],
    ids=["marker", "fixture", "loopback"],
)
def test_X13_live_requests_are_blocked_in_tests_that_use_the_plugin(project: Project, asks: str) -> None:
    """A marker or a fixture of the plugin turns the guard on; other tests of the project may connect."""
    result = project(
        f"{SERVER}{asks}{LOOK_UP}\ndef test_other(server):\n{CONNECT}",
    )
    result.assert_outcomes(failed=1, passed=1)


def test_marker_allows_connections_to_this_machine(project: Project) -> None:
    """With a marker, a guarded test may connect to this machine; without it, such a connection is refused."""
    result = project(
        f"{SERVER}"
        f"def test_not(server):\n{CONNECT}\n"
        f"@pytest.mark.miniagents_allow_loopback\ndef test_allowed(server):\n{CONNECT}",
        ini=BLOCK_ALL,
    )
    result.assert_outcomes(failed=1, passed=1)


def test_hidden_refusal_is_reported_beside_an_unrelated_failure(project: Project) -> None:
    """A test that catches a refusal and then fails keeps its failure, and its teardown reports the refusal."""
    result = project(f"def test_both():\n{HIDDEN_LOOK_UP}    assert 1 == 2\n", ini=BLOCK_ALL)
    result.assert_outcomes(failed=1, errors=1)


def test_guard_is_stopped_after_a_test_that_was_skipped_or_could_not_start(project: Project) -> None:
    """After a guarded test that was skipped or failed in setup, the next test runs without the guard."""
    result = project(
        f"{SERVER}"
        "def test_skips(virtual_clock):\n    pytest.skip('not today')\n"
        "@pytest.fixture\ndef broken(virtual_clock):\n    raise ValueError\n"
        "def test_breaks(broken):\n    pass\n"
        f"def test_other(server):\n{CONNECT}",
    )
    result.assert_outcomes(skipped=1, errors=1, passed=1)
