"""The SDKs' clients that agents share where none was given: making one takes 17 ms, mostly for its TLS context."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

__all__ = ["shared_client"]

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, tuple[Any, AsyncGenerator[None]]]] = (
    WeakKeyDictionary()
)


async def shared_client(name: str, prefix: str, make: Callable[[], Any]) -> Any:
    """The client of this event loop for the present environment; made by `make` at the first call.

    Connections belong to a loop, so each loop has clients of its own. They are closed with the loop's asynchronous
    generators, which `asyncio.run` and all runners like it do at the end.

    Args:
        name: what kind of client it is.
        prefix: of the environment variables that configure it; with other values there is another client.
        make: makes it.
    """
    loop = asyncio.get_running_loop()
    configuration = tuple(
        sorted(
            (key, value)
            for key, value in os.environ.items()
            if key.startswith(prefix) or key.upper().endswith("_PROXY")
        )
    )
    clients = _clients.setdefault(loop, {})
    key = (name, configuration)
    if key not in clients:
        client = make()
        keeper = _keep(client, lambda: clients.pop(key, None))
        clients[key] = client, keeper
        await anext(keeper)
    return clients[key][0]


async def _keep(client: Any, forget: Callable[[], Any]) -> AsyncGenerator[None]:
    """Suspended while the loop lives; its `finally` is the one place that is sure to run before the loop closes."""
    try:
        yield
    finally:
        forget()
        await client.close()
