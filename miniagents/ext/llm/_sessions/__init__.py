"""One state machine a provider API: events in, text out, at the end what the answer came to. No sockets, no clients."""

from miniagents.ext.llm._sessions.base import Choice, Outcome, Session, Tokens, ToolUse
from miniagents.ext.llm._sessions.chat import ChatSession
from miniagents.ext.llm._sessions.messages import MessagesSession
from miniagents.ext.llm._sessions.responses import ResponsesSession

__all__ = ["ChatSession", "Choice", "MessagesSession", "Outcome", "ResponsesSession", "Session", "Tokens", "ToolUse"]
