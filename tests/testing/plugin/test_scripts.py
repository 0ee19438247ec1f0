"""The fixtures for scripts: what they make must be used up when the test has ended."""

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


def test_a_script_that_is_used_up_passes(project: Project) -> None:
    """As agents, as a client of the SDK, and over a socket of this machine."""
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


def test_what_is_left_of_a_script_fails_the_test(project: Project) -> None:
    """Of a server's too; a test that has failed already is not asked."""
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
    assert result.stdout.str().count("E       miniagents_testing.errors.UnconsumedStepsError: ") == 2


def test_a_call_too_much_fails_the_test_that_swallows_it(project: Project) -> None:
    """Whoever catches everything does not hide it."""
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
