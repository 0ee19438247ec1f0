"""`import`: conversion of cassettes of other tools."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from common import share_of_corpus
from vcr.request import Request
from vcr.serialize import serialize
from vcr.serializers import jsonserializer, yamlserializer

from miniagents_testing.cassette import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.cli.conftest import CommandResult, Kit


def vcr_text(answer: bytes, serializer: Any = yamlserializer, **request: Any) -> str:
    """Return the text of a cassette as vcrpy itself writes it."""
    given = {"method": "POST", "uri": "https://api.openai.com/v1/chat/completions", "body": b"{}", "headers": {}}
    headers = {"Content-Type": ["text/event-stream"], "Set-Cookie": ["secret=1"], "Transfer-Encoding": ["chunked"]}
    response = {"status": {"code": 200, "message": "OK"}, "headers": headers, "body": {"string": answer}}
    text: str = serialize({"requests": [Request(**given | request)], "responses": [response]}, serializer)
    return text


@pytest.fixture
def foreign(tmp_path: Path, kit: Kit) -> Path:
    """Return a folder with cassettes of vcrpy, in YAML and in JSON, and other files."""
    folder = tmp_path / "foreign"
    (folder / "test_a").mkdir(parents=True)
    body = kit.delta("stop", content="Grüß dich 😀") + b"data: [DONE]\n\n"
    (folder / "test_a" / "one.yaml").write_text(vcr_text(body), encoding="utf-8")
    (folder / "two.json").write_text(vcr_text(body, jsonserializer), encoding="utf-8")
    (folder / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    return folder


def test_import_keeps_the_structure_of_a_folder(
    run: Callable[..., CommandResult], foreign: Path, tmp_path: Path
) -> None:
    """`import` of a folder writes its cassettes to equal relative paths, with checksums and fewer headers."""
    out = tmp_path / "ours"
    said = "1 interaction, 2 chunks: 1 stop"
    lines = f"{out}/test_a/one.yaml\t{said}\n{out}/two.yaml\t{said}\n"
    assert run("import", foreign, "-o", out) == (0, lines, "")
    assert run("verify", out).out == "".join(f"ok\t{line}\n" for line in lines.splitlines())
    for name, source in (("test_a/one.yaml", "test_a/one.yaml"), ("two.yaml", "two.json")):
        (imported,), (original,) = load(out / name), load(foreign / source)
        assert imported.response.chunks == original.response.chunks
        assert imported.response.headers == {
            "content-type": ["text/event-stream"],
            "set-cookie": ["secret=[redacted]"],
        }
        assert "set-cookie" in original.response.headers


def test_import_of_one_file_writes_to_a_file_or_into_a_folder(
    run: Callable[..., CommandResult], foreign: Path, tmp_path: Path
) -> None:
    """`import` writes one cassette to a .yaml file or into a folder, and several only into a folder."""
    assert run("import", foreign / "two.json", "-o", tmp_path / "c.yaml").code == 0
    assert run("import", foreign / "two.json", "-o", tmp_path / "d").code == 0
    assert load(tmp_path / "c.yaml") == load(tmp_path / "d" / "two.yaml")
    assert run("import", foreign, "-o", tmp_path / "e.yaml").code == 2


def test_import_replaces_files_only_with_force(
    run: Callable[..., CommandResult], foreign: Path, tmp_path: Path
) -> None:
    """Without `--force`, `import` writes no file if one of its targets exists."""
    target = tmp_path / "ours" / "two.yaml"
    target.parent.mkdir()
    target.write_text("mine", encoding="utf-8")
    done = run("import", foreign, "-o", target.parent)
    assert (done.code, [path.name for path in target.parent.iterdir()]) == (2, ["two.yaml"])
    assert f"{target} exists already" in done.err
    assert run("import", foreign, "-o", target.parent, "--force").code == 0
    assert len(load(target)) == 1


def test_import_refuses_two_files_with_the_same_target(
    run: Callable[..., CommandResult], foreign: Path, tmp_path: Path
) -> None:
    """If two files would be written to one target, `import` ends with an error, and writes no file."""
    (foreign / "two.yaml").write_text((foreign / "test_a" / "one.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    done = run("import", foreign, "-o", tmp_path / "ours")
    assert (done.code, (tmp_path / "ours").exists()) == (2, False)
    assert "another file would be written to" in done.err


def test_import_goes_on_after_a_damaged_file(run: Callable[..., CommandResult], foreign: Path, tmp_path: Path) -> None:
    """`import` names a damaged file, imports the others, and returns exit code 1."""
    (foreign / "two.json").write_text('{"interactions": [', encoding="utf-8")
    done = run("import", foreign, "-o", tmp_path / "ours")
    assert done.code == 1
    assert "two.json" in done.err
    assert [path.name for path in (tmp_path / "ours").rglob("*.yaml")] == ["one.yaml"]


def test_import_replaces_secrets_and_refuses_those_it_cannot_replace(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import` replaces a secret in a prompt, also in base64; it names and skips a file with a secret number."""
    password = "8423-1150-9937"
    monkeypatch.setenv("SHOP_PASSWORD", password.replace("-", ""))
    answer = kit.delta("stop", content="Hi") + b"data: [DONE]\n\n"
    source = tmp_path / "foreign"
    source.mkdir()
    secret = password.replace("-", "").encode()
    encoded = base64.b64encode(b"It is " + secret)
    prompts = {
        "plain": b'"It is %b"' % secret,
        "encoded": b'"%b"' % encoded,
        "number": secret,
    }
    for name, text in prompts.items():
        request = b'{"model":"m","messages":[{"role":"user","content":%b}]}' % text
        (source / f"{name}.yaml").write_text(vcr_text(answer, body=request), encoding="utf-8")
    done = run("import", source, "-o", tmp_path / "ours")
    assert done.code == 1
    assert "number.yaml, interaction 1: request body: SHOP_PASSWORD" in done.err
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["encoded.yaml", "plain.yaml"]
    assert b"It is [redacted]" in load(tmp_path / "ours" / "plain.yaml")[0].request_body
    assert b'"[redacted]"' in load(tmp_path / "ours" / "encoded.yaml")[0].request_body


def test_import_reads_the_parsed_bodies_of_pydantic_ai(run: Callable[..., CommandResult], tmp_path: Path) -> None:
    """`import` reads a file of pydantic-ai, so that request and answer are those of an SDK."""
    answer = {"object": "chat.completion", "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    entry = {
        "request": {
            "method": "POST",
            "uri": "https://api.openai.com/v1/chat/completions",
            "headers": {"content-type": ["application/json"]},
            "parsed_body": {"model": "m", "messages": [{"role": "user", "content": "Hey"}]},
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {"content-type": ["application/json"], "content-length": ["999"]},
            "parsed_body": answer,
        },
    }
    source = tmp_path / "c.yaml"
    source.write_text(yaml.safe_dump({"interactions": [entry], "version": 1}), encoding="utf-8")
    assert run("import", source, "-o", tmp_path / "d.yaml").code == 0
    assert run("play", tmp_path / "d.yaml").out == "USER: Hey\nm: Hi\n[stop]\n\n"
    assert json.loads(load(tmp_path / "d.yaml")[0].response.body) == answer


def test_import_keeps_each_recorded_stream_of_plain_vcrpy(run: Callable[..., CommandResult], tmp_path: Path) -> None:
    """`import` keeps every body of the corpus byte for byte, but for its passwords.

    `verify` prints the same before and after the import, but for a few streams without an end.
    """
    corpus = os.environ.get("MINIAGENTS_CORPUS")
    if not corpus:
        pytest.skip("MINIAGENTS_CORPUS does not name a folder with recorded provider streams")
    bodies: dict[str, bytes] = {}
    for path in share_of_corpus(sorted(Path(corpus).glob("*/*/*.json"))):
        record = json.loads(path.read_text(encoding="utf-8"))
        bodies[record["id"]] = record["response"]["body_text"].encode()
        folder = tmp_path / "foreign" / record["provider"] / record["api"]
        folder.mkdir(parents=True, exist_ok=True)
        request = {"uri": record["request"]["url"] or "https://x.test/", "body": record["request"]["body_text"] or ""}
        text = vcr_text(bodies[record["id"]], **request)
        (folder / f"{record['id']}.yaml").write_text(text, encoding="utf-8")
    assert len(bodies) > 200
    assert run("import", tmp_path / "foreign", "-o", tmp_path / "ours").code == 0
    found = {path.stem: load(path)[0].response.body for path in (tmp_path / "ours").rglob("*.yaml")}
    changed = [name for name, body in found.items() if body != bodies[name]]
    assert all(b"[redacted]" in found[name] for name in changed)
    assert len(changed) < 50
    original = run("verify", tmp_path / "foreign").out.replace(" (no checksums)", "").splitlines()
    imported = run("verify", tmp_path / "ours").out.splitlines()
    differing = [
        pair for pair in zip(original, imported, strict=True) if pair[0] != pair[1].replace("/ours/", "/foreign/")
    ]
    assert all(line.endswith("has not said that the answer is whole") for line, _ in differing)
    assert len(differing) < 5


@pytest.mark.skipif(os.name != "posix", reason="this system has other permissions")
def test_import_keeps_the_mode_of_a_file_that_it_replaces(
    run: Callable[..., CommandResult], conversation: Path
) -> None:
    """`import --force` into an existing private file leaves it private, and a new file gets the mode of the umask."""
    private, new = conversation.with_name("private.yaml"), conversation.with_name("new.yaml")
    private.touch(mode=0o600)
    before = os.umask(0o027)
    try:
        for target in (private, new):
            assert run("import", "--force", conversation, "-o", target).code == 0
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (private, new)] == [0o600, 0o640]
