"""HTTP server on this machine for tests of clients: it counts requests, and behaves as the path of a request says.

The first part of the path is the behaviour, a method of `_Handler`; what follows it is free. The server is a proxy,
too: it answers requests for any host, and after CONNECT it goes on with TLS. Chunks of an answer are sent with a pause
between them, so that a client reads each one alone. Where the path ends with `converse-stream` or `converse`, they are
events or an answer of Amazon Bedrock.
"""

from __future__ import annotations

import gzip
import json
import ssl
import struct
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""Certificate and key of the server, for 127.0.0.1, localhost and api.test; it is its own authority."""
PAUSE = 0.02
"""Seconds between two chunks."""
TEXTS = ("Hel", "lo", " to", " you")


def bedrock_event(kind: str, payload: dict[str, Any]) -> bytes:
    """Return an event in the framing of AWS: lengths, headers and payload, each part with a CRC-32."""
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


EVENTS = [f"data: {text}\n\n".encode() for text in TEXTS]
BEDROCK_EVENTS = [
    bedrock_event("messageStart", {"role": "assistant"}),
    *(bedrock_event("contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": 0}) for text in TEXTS),
    bedrock_event("messageStop", {"stopReason": "end_turn"}),
]
BEDROCK_ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "".join(TEXTS)}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 4, "totalTokens": 5},
    "metrics": {"latencyMs": 1},
}


class Server(ThreadingHTTPServer):
    """The server; it runs in a `with` block.

    Args:
        tls: True for HTTPS.
    """

    daemon_threads = True

    def __init__(self, *, tls: bool = False) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        """Method, path and body of each request."""
        self.tunnels: list[str] = []
        """Hosts and ports that CONNECT named."""
        self.stopping = Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(CERTIFICATE)
        self.port: int = self.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        if tls:
            self.socket = self.context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: Any) -> None:
        """Write nothing about clients that leave."""

    def __enter__(self) -> Self:
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Write no log."""

    def finish(self) -> None:
        """Close the connection, which after CONNECT is the TLS connection and no longer the one of the server."""
        super().finish()
        self.connection.close()

    def do_CONNECT(self) -> None:
        """Open a tunnel as a proxy does, and go on in it as the TLS server behind the proxy."""
        self.server.tunnels.append(self.path)
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.close_connection = False  # also where the client says HTTP/1.0
        self.rfile.close()
        self.wfile.close()
        self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def do_GET(self) -> None:
        """Answer as the path says."""
        body = self._read_body()
        self.server.seen.append((self.command, self.path, body))
        path = urlsplit(self.path).path
        behaviour = path.split("/")[1]
        chunks = [json.dumps(BEDROCK_ANSWER).encode()] if path.endswith("/converse") else EVENTS
        kind = "application/json" if path.endswith("/converse") else "text/event-stream"
        if path.endswith("converse-stream"):
            chunks, kind = BEDROCK_EVENTS, "application/vnd.amazon.eventstream"
        self._kind = kind
        if behaviour == "echo":
            said = json.dumps({"method": self.command, "size": len(body), "crc": zlib.crc32(body)}).encode()
            said = b"" if self.command == "PUT" else said  # S3 answers an upload with nothing
            self._answer([said], content_length=str(len(said)))
        else:
            getattr(self, f"_{behaviour}")(chunks)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - names of the standard library

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _head(self, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", self._kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _answer(self, chunks: list[bytes], status: int = 200, *, ends: bool = True, **headers: str) -> None:
        chunked = "content_length" not in headers and headers.get("connection") != "close"
        self._head({**headers, **({"transfer_encoding": "chunked"} if chunked else {})}, status)
        for chunk in chunks if self.command != "HEAD" else ():
            time.sleep(PAUSE)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked and ends and self.command != "HEAD":
            self.wfile.write(b"0\r\n\r\n")

    def _stream(self, chunks: list[bytes]) -> None:
        self._answer(chunks)

    def _length(self, chunks: list[bytes]) -> None:
        self._answer(chunks, content_length=str(sum(map(len, chunks))))

    def _closing(self, chunks: list[bytes]) -> None:
        """Answer with a body that ends with the connection."""
        self._answer(chunks, connection="close")

    def _gzip(self, chunks: list[bytes]) -> None:
        """Compress an answer if the client asks for that."""
        if "gzip" in self.headers.get("accept-encoding", ""):
            self._zipped(chunks)
        else:
            self._answer(chunks)

    def _zipped(self, chunks: list[bytes]) -> None:
        """Compress an answer even if the client did not ask for that."""
        writer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        pieces = [writer.compress(chunk) + writer.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks]
        self._answer([*pieces, writer.flush()], content_encoding="gzip")

    def _zstd(self, _: list[bytes]) -> None:
        """Answer with the request's body, compressed by zstd even if the client did not ask for that."""
        import zstandard

        said = zstandard.compress(self.server.seen[-1][2])
        self._answer([said[:10], said[10:]], content_encoding="zstd")

    def _reset(self, chunks: list[bytes]) -> None:
        """Send two chunks and reset the connection."""
        self._answer(chunks[:2], ends=False)
        time.sleep(PAUSE)
        self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _short(self, chunks: list[bytes]) -> None:
        """Close the connection before the end of the body."""
        self._answer(chunks[:2], content_length=str(sum(map(len, chunks))))
        self.close_connection = True

    def _redirect(self, _: list[bytes]) -> None:
        location = self.path.replace("redirect", "stream")
        self._head({"location": location, "content_length": "0", "set_cookie": "a=b"}, 302)

    def _error(self, chunks: list[bytes]) -> None:
        """Answer with status 429, which asks the client to retry in an hour."""
        self._answer(chunks, 429, retry_after="3600", content_length=str(sum(map(len, chunks))))

    def _empty(self, _: list[bytes]) -> None:
        self._head({}, 204)

    def _hang(self, chunks: list[bytes]) -> None:
        """Send one chunk, and nothing more until the server stops."""
        self._answer(chunks[:1], ends=False)
        self.server.stopping.wait()
        self.close_connection = True

    def _odd(self, _: list[bytes]) -> None:
        """Send a head that strict parsers refuse."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nbad header : x\r\ncontent-length: 2\r\n\r\nhi")


def unzipped(chunks: list[bytes]) -> bytes:
    """Return the text of a compressed body."""
    return gzip.decompress(b"".join(chunks))
