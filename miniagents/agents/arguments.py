"""What a call of an agent may be given: refused at the call, where the mistake is, and not in the replies."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["KeywordArguments", "check_timeout"]


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
