"""Frozen cassettes of version 1, in `golden/`: their text never changes, and each plays byte for byte, time for time.

They stand for the files that users have committed. `expected.json` has what each plays; a new version of the format
gets files of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents_testing import run_in_virtual_time
from miniagents_testing.cassette import use_cassette
from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from miniagents_testing.cassette import Interaction

GOLDEN = Path(__file__).parent / "golden"

CHECKSUMS = {
    "bodies.yaml": "bd45e74c8aaad997f4110d575a8f73b8b5ef17d23c7565f438b8baa39f04bb4e",
    "ends.yaml": "448a7d400d5ba46fee3489f7c432c5ef7c5b3b428d16da04eafbf4bb48a53d94",
    "expected.json": "ed04d95734c87670ce2e6ae0c98003e1105e8f10545c728fadad18af47108e35",
    "json.yaml": "97c21d89eb84899eb0e4097d18663b5ee7a8c4d9f3c48ec42c16c605cc1b4737",
    "recorded.yaml": "505d9e6079d3f1803063ab5b0b3cb4e97f3a2270084203a539940f021d81d1c0",
    "streams.yaml": "92acfe5bbe04ad0cc65c1d127ccaa3b2947f7edf48cd5f8982cf0a0f29fe000d",
    "vcrpy.yaml": "1cb583ddc34a3326cbdb9508035fa8f553b2953d45c650c87e39248458cb0553",
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_golden_file_is_unchanged(name: str) -> None:
    """The bytes of each golden file have the checksum that they had when the file was frozen."""
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == CHECKSUMS[name]


def test_golden_files_are_all_checked() -> None:
    """Each file of the folder has a checksum, and each cassette has expected results."""
    assert {path.name for path in GOLDEN.iterdir()} == set(CHECKSUMS)
    assert {*_expected(), "expected.json"} == set(CHECKSUMS)


def _expected() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    return found


def _ticks(seconds: float) -> int:
    """Return a time in units of 10 microseconds, the precision of a cassette."""
    return round(seconds * 100_000)


async def _play(path: Path) -> list[dict[str, Any]]:
    """Play all interactions of a file one after the other, and return what a client gets, and when."""
    with use_cassette(path, pace=1, anchor="request", retry_after="keep") as session:
        return [
            {"agent": each.agent, "started": _ticks(each.started_ms / 1000), **await _answer_to(each)}
            for each in session.interactions
        ]


async def _answer_to(request: Interaction) -> dict[str, Any]:
    """Return status, headers, chunks and error of the answer to a request, with their times since the request."""
    clock = asyncio.get_running_loop().time
    began = clock()
    seen: dict[str, Any] = {"chunks": []}
    sent = {name: values[0] for name, values in request.request_headers.items()}
    try:
        async with (
            httpx2.AsyncClient() as client,
            client.stream(request.method, request.uri, content=request.request_body, headers=sent) as response,
        ):
            headers = [[name.decode(), value.decode()] for name, value in response.headers.raw]
            seen |= {"status": response.status_code, "reason": response.reason_phrase, "headers": headers}
            seen["at"] = _ticks(clock() - began)
            async for chunk in response.aiter_raw():
                seen["chunks"].append([_ticks(clock() - began), chunk.decode("latin-1")])
    except httpx2.HTTPError as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    except IncompleteRecordingError:
        seen["error"] = "the recording is not complete"
    return seen


@pytest.mark.parametrize("name", [name for name in CHECKSUMS if name != "expected.json"])
def test_golden_file_plays_as_when_it_was_frozen(name: str) -> None:
    """A client gets the frozen status, headers, chunks, times and error for each request of a golden file."""
    assert run_in_virtual_time(_play(GOLDEN / name)) == _expected()[name]
