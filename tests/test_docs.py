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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from forked_programs import run_program
from wire_server import Answer, Request, WireServer

from miniagents_testing import ProviderServer, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniagents_testing._script import Call
    from tests.conftest import Effort

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
FENCE = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^ *#> ?(.*)$", re.MULTILINE)
"""A line that the program prints."""
RECORDED = re.compile(r"pytest\.mark\.(miniagents_cassette|vcr)\b|\(stream_cassette\)")
RECORDED_PAGES = ("README.md", "docs/tutorial.md", "docs/how-to/cassettes.md", "docs/how-to/other-frameworks.md")
"""Pages whose tests with a cassette ask a provider; those of other pages bring a server or make no request."""
WARNINGS = ("-W", "ignore", "-W", "error::miniagents_testing.errors.UnrecordedWarning")
"""Options that make only a warning of the testing kit an error, because frameworks warn of each other."""
CLIENTS = {"agents", "google.genai", "langchain_anthropic", "langchain_core", "litellm", "mcp", "pydantic_ai"}
"""Packages of snippets that may be missing, as most are outside of `tox -e clients`; the snippets are skipped then."""


@dataclass(frozen=True)
class Snippet:
    """Python block of a page."""

    code: str
    name: str
    """Name of its file: the title of the block, if there is one."""
    files: dict[str, str]
    """Files beside it, by name: earlier blocks of the page that have titles, and an ini block just before it."""

    @property
    def output(self) -> list[str]:
        """Return the lines that the program must print; an empty list if the page does not say."""
        return [line.rstrip() for line in OUTPUT.findall(self.code)]


def _snippets(*, recorded: bool) -> list[Any]:
    """Return a parameter for each Python block of the pages.

    Args:
        recorded: True for blocks with a cassette that has yet to be recorded, False for all others.
    """
    found = []
    for page in PAGES:
        where, text, ini = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"), ""
        files: dict[str, str] = {}
        for block in FENCE.finditer(text):
            language, title, code = block.groups()
            is_recorded = where in RECORDED_PAGES and RECORDED.search(code) is not None
            if language == "python" and is_recorded == recorded:
                line = text.count("\n", 0, block.start()) + 2
                marks = _skip_without_clients(code)
                if where == "docs/how-to/other-frameworks.md" and not marks and not _is_installed("litellm"):
                    marks = [pytest.mark.skip(reason="takes long, so `tox -e clients` runs all examples of this page")]
                beside = files | ({"pytest.ini": ini} if ini else {})
                found.append(
                    pytest.param(Snippet(code, title or _name(code), beside), id=f"{where}:{line}", marks=marks)
                )
            ini = code if language == "ini" else ""
            if title and language == "python":
                files = files | {title: code}
    return found


def _name(code: str) -> str:
    """Return the name of a file for a block without a title: one that pytest collects if tests are in it."""
    tests = any(getattr(node, "name", "").lower().startswith("test") for node in ast.parse(code).body)
    return "test_snippet.py" if tests else "snippet.py"


def _skip_without_clients(snippet: str) -> list[pytest.MarkDecorator]:
    """Return a mark that skips a snippet where a package of `CLIENTS` that it imports is missing."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {node.module, node.module.partition(".")[0]}
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    missing = sorted(name for name in imported & CLIENTS if not _is_installed(name))
    return [pytest.mark.skip(reason=f"needs {', '.join(missing)}, as `tox -e clients` has")] if missing else []


def _is_installed(module: str) -> bool:
    """Return True if a module can be found, also one inside a package that is missing."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _run(
    folder: Path, snippet: Snippet, *options: str, more: Mapping[str, str] | None = None, forked: bool = False
) -> None:
    """Run a snippet, a whole program or a file of tests, in a folder; it must succeed, and print what the page says.

    Args:
        folder: where it runs, and its files are.
        snippet: the snippet.
        options: options of pytest.
        more: environment variables besides those of this process.
        forked: True to run a program in a forked process, which takes a fifth of the time of a new interpreter.
    """
    for name, text in {**snippet.files, snippet.name: snippet.code}.items():
        (folder / name).write_text(text, encoding="utf-8")
    path = folder / snippet.name
    is_test = snippet.name.startswith("test_")
    # tox sets PYTHONSAFEPATH; a program of the docs finds the files beside it, as it does for its reader.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONSAFEPATH": "", **(more or {})}
    if forked and not is_test:
        done = run_program(path, environment)
    else:
        done = subprocess.run(
            [sys.executable, "-W", "error", *(PYTEST if is_test else ()), *options, str(path)],
            cwd=folder,
            env=environment,
            input="",
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    if snippet.output:
        assert [line.rstrip() for line in done.stdout.splitlines()] == snippet.output


@pytest.mark.parametrize("snippet", _snippets(recorded=False))
def test_python_snippet_runs(snippet: Snippet, tmp_path: Path, effort: Effort) -> None:
    """A snippet is a whole program or a file of tests; it runs without a key or a keyboard, and prints its `#>` lines.

    In its folder are only the files that the page has named before.
    """
    _run(tmp_path, snippet, forked=effort(True, ci=False, nightly=False))


def test_pages_say_what_programs_print() -> None:
    """Programs of the tutorial have `#>` lines, and no page has them as `# >`, which would not be compared."""
    snippets = [parameter.values[0] for parameter in _snippets(recorded=False) if "tutorial" in str(parameter.id)]
    assert len([snippet for snippet in snippets if snippet.output]) >= 4
    assert [page.name for page in PAGES if re.search(r"^ *# >", page.read_text("utf-8"), re.MULTILINE)] == []


def _said_by_model(call: Call) -> Step:
    """Return a step that calls a tool, tells a tool's result, or greets if the request has no tools."""
    if call.tool_results:
        return Step(f"It says: {call.tool_results[-1].content}", gap=0.001)
    return Step(tool_calls=[("get_weather", {"city": "Rome"})]) if "tools" in call.request else Step("Hello to you!")


def _said_by_gemini(request: Request) -> Answer:
    """Return a greeting in two events, in the wire format of Gemini."""
    parts = ({"content": {"role": "model", "parts": [{"text": text}]}, "index": 0} for text in ("Hel", "lo!"))
    return Answer([f"data: {json.dumps({'candidates': [part]})}\n\n".encode() for part in parts])


@pytest.mark.parametrize("snippet", _snippets(recorded=True))
def test_example_with_a_cassette_is_recorded_once_and_plays_offline(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run asks servers in place of providers; the second passes too, and the servers count no request."""
    monkeypatch.delenv("CI", raising=False)  # where it is set, recordings are refused
    with ProviderServer(_said_by_model) as server, WireServer(_said_by_gemini) as gemini:
        environment = {
            "ANTHROPIC_BASE_URL": server.anthropic_base_url,
            "GOOGLE_GEMINI_BASE_URL": gemini.url,
            "OPENAI_BASE_URL": server.openai_base_url,
            "OPENAI_AGENTS_DISABLE_TRACING": "1",  # traces would go to OpenAI while the example is recorded
            **dict.fromkeys(("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"), "not-needed"),
        }
        record = ("--miniagents-record=once", "--record-mode=once")
        _run(tmp_path, snippet, *record, *WARNINGS, more=environment)
        sent = len(server.calls) + len(gemini.requests)
        assert sent
        assert len(list(tmp_path.glob("cassettes/test_*/*.yaml"))) == 1
        _run(tmp_path, snippet, *WARNINGS, more=environment)
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


def test_pages_and_examples_name_models_that_the_sdk_does_not_warn_of() -> None:
    """Pages and examples name no model for which Anthropic's SDK warns of its end of life."""
    from anthropic.resources.messages import DEPRECATED_MODELS

    files = [*PAGES, *sorted((ROOT / "examples").glob("*.py"))]
    named = {(path.name, model) for path in files for model in re.findall(r"claude-[\w.-]*\w", path.read_text("utf-8"))}
    assert named
    assert [(name, model) for name, model in sorted(named) if model in DEPRECATED_MODELS] == []


def test_readme_begins_with_a_short_test_and_is_short() -> None:
    """The README's first Python block is a test of at most eight lines, and its text is read in some three minutes."""
    text = (ROOT / "README.md").read_text("utf-8")
    first = next(block[3] for block in FENCE.finditer(text) if block[1] == "python")
    code = [line for line in first.splitlines() if line]
    assert len(code) <= 8
    assert any(line.startswith("def test_") for line in code)
    assert len(FENCE.sub("", text).split()) < 900
    assert "with a server on this machine that plays scripts, not with a provider" in text


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
