"""The file of a cassette: loading returns what was saved, and refuses a damaged file."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vcr import matchers
from vcr.cassette import Cassette
from vcr.request import Request

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.cassette._document import with_checksum
from miniagents_testing.cassette._yaml import yaml_text
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\n\r\t \x85\u2028\ufeff\x1b'\"\\#:-"))
)
KEYS = st.one_of(st.sampled_from("abcd"), TEXT.filter(lambda text: "\n" not in text and len(text) < 100))
SCALARS = st.one_of(
    st.none(), TEXT, st.binary(), st.integers(), st.booleans(), st.floats(0, 1e6).map(lambda x: round(x, 2))
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(st.one_of(TEXT, st.dictionaries(KEYS, inner, min_size=1))),
        st.dictionaries(KEYS, inner),
    ),
    max_leaves=8,
)

CHUNKS = (Chunk(1502, b"data: Hi"), Chunk(510, " there 😀\n\n".encode()), Chunk(2000, b"data: [DONE]\n\n"))


def make(
    request_body: bytes = b'{"model": "gpt-4", "stream": true}', started_ms: float = 265.93, **response: Any
) -> Interaction:
    """Make a small interaction; `response` has arguments of its `ResponseStream`."""
    headers = {"content-type": ["text/event-stream; charset=utf-8"]}
    return Interaction(
        method="POST",
        uri="https://api.openai.com/v1/chat/completions",
        request_body=request_body,
        request_headers={"content-type": ["application/json"]},
        started_ms=started_ms,
        response=ResponseStream(**{"chunks": CHUNKS, "headers": headers, "headers_ms": 91.2, **response}),
    )


@given(st.dictionaries(st.sampled_from("abcd"), DOCUMENTS, min_size=1))
def test_yaml_text_is_read_unchanged_by_any_reader(document: dict[str, Any]) -> None:
    """Each document that `yaml_text` writes is read unchanged by PyYAML's loaders in C and in Python."""
    text = yaml_text(document)
    for name in ("CSafeLoader", "SafeLoader"):
        assert yaml.load(text, getattr(yaml, name)) == document


@given(st.lists(st.text("ab \n\t", max_size=8), max_size=4))
def test_yaml_text_keeps_white_space(texts: list[str]) -> None:
    """Texts with blank lines, leading and trailing spaces are read from the written YAML unchanged."""
    document = {"texts": texts}
    assert yaml.load(yaml_text(document), yaml.CSafeLoader) == document


def test_yaml_text_writes_a_body_line_by_line() -> None:
    """`yaml_text` writes a body as a block of its lines, or as quoted lines if it has carriage returns."""
    assert yaml_text({"body": "data: 日本語 😀 \n\n"}) == "body: |+\n  data: 日本語 😀 \n\n"
    assert yaml_text({"body": "a\r\n b\r\n"}) == 'body: "a\\r\\n\\\n  \\ b\\r\\n"\n'


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.builds(Chunk, st.integers(0, 10**6), st.binary(min_size=1, max_size=9)), max_size=4), max_size=3
    )
)
def test_load_returns_what_was_saved(tmp_path: Path, streams: list[list[Chunk]]) -> None:
    """`load` returns the saved interactions with bytes and time of each chunk, also for bodies that are no text."""
    saved = [make(chunks=tuple(chunks), started_ms=float(number)) for number, chunks in enumerate(streams)]
    save(tmp_path / "c.yaml", saved)
    assert load(tmp_path / "c.yaml") == tuple(saved)


ANY_TEXT = st.text(st.sampled_from("aé\ud800\udce9\udfff\U0001f600: '\"\\\t\x00\x85"), max_size=6)
"""Texts with lone surrogates, as clients make of bytes that are no UTF-8."""
ANY_HEADERS = st.dictionaries(ANY_TEXT.map(str.lower), st.lists(ANY_TEXT, max_size=2), max_size=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[ANY_TEXT] * 4), st.tuples(*[ANY_HEADERS] * 2))
def test_load_returns_lone_surrogates_in_names_and_texts(
    tmp_path: Path, texts: tuple[str, str, str, str], headers: tuple[dict[str, list[str]], dict[str, list[str]]]
) -> None:
    """`load` returns names and values of headers, URL, method, reason and agent with any character as it was saved."""
    uri, method, reason, agent = texts
    answer = ResponseStream((Chunk(1, b"a"),), reason=reason, headers=headers[1])
    saved = Interaction(method, uri, b"{}", answer, request_headers=headers[0], agent=agent)
    save(tmp_path / "c.yaml", [saved])
    assert load(tmp_path / "c.yaml") == (saved,)


@pytest.mark.parametrize("end", ["eof", "closed", "cancelled", "open", "raise ReadError: it: broke"])
@pytest.mark.parametrize("complete", [True, False])
def test_load_returns_how_a_stream_ended(tmp_path: Path, end: str, complete: bool) -> None:
    """`load` returns the recorded end of a stream, and whether the stream is complete."""
    interaction = make(end=end, complete=complete or end == "eof")
    save(tmp_path / "c.yaml", [interaction])
    assert load(tmp_path / "c.yaml") == (interaction,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("data: Hi", "data: Ho"), "interaction 1 .*digest"),
        (("15.02/8", "16/8"), "interaction 1 .*digest"),
        (("miniagents:", "minions:"), "key `miniagents` is missing"),
        (("count: 1", "count: 2"), "its checksum is of 2 interactions, and does not fit the 1 in the file"),
        (("miniagents:\n  v: 1", "miniagents:\n  v: 2"), "has checksums of format 2; only 1 is known here"),
        (("interactions:", "actions:"), "is no cassette: it has no list of interactions"),
    ],
)
def test_K14_load_names_what_is_wrong_with_a_file(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    """`load` of a damaged file raises an error with the file's path, the reason, and a damaged interaction's number."""
    path = tmp_path / "c.yaml"
    save(path, [make()])
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(CassetteFormatError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"- 1", b"a: [", b"version: 1\ninteractions:\n- 1\n"])
def test_load_refuses_a_file_that_is_no_cassette(tmp_path: Path, content: bytes) -> None:
    """For any content that is no cassette, `load` raises a `CassetteFormatError` that names the file."""
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(CassetteFormatError, match=re.escape(str(path))):
        load(path)


def test_digest_leaves_out_volatile_fields_of_the_request(tmp_path: Path) -> None:
    """The checksum leaves out the request field `user`, so that a file loads after an edit of this field."""
    path = tmp_path / "c.yaml"
    save(path, [make(request_body=b'{"model":"gpt-4","user":"Ann"}')])
    path.write_text(path.read_text(encoding="utf-8").replace("Ann", "Bob"), encoding="utf-8")
    assert b"Bob" in load(path)[0].request_body


def test_plain_vcrpy_plays_a_saved_file(tmp_path: Path) -> None:
    """Plain vcrpy plays a file that `save` wrote, in spite of the additional key `stream`."""
    path = tmp_path / "c.yaml"
    interaction = make()
    save(path, [interaction])
    cassette = Cassette.load(path=str(path), match_on=(matchers.method, matchers.uri))
    response = cassette.play_response(Request("POST", interaction.uri, b"", {}))
    assert response["body"]["string"] == interaction.response.body


def test_cassette_of_plain_vcrpy_plays_event_by_event(tmp_path: Path) -> None:
    """A file of plain vcrpy, which has no chunk sizes and times, is loaded with one chunk for each event."""
    path = tmp_path / "c.yaml"
    entry = {
        "request": {"method": "POST", "uri": "https://x.test/v1", "body": None, "headers": {}},
        "response": {
            "status": {"code": 200, "message": None},
            "headers": {"Content-Type": ["text/event-stream"]},
            "body": {"string": "data: 1\n\ndata: 2\n\n"},
        },
    }
    path.write_text(yaml.safe_dump({"interactions": [entry], "version": 1}), encoding="utf-8")
    (interaction,) = load(path)
    assert [chunk.data for chunk in interaction.response.chunks] == [b"data: 1\n\n", b"data: 2\n\n"]
    assert interaction.response.headers == {"content-type": ["text/event-stream"]}
    assert interaction.response.complete


def test_load_warns_and_plays_event_by_event_when_a_chunk_map_does_not_fit(tmp_path: Path) -> None:
    """When an edited body does not fit its chunk map, `load` warns, and returns one chunk for each event."""
    path = tmp_path / "c.yaml"
    stream = {"v": 1, "chunks": "1/999", "end": "eof"}
    entry: dict[str, Any] = {
        "request": {"method": "POST", "uri": "https://x.test/v1", "body": "", "headers": {}},
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {},
            "body": {"string": "data: 1\n\n"},
            "stream": stream,
        },
    }
    path.write_text(yaml_text(with_checksum([entry])), encoding="utf-8")
    with pytest.warns(UserWarning, match="interaction 1: played one event a chunk"):
        assert load(path)[0].response.chunks == (Chunk(0, b"data: 1\n\n"),)


def test_save_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, `save` raises, and leaves the old file and no temporary file."""
    path = tmp_path / "c.yaml"
    save(path, [make()])
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        save(path, [make(), make()])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]
