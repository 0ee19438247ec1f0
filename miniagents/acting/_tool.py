"""Tools that a model may call: functions, agents and handoffs, and the set of tools of a model.

`tool` makes a `Tool` of a function or an agent, `handoff` one of an agent that takes over. `Toolset` checks what users
give as `tools=`. `_functions` runs what tools call, `_loop` answers a model's calls. Independent of providers.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from miniagents._agents.agent import MiniAgent, check_timeout
from miniagents.acting._functions import parameters_of, run_function, stream_replies, text_parameter
from miniagents.messages import MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from miniagents.acting._functions import Parameters
    from miniagents.messages import ToolCall

_is_name = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch

ToolLike = Callable[..., Any] | MiniAgent[Any] | Mapping[str, Any]
"""Items of `tools=`: functions, agents, what `tool` and `handoff` return, and tools in the form of a provider's API.

A `Tool` is no callable; `Toolset.of` takes it as well.
"""


class Tool(ABC):
    """A tool of a model: its name, description and parameters, and the work that a call starts.

    Args:
        name: 1 to 64 letters, digits, hyphens and underscores.
        description: text that tells the model when to call the tool.
        schema: JSON schema of the arguments, an object.
        timeout: seconds after which a call ends with an error; None for no limit.
        approve: agent that decides on each call before it runs; None to run all calls.

    Raises:
        ValueError: the name is not valid, or the description is empty.
        TypeError: `approve` is no agent, or an agent that needs arguments.
    """

    def __init__(
        self,
        name: str,
        description: str | None,
        schema: dict[str, Any],
        timeout: float | None = None,
        approve: MiniAgent[Any] | None = None,
    ) -> None:
        if not _is_name(name):
            raise ValueError(
                f"the name of a tool must be 1 to 64 letters, digits, hyphens and underscores, not {name!r}: "
                f"give another one with tool(..., name=)"
            )
        if not description or not description.strip():
            raise ValueError(
                f"tool {name!r} needs a description: write a docstring, or give tool(..., description=...)"
            )
        if timeout is not None:
            check_timeout(timeout)
        if approve is not None:
            _check_approver(name, approve)
        self.name = name
        self.description = description
        self.schema = schema
        self.timeout = timeout
        self.approver = approve

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lstrip('_')} {self.name}>"

    @abstractmethod
    def read_arguments(self, arguments: str) -> dict[str, Any]:
        """Return the arguments of a call as values.

        Raises:
            ToolError: the arguments are not valid.
        """

    @abstractmethod
    def run(self, call: ToolCall, arguments: dict[str, Any]) -> AsyncGenerator[str | tuple[Any, ...]]:
        """Run the tool, and yield the text of its result in pieces; yield a list of content parts as one tuple.

        Closing the generator stops the work.
        """


class _SignedTool(Tool):
    """A tool whose parameters come from a signature."""

    def __init__(
        self,
        name: str,
        description: str | None,
        parameters: Parameters,
        timeout: float | None = None,
        approve: MiniAgent[Any] | None = None,
    ) -> None:
        super().__init__(name, description, parameters.schema, timeout, approve)
        self._parameters = parameters

    def read_arguments(self, arguments: str) -> dict[str, Any]:
        """Return the arguments as values of the parameters' types; raise `ToolError` for others."""
        return self._parameters.read(arguments)


class FunctionTool(_SignedTool):
    """A function as a tool; a function that is not async runs in a thread of its own."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        description: str | None,
        timeout: float | None,
        approve: MiniAgent[Any] | None,
    ) -> None:
        plain = _without_partial(function)
        if inspect.isclass(plain):
            raise TypeError(f"a tool must be a function or an agent, not the class {plain.__qualname__}")
        if name is None:
            name = getattr(plain, "__name__", None) or type(plain).__name__
        parameters = parameters_of(name, function, (), is_agent=False)
        description = inspect.getdoc(plain) if description is None else description
        super().__init__(name, description, parameters, timeout, approve)
        self._function = function

    async def run(self, call: ToolCall, arguments: dict[str, Any]) -> AsyncGenerator[str | tuple[Any, ...]]:
        """Call the function, and yield what it returns or yields as text."""
        async with aclosing(run_function(self._function, arguments, self.name)) as pieces:
            async for piece in pieces:
                yield piece


class AgentTool(_SignedTool):
    """An agent as a tool: its result is what it replies, without its own calls and their results."""

    def __init__(
        self,
        agent: MiniAgent[Any],
        *,
        name: str | None,
        description: str | None,
        timeout: float | None,
        approve: MiniAgent[Any] | None,
    ) -> None:
        name = agent.alias.lower() if name is None else name
        parameters = _parameters_of_agent(name, agent)
        self._takes_message = not parameters.schema.get("properties")
        if self._takes_message:
            parameters = text_parameter(name, "message", "The message to the agent.")
        description = agent.description if description is None else description
        super().__init__(name, description, parameters, timeout, approve)
        self._agent = agent

    async def run(self, call: ToolCall, arguments: dict[str, Any]) -> AsyncGenerator[str | tuple[Any, ...]]:
        """Call the agent, and yield the text of its replies while they come; cancel it if the reader stops."""
        message = arguments.pop("message") if self._takes_message else None
        replies = self._agent.answer_tool_call(call, message, arguments)
        try:
            async with aclosing(stream_replies(replies)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            replies.cancel()  # an agent does not stop for want of readers


class Handoff(_SignedTool):
    """A tool whose call hands the conversation over to an agent and ends the tool loop."""

    def __init__(self, agent: MiniAgent[Any]) -> None:
        own = agent.alias.lower()
        name = f"handoff_to_{own}"
        description = f"Hands the conversation over to {own}. {agent.description or ''}".rstrip()
        super().__init__(name, description, _parameters_of_agent(name, agent))
        self.agent = agent

    async def run(self, call: ToolCall, arguments: dict[str, Any]) -> AsyncGenerator[str | tuple[Any, ...]]:
        """Yield the result of the call; the tool loop hands over after it."""
        yield f"The conversation goes on with {self.agent.alias.lower()}."


def tool(
    function_or_agent: Callable[..., Any] | MiniAgent[Any],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    approve: MiniAgent[Any] | None = None,
    timeout: float | None = None,
) -> Tool:
    """Return a function or an agent as a tool, with another name or description, an approver, or a timeout.

    The parameters of the function become a JSON schema, by their annotations and `Annotated[..., Field(...)]`.
    Arguments that `functools.partial` or `fork` bind are hidden from the model.

    Args:
        function_or_agent: a function, async function, async generator function, or agent.
        name: its name for the model; by default the function's name, or the agent's alias in lower case.
        description: text for the model; by default the docstring, or the agent's description.
        approve: agent that decides on each call before it runs: it is sent a `PendingApproval`, and replies the
            `Approval` that `grant()` or `refuse(reason)` returns.
        timeout: seconds after which a call is stopped and ends with an error. A function that is not async is
            abandoned: its thread goes on, and its result is dropped. The time of the approver does not count.

    Raises:
        TypeError: this is no function or agent, or a parameter has no annotation that pydantic knows; `approve` is no
            agent, or an agent that needs arguments.
        ValueError: the name is not valid, there is no description, or the timeout is negative.
    """
    if isinstance(function_or_agent, MiniAgent):
        return AgentTool(function_or_agent, name=name, description=description, timeout=timeout, approve=approve)
    if not callable(function_or_agent):
        raise TypeError(
            f"a tool must be a function or an agent, not {function_or_agent!r:.100}{_say_if_called(function_or_agent)}"
        )
    return FunctionTool(function_or_agent, name=name, description=description, timeout=timeout, approve=approve)


def handoff(agent: MiniAgent[Any], /) -> Tool:
    """Return a tool with which a model hands the conversation over to an agent.

    Its call ends the model's tool loop: the other calls of the same answer are answered first. Then the agent is sent
    all messages so far, and its replies become the last replies.

    Args:
        agent: the agent that takes over. Its free parameters are those of the tool.

    Raises:
        TypeError: this is no agent, or a parameter has no annotation that pydantic knows.
    """
    if not isinstance(agent, MiniAgent):
        raise TypeError(f"handoff() needs an agent, not {agent!r:.100}")
    return Handoff(agent)


class Toolset:
    """The tools of a model, checked: those that the tool loop runs, and dicts in a provider's form, for the caller.

    Args:
        items: tools, functions, agents, and dicts.

    Raises:
        TypeError: an item is no tool.
        ValueError: two tools have the same name, or an item is no valid tool.
    """

    def __init__(self, items: Iterable[ToolLike | Tool]) -> None:
        self._items = [item if isinstance(item, (Tool, Mapping)) else tool(item) for item in items]
        self._written: dict[str, list[Any]] = {}
        self.by_name: dict[str, Tool] = {}
        """The tools that the tool loop runs."""
        self.foreign_names: set[str] = set()
        """Names of the tools whose calls the caller answers."""
        for item in self._items:
            name = item.name if isinstance(item, Tool) else _name_in_dict(item)
            if name in self.by_name or name in self.foreign_names:
                raise ValueError(
                    f"two tools have the name {name!r}: give one of them another one with tool(..., name=)"
                )
            if isinstance(item, Tool):
                self.by_name[item.name] = item
            elif name is not None:
                self.foreign_names.add(name)

    @classmethod
    def of(cls, tools: Any) -> Toolset:
        """Return the tools that a user gave, which may be None; a `Toolset` is returned unchanged.

        Raises:
            TypeError: this is no list of tools, or an item is no tool.
            ValueError: an item is no valid tool, or two have the same name.
        """
        if isinstance(tools, cls):
            return tools
        if tools is None:
            return EMPTY
        if isinstance(tools, (str, Mapping, Tool, MiniAgent)) or not isinstance(tools, Iterable):
            raise TypeError(f"tools must be a list of functions, agents, tools and dicts, not {tools!r:.100}")
        return cls(tools)

    @property
    def needs_approval(self) -> bool:
        """True if an agent must approve the calls of some tool."""
        return any(tool.approver is not None for tool in self.by_name.values())

    @property
    def hands_over(self) -> bool:
        """True if some tool hands the conversation over, so that another agent may ask for approvals in it."""
        return any(isinstance(tool, Handoff) for tool in self.by_name.values())

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[Tool | Mapping[str, Any]]:
        return iter(self._items)

    def written(self, form: str, write: Callable[[Tool], dict[str, Any]]) -> list[Any]:
        """Return all tools in the form of an API; dicts are returned unchanged.

        Args:
            form: name of that form; the tools are written once for each form.
            write: function that writes one tool.
        """
        if form not in self._written:
            self._written[form] = [write(item) if isinstance(item, Tool) else item for item in self._items]
        return list(self._written[form])


EMPTY = Toolset(())
"""The tools of a model without tools."""


def _name_in_dict(fields: Mapping[str, Any]) -> str | None:
    """Return the name of a tool in the form of a provider's API; None for a tool that has only a type."""
    inner = next((fields[key] for key in ("function", "custom") if isinstance(fields.get(key), Mapping)), fields)
    name = inner.get("name")
    return name if isinstance(name, str) else None


def _check_approver(name: str, agent: object) -> None:
    """Raise `TypeError`, with the tool's `name`, unless this is an agent that can be called without more arguments."""
    if not isinstance(agent, MiniAgent):
        raise TypeError(f"tool {name!r}: approve must be an agent, not {agent!r:.100}")
    try:
        agent.check_arguments(agent.kwargs)
    except TypeError as error:
        raise TypeError(f"tool {name!r}: approve must be an agent that needs no arguments. {error}") from None


def _say_if_called(result: Any) -> str:
    """Return what to write in place of the result of a call; "" for other objects. Close a coroutine."""
    if isinstance(result, MessageSequencePromise):
        return ": write `agent`, not `agent.trigger(...)`"
    if not (inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result)):
        return ""
    if inspect.iscoroutine(result):
        result.close()  # or Python would warn that it was never awaited, too
    name = getattr(result, "__name__", "function")
    return f": write `{name}`, not `{name}(...)`"


def _without_partial(function: Any) -> Any:
    """Return the function inside of partial functions."""
    while isinstance(function, partial):
        function = function.func
    return function


def _parameters_of_agent(name: str, agent: MiniAgent[Any]) -> Parameters:
    """Return the parameters of an agent that no fork has bound, without its context; errors name the tool by `name`.

    An agent that stands for another agent, such as a remote agent, has the parameters of that other agent.
    """
    bound = {*agent.kwargs}
    while agent._stands_for is not None:
        agent = agent._stands_for
        bound |= agent.kwargs.keys()
    function = agent.function
    context = "ctx" if inspect.isclass(function) else next(iter(inspect.signature(function).parameters), "ctx")
    return parameters_of(name, function, {context, *bound}, is_agent=True)
