"""Remote agents on real NATS servers: workers, callers and servers that are killed, stopped, blocked and restarted."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nats_servers import REASON, NatsServer, find_program, nats_cluster, nats_server

from miniagents import InteractionContext, Limits, Message, MiniAgents, PromiseCancelledError, miniagent
from miniagents.errors import CallNotFoundError, RemoteUnavailableError, RemoteWorkerLostError
from miniagents.ext.remote import NatsBroker, remote, reopen, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents import MiniAgent

if importlib.util.find_spec("nats") is None or find_program() is None:
    pytest.skip(REASON, allow_module_level=True)

PROGRAM = Path(__file__).with_name("worker_program.py")
PATIENCE = 60.0
"""Seconds after which a wait counts as hung: many, as a busy machine is slow."""


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that no test ends."""
    with nats_server(tmp_path_factory.mktemp("nats") / "server") as server:
        yield server


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, url: str, runs: Path, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PROGRAM), url, str(runs), *options], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n"

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end, and return the exit status."""
        return self._process.wait(PATIENCE)

    def end(self) -> None:
        """Kill the process, stopped or not."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def worker(url: str, runs: Path, *options: str) -> Iterator[WorkerProcess]:
    """Run a worker with a lease of 2 seconds; it writes a line into `runs` for each call that it runs."""
    process = WorkerProcess(url, runs, *options)
    try:
        yield process
    finally:
        process.end()


def text_of(count: int) -> str:
    """Return the text that the agent TALKER streams."""
    return "".join(f"t{number} " for number in range(count))


async def first_tokens(replies: Any, last: str) -> tuple[Any, str]:
    """Read the first reply up to a token, and return its promise and the text so far."""
    promise, text = await anext(aiter(replies)), ""
    async for token in promise:
        text += token
        if text.endswith(last):
            break
    return promise, text


async def texts(calls: list[Any]) -> list[str]:
    """Return the text of the only reply of each call."""

    async def text(replies: Any) -> str:
        [promise] = [each async for each in replies]
        return "".join([token async for token in promise])

    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*map(text, calls))


def noted_lines(runs: Path) -> list[str]:
    """Return the lines that workers wrote: the input of each call that ran, and `ended:` with that of a stopped one."""
    return runs.read_text().split() if runs.exists() else []


async def test_R1_replies_are_exact_and_can_be_read_again(shared_server: NatsServer, tmp_path: Path) -> None:
    """Replies, large messages and errors come through a real server; `reopen` gives the replies of a call again."""
    with worker(shared_server.url, tmp_path / "runs"):
        async with MiniAgents():
            agent = remote(shared_server.url, "TALKER")
            assert await texts([agent.trigger("one", call_id="again", count=20)]) == [text_of(20)]
            [message] = await (await reopen(shared_server.url, "again"))
            assert message == Message(text_of(20), count=20)
            echo = remote(shared_server.url, "ECHO.\u00e4 *>")
            large = ["x" * 3_000_000, '\\"\u00e9' * 400_000]
            assert [str(each) for each in await echo.trigger(large, limits=Limits(requests=3))] == large
            with pytest.raises(ZeroDivisionError, match="by hand"):
                await remote(shared_server.url, "FAILING").trigger()
            with pytest.raises(CallNotFoundError):
                await reopen(shared_server.url, "never")


async def test_R2_a_thousand_calls_on_two_workers_are_exact(shared_server: NatsServer, tmp_path: Path) -> None:
    """Of 1,000 calls at once to two workers, each is run once, and gets the whole text of its reply."""
    runs = tmp_path / "runs"
    with worker(shared_server.url, runs), worker(shared_server.url, runs):
        async with MiniAgents():
            agent = remote(shared_server.url, "TALKER", wait=PATIENCE)
            calls = [agent.trigger(f"crowd{number}", count=20, pause=0.05) for number in range(1000)]
            assert set(await texts(calls)) == {text_of(20)}
    assert sorted(noted_lines(runs)) == sorted(f"crowd{number}" for number in range(1000))


async def test_R4_killed_worker_is_lost_at_its_token(shared_server: NatsServer, tmp_path: Path) -> None:
    """After SIGKILL within a stream, readers get the tokens, and then the error; the call of another worker goes on."""
    runs = tmp_path / "runs"
    with worker(shared_server.url, runs) as first, worker(shared_server.url, runs, "SPARE") as _:
        async with MiniAgents(), asyncio.timeout(PATIENCE):
            replies = remote(shared_server.url, "TALKER").trigger("killed", count=1000, call_id="killed")
            spare = remote(shared_server.url, "SPARE").trigger("spare", count=100)
            promise, text = await first_tokens(replies, "t7 ")
            first.signal(signal.SIGKILL)
            with pytest.raises(RemoteWorkerLostError) as caught:
                await promise
            assert caught.value.began
            assert str(caught.value.partial).startswith(text)
            with pytest.raises(RemoteWorkerLostError) as again:
                await (await reopen(shared_server.url, "killed"))
            assert again.value.partial == caught.value.partial
            assert await texts([spare]) == [text_of(100)]
    assert noted_lines(runs).count("killed") == 1


async def test_R3_stopped_worker_is_lost_and_adds_nothing_when_it_goes_on(
    shared_server: NatsServer, tmp_path: Path
) -> None:
    """A worker that is stopped past its lease is lost.

    When it goes on, it stops the agent of the lost call, and then takes further calls.
    """
    runs = tmp_path / "runs"
    with worker(shared_server.url, runs) as process:
        async with MiniAgents(), asyncio.timeout(PATIENCE):
            agent = remote(shared_server.url, "TALKER")
            promise, text = await first_tokens(agent.trigger("stopped", count=1000, call_id="stopped"), "t5 ")
            process.signal(signal.SIGSTOP)
            with pytest.raises(RemoteWorkerLostError) as caught:
                await promise
            assert str(caught.value.partial).startswith(text)
            process.signal(signal.SIGCONT)
            assert await texts([agent.trigger("next", count=20)]) == [text_of(20)]
            with pytest.raises(RemoteWorkerLostError) as again:
                await (await reopen(shared_server.url, "stopped"))
            assert again.value.partial == caught.value.partial
    assert sorted(noted_lines(runs)) == ["ended:stopped", "next", "stopped"]


async def test_R4_worker_whose_loop_is_blocked_loses_no_call(shared_server: NatsServer, tmp_path: Path) -> None:
    """If Python code blocks a worker's event loop for three leases, tokens come late, and no call is lost."""
    with worker(shared_server.url, tmp_path / "runs"):
        async with MiniAgents():
            calls = [remote(shared_server.url, "TALKER").trigger("a", count=60) for _ in range(5)]
            await first_tokens(calls[0], "t3 ")
            blocker = remote(shared_server.url, "BLOCKER").trigger(seconds=6.0)
            assert await texts([*calls, blocker]) == [*[text_of(60)] * 5, "blocked"]


async def test_R4_caller_whose_loop_is_blocked_loses_no_call(shared_server: NatsServer, tmp_path: Path) -> None:
    """A caller whose event loop is blocked for two leases loses no worker, and gets all tokens."""
    with worker(shared_server.url, tmp_path / "runs"):
        async with MiniAgents():
            calls = [remote(shared_server.url, "TALKER").trigger("a", count=120) for _ in range(5)]
            await first_tokens(calls[0], "t3 ")
            time.sleep(4)  # noqa: ASYNC251 - on purpose
            assert await texts(calls) == [text_of(120)] * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
async def test_R6_broker_that_restarts_in_mid_stream_loses_nothing(tmp_path: Path, number: int) -> None:
    """If a server is ended and started again, twice, no token is lost or repeated, and no call runs twice."""
    runs = tmp_path / "runs"
    with nats_server(tmp_path / "server") as server, worker(server.url, runs), worker(server.url, runs):
        async with MiniAgents():
            agent = remote(server.url, "TALKER")
            calls = [agent.trigger(f"call{each}", count=120) for each in range(20)]
            for last in ("t10 ", "t40 "):
                await first_tokens(calls[0], last)
                await asyncio.to_thread(server.end, number)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(server.start)
            assert await texts(calls) == [text_of(120)] * 20
            assert await texts([agent.trigger("after", count=5)]) == [text_of(5)]
    assert sorted(noted_lines(runs)) == sorted(["after", *(f"call{each}" for each in range(20))])


async def test_R6_dropped_live_frames_are_read_from_the_log(
    shared_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every third live frame is dropped before the caller, its calls read them from the log, and lose no token."""
    from miniagents.ext._remote_calls import FollowedCall

    take, count = FollowedCall._on_entry, iter(range(10**6))
    monkeypatch.setattr(FollowedCall, "_on_entry", lambda call, entry: next(count) % 3 and take(call, entry))
    with worker(shared_server.url, tmp_path / "runs"):
        async with MiniAgents():
            calls = [remote(shared_server.url, "TALKER").trigger("a", count=50) for _ in range(10)]
            assert await texts(calls) == [text_of(50)] * 10


async def test_R6_slow_reader_gets_all_tokens(shared_server: NatsServer, tmp_path: Path) -> None:
    """A reader that comes late and reads slowly gets the same tokens, and delays no other reader."""
    with worker(shared_server.url, tmp_path / "runs"):
        async with MiniAgents(), asyncio.timeout(PATIENCE):
            slow, quick = (remote(shared_server.url, "TALKER").trigger("a", count=40) for _ in range(2))
            assert await texts([quick]) == [text_of(40)]
            [promise] = [each async for each in slow]
            text = ""
            async for token in promise:
                await asyncio.sleep(0.01)
                text += token
            assert text == text_of(40)


async def test_R8_sigterm_drains_a_worker(shared_server: NatsServer, tmp_path: Path) -> None:
    """After SIGTERM a worker finishes its calls, takes no more, and exits with 0; another worker runs the rest."""
    runs = tmp_path / "runs"
    with worker(shared_server.url, runs) as process:
        async with MiniAgents():
            agent = remote(shared_server.url, "TALKER", wait=PATIENCE)
            first = agent.trigger("first", count=40)
            await first_tokens(first, "t3 ")
            process.signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            second = agent.trigger("second", count=5)
            assert await asyncio.to_thread(process.wait) == 0
            with worker(shared_server.url, runs):
                assert await texts([first, second]) == [text_of(40), text_of(5)]
    assert noted_lines(runs) == ["first", "second"]


async def test_R5_cancelled_call_stops_at_the_worker(shared_server: NatsServer, tmp_path: Path) -> None:
    """`cancel()` stops the agent in the other process; a call that waits in the queue is withdrawn."""
    runs = tmp_path / "runs"
    async with MiniAgents(), asyncio.timeout(PATIENCE):
        agent = remote(shared_server.url, "TALKER", wait=PATIENCE)
        waiting = agent.trigger("withdrawn", count=5)
        await asyncio.sleep(0.3)
        waiting.cancel()
        with worker(shared_server.url, runs):
            replies = agent.trigger("cancelled", count=100_000)
            promise, _ = await first_tokens(replies, "t3 ")
            replies.cancel()
            with pytest.raises(PromiseCancelledError):
                await promise
            while "ended:cancelled" not in noted_lines(runs):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
    assert noted_lines(runs) == ["cancelled", "ended:cancelled"]


async def test_R7_unreachable_server_raises_unavailable(tmp_path: Path) -> None:
    """A call to a server that is not there, and one whose server goes away, fail after `wait` seconds."""
    async with MiniAgents(), asyncio.timeout(PATIENCE):
        with pytest.raises(RemoteUnavailableError, match=r" nats://127\.0\.0\.1:9 cannot be reached.*NoServersError"):
            await remote("nats://user:secret@127.0.0.1:9", "TALKER", wait=0.5).trigger("x")
        with nats_server(tmp_path / "server") as server:
            with pytest.raises(RemoteUnavailableError, match="withdrawn"):
                await remote(server.url, "TALKER", wait=0.5).trigger("x")
            replies = remote(server.url, "TALKER", wait=1).trigger("x")
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.end)
            with pytest.raises(RemoteUnavailableError):
                await replies


async def test_R6_cluster_that_loses_a_leader_loses_nothing(tmp_path: Path) -> None:
    """A cluster of three whose leader of the logs is killed in mid-stream gives exact replies, each call run once."""
    runs = tmp_path / "runs"
    with nats_cluster(tmp_path) as servers:
        urls = [server.url for server in servers]
        with worker(",".join(urls), runs, "--replicas", "3"):
            async with MiniAgents():
                agent = remote(NatsBroker(urls, replicas=3), "TALKER", wait=PATIENCE)
                calls = [agent.trigger(f"call{each}", count=120) for each in range(10)]
                await first_tokens(calls[0], "t10 ")
                leader = await _leader_of_logs(urls)
                await asyncio.to_thread(servers[int(leader[-1])].end, signal.SIGKILL)
                assert await texts(calls) == [text_of(120)] * 10
                assert await texts([agent.trigger("after", count=5)]) == [text_of(5)]
    assert sorted(noted_lines(runs)) == sorted(["after", *(f"call{each}" for each in range(10))])


async def _leader_of_logs(urls: list[str]) -> str:
    """Return the name of the server that leads the stream of logs."""
    import nats

    client = await nats.connect(urls)
    try:
        info = await client.jetstream().stream_info("MINIAGENTS_LOGS")
        assert info.cluster is not None
        assert info.cluster.leader is not None
        leader: str = info.cluster.leader
        return leader
    finally:
        await client.close()


async def test_R10_log_is_gone_after_keep_seconds(tmp_path: Path) -> None:
    """After `keep` seconds a log is gone, and `reopen` says so."""
    with nats_server(tmp_path / "server") as server, worker(server.url, tmp_path / "runs", "--keep", "2"):
        async with MiniAgents(), asyncio.timeout(PATIENCE):
            agent: MiniAgent[Any] = remote(server.url, "TALKER")
            assert await texts([agent.trigger("kept", count=1, call_id="kept")]) == [text_of(1)]
            await reopen(server.url, "kept")
            with pytest.raises(CallNotFoundError):
                while True:
                    await asyncio.sleep(0.5)
                    await reopen(server.url, "kept")


def test_R8_no_thread_is_left(shared_server: NatsServer) -> None:
    """A worker that ends in this process ends its thread, and closes its connections."""

    @miniagent
    async def idle(ctx: InteractionContext) -> None: ...

    async def serve_for_a_moment() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await serve(shared_server.url, idle)

    MiniAgents().run(serve_for_a_moment())
    for thread in threading.enumerate():
        if "heartbeat" in thread.name:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_example_shows_a_story_to_two_programs(shared_server: NatsServer, root: Path) -> None:
    """In the example, a program that asks and one that reads later print the same story; the worker ends at SIGTERM."""
    command = [sys.executable, str(root / "examples/remote_agents.py")]
    environment = {**os.environ, "NATS_URL": shared_server.url}
    with subprocess.Popen([*command, "worker"], env=environment) as serving:
        try:
            asking, reading = (
                subprocess.run(
                    [*command, *arguments],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=PATIENCE,
                ).stdout
                for arguments in (("ask", "story-1", "a lighthouse"), ("read", "story-1"))
            )
        finally:
            serving.terminate()
        assert serving.wait(PATIENCE) == 0
    assert asking.startswith("There was once a lighthouse, and")
    assert reading == asking
