"""What providers put on the wire: the bytes that a step of a script is, as the answer to a call.

One module an API; each knows how its provider says things. `rendering` knows when they are said, and how it ends; no
one here knows over which transport.
"""

from miniagents_testing._wire.rendering import FORMATS, rendered

__all__ = ["FORMATS", "rendered"]
