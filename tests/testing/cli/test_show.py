"""`show`: the interactions of cassettes in a pipe, as JSON, or one in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from miniagents_testing.cassette import Chunk, ResponseStream, load, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit

HEADING = "file\tnumber\tagent\tprovider\tmodel\tasked\tchunks\tseconds\tend\ttokens_in\ttokens_out"


def test_show_prints_one_line_for_each_interaction_in_a_pipe(
    run: Callable[..., CommandResult], conversation: Path
) -> None:
    """In a pipe, `show` prints one line for each interaction, with tabs between the values."""
    done = run("show", conversation)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        HEADING,
        f"{conversation}\t1\t\topenai\tgpt-4\tHi, who are you?\t5\t0.60\tstop\t\t",
        f"{conversation}\t2\t\topenai\tgpt-4\tBye 👋\t4\t0.50\tstop\t\t",
    ]


def test_show_keeps_the_end_of_a_long_question_in_a_pipe(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """In a pipe, `show` prints a long question as an ellipsis and its end, 200 characters in all."""
    save(tmp_path / "c.yaml", [kit.interaction(f"{'x ' * 300}Why?", kit.answer("So"))])
    asked = run("show", tmp_path / "c.yaml").out.splitlines()[1].split("\t")[5]
    assert len(asked) == 200
    assert asked.startswith("…")
    assert asked.endswith("x Why?")


def test_show_prints_the_other_files_when_one_is_damaged(
    run: Callable[..., CommandResult], conversation: Path, parallel: Path
) -> None:
    """`show` prints readable files, reports a damaged one on stderr, and returns exit code 1."""
    conversation.write_text("interactions:\n", encoding="utf-8")
    done = run("show", conversation.parent)
    assert done.code == 1
    assert done.out.count(str(parallel)) == 2
    assert str(conversation) in done.err


def test_show_prints_the_address_of_requests_that_are_not_to_a_model(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """For a request without a prompt, `show` prints method and address in the column of prompts."""
    answer = ResponseStream((Chunk(0, b"x"),))
    save(tmp_path / "c.yaml", [kit.interaction("", answer, uri="https://x.test/a", method="GET", request_body=b"")])
    row = run("show", tmp_path / "c.yaml").out.splitlines()[1]
    assert row.split("\t")[1:] == ["1", "", "x.test", "", "GET https://x.test/a", "1", "", "eof", "", ""]


def test_show_prints_the_token_counts_of_the_provider(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`show` prints the provider's token counts, in the table and for a single interaction."""
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 34}})
    answer = kit.answer("Hi")
    chunks = (*answer.chunks[:-1], Chunk(0, f"data: {usage}\n\n".encode()), answer.chunks[-1])
    save(tmp_path / "c.yaml", [kit.interaction("Hi", ResponseStream(chunks))])
    assert run("show", tmp_path / "c.yaml").out.endswith("\tstop\t12\t34\n")
    assert "stop, gpt-4, 12 tokens in, 34 tokens out" in run("show", tmp_path / "c.yaml", "-n", "1").out


def test_show_json_is_an_array_for_programs(run: Callable[..., CommandResult], conversation: Path) -> None:
    """With `--json`, the output is one JSON array of objects, and a damaged file is a message on stderr."""
    conversation.with_name("bad.yaml").write_text("interactions:\n", encoding="utf-8")
    done = run("show", "--json", conversation.parent)
    assert done.code == 1
    assert "bad.yaml is no cassette" in done.err
    first, second = json.loads(done.out)
    assert (first["number"], second["number"]) == (1, 2)
    assert {name: first[name] for name in ("file", "agent", "model", "asked", "answer", "end", "tokens_in")} == {
        "file": str(conversation),
        "agent": None,
        "model": "gpt-4",
        "asked": "Hi, who are you?",
        "answer": "A machine.",
        "end": "stop",
        "tokens_in": None,
    }
    assert (second["started_ms"], second["ended_ms"], second["complete"]) == (30000.0, 30500.0, True)


def test_show_number_prints_one_interaction_in_full(run: Callable[..., CommandResult], conversation: Path) -> None:
    """`show` with a number prints request, answer, ending and chunk map of that interaction."""
    assert run("show", conversation, "--number", "2") == (
        0,
        f"""\
{conversation}, interaction 2 of 2

request   POST https://api.openai.com/v1/chat/completions
          content-type: application/json
  {{
    "model": "gpt-4",
    "messages": [
      {{
        "role": "user",
        "content": "Bye 👋"
      }}
    ],
    "stream": true
  }}
response  HTTP 200 OK, 100.00 ms after the request
          content-type: text/event-stream; charset=utf-8
text
  Auf Wiedersehen
end       stop, gpt-4
chunks    4, 429 bytes
      #      at ms   wait ms   bytes  says
      1     200.00    100.00     141  'Auf '
      2     300.00    100.00     148  'Wiedersehen'
      3     400.00    100.00     126
      4     500.00    100.00      14  ([DONE])
""",
        "",
    )


def test_show_number_is_refused_when_it_is_too_large_or_of_several_files(
    run: Callable[..., CommandResult], conversation: Path
) -> None:
    """`show` with a number that is too large, or with a number and several files, is an error."""
    done = run("show", conversation, "-n", "3")
    assert done.code == 2
    assert "has 2 interactions; there is no number 3" in done.err
    save(conversation.with_name("other.yaml"), load(conversation))
    assert run("show", conversation.parent, "-n", "1").code == 2


def test_show_and_play_name_the_agent_of_a_request(run: Callable[..., CommandResult], tmp_path: Path, kit: Kit) -> None:
    """`show` and `play` print the aliases of the agent that sent a request."""
    save(tmp_path / "c.yaml", [kit.interaction("Hi", kit.answer("Ho"), agent="WRITER/OPENAI_AGENT#1")])
    assert run("show", tmp_path / "c.yaml").out.splitlines()[1].split("\t")[2] == "WRITER/OPENAI_AGENT#1"
    assert "agent     WRITER/OPENAI_AGENT#1" in run("show", tmp_path / "c.yaml", "-n", "1").out
    assert "WRITER/OPENAI_AGENT: Ho" in run("play", tmp_path / "c.yaml").out


def test_commands_accept_a_request_without_a_response(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """`show`, `play` and `verify` accept a recording of a connection that failed before its response."""
    failed = ResponseStream(status=0, reason="", end="raise ConnectError: refused", complete=False)
    save(tmp_path / "c.yaml", [kit.interaction("Hi", failed)])
    assert "\tbroken: ConnectError\t" in run("show", tmp_path / "c.yaml").out
    assert run("play", tmp_path / "c.yaml").out == "USER: Hi\ngpt-4: [the connection broke: ConnectError: refused]\n\n"
    full = run("show", tmp_path / "c.yaml", "-n", "1").out
    assert "response  none" in full
    assert "chunks    0, 0 bytes" in full
    assert run("verify", tmp_path / "c.yaml").code == 0
