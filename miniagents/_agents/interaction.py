"""One call of an agent, from both of its ends, and the run context in which agents can be called.

`InteractionContext` is the side of the called agent, `AgentCall` the side of a caller that sends messages one by one.
A call scope owns the calls that were left unfinished.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections import deque
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from miniagents._agents.replies import ReplyCell
from miniagents._agents.usage import CountedCall, CountedRun
from miniagents._promising.context import BoundToRun, Failure, PromisingContext, current_scope
from miniagents._promising.promise import Cell, Promise
from miniagents.errors import (
    INTERRUPTS,
    AppenderClosedError,
    add_note,
    find_stray_cancellation,
)
from miniagents.messages import MessageSequence, MessageSequencePromise
from miniagents.observing import Observation

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Self

    from miniagents._agents.agent import MiniAgent
    from miniagents._agents.usage import Limits, Price, UsageTotals
    from miniagents.messages import MessageType, ToolCall
    from miniagents.observing import RunObserver


class _CallScope(BoundToRun):
    """Owner of the unfinished calls of a running agent, or of the body of a run; its end finishes these calls."""

    __slots__ = ("unfinished_calls",)

    def __init__(self) -> None:
        self.unfinished_calls: set[MessageSequence] | None = None
        """The messages of each unfinished call; not the `AgentCall` objects, which must stay collectable."""

    def add_call(self, messages: MessageSequence) -> None:
        """Add a call that must be finished at the end; `messages` is the sequence that the call sends."""
        if self.unfinished_calls is None:
            self.unfinished_calls = set()
        self.unfinished_calls.add(messages)

    def finish_call(self, messages: MessageSequence) -> None:
        """Close `messages`, the sequence that a call sends, and forget the call; do nothing if it is finished."""
        messages.close()
        if self.unfinished_calls is not None:
            self.unfinished_calls.discard(messages)

    def finish_calls(self) -> None:
        """Close the messages of all calls that were left open, so that the called agents see their end.

        Forget these calls; do nothing if there are none.
        """
        if self.unfinished_calls is not None:
            calls, self.unfinished_calls = self.unfinished_calls, None
            for messages in calls:
                messages.close()

    def on_call_collected(self, messages: MessageSequence) -> None:
        """Do nothing when an `AgentCall` is collected, possibly in another thread: the scope's end finishes the call.

        A subclass may finish the call at this point.
        """


class _ServerCallScope(_CallScope):
    """Scope of the tasks of a server, which have no common end: each call ends when its `AgentCall` is collected."""

    __slots__ = ("_context",)

    def __init__(self, context: PromisingContext) -> None:
        super().__init__()
        self._context = context

    def on_call_collected(self, messages: MessageSequence) -> None:
        """Finish the call soon, in the event loop of the context; do nothing if it is finished."""
        if self.unfinished_calls is not None and messages in self.unfinished_calls:
            self._context.call_soon(partial(self.finish_call, messages))


class InteractionContext(_CallScope, CountedCall):
    """The context of one call, which the agent gets: the messages that it was sent, and methods to reply."""

    __slots__ = (
        "_awaitables",
        "_kwargs",
        "_replies",
        "_tool_call",
        "_usage",
        "caller",
        "limits",
        "message_promises",
        "observation",
        "run_context",
        "task_name",
        "this_agent",
        "timeout",
    )

    message_promises: MessageSequencePromise
    """The messages the agent was sent, as they come."""
    this_agent: MiniAgent[Any]
    """The agent that was called."""
    caller: object
    """The call that made this one, or the body of the run."""
    timeout: float | None
    limits: Limits | None
    run_context: AgentsContext
    observation: Observation
    """The observation of this call, only in a run with observers."""
    task_name: str
    """Name of the tasks of the call: the agent's alias, and the number of its call in the run, as in `WRITER#2`."""
    unfinished_calls: set[MessageSequence] | None

    def __init__(
        self,
        agent: MiniAgent[Any],
        message_promises: MessageSequencePromise,
        kwargs: dict[str, Any],
        timeout: float | None,
        errors_as_messages: bool,
        limits: Limits | None,
        run_context: AgentsContext,
    ) -> None:
        self.unfinished_calls = None
        self.limits = limits
        self.run_context = run_context
        self._usage: UsageTotals | None = None
        self.this_agent = agent
        self.message_promises = message_promises
        self.timeout = timeout
        self.caller = current_scope.get()
        self._kwargs = kwargs
        self._awaitables: deque[Promise[Any]] | None = None
        replies = ReplyCell(MessageSequencePromise)
        replies.scope = self
        replies.errors_as_messages = errors_as_messages
        self._replies: ReplyCell | None = replies

    def __str__(self) -> str:
        return self.this_agent.alias

    @classmethod
    def get_current(cls) -> InteractionContext:
        """Return the context of the running agent, in its function and in the tasks that it started.

        Raises:
            LookupError: the caller does not run inside an agent.
        """
        scope = current_scope.get()
        if not isinstance(scope, InteractionContext):
            raise LookupError(  # noqa: TRY004 - no value of a wrong type was given
                "No agent is running here: InteractionContext.get_current() works inside an agent only"
            )
        return scope

    def get_agent_trace(self) -> list[str]:
        """Return the aliases of this agent and of its callers, beginning with this agent."""
        trace: list[str] = []
        scope: object = self
        while isinstance(scope, InteractionContext):
            trace.append(scope.this_agent.alias)
            scope = scope.caller
        return trace

    @property
    def tool_call(self) -> ToolCall | None:
        """The call of a model that the agent answers as a tool; None for any other call of the agent."""
        return getattr(self, "_tool_call", None)  # set for few calls only

    @property
    def errors_as_messages(self) -> bool:
        """True if an error becomes an `ErrorMessage` among the replies.

        Raises:
            AppenderClosedError: the replies have ended.
        """
        return self._open_replies().errors_as_messages

    # --- replying

    def reply(self, messages: MessageType) -> None:
        """Send messages, or anything else that may be sent, to the caller at once.

        Raises:
            TypeError: a part of `messages` cannot be sent.
            AppenderClosedError: the replies have ended.
            RuntimeError: the event loop of the run works in another thread.
        """
        self._open_replies().send(messages)

    def reply_out_of_order(self, messages: MessageType) -> None:
        """Send messages that need not wait for others.

        Each comes when it begins, before messages sent in order that have not begun.

        Raises:
            TypeError: a part of `messages` cannot be sent.
            AppenderClosedError: the replies have ended.
            RuntimeError: the event loop of the run works in another thread.
        """
        self._open_replies().send_out_of_order(messages)

    def _open_replies(self) -> ReplyCell:
        """Return the replies.

        Raises:
            AppenderClosedError: the replies have ended.
            RuntimeError: the event loop of the run works in another thread.
        """
        if self._replies is None or self._replies.is_closing:
            raise AppenderClosedError(f"Agent {self} cannot reply any more: its replies have ended")
        if get_ident() != self.run_context.thread:
            self.run_context.refuse_other_thread("ctx.reply() was called", "loop.call_soon_threadsafe(ctx.reply, ...)")
        return self._replies

    def make_sure_to_wait(self, awaitable: Awaitable[Any]) -> None:
        """Let the replies end only after this awaitable has ended; its error comes as the last reply.

        If the agent itself fails or is stopped, the awaitable is cancelled.

        Raises:
            TypeError: the argument is not awaitable.
        """
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"make_sure_to_wait() needs an awaitable, not {awaitable!r:.100}")
        if self._awaitables is None:
            self._awaitables = deque()
        cell = _AwaitedCell(Promise)
        cell.set_work(lambda: awaitable if inspect.iscoroutine(awaitable) else _await(awaitable), start_soon=True)
        self._awaitables.append(Promise.of_cell(cell))

    async def await_now(self) -> None:
        """Wait for all awaitables given to `make_sure_to_wait`, before or during this wait; then raise the first error.

        If this wait is cancelled, a later one goes on with the awaitables that have not ended, and with those that have
        failed.

        Further errors become notes of the first one. Each awaitable is waited for once: a second call does not raise
        again.
        """
        failed: list[tuple[Promise[Any], BaseException]] = []
        while self._awaitables:
            promise = self._awaitables[0]
            try:
                await promise
            except INTERRUPTS:
                self._awaitables.extendleft(each for each, _ in reversed(failed))
                raise
            except BaseException as error:
                failed.append((promise, error))
            if self._awaitables and self._awaitables[0] is promise:
                self._awaitables.popleft()
        if failed:
            (_, first_error), *others = failed
            for _, another in others:
                add_note(first_error, f"Another awaitable of make_sure_to_wait() failed as well: {another!r}")
            raise first_error

    async def afinish_early(self, *, await_now: bool = True) -> None:
        """End the replies while the agent goes on; a later error of the agent is unobserved in the run context.

        A later reply raises `AppenderClosedError`. If an awaitable fails, its error is raised and the replies stay
        open.

        Args:
            await_now: False to end the replies without waiting for the awaitables of `make_sure_to_wait`.
        """
        if await_now:
            await self.await_now()
        if self._replies is not None:
            self._replies.finish()

    # --- running

    def start_for_tool_call(self, tool_call: ToolCall) -> MessageSequencePromise:
        """Begin the call at once as the answer to a model's call, and return the promise of its replies."""
        self._tool_call = tool_call
        return self.start(start_soon=True)

    def start(self, start_soon: bool | None) -> MessageSequencePromise:
        """Begin the call and return the promise of its replies; `start_soon` is that of `MiniAgent.trigger`."""
        replies = self._replies
        assert replies is not None
        promise = MessageSequencePromise.of_cell(replies)
        alias = self.this_agent.alias
        self.task_name = f"{alias}#{next(self.run_context.call_numbers[alias])}"
        work = self._run if self.timeout is None else partial(self._run_until, self.timeout)
        if self.run_context.observers:
            self.observation = Observation(self.run_context.observers, "agent", alias)
            observed = partial(self.observation.run, self, work, self._kwargs, replies)
            replies.set_work(observed, start_soon, self.observation.variables)
        else:
            replies.set_work(work, start_soon)
        return promise

    def release(self) -> None:
        """Release replies and arguments after the call, because tasks that the agent started may keep this object."""
        self._replies = None
        self._kwargs = {}

    async def _run(self) -> None:
        """Run the agent's function, and wait for the awaitables of `make_sure_to_wait`; then end the replies.

        Before that wait, finish the calls that the function left open; at the end, finish the calls opened since then.
        Reply what the function returned, also if an awaitable fails. If the function or an awaitable fails, cancel the
        awaitables that are left, add the agent's trace to the error, and raise it; interrupts get no trace.
        """
        current_scope.set(self)
        # No further coroutine or context manager: each running agent would keep it alive.
        try:
            returned = await self.this_agent.run_function(self, self._kwargs)
            if self._awaitables:
                self.finish_calls()
                try:
                    await self.await_now()
                except INTERRUPTS:
                    raise
                except BaseException:
                    if returned is not None:
                        self._reply_returned(returned)
                    raise
            if returned is not None:
                self._reply_returned(returned)
        except INTERRUPTS as interrupt:
            if (stray := find_stray_cancellation(interrupt, f"Agent {self}")) is not None:
                _add_trace(stray, self)
                raise stray from interrupt
            raise
        except BaseException as error:
            _add_trace(error, self)
            raise
        finally:
            for promise in self._awaitables or ():
                promise.cancel()
            self.finish_calls()
        if self._replies is not None:
            self._replies.finish()  # one loop step before `task_ended`, which ends the replies in all other cases

    async def _run_until(self, timeout: float) -> None:
        """Run like `_run`; cancel that after `timeout` seconds, and raise a `TimeoutError` that names the agent.

        A `TimeoutError` of the agent itself is raised unchanged.
        """
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                await self._run()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            if error.__cause__ is not None:
                # The error must not keep alive what the function waited for; its lines stay in the traceback.
                traceback.clear_frames(error.__cause__.__traceback__)
            late = TimeoutError(f"Agent {self} did not end within {timeout} s")
            _add_trace(late, self)
            raise late from error

    def _reply_returned(self, returned: object) -> None:
        """Reply the value that the agent's function returned.

        Raises:
            TypeError: the value cannot be sent; the text names the agent.
            AppenderClosedError: the replies have ended.
        """
        replies = self._open_replies()
        try:
            replies.send(returned)
        except TypeError as error:
            wrong = TypeError(f"Agent {self} returned a value that is no reply. {error}")
            vars(wrong).update(vars(error))
            raise wrong from None


def _add_trace(error: BaseException, interaction: InteractionContext) -> None:
    """Add a note with the names of the agent and its callers to the error, unless the error has such a note."""
    if not any(note.startswith(_TRACE_PREFIX) for note in getattr(error, "__notes__", ())):
        add_note(error, _TRACE_PREFIX + " <- ".join(interaction.get_agent_trace()))


_TRACE_PREFIX = "Raised in agent "


class CallMessages(MessageSequence):
    """The messages of an `AgentCall`."""

    spelling = "call.send_message", "call.finish"


class AgentCall(BoundToRun):
    """A call whose messages are sent one by one; the agent gets each message as soon as it is sent.

    `agent.initiate_call()` makes it. `finish` and `reply_sequence` finish it; otherwise it is finished when the agent
    that made it ends, or the body of the run. In a server (`activate()`), a call made outside of agents is finished
    when this object is collected.
    """

    __slots__ = ("__weakref__", "_messages", "_replies", "_scope")

    def __init__(self, messages: MessageSequence, replies: MessageSequencePromise, scope: _CallScope) -> None:
        self._messages = messages
        self._replies = replies
        self._scope = scope
        scope.add_call(messages)

    def __del__(self) -> None:
        if hasattr(self, "_scope"):  # it has none if the constructor failed
            self._scope.on_call_collected(self._messages)

    def send_message(self, message: MessageType) -> Self:
        """Send a message, or anything else that may be sent, to the agent at once.

        Raises:
            TypeError: a part of `message` cannot be sent.
            AppenderClosedError: the call has been finished.
            RuntimeError: the event loop of the run works in another thread.
        """
        try:
            self._messages.append(message)
        except AppenderClosedError:
            raise self._finished_error() from None
        return self

    def send_out_of_order(self, message: MessageType) -> Self:
        """Send messages that need not wait for others.

        Each comes when it begins, before messages sent in order that have not begun.

        Raises:
            TypeError: a part of `message` cannot be sent.
            AppenderClosedError: the call has been finished.
        """
        try:
            self._messages.append_out_of_order(message)
        except AppenderClosedError:
            raise self._finished_error() from None
        return self

    @staticmethod
    def _finished_error() -> AppenderClosedError:
        """Return the error of a message that is sent too late."""
        return AppenderClosedError(
            "The call is finished, so no message can be sent: reply_sequence(), finish() or cancel() finished it, or "
            "the agent or the run that made it has ended. Send before that, or write reply_sequence(finish_call=False)"
        )

    def reply_sequence(self, *, finish_call: bool = True) -> MessageSequencePromise:
        """Return the promise of the replies, and finish the call unless `finish_call` is False."""
        if finish_call:
            self.finish()
        return self._replies

    def finish(self) -> None:
        """End the messages to the agent; do nothing if the call is finished.

        Raises:
            RuntimeError: the event loop of the run works in another thread.
        """
        self._scope.finish_call(self._messages)

    @property
    def is_finished(self) -> bool:
        """True if no message can be sent any more."""
        return self._messages.sequence_promise.is_done

    def cancel(self) -> None:
        """Stop the agent; its readers get the replies so far and then `PromiseCancelledError`."""
        self.finish()
        self._replies.cancel()


class AgentsContext(PromisingContext, CountedRun):
    """A run context in which agents can be called.

    Args:
        errors_as_messages: the default for calls, see `MiniAgent.trigger`.
        limits: limits of the run, see `Limits`.
        price: the prices of requests to models, see `MiniAgents`.
        options: see `PromisingContext`.

    Raises:
        TypeError: `limits` or `price` is of a wrong type.
    """

    observers: tuple[RunObserver, ...] = ()
    """The observers of the run; none before it is opened."""
    how_to_open = "`async def amain():`, which `MiniAgents().run(amain())` runs, or inside `async with MiniAgents():`"

    def __init__(
        self,
        *,
        errors_as_messages: bool = False,
        limits: Limits | None = None,
        price: Price | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.set_limits(limits, price)
        self.errors_as_messages = errors_as_messages
        self._body_scope = _CallScope()

    def activate(self) -> Self:
        """Open the context like `PromisingContext.activate`; a call is finished when its `AgentCall` is collected."""
        self._body_scope = _ServerCallScope(self)
        return super().activate()

    def current_call_scope(self) -> _CallScope:
        """Return the scope of the code that calls this method: the running agent, or the body of the run."""
        scope = current_scope.get()
        return scope if isinstance(scope, _CallScope) else self._body_scope

    def record_failure(self, failure: Failure) -> None:
        """Add the trace of the running agent to an error, and remember the error until a reader observes it."""
        scope = current_scope.get()
        if isinstance(scope, InteractionContext):
            _add_trace(failure.error, scope)
        super().record_failure(failure)

    def before_drain(self) -> None:
        """Finish the calls that the body of the run left open, so that their agents can end."""
        self._body_scope.finish_calls()


class _AwaitedCell(Cell[Any]):
    """Cell of an awaitable that an agent waits for.

    The cell's task runs a coroutine directly: cancelled before its first step, the coroutine is closed, without
    Python's warning that it was never awaited.
    """

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Settle the cell with the result or the error of the task, or as cancelled."""
        if not task.cancelled() and task.exception() is None:
            self.resolve(task.result())
        super().task_ended(task)


async def _await(awaitable: Awaitable[Any]) -> Any:
    """Await any awaitable, because a task runs only coroutines."""
    return await awaitable
