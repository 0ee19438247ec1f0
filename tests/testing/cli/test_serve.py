"""`serve`: a local provider with texts, steps of a file, or recorded streams, for programs in any language."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from miniagents_testing import Failure, Step
from miniagents_testing.cassette import save
from miniagents_testing.cli._screen import CommandError
from miniagents_testing.cli._serve import read_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult, Kit

STEPS = """
- Hello!
- tool_calls: [{name: get_weather, arguments: {city: Paris}}, [wait, {}]]
- status: 429
  headers: {retry-after: 7}
- {text: one two three, after: 2, then: truncate}
- {text: one two, after: 1, then: {message: too much}}
- {text: one two, after: 1, then: reset}
- text: {answer: 42}
  reasoning: Let me see
  usage: {input_tokens: 9, output_tokens: 3}
"""
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi\x1b[2J"}]}


@contextmanager
def _served(*arguments: str | Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Run `serve` in a process; yield the variables that it prints, and a list that has its stderr lines at the end."""
    command = [sys.executable, "-m", "miniagents_testing", "serve", *map(str, arguments)]
    errors: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield dict(process.stdout.readline().strip().split("=", 1) for _ in range(2)), errors
        finally:
            process.send_signal(signal.SIGINT)
            errors += process.stderr.read().splitlines()
    assert process.returncode == 0


def _streamed(url: str) -> str:
    """Ask for a stream with a plain HTTP client, as a program in any language does; return what came of it."""
    text = b""
    try:
        with httpx2.stream("POST", f"{url}/chat/completions", json={**CHAT, "stream": True}) as response:
            for chunk in response.iter_bytes():
                text += chunk
    except httpx2.TransportError:
        text += b"(reset)"
    return text.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_serve_answers_any_client_with_the_steps_of_a_file(tmp_path: Path) -> None:
    """Clients get tool calls, failures and cuts as the file says, then status 500; each request is a line on stderr."""
    (tmp_path / "steps.yaml").write_text(STEPS, encoding="utf-8")
    with _served("--script", tmp_path / "steps.yaml") as (urls, errors):
        url = urls["OPENAI_BASE_URL"]
        client = openai.OpenAI(api_key="any", base_url=url, max_retries=0)
        messages: Any = CHAT["messages"]
        assert client.chat.completions.create(model="m", messages=messages).choices[0].message.content == "Hello!"
        calls = client.chat.completions.create(model="m", messages=messages).choices[0].message.tool_calls
        assert calls is not None
        names = [each.function.name for each in calls if each.type == "function"]
        assert names == ["get_weather", "wait"]
        limited = httpx2.post(f"{url}/chat/completions", json=CHAT)
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
        cut = _streamed(url)
        assert " two" in cut
        assert "three" not in cut
        assert "[DONE]" not in cut
        assert "too much" in _streamed(url)
        assert _streamed(url).endswith("(reset)")
        with anthropic.Anthropic(api_key="any", base_url=urls["ANTHROPIC_BASE_URL"]) as claude:
            message = claude.messages.create(model="c", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
        used_up = httpx2.post(f"{url}/chat/completions", json=CHAT)
        assert used_up.status_code == 500
        assert "(call 8), and no step is left: the script has 7 steps" in used_up.json()["error"]["message"]
        with pytest.raises(openai.InternalServerError, match="no step is left"):
            client.with_options(max_retries=2).responses.create(model="m", input="Hi")
        assert httpx2.get(f"{url}/nothing").status_code == 404
    assert len(errors) == 10
    assert errors[0] == r"200 POST /v1/chat/completions: call 1 (api 'chat', model 'm', last message 'Hi\x1b[2J')"
    assert [line.split()[0] for line in errors] == [
        "200",
        "200",
        "429",
        "200",
        "200",
        "200",
        "200",
        "500",
        "500",
        "404",
    ]
    assert errors[2].endswith(": The script says so")
    assert "no step is left" in errors[7]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_serve_answers_with_texts_or_with_recorded_streams(conversation: Path) -> None:
    """Given texts and recorded streams are the answers in turn; without any, the server repeats the request."""
    for arguments, said in (
        (("one",), "one"),
        (("--cassette", conversation), "machine"),
        ((), "You"),
    ):
        with _served(*arguments) as (urls, errors):
            assert said in (answer := _streamed(urls["OPENAI_BASE_URL"]))
            assert answer.endswith("data: [DONE]\n\n")
        assert len(errors) == 1


def test_steps_have_the_fields_of_step_and_failure(tmp_path: Path) -> None:
    """`read_steps` makes `Step` and `Failure` objects of the texts and fields in a JSON file."""
    items = [
        "Hello",
        {"text": ["a", "b"], "gap": [0.1, 0.2], "finish_reason": "length"},
        {"tool_calls": [{"name": "look", "arguments": "{}", "id": "call_x"}]},
        {"text": "a b", "after": 1, "then": 0.5},
        {"text": "a b", "after": 1, "then": {"status": 529}},
        {"status": 503, "message": "later", "first_wait": 0.1},
    ]
    (tmp_path / "steps.json").write_text(json.dumps(items), encoding="utf-8")
    found = read_steps(tmp_path / "steps.json")
    assert found[:2] == [Step("Hello"), Step(["a", "b"], gap=(0.1, 0.2), finish_reason="length")]
    assert isinstance(found[2], Step)
    assert [(each.id, each.name, each.arguments) for each in found[2].deltas.tool_calls] == [
        ("call_x", "look", ("{}",))
    ]
    assert found[3:] == [
        Step("a b", after=1, then=0.5),
        Step("a b", after=1, then=Failure(529)),
        Failure(503, "later", first_wait=0.1),
    ]


def test_gap_holds_for_steps_without_a_gap_of_their_own(tmp_path: Path) -> None:
    """The `gap` of `read_steps`, which `--gap` gives, holds for texts and steps that have none themselves."""
    (tmp_path / "steps.yaml").write_text("- Hello\n- {text: a b}\n- {text: a b, gap: 0}\n- {status: 429}\n")
    assert read_steps(tmp_path / "steps.yaml", 0.5) == [
        Step("Hello", gap=0.5),
        Step("a b", gap=0.5),
        Step("a b", gap=0),
        Failure(429),
    ]
    assert read_steps(tmp_path / "steps.yaml")[0] == Step("Hello")


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize("source", ["text", "script"])
def test_serve_waits_the_gap_between_tokens(tmp_path: Path, source: str) -> None:
    """With `--gap`, the tokens of a text and of a step of a script come so many seconds apart."""
    (tmp_path / "steps.yaml").write_text("- one two\n")
    arguments = ("one two",) if source == "text" else ("--script", tmp_path / "steps.yaml")
    with _served(*arguments, "--gap", "0.2") as (urls, _):
        began = time.monotonic()
        assert " two" in _streamed(urls["OPENAI_BASE_URL"])
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "steps.yaml is no script: line 1 is not YAML"),
        ("[]", "steps.yaml is no script: it must be a list with a step for each request"),
        ("a: 1", "steps.yaml is no script: it must be a list with a step for each request"),
        ("- a\n- txt: a", "steps.yaml, step 2 has no field 'txt'; did you mean 'text'?"),
        (
            "- a\n- {status: 429, text: Slow down}",
            "steps.yaml, step 2 has no field 'text'; 'status' makes it a Failure, whose fields are status, message, ",
        ),
        ("- {status: 500, zzz: a}", "steps.yaml, step 1 has no field 'zzz'; known are status, message, type, "),
        ("- {status: 200}", "step 1: the status of a failure must be between 400 and 599, not 200"),
        ("- {text: a, after: 9, then: reset}", "step 1: after=9, but the step has 1 token"),
        ("- {text: a, then: hold}", "step 1: then='hold' waits for a test that goes on"),
        ("- {text: a, then: {stat: 5}}", "step 1, then has no field 'stat'; did you mean 'status'?"),
        ("- {text: a, gap: soon}", "step 1: gap must be a number of seconds, not 'soon'"),
        ("- {tool_calls: 5}", "step 1: tool_calls must be a list, not 5"),
        ("- {tool_calls: [{nam: x}]}", "step 1: a tool call must have a name"),
        ("- {usage: 5}", "step 1: usage must be names with values, not 5"),
        ("- 5", "step 1 must be a text, or have the fields of a step or a failure; it is 5"),
    ],
)
def test_wrong_script_is_named_with_its_step(tmp_path: Path, text: str, said: str) -> None:
    """A script file that is wrong is an error that names the file and the step, and the nearest field."""
    (tmp_path / "steps.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CommandError) as caught:
        read_steps(tmp_path / "steps.yaml")
    assert said in str(caught.value)


def test_serve_refuses_options_that_contradict_and_ports_that_are_taken(
    run: Callable[..., CommandResult], tmp_path: Path, kit: Kit
) -> None:
    """Answers of two kinds, a gap for a cassette, and a port that cannot be used are one line with exit code 2."""
    save(tmp_path / "c.yaml", [kit.interaction("Hi", kit.answer("Ho"))])
    both = run("serve", "text", "--cassette", tmp_path / "c.yaml")
    assert both == (
        2,
        "",
        "miniagents-testing serve: give texts, --script or --cassette: the answers come from one of them\n",
    )
    gap = run("serve", "--cassette", tmp_path / "c.yaml", "--gap", "0")
    said = "--gap is for texts and --script: a cassette is served with its recorded waits"
    assert gap == (2, "", f"miniagents-testing serve: {said}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port), "text")
    assert done.code == 2
    assert done.err.startswith(f"miniagents-testing serve: port {port} cannot be used: ")
    assert run("serve", "--port", "70000").code == run("serve", "--gap", "x").code == 2
