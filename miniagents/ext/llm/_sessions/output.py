"""Sessions of answers whose output is a call of a tool: the arguments of that call are the text of the answer.

Text before the call is held back, as it is no part of the output: it comes only if the answer has no such call.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miniagents.ext.llm._sessions.base import Session
from miniagents.ext.llm._sessions.chat import ChatSession
from miniagents.ext.llm._sessions.messages import MessagesSession
from miniagents.ext.llm._sessions.responses import ResponsesSession
from miniagents.messages import ToolCallDelta

if TYPE_CHECKING:
    from miniagents.ext.llm._sessions.base import Outcome, ToolUse
    from miniagents.ext.llm.sse import ServerSentEvent


class _OutputCallSession(Session, ABC):
    """Mixin of sessions: the arguments of the first call of the output's tool become the text of the answer.

    Further calls of that tool are dropped.

    Args:
        tool: the name of the output's tool.
        options: arguments of the API's session.
    """

    def __init__(self, tool: str, *options: Any) -> None:
        self._tool = tool
        self._held: list[str] | None = []
        """Text that is held back; None once it is known that text is delivered, or not wanted."""
        self._places: list[int] = []
        """The places of the output's calls among all calls; the first one is the text."""
        self._sent = ""
        """Arguments that were delivered as text."""
        self._finished = False
        self._late: list[Any] = []
        """Events beside the text that the caller gets after the text of the last event."""
        self._own_withheld = ""
        super().__init__(*options)

    @property
    def withheld(self) -> str:
        """Text that was not delivered, for the error of a failed answer."""
        return "".join(self._held or ()) + self._own_withheld

    @withheld.setter
    def withheld(self, text: str) -> None:
        self._own_withheld = text

    def feed(self, event: ServerSentEvent) -> str:
        """Read the next event, and return the text that it adds to the output."""
        return self._select(super().feed(event))

    def feed_parsed(self, data: dict[str, Any]) -> str:
        """Read the next event in the parsed form of an SDK, and return the text that it adds to the output."""
        return self._select(super().feed_parsed(data))

    def parse(self, body: bytes) -> Outcome:
        """Read the body of an answer that was not streamed, and return its outcome.

        The pieces of the output's call are removed from the events beside the text.
        """
        outcome = super().parse(body)
        self.beside = [each for each in self.beside if not self._takes(each, [])]
        return outcome

    def _select(self, text: str) -> str:
        """Return the text that an event adds to the output: arguments of the output's call, or text without that call.

        Text is held back until another tool is called or the answer ends. Pieces of the output's call leave `beside`;
        those of a call that releases text stay there for the next event.
        """
        came: list[str] = []
        self.beside, self._late = self._late + self.beside, []
        if text and self._held is not None:
            self._held.append(text)
        elif text and not self._places:
            came.append(text)
        if self.beside:
            was_held = bool(self._held)
            self.beside = [each for each in self.beside if not self._takes(each, came)]
            if was_held and came:  # the text comes before the call that released it
                self.beside, self._late = [], self.beside
        if self.is_complete and not self._finished:
            self._finished = True
            came.append(self._rest())
        return "".join(came)

    def _takes(self, event: Any, came: list[str]) -> bool:
        """Return True for a piece of a call of the output's tool; add the arguments of the first such call to `came`.

        A call of another tool adds the text that was held back, and returns False.
        """
        if type(event) is not ToolCallDelta:
            return False
        if event.name == self._tool:
            self._places.append(event.index)
            self._held = None
        if event.index in self._places:
            if event.index == self._places[0]:
                self._sent += event.arguments
                came.append(event.arguments)
            return True
        if event.name is not None and self._held is not None:
            came += self._held  # the answer calls another tool: its text belongs to that
            self._held = None
        return False

    def _rest(self) -> str:
        """Return the part of a complete output that was not delivered: a whole call, or the text of no call."""
        held, self._held = self._held, None
        call = self._call(super().outcome())  # type: ignore[safe-super]  # the API's session has it
        if call is None:
            return "".join(held or ())
        rest = call.arguments.removeprefix(self._sent) if call.arguments.startswith(self._sent) else ""
        self._sent += rest
        return rest

    def take_beside(self) -> list[Any]:
        """Return the events beside the text that came since the last call, those held back last; then remove them."""
        self.beside, self._late = self.beside + self._late, []
        return super().take_beside()

    def _call(self, outcome: Outcome) -> ToolUse | None:
        """Return the first call of the output's tool in an answer; None if there is none."""
        return next((each for each in outcome.tool_calls if each.name == self._tool), None)

    def outcome(self) -> Outcome:
        """Return the values of the answer, with the arguments of the output's call as its text, and without such calls.

        An answer without that call is unchanged. The finish reason becomes `stop` if no other call is left.
        """
        outcome = super().outcome()  # type: ignore[safe-super]  # the API's session has it
        call = self._call(outcome)
        if call is None:
            return outcome
        others = tuple(each for each in outcome.tool_calls if each.name != self._tool)
        ends = outcome.finish_reason == "tool_calls" and not others
        return replace(
            outcome,
            content=call.arguments,
            tool_calls=others,
            finish_reason="stop" if ends else outcome.finish_reason,
        )


class ChatOutputSession(_OutputCallSession, ChatSession):
    """Session of a chat completion whose output is a call."""


class ResponsesOutputSession(_OutputCallSession, ResponsesSession):
    """Session of an answer of the Responses API whose output is a call."""


class MessagesOutputSession(_OutputCallSession, MessagesSession):
    """Session of an answer of Anthropic's API whose output is a call."""
