"""OpenAI's Responses API, and those who serve it too."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from miniagents.ext.llm._sessions.base import Outcome, Session, Tokens, ToolUse, json_text, mend, mend_deep

_INCOMPLETE = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter"}
_NOT_EXTRA = frozenset({"id", "model", "object", "output", "usage", "error", "instructions", "tools", "text"})
"""What is not worth a copy on the message: what has a place of its own, and parts of the request sent back."""


class _Item:
    """An output item: what was said of it at its start and at its end, and what grew between."""

    __slots__ = ("arguments", "done", "refusal", "said", "start", "summaries", "told")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.done: dict[str, Any] | None = None
        self.said: dict[int, list[str]] = {}
        self.refusal: list[str] = []
        self.summaries: dict[tuple[str, int], list[str]] = {}
        self.arguments: list[str] = []
        self.told: set[int] = set()
        """The parts whose whole text was told, and is what the deltas said."""

    def text(self) -> str:
        """Return what the deltas said, of all parts."""
        return "".join("".join(self.said[part]) for part in sorted(self.said))


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
        self._order: dict[int, int] = {}  # where the item of an index stands, if not at that index
        self._sequence_number: int | None = None
        self._misnumbered = ""  # the first contradiction of sequence numbers
        self._skipped = 0  # how many numbers were left out, less those that came again
        self._hole = 0  # how many were left out at once, at most
        self._held_from: int | None = None  # the first of the pieces that wait until the whole text confirms them
        self._done = False

    def _take(self, data: dict[str, Any], name: str) -> str:
        kind = data.get("type") or name
        if type(kind) is not str:
            self._doubt("type", kind)
            kind = name
        if "sequence_number" in data and self._is_repeated(data):
            return ""
        if kind == "response.output_text.delta":
            item = self._item(data)
            delta = data.get("delta")
            if type(delta) is not str:
                if delta is not None:
                    self._reject(f"delta is {delta!r}")
                self._doubt("delta", delta)
                return ""
            part = data.get("content_index")
            if type(part) is not int or part < 0:
                part = self._part(item, data)
            said = item.said.setdefault(part, [])
            text = self._append_text(delta)
            said.append(text)
            return text if self._held_from is None else ""
        if kind == "error" or data.get("error"):
            self._error(data)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, data) or ""
        if kind == "keepalive":
            self.idle_events += 1
        elif not kind.startswith(_PROGRESS):
            self.unknown_events += 1
        return ""

    def _is_repeated(self, data: dict[str, Any]) -> bool:
        """Return whether this very event came just before.

        A wrong number is no proof that an event was lost: the whole texts that are told later decide that. Until they
        come, text behind a number that is too high or too low is held back.
        """
        number, last = data["sequence_number"], self._sequence_number
        if type(number) is not int or number < 0:
            number = self._index(data, "sequence_number")
            if number is None:
                number = 0 if last is None else last + 1
        self._sequence_number = number
        if last is None or number == last + 1:
            self._last = data
            return False
        if number == last and not self._misnumbered and data == self._last:
            return True
        self._doubt("sequence_number", f"{number} after {last}")
        self._misnumbered = self._misnumbered or f"sequence_number {number} after {last}"
        self._skipped += number - last - 1
        self._hole = max(self._hole, number - last - 1)
        if number != last and self._held_from is None:
            self._held_from = len(self._pieces)
        return False

    def _release(self) -> str:
        """Return the text that was held back: the whole text says the same."""
        start, self._held_from = self._held_from, None
        return "" if start is None else "".join(self._pieces[start:])

    def _on_lifecycle(self, data: dict[str, Any]) -> None:
        """created, queued, in_progress."""
        self._take_response(data)

    def _on_item_added(self, data: dict[str, Any]) -> None:
        item = self._object(data, "item")
        index = self._index(data, "output_index")
        place = max(self._items, default=-1) + 1
        if index in self._items:
            known = self._items[self._order.get(index, index)]
            if known.done is None or not item.get("id") or known.start.get("id") == item["id"]:
                self._reject(f"output item {index} is added twice")
            self._doubt("output_index", index)
            self._order[index] = place
        elif index is not None:
            place = index
        self._items[place] = _Item(item)

    def _on_item_done(self, data: dict[str, Any]) -> str:
        done = self._object(data, "item")
        item = self._item(data, done.get("id"))
        item.done = done or None
        rest = "" if item.said else self._append_text(_text_of(done))
        if item.said and self._misnumbered and mend(_text_of(done)) != item.text():
            self._reject(f"{self._misnumbered}, and the text of a finished item is not what its deltas said")
        item.told.update(item.said)
        return rest if self._held_from is None else self._release()

    def _on_text_done(self, data: dict[str, Any]) -> str:
        item = self._item(data)
        whole = mend(self._text(data, "text"))
        rest = self._finish_text()
        part = self._part(item, data)
        said = item.said.setdefault(part, [])
        known = "".join(said) + rest
        if whole and whole != known:
            if not whole.startswith(known) or (known and self._held_from is not None):
                gap = f"{self._misnumbered}, and " if self._misnumbered else ""
                self._reject(f"{gap}the text of a finished part is not what its deltas said")
            rest += self._append_text(whole[len(known) :])  # the server keeps some or all deltas to itself
        said.append(rest)
        if whole:
            item.told.add(part)
        if self._held_from is not None:
            return self._release() if whole else ""
        return rest

    def _on_refusal_delta(self, data: dict[str, Any]) -> None:
        self._item(data).refusal.append(self._text(data, "delta"))

    def _on_arguments_delta(self, data: dict[str, Any]) -> None:
        self._item(data).arguments.append(self._json_arguments(data.get("delta")))

    def _on_arguments_done(self, data: dict[str, Any]) -> None:
        whole = self._json_arguments(data.get("arguments")) or self._json_arguments(data.get("input"))
        if whole:
            self._item(data).arguments = [whole]

    def _on_reasoning_delta(self, data: dict[str, Any]) -> None:
        key = "summary_index" if "summary_index" in data else "content_index"
        index = (self._index(data, key) if key in data else 0) or 0
        self._item(data).summaries.setdefault((key, index), []).append(self._aside(data, "delta"))

    def _on_end(self, data: dict[str, Any]) -> str:
        """completed, incomplete."""
        response = self._take_response(data)
        if response.get("status") in ("failed", "cancelled"):
            self._on_failure(data)
        output = response.get("output")
        rest = self._finish_text()
        if isinstance(output, list) and output:
            rest += self._take_output(output)
        if self._misnumbered:
            self._check_against_end(output if isinstance(output, list) else [])
        self._done = self.ended = True
        return rest if self._held_from is None else self._release()

    def _take_output(self, output: list[Any]) -> str:
        """Take the items that are told at the end; return their text where none has come before."""
        if not self._items:
            self._items = {index: _Item(item) for index, item in enumerate(output) if isinstance(item, dict)}
        for place, item in enumerate(output):
            known = self._items.get(place)
            if known is None or known.done is not None or not isinstance(item, dict):
                continue
            if known.start.get("type") in (None, item.get("type")):
                known.done = item  # its own last event did not come
        if self._pieces:
            return ""
        return self._append_text("".join(map(_text_of, output))) + self._finish_text()

    def _check_against_end(self, output: list[Any]) -> None:
        """Refuse an answer with contradictory sequence numbers, unless the end tells that nothing was lost of it.

        Raises:
            StreamProtocolError: the text or a call is not what the end tells; or the end tells nothing, and as many
                numbers are missing as an item has at least.
        """
        items = [self._items[place] for place in sorted(self._items)]
        if output:
            told = [_Item(item) for item in output if isinstance(item, dict)]
            same = mend("".join(_text_of(item.start) for item in told)) == "".join(self._pieces)
            same = same and [*map(_tool_call, told)] == [*map(_tool_call, items)]
            same = same and [*map(_refusal, told)] == [*map(_refusal, items)]
        else:
            same = (self._skipped <= 0 or self._hole < 2) and all(
                item.done or item.told.issuperset(item.said) for item in items
            )
        if not same:
            self._reject(f"{self._misnumbered}: events were lost or changed places")

    def _on_failure(self, data: dict[str, Any]) -> NoReturn:
        """failed, cancelled."""
        response = self._take_response(data)
        rest = self._finish_text()
        if not self._pieces and isinstance(response.get("output"), list):
            rest += self._append_text("".join(map(_text_of, response["output"])))
        self._error({"message": f"the response is {response.get('status')!r}"}, withheld=rest)

    def _take_response(self, data: dict[str, Any]) -> dict[str, Any]:
        response = dict(self._object(data, "response"))
        if response.get("usage") is not None:
            response["usage"] = self._counts(response["usage"], "input_tokens", "output_tokens", "total_tokens")
        for key in ("id", "model"):
            response[key] = self._label(response, key) or None
        self._response.update({key: value for key, value in response.items() if value is not None})
        if response.get("error"):
            self._error(response)
        return response

    def _take_whole(self, data: dict[str, Any]) -> None:
        if data.get("output") is None and data.get("status") == "completed" and "output" in data:
            self._doubt("output", None)
            data = {**data, "output": []}
        if data.get("error") and not isinstance(data.get("output"), list):
            self._error(data)
        if not isinstance(data.get("output"), list):
            self._reject("the response has no output")
        status = data.get("status")
        if data.get("error") or status in ("failed", "cancelled"):
            self._append_text("".join(map(_text_of, data["output"])))
            self._on_failure({"response": data})
        self._on_end({"response": data})
        if status in ("queued", "in_progress"):
            self._done = False

    def _part(self, item: _Item, data: dict[str, Any]) -> int:
        """Return the part that an event is about: by its index, or the latest one where that cannot be."""
        index = self._index(data, "content_index")
        if index is None:
            index = next(reversed(item.said), 0)
        return index

    def _item(self, data: dict[str, Any], item_id: Any = None) -> _Item:
        """Return the item of an event: by index (some servers change ids on the way), else by id, or the latest one."""
        index = data.get("output_index")
        if type(index) is int and index in self._items and not self._order:  # as nearly always
            return self._items[index]
        index = self._index(data, "output_index") if "output_index" in data else None
        if index is not None and index in self._items:
            return self._items[self._order.get(index, index)]
        item_id = item_id or data.get("item_id")
        found = next((item for item in self._items.values() if item_id and item.start.get("id") == item_id), None)
        if found is None and "output_index" in data and index is None:
            found = next(reversed(self._items.values()), None)
        if found is None:
            self._reject(f"an event for output item {item_id if index is None else index!r}, which was not added")
        if index is not None:
            self._doubt("output_index", index)
        return found

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
            content="".join(self._pieces[: self._held_from]),
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
            doubts=self.doubts,
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
        arguments=(final if isinstance(final, str) else json_text(final)) if final else "".join(item.arguments),
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
