"""Search of one tool for the known races, in the Python that has it: `python -m benchmarks.races.tools NAME [--quick]`.

A tool gets each race with `SEEDS` seeds and its own defaults, and at most `MOST_RUNS` runs a search. The result goes to
the standard output as JSON: for each race the runs until it was found, and the deviations that were left, by seed.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from benchmarks.races.known import RACES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Race = Callable[[], Coroutine[Any, Any, None]]
    Found = tuple[int, int] | None
    """Runs until the race was found, and deviations after shrinking; None if it was not found."""

SEEDS = 20
MOST_RUNS = 1000


def miniagents(race: Race, seed: int) -> Found:
    """Search with `search_schedules`: other random schedules for each seed."""
    from miniagents_testing._decisions import schedule_of
    from miniagents_testing._schedules import RANDOM_SCHEDULES, search_schedules

    runs = Counted(race)
    seeds = range(seed * RANDOM_SCHEDULES, (seed + 1) * RANDOM_SCHEDULES)
    try:
        search_schedules(runs, seeds, deviations=2, limit=MOST_RUNS)
    except Exception as error:
        token = error.__notes__[-1].partition("--miniagents-schedule=")[2].partition("\n")[0]
        return runs.until_failure, len(schedule_of(token))
    return None


def detangle(race: Race, seed: int) -> Found:
    """Search with `detangle.explore`."""
    import detangle as tool

    runs = Counted(race)
    try:
        tool.explore(runs, runs=MOST_RUNS, seed=seed, database=False)
    except tool.BugFound as error:
        return runs.until_failure, error.report.deviations
    return None


def simloom(race: Race, seed: int) -> Found:
    """Search with `simloom.explore`, and shrink what it finds, as its decorator for tests does."""
    import simloom as tool

    runs = Counted(race)
    found = tool.explore(runs, runs=MOST_RUNS, start_seed=seed * MOST_RUNS).first_failure
    return None if found is None else (runs.until_failure, tool.shrink(runs, found).deviations)


class Counted:
    """Race that counts its runs until it fails for the first time; it has the name of the race."""

    def __init__(self, race: Race) -> None:
        self._race = race
        self.__name__ = self.__qualname__ = race.__name__
        self.__module__ = race.__module__
        self._runs = 0
        self.until_failure = 0

    async def __call__(self) -> None:
        """Run the race."""
        self._runs += 1
        number = self._runs
        try:
            await self._race()
        except BaseException:
            self.until_failure = self.until_failure or number
            raise


TOOLS = {tool.__name__: tool for tool in (miniagents, detangle, simloom)}


def measure(tool: str, *, quick: bool) -> dict[str, Any]:
    """Return the version of a tool, and what it finds of each race, by the race's name; with few seeds if quick."""
    seeds = 2 if quick else SEEDS
    found = {name: [TOOLS[tool](race, seed) for seed in range(seeds)] for name, race in RACES.items()}
    return {"version": version(tool), "found": found}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], quick="--quick" in sys.argv)))
