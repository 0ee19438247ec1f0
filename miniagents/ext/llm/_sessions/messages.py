"""State machine for Anthropic's Messages API, including the versions that Azure, Vertex and Bedrock serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic_core import from_json

from miniagents.ext.llm._sessions.base import (
    Outcome,
    Session,
    ToolUse,
    json_text,
    repair_deep,
    repair_surrogates,
)
from miniagents.ext.llm._sessions.fields import Tokens, broke_off, count_at, finish_reason_of, merge_pieces, merge_usage

if TYPE_CHECKING:
    from collections.abc import Callable


_GROWING = {"text_delta": "text", "thinking_delta": "thinking"}
"""Fields of blocks whose text grows by deltas, by the type of delta."""
_TYPES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}
"""Types of blocks by the type of their deltas, for blocks without a type."""
_NOT_EXTRA = frozenset({"id", "type", "role", "model", "content", "stop_reason", "usage"})
"""Fields of a message that have a field of their own in the outcome."""
_NO_INDEX = object()
"""Value that is identical to no index."""


class _Block:
    """Content block with all its fields: a later prompt must send thinking, tool use and citations unchanged."""

    __slots__ = ("more", "open", "pieces", "place", "start")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = dict(start)
        self.open = True
        self.place = 0
        """Number of calls before this one, for a block that is a call."""
        self.pieces: dict[str, list[str]] = {}
        self.more: list[dict[str, Any]] = []
        """Fields of deltas of unknown types."""

    def arguments(self) -> str:
        """Return the input of a tool use so far: JSON text, whose end may be missing; `{}` for no input."""
        return self.streamed_input() or json_text(self.start.get("input") or {})

    def streamed_input(self) -> str:
        """Return the part of the input that has arrived as text, in deltas or in the start event; "" for none."""
        text = "".join(self.pieces.get("partial_json", ()))
        given = self.start.get("input")
        return given if not text and isinstance(given, str) else text

    def whole(self) -> dict[str, Any]:
        """Return the block with the deltas so far joined into its fields; an input that cannot be read is `{}`."""
        block = dict(self.start)
        for key, pieces in self.pieces.items():
            if key != "partial_json":
                block[key] = str(block.get(key) or "") + "".join(pieces)
        if text := self.streamed_input():
            try:
                # `max_tokens` may have cut it, also inside a character
                block["input"] = from_json(repair_surrogates(text), allow_partial=True)
            except ValueError:
                block["input"] = {}
        if self.more:
            block = merge_pieces([block, *self.more])
        return block


class MessagesSession(Session):
    """Session of a message. It is complete after a `stop_reason` or `message_stop`.

    The content is the joined text of all text blocks.
    """

    provider: ClassVar[str] = "anthropic"

    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] | None = None
        self._blocks: list[_Block] = []
        self._block_at: dict[int, _Block] = {}  # latest block with an index
        self._calls = 0  # number of blocks that are calls
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._open_index: object = _NO_INDEX  # index of the text block whose deltas arrive
        self._append_to_block: Callable[[str], object] = str

    def _process(self, data: dict[str, Any], name: str) -> str:
        """Process one event of any type, and return the text that it adds to the answer.

        An event of unknown type is only counted.

        Raises:
            LLMError: the event reports an error of the provider.
            StreamProtocolError: the event breaks the order or the form of the API.
        """
        kind = data.get("type") or name
        if kind == "content_block_delta":
            delta = data.get("delta")
            # fast path for nearly all events, with the rules of `_process_delta`
            if (
                data.get("index") is self._open_index
                and "error" not in data
                and type(delta) is dict
                and "error" not in delta
                and delta.get("type") == "text_delta"
                and type(text := delta.get("text")) is str
                and (self._joiner is None or (text.isascii() and not self._joiner.half))
            ):
                self._append_to_block(text)
                self._pieces.append(text)
                return text
            return self._process_delta(data)
        if data.get("error") or kind == "error":
            self._raise_reported(data)
        if type(kind) is not str:
            self._note_doubt("type", kind)
            return self._process({**data, "type": name}, name)
        match kind:
            case "message_start":
                return self._process_start(data)
            case "content_block_start":
                return self._process_block_start(data)
            case "content_block_stop":
                self._open_block(data).open = False
                self._open_index = _NO_INDEX
                return self._flush_text()
            case "message_delta":
                self._process_message_delta(data)
            case "message_stop":
                self._message_of_event(kind)
                self.ended = True
                return self._flush_text()
            case "ping":
                self.idle_events += 1
            case _:
                self.unknown_events += 1
        return ""

    def _process_delta(self, data: dict[str, Any]) -> str:
        """Add a delta to its content block, and return its text if it is one of a text block, else "".

        Note calls and thoughts among the events beside the text.

        Raises:
            LLMError: the delta reports an error of the provider.
            StreamProtocolError: the block is not open, or the text of the delta is no string.
        """
        block = self._open_block(data)
        delta = self._read_object(data, "delta")
        kind = delta.get("type")
        if type(kind) is not str:  # a list has no hash
            self._note_doubt("type", kind)
            kind = None
        if data.get("error"):
            self._raise_reported(data)
        if not block.start.get("type") and kind in _TYPES:
            block.start["type"] = _TYPES[kind]
        if kind == "text_delta":
            text = delta.get("text")
            if text is None:
                self._note_doubt("text", text)
                text = ""
            if type(text) is not str:
                self._reject(f"text is {text!r}")
            text = self._append_text(text)
            pieces = block.pieces.setdefault("text", [])
            pieces.append(text)
            self._open_index, self._append_to_block = data.get("index"), pieces.append
            if delta.get("error"):
                self._raise_reported(delta, withheld=text)
            return text
        if delta.get("error"):
            self._raise_reported(delta)
        if kind == "input_json_delta":
            piece = delta.get("partial_json")
            if block.start.get("type") is None or (type(piece) is dict and block.streamed_input()):
                self._reject(f"partial_json {piece!r} in a block {block.start!r}")
            piece = self._read_arguments(piece, "partial_json")
            block.pieces.setdefault("partial_json", []).append(piece)
            if block.start.get("type") == "tool_use":
                self._note_call(block.place, arguments=piece)
        elif kind in _GROWING:
            key = _GROWING[kind]
            block.pieces.setdefault(key, []).append(self._read_text(delta, key))
            self._note_reasoning(block.pieces[key][-1])
        elif kind == "signature_delta":
            block.start["signature"] = self._read_text(delta, "signature")
        elif kind == "citations_delta":
            known = block.start.get("citations")
            block.start["citations"] = [*(known if isinstance(known, list) else ()), delta.get("citation")]
        elif kind == "compaction_delta":
            block.start.update({key: value for key, value in delta.items() if key != "type"})
        else:
            self.unknown_events += 1
            block.more.append({key: value for key, value in delta.items() if key != "type"})
        return ""

    def _process_start(self, data: dict[str, Any]) -> str:
        """Keep the message of a start event, with id, model and usage, and return its text.

        A stream has no content there, except from servers that send a whole answer as a stream.

        Raises:
            LLMError: the message reports an error of the provider.
            StreamProtocolError: the answer has started before, or the content has a wrong form.
        """
        message = dict(self._read_object(data, "message"))
        if self._message is not None:
            self._reject("a second message_start")
        if message.get("error"):
            self._raise_reported(message)
        for key in ("id", "model"):
            message[key] = self._read_label(message, key)
        self._message = message
        self._process_usage(message.get("usage"))
        content = message.get("content") or []
        if isinstance(content, str):
            self._note_doubt("content", content)
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            self._reject(f"content is {type(content).__name__}")
        if not content:
            return ""
        self._stop_reason = self._read_text(message, "stop_reason") or None
        blocks = [{"index": index, "content_block": block} for index, block in enumerate(content)]
        return "".join([self._process_block_start(block) for block in blocks])

    def _process_block_start(self, data: dict[str, Any]) -> str:
        """Keep the start of a content block, and return the text that it may hold already, else "".

        Note a call or a thought in the block among the events beside the text; a `fallback` block names the model from
        then on. An index that repeats after the last block has ended, or is no number, is only a doubt.

        Raises:
            LLMError: the block reports an error of the provider.
            StreamProtocolError: the message has not started, or the index of the block is not the next one.
        """
        self._message_of_event("content_block_start")
        block = self._read_object(data, "content_block")
        if block.get("type") == "error" and block.get("error"):
            self._raise_reported(block)
        index = self._read_index(data, "index")
        if index is None:
            index = len(self._blocks)
        elif index < len(self._blocks) and not self._blocks[-1].open:
            self._note_doubt("index", index)  # a repeated index is no sign of a lost block
        elif index != len(self._blocks):
            self._reject(f"content block {index} starts where block {len(self._blocks)} was expected")
        if type(block.get("id", "")) is not str:
            block = {**block, "id": self._read_label(block, "id")}
        if isinstance(block.get("input"), str):
            self._note_doubt("input", block["input"])
        self._block_at[index] = _Block(block)
        self._blocks.append(self._block_at[index])
        if block.get("type") == "tool_use":
            self._blocks[-1].place = self._calls
            self._note_call(self._calls, block.get("id"), block.get("name"))
            self._calls += 1
        elif block.get("type") == "thinking":
            self._note_reasoning(self._read_side_text(block, "thinking"))
        if block.get("type") == "fallback" and isinstance(block.get("to"), dict) and self._message is not None:
            # another model continues the answer
            self._message["model"] = block["to"].get("model") or self._message.get("model")
        return self._append_text(self._read_text(block, "text")) if block.get("type") == "text" else ""

    def _process_message_delta(self, data: dict[str, Any]) -> None:
        """Keep the stop reason, the usage and further fields of a `message_delta` event, which ends the message.

        Raises:
            LLMError: the event reports an error of the provider, or its stop reason is `error`.
            StreamProtocolError: the message has not started.
        """
        message = self._message_of_event("message_delta")
        delta = self._read_object(data, "delta")
        stop_reason = self._read_text(delta, "stop_reason")
        if delta.get("error") or broke_off(stop_reason):
            self._raise_reported(
                delta if delta.get("error") else {"message": f"the answer ended with the stop reason {stop_reason!r}"}
            )
        self._stop_reason = stop_reason or self._stop_reason
        for source in (delta, data):
            for key, value in source.items():
                if key not in ("type", "delta", "usage") and value is not None:
                    message[key] = value
        self._process_usage(data.get("usage"))

    def _process_usage(self, usage: Any) -> None:
        """Update the counts of tokens, which are running totals: the last value of each count wins.

        None changes nothing.
        """
        if usage is None:
            return
        usage = self._read_usage(
            usage, "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
        )
        self._usage = merge_usage(self._usage, usage or {})

    def _process_document(self, data: dict[str, Any]) -> None:
        """Process the blocks and fields of an answer that was not streamed as if they were events.

        Raises:
            LLMError: the answer reports an error of the provider; its text has been added before.
            StreamProtocolError: the answer has neither content nor stop reason.
        """
        content = data.get("content")
        if data.get("type") == "error" or data.get("error"):
            parts = content if isinstance(content, list) else ()
            self._append_text("".join(str(part.get("text") or "") for part in parts if isinstance(part, dict)))
            self._raise_reported(data)
        if content is None and data.get("stop_reason"):
            self._note_doubt("content", content)
            content = []
        if not isinstance(content, (list, str)):
            self._reject("the response has no content")
        self._process_start({"message": {**data, "content": content}})
        self._process_message_delta({"delta": {"stop_reason": data.get("stop_reason")}})
        self.ended = True
        self._flush_text()

    def _message_of_event(self, kind: str) -> dict[str, Any]:
        """Return the message of the stream; raise `StreamProtocolError` if the message has not started."""
        if self._message is None:
            self._reject(f"{kind} before message_start")
        return self._message

    def _open_block(self, data: dict[str, Any]) -> _Block:
        """Return the open block of an event; the latest block if the index is no number, as blocks do not interleave.

        Raises:
            StreamProtocolError: that block is not open.
        """
        index = self._read_index(data, "index")
        block = self._block_at.get(index) if index is not None else self._blocks[-1] if self._blocks else None
        if block is None or not block.open:
            self._reject(f"an event for content block {data.get('index')!r}, which is not open")
        return block

    @property
    def is_complete(self) -> bool:
        """True after a `stop_reason` or `message_stop`."""
        return self.ended or self._stop_reason is not None

    def outcome(self) -> Outcome:
        """Return the values of the answer as far as it has arrived."""
        message = self._message or {}
        usage = self._usage
        blocks: list[dict[str, Any]] = []
        thinking: list[str] = []
        calls: list[ToolUse] = []
        for block in self._blocks:
            whole = block.whole()
            if whole:
                blocks.append(whole)
            if whole.get("type") == "thinking":
                thinking.append(str(whole.get("thinking") or ""))
            start = block.start
            if start.get("type") == "tool_use":
                calls.append(ToolUse(str(start.get("id") or ""), str(start.get("name") or ""), block.arguments()))
        word = self._stop_reason
        extra = {key: value for key, value in message.items() if key not in _NOT_EXTRA and value is not None}
        if blocks:
            extra["content_blocks"] = blocks
        outcome = Outcome(
            content="".join(self._pieces),
            complete=self.is_complete,
            finish_reason=None if word is None else finish_reason_of(word),
            provider_finish_reason=word,
            id=message.get("id") or None,
            model=message.get("model") or None,
            usage=self._tokens() if usage else None,
            raw_usage=dict(usage) or None,
            tool_calls=tuple(calls),
            reasoning="\n\n".join(filter(None, thinking)) or None,
            unknown_events=self.unknown_events,
            lossy=self._lossy,
            doubts=self.doubts,
            extra=extra,
        )
        return outcome if self._joiner is None else repair_deep(outcome)

    def _tokens(self) -> Tokens:
        """Return the numbers of tokens. The API's `input_tokens` leave out what was read from or written to a cache."""
        uncached = count_at(self._usage, "input_tokens")
        cached = count_at(self._usage, "cache_read_input_tokens")
        written = count_at(self._usage, "cache_creation_input_tokens")
        return Tokens.of_parts(
            input=None if uncached is None else uncached + (cached or 0) + (written or 0),
            output=count_at(self._usage, "output_tokens"),
            cached=cached,
            written=written,
            reasoning=count_at(self._usage, "output_tokens_details.thinking_tokens"),
        )
