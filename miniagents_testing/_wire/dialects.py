"""Variants of the wire formats, as providers and compatible servers send them, with the message that must result.

The formats of `_wire` follow each API closely. Real streams differ in details that must not matter: line ends,
comments, pings, the place of the role, repeated fields. `QUIRKS` names these variants, `provider_stream` applies them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from miniagents import ToolCall
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing._script import Call, Step
from miniagents_testing._streams import Chunk
from miniagents_testing._wire import FORMATS, render
from miniagents_testing._wire.formats import json_text, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from miniagents import Message
    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream


_Payload = dict[str, Any]
"""JSON of an event; `[DONE]` is `{}`."""
_DONE: _Payload = {}


@dataclass(frozen=True, slots=True, repr=False)
class ProviderStream:
    """A complete answer of a provider, and the message that must result."""

    api: API
    step: Step
    quirks: tuple[str, ...]
    response: ResponseStream
    expected: Mapping[str, Any]
    """Fields of the message that must result, by name."""
    complete_after: int
    """Number of bytes after which the provider has reported the end of the answer."""

    def __repr__(self) -> str:
        quirks = f", quirks={self.quirks!r}" if self.quirks else ""
        return f"provider_stream({self.api!r}, {self.step!r}{quirks})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the repr in IPython and Hypothesis, which would otherwise print the fields of the dataclass."""
        printer.text(repr(self))

    def differences(self, message: Message) -> list[tuple[str, Any, Any]]:
        """Return name, expected value and actual value of each field of a message that is not as expected."""
        actual = {name: _comparable(getattr(message, name, None)) for name in self.expected}
        return [(name, value, actual[name]) for name, value in self.expected.items() if actual[name] != value]


def provider_stream(api: API, step: Step | str = "Hello, world.", *, quirks: Collection[str] = ()) -> ProviderStream:
    """Return an answer as a provider streams it, with one event in each chunk.

    Args:
        api: the API: "chat", "responses" or "messages".
        step: the answer; without `then`, and with ids in its tool calls (`ToolCall(id=..., ...)`).
        quirks: names of variants, from `QUIRKS[api]`.

    Raises:
        ValueError: the API or a quirk is unknown, or the step has a `then`, or a tool call without an id.
    """
    if api not in FORMATS:
        raise ValueError(f"api must be one of {', '.join(FORMATS)}, not {api!r}")
    if unknown := sorted(set(quirks) - QUIRKS[api].keys()):
        raise ValueError(f"{api} has no quirk {unknown[0]!r}; it has: {', '.join(QUIRKS[api])}")
    step = _checked_step(step)
    chosen = [quirk for quirk in QUIRKS[api] if quirk in quirks]  # always applied in the same order
    options = {} if "no usage" in chosen else {"stream_options": {"include_usage": True}}
    call = Call.of(1, api, {"model": "model-1", "stream": True, **options})
    plain = render(step, call)
    payloads = [json.loads(event.data) if event.data != b"[DONE]" else _DONE for event in SSEDecoder().feed(plain.body)]
    for quirk in chosen:
        payloads = list(QUIRKS[api][quirk](payloads))
    for number, payload in enumerate(payload for payload in payloads if "sequence_number" in payload):
        payload["sequence_number"] = number
    blocks = [_block(api, payload, chosen) for payload in payloads]
    final = next(index for index, payload in enumerate(payloads) if _is_final(payload))
    # a decoder delivers an event when its last line ends: after CR, whether LF follows or not
    surplus = 1 if "CRLF" in chosen else 0
    return ProviderStream(
        api=api,
        step=step,
        quirks=tuple(chosen),
        response=replace(plain, chunks=tuple(Chunk(0, block) for block in blocks)),
        expected=_expected(api, step, call, chosen),
        complete_after=sum(map(len, blocks[: final + 1])) - surplus,
    )


def _checked_step(step: Step | str) -> Step:
    """Return the step; raise `ValueError` if it breaks off, or has a tool call without an id."""
    step = Step(step) if isinstance(step, str) else step
    if step.then is not None:
        raise ValueError(f"{step} breaks off, but a provider stream must be complete: leave `then` out")
    if not all(tool_call.id for tool_call in step.deltas.tool_calls):
        raise ValueError(f"{step} has a tool call without an id: give a ToolCall(id=..., ...), so that it is known")
    return step


def _block(api: API, payload: _Payload, quirks: Collection[str]) -> bytes:
    """Return one event as the bytes of a server-sent event, spelled as the quirks say."""
    blank = "" if "no blank after the colon" in quirks else " "
    data = "[DONE]"
    if payload:
        data = json.dumps(payload) if "JSON in ASCII" in quirks else json_text(payload).decode()
    named = api != "chat" and "no event names" not in quirks
    lines = [*([f"event:{blank}{payload['type']}"] if named else []), f"data:{blank}{data}"]
    if "comments" in quirks:
        lines = [": keep-alive", "", *lines, ":"]
    line_end = "\r\n" if "CRLF" in quirks else "\r" if "CR" in quirks else "\n"
    return "".join(f"{line}{line_end}" for line in [*lines, ""]).encode()


def _is_final(payload: _Payload) -> bool:
    """Return True for an event by which the provider reports the end of the answer."""
    if not payload or any(choice["finish_reason"] for choice in payload.get("choices", ())):
        return True
    kind = payload.get("type")
    return kind in ("message_delta", "response.completed", "response.incomplete")


def _expected(api: API, step: Step, call: Call, quirks: Collection[str]) -> dict[str, Any]:
    """Return the fields, by name, that the message of an agent must have after this answer; quirks may take some away.

    Anthropic's messages have no refusal text, and arguments are `{}` where others have none.
    """
    deltas, usage = step.deltas, usage_of(step, call)
    refusal = "".join(deltas.refusal) or None
    finish: str | None = step.reason
    if api == "chat" and "no finish reason" in quirks:
        finish = "refusal" if refusal else None
    if api == "messages":  # this API has one word for both, and no refusal text
        finish, refusal = "refusal" if finish == "content_filter" else finish, None
    return {
        "content": _with_joined_surrogates("".join(deltas.text)),
        "finish_reason": finish,
        "reasoning": "".join(deltas.reasoning) or None,
        "refusal": refusal,
        "tool_calls": tuple(
            (each.id, each.name, "".join(each.arguments) or ("{}" if api == "messages" else ""))
            for each in deltas.tool_calls
        ),
        "usage": None if "no usage" in quirks else (usage.input_tokens, usage.output_tokens),
        "model": "model-1",
    }


def _with_joined_surrogates(text: str) -> str:
    """Return the text with each pair of surrogates replaced by its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _comparable(value: Any) -> Any:
    """Return a field's value for a comparison: calls and usage as tuples of what all providers send."""
    if isinstance(value, tuple):
        return tuple((call.id, call.name, call.arguments) if isinstance(call, ToolCall) else call for call in value)
    return (value.input_tokens, value.output_tokens) if hasattr(value, "input_tokens") else value


# --- the quirks: functions from events to events


def _unchanged(events: list[_Payload]) -> list[_Payload]:
    """Return the events unchanged; for quirks that are applied elsewhere, such as to the bytes of events."""
    return events


def _without(*kinds: str) -> Callable[[list[_Payload]], list[_Payload]]:
    """Return a quirk that removes all events whose type ends with one of these words."""
    return lambda events: [event for event in events if not str(event.get("type")).endswith(kinds)]


def _with_every(kind: str) -> Callable[[list[_Payload]], list[_Payload]]:
    """Return a quirk that adds an event of this type after each event."""
    return lambda events: [each for event in events for each in (event, {"type": kind})]


def _with_second(new: _Payload) -> Callable[[list[_Payload]], list[_Payload]]:
    """Return a quirk that adds this event after the first one."""
    return lambda events: [events[0], new, *events[1:]]


def _chat_deltas(events: list[_Payload]) -> Iterator[_Payload]:
    """Yield the deltas of all choices in the chunks."""
    return (choice["delta"] for event in events for choice in event.get("choices", ()))


def _no_role(events: list[_Payload]) -> list[_Payload]:
    """Remove the role from all deltas."""
    for delta in _chat_deltas(events):
        delta.pop("role", None)
    return events


def _role_everywhere(events: list[_Payload]) -> list[_Payload]:
    """Add the role to all deltas."""
    for delta in _chat_deltas(events):
        delta["role"] = "assistant"
    return events


def _no_finish_reason(events: list[_Payload]) -> list[_Payload]:
    """Set the finish reason of all choices to null."""
    for event in events:
        for choice in event.get("choices", ()):
            choice["finish_reason"] = None
    return events


def _no_done(events: list[_Payload]) -> list[_Payload]:
    """Remove `[DONE]`, unless no other event reports the end of the answer."""
    rest = [event for event in events if event]
    return rest if any(map(_is_final, rest)) else events


def _usage_everywhere(events: list[_Payload]) -> list[_Payload]:
    """Add the usage to all chunks, in place of a chunk of its own at the end."""
    usage = next((event["usage"] for event in events if event.get("usage")), None)
    return [{**event, "usage": usage} if event else event for event in events if event.get("choices") != []]


def _azure(events: list[_Payload]) -> list[_Payload]:
    """Add the chunk without choices that Azure sends first."""
    empty = {"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    return [empty, *events]


def _calls_in_one_chunk(events: list[_Payload]) -> Iterator[_Payload]:
    """Move all fragments of tool calls into the first chunk that has some."""
    first: list[Any] | None = None
    for event in events:
        (fragments,) = [delta["tool_calls"] for delta in _chat_deltas([event]) if "tool_calls" in delta] or [None]
        if fragments and first is not None:
            first += fragments
            continue
        first = fragments or first
        yield event


def _calls_at_index_0(events: list[_Payload]) -> Iterator[_Payload]:
    """Give all tool calls index 0, with all arguments of a call in its first event."""
    whole: dict[int, _Payload] = {}
    for event in events:
        deltas = [delta for delta in _chat_deltas([event]) if "tool_calls" in delta]
        for delta in deltas:
            for fragment in delta["tool_calls"]:
                known = whole.setdefault(fragment["index"], fragment)
                if known is not fragment:
                    known["function"]["arguments"] += fragment["function"]["arguments"]
            delta["tool_calls"] = [each for each in delta["tool_calls"] if whole[each["index"]] is each]
        if not deltas or any(delta["tool_calls"] for delta in deltas):
            yield event
    for known in whole.values():
        known["index"] = 0


def _block_for_each_delta(events: list[_Payload]) -> Iterator[_Payload]:
    """Put each text delta into a content block of its own, unless the delta before it ended amid a surrogate pair."""
    index, last = -1, ""  # the last text of the open block
    for event in events:
        kind = event["type"]
        index += kind == "content_block_start"
        text = event["delta"].get("text") if kind == "content_block_delta" else None
        if text is not None and last and not "\ud800" <= last[-1] <= "\udbff":
            yield {"type": "content_block_stop", "index": index}
            index += 1
            yield {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
        last = text or ""
        yield {**event, "index": index} if "index" in event else event


_COMMON: dict[str, Callable[[list[_Payload]], Any]] = {
    "CRLF": _unchanged,
    "CR": _unchanged,
    "no blank after the colon": _unchanged,
    "comments": _unchanged,
    "JSON in ASCII": _unchanged,
}
QUIRKS: Mapping[API, Mapping[str, Callable[[list[_Payload]], Any]]] = {
    "chat": {
        **_COMMON,
        "no usage": _unchanged,
        "no role": _no_role,
        "role in every chunk": _role_everywhere,
        "no finish reason": _no_finish_reason,
        "no [DONE]": _no_done,
        "usage in every chunk": _usage_everywhere,
        "calls in one chunk": _calls_in_one_chunk,
        "all calls at index 0": _calls_at_index_0,
        "Azure's empty first chunk": _azure,
        "unknown events": _with_second({"object": "brand.new", "x": 1}),
    },
    "responses": {
        **_COMMON,
        "no deltas": _without(".delta"),
        "no whole texts": _without("text.done", "arguments.done", "refusal.done"),
        "no sequence numbers": lambda events: [
            {key: value for key, value in event.items() if key != "sequence_number"} for event in events
        ],
        "keepalives": _with_every("keepalive"),
        "unknown events": _with_second({"type": "response.brand_new.delta", "delta": "x"}),
    },
    "messages": {
        **_COMMON,
        "no event names": _unchanged,
        "no pings": _without("ping"),
        "pings": _with_every("ping"),
        "no message_stop": _without("message_stop"),
        "a block for each delta": _block_for_each_delta,
        "unknown events": _with_second({"type": "brand_new"}),
    },
}
"""Variants of each API that mean the same, by name.

Each is a function that gets the events of an answer, may change them in place, and returns the events to send.
"""
