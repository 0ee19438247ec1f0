"""A cassette is data: whatever is written in it, loading it runs nothing, and takes no more than a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cassette.file import load
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


@pytest.mark.parametrize(
    "text",
    [
        "interactions: " + "[" * 100_000,
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "interactions: &a [*a]",
    ],
    ids=["deep", "laughs", "circle"],
)
def test_X6_a_cassette_that_is_made_to_be_expensive_is_refused(text: str, tmp_path: Path) -> None:
    """Nesting, repetition and circles cost what the file costs."""
    path = tmp_path / "cassette.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CassetteFormatError):
        load(path)
