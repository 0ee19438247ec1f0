"""The search for secrets in recordings: it finds them in any text and any chunks, fast, and without false alarms."""

from __future__ import annotations

import base64
import gzip
import json
import os
import tracemalloc
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load
from miniagents_testing.cassette._chunkmap import one_event_a_chunk
from miniagents_testing.cassette._secrets import Leak, Redaction, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Effort

KEY = "sk-proj-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
URI = "https://api.openai.com/v1/chat/completions"
KNOWN = ["9f86d081884c7d659a2feaa0", "hunter2-hunter2", "Zq8-_/+=", KEY]


def _interaction(body: bytes = b"{}", request_body: bytes = b"", uri: str = URI, **headers: str) -> Interaction:
    """Make an interaction with these bodies, URI and headers."""
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return Interaction("POST", uri, request_body, ResponseStream(one_event_a_chunk(body), headers=named))


def _event(delta: dict[str, Any], index: int = 0) -> bytes:
    """Make an event with this delta in one choice."""
    return f"data: {json.dumps({'choices': [{'index': index, 'delta': delta}]})}\n\n".encode()


TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('%\\"/=+u0{}[]:\n')))
SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=["Cc"]), min_size=8)


@given(TEXT, TEXT, SECRET, st.data())
def test_X3_a_secret_is_found_whatever_surrounds_it_and_however_it_is_cut(
    before: str, after: str, secret: str, data: st.DataObject
) -> None:
    """A secret is found for any text around it and any cut into deltas, and is gone after `scrub`."""
    assume(secret not in URI)
    text = before + secret + after
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    noise = data.draw(st.lists(st.sampled_from(["", "Hm", "日本"]), min_size=len(pieces), max_size=len(pieces)))
    events = [
        _event({"content": piece}) + _event({"content": other}, 1) for piece, other in zip(pieces, noise, strict=True)
    ]
    interaction = _interaction(b"".join(events), json.dumps({"messages": [{"content": text}]}).encode())
    redaction = Redaction([secret])
    assert {leak.place.partition(" ")[0] for leak in redaction.leaks(interaction)} == {"request", "response"}
    clean, _, leaks = redaction.redact(interaction)
    assert leaks == redaction.leaks(clean) == []
    deltas = [
        json.loads(line[6:])["choices"][0]["delta"]["content"] for line in clean.response.body.split(b"\n\n") if line
    ]
    assert secret not in "".join(deltas[::2])
    assert secret not in json.loads(clean.request_body)["messages"][0]["content"]


ENCODINGS: dict[str, Callable[[str], str]] = {
    "percent": lambda text: quote(text, safe=""),
    "JSON": lambda text: json.dumps({"inner": text}),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@given(TEXT, TEXT, SECRET, st.lists(st.sampled_from(sorted(ENCODINGS)), min_size=1, max_size=2))
def test_X3_a_secret_is_replaced_in_nested_encodings(before: str, after: str, secret: str, names: list[str]) -> None:
    """A secret that is encoded once or twice together with the text around it is replaced in a request body."""
    text = f"{before} {secret} {after} and so on"
    for name in names:
        text = ENCODINGS[name](text)
    clean = Redaction([secret]).scrub(_interaction(request_body=json.dumps({"a": {"b": text}}).encode()))
    assert text not in json.loads(clean.request_body)["a"]["b"]
    assert b"[redacted]" in clean.request_body


def test_a_secret_with_spaces_is_replaced_in_a_form() -> None:
    """A secret whose spaces are written as plus signs, as in forms, is replaced; other parameters stay as they are."""
    body = b"a=1+2%20&b=correct+horse%3F+battery&c="
    clean, replaced, leaks = Redaction({"correct horse? battery": "PASS"}).redact(_interaction(request_body=body))
    assert clean.request_body == b"a=1+2%20&b=%5Bredacted%5D&c="
    assert [tuple(each) for each in replaced] == [(0, "request body b", "PASS", 22)]
    assert leaks == []


def test_a_leak_does_not_name_a_place_that_holds_the_secret() -> None:
    """When the name of a field or parameter is the secret, the place of the leak has a placeholder for the name."""
    body = json.dumps({KEY: {"inner": KEY}}).encode()
    leaks = Redaction([KEY]).leaks(_interaction(request_body=body, uri=f"{URI}?{quote(KEY)}=1"))
    places = ["name of a query parameter", "request body", "request body [redacted].inner"]
    assert [leak.place for leak in leaks] == places


def test_pieces_of_one_text_are_joined() -> None:
    """A secret across two deltas, lines of JSON, elements of an array of events or plain events is replaced."""
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": KEY[:9]}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": KEY[9:]}}
    events = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in (start, delta))
    lines = b"".join(json.dumps({"message": {"content": text}}).encode() + b"\n" for text in (KEY[:9], KEY[9:]))
    parts = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in (KEY[:9], KEY[9:])]
    texts = b"".join(b"data: %b\n\n" % text.encode() for text in (KEY[:9], KEY[9:]))
    redaction = Redaction([KEY])
    for body in (events, lines, json.dumps(parts).encode(), texts):
        (leak,) = redaction.leaks(_interaction(body))
        assert leak.place.startswith("response ")
        clean = redaction.scrub(_interaction(body))
        assert KEY[9:].encode() not in clean.response.body
        assert clean.response.body.count(b"[redacted]") == 1


def test_choices_and_calls_are_joined_each_for_itself() -> None:
    """Deltas are joined within one choice and one tool call only, so that halves in two choices are no leak."""
    halves = _event({"content": KEY[:9]}) + _event({"content": KEY[9:]}, index=1)
    assert Redaction([KEY]).leaks(_interaction(halves)) == []
    calls = [
        _event({"tool_calls": [{"index": index, "function": {"arguments": text}}]}, choice)
        for text in (KEY[:9], KEY[9:])
        for choice in (0, 1)
        for index in (0, 1)
    ]
    places = [leak.place for leak in Redaction([KEY]).leaks(_interaction(b"".join(calls)))]
    assert places == [
        f"response body choices[{choice}].delta.tool_calls[{index}].function.arguments"
        for choice, index in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_events_are_read_with_any_line_ends_and_several_data_lines(end: str) -> None:
    """A secret across events is found with each line end of the standard, and with several data lines."""
    first = f'data: {{"choices": [{end}data:{{"delta": {{"content": "{KEY[:9]}"}}}}]}}{end}{end}'
    second = f'id: 1{end}data: {{"choices": [{{"delta": {{"content": "{KEY[9:]}"}}}}]}}{end}{end}'
    (leak,) = Redaction([KEY]).leaks(_interaction(f"\ufeff{first}{second}".encode()))
    assert leak.place.startswith("response body choices[0].delta.content")


def test_places_after_deep_nesting_are_right() -> None:
    """A leak that follows deeply nested JSON names the right field."""
    body = b'{"a":' + b"[" * 200 + b'"x"' + b"]" * 200 + f',"b":"{KEY}"}}'.encode()
    assert Redaction([KEY]).leaks(_interaction(request_body=body)) == [Leak("request body b")]


# --- compressed


def test_X9_a_bomb_is_not_inflated() -> None:
    """A gzip body that would inflate to 200 MB is reported as not searchable, without being held in memory."""
    bomb = gzip.compress(b" " * 200_000_000)
    tracemalloc.start()
    leaks = Redaction([KEY]).leaks(_interaction(bomb, content_encoding="gzip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [str(leak) for leak in leaks] == ["response body: compressed with gzip in a way that cannot be searched"]
    assert peak < 150_000_000


@pytest.mark.parametrize("compress", [zlib.compress, lambda data: zlib.compress(data, wbits=-15)])
def test_deflate_is_searched_with_and_without_its_wrapper(compress: Any) -> None:
    """A secret in a deflate body is found, with and without the zlib header."""
    interaction = _interaction(compress(_event({"content": KEY})), content_encoding="deflate")
    (leak,) = Redaction([KEY]).leaks(interaction)
    assert leak.place == "response body choices[0].delta.content"
    clean = Redaction([KEY]).scrub(interaction)
    assert clean.response.body == _event({"content": "[redacted]"})
    assert "content-encoding" not in clean.response.headers


def test_unknown_compression_is_a_leak() -> None:
    """A body that cannot be decompressed is reported as a leak; a plain body with a wrong header is searched."""
    body = b"\x1b\x0a\x00\x80\xff"
    (leak,) = Redaction([KEY]).leaks(_interaction(body, content_encoding="br"))
    assert str(leak).endswith("compressed with br in a way that cannot be searched without the package brotli")
    (leak,) = Redaction([KEY]).leaks(_interaction(f'{{"a": "{KEY}"}}'.encode(), content_encoding="gzip"))
    assert leak == Leak("response body a")


# --- what only looks like a secret


def test_leaks_find_unknown_keys_when_asked_to() -> None:
    """With `keys=True`, `scan` finds a key by its shape, also in base64 or over two events; without it, no key."""
    halves = _event({"content": KEY[:12]}) + _event({"content": KEY[12:]})
    body = base64.b64encode(f"key: {KEY}".encode())
    interactions = [_interaction(), _interaction(halves, body)]
    assert [str(leak) for leak in scan(interactions, keys=True)] == [
        "interaction 2, request body: OpenAI key",
        "interaction 2, response body choices[0].delta.content: OpenAI key",
    ]
    assert scan(interactions) == []


def test_a_known_secret_goes_before_the_shape_of_a_key() -> None:
    """A text that is a known value and has the shape of a key is reported as the known value, and only once."""
    body = json.dumps({"a": KEY, "b": "sk-ant-api03-Xy_9-aB3dE6gH9jK2mN5pQ8"}).encode()
    leaks = scan([_interaction(request_body=body)], {KEY: "OPENAI_API_KEY"}, keys=True)
    assert [(leak.place, leak.what) for leak in leaks] == [
        ("request body a", "OPENAI_API_KEY"),
        ("request body b", "Anthropic key"),
    ]


def test_leaks_find_headers_and_parameters_that_carry_secrets() -> None:
    """Secret headers, user info and parameters of a URI are leaks; placeholders and harmless values are none."""
    headers: dict[str, Any] = {
        "authorization": "Bearer 0123-4567-89ab",
        "set_cookie": "__cf_bm=0123-4567-89ab; path=/",
        "openai_organization": "org-team-1",
        "anthropic_ratelimit_tokens_reset": "2026-01-01T00:00:00Z",
        "x_api_key": "**REDACTED**",
        "content_type": "text/event-stream; charset=utf-8",
    }
    uri = "https://user:0123-4567@host/?key=0123-4567&page_token=0123-4567&sig=REDACTED"
    assert [leak.place for leak in scan([_interaction(uri=uri, **headers)], keys=True)] == [
        "user info of the URI",
        "query parameter key",
        "response header authorization",
        "response header set-cookie",
        "response header openai-organization",
    ]


@cache
def _real() -> list[Interaction]:
    """Return the recorded streams of the corpus."""
    folder = os.environ.get("MINIAGENTS_CORPUS")
    if not folder:
        pytest.skip("MINIAGENTS_CORPUS does not name a folder with recorded provider streams")
    return [_recorded(path) for path in sorted(Path(folder).glob("*/*/*.json"))]


def _recorded(path: Path) -> Interaction:
    """Make an interaction of a recorded stream."""
    record = json.loads(path.read_text(encoding="utf-8"))
    request, response = record["request"], record["response"]
    headers = {name: [value] for name, value in response.get("headers") or () if name != "content-encoding"}
    return Interaction(
        method="POST",
        uri=request["url"] or URI,
        request_body=(request["body_text"] or "").encode(),
        request_headers={name: [value] for name, value in request.get("headers") or ()},
        response=ResponseStream(one_event_a_chunk(response["body_text"].encode()), headers=headers),
    )


def test_leaks_find_nothing_in_real_streams() -> None:
    """The search finds nothing in the recorded streams of the corpus but passwords, which some of their tools take."""
    assert {leak.what for leak in scan(_real(), KNOWN, keys=True)} == {"password"}


def test_scrub_changes_nothing_in_real_streams() -> None:
    """Without names of secret fields, `scrub` changes no byte and no chunk of the recorded streams of the corpus."""
    redaction = Redaction(KNOWN, fields=())
    for interaction in _real():
        clean = redaction.scrub(interaction)
        assert (clean.uri, clean.request_body) == (interaction.uri, interaction.request_body)
        assert clean.response.chunks == interaction.response.chunks


def test_leaks_find_nothing_in_the_committed_cassettes(root: Path) -> None:
    """The search finds no leak in this project's cassettes, and `scrub` changes nothing in them."""
    paths = sorted((root / "cassettes").rglob("*.yaml"))
    assert paths
    for path in paths:
        assert scan(load(path), KNOWN, keys=True) == [], path
        assert [Redaction(KNOWN).scrub(interaction) for interaction in load(path)] == list(load(path)), path


# --- cost

HOSTILE = [
    '"',
    "\\",
    '{"a":',
    "[1,",
    "%25",
    "\\u0025",
    "A",
    "eyJ-",
    "sk-",
    "org-",
    "api_key=",
    "data:\n\n",
    "\n",
    "Bearer ",
    "://a?b=",
    "-----BEGIN PRIVATE KEY-----\\n",
    "Q~",
    "x_client_secret=1&",
    '{"a":{"b":"',
    '{"password":"x"},',
    f'{{"{KEY}":"{KEY}"}},',
    '{"a_index":1,"b":"x"}\n\ndata: ',
    "YWJj",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_search_takes_linear_time(unit: str, effort: Effort) -> None:
    """The search and `scrub` of a long, hostile, repeated text end before the test times out."""
    text = (unit * (effort(50_000, ci=200_000, nightly=1_000_000) // len(unit))).encode()
    redaction = Redaction(KNOWN)
    for data in (text, b'data: {"a": "' + text):
        clean = redaction.scrub(_interaction(data, text))
        secret = ("api_key=", "x_client", '{"password', '{"sk-')
        assert (clean == _interaction(data, text)) is not unit.startswith(secret)


def test_a_secret_that_one_text_repeats_is_named_once() -> None:
    """A text that repeats a key 500 times gives one leak, and `scrub` replaces all 500."""
    events = b"".join(_event({"content": text}) for text in [KEY[:20], KEY[20:], " "] * 500)
    assert len(Redaction([KEY]).leaks(_interaction(events))) == 1
    assert Redaction([KEY]).scrub(_interaction(events)).response.body.count(b"[redacted]") == 500


def test_cuts_inside_events_do_not_hide_a_secret() -> None:
    """A secret is found however the bytes of its events are cut into chunks."""
    body = _event({"content": KEY[:20]}) + _event({"content": KEY[20:]})
    for size in (1, 5, 1000):
        chunks = tuple(Chunk(0, body[start : start + size]) for start in range(0, len(body), size))
        (leak,) = Redaction([KEY]).leaks(Interaction("POST", URI, b"", ResponseStream(chunks)))
        assert leak.place.startswith("response body choices[0].delta.content")
