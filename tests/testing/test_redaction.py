"""Redaction of recordings: known secrets, texts that look like keys, users' rules; all else stays byte for byte."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream
from miniagents_testing.cassette._chunkmap import decode, encode
from miniagents_testing.cassette._secrets import JSONPath, Redaction
from miniagents_testing.cassette._secrets.names import (
    SECRET_FIELDS,
    FieldNames,
    values_of_environment,
    values_of_headers,
)
from miniagents_testing.cassette._secrets.texts import Body

KEY = "sk-proj-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
URI = "https://api.openai.com/v1/chat/completions"


def _event(text: str, index: int = 0) -> bytes:
    delta = {"choices": [{"index": index, "delta": {"content": text}}]}
    return f"data: {json.dumps(delta, ensure_ascii=False)}\n\n".encode()


def _interaction(
    *chunks: bytes, request_body: bytes = b"", uri: str = URI, headers: dict[str, list[str]] | None = None
) -> Interaction:
    timed = tuple(Chunk(100 * number, data) for number, data in enumerate(chunks, 1))
    return Interaction("POST", uri, request_body, ResponseStream(timed, headers=headers or {}))


def _texts(interaction: Interaction) -> list[str]:
    """Return the deltas of a chat stream."""
    events = [line for line in interaction.response.body.splitlines() if line.startswith(b"data: ")]
    return [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events]


# --- what is secret


def test_variables_of_the_environment_are_secret_by_their_names() -> None:
    """Variables with a word such as KEY, TOKEN, PASSWORD or DSN in their names have secret values; others do not."""
    secret = {
        "OPENAI_API_KEY": "kO8-openai",
        "HF_TOKEN": "t0ken-1234x",
        "aws_secret_access_key": "aws/secret+1",
        "WEBHOOK_SECRET": "webhook1a",
        "PASSWORD": "p@ssw0rd!",
        "PGPASSWORD": "pG-pass-1x",
        "SHOP_PASS": "s4lesman-x",
        "SIGNING_KEY_V2": "siGning-1",
        "REPO_PAT": "r3po-access",
        "SOME_APIKEY": "aPikey-one",
        "SERVICE_CREDENTIALS": "cr3dentials",
    }
    others = {
        "MAX_TOKENS_PER_MINUTE_LIMIT": "40-96",
        "TOKENIZERS_PARALLELISM": "n0t-secret-1",
        "MONKEY": "m0nkey-Business",
        "COMPASS": "n0rth-West-1",
        "PWD": "/home/person/Project-1x",
        "OLDPWD": "/home/person/Project-2x",
        "HOME": "/home/Person1",
    }
    assert values_of_environment({**secret, **others}) == {value: name for name, value in secret.items()}


@pytest.mark.parametrize(
    "value",
    [
        "customer_identifier",
        "not-needed",
        "user.name",
        "<|endoftext|>",
        "order_id, customer_id",
        "/usr/lib/keys",
        "4096",
        "",
    ],
)
def test_values_that_are_made_of_words_are_no_secrets(value: str) -> None:
    """A variable with a name like a secret's has no secret value if the value is made of words and small numbers."""
    assert values_of_environment({"PARTITION_KEY": value}) == {}


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgres://app:Hunter2-x1@db.host:5432/app_production2", {"Hunter2-x1"}),
        ("postgres://app:postgres@db/app", set()),
        ("https://0a1b2c3d4e5f@o1.ingest.host/2", {"0a1b2c3d4e5f", "https://0a1b2c3d4e5f@o1.ingest.host/2"}),
        ("https://host/services/T0A1B2C3D", {"T0A1B2C3D", "https://host/services/T0A1B2C3D"}),
        ("https://host/path/of/words?limit=10", set()),
        ("https://[broken/T0A1B2C3D", set()),
    ],
)
def test_only_the_secret_parts_of_a_url_are_known(url: str, secrets: set[str]) -> None:
    """Of a URL in the environment, the password is secret; if it has none, the user and parts that are no words are."""
    assert values_of_environment({"SERVICE_DSN": url}).keys() == secrets


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("postgres://app:Hunter2-x1@db.host/app", {"Hunter2-x1"}),
        ("redis://:Hunter2-x1@h/0 redis://:Hunter2-x2@h/0", {"Hunter2-x1", "Hunter2-x2"}),
        ("nats://a:Hunter2-x1@h1,nats://a:Hunter2-x2@h2", {"Hunter2-x1", "Hunter2-x2"}),
        ("http://user:p%40ssW0rd%2F1@proxy:3128", {"p@ssW0rd/1"}),
        ("jdbc:postgresql://db/app?user=app&password=Hunter2-x1", {"Hunter2-x1"}),
        ("--url=mongodb+srv://app:Hunter2-x1@h/db", {"Hunter2-x1"}),
        ("postgres://app:postgres@db/app", set()),
        ("https://host/services/T0A1B2C3D?page=T0A1B2C3D", set()),
        ("https://T0A1B2C3D@host/", set()),
        ("https://[broken:T0A1B2C3D@host", set()),
        ("Hunter2-x1", set()),
    ],
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "BROKER", "http_proxy"])
def test_passwords_in_urls_are_known_whatever_the_variable_is_called(
    variable: str, value: str, secrets: set[str]
) -> None:
    """Of a URL in a variable without a secret name, the password and secret parameters are secret, and nothing else."""
    assert values_of_environment({variable: value}) == dict.fromkeys(secrets, variable)


@pytest.mark.parametrize("value", ["", "short-1", "postgres", "not-needed", "12345678", "  postgres\n"])
def test_words_and_short_values_are_no_secrets(value: str) -> None:
    """A credential that is a plain word or very short is not treated as a secret."""
    assert values_of_headers([("Authorization", f"Bearer {value}")]) == {}


def test_X2_the_values_of_a_live_request_are_known_whatever_its_headers_are_called() -> None:
    """Tokens, keys, cookies, passwords and organizations in headers become known secrets, harmless values do not."""
    basic = base64.b64encode(b"user:pass-word-1").decode()
    headers = [
        ("Authorization", "Bearer bearer-token-1"),
        ("Proxy-Authorization", f"Basic {basic}"),
        ("X-Auth", "Basic no-base64-1"),
        ("X-Api-Key", "api-key-1"),
        ("api-key", "api-key-2"),
        ("x-goog-api-key", "api-key-3"),
        ("Cookie", "session=cookie-1; theme=dark"),
        ("Cookie", 'quoted="cookie-3"; short="bar:baz"'),
        ("set-cookie", "__cf_bm=cookie-2; path=/; domain=.api.openai.com"),
        ("set-cookie", r'escaped="\"cookie-4\""; path=/'),
        ("OpenAI-Organization", "org-aB3dE6gH9"),
        ("Content-Type", "application/json"),
        ("User-Agent", "AsyncOpenAI/Python 3.54.0"),
        ("Host", "api.openai.com"),
        (":authority", "api.openai.com"),
        ("Idempotency-Key", "stainless-python-retry-0123-4567"),
    ]
    assert values_of_headers(headers).keys() == {
        *("bearer-token-1", basic, "pass-word-1", "api-key-1", "api-key-2", "api-key-3", "cookie-1", "cookie-2"),
        *("cookie-3", "cookie-4", "org-aB3dE6gH9", "no-base64-1"),
    }


@pytest.mark.parametrize("value", ["", "a", "1234567"])
def test_a_known_value_that_is_too_short_is_an_error(value: str) -> None:
    """`Redaction` raises a `ValueError` for a given secret of fewer than eight characters."""
    with pytest.raises(ValueError, match=f"of {len(value)} character"):
        Redaction([KEY, value])


def test_the_secrets_of_the_environment_and_of_live_requests_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a user's rule, secrets of the environment are replaced, and after `learn` those of a header."""
    monkeypatch.setenv("SOME_API_KEY", "fr0m-the-environment")
    redaction = Redaction(rules=["Jane"])
    body = b'{"a": "Jane, fr0m-the-environment, from-a-header-1"}'
    assert redaction.scrub_body(body) == b'{"a": "[redacted], [redacted], from-a-header-1"}'
    redaction.learn([("X-Api-Key", "from-a-header-1")])
    assert redaction.scrub_body(body) == b'{"a": "[redacted], [redacted], [redacted]"}'
    assert redaction.leaks(_interaction(b"{}", request_body=body))
    assert "header" not in repr(redaction)


# --- what is replaced


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        "sk-ant-api03-Xy_9-aB3dE6gH9jK2mN5pQ8",
        "gsk_aB3dE6gH9jK2mN5pQ8sT1vW4",
        "AIzaSyA0123456789abcdefghijklmno",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "github_pat_11ABCDEFG0aBcDeFgHiJkL",
        "org-aB3dE6gH9jK2mN5pQ8sT1vW4",
    ],
)
def test_a_text_that_looks_like_a_key_is_replaced(key: str) -> None:
    """A text with the form of a provider's key is replaced in a prompt, and in an answer that streams it in pieces."""
    body = json.dumps({"messages": [{"content": f"My key is {key}."}]}).encode()
    cut = len(key) // 2
    clean = Redaction().scrub(
        _interaction(_event("It is "), _event(key[:cut]), _event(f"{key[cut:]}, right?"), request_body=body)
    )
    assert clean.request_body == body.replace(key.encode(), b"[redacted]")
    assert _texts(clean) == ["It is ", "[redacted]", ", right?"]


@pytest.mark.parametrize(
    "text",
    [
        "Explain basic multiplication and the bearer of bad news.",
        "hf_hub_download, pk_field_of_a_table, sk-learn-contrib-packages-and-more, task-12345678901234567890",
        "risk-assessment-report-2024-01-01-final-version, desk-1234567890-1234567890",
        "OPENAI_API_KEY=your-key-goes-here, Authorization: Bearer YOUR_API_KEY, sk-wrong****-key",
        "max_tokens=4096, api_key=os.environ, org-mode, proj_name",
        "gAAAAABo-sk-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7_pk_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7",
        "[redacted]",
    ],
)
def test_text_that_only_resembles_a_key_stays(text: str) -> None:
    """A text that resembles a key, but has not the form of one, is left unchanged by redaction."""
    body = json.dumps({"messages": [{"content": text}]}).encode()
    interaction = _interaction(_event(text), request_body=body)
    assert Redaction(["known-value-1"]).scrub(interaction) == interaction


@given(st.text(), st.lists(st.text()), st.binary())
def test_scrub_changes_no_byte_without_a_secret(prompt: str, deltas: list[str], noise: bytes) -> None:
    """`scrub` leaves bodies without a secret unchanged byte for byte, whether they are JSON, broken or no text."""
    for ascii_only in (True, False):
        body = json.dumps({"messages": [{"content": prompt}]}, ensure_ascii=ascii_only).encode("utf-8", "replace")
        chunks = [_event(delta) for delta in deltas if delta.isprintable()]
        interaction = _interaction(*chunks, noise or b" ", request_body=body)
        assert Redaction(["known-value-1"], ["another-value"]).scrub(interaction) == interaction
    assert Redaction(["known-value-1"]).scrub_body(noise) == noise


def test_a_request_is_the_same_after_scrubbing_with_another_key() -> None:
    """Requests that differ only in the user's key are equal after redaction, and the header name beside it stays."""
    recorded, live = (
        Redaction([key]).scrub_body(json.dumps({"content": f"curl -H 'x-api-key: {key}'"}).encode())
        for key in ("a-key-of-the-team", "another-key-in-ci-1")
    )
    assert recorded == live
    assert Redaction(["x-api-key"]).scrub_body(recorded) != recorded


def test_keys_are_replaced_in_names_of_fields_and_in_comments() -> None:
    """A key is replaced in names of JSON fields, in comments and names of events, and in HTML."""
    page = f"<a href='/?key={KEY}'>"
    interaction = _interaction(f": {KEY}\n\nevent: {KEY}\ndata: {{}}\n\n".encode(), page.encode())
    body = json.dumps({KEY: 1, "n": [{"a": KEY}]}).encode()
    clean = Redaction([KEY]).scrub(replace(interaction, request_body=body))
    assert clean.request_body == b'{"[redacted]": 1, "n": [{"a": "[redacted]"}]}'
    assert clean.response.body == b": [redacted]\n\nevent: [redacted]\ndata: {}\n\n<a href='/?key=[redacted]'>"


def test_a_key_in_a_field_that_each_event_repeats_is_replaced_in_each() -> None:
    """A value that looks like a key, and that many events repeat in one field, is replaced in each of them."""
    org = "org-aB3dE6gH9jK2mN5pQ8sT1vW4"
    events = [json.dumps({"organization": org, org: index, "choices": []}) for index in range(3)]
    clean = Redaction().scrub(_interaction(*(f"data: {event}\n\n".encode() for event in events)))
    assert clean.response.body.decode() == "".join(f"data: {event}\n\n" for event in events).replace(org, "[redacted]")


def test_a_secret_in_numbers_or_syntax_stays_and_is_a_leak() -> None:
    """A secret in a JSON number or across JSON syntax is not replaced, and is reported as a leak."""
    for secret, text in (("1234567812345678", '{"n": 1234567812345678}'), ('1","b":"2', '{"a":"1","b":"2"}')):
        redaction = Redaction([secret])
        assert redaction.scrub_body(text.encode()) == text.encode()
        assert redaction.leaks(_interaction(b"{}", request_body=text.encode()))


def test_a_known_value_is_replaced_in_each_json_spelling() -> None:
    """A secret with quotes, Cyrillic letters and emoji is replaced in JSON with and without escapes."""
    secret = 'say "ключ" 😀/\\'
    spelled = json.dumps(secret)[1:-1].replace("/", "\\/")
    bodies = [f'{{"a": "<{spelled}>"}}'.encode(), json.dumps({"a": f"<{secret}>"}, ensure_ascii=False).encode()]
    assert [Redaction([secret]).scrub_body(body) for body in bodies] == [b'{"a": "<[redacted]>"}'] * 2


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        (f"https://user:{KEY}@host/v1", "https://host/v1"),
        (f"https://host/{KEY}/x?y=1#z", "https://host/%5Bredacted%5D/x?y=1#z"),
        (f"https://host/x?a=b%20c&q={KEY}&a=+", "https://host/x?a=b%20c&q=%5Bredacted%5D&a=+"),
        ("https://host/x?key=anything&page_token=2", "https://host/x?key=%5Bredacted%5D&page_token=2"),
        ("https://host/x?q=p%40ss%20word", "https://host/x?q=%5Bredacted%5D"),
        ("https://host/%7Ea/b%2Fc?empty=&flag&x=%zz", "https://host/%7Ea/b%2Fc?empty=&flag&x=%zz"),
        ("https://host/a+b?c+d=e+f#g+h", "https://host/a+b?c+d=e+f#g+h"),
        ("https://host", "https://host"),
    ],
)
def test_uris_are_scrubbed_part_by_part(uri: str, clean: str) -> None:
    """In a URI, credentials are removed and keys replaced, and all other parts keep their spelling."""
    redaction = Redaction(["p@ss word"])
    assert redaction.scrub_uri(uri) == clean
    assert redaction.scrub_uri(clean) == clean
    assert redaction.scrub(_interaction(b"{}", uri=uri)).uri == clean


def test_messages_of_errors_are_scrubbed() -> None:
    """A key in the recorded connection error or in the reason phrase is replaced."""
    interaction = _interaction(b"{}")
    response = replace(interaction.response, end=f"raise ReadError: GET /?key={KEY}", reason=f"Bad {KEY}")
    clean = Redaction().scrub(replace(interaction, response=response))
    assert clean.response.end == "raise ReadError: GET /?key=[redacted]"
    assert clean.response.reason == "Bad [redacted]"


def test_a_compressed_response_is_scrubbed_chunk_by_chunk() -> None:
    """A gzipped response with a secret is stored uncompressed and redacted; one without a secret stays compressed."""
    for secret in (KEY, "nothing"):
        body = gzip.compress(_event("Hi ") + _event(secret) + _event("."))
        headers = {"content-encoding": ["gzip"], "content-type": ["text/event-stream"]}
        interaction = _interaction(body[:40], body[40:70], body[70:], headers=headers)
        clean = Redaction().scrub(interaction)
        if secret == KEY:
            assert _texts(clean) == ["Hi ", "[redacted]", "."]
            assert list(clean.response.headers) == ["content-type"]
            assert sum(chunk.wait for chunk in clean.response.chunks) == 600
        else:
            assert clean == interaction


# --- rules of users

RULES: list[tuple[Any, str]] = [
    ("Jane", "Call [redacted] at 555-0100, or John at 555-0199."),
    (re.compile(r"\d{3}-\d{4}"), "Call Jane at [redacted], or John at [redacted]."),
    ((re.compile(r"(\d{3})-\d{4}"), r"\1-xxxx"), "Call Jane at 555-xxxx, or John at 555-xxxx."),
    (str.upper, "CALL JANE AT 555-0100, OR JOHN AT 555-0199."),
    (lambda text: text.replace("John", "J\n"), "Call Jane at 555-0100, or J\n at 555-0199."),
]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize(("rule", "expected"), RULES)
def test_a_rule_gets_the_whole_text_of_a_stream(rule: Any, expected: str, size: int) -> None:
    """A user's rule is applied to the joined text of each choice, however the text is cut into deltas."""
    text = "Call Jane at 555-0100, or John at 555-0199."
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    events = [_event(piece) + _event("Ja", index=1) for piece in pieces]
    body = json.dumps({"temperature": 555, "messages": [{"content": text}]}).encode()
    clean = Redaction(rules=[rule]).scrub(_interaction(*events, request_body=body))
    assert "".join(_texts(clean)[::2]) == expected
    assert len(clean.response.chunks) == len(events)
    assert json.loads(clean.request_body) == {"temperature": 555, "messages": [{"content": expected}]}


def test_a_json_path_covers_the_texts_at_and_below_it() -> None:
    """A `JSONPath` rule replaces all texts at and below its path, in bodies and deltas; numbers stay."""
    email = {"to": "jane@example.org", "n": 1, "cc": ["joe@example.org"]}
    body = json.dumps({"messages": [{"content": {"email": email}, "role": "user"}, {"content": "Hi"}]}).encode()
    for path in ("messages[*].content.email", "messages[0].content"):
        clean = json.loads(Redaction(rules=[JSONPath(path)]).scrub_body(body))
        assert clean["messages"][0]["content"]["email"] == {"to": "[redacted]", "n": 1, "cc": ["[redacted]"]}
        assert clean["messages"][1] == {"content": "Hi"}
    stream = _interaction(_event("a"), _event("b", index=1))
    clean_stream = Redaction(rules=[JSONPath("choices[1].delta")]).scrub(stream)
    assert _texts(clean_stream) == ["a", "[redacted]"]


def test_a_rule_that_is_empty_or_of_another_type_is_an_error() -> None:
    """`Redaction` raises a `ValueError` for an empty rule, and a `TypeError` for a rule that is a number."""
    with pytest.raises(ValueError, match="empty"):
        Redaction(rules=[""])
    with pytest.raises(TypeError, match="not 5"):
        Redaction(rules=[5])  # type: ignore[list-item]  # that is the point


# --- chunks


@given(st.data())
def test_scrub_splits_no_placeholder_and_keeps_times(data: st.DataObject) -> None:
    """Redaction splits no placeholder over two chunks, and each chunk left comes at the time of an original one."""
    text = f"a {KEY} b {KEY}{KEY} c"
    body = b"".join(_event(text[start : start + 9]) for start in range(0, len(text), 9))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=12)))
    edges = [0, *cuts, len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]
    clean = Redaction([KEY]).scrub(_interaction(*chunks))
    assert "".join(_texts(clean)).replace("[redacted]", "").split() == ["a", "b", "c"]
    assert decode(encode(clean.response.chunks), clean.response.body) == clean.response.chunks
    moments = {sum(100 * number for number in range(1, last + 1)) for last in range(1, len(chunks) + 1)}
    seen = [
        sum(chunk.wait for chunk in clean.response.chunks[: last + 1]) for last in range(len(clean.response.chunks))
    ]
    assert set(seen) <= moments
    assert not any(b"[redacted]".startswith(chunk.data[-5:]) for chunk in clean.response.chunks if len(chunk.data) > 5)


def test_a_cut_inside_a_key_moves_behind_the_placeholder() -> None:
    """When chunks end inside a replaced key, the placeholder stays whole, and later chunks keep their times."""
    body = _event(f"<{KEY}>")
    at = body.index(KEY.encode())
    clean = Redaction().scrub(_interaction(body[: at + 5], body[at + 5 : at + 9], body[at + 9 :]))
    first, last = clean.response.chunks
    assert first == Chunk(100, body[:at] + b"[redacted]")
    assert last == Chunk(500, body[at + len(KEY) :])


def test_events_of_one_layout_are_parsed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of events with one layout, numbered or not, the search parses two.

    The others are recognized by their layout.
    """
    layout = Mock(side_effect=Body._layout)
    monkeypatch.setattr(Body, "_layout", lambda *args: layout(*args))
    chat = b"".join(map(_event, ["Hello", ", ", "world", "!"] * 100))
    numbered = b"".join(b'id: %d\ndata: {"delta": "%d", "sequence": %d}\n\n' % ((each,) * 3) for each in range(400))
    for stream in (chat, numbered):
        layout.reset_mock()
        assert Redaction([KEY]).scrub(_interaction(stream)) == _interaction(stream)
        assert layout.call_count == 2


_strings = st.text('ab"\\é😀:{}[], \n', max_size=5)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | _strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _similar_streams(draw: st.DrawFn) -> str:
    """Draw a stream whose events mostly have one shape."""
    shape = draw(_values)

    def like(value: Any) -> Any:
        """Draw a value of the shape of another one."""
        match value:
            case str():
                return draw(st.just(value) | _strings)
            case int() if not isinstance(value, bool):
                return draw(st.just(value) | st.integers(-20, 20))
            case list():
                return [like(each) for each in value]
            case dict():
                return {name: like(each) for name, each in value.items()}
        return value

    events = draw(st.lists(st.builds(lambda: like(shape)) | _values, min_size=1, max_size=8))
    line_end, before = (
        draw(st.sampled_from(["\n", "\r\n", "\r"])),
        draw(st.sampled_from(["", "event: delta", ": ping"])),
    )
    lines = [f"{before}{line_end if before else ''}data: {json.dumps(each)}" for each in events]
    return "".join(line + 2 * line_end for line in lines)


@given(stream=_similar_streams())
def test_each_string_of_a_stream_stands_where_it_was_found(stream: str) -> None:
    """The search finds the strings that a JSON parser finds in each event, and the position of each in the stream."""
    body = Body(stream, FieldNames(SECRET_FIELDS), is_stream=True)
    found = [(text.is_json, stream[start:end]) for text in body.texts for start, end in text.spans()]

    def strings_in(value: Any) -> list[str]:
        """Return the strings of JSON."""
        if isinstance(value, str):
            return [value]
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [string for each in inner for string in strings_in(each)]

    data = [line.removeprefix("data: ") for line in re.split(r"[\r\n]+", stream) if line.startswith("data: ")]
    read = [string for each in data for string in strings_in(json.loads(each))]
    assert sorted(json.loads(f'"{raw}"') for is_json, raw in found if is_json) == sorted(read)
    assert sorted(raw for is_json, raw in found if not is_json) == sorted(each for each in data if each[0] not in '{["')
