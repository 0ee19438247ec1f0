"""Messages as the providers want them: nothing of ours but text, roles, parts and tool calls ever leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from miniagents.ext.llm._sessions.base import ToolUse, json_text, mend_deep
from miniagents.messages import AssistantMessage, ErrorMessage, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_SYSTEM_ROLES = ("system", "developer")
_RESULT_IDS = ("tool_call_id", "call_id", "tool_use_id")
"""Names of the id of the call that a result answers: in chat completions, Responses, and Anthropic's API."""
_RESULT_TYPES = ("function_call_output", "custom_tool_call_output", "tool_result")


def usable(messages: Iterable[Message], alias: str) -> list[Message]:
    """The messages a model may see: no errors, and no answers that broke off.

    Raises:
        ValueError: none is left.
    """
    kept = [
        message
        for message in messages
        if not isinstance(message, ErrorMessage)
        and message.role != "error"
        and not getattr(message, "interrupted", False)
    ]
    if not kept:
        raise ValueError(f"{alias} was sent no message it could answer: a model needs at least one")
    return kept


def thawed(value: Any) -> Any:
    """Plain dicts and lists again, as the SDKs want them."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thawed(item) for item in value]
    return value


def _content(message: Message, text_type: str = "text") -> Any:
    """A string, or the provider's list of parts; of a message with other fields only, its JSON."""
    if message.content is None:
        return "" if isinstance(message, AssistantMessage) or _calls(message) else str(message)
    if isinstance(message.content, str):
        return message.content
    parts = thawed(message.content)
    return [{"type": text_type, "text": part} if isinstance(part, str) else part for part in parts]


def _fields(message: Message, *names: str) -> dict[str, Any]:
    found = {name: getattr(message, name, None) for name in names}
    return {name: thawed(value) for name, value in found.items() if value is not None}


# --- tool calls


def _calls(message: Message) -> list[ToolUse]:
    """Return the tool calls of a message, also those in OpenAI's form, with name and arguments in `function`."""
    return [_call(call) for call in getattr(message, "tool_calls", None) or ()]


def _call(call: Any) -> ToolUse:
    inner = _get(call, "function") or _get(call, "custom") or call
    arguments = _get(inner, "arguments")
    if arguments is None:
        arguments = _get(inner, "input")
    return ToolUse(
        id=_id_in(call, "id", "call_id"),  # type: ignore[arg-type]  # None stays None in a request
        name=_get(inner, "name"),
        arguments=arguments if isinstance(arguments, str) else json_text(thawed(arguments)),
        type=_get(call, "type") or "function",
    )


def _get(holder: Any, key: str) -> Any:
    return holder.get(key) if isinstance(holder, Mapping) else getattr(holder, key, None)


def _id_in(holder: Any, *names: str) -> str | None:
    """Return the first id under one of these names, as the text that the APIs want."""
    found = next((value for name in names if (value := _get(holder, name)) is not None), None)
    return None if found is None else str(found)


def _json_object(arguments: Any) -> dict[str, Any] | None:
    """Return the JSON object that a tool's arguments are; None where they are none, which no API takes back."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
    return arguments if isinstance(arguments, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _object_text(arguments: Any) -> str:
    """Return a tool's arguments as the text of a JSON object, `{}` where they are none."""
    value = _json_object(arguments)
    if value is None:
        return "{}"
    mended = mend_deep(value)
    return arguments if mended is value and isinstance(arguments, str) else json_text(mended)


# --- results of tools


class _Result(NamedTuple):
    """Result of a tool, in whatever form a message has it."""

    id: str | None
    """Of the call that it answers."""
    content: Any
    more: dict[str, Any]
    """Further fields: `name`, `is_error`, `cache_control`."""


def _arranged(messages: Iterable[Message], *, together: bool = False) -> list[Message | _Result]:
    """Return the messages with the results of tools behind their calls: the APIs refuse anything between.

    Args:
        messages: what was said so far.
        together: whether neighbouring messages of the assistant are one turn, which results do not divide.
    """
    places: list[list[Message | _Result]] = []
    of_call: dict[str, int] = {}
    for message in messages:
        for item in _parted(message, of_call):
            if isinstance(item, _Result) and item.id in of_call:
                place = of_call[item.id]
                while together and len(places[place]) == 1 and _is_assistant(places[place + 1 :]):
                    place += 1
                places[place].append(item)
                continue
            places.append([item])
            if not isinstance(item, _Result):
                of_call.update(dict.fromkeys(_call_ids(item), len(places) - 1))
    return [item for place in places for item in place]


def _is_assistant(places: list[list[Message | _Result]]) -> bool:
    """Return whether the first of these places is a message of the assistant."""
    return bool(places) and not isinstance(places[0][0], _Result) and places[0][0].role == "assistant"


def _call_ids(message: Message) -> Iterator[str]:
    """Yield the ids of the calls in a message of the assistant."""
    if message.role == "assistant":
        yield from (call.id for call in _calls(message))
        for part in message.content if isinstance(message.content, tuple) else ():
            if isinstance(part, Mapping) and part.get("type") == "tool_use":
                yield str(part.get("id"))


def _parted(message: Message, of_call: Mapping[str, int]) -> list[Message | _Result]:
    """Return the results in a message, and a message of the rest."""
    id_ = _id_in(message, *_RESULT_IDS)
    answers = message.role in (None, "user") and (getattr(message, "type", None) in _RESULT_TYPES or id_ in of_call)
    if message.role == "tool" or answers:
        output = getattr(message, "output", None) if message.content is None else None
        content = _content(message) if output is None else thawed(output)
        return [_Result(id_, content, _fields(message, "name", "is_error"))]
    if message.role == "assistant" or not isinstance(message.content, tuple):
        return [message]
    blocks = [part for part in message.content if isinstance(part, Mapping) and part.get("type") in _RESULT_TYPES]
    if not blocks:
        return [message]
    rest = tuple(part for part in message.content if part not in blocks)
    return [*map(_result_in, blocks), *([message.model_copy(update={"content": rest})] if rest else ())]


def _result_in(block: Mapping[str, Any]) -> _Result:
    """Return the result that a part of a user's message is."""
    content = block.get("output") if block.get("content") is None else block.get("content")
    more = {
        key: value for key, value in thawed(block).items() if key not in ("type", "content", "output", *_RESULT_IDS)
    }
    return _Result(_id_in(block, *_RESULT_IDS), "" if content is None else thawed(content), more)


def _result_content(content: Any, text_type: str = "text") -> Any:
    """Return the content of a result: a text, or parts in which texts have the API's own type."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else json_text(content)
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    texts = ("text", "input_text", "output_text")
    return [{**part, "type": text_type} if part.get("type") in texts else part for part in parts]


# --- chat completions


def chat_prompt(messages: Iterable[Message], system: Any = None) -> list[dict[str, Any]]:
    """The `messages` of a chat completion."""
    prompt = [] if system is None else [{"role": "system", "content": thawed(system)}]
    return prompt + [_chat_message(item) for item in _arranged(messages)]


def _chat_message(item: Message | _Result) -> dict[str, Any]:
    if isinstance(item, _Result):
        result = {"role": "tool", "content": _result_content(item.content), "tool_call_id": item.id, **item.more}
        return {key: value for key, value in result.items() if value is not None and key in _CHAT_RESULT}
    role = item.role or "user"
    result = {"role": role, "content": _content(item), **_fields(item, "name")}
    if role == "assistant":
        if calls := _calls(item):
            result["tool_calls"] = [_chat_tool_call(call) for call in calls]
        result |= _fields(item, "refusal")
        if not result["content"] and len(result) > 2:
            result["content"] = None
    return result


_CHAT_RESULT = ("role", "content", "tool_call_id", "name")
"""Fields of a result in a chat completion, which refuses others."""


def _chat_tool_call(call: ToolUse) -> dict[str, Any]:
    if call.type == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    function = {"name": call.name, "arguments": _object_text(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


# --- responses


def responses_prompt(messages: Iterable[Message], system: Any = None, *, stored: bool = True) -> list[dict[str, Any]]:
    """The `input` of a response.

    Args:
        messages: what was said so far.
        system: instructions to go first.
        stored: whether the provider keeps responses; where it does not, reasoning goes back only if it came encrypted.
    """
    items: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": thawed(system)}]
    custom: set[str] = set()
    for item in _arranged(messages):
        if isinstance(item, _Result):
            kind = "custom_tool_call_output" if item.id in custom else "function_call_output"
            items.append({"type": kind, "call_id": item.id, "output": _result_content(item.content, "input_text")})
        else:
            custom.update(call.id for call in _calls(item) if call.type == "custom")
            items += _response_items(item, stored)
    return items


def _response_items(message: Message, stored: bool) -> list[dict[str, Any]]:
    role = message.role or "user"
    if role != "assistant":
        return [{"role": role, "content": _content(message, "input_text")}]
    output = thawed(getattr(message, "output", None))
    if isinstance(output, list) and _output_text(output) == message.content:
        return [
            _output_item(item)
            for item in output
            if stored or item.get("type") != "reasoning" or item.get("encrypted_content")
        ]
    content = _content(message, "output_text")
    items: list[dict[str, Any]] = [{"role": role, "content": content}] if content else []
    return items + [_function_call(call) for call in _calls(message)]


def _output_item(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item of an earlier answer as it came, but for what the API would refuse."""
    if item.get("type") == "function_call":
        return {**item, "call_id": _id_in(item, "call_id", "id"), "arguments": _object_text(item.get("arguments"))}
    return item


def _function_call(call: ToolUse) -> dict[str, Any]:
    if call.type == "custom":
        return {"type": "custom_tool_call", "call_id": call.id, "name": call.name, "input": call.arguments}
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": _object_text(call.arguments)}


def _output_text(output: list[Any]) -> str:
    """The text of output items; if it is not the message's, somebody has edited one of the two."""
    return "".join(
        part.get("text") or ""
        for item in output
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    )


# --- messages


def messages_prompt(messages: Iterable[Message], system: Any = None) -> tuple[Any, list[dict[str, Any]]]:
    """`system` (None if there is none) and `messages` of Anthropic's API, where speakers take turns."""
    instructions = [] if system is None else [thawed(system)]
    turns: list[dict[str, Any]] = []
    for item in _arranged(messages, together=True):
        if not isinstance(item, _Result) and item.role in _SYSTEM_ROLES:
            instructions.append(_content(item))
            continue
        role = "assistant" if not isinstance(item, _Result) and item.role == "assistant" else "user"
        content = _message_content(item)
        if not content:
            continue  # there is nothing to be told
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = _blocks(turns[-1]["content"]) + _blocks(content)
        else:
            turns.append({"role": role, "content": content})
    if not turns:
        raise ValueError("all messages are instructions or empty: a model needs something to answer")
    for turn in turns:
        if isinstance(turn["content"], list):
            turn["content"].sort(key=lambda block: block.get("type") != "tool_result" and turn["role"] == "user")
    return _joined(instructions), turns


def _message_content(item: Message | _Result) -> Any:
    if isinstance(item, _Result):
        more = {key: value for key, value in item.more.items() if key != "name"}
        content = _visible(_result_content(item.content)) or ""
        return [{"type": "tool_result", "tool_use_id": item.id, "content": content, **more}]
    if item.role != "assistant":
        return _visible(_content(item))
    blocks = thawed(getattr(item, "content_blocks", None))
    if isinstance(blocks, list) and "".join(block.get("text") or "" for block in _texts(blocks)) == item.content:
        # thinking and tool use go back exactly as they came: their signatures are checked
        return [_sent_block(block) for block in _visible(blocks)]
    calls = _calls(item)
    content = _visible(_content(item))
    if not calls:
        return content
    uses = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _json_object(call.arguments) or {}}
        for call in calls
    ]
    return _blocks(content) + uses


def _sent_block(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block of an earlier answer as it came, but for what the API would refuse."""
    if "input" in block and not isinstance(block["input"], dict):
        return {**block, "input": _json_object(block["input"]) or {}}
    return block


def _visible(content: Any) -> Any:
    """Return the content without blank texts, which the API refuses; "" or [] where nothing is left."""
    if isinstance(content, str):
        return content if content.strip() else ""
    return [part for part in content if part.get("type") != "text" or str(part.get("text") or "").strip()]


def _texts(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block for block in blocks if block.get("type") == "text"]


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def _joined(instructions: list[Any]) -> Any:
    """Return the instructions as one text, or as blocks where some are blocks; None where there are none."""
    visible = [part for part in map(_visible, instructions) if part]
    if all(isinstance(part, str) for part in visible):
        return "\n\n".join(visible) or None
    return [block for part in visible for block in _blocks(part)]
