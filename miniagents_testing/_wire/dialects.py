"""One answer in all the forms in which providers and their imitators stream it, and the message that it must become.

What `wire` makes of a script is each API at its best. What is really sent differs in much that must not matter: line
ends, comments, pings, where the role stands, what is told twice. `QUIRKS` names these forms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from miniagents import ToolCall
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing._script import Call, Step
from miniagents_testing._streams import Chunk
from miniagents_testing._wire import FORMATS, rendered
from miniagents_testing._wire.base import json_text, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from miniagents import Message
    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream


Payload = dict[str, Any]
"""The JSON of an event; `[DONE]` is `{}`."""
_DONE: Payload = {}


@dataclass(frozen=True, slots=True, repr=False)
class ProviderStream:
    """A whole answer of a provider, and what it says."""

    api: API
    step: Step
    quirks: tuple[str, ...]
    response: ResponseStream
    expected: Mapping[str, Any]
    """Fields that a message made of it must have."""
    complete_after: int
    """How many bytes it takes until the provider has said that the answer is whole."""

    def __repr__(self) -> str:
        quirks = f", quirks={self.quirks!r}" if self.quirks else ""
        return f"provider_stream({self.api!r}, {self.step!r}{quirks})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For the printers of IPython and Hypothesis, which show the fields of dataclasses otherwise."""
        printer.text(repr(self))

    def differences(self, message: Message) -> list[tuple[str, Any, Any]]:
        """What of the message is not as expected: name of the field, what was expected, what came."""
        came = {name: _comparable(getattr(message, name, None)) for name in self.expected}
        return [(name, value, came[name]) for name, value in self.expected.items() if came[name] != value]


def provider_stream(api: API, step: Step | str = "Hello, world.", *, quirks: Collection[str] = ()) -> ProviderStream:
    """An answer as a provider streams it, one event a chunk.

    Args:
        api: whose: "chat", "responses" or "messages".
        step: what is said; it must not break off, and its tool calls have ids (`ToolCall(id=..., ...)`).
        quirks: some of `QUIRKS[api]`.

    Raises:
        ValueError: the API, or a quirk of it, is not known, or the step is not as it must be.
    """
    if api not in FORMATS:
        raise ValueError(f"api must be one of {', '.join(FORMATS)}, not {api!r}")
    if unknown := sorted(set(quirks) - QUIRKS[api].keys()):
        raise ValueError(f"{api} has no quirk {unknown[0]!r}; it has: {', '.join(QUIRKS[api])}")
    step = _whole_step(step)
    chosen = [quirk for quirk in QUIRKS[api] if quirk in quirks]  # in one order, whatever they were given in
    options = {} if "no usage" in chosen else {"stream_options": {"include_usage": True}}
    call = Call.of(1, api, {"model": "model-1", "stream": True, **options})
    plain = rendered(step, call)
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


def _whole_step(step: Step | str) -> Step:
    step = Step(step) if isinstance(step, str) else step
    if step.then is not None:
        raise ValueError(f"{step} breaks off: a provider stream is whole")
    if not all(tool_call.id for tool_call in step.deltas.tool_calls):
        raise ValueError(f"{step} has a tool call without an id, so nobody knows which one is expected")
    return step


def _block(api: API, payload: Payload, quirks: Collection[str]) -> bytes:
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


def _is_final(payload: Payload) -> bool:
    """Whether the answer is whole with this event."""
    if not payload or any(choice["finish_reason"] for choice in payload.get("choices", ())):
        return True
    kind = payload.get("type")
    return kind in ("message_delta", "response.completed", "response.incomplete")


def _expected(api: API, step: Step, call: Call, quirks: Collection[str]) -> dict[str, Any]:
    deltas, usage = step.deltas, usage_of(step, call)
    refusal = "".join(deltas.refusal) or None
    finish: str | None = step.reason
    if api == "chat" and "no finish reason" in quirks:
        finish = "refusal" if refusal else None
    if api == "messages":  # it has one word for both, and none of the model's
        finish, refusal = "refusal" if finish == "content_filter" else finish, None
    return {
        "content": _paired("".join(deltas.text)),
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


def _paired(text: str) -> str:
    """The text with halves of characters that stand together as one."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _comparable(value: Any) -> Any:
    """What of a field the providers have in common."""
    if isinstance(value, tuple):
        return tuple((call.id, call.name, call.arguments) if isinstance(call, ToolCall) else call for call in value)
    return (value.input_tokens, value.output_tokens) if hasattr(value, "input_tokens") else value


# --- the quirks, each from events to events


def _same(events: list[Payload]) -> list[Payload]:
    """For what is a matter of bytes."""
    return events


def _without(*kinds: str) -> Callable[[list[Payload]], list[Payload]]:
    return lambda events: [event for event in events if not str(event.get("type")).endswith(kinds)]


def _with_every(kind: str) -> Callable[[list[Payload]], list[Payload]]:
    return lambda events: [each for event in events for each in (event, {"type": kind})]


def _with_second(new: Payload) -> Callable[[list[Payload]], list[Payload]]:
    return lambda events: [events[0], new, *events[1:]]


def _chat_deltas(events: list[Payload]) -> Iterator[Payload]:
    return (choice["delta"] for event in events for choice in event.get("choices", ()))


def _no_role(events: list[Payload]) -> list[Payload]:
    for delta in _chat_deltas(events):
        delta.pop("role", None)
    return events


def _role_everywhere(events: list[Payload]) -> list[Payload]:
    for delta in _chat_deltas(events):
        delta["role"] = "assistant"
    return events


def _no_finish_reason(events: list[Payload]) -> list[Payload]:
    for event in events:
        for choice in event.get("choices", ()):
            choice["finish_reason"] = None
    return events


def _no_done(events: list[Payload]) -> list[Payload]:
    """Something must say that the answer is whole."""
    rest = [event for event in events if event]
    return rest if any(map(_is_final, rest)) else events


def _usage_everywhere(events: list[Payload]) -> list[Payload]:
    usage = next((event["usage"] for event in events if event.get("usage")), None)
    return [{**event, "usage": usage} if event else event for event in events if event.get("choices") != []]


def _azure(events: list[Payload]) -> list[Payload]:
    empty = {"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    return [empty, *events]


def _calls_in_one_chunk(events: list[Payload]) -> Iterator[Payload]:
    first: list[Any] | None = None
    for event in events:
        (fragments,) = [delta["tool_calls"] for delta in _chat_deltas([event]) if "tool_calls" in delta] or [None]
        if fragments and first is not None:
            first += fragments
            continue
        first = fragments or first
        yield event


def _calls_at_index_0(events: list[Payload]) -> Iterator[Payload]:
    """Each call comes whole then."""
    whole: dict[int, Payload] = {}
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


def _block_for_each_delta(events: list[Payload]) -> Iterator[Payload]:
    index, last = -1, ""  # the text so far of the block that is open
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


_COMMON: dict[str, Callable[[list[Payload]], Any]] = {
    "CRLF": _same,
    "CR": _same,
    "no blank after the colon": _same,
    "comments": _same,
    "JSON in ASCII": _same,
}
QUIRKS: Mapping[API, Mapping[str, Callable[[list[Payload]], Any]]] = {
    "chat": {
        **_COMMON,
        "no usage": _same,
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
        "no event names": _same,
        "no pings": _without("ping"),
        "pings": _with_every("ping"),
        "no message_stop": _without("message_stop"),
        "a block for each delta": _block_for_each_delta,
        "unknown events": _with_second({"type": "brand_new"}),
    },
}
"""How an API may say the same, by name."""
