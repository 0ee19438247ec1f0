"""The workshop as a package: what its names are, and what they say where something is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import miniagents_testing
from miniagents.errors import MissingExtraError


def test_every_public_name_is_there() -> None:
    """Names come when they are asked for, and `dir` knows them before."""
    assert set(miniagents_testing.__all__) <= set(dir(miniagents_testing))
    for name in miniagents_testing.__all__:
        assert getattr(miniagents_testing, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="'miniagents_testing' has no attribute 'Nothing'"):
        _ = miniagents_testing.Nothing


@pytest.mark.parametrize(
    ("name", "missing"), [("ReplayTransport", "httpx2"), ("ProviderServer", "starlette"), ("use_cassette", "vcr")]
)
def test_a_missing_extra_is_named_with_its_pip_line(name: str, missing: str) -> None:
    """Without the extra the package imports, and the first use of it says what to install."""
    code = f"import sys, miniagents_testing; sys.modules[{missing!r}] = None; miniagents_testing.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ImportError: miniagents_testing.{name} needs '{missing}" in done.stderr
    assert "pip install 'miniagents[testing]'" in done.stderr


@pytest.mark.parametrize(
    ("method", "missing", "extra"),
    [
        ("transport", "httpx2", "testing"),
        ("openai_client", "openai", "openai"),
        ("anthropic_client", "anthropic", "anthropic"),
        ("openai_client", "httpx2", "testing"),
    ],
)
def test_what_a_scripted_model_lacks_is_named(
    method: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"'{missing}' is not installed.*'miniagents\[{extra}\]'"):
        getattr(miniagents_testing.ScriptedLLM("Hello"), method)()


def test_a_scripted_model_needs_the_framework_only() -> None:
    """No SDK, no HTTP library, nothing of the extra: agents on a script run wherever agents do."""
    code = """if True:
        import asyncio, sys
        for name in ("anthropic", "httpx2", "openai", "starlette", "uvicorn", "yaml"):
            sys.modules[name] = None
        from miniagents import MiniAgents
        from miniagents_testing import Step, create_scripted_agent
        async def main():
            async with MiniAgents():
                print(*await create_scripted_agent(["Hello there"], api="messages").trigger("Hi"))
                await create_scripted_agent(Step("Hello there", after=1, then="reset")).trigger("Hi")
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "Hello there\n"
    assert "\nminiagents.errors.StreamBrokenError: " in done.stderr
