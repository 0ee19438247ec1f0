"""Paths into bodies and queries: which are read, what they mean, and that ignoring and redacting mean the same."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miniagents_testing.cassette import Interaction, JSONPath, Matching, Redaction, ResponseStream
from miniagents_testing.cassette._bodies import Path, member

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("a", "b", "id", "a.b", "x[]", "*", "$", "é", " ", '"', "\\", "\n", "0", "")
FORM = {"content-type": ["application/x-www-form-urlencoded"]}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "it is empty"),
        ("a..b", r"a name is missing in '\.\.b'"),
        (".a", "cannot be read"),
        ("a.", "a name is missing"),
        ("a.[0]", "a name is missing"),
        ("a[", "not closed"),
        ("a[*", "not closed"),
        ("a]", "cannot be read"),
        ("[]", "in brackets stands a number from 0"),
        ("a[x]", "not 'x'"),
        ("a[-1]", "not '-1'"),
        ("a[0:2]", "not '0:2'"),
        ("a[01]", "not '01'"),
        ('a["\\x"]', "no JSON string"),
        ("a[0]b", "cannot be read"),
        ("$.a", "without `\\$`"),
        ("foo*", "a whole name"),
        ("a.*b", "a whole name"),
        ("***", "a whole name"),
        ("**", "needs a name behind it"),
        ("a.**", "needs a name behind it"),
        (" a", "cannot be read"),
        ("a .b", "cannot be read"),
        ("a?b", "a parameter of the query"),
        ("?", "the name of a parameter"),
        ("?a=1", "the name of a parameter"),
        ("?x*", "the name of a parameter"),
    ],
)
def test_a_path_that_cannot_be_read_is_refused_where_it_is_given(path: str, reason: str) -> None:
    """`Matching` and `JSONPath` raise the same `ValueError` for a misspelled path, with the path and what is wrong."""
    with pytest.raises(ValueError, match=f"is no path into a body: .*{reason}") as ignored:
        Matching(ignore=[path])
    with pytest.raises(ValueError, match="is no path into a body") as redacted:
        JSONPath(path)
    assert str(ignored.value) == str(redacted.value)
    assert repr(path) in str(ignored.value)


def test_a_path_that_is_no_text_is_an_error() -> None:
    """A number in place of a path, and one text in place of the list of paths, raise a `TypeError`."""
    with pytest.raises(TypeError, match="not 5"):
        Matching(ignore=[5])  # type: ignore[list-item]  # that is the point
    with pytest.raises(TypeError, match="not 5"):
        JSONPath(5)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match=r"a list of paths: \['metadata'\]"):
        Matching(ignore="metadata")


BODY = {
    "id": 1,
    "messages": [{"id": "m1", "role": "user", "a.b": {"id": 2}}, {"role": "user"}],
    "tools": {"x[]": 1, "arguments": '{"city": "Rome", "id": "t1", "deep": "[{\\"id\\": 3, \\"n\\": 1}]"}'},
}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("id", {"messages": BODY["messages"], "tools": BODY["tools"]}),
        ("messages[0].id", {**BODY, "messages": [{"role": "user", "a.b": {"id": 2}}, {"role": "user"}]}),
        ("messages.0.id", {**BODY, "messages": [{"role": "user", "a.b": {"id": 2}}, {"role": "user"}]}),
        ("messages[*].*", {**BODY, "messages": [{}, {}]}),
        ("messages.*", {**BODY, "messages": []}),
        ("messages[7]", BODY),
        ("*.x", BODY),
        ('messages[*]["a.b"]', {**BODY, "messages": [{"id": "m1", "role": "user"}, {"role": "user"}]}),
        ("tools['x[]']", {**BODY, "tools": {"arguments": BODY["tools"]["arguments"]}}),  # type: ignore[index]
        ("?id", BODY),
    ],
)
def test_matching_ignores_the_places_of_a_path(path: str, left: Any) -> None:
    """A path in `ignore` removes exactly the fields and elements that it names from the compared body."""
    body = json.dumps(BODY).encode()
    assert json.loads(Matching(ignore=[path]).canonical_body(body)) == left


def test_matching_ignores_a_name_at_any_depth_also_in_json_in_a_text() -> None:
    """`**.id` removes each field `id`, also of JSON inside a text; the spelling of such JSON is ignored."""
    match = Matching(ignore=["**.id"])
    left = json.loads(match.canonical_body(json.dumps(BODY).encode()))
    assert left["messages"] == [{"role": "user", "a.b": {}}, {"role": "user"}]
    assert left["tools"]["arguments"] == '{"city":"Rome","deep":"[{\\"n\\":1}]"}'
    other = {**BODY, "id": 7, "tools": {"x[]": 1, "arguments": '{ "deep":"[{\\"n\\": 1.0}]" , "city":"Rome"}'}}
    assert match.canonical_body(json.dumps(other).encode()) == match.canonical_body(json.dumps(BODY).encode())


def test_matching_ignores_a_parameter_of_the_query() -> None:
    """`?timestamp` ignores that parameter of the query, `?*` each one, and other differences still count."""
    one, other = "https://x.test/v1?a=1&timestamp=5", "https://x.test/v1?timestamp=6&timestamp=7&a=1"
    match = Matching(ignore=["?timestamp"])
    assert match.key("GET", one, b"") == match.key("GET", other, b"") == match.key("GET", "https://x.test/v1?a=1", b"")
    assert match.key("GET", one, b"") != match.key("GET", "https://x.test/v1?a=2", b"")
    assert Matching(ignore=["?*"]).key("GET", one, b"") == Matching().key("GET", "https://x.test/v1", b"")


def _scrubbed(path: str, body: bytes, headers: Any = None, uri: str = "https://x.test/") -> Interaction:
    interaction = Interaction("POST", uri, body, ResponseStream(), headers or {})
    return Redaction([], [JSONPath(path)]).scrub(interaction)


def test_a_redaction_path_enters_json_in_a_text() -> None:
    """`JSONPath` replaces texts inside JSON inside a text, and leaves all else as it was written."""
    for path in ("tools.arguments.city", "**.city", "tools.*.*"):
        clean = json.loads(_scrubbed(path, json.dumps(BODY).encode()).request_body)
        assert "Rome" not in str(clean)
        arguments = json.loads(clean["tools"]["arguments"])
        assert arguments["city"] == "[redacted]"
        if path != "tools.*.*":
            assert clean["tools"]["arguments"] == BODY["tools"]["arguments"].replace("Rome", "[redacted]")  # type: ignore[index]
    clean = _scrubbed("**.who", json.dumps({"a": json.dumps({"b": json.dumps([{"who": 'é "\\'}])})}).encode())
    assert json.loads(clean.request_body) == {"a": json.dumps({"b": json.dumps([{"who": "[redacted]"}])})}


@pytest.mark.parametrize("path", ["**.city", "choices[*].delta.tool_calls[*].function.arguments.city"])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_redaction_path_enters_arguments_that_are_streamed(path: str, size: int) -> None:
    """`JSONPath` replaces a text inside the arguments of a tool call, however a stream has cut them."""
    text = json.dumps({"city": "Zürich", "n": 1})
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    calls = [[{"index": 0, "function": {"arguments": part}}] for part in parts]
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": call}}]} for call in calls]
    body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    clean = _scrubbed(path, body).request_body
    said = [json.loads(line[6:]) for line in clean.decode().split("\n\n") if line]
    joined = "".join(each["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for each in said)
    assert json.loads(joined) == {"city": "[redacted]", "n": 1}


def test_a_redaction_path_tells_the_elements_of_an_array_apart() -> None:
    """`JSONPath("[1].who")` replaces the text of the second element of an array, and `[*].who` that of each."""
    body = b'[{"who":"Ann"},{"who":"Bob"},{"who":"Cy"}]'
    assert _scrubbed("[1].who", body).request_body == body.replace(b"Bob", b"[redacted]")
    assert json.loads(_scrubbed("[*].who", body).request_body) == [{"who": "[redacted]"}] * 3


def test_a_redaction_path_enters_json_in_json_in_json() -> None:
    """`JSONPath` replaces a text inside ten documents that are each a text of the one around it."""
    body = '{"who":"Ann"}'
    for _ in range(10):
        body = json.dumps({"in": body})
    clean = _scrubbed("**.who", body.encode()).request_body.decode()
    for _ in range(10):
        clean = json.loads(clean)["in"]
    assert json.loads(clean) == {"who": "[redacted]"}


def test_a_redaction_path_replaces_a_parameter_of_the_query() -> None:
    """`JSONPath("?email")` replaces that parameter of the query, and `?*` each one."""
    uri = "https://x.test/v1?email=a%40b.test&n=1&empty="
    assert _scrubbed("?email", b"", uri=uri).uri == "https://x.test/v1?email=%5Bredacted%5D&n=1&empty="
    assert _scrubbed("?*", b"", uri=uri).uri == "https://x.test/v1?email=%5Bredacted%5D&n=%5Bredacted%5D&empty="


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("who", b"who=%5Bredacted%5D&a=%7Evalue&json=%7B%22who%22%3A+%22Ann%22%7D"),
        ("json.who", b"who=Ann&a=%7Evalue&json=%7B%22who%22%3A+%22%5Bredacted%5D%22%7D"),
        ("**.who", b"who=%5Bredacted%5D&a=%7Evalue&json=%7B%22who%22%3A+%22%5Bredacted%5D%22%7D"),
    ],
)
def test_a_redaction_path_replaces_a_field_of_a_form(path: str, clean: bytes) -> None:
    """`JSONPath` replaces the value of a field of a form, or a text in JSON there; other fields keep their spelling."""
    body = b"who=Ann&a=%7Evalue&json=%7B%22who%22%3A+%22Ann%22%7D"
    assert _scrubbed(path, body, FORM).request_body == clean


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("note", b"Ann lives here", b"[redacted]"),
        ("note.body", b"Ann lives here", b"[redacted]"),
        ("file.filename", b"ann.json", b"[redacted]"),
        ("file.body.who", b'"Ann"', b'"[redacted]"'),
        ("*.content_type", b"application/json", b"[redacted]"),
        ('["tags[]"][1].body', b"two", b"[redacted]"),
        ("blob.body", b"\xff\xfe\xfd", b"[redacted]"),
    ],
)
def test_a_redaction_path_replaces_a_part_of_multipart(path: str, before: bytes, after: bytes) -> None:
    """In a multipart body, `JSONPath` replaces the content, file name or type of a part, and no other byte."""
    body = (
        b'--X\r\nContent-Disposition: form-data; name="note"\r\n\r\nAnn lives here\r\n'
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="ann.json"\r\n'
        b'Content-Type: application/json\r\n\r\n{"who": "Ann"}\r\n'
        b'--X\r\nContent-Disposition: form-data; name="tags[]"\r\n\r\none\r\n'
        b'--X\r\nContent-Disposition: form-data; name="tags[]"\r\n\r\ntwo\r\n'
        b'--X\r\nContent-Disposition: form-data; name="blob"; filename="b"\r\n\r\n\xff\xfe\xfd\r\n--X--\r\n'
    )
    clean = _scrubbed(path, body, {"content-type": ["multipart/form-data; boundary=X"]}).request_body
    assert clean == body.replace(before, after)


# --- laws


_shapes = st.recursive(
    st.just("leaf"),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
        st.lists(inner, max_size=3),
        st.lists(inner, min_size=1, max_size=2).map(json.dumps),
    ),
    max_leaves=12,
)


def _numbered(tree: Any, numbers: Iterator[int]) -> Any:
    """Return a tree in which each leaf, also in JSON in a text, is a text of its own."""
    if isinstance(tree, dict):
        return {name: _numbered(value, numbers) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_numbered(value, numbers) for value in tree]
    return f"t{next(numbers)}" if tree == "leaf" else json.dumps(_numbered(json.loads(tree), numbers))


_trees = st.dictionaries(st.sampled_from(NAMES), _shapes, max_size=3).map(lambda tree: _numbered(tree, count()))
"""Trees with different texts as leaves, some of them inside JSON inside a text."""

_steps = st.one_of(
    st.sampled_from(NAMES).map(member), st.sampled_from([".*", "[*]", ".**", "[0]", "[1]", "[2]"]), st.just(".a")
)


def _leaves(tree: Any) -> set[str]:
    """Return the texts of a tree, and those of JSON inside its texts."""
    if isinstance(tree, dict):
        return set().union(*map(_leaves, tree.values()))
    if isinstance(tree, list):
        return set().union(*map(_leaves, tree))
    return _leaves(json.loads(tree)) if tree[:1] in ("{", "[") and tree != "[redacted]" else {tree}


@given(_trees, st.lists(_steps, min_size=1, max_size=4))
@example({"a": {"a": "t0"}}, [".a", ".**", ".**"])
def test_a_path_means_the_same_for_ignoring_and_for_redacting(tree: Any, steps: list[str]) -> None:
    """The texts that a path removes from the compared body are exactly those that it redacts."""
    text = "".join([*steps, *([".a"] if steps[-1] == ".**" else [])]).removeprefix(".")
    body = json.dumps(tree).encode()
    left = _leaves(json.loads(Matching(ignore=[text]).canonical_body(body)))
    clean = Redaction([], [JSONPath(text)]).scrub_body(body)
    assert _leaves(json.loads(clean)) - {"[redacted]"} == left


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_each_name_can_be_written_in_a_path(names: list[str]) -> None:
    """A path made by `member` of any names covers the field at these names, fields below it, and no other."""
    path = Path("".join(map(member, names)).removeprefix("."))
    assert path.covers(names)
    assert path.covers([*names, "below"])
    assert not path.covers(names[:-1])
    assert not path.covers([*names[:-1], f"{names[-1]}x"])
