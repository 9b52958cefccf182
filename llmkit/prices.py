"""What an answer cost, by the price list of `genai-prices` (the extra `prices`). Imports errors and response."""

from __future__ import annotations

from decimal import Decimal

from .errors import LLMProviderConfigurationError
from .response import LLMResponse

__all__ = ["cost"]


def cost(response: LLMResponse) -> Decimal | None:
    """Return what the tokens of an answer cost, in US dollars; None where service, model or usage are not known.

    An answer out of the cache cost nothing. Tools that the service charges by the call, and batches, are not counted.
    The list is the installed package's: nothing is downloaded. Raises LLMProviderConfigurationError where
    `genai-prices` is not installed.
    """
    try:
        from genai_prices import Usage, calc_price  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LLMProviderConfigurationError(
            'prices need the package genai-prices: type `pip install "llmkit[prices]"`'
        ) from None
    usage = response.usage
    if response.metadata.get("cached"):
        return Decimal(0)
    if usage is None:
        return None
    counted = Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        input_audio_tokens=usage.input_audio,
        output_tokens=usage.output_tokens,
        output_audio_tokens=usage.output_audio,
    )
    try:
        price: Decimal = calc_price(counted, response.model, provider_id=response.provider_type).total_price
    except LookupError:
        return None
    return price
