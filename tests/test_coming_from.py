"""The page for users of version 0.0.35 has each of its names, and what it says of them is true."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import miniagents

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    line.partition(": ")[2]
    for line in (ROOT / "tests/names_of_0_0_35.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
}
"""Names of the wheel on PyPI, kept as data: the wheel cannot be installed beside this project."""
PAGE = (ROOT / "docs/coming-from-0.0.35.md").read_text("utf-8")
ROWS = [
    (re.findall(r"`([\w.]+)`", names), verdict, reason)
    for names, verdict, reason in re.findall(r"^\| (.+?) \| (same|now|gone)\b(.*) \|$", PAGE, re.MULTILINE)
]
"""For each row the names, "same", "now" or "gone", and what the page says after that word."""


def _value(path: str) -> Any:
    """Return the object of a dotted path, which begins with a module."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            value = getattr(value, name)
        return value
    raise ModuleNotFoundError(path)


def test_page_has_each_name_of_the_wheel_once() -> None:
    """Each public name of the wheel is in one row, and no row has another name."""
    named = [name for names, _, _ in ROWS for name in names]
    assert sorted(named) == sorted(NAMES)


def test_names_that_are_the_same_exist() -> None:
    """Each name that a row calls the same can be read from `miniagents`, but for two that only instances have."""
    set_by_calls = {"MessagePromise.known_beforehand", "MessagePromise.message_class"}
    same = [name for names, verdict, _ in ROWS if verdict == "same" for name in names if name not in set_by_calls]
    assert len(same) > 40
    assert [name for name in same if _value(f"miniagents.{name}") is None] == []


def test_new_places_of_names_exist() -> None:
    """Each row that says "now" names at least one object that can be imported, or says that dumps have it."""
    for names, verdict, reason in ROWS:
        if verdict == "now":
            paths = re.findall(r"`(miniagents\.[\w.]+)`", reason)
            assert paths or "dumps" in reason, names
            for path in paths:
                assert _value(path) is not None


def test_names_that_are_gone_say_why() -> None:
    """Each row of names that are gone says what to do instead, or why; no such top-level name is in `miniagents`."""
    gone = [(names, reason) for names, verdict, reason in ROWS if verdict == "gone"]
    assert [names for names, reason in gone if not reason] == []
    assert [name for names, _ in gone for name in names if "." not in name and name in miniagents.__all__] == []
