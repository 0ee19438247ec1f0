"""All recorded streams of a corpus folder as cassettes: recorded and played through the real SDKs and our agents.

`MINIAGENTS_CORPUS` names the folder. One cassette for each API holds all records; a request names a record by its id.
Each record has the items that the SDK returned when the corpus was made. tests/ext/llm/test_corpus.py compares our
messages with them in detail. Here a message must only be the same however its recording is cut.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import anthropic
import httpx2
import openai
import pytest
from common import share_of_corpus

from miniagents import MiniAgents
from miniagents.errors import LLMError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import Chunk, Interaction, Redaction, ResponseStream, load, save, use_cassette
from miniagents_testing.cassette._chunkmap import one_event_a_chunk
from miniagents_testing.errors import CassetteError
from miniagents_testing.recut import all_at_once, byte_by_byte, cut_at, risky_places

if TYPE_CHECKING:
    from tests.conftest import Effort
    from tests.testing.cassette.conftest import Kit

BYTE_BY_BYTE = 1000
"""Bytes up to which a stream is played in single bytes; through a client each of them costs as much as a token."""
CUTS = 40
"""Places at which longer ones are cut."""

Record = dict[str, Any]


def _records(api: str) -> list[Record]:
    folder = os.environ.get("MINIAGENTS_CORPUS")
    if not folder:
        pytest.skip("MINIAGENTS_CORPUS does not name a folder with recorded provider streams")
    paths = sorted(Path(folder).glob(f"*/{api}/*.json"))
    assert paths, f"MINIAGENTS_CORPUS is {folder!r}, where no record <provider>/{api}/<id>.json is found"
    return [json.loads(path.read_text(encoding="utf-8")) for path in share_of_corpus(paths)]


def _chunks(record: Record) -> list[bytes]:
    """Return the chunks as they were received if their sizes were kept, else one event a chunk."""
    body = record["response"]["body_text"].encode()
    if sizes := record["response"].get("chunk_sizes"):
        return [body[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
    return [chunk.data for chunk in one_event_a_chunk(body)]


def _more(record: Record) -> dict[str, Any]:
    """Return the number of answers (`n`) that the request asked for, which decides how its stream is read."""
    try:
        count = json.loads(record["request"]["body_text"] or "{}").get("n")
    except ValueError:
        count = None
    return {"n": count} if record["api"] == "chat" and isinstance(count, int) else {}


def _client(api: str, network: Any, key: str) -> Any:
    sdk: Any = anthropic.AsyncAnthropic if api == "messages" else openai.AsyncOpenAI
    return sdk(api_key=key, http_client=httpx2.AsyncClient(transport=network), max_retries=0)


async def _through_sdk(record: Record, client: Any) -> list[Any]:
    """Return each item of the SDK's stream; an error is the last of them."""
    messages = [{"role": "user", "content": record["id"]}]
    request = {"model": "m", "stream": True, **_more(record)}
    seen: list[Any] = []
    try:
        if record["api"] == "responses":
            stream = await client.responses.create(**request, input=messages)
        elif record["api"] == "chat":
            stream = await client.chat.completions.create(**request, messages=messages)
        else:
            stream = await client.messages.create(**request, messages=messages, max_tokens=4096)
        async with stream:
            async for item in stream:
                seen.append(item)
    except CassetteError:
        raise
    except Exception as error:  # of the API, or of an SDK that cannot read what came
        seen.append((type(error).__name__, str(error)))
    return seen


async def _through_agent(record: Record, client: Any) -> tuple[Any, list[str]]:
    """Return the message of an agent and its tokens, or the error and what came before it."""
    if record["api"] == "messages":
        agent = create_anthropic_agent("m", async_client=client, retry=None)
    else:
        agent = create_openai_agent("m", async_client=client, api=record["api"], retry=None, **_more(record))
    tokens: list[str] = []
    try:
        (promise,) = [promise async for promise in agent.trigger(record["id"])]
        tokens.extend([token async for token in promise])
        return (await promise).serialize(), tokens
    except LLMError as error:
        return (type(error), str(error), error.partial.content), tokens


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_corpus_streams_are_played_as_recorded_and_give_one_message_however_they_are_cut(
    kit: Kit, api: str, effort: Effort
) -> None:
    """For each corpus stream, the SDK gets equal items live and played, and an agent one message for all cuts."""
    records = _records(api)
    network = kit.network(*(kit.Reply(_chunks(each), each["response"]["status"], _kept(each)) for each in records))
    client = _client(api, network, kit.KEY)
    redact = Redaction(fields=())  # tools of some streams take a `password`
    with kit.cassette("once", redact=redact):
        live = [await _through_sdk(record, client) for record in records]
    assert [len(_items(seen)) for seen in live] == [record["expected"].get("n_items") or 0 for record in records]
    for record, interaction in zip(records, load(kit.path), strict=True):
        sent = _chunks(record)
        assert [chunk.data for chunk in interaction.response.chunks] == sent[: len(interaction.response.chunks)]
        assert interaction.response.complete
    with kit.cassette():
        network.replies.clear()
        assert [await _through_sdk(record, client) for record in records] == live

    async def messages(chunking: Any) -> list[tuple[Any, str]]:
        with kit.cassette(chunking=chunking):
            async with MiniAgents():
                pairs = [await _through_agent(record, client) for record in records]
        return [(message, "".join(tokens)) for message, tokens in pairs]

    whole = await messages("recorded")
    for seed in range(effort(1, ci=1, nightly=9)):
        assert await messages(partial(_recut, random.Random(seed))) == whole


async def test_each_request_of_the_corpus_finds_its_answer(kit: Kit) -> None:
    """With all corpus records in one cassette, each request gets its own recorded answer, byte for byte."""
    records = _records("*")
    recorded = [_interaction(record) for record in records]
    save(kit.path, recorded)
    assert load(kit.path) == tuple(recorded)
    with use_cassette(kit.path):
        async with httpx2.AsyncClient() as client:
            for each in recorded:
                async with client.stream(each.method, each.uri, content=each.request_body) as response:
                    assert response.status_code == each.response.status
                    assert b"".join([chunk async for chunk in response.aiter_raw()]) == each.response.body


def test_short_corpus_streams_are_read_the_same_wherever_they_are_cut_in_two(kit: Kit, effort: Effort) -> None:
    """A short corpus stream, cut in two chunks, gives our decoder the same items for every place of the cut tried."""
    save(kit.path, [_interaction(record) for record in _records("*")])
    step = effort(11, ci=3, nightly=1)
    short = [each for each in load(kit.path) if len(each.response.body) <= BYTE_BY_BYTE]
    assert len(short) > 10
    for number, interaction in enumerate(short):
        whole = read_interaction(replace(interaction, response=all_at_once(interaction.response)))
        for place in range(1 + number % step, len(interaction.response.body), step):
            cut = read_interaction(replace(interaction, response=cut_at(interaction.response, [place])))
            assert (cut.outcome, cut.ending, cut.failure) == (whole.outcome, whole.ending, whole.failure), place


def _interaction(record: Record) -> Interaction:
    asked, answered = record["request"], record["response"]
    chunks = tuple(Chunk(100, chunk) for chunk in _chunks(record))
    return Interaction(
        asked["method"] or "POST",
        urljoin("https://corpus.test/", asked["url"] or record["api"]),
        (asked["body_text"] or "").encode(),
        ResponseStream(
            chunks, status=answered["status"], headers={name: [text] for name, text in _kept(record).items()}
        ),
    )


def _recut(dice: random.Random, stream: ResponseStream) -> ResponseStream:
    """Cut short streams at every byte, and longer ones at some places, half of them where cuts are known to hurt."""
    body = stream.body
    if len(body) <= BYTE_BY_BYTE:
        return byte_by_byte(stream)
    risky = risky_places(body)
    places = [*dice.sample(risky, min(CUTS // 2, len(risky))), *dice.sample(range(1, len(body)), CUTS // 2)]
    return cut_at(stream, places)


def _kept(record: Record) -> dict[str, str]:
    kept = ("content-type", "retry-after", "x-should-retry")
    return {name.lower(): value for name, value in record["response"]["headers"] if name.lower() in kept}


def _items(seen: list[Any]) -> list[Any]:
    """Return the items without the error at the end."""
    return [item for item in seen if not isinstance(item, tuple)]
