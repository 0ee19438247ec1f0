"""Messages as the providers want them: nothing of ours but text, roles, parts and tool calls ever leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miniagents.messages import AssistantMessage, ErrorMessage, Message

if TYPE_CHECKING:
    from collections.abc import Iterable


_SYSTEM_ROLES = ("system", "developer")


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
        return "" if isinstance(message, AssistantMessage) else str(message)
    if isinstance(message.content, str):
        return message.content
    parts = thawed(message.content)
    return [{"type": text_type, "text": part} if isinstance(part, str) else part for part in parts]


def _fields(message: Message, *names: str) -> dict[str, Any]:
    found = {name: getattr(message, name, None) for name in names}
    return {name: thawed(value) for name, value in found.items() if value is not None}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# --- chat completions


def chat_prompt(messages: Iterable[Message], system: Any = None) -> list[dict[str, Any]]:
    """The `messages` of a chat completion."""
    prompt = [] if system is None else [{"role": "system", "content": thawed(system)}]
    return prompt + [_chat_message(message) for message in messages]


def _chat_message(message: Message) -> dict[str, Any]:
    role = message.role or "user"
    result = {"role": role, "content": _content(message), **_fields(message, "name")}
    if role == "tool":
        return result | _fields(message, "tool_call_id")
    if role == "assistant" and isinstance(message, AssistantMessage):
        if message.tool_calls:
            result["tool_calls"] = [_chat_tool_call(call) for call in message.tool_calls]
        result |= _fields(message, "refusal")
        if not result["content"] and len(result) > 2:
            result["content"] = None
    return result


def _chat_tool_call(call: Any) -> dict[str, Any]:
    if getattr(call, "type", "function") == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


# --- responses


def responses_prompt(messages: Iterable[Message], system: Any = None, *, stored: bool = True) -> list[dict[str, Any]]:
    """The `input` of a response.

    Args:
        messages: what was said so far.
        system: instructions to go first.
        stored: whether the provider keeps responses; where it does not, reasoning goes back only if it came encrypted.
    """
    items: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": thawed(system)}]
    for message in messages:
        items += _response_items(message, stored)
    return items


def _response_items(message: Message, stored: bool) -> list[dict[str, Any]]:
    role = message.role or "user"
    if role == "tool":
        call_id = getattr(message, "call_id", None) or getattr(message, "tool_call_id", None)
        return [{"type": "function_call_output", "call_id": call_id, "output": _content(message, "input_text")}]
    if role != "assistant":
        return [{"role": role, "content": _content(message, "input_text")}]
    output = thawed(getattr(message, "output", None))
    if isinstance(output, list) and _output_text(output) == message.content:
        return [item for item in output if stored or item.get("type") != "reasoning" or item.get("encrypted_content")]
    content = _content(message, "output_text")
    items: list[dict[str, Any]] = [{"role": role, "content": content}] if content else []
    return items + [_function_call(call) for call in getattr(message, "tool_calls", ())]


def _function_call(call: Any) -> dict[str, Any]:
    if getattr(call, "type", "function") == "custom":
        return {"type": "custom_tool_call", "call_id": call.id, "name": call.name, "input": call.arguments}
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


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
    for message in messages:
        if message.role in _SYSTEM_ROLES:
            instructions.append(_content(message))
            continue
        role = "assistant" if message.role == "assistant" else "user"
        content = _message_content(message)
        if not content:
            continue  # the API refuses empty texts, and there is nothing to be told
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = _blocks(turns[-1]["content"]) + _blocks(content)
        else:
            turns.append({"role": role, "content": content})
    if not turns:
        raise ValueError("all messages are instructions or empty: a model needs something to answer")
    return _joined(instructions), turns


def _message_content(message: Message) -> Any:
    if message.role == "tool":
        tool_use_id = getattr(message, "tool_use_id", None) or getattr(message, "tool_call_id", None)
        result = {"type": "tool_result", "tool_use_id": tool_use_id, "content": _content(message)}
        return [result | _fields(message, "is_error")]
    if message.role != "assistant":
        return _content(message)
    blocks = thawed(getattr(message, "content_blocks", None))
    if isinstance(blocks, list) and "".join(block.get("text") or "" for block in _texts(blocks)) == message.content:
        # thinking and tool use go back exactly as they came: their signatures are checked
        return [block for block in blocks if block.get("type") != "text" or block.get("text")]
    calls = getattr(message, "tool_calls", ())
    content = _content(message)
    if not calls:
        return content
    uses = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _json_object(call.arguments)} for call in calls
    ]
    return _blocks(content) + uses


def _texts(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block for block in blocks if block.get("type") == "text"]


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def _joined(instructions: list[Any]) -> Any:
    if all(isinstance(part, str) for part in instructions):
        return "\n\n".join(filter(None, instructions)) or None
    return [block for part in instructions for block in _blocks(part)]
