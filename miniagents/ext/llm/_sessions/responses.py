"""State machine for OpenAI's Responses API, including compatible servers."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from miniagents.ext.llm._sessions.base import (
    Outcome,
    Session,
    ToolUse,
    json_text,
    repair_deep,
    repair_surrogates,
)
from miniagents.ext.llm._sessions.fields import Tokens, count_at, finish_reason_of

_ARGUMENTS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Fields with the arguments of calls, by the type of the item."""
_CALLS = tuple(_ARGUMENTS)
"""Types of the items that are calls. A tuple, because a server may send a list as the type, which has no hash."""
_NOT_EXTRA = frozenset({"id", "model", "object", "output", "usage", "error", "instructions", "tools", "text"})
"""Fields of a response that are not copied: they have a field of their own, or repeat the request."""


class _Item:
    """Output item: its first and last form, and the deltas between them."""

    __slots__ = ("arguments", "confirmed", "deltas", "done", "first_piece", "place", "refusal", "start", "summaries")

    def __init__(self, start: dict[str, Any], first_piece: int = 0) -> None:
        self.first_piece = first_piece
        """Number of pieces of the answer before this item."""
        self.place = 0
        """Number of calls before this one, for an item that is a call."""
        self.start = start
        self.done: dict[str, Any] | None = None
        self.deltas: dict[int, list[str]] = {}
        self.refusal: list[str] = []
        self.summaries: dict[tuple[str, int], list[str]] = {}
        self.arguments: list[str] = []
        self.confirmed: set[int] = set()
        """Indexes of the parts whose whole text has arrived, and is equal to the joined deltas."""

    def text(self) -> str:
        """Return the joined deltas of all parts."""
        return "".join("".join(self.deltas[part]) for part in sorted(self.deltas))

    def whole(self) -> dict[str, Any]:
        """Return the last form of the item; until it has come, the first form with the arguments of a call so far."""
        if self.done is not None or not self.arguments:
            return self.done or self.start
        return {**self.start, _ARGUMENTS.get(str(self.start.get("type")), "arguments"): "".join(self.arguments)}


class ResponsesSession(Session):
    """Session of a response. It is complete after `response.completed` or `response.incomplete`.

    The content is the joined text of all messages in the output. The API sends every text up to four times: as deltas,
    then as the whole text of the part, of the item and of the response. The content is made of
    the deltas. The whole texts supply deltas that a server leaves out, and show that deltas were lost.
    """

    provider: ClassVar[str] = "openai"

    def __init__(self) -> None:
        super().__init__()
        self._response: dict[str, Any] = {}
        self._items: dict[int, _Item] = {}
        self._calls = 0  # number of items that are calls
        self._place_of_index: dict[int, int] = {}  # position of the item of an index, if it differs
        self._sequence_number: int | None = None
        self._misnumbered = ""  # the first contradiction of sequence numbers
        self._missing = 0  # count of missing sequence numbers, less the repeated ones
        self._largest_gap = 0  # most sequence numbers that were missing at once
        self._compared = 0  # number of pieces that were compared to the whole text of a part
        self._withheld_from: int | None = None  # first piece that waits for its confirmation by a whole text
        self._done = False

    def _process(self, data: dict[str, Any], name: str) -> str:
        """Process one event of any type, and return the text that it adds to the answer; "" while text is withheld.

        Ignore an event with a `sequence_number` that repeats the one before. Events without a number always count.

        Raises:
            LLMError: the event reports an error of the provider, or a failed or cancelled response.
            StreamProtocolError: the event breaks the order or the form of the API.
        """
        kind = data.get("type") or name
        if type(kind) is not str:
            self._note_doubt("type", kind)
            kind = name
        if "sequence_number" in data and self._check_sequence_number(data):
            return ""
        if data.get("error"):
            self._raise_reported(data)
        if kind == "response.output_text.delta":
            item = self._find_item(data)
            delta = data.get("delta")
            if type(delta) is not str:
                if delta is not None:
                    self._reject(f"delta is {delta!r}")
                self._note_doubt("delta", delta)
                return ""
            part = data.get("content_index")
            if type(part) is not int or part < 0:
                part = self._part_index(item, data)
            deltas = item.deltas.setdefault(part, [])
            text = self._append_text(delta)
            deltas.append(text)
            return text if self._withheld_from is None else ""
        if kind == "error":
            self._raise_reported(data)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, data) or ""
        if kind == "keepalive":
            self.idle_events += 1
        elif not kind.startswith(_REDUNDANT):
            self.unknown_events += 1
        return ""

    def _check_sequence_number(self, data: dict[str, Any]) -> bool:
        """Process the sequence number of an event; return True if the event repeats the one before it.

        A wrong number is no proof that an event was lost: the whole texts that arrive later decide that. Until then,
        text after a wrong number is withheld.
        """
        number, last = data["sequence_number"], self._sequence_number
        if type(number) is not int or number < 0:
            number = self._read_index(data, "sequence_number")
            if number is None:
                number = 0 if last is None else last + 1
        self._sequence_number = number
        if last is None or number == last + 1:
            self._last = data
            return False
        if number == last and not self._misnumbered and data == self._last:
            return True
        self._note_doubt("sequence_number", f"{number} after {last}")
        self._misnumbered = self._misnumbered or f"sequence_number {number} after {last}"
        self._missing += number - last - 1
        self._largest_gap = max(self._largest_gap, number - last - 1)
        if number != last and self._withheld_from is None:
            self._withheld_from = len(self._pieces)
        return False

    def _release_withheld(self) -> str:
        """Return the text that was withheld after a wrong sequence number, now that a whole text has confirmed it."""
        start, self._withheld_from = self._withheld_from, None
        return "" if start is None else "".join(self._pieces[start:])

    def _on_lifecycle(self, data: dict[str, Any]) -> None:
        """Store the response of an event created, queued or in_progress; raise `LLMError` if it reports an error."""
        self._process_response(data)

    def _on_item_added(self, data: dict[str, Any]) -> None:
        """Add an output item; an index that repeats after its item has ended gets a new position.

        A call is noted among the events beside the text.

        Raises:
            StreamProtocolError: the item is added twice.
        """
        item = self._read_object(data, "item")
        index = self._read_index(data, "output_index")
        place = max(self._items, default=-1) + 1
        if index in self._items:
            known = self._items[self._place_of_index.get(index, index)]
            if known.done is None or not item.get("id") or known.start.get("id") == item["id"]:
                self._reject(f"output item {index} is added twice")
            self._note_doubt("output_index", index)
            self._place_of_index[index] = place
        elif index is not None:
            place = index
        added = self._items[place] = _Item(item, len(self._pieces))
        if item.get("type") in _CALLS:
            added.place = self._calls
            self._note_call(self._calls, item.get("call_id") or item.get("id"), item.get("name"))
            self._calls += 1
        self._compared = len(self._pieces)

    def _on_item_done(self, data: dict[str, Any]) -> str:
        """Store the last form of an item, and return the part of its text that did not arrive in deltas.

        Text that was withheld is returned, too.

        Raises:
            StreamProtocolError: the text does not begin with its deltas, or differs from them after a wrong sequence
                number.
        """
        done = self._read_object(data, "item")
        item = self._find_item(data, done.get("id"))
        item.done = done or None
        whole = repair_surrogates(message_text(done))
        had_deltas = bool(item.deltas)
        rest = self._flush_text() if whole else ""
        if whole:
            item.deltas.setdefault(next(reversed(item.deltas), 0), []).append(rest)
        if (whole or (had_deltas and self._misnumbered)) and not self._is_text_of(item, whole):
            if had_deltas and self._misnumbered:
                self._reject(f"{self._misnumbered}, and the text of a finished item differs from its deltas")
            more = self._append_rest(whole, item.text(), "the text of a finished item differs from its deltas")
            item.deltas[next(reversed(item.deltas))].append(more)
            rest += more
        item.confirmed.update(item.deltas)
        return rest if self._withheld_from is None else self._release_withheld()

    def _on_text_done(self, data: dict[str, Any]) -> str:
        """Return the text of a finished part that its deltas lacked, and the text that was withheld until now.

        While text is still withheld, an event without a text returns "".

        Raises:
            StreamProtocolError: the text does not begin with its deltas, or differs from them after a wrong sequence
                number.
        """
        item = self._find_item(data)
        whole = repair_surrogates(self._read_text(data, "text"))
        rest = self._flush_text()
        part = self._part_index(item, data)
        deltas = item.deltas.setdefault(part, [])
        known = "".join(deltas) + rest
        if whole and whole != known:
            recent = "".join(self._pieces[self._compared :])
            if recent and whole.startswith(recent):  # the server gave another index to a delta or to this event
                self._note_doubt("content_index", data.get("content_index"))
                item.confirmed.update(item.deltas)
                known = recent
            if known != whole and known and self._withheld_from is not None:
                self._reject(f"{self._misnumbered}, and the text of a finished part differs from its deltas")
            # the server may not have sent all deltas
            rest += self._append_rest(whole, known, "the text of a finished part differs from its deltas")
        deltas.append(rest)
        if whole:
            item.confirmed.add(part)
            self._compared = len(self._pieces)
        if self._withheld_from is not None:
            return self._release_withheld() if whole else ""
        return rest

    def _is_text_of(self, item: _Item, whole: str) -> bool:
        """Return True if `whole` is the item's joined deltas, in the order of its parts or in the order of arrival."""
        text = item.text()
        # the length goes first, so that many items cannot make each comparison long
        return whole == text or (len(whole) == len(text) and whole == "".join(self._pieces[item.first_piece :]))

    def _append_rest(self, whole: str, known: str, difference: str) -> str:
        """Append the rest of a whole text to the part of it that has arrived, and return the rest.

        Raises:
            StreamProtocolError: the whole text does not begin with the known part; `difference` is the message.
        """
        if not whole.startswith(known):
            self._reject(f"{self._misnumbered}, and {difference}" if self._misnumbered else difference)
        return self._append_text(whole[len(known) :])

    def _on_refusal_delta(self, data: dict[str, Any]) -> None:
        """Add a delta of a refusal to its item, and to the events beside the text."""
        piece = self._read_text(data, "delta")
        self._find_item(data).refusal.append(piece)
        self._note_refusal(piece)

    def _on_arguments_delta(self, data: dict[str, Any]) -> None:
        """Add a delta of arguments to the item of its tool call, and to the events beside the text."""
        item, piece = self._find_item(data), self._read_arguments(data.get("delta"))
        item.arguments.append(piece)
        if item.start.get("type") in _CALLS:
            self._note_call(item.place, arguments=piece)

    def _on_arguments_done(self, data: dict[str, Any]) -> None:
        """Replace the arguments of a tool call by their whole text, unless it is empty."""
        whole = self._read_arguments(data.get("arguments")) or self._read_arguments(data.get("input"))
        if whole:
            self._find_item(data).arguments = [whole]

    def _on_reasoning_delta(self, data: dict[str, Any]) -> None:
        """Add a delta of reasoning, or of its summary, to its item, and to the events beside the text."""
        key = "summary_index" if "summary_index" in data else "content_index"
        index = (self._read_index(data, key) if key in data else 0) or 0
        piece = self._read_side_text(data, "delta")
        self._find_item(data).summaries.setdefault((key, index), []).append(piece)
        self._note_reasoning(piece)

    def _on_end(self, data: dict[str, Any]) -> str:
        """Process the events completed and incomplete: end the answer, and return the text that is left.

        Raise the failure if the status in the event is failed or cancelled.
        """
        response = self._process_response(data)
        if response.get("status") in ("failed", "cancelled"):
            self._on_failure(data)
        output = response.get("output")
        rest = self._flush_text()
        if isinstance(output, list) and output:
            rest += self._process_output(output)
        if self._misnumbered:
            self._check_against_end(output if isinstance(output, list) else [])
        self._done = self.ended = True
        return rest if self._withheld_from is None else self._release_withheld()

    def _process_output(self, output: list[Any]) -> str:
        """Complete the items by those of the last event, and return the part of their text that has not arrived.

        If sequence numbers contradict each other, return "" if any text has arrived.

        Raises:
            StreamProtocolError: the text of the response does not begin with the text that has arrived.
        """
        if not self._items:
            self._items = {index: _Item(item) for index, item in enumerate(output) if isinstance(item, dict)}
        for place, item in enumerate(output):
            known = self._items.get(place)
            if known is None or not isinstance(item, dict) or known.start.get("type") not in (None, item.get("type")):
                continue
            if known.done is None:
                known.done = item  # the event output_item.done of this item did not arrive
            elif known.done.get("id") == item.get("id"):
                known.done = {**item, **known.done}
        whole = repair_surrogates("".join(map(message_text, output)))
        if not whole or (self._misnumbered and self._pieces):  # `_check_against_end` compares these
            return ""
        arrived = "".join(self._pieces)
        return self._append_rest(whole, arrived, "the text of the finished response differs from its deltas")

    def _check_against_end(self, output: list[Any]) -> None:
        """Compare an answer with contradictory sequence numbers to the output in the last event.

        Raises:
            StreamProtocolError: the text, a call or a refusal differs from that output. Or the output is empty, and so
                many numbers are missing that an item may be lost.
        """
        items = [self._items[place] for place in sorted(self._items)]
        if output:
            final = [_Item(item) for item in output if isinstance(item, dict)]
            same = repair_surrogates("".join(message_text(item.start) for item in final)) == "".join(self._pieces)
            same = same and [*map(_tool_call, final)] == [*map(_tool_call, items)]
            same = same and [*map(_refusal, final)] == [*map(_refusal, items)]
        else:
            same = (self._missing <= 0 or self._largest_gap < 2) and all(
                item.done or item.confirmed.issuperset(item.deltas) for item in items
            )
        if not same:
            self._reject(f"{self._misnumbered}: events were lost or changed places")

    def _on_failure(self, data: dict[str, Any]) -> NoReturn:
        """Process the events failed and cancelled: raise the failure, with the text that was still missing."""
        response = self._process_response(data)
        rest = self._flush_text()
        if not self._pieces and isinstance(response.get("output"), list):
            rest += self._append_text("".join(map(message_text, response["output"])))
        self._raise_reported({"message": f"the response is {response.get('status')!r}"}, withheld=rest)

    def _process_response(self, data: dict[str, Any]) -> dict[str, Any]:
        """Store the fields of the response object in the event `data`, and return them.

        Fields that are null are returned, and not stored.

        Raises:
            LLMError: the response object reports an error of the provider.
        """
        response = dict(self._read_object(data, "response"))
        if response.get("usage") is not None:
            response["usage"] = self._read_usage(response["usage"], "input_tokens", "output_tokens", "total_tokens")
        for key in ("id", "model"):
            response[key] = self._read_label(response, key) or None
        self._response.update({key: value for key, value in response.items() if value is not None})
        if response.get("error"):
            self._raise_reported(response)
        return response

    def _process_document(self, data: dict[str, Any]) -> None:
        """Process an answer that was not streamed like the response in a last event.

        An answer that is queued or in progress stays incomplete.

        Raises:
            LLMError: the answer reports an error of the provider, or has failed.
            StreamProtocolError: the answer has no output.
        """
        if data.get("output") is None and data.get("status") == "completed" and "output" in data:
            self._note_doubt("output", None)
            data = {**data, "output": []}
        if data.get("error") and not isinstance(data.get("output"), list):
            self._raise_reported(data)
        if not isinstance(data.get("output"), list):
            self._reject("the response has no output")
        status = data.get("status")
        if data.get("error") or status in ("failed", "cancelled"):
            self._append_text("".join(map(message_text, data["output"])))
            self._on_failure({"response": data})
        self._on_end({"response": data})
        for item in self._items.values():
            self._note_reasoning(_reasoning(item))
            self._note_refusal(_refusal(item))
        if status in ("queued", "in_progress"):
            self._done = False

    def _part_index(self, item: _Item, data: dict[str, Any]) -> int:
        """Return the index of the part of an event; the latest part if the event has no valid index."""
        index = self._read_index(data, "content_index")
        if index is None:
            index = next(reversed(item.deltas), 0)
        return index

    def _find_item(self, data: dict[str, Any], item_id: Any = None) -> _Item:
        """Return the item of an event: by its index, else by its id, else the latest item if the index cannot be read.

        The index goes first, because some servers change the ids during a stream.

        Raises:
            StreamProtocolError: there is no such item.
        """
        index = data.get("output_index")
        if type(index) is int and index in self._items and not self._place_of_index:  # the usual case
            return self._items[index]
        index = self._read_index(data, "output_index") if "output_index" in data else None
        if index is not None and index in self._items:
            return self._items[self._place_of_index.get(index, index)]
        item_id = item_id or data.get("item_id")
        found = next((item for item in self._items.values() if item_id and item.start.get("id") == item_id), None)
        if found is None and "output_index" in data and index is None:
            found = next(reversed(self._items.values()), None)
        if found is None:
            self._reject(f"an event for output item {item_id if index is None else index!r}, which was not added")
        if index is not None:
            self._note_doubt("output_index", index)
        return found

    @property
    def is_complete(self) -> bool:
        """True after `response.completed` or `response.incomplete`."""
        return self._done

    def outcome(self) -> Outcome:
        """Return the values of the answer as far as it has arrived, without the text that is withheld."""
        items = [self._items[index] for index in sorted(self._items)]
        refusal = "".join(map(_refusal, items))
        calls = tuple(call for item in items if (call := _tool_call(item)))
        extra = {key: value for key, value in self._response.items() if key not in _NOT_EXTRA and value not in ([], {})}
        if items:
            extra["output"] = [item.whole() for item in items]
        word, reason = self._finish_reason(bool(calls), bool(refusal))
        outcome = Outcome(
            content="".join(self._pieces[: self._withheld_from]),
            complete=self.is_complete,
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
        return outcome if self._joiner is None else repair_deep(outcome)

    def _finish_reason(self, has_calls: bool, refused: bool) -> tuple[str | None, str | None]:
        """Return the finish reason in the provider's word, and in the vocabulary of `Outcome.finish_reason`.

        Both are None before the end of the answer.
        """
        if not self._done:
            return None, None
        status = str(self._response.get("status") or "completed")
        details = self._response.get("incomplete_details")
        if status == "incomplete":
            word = str(details.get("reason") or status) if isinstance(details, dict) else status
            return word, finish_reason_of(word)
        if refused:
            return status, "refusal"
        return status, "tool_calls" if has_calls else "stop"

    def _tokens(self) -> Tokens | None:
        """Return the numbers of tokens of the usage; None if the answer has no usage."""
        usage = self._response.get("usage")
        if usage is None:
            return None
        return Tokens.of_parts(
            input=count_at(usage, "input_tokens"),
            output=count_at(usage, "output_tokens"),
            cached=count_at(usage, "input_tokens_details.cached_tokens"),
            written=count_at(usage, "input_tokens_details.cache_write_tokens"),
            reasoning=count_at(usage, "output_tokens_details.reasoning_tokens"),
            total=count_at(usage, "total_tokens"),
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
_REDUNDANT = (
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
"""Prefixes of the events whose contents the finished item repeats."""


def _parts(item: Any) -> list[dict[str, Any]]:
    """Return the parts of an item's content that are objects; a content that is a text is one part."""
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, str):
        return [{"type": "output_text", "text": content}]
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def message_text(item: Any) -> str:
    """Return the text of a message item, "" for other items."""
    if not isinstance(item, dict) or item.get("type") != "message":
        return ""
    return "".join(str(part.get("text") or "") for part in _parts(item) if part.get("type") == "output_text")


def _refusal(item: _Item) -> str:
    """Return the refusal of an item: its deltas, or else the parts of its last form."""
    if item.refusal:
        return "".join(item.refusal)
    parts = _parts(item.done or item.start)
    return "".join(str(part.get("refusal") or "") for part in parts if part.get("type") == "refusal")


def _tool_call(item: _Item) -> ToolUse | None:
    """Return the tool call of an item, None for items of other types; its final arguments replace the deltas."""
    known = {**item.start, **(item.done or {})}
    kind = known.get("type")
    if kind not in _CALLS:
        return None
    final = known.get(_ARGUMENTS[kind])
    return ToolUse(
        id=str(known.get("call_id") or known.get("id") or ""),
        name=str(known.get("name") or ""),
        arguments=(final if isinstance(final, str) else json_text(final)) if final else "".join(item.arguments),
        type="function" if kind == "function_call" else "custom",
    )


def _reasoning(item: _Item) -> str:
    """Return the visible reasoning of an item: what came in deltas, else the whole parts; "" for other items.

    A summary goes before the text itself.
    """
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
