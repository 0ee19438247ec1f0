"""What makes an app on MiniAgents testable (extra `testing`).

Importing this package loads nothing; each name comes with its own module.

- `miniagents_testing._scripted`: models and users that say what a script says (`script` is its language).
- `miniagents_testing.cassette`: recorded provider streams, chunk for chunk.
- `miniagents_testing._network_guard`: no live requests in tests.
- `miniagents_testing._clock`, `.searching`: virtual time, and other orders of events.
- `miniagents_testing._cancelling`: something is cancelled at every step of a scenario.
- `miniagents_testing._provider_server`: a local HTTP server that speaks the providers' wire formats.
- `miniagents_testing.faults`: what goes wrong on the way from a provider, laid over any stream.
- `miniagents_testing.recut`: the same bytes, cut elsewhere; `dialects`: the same answer, said otherwise.
- `miniagents_testing.checks`: what must hold for any agent, message, splitter or history.
- `miniagents_testing.strategies`: Hypothesis strategies for all of these.
- `miniagents_testing.errors`: what can go wrong.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniagents_testing._cancelling import cancel_at_every_step
    from miniagents_testing._clock import VirtualTimeLoop, run_in_virtual_time, schedules, search_schedules
    from miniagents_testing._network_guard import block_live_requests
    from miniagents_testing._provider_server import ProviderServer
    from miniagents_testing._script import Failure, Step
    from miniagents_testing._scripted import ScriptedLLM, create_scripted_agent, create_scripted_user
    from miniagents_testing.cassette import ReplayTransport, stream_layer, use_cassette

__all__ = [
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
    "run_in_virtual_time",
    "schedules",
    "search_schedules",
    "stream_layer",
    "use_cassette",
]

_HOME = {
    "Failure": "_script",
    "ProviderServer": "_provider_server",
    "ReplayTransport": "cassette",
    "ScriptedLLM": "_scripted",
    "Step": "_script",
    "VirtualTimeLoop": "_clock",
    "block_live_requests": "_network_guard",
    "cancel_at_every_step": "_cancelling",
    "create_scripted_agent": "_scripted",
    "create_scripted_user": "_scripted",
    "run_in_virtual_time": "_clock",
    "schedules": "_clock",
    "search_schedules": "_clock",
    "stream_layer": "cassette",
    "use_cassette": "cassette",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__:
            raise
        raise ImportError(
            f"{__name__}.{name} needs {error.name!r}. Install it with: pip install 'miniagents[testing]'",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
