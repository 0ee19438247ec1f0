"""The answer "Hello" as each API streams it, functions that change it, and a function that reads it with a session."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from miniagents.ext.llm._sessions import ChatSession, MessagesSession, Outcome, ResponsesSession
from miniagents.ext.llm.sse import ServerSentEvent

if TYPE_CHECKING:
    from miniagents.ext.llm._sessions import Session

APIS = ("chat", "responses", "messages")
AT = {"output_index": 0, "content_index": 0, "item_id": "i"}
ITEM: dict[str, Any] = {"type": "message", "id": "i", "role": "assistant", "content": []}
DONE: dict[str, Any] = {**ITEM, "content": [{"type": "output_text", "text": "Hello"}]}


def chunk(content: str | None = None, finish: str | None = None, index: Any = 0, **more: Any) -> dict[str, Any]:
    """Return a chunk of a chat completion with one choice."""
    delta = {} if content is None else {"content": content}
    return {"id": "c", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish, **more}]}


def streams() -> dict[str, list[dict[str, Any]]]:
    """Return the events of the answer for each API; each call makes new ones, so that tests may change them."""
    text = "content_block_delta"
    events = {
        "chat": [chunk(""), chunk("Hel"), chunk("lo"), {**chunk(finish="stop"), "usage": {"prompt_tokens": 3}}],
        "responses": [
            {"type": "response.created", "response": {"id": "c", "model": "m", "status": "in_progress"}},
            {"type": "response.output_item.added", "output_index": 0, "item": ITEM},
            {"type": "response.output_text.delta", **AT, "delta": "Hel"},
            {"type": "response.output_text.delta", **AT, "delta": "lo"},
            {"type": "response.output_text.done", **AT, "text": "Hello"},
            {"type": "response.output_item.done", **AT, "item": DONE},
            {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 3}}},
        ],
        "messages": [
            {"type": "message_start", "message": {"id": "c", "model": "m", "usage": {"input_tokens": 3}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": text, "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
            {"type": text, "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
            {"type": "message_stop"},
        ],
    }
    copy: dict[str, list[dict[str, Any]]] = json.loads(json.dumps(events))
    return copy


def session_of(api: str, n: int | None = 1) -> Session:
    """Return a new session of the API, for one answer."""
    return ChatSession(n) if api == "chat" else ResponsesSession() if api == "responses" else MessagesSession()


def read(api: str, *events: Any, n: int | None = 1) -> Outcome:
    """Return the outcome of a stream of these events, which are JSON values or raw bytes."""
    session = session_of(api, n)
    datas = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    said = "".join([session.feed(ServerSentEvent(data)) for data in datas])
    outcome = session.close()
    assert outcome.content == said
    return outcome


def changed(api: str, *path: Any, to: Any) -> list[Any]:
    """Return the events of the answer with another value at this path."""
    events = streams()[api]
    holder: Any = events
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = to
    return events
