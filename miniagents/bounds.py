"""The limits on size: how large a thing that comes from outside may be before it is refused.

What exceeds one raises `EventTooLargeError`, or the error that `docs/faults.md` lists beside it. These are constants:
assigning to them changes nothing. `SSEDecoder(max_event_bytes=..., max_stream_bytes=...)` takes other limits for one
stream.
"""

from typing import Final

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_EVENT_BYTES",
    "MAX_INFLATION",
    "MAX_INFLATION_FREE_BYTES",
    "MAX_NESTING",
    "MAX_PAGE_BYTES",
    "MAX_STREAM_BYTES",
]

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of one server-sent event. An image comes as base64 in one event, and fits."""

MAX_STREAM_BYTES: Final = 256 * 1024 * 1024
"""Bytes of a whole stream after decompression: about a million tokens with all the JSON around them."""

MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
"""Bytes of an answer that comes as one JSON document, which is collected before it is parsed."""

MAX_PAGE_BYTES: Final = 64 * 1024
"""Bytes that are read of a page, such as a proxy's HTML, in place of an answer: enough to describe it in an error."""

MAX_INFLATION: Final = 300
"""Bytes that one compressed byte may become.

Streams of JSON compress 5 to 50 times; the limit of gzip itself is near 1,000.
"""

MAX_INFLATION_FREE_BYTES: Final = 1024 * 1024
"""Decompressed bytes of a body to which `MAX_INFLATION` does not apply, since short bodies may compress well."""

MAX_NESTING: Final = 200
"""Containers that may nest in each other inside a message: recursion in Python and in C (pickle) bears as many."""
