"""Secrets in every place of a recording where a secret was ever seen, in many spellings: no file with one is written.

A placement is an interaction with a secret in one place. A spelling is an encoding of the secret.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.cassette._secrets import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRETS = {
    "openai": "sk-proj-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7",
    "anthropic": "sk-ant-api03-Xy_9-aB3dE6gH9jK2mN5pQ8",
    "groq": "gsk_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVP-mB92K27uhbU",
    "hexadecimal": "9f86d081884c7d659a2feaa0c55ad015",
    "password": 'p@ss%41 "w\\nörd/+=?&x',
}


def _event(event: dict[str, Any], named: bool = False) -> bytes:
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _chat_event(delta: dict[str, Any], index: int = 0) -> bytes:
    return _event({"id": "chatcmpl-1", "choices": [{"delta": delta, "finish_reason": None, "index": index}]})


@dataclass(frozen=True)
class API:
    """Form of a provider's streams and requests, with the names of their places in a leak."""

    uri: str
    text: Callable[[str], bytes]
    """The event of a delta of text."""
    text_place: str
    arguments: Callable[[str], bytes]
    """The event of a fragment of a tool call's arguments."""
    arguments_place: str
    thought: Callable[[str], bytes]
    """The event of a piece of reasoning."""
    document: Callable[[str], dict[str, Any]]
    """An answer that is no stream."""
    document_place: str
    prompt: Callable[[str], dict[str, Any]]
    prompt_place: str
    call: Callable[[str], dict[str, Any]]
    """A request with a tool call of an earlier turn; its arguments are JSON, or JSON in a string."""
    call_place: str


APIS = {
    "chat": API(
        "https://api.openai.com/v1/chat/completions",
        text=lambda text: _chat_event({"content": text}),
        text_place="choices[0].delta.content",
        arguments=lambda text: _chat_event({"tool_calls": [{"function": {"arguments": text}, "index": 2}]}),
        arguments_place="choices[0].delta.tool_calls[2].function.arguments",
        thought=lambda text: _chat_event({"reasoning_content": text}, index=1),
        document=lambda text: {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]},
        document_place="choices[0].message.content",
        prompt=lambda text: {"messages": [{"role": "system", "content": "Hi"}, {"role": "user", "content": text}]},
        prompt_place="messages[1].content",
        call=lambda text: {
            "messages": [{"tool_calls": [{"id": "1", "function": {"arguments": json.dumps({"key": text})}}]}]
        },
        call_place="messages[0].tool_calls[0].function.arguments",
    ),
    "responses": API(
        "https://api.openai.com/v1/responses",
        text=lambda text: _event(
            {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": text}, named=True
        ),
        text_place="response.output_text.delta[1][0].delta",
        arguments=lambda text: _event(
            {"type": "response.function_call_arguments.delta", "delta": text, "output_index": 2}, named=True
        ),
        arguments_place="response.function_call_arguments.delta[2].delta",
        thought=lambda text: _event(
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 1, "delta": text},
            named=True,
        ),
        document=lambda text: {"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}]},
        document_place="output[0].content[0].text",
        prompt=lambda text: {"input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}]},
        prompt_place="input[0].content[0].text",
        call=lambda text: {"input": [{"type": "function_call", "arguments": json.dumps({"a": [text]})}]},
        call_place="input[0].arguments",
    ),
    "messages": API(
        "https://api.anthropic.com/v1/messages",
        text=lambda text: _event(
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}, named=True
        ),
        text_place="content_block_delta[1].delta.text",
        arguments=lambda text: _event(
            {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": text}},
            named=True,
        ),
        arguments_place="content_block_delta[2].delta.partial_json",
        thought=lambda text: _event(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": text}},
            named=True,
        ),
        document=lambda text: {"type": "message", "content": [{"type": "text", "text": text}]},
        document_place="content[0].text",
        prompt=lambda text: {"system": "Hi", "messages": [{"role": "user", "content": text}]},
        prompt_place="messages[0].content",
        call=lambda text: {"messages": [{"content": [{"type": "tool_use", "input": {"list": [1, {"key": text}]}}]}]},
        call_place="messages[0].content[0].input.list[1].key",
    ),
}


@dataclass(frozen=True)
class Placement:
    """Interaction with a secret in one place."""

    name: str
    interaction: Interaction
    place: str
    encoding: str = "plain"


def _streamed(api: API, *events: bytes, **fields: Any) -> Interaction:
    noise = [api.text("Some "), *events, api.text(" text"), b"data: [DONE]\n\n"]
    chunks = tuple(Chunk(100 + number, event) for number, event in enumerate(noise))
    headers = {"content-type": ["text/event-stream"]}
    request = {"uri": api.uri, "request_body": json.dumps(api.prompt("Hello"), ensure_ascii=False).encode(), **fields}
    return Interaction(method="POST", response=ResponseStream(chunks, headers=headers), **request)


def _answered(api: API, body: bytes, **headers: list[str]) -> Interaction:
    pieces = tuple(Chunk(1, body[start : start + 7]) for start in range(0, len(body), 7))
    named = {"content-type": ["application/json"], **{name.replace("_", "-"): value for name, value in headers.items()}}
    return replace(_streamed(api), response=ResponseStream(pieces, headers=named))


def _asked(api: API, body: dict[str, Any], **options: Any) -> Interaction:
    return _streamed(api, request_body=json.dumps(body, **options).encode())


def _percent(text: str) -> str:
    """Encode every byte, so that no letter stays as it is."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _codes(text: str) -> str:
    return "".join(rf"\u{ord(character):04x}" for character in text)


def _base64(text: str, before: bytes, encode: Callable[[bytes], bytes] = base64.b64encode) -> str:
    return encode(before + text.encode() + b", and so on").decode()


def _spellings(secret: str) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each spelling, its text, and what a leak says about it."""
    for times, said in ((1, ""), (2, " twice"), (3, " three times")):
        text = _percent(secret)
        for _ in range(times - 1):
            text = quote(text)
        yield f"percent-{times}", text, f"percent-encoded{said}"
    for length in range(3):
        yield f"base64-{length}", _base64(secret, b"abc"[:length]), "base64"
        url_safe = _base64(secret, b"\xff\xfe\xff"[:length], base64.urlsafe_b64encode)
        yield f"base64-url-{length}", url_safe.rstrip("="), "base64"
    yield "base64-in-word", f"data_{_base64(secret, b'')}", "base64"
    yield "base64-lines", base64.encodebytes(b"-" * 70 + secret.encode()).decode(), "base64"
    yield "base64-twice", _base64(_base64(secret, b"a"), b"b"), "base64 twice"
    yield "base64-of-percent", _base64(_percent(secret), b""), "base64, percent-encoded"
    yield "hex", secret.encode().hex(), "hexadecimal"
    yield "hex-upper", "F" + secret.encode().hex().upper(), "hexadecimal"
    yield "json-codes", _codes(secret), "JSON-escaped"
    yield "json-twice", json.dumps(f'{{"inner": "{_codes(secret)}"}}'), "JSON-escaped t"


def _placements(api: API, secret: str) -> Iterator[Placement]:
    yield from _outside_of_bodies(api, secret)
    yield from _in_requests(api, secret)
    yield from _in_streams(api, secret)
    yield from _in_documents(api, secret)


def _outside_of_bodies(api: API, secret: str) -> Iterator[Placement]:
    plain = _streamed(api)
    for name in ("authorization", "x-api-key", "cookie", "x-custom"):
        headers = {name: [f"Bearer {secret}"]}
        yield Placement(f"request-{name}", replace(plain, request_headers=headers), f"request header {name}")
    for name in ("set-cookie", "openai-organization", "request-id"):
        response = replace(plain.response, headers={name: [secret]})
        yield Placement(f"response-{name}", replace(plain, response=response), f"response header {name}")
    response = replace(plain.response, end=f"raise ReadError: {api.uri}?key={secret}")
    yield Placement("end", replace(plain, response=response), "end of the stream")
    for times, encoding in ((1, "percent-encoded"), (2, "percent-encoded twice"), (3, "percent-encoded three times")):
        text = _percent(secret)
        for _ in range(times - 1):
            text = quote(text)
        yield Placement(f"query-{times}", replace(plain, uri=f"{api.uri}?a=1&k={text}"), "query parameter k", encoding)
    encoded = _percent(secret)
    uri = f"{api.uri}/{encoded}/more"
    yield Placement("path", replace(plain, uri=uri), "path of the URI", "percent-encoded")
    uri = api.uri.replace("//", f"//user:{encoded}@")
    yield Placement("user-info", replace(plain, uri=uri), "user info of the URI", "percent-encoded")
    yield Placement("query-name", replace(plain, uri=f"{api.uri}?{encoded}=1"), "URI", "percent-encoded")


def _in_requests(api: API, secret: str) -> Iterator[Placement]:
    place = f"request body {api.prompt_place}"
    plain = "JSON-escaped" if json.dumps(secret, ensure_ascii=False)[1:-1] != secret else "plain"
    asked = partial(_asked, api)
    yield Placement("prompt", asked(api.prompt(f"It is {secret}."), ensure_ascii=False), place, plain)
    yield Placement("tool-call", asked(api.call(secret), ensure_ascii=False), f"request body {api.call_place}", "*")
    yield Placement("field-name", asked({**api.prompt("Hi"), f"x{secret}": 1}), "request body", "*")
    body = json.dumps(api.prompt("^")).replace("^", _codes(secret)).encode()
    yield Placement("prompt-codes", _streamed(api, request_body=body), place, "JSON-escaped")
    yield Placement("no-json", _streamed(api, request_body=f"a={secret}&b".encode()), "request body")
    compressed = gzip.compress(json.dumps(api.prompt(secret), ensure_ascii=False).encode())
    gzipped = "gzip" if plain == "plain" else f"gzip, {plain}"
    yield Placement("gzip-request", _streamed(api, request_body=compressed), place, gzipped)
    for name, text, encoding in _spellings(secret):
        yield Placement(f"prompt-{name}", asked(api.prompt(f"It is {text} .")), place, f"*{encoding}")


def _in_streams(api: API, secret: str) -> Iterator[Placement]:
    kinds = {"text": (api.text, api.text_place), "arguments": (api.arguments, api.arguments_place)}
    for kind, (event, path) in kinds.items():
        yield Placement(f"{kind}-whole", _streamed(api, event(f"({secret})")), f"response event {path}, chunk 2", "*")
        for cut in range(1, len(secret)):
            events = [event(secret[:cut]), api.thought("Hm, "), event(secret[cut:])]
            place = f"response deltas {path}, chunks 2-4"
            yield Placement(f"{kind}-cut-at-{cut}", _streamed(api, *events), place, "*")
        for size in (1, 2, 3, 5):
            events = [event(secret[start : start + size]) for start in range(0, len(secret), size)]
            place = f"response deltas {path}, chunks 2-{len(events) + 1}"
            yield Placement(f"{kind}-pieces-of-{size}", _streamed(api, *events), place, "*")
        for name, text, encoding in _spellings(secret):
            pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
            interaction = _streamed(api, *map(event, pieces))
            yield Placement(f"{kind}-{name}", interaction, f"response deltas {path}, chunks ", f"*{encoding}")
    comment = _streamed(api, f": {secret}\n\n".encode())
    yield Placement("comment", comment, "response body, chunk 2")
    if json.dumps(secret) == f'"{secret}"':
        last = api.text(secret[4:])
        last = last[: last.index(secret[4:].encode()) + len(secret[4:])]
        cut_off = _streamed(api, api.text(secret[:4]), last)
        response = replace(cut_off.response, chunks=cut_off.response.chunks[:3], end="closed", complete=False)
        place = f"response deltas {api.text_place}, chunks 2-3"
        yield Placement("cut-off", replace(cut_off, response=response), place)


def _in_documents(api: API, secret: str) -> Iterator[Placement]:
    body = json.dumps(api.document(f"Well: {secret}"), indent=1, ensure_ascii=False).encode()
    place = f"response body {api.document_place}"
    yield Placement("document", _answered(api, body), place, "*")
    gzipped = _answered(api, gzip.compress(body), content_encoding=["gzip"])
    yield Placement("document-gzip", gzipped, place, "gzip*")
    unnamed = _answered(api, gzip.compress(body))
    yield Placement("document-gzip-unnamed", unnamed, place, "gzip*")
    error = json.dumps({"error": {"message": f"Incorrect API key: {secret}"}}, ensure_ascii=False).encode()
    yield Placement("error", _answered(api, error), "response body error.message", "*")
    page = f"<html><a href='?key={secret}'>".encode()
    yield Placement("page", _answered(api, page), "response body")
    tokens = [secret[start : start + 3] for start in range(0, len(secret), 3)]
    logprobs = {"logprobs": {"content": [{"token": "", "bytes": list(token.encode())} for token in tokens]}}
    numbers = _answered(api, json.dumps(logprobs).encode())
    yield Placement("numbers", numbers, "response body logprobs.content[0].bytes to logprobs.content[")


ALL = {
    f"{api_name}-{secret_name}-{placement.name}": (secret, placement)
    for api_name, api in APIS.items()
    for secret_name, secret in SECRETS.items()
    for placement in _placements(api, secret)
}
BY_KIND = {
    f"{api}-{name}": [entry for key, entry in ALL.items() if key.startswith(f"{api}-{name}-")]
    for api in APIS
    for name in SECRETS
}


def test_placements_cover_each_place_of_each_api() -> None:
    """The list of placements has the expected number: each secret in each place of each API."""
    assert len(ALL) > 200 * len(APIS)


def _said(encoding: str, expected: str) -> bool:
    return expected.strip("*") in encoding if "*" in expected else encoding == expected


@pytest.mark.parametrize("kind", BY_KIND)
def test_X1_X3_every_placement_is_found_and_named(kind: str) -> None:
    """For each placement, the scan gives a leak with its place and encoding, and without the secret."""
    for secret, placement in BY_KIND[kind]:
        leaks = Redaction([secret]).leaks(placement.interaction)
        assert [leak for leak in leaks if leak.place.startswith(placement.place)], (placement.name, leaks)
        assert all(_said(leak.encoding, placement.encoding) for leak in leaks), (placement.name, leaks)
        assert not [leak for leak in leaks if secret in str(leak)]


def _spelled(secret: str) -> set[bytes]:
    """Return encodings of a secret that a reader could undo, made independently of the scanner, which decodes."""
    plain = secret.encode()
    spellings = {plain, plain.hex().encode(), plain.hex().upper().encode(), _codes(secret).encode()}
    spellings |= {json.dumps(secret)[1:-1].encode(), json.dumps(secret, ensure_ascii=False)[1:-1].encode()}
    percent = _percent(secret)
    spellings |= {percent.encode(), quote(percent).encode(), quote(quote(percent)).encode(), quote(secret).encode()}
    for length in range(3):
        digits = base64.b64encode(b"\0" * length + plain)
        core = digits[-(-length * 8 // 6) : len(plain + b"\0" * length) * 8 // 6]
        spellings |= {core, core.translate(bytes.maketrans(b"+/", b"-_"))}
    return spellings


def _readable(interaction: Interaction) -> Iterator[bytes]:
    """Yield all texts that can be read in an interaction, and each field of its events joined to one text."""
    body = interaction.response.body
    yield from (interaction.uri.encode(), interaction.request_body, body, interaction.response.end.encode())
    yield from (gzip.decompress(data) for data in (interaction.request_body, body) if data.startswith(b"\x1f\x8b"))
    yield repr([interaction.request_headers, interaction.response.headers]).encode()
    texts: dict[tuple[str, str], str] = {}
    for line in body.splitlines():
        if line.startswith(b'data: {"') and line.endswith(b"}"):
            event = json.loads(line[6:])
            for name, value in _strings(event):
                key = event.get("type", ""), name
                texts[key] = texts.get(key, "") + value
    yield from (text.encode() for text in texts.values())


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield name, value
        case dict():
            for key, item in value.items():
                yield from _strings(item, key)
        case list():
            for item in value:
                yield from _strings(item, name)


@pytest.mark.parametrize("kind", BY_KIND)
def test_X1_X3_no_placement_is_written(kind: str, tmp_path: Path) -> None:
    """For each placement, redaction either removes the secret, or reports a leak so that `save` writes no file."""
    written = 0
    for secret, placement in BY_KIND[kind]:
        redaction = Redaction([secret])
        clean = redaction.scrub(placement.interaction)
        if redaction.leaks(clean):
            continue
        save(tmp_path / "c.yaml", [clean])
        (loaded,) = load(tmp_path / "c.yaml")
        texts = list(_readable(loaded))
        assert not [spelling for spelling in _spelled(secret) for text in texts if spelling in text], placement.name
        written += 1
    assert written > len(BY_KIND[kind]) / 3  # to refuse everything would be easy
