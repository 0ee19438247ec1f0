"""A cassette is data: whatever is written in it, loading it runs nothing, and takes no more than a moment."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cassette._file import load
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = {
    "apply": "!!python/object/apply:os.system ['touch {mark}']",
    "apply with arguments": "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
    "new": "!!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "object": "!!python/object:miniagents.messages.Message {{content: x}}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:antigravity",
    "state": "!!python/object/new:type {{args: [x, !!python/tuple [], {{}}], state: {{__init__: 1}}}}",
    "a tag of nobody": "!surprise x",
    "reduce": "{{__reduce__: [os.system, ['touch {mark}']]}}",
}


@pytest.mark.parametrize("place", ["{0}", "interactions: {0}", "interactions: [{0}]", "interactions: []\nx: {0}"])
@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_X6_a_cassette_runs_no_code(payload: str, place: str, tmp_path: Path) -> None:
    """Tags that would make objects or call functions are refused, wherever they stand."""
    mark, path = tmp_path / "mark", tmp_path / "cassette.yaml"
    path.write_text(place.format(payload.format(mark=mark)) + "\n", encoding="utf-8")
    with pytest.raises(CassetteFormatError):
        load(path)
    assert not mark.exists()


ENTRY = """interactions:
- request: {{method: GET, uri: u, body: x, headers: {{}}}}
  response: {{status: {{code: 200, message: x}}, headers: {{}}, body: {{string: x}}, stream: {{v: 1}}, x: {0}}}
version: 1
miniagents: {{v: 1, count: 1, digest: x}}
"""
"""Read as far as its digests, whatever stands in it."""


def laughs(inside: str) -> str:
    """Eleven lines, each of which says nine times what the one before it says."""
    lines = [f"{this}: &{this} {inside.format(','.join([f'*{last}'] * 9))}\n" for last, this in pairwise("abcdefghijk")]
    return "a: &a {x: x}\n" + "".join(lines)


EXPENSIVE = {
    "deep": "interactions: " + "[" * 100_000,
    "deep in a block": "interactions: " + "- " * 100_000,
    "deep in an interaction": ENTRY.format("[" * 980 + "]" * 980),
    "deep in JSON": json.dumps({"interactions": [], "version": 1, "x": json.loads("[" * 500 + "]" * 500)}),
    "laughs": laughs("[{}]") + ENTRY.format("*k"),
    "merges": laughs("{{<<: [{}]}}") + ENTRY.format("*k"),
    "a long text again and again": f"a: &a {'x' * 100_000}\n" + ENTRY.format(f"[{'*a,' * 100_000}]"),
    "a long list again and again": f"a: &a [{'x,' * 100_000}]\n" + ENTRY.format(f"[{'*a,' * 100_000}]"),
    "a long key again and again": f"a: &a {'x' * 1_000}\n" + ENTRY.format(f"[{'{*a : x},' * 10_000}]"),
    "to the base 60": ENTRY.format("1" + ":0" * 400_000),
    "circle": "interactions: &a [*a]",
    "circle in an interaction": ENTRY.format("&a [*a]"),
}


@pytest.mark.parametrize("text", EXPENSIVE.values(), ids=EXPENSIVE.keys())
def test_X6_a_cassette_that_is_made_to_be_expensive_is_refused(text: str, tmp_path: Path) -> None:
    """Nesting, repetition, circles and long numbers cost what the file costs."""
    path = tmp_path / "cassette.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CassetteFormatError):
        load(path)


@pytest.mark.parametrize(
    "value", ["!!bool x", "!!timestamp x", "!!int ''", "1:0" + ":0" * 999 + ".0", "0x" + "f" * 4200]
)
def test_a_value_that_is_none_of_its_type_is_an_error_of_the_file(value: str, tmp_path: Path) -> None:
    """Whatever the YAML library happens to raise for it, and where only its digest finds it."""
    path = tmp_path / "cassette.yaml"
    path.write_text(ENTRY.format(value), encoding="utf-8")
    with pytest.raises(CassetteFormatError, match=r"not a cassette|not readable"):
        load(path)


@pytest.mark.parametrize("again", ["*h", "{<<: *h, c: [z]}"])
def test_interactions_may_share_their_headers(again: str, tmp_path: Path) -> None:
    """Plain vcrpy writes the same list once, and names it where it stands again; people merge."""
    entry = (
        "- request: {{method: GET, uri: u, body: '', headers: {}}}\n  response: {{status: {{code: 200, message: x}}}}\n"
    )
    entries = entry.format("&h {a: [x, y], b: [z]}") + entry.format(again) * 50
    path = tmp_path / "cassette.yaml"
    path.write_text(f"interactions:\n{entries}version: 1\n", encoding="utf-8")
    first, *_, last = load(path)
    assert first.request_headers.items() <= last.request_headers.items()
