"""Agents: async functions, or classes with an async `__call__`, that can be sent messages.

`MiniAgent` is an agent and `miniagent` the decorator that makes one. The helpers below check arguments, so that a
wrong argument fails at the call and not among the replies. `interaction` runs the calls.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Never, NoReturn, Protocol, overload

from typing_extensions import ParamSpec, TypeVar

from miniagents._agents.interaction import AgentCall, AgentsContext, CallMessages, InteractionContext
from miniagents._agents.usage import check_limits
from miniagents.messages import Message, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from miniagents._agents.usage import Limits
    from miniagents.messages import MessageType, ToolCall


P = ParamSpec("P", default=...)
M_co = TypeVar("M_co", bound=Message, covariant=True, default=Message)
_AgentFunction = Callable[Concatenate[InteractionContext, P], Awaitable[Any]]

_CAPITALIZED_WORD_START = re.compile(r"(?<=[^\W_])(?=[A-Z][a-z])")


_METHODS_THAT_CALL = frozenset(
    {
        *("acall", "achat", "ainvoke", "arun", "ask", "astream", "call", "chat", "execute", "generate", "invoke"),
        *("kickoff", "predict", "run", "run_async", "run_stream", "run_sync", "send", "stream"),
    }
)
"""Names that other frameworks give to the method that calls an agent."""


class MiniAgent(Generic[P, M_co]):
    """An agent: `trigger` sends it messages and returns at once with the promise of its replies.

    The class parameters are for type checkers: the parameters of the function besides its context, and the class of
    the replies.

    Args:
        function: `async def agent(ctx, **kwargs)`, or a class with `async def __call__(self)`. Each call makes an
            instance of the class: `cls(ctx=ctx, **kwargs)`.
        alias: name in traces and logs; by default the function's name in upper case.
        description: text that says what the agent does; by default the docstring.
        kwargs: keyword arguments for each call, passed on unchanged.

    Raises:
        TypeError: the function is not async, or does not take one of these keyword arguments.
        ValueError: the alias is not one line of printable characters.
    """

    _stands_for: MiniAgent[..., Any] | None = None
    """Agent that this one calls with its own arguments (in another process, or only once); None if it calls none."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        alias: str | None = None,
        description: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        _check_function(function)
        self.function: Callable[..., Any] = function
        name = getattr(function, "__name__", type(function).__name__)
        self.alias: str = _check_alias(_CAPITALIZED_WORD_START.sub("_", name).upper() if alias is None else alias)
        self.description: str | None = inspect.getdoc(function) if description is None else description
        self.kwargs: dict[str, Any] = dict(kwargs or {})
        self.__name__ = name
        self.__doc__ = self.description
        self.__wrapped__ = function
        self._is_class = inspect.isclass(function)
        self._arguments = _KeywordArguments(function)
        self._arguments.check_known(self.alias, self.kwargs)

    def __repr__(self) -> str:
        return f"<MiniAgent {self.alias}>"

    if not TYPE_CHECKING:  # a type checker refuses both, and so does the agent, which says what to write

        def __call__(self, *args: object, **kwargs: object) -> NoReturn:
            """Raise `TypeError`: write `agent.trigger(...)`, not `agent(...)`."""
            raise TypeError(f"{self.alias} is an agent, no function: write `agent.trigger(...)`, not `agent(...)`")

        def __getattr__(self, name: str) -> NoReturn:
            """Raise `AttributeError`, with the line to write in place of the methods of other frameworks' agents."""
            problem = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in _METHODS_THAT_CALL:
                problem += (
                    ": write `await agent.trigger(...)`, or outside of a run `MiniAgents().run_agent(agent, ...)`, "
                    f"not `agent.{name}(...)`"
                )
            raise AttributeError(problem)

        def __await__(self) -> NoReturn:
            """Raise `TypeError`: write `await agent.trigger(...)`, not `await agent`."""
            raise TypeError(f"{self.alias} is an agent: write `await agent.trigger(...)`, not `await agent`")

    def run_function(self, ctx: InteractionContext, kwargs: dict[str, Any]) -> Awaitable[Any]:
        """Call the agent's function, or an instance of its class, and return the awaitable without awaiting it."""
        running: Awaitable[Any] = self.function(ctx=ctx, **kwargs)() if self._is_class else self.function(ctx, **kwargs)
        return running

    # One overload for each option, which is required there: a single one with `**kwargs: Any` would take any misspelled
    # keyword argument of the agent. Together with an option, these arguments are checked at the call only.

    @overload
    def trigger(
        self, messages: MessageType | None = None, *args: P.args, **kwargs: P.kwargs
    ) -> MessageSequencePromise[M_co]: ...

    @overload
    def trigger(
        self,
        messages: MessageType | None = None,
        *,
        start_soon: bool | None,
        errors_as_messages: bool | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> MessageSequencePromise[M_co]: ...

    @overload
    def trigger(
        self,
        messages: MessageType | None = None,
        *,
        errors_as_messages: bool | None,
        timeout: float | None = None,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> MessageSequencePromise[M_co]: ...

    @overload
    def trigger(
        self,
        messages: MessageType | None = None,
        *,
        timeout: float | None,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> MessageSequencePromise[M_co]: ...

    @overload
    def trigger(
        self, messages: MessageType | None = None, *, limits: Limits | None, **kwargs: Any
    ) -> MessageSequencePromise[M_co]: ...

    def trigger(  # type: ignore[misc]  # the overloads say what is legal: parameters by keyword only
        self,
        messages: MessageType | None = None,
        *others: Never,
        start_soon: bool | None = None,
        errors_as_messages: bool | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> MessageSequencePromise[M_co]:
        """Call the agent with these messages, and return the promise of its replies at once.

        Args:
            messages: messages, or anything else that may be sent, see `MessageType`.
            others: none: several messages are sent as a list.
            start_soon: True to begin without a reader; None takes the context's default.
            errors_as_messages: True to get an error as an `ErrorMessage` among the replies; None takes the context's
                default.
            timeout: seconds after which the agent is cancelled; the replies then end with a `TimeoutError`.
            limits: limits of this call with all calls that it makes, in addition to those of the callers and the run.
            kwargs: keyword arguments of the agent; they win over those of `fork`.

        Raises:
            TypeError: a part of `messages` cannot be sent, the agent cannot be called with these keyword arguments, or
                `limits` are no `Limits`.
            ValueError: the timeout is negative or NaN.
            NoActiveContextError: the caller runs outside of a `MiniAgents` context.
        """
        if others:
            raise_for_several_messages("agent.trigger(")
        kwargs = self._merge_checked(kwargs, timeout)
        sequence = MessageSequencePromise.of_items(messages)
        interaction = self._make_interaction(sequence, kwargs, errors_as_messages, timeout, limits)
        replies: MessageSequencePromise[Any] = interaction.start(start_soon)
        return replies

    def initiate_call(
        self,
        messages: MessageType | None = None,
        *others: Never,
        start_soon: bool | None = None,
        errors_as_messages: bool | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
        **kwargs: Any,
    ) -> AgentCall:
        """Call the agent like `trigger`, to send it further messages one by one while it works.

        Raise the same errors. The call stays open until `AgentCall.finish`, or until the calling agent or the run ends.
        """
        if others:
            raise_for_several_messages("agent.initiate_call(")
        kwargs = self._merge_checked(kwargs, timeout)
        incoming = CallMessages().open()
        if messages is not None:
            incoming.append(messages)
        interaction = self._make_interaction(incoming.sequence_promise, kwargs, errors_as_messages, timeout, limits)
        return AgentCall(incoming, interaction.start(start_soon), AgentsContext.get_current().current_call_scope())

    def answer_tool_call(
        self, tool_call: ToolCall, messages: MessageType | None, arguments: dict[str, Any]
    ) -> MessageSequencePromise:
        """Call the agent as the tool that a model has called, and return the promise of its replies; not for users.

        Raise the same errors as `trigger`; an error of the agent stays an error among the replies.

        Args:
            tool_call: the model's call, which the agent finds as `ctx.tool_call`.
            messages: messages to send to the agent.
            arguments: keyword arguments of the agent; those of `fork` are added.
        """
        kwargs = self._merge_checked(arguments, None)
        sequence = MessageSequencePromise.of_items(messages)
        return self._make_interaction(sequence, kwargs, False, None, None).start_for_tool_call(tool_call)

    def _merge_checked(self, kwargs: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """Check the timeout and the keyword arguments of a call, and return the agent's ones overridden by the call's.

        Raises:
            TypeError: the agent cannot be called with these keyword arguments, or the timeout is no number.
            ValueError: the timeout is negative or NaN.
        """
        if timeout is not None:
            check_timeout(timeout)
        if self.kwargs:
            kwargs = {**self.kwargs, **kwargs}
        self.check_arguments(kwargs)
        return kwargs

    def check_arguments(self, kwargs: dict[str, Any]) -> None:
        """Check the keyword arguments of a call before it begins. A subclass may check more of them.

        Raises:
            TypeError: the agent cannot be called with these keyword arguments.
        """
        self._arguments.check(self.alias, kwargs)

    def _make_interaction(
        self,
        messages: MessageSequencePromise,
        kwargs: dict[str, Any],
        errors_as_messages: bool | None,
        timeout: float | None,
        limits: Limits | None,
    ) -> InteractionContext:
        """Return the context of one call, with the run context's default if `errors_as_messages` is None.

        Raises:
            TypeError: the limits are no `Limits`.
            NoActiveContextError: the caller runs outside of a `MiniAgents` context.
        """
        if limits is not None:
            check_limits(limits)
        context = AgentsContext.get_current("`agent.trigger(...)`")
        if errors_as_messages is None:
            errors_as_messages = context.errors_as_messages
        # by position: to call a class with keywords, Python makes a dict of them
        return InteractionContext(self, messages, kwargs, timeout, errors_as_messages, limits, context)

    @overload
    def fork(self, *, alias: str | None = None, description: str | None = None) -> Self: ...

    @overload
    def fork(
        self, *, alias: str | None = None, description: str | None = None, output: object, **kwargs: Any
    ) -> MiniAgent[..., Any]: ...

    @overload
    def fork(
        self, *, alias: str | None = None, description: str | None = None, **kwargs: Any
    ) -> MiniAgent[..., M_co]: ...

    def fork(self, *, alias: str | None = None, description: str | None = None, **kwargs: Any) -> MiniAgent[..., M_co]:
        """Return a copy of the agent with other keyword arguments; a fork of a fork has the arguments of both.

        Args:
            alias: name in traces and logs; by default that of this agent.
            description: text that says what the agent does; by default that of this agent.
            kwargs: keyword arguments for each call; they win over those of this agent.

        Raises:
            TypeError: the agent does not take one of these keyword arguments.
            ValueError: the alias is not one line of printable characters.
        """
        self._arguments.check_known(self.alias, kwargs)
        fork = copy.copy(self)
        fork.alias = self.alias if alias is None else _check_alias(alias)
        fork.description = fork.__doc__ = self.description if description is None else description
        fork.kwargs = {**self.kwargs, **kwargs}
        return fork


class _Decorator(Protocol):
    """The type of `miniagent(...)` with arguments."""

    @overload
    def __call__(self, function: _AgentFunction[P], /) -> MiniAgent[P]: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> MiniAgent[...]: ...


@overload
def miniagent(function: _AgentFunction[P], /) -> MiniAgent[P]: ...
@overload
def miniagent(function: Callable[..., Any], /) -> MiniAgent[...]: ...
@overload
def miniagent(*, alias: str | None = None, description: str | None = None, **kwargs: Any) -> _Decorator: ...
def miniagent(
    function: Any = None, /, *, alias: str | None = None, description: str | None = None, **kwargs: Any
) -> Any:
    """Make an agent of an async function or of a class with an async `__call__`; a decorator with optional arguments.

    Args:
        function: the decorated function or class.
        alias: name in traces and logs; by default the function's name in upper case.
        description: text that says what the agent does; by default the docstring.
        kwargs: keyword arguments for each call.

    Raises:
        TypeError: the function is not async, or does not take one of these keyword arguments.
        ValueError: the alias is not one line of printable characters.
    """
    if function is None:
        return lambda function: MiniAgent(function, alias=alias, description=description, kwargs=kwargs)
    return MiniAgent(function, alias=alias, description=description, kwargs=kwargs)


def raise_for_several_messages(call: str) -> NoReturn:
    """Raise `TypeError` for messages that were given one by one; `call` is the beginning of the line to write."""
    raise TypeError(f"Messages are one argument: write `{call}[first, second])`, not `{call}first, second)`")


def _check_alias(alias: str) -> str:
    """Return the alias; raise `ValueError` for one that would break the lines of traces, logs and error texts."""
    if not alias.isprintable():
        raise ValueError(f"An alias must be one line of printable characters, not {alias!r}")
    return alias


def _check_function(function: Any) -> None:
    """Raise `TypeError`, with what to write instead, for an object that cannot be the function of an agent."""
    if isinstance(function, MiniAgent):
        raise TypeError("An agent must be an async function, no agent: write `agent.fork(...)`, not `miniagent(agent)`")
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"An agent must be an async function that replies by its context: write `ctx.reply(...)`, not `yield ...`, "
            f"in {function!r}"
        )
    if not _is_async(function):
        wrong = f"; write `async def {function.__name__}(ctx):`, not `def`" if inspect.isfunction(function) else ""
        raise TypeError(
            f"An agent must be an async function, or a class with an async __call__, not {function!r}{wrong}"
        )


def _check_no_method(function: Any, first: str) -> None:
    """Raise `TypeError` for a method: a function in the body of a class whose first parameter has the name `self`.

    `first` is the name of the function's first parameter.
    """
    owner, _, name = getattr(function, "__qualname__", "").rpartition(".")
    if first == "self" and owner and not owner.endswith("<locals>"):
        raise TypeError(
            f"An agent is a function, and {function.__qualname__} is a method: write `async def {name}(ctx):` outside "
            f"of the class, `miniagent({owner.rpartition('.')[2].lower()}.{name})` for an object, or `@miniagent` "
            "above a class with an async `__call__`"
        )


def _is_async(function: Any) -> bool:
    """Return True for async functions, for classes and objects with an async `__call__`, and for partials of them."""
    if not callable(function):
        return False
    function = inspect.unwrap(getattr(function, "func", function))
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function if inspect.isclass(function) else type(function), "__call__", None)  # noqa: B004 - is it async?
    return inspect.iscoroutinefunction(call)


_signature = partial(inspect.signature, follow_wrapped=False)
if sys.version_info >= (3, 14):
    from annotationlib import Format

    # Annotations are not needed here, and may use names that are imported for type checkers only.
    _signature = partial(_signature, annotation_format=Format.STRING)


class _KeywordArguments:
    """Names of the keyword arguments that an agent's function takes besides its context, read once for each agent.

    They are read from the function itself, also if it wraps another function. A `__signature__` may differ from the
    arguments that the call takes: a function that has one checks its arguments itself.
    """

    __slots__ = ("_context_name", "_known", "_required")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._known: frozenset[str] | None = None
        """None for a function that takes any keyword argument."""
        self._required: frozenset[str] = frozenset()
        self._context_name = "ctx" if inspect.isclass(function) else ""
        if hasattr(function, "__signature__"):
            return
        try:
            parameters = list(_signature(function).parameters.values())
        except (TypeError, ValueError):  # a callable without a signature, written in C for instance
            return
        if not self._context_name:
            first = parameters[0].kind if parameters else None
            if first is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                self._context_name = parameters[0].name
                _check_no_method(function, self._context_name)
            elif first not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
                name = getattr(function, "__name__", "agent")
                raise TypeError(
                    f"An agent gets its context: write `async def {name}(ctx, ...):`, not `async def {name}(...):`"
                )
        by_name = {
            parameter.name: parameter
            for parameter in parameters
            if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            and parameter.name != self._context_name
        }
        self._required = frozenset(name for name, each in by_name.items() if each.default is inspect.Parameter.empty)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            self._known = frozenset(by_name)

    def check_known(self, alias: str, arguments: Mapping[str, Any]) -> None:
        """Raise `TypeError` for an argument that the agent does not take; arguments may be missing.

        An agent with `**kwargs` takes all names but that of its context. The error names the agent by `alias`.
        """
        if self._known is None:
            if self._context_name in arguments:
                raise TypeError(f"Agent {alias} gets {self._context_name!r} from MiniAgents: leave it out")
        elif not arguments.keys() <= self._known:
            unknown = ", ".join(repr(name) for name in arguments if name not in self._known)
            known = ", ".join(sorted(self._known)) or "none"
            raise TypeError(f"Agent {alias} does not take the keyword argument(s) {unknown}; it takes: {known}")

    def check(self, alias: str, arguments: Mapping[str, Any]) -> None:
        """Raise `TypeError` for an argument that the agent does not take, or a required argument that is missing.

        The error names the agent by `alias`.
        """
        names = arguments.keys()
        if self._known is None or not names <= self._known:
            self.check_known(alias, arguments)
        if self._required and not self._required <= names:
            missing = ", ".join(repr(name) for name in sorted(self._required - arguments.keys()))
            raise TypeError(f"Agent {alias} needs the keyword argument(s) {missing}: give them here or by `fork`")


def check_timeout(timeout: object) -> None:
    """Raise `TypeError` unless this is a number of seconds, and `ValueError` if it is negative or NaN."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, or None, not {timeout!r}")
    if not timeout >= 0:  # NaN is refused, too
        raise ValueError(f"timeout must not be negative, nor NaN: {timeout!r}")
