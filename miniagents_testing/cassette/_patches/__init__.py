"""Puts cassettes between clients and the network: methods of transport classes, replaced while any cassette is open.

Each method is replaced once, however many cassettes are open, and put back exactly as it was when the last is closed.
A replaced method does nothing of its own where no cassette is open. Each room in here knows one library.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette._patches import aiohttp
from miniagents_testing.cassette._patches.httpx import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Target = tuple[type, str, Callable[[Any], Any]]
    """A class, the name of a method, and what makes the replacement out of the method."""

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
        for target in targets:
            _install(*target)
    try:
        yield
    finally:
        with _lock:
            for owner, name, _ in targets:
                _uninstall(owner, name)


def _targets(more: Iterable[type]) -> Iterator[Target]:
    families = [Family.of(name) for name in _FAMILIES if find_spec(name) is not None]
    for family in families:
        for transport in family.transports():
            yield from _methods(family, transport)
    for transport in more:
        found = [target for family in families for target in _methods(family, transport)]
        if not found:
            raise TypeError(f"{transport!r} is no transport class of {' or '.join(_FAMILIES)}")
        yield from found
    if aiohttp.is_held_by_vcrpy():
        yield aiohttp.target()


def _methods(family: Family, transport: type) -> Iterator[Target]:
    return ((transport, name, partial(family.replacement, name)) for name in family.methods(transport))


def _install(owner: type, name: str, replacement: Callable[[Any], Any]) -> None:
    patch = _patches.get((owner, name))
    if patch is None:
        before = vars(owner).get(name, _INHERITED)
        patch = _Patch(owner, name, before, replacement(getattr(owner, name)))
        setattr(owner, name, patch.during)
        _patches[owner, name] = patch
    patch.users += 1


def _uninstall(owner: type, name: str) -> None:
    patch = _patches[owner, name]
    patch.users -= 1
    if patch.users:
        return
    del _patches[owner, name]
    if vars(owner).get(name) is not patch.during:
        return  # somebody has replaced it since, and will put ours back: it does nothing any more
    if patch.before is _INHERITED:
        delattr(owner, name)
    else:
        setattr(owner, name, patch.before)
