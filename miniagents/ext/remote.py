"""Agents in other processes, called through a broker: NATS with JetStream (extra `nats`).

```python
MiniAgents().run(serve("nats://127.0.0.1:4222", researcher, writer))  # a worker; as many as needed, on any host

researcher = remote("nats://127.0.0.1:4222", "RESEARCHER")  # an agent like any other, in the application
answer = researcher.trigger("Find it.", call_id="job-7")

replies = await reopen("nats://127.0.0.1:4222", "job-7")  # in any process, now or later
```

A call lies in a queue until a worker claims it; then its replies are a log at the broker, which any number of readers
follow, from the start. A call is claimed once: nothing runs a second time by itself. `docs/how-to/several-processes.md`
says what is promised.
"""

from __future__ import annotations

import functools
import inspect
import math
import secrets
from typing import TYPE_CHECKING, Any, overload

from miniagents.ext._nats import NatsBroker
from miniagents.ext._remote_caller import find_caller
from miniagents.ext._remote_calls import FollowedCall
from miniagents.ext._remote_frames import Call, dump_arguments, dump_limits, dump_trace, is_id
from miniagents.ext._remote_worker import Worker
from miniagents.miniagents import InteractionContext, MiniAgent, MiniAgents
from miniagents.values import encode

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from miniagents.ext._remote_broker import Broker
    from miniagents.messages import Message, MessageSequencePromise

    M = TypeVar("M", bound=Message, default=Message)

__all__ = ["NatsBroker", "remote", "reopen", "serve"]

_LONGEST_ALIAS = 100
"""Bytes of an alias, which becomes a part of names at the broker."""
_DEFAULT_WAIT = 30.0


async def serve(
    broker: str | Broker,
    *agents: MiniAgent[Any],
    concurrency: int = 100,
    lease: float = 10.0,
    drain: float = 30.0,
    keep: float = 3600.0,
) -> None:
    """Take calls of these agents from a broker and run them, until SIGTERM, which lets running calls end first.

    Args:
        broker: URL of a NATS server, or a `NatsBroker`.
        agents: agents that may be called, with the arguments that they take. Other agents cannot be called.
        concurrency: largest number of calls in progress; the queue keeps the others.
        lease: seconds without a sign of life after which callers take this worker for lost. A thread sends such signs,
            so that code which blocks the event loop is no loss.
        drain: seconds that calls in progress get after SIGTERM before they are cancelled.
        keep: seconds for which the broker keeps a frame of a log.

    Raises:
        TypeError: one of `agents` is no agent, or takes an argument named `call_id`.
        ValueError: two agents have one alias, there is no agent, or a number is out of range.
        MissingExtraError: the package nats-py is not installed.
        NoActiveContextError: no run is open.
    """
    by_alias: dict[str, MiniAgent[Any]] = {}
    for agent in agents:
        _check_agent(agent)
        if agent.alias in by_alias:
            raise ValueError(f"Two agents have the alias {agent.alias!r}: give one of them another, by `fork(alias=)`")
        by_alias[_check_alias(agent.alias)] = agent
    if not by_alias:
        raise ValueError("serve() needs at least one agent")
    if concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, not {concurrency!r}")
    for name, value, least in (("lease", lease, 0.0), ("drain", drain, -1.0), ("keep", keep, 0.0)):
        _check_seconds(name, value, above=least)
    MiniAgents.get_current("`serve(...)`")
    async with _broker_of(broker).connect(keep=keep) as connection:
        await Worker(connection, by_alias, concurrency=concurrency, lease=lease, drain=drain).run()


@overload
def remote(broker: str | Broker, agent: str, *, wait: float = _DEFAULT_WAIT) -> MiniAgent[...]: ...
@overload
def remote(broker: str | Broker, agent: MiniAgent[..., M], *, wait: float = _DEFAULT_WAIT) -> MiniAgent[..., M]: ...
def remote(broker: str | Broker, agent: Any, *, wait: float = _DEFAULT_WAIT) -> MiniAgent[..., Any]:
    """Return an agent that workers run: a call of it goes to one of the workers that serve an agent of this alias.

    It takes the keyword arguments of the agent, and `call_id`: the id of the call, by which any process can read the
    replies later (`reopen`). Two calls with one id are one call with two readers. Messages are sent when they are
    complete.

    Args:
        broker: URL of a NATS server, or a `NatsBroker`.
        agent: alias of the agent; or the agent itself, whose parameters are then checked before a call is sent.
        wait: seconds in which a worker must take the call, and for which the broker may be out of reach.

    Raises:
        TypeError: `agent` is neither an alias nor an agent, or the agent takes an argument named `call_id`.
        ValueError: the alias is empty or too long, or `wait` is out of range.
        MissingExtraError: the package nats-py is not installed.
    """
    if not isinstance(agent, str):
        _check_agent(agent)
    _check_seconds("wait", wait, above=0)
    return _RemoteAgent(_broker_of(broker), agent, wait)


async def reopen(broker: str | Broker, call_id: str) -> MessageSequencePromise:
    """Return the replies of a call from the start, in any process, while the agent works or later.

    Reading them, or cancelling the returned promise, never stops the agent.

    Args:
        broker: URL of a NATS server, or a `NatsBroker`.
        call_id: id of the call.

    Raises:
        CallNotFoundError: no worker has claimed the call yet, or its log is no longer kept.
        RemoteUnavailableError: the broker cannot be reached.
        RemoteProtocolError: the log begins with a frame of another version.
        ValueError: the id is no id of a call.
        MissingExtraError: the package nats-py is not installed.
        NoActiveContextError: no run is open.
    """
    opened = _broker_of(broker)
    _check_call_id(call_id)
    caller = await find_caller(opened, _DEFAULT_WAIT)
    await caller.check_log(call_id)

    async def follow(ctx: InteractionContext) -> None:
        """Reply the replies of the call."""
        await FollowedCall(caller, ctx, call_id, agent="", wait=_DEFAULT_WAIT, call=None, is_named=True).run()

    return MiniAgent(follow, alias=f"CALL {call_id}", description="").trigger(start_soon=True, errors_as_messages=False)


class _RemoteAgent(MiniAgent[..., Any]):
    """Agent whose function sends the call to a worker.

    Args:
        broker: the broker.
        agent: alias of the agent, or the agent.
        wait: seconds in which a worker must take the call, and for which the broker may be out of reach.
    """

    def __init__(self, broker: Broker, agent: str | MiniAgent[Any], wait: float) -> None:
        template = None if isinstance(agent, str) else agent
        alias = agent if isinstance(agent, str) else agent.alias
        _check_alias(alias)

        async def call(ctx: InteractionContext, /, *, call_id: str | None = None, **arguments: Any) -> None:
            """Send the call to a worker, and reply what the agent replies there."""
            messages = [encode(message) for message in await ctx.message_promises]
            made = Call(
                secrets.token_hex(16) if call_id is None else call_id,
                alias,
                messages,
                dump_arguments(arguments),
                dump_limits(ctx.limits),
                dump_trace(),
            )
            caller = await find_caller(broker, wait)
            followed = FollowedCall(
                caller, ctx, made.id, agent=alias, wait=wait, call=made, is_named=call_id is not None
            )
            await followed.run()

        # A model that calls the agent of an alias as a tool gives it one message.
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_ONLY)
        call.__signature__ = inspect.Signature([context])  # type: ignore[attr-defined]  # a function may have it
        super().__init__(call, alias=alias, description=None if template is None else template.description)
        self._stands_for = template

    def check_arguments(self, kwargs: dict[str, Any]) -> None:
        """Check the keyword arguments of a call before it is sent.

        Raises:
            TypeError: another process cannot get one of them, or the agent does not take it.
            ValueError: the call id is no id of a call.
        """
        super().check_arguments(kwargs)
        arguments = dict(kwargs)
        call_id = arguments.pop("call_id", None)
        if call_id is not None:
            _check_call_id(call_id)
        if self._stands_for is not None:
            self._stands_for.check_arguments({**self._stands_for.kwargs, **arguments})
        dump_arguments(arguments)


def _broker_of(broker: str | Broker) -> Broker:
    """Return the broker of a URL; one for each URL, so that agents of a run share its connection."""
    return _broker_of_url(broker) if isinstance(broker, str) else broker


@functools.cache
def _broker_of_url(url: str) -> NatsBroker:
    """Return the broker of a URL, the same one at each call."""
    return NatsBroker(url)


def _check_agent(agent: Any) -> None:
    """Raise `TypeError` for an argument that is no agent, or an agent whose own argument is named `call_id`."""
    if not isinstance(agent, MiniAgent):
        raise TypeError(f"An agent is needed here, not {agent!r:.100}")
    try:
        parameters = inspect.signature(agent.function).parameters
    except (TypeError, ValueError):
        return
    if "call_id" in parameters and not isinstance(agent, _RemoteAgent):
        raise TypeError(f"Agent {agent.alias} takes an argument `call_id`, which is the id of a remote call: rename it")


def _check_alias(alias: str) -> str:
    """Return an alias; raise `ValueError` for one that cannot be a part of names at the broker."""
    if not alias or len(alias.encode("utf-8", "surrogatepass")) > _LONGEST_ALIAS:
        raise ValueError(f"The alias of a remote agent has 1 to {_LONGEST_ALIAS} bytes, not as {alias!r:.100}")
    return alias


def _check_call_id(call_id: object) -> None:
    """Raise `TypeError` or `ValueError` for an id that cannot be one of a call."""
    if not isinstance(call_id, str):
        raise TypeError(f"call_id must be a str, not {call_id!r:.100}")
    if not is_id(call_id):
        raise ValueError(f"call_id must be 1 to 64 ASCII letters, digits, - and _, not {call_id!r:.100}")


def _check_seconds(name: str, value: object, *, above: float) -> None:
    """Raise `TypeError` or `ValueError` unless a value is a finite number of seconds above a bound."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (value > above and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number of seconds above {max(above, 0):g}, not {value!r}")
