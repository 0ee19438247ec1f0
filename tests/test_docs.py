"""The programs and links in README and docs work."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

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


def _snippets(language: str) -> list[tuple[str, str]]:
    """Return page and line of each block in `language`, and the text of the block."""
    return [
        (f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 2}", block[2])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for block in FENCE.finditer(text)
        if block[1] == language
    ]


@pytest.mark.parametrize("snippet", [pytest.param(text, id=where) for where, text in _snippets("python")])
def test_python_snippet_runs(snippet: str, tmp_path: Path) -> None:
    """A snippet is a whole program or a file of tests; it runs in an empty folder, without a key or a keyboard."""
    tests = any(getattr(node, "name", "").lower().startswith("test") for node in ast.parse(snippet).body)
    program = tmp_path / ("test_snippet.py" if tests else "snippet.py")
    program.write_text(snippet, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", *(PYTEST if tests else ()), str(program)],
        cwd=tmp_path,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
