"""Requests are compared by the trees of their bodies: JSON, forms, multipart, compressed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anthropic
import httpx
import httpx2
import openai
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from miniagents_testing.cassette import Interaction, Matching, ResponseStream, load, save, use_cassette
from miniagents_testing.cassette._bodies import content_headers
from miniagents_testing.cassette._matching import differences
from miniagents_testing.errors import CassetteMissError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

URL = "https://api.openai.com/v1/files"
FORM = {"content-type": ["application/x-www-form-urlencoded"]}
MATCH = Matching()


def _key(body: bytes, headers: Mapping[str, list[str]] | None = None) -> Any:
    return MATCH.key("POST", URL, body, headers or {})


def _key_of(**content: Any) -> Any:
    """Return the key of a request that httpx2 makes, with a boundary of its own."""
    request = httpx2.Request("POST", URL, **content)
    return _key(request.read(), content_headers(request.headers.multi_items()))


# --- laws of JSON

_numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
_trees = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=10,
)


def _spelled(tree: Any, dice: random.Random) -> str:
    """Return a JSON text of a tree with keys, spaces, escapes and numbers in a spelling by chance."""
    space = dice.choice(["", " ", "\n\t"])
    if isinstance(tree, dict):
        items = list(tree.items())
        dice.shuffle(items)
        pairs = (f"{_spelled(name, dice)}{space}:{space}{_spelled(value, dice)}" for name, value in items)
        return f"{{{space}{','.join(pairs)}}}"
    if isinstance(tree, list):
        return f"[{space}{f'{space},'.join(_spelled(each, dice) for each in tree)}]"
    if isinstance(tree, str):
        escaped = (f"\\u{ord(each):04x}" if ord(each) < 0x10000 and dice.random() < 0.5 else "" for each in tree)
        plain = (json.dumps(each, ensure_ascii=False)[1:-1] for each in tree)
        return f'"{"".join(code or each for code, each in zip(escaped, plain, strict=True))}"'
    if isinstance(tree, int) and not isinstance(tree, bool):
        return dice.choice([str(tree), f"{tree}.0", f"{tree}.00", f"{tree}e0"])
    return json.dumps(tree)


def _leaf_paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all leaves, empty objects and arrays included."""
    if isinstance(tree, (dict, list)) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [place for name, value in items for place in _leaf_paths(value, (*path, name))]
    return [path]


def _with_leaf(tree: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    """Return a tree with another leaf at a place."""
    if not path:
        return leaf
    copied = tree.copy()
    copied[path[0]] = _with_leaf(tree[path[0]], path[1:], leaf)
    return copied


def _leaf_at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _is_same_leaf(one: Any, other: Any) -> bool:
    """Return True for leaves that do not count as different: equal, and both or neither a boolean or a text."""
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


@given(_trees, st.randoms(use_true_random=False))
def test_json_matches_in_any_spelling(tree: Any, dice: random.Random) -> None:
    """Order of keys, spaces, escapes and the spelling of whole numbers do not count, at any depth."""
    assert _key(_spelled(tree, dice).encode()) == _key(json.dumps(tree).encode())


@given(_trees, st.data())
def test_json_with_another_leaf_does_not_match(tree: Any, data: st.DataObject) -> None:
    """Each change of a leaf gives another key of matching, and `differences` yields one item."""
    path = data.draw(st.sampled_from(_leaf_paths(tree)))
    assume(not (path and path[0] in MATCH.ignore))
    leaf = data.draw(st.one_of(st.none(), st.booleans(), _numbers, st.text(max_size=5), st.just({}), st.just([])))
    assume(not _is_same_leaf(_leaf_at(tree, path), leaf))
    before, after = (_key(json.dumps(each).encode()) for each in (tree, _with_leaf(tree, path, leaf)))
    assert before != after
    assert len(list(differences(before[-1], after[-1]))) == 1


@pytest.mark.parametrize("other", ["true", '"1"', "null", "[1]", "1.5", "10", "{}"])
def test_json_of_another_type_does_not_match(other: str) -> None:
    """`1` differs from `true`, `"1"` and other values, at the top of a body, in an object and in an array."""
    for frame in ("%s", '{"n": %s}', "[0, %s]"):
        assert _key((frame % "1").encode()) != _key((frame % other).encode())
    assert _key(b"[0.0]") == _key(b"[0]") == _key(b"[-0.0]") == _key(b"[0e5]")


def test_json_that_is_very_deep_is_compared_byte_by_byte() -> None:
    """Two bodies with more levels than Python can parse have different keys if their bytes differ."""
    for depth in (500, 900, 990, 1500, 100_000):
        one, other = (b'{"a":' * depth + leaf + b"}" * depth for leaf in (b"1", b"2"))
        assert Matching(ignore=["**.b"]).key("POST", URL, one) != Matching(ignore=["**.b"]).key("POST", URL, other)


# --- laws of forms

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
_fields = st.lists(st.tuples(_names, st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=5)


def _reordered(fields: list[Any], dice: random.Random) -> list[Any]:
    """Return fields in another order in which those of one name keep theirs."""
    names = [field[0] for field in fields]
    dice.shuffle(names)
    left = list(fields)
    return [left.pop(next(n for n, field in enumerate(left) if field[0] == name)) for name in names]


def _percent(text: str, dice: random.Random) -> str:
    """Return a text of a form in which each character may be encoded, also where it need not be."""
    plain = [each if each.isascii() and (each.isalnum() or each in "-._~") else None for each in text]
    coded = [
        "".join(f"%{byte:02x}" if dice.random() < 0.5 else f"%{byte:02X}" for byte in each.encode()) for each in text
    ]
    pairs = zip(text, plain, coded, strict=True)
    return "".join(
        "+" if each == " " and dice.random() < 0.5 else safe if safe and dice.random() < 0.5 else code
        for each, safe, code in pairs
    )


@given(_fields, st.randoms(use_true_random=False))
def test_a_form_matches_in_any_order_and_spelling(fields: list[tuple[str, str]], dice: random.Random) -> None:
    """The order of a form's fields and the percent-encoding of its characters do not count."""
    other = "&".join(f"{_percent(name, dice)}={_percent(value, dice)}" for name, value in _reordered(fields, dice))
    assert _key(other.encode(), FORM) == _key(urlencode(fields).encode(), FORM)


@given(_fields, _names, st.data())
def test_a_form_with_another_value_does_not_match(
    fields: list[tuple[str, str]], value: str, data: st.DataObject
) -> None:
    """A form in which one value differs has another key of matching."""
    assume(fields)
    number = data.draw(st.integers(0, len(fields) - 1))
    name, before = fields[number]
    assume(before != value and name not in MATCH.ignore)
    changed = [*fields[:number], (name, value), *fields[number + 1 :]]
    assert _key(urlencode(fields).encode(), FORM) != _key(urlencode(changed).encode(), FORM)


def test_a_form_without_utf8_keeps_its_bytes_apart() -> None:
    """Bytes that are no UTF-8 stay different, encoded or not, in a form and in a query."""
    assert _key(b"a=%FF", FORM) == _key(b"a=\xff", FORM) != _key(b"a=%FE", FORM)
    assert MATCH.key("GET", f"{URL}?a=%FF", b"") != MATCH.key("GET", f"{URL}?a=%FE", b"")


def test_json_under_the_type_of_a_form_is_json() -> None:
    """JSON that a client sends under the type of a form, as curl does, is compared as JSON."""
    assert _key(b'{"a": 1, "b": 2}', FORM) == _key(b'{"b":2,"a":1}')


def test_the_path_of_a_url_matches_in_any_spelling() -> None:
    """Percent-encoding of letters and the case of hexadecimal digits do not count in the path; `%2F` is no `/`."""
    assert MATCH.key("GET", "https://x.test/%7euser/a%2fb", b"") == MATCH.key("GET", "https://x.test/~user/a%2Fb", b"")
    assert MATCH.key("GET", "https://x.test/a%2Fb", b"") != MATCH.key("GET", "https://x.test/a/b", b"")


# --- laws of multipart

_contents = st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"\r\n--", b"\xff\r\n--X", b"--X--", b"text"]))
_parts = st.lists(
    st.tuples(
        st.sampled_from(["file", "purpose", "image[]", 'a"b', "é"]),
        st.sampled_from([None, "a.txt", 'b "c".bin', "é.png"]),
        st.sampled_from([None, "text/plain", "application/octet-stream"]),
        _contents,
    ),
    max_size=4,
)


def _multipart(parts: list[Any], boundary: str, kind: str = "form-data") -> tuple[bytes, dict[str, list[str]]]:
    """Return a multipart body, and the headers of its request."""
    body = b""
    for name, filename, content_type, content in parts:
        quoted = [each.replace("\\", "\\\\").replace('"', "%22") for each in (name, filename or "")]
        disposition = f'form-data; name="{quoted[0]}"' + (f'; filename="{quoted[1]}"' if filename is not None else "")
        lines = [f"--{boundary}", f"Content-Disposition: {disposition}"]
        lines += [f"Content-Type: {content_type}"] if content_type else []
        body += "\r\n".join([*lines, "", ""]).encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"content-type": [f'multipart/{kind}; boundary="{boundary}"']}


@given(_parts, st.randoms(use_true_random=False))
def test_multipart_matches_with_any_boundary_and_order(parts: list[Any], dice: random.Random) -> None:
    """The boundary and the order of parts with different names do not count."""
    other = _multipart(_reordered(parts, dice), "another'boundary")
    assert _key(*_multipart(parts, "XXXX")) == _key(*other)


@given(_parts, _contents, st.data())
def test_multipart_with_another_part_does_not_match(parts: list[Any], content: bytes, data: st.DataObject) -> None:
    """Another content, file name, type or name of a part gives another key."""
    assume(parts)
    number = data.draw(st.integers(0, len(parts) - 1))
    field = data.draw(st.integers(0, 3))
    changed = list(parts[number])
    assume(changed[field] != content)
    changed[field] = ("other", "other.txt", "other/type", content)[field]
    others = [*parts[:number], tuple(changed), *parts[number + 1 :]]
    assert _key(*_multipart(parts, "XXXX")) != _key(*_multipart(others, "YYYY"))


def test_multipart_without_names_keeps_its_order() -> None:
    """In multipart/related, as in Google's uploads, the boundary does not count and the order of parts does."""
    parts = [("", None, "application/json", b'{"a": 1, "b": 2}'), ("", None, "image/png", b"\xff\xd8")]
    respelled = [("", None, "application/json", b'{"b":2,"a":1.0}'), parts[1]]
    one, same = _multipart(parts, "XXXX", "related"), _multipart(respelled, "YYYY", "related")
    assert _key(*one) == _key(*same) != _key(*_multipart(parts[::-1], "XXXX", "related"))


def test_multipart_that_is_damaged_is_compared_byte_by_byte() -> None:
    """A body that is cut off, has another boundary than its header says, or has bytes before it matches itself only."""
    body, headers = _multipart([("file", "a.bin", None, b"\xff")], "XXXX")
    for damaged in (body[:-8], body[:-30], body.replace(b"XXXX", b"YYYY"), b"preamble" + body, b""):
        assert _key(damaged, headers)[-1] == damaged
    for other in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'X' * 999}",
    ):
        assert _key(body, {"content-type": [other]})[-1] == body


# --- compression

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate, gzip": lambda body: gzip.compress(zlib.compress(body)),
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_compressed_body_matches_by_its_content(encoding: str) -> None:
    """A compressed JSON body matches the same JSON compressed otherwise or not at all, and no other JSON."""
    compress = COMPRESS[encoding]
    headers = {"content-encoding": [encoding], "content-type": ["application/json"]}
    assert _key(compress(b'{"a": 1}'), headers) == _key(b'{"a":1}') != _key(compress(b'{"a": 2}'), headers)


@pytest.mark.parametrize(("encoding", "library"), [("br", "brotli"), ("zstd", "backports.zstd")])
def test_a_body_in_a_rarer_compression_matches_by_its_content(encoding: str, library: str) -> None:
    """A body in brotli or zstd matches by its content where the client library can read it."""
    compress = pytest.importorskip(library).compress
    assert _key(compress(b'{"a": 1}'), {"content-encoding": [encoding]}) == _key(b'{"a":1}')


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "unknown", "gzip, unknown"])
def test_a_body_that_cannot_be_decompressed_is_compared_byte_by_byte(encoding: str) -> None:
    """A body that is not as its header says, or in an unknown compression, matches the same bytes only."""
    headers = {"content-encoding": [encoding]}
    assert _key(b"\xff\x01", headers)[-1] == b"\xff\x01"
    assert _key(b"\xff\x01", headers) != _key(b"\xff\x02", headers)


# --- clients


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
async def test_uploads_forms_and_compressed_bodies_play(kit: Kit, library: str) -> None:
    """A request with a new boundary, order or compression plays its recording, sync and async; another is a miss."""
    module: Any = {"httpx2": httpx2, "httpx": httpx}[library]
    packed = {"content-encoding": "gzip", "content-type": "application/json"}
    requests: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"files": {"file": ("a.bin", b"\xff\x00")}, "data": {"purpose": "x"}},) * 2,
        (
            {"data": {"a": "~", "b": "1"}},
            {"content": b"b=1&a=%7E", "headers": {"content-type": FORM["content-type"][0]}},
        ),
        ({"content": gzip.compress(b'{"a": 1}'), "headers": packed}, {"json": {"a": 1.0}}),
    ]
    network = kit.network(*(kit.Reply([b"%d" % number]) for number in range(2 * len(requests))), library=library)
    with kit.cassette("once"), module.Client(transport=network) as client:
        for request, _ in requests * 2:
            client.post(URL, **request)
    with kit.cassette():
        with module.Client() as client:
            assert [client.post(URL, **again).content for _, again in requests] == [b"0", b"1", b"2"]
        async with module.AsyncClient() as aclient:
            assert [(await aclient.post(URL, **again)).content for _, again in requests] == [b"3", b"4", b"5"]
    with pytest.raises(CassetteMissError, match=r"file\.body: recorded 'sha256:.*', now 'sha256:"):
        with kit.cassette(unplayed="ignore"), module.Client() as client:
            client.post(URL, files={"file": ("a.bin", b"\xff\x01")}, data={"purpose": "x"})
    with pytest.raises(CassetteMissError, match="differs in 1:\n    b: recorded '1', now '2'"):
        with kit.cassette(unplayed="ignore"), module.Client() as client:
            client.post(URL, data={"a": "~", "b": "2"})


async def test_uploads_of_the_sdks_play(kit: Kit) -> None:
    """An upload through each provider's SDK, sync and async, plays; one of another file is a miss with its name."""
    openai_file = {"id": "f", "object": "file", "bytes": 3, "created_at": 1, "filename": "a", "purpose": "batch"}
    fields = {**openai_file, "status": "processed", "type": "file", "size_bytes": 3, "mime_type": "text/plain"}
    reply = kit.Reply(
        [json.dumps({**fields, "created_at": "2025-01-01T00:00:00Z"}).encode()],
        headers={"content-type": "application/json"},
    )

    async def upload(content: bytes, *replies: Any) -> list[str]:
        clients: list[Any] = [openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic, anthropic.AsyncAnthropic]
        ids = []
        for client in clients:
            kind = httpx2.AsyncClient if "Async" in client.__name__ else httpx2.Client
            sdk = client(api_key=kit.KEY, http_client=kind(transport=kit.network(*replies)))
            more = {"purpose": "batch"} if "OpenAI" in client.__name__ else {}
            files = sdk.files if more else sdk.beta.files
            upload = files.create if more else files.upload
            said = upload(file=("a.bin", content), **more)
            ids.append((await said if "Async" in client.__name__ else said).id)
        return ids

    with kit.cassette("once"):
        assert await upload(b"\xff1", reply) == ["f"] * 4
    with kit.cassette():
        assert await upload(b"\xff1") == ["f"] * 4
    with pytest.raises(CassetteMissError, match=r"file\.body: recorded 'sha256:"), kit.cassette():
        await upload(b"\xff2")


@pytest.mark.parametrize(
    "content",
    [
        {"data": {"a": "~", "b": "1"}},
        {"files": {"file": ("a", b"1")}, "headers": {"content-type": "multipart/form-data; boundary=X"}},
    ],
)
def test_a_recording_without_the_type_of_its_body_plays_as_before(tmp_path: Path, content: dict[str, Any]) -> None:
    """A form or an upload that was recorded without request headers matches the same bytes, whatever their type."""
    request = httpx2.Request("POST", URL, **content)
    save(tmp_path / "c.yaml", [Interaction("POST", URL, request.read(), ResponseStream())])
    with use_cassette(tmp_path / "c.yaml"):
        assert httpx2.post(URL, **content).status_code == 200
    assert load(tmp_path / "c.yaml")[0].request_headers == {}


OLD_FILE = """\
interactions:
- request:
    method: POST
    uri: https://api.openai.com/v1/x
    body: '{"temperature":0.0,"top_p":1e0,"user":"Ann","n":[1.0]}'
    headers: {}
  response:
    status: {code: 200, message: OK}
    headers: {}
    body: {string: ''}
    stream:
      v: 1
      started_ms: 0.0
      headers_ms: 0.0
      chunks: "\\n"
      end: eof
      digest: sha256:59d921f535dad5e085797e3631e90cb67f11c06bfa4e0eb492625e2a3cbf832d
version: 1
miniagents: {v: 1, count: 1, digest: sha256:8f6c42c1002d81278b0e0e2c59e4a09f3bdc73775d0a114a83267bfe57ed2f91}
"""


def test_digests_of_old_files_do_not_depend_on_matching(tmp_path: Path) -> None:
    """An old file, whose digests are older than the comparison of bodies as trees, loads; its `0.0` matches `0`."""
    (tmp_path / "c.yaml").write_text(OLD_FILE, encoding="utf-8")
    with use_cassette(tmp_path / "c.yaml"):
        body = {"temperature": 0, "top_p": 1, "user": "Bob", "n": [1]}
        assert httpx2.post("https://api.openai.com/v1/x", json=body).status_code == 200
