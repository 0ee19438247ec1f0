"""Prices of requests to models, as the package genai-prices knows them (the extra `prices`).

The package takes 0.3 seconds to import, so it is imported at the first question for a price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniagents.messages import Usage


def known_price(provider: str, url: str, model: str, usage: Usage) -> float | None:
    """Return what a request costs in US dollars; None if the price is not known, or genai-prices is not installed.

    The numbers go to the package as they are: there, as in `Usage`, the input includes what is in a cache.

    Args:
        provider: "openai" or "anthropic", whose prices count for a URL that genai-prices does not know.
        url: the base URL of the client.
        model: the name of the model.
        usage: the numbers of tokens.
    """
    try:
        import genai_prices
    except ImportError:  # the extra is not installed
        return None
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    places: tuple[dict[str, Any], ...] = ({"provider_api_url": url}, {"provider_id": provider})
    for place in places:
        try:
            return float(genai_prices.calc_price(tokens, model, **place).total_price)
        except (LookupError, ValueError):  # no such model there, or numbers that cannot be
            continue
    return None
