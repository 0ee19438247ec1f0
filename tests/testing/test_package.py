"""The testing kit as a package: its names, and its errors when an extra is missing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import miniagents_testing
from miniagents.errors import MissingExtraError, install_line


def test_public_names_can_be_read_and_are_in_dir() -> None:
    """Each name of `__all__` can be read from the package, and `dir` lists it."""
    assert set(miniagents_testing.__all__) <= set(dir(miniagents_testing))
    for name in miniagents_testing.__all__:
        assert getattr(getattr(miniagents_testing, name), "__name__", name) == name


def test_unknown_name_is_an_attribute_error() -> None:
    """Reading a name that the package does not have raises an `AttributeError`."""
    with pytest.raises(AttributeError, match="'miniagents_testing' has no attribute 'Nothing'"):
        _ = miniagents_testing.Nothing


@pytest.mark.parametrize(
    ("name", "missing"), [("ReplayTransport", "httpx2"), ("ProviderServer", "starlette"), ("use_cassette", "vcr")]
)
def test_first_use_of_a_name_says_what_to_install_when_the_extra_is_missing(name: str, missing: str) -> None:
    """Without the extra, the package can be imported; the first use of a name says what to install with pip."""
    code = f"import sys; sys.modules[{missing!r}] = None; import miniagents_testing; miniagents_testing.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ImportError: miniagents_testing.{name} needs '{missing}" in done.stderr
    assert install_line("testing") in done.stderr


@pytest.mark.parametrize(
    ("method", "missing", "extra"),
    [
        ("transport", "httpx2", "testing"),
        ("openai_client", "openai", "openai"),
        ("anthropic_client", "anthropic", "anthropic"),
        ("openai_client", "httpx2", "testing"),
    ],
)
def test_scripted_model_says_what_to_install_when_a_package_is_missing(
    method: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method of `ScriptedLLM` that needs a missing package raises an error that says what to install with pip."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        MissingExtraError, match=re.escape(f"{missing!r} is not installed. Install it with: {install_line(extra)}")
    ):
        getattr(miniagents_testing.ScriptedLLM("Hello"), method)()


def test_scripted_agent_needs_no_extra() -> None:
    """Scripted agents answer, and break off, without an SDK, an HTTP library or a package of the extra."""
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
