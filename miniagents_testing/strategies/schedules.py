"""When things happen: where a task is cancelled, and in which order tasks run."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["cancellation_points", "schedule_seeds"]


def cancellation_points(*, max_steps: int = 50) -> st.SearchStrategy[int]:
    """After how many steps of the loop (`await asyncio.sleep(0)`) somebody is cancelled; 0 is before the first one.

    Args:
        max_steps: the latest.
    """
    if max_steps < 0:
        raise ValueError(f"max_steps must be a number of steps, not {max_steps!r}")
    return st.integers(0, max_steps)


def schedule_seeds() -> st.SearchStrategy[int]:
    """Seeds for an event loop that runs ready tasks in an order of its own; small ones first."""
    return st.integers(0, 2**32 - 1)
