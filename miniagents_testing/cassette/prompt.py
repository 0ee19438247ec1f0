"""What a recorded request asked: its model, and the end of its prompt, out of the JSON of any provider's API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Prompt", "Turn", "read_prompt"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What can be said of a request body; empty where it is none of a model's."""

    model: str = ""
    turns: tuple[Turn, ...] = ()
    """What came after the model's last word: often one message of the user, sometimes several results of tools."""
    choices: int | None = None
    """How many answers were asked for, where that is said."""

    @property
    def last(self) -> Turn:
        """The message that the answer is to."""
        return self.turns[-1] if self.turns else Turn("", "")


def read_prompt(body: bytes) -> Prompt:
    """The prompt in a request body, whatever it is."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return Prompt()
    if not isinstance(request, dict):
        return Prompt()
    said = request.get("messages") or request.get("input") or request.get("prompt") or ()
    items = [said] if isinstance(said, (str, dict)) else list(said) if isinstance(said, (list, tuple)) else []
    instructions = _content_text(request.get("system") or request.get("instructions"))  # messages of their own in chats
    turns = [Turn("system", instructions)] if instructions else []
    for item in items:
        turn = _turn(item)
        if turn.role in ("assistant", "model"):
            turns.clear()
        else:
            turns.append(turn)
    choices = request.get("n")
    return Prompt(str(request.get("model") or ""), tuple(turns), choices if isinstance(choices, int) else None)


def _turn(item: Any) -> Turn:
    if not isinstance(item, dict):
        return Turn("user", _content_text(item))
    kind = str(item.get("type") or "message")
    if kind != "message":  # Responses: calls of tools and their results stand beside the messages
        result = kind.endswith("_output")
        return Turn("tool" if result else "assistant", _content_text(item.get("output") if result else item))
    content = item.get("content")
    role = str(item.get("role") or "user")
    if isinstance(content, list) and content and all(_is_tool_result(part) for part in content):
        role = "tool"  # Anthropic: the user brings them
    return Turn(role, _content_text(content))


def _is_tool_result(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("type") or "").endswith("tool_result")


def _content_text(content: Any) -> str:
    """The text of a message's content: a string, or parts of which some are no text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(_content_text, content)))
    if not isinstance(content, dict):
        return str(content)
    for key in ("text", "content", "output"):
        if isinstance(content.get(key), (str, list)):
            return _content_text(content[key])
    return f"[{content.get('type') or 'something'}]"  # an image, a document
