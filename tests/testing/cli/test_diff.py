"""`diff`, `fork` and `show --plain`: recordings compared, taken further, and shown in a review."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing import use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from tests.testing.plugin.test_fixture_scopes import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.cli.conftest import CommandResult, Kit

    Run = Callable[..., CommandResult]

PLAIN = """--- 1
request: POST https://api.openai.com/v1/chat/completions
read:
  messages:
    -
      content: Hi, who are you?
      role: user
  model: gpt-4
  stream: true
said:
  end: stop
  model: gpt-4
  text: A machine.

"""


def test_show_plain_prints_what_the_models_read_and_said(run: Run, conversation: Path, kit: Kit) -> None:
    """`show --plain` prints requests and answers, one value a line, and texts of several lines line by line."""
    save(conversation, [*load(conversation)[:1], kit.interaction("One\nTwo", kit.answer("1", "\x1b[31m"))])
    done = run("show", "--plain", conversation)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(PLAIN)
    assert "      content: |\n        One\n        Two\n      role: user\n" in done.out
    assert r"  text: 1\x1b[31m" in done.out


def test_show_plain_tells_texts_from_other_values(run: Run, tmp_path: Path, kit: Kit) -> None:
    """`show --plain` quotes a text that looks like another value or is empty, and sums up a body that is no text."""
    body = json.dumps(
        {"a": "1", "b": 1, "c": "", "d": " x", "e": [], "f": {"g": None}, "h": "[1]", "i": "1 b"}
    ).encode()
    answer = ResponseStream((Chunk(0, b"\xff\x00"),), reason="OK")
    deep = json.dumps({"x": json.loads("[" * 400 + "]" * 400)}).encode()
    more: Any = {"uri": "https://x.test/", "request_body": body}
    save(tmp_path / "c.yaml", [kit.interaction("", answer, **more), kit.interaction("", answer, request_body=deep)])
    lines = run("show", "--plain", tmp_path / "c.yaml").out.splitlines()
    assert lines[2:11] == [
        *("read:", '  a: "1"', "  b: 1", '  c: ""', '  d: " x"', "  e: []", "  f:", "    g: null", '  h: "[1]"')
    ]
    assert lines[11:16] == [
        *(
            "  i: 1 b",
            "said:",
            "  body: (2 bytes of no text, SHA-256 ea5dbf9596d187e9)",
            "  end: eof",
            "  status: 200 OK",
        )
    ]


def test_diff_prints_nothing_when_only_times_chunks_and_order_differ(run: Run, parallel: Path, tmp_path: Path) -> None:
    """`diff` returns 0 for recordings that differ in times, chunks, checksums, volatile fields and order of agents."""
    interactions = [replace(each, agent=f"A{number}#1") for number, each in enumerate(load(parallel))]
    save(parallel, interactions)
    other = tmp_path / "other.yaml"
    save(other, [_slower(each, number) for number, each in enumerate(reversed(interactions))])
    assert run("diff", parallel, other) == (0, "", "")


def _slower(interaction: Interaction, number: int) -> Interaction:
    """Return an interaction with other times, one chunk, and a user."""
    request = json.dumps({**json.loads(interaction.request_body), "user": "Ann"}).encode()
    stream = replace(interaction.response, chunks=(Chunk(7, interaction.response.body),), headers_ms=1.0)
    return replace(interaction, request_body=request, response=stream, started_ms=1000.0 * number)


def test_diff_pairs_interactions_by_agent_and_order(run: Run, tmp_path: Path, kit: Kit) -> None:
    """`diff` compares the n-th interaction of each agent, prints how requests and answers differ, and returns 1."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    writer = [kit.interaction(text, kit.answer(text), agent=f"W#{text}", started=float(text)) for text in "12"]
    critic = kit.interaction("Is it good?", kit.answer("Yes"), agent="C#1", started=3)
    save(old, [*writer, critic])
    changed = replace(critic, response=kit.answer("No"), started_ms=0.0)
    save(new, [changed, *writer, kit.interaction("3", kit.answer("3"), agent="W#3", started=9)])
    done = run("diff", old, new)
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert [line for line in lines if line.startswith(("---", "+++", "@@ "))] == [
        *(f"--- {old}", f"+++ {new}", "@@ interaction +4 @@", "@@ interaction -3 +1 @@")
    ]
    assert [line for line in lines if line.startswith(("-  ", "+  text"))] == [
        '+  text: "3"',
        "-  text: Yes",
        "+  text: No",
    ]


@pytest.mark.parametrize(
    ("ignored", "code"), [((), 1), (("messages[*].id",), 1), (("messages[*].id", "tool calls[*].arguments.at"), 0)]
)
def test_diff_leaves_out_ignored_paths(run: Run, tmp_path: Path, kit: Kit, ignored: tuple[str, ...], code: int) -> None:
    """`diff --ignore` leaves out paths of the request and of what the model said."""
    paths = [tmp_path / "old.yaml", tmp_path / "new.yaml"]
    for number, path in enumerate(paths):
        call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": json.dumps({"at": number})}}
        chunks = (
            Chunk(0, kit.delta(tool_calls=[call])),
            Chunk(0, kit.delta("tool_calls")),
            Chunk(0, b"data: [DONE]\n\n"),
        )
        body = {"messages": [{"role": "user", "content": "Hi", "id": number}]}
        answer = ResponseStream(chunks, headers={"content-type": ["text/event-stream"]})
        save(path, [kit.interaction("", answer, request_body=json.dumps(body).encode())])
    options = [word for path in ignored for word in ("--ignore", path)]
    assert run("diff", *paths, *options).code == code


def test_diff_reports_a_damaged_file_and_a_missing_one(run: Run, conversation: Path, tmp_path: Path) -> None:
    """`diff` returns 1 for a damaged file, and 2 for a missing one, and names it."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("interactions: [1]\nversion: 1\n", encoding="utf-8")
    damaged, missing = run("diff", conversation, bad), run("diff", tmp_path / "none.yaml", conversation)
    assert (damaged.code, missing.code) == (1, 2)
    assert str(bad) in damaged.err
    assert "none.yaml" in missing.err


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fork_keeps_the_first_interactions_in_order_of_start(run: Run, tmp_path: Path, kit: Kit, count: int) -> None:
    """`fork --at N` saves the first N interactions, by their start, with checksums of their own."""
    path, target = tmp_path / "c.yaml", tmp_path / "folder" / "fork.yaml"
    second, first = (kit.interaction(text, kit.answer(text), started=start) for text, start in (("2", 2.0), ("1", 1.0)))
    save(path, [second, first])
    assert run("fork", path, target, "--at", str(count)).code == 0
    assert load(target) == (first, second)[:count]
    assert run("verify", target).out == f"ok\t{target}\t" + run("verify", target).out.split("\t")[-1]


@pytest.mark.parametrize("at", ["3", "-1", "x"])
def test_fork_refuses_a_number_past_the_end(run: Run, conversation: Path, tmp_path: Path, at: str) -> None:
    """`fork --at` with a number that the cassette does not have returns 2, and writes nothing."""
    done = run("fork", conversation, tmp_path / "fork.yaml", f"--at={at}")
    assert done.code == 2
    assert at == "x" or "has 2 interactions: --at is a number from 0 to 2" in done.err
    assert not (tmp_path / "fork.yaml").exists()


def test_fork_replaces_a_file_only_when_it_is_told_to(run: Run, conversation: Path, parallel: Path) -> None:
    """`fork` into an existing file returns 2, and replaces the file with `--force`."""
    before = parallel.read_bytes()
    assert run("fork", conversation, parallel, "--at=1").code == 2
    assert parallel.read_bytes() == before
    assert run("fork", conversation, parallel, "--at=1", "--force").code == 0
    assert load(parallel) == load(conversation)[:1]


def test_fork_is_recorded_on_with_new_episodes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork plays the interactions that it kept, and records what follows anew, after them on the timeline."""
    import httpx2

    monkeypatch.delenv("CI", raising=False)
    path, target = tmp_path / "c.yaml", tmp_path / "fork.yaml"
    with Server() as server:

        def ask(*questions: str) -> list[str]:
            return [httpx2.post(f"http://{server.host}/v1", json={"prompt": text}).text for text in questions]

        with use_cassette(path, record_mode="once"):
            live = ask("one", "two", "three")
        assert run("fork", path, target, "--at=2").code == 0
        with use_cassette(target, record_mode="new_episodes"):
            assert ask("one", "two", "what if?") == [*live[:2], "what if? 4"]
    assert [each.started_ms for each in load(target)] == sorted(each.started_ms for each in load(target))
    assert len(load(target)) == 3


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_diff_shows_what_changed_in_a_conversation(tmp_path: Path, kit: Kit) -> None:
    """With the documented attributes and `textconv`, `git diff` shows changed texts, and no change of times alone."""
    root = Path(__file__).parents[3]
    [attributes] = [
        line for line in (root / ".gitattributes").read_text(encoding="utf-8").splitlines() if "diff=cassette" in line
    ]
    path = tmp_path / "cassettes" / "folder" / "c.yaml"
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    git("init", "-q")
    (tmp_path / ".gitattributes").write_text(f"{attributes}\n", encoding="utf-8")
    git("config", "diff.cassette.textconv", f"'{sys.executable}' -m miniagents_testing show --plain")
    save(path, [kit.interaction("Hi", kit.answer("Hel", "lo")), kit.interaction("Bye", kit.answer("See you"))])
    git("add", "-A")
    save(path, [kit.interaction("Hi", kit.answer("H", "ello", gap=3.0)), kit.interaction("Bye", kit.answer("See you"))])
    assert git("status", "--short").endswith("AM cassettes/folder/c.yaml\n")
    assert not [line for line in git("diff").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    save(path, [kit.interaction("Hi!", kit.answer("Hello")), kit.interaction("Bye", kit.answer("See you"))])
    changed = [line for line in git("diff").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-      content: Hi", "+      content: Hi!"]
    assert "digest" in git("diff", "--no-textconv")
