"""Redaction of recordings, and the search for secrets that are left in them.

`Redaction.scrub` replaces keys, known values and what users' rules find. `Redaction.leaks` and `scan` find known values
that are left, however they are encoded and wherever a stream was cut; a recording with such a value is not written.

Independent of files, transports and providers.
"""

from __future__ import annotations

from miniagents_testing.cassette._secrets.leaks import Leak
from miniagents_testing.cassette._secrets.names import known_secrets
from miniagents_testing.cassette._secrets.redaction import JSONPath, Redaction, Rule, scan

__all__ = ["JSONPath", "Leak", "Redaction", "Rule", "known_secrets", "scan"]
