"""Values of messages as JSON and back, for stores of your own: what `model_dump_json`, hashes and histories use.

`encode` makes JSON types of whatever a field of a message may hold, messages too; `decode` gives it back, with its
types and classes. `canonical_text` is the one text of a value. `docs/histories.md` shows the forms.
"""

import miniagents.messages  # noqa: F401 - with it, decode knows the classes of messages
from miniagents._promising.values import canonical_text, decode, encode

__all__ = ["canonical_text", "decode", "encode"]
