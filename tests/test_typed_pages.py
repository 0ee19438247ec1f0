"""The programs of the tutorial and the README as type checkers see them, and the types of the whole package (law 29).

Each checker is in an environment of tox only, `typing` or `pyright`: elsewhere its tests are skipped.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r'^```python(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LEAST_SCORE = 98.0
"""Percentage of the names that a user can reach whose types pyright must know."""

MYPY = ("mypy", "--config-file", str(ROOT / "pyproject.toml"))
"""mypy, strict, with the settings of this repository: it reads what it has found in packages before from its cache."""
UNTYPED = "# mypy: allow-untyped-defs, allow-incomplete-defs\n"
"""First line of each program: a function may have no annotations, such as a test with fixtures."""
PYRIGHT = ("pyright", "--pythonpath", sys.executable)

REVEALED: dict[str, dict[str, str | None]] = {
    "hello.py": {
        "greeter": "MiniAgent[(), Message]",
        "greeter.trigger('Ann')": "MessageSequencePromise[Message]",
        "MiniAgents().run_agent(greeter)": "tuple[Message, ...]",
    },
    "stream.py": {"model.trigger('Hi')": "MessageSequencePromise[Message]"},
    "remember.py": {"history.aload_chat_history": "() -> CoroutineType[Any, Any, tuple[Message, ...]]"},
    "trip.py": {"assistant.trigger": None},
}
"""Expressions of the programs with their types, as pyright writes them; None for any type that is known."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the programs of the pages into a folder, each between its settings of mypy and types to reveal."""
    folder = tmp_path_factory.mktemp("pages")
    for page in (ROOT / "README.md", ROOT / "docs" / "tutorial.md"):
        for number, (title, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            name = title or f"{page.stem.lower()}_{number}.py"
            reveals = "".join(f"reveal_type({expression})\n" for expression in REVEALED.get(name, ()))
            (folder / name).write_text(UNTYPED + code + reveals, encoding="utf-8")
    return folder


def run(tool: tuple[str, ...], folder: Path, *arguments: str) -> str:
    """Run a type checker in a folder; return its output, or skip the test if the checker is not installed."""
    if importlib.util.find_spec(tool[0]) is None:
        pytest.skip(f"needs {tool[0]}, as `tox -e typing,pyright` have")
    paths = {"MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", *tool, *arguments],
        cwd=folder,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stdout + ended.stderr


def test_mypy_accepts_the_programs_of_the_pages(programs: Path) -> None:
    """mypy, strict, has no error in the programs of the tutorial and the README."""
    names = sorted(map(str, programs.glob("*.py")))
    output = run(MYPY, ROOT, *names)
    assert f"Success: no issues found in {len(names)} source files" in output, output
    assert len(re.findall("Revealed type is", output)) == sum(map(len, REVEALED.values()))
    assert "MessageSequencePromise[miniagents.messages._message.Message]" in output


def test_pyright_accepts_the_programs_of_the_pages(programs: Path) -> None:
    """Pyright has no error in these programs, and reveals the types of their agents and replies."""
    output = run(PYRIGHT, programs, ".")
    assert re.search(r"^0 errors, 0 warnings", output, re.MULTILINE), output
    for name, types in REVEALED.items():
        for expression, expected in types.items():
            found = re.search(rf'{name}:\d+:\d+ - information: Type of "{re.escape(expression)}" is "(.*)"', output)
            assert found is not None, output
            assert "Unknown" not in found[1]
            assert expected in (None, found[1])


def test_pyright_knows_the_types_of_the_package(tmp_path: Path) -> None:
    """Pyright knows the types of nearly all names that a user of the package can reach."""
    output = run(PYRIGHT, tmp_path, "--ignoreexternal", "--verifytypes", "miniagents")
    score = re.search(r"Type completeness score: ([\d.]+)%", output)
    assert score is not None, output
    assert float(score[1]) >= LEAST_SCORE, output


@pytest.mark.parametrize("create", [create_openai_agent, create_anthropic_agent])
def test_hover_on_the_maker_of_an_agent_shows_each_setting(create: Callable[..., object]) -> None:
    """The signature and the docstring, which an editor shows on hover, have each setting with its meaning."""
    names = inspect.signature(create).parameters
    described = re.findall(r"^    (\w+): ", (inspect.getdoc(create) or "").partition("\nArgs:\n")[2], re.MULTILINE)
    assert list(names) == [name for name in described if name in names]
