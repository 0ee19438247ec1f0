"""Recorded streams of a corpus folder, read by the agents with the real SDK clients.

The environment variable `MINIAGENTS_CORPUS` names the folder. Each stream is played whole, in small pieces, cut inside
of each multi-byte character, and in its recorded chunks, if these are known. Short streams are played byte by byte as
well. Longer streams pass byte by byte through the decoder only, because a byte costs a client as much as a token.

The SDKs of the providers computed the stored results. If a stored result is wrong, corpus_differences.json names the
record with the reason and the right result. A test fails if such an entry has become unnecessary.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from common import share_of_corpus
from request_schemas import check_body

from miniagents import errors
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ResponsesSession
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import SSEDecoder
from miniagents.messages import AnswerFinished, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallReady, ToolMessage
from miniagents.miniagents import MiniAgents
from miniagents_testing import ScriptedLLM

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniagents.ext.llm._sessions import Session
    from miniagents.messages import AssistantMessage
    from miniagents.miniagents import MiniAgent
    from tests.ext.llm.conftest import Kit

APIS = ("chat", "responses", "messages")
"""APIs of the agents. The corpus also has legacy completions, assistants and audio."""
BYTE_BY_BYTE_THROUGH_A_CLIENT = 2000
"""Length of the longest body, in bytes, that an agent reads byte by byte."""


class Difference(NamedTuple):
    """Difference between the stored result of a record and its stream."""

    reason: str
    right: dict[str, Any]
    """Right values, under the names of `expected_facts`; "@deltas" and "@reasoning" stand for texts of the record."""


class ErrorInStream(NamedTuple):
    """Error with which a response of status 200 ends."""

    error: str
    text_before: str
    reason: str


_tables = json.loads(Path(__file__).with_name("corpus_differences.json").read_text(encoding="utf-8"))
WRONG_SUMMARY = {name: Difference(**entry) for name, entry in _tables["wrong_summary"].items()}
NO_SUMMARY = {name: Difference(**entry) for name, entry in _tables["no_summary"].items()}
ERRORS_IN_THE_STREAM = {name: ErrorInStream(**entry) for name, entry in _tables["errors_in_the_stream"].items()}

FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
    "pause_turn": "pause",
    "max_output_tokens": "length",
    "completed": "stop",
    None: None,
}


# --- the corpus


@cache
def _load(path: Path) -> dict[str, Any]:
    """Read the record at this path."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


@cache
def _paths() -> list[Path] | None:
    """Return the paths of the records; None if no corpus is named."""
    folder = os.environ.get("MINIAGENTS_CORPUS")
    if not folder:
        return None
    found = sorted(path for path in Path(folder).glob("*/*/*.json") if path.parent.name in APIS)
    if not found:
        raise FileNotFoundError(f"MINIAGENTS_CORPUS is {folder!r}, where no record <provider>/<api>/<id>.json is found")
    return found


def _parametrize_paths(wanted: Callable[[Path], bool]) -> pytest.MarkDecorator:
    """Return a mark that runs a test for the wanted records, or skips it without a corpus; see `share_of_corpus`."""
    paths = _paths()
    if paths is None:
        mark = pytest.mark.skip(reason="MINIAGENTS_CORPUS does not name a folder with recorded provider streams")
        return pytest.mark.parametrize("path", [pytest.param(None, marks=mark, id="no corpus")])
    chosen = share_of_corpus([path for path in paths if wanted(path)])
    return pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in chosen])


def _failed(path: Path) -> bool:
    """Return True if the response has an error status."""
    return bool(_load(path)["response"]["status"] >= 400)


def _ends_in_error(path: Path) -> bool:
    """Return True if the response is an error, or ends with one."""
    return _failed(path) or path.stem in ERRORS_IN_THE_STREAM


each_answer = _parametrize_paths(lambda path: not _ends_in_error(path))
each_error = _parametrize_paths(_ends_in_error)
each_stream = _parametrize_paths(lambda path: not _failed(path))


def _session(record: dict[str, Any]) -> Session:
    """Return a new session for the API of a record."""
    kinds: dict[str, type[Session]] = {"chat": ChatSession, "responses": ResponsesSession, "messages": MessagesSession}
    return kinds[record["api"]]()


def _cuts(record: dict[str, Any], body: bytes) -> dict[str, list[bytes]]:
    """Return the chunks of the body for each way of splitting it, by the name of the way."""
    ways = {"whole": [body], "pieces": [body[i : i + 61] for i in range(0, len(body), 61)]}
    inside = [match.start() + 1 for match in re.finditer(rb"[\xc2-\xf4]", body)]
    if inside:
        edges = [0, *inside, len(body)]
        ways["inside characters"] = [body[start:end] for start, end in pairwise(edges)]
    if sizes := record["response"].get("chunk_sizes"):
        edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        ways["as received"] = [body[start:end] for start, end in pairwise(edges)]
    if len(body) <= BYTE_BY_BYTE_THROUGH_A_CLIENT:
        ways["bytes"] = [body[i : i + 1] for i in range(len(body))]
    return ways


# --- what is compared


def _tokens(usage: dict[str, Any] | None, api: str) -> tuple[int | None, ...] | None:
    """Return the numbers of tokens with the meaning of `Usage`: input, output, cached, reasoning."""
    if usage is None:
        return None
    if api == "chat":
        elsewhere = usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens"))  # DeepSeek, Together
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", elsewhere)
        reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        if reasoning is None:
            reasoning = usage.get("reasoning_tokens")  # Copilot
        given, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if given is not None and (cached or 0) > given:  # a model of xAI on Azure counts the cache beside the input
            given += cached
        if output is not None and (reasoning or 0) > output:  # xAI and Vercel count reasoning beside the output
            output += reasoning
        return given, output, cached, reasoning
    if api == "responses":
        cached = (usage.get("input_tokens_details") or {}).get("cached_tokens")
        reasoning = (usage.get("output_tokens_details") or {}).get("reasoning_tokens")
        return usage.get("input_tokens"), usage.get("output_tokens"), cached, reasoning
    reasoning = (usage.get("output_tokens_details") or {}).get("thinking_tokens")
    cached, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    given = usage.get("input_tokens")
    given = None if given is None else given + (cached or 0) + (written or 0)
    return given, usage.get("output_tokens"), cached, reasoning


def expected_facts(record: dict[str, Any]) -> dict[str, Any]:
    """Return the stored result of the SDK, in the form of `facts_of`."""
    expected, api = record["expected"], record["api"]
    facts: dict[str, Any] = {"deltas": _expected_deltas(record)}
    summary = expected.get("summary")
    if summary is None:
        return facts
    facts |= {"id": summary["id"] or None, "model": summary["model"], "usage": _tokens(summary["usage"], api)}
    if api == "chat":
        first, *others = [_expected_choice(choice) for choice in sorted(summary["choices"], key=lambda c: c["index"])]
        return facts | first | {"choices": others}
    if api == "messages":
        calls = [
            (block["id"], block["name"], block["input"]) for block in summary["content"] if block["type"] == "tool_use"
        ]
        types = [block["type"] for block in summary["content"]]
        return facts | {
            "content": summary["text"],
            "tool_calls": calls,
            "finish": summary["stop_reason"],
            "blocks": types,
        }
    names = {"function_call": "arguments", "custom_tool_call": "input"}
    details = summary["incomplete_details"]
    return facts | {
        "content": summary["output_text"],
        "tool_calls": [
            (item["call_id"], item["name"], item[names[item["type"]]])
            for item in summary["output"]
            if item["type"] in names
        ],
        "finish": details["reason"] if details else summary["status"] or "completed",
    }


def _resolve(record: dict[str, Any], value: Any) -> Any:
    """Return a value of the tables of differences in the form that `expected_facts` has."""
    if value == "@deltas":
        return _expected_deltas(record)
    if value == "@reasoning":
        chunks = [json.loads(line[6:]) for line in record["response"]["body_text"].split("\n") if line[:7] == "data: {"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        return "".join(delta.get("reasoning_content") or delta.get("reasoning") or "" for delta in deltas)
    if isinstance(value, list):
        return [tuple(call) for call in value] if not value or isinstance(value[0], list) else tuple(value)
    return value


def _expected_deltas(record: dict[str, Any]) -> str:
    """Return the joined text deltas that the SDK returned."""
    texts = record["expected"].get("delta_text") or {}
    return str(texts.get("0", "")) if record["api"] == "chat" else "".join(texts.values())


def _expected_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of one stored choice."""
    return {
        "content": choice["text"] or "",
        "tool_calls": [(call["id"], call["name"], call["arguments"]) for call in choice["tool_calls"]],
        "finish": choice["finish_reason"],
        "refusal": choice["refusal"] or None,
        "reasoning": choice["reasoning"] or None,
    }


def facts_of(record: dict[str, Any], message: AssistantMessage, tokens: list[str]) -> dict[str, Any]:
    """Return the facts of the agent's message, for comparison with `expected_facts`."""
    api, usage = record["api"], message.usage
    facts: dict[str, Any] = {
        "deltas": "".join(tokens),
        "content": message.content,
        "id": message.id,
        "model": message.model,
        "finish": message.provider_finish_reason,
        "tool_calls": [(call.id or "", call.name, call.arguments) for call in message.tool_calls],
        "usage": usage and (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens),
    }
    if api == "chat":
        facts |= {"refusal": message.refusal, "reasoning": message.reasoning}
        facts["choices"] = [
            {
                "content": choice.content,
                "tool_calls": [(call.id or "", call.name, call.arguments) for call in choice.tool_calls],
                "finish": choice.finish_reason,
                "refusal": choice.refusal,
                "reasoning": choice.reasoning,
            }
            for choice in message.choices
        ]
    if api == "messages":
        blocks = getattr(message, "content_blocks", ())
        facts["blocks"] = [block["type"] for block in blocks]
        inputs = [_plain(block["input"]) for block in blocks if block["type"] == "tool_use"]
        facts["tool_calls"] = [
            (call.id or "", call.name, given) for call, given in zip(message.tool_calls, inputs, strict=True)
        ]
    return facts


def _plain(value: Any) -> Any:
    """Convert frozen values into plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


# --- the tests


def _agent(record: dict[str, Any], client: Any) -> MiniAgent[Any]:
    """Return an agent for the API of a record."""
    if record["api"] == "messages":
        return create_anthropic_agent("some-model", async_client=client, retry=None)
    request = json.loads(record["request"]["body_text"] or "{}") if record["request"]["body_text"] else {}
    more = {"n": request["n"]} if record["api"] == "chat" and isinstance(request.get("n"), int) else {}
    return create_openai_agent("some-model", async_client=client, api=record["api"], retry=None, **more)


async def _run(record: dict[str, Any], chunks: list[bytes], kit: Kit) -> tuple[AssistantMessage, list[str]]:
    """Play the response of a record to an agent, and return its message and its tokens."""
    response = record["response"]
    headers = {name.lower(): value for name, value in response["headers"]}
    kept = {name: headers[name] for name in ("content-type", "retry-after", "x-should-retry") if name in headers}
    wire = kit.Wire(kit.Reply(chunks, response["status"], kept))
    if record["api"] == "messages":
        client: Any = wire.anthropic()
    else:
        client = wire.azure() if record["provider"] == "azure-openai" else wire.openai()
    async with MiniAgents():
        (promise,) = [promise async for promise in _agent(record, client).trigger("Hello")]
        tokens: list[str] = []
        try:
            tokens.extend([token async for token in promise])
            message: Any = await promise
        finally:
            assert [body.closed for body in wire.responses] in ([True], [])
        return message, tokens


@each_answer
async def test_agent_returns_the_result_of_the_sdk_for_each_recorded_stream(path: Path, kit: Kit) -> None:
    """However a recorded stream is split, the agent's message has the fields that were stored with the record.

    The message has no doubts and no unknown events.
    """
    record = _load(path)
    body = record["response"]["body_text"].encode()
    expected = expected_facts(record)
    difference = WRONG_SUMMARY.get(path.stem) or NO_SUMMARY.get(path.stem) or Difference("", {})
    assert ("summary" not in record["expected"]) == (path.stem in NO_SUMMARY)
    for name, right in difference.right.items():
        value = _resolve(record, right)
        assert expected.get(name, ...) != value, (
            f"the entry in corpus_differences.json is not needed: the stored {name} is right"
        )
        expected[name] = value
    for way, chunks in _cuts(record, body).items():
        message, tokens = await _run(record, chunks, kit)
        found = facts_of(record, message, tokens)
        assert {name: found[name] for name in expected} == expected, way
        assert message.content == "".join(tokens), way
        assert not getattr(message, "interrupted", False)
        assert not hasattr(message, "unknown_events")
        assert not hasattr(message, "doubts")
        _check_finish_reason(message)


def _check_finish_reason(message: AssistantMessage) -> None:
    """Assert that the finish reason is the translation of the provider's word."""
    reason = FINISH_REASONS[message.provider_finish_reason]
    if message.refusal and reason == "stop":
        reason = "refusal"
    elif message.provider_finish_reason == "completed" and message.tool_calls:
        reason = "tool_calls"
    assert message.finish_reason == reason


@each_answer
async def test_events_of_each_recorded_stream_are_the_parts_of_its_message(path: Path, kit: Kit) -> None:
    """The texts of the events, joined, are the message's content and, for chat completions, its reasoning.

    Each call is ready once; its pieces, if any came, are its arguments.
    """
    record = _load(path)
    response = record["response"]
    wire = kit.Wire(kit.Reply([response["body_text"].encode()], response["status"], {}))
    async with MiniAgents():
        client = wire.anthropic() if record["api"] == "messages" else wire.openai()
        (promise,) = [promise async for promise in _agent(record, client).trigger("Hello")]
        events = [event async for event in promise.events()]
        message: Any = await promise
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == message.content
    assert tuple(event.call for event in events if isinstance(event, ToolCallReady)) == message.tool_calls
    if record["api"] == "chat":
        assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == (message.reasoning or "")
    pieces = ["" for _ in message.tool_calls]
    for event in events:
        if isinstance(event, ToolCallDelta):
            pieces[event.index] += event.arguments
    for call, arguments in zip(message.tool_calls, pieces, strict=True):
        assert arguments in ("", call.arguments)
    assert events[-1] == AnswerFinished(message)


@each_answer
async def test_each_recorded_answer_makes_requests_that_each_sdk_allows(path: Path, kit: Kit) -> None:
    """After a recorded answer and the results of its calls, requests for each API are as its SDK's types describe.

    The requests go to another host, which gets none of the fields that only the sender of the answer knows.
    """
    record = _load(path)
    message, _ = await _run(record, [record["response"]["body_text"].encode()], kit)
    results = [ToolMessage("done", tool_call_id=call.id, name=call.name) for call in message.tool_calls]
    conversation: list[Any] = ["Hello", message, *results, "And now?"]
    described = {"name": "act", "parameters": {"type": "object"}}
    llm = ScriptedLLM(lambda call: "Yes.")
    openai = llm.openai_client(base_url="https://other.example/v1")
    async with MiniAgents():
        for agent in (
            create_openai_agent("m", async_client=openai, tools=[{"type": "function", "function": described}]),
            create_openai_agent(
                "m", async_client=openai, api="responses", tools=[{"type": "function", "strict": False, **described}]
            ),
            create_anthropic_agent(
                "m", async_client=llm.anthropic_client(), tools=[{"name": "act", "input_schema": {"type": "object"}}]
            ),
        ):
            await agent.trigger(conversation)
    for call in llm.calls:
        check_body(call.api, call.request)


_NAMED = {
    "message": {"content", "role", "refusal", "tool_calls", "function_call"},
    "call": {"id", "type", "index", "function", "custom"},
    "function": {"name", "arguments", "input"},
}
"""Fields of chat completions that have a name in the framework."""
_REPEATED = {"id", "type", "format", "index", "signature", "name"}


def _fold(old: Any, new: Any, name: str = "") -> Any:
    """Return the merge of a value and its next piece, by the rule as it is written: step by step, and slowly."""
    if new is None:
        return old
    if isinstance(old, str) and isinstance(new, str):
        return (new or old) if name in _REPEATED else old + new
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _fold(old.get(key), new[key], key) if key in new else old[key] for key in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        merged = list(old)
        for item in new:
            index = item.get("index") if isinstance(item, dict) else None
            places = [place for place, known in enumerate(merged) if index is not None and known.get("index") == index]
            if places:
                merged[places[0]] = _fold(merged[places[0]], item)
            else:
                merged.append(item)
        return merged
    return new


def _unnamed_fields(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the fields of the first choice's message, and of its calls by index, that the framework does not name."""
    message: dict[str, Any] = {}
    calls: dict[str, dict[str, Any]] = {}

    def add(fields: dict[str, Any], source: dict[str, Any], kind: str) -> None:
        for key, value in source.items():
            if key not in _NAMED[kind] and value not in (None, "", [], {}):
                fields[key] = _fold(fields.get(key), value, key)

    for event in SSEDecoder().feed(record["response"]["body_text"].encode()):
        chunk = json.loads(event.data) if event.data.startswith(b"{") else {}
        for choice in chunk.get("choices") or ():
            delta = (choice.get("delta") or {}) if choice.get("index", 0) == 0 else {}
            add(message, delta, "message")
            for call in delta.get("tool_calls") or ():
                fields = calls.setdefault(str(call.get("index")), {})
                add(fields, call, "call")
                add(fields, call.get("function") or {}, "function")
    return message, {index: fields for index, fields in calls.items() if fields}


@_parametrize_paths(lambda path: path.parent.name == "chat" and not _ends_in_error(path))
async def test_answer_keeps_the_unknown_fields_of_each_recorded_stream(path: Path, kit: Kit) -> None:
    """`echo` of a message and of its calls has the stream's fields that the message class does not declare, merged."""
    record = _load(path)
    expected, of_calls = _unnamed_fields(record)
    message, _ = await _run(record, [record["response"]["body_text"].encode()], kit)
    echo, calls = message.echo or {}, message.tool_calls
    assert {name: _plain(getattr(message, ours)) for name, ours in echo.items()} == expected
    kept = [{name: _plain(getattr(call, ours)) for name, ours in call.echo.items()} for call in calls if call.echo]
    assert kept == list(of_calls.values())


@each_error
async def test_agent_raises_the_error_of_each_recorded_failure(path: Path, kit: Kit) -> None:
    """A status decides the error class, with the SDK's error as cause; an error in a stream keeps the text so far."""
    record = _load(path)
    status = record["response"]["status"]
    body = record["response"]["body_text"].encode()
    classes: dict[int, type[errors.LLMError]] = {
        401: errors.AuthenticationFailedError,
        403: errors.AuthenticationFailedError,
        429: errors.RateLimitedError,
    }
    listed = ERRORS_IN_THE_STREAM.get(path.stem)
    kind = getattr(errors, listed.error) if listed else classes.get(status, errors.RequestRejectedError)
    text = listed.text_before if listed else ""
    for way, chunks in _cuts(record, body).items():
        with pytest.raises(errors.LLMError) as caught:
            await _run(record, chunks, kit)
        error = caught.value
        assert type(error) is kind, way
        assert error.partial.content == text
        assert error.partial.interrupted
        assert error.delivered_any == bool(text)
        if status >= 400:
            assert error.status == status
            cause = error.__cause__
            assert f"{type(cause).__module__}.{type(cause).__name__}" == record["expected"]["create_error"]["type"]


@each_stream
def test_S7_decoder_returns_the_same_events_for_each_recorded_stream_byte_by_byte(path: Path) -> None:
    """The decoder returns the same events for single bytes as for the whole body."""
    record = _load(path)
    body = record["response"]["body_text"].encode()
    whole, bytewise = SSEDecoder(strict=True), SSEDecoder(strict=True)
    events = whole.feed(body)
    assert [event for i in range(len(body)) for event in bytewise.feed(body[i : i + 1])] == events
    assert bytewise.close() == whole.close()


@each_answer
def test_S1_session_is_incomplete_before_the_last_event_of_each_recorded_stream(path: Path) -> None:
    """No recorded stream is complete before the event of its end, and its text so far is a beginning of the whole."""
    record = _load(path)
    session, complete, text = _session(record), False, ""
    whole = expected_facts(record)["deltas"]
    for event in SSEDecoder().feed(record["response"]["body_text"].encode()):
        text += session.feed(event)
        assert whole.startswith(text)
        was_complete, complete = complete, session.outcome().complete
        assert complete or not was_complete, "a complete session became incomplete"
        if complete and not was_complete:
            assert re.search(
                rb'"finish_reason": ?"|"stop_reason": ?"|response\.(completed|incomplete)|\[DONE\]', event.data
            )
    assert complete


def test_tables_of_differences_name_existing_records() -> None:
    """Each entry in the tables of differences names an existing record, and has a reason."""
    paths = _paths()
    if paths is None:
        pytest.skip("MINIAGENTS_CORPUS does not name a folder with recorded provider streams")
    tables: tuple[dict[str, Any], ...] = (WRONG_SUMMARY, NO_SUMMARY, ERRORS_IN_THE_STREAM)
    for table in tables:
        assert table.keys() <= {path.stem for path in paths}
        assert all(entry.reason for entry in table.values())
