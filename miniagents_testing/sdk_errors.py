"""Errors of ours that the providers' SDKs hand on as they are.

An SDK takes an exception it does not know, out of its transport, for a lost connection: it sends the request again, and
in the end hides the exception behind one of its own. What derives from its own base error it lets through at once.
"""

from __future__ import annotations

import sys
from typing import TypeVar, cast

__all__ = ["sdk_proof"]

E = TypeVar("E", bound=type[Exception])

_SDK_BASES = (("openai", "OpenAIError"), ("anthropic", "AnthropicError"))
_made: dict[tuple[type[Exception], ...], type[Exception]] = {}


def sdk_proof(error_class: E, *others: tuple[str, str]) -> E:
    """The class to raise in place of `error_class`: a subclass that the SDKs in use neither retry nor wrap.

    A package that was never imported is in nobody's way, and is not imported here.

    Args:
        error_class: one of ours.
        others: module and name of further classes to be below.
    """
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in (*others, *_SDK_BASES))
    bases: tuple[type[Exception], ...] = (error_class, *(base for base in loaded if base is not None))
    if bases not in _made:
        names = {
            "__module__": error_class.__module__,
            "__qualname__": error_class.__qualname__,
            "__doc__": error_class.__doc__,
        }
        _made[bases] = type(error_class.__name__, bases, names)
    return cast("E", _made[bases])
