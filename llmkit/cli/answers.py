"""Printing answers: as they come, whole, as JSON; and what they used."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import LLMProviderConfigurationError
from ..events import ReasoningDelta, TextDelta
from ..prices import cost
from ..response import LLMResponse
from .terminal import dim, is_terminal, note, printable, waiting

__all__ = ["print_json", "print_parsed", "print_stream", "print_text", "print_usage", "status_of"]


def print_stream(
    provider: Any, messages: Any, options: dict[str, Any], *, reasoning: bool = False, texts: list[str] | None = None
) -> LLMResponse:
    """Print an answer while it arrives; `texts` collects its pieces, for a caller who outlives its end."""
    pieces = [] if texts is None else texts
    reasoned = False
    try:
        with waiting("waiting for the answer") as stop, provider.stream(messages, **options) as stream:
            for event in stream.events():
                if isinstance(event, TextDelta):
                    stop()
                    if reasoned and not pieces:
                        print(file=sys.stderr)
                    pieces.append(event.text)
                    _write(event.text)
                elif isinstance(event, ReasoningDelta) and reasoning:
                    stop()
                    reasoned = True
                    _write_reasoning(event.text)
            response: LLMResponse = stream.response()
    finally:
        _end_line(pieces)
    return response


def print_text(provider: Any, messages: Any, options: dict[str, Any], *, reasoning: bool = False) -> LLMResponse:
    """Print an answer once it is whole."""
    response = _whole(provider, messages, options, reasoning)
    _write(response.content)
    _end_line([response.content])
    return response


def print_json(provider: Any, messages: Any, options: dict[str, Any], *, reasoning: bool = False) -> LLMResponse:
    """Print the whole response as one JSON object."""
    response = _whole(provider, messages, options, reasoning)
    print(json.dumps(response.to_dict() | {"seconds": round(response.metadata["duration"], 3)}, ensure_ascii=False))
    return response


def print_parsed(provider: Any, messages: Any, options: dict[str, Any], *, reasoning: bool = False) -> LLMResponse:
    """Print the object that an answer is: on one line where a program reads it."""
    response = _whole(provider, messages, options, reasoning)
    print(json.dumps(response.parsed, ensure_ascii=False, indent=2 if is_terminal(sys.stdout) else None))
    return response


def _whole(provider: Any, messages: Any, options: dict[str, Any], reasoning: bool) -> LLMResponse:
    with waiting("waiting for the answer"):
        response: LLMResponse = provider.execute(messages, **options)
    if reasoning and response.reasoning:
        _write_reasoning(f"{response.reasoning}\n")
    return response


def _write(text: str) -> None:
    if sys.stdout:  # None where it is closed
        sys.stdout.write(printable(text, sys.stdout))
        sys.stdout.flush()


def _write_reasoning(text: str) -> None:
    sys.stderr.write(dim(printable(text, sys.stderr), sys.stderr))
    sys.stderr.flush()


def _end_line(texts: Sequence[str]) -> None:
    last = next((text for text in reversed(texts) if text), "")
    if last and not last.endswith("\n"):
        _write("\n")


def status_of(response: LLMResponse) -> int:
    """Return the exit code of an answer, and say what is wrong with it: a refused one is a failure, a cut one is not.

    The person has bounded the answer, or the service does.
    """
    if response.refusal:
        note(f"the model refused to answer: {response.refusal}")
        return 1
    if response.finish_reason == "content_filter":
        note("the service's content filter stopped the answer")
        return 1
    if response.finish_reason == "length":
        note("the answer was cut: it is as long as it may be; --max-tokens N allows another length")
    return 0


def print_usage(responses: Sequence[LLMResponse], name: str) -> None:
    """Print on standard error what answers have used together; what a service does not tell is left out."""
    seconds = sum(response.metadata["duration"] for response in responses)
    usages = [response.usage for response in responses if response.usage]
    told = [name]
    if usages:
        read, cached = sum(u.input_tokens for u in usages), sum(u.cache_read for u in usages)
        written, reasoned = sum(u.output_tokens for u in usages), sum(u.reasoning for u in usages)
        told.append(f"{read:,} tokens in" + (f" ({cached:,} cached)" if cached else ""))
        told.append(f"{written:,} out" + (f" ({reasoned:,} reasoning)" if reasoned else ""))
    told.append(f"{seconds:.1f} s")
    costs = [known for response in responses if (known := _cost(response)) is not None]
    if costs and len(costs) == len(responses):
        told.append(f"${sum(costs):.6f}".rstrip("0").rstrip("."))
    note(", ".join(told))


def _cost(response: LLMResponse) -> float | None:
    """Return what an answer cost, in US dollars, by what the service says, else by the price list; None: not known."""
    # OpenRouter and the gateways after it tell it.
    told = response.usage.raw.get("cost") if response.usage else None
    if isinstance(told, (int, float)):
        return told
    try:
        listed = cost(response)
    except LLMProviderConfigurationError:
        return None
    return None if listed is None else float(listed)
