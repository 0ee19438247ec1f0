"""Public functions that turn values of messages into JSON types and back, for a store that an application writes.

`encode` returns JSON types for any value that a field of a message may hold, messages included. `decode` returns the
value again, with its types and classes. `canonical_text` returns one text for each value, to compare or hash it.
`model_dump_json`, hash keys and histories use the same forms; `docs/how-to/histories.md` shows them.
"""

import miniagents.messages  # noqa: F401 - registers the classes of messages, which `decode` looks up by name
from miniagents._promising.values import canonical_text, decode, encode

__all__ = ["canonical_text", "decode", "encode"]
