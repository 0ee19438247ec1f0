"""The page of faults names tests that exist, and the page for users has the limits of the code."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs/maintainers/faults.md").read_text("utf-8")
USERS_PAGE = (TESTS.parent / "docs/explanation/truncation.md").read_text("utf-8")

ROWS = [
    f"{kind}{number}"
    for kind, last in zip("SPCKHWRTX", (37, 27, 33, 25, 25, 5, 10, 10, 17), strict=True)
    for number in range(1, last + 1)
]


def table(page: str) -> list[list[str]]:
    """Return the rows of the tables of four columns, without the heads."""
    lines = re.findall(r"^\| (.+) \|$", page, re.MULTILINE)
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return [row for row in rows if len(row) == 4 and row[0] not in ("id", "what")]


FAULTS = {row[0]: row for row in table(PAGE)}
LIMITS = table(USERS_PAGE)


def rows_of(name: str) -> set[str]:
    """Return the ids in the name of a test: `test_S1_S5_what_holds` has two."""
    found = re.match(r"test_((?:[A-Z]\d+_)+)", name)
    return set(found[1].strip("_").split("_")) if found else set()


@cache
def functions_of(path: Path) -> set[str]:
    """Return the names of the functions that a file defines."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_page_has_every_row_once() -> None:
    """The page has 189 rows, each with a fault and a promise."""
    assert re.findall(r"^\| ([A-Z]\d+) \|", PAGE, re.MULTILINE) == ROWS
    assert len(ROWS) == 189
    for _, fault, promise, _ in FAULTS.values():
        assert fault
        assert promise


@pytest.mark.parametrize("row", ROWS)
def test_row_names_tests_that_exist(row: str) -> None:
    """Every test that a row names exists, and has the row's id in its name."""
    *_, cell = FAULTS[row]
    for named in cell.removesuffix("<br>the matrix").split("<br>"):
        match = re.fullmatch(r"`([\w/]+\.py)::(\w+)`", named)
        assert match, f"{named} is not `path::name`"
        path, name = match.groups()
        assert name in functions_of(TESTS / path), f"there is no {name} in tests/{path}"
        assert row in rows_of(name), f"{name} does not carry {row}"


def test_rows_of_the_matrix_are_marked() -> None:
    """The rows marked `the matrix` are those whose ids are in names of tests in `test_matrix.py`."""
    carried = {row for name in functions_of(TESTS / "faults/test_matrix.py") for row in rows_of(name)}
    assert carried == {row for row, (*_, cell) in FAULTS.items() if cell.endswith("<br>the matrix")}


def test_every_id_in_the_name_of_a_test_is_a_row() -> None:
    """Each id in the name of a test is a row of the page, and each row is in the name of a test."""
    carried = {row for path in TESTS.glob("**/test_*.py") for name in functions_of(path) for row in rows_of(name)}
    assert carried == set(ROWS)


@pytest.mark.parametrize(("what", "default", "where"), [row[:3] for row in LIMITS], ids=lambda cell: cell)
def test_limit_on_the_page_is_the_value_in_the_code(what: str, default: str, where: str) -> None:
    """Each limit in the tables of `truncation.md` has the value that the code has."""
    names = where.strip("`").split(".")
    module = next(
        n for n in range(len(names), 0, -1) if (TESTS.parent / "/".join(names[:n])).with_suffix(".py").exists()
    )
    value: Any = importlib.import_module(".".join(names[:module]))
    for name in names[module:]:
        value = getattr(value, name)
    assert default == shown(value)


def shown(value: float | int) -> str:  # noqa: PYI041 - here they differ
    """Return a size, a time or a number as the page shows it."""
    if isinstance(value, float):
        return f"{value:g} s"
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value // size} {unit}"
    return str(value)
