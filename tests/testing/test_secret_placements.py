"""Secrets in every place of a recording where one may stand: no file holds them, and harmless texts stay whole.

Names, known values and shapes of keys are tried in JSON, forms, multipart bodies, URLs, prompts, answers and the deltas
of three APIs, cut at every position. Keys are drawn at run time, so that no file of this project holds one.
"""

from __future__ import annotations

import base64
import json
import random
import string
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.ext.llm._redaction import SHAPES
from miniagents_testing.cassette import SECRET_FIELDS, Chunk, Interaction, Redaction, ResponseStream, load, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URI = "https://api.example.com/v1/chat"
LETTERS = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def _draw(count: int, letters: str = LETTERS) -> str:
    """Return a random text, the same in each run."""
    return "".join(random.Random(f"{count} {letters}").choices(letters, k=count))


SECRET = _draw(24)

FIELDS = [
    *SECRET_FIELDS,
    *("clientSecret", "CLIENT-SECRET", "Client Secret", "clientsecret", "accessToken", "idToken", "userIdToken"),
    *("smtp_password", "DB_PASSWORD", "db.passwd", "anthropic-api-key", "openaiApiKey", "APIKey", "appSecretKey"),
    *("x-refresh-token", "oauth_token", "tls_private_key", "aws_secret_access_key", "Proxy-Authorization", "my pwd"),
    *("webhook_secret", "signingSecret", "SHARED_SECRET", "slack-api-token", "bearerToken"),
]
OTHER_FIELDS = [
    *(
        "token",
        "key",
        "bearer",
        "tokens",
        "completion_tokens",
        "page_token",
        "paid_token",
        "keyword",
        "sort_key",
        "keys",
    ),
    *("password_hint", "secret_santa", "private_key_id", "api_key_name", "author", "code", "signature", "note"),
]
PARAMETERS = [
    *("key", "token", "sig", "signature", "auth", "jwt", "code", "subscription-key", "Ocp-Apim-Subscription-Key"),
    *("X-Amz-Signature", "X-Amz-Credential", "x-amz-security-token", "X-Goog-Signature", "access_token", "apiKey"),
]
OTHER_PARAMETERS = ["page_token", "keyword", "codec", "author", "next", "token_count", "api-version", "design"]


def _interaction(body: bytes = b"{}", *answer: bytes, uri: str = URI) -> Interaction:
    """Make an interaction with these bodies."""
    return Interaction("POST", uri, body, ResponseStream(tuple(Chunk(1, chunk) for chunk in answer or (b"{}",))))


def _file_of(redaction: Redaction, interaction: Interaction, folder: Path) -> tuple[Interaction, str]:
    """Return the interaction that a file with its redacted form holds, and the text of the file."""
    clean, _, leaks = redaction.redact(interaction)
    assert leaks == []
    save(folder / "c.yaml", [clean])
    (loaded,) = load(folder / "c.yaml")
    return loaded, (folder / "c.yaml").read_text(encoding="utf-8")


def _chat_event(text: str) -> bytes:
    event = {"id": "1", "choices": [{"delta": {"content": text}, "finish_reason": None, "index": 0}]}
    return b"data: %b\n\n" % json.dumps(event, ensure_ascii=False).encode()


def _responses_event(text: str) -> bytes:
    number = len(text) * 7 % 1000  # differs from event to event, as the provider's numbers do
    event = {"type": "response.output_text.delta", "sequence_number": number, "output_index": 1, "delta": text}
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())  # type: ignore[attr-defined]


def _messages_event(text: str) -> bytes:
    delta = {"type": "text_delta", "text": text}
    event = {"type": "content_block_delta", "index": 1, "delta": delta}
    return b"event: content_block_delta\ndata: %b\n\n" % json.dumps(event).encode()


def _arguments_event(text: str) -> bytes:
    call = {"index": 2, "function": {"arguments": text}}
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}).encode()


def _chat_text(event: Any) -> str:
    text: str = event["choices"][0]["delta"].get("content") or ""
    return text


APIS: dict[str, tuple[Callable[[str], bytes], Callable[[Any], str]]] = {
    "chat": (_chat_event, _chat_text),
    "responses": (_responses_event, lambda event: str(event["delta"])),
    "messages": (_messages_event, lambda event: str(event["delta"]["text"])),
    "arguments": (
        _arguments_event,
        lambda event: str(event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]),
    ),
}


def _streamed(api: str, body: bytes) -> str:
    """Return the text of a stream, joined from its deltas."""
    read = APIS[api][1]
    return "".join(read(json.loads(line[6:])) for line in body.splitlines() if line.startswith(b"data: "))


# --- names


@pytest.mark.parametrize("name", FIELDS)
def test_X1_the_text_of_a_secret_field_is_in_no_file(name: str, tmp_path: Path) -> None:
    """The text of a field with a secret name is replaced in JSON at any depth, forms, multipart bodies and queries."""
    inner = json.dumps({"a": [{name: SECRET}], "b": 1})
    part = f'--x1\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    bodies = {
        inner: inner,
        json.dumps({"calls": [{"arguments": inner}]}): json.dumps({"calls": [{"arguments": inner}]}),
        json.dumps([{"deep": json.dumps({"deeper": inner})}]): json.dumps([{"deep": json.dumps({"deeper": inner})}]),
        json.dumps({name: [SECRET]}): json.dumps({name: [SECRET]}),
        urlencode({"grant_type": "x y", name: SECRET, "z": "1"}): urlencode({"grant_type": "x y", name: "^", "z": "1"}),
        f"{quote(name)}={SECRET};==&z=1": f"{quote(name)}=^&z=1",
        inner.replace(name, f"\\u{ord(name[0]):04x}{name[1:]}"): inner.replace(
            name, f"\\u{ord(name[0]):04x}{name[1:]}"
        ),
        f"{part}{SECRET}\r\n--x1--\r\n": f"{part}{SECRET}\r\n--x1--\r\n",
    }
    for body, expected in bodies.items():
        interaction = _interaction(body.encode(), body.encode(), uri=f"{URI}?a=1&{quote(name)}={SECRET}")
        loaded, text = _file_of(Redaction({}), interaction, tmp_path)
        assert SECRET not in text
        redacted = expected.replace(SECRET, "[redacted]").replace("%5E", "^").replace("^", "%5Bredacted%5D").encode()
        assert loaded.request_body == loaded.response.body == redacted
        assert loaded.uri == f"{URI}?a=1&{quote(name)}=%5Bredacted%5D"


@pytest.mark.parametrize("headers", [{}, {"content-type": ["multipart/form-data; boundary=x1"]}])
def test_X1_secrets_beside_a_file_in_multipart_are_replaced(headers: dict[str, list[str]]) -> None:
    """In a multipart body, a secret field beside an image and a key in a JSON file are replaced, and no other byte."""
    key = f"sk-proj-{_draw(40)}"
    body = (
        b'--x1\r\nContent-Disposition: form-data; name="image"; filename="\xc3\xa9.png"\r\n\r\n\x89PNG\xff\xfe\r\n'
        b'--x1\r\nContent-Disposition: form-data; name="password"\r\n\r\nsw\xc3\xb6rdfish\r\n'
        b'--x1\r\nContent-Disposition: form-data; name="a"; filename="a"\r\nContent-Type: application/json\r\n\r\n'
        b'{"\xc3\xa9": "%s", "client_secret": "x y"}\r\n--x1--\r\n' % key.encode()
    )
    clean, replaced, _ = Redaction({}).redact(replace(_interaction(body), request_headers=headers))
    expected = body
    for secret in (b"sw\xc3\xb6rdfish", key.encode(), b"x y"):
        expected = expected.replace(secret, b"[redacted]")
    assert clean.request_body == expected
    assert [(each.path, each.why, each.length) for each in replaced] == [
        ("request body password.body", "password", 9),
        ("request body a.body.é", "OpenAI key", len(key)),
        ("request body a.body.client_secret", "client_secret", 3),
    ]


def test_X1_each_element_of_an_array_keeps_a_placeholder() -> None:
    """In an array, the text of each secret field is replaced by a placeholder of its own."""
    clean = Redaction({}).scrub_body(b'[{"password":"a"},{"password":"b"},{"x":[{"password":"c"}]}]')
    assert clean == b'[{"password":"[redacted]"},{"password":"[redacted]"},{"x":[{"password":"[redacted]"}]}]'


def test_secret_parameters_in_the_headers_of_an_answer_are_replaced() -> None:
    """URLs in headers of an answer, also a relative one of a redirect, lose their secrets, which are reported."""
    headers = {"location": [f"/next?token={SECRET}&n=1"], "link": [f'<https://h.test/a?sig={SECRET}>; rel="next"']}
    interaction = Interaction("GET", URI, b"", ResponseStream((), headers=headers))
    clean, replaced, _ = Redaction({}).redact(interaction)
    assert clean.response.headers == {
        "location": ["/next?token=%5Bredacted%5D&n=1"],
        "link": ['<https://h.test/a?sig=%5Bredacted%5D>; rel="next"'],
    }
    assert {(each.path, each.why) for each in replaced} == {
        ("response header location query parameter token", "token"),
        ("response header link query parameter sig", "sig"),
    }


@pytest.mark.parametrize("name", FIELDS)
def test_X3_the_text_of_a_secret_field_is_replaced_across_deltas(name: str) -> None:
    """Streamed arguments of a tool call lose the text of a secret field, at whatever position they were split."""
    arguments = json.dumps({"user": "app", name: SECRET, "n": 1})
    expected = json.dumps({"user": "app", name: "[redacted]", "n": 1})
    for cut in range(1, len(arguments)):
        stream = _interaction(b"{}", _arguments_event(arguments[:cut]), _arguments_event(arguments[cut:]))
        clean, replaced, _ = Redaction({}).redact(stream)
        assert _streamed("arguments", clean.response.body) == expected
        assert [(each.why, each.length) for each in replaced] == [(name, len(SECRET))]


PAIRS = [("name", "value"), ("key", "value"), ("Key", "Value"), ("Name", "Value")]
"""Fields of lists of environment variables, of headers in HAR files, and of tags of AWS."""


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(("named", "valued"), PAIRS)
def test_X1_the_value_of_a_pair_with_a_secret_name_is_in_no_file(
    name: str, named: str, valued: str, tmp_path: Path
) -> None:
    """A text beside a secret name is replaced in both orders, below other fields, in strings, and below the value."""
    pair, turned = {named: name, valued: SECRET}, {valued: SECRET, named: name}
    below = {named: name, "note": "kept", valued: {"text": [{"a": SECRET}, SECRET]}}
    others = [{named: "note", valued: "kept"}, {named: "password_reset_help", valued: "kept"}]
    document = {"env": [pair, turned, below, *others], "inside": json.dumps([pair, *others])}
    body = json.dumps(document).encode()
    event = b"data: " + json.dumps({"type": "set", "pair": pair}).encode() + b"\n\n"
    other = b"data: " + json.dumps({"type": "set", "pair": others[0]}).encode() + b"\n\n"
    written, text = _file_of(
        Redaction(),
        _interaction(body, other, other, event, event.replace(SECRET[:4].encode(), b"abcd"), other),
        tmp_path,
    )
    assert SECRET[4:] not in text
    changed = json.loads(written.request_body)
    redacted = "[redacted]"
    assert changed["env"] == [
        {**pair, valued: redacted},
        {**turned, valued: redacted},
        {**below, valued: {"text": [{"a": redacted}, redacted]}},
        *others,
    ]
    assert json.loads(changed["inside"]) == [{**pair, valued: redacted}, *others]
    assert written.response.body.count(b"kept") == 3


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_the_value_of_a_pair_with_another_name_stays(name: str) -> None:
    """A text beside a name that is not secret stays, and so does a text beside a secret name under no field `value`."""
    kept = [
        {"name": name, "value": SECRET},
        {"name": "password", "description": SECRET},
        {"title": name, "key": SECRET},
    ]
    body = json.dumps({"list": kept, "name": "password", "deeper": {"value": SECRET}}).encode()
    interaction = _interaction(body, body)
    assert Redaction({}).scrub(interaction) == interaction


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_the_text_of_another_field_stays(name: str) -> None:
    """A field whose name only resembles a secret one keeps its text, and so do numbers and types in secret fields."""
    texts: list[Any] = [{name: SECRET}, {"password": {"type": "string"}}, {"api_key": 5}, {"pwd": None}, {"pwd": ""}]
    body = json.dumps(texts).encode()
    interaction = _interaction(body, body)
    assert Redaction({}).scrub(interaction) == interaction


BELOW: list[Any] = [
    {"value": SECRET},
    [[SECRET], {"pem": [SECRET]}],
    {"type": SECRET, "title": {"description": SECRET}, "properties": {"items": SECRET, "n": 1, "no": None, "": ""}},
    json.loads('{"a":' * 80 + f'["{SECRET}"]' + "}" * 80),
]


def _redacted(value: Any) -> Any:
    """Return a JSON value with a placeholder for each secret."""
    return json.loads(json.dumps(value).replace(SECRET, "[redacted]"))


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("below", BELOW)
def test_X1_each_text_below_a_secret_field_is_in_no_file(name: str, below: Any, tmp_path: Path) -> None:
    """All texts of the objects and arrays in a secret field are replaced, in JSON, in events and in JSON in a text."""
    tree = {"a": [{name: below, "b": "after"}], "text": json.dumps({name: below}), "c": "last"}
    for outer in (tree, json.loads("[" * 70 + json.dumps(tree) + "]" * 70)):
        event = b"data: %b\n\n" % json.dumps(outer).encode()
        interaction = _interaction(json.dumps(outer).encode(), event, event)
        loaded, text = _file_of(Redaction({}), interaction, tmp_path)
        assert SECRET not in text
        assert json.loads(loaded.request_body) == _redacted(outer)
        assert [json.loads(line[6:]) for line in loaded.response.body.splitlines() if line] == [_redacted(outer)] * 2


@pytest.mark.parametrize("name", FIELDS)
def test_X1_the_texts_of_a_secret_field_with_a_plural_name_are_in_no_file(name: str) -> None:
    """In forms and JSON, texts below a field with the plural of a secret name, as `tokens`, are redacted."""
    for plural in (f"{name}S" if name.isupper() else f"{name}s", f"{name}s[]"):
        assert SECRET.encode() not in Redaction({}).scrub_body(urlencode({plural: SECRET, "z": "1"}).encode())
    body = json.dumps({f"{name}s": {"db": SECRET}, f"my_{name}s": [SECRET], "z": "1"}).encode()
    assert json.loads(Redaction({}).scrub_body(body)) == _redacted(json.loads(body))


@pytest.mark.parametrize("name", ["client_secret[value]", "password[0]", "a[passwords][][b]", "private_key.pem[x]"])
def test_X1_secret_names_with_fields_below_are_replaced_in_forms_parts_and_queries(name: str, tmp_path: Path) -> None:
    """The value of a field such as `client_secret[value]` is replaced in forms, multipart bodies and queries."""
    form = urlencode({"grant_type": "x y", name: SECRET, "z": "1"})
    part = f'--x1\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{SECRET}\r\n--x1--\r\n'
    for body in (form, part, json.dumps({"see": f"https://files.host/a?x=1&{name}={SECRET}"})):
        interaction = _interaction(body.encode(), uri=f"{URI}?a=1&{quote(name)}={SECRET}")
        loaded, text = _file_of(Redaction({}), interaction, tmp_path)
        assert SECRET not in text
        assert loaded.uri == f"{URI}?a=1&{quote(name)}=%5Bredacted%5D"
        expected = body.replace(SECRET, quote("[redacted]") if body == form else "[redacted]")
        assert loaded.request_body == expected.encode()


@pytest.mark.parametrize("holder", ["properties", "$defs", "definitions", "parameter_definitions"])
def test_a_schema_of_a_secret_field_stays(holder: str) -> None:
    """A JSON schema that describes a secret field, such as that of a tool, stays; values that it has are replaced."""
    schema = {
        "type": "object",
        holder: {
            "api_keys": {"type": "array", "items": {"type": "string", "description": "One key"}, "title": "Keys"},
            "client_secret": {
                "anyOf": [{"type": "STRING", "format": "password", "pattern": ".+"}, {"$ref": "#/$defs/Secret"}],
                "properties": {"value": {"type": "string", "description": "The value", "enum": ["x"]}},
                "required": ["value"],
            },
            "password": {"type": "string", "description": "The password of the user"},
        },
        "required": ["password", "api_keys"],
    }
    tools = {"tools": [{"function": {"parameters": schema}}], "arguments": json.dumps(schema), "n": {"tokens": ["Hi"]}}
    body = json.dumps(tools).encode()
    assert Redaction({}).scrub(_interaction(body, body)) == _interaction(body, body)
    for value in (SECRET, {"default": SECRET}, {"examples": [SECRET]}, {"value": {"type": SECRET}}, [SECRET]):
        body = json.dumps({holder: {"password": value, "b": "c"}}).encode()
        assert json.loads(Redaction({}).scrub_body(body)) == _redacted(json.loads(body))


def test_fields_of_the_user_are_secret_too() -> None:
    """`Redaction(fields=...)` replaces the texts of further fields, and only of those that are given."""
    body = json.dumps({"ssn": "12", "customer-SSN": "34", "lessn": "56", "password": "78"}).encode()
    more = Redaction({}, fields=[*SECRET_FIELDS, "ssn"]).scrub_body(body)
    assert json.loads(more) == {
        "ssn": "[redacted]",
        "customer-SSN": "[redacted]",
        "lessn": "56",
        "password": "[redacted]",
    }
    assert b'"password": "78"' in Redaction({}, fields=["ssn"]).scrub_body(body)
    with pytest.raises(TypeError, match="several names"):
        Redaction({}, fields="ssn")
    with pytest.raises(ValueError, match="without letters"):
        Redaction({}, fields=["--"])


@pytest.mark.parametrize("name", PARAMETERS)
def test_secret_parameters_of_a_query_are_replaced(name: str, tmp_path: Path) -> None:
    """A query parameter with a secret name is replaced in the request's URL, and in a URL in a prompt."""
    url = f"https://files.host/a?x=1&{name}={SECRET}&y=2"
    interaction = _interaction(json.dumps({"content": f"See {url}, please"}).encode(), uri=url)
    loaded, text = _file_of(Redaction({}), interaction, tmp_path)
    assert SECRET not in text
    assert loaded.uri == f"https://files.host/a?x=1&{name}=%5Bredacted%5D&y=2"
    assert json.loads(loaded.request_body) == {"content": f"See {url}, please".replace(SECRET, "[redacted]")}


@pytest.mark.parametrize("encoded", [json.dumps({"a": {"password": SECRET}}), f"a=1&password={SECRET}"])
def test_X1_json_and_forms_in_queries_fragments_and_headers_are_searched(encoded: str, tmp_path: Path) -> None:
    """A secret field of JSON or of a form is replaced in parameters and fragments of URLs, and in headers."""
    url = f"https://files.host/a?variables={quote(encoded, safe='')}&n=1"
    interaction = replace(
        _interaction(json.dumps({"content": f"See {url} and {url}#x, please"}).encode(), uri=f"{url}#{quote(encoded)}"),
        response=ResponseStream((), headers={"location": [url], "link": [f"<{url}>"], "x-context": [encoded]}),
    )
    loaded, text = _file_of(Redaction({}), interaction, tmp_path)
    assert SECRET not in text + unquote(unquote(text))
    for address in (loaded.uri, *loaded.response.headers["location"]):
        assert address.startswith("https://files.host/a?variables=")
        assert "&n=1" in address
    assert Redaction({}).scrub(loaded) == loaded


@pytest.mark.parametrize("name", OTHER_PARAMETERS)
def test_other_parameters_of_a_query_stay(name: str) -> None:
    """A query parameter whose name only resembles a secret one stays."""
    url = f"https://files.host/a?{name}=Ab3-{name}"
    interaction = _interaction(json.dumps({"content": url}).encode(), uri=url)
    assert Redaction({}).scrub(interaction) == interaction


@pytest.mark.parametrize("user", ["app:{}", "{}:", "{}"])
def test_passwords_in_urls_are_replaced(user: str, tmp_path: Path) -> None:
    """A request's URL loses its user and password; in a URL within a text, the credential is replaced."""
    url = f"https://{user.format(SECRET)}@host/v1"
    loaded, text = _file_of(Redaction({}), _interaction(json.dumps({"p": f"<{url}>"}).encode(), uri=url), tmp_path)
    assert SECRET not in text
    assert loaded.uri == "https://host/v1"
    assert json.loads(loaded.request_body) == {"p": f"<{url}>".replace(SECRET, "[redacted]")}


def test_secret_headers_are_in_no_file() -> None:
    """A header with a secret name loses its value, also where all headers are kept; others are searched for keys."""
    key = f"sk-proj-{_draw(40)}"
    names = ["authorization", "X-Password", "x-session-token", "api-key", "x-request-id"]
    response = ResponseStream((), headers={name: [key] for name in names})
    interaction = Interaction("GET", URI, b"", response, request_headers={name: [SECRET, key] for name in names[:-1]})
    clean, replaced, _ = Redaction({}).redact(interaction, keep=None)
    assert all(
        {*values} == {"[redacted]"} for values in [*clean.response.headers.values(), *clean.request_headers.values()]
    )
    assert ("response header x-request-id", "OpenAI key") in {(each.path, each.why) for each in replaced}


# --- known values

ENVIRONMENT = {
    "PGPASSWORD": _draw(20),
    "MYSQL_PWD": _draw(18),
    "SHOP_PASS": _draw(12),
    "AWS_SESSION_TOKEN": _draw(80),
    "COHERE_API_KEY": _draw(40),
    "SIGNING_SECRET_V2": _draw(32, HEX),
    "TEAMS_WEBHOOK": f"https://hooks.host/services/{_draw(12)}/{_draw(30)}",
    "TRACES_DSN": f"https://{_draw(32, HEX)}@o1.ingest.host/2",
    "ODD_PASSWORD": 'p@ss%41 "w\\nörd/+=?&x'.replace(" ", ""),
    "GITEA_PAT": _draw(40, HEX),
    "GOOGLE_CREDENTIALS": _draw(60),
    "API_TOKENS": f"{_draw(31)},{_draw(33)}",
    "VAULT_PASSPHRASE": "four Words 4nd more",
}
WORDS_OF_ENVIRONMENT = {
    "PARTITION_KEY": "customer_identifier",
    "SORT_KEY": "created_at",
    "DEFAULT_TOKEN": "<|endoftext|>",
    "ANTHROPIC_API_KEY": "not-needed",
    "TOKENIZER": "cl100k_base",
    "TOKEN_LIMIT": "4096",
    "KEY_COLUMN": "user.name",
    "PASS_THROUGH_PASS": "first-pass/second-pass",
}


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_X1_X3_a_value_of_the_environment_is_in_no_file(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret value of a variable is replaced in a prompt, an answer and deltas, also in JSON, percent or base64."""
    monkeypatch.setenv(variable, ENVIRONMENT[variable])
    redaction = Redaction()
    for value in ENVIRONMENT[variable].split(","):
        spellings = [
            value,
            json.dumps({"inner": value}),
            quote(value),
            quote(value, safe=""),
            quote(quote(value, safe=""), safe=""),
            base64.b64encode(f"use {value}!".encode()).decode(),
            base64.urlsafe_b64encode(f"to {value}?".encode()).decode().rstrip("="),
        ]
        for spelling in spellings:
            text = f"Connect with {spelling} please"
            prompt = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
            events = [_messages_event(text[start : start + 5]) for start in range(0, len(text), 5)]
            loaded, _ = _file_of(redaction, _interaction(prompt, *events), tmp_path)
            for clean in (
                json.loads(loaded.request_body)["messages"][0]["content"],
                _streamed("messages", loaded.response.body),
            ):
                assert spelling not in clean
                assert value not in clean
                assert clean.startswith("Connect with ")
                assert clean.endswith(" please")
        _, replaced, _ = redaction.redact(_interaction(prompt))
        assert {each.why for each in replaced} == {variable}


def test_words_of_the_environment_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of variables that are made of words stay in prompts and answers."""
    for variable, value in WORDS_OF_ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    text = " ".join(WORDS_OF_ENVIRONMENT.values())
    interaction = _interaction(json.dumps({"content": text}).encode(), *map(_chat_event, text))
    assert Redaction().scrub(interaction) == interaction


def test_a_credential_in_the_url_of_a_request_is_known() -> None:
    """The key in the query of a live request is replaced where an answer repeats it."""
    redaction = Redaction({})
    redaction.learn_url(f"{URI}?key={SECRET}&page=customer_identifier")
    body = json.dumps({"error": f"bad key {SECRET} for customer_identifier"}).encode()
    clean, replaced, _ = redaction.redact(_interaction(b"{}", body))
    assert json.loads(clean.response.body) == {"error": "bad key [redacted] for customer_identifier"}
    assert [tuple(each) for each in replaced] == [(0, "response body error", "query parameter key", 24)]


# --- shapes

KEYS = {
    "openai": f"sk-proj-{_draw(48)}",
    "openai service": f"sk-svcacct-{_draw(60)}",
    "openai old": f"sk-{_draw(48)}",
    "anthropic": f"sk-ant-api03-{_draw(90)}AA",
    "deepseek": f"sk-{_draw(32, HEX)}",
    "langfuse": f"sk-lf-{_draw(8, HEX)}-{_draw(4, HEX)}-{_draw(4, HEX)}-{_draw(12, HEX)}",
    "openrouter": f"sk-or-v1-{_draw(64, HEX)}",
    "aws": f"ASIA{_draw(16, string.ascii_uppercase + string.digits)}",
    "github": f"gho_{_draw(36)}",
    "github fine": f"github_pat_{_draw(22)}_{_draw(59)}",
    "gitlab": f"glrt-{_draw(20)}",
    "slack": f"xoxp-{_draw(12, string.digits)}-{_draw(13, string.digits)}-{_draw(32, HEX)}",
    "slack webhook": f"https://hooks.slack.com/services/T{_draw(10)}/B{_draw(10)}/{_draw(24)}",
    "groq": f"gsk_{_draw(52)}",
    "xai": f"xai-{_draw(80)}",
    "replicate": f"r8_{_draw(37)}",
    "fireworks": f"fw_{_draw(24)}",
    "hugging face": f"hf_{_draw(34)}",
    "perplexity": f"pplx-{_draw(48)}",
    "nvidia": f"nvapi-{_draw(64)}",
    "databricks": f"dapi{_draw(32, HEX)}",
    "google": f"AIza{_draw(35)}",
    "google oauth": f"ya29.{_draw(60)}",
    "stripe": f"sk_live_{_draw(24)}",
    "stripe restricted": f"rk_test_{_draw(99)}",
    "twilio": f"SK{_draw(32, HEX)}",
    "npm": f"npm_{_draw(36)}",
    "pypi": f"pypi-AgEIcHlwaS5vcmc{_draw(90)}",
    "notion": f"ntn_{_draw(46)}",
    "telegram": f"{_draw(10, string.digits)}:AA{_draw(33)}",
    "discord": f"MT{_draw(24)}.G{_draw(5)}.{_draw(38)}",
    "sendgrid": f"SG.{_draw(22)}.{_draw(43)}",
    "mailchimp": f"{_draw(32, HEX)}-us12",
    "square": f"sq0csp-{_draw(43)}",
    "digitalocean": f"dop_v1_{_draw(64, HEX)}",
    "jwt": f"eyJ{_draw(33)}.eyJ{_draw(70)}.{_draw(43)}",
    "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{_draw(64)}\n{_draw(63)}\n{_draw(20)}==\n-----END RSA PRIVATE KEY-----",
    "azure storage": f"AccountKey={_draw(86)}==",
    "azure": f"{_draw(52)}JQQJ99{_draw(26)}",
    "entra": f"{_draw(3)}8Q~{_draw(34)}",
    "bearer": f"Bearer {_draw(30)}",
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("key", KEYS)
def test_X1_X3_a_key_of_a_known_shape_is_in_no_delta(key: str, api: str) -> None:
    """A key of a well-known shape is replaced in a stream, at whatever position it was cut; text around it stays."""
    make = APIS[api][0]
    secret = KEYS[key]
    inside = secret.splitlines()[1] if key == "pem" else secret[-20:]
    for cut in range(1, len(secret)):
        events = [make("It is "), make(secret[:cut]), make(secret[cut:]), make(" , right?")]
        clean = Redaction({}).scrub(_interaction(b"{}", *events))
        text = _streamed(api, clean.response.body)
        assert inside not in text, cut
        assert text.startswith("It is "), cut
        assert text.endswith("[redacted] , right?"), cut


@pytest.mark.parametrize("key", KEYS)
def test_X1_X3_a_key_of_a_known_shape_is_in_no_file(key: str, tmp_path: Path) -> None:
    """A key of a well-known shape becomes `[redacted]` in prompts and answers, and the text around it stays.

    The key is there plain, in JSON, in percent encoding and in base64.
    """
    secret = KEYS[key]
    for spelling in (
        secret,
        json.dumps([secret]),
        quote(f"a {secret} b"),
        base64.b64encode(f"a {secret} b".encode()).decode(),
    ):
        body = json.dumps({"messages": [{"content": f"Use {spelling} , please"}]}).encode()
        loaded, _ = _file_of(Redaction({}), _interaction(body, body), tmp_path)
        for clean in (loaded.request_body, loaded.response.body):
            text = json.loads(clean)["messages"][0]["content"]
            assert spelling[-20:] not in text
            assert "[redacted]" in text
            assert text.startswith("Use ")
            assert text.endswith(" , please")


HARMLESS = [
    "sk-learn-contrib-packages-and-more is a library; risk-assessment-report-2024-01-01-final-version is a file",
    "AKIA is a prefix, ASIA is a continent, and glpat- is followed by twenty characters",
    "the password is hidden; password: swordfish; token by token; key: value; xoxb; a Bearer of good news",
    "hf_hub_download(repo_id), npm_config_registry, secret_access_key_of_a_table, pk_field_of_a_table, gsk_",
    "OPENAI_API_KEY=your-key-goes-here, Authorization: Bearer YOUR_API_KEY, max_tokens=4096, api_key=os.environ",
    "https://example.com/search?q=token&page=2&code=404 and https://user@example.com/ and git+ssh://git@github.com/a",
    'org-mode, proj_name, 100%, 50%25, C:\\new\\users, {"not": json, [1, 2, 3], a=b&c=d, data: nothing',
    "chatcmpl-9f86d081884c7d659a2feaa0c55ad015, call_abcDEF0123456789abcDEF01, 550e8400-e29b-41d4-a716-446655440000",
    "-----BEGIN PRIVATE KEY----- is how the file of a private key begins, said the teacher of cryptography",
    "eyJ is how a token begins. SG. is not Singapore. Then ya29. And sl. too; at 12:30:15 it was over",
    "internationalization_of_the_user_interface(AbstractSingletonProxyFactoryBean, getElementsByTagName)",
    "SKilled ACrobats pa-rade; key-value-stores-and-other-databases-of-the-world; fc-barcelona; M.I.T.",
    base64.b64encode(b"nothing but harmless words, in base64").decode(),
    base64.b64encode(random.Random(1).randbytes(6000)).decode(),
    "日本語 Привет 😀 \u0000 \ud83d",
]


@pytest.mark.parametrize("number", range(len(HARMLESS)))
def test_harmless_text_stays_whole(number: int) -> None:
    """Prose, code, ids and data that resemble secrets stay, byte for byte, in prompts, answers and deltas."""
    text = HARMLESS[number]
    body = json.dumps({"messages": [{"content": text}]}).encode()
    deltas = [_chat_event(text[start : start + 3].encode(errors="ignore").decode()) for start in range(0, len(text), 3)]
    for interaction in (_interaction(body, body), _interaction(b"{}", *deltas)):
        assert Redaction({}).redact(interaction) == (interaction, [], [])


KEY_OF_A_SHAPE = st.sampled_from(SHAPES).flatmap(lambda shape: st.from_regex(shape.regex, fullmatch=True))


@given(KEY_OF_A_SHAPE, st.sampled_from(HARMLESS[:4]), st.data())
def test_X1_X3_a_key_drawn_from_a_shape_is_in_no_recording(secret: str, prose: str, data: st.DataObject) -> None:
    """A key that is drawn from the pattern of a shape is replaced in any placement, and the prose around it stays."""
    text = f"{prose} {secret} {prose}"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=9)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    api = data.draw(st.sampled_from(sorted(APIS)))
    body = json.dumps({"a": [text], "b": {secret: 1}}).encode()
    clean, replaced, leaks = Redaction({}).redact(
        _interaction(body, *map(APIS[api][0], pieces), uri=f"{URI}?q={quote(secret)}")
    )
    expected = f"{prose} [redacted] {prose}"
    assert _streamed(api, clean.response.body) == json.loads(clean.request_body)["a"][0] == expected
    assert list(json.loads(clean.request_body)["b"]) == ["[redacted]"]
    assert clean.uri == f"{URI}?q=%5Bredacted%5D"
    assert leaks == []
    assert {each.length for each in replaced} == {len(secret)}
    assert all(secret not in str(each) for each in replaced)
