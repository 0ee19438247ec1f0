"""The guard as pytest puts it on: which tests wear it, and that the one that tried is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]

BELT = "miniagents_block_live_requests = true"
LOOK_UP = "    socket.getaddrinfo('api.example.com', 443)\n"
SWALLOWED = f"    try:\n    {LOOK_UP}    except Exception:\n        pass\n"
CONNECT = "    socket.create_connection(('127.0.0.1', server.getsockname()[1])).close()\n"
SERVER = """
@pytest.fixture
def server():
    with socket.create_server(('127.0.0.1', 0)) as server:
        yield server

"""


def test_X13_a_project_can_have_it_on_all_tests(project: Project) -> None:
    """By one line of ini; a test that lets the refusal out fails once, and says what to do."""
    result = project(f"def test_live():\n{LOOK_UP}", ini=BELT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *LiveRequestError: The address of api.example.com was about to be looked up*",
            "E *in test_live",
            "E *@pytest.mark.miniagents_allow_loopback.",
        ]
    )


@pytest.mark.parametrize("where", ["setup", "call", "teardown"])
def test_X13_the_test_that_hid_it_is_named(project: Project, where: str) -> None:
    """Wherever it was tried on its behalf: the teardown fails, with the line, and the next test does not."""
    source = {
        "setup": f"@pytest.fixture\ndef thing():\n{SWALLOWED}\ndef test_hides(thing):\n    pass\n",
        "call": f"def test_hides():\n{SWALLOWED}",
        "teardown": f"@pytest.fixture\ndef thing():\n    yield\n{SWALLOWED}\ndef test_hides(thing):\n    pass\n",
    }[where]
    result = project(f"{source}\ndef test_next():\n    pass\n", ini=BELT)
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
def test_X13_tests_that_use_the_workshop_wear_it(project: Project, asks: str) -> None:
    """Who scripts a model does not mean to ask a live one; other tests of the project are let alone."""
    result = project(
        f"{SERVER}{asks}{LOOK_UP}\ndef test_other(server):\n{CONNECT}",
    )
    result.assert_outcomes(failed=1, passed=1)


def test_loopback_can_be_allowed_by_a_marker(project: Project) -> None:
    """For one test, a class or a module, as with any marker."""
    result = project(
        f"{SERVER}"
        f"def test_not(server):\n{CONNECT}\n"
        f"@pytest.mark.miniagents_allow_loopback\ndef test_allowed(server):\n{CONNECT}",
        ini=BELT,
    )
    result.assert_outcomes(failed=1, passed=1)


def test_an_unrelated_failure_tells_of_it(project: Project) -> None:
    """The test fails as it does, and its teardown says what else was wrong."""
    result = project(f"def test_both():\n{SWALLOWED}    assert 1 == 2\n", ini=BELT)
    result.assert_outcomes(failed=1, errors=1)


def test_a_skipped_test_wears_nothing_afterwards(project: Project) -> None:
    """However a test ends, the next one begins without its guard."""
    result = project(
        f"{SERVER}"
        "def test_skips(virtual_clock):\n    pytest.skip('not today')\n"
        "@pytest.fixture\ndef broken(virtual_clock):\n    raise ValueError\n"
        "def test_breaks(broken):\n    pass\n"
        f"def test_other(server):\n{CONNECT}",
    )
    result.assert_outcomes(skipped=1, errors=1, passed=1)
