"""Fixtures for scripted models and servers: the test fails unless it uses the whole script."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Project = Callable[..., pytest.RunResult]

ASK = """
from miniagents import MiniAgents
from miniagents.ext.llm.openai import create_openai_agent

async def ask(agent):
    async with MiniAgents():
        return [str(message) for message in await agent.trigger("Hi")]
"""


def test_test_passes_when_its_script_is_used_completely(project: Project) -> None:
    """A test that uses all steps of its script passes: by agent, by SDK client, or over the socket of a server."""
    result = project(
        ASK
        + """
@pytest.mark.asyncio
async def test_agent(scripted_llm):
    assert await ask(scripted_llm("Hello").agent()) == ["Hello"]

@pytest.mark.asyncio
async def test_client(scripted_llm):
    client = scripted_llm(["Hello"]).openai_client()
    assert await ask(create_openai_agent(model="m", async_client=client)) == ["Hello"]

@pytest.mark.asyncio
async def test_server(provider_server):
    import openai
    server = provider_server(["Hello"])
    async with openai.AsyncOpenAI(base_url=server.openai_base_url, api_key="none") as client:
        assert await ask(create_openai_agent(model="m", async_client=client)) == ["Hello"]
"""
    )
    result.assert_outcomes(passed=3)


def test_test_fails_when_steps_are_left(project: Project) -> None:
    """A test that leaves steps of its scripted model or server unused fails, unless it has failed already."""
    result = project(
        ASK
        + """
@pytest.mark.asyncio
async def test_left(scripted_llm):
    await ask(scripted_llm(["Hello", "never said"]).agent())

def test_server(provider_server):
    provider_server(["never said"])

def test_fails(scripted_llm):
    scripted_llm(["never said"])
    assert 1 == 2
"""
    )
    result.assert_outcomes(failed=3)
    assert result.stdout.str().count("\nUnconsumedStepsError: 1 step was not used: ") == 2


def test_fixture_that_is_not_called_says_to_call_it(project: Project) -> None:
    """An attribute of a model or a server that is taken from the fixture itself is an error with the line to write."""
    result = project(
        """
import pytest

@pytest.mark.parametrize("name", ["agent", "openai_client", "calls"])
def test_model(scripted_llm, name):
    with pytest.raises(AttributeError) as raised:
        getattr(scripted_llm, name)
    assert f"`scripted_llm([...]).{name}`, not `scripted_llm.{name}`" in str(raised.value)

def test_server(provider_server):
    with pytest.raises(AttributeError) as raised:
        provider_server.openai_base_url
    assert "`provider_server([...]).openai_base_url`" in str(raised.value)
    assert not hasattr(provider_server, "no_such_name")
"""
    )
    result.assert_outcomes(passed=4)


def test_test_fails_when_the_application_catches_an_unexpected_call(project: Project) -> None:
    """A test fails when the application catches the error of a call for which the script has no step."""
    result = project(
        ASK
        + """
@pytest.mark.asyncio
async def test_it(scripted_llm):
    llm = scripted_llm(["Hello"])
    assert await ask(llm.agent()) == ["Hello"]
    try:
        await ask(llm.agent())
    except Exception:
        pass
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*UnexpectedCallError: *")
