"""The programs and links in README and docs work."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from wire_server import Answer, Request, WireServer

from miniagents_testing import ProviderServer, Step

if TYPE_CHECKING:
    from miniagents_testing._script import Call

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "cassettes/README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-W",
    "error",
    "-o",
    "asyncio_mode=auto",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECORDED = re.compile(r"pytest\.mark\.(miniagents_cassette|vcr)\b|\(stream_cassette\)")
RECORDED_PAGES = ("README.md", "docs/tutorial.md", "docs/how-to/other-frameworks.md")
"""Pages whose tests with a cassette ask a provider; those of other pages bring a server or make no request."""
WARNINGS = ("-W", "ignore", "-W", "error::miniagents_testing.errors.UnrecordedWarning")
"""Options that make only a warning of the testing kit an error, because frameworks warn of each other."""
CLIENTS = {"agents", "google.genai", "langchain_anthropic", "langchain_core", "litellm", "pydantic_ai"}
"""Packages of snippets that only `tox -e clients` installs; elsewhere these snippets are skipped."""


def _snippets(*, recorded: bool) -> list[Any]:
    """Return a parameter for each Python block of the pages: its text, and that of an ini block just before it.

    Args:
        recorded: True for blocks with a cassette that has yet to be recorded, False for all others.
    """
    found = []
    for page in PAGES:
        where, text, ini = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"), ""
        for block in FENCE.finditer(text):
            is_recorded = where in RECORDED_PAGES and RECORDED.search(block[2]) is not None
            if block[1] == "python" and is_recorded == recorded:
                line = text.count("\n", 0, block.start()) + 2
                marks = _skip_without_clients(block[2])
                if where == "docs/how-to/other-frameworks.md" and not marks and not _is_installed("litellm"):
                    marks = [pytest.mark.skip(reason="takes long, so `tox -e clients` runs all examples of this page")]
                found.append(pytest.param(block[2], ini, id=f"{where}:{line}", marks=marks))
            ini = block[2] if block[1] == "ini" else ""
    return found


def _skip_without_clients(snippet: str) -> list[pytest.MarkDecorator]:
    """Return a mark that skips a snippet where a package of `CLIENTS` that it imports is missing."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    missing = sorted(name for name in imported & CLIENTS if not _is_installed(name))
    return [pytest.mark.skip(reason=f"needs {', '.join(missing)}, as `tox -e clients` has")] if missing else []


def _is_installed(module: str) -> bool:
    """Return True if a module can be found, also one inside a package that is missing."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _run(folder: Path, snippet: str, *options: str, ini: str = "", **environment: str) -> None:
    """Run a snippet, a whole program or a file of tests, in a folder; it must succeed."""
    tests = any(getattr(node, "name", "").lower().startswith("test") for node in ast.parse(snippet).body)
    program = folder / ("test_snippet.py" if tests else "snippet.py")
    program.write_text(snippet, encoding="utf-8")
    if ini:
        (folder / "pytest.ini").write_text(ini, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", *(PYTEST if tests else ()), *options, str(program)],
        cwd=folder,
        env={**os.environ, **environment},
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("snippet", "ini"), _snippets(recorded=False))
def test_python_snippet_runs(snippet: str, ini: str, tmp_path: Path) -> None:
    """A snippet is a whole program or a file of tests; it runs in an empty folder, without a key or a keyboard."""
    _run(tmp_path, snippet, ini=ini)


def _said_by_model(call: Call) -> Step:
    """Call the first tool of a request, tell its result, or greet where there is no tool."""
    if call.tool_results:
        return Step(f"It says: {call.tool_results[-1].content}", gap=0.001)
    return Step(tool_calls=[("get_weather", {"city": "Rome"})]) if "tools" in call.request else Step("Hello to you!")


def _said_by_gemini(request: Request) -> Answer:
    """Greet in two events, in the wire format of Gemini."""
    parts = ({"content": {"role": "model", "parts": [{"text": text}]}, "index": 0} for text in ("Hel", "lo!"))
    return Answer([f"data: {json.dumps({'candidates': [part]})}\n\n".encode() for part in parts])


@pytest.mark.parametrize(("snippet", "ini"), _snippets(recorded=True))
def test_example_with_a_cassette_is_recorded_once_and_plays_offline(
    snippet: str, ini: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run asks servers in place of providers; the second passes too, and the servers count no request."""
    monkeypatch.delenv("CI", raising=False)  # there recordings are refused
    with ProviderServer(_said_by_model) as server, WireServer(_said_by_gemini) as gemini:
        environment = {
            "ANTHROPIC_BASE_URL": server.anthropic_base_url,
            "GOOGLE_GEMINI_BASE_URL": gemini.url,
            "OPENAI_BASE_URL": server.openai_base_url,
            "OPENAI_AGENTS_DISABLE_TRACING": "1",  # traces would go to OpenAI while the example is recorded
            **dict.fromkeys(("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"), "not-needed"),
        }
        record = ("--miniagents-record=once", "--record-mode=once")
        _run(tmp_path, snippet, *record, *WARNINGS, ini=ini, **environment)
        sent = len(server.calls) + len(gemini.requests)
        assert sent
        assert len(list(tmp_path.glob("cassettes/test_snippet/*.yaml"))) == 1
        _run(tmp_path, snippet, *WARNINGS, ini=ini, **environment)
        assert len(server.calls) + len(gemini.requests) == sent


def test_link_inside_the_repository_names_an_existing_file() -> None:
    """Every relative link of the pages names a file that exists."""
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_ci_runs_the_command_of_the_readme() -> None:
    """`.ci/run` is executable and reads its command from the README, which has exactly one such command."""
    script = ROOT / ".ci" / "run"
    (marked,) = re.findall(
        r"<!-- the command that runs all tests -->\n```sh\n(.*?)\n```",
        (ROOT / "README.md").read_text("utf-8"),
        re.DOTALL,
    )
    assert "\n" not in marked
    assert "tox" in marked
    assert "the command that runs all tests" in script.read_text("utf-8")
    if os.name == "posix":
        assert script.stat().st_mode & stat.S_IXUSR
