"""Limits on the size of data that comes from outside the program.

Data beyond a limit raises `EventTooLargeError`, or the error that `docs/explanation/truncation.md` lists beside the
limit. The limits are constants: assigning to them changes nothing.
`SSEDecoder(max_event_bytes=..., max_stream_bytes=...)` takes other limits for one stream.
"""

from typing import Final

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_EVENT_BYTES",
    "MAX_INFLATION",
    "MAX_INFLATION_FREE_BYTES",
    "MAX_JSON_NESTING",
    "MAX_NESTING",
    "MAX_PAGE_BYTES",
    "MAX_STREAM_BYTES",
]

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of one server-sent event: enough for an image, which comes as base64 in one event."""

MAX_STREAM_BYTES: Final = 256 * 1024 * 1024
"""Bytes of a whole stream after decompression: about a million tokens with all the JSON around them."""

MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
"""Bytes of an answer that comes as one JSON document. The document is held in memory before it is parsed."""

MAX_PAGE_BYTES: Final = 64 * 1024
"""Bytes that are read of a page (such as a proxy's HTML) that comes instead of an answer: enough for an error text."""

MAX_INFLATION: Final = 300
"""Decompressed bytes for each compressed byte.

Streams of JSON are compressed 5 to 50 times; gzip itself reaches about 1,000 times.
"""

MAX_INFLATION_FREE_BYTES: Final = 1024 * 1024
"""Decompressed bytes of a body up to which `MAX_INFLATION` does not apply, because short bodies may compress well."""

MAX_NESTING: Final = 200
"""Levels of containers inside a message: as many as recursion in Python and in C (pickle) allows safely."""

MAX_JSON_NESTING: Final = 300
"""Containers and messages that may nest in each other in JSON: parsers take no more."""
