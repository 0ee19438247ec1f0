"""State machines that read the events of the provider APIs, one for each API, independent of sockets and clients."""

from miniagents.ext.llm._sessions.base import Choice, Outcome, Session, ToolUse
from miniagents.ext.llm._sessions.chat import ChatSession
from miniagents.ext.llm._sessions.fields import Tokens
from miniagents.ext.llm._sessions.messages import MessagesSession
from miniagents.ext.llm._sessions.output import ChatOutputSession, MessagesOutputSession, ResponsesOutputSession
from miniagents.ext.llm._sessions.responses import ResponsesSession

__all__ = [
    "ChatOutputSession",
    "ChatSession",
    "Choice",
    "MessagesOutputSession",
    "MessagesSession",
    "Outcome",
    "ResponsesOutputSession",
    "ResponsesSession",
    "Session",
    "Tokens",
    "ToolUse",
]
