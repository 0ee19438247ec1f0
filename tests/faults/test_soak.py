"""Soak test: an app of many agents under half an hour of random faults, in virtual time.

The right answer of the model, its truth, is a function of the prompt, so each reader can check the text. A storm is
a source of random faults, which ends after half an hour. Until then readers get the right text, or an error, perhaps
after a beginning of the text. Afterwards all running calls must end, and all new calls must succeed.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import linecache
import logging
import math
import random
import re
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from common import smallest_growth

from miniagents import InMemoryChatHistory, InteractionContext, MiniAgents, join_messages, miniagent, split_messages
from miniagents.errors import LLMError, PromiseCancelledError
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm._failures import Retry
from miniagents.messages import ErrorMessage
from miniagents.utils import adialog_loop
from miniagents_testing import ScriptedLLM, Step, create_scripted_user, faults, run_in_virtual_time
from miniagents_testing.faults import Fault, laid_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from miniagents.messages import MessagePromise, MessageSequencePromise
    from miniagents_testing._script import Call
    from miniagents_testing._streams import ResponseStream
    from tests.conftest import Effort
    from tests.faults.conftest import Kit

STORM = 30 * 60.0
"""Seconds with faults."""
CALM = 5 * 60.0
"""Seconds in which all calls end after the faults: three stalled requests, and the longest waits between them."""
APIS = ("chat", "responses", "messages")
WORDS = [
    "apple",
    "# pear",
    "Zürich",
    "😀",
    "<!-- message",
    "assistant:",
    "data:",
    "[DONE]",
    "a\u2028b",
    "`x`",
    "sk-",
    "2.",
]


def truth(prompt: str) -> str:
    """Return the model's right answer to a prompt: some paragraphs, which begin with the number of the prompt."""
    chance = random.Random(prompt)
    paragraphs = [" ".join(chance.choices(WORDS, k=chance.randint(2, 9))) for _ in range(chance.randint(1, 4))]
    return f"{prompt[:7]} " + "\n\n".join(paragraphs)


# --- the storm


class Storm:
    """Source of random faults for some answers; the share of faulty answers changes every few minutes."""

    def __init__(self, seed: int, key: str, *, ends: float) -> None:
        self.seen: Counter[str] = Counter()
        self.ends = ends
        self._chance = random.Random(seed)
        self._key = key
        self._strength = self._changes = 0.0

    def apply(self, api: str, stream: ResponseStream) -> ResponseStream:
        """Return the answer as it is, or with random faults."""
        now = asyncio.get_running_loop().time()
        if now >= self._changes:
            self._strength = self._chance.choice((0.0, 0.2, 0.5, 1.0))
            self._changes = now + self._chance.uniform(20, 200)
        if now >= self.ends or self._chance.random() >= self._strength:
            return stream
        chosen = self._faults(api, len(stream.chunks))
        self.seen.update(re.sub(r"\d.*", "", str(fault)) for fault in chosen)
        return laid_over(stream, *chosen)

    def _faults(self, api: str, events: int) -> tuple[Fault, ...]:
        pick, after = self._chance.choice, self._chance.randint(0, events)
        at = max(after, 1)
        kinds: list[Callable[[], Any]] = [
            lambda: faults.cut(after=after),
            lambda: faults.cut(after=self._chance.randint(0, 4000), of="bytes"),
            lambda: faults.reset(after=after),
            lambda: faults.reset(after=self._chance.randint(0, 4000), of="bytes"),
            lambda: faults.stall(after=at),
            lambda: faults.stall(self._chance.uniform(1, 40), after=at),
            lambda: faults.malformed(at=at),
            lambda: faults.overloaded(at=at),
            lambda: faults.rate_limit(at=at),
            lambda: faults.error_event(at=at, kind="authentication_error", message=f"Bad key {self._key}"),
            lambda: faults.drop_last_event(),
            lambda: (faults.gzipped(), faults.cut(after=after, of="chunks")),
            lambda: faults.gzipped(missing=pick((0, 1, 8, 30))),
            lambda: faults.empty(),
            lambda: faults.html_page(status=pick((200, 502))),
            lambda: faults.overloaded(),
            lambda: faults.rate_limit(retry_after=pick((None, 0.3, 5, 500))),
            lambda: faults.error_status(pick((400, 401, 404, 500, 503)), message=f"Bad key {self._key}"),
            lambda: faults.refuse(),
        ]
        if api == "responses":  # the other APIs have no event numbers: a decoder could not notice these faults
            kinds += [lambda: faults.drop(at=at), lambda: faults.duplicate(at=at), lambda: faults.swap(at=at)]
        made = pick(kinds)()
        return made if isinstance(made, tuple) else (made,)


class Model(httpx2.AsyncBaseTransport):
    """Transport of a model that answers each prompt with its right answer, perhaps with faults, and keeps no calls."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._chance = random.Random(0)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the answer to the prompt of one request."""
        api = next(api for api in APIS if request.url.path.removeprefix("/v1/").startswith(api))
        llm = ScriptedLLM(self._answer, overlay=partial(self._storm.apply, api))
        return await llm.transport().handle_async_request(request)

    def _answer(self, call: Call) -> Step:
        return Step(
            truth(call.text), first_wait=self._chance.uniform(0, 3), gap=self._chance.choice((0, 0.05, 0.2)), jitter=0.5
        )


# --- checks of messages

TROUBLE = (LLMError, PromiseCancelledError, TimeoutError)
"""Errors that readers may get while there are faults."""


async def seen(promise: MessagePromise, *truths: str) -> tuple[str, Exception | None]:
    """Read a message, and return its text and its error.

    The text must be one of `truths`, or after an error the beginning of one.
    """
    text = ""
    error: Exception | None = None
    try:
        async for token in promise:
            text += token
        message: Any = await promise
        assert message.content == text
        if isinstance(message, ErrorMessage):
            return text, LLMError(text)
        if getattr(message, "interrupted", False):
            error = LLMError("marked as interrupted")
    except TROUBLE as trouble:
        error = trouble
    if error is None:
        assert text in truths, f"{text!r} is complete, and none of {truths!r}"
    else:
        assert any(each.startswith(text) for each in (*truths, "")), f"{text!r} is no beginning of any of {truths!r}"
    return text, error


async def only(sequence: MessageSequencePromise) -> MessagePromise:
    """Return the only message of a sequence."""
    (promise,) = [promise async for promise in sequence]
    return promise


async def text_of(ctx: InteractionContext) -> str:
    """Return the prompt that was sent to an agent."""
    (message,) = await ctx.message_promises
    return str(message)


# --- the app: agents that use writers, which are agents on the model


@miniagent
async def relay(ctx: InteractionContext, writer: Any) -> None:
    """Send the received messages to a writer, and reply the writer's answer."""
    ctx.reply(writer.trigger(ctx.message_promises))


@miniagent
async def panel(ctx: InteractionContext, writers: list[Any]) -> None:
    """Call several writers at the same time."""
    prompt = await text_of(ctx)
    ctx.reply([writer.trigger(f"{prompt}/{number}") for number, writer in enumerate(writers)])


@miniagent
async def race(ctx: InteractionContext, writers: list[Any]) -> None:
    """Reply the answers of several writers in the order in which they come."""
    prompt = await text_of(ctx)
    for number, writer in enumerate(writers):
        ctx.reply_out_of_order(writer.trigger(f"{prompt}/{number}"))


@miniagent
async def critic(ctx: InteractionContext, writers: list[Any]) -> None:
    """Send the answer of one writer, while it streams, to another writer."""
    draft = writers[0].trigger(ctx.message_promises)
    ctx.reply([draft, writers[1].trigger(draft)])


@miniagent
async def joiner(ctx: InteractionContext, writers: list[Any]) -> None:
    """Join the answers of several writers into one message."""
    prompt = await text_of(ctx)
    ctx.reply(join_messages([writer.trigger(f"{prompt}/{number}") for number, writer in enumerate(writers)]))


@miniagent
async def splitter(ctx: InteractionContext, writer: Any) -> None:
    """Split the answer of a writer into several messages."""
    ctx.reply(split_messages(writer.trigger(ctx.message_promises), code_block_delimiter=None))


@miniagent
async def waiter(ctx: InteractionContext, writer: Any) -> None:
    """Reply the answer of a writer after the whole answer has come."""
    ctx.reply(await writer.trigger(ctx.message_promises))


@miniagent
async def canceller(ctx: InteractionContext, writer: Any) -> None:
    """Cancel an answer while a task reads it."""
    prompt = await text_of(ctx)
    promise = await only(writer.trigger(prompt))
    reading = asyncio.create_task(seen(promise, truth(prompt)))
    await asyncio.sleep(4)
    promise.cancel()
    await reading


@miniagent
async def leaver(ctx: InteractionContext, writer: Any) -> None:
    """Stop reading an answer after the first token."""
    prompt = await text_of(ctx)
    with suppress(LLMError):
        async for token in await only(writer.trigger(prompt)):
            assert truth(prompt).startswith(token)
            break


@miniagent
async def readers(ctx: InteractionContext, writer: Any) -> None:
    """Read an answer with two tasks, and cancel one of them."""
    prompt = await text_of(ctx)
    promise = await only(writer.trigger(prompt))
    one, other = (asyncio.create_task(seen(promise, truth(prompt))) for _ in range(2))
    ctx.reply(promise)
    await asyncio.sleep(3)
    other.cancel()
    _, error = await one
    assert (error is None) == promise.is_resolved


@miniagent
async def forgiver(ctx: InteractionContext, writer: Any) -> None:
    """Reply the errors of a writer as messages."""
    ctx.reply(writer.trigger(ctx.message_promises, errors_as_messages=True))


@miniagent
async def answerer(ctx: InteractionContext, writer: Any) -> None:
    """Send each received message to a writer as soon as it comes, and reply the answers."""
    async for promise in ctx.message_promises:
        ctx.reply(writer.trigger(promise))


@miniagent
async def duplex(ctx: InteractionContext, writer: Any) -> None:
    """Send messages to an agent while its replies come."""
    prompt = await text_of(ctx)
    call = answerer.initiate_call(writer=writer)
    ctx.reply(call.reply_sequence(finish_call=False))
    for number in range(3):
        call.send_message(f"{prompt}/{number}")
        await asyncio.sleep(2)
    call.finish()


@miniagent
async def historian(ctx: InteractionContext, writer: Any, folder: Path) -> None:
    """Store a chat in a file, and check the file."""
    prompt = await text_of(ctx)
    path = folder / f"{prompt[1:7]}.md"
    logged = ChatHistoryMD(path).logging_agent.trigger([prompt, writer.trigger(prompt)])
    ctx.reply(logged)
    with suppress(*TROUBLE):
        await logged
    first, *rest = await ChatHistoryMD(path).aload_chat_history()
    assert first.content == prompt
    check_stored(rest, truth(prompt))
    path.unlink()


@miniagent
async def talker(ctx: InteractionContext, writer: Any) -> None:
    """Hold a dialog with a history in memory, and check the history."""
    prompt = await text_of(ctx)
    history = InMemoryChatHistory()
    lines = [f"{prompt}/{number}" for number in range(3)]
    try:
        await adialog_loop(create_scripted_user(lines, chat_history=history), writer)
    finally:
        answers = [message for message in await history.aload_chat_history() if message.role == "assistant"]
        check_stored(answers, *map(truth, lines))
        ctx.reply([answer for answer in answers if not getattr(answer, "interrupted", False)])


@miniagent
async def insister(ctx: InteractionContext, writer: Any) -> None:
    """Call a writer again until it answers."""
    while True:
        with suppress(LLMError):
            ctx.reply(await writer.trigger(ctx.message_promises))
            return
        await asyncio.sleep(10)


def check_stored(messages: list[Any], *truths: str) -> None:
    """Check that stored messages are the right answers, or marked beginnings of them."""
    for message, whole in zip(messages, truths, strict=False):
        assert message.content == whole or (message.interrupted and whole.startswith(message.content))


# --- the run


@dataclass(frozen=True)
class Job:
    """An agent to call, and the right texts of its replies."""

    agent: Any
    expects: Callable[[str], list[str]] = lambda prompt: [truth(prompt)]
    writers: int | None = None
    """Number of writers as a list; None for a single writer as `writer`."""
    in_order: bool = True
    timeout: float | None = None
    """Seconds that a call may take while there are faults."""


def several(prompt: str) -> list[str]:
    """Return the right answers to three prompts, which are made of one prompt."""
    return [truth(f"{prompt}/{number}") for number in range(3)]


JOBS = [
    Job(relay),
    Job(relay.fork(), timeout=7.0),
    Job(panel, several, writers=3),
    Job(race, several, writers=3, in_order=False),
    Job(critic, lambda prompt: [truth(prompt), truth(truth(prompt))], writers=2),
    Job(joiner, lambda prompt: ["\n\n".join(several(prompt))], writers=3),
    Job(splitter, lambda prompt: truth(prompt).split("\n\n")),
    Job(waiter),
    Job(waiter, timeout=7.0),
    Job(canceller, lambda prompt: []),
    Job(leaver, lambda prompt: []),
    Job(readers),
    Job(forgiver),
    Job(duplex, several),
    Job(historian, lambda prompt: [prompt, truth(prompt)]),
    Job(talker, several),
    Job(insister),
]


class App:
    """The writers, which are agents on the model, and workers that run random jobs one after the other."""

    def __init__(self, kit: Kit, seed: int, folder: Path, storm: Storm) -> None:
        self.wire = kit.Wire(Model(storm))
        self._chance = random.Random(seed)
        self._numbers = itertools.count()
        self._folder = folder
        self.errors: Counter[str] = Counter()
        self._key = kit.KEY
        settings: list[tuple[Any, dict[str, Any]]] = [
            ("chat", {}),
            ("chat", {"stream": False}),
            ("responses", {"max_concurrent_requests": 2}),
            ("messages", {}),
            ("messages", {"retry": None, "stall_timeout": 10.0}),
        ]
        self._writers = [kit.agent_on(api, self.wire, **more) for api, more in settings]
        self._writers.append(self._writers[2].fork(retry=Retry(attempts=5, time_budget=60.0)))

    async def work(self, until: Callable[[], bool]) -> None:
        """Run random jobs until the function returns True."""
        while not until():
            await self.do(self._chance.choice(JOBS))

    async def do(self, job: Job, *, calm: bool = False) -> None:
        """Run one job, and check all its replies."""
        number = next(self._numbers) % 20  # few, because pydantic caches thousands of parsed strings
        prompt = f"#{number:06}: {WORDS[number % len(WORDS)]}"
        settings: dict[str, Any] = {"folder": self._folder} if job.agent is historian else {}
        writers = self._chance.sample(self._writers, job.writers or 1)
        settings |= {"writer": writers[0]} if job.writers is None else {"writers": writers}
        replies = job.agent.trigger(prompt, timeout=None if calm else job.timeout, **settings)
        expected = job.expects(prompt)
        complete: list[str] = []
        errors: list[Exception] = []
        async for promise in replies:
            position = len(complete) + len(errors)
            text, error = await seen(promise, *(expected[position : position + 1] if job.in_order else expected))
            if error is None:
                complete.append(text)
            else:
                errors.append(error)
        self.check_no_key(errors)
        assert not (calm and errors), f"{job} failed although all is calm: {errors}"
        if not errors:
            assert sorted(complete) == sorted(expected)

    def check_no_key(self, errors: Iterable[Exception]) -> None:
        """Count errors, and check that none has the key in its traceback."""
        for error in errors:
            self.errors[type(error).__name__] += 1
            assert self._key not in "".join(traceback.format_exception(error))


async def run_workers(app: App, until: Callable[[], bool]) -> None:
    """Run three workers until the function returns True, and wait for their last jobs."""
    async with asyncio.TaskGroup() as workers:
        for _ in range(3):
            workers.create_task(app.work(until))


async def soak(kit: Kit, seed: int, folder: Path) -> tuple[App, Storm]:
    """Run the app for half an hour of faults, and then each job once without faults."""
    clock = asyncio.get_running_loop().time
    abandoned = kit.abandoned_generators()
    storm = Storm(seed, kit.KEY, ends=STORM)
    app = App(kit, seed, folder, storm)
    context = MiniAgents()
    try:
        async with context:
            await run_workers(app, until=lambda: clock() >= STORM)
            assert clock() < STORM + CALM
            async with asyncio.TaskGroup() as workers:
                for job in JOBS:
                    workers.create_task(app.do(job, calm=True))
            assert clock() < STORM + 2 * CALM
    except* LLMError as unseen:
        app.check_no_key(unseen.exceptions)
        for error in unseen.exceptions:
            notes = str(error.__notes__)
            # once in many storms, a further answer of a join fails after the first failure has ended the join
            assert "<- LEAVER" in notes or "<- JOINER" in notes, "only leavers and joins leave errors unseen"
    assert not context.tasks
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert app.wire.open == 0
    assert set(abandoned) <= {"SequenceCell.read"}, "only generators of readers of sequences may be left"
    return app, storm


@pytest.mark.timeout(3_600)  # at night
def test_app_survives_random_faults_and_recovers_after_them(
    kit: Kit, effort: Effort, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """During random faults, all replies are right or errors; after them all calls succeed, and no key is logged."""
    for seed in range(effort(1, ci=4, nightly=100)):
        app, storm = run_in_virtual_time(soak(kit, seed, tmp_path), seed=seed, timeout=STORM + 3 * CALM)
        assert len(storm.seen) > 15, "there were too few kinds of faults"
        assert len(app.errors) > 8, "readers got too few kinds of errors"
        assert not list(tmp_path.iterdir())
        assert kit.KEY not in caplog.text
        assert "#0" not in caplog.text
        assert {record.name for record in caplog.records} <= {"miniagents.llm", "httpx2"}
        caplog.clear()


@pytest.mark.timeout(3_600)  # at night
def test_C18_memory_is_flat_in_a_storm(
    kit: Kit, effort: Effort, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under random faults, memory does not grow after the first hundreds of requests, failed or successful."""
    caplog.set_level(logging.CRITICAL)  # what is captured is kept
    requests = effort(500, ci=1_000, nightly=25_000)
    few = requests // 10  # less than one object for ten requests

    async def storm() -> int:
        app = App(kit, 0, tmp_path, Storm(0, kit.KEY, ends=math.inf))
        context = MiniAgents().activate()  # as in a server: unseen errors are not kept until the end

        async def go_on() -> None:
            number = app.wire.requests + requests
            await run_workers(app, until=lambda: app.wire.requests >= number)
            linecache.clearcache()  # source lines of tracebacks
            gc.collect()  # unreachable errors, and the answers that their tracebacks refer to
            await asyncio.sleep(1)
            assert not context.tasks

        growth = await smallest_growth(go_on, below=few)
        await context.afinalize()
        return growth

    assert run_in_virtual_time(storm()) < few
