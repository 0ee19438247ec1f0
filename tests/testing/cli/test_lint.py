"""`lint`: content that should not be committed, and cassettes that no test names."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest

from miniagents_testing.cassette import Chunk, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit


def _kinds(done: CommandResult) -> list[str]:
    """Return the kinds of the findings; the line without a finding has no tab."""
    return [line.partition("\t")[0] for line in done.out.splitlines() if "\t" in line]


def test_lint_counts_the_cassettes_when_they_are_clean(
    run: Callable[..., CommandResult], conversation: Path, parallel: Path
) -> None:
    """Clean cassettes give exit code 0 and one line with their number."""
    assert run("lint", conversation, parallel) == (0, "0 findings in 2 cassettes\n", "")


def test_X1_X4_X5_the_committed_cassettes_are_clean(run: Callable[..., CommandResult], root: Path) -> None:
    """`lint` finds nothing in this project's cassettes, each of which a test or an example names."""
    done = run("lint", root / "cassettes", "--tests", root / "tests", "--tests", root / "examples")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"0 findings in [1-9]\d* cassettes\n", done.out)


def test_lint_finds_secrets_in_prompts_and_across_deltas(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lint` finds environment secrets and keys, also encoded or across deltas; it names variable and shape only."""
    password = "tangerine-42x-dream"
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
        f"secret\t{path}, interaction 1\trequest body messages[0].content: SHOP_PASSWORD",
        f"secret\t{path}, interaction 2\tresponse body choices[0].delta.content: SHOP_PASSWORD",
        f"secret\t{path}, interaction 3\trequest body messages[0].content: OpenAI key",
    ]


def test_X4_headers_that_would_not_be_recorded_are_found(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`lint` exits with 1; a line for each file names up to six headers that a recording would drop or redact."""
    answer = kit.answer("Hi", headers={"content-type": ["text/event-stream"], "set-cookie": ["a=1"]})
    headers = {f"x-stainless-{number}": ["1"] for number in range(7)}
    save(tmp_path / "c.yaml", [kit.interaction("Hi", answer, request_headers=headers) for _ in range(2)])
    names = "set-cookie, x-stainless-0, x-stainless-1, x-stainless-2, x-stainless-3, x-stainless-4 and 2 more"
    assert run("lint", tmp_path) == (
        1,
        f"headers\t{tmp_path / 'c.yaml'}\ta recording of today drops or redacts {names}\n",
        "",
    )


def test_lint_finds_keys_in_base64_and_known_values_across_deltas(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lint` prints the place of a key in base64 and of an environment secret across deltas, not the secrets."""
    monkeypatch.setenv("OUR_API_KEY", "known-Value-1")
    answer = kit.answer("It is ", "known-", "Value-1.")
    hidden = base64.b64encode(b"key: sk-proj-aB3dE6gH9jK2mN5pQ8sT").decode()
    save(tmp_path / "c.yaml", [kit.interaction("Hi", kit.answer("Hi")), kit.interaction(hidden, answer)])
    where = f"secret\t{tmp_path / 'c.yaml'}, interaction 2\t"
    assert run("lint", tmp_path).out.splitlines() == [
        f"{where}request body messages[0].content: OpenAI key",
        f"{where}response body choices[0].delta.content: OUR_API_KEY",
    ]


def test_lint_finds_the_password_of_a_url_of_the_environment_and_texts_of_secret_fields(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lint` finds a database password alone in a prompt, and a field `secret`; a field `token` is no finding."""
    monkeypatch.setenv("DATABASE_URL", "postgres://app:pgPassw0rd-77@db.host/app")
    fields = b'{"metadata": {"token": "piece-0123456789", "secret": "s-0123456789"}}'
    asked = kit.interaction("It is pgPassw0rd-77.", kit.answer("Hi"))
    save(tmp_path / "c.yaml", [asked, kit.interaction("Hi", kit.answer("Hi"), request_body=fields)])
    assert run("lint", tmp_path).out.splitlines() == [
        f"secret\t{tmp_path / 'c.yaml'}, interaction 1\trequest body messages[0].content: DATABASE_URL",
        f"secret\t{tmp_path / 'c.yaml'}, interaction 2\trequest body metadata.secret: secret",
    ]


def test_X5_bodies_that_are_not_text_are_found(run: Callable[..., CommandResult], tmp_path: Path, kit: Kit) -> None:
    """`lint` reports each body that is not text, since secrets in it cannot be found."""
    answer = ResponseStream((Chunk(0, b"\x1f\x8b\xff"),), headers={"content-encoding": ["br"]})
    save(tmp_path / "c.yaml", [kit.interaction("Hi", answer, request_body=b"\xff", uri="https://x.test/")])
    done = run("lint", tmp_path)
    assert _kinds(done) == ["opaque", "opaque"]
    assert "interaction 1\tthe request body is 1 byte of no text" in done.out
    assert "interaction 1\tthe response body is 3 bytes" in done.out


def test_lint_finds_the_damage_that_verify_finds(run: Callable[..., CommandResult], conversation: Path) -> None:
    """`lint` reports an interaction that was changed without a new checksum."""
    conversation.write_text(conversation.read_text(encoding="utf-8").replace("Auf ", "Ab "), encoding="utf-8")
    done = run("lint", conversation)
    assert (done.code, _kinds(done)) == (1, ["damage"])
    assert "interaction 2" in done.out


def test_lint_finds_secrets_in_an_edited_file(run: Callable[..., CommandResult], conversation: Path, kit: Kit) -> None:
    """In a file whose checksum does not fit, `lint` names the damage, and the secrets with their places."""
    key = "sk-" + "proj-" + "4f" * 15
    conversation.write_text(conversation.read_text(encoding="utf-8").replace("who are you?", key), encoding="utf-8")
    done = run("lint", conversation)
    assert done.code == 1
    assert _kinds(done) == ["damage", "secret"]
    assert f"secret\t{conversation}, interaction 1\trequest body messages[0].content: OpenAI key\n" in done.out
    assert key not in done.out + done.err


KEY = "sk-" + "proj-" + "4f" * 15


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (f'a: "my {KEY}"', "line 2", "OpenAI key"),
        ("body: '{\"client_secret\":\"it''s3cr3tvalue99\"}'", "line 2", "client_secret"),
        ('body: "{\\"client_secret\\":\\"s3cr3tvalue99\\"}"', "line 2", "client_secret"),
        ('string: |\n  data: {"access_token": "abcdefgh123456789"}', "line 3", "access_token"),
        ('body: \'{"model":"m","client_secret":"s3cr3tvalue99", "mess', "line 2", "client_secret"),
        ('x: "{\\\\\\"client_secret\\\\\\": \\\\\\"s3cr3tvalue99\\\\\\"}"', "line 2", "client_secret"),
        ("<<<<<<< ours\npassword: hunter2hunter2\n=======\n>>>>>>> theirs", "line 3", "password"),
        ("authorization:\n- Bearer abcdefghijk123456", "line 3", "authorization"),
        ("password: hunter2hunter2", "line 2", "password"),
        ("- it is tangerine-42x-dream", "line 2", "SHOP_PASSWORD"),
        ("uri: https://x.test/?api_key=abcdef123456", "line 2", "api_key"),
        (
            "\n\n".join(f'data: {{"choices":[{{"delta":{{"content":"{part}"}}}}]}}' for part in (KEY[:12], KEY[12:])),
            "several lines",
            "OpenAI key",
        ),
    ],
)
def test_lint_finds_secrets_in_a_file_that_cannot_be_read(
    run: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    where: str,
    what: str,
) -> None:
    """In a file that is no cassette, `lint` names the damage, and each secret with its line."""
    monkeypatch.setenv("SHOP_PASSWORD", "tangerine-42x-dream")
    path = tmp_path / "bad.yaml"
    path.write_text(f"interactions: [\n{text}\n", encoding="utf-8")
    done = run("lint", path)
    assert done.code == 1
    assert _kinds(done) == ["damage", "secret"]
    assert f"secret\t{path}, {where}\t{what}\n" in done.out


def test_lint_finds_no_secret_in_a_damaged_file_without_one(
    run: Callable[..., CommandResult], root: Path, tmp_path: Path
) -> None:
    """In a cassette without secrets of which only the first half is left, `lint` reports the damage alone."""
    whole = (root / "cassettes" / "openai" / "tool_calls.yaml").read_bytes()
    (tmp_path / "cut.yaml").write_bytes(whole[: len(whole) // 2])
    assert _kinds(run("lint", tmp_path / "cut.yaml")) == ["damage"]


def test_lint_finds_an_event_that_clients_ignore(run: Callable[..., CommandResult], tmp_path: Path, kit: Kit) -> None:
    """`lint` reports an event that clients ignore, because of a space before its first line."""
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
def test_lint_finds_cassettes_that_no_test_names(
    run: Callable[..., CommandResult], conversation: Path, tmp_path: Path, cassette: str, test: str, used: bool
) -> None:
    """`lint` reports a cassette that no test names by its default path or in a string; a comment does not count."""
    path = tmp_path / "tests" / "cassettes" / cassette
    path.parent.mkdir(parents=True)
    conversation.rename(path)
    (tmp_path / "tests" / "test_a.py").write_text(test, encoding="utf-8")
    assert run("lint", path).code == 0
    done = run("lint", path.parent, "--tests", tmp_path / "tests")
    assert (done.code, _kinds(done)) == ((0, []) if used else (1, ["orphan"]))


def test_lint_finds_the_fixtures_that_name_shared_cassettes(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`lint` reports `module.yaml` and `session.yaml` unless a test uses the fixture that opens the file."""
    paths = [tmp_path / "cassettes" / name for name in ("test_it/module.yaml", "session.yaml")]
    for path in paths:
        save(path, [kit.interaction("Hi", kit.answer("Ho"))])
    tests = tmp_path / "tests"
    tests.mkdir()
    test = tests / "test_it.py"
    test.write_text("def index(module_cassette, session_cassette): ...", encoding="utf-8")
    assert run("lint", tmp_path / "cassettes", "--tests", tests).code == 0
    test.write_text("def index(module_cassette): ...", encoding="utf-8")
    done = run("lint", tmp_path / "cassettes", "--tests", tests)
    assert (done.code, [str(path) in done.out for path in paths]) == (1, [False, True])


def test_lint_refuses_a_missing_folder_of_tests(
    run: Callable[..., CommandResult], conversation: Path, tmp_path: Path
) -> None:
    """`lint` with a folder of tests that does not exist is an error."""
    done = run("lint", conversation, "--tests", tmp_path / "nothing")
    assert done.code == 2
    assert "there is no folder" in done.err
