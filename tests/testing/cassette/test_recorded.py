"""Functions with `@recorded`: their calls are interactions of the open cassette."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - the annotations are evaluated, here and below
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import httpx2
import pytest
import vcr
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from miniagents_testing import ProviderServer, recorded, run_in_virtual_time, use_cassette
from miniagents_testing.cassette import Matching, load
from miniagents_testing.cassette._document import parse, with_checksum
from miniagents_testing.cassette._yaml import yaml_text
from miniagents_testing.errors import (
    CassetteFormatError,
    CassetteMissError,
    RecordedCallError,
    RecordingRefusedError,
    UnplayedError,
)

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["none", "once"]

calls: list[Any] = []
"""Arguments of the calls that have reached the functions of this module."""


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


class Hit(BaseModel):
    """Result of a search."""

    title: str
    day: date
    price: Decimal


class UnreachableError(Exception):
    """Error of an application."""


@recorded
async def search(query: str, limit: int = 2) -> list[Hit]:
    """Return two hits."""
    calls.append(query)
    await asyncio.sleep(0)
    return [Hit(title=f"{query} {number}", day=date(2026, 1, 2), price=Decimal("1.10")) for number in range(limit)]


@recorded
def add(first: int, second: int) -> int:
    """Return a sum."""
    calls.append((first, second))
    return first + second


@recorded
async def count(to: int) -> AsyncIterator[Hit]:
    """Yield hits, a virtual second apart."""
    calls.append(to)
    for number in range(to):
        await asyncio.sleep(1)
        yield Hit(title=str(number), day=date(2026, 1, 2), price=Decimal(number))


@recorded
def letters(word: str) -> Iterator[str]:
    """Yield the letters of a word."""
    calls.append(word)
    yield from word


@recorded
async def fail(error: str) -> None:
    """Raise the error that the argument names."""
    calls.append(error)
    errors: dict[str, Exception] = {
        "key": KeyError("name"),
        "file": FileNotFoundError(2, "No such file", "x.db"),
        "odd": ValueError(object()),
        "own": UnreachableError("no route: to host"),
    }
    raise errors[error]


def test_results_are_recorded_and_played_without_the_function(tmp_path: Path) -> None:
    """Async and sync functions and generators give the same typed results from a cassette, and do not run."""

    async def use() -> list[Any]:
        return [
            await search("cats"),
            await search("cats", limit=1),
            add(1, 2),
            [hit async for hit in count(3)],
            [*letters("abc")],
        ]

    async def record_and_play(mode: Mode) -> list[Any]:
        with use_cassette(tmp_path / "calls.yaml", record_mode=mode):
            return await use()

    live = run_in_virtual_time(record_and_play("once"))
    assert live[0][0] == Hit(title="cats 0", day=date(2026, 1, 2), price=Decimal("1.10"))
    assert len(calls) == 5
    calls.clear()
    assert run_in_virtual_time(record_and_play("none")) == live
    assert calls == []


def test_decorated_function_is_called_as_ever_without_a_session() -> None:
    """Without a cassette, a decorated function runs; it has its name and signature, and stays async or a generator."""
    assert asyncio.run(search("dogs"))[1].title == "dogs 1"
    assert add(2, 3) == 5
    assert calls == ["dogs", (2, 3)]
    assert add.__name__ == "add"
    assert str(inspect.signature(add)) == "(first: 'int', second: 'int') -> 'int'"
    assert inspect.iscoroutinefunction(search)
    assert inspect.isasyncgenfunction(count)
    assert inspect.isgeneratorfunction(letters)


def test_items_of_an_async_generator_keep_their_times(tmp_path: Path) -> None:
    """At pace 1, items that were recorded a second apart are played a second apart."""

    async def arrivals(mode: Mode) -> list[float]:
        loop = asyncio.get_running_loop()
        with use_cassette(tmp_path / "items.yaml", record_mode=mode, pace=1):
            start = loop.time()
            return [loop.time() - start async for _ in count(3)]

    live = run_in_virtual_time(arrivals("once"))
    assert live == pytest.approx([1, 2, 3])
    assert run_in_virtual_time(arrivals("none")) == pytest.approx(live, abs=0.001)


def test_arguments_are_matched_by_name_with_their_defaults(tmp_path: Path) -> None:
    """A call matches its recording however its arguments are spelled; other arguments are a miss that names them."""
    with use_cassette(tmp_path / "sum.yaml", record_mode="once"):
        add(1, second=2)
    with use_cassette(tmp_path / "sum.yaml"):
        assert add(second=2, first=1) == 3
    with (
        pytest.raises(CassetteMissError, match=r"arguments.second: recorded 2, now 3"),
        use_cassette(tmp_path / "sum.yaml"),
    ):
        add(1, 3)


def test_arguments_named_like_volatile_fields_are_compared(tmp_path: Path) -> None:
    """An argument called `user` counts, though matching ignores a field `user` of requests; a path can ignore it."""

    @recorded
    def greet(user: str) -> str:
        return f"Hi {user}"

    with use_cassette(tmp_path / "c.yaml", record_mode="once"):
        greet("Ann")
    with pytest.raises(CassetteMissError), use_cassette(tmp_path / "c.yaml"):
        greet("Bob")
    with use_cassette(tmp_path / "c.yaml", match=Matching(ignore=["arguments.user"])):
        assert greet("Bob") == "Hi Ann"


def test_call_that_is_not_made_in_a_replay_is_unplayed(tmp_path: Path) -> None:
    """A recorded call counts as an interaction: a replay that leaves it out fails."""
    with use_cassette(tmp_path / "sum.yaml", record_mode="once"):
        add(1, 2)
    with pytest.raises(UnplayedError, match=r"call:.*add"), use_cassette(tmp_path / "sum.yaml"):
        pass


@pytest.mark.parametrize("name", ["key", "file"])
async def test_builtin_exceptions_are_played_as_themselves(name: str, tmp_path: Path) -> None:
    """A builtin exception has the same class and arguments live and in a replay."""
    with use_cassette(tmp_path / "error.yaml", record_mode="once"):
        with pytest.raises(LookupError if name == "key" else OSError) as live:
            await fail(name)
    with use_cassette(tmp_path / "error.yaml"), pytest.raises(type(live.value)) as played:
        await fail(name)
    assert type(played.value) is type(live.value)
    assert played.value.args == live.value.args
    assert str(played.value) == str(live.value)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [("own", f"{__name__}.UnreachableError", "no route: to host"), ("odd", "builtins.ValueError", "<object object")],
)
async def test_other_exceptions_are_played_as_recorded_call_errors(
    name: str, kind: str, text: str, tmp_path: Path
) -> None:
    """An exception that is not builtin, or has arguments that are no JSON, is played with its class name and text."""
    with use_cassette(tmp_path / "error.yaml", record_mode="once"):
        with pytest.raises((UnreachableError, ValueError)):
            await fail(name)
    with use_cassette(tmp_path / "error.yaml"), pytest.raises(RecordedCallError) as played:
        await fail(name)
    assert played.value.type_name == kind
    assert played.value.text.startswith(text)
    assert str(pickle.loads(pickle.dumps(played.value))) == str(played.value)


async def test_error_of_a_generator_comes_after_its_items(tmp_path: Path) -> None:
    """A `@recorded` generator that raises after two items does so when it is played as well."""

    @recorded
    async def broken() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ConnectionResetError("gone")

    async def read() -> list[int]:
        items = []
        with pytest.raises(ConnectionResetError, match="gone"):
            async for item in broken():
                items.append(item)
        return items

    with use_cassette(tmp_path / "broken.yaml", record_mode="once"):
        assert await read() == [1, 2]
    with use_cassette(tmp_path / "broken.yaml"):
        assert await read() == [1, 2]


async def test_early_close_of_a_generator_runs_its_cleanup_and_is_played(tmp_path: Path) -> None:
    """A reader that closes a generator early ends the live one, and can do the same in a replay."""
    closed = []

    @recorded
    async def endless() -> AsyncIterator[int]:
        try:
            for number in range(10**6):
                yield number
        finally:
            closed.append(True)

    async def read_two() -> list[int]:
        items = endless()
        found = [await anext(items), await anext(items)]
        await items.aclose()  # type: ignore[attr-defined]  # an async generator
        return found

    with use_cassette(tmp_path / "endless.yaml", record_mode="once"):
        assert await read_two() == [0, 1]
        assert closed == [True]
    with use_cassette(tmp_path / "endless.yaml"):
        assert await read_two() == [0, 1]


async def test_requests_of_a_recorded_function_are_not_recorded(tmp_path: Path) -> None:
    """A function that sends requests itself leaves one interaction, its call; requests beside it are recorded."""
    async with ProviderServer(["Hello"] * 2) as server:

        async def post() -> int:
            async with httpx2.AsyncClient() as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
                return (await client.post(f"{server.openai_base_url}/chat/completions", json=body)).status_code

        @recorded
        async def ask() -> int:
            return await post()

        with use_cassette(tmp_path / "ask.yaml", record_mode="once"):
            assert await ask() == 200
            assert await post() == 200
    assert [each.method for each in load(tmp_path / "ask.yaml")] == ["CALL", "POST"]


def test_value_that_is_no_json_is_refused_by_name(tmp_path: Path) -> None:
    """An argument or result that pydantic cannot turn into JSON is a TypeError with the function and the argument."""

    @recorded
    def identity(value: Any) -> Any:
        return object()

    with use_cassette(tmp_path / "c.yaml", record_mode="once"):
        add(1, 1)
        with pytest.raises(TypeError, match=r"argument 'value' of .*identity cannot be turned into JSON"):
            identity(object())
        with pytest.raises(TypeError, match=r"what it returns of .*identity cannot be turned into JSON"):
            identity(1)
    assert len(load(tmp_path / "c.yaml")) == 1


def test_result_that_would_come_back_changed_is_refused(tmp_path: Path) -> None:
    """A result that JSON changes, or that is not of its annotated type, is an error while it is recorded."""

    @recorded
    def pair():  # type: ignore[no-untyped-def]
        return (1, 2)

    @recorded
    def number() -> int:
        return "many"  # type: ignore[return-value]  # wrong on purpose

    with use_cassette(tmp_path / "c.yaml", record_mode="once"):
        add(1, 1)
        with pytest.raises(TypeError, match=r"pair returns \(1, 2\), but a replay would return \[1, 2\]. Annotate"):
            pair()
        with pytest.raises(TypeError, match=r"number does not return the type that its annotation says"):
            number()


def test_methods_leave_out_their_object(tmp_path: Path) -> None:
    """The `self` of a method is not compared, so a call on another object of the class plays the recording."""

    class Store:
        @recorded
        def get(self, key: str) -> str:
            return key.upper()

    with use_cassette(tmp_path / "c.yaml", record_mode="once"):
        Store().get("a")
    with use_cassette(tmp_path / "c.yaml"):
        assert Store().get("a") == "A"


def test_secret_in_a_result_is_redacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the environment that a function returns or puts into an error is in no file, and not replayed."""
    key = "sk-" + "q8Zt3Lw0Xp" * 4
    monkeypatch.setenv("OPENAI_API_KEY", key)

    @recorded
    def leak() -> str:
        return f"the key is {key}"

    @recorded
    def leak_in_an_error() -> None:
        raise ValueError(f"bad key {key}")

    with use_cassette(tmp_path / "c.yaml", record_mode="once"):
        assert key in leak()
        with pytest.raises(ValueError, match=key):
            leak_in_an_error()
    assert key not in (tmp_path / "c.yaml").read_text()
    with use_cassette(tmp_path / "c.yaml"):
        assert key not in leak()
        with pytest.raises(ValueError, match="bad key"):
            leak_in_an_error()


def test_recorded_refuses_what_is_no_function() -> None:
    """The decorator `recorded` raises a `TypeError` for an argument that is no function."""
    with pytest.raises(TypeError, match=r"needs a function, not 3"):
        recorded(3)  # type: ignore[arg-type]  # wrong on purpose


def test_file_is_read_by_plain_vcrpy_and_by_version(tmp_path: Path) -> None:
    """Plain vcrpy loads a file with calls. A call whose version is not known is an error that says so."""
    path = tmp_path / "c.yaml"
    with use_cassette(path, record_mode="once"):
        add(1, 2)
    with vcr.use_cassette(str(path), record_mode="none") as cassette:
        assert [request.method for request in cassette.requests] == ["CALL"]
    [entry] = parse(path.read_text())["interactions"]
    assert entry["response"]["stream"]["v"] == 2
    entry["response"]["stream"]["v"] = 3
    path.write_text(yaml_text(with_checksum([entry])))
    with pytest.raises(CassetteFormatError, match=r"interaction 1: its stream has version 3, and .* reads 1 and 2"):
        load(path)


@dataclasses.dataclass
class Row:
    """Result that is no pydantic model."""

    text: str
    number: float | None


@given(rows=st.lists(st.builds(Row, st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False))))
def test_any_result_of_an_annotated_type_comes_back(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A replay returns rows equal to those that a `@recorded` function with an annotated result has returned."""

    @recorded
    def query() -> list[Row]:
        return rows

    path = tmp_path_factory.mktemp("rows") / "c.yaml"
    try:
        with use_cassette(path, record_mode="once"):
            query()
    except RecordingRefusedError:
        return  # a text that looks like a key
    with use_cassette(path):
        assert query() == rows
