"""Marker, fixture and option for virtual time, with each plugin that runs async tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]

AN_HOUR = """
async def test_virtual():
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600
"""
MARK = "@pytest.mark.miniagents_virtual_time\n"
ASYNCIO = "@pytest.mark.asyncio\n"
STRICT = "asyncio_mode = strict"
AUTO = "asyncio_mode = auto"


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_marked_test_runs_in_virtual_time(project: Project, mode: str) -> None:
    """Under pytest-asyncio, marked tests run in virtual time; unmarked tests keep asyncio's loop and their names."""
    result = project(
        (ASYNCIO if mode == "strict" else "")
        + MARK
        + AN_HOUR.strip()
        + "\n\n"
        + (ASYNCIO if mode == "strict" else "")
        + "async def test_real(request):\n"
        "    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)\n"
        "    assert not request.config.hook.pytest_asyncio_loop_factories.get_hookimpls()\n",
        "-v",
        ini=AUTO if mode == "auto" else STRICT,
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["test_it.py::test_virtual PASSED*", "test_it.py::test_real PASSED*"])


def test_fixture_makes_an_async_test_run_in_virtual_time(project: Project) -> None:
    """An async test with the fixture sleeps an hour of virtual time, `time()` says so, and `run` inside it raises."""
    result = project(
        "async def test_virtual(virtual_clock):\n"
        "    await asyncio.sleep(3600)\n"
        "    assert virtual_clock.time() == 3600\n"
        "    with pytest.raises(RuntimeError, match='await the coroutine'):\n"
        "        virtual_clock.run(asyncio.sleep(1))\n",
        ini=AUTO,
    )
    result.assert_outcomes(passed=1)


def test_async_fixtures_run_on_the_loop_of_the_test(project: Project) -> None:
    """A task of a fixture goes on in the test, and the teardown runs in virtual time as well."""
    result = project(
        "@pytest.fixture\n"
        "async def alarm():\n"
        "    task = asyncio.create_task(asyncio.sleep(60, 'rang'))\n"
        "    yield task\n"
        "    await asyncio.sleep(60)\n"
        "    assert asyncio.get_running_loop().time() == 120\n"
        f"{MARK}async def test_virtual(alarm):\n"
        "    assert await alarm == 'rang'\n",
        ini=AUTO,
    )
    result.assert_outcomes(passed=1)


def test_async_fixtures_of_a_module_are_set_up_again_for_another_loop(project: Project) -> None:
    """An async fixture of a module runs on the loop of each test: the virtual one of a marked test, else a real one."""
    module = "@pytest.mark.asyncio(loop_scope='module')\n"
    result = project(
        "import pytest_asyncio\n"
        "@pytest_asyncio.fixture(scope='module', loop_scope='module')\n"
        "async def loop():\n"
        "    return asyncio.get_running_loop()\n"
        "async def check(loop):\n"
        "    assert asyncio.get_running_loop() is loop\n"
        "    return isinstance(loop, VirtualTimeLoop)\n"
        f"{module}async def test_real(loop):\n"
        "    assert not await check(loop)\n"
        f"{module}{MARK}async def test_virtual(loop):\n"
        "    assert await check(loop)\n"
        f"{module}async def test_real_again(loop):\n"
        "    assert not await check(loop)\n"
    )
    result.assert_outcomes(passed=3)


def test_loop_factories_of_the_project_serve_unmarked_tests(project: Project) -> None:
    """The project's hook for loop factories decides the loop of unmarked tests, not of marked ones."""
    result = project(
        f"{MARK}{AN_HOUR.strip()}\n\n"
        "async def test_own():\n"
        "    assert type(asyncio.get_running_loop()).__name__ == 'Own'\n",
        ini=AUTO,
        conftest="class Own(asyncio.SelectorEventLoop):\n    pass\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_asyncio_loop_factories(config, item):\n    return {'own': Own}\n",
    )
    result.assert_outcomes(passed=2)


def test_marked_test_with_loop_factories_is_refused(project: Project) -> None:
    """A test marked for virtual time that also chooses loop factories is an error."""
    result = project(
        f"@pytest.mark.asyncio(loop_factories=['uvloop'])\n{MARK}{AN_HOUR.strip()}\n",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_virtual asks for virtual time, and for loop_factories of its own*"])


def test_marked_test_fails_when_another_hook_gives_its_loop(project: Project) -> None:
    """A marked test whose loop comes from another hook fails before its call; the message names versions that work."""
    result = project(
        f"{MARK}{AN_HOUR.strip()}\n",
        ini=AUTO,
        conftest="@pytest.hookimpl(wrapper=True)\n"
        "def pytest_asyncio_loop_factories(config, item):\n"
        "    yield\n"
        "    return {'other': asyncio.SelectorEventLoop}\n",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*test_virtual asks for virtual time, but its loop is <*EventLoop running=False*pytest-asyncio 1.4 or later*"]
    )


def test_marked_test_fails_when_no_plugin_runs_async_tests(project: Project) -> None:
    """Without a plugin for async tests, a marked test fails with a message that names such plugins."""
    result = project(f"{MARK}{AN_HOUR.strip()}\n", "-p", "no:asyncio", ini="")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_virtual asks for virtual time, but no plugin runs it.*pytest-asyncio 1.4 or*"])


# --- anyio's plugin


def test_anyio_plugin_runs_marked_tests_in_virtual_time(project: Project) -> None:
    """Under anyio's plugin, a marked test and its fixture run once, in virtual time; others run on each backend."""
    result = project(
        "import anyio\n"
        "@pytest.fixture\n"
        "async def begun():\n"
        "    return anyio.current_time()\n"
        f"@pytest.mark.anyio\n{MARK}"
        "async def test_virtual(begun):\n"
        "    with anyio.fail_after(7200):\n"
        "        await anyio.sleep(3600)\n"
        "    assert begun == 0 and anyio.current_time() == 3600\n"
        "@pytest.mark.anyio\n"
        "async def test_real():\n"
        "    pass\n",
        "-v",
        "-k",
        "not trio",
    )
    assert result.parseoutcomes()["passed"] == 2
    result.stdout.fnmatch_lines(["test_it.py::test_virtual PASSED*", "test_it.py::test_real?asyncio? PASSED*"])


def test_marker_goes_before_the_anyio_backend_of_the_project(project: Project) -> None:
    """A marked test runs in virtual time, whatever the project's `anyio_backend` fixture says."""
    result = project(
        "@pytest.fixture\n"
        "def anyio_backend():\n"
        "    return 'asyncio'\n"
        f"@pytest.mark.anyio\n@pytest.mark.miniagents_virtual_time(schedules=2)\n{AN_HOUR.strip()}\n",
    )
    result.assert_outcomes(passed=2)


# --- tests that are not async


def test_fixture_runs_coroutines_in_a_test_that_is_not_async(project: Project) -> None:
    """In a sync test, each `run` of the fixture starts at time 0, and `time()` is the end of the last run."""
    result = project(
        "def test_virtual(virtual_clock):\n"
        "    assert virtual_clock.time() == 0\n"
        "    assert virtual_clock.run(asyncio.sleep(3600, 'slept')) == 'slept'\n"
        "    virtual_clock.run(asyncio.sleep(60))\n"
        "    assert virtual_clock.time() == 60\n"
    )
    result.assert_outcomes(passed=1)


def test_marked_test_fails_when_it_is_not_async_and_lacks_the_fixture(project: Project) -> None:
    """A sync test with the marker but no fixture fails; a marker of the whole module is ignored for it."""
    source = "def test_plain():\n    pass\n"
    failed = project(MARK + source)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*test_plain asks for virtual time, but is not async: use the fixture*"])
    project(f"pytestmark = pytest.mark.miniagents_virtual_time\n{source}").assert_outcomes(passed=1)


# --- schedules

RACE = """
    order = []
    async def step(name):
        await asyncio.sleep(0)
        order.append(name)
    await asyncio.gather(step("a"), step("b"))
    assert order == ["a", "b"]
"""


TWENTY = "@pytest.mark.miniagents_virtual_time(schedules=20)\n"
SYNC = f"async def race():{RACE}\n{TWENTY}def test_race(virtual_clock):\n    virtual_clock.run(race())\n"
PLAIN = f"""async def race():{RACE}
@pytest.mark.parametrize('seed', schedules(20), ids=lambda seed: f'seed{{seed}}')
def test_race(seed):
    run_in_virtual_time(race(), seed=seed)
"""


@pytest.mark.parametrize(
    ("definition", "ini"),
    [
        (f"{TWENTY}async def test_race():{RACE}", AUTO),
        (f"@pytest.mark.anyio\n{TWENTY}async def test_race():{RACE}", STRICT),
        (SYNC, STRICT),
        (PLAIN, STRICT),
    ],
    ids=["asyncio", "anyio", "fixture", "function"],
)
def test_test_runs_under_each_of_its_schedules(project: Project, definition: str, ini: str) -> None:
    """With `schedules`, a test runs once for each seed; a failure names the seed and a token, which repeat it."""
    every = project(definition, "-rA", ini=ini)
    outcomes = every.parseoutcomes()
    assert outcomes["passed"] + outcomes["failed"] == 20
    assert outcomes["failed"] > 3
    failed = {line.partition("[seed")[2].partition("]")[0] for line in every.outlines if line.startswith("FAILED")}
    passed = {line.partition("[seed")[2].partition("]")[0] for line in every.outlines if line.startswith("PASSED")}
    assert failed | passed == {str(seed) for seed in range(20)}
    for seed, outcome in ((min(failed), "failed"), (min(passed), "passed")):
        one = project(definition, f"--miniagents-schedule-seed={seed}", ini=ini)
        one.assert_outcomes(**{outcome: 1})
        if outcome == "failed":
            told = f"*This happened with the schedule of seed {seed};*"
            every.stdout.fnmatch_lines([told])
            one.stdout.fnmatch_lines([told])
            if definition is not PLAIN:
                option = one.stdout.str().partition("in code, or pytest ")[2].split()[0]
                replay = project(definition, option, ini=ini)
                replay.assert_outcomes(failed=1)
                replay.stdout.fnmatch_lines(["*Two lines race for order:"])


def test_option_for_a_seed_goes_before_the_marker(project: Project) -> None:
    """The option for a seed overrides a seed in the marker."""
    source = (
        "@pytest.mark.miniagents_virtual_time(seed=7)\n"
        "async def test_seed():\n"
        "    assert asyncio.get_running_loop().seed == 7\n"
    )
    project(source, ini=AUTO).assert_outcomes(passed=1)
    project(source, "--miniagents-schedule-seed=8", ini=AUTO).assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("definition", "ini"),
    [
        (f"{MARK}async def test_race():{RACE}", AUTO),
        (f"@pytest.mark.anyio\n{MARK}async def test_race():{RACE}", STRICT),
        (f"async def race():{RACE}\n{MARK}def test_race(virtual_clock):\n    virtual_clock.run(race())\n", STRICT),
        (f"async def race():{RACE}\ndef test_race():\n    search_schedules(race, ())\n", STRICT),
    ],
    ids=["asyncio", "anyio", "fixture", "search"],
)
def test_token_selects_the_schedule_of_a_test(project: Project, definition: str, ini: str) -> None:
    """A token of the command line or the marker gives the order that fails; the report shows each switch."""
    project(definition, ini=ini).assert_outcomes(passed=1)
    tokens = range(10)
    failing = [token for token in tokens if project(definition, f"--miniagents-schedule={token}", ini=ini).ret]
    assert failing
    marked = definition.replace("virtual_time\n", f'virtual_time(schedule="{failing[0]}")\n')
    by_marker = [] if marked == definition else [project(marked, ini=ini)]
    for result in (project(definition, f"--miniagents-schedule={failing[0]}", ini=ini), *by_marker):
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                f"*This happened with the schedule {failing[0]}.",
                "*Two lines race for order:",
                "*test_it.py:*order.append(name)*step#1, *",
                "*test_it.py:*order.append(name)*step#2, *",
                "*Order of the steps, one line a switch:",
                "*test_it.py:*<- *held back*",
            ]
        )


@pytest.mark.parametrize("token", ["3x", "seed4"])
def test_option_that_is_no_token_is_a_usage_error(project: Project, token: str) -> None:
    """A wrong token ends pytest with a usage error that shows what a token looks like."""
    result = project("def test_nothing(): pass\n", f"--miniagents-schedule={token}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--miniagents-schedule: '{token}' is no token of a schedule*"])


def test_hypothesis_can_choose_seeds(project: Project) -> None:
    """Hypothesis can draw seeds, which are plain integers, and async tests with `@given` run in virtual time."""
    result = project(
        "from hypothesis import given, settings, strategies as st\n"
        f"async def race():{RACE}\n"
        "@settings(deadline=None)\n"
        "@given(seed=st.integers(min_value=0))\n"
        "def test_race(seed):\n"
        "    run_in_virtual_time(race(), seed=seed)\n"
        f"{MARK}@settings(max_examples=5)\n"
        "@given(seconds=st.integers(min_value=1, max_value=10**6))\n"
        "async def test_virtual(seconds):\n"
        "    await asyncio.sleep(seconds)\n",
        ini=AUTO,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_race(*", "*seed=*"])


# --- failures


@pytest.mark.parametrize(
    ("body", "told", "line"),
    [
        ("asyncio.Queue().get()", "*IdleLoopError: Nothing can run, 0 s of virtual time*", "asyncio.Queue().get()"),
        ("poll()", "*VirtualTimeoutError: 60 s of virtual time were not enough*", "asyncio.sleep(1)"),
    ],
)
def test_test_that_would_hang_fails_at_once(project: Project, body: str, told: str, line: str) -> None:
    """A marked test that waits for ever fails at once, and an endless loop by its timeout; both report the line."""
    result = project(
        "async def poll():\n"
        "    while True:\n"
        "        await asyncio.sleep(1)\n"
        "@pytest.mark.miniagents_virtual_time(timeout=60)\n"
        f"async def test_hangs():\n    await {body}\n",
        ini=AUTO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([told, f"*await {line}"])


def test_wrong_arguments_of_the_marker_are_refused(project: Project) -> None:
    """A wrong argument of the virtual-time marker fails the test with a list of the valid arguments."""
    result = project(f"@pytest.mark.miniagents_virtual_time(seeds=7)\n{AN_HOUR.strip()}\n", ini=AUTO)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*miniagents_virtual_time takes seed=, schedules=, schedule= and timeout= only*"])
