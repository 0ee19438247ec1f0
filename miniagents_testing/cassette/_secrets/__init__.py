"""Redaction of recordings, and the search for secrets that are left in them.

`Redaction.redact` replaces secrets and what users' rules find: by the names of fields, by known values, and by the
shapes of keys. A recording with a known value that is left is not written.

Independent of files, transports and providers.
"""

from __future__ import annotations

from miniagents_testing.cassette._secrets.names import SECRET_FIELDS, values_of_environment
from miniagents_testing.cassette._secrets.redaction import JSONPath, Leak, Redacted, Redaction, Replaced, Rule, scan

__all__ = [
    "SECRET_FIELDS",
    "JSONPath",
    "Leak",
    "Redacted",
    "Redaction",
    "Replaced",
    "Rule",
    "scan",
    "values_of_environment",
]
