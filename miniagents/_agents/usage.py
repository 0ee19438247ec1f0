"""Requests and tokens of a call and of a run: their totals, their limits, and what they cost.

A request counts for the call of the agent that sends it, for all callers of that call, and for the run. `RequestMeter`
counts the requests of one call: it checks the limits before each request, innermost first. Nothing here happens for
each token.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from miniagents.errors import LimitExceededError, PriceUnknownError
from miniagents.messages import Usage

if TYPE_CHECKING:
    from typing import Self

    from miniagents._promising.context import PromisingContext

Price = Callable[[str, Usage], float | None]
"""Function that returns what a request costs; it gets the name of the model and the usage. None: it is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a run, or of one call of an agent with all that it calls; None for no limit.

    They are checked before each request to a model. A request that would begin at or above a limit is not sent: it
    fails with `LimitExceededError`.

    Raises:
        TypeError: a limit is no number.
        ValueError: a limit is negative or NaN.
    """

    requests: int | None = None
    """Number of requests. It is exact, also if requests run in parallel."""
    input_tokens: int | None = None
    """Tokens of all prompts. Requests that run in parallel may exceed it by what they take."""
    output_tokens: int | None = None
    """Tokens of all answers, likewise."""
    cost: float | None = None
    """Cost of all requests, likewise, in the currency of the prices: US dollars, unless `MiniAgents(price=)` differs.

    A model without a known price is refused with `PriceUnknownError`.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"Limits: {field.name} must be a number or None, not NaN")
            whole = field.name != "cost"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise TypeError(f"Limits: {field.name} must be {'an int' if whole else 'a number'}, not {value!r}")
            if value < 0:
                raise ValueError(f"Limits: {field.name} must not be negative, but it is {value!r}")


def check_limits(limits: Any) -> None:
    """Raise `TypeError` if an argument `limits=` is neither a `Limits` nor None."""
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits, such as Limits(requests=10), not {limits!r}")


EndRequest = Callable[[str | None, Usage | None, bool], None]
"""Function to call when a request has ended.

It gets the name of the model in the answer, and the usage, each of them None if it did not come, and True if the answer
is complete.
"""


class _Request:
    """Request that has ended: what it took, what it costs, and the agents on whose behalf it was sent."""

    __slots__ = ("_cost", "_price", "aliases", "is_known", "models", "usage")

    def __init__(
        self, aliases: tuple[str, ...], models: tuple[str, ...], usage: Usage | None, complete: bool, price: Price
    ) -> None:
        self.aliases = aliases
        """Aliases of the agent that sent it, and of the callers, in this order."""
        self.models = models
        """Names of the model that may have a price: as it answered, and as it was asked for."""
        self.usage = usage
        self.is_known = complete and usage is not None
        """True if the usage is that of the whole answer."""
        self._price: Price | None = price
        self._cost: float | None = None

    def cost(self) -> float | None:
        """Return what the request cost, None if its price is not known; the price is asked for once."""
        if self._price is not None:
            price, self._price = self._price, None
            costs = (price_of(price, model, self.usage or Usage()) for model in self.models)
            self._cost = next((cost for cost in costs if cost is not None), None)
        return self._cost


def price_of(price: Price, model: str, usage: Usage) -> float | None:
    """Return what the function says, and None if it does not find the model (`LookupError`)."""
    try:
        return price(model, usage)
    except LookupError:
        return None


_MOST_WAITING = 256
"""Number of requests that wait to be priced, or to be sorted by agent, until a program asks for that."""


class UsageTotals:
    """Totals of a call, or of a run; they grow while it works.

    `requests` counts each attempt, failed and cancelled ones included. `unknown` of them ended without the usage of a
    whole answer, so that tokens are missing in the other numbers.
    """

    __slots__ = (
        "_by_agent",
        "_cost",
        "_unpriced",
        "_unsorted",
        "cache_write_tokens",
        "cached_tokens",
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "requests",
        "unknown",
    )

    def __init__(self) -> None:
        self.requests = 0
        """Requests that have begun."""
        self.unknown = 0
        """Requests that failed or were cancelled, or whose usage the provider did not send."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.cache_write_tokens = 0
        self.reasoning_tokens = 0
        self._cost: float | None = 0.0
        self._unpriced: list[_Request] = []
        self._unsorted: list[tuple[_Request, int]] = []
        self._by_agent: dict[str, UsageTotals] = {}

    def __repr__(self) -> str:
        return f"<UsageTotals: {self}>"

    def __str__(self) -> str:
        text = f"{self.requests} requests, {self.input_tokens} input tokens, {self.output_tokens} output tokens"
        return f"{text}, {self.unknown} of unknown usage" if self.unknown else text

    @property
    def total_tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> float | None:
        """Cost of the requests with a usage; None if the price of one of them is not known.

        The prices are those of `MiniAgents(price=)`, or else of the package genai-prices, if it is installed.
        """
        waiting, self._unpriced = self._unpriced, []
        for request in waiting:
            cost = request.cost()
            self._cost = None if cost is None or self._cost is None else self._cost + cost
        return self._cost

    @property
    def by_agent(self) -> Mapping[str, UsageTotals]:
        """Totals by the alias of an agent: of the requests that it sent, or that agents sent which it called.

        A request counts once for each agent, so the sum over agents that call each other is larger than the whole.
        """
        waiting, self._unsorted = self._unsorted, []
        for request, depth in waiting:
            for alias in dict.fromkeys(request.aliases[:depth]):
                totals = self._by_agent.setdefault(alias, UsageTotals())
                totals.requests += 1
                totals.add(request, 0)
        return MappingProxyType(self._by_agent)

    def add(self, request: _Request, depth: int) -> None:
        """Add a request that has ended, and was counted when it began.

        Args:
            request: the request.
            depth: how many of its agents belong to `by_agent` here: from its sender up to the agent of the totals.
        """
        usage = request.usage
        if not request.is_known:
            self.unknown += 1
        if usage is not None:
            self.input_tokens += usage.input_tokens or 0
            self.output_tokens += usage.output_tokens or 0
            self.cached_tokens += usage.cached_tokens or 0
            self.cache_write_tokens += usage.cache_write_tokens or 0
            self.reasoning_tokens += usage.reasoning_tokens or 0
            self._unpriced.append(request)
            if len(self._unpriced) > _MOST_WAITING:
                _ = self.cost
        if depth:
            self._unsorted.append((request, depth))
            if len(self._unsorted) > _MOST_WAITING:
                _ = self.by_agent

    def copy(self) -> Self:
        """Return totals with the numbers of now, which do not grow."""
        copied = copy.copy(self)
        copied._unpriced = list(self._unpriced)
        copied._unsorted = list(self._unsorted)
        copied._by_agent = {alias: totals.copy() for alias, totals in self._by_agent.items()}
        return copied


@dataclass(frozen=True, slots=True)
class Level:
    """One call in the chain of callers of a request, or a run around them."""

    totals: UsageTotals
    limits: Limits | None
    depth: int
    """Number of agents from the sender of the request up to this level."""
    name: str
    """Name in errors."""


class RequestMeter:
    """Counter of the requests of one call of an agent, for that call, its callers and the run.

    Args:
        levels: the call, its callers and the runs around them, innermost first.
        aliases: aliases of the agent and of its callers, in this order.
        price: the prices of the requests.
    """

    __slots__ = ("_aliases", "_levels", "_price")

    def __init__(self, levels: list[Level], aliases: tuple[str, ...], price: Price) -> None:
        self._levels = levels
        self._aliases = aliases
        self._price = price

    def begin(self, model: str) -> EndRequest:
        """Check all limits, count a request that is about to be sent, and return the function to call at its end.

        Raises:
            LimitExceededError: the request would begin at or above a limit.
            PriceUnknownError: there is a limit of the cost, and the price of the model is not known.
        """
        for level in self._levels:
            if level.limits is not None:
                self._check(level, level.limits, model)
        for level in self._levels:
            level.totals.requests += 1

        def end(answered: str | None, usage: Usage | None, complete: bool) -> None:
            """Add what the request took to the totals."""
            models = (model,) if answered is None or answered == model else (answered, model)
            request = _Request(self._aliases, models, usage, complete, self._price)
            for level in self._levels:
                level.totals.add(request, level.depth)

        return end

    def _check(self, level: Level, limits: Limits, model: str) -> None:
        """Raise an error if a request to this model may not begin under these limits."""
        totals = level.totals
        reached: dict[str, float | None] = {
            "requests": totals.requests,
            "input_tokens": totals.input_tokens,
            "output_tokens": totals.output_tokens,
        }
        if limits.cost is not None:
            reached["cost"] = totals.cost
            no_price = price_of(self._price, model, Usage(input_tokens=0, output_tokens=0)) is None
            if no_price or totals.cost is None:
                what = f"the model {model!r}" if no_price else "an earlier request"
                raise PriceUnknownError(
                    f"The price of {what} is not known, so the cost limit of {level.name} cannot be checked, and the "
                    f"request was not sent. Install prices with: pip install 'miniagents[prices]', or give "
                    f"MiniAgents(price=) a function that knows it",
                    model=model,
                )
        for name, number in reached.items():
            limit = getattr(limits, name)
            if limit is not None and number is not None and number >= limit:
                trace = " <- ".join(self._aliases)
                raise LimitExceededError(
                    f"The limit of {limit} {_WORDS[name]} is reached in {level.name}: {totals}. The next request was "
                    f"not sent. Agents: {trace}",
                    limit=name,
                    value=limit,
                    totals=totals.copy(),
                    agent_trace=self._aliases,
                )


_WORDS: Mapping[str, str] = {
    "requests": "requests",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "cost": "(cost)",
}


class CountedRun:
    """Base of the run context, with the totals and limits of the run."""

    limits: Limits | None
    price: Price | None
    usage: UsageTotals
    """Totals of the requests to models that the agents of this run have sent so far."""

    def set_limits(self, limits: Limits | None, price: Price | None) -> None:
        """Set the limits and prices of the run; raise `TypeError` for one of a wrong type."""
        check_limits(limits)
        if price is not None and not callable(price):
            raise TypeError(f"price must be a function of a model's name and a Usage, not {price!r}")
        self.limits, self.price, self.usage = limits, price, UsageTotals()


class CountedCall:
    """Base of the context of one call, with the totals and limits of the call; its `str` is the agent's alias."""

    __slots__ = ()

    limits: Limits | None
    caller: object
    """The call that made this one; another object for a call outside of agents."""
    run_context: PromisingContext
    """The run in which the call was made."""
    _usage: UsageTotals | None

    @property
    def usage(self) -> UsageTotals:
        """Totals of the requests to models that this call, and the calls which it made, have sent so far."""
        if self._usage is None:
            self._usage = UsageTotals()  # type: ignore[misc]  # a slot of the derived class
        return self._usage

    def make_meter(self, price: Price) -> RequestMeter:
        """Return the counter of the requests that this call sends to a model; for the agents of models.

        Args:
            price: the prices to use unless the run, or a run around it, has others (`MiniAgents(price=)`).
        """
        levels: list[Level] = []
        prices: list[Price] = []
        aliases: list[str] = []
        scope: object = self
        while isinstance(scope, CountedCall):
            aliases.append(str(scope))
            depth = len(aliases)
            levels.append(Level(scope.usage, scope.limits, depth, f"the call of {scope}"))
            outer = scope.caller.run_context if isinstance(scope.caller, CountedCall) else None
            context: PromisingContext | None = scope.run_context
            while context is not outer and context is not None:
                if isinstance(context, CountedRun):
                    levels.append(Level(context.usage, context.limits, depth, "the run"))
                    prices += [context.price] if context.price is not None else []
                context = context.parent
            scope = scope.caller
        return RequestMeter(levels, tuple(aliases), [*prices, price][0])
