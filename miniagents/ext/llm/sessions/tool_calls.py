"""Tool calls of a chat completion, put together from fragments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from miniagents.ext.llm.sessions.outcome import ToolUse

__all__ = ["ToolCallCollector"]


@dataclass(slots=True)
class _Draft:
    index: Any
    id: str = ""
    name: str = ""
    type: str = "function"
    arguments: list[str] = field(default_factory=list)


class ToolCallCollector:
    """Finds out which call a fragment belongs to.

    OpenAI numbers the calls and gives id and name in the first fragment only. Others send every call with index 0
    (Ollama), without an index (Gemini), or the id in every fragment. So: the same index is the same call, unless it
    comes with a new id.
    """

    __slots__ = ("_drafts", "_latest")

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._latest: dict[Any, _Draft] = {}  # the call that is open under an index

    def __bool__(self) -> bool:
        return bool(self._drafts)

    def feed(self, fragment: dict[str, Any]) -> None:
        """Take one item of `delta.tool_calls`; raises `ValueError` on what cannot be one."""
        function = fragment.get("function") or fragment.get("custom") or {}
        if not isinstance(function, dict):
            raise ValueError(f"a tool call whose function is {function!r}")  # noqa: TRY004 - wrong data, not a wrong call
        index = fragment.get("index")
        if index is not None and (type(index) is not int or index < 0):
            raise ValueError(f"a tool call with index {index!r}")
        id_, name = str(fragment.get("id") or ""), str(function.get("name") or "")
        draft = self._find(index, id_, name)
        draft.id = draft.id or id_
        if name and name != draft.name:
            draft.name += name
        if fragment.get("type"):
            draft.type = str(fragment["type"])
        arguments = function.get("arguments", function.get("input"))
        if arguments is None:
            return
        if not isinstance(arguments, str):
            raise ValueError(f"tool call arguments are {type(arguments).__name__}")  # noqa: TRY004 - as above
        draft.arguments.append(arguments)

    def _find(self, index: int | None, id_: str, name: str) -> _Draft:
        draft = self._latest.get(index)
        if draft is None or (id_ and draft.id and id_ != draft.id) or (index is None and name and not id_):
            draft = next((known for known in self._drafts if id_ and known.id == id_ and index is None), None)
        if draft is None:
            draft = _Draft(index)
            self._drafts.append(draft)
        self._latest[index] = draft
        return draft

    def result(self) -> tuple[ToolUse, ...]:
        """The calls so far, in the order of their indexes where they have different ones, else in that of arrival."""
        drafts = self._drafts
        indexes = [draft.index for draft in drafts]
        if None not in indexes and len(set(indexes)) == len(indexes):
            drafts = sorted(drafts, key=lambda draft: draft.index)
        return tuple(ToolUse(draft.id, draft.name, "".join(draft.arguments), draft.type) for draft in drafts)
