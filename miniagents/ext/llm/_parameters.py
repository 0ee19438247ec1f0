"""Parameters of requests: their types, names that are refused, and a warning for a name one edit from a known one.

All parameters go to the provider as they were given: other servers of the same API have more of them, and a new
version of an SDK may lack one that its API still takes. So a wrong name is only warned of. A value of a wrong type is
refused, before a key is asked for.

Arguments of a client are refused, too. As parameters, an address would have no effect, and a key would go to the
default provider together with the prompt. So are the words of other frameworks for what this one names differently:
a provider may ignore them, and the agent would work without its instructions or its output.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from types import ModuleType
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
    "api": _TEXT,
    "async_client": _ANY,
    "max_concurrent_requests": _INTEGER,
    "max_rounds": _INTEGER,
    "model": _TEXT,
    "output": _ANY,
    "output_mode": _TEXT,
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

_CLIENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "openai": {
        "AsyncOpenAI": (
            *("_enforce_credentials", "_strict_response_validation", "admin_api_key", "api_key", "base_url"),
            *("data_residency", "default_headers", "default_query", "http_client", "max_retries", "organization"),
            *("project", "webhook_secret", "websocket_base_url", "workload_identity"),
        ),
        "AsyncAzureOpenAI": (
            *("api_version", "azure_ad_token", "azure_ad_token_provider", "azure_deployment", "azure_endpoint"),
        ),
        "AsyncBedrockOpenAI": (
            *("aws_access_key_id", "aws_credentials_provider", "aws_profile", "aws_region", "aws_secret_access_key"),
            *("aws_session_token", "bedrock_token_provider"),
        ),
    },
    "anthropic": {
        "AsyncAnthropic": (
            *("_strict_response_validation", "_token_cache", "api_key", "auth_token", "base_url", "config"),
            *("credentials", "default_headers", "default_query", "http_client", "max_retries", "middleware"),
            *("open_telemetry", "profile", "webhook_key"),
        ),
        "AsyncAnthropicBedrock": (
            *("aws_access_key", "aws_profile", "aws_region", "aws_secret_key", "aws_session_token"),
        ),
        "AsyncAnthropicAWS": ("skip_auth",),
        "AsyncAnthropicVertex": ("access_token", "project_id", "region"),
        "AsyncAnthropicGoogleCloud": ("location", "project", "token_provider"),
        "AsyncAnthropicFoundry": ("azure_ad_token_provider", "resource"),
    },
}
"""Arguments of the clients in each SDK that are no parameters of an API; each stands at the first class that has it.

The constructors also have `provider`, a parameter of OpenRouter, and `workspace_id`, one of Anthropic.
"""
_CLIENT_ARGUMENTS = {name for clients in _CLIENTS.values() for names in clients.values() for name in names}
_CLIENT_ARGUMENTS.add("async_client")  # so that a misspelling of it is refused
_ENDS_OF_CLIENT_ARGUMENTS = (
    *("accesskey", "accesstoken", "anthropickey", "apibase", "apikey", "apisecret", "apitoken", "apiurl"),
    *("apiversion", "authorization", "authtoken", "baseurl", "bearertoken", "client", "clientsecret", "endpoint"),
    *("endpointurl", "openaikey", "organization", "password", "proxies", "proxy", "secretkey", "serverurl"),
)
"""Ends of the names that other libraries have for an address, a key or a connection, in lower case without `_`."""
_SHORT_CLIENT_ARGUMENTS = frozenset({"host", "key", "secret", "token", "url"})
"""Names of the same meaning that may be the end of a parameter's name."""

_NO_PARAMETERS = {
    "write `system=...`": (
        *("instruction", "instructions", "prompt", "system_instruction", "system_instructions", "system_message"),
        "system_prompt",
    ),
    "write `output=...`": (
        *("output_cls", "output_model", "output_pydantic", "output_schema", "output_type", "response_format"),
        *("response_model", "response_schema", "response_type", "result_type"),
    ),
    "write `tools=[function, agent, ...]`": ("function_tools", "functions", "handoffs", "sub_agents", "toolsets"),
    "write `tools=[functools.partial(function, deps=...)]`, or bind it by `fork` of an agent": ("deps", "deps_type"),
    "write `max_rounds=...`": ("max_iter", "max_iterations", "max_steps", "max_tool_iterations", "max_turns"),
    "write `retry=Retry(attempts=...)`": ("max_attempts", "num_retries", "retries"),
    "write `stream=...`": ("streaming",),
    "write `timeout=...`": ("request_timeout",),
    "write `extra_headers={...}`": ("headers",),
    "write `model=...`": ("deployment_name", "llm", "model_name"),
    "write each parameter by its name, such as `temperature=0.7`": ("llm_config", "model_kwargs", "model_settings"),
    "give it at creation or by `agent.fork(alias=...)`": ("alias",),
    "write `alias=...` at creation or in `agent.fork(alias=...)`": ("agent_name", "name"),
    "give it at creation or by `agent.fork(description=...)`": ("description",),
    "write `agent.trigger([*messages, message])`": ("message_history",),
    "write `agent.trigger(..., limits=Limits(...))` or `MiniAgents(limits=Limits(...))`": ("limits", "usage_limits"),
    "give it to `agent.trigger(...)`": ("errors_as_messages", "start_soon"),
}
"""Names that are no parameters of any API, by what to do instead: words of other frameworks, and of this one elsewhere.

A name that is a parameter of one API is refused for the others: `functions`, `instructions`, `prompt` and
`response_format`.
"""
_ADVICE = {name: advice for advice, names in _NO_PARAMETERS.items() for name in names}

_NO_MISTAKES = frozenset().union(*_OF_APIS.values(), {"messages", "input", "models"})
"""Names that are no misspellings of other names: all above, those that the agent fills in, OpenRouter's `models`."""


def check_parameters(settings: Mapping[str, Any], api: str, warned: set[str]) -> None:
    """Refuse names of no parameter and values of a wrong type; warn once of each name that looks misspelled.

    Args:
        settings: settings of an agent and parameters of its requests.
        api: "chat", "responses" or "messages".
        warned: names that were warned of, to which this call adds.

    Raises:
        TypeError: a value is of a wrong type, or a name is one of a client, or the word of another framework.
    """
    kinds = _OF_APIS[api]
    for name, value in settings.items():
        kind = kinds.get(name)
        if kind is None:
            refusal = _find_refusal(name, api)
            if refusal is not None:
                raise TypeError(refusal)
            if name not in _NO_MISTAKES and name not in warned:
                _warn_of_misspelling(name, api, warned)
        elif value is not None and not _fits(value, kind):
            right = value if _is_number_in_quotes(value) and int in kind.types else kind.example
            raise TypeError(f"{name} must be {kind.name}: write `{name}={right}`, not `{name}={_short(value)}`")


def check_client(client: Any, module: str) -> None:
    """Refuse a client that cannot send an agent's requests, although it is of an SDK; other objects are not judged.

    Tests give mocks and wrappers, which have other classes. A subclass of an SDK's asynchronous client is one itself.

    Args:
        client: the client that was given for an agent.
        module: "openai" or "anthropic", the SDK of the agent.

    Raises:
        TypeError: the client is synchronous, a class, or of the other SDK, or is a plain value or a module.
    """
    is_class = issubclass(type(client), type)
    kind: type = client if is_class else type(client)
    given = next((each for each in kind.__mro__ if _package_of(each) in _CLIENTS), None)
    right, more = next(iter(_CLIENTS[module])), ""
    if given is None:
        if not issubclass(kind, (*_PLAIN_TYPES, ModuleType)):
            return
        name = f"a value of the type {kind.__name__}"
    else:
        # only an asynchronous client can be entered by `async with`
        if _package_of(given) == module and hasattr(given, "__aenter__") and not is_class:
            return
        name = f"{'the class' if is_class else 'an object of'} {_package_of(given)}.{given.__name__}"
        if _package_of(given) == module:
            right = next((each for each in _CLIENTS[module] if each.endswith(given.__name__)), right)
        else:
            more = f", or give this client to `create_{_package_of(given)}_agent`"
    raise TypeError(
        f"async_client must be an asynchronous client of {module}'s SDK, not {name}: write "
        f"`async_client={module}.{right}(...)`{more}"
    )


def _package_of(kind: type) -> str:
    """Return the name of the outermost package of a class."""
    return kind.__module__.partition(".")[0]


def _fits(value: Any, kind: _Kind) -> bool:
    """Return True if a value has a type of `kind`; a bool is no number, and JSON has no NaN.

    A value of no plain type, such as an object of an SDK, always fits.
    """
    if isinstance(value, float) and not isfinite(value):
        return False
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


@lru_cache(maxsize=256)
def _find_refusal(name: str, api: str) -> str | None:
    """Return the text of the error for a name that is no parameter of an API; None for a name that may be one."""
    if name in _ADVICE:
        problem, advice = f"{name} is no parameter of the API", _ADVICE[name]
    elif name not in _NO_MISTAKES and _is_of_client(name):
        problem = f"{name} is an argument of a client, and no parameter of the API"
        advice = _say_client(name, "anthropic" if api == "messages" else "openai")
    else:
        return None
    return f"{problem}: {advice}. If this server does have such a parameter, write `extra_body={{{name!r}: ...}}`"


def _say_client(name: str, module: str) -> str:
    """Return what to write for an argument of a client of the SDK `module`."""
    if name == "max_retries":
        return "write `retry=Retry(attempts=...)`"
    clients = _CLIENTS[module]
    client, given = next(iter(clients)), "base_url=..., api_key=..."
    if f"{name}=" not in given:
        client, given = next(((each, f"{name}=...") for each in clients if name in clients[each]), (client, given))
    return f"write `async_client={module}.{client}({given})`"


def _is_of_client(name: str) -> bool:
    """Return True for an argument of a client, also with one letter wrong, or under another library's name for it."""
    plain = name.lower().replace("_", "")
    if name in _CLIENT_ARGUMENTS or plain in _SHORT_CLIENT_ARGUMENTS or plain.endswith(_ENDS_OF_CLIENT_ARGUMENTS):
        return True
    return any(_is_misspelled(name, known) for known in _CLIENT_ARGUMENTS)


@lru_cache(maxsize=256)  # each call of an agent has the same names; the search took a twentieth of a short answer
def _find_misspelled(name: str, api: str) -> str | None:
    """Return the parameter of an API, or argument of an agent, that a name looks like a misspelling of, or None."""
    return next((known for known in (*_OF_APIS[api], "alias", "description") if _is_misspelled(name, known)), None)


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
