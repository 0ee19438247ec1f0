"""The run context that an application opens once, `MiniAgents`, and the public names of agents and their calls."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Never, NoReturn, TypeVar

from miniagents._agents.agent import MiniAgent, miniagent, raise_for_several_messages
from miniagents._agents.interaction import AgentCall, AgentsContext, InteractionContext
from miniagents._agents.persistence import MessagePersister, PersistHandler
from miniagents._agents.running import Runner, catch_signal
from miniagents._promising.context import PromisingContext
from miniagents.errors import unknown_argument_error
from miniagents.messages import Message, MessageSequencePromise
from miniagents.observing import check_observers, observers_of_run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractContextManager

    from miniagents._agents.usage import Limits, Price
    from miniagents._promising.promise import Promise
    from miniagents.messages import MessageType
    from miniagents.observing import Observer, RunObserver

__all__ = ["AgentCall", "InteractionContext", "MiniAgent", "MiniAgents", "miniagent"]

T = TypeVar("T")


class MiniAgents(AgentsContext):
    """The context in which agents run: `MiniAgents().run(amain())`, or `async with MiniAgents():` in a running loop.

    Args:
        stream_llm_tokens_by_default: True if LLM agents ask their provider to stream.
        errors_as_messages: True if by default an agent's error becomes an `ErrorMessage` among its replies.
        on_persist_messages: async functions that store messages. Each gets tuples of messages: each message object
            once, after the messages inside it.
        limits: limits of the run on requests to models, their tokens and their cost, see `Limits`.
        price: function that returns what a request to a model costs: it gets the name of the model and a `Usage`, and
            returns a number, or None for a model that it does not know. By default, the package genai-prices knows the
            prices in US dollars, if it is installed (the extra `prices`).
        observers: functions that are told when an agent call, a request to a model or a call of a tool begins, see
            `Observer`.
        options: see `PromisingContext`.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value.
    """

    listens: bool
    keeps_results: bool

    def __init__(
        self,
        *,
        stream_llm_tokens_by_default: bool = True,
        errors_as_messages: bool = False,
        on_persist_messages: Iterable[PersistHandler] = (),
        limits: Limits | None = None,
        price: Price | None = None,
        observers: Iterable[Observer] = (),
        **options: Any,
    ) -> None:
        if not options.keys() <= _OPTIONS:
            known = {*(MiniAgents.__init__.__kwdefaults__ or ()), *_OPTIONS}
            raise unknown_argument_error("MiniAgents", min(options.keys() - _OPTIONS), known)
        super().__init__(errors_as_messages=errors_as_messages, limits=limits, price=price, **options)
        self._given_observers = check_observers(observers)
        self.stream_llm_tokens_by_default = stream_llm_tokens_by_default
        self._persisters = [MessagePersister(handler) for handler in on_persist_messages]
        if self._persisters:
            self.listens = self.keeps_results = True

    if not TYPE_CHECKING:  # type checkers refuse `with` without `async`

        def __enter__(self) -> NoReturn:
            """Raise `TypeError`: write `async with MiniAgents():`, not `with MiniAgents():`."""
            raise TypeError("A run waits for its agents: write `async with MiniAgents():`, not `with MiniAgents():`")

        def __exit__(self, *error: object) -> None:
            """Do nothing: `__enter__` has raised."""

    def _open(self) -> None:
        """Open the context with the observers of its run; raise `RuntimeError` if it was opened before."""
        super()._open()
        self.observers: tuple[RunObserver, ...] = observers_of_run(self._given_observers, self.parent)

    # --- running

    def run(self, awaitable: Awaitable[T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
        """Run `awaitable` in an event loop of its own, wait for the agents that it started, and return its result.

        Ctrl-C, or a `KeyboardInterrupt` in any task, is raised once, as `KeyboardInterrupt`, inside the awaitable;
        agents are then cancelled, and their `finally` blocks run. A second Ctrl-C ends the run without waiting for
        them. SIGTERM cleans up in the same way and exits with status 143.

        Args:
            awaitable: usually the coroutine of the application's main function.
            loop_factory: function that makes the event loop; asyncio's default if None.

        Raises:
            TypeError: the argument cannot be awaited.
            RuntimeError: a loop is running already in this thread, as in a notebook.
        """
        _check_awaitable(awaitable)
        _check_no_running_loop(awaitable)

        def note_interrupt() -> None:
            """Note that the run was interrupted, so that the context cancels its agents."""
            self.interrupted = True

        return Runner[T](note_interrupt, loop_factory).run(self.arun(awaitable))

    async def arun(self, awaitable: Awaitable[T]) -> T:
        """Await `awaitable` inside this context, in the running loop, and return its result."""
        _check_awaitable(awaitable)
        try:
            async with self:
                return await awaitable
        finally:
            _close_unawaited(awaitable)  # the context was open before

    def run_agent(
        self, agent: MiniAgent[Any], messages: MessageType | None = None, *others: Never, **kwargs: Any
    ) -> tuple[Message, ...]:
        """Run one agent in an event loop of its own and return its replies.

        Args:
            agent: agent to call.
            messages: messages to send to the agent, see `MessageType`.
            others: none: several messages are sent as a list.
            kwargs: keyword arguments of the agent.

        Raises:
            TypeError: this is no agent, or there are several arguments with messages.
            RuntimeError: a loop is running already in this thread, as in a notebook.
        """
        if not isinstance(agent, MiniAgent):
            raise TypeError(f"run_agent() needs an agent, not {agent!r:.100}: write `@miniagent` above its `async def`")
        if others:
            raise_for_several_messages("run_agent(agent, ")
        _check_no_running_loop(None)

        async def call() -> tuple[Message, ...]:
            """Call the agent, and return its replies."""
            return await agent.trigger(messages, **kwargs)

        return self.run(call())

    def catch_signal(self, signum: int, handler: Callable[[], object]) -> AbstractContextManager[None]:
        """Return a context manager in which `handler` gets a signal, in place of its usual effect on the run.

        The handler is called without arguments in the event loop, after what was typed before the signal was read. If
        it returns False, the signal has its usual effect. If the event loop is blocked, so that the handler was not
        called yet, the next signal has its usual effect, too. A second SIGTERM ends the run at once. Outside of the
        main thread nothing is caught.

        Args:
            signum: the signal, such as `signal.SIGINT` for Ctrl-C.
            handler: function that is called for each signal.
        """
        return catch_signal(signum, handler)

    # --- persistence

    def on_persist_messages(self, handler: PersistHandler) -> PersistHandler:
        """Add a function that stores messages, as in the argument of this name, and return it: also a decorator."""
        self._persisters.append(MessagePersister(handler))
        self.listens = self.keeps_results = True
        return handler

    def run_handlers(self, promise: Promise[Any], result: Any) -> None:
        """Schedule handlers of promises, and persistence of a message, in this context and in the outer ones."""
        super().run_handlers(promise, result)
        if not isinstance(result, Message):
            return
        context: Any = self
        while context is not None:
            if isinstance(context, MiniAgents):
                context._persist_soon((result,))
            context = context.parent

    def _persist_soon(self, messages: tuple[Message, ...]) -> None:
        """Give messages to each persister; start a task for each that has waiting messages and no such task yet."""
        for persister in self._persisters:
            persister.add(messages)
            if persister.has_work and not persister.is_scheduled:
                persister.is_scheduled = True
                self.spawn(persister.persist_waiting(), self.handler_ended, name="persistence")

    async def apersist_messages(self, messages: MessageType) -> None:
        """Persist messages, together with those that a handler failed to store before.

        Return when every handler has stored them. If another task is persisting a message, wait for that task, and give
        the message to the handler again if it fails.

        Raises:
            Exception: the error of a handler; its messages are given to it again later.
            DeadlockError: a handler made this call for messages of another handler's call, which waits for this one.
        """
        resolved = await MessageSequencePromise.of_items(messages)
        for persister in self._persisters:
            persister.add(resolved)
        for persister in self._persisters:
            await persister.persist(resolved)

    async def after_drain(self) -> None:
        """Persist messages that a handler failed to store, for the last time, and wait for the tasks."""
        self._persist_soon(())
        await super().after_drain()


def _check_awaitable(awaitable: Any) -> None:
    """Raise `TypeError` for an argument of `run` that cannot be awaited."""
    if isinstance(awaitable, MiniAgent):
        raise TypeError("run() needs a coroutine, not an agent: write `run_agent(agent, ...)`, not `run(agent)`")
    if inspect.isawaitable(awaitable):
        return
    if callable(awaitable):
        name = getattr(awaitable, "__name__", "amain")
        raise TypeError(f"run() needs a coroutine, not a function: write `run({name}())`, not `run({name})`")
    raise TypeError(
        f"run() needs a coroutine, not {awaitable!r:.100}: write `run(amain())` with `async def amain():`, not `def`"
    )


_OPTIONS = frozenset(PromisingContext.__init__.__kwdefaults__ or ())
"""Names of the options of `MiniAgents`."""


def _check_no_running_loop(awaitable: Awaitable[Any] | None) -> None:
    """Raise `RuntimeError` if a loop runs in this thread, and close the coroutine that will not be awaited."""
    if asyncio._get_running_loop() is None:
        return
    _close_unawaited(awaitable)
    raise RuntimeError(
        "MiniAgents().run(...) begins an event loop of its own, and one is running here already, as in every notebook: "
        "write `async with MiniAgents():` and `await amain()` below it, not `MiniAgents().run(amain())`"
    )


def _close_unawaited(awaitable: Any) -> None:
    """Close a coroutine, which would warn that it was never awaited; do nothing to other awaitables."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
