"""`--miniagents-pictures`: pictures of tests."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Project = Callable[..., pytest.RunResult]

TESTS = """
from miniagents import MiniAgents
from miniagents_testing import create_scripted_agent

async def ask(question):
    async with MiniAgents():
        await create_scripted_agent("The answer", alias="WRITER").trigger(question)

def test_passes():
    asyncio.run(ask("passes?"))

def test_fails():
    asyncio.run(ask("fails?"))
    assert 1 == 2

@pytest.mark.parametrize("text", ["a/b", "a_b"])
def test_odd(text):
    asyncio.run(ask(text))
    assert 1 == 2

@pytest.mark.asyncio
async def test_asyncio():
    await ask("asyncio?")
    assert 1 == 2

@pytest.mark.asyncio
@pytest.mark.miniagents_virtual_time
async def test_virtual():
    await asyncio.sleep(100)
    await ask("virtual?")
    assert 1 == 2

@pytest.fixture
def broken():
    asyncio.run(ask("fixture?"))
    raise ValueError

def test_with_broken_fixture(broken):
    pass

def test_fails_without_agents():
    assert 1 == 2

def test_skipped():
    asyncio.run(ask("skipped?"))
    pytest.skip("not now")
"""


def pages(pytester: pytest.Pytester) -> dict[str, str]:
    """Return the pages that were written, by their names."""
    folder = pytester.path / ".miniagents" / "pictures"
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*")}


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_failed_tests_get_pictures(project: Project, pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    """With `failed`, each failed test with requests of agents has a picture, whose path is in its report."""
    result = project(TESTS, "--miniagents-pictures=failed", *arguments)
    result.assert_outcomes(passed=1, failed=6, errors=1, skipped=1)
    found = pages(pytester)
    questions = {name: re.findall(r"</b> (.+?)</div>", page) for name, page in found.items()}
    odd = [name for name in questions if "test_odd" in name]
    assert {questions.pop(name)[0] for name in odd} == {"a/b", "a_b"}
    assert questions == {
        "test_it.py.test_fails.html": ["fails?"],
        "test_it.py.test_asyncio.html": ["asyncio?"],
        "test_it.py.test_virtual.html": ["virtual?"],
        "test_it.py.test_with_broken_fixture.html": ["fixture?"],
    }
    assert "The answer" in found["test_it.py.test_fails.html"]
    result.stdout.fnmatch_lines(["*- picture of the run -*", ".miniagents/pictures/test_it.py.test_fails.html"])
    assert result.stdout.str().count("picture of the run") == 6
    assert (pytester.path / ".miniagents" / ".gitignore").read_text(encoding="utf-8").endswith("\n*\n")


def test_all_tests_get_pictures(project: Project, pytester: pytest.Pytester) -> None:
    """With `--miniagents-pictures=all`, tests that pass have pictures, too."""
    project(TESTS, "--miniagents-pictures=all").assert_outcomes(passed=1, failed=6, errors=1, skipped=1)
    assert "passes?" in pages(pytester)["test_it.py.test_passes.html"]


def test_without_the_option_there_are_no_pictures(project: Project, pytester: pytest.Pytester) -> None:
    """Without the option, no pictures and no folder for them are written."""
    project(TESTS).assert_outcomes(passed=1, failed=6, errors=1, skipped=1)
    assert not (pytester.path / ".miniagents").exists()


def test_picture_of_an_earlier_failure_is_removed(project: Project, pytester: pytest.Pytester) -> None:
    """A test that passes now has no picture of an earlier run in which it failed."""
    project(TESTS, "--miniagents-pictures=failed", "-k", "test_fails")
    assert "test_it.py.test_fails.html" in pages(pytester)
    project(TESTS.replace("assert 1 == 2", "pass"), "--miniagents-pictures=failed", "-k", "test_fails")
    assert pages(pytester) == {}


CASSETTE_TEST = """
import httpx

@pytest.mark.miniagents_cassette("c.yaml")
def test_it():
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    assert "Ho" not in httpx.post("https://api.openai.com/v1/chat/completions", json=body).text
"""


@pytest.mark.parametrize("key", ["", "sk-proj-" + "Ab1" * 20])
def test_test_of_another_framework_gets_the_picture_of_its_cassette(
    project: Project, pytester: pytest.Pytester, key: str
) -> None:
    """A failed test without agents has a picture of its cassette, unless the cassette has a secret."""
    event = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"Ho {key}"}}]}
    answer = ResponseStream(
        (Chunk(10, f"data: {json.dumps(event)}\n\n".encode()),), headers={"content-type": ["text/event-stream"]}
    )
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    path: Path = pytester.path / "cassettes" / "c.yaml"
    save(path, [Interaction("POST", "https://api.openai.com/v1/chat/completions", body, answer)])
    result = project(CASSETTE_TEST, "--miniagents-pictures=failed")
    result.assert_outcomes(failed=1)
    if key:
        assert pages(pytester) == {}
        result.stdout.fnmatch_lines(["*picture of the run*", "there is no picture, because the cassette has a secret*"])
    else:
        assert "Ho" in pages(pytester)["test_it.py.test_it.html"]
