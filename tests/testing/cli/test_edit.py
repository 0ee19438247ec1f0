"""`edit`: a cassette changed in an editor, and saved with new checksums."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from miniagents_testing.cassette import Chunk, load, save
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit


def _replace(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def test_reseal_updates_the_checksums_and_keeps_the_waits(
    run: Callable[..., CommandResult], conversation: Path
) -> None:
    """After a text got longer, `edit --reseal` writes a new checksum, prints the change, and keeps the waits."""
    before = load(conversation)
    _replace(conversation, ("Auf ", "Auf Nimmer"))
    with pytest.raises(CassetteFormatError, match=r"interaction 2 .*edit --reseal"):
        load(conversation)
    assert run("edit", conversation, "--reseal").out.splitlines() == [
        f"{conversation}\tinteraction 2 (https://api.openai.com/v1/chat/completions): its digest does not fit",
        f"{conversation}\tsaved with checksums, 2 interactions",
    ]
    after = load(conversation)
    assert after[0] == before[0]
    assert b"Auf Nimmer" in after[1].response.body
    assert [chunk.wait for chunk in after[1].response.chunks] == [chunk.wait for chunk in before[1].response.chunks]
    assert run("verify", conversation).code == 0


def test_reseal_refuses_a_file_with_a_secret_unless_it_is_forced(
    run: Callable[..., CommandResult], conversation: Path
) -> None:
    """`edit --reseal` names the place of a secret and saves nothing, with exit code 1; `--force` saves the file."""
    key = "sk-" + "proj-" + "4f" * 15
    _replace(conversation, ("who are you?", key))
    before = conversation.read_bytes()
    refused = run("edit", "--reseal", conversation)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        f"miniagents-testing edit: {conversation}, interaction 1, request body messages[0].content: OpenAI key: "
        "a secret; remove it, or save it with --force\n"
    )
    assert conversation.read_bytes() == before
    assert run("edit", "--reseal", "--force", conversation).code == 0
    assert key in load(conversation)[0].request_body.decode()


def test_edit_keeps_a_copy_with_a_secret(
    run: Callable[..., CommandResult], conversation: Path, edit_with: Callable[[str], None]
) -> None:
    """An edit that adds a secret is refused, and its copy stays for the next `edit`."""
    key = "sk-" + "proj-" + "4f" * 15
    before = conversation.read_bytes()
    edit_with(f"text = text.replace('who are you?', '{key}')")
    assert run("edit", conversation).code == 1
    assert conversation.read_bytes() == before
    assert key in conversation.with_name("conversation.edited.yaml").read_text(encoding="utf-8")


def test_reseal_leaves_an_unchanged_file_as_it_is(run: Callable[..., CommandResult], conversation: Path) -> None:
    """`edit --reseal` does not change a file whose checksums fit."""
    before = conversation.read_bytes()
    assert run("edit", "--reseal", conversation) == (0, f"{conversation}\tnothing was changed\n", "")
    assert conversation.read_bytes() == before


@pytest.mark.parametrize("chunks", [15.02, ["15.02"]])
def test_reseal_refuses_a_chunk_map_that_is_no_text(
    run: Callable[..., CommandResult], conversation: Path, chunks: Any
) -> None:
    """A map that lost its quotes, or became a list, is an error that names the interaction and what to write."""
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    document["interactions"][0]["response"]["stream"]["chunks"] = chunks
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("edit", "--reseal", conversation)
    assert (done.code, done.out) == (1, "")
    assert "interaction 1: its chunk map is " in done.err
    assert "Put it in quotes" in done.err


def test_reseal_accepts_a_removed_interaction(run: Callable[..., CommandResult], conversation: Path) -> None:
    """After an interaction was removed, `edit --reseal` prints both numbers of interactions; the file loads again."""
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    del document["interactions"][0]
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("edit", "--reseal", conversation)
    assert "its checksum is of 2 interactions, and does not fit the 1 in the file" in done.out
    assert "Bye" in load(conversation)[0].request_body.decode()


def test_reseal_restores_the_entry_that_plain_vcrpy_drops(
    run: Callable[..., CommandResult], conversation: Path
) -> None:
    """`edit --reseal` adds the key `miniagents` again if plain vcrpy has written the file without that key."""
    before = load(conversation)
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    del document["miniagents"]
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "key `miniagents` is missing" in run("edit", "--reseal", conversation).out
    assert load(conversation) == before


def test_reseal_keeps_waits_by_place_when_an_event_is_added(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """After an event was added, `edit --reseal` gives the n-th event the wait of the former n-th, and 0 to the last.

    Each event is one chunk afterwards, also one that came in two.
    """
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


def test_reseal_refuses_a_cassette_of_another_tool(run: Callable[..., CommandResult], conversation: Path) -> None:
    """`edit --reseal` of a file of another tool is an error that names the command `import`."""
    document = yaml.safe_load(conversation.read_text(encoding="utf-8"))
    del document["miniagents"]
    for entry in document["interactions"]:
        del entry["response"]["stream"]
    conversation.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("edit", "--reseal", conversation)
    assert done.code == 1
    assert "Convert it with `miniagents-testing import`" in done.err


@pytest.fixture
def edit_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that sets an editor: a program that runs a statement on `text`."""

    def use(statement: str) -> None:
        program = tmp_path / "editor.py"
        program.write_text(
            "import sys, pathlib\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text(encoding='utf-8')\n"
            f"{statement}\npath.write_text(text, encoding='utf-8')\n",
            encoding="utf-8",
        )
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{program}'")

    return use


def test_edit_replaces_the_file_by_the_edited_copy(
    run: Callable[..., CommandResult], conversation: Path, edit_with: Callable[[str], None]
) -> None:
    """When the editor has changed its copy, `edit` replaces the file by it, with new checksums, and leaves no copy."""
    edit_with("text = text.replace('Auf ', 'Ab ')")
    assert run("edit", conversation).out.endswith(f"{conversation}\tsaved with checksums, 2 interactions\n")
    assert b"Ab " in load(conversation)[1].response.body
    assert [path.name for path in conversation.parent.glob("*.yaml")] == [conversation.name]


def test_edit_does_not_write_the_file_when_nothing_was_changed(
    run: Callable[..., CommandResult], conversation: Path, edit_with: Callable[[str], None]
) -> None:
    """When the editor changes nothing, `edit` does not write the file, and leaves no copy."""
    edit_with("")
    before = conversation.stat().st_mtime_ns
    assert run("edit", conversation).out == f"{conversation}\tnothing was changed\n"
    assert conversation.stat().st_mtime_ns == before
    assert [path.name for path in conversation.parent.glob("*.yaml")] == [conversation.name]


@pytest.mark.parametrize(
    ("statement", "code"), [("text = 'x: ['", 1), ("text = 'x'; path.write_text(text); sys.exit(3)", 2)]
)
def test_edit_keeps_the_copy_when_it_fails(
    run: Callable[..., CommandResult], conversation: Path, edit_with: Callable[[str], None], statement: str, code: int
) -> None:
    """When the editor fails or leaves a damaged copy, the file stays, and the next `edit` opens the copy again."""
    before = conversation.read_bytes()
    edit_with(statement)
    done = run("edit", conversation)
    copy = conversation.with_name("conversation.edited.yaml")
    assert (done.code, conversation.read_bytes()) == (code, before)
    assert str(copy) in done.err
    copy.write_bytes(before)
    edit_with("text = text.replace('Auf ', 'Ab ')")
    assert run("edit", conversation).code == 0
    assert not copy.exists()


def test_edit_names_reseal_when_no_editor_is_set(
    run: Callable[..., CommandResult], conversation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an editor, `edit` tells the user to edit with any program and to run `edit --reseal`."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    done = run("edit", conversation)
    assert done.code == 2
    assert "--reseal" in done.err


@pytest.mark.skipif(os.name != "posix", reason="this system has other permissions")
def test_edit_keeps_a_private_file_private_and_its_copy_too(
    run: Callable[..., CommandResult], conversation: Path, edit_with: Callable[[str], None]
) -> None:
    """The copy of a private file that the editor opens is private, and so is the file afterwards."""
    conversation.chmod(0o600)
    edit_with("text = text.replace('Auf ', oct(path.stat().st_mode & 0o777) + ' ')")
    assert run("edit", conversation).code == 0
    assert b"0o600 " in load(conversation)[1].response.body
    assert conversation.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(
    "command",
    [["edit"], ["edit", "--reseal"], ["show"], ["show", "-n", "1"], ["verify"], ["lint"], ["play"]],
    ids=" ".join,
)
def test_X6_command_refuses_a_pipe(run: Callable[..., CommandResult], tmp_path: Path, command: list[str]) -> None:
    """A command that reads a cassette says at once that a named pipe is no regular file, and ends with code 1."""
    path = tmp_path / "pipe.yaml"
    os.mkfifo(path)
    done = run(*command, path)
    assert done.code == 1
    assert "not a regular file" in done.out + done.err


def test_edit_follows_a_link(run: Callable[..., CommandResult], conversation: Path) -> None:
    """`edit --reseal` of a link to a cassette writes the cassette, and the link stays."""
    link = conversation.with_name("link.yaml")
    link.symlink_to(conversation.name)
    _replace(conversation, ("Auf ", "Auf Nimmer"))
    assert run("edit", "--reseal", link).code == 0
    assert link.is_symlink()
    assert b"Auf Nimmer" in load(conversation)[1].response.body
