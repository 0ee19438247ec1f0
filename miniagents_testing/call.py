"""What a model was asked, once, in words that are the same for all APIs. Knows no scripts, no HTTP, no agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from miniagents._promising.freezing import short_repr
from miniagents._promising.frozen import FrozenDict
from miniagents.messages import AssistantMessage, Message, UserMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["API", "Call"]

API = Literal["chat", "responses", "messages"]
"""OpenAI's chat completions, OpenAI's Responses, Anthropic's messages."""

_SYSTEM_ROLES = ("system", "developer")
_CLASSES: dict[Any, type[Message]] = {"user": UserMessage, "assistant": AssistantMessage}
_NO_PARAMETERS = frozenset({"model", "messages", "input", "system", "instructions", "tools", "stream"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model: a snapshot that nothing changes any more.

    Args:
        number: of the call, from 1.
        api: which API was asked.
        request: the body of the request, as it was sent.
        agents: aliases of the agent that asked and of its callers, the innermost first; empty where no agent of this
            process did.
    """

    number: int
    api: API
    request: FrozenDict[str, Any]
    agents: tuple[str, ...] = ()

    @classmethod
    def of(cls, number: int, api: API, request: Mapping[str, Any], agents: tuple[str, ...] = ()) -> Call:
        """The call that a request is.

        Raises:
            FreezeError: the request holds something that is not JSON.
        """
        return cls(number, api, FrozenDict(request), agents)

    @property
    def agent(self) -> str | None:
        """Alias of the agent that asked."""
        return self.agents[0] if self.agents else None

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return str(self.request.get("model", ""))

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self.request.get("stream"))

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages but the instructions, in the provider's own form: tool calls and parts are as they were sent."""
        return tuple(_message(item) for item in self._items if item.get("role") not in _SYSTEM_ROLES)

    @property
    def system(self) -> str | None:
        """The text of the instructions, wherever the API has them."""
        messages = (item.get("content") for item in self._items if item.get("role") in _SYSTEM_ROLES)
        parts = [self.request.get("system"), self.request.get("instructions"), *messages]
        return "\n\n".join(str(Message(part)) for part in parts if part) or None

    @property
    def text(self) -> str:
        """The text of the last message; "" if there is none."""
        messages = self.messages
        return str(messages[-1]) if messages else ""

    @property
    def tools(self) -> tuple[FrozenDict[str, Any], ...]:
        """The tools that were offered, as they were sent."""
        return tuple(self.request.get("tools") or ())

    @property
    def parameters(self) -> FrozenDict[str, Any]:
        """Everything else that was asked: temperature, max_tokens, ..."""
        return FrozenDict({name: value for name, value in self.request.items() if name not in _NO_PARAMETERS})

    @property
    def _items(self) -> tuple[FrozenDict[str, Any], ...]:
        items = self.request.get("messages", self.request.get("input")) or ()
        return (FrozenDict(role="user", content=items),) if isinstance(items, str) else items

    def __str__(self) -> str:
        who = "" if self.agent is None else f" by {self.agent}"
        last = f", last message {short_repr(self.text)}" if self.messages else ""
        return f"call {self.number}{who} (api {self.api!r}, model {self.model!r}{last})"


def _message(item: Mapping[str, Any]) -> Message:
    role = item.get("role")
    kind = _CLASSES.get(role, Message)
    known = {"content"} if kind is Message else {"content", "role"}
    return kind(item.get("content"), **{name: value for name, value in item.items() if name not in known})
