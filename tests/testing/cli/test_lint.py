"""`lint`: what should not be in committed cassettes, and cassettes that should not be there."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cassette import Chunk, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import Done, Kit


def _kinds(done: Done) -> list[str]:
    return [line.partition("\t")[0] for line in done.out.splitlines()]


def test_what_is_clean_is_fine(run: Callable[..., Done], conversation: Path, parallel: Path) -> None:
    """Nothing is said in a pipe."""
    assert run("lint", conversation, parallel) == (0, "", "")


def test_X1_X4_X5_the_committed_cassettes_are_clean(run: Callable[..., Done], root: Path) -> None:
    """And each is used by a test or an example."""
    assert run("lint", root / "cassettes", "--tests", root / "tests", "--tests", root / "examples") == (0, "", "")


def test_secrets_are_found_and_not_said(
    run: Callable[..., Done], tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of the environment in any encoding and over several deltas, and what only looks like a key."""
    password = "tangerine-42-dream"
    monkeypatch.setenv("SHOP_PASSWORD", password)
    key = "sk-" + "proj-" + "4f" * 15
    interactions = [
        kit.interaction(f"It is {base64.b64encode(password.encode()).decode()}.", kit.answer("Hi")),
        kit.interaction("Hi", kit.answer(password[:9], password[9:])),
        kit.interaction(f"My key is {key}", kit.answer("Hi")),
    ]
    save(tmp_path / "c.yaml", interactions)
    done = run("lint", tmp_path)
    assert done.code == 1
    path = tmp_path / "c.yaml"
    assert done.out.splitlines() == [
        f"secret\t{path}, interaction 1\trequest body messages[0].content: a known secret (base64)",
        f"secret\t{path}, interaction 2\tresponse deltas choices[0].delta.content, chunks 1-2: a known secret",
        f"secret\t{path}, interaction 3\trequest body messages[0].content: what looks like a key",
    ]


def test_X4_headers_that_no_client_acts_on_are_found(run: Callable[..., Done], tmp_path: Path, kit: Kit) -> None:
    """Of both sides, named once for the file: keys and cookies stand in those."""
    answer = kit.answer("Hi", headers={"content-type": ["text/event-stream"], "set-cookie": ["a=1"]})
    headers = {f"x-stainless-{number}": ["1"] for number in range(7)}
    save(tmp_path / "c.yaml", [kit.interaction("Hi", answer, request_headers=headers) for _ in range(2)])
    names = "set-cookie, x-stainless-0, x-stainless-1, x-stainless-2, x-stainless-3, x-stainless-4 and 2 more"
    assert run("lint", tmp_path) == (1, f"headers\t{tmp_path / 'c.yaml'}\tno client acts on {names}\n", "")


def test_secrets_are_found(run: Callable[..., Done], tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a key, and what the environment calls one; the line says where it stands, and not what it is."""
    monkeypatch.setenv("OUR_API_KEY", "known-value-1")
    answer = kit.answer("It is ", "known-", "value-1.")
    hidden = base64.b64encode(b"key: sk-proj-aB3dE6gH9jK2mN5pQ8sT").decode()
    save(tmp_path / "c.yaml", [kit.interaction("Hi", kit.answer("Hi")), kit.interaction(hidden, answer)])
    where = f"secret\t{tmp_path / 'c.yaml'}, interaction 2\t"
    assert run("lint", tmp_path).out.splitlines() == [
        f"{where}request body messages[0].content: what looks like a key (base64)",
        f"{where}response deltas choices[0].delta.content, chunks 2-3: a known secret",
    ]


def test_X5_bodies_that_nobody_can_read_are_found(run: Callable[..., Done], tmp_path: Path, kit: Kit) -> None:
    """No person, and no scanner for secrets."""
    answer = ResponseStream((Chunk(0, b"\x1f\x8b\xff"),), headers={"content-encoding": ["br"]})
    save(tmp_path / "c.yaml", [kit.interaction("Hi", answer, request_body=b"\xff", uri="https://x.test/")])
    done = run("lint", tmp_path)
    assert _kinds(done) == ["opaque", "opaque"]
    assert "interaction 1\tthe request body is 1 bytes" in done.out
    assert "interaction 1\tthe response body is 3 bytes" in done.out


def test_damage_is_found(run: Callable[..., Done], conversation: Path) -> None:
    """As `verify` finds it."""
    conversation.write_text(conversation.read_text(encoding="utf-8").replace("Auf ", "Ab "), encoding="utf-8")
    done = run("lint", conversation)
    assert (done.code, _kinds(done)) == (1, ["damage"])
    assert "interaction 2" in done.out


def test_an_event_that_clients_pass_over_is_found(run: Callable[..., Done], tmp_path: Path, kit: Kit) -> None:
    """A folded YAML string, edited by hand, puts a space before the first line: its event is lost without a word."""
    body = b" " + kit.delta(content="Hi") + kit.delta("stop") + b"data: [DONE]\n\n"
    save(tmp_path / "c.yaml", [kit.interaction("Hi", ResponseStream((Chunk(0, body),)))])
    done = run("lint", tmp_path)
    assert (done.code, _kinds(done)) == (1, ["damage"])
    assert "begins with a space" in done.out


@pytest.mark.parametrize(
    ("cassette", "test", "used"),
    [
        ("test_a/test_one.yaml", "def test_one(): ...", True),
        ("test_a/test_one[gpt-4].yaml", "async def test_one(): ...", True),
        ("test_a/TestIt.test_one.yaml", "class TestIt:\n    def test_one(self): ...", True),
        ("test_a/test_two.yaml", "def test_one(): ...", False),
        ("test_b/test_one.yaml", "def test_one(): ...", False),
        ("openai/chat.yaml", "with use_cassette('openai/chat.yaml'): ...", True),
        ("openai/chat.yaml", "@pytest.mark.miniagents_cassette('openai/chat')\ndef test_it(): ...", True),
        ("openai/chat.yaml", "PATH = ROOT / 'cassettes' / 'openai' / 'chat.yaml'", True),
        ("openai/chat.yaml", "use_cassette('anthropic/chat.yaml')", False),
        ("openai/chat.yaml", "use_cassette('hat.yaml')  # openai/chat.yaml", False),
    ],
)
def test_cassettes_that_no_test_names_are_found(
    run: Callable[..., Done], conversation: Path, tmp_path: Path, cassette: str, test: str, used: bool
) -> None:
    """By the default path of a test, or by a text in it; a comment is none."""
    path = tmp_path / "tests" / "cassettes" / cassette
    path.parent.mkdir(parents=True)
    conversation.rename(path)
    (tmp_path / "tests" / "test_a.py").write_text(test, encoding="utf-8")
    assert run("lint", path).code == 0
    done = run("lint", path.parent, "--tests", tmp_path / "tests")
    assert (done.code, _kinds(done)) == ((0, []) if used else (1, ["orphan"]))


def test_a_folder_of_tests_that_is_not_there_is_refused(
    run: Callable[..., Done], conversation: Path, tmp_path: Path
) -> None:
    """Without it every cassette would be an orphan."""
    done = run("lint", conversation, "--tests", tmp_path / "nothing")
    assert done.code == 2
    assert "no such folder" in done.err
