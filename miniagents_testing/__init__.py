"""Testing kit for apps on MiniAgents (extra `testing`).

Importing this package loads no module below it; each name is loaded from its module at its first use.

- `ScriptedLLM`, `create_scripted_agent`, `create_scripted_user`, `Step`, `Failure`: scripted models and users.
- `use_cassette`, `ReplayTransport`, `stream_layer`: provider streams, recorded and played chunk for chunk.
- `recorded`: a decorator that makes calls of a function, such as a look-up in a database, a part of the cassette.
- `SECRET_FIELDS`: names of the fields whose texts are replaced in recordings.
- `block_live_requests`: a guard that lets no request of a test reach the network.
- `VirtualTimeLoop`, `run_in_virtual_time`, `schedules`, `search_schedules`: virtual time, and other orders of events.
- `cancel_at_every_step`: runs of a scenario with a cancellation at each of its steps.
- `ProviderServer`: a local HTTP server that speaks the providers' wire formats.

Modules to import from:

- `miniagents_testing.cassette`: recordings as data, and the settings of recording and playing.
- `miniagents_testing.faults`: failures between provider and client, applied to any stream.
- `miniagents_testing.recut`: streams with the same bytes in other chunks.
- `miniagents_testing.checks`: checks that every agent, message, splitter or history has to pass.
- `miniagents_testing.strategies`: Hypothesis strategies for messages, streams, schedules and more.
- `miniagents_testing.pictures`: one HTML page with the agents, requests and tokens of a run over time.
- `miniagents_testing.errors`: every error that the testing kit raises.
- `miniagents_testing.plugin`: the pytest plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniagents_testing._cancelling import cancel_at_every_step
    from miniagents_testing._clock import VirtualTimeLoop, run_in_virtual_time
    from miniagents_testing._network_guard import block_live_requests
    from miniagents_testing._provider_server import ProviderServer
    from miniagents_testing._schedules import schedules, search_schedules
    from miniagents_testing._script import Failure, Step
    from miniagents_testing._scripted import ScriptedLLM, create_scripted_agent, create_scripted_user
    from miniagents_testing.cassette import SECRET_FIELDS, ReplayTransport, recorded, stream_layer, use_cassette

__all__ = [
    "SECRET_FIELDS",
    "Failure",
    "ProviderServer",
    "ReplayTransport",
    "ScriptedLLM",
    "Step",
    "VirtualTimeLoop",
    "block_live_requests",
    "cancel_at_every_step",
    "create_scripted_agent",
    "create_scripted_user",
    "recorded",
    "run_in_virtual_time",
    "schedules",
    "search_schedules",
    "stream_layer",
    "use_cassette",
]

_MODULES = {
    "Failure": "_script",
    "ProviderServer": "_provider_server",
    "ReplayTransport": "cassette",
    "SECRET_FIELDS": "cassette",
    "ScriptedLLM": "_scripted",
    "Step": "_script",
    "VirtualTimeLoop": "_clock",
    "block_live_requests": "_network_guard",
    "cancel_at_every_step": "_cancelling",
    "create_scripted_agent": "_scripted",
    "create_scripted_user": "_scripted",
    "recorded": "cassette",
    "run_in_virtual_time": "_clock",
    "schedules": "_schedules",
    "search_schedules": "_schedules",
    "stream_layer": "cassette",
    "use_cassette": "cassette",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; raise an `ImportError` with the pip command for a missing package."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__:
            raise
        from miniagents.errors import install_line

        raise ImportError(
            f"{__name__}.{name} needs {error.name!r}. Install it with: {install_line('testing')}",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
