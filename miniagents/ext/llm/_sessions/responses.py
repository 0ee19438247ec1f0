"""OpenAI's Responses API, and those who serve it too."""

from __future__ import annotations

from typing import Any, ClassVar

from miniagents.ext.llm._sessions.base import Outcome, Session, Tokens, ToolUse, mend, mend_deep

_INCOMPLETE = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter"}
_NOT_EXTRA = frozenset({"id", "model", "object", "output", "usage", "error", "instructions", "tools", "text"})
"""What is not worth a copy on the message: what has a place of its own, and parts of the request sent back."""


class _Item:
    """An output item: what was said of it at its start and at its end, and what grew between."""

    __slots__ = ("arguments", "done", "refusal", "said", "start", "summaries")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.done: dict[str, Any] | None = None
        self.said: dict[int, list[str]] = {}
        self.refusal: list[str] = []
        self.summaries: dict[tuple[str, int], list[str]] = {}
        self.arguments: list[str] = []


class ResponsesSession(Session):
    """A response. Its content is the text of all messages in it; `response.completed` or `.incomplete` end it.

    The API says every text three or four times: delta by delta, then whole for the part, the item and the response.
    The deltas count; the others are used where deltas did not come, and to find out that some were lost.
    """

    provider: ClassVar[str] = "openai"

    def __init__(self) -> None:
        super().__init__()
        self._response: dict[str, Any] = {}
        self._items: dict[int, _Item] = {}
        self._sequence_number: int | None = None
        self._done = False

    def _take(self, data: dict[str, Any], name: str) -> str:
        kind = data.get("type") or name
        if not isinstance(kind, str):
            self._reject(f"type is {kind!r}")
        if "sequence_number" in data and self._is_repeated(data):
            return ""
        if kind == "response.output_text.delta":
            item = self._item(data)
            delta = data.get("delta")
            if type(delta) is not str:
                self._reject(f"delta is {delta!r}")
            said = item.said.setdefault(self._index(data, "content_index"), [])
            text = self._append_text(delta)
            said.append(text)
            return text
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, data) or ""
        if kind == "error" or data.get("error"):
            self._error(data)
        if kind == "keepalive":
            self.idle_events += 1
        elif not kind.startswith(_PROGRESS):
            self.unknown_events += 1
        return ""

    def _is_repeated(self, data: dict[str, Any]) -> bool:
        number = self._index(data, "sequence_number")
        last, self._sequence_number = self._sequence_number, number
        if last is None or number == last + 1:
            self._last = data
            return False
        if number == last and data == self._last:
            return True
        self._reject(f"sequence_number {number} after {last}: events were lost or changed places")

    def _on_lifecycle(self, data: dict[str, Any]) -> None:
        """created, queued, in_progress."""
        self._take_response(data)

    def _on_item_added(self, data: dict[str, Any]) -> None:
        item = self._object(data, "item")
        index = self._index(data, "output_index")
        if index in self._items:
            self._reject(f"output item {index} is added twice")
        self._items[index] = _Item(item)

    def _on_item_done(self, data: dict[str, Any]) -> str:
        done = self._object(data, "item")
        item = self._item(data, done.get("id"))
        item.done = done
        return self._append_text(_text_of(done)) if not item.said else ""

    def _on_text_done(self, data: dict[str, Any]) -> str:
        item = self._item(data)
        whole = mend(self._text(data, "text"))
        rest = self._finish_text()
        said = item.said.setdefault(self._index(data, "content_index"), [])
        known = "".join(said) + rest
        if whole and whole != known:
            if not whole.startswith(known):
                self._reject("the text of a finished part is not what its deltas said")
            rest += self._append_text(whole[len(known) :])  # the server keeps some or all deltas to itself
        said.append(rest)
        return rest

    def _on_refusal_delta(self, data: dict[str, Any]) -> None:
        self._item(data).refusal.append(self._text(data, "delta"))

    def _on_arguments_delta(self, data: dict[str, Any]) -> None:
        self._item(data).arguments.append(self._text(data, "delta"))

    def _on_arguments_done(self, data: dict[str, Any]) -> None:
        whole = self._text(data, "arguments") or self._text(data, "input")
        if whole:
            self._item(data).arguments = [whole]

    def _on_reasoning_delta(self, data: dict[str, Any]) -> None:
        key = "summary_index" if "summary_index" in data else "content_index"
        index = self._index(data, key) if key in data else 0
        self._item(data).summaries.setdefault((key, index), []).append(self._text(data, "delta"))

    def _on_end(self, data: dict[str, Any]) -> str:
        """completed, incomplete."""
        response = self._take_response(data)
        output = response.get("output")
        self._done = self.ended = True
        rest = self._finish_text()
        if isinstance(output, list) and output:
            if not self._items:
                self._items = {index: _Item(item) for index, item in enumerate(output) if isinstance(item, dict)}
            if not self._pieces:
                rest += self._append_text("".join(map(_text_of, output))) + self._finish_text()
        return rest

    def _on_failure(self, data: dict[str, Any]) -> None:
        """failed, cancelled."""
        response = self._take_response(data)
        self._error(response if response.get("error") else {"message": f"the response is {response.get('status')!r}"})

    def _take_response(self, data: dict[str, Any]) -> dict[str, Any]:
        response = self._object(data, "response")
        if response.get("usage") is not None:
            self._check_counts(response["usage"], "input_tokens", "output_tokens", "total_tokens")
        self._response.update({key: value for key, value in response.items() if value is not None})
        return response

    def _take_whole(self, data: dict[str, Any]) -> None:
        if data.get("error"):
            self._error(data)
        if not isinstance(data.get("output"), list):
            self._reject("the response has no output")
        status = data.get("status")
        if status in ("failed", "cancelled"):
            self._on_failure({"response": data})
        self._on_end({"response": data})
        if status in ("queued", "in_progress"):
            self._done = False

    def _object(self, data: dict[str, Any], key: str) -> dict[str, Any]:
        value = data.get(key)
        if not isinstance(value, dict):
            self._reject(f"{key} is {value!r}")
        return value

    def _item(self, data: dict[str, Any], item_id: Any = None) -> _Item:
        """The item of an event, by its index (some servers change ids on the way), by its id where it has no index."""
        if "output_index" not in data:
            item_id = item_id or data.get("item_id")
            found = next((item for item in self._items.values() if item_id and item.start.get("id") == item_id), None)
            if found is None:
                self._reject(f"an event for output item {item_id!r}, which was not added")
            return found
        index = self._index(data, "output_index")
        if index not in self._items:
            self._reject(f"an event for output item {index}, which was not added")
        return self._items[index]

    def outcome(self) -> Outcome:
        """The answer as far as it has come."""
        items = [self._items[index] for index in sorted(self._items)]
        refusal = "".join(map(_refusal, items))
        calls = tuple(call for item in items if (call := _tool_call(item)))
        extra = {key: value for key, value in self._response.items() if key not in _NOT_EXTRA and value not in ([], {})}
        if items:
            extra["output"] = [item.done or item.start for item in items]
        word, reason = self._finish_reason(bool(calls), bool(refusal))
        outcome = Outcome(
            content="".join(self._pieces),
            complete=self._done,
            finish_reason=reason,
            provider_finish_reason=word,
            id=self._response.get("id"),
            model=self._response.get("model"),
            usage=self._tokens(),
            raw_usage=self._response.get("usage"),
            tool_calls=calls,
            refusal=refusal or None,
            reasoning="\n\n".join(filter(None, map(_reasoning, items))) or None,
            unknown_events=self.unknown_events,
            lossy=self._lossy,
            extra=extra,
        )
        return outcome if self._joiner is None else mend_deep(outcome)

    def _finish_reason(self, has_calls: bool, refused: bool) -> tuple[str | None, str | None]:
        """The provider's word, and ours."""
        if not self._done:
            return None, None
        status = str(self._response.get("status") or "completed")
        details = self._response.get("incomplete_details")
        if status == "incomplete":
            word = str(details.get("reason") or status) if isinstance(details, dict) else status
            return word, _INCOMPLETE.get(word, word)
        if refused:
            return status, "refusal"
        return status, "tool_calls" if has_calls else "stop"

    def _tokens(self) -> Tokens | None:
        usage = self._response.get("usage")
        if usage is None:
            return None
        return Tokens(
            input=self._count(usage, "input_tokens"),
            output=self._count(usage, "output_tokens"),
            cached=self._count(usage, "input_tokens_details", "cached_tokens"),
            reasoning=self._count(usage, "output_tokens_details", "reasoning_tokens"),
            total=self._count(usage, "total_tokens"),
        )


_HANDLERS: dict[str, Any] = {
    "response.created": ResponsesSession._on_lifecycle,
    "response.queued": ResponsesSession._on_lifecycle,
    "response.in_progress": ResponsesSession._on_lifecycle,
    "response.output_item.added": ResponsesSession._on_item_added,
    "response.output_item.done": ResponsesSession._on_item_done,
    "response.output_text.done": ResponsesSession._on_text_done,
    "response.refusal.delta": ResponsesSession._on_refusal_delta,
    "response.function_call_arguments.delta": ResponsesSession._on_arguments_delta,
    "response.function_call_arguments.done": ResponsesSession._on_arguments_done,
    "response.custom_tool_call_input.delta": ResponsesSession._on_arguments_delta,
    "response.custom_tool_call_input.done": ResponsesSession._on_arguments_done,
    "response.reasoning_summary_text.delta": ResponsesSession._on_reasoning_delta,
    "response.reasoning_text.delta": ResponsesSession._on_reasoning_delta,
    "response.completed": ResponsesSession._on_end,
    "response.incomplete": ResponsesSession._on_end,
    "response.failed": ResponsesSession._on_failure,
    "response.cancelled": ResponsesSession._on_failure,
}
_PROGRESS = (
    "response.content_part.",
    "response.output_text.",
    "response.refusal.",
    "response.reasoning_",
    "response.audio.",
    "response.web_search_call.",
    "response.file_search_call.",
    "response.code_interpreter_call",
    "response.image_generation_call.",
    "response.mcp_",
    "response.shell_call",
    "response.apply_patch_call",
)
"""Events about things whose final state the item itself has."""


def _parts(item: Any) -> list[dict[str, Any]]:
    content = item.get("content") if isinstance(item, dict) else None
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _text_of(item: Any) -> str:
    if not isinstance(item, dict) or item.get("type") != "message":
        return ""
    return "".join(str(part.get("text") or "") for part in _parts(item) if part.get("type") == "output_text")


def _refusal(item: _Item) -> str:
    if item.refusal:
        return "".join(item.refusal)
    parts = _parts(item.done or item.start)
    return "".join(str(part.get("refusal") or "") for part in parts if part.get("type") == "refusal")


def _tool_call(item: _Item) -> ToolUse | None:
    known = {**item.start, **(item.done or {})}
    kind = known.get("type")
    if kind not in ("function_call", "custom_tool_call"):
        return None
    final = known.get("arguments" if kind == "function_call" else "input")
    return ToolUse(
        id=str(known.get("call_id") or known.get("id") or ""),
        name=str(known.get("name") or ""),
        arguments=str(final) if final else "".join(item.arguments),
        type="function" if kind == "function_call" else "custom",
    )


def _reasoning(item: _Item) -> str:
    """What of the reasoning is visible: its summary, else its text."""
    known = {**item.start, **(item.done or {})}
    if known.get("type") != "reasoning":
        return ""
    if item.summaries:
        keys = sorted(item.summaries)
        kind = "summary_index" if any(key[0] == "summary_index" for key in keys) else "content_index"
        return "\n\n".join("".join(item.summaries[key]) for key in keys if key[0] == kind)
    for parts in (known.get("summary"), known.get("content")):
        if isinstance(parts, list) and parts:
            return "\n\n".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
    return ""
