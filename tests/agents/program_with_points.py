"""Program with many points at which it can be stopped; `test_stopping.py` runs it many times from one process.

    python program_with_points.py '[["main begins", "SIGINT"], ["", "nothing"]]'

The program forks a process for each pair of a point and an end, one after the other, and writes a line of JSON each:
the status of the process, the seconds until it was gone (on the clock, and of CPU time), the clean-ups that began and
did not run, its standard error, and the points that it reached. An end is the name of a signal or of an exception,
"nothing", or two signals: then clean-ups hang, and the second signal comes while they hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents._promising.promise import Promise
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

stop_at = end_with = ""
reached: list[str] = []
open_clean_ups: list[str] = []
stopped_at = worked_until = 0.0


def point(name: str) -> None:
    """Note that the program has reached this point; at the chosen point, end the program in the chosen way."""
    reached.append(name)
    if name != stop_at or stopped_at:
        return
    start_the_clock()
    if end_with.startswith("SIG"):
        first, *second = (getattr(signal, signal_name) for signal_name in end_with.split())
        if second:
            asyncio.get_running_loop().call_later(0.02, send_second_signal, second[0])
        os.kill(os.getpid(), first)
    elif end_with != "nothing":
        raise {"ValueError": ValueError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[end_with](9)


def start_the_clock() -> None:
    """Note the time at which the program is told to end."""
    global stopped_at, worked_until
    stopped_at, worked_until = time.monotonic(), time.process_time()


def send_second_signal(number: int) -> None:
    """Send the second signal."""
    start_the_clock()
    os.kill(os.getpid(), number)


async def cleaning_up() -> None:
    """Wait briefly, as a clean-up does; hang if two signals end the program, and the first one has come."""
    await (asyncio.Event().wait() if stopped_at and " " in end_with else asyncio.sleep(0.001))


@contextlib.contextmanager
def clean_up(name: str) -> Iterator[None]:
    """List `name` in `open_clean_ups` until the block has ended; a name that stays there means a skipped clean-up."""
    open_clean_ups.append(name)
    try:
        yield
    finally:
        open_clean_ups.remove(name)


class Provider(httpx2.AsyncBaseTransport):
    """Transport that refuses the first request, and answers the second with a stream."""

    calls = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the next response."""
        self.calls += 1
        point("a request is sent")
        if self.calls == 1:
            asyncio.get_running_loop().call_later(0.002, point, "waiting to try again")
            return httpx2.Response(503, headers={"retry-after-ms": "5"}, json={"error": "busy"}, request=request)
        return httpx2.Response(200, stream=Answer(), request=request)


class Answer(httpx2.AsyncByteStream):
    """Streamed answer; closing it is a clean-up, too."""

    def __init__(self) -> None:
        open_clean_ups.append("response")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for text in ("Hel", "lo"):
            await asyncio.sleep(0)
            point("an answer streams")
            yield b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % text.encode()
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        if "response" in open_clean_ups:
            open_clean_ups.remove("response")


@miniagent
async def helper(ctx: InteractionContext, name: str) -> None:
    """Reply a stream, and take a moment to clean up."""
    with clean_up(name):
        try:
            point(f"{name} begins")
            await asyncio.sleep(0)
            ctx.reply(Message.promise(message_token_streamer=tokens))
            point(f"{name} has replied")
            await asyncio.sleep(0.001)
            point(f"{name} works")
        finally:
            point(f"{name} cleans up")
            await cleaning_up()


async def tokens(_: dict[str, Any]) -> AsyncIterator[str]:
    """Yield tokens, with a clean-up."""
    with clean_up("stream"):
        for token in "abc":
            point("a stream goes on")
            yield token
            await asyncio.sleep(0)


@miniagent
async def boss(ctx: InteractionContext) -> None:
    """Call other agents, and wait in a task group, in a timeout, in `wait_for`, and at the end by replying a call."""
    with clean_up("boss"):
        async with asyncio.TaskGroup() as group:
            for name in ("one", "two"):
                group.create_task(read(helper.trigger(name=name)))
            point("a task group is full")
        async with asyncio.timeout(60):
            await helper.trigger(name="three")
            point("under a timeout")
        await asyncio.wait_for(Promise(resolve), 60)
        ctx.reply(helper.trigger(name="four"))
        point("a boss replies")


async def resolve() -> int:
    """Resolve a promise, with a clean-up."""
    with clean_up("resolver"):
        await asyncio.sleep(0)
        point("a promise is resolved")
        return 1


async def read(replies: Any) -> None:
    """Read everything, token by token, with a clean-up."""
    with clean_up("reader"):
        async for promise in replies:
            async for _ in promise:
                point("a reader reads")


async def persist(messages: tuple[Message, ...]) -> None:
    """Handle messages to persist, with a clean-up."""
    with clean_up("persistence"):
        await asyncio.sleep(0)
        point("messages are persisted")


async def amain(folder: Path) -> None:
    """Run the program: agents, a request, a history, blocking code."""
    with clean_up("main"):
        point("main begins")
        await read(boss.trigger(start_soon=False))
        point("main goes on")
        client = openai.AsyncOpenAI(api_key="k", http_client=httpx2.AsyncClient(transport=Provider()))
        history = ChatHistoryMD(folder / "chat.md")
        replies = create_openai_agent("m", async_client=client).trigger("Hello")
        await history.aappend(replies)
        point("a history has it")
        time.sleep(0.001)  # noqa: ASYNC251 - a signal may come during blocking code, too
        point("code that blocks")
        lasting = helper.trigger(name="lasting")
        try:
            await asyncio.sleep(0)
        finally:
            point("main cleans up")
            await cleaning_up()
            del lasting


def run(name: str, end: str) -> None:
    """Run the program in this process, and end it at the point `name` in the way `end`."""
    global stop_at, end_with
    stop_at, end_with = name, end
    with tempfile.TemporaryDirectory() as folder:
        MiniAgents(on_persist_messages=[persist]).run(amain(Path(folder)))


def main(cases: list[tuple[str, str]]) -> None:
    """Run each case in a forked process, which ends as a program of its own would, and print its line of JSON."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore SIGINT
    gc.freeze()  # a child ends four times as fast when the collector skips the modules at its end
    for name, end in cases:
        facts_read, facts_write = os.pipe()
        errors_read, errors_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(errors_write, 2)
            try:
                run(name, end)
            finally:
                os.write(facts_write, json.dumps([stopped_at, worked_until, open_clean_ups, reached]).encode())
            sys.exit(0)
        os.close(facts_write)
        os.close(errors_write)
        with os.fdopen(facts_read) as facts_file, os.fdopen(errors_read) as errors_file:
            facts, errors = facts_file.read(), errors_file.read()
        _, status, usage = os.wait4(child, 0)
        ended = time.monotonic()
        since, worked, left, places = json.loads(facts)
        line = {
            "point": name,
            "end": end,
            "status": os.waitstatus_to_exitcode(status),
            "seconds": ended - since,
            "seconds_at_work": usage.ru_utime + usage.ru_stime - worked,
            "left": left,
            "errors": errors,
            "reached": list(dict.fromkeys(places)),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()  # a forked child would write the buffer again


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
