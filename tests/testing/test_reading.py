"""Reading of recorded interactions: the end of the prompt, the pieces of the answer, and the ending."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing._reading import Turn, agent_names, read_interaction, read_prompt
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream
from miniagents_testing.cassette._chunkmap import one_event_a_chunk

CHAT = "https://api.openai.com/v1/chat/completions"
RESPONSES = "https://api.openai.com/v1/responses"
MESSAGES = "https://api.anthropic.com/v1/messages"
WORDS = st.sampled_from(
    [
        "type",
        "index",
        "delta",
        "content_block",
        "content",
        "text",
        "choices",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "message",
        "messages",
        "usage",
        "reasoning_content",
        "refusal",
        "output_index",
        "item",
        "response",
        "output",
        "input",
        "role",
        "error",
        "model",
        "partial_json",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["\ud83d", "x\ude00x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
TYPES = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
        "response.created",
        "error",
        "response.output_item.added",
        "response.output_text.delta",
        "response.refusal.delta",
        "response.completed",
    ]
)


KINDS = ("text", "reasoning", "refusal", "tool")


def interaction(*events: dict[str, Any] | str, uri: str = CHAT, request: Any = None, **response: Any) -> Interaction:
    """Return a request and its answer, one event a chunk."""
    data = [event if isinstance(event, str) else json.dumps(event) for event in events]
    chunks = tuple(Chunk(0, f"data: {text}\n\n".encode()) for text in data)
    return Interaction("POST", uri, json.dumps(request).encode(), ResponseStream(**{"chunks": chunks, **response}))


def chat(finish_reason: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    """Return a chunk of a chat completion."""
    return {"model": "m-1", "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


TOOL_START = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": ""}}


def test_chat_pieces_belong_to_the_chunk_with_their_event() -> None:
    """Text, reasoning, refusals and fragments of tool calls of chat completions are found in their chunks."""
    read_ = read_interaction(
        interaction(
            chat(reasoning_content="Hm"),
            chat(content="Hel"),
            chat(content="lo"),
            chat(tool_calls=[TOOL_START]),
            chat(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
            chat(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
            chat(refusal="No."),
            chat(finish_reason="tool_calls"),
            "[DONE]",
        )
    )
    said = [[(piece.kind, piece.text) for piece in chunk] for chunk in read_.chunks]
    assert said == [
        [("reasoning", "Hm")],
        [("text", "Hel")],
        [("text", "lo")],
        [("tool", "look ")],
        [("tool", '{"a":')],
        [("tool", "1}")],
        [("refusal", "No.")],
        [],
        [],
    ]
    assert (read_.provider, read_.model, read_.ending.word) == ("openai", "m-1", "tool_calls")


def test_messages_pieces_are_thinking_text_and_tool_calls() -> None:
    """A recorded Anthropic answer gives its thinking and calls by block, its model, and its numbers of tokens."""
    block = {"type": "content_block_start"}
    delta = {"type": "content_block_delta"}
    start = {"type": "message_start", "message": {"model": "c-1", "content": [], "usage": {"input_tokens": 5}}}
    read_ = read_interaction(
        interaction(
            start,
            {**block, "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {**delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
            {"type": "content_block_stop", "index": 0},
            {**block, "index": 1, "content_block": {"type": "server_tool_use", "name": "search", "input": {}}},
            {**delta, "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q":1}'}},
            {"type": "content_block_stop", "index": 1},
            {**block, "index": 2, "content_block": {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}},
            {"type": "content_block_stop", "index": 2},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
            uri=MESSAGES,
        )
    )
    assert [(piece.kind, piece.part, piece.text) for piece in read_.pieces] == [
        ("reasoning", "0", "Hm"),
        ("tool", "1", "search "),
        ("tool", "1", '{"q":1}'),
        ("tool", "2", 'look {"a": 1}'),
    ]
    assert (read_.provider, read_.model) == ("anthropic", "c-1")
    assert read_.outcome is not None
    assert read_.outcome.usage is not None
    assert (read_.outcome.usage.input, read_.outcome.usage.output) == (5, 7)


def test_responses_pieces_are_summaries_text_refusals_and_calls() -> None:
    """A recorded answer of the Responses API gives kind and text of its pieces in order, and ends as a refusal."""
    item = {"type": "response.output_item.added"}
    read_ = read_interaction(
        interaction(
            {**item, "output_index": 0, "item": {"type": "reasoning", "summary": []}},
            {
                "type": "response.reasoning_summary_text.delta",
                "output_index": 0,
                "summary_index": 1,
                "delta": "Hm",
            },
            {**item, "output_index": 1, "item": {"type": "message", "content": []}},
            {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hi"},
            {"type": "response.refusal.delta", "output_index": 1, "content_index": 0, "delta": "No"},
            {**item, "output_index": 2, "item": {"type": "function_call", "name": "look", "arguments": ""}},
            {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"},
            {"type": "response.completed", "response": {"model": "m-2", "status": "completed"}},
            uri=RESPONSES,
        )
    )
    assert [(piece.kind, piece.text) for piece in read_.pieces] == [
        ("reasoning", "Hm"),
        ("text", "Hi"),
        ("refusal", "No"),
        ("tool", "look "),
        ("tool", "{}"),
    ]
    assert read_.ending.word == "refusal"


def test_pieces_that_were_not_streamed_belong_to_the_last_chunk() -> None:
    """An answer that is one JSON document, not a stream, gives all its pieces for the last chunk."""
    message = {
        "content": "Hi",
        "reasoning": "Hm",
        "tool_calls": [{"id": "call_1", "function": {"name": "look", "arguments": "{}"}}],
    }
    body = {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "stop"},
            {"index": 1, "message": {"content": "Ho"}, "finish_reason": "stop"},
        ],
    }
    read_ = read_interaction(interaction(chunks=(Chunk(0, json.dumps(body).encode()),), request={"n": 2}))
    assert [(piece.kind, piece.text) for piece in read_.pieces] == [
        ("text", "Hi"),
        ("tool", "look {}"),
        ("reasoning", "Hm"),
        ("choice", "Ho"),
    ]


@pytest.mark.parametrize(
    ("recorded", "word", "sentence"),
    [
        (interaction(chat(content="Hi", finish_reason="length")), "length", "cut at the token limit"),
        (interaction(chat(content="Hi")), "cut off", "has not said that the answer is whole"),
        (interaction(chat(), end="closed", complete=False), "closed early", "closed by its reader, before the answer"),
        (interaction(chat(), end="open", complete=False), "open", "not read to its end"),
        (interaction(chat(finish_reason="stop"), end="closed"), "stop", "stop"),
        (
            interaction(chat(), end="raise ReadError: peer: reset", complete=False),
            "broken: ReadError",
            "the connection broke: ReadError: peer: reset",
        ),
        (
            interaction(chat(), end="raise ReadError: ", complete=False),
            "broken: ReadError",
            "the connection broke: ReadError",
        ),
        (
            interaction(status=429, chunks=(Chunk(0, b'{"error":{"message":"too fast"}}'),)),
            "HTTP 429",
            "HTTP 429: openai reported an error: too fast",
        ),
        (interaction(status=502, chunks=(Chunk(0, b"<html>Bad\xff</html>"),)), "HTTP 502", "HTTP 502: <html>Bad"),
        (interaction(status=500), "HTTP 500", "HTTP 500: (no body)"),
        (interaction({"error": {"message": "too much"}}), "error in the stream", "too much"),
        (interaction("{"), "unreadable", "the rest cannot be read: openai: event 1: malformed JSON"),
        (interaction(chunks=(Chunk(0, b"<html>"),)), "unreadable", "not an answer of the API but a page"),
        (interaction(uri="https://x.test/robots.txt", chunks=(Chunk(0, b"Hi"),)), "eof", "eof"),
    ],
)
def test_ending_is_described_in_a_word_and_a_sentence(recorded: Interaction, word: str, sentence: str) -> None:
    """The ending of each kind of recorded answer is described by a word for tables and a sentence for users."""
    ending = read_interaction(recorded).ending
    assert ending.word == word
    assert sentence in ending.sentence
    assert not ending.sentence.endswith((":", ": "))
    assert ending.complete is (word in ("length", "stop", "eof"))


def test_api_is_found_by_the_body_when_the_path_is_unknown() -> None:
    """For a gateway with a path of its own, the API is recognized by the beginning of the body."""
    read_ = read_interaction(
        interaction({"object": "chat.completion.chunk", **chat(content="Hi")}, uri="https://gate.test/x")
    )
    assert read_.provider == "gate.test"
    assert [piece.text for piece in read_.pieces] == ["Hi"]


@pytest.mark.parametrize(
    ("request_body", "turns"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, [("user", "Hi")]),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho"},
                    {"role": "tool", "content": "one"},
                    {"role": "tool", "content": "two"},
                ]
            },
            [("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"), ("tool", "one"), ("tool", "two")],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url"}]}]},
            [("user", "See\n[image_url]")],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"text": "5"}]}]}]},
            [("tool", "5")],
        ),
        ({"input": "Hi"}, [("user", "Hi")]),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                    {"type": "function_call", "name": "look", "arguments": "{}"},
                    {"type": "function_call_output", "output": "5"},
                ]
            },
            [("user", "Hi"), ("tool", "5")],
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "thinking"}, {"type": "text", "text": "Once"}]},
                    {"role": "assistant", "content": [{"type": "tool_use", "name": "look"}]},
                ]
            },
            [("assistant", "Once")],
        ),
        (
            {"system": [{"type": "text", "text": "Be kind."}], "messages": [{"role": "user", "content": "Hi"}]},
            [("system", "Be kind."), ("user", "Hi")],
        ),
        ({"instructions": "Be kind.", "input": "Hi"}, [("system", "Be kind."), ("user", "Hi")]),
        ({"prompt": "Once"}, [("user", "Once")]),
        ({"inputs": "Once"}, [("user", "Once")]),
        (
            {
                "systemInstruction": {"parts": [{"text": "Be kind."}]},
                "contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Ho"}]}],
            },
            [("system", "Be kind."), ("user", "Hi"), ("model", "Ho")],
        ),
        (
            {"messages": [{"role": "user", "content": [{"text": "Hi"}]}], "system": [{"text": "Be kind."}]},
            [("system", "Be kind."), ("user", "Hi")],
        ),
        ({"messages": 5}, []),
        ([], []),
        (5, []),
    ],
)
def test_prompt_has_all_messages_with_a_text(request_body: Any, turns: list[tuple[str, str]]) -> None:
    """`read_prompt` returns the messages of a request in any API's form, but no message of the model without text."""
    assert read_prompt(json.dumps(request_body).encode()).turns == tuple(Turn(*turn) for turn in turns)


def test_last_message_of_a_prompt_is_the_one_that_the_model_answers() -> None:
    """The last message is the user's, also before a prefilled answer; if the user has none, it is the model's."""
    user, given = {"role": "user", "content": "A poem"}, {"role": "assistant", "content": "Once upon"}
    assert read_prompt(json.dumps({"messages": [user, given]}).encode()).last == Turn("user", "A poem")
    assert read_prompt(json.dumps({"messages": [given]}).encode()).last == Turn("assistant", "Once upon")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["PANEL/A/OPENAI_AGENT", "PANEL/B/OPENAI_AGENT"], ["A", "B"]),
        (["A/OPENAI_AGENT", "A/OPENAI_AGENT"], ["A", "A"]),
        (["PANEL/A", "PANEL/B"], ["A", "B"]),
        (["OPENAI_AGENT", "TEAM/A/OPENAI_AGENT", ""], ["OPENAI_AGENT", "TEAM/A", ""]),
        (["A/OPENAI_AGENT", "A/B/OPENAI_AGENT"], ["A", "A/B"]),
        (["A/OPENAI_AGENT", "A/ANTHROPIC_AGENT"], ["OPENAI_AGENT", "ANTHROPIC_AGENT"]),
        (["A/ANTHROPIC_AGENT", "B/SCRIPTED_AGENT"], ["A", "B"]),
        (["A/M", "A/B/M"], ["M", "B/M"]),
        (["DESK/TRIAGE", "DESK/TRIAGE/BILLING"], ["TRIAGE", "TRIAGE/BILLING"]),
        (["DESK/TRIAGE/BILLING", "DESK/TRIAGE/BILLING"], ["BILLING", "BILLING"]),
        (["DESK/OPENAI_AGENT", "DESK/OPENAI_AGENT/BILLING"], ["DESK", "DESK/OPENAI_AGENT/BILLING"]),
        ([""], [""]),
        ([], []),
    ],
)
def test_agent_names_are_short_and_differ_as_the_paths_do(paths: list[str], names: list[str]) -> None:
    """Names of agents lack what all paths begin with, and a default alias at the end, unless paths differ in it."""
    assert agent_names(paths) == names


def test_prompt_is_empty_when_the_body_is_not_json() -> None:
    """`read_prompt` returns an empty prompt for a request body that is not JSON."""
    assert read_prompt(b"\xff").last == Turn("", "")


@given(
    st.sampled_from([CHAT, RESPONSES, MESSAGES, "https://x.test/", "http://[::1/messages", "stdio:python x", ""]),
    JSON,
    st.lists(st.tuples(st.none() | TYPES, st.dictionaries(WORDS, JSON, max_size=5))),
    st.binary(max_size=20),
)
def test_reading_any_interaction_raises_nothing(
    uri: str, request_body: Any, events: list[tuple[str | None, dict[str, Any]]], junk: bytes
) -> None:
    """`read_interaction` accepts any interaction, and returns an ending and the pieces of each chunk."""
    recorded = interaction(
        *({**event, **({"type": kind} if kind else {})} for kind, event in events), uri=uri, request=request_body
    )
    recorded_and_more = (*recorded.response.chunks, Chunk(0, junk))
    read_ = read_interaction(Interaction("POST", uri, recorded.request_body, ResponseStream(recorded_and_more)))
    assert len(read_.chunks) == len(recorded_and_more)
    assert read_.ending.word


@pytest.mark.parametrize(
    ("event", "piece"),
    [
        (chat(content="\ud83d"), ("text", "")),
        (chat(reasoning_content="\ud83d"), ("reasoning", "\ufffd")),
        (chat(refusal="\ud83d"), ("refusal", "\ufffd")),
        (chat(tool_calls=[{"index": 0, "id": "\ud83d", "function": {"name": "\ud83d"}}]), ("tool", "\ufffd ")),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(event: dict[str, Any], piece: tuple[str, str]) -> None:
    """Half a surrogate pair in an event is read as U+FFFD: in a text at the next event, elsewhere at once."""
    read_ = read_interaction(interaction(event, chat(finish_reason="stop")))
    assert [(each.kind, each.text) for each in read_.chunks[0]] == ([piece] if piece[1] else [])
    assert read_.ending.complete
    assert "\ufffd" in "".join(each.text for each in read_.pieces)


def test_error_with_half_a_surrogate_pair_is_read() -> None:
    """The message of an error response is found, also if it has half a surrogate pair."""
    body = b'{"error": {"message": "too \\ud83d"}}'
    read_ = read_interaction(interaction(status=429, chunks=(Chunk(0, body),)))
    assert read_.ending.sentence == "HTTP 429: openai reported an error: too \ufffd"


def test_prompt_is_read_when_a_message_is_nested_deep() -> None:
    """A deeply nested message is a turn that says so, or a turn without text if Python can still parse it."""
    content = '{"content": ' * 400 + '"x"' + "}" * 400
    nested = f'{{"model": "m", "messages": [{{"content": [{content}]}}, {{"content": {"[" * 900}{"]" * 900}}}]}}'
    assert read_prompt(nested.encode()).turns[1].text in ("", "[nested too deep to be shown]")


def test_pieces_of_recorded_streams_join_to_the_answer() -> None:
    """For each corpus stream, the pieces join to the text, reasoning, refusal and tool calls that our decoder gets."""
    folder = os.environ.get("MINIAGENTS_CORPUS")
    if not folder:
        pytest.skip("MINIAGENTS_CORPUS does not name a folder with recorded provider streams")
    records = sorted(Path(folder).glob("*/*/*.json"))
    assert records
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        answer = record["response"]
        chunks = one_event_a_chunk(answer["body_text"].encode())
        request = (record["request"]["body_text"] or "").encode()
        uri = record["request"]["url"] or ""
        read_ = read_interaction(Interaction("POST", uri, request, ResponseStream(chunks, status=answer["status"])))
        if read_.outcome is None:
            continue
        said = {kind: "".join(piece.text for piece in read_.pieces if piece.kind == kind) for kind in KINDS}
        outcome = read_.outcome
        assert said["text"] == outcome.content, path
        assert said["refusal"] == (outcome.refusal or ""), path
        assert said["reasoning"].replace("\n", "") == (outcome.reasoning or "").replace("\n", ""), path
        for call in outcome.tool_calls:
            assert call.name in said["tool"], path
            assert call.arguments in said["tool"] or call.arguments == "{}", path
