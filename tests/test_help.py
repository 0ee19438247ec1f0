"""`help(miniagents)`: a first program and every public name, on one page (law 28)."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys

import pytest

import miniagents

MOST_LINES = 60


def help_of(thing: object) -> list[str]:
    """Return the lines that `help(thing)` prints."""
    return pydoc.plain(pydoc.render_doc(thing)).splitlines()


def test_help_of_the_package_is_one_page() -> None:
    """`help(miniagents)` has at most 60 lines, and does not repeat the help of each class."""
    lines = help_of(miniagents)
    assert len(lines) <= MOST_LINES
    assert "CLASSES" not in lines


def test_help_of_the_package_names_every_public_name() -> None:
    """Each public name stands in the table of names by use, and no other name does."""
    doc = miniagents.__doc__
    assert doc is not None
    table = doc.partition("```text\n")[2].partition("```")[0]
    named = set(re.findall(r"\b\w+\b", table))
    assert not set(miniagents.__all__) - named
    assert {name for name in named if name[:1].isupper()} <= set(miniagents.__all__)


def test_first_program_of_the_help_runs() -> None:
    """The program in the help runs as it stands, and prints its replies."""
    doc = miniagents.__doc__
    assert doc is not None
    program = doc.partition("```python\n")[2].partition("```")[0]
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "Hello, Ann! Hello, Bob!\n", "")


def test_other_callers_of_dir_get_every_public_name() -> None:
    """`dir(miniagents)`, which completion in an interpreter uses, still lists names that are not imported yet."""
    assert set(miniagents.__all__) <= set(dir(miniagents))


@pytest.mark.parametrize("name", [name for name in miniagents.__all__ if isinstance(getattr(miniagents, name), type)])
def test_help_of_each_class_begins_with_its_docstring(name: str) -> None:
    """`help` of a public class shows the docstring of that class, and each of its methods has a docstring."""
    kind = getattr(miniagents, name)
    assert kind.__doc__ is not None
    assert kind.__doc__.splitlines()[0] in "\n".join(help_of(kind))
    methods = [
        each
        for each, value in vars(kind).items()
        if callable(value) and not each.startswith("_") and not getattr(value, "__doc__", None)
    ]
    assert not methods
