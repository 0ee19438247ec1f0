"""One state machine a provider API: events in, text out, at the end what the answer came to. No sockets, no clients."""

from miniagents.ext.llm.sessions.base import Session
from miniagents.ext.llm.sessions.chat import ChatSession
from miniagents.ext.llm.sessions.messages import MessagesSession
from miniagents.ext.llm.sessions.outcome import Choice, Outcome, Tokens, ToolUse
from miniagents.ext.llm.sessions.responses import ResponsesSession

__all__ = ["ChatSession", "Choice", "MessagesSession", "Outcome", "ResponsesSession", "Session", "Tokens", "ToolUse"]
