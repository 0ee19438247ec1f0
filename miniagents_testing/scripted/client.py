"""What a provider agent needs of an SDK's client, without SDK and without HTTP: a request becomes bytes of a script."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import from_json

from miniagents_testing.playing import aplay, asleep_until_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents_testing.call import API
    from miniagents_testing.scripted.llm import ScriptedLLM
    from miniagents_testing.streams import ResponseStream

__all__ = ["APIConnectionError", "APIStatusError", "ScriptedClient"]


class APIConnectionError(Exception):
    """What SDKs make of whatever is raised before a response; the framework knows it by its name."""


class APIStatusError(Exception):
    """What SDKs make of a response with an error status; the framework knows it by its name."""

    def __init__(self, response: ResponseStream) -> None:
        super().__init__(f"Error code: {response.status}")
        self.status_code = response.status
        self.response = SimpleNamespace(headers=_headers(response))
        try:
            self.body: Any = from_json(response.body)
        except ValueError:
            self.body = response.body.decode(errors="replace")


class ScriptedClient:
    """Stands where `AsyncOpenAI` and `AsyncAnthropic` stand in a provider agent."""

    base_url = SimpleNamespace(host="api.openai.com")  # the framework asks for usage where it knows the host

    def __init__(self, llm: ScriptedLLM) -> None:
        self.chat = SimpleNamespace(completions=_endpoint(llm, "chat"))
        self.responses = _endpoint(llm, "responses")
        self.messages = _endpoint(llm, "messages")

    def with_options(self, **options: Any) -> Self:
        """Options of the SDK are about HTTP."""
        return self


def _endpoint(llm: ScriptedLLM, api: API) -> SimpleNamespace:
    @asynccontextmanager
    async def create(
        *, extra_headers: Any = None, extra_body: dict[str, Any] | None = None, **body: Any
    ) -> AsyncIterator[SimpleNamespace]:
        started = asyncio.get_running_loop().time()
        try:
            stream = llm.respond(api, {**body, **(extra_body or {})})
        except Exception as error:
            raise APIConnectionError("the script raises an error") from error
        await asleep_until_headers(stream, llm.pace)
        if stream.status >= 400:
            raise APIStatusError(stream)
        async with aclosing(aplay(stream, started, llm.pace, gate=llm.gate)) as chunks:
            http_response = SimpleNamespace(is_stream_consumed=False, aiter_raw=lambda: chunks)
            yield SimpleNamespace(headers=_headers(stream), http_response=http_response)

    return SimpleNamespace(with_streaming_response=SimpleNamespace(create=create))


def _headers(stream: ResponseStream) -> dict[str, str]:
    return {name: ", ".join(values) for name, values in stream.headers.items()}
