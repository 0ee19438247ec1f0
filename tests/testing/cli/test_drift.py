"""`verify --drift`: fields of recorded answers that the models of the installed SDKs do not know, or miss."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from miniagents.errors import install_line
from miniagents.messages import Usage
from miniagents_testing import Failure, ScriptedLLM, Step
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testing.cli.conftest import CommandResult

    Run = Callable[..., CommandResult]

CHAT = {"id": "c", "created": 1, "model": "m", "choices": []}
CHUNK = {**CHAT, "object": "chat.completion.chunk"}
DELTA = {"index": 0, "finish_reason": None, "delta": {"content": "Hi"}}
MESSAGE: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
TEXT_DELTA = {
    "type": "response.output_text.delta",
    "content_index": 0,
    "delta": "Hi",
    "item_id": "i",
    "logprobs": [],
    "output_index": 0,
    "sequence_number": 1,
}


def _interaction(path: str, *payloads: Any, streamed: bool = True, status: int = 200) -> Interaction:
    """Return an interaction with a stream of events, or with one JSON document."""
    texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
    kind = "text/event-stream" if streamed else "application/json"
    chunks = tuple(Chunk(1, (f"data: {text}\n\n" if streamed else text).encode()) for text in texts)
    stream = ResponseStream(chunks, headers={"content-type": [kind]}, status=status)
    return Interaction("POST", f"https://llm.test/v1{path}", b"{}", stream)


def _without(data: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}


OPENAI, ANTHROPIC = f"(openai {openai.__version__})", f"(anthropic {anthropic.__version__})"
CASES = {
    "no drift": (
        [
            _interaction("/chat/completions", {**CHUNK, "choices": [DELTA]}, "[DONE]"),
            _interaction("/messages", {"type": "message_start", "message": MESSAGE}, {"type": "ping"}),
            _interaction("/messages", MESSAGE, streamed=False),
            _interaction("/responses", TEXT_DELTA),
            _interaction("/chat/completions", {"error": {"message": "slow down"}}, streamed=False, status=429),
            _interaction("/models", {"data": [{"new": 1}]}, streamed=False),
        ],
        [],
    ),
    "unknown fields, deep in a stream": (
        [
            _interaction(
                "/chat/completions",
                *[{**CHUNK, "new": 1, "choices": [{**DELTA, "delta": {"reasoning_content": "x"}}] * 2}] * 3,
            )
        ],
        [
            f"3 x ChatCompletionChunk.new is not known {OPENAI}",
            f"6 x ChatCompletionChunk.choices[*].delta.reasoning_content is not known {OPENAI}",
        ],
    ),
    "missing fields": (
        [
            _interaction("/chat/completions", {**_without(CHUNK, "created"), "choices": [_without(DELTA, "index")]}),
            _interaction("/chat/completions", {**_without(CHAT, "id"), "object": "chat.completion"}, streamed=False),
        ],
        [
            f"1 x ChatCompletion.id is missing {OPENAI}",
            f"1 x ChatCompletionChunk.choices[*].index is missing {OPENAI}",
            f"1 x ChatCompletionChunk.created is missing {OPENAI}",
        ],
    ),
    "a member of a union": (
        [
            _interaction("/responses", {**_without(TEXT_DELTA, "delta"), "obfuscation": "x", "new": {"a": 1}}),
            _interaction(
                "/messages",
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi", "new": 1}},
            ),
        ],
        [
            f"1 x RawContentBlockDeltaEvent.delta.new is not known {ANTHROPIC}",
            f"1 x ResponseTextDeltaEvent.delta is missing {OPENAI}",
            f"1 x ResponseTextDeltaEvent.new is not known {OPENAI}",
            f"1 x ResponseTextDeltaEvent.obfuscation is not known {OPENAI}",
        ],
    ),
    "an unknown kind of event": (
        [_interaction("/responses", {"type": "response.dreams", "sequence_number": 1})],
        [f"1 x ResponseAudioDeltaEvent: the type 'response.dreams' is not known {OPENAI}"],
    ),
}


@pytest.mark.parametrize(("interactions", "drift"), CASES.values(), ids=CASES.keys())
def test_drift_names_and_counts_the_fields_that_differ(
    run: Run, tmp_path: Path, interactions: list[Interaction], drift: list[str]
) -> None:
    """`verify --drift` prints each field that a model does not know, or misses, with its count."""
    path = tmp_path / "c.yaml"
    save(path, interactions)
    plain, done = run("verify", path), run("verify", "--drift", path)
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert (done.code, done.err, "\t".join(rows[0])) == (plain.code, "", plain.out.rstrip("\n"))
    assert sorted(row[2] for row in rows[1:]) == sorted(drift)
    assert all(row[:2] == ["drift", str(path)] for row in rows[1:])
    assert run("verify", "--drift", "--strict", path).code == int(bool(drift) or plain.code > 0)


def test_drift_alone_is_no_problem(run: Run, tmp_path: Path) -> None:
    """For a cassette that can be read and has unknown fields, `verify --drift` returns 0, and 1 with `--strict`."""
    save(tmp_path / "c.yaml", CASES["unknown fields, deep in a stream"][0])
    assert [run("verify", tmp_path, "--drift", *more).code for more in ((), ("--strict",))] == [0, 1]


def test_drift_names_the_sdk_that_is_not_installed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the SDK of a recorded answer, `verify --drift` returns 2, and says how to install it."""
    from miniagents_testing.cli import _lint

    def fail(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(_lint, "import_module", fail)
    _lint._parser.cache_clear()
    save(tmp_path / "c.yaml", CASES["no drift"][0])
    done = run("verify", "--drift", tmp_path)
    assert done.code == 2
    assert install_line("openai") in done.err


def test_strict_needs_drift(run: Run, conversation: Path) -> None:
    """`verify --strict` alone returns 2, and says that it belongs to `--drift`."""
    done = run("verify", "--strict", conversation)
    assert done.code == 2
    assert "--drift" in done.err


ANSWERS: dict[str, Any] = {
    "text": Step("Hi", usage=Usage(input_tokens=3, output_tokens=2, cached_tokens=1, reasoning_tokens=1)),
    "reasoning": Step("Hi", reasoning="Hm."),
    "tool calls": Step(tool_calls=[("look_up", {"words": "a"})]),
    "refusal": Step(refusal="No."),
    "cut": Step("Hi", finish_reason="length"),
    "failure": Step("Hi there", then=Failure(500), after=1),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_answers_of_the_scripted_server_do_not_drift(
    run: Run, tmp_path: Path, api: Any, answer: str, stream: bool
) -> None:
    """`verify --drift` finds no unknown and no missing field in the answers of a scripted model."""
    if (api, answer) == ("chat", "reasoning"):  # that of other servers that imitate OpenAI's
        pytest.skip("OpenAI's chat completions show no reasoning")
    if (api, answer, stream) == ("responses", "failure", True):
        pytest.skip("OpenAI sends the fields of an error in an object, and the SDK's model has them beside it")
    request = {"model": "m", "messages": [], "input": [], "stream": stream, "stream_options": {"include_usage": True}}
    response = ScriptedLLM([ANSWERS[answer]]).respond(api, request)
    path = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}[api]
    save(tmp_path / "c.yaml", [Interaction("POST", f"https://llm.test/v1{path}", b"{}", response)])
    assert "\ndrift\t" not in run("verify", "--drift", tmp_path / "c.yaml").out


def test_field_that_repeats_a_parameter_is_no_drift_and_others_are(run: Run, tmp_path: Path) -> None:
    """A response may repeat a parameter of its request that the SDK's model lacks; any other new field is drift."""
    response = {"id": "r", "object": "response", "store": True, "storage": True}
    save(tmp_path / "c.yaml", [_interaction("/responses", response, streamed=False)])
    done = run("verify", "--drift", tmp_path / "c.yaml")
    assert f"Response.storage is not known {OPENAI}" in done.out
    assert ".store " not in done.out
