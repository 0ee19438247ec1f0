"""Keeps prompts and keys out of the log lines of the libraries that we send requests with.

At level DEBUG, anthropic's SDK logs whole requests, prompt and headers included; at INFO, httpx2 logs URLs, and some
servers take their key in the query. Our own logger, "miniagents.llm", never sees either. Whoever needs the bodies to
find a fault sets the environment variable `MINIAGENTS_LOG_BODIES=1`.
"""

from __future__ import annotations

import logging
import os
import re

from miniagents.ext.llm.redaction import REDACTED, Redactor

__all__ = ["keep_logs_discreet"]

_LOGGERS = ("httpx2", "httpx", "openai._base_client", "anthropic._base_client")
_QUERY = re.compile(r"(https?://[^\s\"'?]+\?)[^\s\"']+")
_BODIES = re.compile(r"^(Request options:).*", re.DOTALL)


class _Discretion(logging.Filter):
    """Rewrites a record on its way to the handlers; lets all of them pass."""

    redactor = Redactor()

    def filter(self, record: logging.LogRecord) -> bool:
        if os.environ.get("MINIAGENTS_LOG_BODIES") == "1":
            return True
        text = _BODIES.sub(rf"\1 {REDACTED}", record.getMessage())
        record.msg = self.redactor.text(_QUERY.sub(rf"\1{REDACTED}", text))
        record.args = ()
        return True


_discretion = _Discretion()


def keep_logs_discreet() -> None:
    """Add the filter to the loggers of the libraries; once, however often it is called."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_discretion)
