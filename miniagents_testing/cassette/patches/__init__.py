"""Puts cassettes between clients and the network: methods of transport classes, replaced while any cassette is open.

Each method is replaced once, however many cassettes are open, and put back exactly as it was when the last is closed.
A replaced method does nothing of its own where no cassette is open.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette.patches.httpx import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["patched"]

_FAMILIES = ("httpx2", "httpx")


@dataclass
class _Patch:
    """A method while it is replaced."""

    owner: type
    name: str
    before: Any
    """What stood in the class itself; `_INHERITED` where nothing did."""
    during: Any
    users: int = 0


_INHERITED = object()
_patches: dict[tuple[type, str], _Patch] = {}
_lock = threading.Lock()


@contextmanager
def patched(more: Iterable[type] = ()) -> Iterator[None]:
    """While this is open, requests ask for their cassette.

    Args:
        more: further transport classes, of httpx2 or httpx, beside those that open sockets.

    Raises:
        TypeError: one of them is no transport.
    """
    targets = list(_targets(more))
    with _lock:
        for family, transport, name in targets:
            _install(family, transport, name)
    try:
        yield
    finally:
        with _lock:
            for _, transport, name in targets:
                _uninstall(transport, name)


def _targets(more: Iterable[type]) -> Iterator[tuple[Family, type, str]]:
    families = [Family.of(name) for name in _FAMILIES if find_spec(name) is not None]
    for family in families:
        for transport in family.transports():
            yield from ((family, transport, name) for name in family.methods(transport))
    for transport in more:
        found = [(family, transport, name) for family in families for name in family.methods(transport)]
        if not found:
            raise TypeError(f"{transport!r} is no transport class of {' or '.join(_FAMILIES)}")
        yield from found


def _install(family: Family, transport: type, name: str) -> None:
    patch = _patches.get((transport, name))
    if patch is None:
        before = vars(transport).get(name, _INHERITED)
        patch = _Patch(transport, name, before, family.replacement(name, getattr(transport, name)))
        setattr(transport, name, patch.during)
        _patches[transport, name] = patch
    patch.users += 1


def _uninstall(transport: type, name: str) -> None:
    patch = _patches[transport, name]
    patch.users -= 1
    if patch.users:
        return
    del _patches[transport, name]
    if vars(transport).get(name) is not patch.during:
        return  # somebody has replaced it since, and will put ours back: it does nothing any more
    if patch.before is _INHERITED:
        delattr(transport, name)
    else:
        setattr(transport, name, patch.before)
