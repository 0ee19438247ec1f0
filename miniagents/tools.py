"""Tools of models: the names that programs need to give an agent tools.

A function or an agent is a tool as it is; `tool` changes its name, its description or its timeout, or lets an agent
approve its calls. Models call tools in a loop, which `docs/how-to/tools.md` describes.
"""

from miniagents.acting._tool import Tool, handoff, tool
from miniagents.errors import ToolError, TooManyRoundsError
from miniagents.messages import Approval, PendingApproval, ToolMessage

__all__ = [
    "Approval",
    "PendingApproval",
    "TooManyRoundsError",
    "Tool",
    "ToolError",
    "ToolMessage",
    "handoff",
    "tool",
]
