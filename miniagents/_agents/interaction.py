"""One call of an agent: what it sees and can do while it runs, and how it is called.

`errors_as_messages`: what failed among the replies of an agent, told as a message.

The replies of one call: how they reach the caller and end, and what becomes of them when nobody can read them.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from miniagents._promising.context import BoundToRun, Failure, PromisingContext, current_scope
from miniagents._promising.promise import Cell, Promise
from miniagents._promising.sequence_cell import SequenceCell
from miniagents.errors import INTERRUPTS, AppenderClosedError, StopDialog, is_failure
from miniagents.messages import ErrorMessage, Message, MessagePromise, MessageSequence, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from typing import Self

    from miniagents._agents.agent import MiniAgent
    from miniagents.messages import MessageType


def error_message(error: BaseException) -> ErrorMessage:
    """An error as a message that nobody can take for a model's text."""
    return ErrorMessage(f"{type(error).__name__}: {error}")


def with_its_error_shown(promise: MessagePromise) -> MessageSequencePromise:
    """The message, and if it fails, an `ErrorMessage` behind what had arrived of it, which is marked `interrupted`.

    `StopDialog` is no failure and stays where it is. Somebody has to see whether the message fails, so its stream goes
    on to its end even when nobody can read it any more.
    """

    async def parts() -> AsyncIterator[Any]:
        batches = promise.batches()
        try:
            first = await anext(batches, None)
            if first is None:
                yield await promise
                return
        except StopDialog:
            yield promise
            return
        except INTERRUPTS:
            raise
        except BaseException as error:
            yield error_message(error)
            return
        failed: list[BaseException] = []

        async def tokens(fields: dict[str, Any]) -> AsyncIterator[list[str]]:
            yield first
            try:
                async for batch in batches:
                    yield batch
                fields.update(_fields(await promise))
            except StopDialog:
                raise
            except INTERRUPTS:
                raise
            except BaseException as error:
                failed.append(error)
                fields.update(_fields(getattr(error, "partial", None)), interrupted=True)

        shown = MessagePromise(
            tokens, message_class=promise.message_class, batches=True, known_beforehand=promise.known_beforehand
        )
        yield shown
        try:
            await shown
        except INTERRUPTS:
            raise
        except BaseException:
            return  # a StopDialog: it is in its place
        if failed:
            yield error_message(failed[0])

    return MessageSequencePromise.of_async_iterable(parts())


def with_errors_shown(piece: MessagePromise | MessageSequencePromise) -> MessageSequencePromise:
    """The same for a message, or for each one of a sequence."""
    if isinstance(piece, MessagePromise):
        return with_its_error_shown(piece)

    async def shown() -> AsyncIterator[Any]:
        async for promise in piece:
            yield promise if promise.is_resolved else with_its_error_shown(promise)

    return MessageSequencePromise.of_async_iterable(shown())


def _fields(message: Message | None) -> dict[str, Any]:
    return {} if message is None else {name: value for name, value in message if name != "content"}


class ReplyCell(SequenceCell):
    """The replies of one call. Its end is the end of the call, told by the agent's task."""

    scope: InteractionContext
    errors_as_messages = False
    forsaken = False
    """Nobody can read these replies any more: what they would hold must not be kept alive by them."""

    def add(self, pieces: list[Any]) -> None:
        """Append leaves and branches, unless nobody can read them."""
        if self.forsaken:
            return
        if self.errors_as_messages:
            pieces = [with_its_error_shown(piece) if _may_fail(piece) else piece for piece in pieces]
        super().add(pieces)

    def add_out_of_order(self, pieces: list[Any]) -> None:
        """Append leaves now and branches as they come, unless nobody can read them."""
        if self.forsaken:
            return
        if self.errors_as_messages:
            pieces = [with_errors_shown(piece) if _is_pending(piece) else piece for piece in pieces]
        super().add_out_of_order(pieces)

    def handle_lost_promise(self) -> None:
        """Let go of the replies: their promise was lost while the agent is still running, and goes on."""
        self.forsaken = True
        self.drop_pieces()

    def leaf_of_error(self, error: BaseException) -> Promise[Any]:
        """An agent's error is the last of its replies, as an `ErrorMessage` where that was asked for."""
        if self.errors_as_messages and not isinstance(error, StopDialog):
            return MessagePromise.of_message(error_message(error))
        return super().leaf_of_error(error)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Everything that ends a call comes through here, also its cancellation before the first step."""
        if self.context is not None:
            self.context.forget(task)
        self.task = None
        error = None if task.cancelled() else task.exception()
        if is_failure(error):
            self.fail(error)
        elif task.cancelled() or error is not None:
            self.settle_as_cancelled()
        else:
            self.finish()
        self.scope.ended()


def _may_fail(piece: Any) -> TypeGuard[MessagePromise]:
    return isinstance(piece, MessagePromise) and not piece.is_resolved


def _is_pending(piece: Any) -> TypeGuard[MessagePromise | MessageSequencePromise]:
    return isinstance(piece, MessageSequencePromise) or _may_fail(piece)


class Scope(BoundToRun):
    """Whoever starts calls: an agent at work, or the body of a run. Calls it leaves unfinished are finished with it."""

    __slots__ = ("unfinished_calls",)

    def __init__(self) -> None:
        self.unfinished_calls: set[MessageSequence] | None = None
        """What the calls are sent, not their handles: whether those are lost must show."""

    def call_made(self, messages: MessageSequence) -> None:
        """A call was made, which is sent `messages`."""
        if self.unfinished_calls is None:
            self.unfinished_calls = set()
        self.unfinished_calls.add(messages)

    def finish_call(self, messages: MessageSequence) -> None:
        """No more messages will be sent; finishing twice is fine."""
        messages.close()
        if self.unfinished_calls is not None:
            self.unfinished_calls.discard(messages)

    def finish_calls(self) -> None:
        """Finish the calls that were left open."""
        if self.unfinished_calls is not None:
            calls, self.unfinished_calls = self.unfinished_calls, None
            for messages in calls:
                messages.close()

    def call_lost(self, messages: MessageSequence) -> None:
        """Nobody has the handle of a call any more; comes from wherever garbage is collected."""


class _ServerScope(Scope):
    """The tasks of a server. They have no end in common, so that each call is finished when its handle is lost."""

    __slots__ = ("_context",)

    def __init__(self, context: PromisingContext) -> None:
        super().__init__()
        self._context = context

    def call_lost(self, messages: MessageSequence) -> None:
        if self.unfinished_calls is not None and messages in self.unfinished_calls:
            self._context.call_soon(partial(self.finish_call, messages))


class _AwaitedCell(Cell[Any]):
    """What an agent was told to wait for. A coroutine runs as the task itself, so that none is left never awaited."""

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """The end of the task is that of the cell."""
        if not task.cancelled() and task.exception() is None:
            self.resolve(task.result())
        super().task_ended(task)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class InteractionContext(Scope):
    """What an agent gets: the messages it was sent, and the means to reply."""

    __slots__ = ("_awaitables", "_kwargs", "_replies", "caller", "message_promises", "this_agent", "timeout")

    message_promises: MessageSequencePromise
    """The messages the agent was sent, as they come."""
    this_agent: MiniAgent[Any]
    """The agent that was called."""

    def __init__(
        self,
        agent: MiniAgent[Any],
        message_promises: MessageSequencePromise,
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
        errors_as_messages: bool,
    ) -> None:
        self.unfinished_calls = None
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
        """The interaction of the agent that is running here.

        Raises:
            LookupError: no agent is running here.
        """
        scope = current_scope.get()
        if not isinstance(scope, InteractionContext):
            raise LookupError(  # noqa: TRY004 - nothing is of a wrong type: there is nothing
                "No agent is running here: InteractionContext.get_current() works inside an agent only"
            )
        return scope

    def get_agent_trace(self) -> list[str]:
        """The aliases of this agent and of its callers, the innermost first."""
        trace: list[str] = []
        scope: object = self
        while isinstance(scope, InteractionContext):
            trace.append(scope.this_agent.alias)
            scope = scope.caller
        return trace

    # --- replying

    def reply(self, messages: MessageType) -> None:
        """Send something to the caller, now.

        Raises:
            TypeError: a part of it cannot be sent.
            AppenderClosedError: this call has ended already.
        """
        self._open_replies().send(messages)

    def reply_out_of_order(self, messages: MessageType) -> None:
        """Reply messages that wait for no others: each comes when it begins, before messages in order that do not."""
        self._open_replies().send_out_of_order(messages)

    def _open_replies(self) -> ReplyCell:
        if self._replies is None or self._replies.is_closing:
            raise AppenderClosedError(f"Agent {self} cannot reply any more: its replies have ended")
        return self._replies

    def make_sure_to_wait(self, awaitable: Awaitable[Any]) -> None:
        """The replies end only after this has ended as well; its error comes as the last reply.

        When the agent itself fails or is stopped, the awaitable is cancelled.

        Raises:
            TypeError: it is not awaitable.
        """
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"make_sure_to_wait() needs an awaitable, not {awaitable!r:.100}")
        if self._awaitables is None:
            self._awaitables = deque()
        cell = _AwaitedCell(Promise)
        cell.set_work(lambda: awaitable if inspect.iscoroutine(awaitable) else _awaited(awaitable), start_soon=True)
        self._awaitables.append(Promise.of_cell(cell))

    async def await_now(self) -> None:
        """Wait for everything given to `make_sure_to_wait` so far, then raise the first error; others become notes."""
        first_error: BaseException | None = None
        while self._awaitables:
            promise = self._awaitables[0]
            try:
                await promise
            except INTERRUPTS:
                raise
            except BaseException as error:
                if first_error is None:
                    first_error = error
                else:
                    first_error.add_note(f"Something else to wait for failed as well: {error!r}")
            if self._awaitables and self._awaitables[0] is promise:
                self._awaitables.popleft()
        if first_error is not None:
            raise first_error

    async def afinish_early(self, *, await_now: bool = True) -> None:
        """End the replies although the agent goes on; a later error counts as unobserved in the run context."""
        if await_now:
            await self.await_now()
        if self._replies is not None:
            self._replies.finish()

    # --- running

    def start(self, start_soon: bool | None) -> MessageSequencePromise:
        """Begin the call; returns what the caller reads."""
        replies = self._open_replies()
        promise = MessageSequencePromise.of_cell(replies)
        replies.set_work(self._run, start_soon)
        return promise

    def ended(self) -> None:
        """Keep nothing of the call, whatever the agent has started goes on: what was replied is its reader's now."""
        self._replies = None
        self._kwargs = {}

    async def _run(self) -> None:
        current_scope.set(self)
        try:
            if self.timeout is None:
                await self._work()
            else:
                await self._work_until(self.timeout)
        except INTERRUPTS:
            raise
        except BaseException as error:
            _add_trace(error, self)
            raise
        finally:
            self.finish_calls()
        if self._replies is not None:
            self._replies.finish()  # readers go on a loop step before `task_ended`, which sees to every other end

    async def _work_until(self, timeout: float) -> None:
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                await self._work()
        except TimeoutError as error:
            if deadline.expired():
                if error.__cause__ is not None:
                    # what the function waited for is not to go on as long as its error is kept; lines are still told
                    traceback.clear_frames(error.__cause__.__traceback__)
                raise TimeoutError(f"Agent {self} did not end within {timeout} s") from error
            raise

    async def _work(self) -> None:
        try:
            await self.this_agent.run_function(self, self._kwargs)
            self.finish_calls()
            if self._awaitables:
                await self.await_now()
        finally:
            for promise in self._awaitables or ():
                promise.cancel()


def _add_trace(error: BaseException, interaction: InteractionContext) -> None:
    """Tell once, where it was raised, on whose behalf the agent ran."""
    if not any(note.startswith(_TRACE) for note in getattr(error, "__notes__", ())):
        error.add_note(_TRACE + " <- ".join(interaction.get_agent_trace()))


_TRACE = "Raised in agent "


class AgentCall(BoundToRun):
    """A call whose messages are sent one by one; the agent sees them as they are sent.

    Made by `agent.initiate_call()`. It is finished by `finish`, by `reply_sequence`, or when its caller's scope ends;
    outside of agents in a server (`activate()`), when this object is collected.
    """

    __slots__ = ("__weakref__", "_messages", "_replies", "_scope")

    def __init__(self, messages: MessageSequence, replies: MessageSequencePromise, scope: Scope) -> None:
        self._messages = messages
        self._replies = replies
        self._scope = scope
        scope.call_made(messages)

    def __del__(self) -> None:
        if hasattr(self, "_scope"):  # not of one that could not be made
            self._scope.call_lost(self._messages)

    def send_message(self, message: MessageType) -> Self:
        """Send something to the agent, now.

        Raises:
            TypeError: a part of it cannot be sent.
            AppenderClosedError: the call has been finished.
        """
        self._messages.append(message)
        return self

    def send_out_of_order(self, message: MessageType) -> Self:
        """Send messages that wait for no others: each comes when it begins, before messages in order that do not."""
        self._messages.append_out_of_order(message)
        return self

    def reply_sequence(self, *, finish_call: bool = True) -> MessageSequencePromise:
        """What the agent replies; unless `finish_call` is False, nothing can be sent afterwards."""
        if finish_call:
            self.finish()
        return self._replies

    def finish(self) -> None:
        """No more messages will be sent; finishing twice is fine."""
        self._scope.finish_call(self._messages)

    @property
    def is_finished(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._messages.sequence_promise.is_done

    def cancel(self) -> None:
        """Stop the agent; its readers get the replies so far and then `PromiseCancelledError`."""
        self.finish()
        self._replies.cancel()


class AgentsContext(PromisingContext):
    """A run context in which agents can be called.

    Args:
        errors_as_messages: the default for calls, see `MiniAgent.trigger`.
        options: see `PromisingContext`.
    """

    how_to_open = "`MiniAgents().run(...)` or `async with MiniAgents():`"

    def __init__(self, *, errors_as_messages: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.errors_as_messages = errors_as_messages
        self._body = Scope()

    def activate(self) -> Self:
        """See `PromisingContext.activate`; a call that is left unfinished is finished when its handle is lost."""
        self._body = _ServerScope(self)
        return super().activate()

    def calling_scope(self) -> Scope:
        """Whoever makes calls here: the running agent, or the body of the run."""
        scope = current_scope.get()
        return scope if isinstance(scope, Scope) else self._body

    def record_failure(self, failure: Failure) -> None:
        """An error that somebody is yet to observe says on whose behalf its source ran."""
        scope = current_scope.get()
        if isinstance(scope, InteractionContext):
            _add_trace(failure.error, scope)
        super().record_failure(failure)

    def before_drain(self) -> None:
        """Calls the body of the run left unfinished are finished, so that their agents can end."""
        self._body.finish_calls()
