"""aiohttp, below the transports that the SDKs bring along.

vcrpy replaces its requests as well, and would hold back down there what we record further up.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette.active import is_passing
from miniagents_testing.cassette.patches.beneath import beneath_vcrpy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["is_held_by_vcrpy", "target"]

_REQUEST = "_request"
"""Not public, but the one that vcrpy replaces."""


def is_held_by_vcrpy() -> bool:
    """Whether vcrpy has its hand on aiohttp at the moment."""
    if "aiohttp" not in sys.modules:
        return False
    session, name, _ = target()
    method = getattr(session, name, None)
    return beneath_vcrpy(method) is not method


def target() -> tuple[type, str, Callable[[Any], Any]]:
    """The method, and what stands in its place: vcrpy's for others, the real one for what we send."""
    return sys.modules["aiohttp"].ClientSession, _REQUEST, _replacement


def _replacement(before: Any) -> Any:
    real = beneath_vcrpy(before)

    @wraps(real)
    def request(session: Any, *args: Any, **kwargs: Any) -> Any:
        return (real if is_passing() else before)(session, *args, **kwargs)

    return request
