"""Strategies for answers of providers, their cuts and faults, and for steps of cancellations and seeds of schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from hypothesis import strategies as st

from miniagents import ToolCall, Usage
from miniagents_testing import faults
from miniagents_testing._script import Step
from miniagents_testing._wire.dialects import QUIRKS, ProviderStream, provider_stream
from miniagents_testing.recut import EventEnds, cut_at, risky_places
from miniagents_testing.strategies._messages import token_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from miniagents_testing._script import API
    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.faults import Fault


def provider_streams(
    *,
    apis: Sequence[API] = ("chat", "responses", "messages"),
    text: st.SearchStrategy[str] | None = None,
    quirks: bool = True,
    max_calls: int = 2,
) -> st.SearchStrategy[ProviderStream]:
    """Return a strategy for complete answers of providers, with the message fields that must result.

    Raise `ValueError` for unknown or no `apis`.

    Args:
        apis: `chat`, `responses` (both OpenAI's), `messages` (Anthropic's).
        text: strategy for texts; any text without lone surrogates by default. Characters may be cut into surrogates.
        quirks: True to include unusual variants, see `dialects.QUIRKS`.
        max_calls: maximum number of tool calls.
    """
    if not apis or not set(apis) <= QUIRKS.keys():
        raise ValueError(f"apis must be some of {', '.join(QUIRKS)}, not {apis!r}")
    text_pieces = token_splits(st.text(max_size=12) if text is None else text, max_cuts=4)
    more: st.SearchStrategy[tuple[str, ...]] = st.just(()) | token_splits(
        st.text(min_size=1, max_size=6), max_cuts=2
    ).map(tuple)
    calls = _calls(max_calls)
    names = sorted({name for api in apis for name in QUIRKS[api]}) if quirks else []
    chosen = st.lists(st.sampled_from(names), max_size=5) if names else st.just([])

    @st.composite
    def stream(draw: st.DrawFn) -> ProviderStream:
        """Draw an API, the parts of an answer and quirks, and return the stream that they make."""
        api = draw(st.sampled_from(tuple(apis)))
        pieces, splits_surrogates = draw(st.tuples(text_pieces, st.booleans()))
        step = Step(
            _with_split_surrogates(pieces) if splits_surrogates else pieces,
            reasoning=draw(more),
            refusal=draw(more),
            tool_calls=draw(calls),
            finish_reason=draw(_FINISH_REASONS),
            usage=draw(_USAGES),
        )
        return provider_stream(api, step, quirks=[quirk for quirk in draw(chosen) if quirk in QUIRKS[api]])

    return stream()


_COUNTS = st.integers(0, 999)
_USAGES = st.none() | st.builds(lambda n, m: Usage(input_tokens=n, output_tokens=m), _COUNTS, _COUNTS)
_FINISH_REASONS = st.sampled_from((None, "length", "content_filter"))
_ARGUMENTS = st.sampled_from(('{"x": 1}', "{}", "", '{"q": "é \U0001f600 \\n"}', "no JSON"))


def _calls(max_calls: int) -> st.SearchStrategy[tuple[ToolCall, ...]]:
    """Return a strategy for tuples of tool calls with ids."""
    drawn = st.lists(st.tuples(st.sampled_from(("search", "f")), _ARGUMENTS), max_size=max_calls)
    return drawn.map(
        lambda calls: tuple(ToolCall(id=f"call_{n}", name=name, arguments=text) for n, (name, text) in enumerate(calls))
    )


def _with_split_surrogates(pieces: list[str]) -> list[str]:
    """Cut the first character that JSON may write as two escapes into its surrogates, as some servers do."""
    for index, piece in enumerate(pieces):
        for place, char in enumerate(piece):
            if char > "\uffff":
                units = char.encode("utf-16-be")
                first, second = (half.decode("utf-16-be", "surrogatepass") for half in (units[:2], units[2:]))
                return [*pieces[:index], piece[:place] + first, second + piece[place + 1 :], *pieces[index + 1 :]]
    return pieces


@overload
def recuts(stream: ResponseStream, *, max_cuts: int = 6) -> st.SearchStrategy[ResponseStream]: ...
@overload
def recuts(stream: bytes, *, max_cuts: int = 6) -> st.SearchStrategy[tuple[bytes, ...]]: ...
def recuts(
    stream: ResponseStream | bytes, *, max_cuts: int = 6
) -> st.SearchStrategy[ResponseStream | tuple[bytes, ...]]:
    """Return a strategy for the same bytes with other cuts, more often at places that are risky for decoders.

    Args:
        stream: a response, or bytes.
        max_cuts: maximum number of cuts.
    """
    body = stream if isinstance(stream, bytes) else stream.body
    risky = risky_places(body)
    # Three bytes for each place: one strategy for all streams, and a single draw, are the fastest way.
    drawn = st.binary(max_size=3 * max_cuts)

    @st.composite
    def recut(draw: st.DrawFn) -> ResponseStream | tuple[bytes, ...]:
        """Draw up to `max_cuts` places, about half of them risky ones, and return the stream cut there."""
        chosen = draw(drawn)
        places = set()
        for kind, high, low in zip(chosen[::3], chosen[1::3], chosen[2::3], strict=False):
            number = high << 8 | low
            places.add(risky[number % len(risky)] if kind % 2 and risky else number % (len(body) + 1))
        return cut_at(stream, places)

    return recut()


_FAULTS: dict[str, Callable[[int], Fault]] = {
    "cut": lambda event: faults.cut(after=event - 1),
    "reset": lambda event: faults.reset(after=event - 1),
    "stall": lambda event: faults.stall(after=event - 1),
    "malformed": lambda event: faults.malformed(at=event),
    "drop": lambda event: faults.drop(at=event),
    "duplicate": lambda event: faults.duplicate(at=event),
    "overloaded": lambda event: faults.overloaded(at=event),
    "rate_limit": lambda event: faults.rate_limit(at=event),
    "error_event": lambda event: faults.error_event(at=event),
}


def stream_faults(stream: ResponseStream, *, kinds: Collection[str] = tuple(_FAULTS)) -> st.SearchStrategy[Fault]:
    """Return a strategy for faults at places that this stream has; examples shrink to early places.

    Args:
        stream: the stream that the faults will be applied to.
        kinds: names of functions of `miniagents_testing.faults` that take a place.
    """
    if not kinds or not set(kinds) <= set(_FAULTS):
        raise ValueError(f"kinds must be some of {', '.join(_FAULTS)}, not {kinds!r}")
    events = sum(1 for _ in EventEnds().feed(stream.body))
    if not events:
        raise ValueError("the stream has no event that a fault could change")
    return st.builds(lambda kind, event: _FAULTS[kind](event), st.sampled_from(tuple(kinds)), st.integers(1, events))


def cancellation_points(*, max_steps: int = 50) -> st.SearchStrategy[int]:
    """Return a strategy for numbers of loop steps (`await asyncio.sleep(0)`) after which a test cancels a task.

    Args:
        max_steps: maximum number of steps; 0 is before the first one.
    """
    if max_steps < 0:
        raise ValueError(f"max_steps must be a number of steps, not {max_steps!r}")
    return st.integers(0, max_steps)


def schedule_seeds() -> st.SearchStrategy[int]:
    """Return a strategy for seeds of schedules of `VirtualTimeLoop`; examples shrink to small seeds."""
    return st.integers(0, 2**32 - 1)
