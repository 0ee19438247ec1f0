"""Hostile cassettes: loading one runs no code, and takes time in proportion to its file."""

from __future__ import annotations

import json
import os
import runpy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing.cassette import _file as file
from miniagents_testing.cassette import _yaml as plain_data
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
    "an unknown tag": "!surprise x",
    "reduce": "{{__reduce__: [os.system, ['touch {mark}']]}}",
}


@pytest.mark.parametrize("place", ["{0}", "interactions: {0}", "interactions: [{0}]", "interactions: []\nx: {0}"])
@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_X6_load_runs_no_code_of_a_cassette(payload: str, place: str, tmp_path: Path) -> None:
    """`load` raises an error for YAML tags that would make objects or call functions, at any place of the file."""
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
    """Return eleven lines, each of which repeats the line before it nine times."""
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
def test_X6_load_refuses_a_cassette_that_is_made_to_be_expensive(text: str, tmp_path: Path) -> None:
    """`load` soon raises an error for deep nesting, exploding aliases, circles and very long numbers."""
    path = tmp_path / "cassette.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CassetteFormatError):
        load(path)


@pytest.mark.parametrize(
    "value",
    ["!!bool x", "!!timestamp 2001-12-14", "!!int ''", "!!binary é", "!!set {a, b}", "9" * 5000, "{<<: {a: b}}"],
)
def test_load_refuses_values_that_no_cassette_has(value: str, tmp_path: Path) -> None:
    """`load` raises an error for YAML values with a wrong or unused type, and for merge keys."""
    path = tmp_path / "cassette.yaml"
    path.write_text(ENTRY.format(value), encoding="utf-8")
    with pytest.raises(CassetteFormatError, match=r"cassette\.yaml is no cassette: (line 3: |a value in it)"):
        load(path)


PLAIN: dict[str, Any] = {
    "null, Null, NULL, ~, ": [None] * 5,
    "true, True, TRUE, false, False, FALSE": [True, True, True, False, False, False],
    "0, 17, -17, +17, -0": [0, 17, -17, 17, 0],
    "0.5, -17.25, 1., 1.5e+16, 1.0e-05": [0.5, -17.25, 1.0, 1.5e16, 1e-05],
    "!!binary aGk=, !!str 17, !!int '17'": [b"hi", "17", 17],
    "yes, off, 017, 0x11, 1_000, 1:30, 1e5, .5, .nan, 2001-12-14, a:b, =, '17', 'null'": [
        *("yes", "off", "017", "0x11", "1_000", "1:30", "1e5", ".5", ".nan", "2001-12-14", "a:b", "=", "17", "null")
    ],
}


@pytest.mark.parametrize("libyaml", [True, False])
@pytest.mark.parametrize(("written", "value"), PLAIN.items())
def test_plain_data_reads_null_booleans_decimals_and_binary_and_takes_the_rest_for_text(
    written: str, value: list[Any], libyaml: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without libyaml, YAML's nulls, booleans, decimals and `!!binary` keep their types; the rest is text."""
    if not libyaml:
        monkeypatch.delattr(yaml, "CBaseLoader")
    read = runpy.run_path(str(plain_data.__file__))["plain_data"](
        "\n".join(f"- {each}" for each in written.split(", "))
    )
    assert [(type(each), each) for each in read] == [(type(each), each) for each in value]


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("0123456789.:-+_exoTZ \n~=<", max_size=12),
    st.sampled_from(
        ["null", "true", "yes", "on", "n", "", "1:30", "010", "08", "1e5", "1.5e5", "2001-12-14", "<<", ".nan"]
    ),
)
VALUES = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
DOCUMENTS = st.recursive(
    st.one_of(VALUES, st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner)),
    max_leaves=8,
)


@given(DOCUMENTS)
def test_plain_data_reads_what_pyyaml_writes_as_the_safe_loader_does(document: Any) -> None:
    """For any document that PyYAML wrote, `plain_data` returns the same as PyYAML's safe loader."""
    text = yaml.safe_dump(document, allow_unicode=True)
    assert plain_data.plain_data(text) == yaml.load(text, yaml.CSafeLoader)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_X6_load_refuses_a_path_that_is_no_regular_file(kind: str, tmp_path: Path) -> None:
    """`load` raises an error for a named pipe or a folder instead of blocking."""
    path = tmp_path / "cassette.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(CassetteFormatError, match=r"cassette\.yaml is no cassette: it is not a regular file"):
        load(path)


def test_X6_load_refuses_a_file_of_more_than_256_mib(tmp_path: Path) -> None:
    """`load` raises an error for a file of more than 256 MiB, by its size alone."""
    path = tmp_path / "cassette.yaml"
    with path.open("wb") as sparse:
        sparse.truncate(file.MOST_BYTES + 1)
    with pytest.raises(CassetteFormatError, match="is no cassette: it has 268,435,457 bytes, more than 268,435,456"):
        load(path)


def test_load_reads_headers_that_interactions_share(tmp_path: Path) -> None:
    """Headers that YAML aliases repeat in many interactions are read in each of them."""
    entry = (
        "- request: {{method: GET, uri: u, body: '', headers: {}}}\n  response: {{status: {{code: 200, message: x}}}}\n"
    )
    entries = entry.format("&h {a: [x, y], b: [z]}") + entry.format("*h") * 50
    path = tmp_path / "cassette.yaml"
    path.write_text(f"interactions:\n{entries}version: 1\n", encoding="utf-8")
    first, *_, last = load(path)
    assert first.request_headers == last.request_headers == {"a": ["x", "y"], "b": ["z"]}
