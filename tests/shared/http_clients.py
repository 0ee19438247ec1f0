"""Clients on `http.client`, and aiohttp, with one interface, for tests that try each of them.

A library that is not installed skips the test.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
import urllib.request
import warnings
from contextlib import ExitStack, closing
from contextvars import copy_context
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import aiohttp
import pytest
from loopback_server import BEDROCK_EVENTS, CERTIFICATE, EVENTS, unzipped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@dataclass
class Answer:
    """An answer as a client gives it."""

    status: int
    chunks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The body, decompressed if the client has not done that."""
        whole = b"".join(self.chunks)
        return unzipped([whole]) if whole.startswith(b"\x1f\x8b") else whole


class Client:
    """HTTP client. Its methods ask for a URL; connections stay open until the `with` block ends."""

    name: ClassVar[str]
    path: ClassVar[str] = ""
    """Path of a URL after the name of the server's behaviour."""
    events: ClassVar[list[bytes]] = EVENTS
    """Chunks of a streamed answer."""

    def __init__(self) -> None:
        self.timeout = 30.0
        self.proxy = ""
        """Address of a proxy; clients that read the environment find it there, too."""

    def __enter__(self) -> Any:
        self.stack = ExitStack()
        return self

    def check_installed(self) -> None:
        """Skip the test if the library is not installed."""
        with self:
            pass

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def get(self, url: str) -> Answer:
        """Ask for compressed answers, if the client can, and read the answer chunk by chunk."""
        raise NotImplementedError

    def first(self, url: str) -> bytes:
        """Read one chunk and close the answer."""
        raise NotImplementedError

    def post(self, url: str, body: bytes) -> Answer:
        """Send a body in one piece, and read the answer."""
        raise NotImplementedError

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        """Send a body part by part, and read the answer."""
        raise NotImplementedError


class HTTPClient(Client):
    """Client on the classes of `http.client`."""

    name = "http.client"

    def __enter__(self) -> Any:
        self.connections: dict[str, http.client.HTTPConnection] = {}
        return super().__enter__()

    def _ask(self, method: str, url: str, body: Any = None) -> Any:
        parts = urlsplit(url)
        connection = self.connections.get(parts.netloc) or self.stack.enter_context(closing(self._open(parts)))
        self.connections[parts.netloc] = connection
        target = url if self.proxy and parts.scheme == "http" else f"{parts.path}"
        connection.request(method, target, body, {"accept-encoding": "gzip"})
        return connection.getresponse()

    def _open(self, parts: Any) -> http.client.HTTPConnection:
        netloc = urlsplit(self.proxy).netloc or parts.netloc
        if parts.scheme == "http":
            return http.client.HTTPConnection(netloc, timeout=self.timeout)
        context = ssl.create_default_context(cafile=CERTIFICATE)
        connection = http.client.HTTPSConnection(netloc, timeout=self.timeout, context=context)
        if self.proxy:
            connection.set_tunnel(parts.netloc)
        return connection

    def get(self, url: str) -> Answer:
        with self._ask("GET", url) as response:
            return Answer(response.status, list(iter(response.read1, b"")))

    def first(self, url: str) -> bytes:
        with self._ask("GET", url) as response:
            data: bytes = response.read1()
            return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        return self.post(url, iter(parts))

    def post(self, url: str, body: Any) -> Answer:
        with self._ask("POST", url, body) as response:
            return Answer(response.status, [response.read()])


class Urllib(Client):
    """Client on the module `urllib.request`."""

    name = "urllib"

    def _ask(self, url: str, body: Any = None) -> Any:
        context = ssl.create_default_context(cafile=CERTIFICATE)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        request = urllib.request.Request(url, body, {"accept-encoding": "gzip"})
        return opener.open(request, timeout=self.timeout)

    def get(self, url: str) -> Answer:
        with self._ask(url) as response:
            return Answer(response.status, list(iter(response.read1, b"")))

    def first(self, url: str) -> bytes:
        with self._ask(url) as response:
            data: bytes = response.read1()
            return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        return self.post(url, iter(parts))

    def post(self, url: str, body: Any) -> Answer:
        with self._ask(url, body) as response:
            return Answer(response.status, [response.read()])


class Urllib3(Client):
    """urllib3, with a pool of connections."""

    name = "urllib3"

    def __enter__(self) -> Any:
        super().__enter__()
        urllib3 = pytest.importorskip("urllib3")
        options: Any = {
            "ca_certs": str(CERTIFICATE),
            "timeout": self.timeout,
            "retries": urllib3.Retry(connect=0, read=0),
        }
        pool = urllib3.ProxyManager(self.proxy, **options) if self.proxy else urllib3.PoolManager(**options)
        self.pool = self.stack.enter_context(pool)
        return self

    def get(self, url: str) -> Answer:
        response = self.pool.request("GET", url, preload_content=False, headers={"accept-encoding": "gzip"})
        answer = Answer(response.status, list(response.stream(None)))
        response.release_conn()
        return answer

    def first(self, url: str) -> bytes:
        response = self.pool.request("GET", url, preload_content=False)
        data: bytes = next(response.stream(None))
        response.close()
        return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        return self.post(url, iter(parts))

    def post(self, url: str, body: Any) -> Answer:
        response = self.pool.request("POST", url, body=body)
        return Answer(response.status, [response.data])


class Requests(Client):
    """requests, with a session."""

    name = "requests"

    def __enter__(self) -> Any:
        super().__enter__()
        self.session = self.stack.enter_context(pytest.importorskip("requests").Session())
        self.session.verify = str(CERTIFICATE)
        return self

    def get(self, url: str) -> Answer:
        with self.session.get(url, stream=True, timeout=self.timeout) as response:
            return Answer(response.status_code, list(response.iter_content(None)))

    def first(self, url: str) -> bytes:
        with self.session.get(url, stream=True, timeout=self.timeout) as response:
            data: bytes = next(response.iter_content(None))
            return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        return self.post(url, iter(parts))

    def post(self, url: str, body: Any) -> Answer:
        response = self.session.post(url, data=body, timeout=self.timeout)
        return Answer(response.status_code, [response.content])


class Boto3(Client):
    """boto3: streams of Amazon Bedrock, uploads to S3."""

    name = "boto3"
    path = "/model/m/converse-stream"
    events = BEDROCK_EVENTS

    def _client(self, service: str, url: str, retries: int = 1) -> Any:
        config = pytest.importorskip("botocore.config").Config(
            retries={"mode": "standard", "total_max_attempts": retries},
            s3={"addressing_style": "path"},
            read_timeout=self.timeout,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("boto3").client(
                service,
                region_name="us-east-1",
                endpoint_url=url.removesuffix(self.path),
                aws_access_key_id="for-tests",
                aws_secret_access_key="for-tests-only",
                verify=str(CERTIFICATE),
                config=config,
            )

    def check_installed(self) -> None:
        self._client("s3", "http://127.0.0.1").close()

    def _events(self, url: str) -> Iterator[bytes]:
        with closing(self._client("bedrock-runtime", url)) as client:
            stream = client.converse_stream(modelId="m", messages=[{"role": "user", "content": [{"text": "Hi"}]}])
            with closing(stream["stream"]) as events:
                for event in events:
                    yield json.dumps(event).encode()

    def get(self, url: str) -> Answer:
        return Answer(200, list(self._events(url)))

    def first(self, url: str) -> bytes:
        with closing(self._events(url)) as events:  # type: ignore[type-var]  # a generator
            return next(events)

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        with closing(self._client("s3", url)) as client:
            answer = client.put_object(Bucket="echo", Key="k", Body=BytesIO(b"".join(parts)))
            return Answer(answer["ResponseMetadata"]["HTTPStatusCode"])

    def post(self, url: str, body: bytes) -> Answer:
        with closing(self._client("bedrock-runtime", url)) as client:
            answer = client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": body.decode()}]}])
            return Answer(200, [answer["output"]["message"]["content"][0]["text"].encode()])


class AioHTTP(Client):
    """aiohttp, with a session in a loop of its own."""

    name = "aiohttp"

    def __enter__(self) -> Any:
        super().__enter__()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.session: aiohttp.ClientSession | None = None
        self.stack.callback(lambda: self.session and self.runner.run(self.session.close()))
        return self

    def _run(self, work: Any) -> Any:
        """Run a function with the session, in the context of the caller."""

        async def run() -> Any:
            if self.session is None:
                timeout = aiohttp.ClientTimeout(sock_read=self.timeout)
                self.session = aiohttp.ClientSession(timeout=timeout, trust_env=bool(self.proxy))
            return await work(self.session, ssl.create_default_context(cafile=CERTIFICATE))

        return self.runner.run(run(), context=copy_context())

    def get(self, url: str) -> Answer:
        async def work(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> Answer:
            async with session.get(url, ssl=tls) as response:
                return Answer(response.status, [chunk async for chunk, _ in response.content.iter_chunks() if chunk])

        answer: Answer = self._run(work)
        return answer

    def first(self, url: str) -> bytes:
        async def work(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> bytes:
            async with session.get(url, ssl=tls) as response:
                return await response.content.readany()

        data: bytes = self._run(work)
        return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return self.post(url, body())

    def post(self, url: str, body: Any) -> Answer:
        async def work(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> Answer:
            async with session.post(url, data=body, ssl=tls) as response:
                return Answer(response.status, [await response.read()])

        answer: Answer = self._run(work)
        return answer


CLIENTS: list[type[Client]] = [HTTPClient, Urllib, Urllib3, Requests, Boto3, AioHTTP]
each_client = pytest.mark.parametrize("client", CLIENTS, ids=[client.name for client in CLIENTS], indirect=True)
"""Runs a test for each client, which is its argument `client`."""


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or class and text of its exception, without addresses of objects."""
    try:
        return call()
    except Exception as error:
        return type(error), re.sub(r" at 0x[0-9a-f]+", "", str(error))
