"""Replacement of methods of HTTP libraries while any cassette is open.

Each method is replaced once, however many cassettes are open, and restored exactly when the last cassette is closed.
In a context without a cassette, a replacement calls the method that it replaces.

Knows no library: each client has a module of its own, which names its methods in `targets` (see `Patches`).
`_contexts` has the list of clients.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Target = tuple[Any, str, Callable[[Any], Any]]
    """A class or module, the name of a method, and a function that makes the replacement of the method.

    The function is called with the method as it is found: an unbound function for an ordinary method, a bound one for a
    class method. Its result is set on the class or module.
    """


class Patches(NamedTuple):
    """Patches of one client, or of several."""

    modules: tuple[str, ...]
    """Names of the library's modules that have methods to replace. They are patched when they are imported."""
    targets: Callable[[Any], Iterable[Target]]
    """Yields the methods of one of these modules to replace. The module is whole; it is called at each opening."""


@dataclass
class _Patch:
    """A replaced method."""

    owner: Any
    """Class or module."""
    name: str
    before: Any
    """The method in the class itself before, or `_INHERITED`."""
    during: Any
    users: int = 0
    """Number of open cassettes that need the replacement."""


_INHERITED = object()
_patches: dict[tuple[Any, str], _Patch] = {}
_late: list[Target] = []
"""Methods of classes that were defined while cassettes are open; they stay replaced until the last one is closed."""
_open_cassettes = 0
_hooked: set[tuple[Patches, str]] = set()
_lock = threading.RLock()


@contextmanager
def patched(clients: Sequence[Patches], more: Iterable[Target] = ()) -> Iterator[None]:
    """Replace the methods of clients while the context is open, also of modules that are imported in the meantime.

    No library is imported here.

    Args:
        clients: those whose methods are replaced.
        more: further methods to replace, of this cassette only.
    """
    global _open_cassettes
    for client in clients:
        _register_hooks(client)
    targets = [target for client in clients for name in client.modules for target in _targets_in(client, name)]
    targets += more
    with _lock:
        _open_cassettes += 1
        for target in targets:
            _install(*target)
    try:
        yield
    finally:
        with _lock:
            _open_cassettes -= 1
            for owner, name, _ in [*targets, *(() if _open_cassettes else _late)]:
                _uninstall(owner, name)
            if not _open_cassettes:
                _late.clear()


def replace_late(targets: Iterable[Target]) -> None:
    """Replace methods of classes that did not exist when cassettes were opened, until the last cassette is closed.

    Do nothing if no cassette is open.
    """
    with _lock:
        if _open_cassettes:
            found = list(targets)
            for target in found:
                _install(*target)
            _late.extend(found)


def _register_hooks(client: Patches) -> None:
    """Register hooks, once for each module of a client that is not imported yet, which patch it after its import."""
    from wrapt import register_post_import_hook

    for name in client.modules:
        if name not in sys.modules and (client, name) not in _hooked:
            _hooked.add((client, name))
            register_post_import_hook(partial(_patch_late, client), name)


def _patch_late(client: Patches, module: Any) -> None:
    """Replace the methods of a module that was just imported, while cassettes are open; its import hook calls this."""
    replace_late(_targets_in(client, module.__name__))


def _targets_in(client: Patches, name: str) -> Iterator[Target]:
    """Yield the methods to replace of a module that is imported; nothing for one that is not."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return
    if getattr(module.__spec__, "_initializing", False):
        import_module(name)  # another thread imports it: wait until it has
    yield from client.targets(module)


def _install(owner: Any, name: str, replacement: Callable[[Any], Any]) -> None:
    """Replace the method `name`, also one that the owner inherits, or count one more user of its replacement.

    `replacement` takes the method and returns the function to put in its place.
    """
    patch = _patches.get((owner, name))
    if patch is None:
        before = vars(owner).get(name, _INHERITED)
        patch = _Patch(owner, name, before, replacement(getattr(owner, name)))
        setattr(owner, name, patch.during)
        _patches[owner, name] = patch
    patch.users += 1


def _uninstall(owner: Any, name: str) -> None:
    """Restore a method when the last user of its replacement has gone, unless other code has replaced it since."""
    patch = _patches[owner, name]
    patch.users -= 1
    if patch.users:
        return
    del _patches[owner, name]
    if vars(owner).get(name) is not patch.during:
        return  # other code has replaced it since, and may restore our replacement, which does nothing by then
    if patch.before is _INHERITED:
        delattr(owner, name)
    else:
        setattr(owner, name, patch.before)


def without_vcrpy(method: Any) -> Any:
    """Return the method that vcrpy has replaced by this one, or this one if vcrpy has not made it.

    Replacements by other libraries, such as tracers, stay: the user has set them up.
    """
    while getattr(method, "__globals__", {}).get("__name__", "").startswith("vcr."):
        method = method.__wrapped__
    return method
