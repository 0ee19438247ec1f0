"""Drift between recordings and the models of the installed SDKs, for `verify --drift`.

Each answer and each event is parsed as the SDK parses it. Fields that the SDK's models do not know, and required ones
that are missing, say that the provider has changed since the recording, or the SDK.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pydantic

from miniagents.errors import StreamError, install_line
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing._reading import api_of
from miniagents_testing.cli._screen import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._screen import CassetteFile

_TYPES = {
    "chat": ("openai", "openai.types.chat:ChatCompletionChunk", "openai.types.chat:ChatCompletion"),
    "responses": ("openai", "openai.types.responses:ResponseStreamEvent", "openai.types.responses:Response"),
    "messages": ("anthropic", "anthropic.types:RawMessageStreamEvent", "anthropic.types:Message"),
}
"""For each API: the SDK, the type of its events, and the type of an answer that is not streamed."""


def find_drift(cassette: CassetteFile) -> list[str]:
    """Return a line for each field of the answers that differs from the SDK's models, with its count.

    Raises:
        CommandError: the SDK of an answer is not installed.
    """
    found: Counter[str] = Counter()
    for interaction in cassette.interactions:
        api = api_of(interaction)
        if not api or not 200 <= interaction.response.status < 300:
            continue
        sdk, event, answer = _TYPES[api]
        version = _import(sdk).__version__
        for name, value in _payloads(interaction, api):
            parsed = _parser(sdk, event if name == "event" else answer).construct(value=value).value
            found.update(
                f"{difference} (openai {version})".replace("openai", sdk) for difference in _differences(parsed, "")
            )
    return [f"{count} x {text}" for text, count in sorted(found.items())]


def _import(name: str) -> Any:
    """Import a module of an SDK.

    Raises:
        CommandError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        sdk = name.partition(".")[0]
        raise CommandError(f"--drift needs {sdk}. Install it with: {install_line(sdk)}") from error


@cache
def _parser(sdk: str, type_name: str) -> Any:
    """Return a model of the SDK with a field `value` of a type, for `construct`, which makes it as the SDK does."""
    module, _, name = type_name.partition(":")
    base = _import(sdk).BaseModel
    return pydantic.create_model("Parsed", __base__=base, value=(getattr(_import(module), name), ...))


def _payloads(interaction: Interaction, api: str) -> Iterator[tuple[Literal["event", "answer"], Any]]:
    """Yield the events of a stream, or the only answer, as JSON data. Skip those that SDKs parse without a model."""
    body = interaction.response.body
    content_type = "".join(interaction.response.headers.get("content-type", ()))
    if "event-stream" not in content_type and not body.lstrip().startswith((b"data:", b"event:", b":")):
        if isinstance(value := _data(body), dict):
            yield "answer", value
        return
    decoder = SSEDecoder()
    try:
        events = list(decoder.feed(body + b"\n\n"))  # also the last event of a stream that was cut off
    except StreamError:  # `verify` says so
        return
    for event in events:
        value = _data(event.data)
        is_error = isinstance(value, dict) and ("error" in value or value.get("type") == "ping") and api != "responses"
        if isinstance(value, dict) and not is_error:
            yield "event", value


def _data(text: bytes) -> Any:
    """Return the data of a text; None if it is no JSON, such as `[DONE]`."""
    try:
        return pydantic.TypeAdapter(Any).validate_json(text)
    except ValueError:
        return None


def _differences(value: Any, place: str) -> Iterator[str]:
    """Yield each unknown field and each missing required field of a parsed value, at any depth.

    Of a value whose `type` is not known, only that is reported.
    """
    if isinstance(value, list):
        for each in value:
            yield from _differences(each, f"{place}[*]")
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _differences(each, f"{place}.{name}")
    elif isinstance(value, pydantic.BaseModel):
        model = type(value)
        place = place or model.__name__
        if (unknown := _unknown_type(value)) is not None:
            yield f"{place}: the type {unknown!r} is not known"
            return
        yield from (f"{place}.{name} is not known" for name in value.model_extra or ())
        for name, field in model.model_fields.items():
            if name in value.model_fields_set:
                yield from _differences(getattr(value, name), f"{place}.{field.alias or name}")
            elif field.is_required():
                yield f"{place}.{field.alias or name} is missing"


def _unknown_type(value: pydantic.BaseModel) -> Any:
    """Return the value of the field `type` if the model has other ones, or None: no model of a union has fitted."""
    field = type(value).model_fields.get("type")
    found = getattr(value, "type", None)
    if field is None or get_origin(field.annotation) is not Literal or found in get_args(field.annotation):
        return None
    return found
