"""Prompts in the forms of the provider APIs, made from messages.

`chat_prompt`, `responses_prompt` and `messages_prompt` serve chat completions, OpenAI's Responses API and Anthropic's
Messages API. A prompt holds the text, role, parts and tool calls of each message. Further fields of an answer go back
only to the API and host that sent them (`AssistantMessage.echo` and `origin`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from miniagents._promising.frozen import Frozen
from miniagents.ext.llm._pairing import PairingRules, ToolResult, anthropic_id, broke_off, field_of, pair, responses_id
from miniagents.ext.llm._sessions.base import ToolUse, json_text, repair_deep
from miniagents.ext.llm._sessions.responses import message_text
from miniagents.messages import Approval, AssistantMessage, ErrorMessage, Message, PendingApproval

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


_SYSTEM_ROLES = ("system", "developer")
_RESULT_IDS = ("tool_call_id", "call_id", "tool_use_id")
"""Fields that hold the id of the call that a result answers: in chat completions, Responses, and Anthropic's API."""
_RESULT_TYPES = ("function_call_output", "custom_tool_call_output", "tool_result")
"""Types of parts that are results of tools."""


_ROLES = frozenset({None, "system", "developer", "user", "assistant", "tool", "function", "error"})
"""Roles of messages that may be sent to a model; messages with the last one are left out of prompts."""
_ROLES_ELSEWHERE = {"ai": "assistant", "bot": "assistant", "model": "assistant", "human": "user"}
"""Roles of other libraries, with those that they are here."""


@lru_cache(maxsize=64)
def _is_left_out(kind: type[Message]) -> bool:
    """Return True for a class of messages that are left out of prompts, whatever their role."""
    return issubclass(kind, (ErrorMessage, Approval, PendingApproval))


def check_roles(messages: Iterable[Message], alias: str) -> None:
    """Raise `TypeError` for the first message whose role no model knows; errors and approvals are not checked.

    The error names the agent by `alias`.
    """
    for message in messages:
        if message.role not in _ROLES and not _is_left_out(type(message)):
            role = str(message.role)
            known = [each for each in _ROLES if each]
            near = _ROLES_ELSEWHERE.get(role.lower()) or next(iter(get_close_matches(role.lower(), known, 1)), "user")
            raise TypeError(
                f"{alias} was sent a message with the role {role!r:.40}, which no model knows: write `role={near!r}`, "
                f"not `role={role!r:.40}` (system, developer, user, assistant, tool or function)"
            )


def messages_for_model(messages: Iterable[Message], alias: str) -> list[Message]:
    """Return the messages that a model is sent.

    Errors and approvals are left out, and so are interrupted messages except answers with calls. Texts of errors name
    the agent by `alias`.

    Raises:
        TypeError: a message has a role that no model knows.
        ValueError: no message is left, or interrupted ones only.
    """
    messages = list(messages)
    check_roles(messages, alias)
    kept = [
        message
        for message in messages
        if not _is_left_out(type(message))
        and message.role != "error"
        and not (field_of(message, "interrupted") and (message.role != "assistant" or not _tool_calls(message)))
    ]
    if all(map(broke_off, kept)):
        kept = []  # a broken answer needs the result of a call
    if not kept:
        raise ValueError(f"{alias} was sent no message it could answer: a model needs at least one")
    return kept


def to_plain(value: Any) -> Any:
    """Return the value with plain dicts and lists in place of mappings and tuples, as the SDKs require."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def _content(message: Message, text_type: str = "text") -> Any:
    """Return the content of a message: a string or a list of parts, of which texts get the type `text_type`.

    If the content is None, return "" for an answer or a message with calls, and the JSON of any other message's fields.
    """
    if message.content is None:
        return "" if isinstance(message, AssistantMessage) or _tool_calls(message) else str(message)
    if isinstance(message.content, str):
        return message.content
    parts = to_plain(message.content)
    return [{"type": text_type, "text": part} if isinstance(part, str) else part for part in parts]


def _fields(message: Message, *names: str) -> dict[str, Any]:
    """Return the fields with these names that are not None, as plain values."""
    found = {name: field_of(message, name) for name in names}
    return {name: to_plain(value) for name, value in found.items() if value is not None}


# --- tool calls


def _tool_calls(message: Message) -> list[ToolUse]:
    """Return the tool calls of a message, including calls in OpenAI's form (name and arguments under `function`)."""
    return [_tool_call(call) for call in field_of(message, "tool_calls") or ()]


def _tool_call(call: Any) -> ToolUse:
    """Convert a tool call in any provider's form, with the fields that go back to the provider."""
    inner = _get(call, "function") or _get(call, "custom") or call
    arguments = _get(inner, "arguments")
    if arguments is None:
        arguments = _get(inner, "input")
    return ToolUse(
        id=_first_id(call, "call_id", "id"),  # type: ignore[arg-type]  # None stays None in a request
        name=_get(inner, "name"),
        arguments=arguments if isinstance(arguments, str) else json_text(to_plain(arguments)),
        type=_get(call, "type") or "function",
        fields=_echoed(call),
    )


def _echoed(holder: Any) -> dict[str, Any]:
    """Return the fields of an answer or of a call that go back to the provider, under its names for them."""
    echo = _get(holder, "echo")
    fields = {name: _get(holder, ours) for name, ours in echo.items()} if isinstance(echo, Mapping) else {}
    return {name: to_plain(value) for name, value in fields.items() if value is not None}


def _get(holder: Any, key: str) -> Any:
    """Return the value of a key or an attribute, None if it is absent."""
    if type(holder) is dict or isinstance(holder, Mapping):
        return holder.get(key)
    return field_of(holder, key) if isinstance(holder, Frozen) else getattr(holder, key, None)


def _first_id(holder: Any, *names: str) -> str | None:
    """Return the first value under one of `names` that is not None, as a string; None if there is none."""
    for name in names:
        if (value := _get(holder, name)) is not None:
            return str(value)
    return None


def _json_object(arguments: Any) -> dict[str, Any] | None:
    """Return the arguments of a tool as a dict; None if the arguments are no JSON object, which all APIs refuse.

    NaN and infinity are no JSON. A number such as 1e999 gives None, too: Python reads it as infinity.
    """
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _arguments_text(arguments: Any) -> str:
    """Return the arguments of a tool as the text of a JSON object; `{}` if the arguments are no JSON object."""
    value = _json_object(arguments)
    if value is None:
        return "{}"
    repaired = repair_deep(value)
    return arguments if repaired is value and isinstance(arguments, str) else json_text(repaired)


# --- results of tools


def _paired(messages: Iterable[Message], rules: PairingRules) -> list[Message | ToolResult]:
    """Return messages and results as the APIs require them: directly behind each answer one result for each call."""
    ids: set[str] = set()
    items: list[Message | ToolResult] = []
    for message in messages:
        for item in _split_results(message, ids):
            if not isinstance(item, ToolResult) and item.role == "assistant":
                item = _without_repeated_calls(item)
                ids.update(str(use.id) for use, _ in _calls_and_parts(item) if use.id)
            items.append(item)
    return pair(items, _calls_and_parts, rules)


def _without_repeated_calls(message: Message) -> Message:
    """Return an answer without those of its tool calls that are parts of its content, too; mostly the same object."""
    parts = message.content if isinstance(message.content, tuple) else ()
    ids = {_get(part, "id") for part in parts if isinstance(part, Mapping) and part.get("type") == "tool_use"}
    calls = field_of(message, "tool_calls") or ()
    kept = tuple(call for call in calls if _first_id(call, "call_id", "id") not in ids)
    return message if len(kept) == len(calls) else message.model_copy(update={"tool_calls": kept})


def _calls_and_parts(message: Message) -> list[tuple[ToolUse, int | None]]:
    """Return the calls of an answer: those in parts of its content with their index, then its tool calls with None."""
    calls: list[tuple[ToolUse, int | None]] = [
        (_tool_call(part), index)
        for index, part in enumerate(message.content if isinstance(message.content, tuple) else ())
        if isinstance(part, Mapping) and part.get("type") == "tool_use"
    ]
    return calls + [(use, None) for use in _tool_calls(message)]


def _split_results(message: Message, ids: Collection[str]) -> list[Message | ToolResult]:
    """Split a message into the tool results in it, and one message of its remaining parts.

    A message without results comes back alone, as it is. A tool message is one result. `ids` are the ids of the calls
    before the message.
    """
    ids_of_calls = [value for name in _RESULT_IDS if (value := field_of(message, name)) is not None]
    id_ = str(ids_of_calls[0]) if ids_of_calls else None
    parts = message.content if isinstance(message.content, tuple) and message.role != "assistant" else ()
    blocks = [part for part in parts if isinstance(part, Mapping) and part.get("type") in _RESULT_TYPES]
    if blocks:
        role = "user" if message.role == "tool" else message.role  # the remaining parts answer no call
        rest = tuple(part for part in parts if part not in blocks)
        remaining = [message.model_copy(update={"content": rest, "role": role})] if rest else []
        return [*(_result_of_block(block, id_) for block in blocks), *remaining]
    answers = message.role in (None, "user") and (field_of(message, "type") in _RESULT_TYPES or id_ in ids)
    if message.role == "tool" or answers:
        output = field_of(message, "output") if message.content is None else None
        content = _content(message) if output is None else to_plain(output)
        more = {name: value for name, value in _fields(message, "name", "is_error").items() if value is not False}
        return [ToolResult(id_, content, more)]
    return [message]


def _result_of_block(block: Mapping[str, Any], id_: str | None) -> ToolResult:
    """Convert a part that is a result into a `ToolResult`; the id of its message serves a part without an id."""
    content = block.get("output") if block.get("content") is None else block.get("content")
    more = {
        key: value for key, value in to_plain(block).items() if key not in ("type", "content", "output", *_RESULT_IDS)
    }
    return ToolResult(_first_id(block, *_RESULT_IDS) or id_, "" if content is None else to_plain(content), more)


def _result_content(content: Any, write_image: Callable[[str], dict[str, Any]], text_type: str = "text") -> Any:
    """Return the content of a result: a string, or parts in which texts and images have the form of the API.

    Args:
        content: the content of a `ToolResult`.
        write_image: function that gets the URL of an image, which may be a data URL, and returns the image as a part.
        text_type: the type of parts that are texts.
    """
    if not isinstance(content, list):
        return content if isinstance(content, str) else json_text(content)
    return [_result_part(part, write_image, text_type) for part in content]


def _result_part(part: Any, write_image: Callable[[str], dict[str, Any]], text_type: str) -> Any:
    """Return a part of a result in the form of the API; a part that is neither a text nor an image is unchanged.

    So is an image that has the API's form already.
    """
    if isinstance(part, str):
        return {"type": text_type, "text": part}
    if part.get("type") in ("text", "input_text", "output_text"):
        return {**part, "type": text_type}
    url = _image_url(part)
    if url is None:
        return part
    written = write_image(url)
    return part if part.get("type") == written["type"] else written


def _image_url(part: Mapping[str, Any]) -> str | None:
    """Return the URL of an image in any API's form, a data URL if it has the bytes; None for all else."""
    image = part.get("image_url")
    if part.get("type") == "image_url" and isinstance(image, Mapping):
        image = image.get("url")
    source = part.get("source")
    if part.get("type") == "image" and isinstance(source, Mapping):
        image = source.get("url")
        if source.get("type") == "base64":
            image = f"data:{source.get('media_type')};base64,{source.get('data')}"
    return image if isinstance(image, str) else None


# --- chat completions

_CHAT_RULES = PairingRules()


def chat_prompt(messages: Iterable[Message], system: Any = None, *, origin: str | None = None) -> list[dict[str, Any]]:
    """Return the parameter `messages` of a chat completion.

    Images in results of tools follow all results of the answer, in a message of the user.

    Args:
        messages: the conversation.
        system: instructions that go first.
        origin: the API and the host of the request; answers from there get back the fields of their `echo`.
    """
    prompt = [] if system is None else [{"role": "system", "content": to_plain(system)}]
    images: list[dict[str, Any]] = []
    for item in _paired(messages, _CHAT_RULES):
        if images and not isinstance(item, ToolResult):
            prompt.append({"role": "user", "content": images})
            images = []
        prompt.append(_chat_message(item, origin))
        if isinstance(item, ToolResult) and isinstance(item.content, list):
            images += _take_images(prompt[-1])
    return [*prompt, {"role": "user", "content": images}] if images else prompt


def _take_images(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Remove the images from the message of a result, which may have texts only, and put a note in their place.

    Return a line with the call's id and the images, as parts of a user's message; [] without images.
    """
    images = [part for part in result["content"] if part.get("type") == "image_url"]
    if not images:
        return []
    note = {"type": "text", "text": "[images: see the message after the results]"}
    result["content"] = [part for part in result["content"] if part not in images] + [note]
    return [{"type": "text", "text": f"[images of the result {result.get('tool_call_id')}]"}, *images]


def _chat_image(url: str) -> dict[str, Any]:
    """Return an image as a part of a chat completion."""
    return {"type": "image_url", "image_url": {"url": url}}


def _chat_message(item: Message | ToolResult, origin: str | None) -> dict[str, Any]:
    """Convert a message or a result into a message of a chat completion.

    An answer of this origin gets back its `echo`, audio and fields of calls. Empty text beside other fields becomes
    None.
    """
    if isinstance(item, ToolResult):
        result = {
            "role": "tool",
            "content": _result_content(item.content, _chat_image),
            "tool_call_id": item.id,
            **item.more,
        }
        return {key: value for key, value in result.items() if value is not None and key in _CHAT_RESULT}
    role = item.role or "user"
    if role != "assistant":
        return {"role": role, "content": _content(item), **_fields(item, "name")}
    echoes = _is_from(item, origin)
    echoed = _echoed(item)
    result = {"role": role, "content": _content(item), **({} if "name" in echoed else _fields(item, "name"))}
    if calls := _tool_calls(item):
        result["tool_calls"] = [_chat_tool_call(call, call.fields if echoes else {}) for call in calls]
    result |= _fields(item, "refusal")
    if echoes and isinstance(audio := echoed.pop("audio", None), dict) and audio.get("id"):
        result["audio"] = {"id": audio["id"]}  # the API has the audio, and takes nothing else
    if not result["content"] and len(result) > 2:
        result["content"] = None
    return {**echoed, **result} if echoes else result


def _is_from(message: Message, origin: str | None) -> bool:
    """Return True if the message came from this API and host; False if either is not known."""
    return origin is not None and field_of(message, "origin") == origin


_CHAT_RESULT = ("role", "content", "tool_call_id", "name")
"""Fields that a result may have in a chat completion; the API refuses others."""


def _chat_tool_call(call: ToolUse, fields: dict[str, Any]) -> dict[str, Any]:
    """Convert a tool call into the form of chat completions, with these further fields.

    Arguments of a function that are no JSON object become `{}`.
    """
    kind = "custom" if call.type == "custom" else "function"
    if kind == "custom":
        inner = {"name": call.name, "input": call.arguments}
    else:
        inner = {"name": call.name, "arguments": _arguments_text(call.arguments)}
    return {**fields, "id": call.id, "type": kind, kind: {**fields.get(kind, {}), **inner}}


# --- responses


def responses_prompt(
    messages: Iterable[Message],
    system: Any = None,
    *,
    stored: bool = True,
    continued: bool = False,
    origin: str | None = None,
) -> list[dict[str, Any]]:
    """Return the parameter `input` of the Responses API.

    Args:
        messages: the conversation.
        system: instructions that go first.
        stored: True if the provider stores responses. Otherwise only reasoning that came encrypted is sent back.
        continued: True if the request goes on after a stored response, which may have the calls of results.
        origin: the API and the host of the request; answers from elsewhere are sent without ids and reasoning, which
            another host does not know.
    """
    items: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": to_plain(system)}]
    custom: set[str] = set()
    for item in _paired(messages, PairingRules(keeps_unknown_results=continued, clean_id=responses_id)):
        if isinstance(item, ToolResult):
            kind = "custom_tool_call_output" if item.id in custom else "function_call_output"
            output = _result_content(item.content, _responses_image, "input_text")
            items.append({"type": kind, "call_id": item.id, "output": output})
        else:
            custom.update(call.id for call in _tool_calls(item) if call.type == "custom")
            items += _response_items(item, stored, origin)
    return items


def _responses_image(url: str) -> dict[str, Any]:
    """Return an image as a part of an item of the Responses API."""
    return {"type": "input_image", "image_url": url}


def _response_items(message: Message, stored: bool, origin: str | None) -> list[dict[str, Any]]:
    """Convert a message into items of the Responses API; an unedited answer of this origin gives those of its `output`.

    An unknown origin counts as the same. Unless `stored`, reasoning goes only if it is encrypted.
    """
    role = message.role or "user"
    if role != "assistant":
        return [{"role": role, "content": _content(message, "input_text")}]
    foreign = origin and field_of(message, "origin") not in (None, origin)
    output = None if foreign else to_plain(field_of(message, "output"))
    # a text other than the content shows that the message was edited
    if isinstance(output, list) and "".join(map(message_text, output)) == message.content:
        return [
            _item_to_send(item)
            for item in output
            if stored or item.get("type") != "reasoning" or item.get("encrypted_content")
        ]
    content = _content(message, "output_text")
    items: list[dict[str, Any]] = [{"role": role, "content": content}] if content else []
    return items + [_tool_call_item(call) for call in _tool_calls(message)]


def _item_to_send(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item of an earlier answer for the next prompt; only a function call is changed.

    Such a call gets a `call_id`, and `{}` as its arguments if they are no JSON object.
    """
    if item.get("type") == "function_call":
        return {
            **item,
            "call_id": _first_id(item, "call_id", "id"),
            "arguments": _arguments_text(item.get("arguments")),
        }
    return item


def _tool_call_item(call: ToolUse) -> dict[str, Any]:
    """Convert a tool call into an item of the Responses API."""
    if call.type == "custom":
        return {"type": "custom_tool_call", "call_id": call.id, "name": call.name, "input": call.arguments}
    return {
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": _arguments_text(call.arguments),
    }


# --- messages


def messages_prompt(
    messages: Iterable[Message], system: Any = None, *, has_tools: bool = True
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the parameters `system` and `messages` of Anthropic's API.

    Messages of one role that follow each other become one turn, because user and assistant must alternate. `system` is
    None if there are no instructions.

    Args:
        messages: the conversation.
        system: instructions that go first.
        has_tools: False for a request without tools: calls and results are text, because the API refuses them there.

    Raises:
        ValueError: all messages are instructions or empty.
    """
    instructions = [] if system is None else [to_plain(system)]
    turns: list[dict[str, Any]] = []
    rules = PairingRules(calls_in_parts=True, as_text=not has_tools, clean_id=anthropic_id)
    for item in _paired(messages, rules):
        if not isinstance(item, ToolResult) and item.role in _SYSTEM_ROLES:
            instructions.append(_content(item))
            continue
        role = "assistant" if not isinstance(item, ToolResult) and item.role == "assistant" else "user"
        content = _turn_content(item)
        if not content:
            continue  # the API refuses empty messages
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = _as_blocks(turns[-1]["content"]) + _as_blocks(content)
        else:
            turns.append({"role": role, "content": content})
    if not turns:
        raise ValueError("all messages are instructions or empty: a model needs something to answer")
    for turn in turns:
        if isinstance(turn["content"], list):
            turn["content"].sort(key=lambda block: block.get("type") != "tool_result" and turn["role"] == "user")
    return _join_instructions(instructions), turns


def _turn_content(item: Message | ToolResult) -> Any:
    """Return the content of a message or a result for Anthropic's API, without blank texts.

    An unedited answer of this API gives its `content_blocks`, any other answer its text and calls.
    """
    if isinstance(item, ToolResult):
        more = {key: value for key, value in item.more.items() if key != "name"}
        content = _without_blank_texts(_result_content(item.content, _messages_image)) or ""
        return [{"type": "tool_result", "tool_use_id": item.id, "content": content, **more}]
    if item.role != "assistant":
        return _without_blank_texts(_content(item))
    ours = (field_of(item, "origin") or "messages").startswith("messages")
    blocks = to_plain(field_of(item, "content_blocks")) if ours else None
    if isinstance(blocks, list) and _block_text(blocks) == item.content:
        # thinking and tool use are sent unchanged, because the API checks their signatures
        return [_block_to_send(block) for block in _without_blank_texts(blocks)]
    calls = _tool_calls(item)
    content = _without_blank_texts(_content(item))
    if isinstance(content, list):
        content = [_block_to_send(block) for block in content]
    if not calls:
        return content
    uses = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _json_object(call.arguments) or {}}
        for call in calls
    ]
    return _as_blocks(content) + uses


def _messages_image(url: str) -> dict[str, Any]:
    """Return an image as a block of Anthropic's API."""
    kind, is_base64, data = url.removeprefix("data:").partition(";base64,")
    if url.startswith("data:") and is_base64:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _block_to_send(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block of an earlier answer for the next prompt. Its `input`, if it has one, becomes a JSON object.

    A text is decoded; an `input` that gives no object becomes {}. A block without `input` is unchanged.
    """
    return {**block, "input": _json_object(block["input"]) or {}} if "input" in block else block


def _without_blank_texts(content: Any) -> Any:
    """Return the content without texts of white space, which the API refuses; "" or [] if nothing is left."""
    if isinstance(content, str):
        return content if content.strip() else ""
    return [part for part in content if part.get("type") != "text" or str(part.get("text") or "").strip()]


def _block_text(blocks: list[dict[str, Any]]) -> str:
    """Return the joined texts of blocks."""
    return "".join(block.get("text") or "" for block in blocks if block.get("type") == "text")


def _as_blocks(content: Any) -> list[dict[str, Any]]:
    """Return the content of a message for Anthropic's API as a new list of blocks; "" becomes an empty list."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def _join_instructions(instructions: list[Any]) -> Any:
    """Join the instructions into one text, or into a list of blocks if some are blocks; None if there are none."""
    if not instructions:
        return None
    parts = [part for part in map(_without_blank_texts, instructions) if part]
    if all(isinstance(part, str) for part in parts):
        return "\n\n".join(parts) or None
    return [block for part in parts for block in _as_blocks(part)]
