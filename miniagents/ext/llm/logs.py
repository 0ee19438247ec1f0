"""Keeps prompts, keys and control characters out of log lines: our own, and those of the libraries we send with.

At level DEBUG, anthropic's SDK logs whole requests, prompt and headers included; at INFO, httpx2 logs URLs, and some
servers take their key in the query; a traceback holds what a server or a model likes to say. Whoever needs the requests
to find a fault sets the environment variable `MINIAGENTS_LOG_BODIES=1`; what looks like a key stays out.
"""

from __future__ import annotations

import logging
import os
import re

from miniagents.ext.llm.redaction import REDACTED, Redactor

__all__ = ["keep_logs_discreet"]

_LOGGERS = (
    *("miniagents", "miniagents.llm"),
    *("httpx2", "httpx", "openai._base_client", "anthropic._base_client"),
)
_QUERY = re.compile(r"(https?://[^\s\"'?]+\?)[^\s\"']+")
_BODIES = re.compile(r"^(Request options:).*", re.DOTALL)


class _Discretion(logging.Filter):
    """Rewrites a record on its way to the handlers; lets all of them pass."""

    redactor = Redactor()
    formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._shown(record.getMessage()), ()
        if record.exc_info and not record.exc_text:  # where every formatter looks before it makes a text of its own
            record.exc_text = self._shown(self.formatter.formatException(record.exc_info))
        return True

    def _shown(self, text: str) -> str:
        if os.environ.get("MINIAGENTS_LOG_BODIES") != "1":
            text = _QUERY.sub(rf"\1{REDACTED}", _BODIES.sub(rf"\1 {REDACTED}", text))
        return self.redactor.text(text)


_discretion = _Discretion()


def keep_logs_discreet() -> None:
    """Add the filter to the loggers; once, however often it is called."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_discretion)
