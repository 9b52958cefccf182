"""The parameters of Anthropic Messages: what a model may write at most, how it thinks, and what it refuses beside that.

Source: platform.claude.com/docs, its pages on extended and adaptive thinking, API versions and models.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ..call import Call
from ..errors import LLMProviderUnsupportedOperationError
from . import Dialect, WireRequest, sampling_parameters

__all__ = ["DEFAULT_VERSION", "PLAIN_OUTPUT_TOKENS", "parameters"]

DEFAULT_VERSION: Final = "2023-06-01"
"""Every gateway knows this version, and it still takes sampling parameters; `api_version` names a newer one."""

# None: the API has no such parameter. Versions after the default one have no temperature and top_p either.
PARAMETERS: Final = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "top_p": "top_p",
    "frequency_penalty": None,
    "presence_penalty": None,
    "stop": "stop_sequences",
    "seed": None,
    "reasoning_effort": "thinking",
}

# What the models can write at most. Older ones answer 400 where prompt and max_tokens exceed the window together,
# so they, and models that are not known, are asked for the least of all maxima.
OUTPUT_TOKENS: Final = ((r"claude-[a-z]+-4[-.]5", 64_000), (r"claude-[a-z]+-(4[-.][6-9]|[5-9])", 128_000))
LEAST_OUTPUT_TOKENS, PLAIN_OUTPUT_TOKENS = 4_096, 21_333  # more than the latter could take over ten minutes

# These think as much as they see fit, and `effort` tells them how hard; older ones are given a budget of tokens.
ADAPTIVE: Final = r"claude-((opus|sonnet)-4[-.][6-9]|[a-z]+-[5-9]|mythos)"
BUDGETS: Final = {"minimal": 1_024, "low": 2_048, "medium": 10_000, "high": 16_384, "xhigh": 24_576, "max": 24_576}


def parameters(call: Call, version: str, dialect: Dialect, request: WireRequest) -> dict[str, Any]:
    """Return the sampling parameters, `max_tokens` and what makes the model think."""
    explicit, effort = call.config.explicit, call.config.reasoning_effort
    refusals = {}
    if version > DEFAULT_VERSION:
        reason = refusals["temperature"] = f"version {version} of the API has no such parameter"
        for name in sorted(explicit & {"temperature", "top_p"}):
            told = f"{name} is set, but {reason}; leave it out, or set api_version to {DEFAULT_VERSION!r}"
            raise LLMProviderUnsupportedOperationError(told)
    elif effort not in (None, "none") or "thinking" in call.config.extra_params:
        refusals["temperature"] = "the API takes no other than its own where the model thinks"
    elif "top_p" in explicit:
        refusals["temperature"] = "top_p is set, and newer models take one of the two"
    body = sampling_parameters(call, PARAMETERS, dialect, request, refusals)
    if "thinking" in body:
        body |= _thinking(body.pop("thinking"), call, request)
    if "max_tokens" not in body:
        known = [tokens for pattern, tokens in OUTPUT_TOKENS if re.search(pattern, call.model)] or [LEAST_OUTPUT_TOKENS]
        most = known[0] if call.stream else min(known[0], PLAIN_OUTPUT_TOKENS)
        budget = body.get("thinking", {}).get("budget_tokens", 0)
        body["max_tokens"] = max(most, budget + LEAST_OUTPUT_TOKENS)
        request.adjust("max_tokens", f"set to {body['max_tokens']}", "the API requires it")
    return body


def _thinking(effort: str, call: Call, request: WireRequest) -> dict[str, Any]:
    """Return what `reasoning_effort` is for the model; raises where `max_tokens` leaves no room to think."""
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if re.search(ADAPTIVE, call.model):
        if effort == "minimal":
            effort = "low"
            request.adjust("reasoning_effort", "sent as low", "it is the API's least")
        return {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": effort}}
    budget, least = BUDGETS[effort], BUDGETS["minimal"]
    most = call.config.max_tokens or budget + LEAST_OUTPUT_TOKENS
    if most <= least:
        told = f"reasoning_effort needs max_tokens above {least} with {call.model}; it is {most}"
        raise LLMProviderUnsupportedOperationError(told)
    if most <= budget:
        budget = max(least, most // 2)
        request.adjust("reasoning_effort", f"lowered to {budget} tokens", "half of max_tokens is for the answer")
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}
