"""MiniAgent: a plain async function (or a class with an async `__call__`) that can be sent messages.

What a call of an agent may be given: refused at the call, where the mistake is, and not in the replies.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, overload

from miniagents._agents.interaction import AgentCall, AgentsContext, InteractionContext
from miniagents.messages import MessageSequence, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from miniagents.messages import MessageType


_signature = partial(inspect.signature, follow_wrapped=False)
if sys.version_info >= (3, 14):
    from annotationlib import Format

    # annotations are of no interest here, and may name what is imported for type checkers only
    _signature = partial(_signature, annotation_format=Format.STRING)


class KeywordArguments:
    """The keyword arguments an agent's function takes besides its context; found out once an agent.

    A signature that is only declared (`__signature__`, or that of what a decorator wraps) says nothing about what the
    call itself takes: such a function is left to refuse what it does not know.
    """

    __slots__ = ("_known", "_of_context", "_required")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._known: frozenset[str] | None = None
        """None of a function that takes any."""
        self._required: frozenset[str] = frozenset()
        self._of_context = "ctx" if inspect.isclass(function) else ""
        if hasattr(function, "__signature__"):
            return
        try:
            parameters = list(_signature(function).parameters.values())
        except (TypeError, ValueError):  # a callable without a signature, written in C for instance
            return
        if not self._of_context and parameters and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            self._of_context = parameters[0].name
        by_name = {
            parameter.name: parameter
            for parameter in parameters
            if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            and parameter.name != self._of_context
        }
        self._required = frozenset(name for name, each in by_name.items() if each.default is inspect.Parameter.empty)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            self._known = frozenset(by_name)

    def check_known(self, alias: str, arguments: Mapping[str, Any]) -> None:
        """Raise `TypeError` for an argument that the agent cannot be given."""
        if self._known is None:
            if self._of_context in arguments:
                raise TypeError(f"Agent {alias} gets {self._of_context!r} from whoever runs it: leave it out")
        elif not arguments.keys() <= self._known:
            unknown = ", ".join(repr(name) for name in arguments if name not in self._known)
            known = ", ".join(sorted(self._known)) or "none"
            raise TypeError(f"Agent {alias} does not take the keyword argument(s) {unknown}; it takes: {known}")

    def check(self, alias: str, arguments: Mapping[str, Any]) -> None:
        """Raise `TypeError` unless the agent can be called with these."""
        self.check_known(alias, arguments)
        if not self._required <= arguments.keys():
            missing = ", ".join(repr(name) for name in sorted(self._required - arguments.keys()))
            raise TypeError(f"Agent {alias} needs the keyword argument(s) {missing}: give them here or by `fork`")


def check_timeout(timeout: object) -> None:
    """Raise `TypeError` or `ValueError` unless this is None or a number of seconds."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, or None, not {timeout!r}")
    if not timeout >= 0:  # NaN is not either
        raise ValueError(f"timeout must not be negative, nor NaN: {timeout!r}")


P = ParamSpec("P")
AgentFunction = Callable[Concatenate[InteractionContext, P], Awaitable[Any]]

_HUMP = re.compile(r"(?<=[^\W_])(?=[A-Z][a-z])")


class MiniAgent(Generic[P]):
    """An agent: `trigger` sends it messages and returns at once with the promise of its replies.

    Args:
        function: `async def agent(ctx, **kwargs)`, or a class whose instances, made for each call as
            `cls(ctx=ctx, **kwargs)`, have an `async def __call__(self)`.
        alias: how it is named in traces; by default the function's name in upper case.
        description: what it does; by default the docstring.
        kwargs: keyword arguments for each call, passed on untouched.

    Raises:
        TypeError: the function is not async, or does not take such a keyword argument.
        ValueError: the alias is not one line of printable characters.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        alias: str | None = None,
        description: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not _is_async(function):
            raise TypeError(f"An agent must be an async function, or a class with an async __call__, not {function!r}")
        self.function: Callable[..., Any] = function
        name = getattr(function, "__name__", type(function).__name__)
        self.alias = _checked_alias(_HUMP.sub("_", name).upper() if alias is None else alias)
        self.description = inspect.getdoc(function) if description is None else description
        self.kwargs = dict(kwargs or {})
        self.__name__ = name
        self.__doc__ = self.description
        self.__wrapped__ = function
        self._is_class = inspect.isclass(function)
        self._arguments = KeywordArguments(function)
        self._arguments.check_known(self.alias, self.kwargs)

    def __repr__(self) -> str:
        return f"<MiniAgent {self.alias}>"

    def run_function(self, ctx: InteractionContext, kwargs: dict[str, Any]) -> Awaitable[Any]:
        """The call itself, without any of the machinery around it."""
        running: Awaitable[Any] = self.function(ctx=ctx, **kwargs)() if self._is_class else self.function(ctx, **kwargs)
        return running

    @overload
    def trigger(
        self, messages: MessageType | None = None, *args: P.args, **kwargs: P.kwargs
    ) -> MessageSequencePromise: ...

    @overload
    def trigger(
        self,
        messages: MessageType | None = None,
        *,
        start_soon: bool | None = None,
        errors_as_messages: bool | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> MessageSequencePromise: ...

    def trigger(  # type: ignore[misc]  # the overloads say what is legal: parameters by keyword only
        self,
        messages: MessageType | None = None,
        *,
        start_soon: bool | None = None,
        errors_as_messages: bool | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> MessageSequencePromise:
        """Call the agent with these messages; returns at once.

        Args:
            messages: whatever may be sent, see `MessageType`.
            start_soon: whether it begins without waiting for a reader; None takes the context's default.
            errors_as_messages: an error becomes an `ErrorMessage` among the replies; None takes the context's default.
            timeout: seconds after which the agent is cancelled; the replies then end with a `TimeoutError`.
            kwargs: keyword arguments of the agent, on top of those it was forked with.

        Raises:
            TypeError: a part of `messages` cannot be sent, or the agent cannot be called with these keyword arguments.
            ValueError: the timeout is negative or NaN.
            NoActiveContextError: no `MiniAgents` context is open here.
        """
        kwargs = self._checked(kwargs, timeout)
        sequence = MessageSequencePromise.of_items(messages)
        return self._interaction(sequence, kwargs, errors_as_messages, timeout).start(start_soon)

    def initiate_call(
        self,
        messages: MessageType | None = None,
        *,
        start_soon: bool | None = None,
        errors_as_messages: bool | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> AgentCall:
        """Like `trigger`, for messages that are sent one by one while the agent already works."""
        kwargs = self._checked(kwargs, timeout)
        incoming = MessageSequence().open()
        if messages is not None:
            incoming.append(messages)
        interaction = self._interaction(incoming.sequence_promise, kwargs, errors_as_messages, timeout)
        return AgentCall(incoming, interaction.start(start_soon), AgentsContext.get_current().current_call_scope())

    def _checked(self, kwargs: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """What the function is going to get; whatever cannot work is refused before anything has begun."""
        check_timeout(timeout)
        if self.kwargs:
            kwargs = {**self.kwargs, **kwargs}
        self.check_arguments(kwargs)
        return kwargs

    def check_arguments(self, kwargs: dict[str, Any]) -> None:
        """Refuse keyword arguments that cannot work, before anything has begun; a subclass may know more of them.

        Raises:
            TypeError: the agent cannot be called with these.
        """
        self._arguments.check(self.alias, kwargs)

    def _interaction(
        self,
        messages: MessageSequencePromise,
        kwargs: dict[str, Any],
        errors_as_messages: bool | None,
        timeout: float | None,
    ) -> InteractionContext:
        context = AgentsContext.get_current()
        if errors_as_messages is None:
            errors_as_messages = context.errors_as_messages
        return InteractionContext(
            self,
            messages,
            kwargs,
            timeout=timeout,
            errors_as_messages=errors_as_messages,
        )

    def fork(self, *, alias: str | None = None, description: str | None = None, **kwargs: Any) -> Self:
        """The same agent with other keyword arguments; of two forks in a row, the later one wins.

        Raises:
            TypeError: the agent does not take such a keyword argument.
            ValueError: the alias is not one line of printable characters.
        """
        self._arguments.check_known(self.alias, kwargs)
        fork = copy.copy(self)
        fork.alias = self.alias if alias is None else _checked_alias(alias)
        fork.description = fork.__doc__ = self.description if description is None else description
        fork.kwargs = {**self.kwargs, **kwargs}
        return fork


def _checked_alias(alias: str) -> str:
    """An alias stands in traces, logs and error texts, which people read on terminals."""
    if not alias.isprintable():
        raise ValueError(f"An alias must be one line of printable characters, not {alias!r}")
    return alias


def _is_async(function: Any) -> bool:
    """Async functions, objects with an async `__call__`, and partials of them."""
    if not callable(function):
        return False
    function = inspect.unwrap(getattr(function, "func", function))
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function if inspect.isclass(function) else type(function), "__call__", None)  # noqa: B004 - is it async?
    return inspect.iscoroutinefunction(call)


class _Decorator(Protocol):
    """`miniagent` with arguments."""

    @overload
    def __call__(self, function: AgentFunction[P], /) -> MiniAgent[P]: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> MiniAgent[...]: ...


@overload
def miniagent(function: AgentFunction[P], /) -> MiniAgent[P]: ...
@overload
def miniagent(function: Callable[..., Any], /) -> MiniAgent[...]: ...
@overload
def miniagent(*, alias: str | None = None, description: str | None = None, **kwargs: Any) -> _Decorator: ...
def miniagent(
    function: Any = None, /, *, alias: str | None = None, description: str | None = None, **kwargs: Any
) -> Any:
    """Make an agent of an async function or of a class with an async `__call__`; with or without arguments.

    Args:
        function: what is decorated.
        alias: how it is named in traces; by default the function's name in upper case.
        description: what it does; by default the docstring.
        kwargs: keyword arguments for each call.

    Raises:
        TypeError: it is not async, or does not take such a keyword argument.
    """
    if function is None:
        return lambda function: MiniAgent(function, alias=alias, description=description, kwargs=kwargs)
    return MiniAgent(function, alias=alias, description=description, kwargs=kwargs)
