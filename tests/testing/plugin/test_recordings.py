"""The section of pytest's output about what was recorded: files, requests, tokens, and what was redacted."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Project = Callable[..., pytest.RunResult]


def ask(*questions: str, name: str = "test_it") -> str:
    """Return a test that sends questions to a server of its own."""
    return f"""
import httpx2
from miniagents_testing import Step
from miniagents.messages import Usage

def {name}(provider_server, stream_cassette):
    questions = {list(questions)!r}
    server = provider_server([Step("Hi", usage=Usage(input_tokens=7, output_tokens=3)) for _ in questions])
    for text in questions:
        body = {{"model": "m", "messages": [{{"role": "user", "content": text}}], "stream": True}}
        body["stream_options"] = {{"include_usage": True}}
        httpx2.post(f"{{server.openai_base_url}}/chat/completions", json=body).raise_for_status()
"""


@pytest.fixture(autouse=True)
def _not_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def _section(result: pytest.RunResult) -> list[str]:
    """Return the lines of the section."""
    lines = result.stdout.lines
    begin = next(number for number, line in enumerate(lines, 1) if "recorded cassettes" in line)
    end = next(number for number, line in enumerate(lines[begin:], begin) if line.startswith("==="))
    return [line for line in lines[begin:end] if line]


def test_recorded_cassettes_are_listed_with_requests_and_tokens(project: Project) -> None:
    """The section names each written cassette, its new requests, and the tokens that the answers report."""
    result = project(ask("One?", "Two\x1b[31m?"), "--miniagents-record=once")
    result.assert_outcomes(passed=1)
    assert _section(result) == [
        "cassettes/test_it/test_it.yaml: 2 new; 14 tokens in, 6 out",
        "  new: 'One?'",
        r"  new: 'Two\x1b[31m?'",
        "1 cassette written, 2 requests, 14 tokens in, 6 out",
    ]


@pytest.mark.parametrize("mode", ["all", "rewrite"])
def test_requests_that_were_asked_again_are_told_from_new_ones(project: Project, mode: str) -> None:
    """After a second recording, the section says which requests the file had already."""
    rename = "    stream_cassette.settings.record_as[server.openai_base_url] = 'https://api.test'\n"
    source = ask("One?", "Two?").replace("    for text", f"{rename}    for text")
    project(source, "--miniagents-record=once")
    again = project(source.replace("'Two?'", "'One?', 'Three?'"), f"--miniagents-record={mode}")
    assert _section(again) == [
        "cassettes/test_it/test_it.yaml: 2 new, 1 asked again; 21 tokens in, 9 out",
        "  new: 'One?'",
        "  new: 'Three?'",
        "  asked again: 'One?'",
        "1 cassette written, 3 requests, 21 tokens in, 9 out",
    ]


def test_recorded_failures_are_counted(project: Project) -> None:
    """The line of a cassette says how many of its requests failed, and how."""
    source = """
import httpx2
from miniagents_testing import Failure, Step

def test_it(provider_server, stream_cassette, free_port):
    server = provider_server([Failure(401), Step("Hi"), Failure(401)])
    for text in ("One?", "Two?", "Three?"):
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        httpx2.post(f"{server.openai_base_url}/chat/completions", json=body)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{free_port}")

@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]
"""
    first, *_ = _section(project(source, "--miniagents-record=once"))
    assert first.startswith("cassettes/test_it/test_it.yaml: 4 new, 3 of them failed: status 401, ConnectError; ")


def _answered(status: int, *, expected: bool = False) -> str:
    """Return a test that gets an answer with a status from a server, and fails if the status is an unexpected error."""
    return f"""
import httpx2
from miniagents_testing import Failure, Step

def test_it(provider_server, stream_cassette):
    server = provider_server(Step("Hi") if {status} == 200 else Failure({status}))
    body = {{"model": "m", "messages": [{{"role": "user", "content": "One?"}}]}}
    answer = httpx2.post(f"{{server.openai_base_url}}/chat/completions", json=body)
    assert answer.status_code == 200 or {expected}
"""


def test_rewrite_keeps_the_old_file_when_the_test_fails_with_a_new_failure(
    project: Project, pytester: pytest.Pytester
) -> None:
    """A rewrite keeps the old file only if the test fails and the new recording has failures that the old one lacks."""
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    project(_answered(200), "--miniagents-record=once").assert_outcomes(passed=1)
    good = path.read_bytes()

    result = project(_answered(500), "--miniagents-record=rewrite")
    result.assert_outcomes(failed=1)
    assert path.read_bytes() == good
    first, *_, last = _section(result)
    assert ", 1 of them failed: status 500; " in first
    assert "  not written: the new recording has failures that the old one has not" in _section(result)
    assert last.startswith("0 cassettes written, 1 request, ")
    result.stdout.fnmatch_lines("*test_it.yaml was not written: the new recording has failures that the old one has*")

    project(_answered(500, expected=True), "--miniagents-record=rewrite").assert_outcomes(passed=1)
    assert b"code: 500" in path.read_bytes()
    project(_answered(500), "--miniagents-record=rewrite").assert_outcomes(failed=1)
    failed_again = path.read_bytes()
    assert project(_answered(429), "--miniagents-record=rewrite").parseoutcomes() == {"failed": 1}
    assert path.read_bytes() == failed_again
    project(_answered(200), "--miniagents-record=rewrite").assert_outcomes(passed=1)
    assert b"code: 200" in path.read_bytes()


_ONLY_FAILURES = "there was no answer but failures (status 401); the next run records again"


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all", "rewrite"])
def test_new_file_is_not_written_when_the_test_fails_and_all_answers_are_failures(
    project: Project, pytester: pytest.Pytester, mode: str
) -> None:
    """A first recording with a wrong key leaves no file, so the same command with the right key records."""
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    result = project(_answered(401), f"--miniagents-record={mode}")
    result.assert_outcomes(failed=1)
    assert not path.exists()
    assert f"  not written: {_ONLY_FAILURES}" in _section(result)
    assert _section(result)[-1].startswith("0 cassettes written, 1 request, ")
    result.stdout.fnmatch_lines("*test_it.yaml was not written: there was no answer but failures (status 401)*")

    project(_answered(200), f"--miniagents-record={mode}").assert_outcomes(passed=1)
    assert b"code: 200" in path.read_bytes()


def _cut_off(*, expected: bool = False) -> str:
    """Return a test of a stream that its server cuts off; it fails then, unless the cut is `expected`."""
    return f"""
import openai
from miniagents import MiniAgents
from miniagents.errors import StreamTruncatedError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ProviderServer, Step

def test_it(stream_cassette):
    async def ask():
        async with ProviderServer(Step("one two three", then="truncate")) as server:
            stream_cassette.settings.record_as[server.openai_base_url] = "https://api.test/v1"
            async with openai.AsyncOpenAI(api_key="none", base_url=server.openai_base_url) as client:
                await create_openai_agent("m", async_client=client).trigger("Hi")

    try:
        MiniAgents().run(ask())
    except StreamTruncatedError:
        if not {expected}:
            raise
"""


def test_stream_that_the_provider_cut_is_recorded_by_tests_that_pass_only(
    project: Project, pytester: pytest.Pytester
) -> None:
    """A cut stream is written by a test that passes, and named in the section; a test that fails writes no new file.

    On replay, the report of a failed test says that the cut is in the file.
    """
    cut = "stream ended before the provider said so"
    path = pytester.path / "cassettes" / "test_it" / "test_it.yaml"
    result = project(_cut_off(), "--miniagents-record=once")
    result.assert_outcomes(failed=1)
    assert not path.exists()
    assert f"  not written: there was no answer but failures ({cut}); the next run records again" in _section(result)

    result = project(_cut_off(expected=True), "--miniagents-record=once")
    result.assert_outcomes(passed=1)
    first, *_ = _section(result)
    assert first.startswith(f"cassettes/test_it/test_it.yaml: 1 new, 1 of them failed: {cut}; ")

    marker = "@pytest.mark.miniagents_allow_loopback\ndef test_it"
    result = project(_cut_off().replace("def test_it", marker))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 recorded failure was played from cassettes/test_it/test_it.yaml:",
            f"  interaction 1: POST https://api.test/v1/chat/completions, by OPENAI_AGENT*: {cut}",
            "  to record it again: pytest test_it.py::test_it --miniagents-record=rewrite",
        ],
        consecutive=True,
    )


def test_new_file_of_failures_is_written_when_the_test_passes(project: Project, pytester: pytest.Pytester) -> None:
    """If a test passes, its new file is written, though all answers are failures."""
    project(_answered(401, expected=True), "--miniagents-record=once").assert_outcomes(passed=1)
    assert b"code: 401" in (pytester.path / "cassettes" / "test_it" / "test_it.yaml").read_bytes()


@pytest.mark.parametrize("scope", ["module", "session"])
@pytest.mark.parametrize("status", [401, 200])
def test_shared_file_of_failures_is_not_written_when_a_test_fails(
    project: Project, pytester: pytest.Pytester, scope: str, status: int
) -> None:
    """A cassette of several tests is not written if one of them has failed, and all its answers are failures."""
    name = "cassettes/session.yaml" if scope == "session" else "cassettes/test_it/module.yaml"
    source = f"""
import httpx2
from miniagents_testing import Failure, ProviderServer, Step

@pytest.fixture(scope="{scope}")
def status({scope}_cassette):
    with ProviderServer(Step("Hi") if {status} == 200 else Failure({status})) as server:
        body = {{"model": "m", "messages": [{{"role": "user", "content": "One?"}}]}}
        return httpx2.post(f"{{server.openai_base_url}}/chat/completions", json=body).status_code

def test_it(status):
    assert not status

def test_other(status):
    assert status
"""
    result = project(source, "--miniagents-record=once")
    result.assert_outcomes(passed=1, failed=1)
    assert (pytester.path / name).exists() == (status == 200)
    assert (f"  not written: {_ONLY_FAILURES}" in _section(result)) == (status == 401)


def test_recordings_of_workers_are_listed_once(project: Project) -> None:
    """Under pytest-xdist, the section has the cassettes of all workers."""
    source = "\n".join(ask("Hi?", name=f"test_{number}") for number in range(3))
    result = project(source, "--miniagents-record=once", "-n", "2")
    result.assert_outcomes(passed=3)
    assert [line for line in _section(result) if not line.startswith("  ")] == [
        *(f"cassettes/test_it/test_{number}.yaml: 1 new; 7 tokens in, 3 out" for number in range(3)),
        "3 cassettes written, 3 requests, 21 tokens in, 9 out",
    ]


def test_long_lists_of_requests_are_cut(project: Project) -> None:
    """Of many recorded requests, the section of the summary shows the first ones, and counts the others."""
    result = project(ask(*(f"{number}?" for number in range(9))), "--miniagents-record=once")
    assert _section(result)[-3:-1] == ["  new: '4?'", "  new: 4 more"]


def test_no_section_without_a_written_cassette(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay has no section, and neither has a recording that could not be written."""

    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr("miniagents_testing.cassette._vcrpy.write", disk_full)
    result = project(ask("One?"), "--miniagents-record=once")
    result.assert_outcomes(failed=1)
    assert "the disk is full" in result.stdout.str()
    assert "recorded cassettes" not in result.stdout.str()
    replay = project("def test_it(stream_cassette): pass")
    replay.assert_outcomes(passed=1)
    assert "recorded cassettes" not in replay.stdout.str()


def test_tokens_that_no_answer_reports_are_unknown(project: Project) -> None:
    """Answers of a server that sends no usage have unknown tokens in the section, alone and beside other answers."""
    source = ask("One?").replace('"include_usage": True', '"include_usage": False')
    first, *_, last = _section(project(source, "--miniagents-record=once"))
    assert first == "cassettes/test_it/test_it.yaml: 1 new; tokens unknown"
    assert last == "1 cassette written, 1 request, tokens unknown"

    both = ask("Two?", name="test_other") + source
    *_, last = _section(project(both, "--miniagents-record=all"))
    assert last == "2 cassettes written, 2 requests, 7 tokens in, 3 out; tokens of 1 answer unknown"


def test_pages_and_failures_have_no_unknown_tokens(project: Project) -> None:
    """A request to no model, or one that a server refuses, takes no tokens that could be unknown."""
    source = """
import httpx2
from miniagents_testing import Failure

def test_it(provider_server, stream_cassette):
    server = provider_server([Failure(401)])
    body = {"model": "m", "messages": [{"role": "user", "content": "One?"}]}
    httpx2.post(f"{server.openai_base_url}/chat/completions", json=body)
    httpx2.get(f"{server.openai_base_url}/no-such-page")
"""
    *_, last = _section(project(source, "--miniagents-record=once"))
    assert last == "1 cassette written, 2 requests, 0 tokens in, 0 out"
