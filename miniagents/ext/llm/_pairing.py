"""Calls of tools paired with their results: no prompt has a call without a result, or a result without a call.

Prompts are paired, not histories: after a cancellation or a kill, these may lack results. `pair` works on the messages
of a prompt, answer by answer, because servers repeat the ids of calls.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents._promising.schemas import has_attribute
from miniagents.messages import Message, UserMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from miniagents._promising.frozen import Frozen
    from miniagents.ext.llm._sessions import ToolUse


class ToolResult(NamedTuple):
    """Result of a tool, independent of the form in which a message holds it."""

    id: str | None
    """Id of the call that the result answers."""
    content: Any
    more: dict[str, Any]
    """Further fields, such as `name`, `is_error`, `cache_control`."""


STOPPED = "stopped; whether it took effect is unknown"
"""Text of the result of a call whose result is missing."""


def field_of(holder: Frozen, name: str) -> Any:
    """Return a field or another attribute of a message or a tool call; None if it is absent.

    `getattr` takes 3 us for an absent name, and most of the names that are looked for in a prompt are absent.
    """
    if name in holder.__dict__ or name in (holder.__pydantic_extra__ or ()) or has_attribute(type(holder), name):
        return getattr(holder, name, None)
    return None


def broke_off(message: Message) -> bool:
    """Return True if an answer broke off before the provider had given its finish reason.

    An answer that was interrupted later is whole: its calls may have taken effect, because they start at that reason.
    """
    return bool(field_of(message, "interrupted")) and field_of(message, "finish_reason") is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingRules:
    """Rules of an API about calls and results."""

    calls_in_parts: bool = False
    """True if parts of the content may be calls (`tool_use`); False if they become calls of the message."""
    keeps_unknown_results: bool = False
    """True if a result without a call stays, because the server may know its call from an earlier request."""
    as_text: bool = False
    """True if calls and results become text, because the API refuses them in a request without tools."""
    clean_id: Callable[[str], str] = str
    """Function that returns an id as the API accepts it."""


def anthropic_id(id_: str) -> str:
    """Return an id of letters, digits, underscores and hyphens, as Anthropic's API requires."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", id_)


def responses_id(id_: str) -> str:
    """Return an id of at most 64 characters, as the Responses API requires; a longer one ends in its digest."""
    return id_ if len(id_) <= 64 else f"{id_[:47]}_{hashlib.sha256(id_.encode()).hexdigest()[:16]}"


class _Call:
    """Call in an answer, its result, and its id in the prompt."""

    __slots__ = ("id", "part", "result", "use")

    def __init__(self, use: ToolUse, part: int | None) -> None:
        self.use = use
        self.part = part
        """Index of the part of the content that is the call; None for one of `tool_calls`."""
        self.result: ToolResult | None = None
        self.id = ""


class _OpenCalls:
    """Calls without a result, found by their id or by their name, those of the latest answer first."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], list[deque[_Call]]] = {}

    def add(self, calls: list[_Call]) -> None:
        """Add the calls of the next answer."""
        of_answer: dict[tuple[str, str], deque[_Call]] = {}
        for call in calls:
            for key in (("id", call.use.id or ""), ("name", call.use.name or ""), ("any", "")):
                of_answer.setdefault(key, deque()).append(call)
        for key, group in of_answer.items():
            self._by_key.setdefault(key, []).append(group)

    def find(self, result: ToolResult) -> _Call | None:
        """Return the call that a result answers, and None if there is none.

        Calls fit by the result's id; for a result without an id, by its name; without either, all fit. Return a fitting
        call of the latest answer with one: the first of the result's name, or else the first.
        """
        name = result.more.get("name")
        by_name = ("any", "") if name is None else ("name", str(name))
        groups = self._by_key.get(by_name if result.id is None else ("id", result.id), [])
        while groups:
            group = groups[-1]
            while group and group[0].result is not None:
                group.popleft()
            if group:
                fitting = (call for call in group if call.result is None and name in (None, call.use.name))
                return next(fitting, group[0])
            groups.pop()
        return None


def pair(
    items: Iterable[Message | ToolResult],
    calls_of: Callable[[Message], list[tuple[ToolUse, int | None]]],
    rules: PairingRules,
) -> list[Message | ToolResult]:
    """Return messages and results so that each answer is followed by one result for each of its calls, in their order.

    A result goes to the latest answer before it that has a call of its id without a result; other results are left out.
    A call without a result gets one that says that it was stopped. An answer that broke off keeps those of its calls
    that have a result; without any, it is left out.

    Args:
        items: messages and results in the order of the conversation.
        calls_of: function that returns the calls of an answer, each with the index of its part, or None.
        rules: the rules of the API.
    """
    places: list[tuple[Message | ToolResult, list[_Call]]] = []
    open_calls = _OpenCalls()
    for item in items:
        calls: list[_Call] = []
        if isinstance(item, ToolResult):
            if (call := open_calls.find(item)) is not None:
                call.result = item
                continue
            if not rules.keeps_unknown_results:
                continue
        elif item.role == "assistant":
            calls = [_Call(use, part) for use, part in calls_of(item)]
            open_calls.add(calls)
        places.append((item, calls))
    return _with_results(places, rules)


def _with_results(
    places: list[tuple[Message | ToolResult, list[_Call]]], rules: PairingRules
) -> list[Message | ToolResult]:
    """Return the items with a result behind each call; give each call an id that no other call of the prompt has.

    An answer that broke off keeps only calls with results, and is dropped if no call has a result. The rules may ask
    for texts instead.
    """
    paired: list[Message | ToolResult] = []
    ids: dict[str, int] = {}
    for message, calls in places:
        if isinstance(message, ToolResult) or message.role != "assistant":
            paired.append(message)
            continue
        is_cut = broke_off(message)
        kept = [call for call in calls if call.result is not None or not is_cut]
        if is_cut and not kept:
            continue
        if rules.as_text and kept:
            paired += [_with_calls_as_text(message, kept), *map(_result_as_text, kept)]
            continue
        for call in kept:
            call.id = _free_id(call.use.id or f"call_{len(ids) + 1}", ids, rules.clean_id)
        paired.append(_rewritten(message, calls, kept, rules))
        paired += [_result_of(call)._replace(id=call.id) for call in kept]
    return paired


def _result_of(call: _Call) -> ToolResult:
    """Return the result of a call; an error that says that it was stopped if there is none."""
    return call.result or ToolResult(None, STOPPED, {"name": call.use.name, "is_error": True})


def _free_id(wanted: str, ids: dict[str, int], clean_id: Callable[[str], str]) -> str:
    """Return an id that is not among `ids`: the wanted one, or that one with a number.

    Args:
        wanted: the id of a call.
        ids: each id of the prompt with the last number that was tried for it; gets the returned one.
        clean_id: returns an id as the API accepts it.
    """
    first = free = clean_id(wanted)
    while free in ids:
        ids[first] += 1
        free = clean_id(f"{wanted}_{ids[first]}")
    ids[free] = 1
    return free


def _rewritten(message: Message, calls: list[_Call], kept: list[_Call], rules: PairingRules) -> Message:
    """Return an answer with the calls that are kept, under their ids in the prompt; mostly the same object.

    The provider's own form of the answer (`content_blocks`, `output`) is changed in the same way. It is dropped if it
    has other calls than the message, because the message was edited then. So is the `output` of an interrupted answer.
    """
    update: dict[str, Any] = {}
    is_cut = broke_off(message)
    own = {name: field_of(message, name) for name in ("content_blocks", "output")}
    in_fields = [call for call in calls if call.part is None]
    changed = len(kept) < len(calls) or any(call.id != call.use.id for call in kept)
    moved = [] if rules.calls_in_parts else [call for call in kept if call.part is not None]
    if changed or moved:
        originals = dict(zip(map(id, in_fields), field_of(message, "tool_calls") or (), strict=False))
        update["tool_calls"] = [
            *(_call_with_id(originals[id(call)], call.id) for call in kept if call.part is None),
            *({"id": call.id, "name": call.use.name, "arguments": call.use.arguments} for call in moved),
        ]
        in_parts = {call.part: call for call in calls if call.part is not None}
        if in_parts:
            parts: Any = message.content
            update["content"] = [
                {**part, "id": in_parts[index].id} if index in in_parts else part
                for index, part in enumerate(parts)
                if index not in in_parts or (rules.calls_in_parts and in_parts[index] in kept)
            ]
    for name, value in own.items():
        if value is not None:
            blocks = None if is_cut and name == "output" else _provider_form(value, in_fields, kept, is_cut)
            if blocks is None or changed or is_cut:
                update[name] = blocks
    return message.model_copy(update=update) if update else message


def _call_with_id(call: Any, id_: str) -> Any:
    """Return a call of a message, in any provider's form, with another id."""
    if isinstance(call, Mapping):
        return {**call, "id": id_, **({"call_id": id_} if "call_id" in call else {})}
    return call.model_copy(update={"id": id_, **({"call_id": id_} if hasattr(call, "call_id") else {})})


_CALL_TYPES = {"tool_use": "id", "function_call": "call_id", "custom_tool_call": "call_id"}
"""Fields that hold the id of a call, by the type of a block or an item in a provider's own form of an answer."""


def _provider_form(value: Any, calls: list[_Call], kept: list[_Call], is_cut: bool) -> list[Any] | None:
    """Return `content_blocks` or `output` of an answer with the ids of the prompt and without dropped calls.

    Return None if its calls are not `calls`, or if it is no list of objects. Of an answer that broke off, keep only
    texts, calls, and thinking that is signed.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(block, Mapping) for block in value):
        return None
    ids = [_id_in_block(block) for block in value if block.get("type") in _CALL_TYPES]
    if ids != [call.use.id or "" for call in calls]:
        return None
    unused = iter(calls)
    blocks: list[Any] = []
    for block in value:
        if key := _CALL_TYPES.get(block.get("type")):
            if (call := next(unused)) in kept:
                blocks.append({**block, key: call.id})
        elif not is_cut or block.get("type") in ("text", "redacted_thinking") or block.get("signature"):
            blocks.append(block)
    return blocks


def _id_in_block(block: Mapping[str, Any]) -> str:
    """Return the id of a call in a block or an item."""
    found = next((value for name in ("call_id", "id") if (value := block.get(name)) is not None), "")
    return str(found)


def _with_calls_as_text(message: Message, calls: list[_Call]) -> Message:
    """Return an answer with its calls as text behind its own text, and without `content_blocks` and `output`."""
    texts = [f"[called {call.use.name} with {call.use.arguments.strip() or '{}'}]" for call in calls]
    content: Any = message.content
    if isinstance(content, tuple):
        parts = {call.part for call in calls}
        content = [*(part for index, part in enumerate(content) if index not in parts), *texts]
    else:
        content = "\n".join([*filter(None, [content]), *texts])
    own = {name: None for name in ("content_blocks", "output") if field_of(message, name) is not None}
    return message.model_copy(update={"content": content, "tool_calls": (), **own})


def _result_as_text(call: _Call) -> Message:
    """Return the result of a call as a message of the user that begins with `[name answered]` or `[name failed]`."""
    result = _result_of(call)
    head = f"[{call.use.name} {'failed' if result.more.get('is_error') else 'answered'}]"
    if isinstance(result.content, list):
        return UserMessage([head, *result.content])
    return UserMessage(f"{head} {result.content}")
