"""Searching the orders in which things can happen for one in which an application fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents_testing.clock import run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

__all__ = ["replay_only", "schedules", "search_schedules"]

_only: int | None = None


def replay_only(seed: int | None) -> None:
    """From now on, `schedules` gives this one seed; None: all of them again."""
    global _only
    _only = seed


def schedules(count: int = 100) -> Sequence[int]:
    """The seeds of `count` schedules; under `pytest --miniagents-schedule-seed=N`, that one alone.

    For `search_schedules`, and for `@pytest.mark.parametrize("seed", schedules(20))`.
    """
    return range(count) if _only is None else (_only,)


def search_schedules(scenario: Callable[[], Coroutine[Any, Any, object]], seeds: Iterable[int] | None = None) -> None:
    """Run a scenario under one schedule after the other, until it fails under one.

    Args:
        scenario: makes the coroutine that is run, each time in a virtual-time loop of its own.
        seeds: of the schedules; `schedules()` if None.

    Raises:
        Exception: what the scenario failed with first; a note of it has the seed.
    """
    for seed in schedules() if seeds is None else seeds:
        run_in_virtual_time(scenario(), seed=seed)
