"""What vcrpy has replaced, where it has."""

from __future__ import annotations

from typing import Any

__all__ = ["beneath_vcrpy"]


def beneath_vcrpy(method: Any) -> Any:
    """The method that vcrpy's stub stands for; the method itself where there is none.

    Replacements of others, such as those of tracers, stay: they are part of what the user has set up.
    """
    while getattr(method, "__globals__", {}).get("__name__", "").startswith("vcr."):
        method = method.__wrapped__
    return method
