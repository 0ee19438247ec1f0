"""aiohttp, below the transports that the SDKs bring along.

vcrpy replaces its requests as well, and would hold back down there what we record further up.

What vcrpy has replaced, where it has.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette._session import is_passing

if TYPE_CHECKING:
    from collections.abc import Callable


def beneath_vcrpy(method: Any) -> Any:
    """The method that vcrpy's stub stands for; the method itself where there is none.

    Replacements of others, such as those of tracers, stay: they are part of what the user has set up.
    """
    while getattr(method, "__globals__", {}).get("__name__", "").startswith("vcr."):
        method = method.__wrapped__
    return method


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
