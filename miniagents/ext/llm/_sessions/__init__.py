"""State machines that read the events of the provider APIs, one for each API, independent of sockets and clients."""

from miniagents.ext.llm._sessions.base import Choice, Outcome, Session, Tokens, ToolUse
from miniagents.ext.llm._sessions.chat import ChatSession
from miniagents.ext.llm._sessions.messages import MessagesSession
from miniagents.ext.llm._sessions.responses import ResponsesSession

__all__ = ["ChatSession", "Choice", "MessagesSession", "Outcome", "ResponsesSession", "Session", "Tokens", "ToolUse"]
