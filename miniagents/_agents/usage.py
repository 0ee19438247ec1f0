"""Requests and tokens of a call and of a run: their totals, their limits, and what they cost.

A request counts for the call of the agent that sends it, for all callers of that call, and for the run. `RequestMeter`
counts the requests of one call: it checks the limits before each request, innermost first. Nothing here happens for
each token.
"""

from __future__ import annotations

import logging
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents.errors import (
    LimitExceededError,
    PriceUnknownError,
    UsageUnknownError,
    install_line,
    names_its_arguments,
)
from miniagents.messages import Usage

if TYPE_CHECKING:
    from miniagents._promising.context import PromisingContext

logger = logging.getLogger("miniagents.llm")

Price = Callable[[str, Usage], float | None]
"""Function that returns what a request costs; it gets the name of the model and the usage. None: it is unknown."""


@names_its_arguments
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a run, or of one call of an agent with all that it calls; None for no limit.

    They are checked before each request to a model. A request that would begin at or above a limit is not sent: it
    fails with `LimitExceededError`. After a whole answer without the numbers that a limit needs, the next request fails
    with `UsageUnknownError`. A request that failed or was cancelled counts with what is known of it.

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


@dataclass(frozen=True, slots=True, eq=False)
class ListedPrices:
    """Prices of a list that takes long to load: they are asked for when a program asks for a cost, and not before.

    Two objects are never equal: totals find the numbers that an object prices by its identity, which takes no time.
    """

    find: Callable[[str, str, str, Usage], float | None]
    """Function that gets provider and URL, as below, and a model and a usage, like `Price`."""
    provider: str
    url: str
    """Base URL of the client."""

    def __call__(self, model: str, usage: Usage) -> float | None:
        return self.find(self.provider, self.url, model, usage)


class Priced(NamedTuple):
    """Cost of a request, or the reason why it is not known."""

    cost: float | None
    problem: str = ""
    """Clause that says why there is no cost."""
    failed: bool = False
    """True if the function for prices has raised an error, which is logged."""


def price_of(price: Price, models: Iterable[str], usage: Usage) -> Priced:
    """Return the price for the first model that has one; without one, the error of the function wins as the reason.

    A `LookupError` of the function says that the model is not known.

    Raises:
        TypeError: the function has returned something else than a number.
    """
    unknown: Priced | None = None
    for model in models:
        try:
            cost: Any = price(model, usage)
        except LookupError:
            cost = None
        except Exception as error:
            function = "genai-prices" if isinstance(price, ListedPrices) else "your price function"
            text = f"{function} failed for the model {model!r}: {type(error).__name__}: {error!s:.200}"
            unknown = Priced(None, text, failed=True)
            logger.warning("The cost of a request is not known, because %s", text, exc_info=error)
            continue
        if cost is not None:
            if not isinstance(cost, Real) or not 0 <= float(cost) < math.inf:  # a limit would never be reached with NaN
                raise TypeError(
                    f"The function for prices returned {cost!r:.100} for the model {model}, which is no number of "
                    "dollars: return an int or a float from 0 up, or None for a model without a known price"
                )
            return Priced(float(cost))
        unknown = unknown or Priced(None, f"the price of the model {model!r} is not known")
    return unknown or Priced(None)


_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
_LARGEST = 2**62
"""Largest number that is counted; a provider may send anything."""
_MOST_UNPRICED = 10_000
"""Number of requests that wait until a program asks for their cost; then they are priced at once."""


class UsageTotals:
    """Totals of a call, or of a run; they grow while it works.

    `requests` counts each attempt, failed and cancelled ones included. `unknown` of them ended without the usage of a
    whole answer, so that tokens are missing in the other numbers.
    """

    __slots__ = (*_COUNTS, "_by_path", "_cost", "_no_price", "_unmeasured", "_unpriced", "requests", "unknown")

    def __init__(self) -> None:
        self.requests: int = 0
        """Requests that have begun."""
        self.unknown: int = 0
        """Requests that failed or were cancelled, or whose input or output tokens the provider did not send."""
        self.input_tokens: int = 0
        self.output_tokens: int = 0
        self.cached_tokens: int = 0
        self.cache_write_tokens: int = 0
        self.reasoning_tokens: int = 0
        self._cost: float | None = 0.0
        self._no_price: str = ""
        """Why the first request without a known price has none, see `Priced.problem`."""
        self._unmeasured: dict[str, str] = {}
        """Names of limits that cannot be checked, each with the sentences why, see `EndedRequest.unmeasured`."""
        self._unpriced: dict[tuple[ListedPrices, tuple[str, ...]], array[int]] = {}
        """Numbers of the requests with listed prices and these models, in the order of `_COUNTS`."""
        self._by_path: dict[tuple[str, ...], UsageTotals] = {}
        """Totals by the aliases of the agents, from the sender of the request up to the agent of these totals."""

    def __repr__(self) -> str:
        return f"<UsageTotals: {self}>"

    def __str__(self) -> str:
        text = f"{self.requests} requests, {self.input_tokens} input tokens, {self.output_tokens} output tokens"
        if self.unknown:
            text = f"{text}, {self.unknown} of unknown usage"
        return f"{text}, no cost, because {self._no_price}" if self._no_price else text

    @property
    def total_tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> float | None:
        """Cost of the requests; None if the price of one is not known, or if a whole answer came without its usage.

        Requests that failed or were cancelled cost what is known of them, and are counted in `unknown`.
        The prices are those of `MiniAgents(price=)`, or else of the package genai-prices, if it is installed.
        """
        unpriced, self._unpriced = self._unpriced, {}
        for (price, models), numbers in unpriced.items():
            for start in range(0, len(numbers), len(_COUNTS)):
                counts = dict(zip(_COUNTS, numbers[start : start + len(_COUNTS)], strict=True))
                priced = price_of(price, models, Usage(**counts))
                self._add_cost(priced.cost, priced.problem)
        return self._cost

    def _add_cost(self, cost: float | None, problem: str = "") -> None:
        """Add the cost of a request, or of many; None, a cost that is not known, makes the whole None for good.

        `problem` says why a cost is not known.
        """
        self._no_price = self._no_price or problem
        self._cost = None if cost is None or self._cost is None else self._cost + cost

    @property
    def by_agent(self) -> Mapping[str, UsageTotals]:
        """Totals of now by the alias of an agent: of the requests that it sent, or that agents sent which it called.

        A request counts once for each agent, so the sum over agents that call each other is larger than the whole.
        """
        found: dict[str, UsageTotals] = {}
        for path, totals in self._by_path.items():
            for alias in dict.fromkeys(path):
                found.setdefault(alias, UsageTotals())._merge(totals)
        return MappingProxyType(found)

    def copy(self) -> UsageTotals:
        """Return totals with the numbers of now, which do not grow."""
        copied = UsageTotals()
        copied._merge(self)
        copied._by_path = {path: totals.copy() for path, totals in self._by_path.items()}
        return copied

    def rows(self) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
        """Return the numbers of each path: pairs of a path of aliases and its numbers, as `add_row` takes them.

        A path has the aliases from the sender of the requests up to the agent of these totals. `add_row` adds the
        numbers to totals in another process.
        """
        names = ("requests", "unknown", *_COUNTS, "cost")
        return [
            (
                path,
                {name: getattr(each, name) for name in names}
                | {"unmeasured": each._unmeasured, "no_price": each._no_price},
            )
            for path, each in self._by_path.items()
        ]

    def add_row(self, path: tuple[str, ...], row: Mapping[str, Any]) -> None:
        """Add numbers of `rows`, which requests took in another process, for the agents of this path.

        Raises:
            TypeError, ValueError: a number is no number, or the limits that cannot be checked are no dict.
        """
        added = UsageTotals()
        added._unmeasured = {name: str(why) for name, why in dict(row.get("unmeasured", {})).items()}
        for name in ("requests", "unknown", *_COUNTS):
            setattr(added, name, min(operator.index(row.get(name, 0)), _LARGEST))
        cost = row.get("cost")
        added._add_cost(None if cost is None else float(cost), str(row.get("no_price", "")))
        self._merge(added)
        self._by_path.setdefault(path, UsageTotals())._merge(added)

    def _merge(self, other: UsageTotals) -> None:
        """Add the numbers and costs of other totals, but not their totals by agent."""
        for name in ("requests", "unknown", *_COUNTS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._add_cost(other._cost, other._no_price)
        self._unmeasured = other._unmeasured | self._unmeasured
        for key, numbers in other._unpriced.items():
            self._unpriced.setdefault(key, array("q")).extend(numbers)

    def begin(self, path: tuple[str, ...]) -> None:
        """Count a request that begins, in these totals and in the totals of this path of aliases."""
        self.requests += 1
        totals = self._by_path.get(path)
        if totals is None:
            totals = self._by_path[path] = UsageTotals()
        totals.requests += 1

    def end(self, path: tuple[str, ...], request: EndedRequest) -> None:
        """Add what an ended request took to these totals and to the totals of its path; `begin` has counted it."""
        self._add(request)
        self._by_path[path]._add(request)

    def _add(self, request: EndedRequest) -> None:
        """Add the tokens of a request, and its cost, or what is needed to price it.

        Without a usage, only count it as unknown.
        """
        if not request.is_known:
            self.unknown += 1
            self._unmeasured = request.unmeasured | self._unmeasured
        counts = request.counts
        if counts is None:
            if request.unmeasured:
                self._add_cost(None)
            return
        self.input_tokens += counts[0]
        self.output_tokens += counts[1]
        self.cached_tokens += counts[2]
        self.cache_write_tokens += counts[3]
        self.reasoning_tokens += counts[4]
        if request.listed is None:
            self._add_cost(*request.priced[:2])
            return
        key = request.listed, request.models
        numbers = self._unpriced.get(key)
        if numbers is None:
            numbers = self._unpriced[key] = array("q")
        numbers.extend(counts)
        if len(numbers) > _MOST_UNPRICED * len(_COUNTS):
            _ = self.cost


class EndedRequest:
    """Request that has ended: what it took, and what it cost.

    Args:
        models: names of the model that may have a price: as it answered, and as it was asked for.
        usage: the numbers of tokens; None if they did not come.
        complete: True if the answer is complete.
        price: the prices.
        aliases: the agents from the sender up to the outermost caller, for errors.
        asks_for_usage: returns True if the request asked for its usage by `stream_options`.
    """

    __slots__ = ("counts", "is_known", "listed", "models", "priced", "unmeasured")

    def __init__(
        self,
        models: tuple[str, ...],
        usage: Usage | None,
        complete: bool,
        price: Price,
        *,
        aliases: tuple[str, ...],
        asks_for_usage: Callable[[], bool],
    ) -> None:
        self.models: tuple[str, ...] = models
        missing = [name for name in ("input_tokens", "output_tokens") if getattr(usage, name, None) is None]
        self.is_known: bool = complete and not missing
        """True if the usage is that of a whole answer."""
        self.unmeasured: dict[str, str] = {}
        """Names of the limits whose numbers are missing in a whole answer, each with the sentences for the error."""
        self.counts: list[int] | None = (
            None if usage is None else [min(getattr(usage, name) or 0, _LARGEST) for name in _COUNTS]
        )
        self.listed: ListedPrices | None = None
        """Prices to ask later; None if the cost is known by now, or known to be unknown."""
        self.priced: Priced = Priced(None)
        if complete and missing:
            answer = f"The answer of the model {models[0]!r} to {' <- '.join(aliases)}"
            why = f"{answer} came without its {' and '.join(map(_WORDS.__getitem__, missing))}. " + (
                "The request asked for them by stream_options, so the server ignores that"
                if asks_for_usage()
                else 'Many servers send them if a streamed chat completion asks: stream_options={"include_usage": True}'
            )
            self.unmeasured = dict.fromkeys([*missing, "cost"], why)
        elif isinstance(price, ListedPrices):
            self.listed = price
        elif usage is not None:
            self.priced = price_of(price, models, usage)


class Level(NamedTuple):
    """One call in the chain of callers of a request, or a run around them."""

    totals: UsageTotals
    limits: Limits | None
    path: tuple[str, ...]
    """Aliases of the agents from the sender of the request up to this call, or up to the outermost call of this run."""
    is_run: bool

    def __str__(self) -> str:
        return "the run" if self.is_run else f"the call of {self.path[-1]}"


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

    def begin(self, model: str, asks_for_usage: Callable[[], bool]) -> EndRequest:
        """Check all limits, count a request that is about to be sent, and return the function to call at its end.

        Args:
            model: the model that is asked.
            asks_for_usage: returns True if the request asks for its usage by `stream_options`; called for errors.

        Raises:
            LimitExceededError: a total has reached its limit; the request is not counted.
            PriceUnknownError: the cost is limited, and the price of the model is not known.
            UsageUnknownError: tokens or the cost are limited, and an earlier answer came without its usage.
        """
        for level in self._levels:
            if level.limits is not None:
                self._check(level, level.limits, model)
        for level in self._levels:
            level.totals.begin(level.path)

        def end(answered: str | None, usage: Usage | None, complete: bool) -> None:
            """Add tokens and cost of a request to all totals, at the price of model `answered`, or else of `model`."""
            models = (model,) if answered is None or answered == model else (answered, model)
            request = EndedRequest(
                models, usage, complete, self._price, aliases=self._aliases, asks_for_usage=asks_for_usage
            )
            for level in self._levels:
                level.totals.end(level.path, request)

        return end

    def _check(self, level: Level, limits: Limits, model: str) -> None:
        """Raise `LimitExceededError` if a limit is reached; raise one of two other errors if that cannot be said.

        `PriceUnknownError` means a limit of the cost, and a model or an earlier request without a known price.
        `UsageUnknownError` means an earlier answer without the numbers that a limit needs.
        """
        totals = level.totals
        reached: dict[str, float | None] = {
            "requests": totals.requests,
            "input_tokens": totals.input_tokens,
            "output_tokens": totals.output_tokens,
        }
        if limits.cost is not None:
            reached["cost"] = totals.cost
            priced = price_of(self._price, (model,), _ONE_TOKEN_EACH)
            if priced.cost is None or (totals.cost is None and "cost" not in totals._unmeasured):
                problem = priced.problem or f"an earlier request has no cost: {totals._no_price or 'it has no price'}"
                raise PriceUnknownError(
                    f"The cost limit of {level} cannot be checked, so the request was not sent: {problem}. "
                    f"{self._say_how_to_price(model, priced)}",
                    model=model,
                )
        for name, number in reached.items():
            limit = getattr(limits, name)
            if limit is not None and number is not None and number >= limit:
                trace = " <- ".join(self._aliases)
                raise LimitExceededError(
                    f"The limit of {limit} {_WORDS[name]} is reached in {level}: {totals}. The next request was "
                    f"not sent. Agents: {trace}",
                    limit=name,
                    value=limit,
                    totals=totals.copy(),
                    agent_trace=self._aliases,
                )
            if limit is not None and name in totals._unmeasured:
                raise UsageUnknownError(
                    f"The limit of {limit} {_WORDS[name]} of {level} cannot be checked, so the next request was "
                    f"not sent. {totals._unmeasured[name]}. Without these numbers, limit the requests: "
                    f"Limits(requests=...)",
                    limit=name,
                    agent_trace=self._aliases,
                )

    def _say_how_to_price(self, model: str, priced: Priced) -> str:
        """Return the sentence that says how the price of a model becomes known."""
        if not isinstance(self._price, ListedPrices):
            got = f". It got {model!r} and {_ONE_TOKEN_EACH}" if priced.failed else ""
            return f"Let the function of MiniAgents(price=) return a number{got}"
        if find_spec("genai_prices") is None:
            return f"Install prices with: {install_line('prices')}, or give MiniAgents(price=) a function that knows it"
        if model == _SCRIPTED:
            return 'A scripted model has the price of the model that it is named after: `agent(model="gpt-5.4-mini")`'
        return "The package genai-prices has no price: give MiniAgents(price=) a function that knows it"


_ONE_TOKEN_EACH = Usage(
    input_tokens=1, output_tokens=1, cached_tokens=0, cache_write_tokens=0, reasoning_tokens=0, total_tokens=2
)
"""Usage to ask for a price before the first request. A function may divide by the tokens of prompts and answers."""
_SCRIPTED = "scripted-model"
"""Name that a scripted model has in tests unless the test gives one."""
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

    def add_usage(self, rows: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]]) -> None:
        """Count requests that this call has sent in another process, for the call, its callers and the run.

        Args:
            rows: those of `UsageTotals.rows`; the last alias of each path is that of this call there.

        Raises:
            TypeError: a number is no number.
        """
        levels = self._levels()[0]
        for path, row in rows:
            for level in levels:
                level.totals.add_row((*path[:-1], *level.path), row)

    def make_meter(self, price: Price) -> RequestMeter:
        """Return the counter of the requests that this call sends to a model; for the agents of models.

        Args:
            price: the prices to use unless the run, or a run around it, has others (`MiniAgents(price=)`).
        """
        levels, aliases, prices = self._levels()
        return RequestMeter(levels, aliases, [*prices, price][0])

    def _levels(self) -> tuple[list[Level], tuple[str, ...], list[Price]]:
        """Return the levels of this call, its callers and the runs around them, innermost first.

        Return also the aliases of the call and its callers, and the prices of the runs, in the same order.
        """
        levels: list[Level] = []
        prices: list[Price] = []
        aliases: list[str] = []
        scope: object = self
        while isinstance(scope, CountedCall):
            aliases.append(str(scope))
            path = tuple(aliases)
            levels.append(Level(scope.usage, scope.limits, path, False))
            outer = scope.caller.run_context if isinstance(scope.caller, CountedCall) else None
            context: PromisingContext | None = scope.run_context
            while context is not outer and context is not None:
                if isinstance(context, CountedRun):
                    levels.append(Level(context.usage, context.limits, path, True))
                    prices += [context.price] if context.price is not None else []
                context = context.parent
            scope = scope.caller
        return levels, tuple(aliases), prices
