"""No secret gets into a recording: what can be replaced is replaced, and what is still there is named.

`Redaction.scrub` replaces keys, known values and what users' rules say; `Redaction.leaks` and `scan` find known values
that are left, however they are encoded and wherever a stream was cut. Whoever writes a file refuses to where there is
one. This room knows interactions, and neither files nor transports nor providers.
"""

from __future__ import annotations

from miniagents_testing.cassette._secrets.leaks import Leak
from miniagents_testing.cassette._secrets.names import known_secrets
from miniagents_testing.cassette._secrets.redaction import JSONPath, Redaction, Rule, scan

__all__ = ["JSONPath", "Leak", "Redaction", "Rule", "known_secrets", "scan"]
