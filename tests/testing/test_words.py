"""Words of messages: numbers with their nouns, lists that end in a count, short paths."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from miniagents_testing._words import counted, first_lines, short_path

if TYPE_CHECKING:
    from collections.abc import Iterator

PLURAL = re.compile(r" (?:[a-z]+ )?[a-z]+s\b")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 files were"), (1, "1 file was"), (2, "2 files were"), (1234, "1,234 files were")]
)
def test_counted_is_one_or_many(count: int, said: str) -> None:
    """`counted` joins a number and its noun, in the singular or the plural, with a verb if one is given."""
    assert counted(count, "file was", "files were") == said
    assert counted(count, "file") == said.rpartition(" ")[0]


def test_first_lines_end_in_the_number_of_the_others() -> None:
    """`first_lines` returns the first of many lines and counts the others in a last one, and returns all of few."""
    assert first_lines(["a", "b", "c"], 1) == ["  a", "  and 2 more"]
    assert first_lines(["a", "b"], 2) == ["  a", "  b"]


def test_short_path_is_relative_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`short_path` returns a path below the current folder as a relative one, and any other path as it is."""
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "a" / "b") == str(Path("a", "b"))
    assert short_path(tmp_path.parent) == str(tmp_path.parent)
    assert short_path("a") == "a"


def _plurals(source: str) -> Iterator[str]:
    """Yield the plurals after the length of something in f-strings."""
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for value, text in pairwise(parts):
            is_length = isinstance(value, ast.FormattedValue) and ast.unparse(value.value).startswith("len(")
            if is_length and isinstance(text, ast.Constant) and (found := PLURAL.match(str(text.value))):
                yield found[0]


def test_plurals_are_made_by_counted_alone(root: Path) -> None:
    """No message of the kit has a plural after a length, which would be wrong for the number 1."""
    assert [*_plurals("f'{len(a)} files'"), *_plurals("f'{len(a)} more files'")] == [" files", " more files"]
    files = sorted((root / "miniagents_testing").rglob("*.py"))
    assert [(file.name, plural) for file in files for plural in _plurals(file.read_text(encoding="utf-8"))] == []
