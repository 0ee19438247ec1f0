"""`edit`: change a cassette by hand, and seal it again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from miniagents_testing.cassette import Chunk, load, save
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import Done, Kit


def _replace(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def test_a_wanted_edit_is_sealed(run: Callable[..., Done], conversation: Path) -> None:
    """What was changed is said, and nothing else is different: the pace stays, although words got longer."""
    before = load(conversation)
    _replace(conversation, ("Auf ", "Auf Nimmer"))
    with pytest.raises(CassetteFormatError, match=r"interaction 2 .*edit --reseal"):
        load(conversation)
    assert run("edit", conversation, "--reseal").out.splitlines() == [
        f"{conversation}\tinteraction 2 (https://api.openai.com/v1/chat/completions): its digest does not fit",
        f"{conversation}\tsealed, 2 interactions",
    ]
    after = load(conversation)
    assert after[0] == before[0]
    assert b"Auf Nimmer" in after[1].response.body
    assert [chunk.wait for chunk in after[1].response.chunks] == [chunk.wait for chunk in before[1].response.chunks]
    assert run("verify", conversation).code == 0


def test_what_nobody_touched_is_left_alone(run: Callable[..., Done], conversation: Path) -> None:
    """To the byte."""
    before = conversation.read_bytes()
    assert run("edit", "--reseal", conversation) == (0, f"{conversation}\tnothing was changed\n", "")
    assert conversation.read_bytes() == before


def test_interactions_may_be_taken_out(run: Callable[..., Done], conversation: Path) -> None:
    """The count tells."""
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    del document["interactions"][0]
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("edit", "--reseal", conversation)
    assert "2 interactions were sealed, 1 are here" in done.out
    assert "Bye" in load(conversation)[0].request_body.decode()


def test_a_seal_that_plain_vcrpy_has_dropped_is_made_again(run: Callable[..., Done], conversation: Path) -> None:
    """It keeps our key in each interaction, and forgets the one at the end."""
    before = load(conversation)
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    del document["miniagents"]
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "`miniagents` entry is missing" in run("edit", "--reseal", conversation).out
    assert load(conversation) == before


def test_events_keep_their_moments_when_others_come_or_go(run: Callable[..., Done], tmp_path: Path, kit: Kit) -> None:
    """The map no longer fits; cuts inside events are given up, waits are not."""
    path = tmp_path / "c.yaml"
    answer = kit.answer("One", "Two", "Three")
    first, *others = answer.chunks
    cut = (Chunk(100, first.data[:9]), Chunk(200, first.data[9:]), *others)
    save(path, [kit.interaction("Count!", kit.answer(chunks=cut))])
    events = [chunk.data.decode() for chunk in answer.chunks]
    _replace(path, (events[2].rstrip(), f"{events[2].rstrip()}\n\n        {events[2].rstrip()}"))
    done = run("edit", "--reseal", path)
    assert "interaction 1: its chunk map does not fit" in done.out
    (interaction,) = load(path)
    assert [chunk.wait for chunk in interaction.response.chunks] == [300, *(chunk.wait for chunk in others), 0]
    assert interaction.response.body.decode() == "".join([*events[:3], events[2], *events[3:]])


def test_what_others_recorded_has_no_seal(run: Callable[..., Done], conversation: Path) -> None:
    """It is imported, not resealed."""
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    del document["miniagents"]
    for entry in document["interactions"]:
        del entry["response"]["stream"]
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("edit", "--reseal", conversation)
    assert done.code == 1
    assert "`import` makes it ours" in done.err


@pytest.fixture
def edit_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let the editor be a program that does this with `text`."""

    def use(what: str) -> None:
        program = tmp_path / "editor.py"
        program.write_text(
            "import sys, pathlib\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text(encoding='utf-8')\n"
            f"{what}\npath.write_text(text, encoding='utf-8')\n",
            encoding="utf-8",
        )
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{program}'")

    return use


def test_the_editor_gets_a_copy(run: Callable[..., Done], conversation: Path, edit_with: Callable[[str], None]) -> None:
    """Which takes the place of the file when it is sealed."""
    edit_with("text = text.replace('Auf ', 'Ab ')")
    assert run("edit", conversation).out.endswith(f"{conversation}\tsealed, 2 interactions\n")
    assert b"Ab " in load(conversation)[1].response.body
    assert [path.name for path in conversation.parent.glob("*.yaml")] == [conversation.name]


def test_an_edit_of_nothing_changes_nothing(
    run: Callable[..., Done], conversation: Path, edit_with: Callable[[str], None]
) -> None:
    """The file is not even written."""
    edit_with("")
    before = conversation.stat().st_mtime_ns
    assert run("edit", conversation).out == f"{conversation}\tnothing was changed\n"
    assert conversation.stat().st_mtime_ns == before
    assert [path.name for path in conversation.parent.glob("*.yaml")] == [conversation.name]


@pytest.mark.parametrize(
    ("what", "code"), [("text = 'x: ['", 1), ("text = 'x'; path.write_text(text); sys.exit(3)", 2)]
)
def test_an_edit_that_fails_is_kept_beside_the_file(
    run: Callable[..., Done], conversation: Path, edit_with: Callable[[str], None], what: str, code: int
) -> None:
    """The file is as it was, and the next edit goes on where this one stopped."""
    before = conversation.read_bytes()
    edit_with(what)
    done = run("edit", conversation)
    copy = conversation.with_name("conversation.edited.yaml")
    assert (done.code, conversation.read_bytes()) == (code, before)
    assert str(copy) in done.err
    copy.write_bytes(before)
    edit_with("text = text.replace('Auf ', 'Ab ')")
    assert run("edit", conversation).code == 0
    assert not copy.exists()


def test_without_an_editor_the_way_is_shown(
    run: Callable[..., Done], conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any editor will do, with one command after it."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    done = run("edit", conversation)
    assert done.code == 2
    assert "--reseal" in done.err
