"""`verify`: whether cassettes are what was recorded, can be read, and how their streams ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from miniagents_testing.cassette import Chunk, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import Done, Kit


def foreign(path: Path, body: str | bytes, **response: Any) -> None:
    """A cassette as plain vcrpy writes it."""
    entry = {
        "request": {"method": "POST", "uri": "https://api.openai.com/v1/chat/completions", "body": "", "headers": {}},
        "response": {"status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": body}, **response},
    }
    path.write_text(yaml.safe_dump({"interactions": [entry], "version": 1}), encoding="utf-8")


def test_one_line_a_file(run: Callable[..., Done], conversation: Path, parallel: Path) -> None:
    """How much there is in it, and how it ended."""
    assert run("verify", conversation, parallel) == (
        0,
        f"ok\t{conversation}\t2 interactions, 9 chunks: 2 stop\nok\t{parallel}\t2 interactions, 9 chunks: 2 stop\n",
        "",
    )


def test_recorded_failures_are_no_faults_of_the_file(run: Callable[..., Done], tmp_path: Path, kit: Kit) -> None:
    """They are what was recorded, and the seal says so."""
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


def test_a_stream_that_just_stops_is_a_fault_where_nothing_is_sealed(
    run: Callable[..., Done], tmp_path: Path, kit: Kit
) -> None:
    """Others keep no ends: whether the provider stopped there, or the file did, nobody can tell."""
    foreign(tmp_path / "whole.yaml", (kit.delta("stop", content="Hi") + b"data: [DONE]\n\n").decode())
    foreign(tmp_path / "half.yaml", kit.delta(content="Hi").decode())
    done = run("verify", tmp_path)
    assert done.code == 1
    half, whole = done.out.splitlines()
    assert half.startswith(f"bad\t{tmp_path / 'half.yaml'}\tinteraction 1: the stream ends, and the provider has not")
    assert whole == f"ok\t{tmp_path / 'whole.yaml'}\t1 interaction, 2 chunks: 1 stop (not sealed)"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Auf ", "Ab ", "interaction 2 "),
        ("count: 2", "count: 3", "3 interactions were sealed, 2 are here"),
        ("interactions:", "interactions: [", "not readable as YAML"),
        ("version: 1", "", "version"),
    ],
)
def test_damage_is_named(run: Callable[..., Done], conversation: Path, old: str, new: str, says: str) -> None:
    """File, interaction and reason stand in the one line of the file."""
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
def test_a_body_that_cannot_be_decoded_is_bad(
    run: Callable[..., Done], tmp_path: Path, body: str | bytes, says: str
) -> None:
    """An agent would fail on it too."""
    foreign(tmp_path / "c.yaml", body, headers={"content-encoding": ["br"]})
    done = run("verify", tmp_path)
    assert done.code == 1
    assert says in done.out


def test_folders_are_searched_for_what_looks_like_a_cassette(
    run: Callable[..., Done], conversation: Path, tmp_path: Path
) -> None:
    """Other YAML and JSON lies about, hidden folders are nobody's business; half a cassette still looks like one."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    text = conversation.read_text(encoding="utf-8")
    for name in (".venv/c.yaml", "deep/er/copy.yml", "deep/notes.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "deep" / "half.yaml").write_text(text[: len(text) // 2], encoding="utf-8")
    (tmp_path / "deep" / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    (tmp_path / "package.json").write_text("{}", encoding="utf-8")
    lines = [line.split("\t")[:2] for line in run("verify", tmp_path).out.splitlines()]
    assert lines == [
        ["ok", str(conversation)],
        ["ok", str(tmp_path / "deep" / "er" / "copy.yml")],
        ["bad", str(tmp_path / "deep" / "half.yaml")],
    ]
