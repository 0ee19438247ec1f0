"""`verify`: damaged cassettes, bodies that cannot be decoded, and the endings of streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from miniagents_testing.cassette import Chunk, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit


def foreign(path: Path, body: str | bytes, **response: Any) -> None:
    """Write a cassette as plain vcrpy writes it."""
    entry = {
        "request": {"method": "POST", "uri": "https://api.openai.com/v1/chat/completions", "body": "", "headers": {}},
        "response": {"status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": body}, **response},
    }
    path.write_text(yaml.safe_dump({"interactions": [entry], "version": 1}), encoding="utf-8")


def test_verify_prints_one_line_for_each_file(
    run: Callable[..., CommandResult], conversation: Path, parallel: Path
) -> None:
    """`verify` prints one line for each file, with its size and the endings of its streams."""
    assert run("verify", conversation, parallel) == (
        0,
        f"ok\t{conversation}\t2 interactions, 9 chunks: 2 stop\nok\t{parallel}\t2 interactions, 9 chunks: 2 stop\n",
        "",
    )


def test_verify_accepts_recorded_failures(run: Callable[..., CommandResult], tmp_path: Path, kit: Kit) -> None:
    """`verify` accepts a file with checksums in which answers failed or broke off, and counts each kind of ending."""
    path = tmp_path / "c.yaml"
    answers = [
        kit.answer("Hi"),
        kit.answer("Hi", finish_reason=None, end="closed", complete=False),
        kit.answer("Hi", finish_reason=None, end="raise ReadError: reset", complete=False),
        kit.answer("Hi", finish_reason=None),
        ResponseStream((Chunk(0, b'{"error": {"message": "slow down"}}'),), status=429),
    ]
    save(path, [kit.interaction("?", answer) for answer in answers])
    said = "5 interactions, 7 chunks: 1 stop, 1 closed early, 1 broken: ReadError, 1 cut off, 1 HTTP 429"
    assert run("verify", path) == (0, f"ok\t{path}\t{said}\n", "")


def test_verify_rejects_a_stream_without_end_when_there_are_no_checksums(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`verify` rejects a stream without a final event in a file without checksums, which may have been cut."""
    foreign(tmp_path / "whole.yaml", (kit.delta("stop", content="Hi") + b"data: [DONE]\n\n").decode())
    foreign(tmp_path / "half.yaml", kit.delta(content="Hi").decode())
    done = run("verify", tmp_path)
    assert done.code == 1
    half, whole = done.out.splitlines()
    assert half.startswith(f"bad\t{tmp_path / 'half.yaml'}\tinteraction 1: the stream ends, and the provider has not")
    assert whole == f"ok\t{tmp_path / 'whole.yaml'}\t1 interaction, 2 chunks: 1 stop (no checksums)"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Auf ", "Ab ", "interaction 2 "),
        ("count: 2", "count: 3", "its checksum is of 3 interactions, and does not fit the 2 in the file"),
        ("interactions:", "interactions: [", "is no cassette: line 2 is not YAML"),
        ("version: 1", "", "is no cassette: its end is missing, so it was cut off"),
    ],
)
def test_verify_names_the_damage(
    run: Callable[..., CommandResult], conversation: Path, old: str, new: str, says: str
) -> None:
    """`verify` prints file, interaction and reason of the damage in one line."""
    conversation.write_text(conversation.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    done = run("verify", conversation)
    assert done.code == 1
    assert done.out.startswith(f"bad\t{conversation}\t")
    assert says in done.out
    assert done.out.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('data: {"choices": [\n\n', "interaction 1: the rest cannot be read: openai: event 1: malformed JSON"),
        ("<html>Log in</html>", "interaction 1: the rest cannot be read: the response is not an answer of the API"),
        (b"\x1b\x05\x80\xff", "interaction 1: the rest cannot be read"),
    ],
)
def test_verify_rejects_a_body_that_cannot_be_decoded(
    run: Callable[..., CommandResult], tmp_path: Path, body: str | bytes, says: str
) -> None:
    """`verify` rejects a body that an agent could not decode."""
    foreign(tmp_path / "c.yaml", body, headers={"content-encoding": ["br"]})
    done = run("verify", tmp_path)
    assert done.code == 1
    assert says in done.out


@pytest.mark.parametrize("command", ["verify", "lint", "show"])
def test_empty_file_in_a_folder_is_named_as_damaged(
    run: Callable[..., CommandResult], tmp_path: Path, command: str
) -> None:
    """Each command that reads the cassettes of a folder names an empty file in it, with exit code 1."""
    (tmp_path / "empty.yaml").touch()
    done = run(command, tmp_path)
    assert done.code == 1
    assert str(tmp_path / "empty.yaml") in done.out + done.err
    assert "is no cassette: it is empty" in done.out + done.err


def test_verify_finds_the_cassettes_in_a_folder(
    run: Callable[..., CommandResult], conversation: Path, tmp_path: Path
) -> None:
    """`verify` of a folder finds damaged and empty files, and leaves out hidden folders and other YAML and JSON."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    text = conversation.read_text(encoding="utf-8")
    for name in (".venv/c.yaml", "deep/er/copy.yml", "deep/notes.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "deep" / "half.yaml").write_text(text[: len(text) // 2], encoding="utf-8")
    (tmp_path / "deep" / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    (tmp_path / "package.json").write_text("{}", encoding="utf-8")
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "zeros.yaml").write_bytes(b"\0" * 4096)
    lines = [line.split("\t")[:2] for line in run("verify", tmp_path).out.splitlines()]
    assert lines == [
        ["ok", str(conversation)],
        ["ok", str(tmp_path / "deep" / "er" / "copy.yml")],
        ["bad", str(tmp_path / "deep" / "half.yaml")],
        ["bad", str(tmp_path / "empty.yaml")],
        ["bad", str(tmp_path / "zeros.yaml")],
    ]
