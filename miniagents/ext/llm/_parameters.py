"""Parameters of requests: their types, and a warning for a name that is one edit from a known one.

All parameters go to the provider as they were given: other servers of the same API have more of them, and a new
version of an SDK may lack one that its API still takes. So a wrong name is only warned of. A value of a wrong type is
refused, before a key is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

logger = logging.getLogger("miniagents")


class _Kind(NamedTuple):
    """Kind of values that a parameter takes."""

    name: str
    types: tuple[type, ...]
    example: str


_NUMBER = _Kind("a number", (int, float), "0.7")
_INTEGER = _Kind("an integer", (int,), "100")
_FLAG = _Kind("True or False", (bool,), "True")
_TEXT = _Kind("a text", (str,), "'...'")
_TEXTS = _Kind("a list of texts", (list, tuple), "['...']")
_TEXT_OR_TEXTS = _Kind("a text or a list", (str, list, tuple), "'...'")
_FIELDS = _Kind("a dict", (Mapping,), "{...}")
_ANY = _Kind("any value", (object,), "...")

_PLAIN_TYPES = (str, bytes, bool, int, float, list, tuple, dict, set, frozenset)
"""Types whose values are refused for a parameter of another kind. Objects of an SDK, such as `omit`, are not."""

_OF_AGENTS = {
    "alias": _TEXT,
    "api": _TEXT,
    "async_client": _ANY,
    "max_concurrent_requests": _INTEGER,
    "max_rounds": _INTEGER,
    "model": _TEXT,
    "reply_metadata": _FIELDS,
    "retry": _ANY,
    "stall_timeout": _NUMBER,
    "stream": _FLAG,
    "system": _TEXT_OR_TEXTS,
    "tool_errors": _TEXT,
    "tools": _ANY,
}
_OF_SDKS = {"extra_body": _ANY, "extra_headers": _FIELDS, "extra_query": _FIELDS, "timeout": _ANY}
_OPENAI = {
    "metadata": _FIELDS,
    "moderation": _ANY,
    "parallel_tool_calls": _FLAG,
    "prompt_cache_key": _TEXT,
    "prompt_cache_options": _ANY,
    "prompt_cache_retention": _TEXT,
    "safety_identifier": _TEXT,
    "service_tier": _TEXT,
    "store": _FLAG,
    "stream_options": _FIELDS,
    "temperature": _NUMBER,
    "tool_choice": _ANY,
    "top_logprobs": _INTEGER,
    "top_p": _NUMBER,
    "user": _TEXT,
}
_CHAT = {
    "audio": _ANY,
    "frequency_penalty": _NUMBER,
    "function_call": _ANY,
    "functions": _ANY,
    "logit_bias": _FIELDS,
    "logprobs": _Kind("True or False", (bool, int), "True"),
    "max_completion_tokens": _INTEGER,
    "max_tokens": _INTEGER,
    "modalities": _TEXTS,
    "n": _INTEGER,
    "prediction": _ANY,
    "presence_penalty": _NUMBER,
    "reasoning_effort": _TEXT,
    "response_format": _FIELDS,
    "seed": _INTEGER,
    "stop": _TEXT_OR_TEXTS,
    "verbosity": _TEXT,
    "web_search_options": _FIELDS,
}
_RESPONSES = {
    "access_programs": _ANY,
    "background": _FLAG,
    "background_options": _ANY,
    "context_management": _ANY,
    "conversation": _ANY,
    "image": _ANY,
    "include": _TEXTS,
    "instructions": _TEXT_OR_TEXTS,
    "max_output_tokens": _INTEGER,
    "max_tool_calls": _INTEGER,
    "previous_response_id": _TEXT,
    "prompt": _ANY,
    "reasoning": _FIELDS,
    "text": _FIELDS,
    "truncation": _TEXT,
}
_ANTHROPIC = {
    "cache_control": _ANY,
    "container": _ANY,
    "diagnostics": _ANY,
    "inference_geo": _TEXT,
    "max_tokens": _INTEGER,
    "metadata": _FIELDS,
    "output_config": _ANY,
    "service_tier": _TEXT,
    "speed": _TEXT,
    "stop_sequences": _TEXTS,
    "temperature": _NUMBER,
    "thinking": _FIELDS,
    "tool_choice": _ANY,
    "top_k": _INTEGER,
    "top_p": _NUMBER,
    "user_profile_id": _TEXT,
    "workspace_id": _TEXT,
}
_OF_APIS: dict[str, Mapping[str, _Kind]] = {
    "chat": {**_OF_AGENTS, **_OF_SDKS, **_OPENAI, **_CHAT},
    "responses": {**_OF_AGENTS, **_OF_SDKS, **_OPENAI, **_RESPONSES},
    "messages": {**_OF_AGENTS, **_OF_SDKS, **_ANTHROPIC},
}
"""Parameters of agents on each API: those of the agent, of the SDK's method, and of the API."""

_NO_MISTAKES = frozenset().union(*_OF_APIS.values(), {"messages", "input", "models"})
"""Names that are no misspellings of other names: all above, those that the agent fills in, OpenRouter's `models`."""


def check_parameters(settings: Mapping[str, Any], api: str, warned: set[str]) -> None:
    """Refuse values of a wrong type, and warn once of each name that looks like a misspelling.

    Args:
        settings: settings of an agent and parameters of its requests.
        api: "chat", "responses" or "messages".
        warned: names that were warned of, to which this call adds.

    Raises:
        TypeError: a value is of a wrong type.
    """
    kinds = _OF_APIS[api]
    for name, value in settings.items():
        kind = kinds.get(name)
        if kind is None:
            if name not in _NO_MISTAKES and name not in warned:
                _warn_of_misspelling(name, api, warned)
        elif value is not None and not _fits(value, kind):
            right = value if _is_number_in_quotes(value) and int in kind.types else kind.example
            raise TypeError(f"{name} must be {kind.name}: write `{name}={right}`, not `{name}={_short(value)}`")


def _fits(value: Any, kind: _Kind) -> bool:
    """Return True if a value has a type of `kind`; a bool is no number.

    A value of no plain type, such as an object of an SDK, always fits.
    """
    if isinstance(value, kind.types) and (type(value) is not bool or bool in kind.types or object in kind.types):
        return True
    return not isinstance(value, _PLAIN_TYPES)


def _is_number_in_quotes(value: Any) -> bool:
    """Return True for a text of digits with at most one point."""
    return isinstance(value, str) and value.replace(".", "", 1).isdecimal()


def _short(value: Any) -> str:
    """Return the repr of a short value, and the name of its type for a longer one, which might be a secret."""
    text = repr(value)
    return text if len(text) <= 20 else f"{type(value).__name__}(...)"


@lru_cache(maxsize=256)  # each call of an agent has the same names; the search took a twentieth of a short answer
def _find_misspelled(name: str, api: str) -> str | None:
    """Return the parameter of an API that a name looks like a misspelling of, or None."""
    return next((known for known in _OF_APIS[api] if _is_misspelled(name, known)), None)


def _warn_of_misspelling(name: str, api: str, warned: set[str]) -> None:
    """Log a warning if a name is one edit from a known one, and add the name to `warned`."""
    known = _find_misspelled(name, api)
    if known is not None:
        warned.add(name)
        logger.warning(
            "The parameter %r is sent to the provider, and is one letter from %r: write `%s=...`, not `%s=...`, or put "
            "it into `extra_body={...}` if it is meant",
            *(name, known, known, name),
        )


def _is_misspelled(name: str, known: str) -> bool:
    """Return True if one letter of `known` was left out, added, replaced, or swapped with the next one.

    A letter of a word of one or two letters is no misspelling: `top_k` is no `top_p`.
    """
    same = next((at for at, letters in enumerate(zip(name, known, strict=False)) if len({*letters}) > 1), None)
    if same is None:  # the shorter name begins the longer one
        same = min(len(name), len(known))
    rest, known_rest = name[same:], known[same:]
    if not (
        rest[1:] == known_rest[1:]
        or rest[1:] == known_rest
        or rest == known_rest[1:]
        or (rest[:2] == known_rest[1::-1] and rest[2:] == known_rest[2:])
    ):
        return False
    word = known[known.rfind("_", 0, same) + 1 :].partition("_")[0]
    return len(word) > 2 or "_" in (rest[:1], known_rest[:1])
