"""Measurement that all benchmarks share: two sides in turn, in CPU time, with the results as a table or JSON.

The garbage collector is on. Both sides run alternately in one process, so a slower machine slows both. Ratios vary by
up to 10 %, nanoseconds by more: compare only ratios within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.markdown import as_markdown

__all__ = ["Curve", "Plan", "Row", "Side", "Spread", "Table", "circumstances", "main", "options", "seconds", "write"]

Side = Callable[[], Awaitable[object]]
"""One round of work of one side."""

_PACKAGES = ("miniagents", "pydantic", "openai", "anthropic", "httpx2", "vcrpy", "sqlalchemy")


@dataclass(frozen=True)
class Plan:
    """Amount of measuring."""

    quick: bool = False
    seconds: float = math.inf
    """Seconds on the clock that a row may take; slow rows have fewer rounds."""

    @property
    def rounds(self) -> int:
        """Number of times each side is measured."""
        return 1 if self.quick else 7

    def rounds_of(self, seconds: float) -> int:
        """Return the number of rounds if one takes `seconds`; 0 if there is time only for the run that fills caches."""
        return self.rounds if seconds * self.rounds <= self.seconds else int(self.seconds / seconds)

    def sized(self, count: int) -> int:
        """Return `count`, or a small number in a quick run."""
        return min(count, 20) if self.quick else count


@dataclass
class Spread:
    """Quartiles of several rounds."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Compute the quartiles of the results of all rounds."""
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        lower, median, upper = quartiles
        return cls(median, lower, upper)


@dataclass
class Row:
    """One comparison. `ratio` is the spread of the ratios of each round; `goal` is the highest accepted ratio."""

    name: str
    unit: str
    base_name: str
    base: Spread
    measured: Spread
    ratio: Spread
    goal: float | None


@dataclass
class Curve:
    """Cost of one unit at several sizes. `growth` is the cost at the largest size divided by that at the smallest."""

    name: str
    unit: str
    sizes: list[int]
    costs: list[Spread]
    growth: Spread
    goal: float | None


@dataclass
class Table:
    """The results of one script."""

    name: str
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers that are counted, not timed, by name."""

    def add(
        self, name: str, unit: str, base: list[float], ours: list[float], *, base_name: str, goal: float | None = None
    ) -> None:
        """Add a row from the costs of both sides in each round."""
        ratios = [mine / theirs for mine, theirs in zip(ours, base, strict=True)]
        self.rows.append(Row(name, unit, base_name, Spread.of(base), Spread.of(ours), Spread.of(ratios), goal))

    async def compare(
        self,
        name: str,
        base: Side,
        ours: Side,
        plan: Plan,
        *,
        units: int,
        our_units: int | None = None,
        unit: str = "ns a token",
        repeat: int = 1,
        pairs: int = 1,
        base_name: str = "bare generator",
        goal: float | None = None,
    ) -> None:
        """Measure both sides in turn, and add a row.

        Args:
            name: name of the row.
            base: the side to compare with.
            ours: the side that uses MiniAgents.
            plan: how much to measure.
            units: number of tokens, calls, ... in one run of `base`.
            our_units: the same for `ours`, if the number differs.
            unit: "ns a ..." or "us a ...".
            repeat: runs in a round, so that a round is long enough to be measured.
            pairs: factor on the number of rounds, for goals near 1.
            base_name: name of `base`.
            goal: the highest accepted ratio.
        """
        repeat, pairs = (1, 1) if plan.quick else (repeat, pairs)
        # The first run of each side fills caches. Time on the clock: a paced stream takes more than its CPU time.
        first, took = await _timed(base, ours)
        if plan.rounds_of(took * repeat) < plan.rounds and took < plan.seconds:
            first, took = await _timed(base, ours)  # the caches alone may have taken that long
        rounds = [
            (await seconds(base, repeat) / repeat, await seconds(ours, repeat) / repeat)
            for _ in range(plan.rounds_of(took * repeat) * pairs)
        ] or [first]
        scale = 1e9 if unit.startswith("ns") else 1e6
        bases = [theirs * scale / units for theirs, _ in rounds]
        measured = [mine * scale / (our_units or units) for _, mine in rounds]
        self.add(name, unit, bases, measured, base_name=base_name, goal=goal)

    def __str__(self) -> str:
        return as_markdown(asdict(self))


async def seconds(side: Side, repeat: int = 1) -> float:
    """Return the CPU seconds that a side takes."""
    gc.collect()  # so that no side pays for garbage of the other; collections during the round count
    start = time.process_time()
    for _ in range(repeat):
        await side()
    return time.process_time() - start


async def _timed(base: Side, ours: Side) -> tuple[tuple[float, float], float]:
    """Return the CPU seconds of both sides, and their seconds on the clock without the collections before them."""
    clock = 0.0

    def on_clock(side: Side) -> Side:
        async def work() -> None:
            nonlocal clock
            began = time.perf_counter()
            await side()
            clock += time.perf_counter() - began

        return work

    return (await seconds(on_clock(base)), await seconds(on_clock(ours))), clock


def circumstances(packages: Iterable[str] = _PACKAGES) -> dict[str, Any]:
    """Return the date, the machine, and the versions of those packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def options() -> argparse.Namespace:
    """Parse the command line, and return `quick` and `json`."""
    parser = argparse.ArgumentParser(description="CPU time of both sides, measured in turn; see benchmarks/README.md")
    parser.add_argument("--quick", action="store_true", help="check that the benchmark runs; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - is the standard output")
    return parser.parse_args()


def write(results: dict[str, Any], file: str) -> None:
    """Write results as JSON to a file, or to the standard output for "-"."""
    text = json.dumps(results, indent=1)
    if file == "-":
        print(text)
    else:
        Path(file).write_text(f"{text}\n", encoding="utf-8")


def main(benchmark: Callable[[Plan], Coroutine[Any, Any, Table]]) -> None:
    """Run a benchmark as the command line says: print its table, and write JSON if `--json` is given."""
    chosen = options()
    table = asyncio.run(benchmark(Plan(chosen.quick)))
    print(f"{table}\n", file=sys.stderr if chosen.json == "-" else sys.stdout, flush=True)
    if chosen.json is not None:
        write({**circumstances(), "tables": [asdict(table)]}, chosen.json)
