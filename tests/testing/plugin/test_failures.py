"""Reports of tests that fail with an error of the testing kit: the user's lines, and below them what is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]

URL = "https://api.openai.com/v1/chat/completions"

AGENTS = """
import openai
from miniagents import MiniAgents, miniagent
from miniagents.ext.llm.openai import create_openai_agent

def options(**more):
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **more}

@miniagent
async def inner(ctx):
    model = create_openai_agent("m", async_client=openai.AsyncOpenAI(api_key="none"), alias="MODEL")
    ctx.reply(await model.trigger(ctx.message_promises))

@miniagent
async def outer(ctx):
    ctx.reply(await inner.trigger(ctx.message_promises))

marker = pytest.mark.miniagents_cassette("team.yaml", unplayed="ignore")
"""
FOREIGN = re.compile(r"site-packages|/asyncio/|miniagents(?:_testing)?/[\w/]+\.py:\d")
"""Places of code that is not the user's."""


def _asked(text: str, **fields: Any) -> Interaction:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True, **fields}
    answer = ResponseStream((Chunk(0, b"data: [DONE]\n\n"),), headers={"content-type": ["text/event-stream"]})
    return Interaction("POST", URL, json.dumps(body).encode(), answer)


def _report(result: pytest.RunResult, test: str) -> list[str]:
    """Return the lines of the report about one failed test."""
    lines = result.stdout.lines
    start = next(number for number, line in enumerate(lines) if re.match(rf"_+ (ERROR at \w+ of )?{test} _+$", line))
    length = next(number for number, line in enumerate(lines[start + 1 :]) if re.match("[_=]{3,} .* [_=]{3,}$", line))
    return lines[start : start + 1 + length]


@pytest.fixture
def team(pytester: pytest.Pytester) -> Path:
    """Return a cassette in which another question was asked."""
    path = pytester.path / "cassettes" / "team.yaml"
    save(path, [_asked("Good morning, team", temperature=1), _asked("Hello")])
    return path


def test_miss_under_two_agents_shows_the_lines_of_the_user_and_the_differences(project: Project, team: Path) -> None:
    """The report of a miss has the user's lines, the nearest recordings and the command to record, in 45 lines.

    The summary has one line about the miss.
    """
    many = {f"field_{number}": number for number in range(7)}
    far = (_asked(f"{'Long ' * number} text", **many) for number in range(90, 200, 10))
    save(team, [_asked("Hello"), _asked("Hello", field_4=4), *far])
    result = project(
        AGENTS + "@marker\n@pytest.mark.asyncio\nasync def test_team():\n    async with MiniAgents():\n"
        "        await outer.trigger('Hi')\n"
    )
    report = _report(result, "test_team")
    assert len(report) <= 45
    assert [line.split()[-1] for line in report if line.startswith(">")] == [
        "outer.trigger('Hi')",
        "model.trigger(ctx.message_promises))",
    ]
    assert not [line for line in report if FOREIGN.search(line)]
    said = [line.removeprefix("E").strip() for line in report if line.startswith("E ")]
    assert said[:4] == [
        "miniagents_testing.errors.CassetteMissError: messages[0].content: recorded 'Hello', now 'Hi' (team.yaml)",
        f"cassettes/team.yaml has no answer for POST {URL}",
        "interaction 1 differs in 1:",
        "messages[0].content: recorded 'Hello', now 'Hi'",
    ]
    assert said.count("field_4: recorded 4, now nothing") == 1
    assert "interaction 2 differs in 2:" in said
    assert "and 11 other interactions" in said
    assert "to record it again: pytest test_it.py::test_team --miniagents-record=rewrite" in said
    assert "Raised in agent MODEL <- INNER <- OUTER" in said
    result.stdout.fnmatch_lines("FAILED test_it.py::test_team - messages?0?.content: recorded 'Hello'*")


@pytest.mark.parametrize("style", ["auto", "long", "short", "line", "native", "no"])
def test_each_traceback_style_shows_the_lines_of_the_user_alone(project: Project, team: Path, style: str) -> None:
    """With each `--tb` style the report has no foreign frames, and the summary has the difference."""
    result = project(
        AGENTS + "@marker\ndef test_sync():\n    openai.OpenAI(api_key='none').chat.completions.create(**options())\n",
        f"--tb={style}",
    )
    text = result.stdout.str()
    assert not FOREIGN.search(text)
    assert ("chat.completions.create(**options())" in text) is (style not in ("line", "no"))
    assert "FAILED test_it.py::test_sync - messages[0].content: recorded 'Hello'" in text


def test_full_trace_and_debuggers_see_all_frames(project: Project, team: Path) -> None:
    """With `--full-trace` the report has all frames; without it, hooks such as a debugger's still get them all."""

    class Debugger:
        frames = 0

        def pytest_exception_interact(self, call: pytest.CallInfo[None]) -> None:
            assert call.excinfo is not None
            self.frames = len([*call.excinfo.traceback])

    source = (
        AGENTS + "@marker\ndef test_sync():\n    openai.OpenAI(api_key='none').chat.completions.create(**options())\n"
    )
    debugger = Debugger()
    assert FOREIGN.search(project(source, "--full-trace").stdout.str())
    assert not FOREIGN.search(project(source, plugins=(debugger,)).stdout.str())
    assert debugger.frames > 5


def test_miss_names_a_server_that_stands_in_for_the_provider(project: Project, team: Path) -> None:
    """Where only the host differs, the miss has the setting that records the server as the provider."""
    result = project(
        AGENTS
        + """
@marker
def test_host():
    client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:8124/v1")
    client.chat.completions.create(**options(messages=[{"role": "user", "content": "Hello"}]))
"""
    )
    assert (
        "  if http://127.0.0.1:8124/v1 stands in for api.openai.com: "
        "record_as={'http://127.0.0.1:8124/v1': 'https://api.openai.com/v1'}, an argument of use_cassette "
        "and an item of the fixture cassette_settings\n"
        "E         if it is there by mistake: give the client base_url='https://api.openai.com/v1', or set "
        "OPENAI_BASE_URL=https://api.openai.com/v1\n"
    ) in result.stdout.str()
    result.stdout.fnmatch_lines("FAILED *::test_host - host: recorded api.openai.com, now*")


def test_hint_can_be_pasted_for_a_test_with_parameters_and_a_missing_file(project: Project) -> None:
    """For a missing file, a report has a command that records it, with the name of the test in quotes if needed."""
    result = project(
        AGENTS
        + """
@pytest.mark.miniagents_cassette
@pytest.mark.parametrize("text", ["a b"])
def test_it(text):
    openai.OpenAI(api_key="none").chat.completions.create(**options())
"""
    )
    assert "to record it: pytest 'test_it.py::test_it[a b]' --miniagents-record=once" in result.stdout.str()


def test_script_that_is_too_short_names_agent_question_and_steps(project: Project) -> None:
    """The report of a call without a step names the agent, its question and the steps, and no line of the client."""
    result = project(
        AGENTS
        + """
@pytest.mark.asyncio
async def test_script(scripted_llm):
    writer = scripted_llm(["Hello"]).agent(alias="WRITER")
    async with MiniAgents():
        await writer.trigger("one")
        await writer.trigger("two")
"""
    )
    report = _report(result, "test_script")
    assert len(report) <= 25
    text = "\n".join(report)
    assert "UnexpectedCallError: WRITER asked 'two' (call 2), and no step is left: the script has 1 step\n" in text
    assert "step 1: Step('Hello') was for call 1 by WRITER" in text
    assert "APIConnectionError" not in text
    assert not FOREIGN.search(text)


def test_errors_at_the_end_of_a_test_are_their_message_alone(project: Project, team: Path) -> None:
    """The report of a test that left steps or interactions unused is the error's message, without any frame."""
    result = project(
        """
def test_steps(scripted_llm):
    scripted_llm("never said")

@pytest.mark.miniagents_cassette("team.yaml")
def test_interactions():
    pass
"""
    )
    result.assert_outcomes(failed=2)
    steps, interactions = (_report(result, f"test_{name}") for name in ("steps", "interactions"))
    assert steps[1:] == [
        "UnconsumedStepsError: 1 step was not used: the model was called 0 times",
        "  step 1: Step('never said')",
        "  If its agent was triggered, the replies were not read: write `await agent.trigger(...)`",
    ]
    assert interactions[1:4] == [
        "UnplayedError: 2 interactions were not played (team.yaml)",
        f"  cassettes/team.yaml, interaction 1: POST {URL}",
        f"  cassettes/team.yaml, interaction 2: POST {URL}",
    ]
    result.stdout.fnmatch_lines("FAILED *::test_interactions - 2 interactions were not played (team.*")


def test_groups_causes_fixtures_and_unittest_show_the_lines_of_the_user(project: Project, team: Path) -> None:
    """A miss in a task group, as a cause, in a fixture and in a unittest class has the user's frames alone."""
    result = project(
        AGENTS
        + """
import unittest
from miniagents_testing import use_cassette

def ask():
    openai.OpenAI(api_key="none").chat.completions.create(**options())

@marker
@pytest.mark.asyncio
async def test_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(ask))

@marker
def test_cause():
    try:
        ask()
    except Exception as error:
        raise RuntimeError("the user's own") from error

@pytest.fixture
def asked(stream_cassette):
    ask()

@marker
def test_fixture(asked):
    pass

class TestUnit(unittest.TestCase):
    def test_unit(self):
        with use_cassette("cassettes/team.yaml", unplayed="ignore"):
            ask()
"""
    )
    result.assert_outcomes(failed=3, errors=1)
    for test in ("test_group", "test_cause", "test_fixture", "TestUnit.test_unit"):
        report = _report(result, test)
        text = "\n".join(report)
        assert not FOREIGN.search(text), text
        assert text.count("CassetteMissError: messages[0].content: recorded 'Hello', now 'Hi'") == 1
        assert text.count("no answer for POST") == 1
        assert "chat.completions.create(**options())" in text
        assert len(report) <= 45
    summary = result.stdout.str().partition("short test summary")[2]
    assert "test_group - messages[0].content: recorded 'Hello'" in summary
    assert "test_cause - RuntimeError: the user's own" in summary


def test_error_of_a_function_of_a_script_shows_the_lines_of_the_user(project: Project) -> None:
    """The report of an error in a script's function has the lines of test and function, and none of the client."""
    result = project(
        AGENTS
        + """
def answer(call):
    raise ZeroDivisionError("the user's own")

@pytest.mark.asyncio
async def test_function(scripted_llm):
    async with MiniAgents():
        await scripted_llm(answer).agent().trigger("Hi")
"""
    )
    report = "\n".join(_report(result, "test_function"))
    assert not FOREIGN.search(report)
    assert "APIConnectionError" not in report
    assert "raise ZeroDivisionError" in report
    assert "trigger" in report
    result.stdout.fnmatch_lines("FAILED *::test_function - ZeroDivisionError: the user's own")


def test_failed_check_of_an_inherited_class_shows_its_test_and_the_line_of_the_user(project: Project) -> None:
    """The report of a failed check that a class inherits has the line of its test, and the user's line as the cause."""
    result = project(
        """
from miniagents import miniagent
from miniagents_testing.checks.conformance import AgentConformance

@miniagent
async def broken(ctx):
    raise ValueError("the user's own")

class TestBroken(AgentConformance):
    def make_agent(self):
        return broken
""",
        "-k",
        "stream_equals_resolved",
    )
    report = _report(result, "TestBroken.test_stream_equals_resolved")
    assert [line for line in report if line.startswith(">")] == [
        '>       raise ValueError("the user\'s own")',
        ">       self.run(checks.check_stream_equals_resolved(self.make_agent(), self.messages))",
    ]
    assert len(report) <= 45


def test_error_in_a_teardown_is_reported_once(project: Project, team: Path) -> None:
    """A miss in the teardown of a fixture is one report, though the cassette raises the miss again when it closes."""
    result = project(
        AGENTS
        + """
@pytest.fixture
def torn(stream_cassette):
    yield
    openai.OpenAI(api_key="none").chat.completions.create(**options())

@marker
def test_teardown(torn):
    pass
"""
    )
    result.assert_outcomes(passed=1, errors=1)
    report = "\n".join(_report(result, "test_teardown"))
    assert not FOREIGN.search(report)
    assert report.count("no answer for POST") == 1
    assert "chat.completions.create(**options())" in report


def test_failing_assertion_of_a_test_with_a_cassette_shows_its_line(project: Project, team: Path) -> None:
    """An assertion that fails in a test with a cassette is reported at its line, with the values."""
    result = project(AGENTS + "@marker\ndef test_value():\n    value = 1\n    assert value == 2\n")
    result.stdout.fnmatch_lines([">       assert value == 2", "E       assert 1 == 2"])


LIBRARY = """
from miniagents import MiniAgents, miniagent

@miniagent
async def greeter(ctx, name: str):
    if name == "broken":
        import json
        json.loads("{")
    ctx.reply(f"Hello, {1 / len(name):.0f}!")

def test_call():
    MiniAgents().run_agent(greeter, "Hi", nam="Ann")

@pytest.mark.asyncio
async def test_await():
    async with MiniAgents():
        await greeter.trigger("Hi", nam="Ann")

def test_in_agent():
    MiniAgents().run_agent(greeter, "Hi", name="")

def test_in_package():
    MiniAgents().run_agent(greeter, "Hi", name="broken")
"""


def test_error_of_a_call_of_the_library_shows_the_lines_of_the_user(project: Project) -> None:
    """A wrong argument, and an error in an agent, are reported with the user's lines, not with those of MiniAgents."""
    result = project(LIBRARY)
    result.assert_outcomes(failed=4)
    wrong = "TypeError: Agent GREETER does not take the keyword argument(s) 'nam'; it takes: name"
    for test, line in (("test_call", "MiniAgents().run_agent("), ("test_await", "await greeter.trigger(")):
        lines = _report(result, test)
        assert [each.removeprefix("E").strip() for each in lines].count(wrong) == 1
        assert any(each.startswith(">") and line in each for each in lines)
        assert not any(map(FOREIGN.search, lines))
    report = "\n".join(_report(result, "test_in_agent"))
    assert 'MiniAgents().run_agent(greeter, "Hi", name="")' in report
    assert '>       ctx.reply(f"Hello, {1 / len(name):.0f}!")' in report
    assert not FOREIGN.search(report)
    report = "\n".join(_report(result, "test_in_package"))
    assert 'json.loads("{")' in report
    assert "json/decoder.py" in report
    assert not re.search(r"miniagents/[\w/]+\.py:\d", report)


def test_full_trace_shows_the_frames_of_the_library(project: Project) -> None:
    """With `--full-trace`, the report of a wrong argument has the frames of MiniAgents."""
    assert re.search(r"miniagents/[\w/]+\.py:\d", project(LIBRARY, "--full-trace", "-k", "call").stdout.str())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("record_mode='ones'", "record_mode must be one of 'none', 'once', *not 'ones'"),
        ("pace=-1", "pace must be 0 (no waits) or a factor on the recorded waits, not -1"),
        ("anchor='line'", "anchor must be one of 'timeline', 'request', not 'line'"),
    ],
)
def test_wrong_value_of_a_setting_is_reported_in_one_line(project: Project, setting: str, said: str) -> None:
    """A wrong value in a marker fails the test with the name of the test and the message alone."""
    result = project(f"@pytest.mark.miniagents_cassette({setting})\ndef test_it():\n    pass\n")
    result.assert_outcomes(errors=1)
    report = [line for line in _report(result, "test_it") if line and not line.startswith("_")]
    assert len(report) == 1
    result.stdout.fnmatch_lines(f"test_it.py::test_it: a setting of the cassette is wrong: {said}".replace("[", "[[]"))


def test_other_failures_keep_their_reports(project: Project) -> None:
    """A test that fails with an error of a library has all frames that pytest shows, and its own summary."""
    result = project("def test_it():\n    import json\n    json.loads('{')\n")
    assert "json/decoder.py" in result.stdout.str()
    result.stdout.fnmatch_lines("FAILED *::test_it - json.decoder.JSONDecodeError*")


def test_expected_failure_stays_one(project: Project) -> None:
    """A test that is expected to fail with an error of the kit is an expected failure."""
    result = project(
        """
from miniagents_testing.errors import UnconsumedStepsError

@pytest.mark.xfail(raises=UnconsumedStepsError, strict=True)
def test_steps(scripted_llm):
    scripted_llm("never said")
"""
    )
    result.assert_outcomes(xfailed=1)


def test_failures_that_a_cassette_plays_are_named_below_a_failed_test(project: Project, team: Path) -> None:
    """A failed test has a section with the failures that its cassette has played, also those that the test caught."""
    refused = ResponseStream(status=401, headers={"content-type": ["application/json"]})
    broken = ResponseStream(status=0, end="raise ConnectError: All connection attempts failed", complete=False)
    asked = [_asked("Hi"), _asked("Hi", temperature=1), _asked("Hi", temperature=2)]
    save(team, [asked[0], replace(asked[1], response=refused), replace(asked[2], response=broken)])
    source = """
@marker
def test_ask():
    client = openai.OpenAI(api_key="none", max_retries=0)
    for temperature in (1, 2):
        try:
            client.chat.completions.create(**options(temperature=temperature))
        except openai.OpenAIError as error:
            caught = error
    [*client.chat.completions.create(**options())]
    EXPECTED
"""
    report = _report(project(AGENTS + source.replace("EXPECTED", "raise caught")), "test_ask")
    start = next(number for number, line in enumerate(report) if "- cassette -" in line)
    assert report[start + 1 :] == [
        "2 recorded failures were played from cassettes/team.yaml:",
        f"  interaction 2: POST {URL}: status 401",
        f"  interaction 3: POST {URL}: ConnectError",
        "  to record it again: pytest test_it.py::test_ask --miniagents-record=rewrite",
    ]
    assert any("Played from cassettes/team.yaml, where the request failed" in line for line in report[:start])
    passed = project(AGENTS + source.replace("EXPECTED", "assert caught"))
    passed.assert_outcomes(passed=1)
    assert "recorded failure" not in passed.stdout.str()
    other = project(AGENTS + "@marker\ndef test_ask():\n    [][0]\n")
    other.assert_outcomes(failed=1)
    assert "recorded failure" not in other.stdout.str()


def test_async_test_that_no_plugin_runs_is_not_told_to_record(project: Project) -> None:
    """A failure by `pytest.fail`, as of an async test without a plugin, has no hint to record: it would not help."""
    source = "async def test_it(stream_cassette):\n    pass\n\ndef test_said(stream_cassette):\n    pytest.fail('no')\n"
    result = project(source, "-p", "no:asyncio", "-p", "no:anyio")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines("*async def functions are not natively supported*")
    result.stdout.no_fnmatch_line("*there is no cassette *")


def test_second_test_with_the_same_cassette_is_told_of_the_first(project: Project, team: Path) -> None:
    """A miss and an interaction that was not played name another test that has used the same file in the run."""
    save(team, [_asked("Hi"), _asked("Hello")])
    source = """
marker = pytest.mark.miniagents_cassette("team.yaml")

def ask(text):
    messages = [{"role": "user", "content": text}]
    openai.OpenAI(api_key="none").chat.completions.create(**options(messages=messages))

@marker
def test_both():
    ask("Hi")
    ask("Hello")

@marker
def test_other():
    ask("Ho")

@marker
def test_less():
    ask("Hi")
"""
    result = project(AGENTS + source)
    result.assert_outcomes(passed=1, failed=2)
    used = "  test_it.py::test_{} has used the same file: each test needs a file of its own"
    assert used.format("both") in "\n".join(_report(result, "test_other"))
    assert _report(result, "test_less")[4:6] == [
        used.format("other"),
        "  to record it again: pytest test_it.py::test_less --miniagents-record=rewrite",
    ]
    assert "has used the same file" not in project(AGENTS + source, "-k", "test_less").stdout.str()


def test_test_that_has_asked_nothing_of_a_cassette_is_no_user_of_its_file(project: Project, team: Path) -> None:
    """No error names tests that failed before they sent a request: in the setup of the cassette, or without a key."""
    save(team, [_asked("Hi")])
    source = """
@pytest.mark.miniagents_cassette("team.yaml", mode="once")
def test_wrong_setting():
    pass

@marker
def test_asks_nothing():
    [][0]

@marker
def test_asks():
    openai.OpenAI(api_key="none").chat.completions.create(**options(temperature=2))
"""
    result = project(AGENTS + source)
    result.assert_outcomes(failed=2, errors=1)
    assert "temperature: recorded nothing, now 2" in result.stdout.str()
    assert "has used the same file" not in result.stdout.str()


def test_failure_without_a_cassette_and_a_key_says_how_to_record(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that finds no key fails before there is a miss; below its error is the way to record the cassette."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    source = """
def test_client(stream_cassette):
    openai.OpenAI().chat.completions.create(**options())

@pytest.mark.asyncio
async def test_agent(stream_cassette):
    async with MiniAgents():
        await create_openai_agent("m").trigger("Hi")

def test_miss(stream_cassette):
    openai.OpenAI(api_key="none").chat.completions.create(**options())
"""
    result = project(AGENTS + source)
    result.assert_outcomes(failed=3)
    hint = "(to play one, any key will do: OPENAI_API_KEY=none)"
    for test in ("test_client", "test_agent"):
        assert _report(result, test)[-2:] == [
            f"there is no cassette {Path('cassettes', 'test_it', test)}.yaml yet",
            f"  to record it: pytest test_it.py::{test} --miniagents-record=once {hint}",
        ]
    assert ".yaml yet" not in "\n".join(_report(result, "test_miss"))
    live = project(AGENTS + source, "--miniagents-record=once", "-k", "test_client")
    live.assert_outcomes(failed=1)
    assert ".yaml yet" not in live.stdout.str()
