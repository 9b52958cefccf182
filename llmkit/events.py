"""What happens while an answer arrives, one small class an event. Depends on nothing.

An event is named after what happened. The classes are plain, not frozen, because thousands are made a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Event",
    "Finish",
    "NativePart",
    "RawEvent",
    "ReasoningDelta",
    "RefusalDelta",
    "ResponseStart",
    "TextDelta",
    "ToolCallDelta",
    "UnknownEvent",
    "Usage",
    "UsageReport",
    "is_output",
]


@dataclass(slots=True)
class TextDelta:
    """The next piece of the answer's text; never empty."""

    text: str


@dataclass(slots=True)
class ReasoningDelta:
    """The next piece of the model's reasoning, or of its summary; never empty."""

    text: str


@dataclass(slots=True)
class RefusalDelta:
    """The next piece of the sentence with which the model declines to answer."""

    text: str


@dataclass(slots=True)
class ToolCallDelta:
    """The next piece of a tool call.

    `index` counts the answer's calls from 0. `id` and `name` stand on the call's first piece (and are None or
    repeated later); `arguments` is the next piece of the JSON text, often empty at first. `kind` is "function",
    or "custom" for a tool that takes free text.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    kind: str = "function"


@dataclass(slots=True)
class Usage:
    """Tokens of one call in disjoint parts, whose sums are the totals.

    `input_uncached`, `cache_read`, `cache_write` and `input_audio` are the prompt; `output_text`, `reasoning` and
    `output_audio` are the answer. `raw` is what the service sent.
    """

    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    input_audio: int = 0
    output_text: int = 0
    reasoning: int = 0
    output_audio: int = 0
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def input_tokens(self) -> int:
        """All tokens of the prompt."""
        return self.input_uncached + self.cache_read + self.cache_write + self.input_audio

    @property
    def output_tokens(self) -> int:
        """All tokens of the answer, reasoning included."""
        return self.output_text + self.reasoning + self.output_audio

    @property
    def total_tokens(self) -> int:
        """All tokens of the call."""
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class UsageReport:
    """The service told what the call used so far; a later report replaces an earlier one."""

    usage: Usage


@dataclass(slots=True)
class ResponseStart:
    """The service named its answer: the id and the model that really answers; None where it does not say."""

    id: str | None = None
    model: str | None = None


@dataclass(slots=True)
class NativePart:
    """A part of the answer that only its issuer understands and wants back word for word in the next turn."""

    part: dict[str, Any]


@dataclass(slots=True)
class Finish:
    """The answer ended: `reason` is one of `response.FinishReason`, `raw_reason` the service's own word."""

    reason: str
    raw_reason: str | None = None


@dataclass(slots=True)
class RawEvent:
    """A server-sent event as it came, before the events that are made of it; only where `raw_events` asks for it."""

    type: str
    data: str


@dataclass(slots=True)
class UnknownEvent:
    """The service sent an event that llmkit has no class for: its type and its decoded JSON."""

    type: str
    data: Any


Event = (
    TextDelta
    | ReasoningDelta
    | RefusalDelta
    | ToolCallDelta
    | UsageReport
    | ResponseStart
    | NativePart
    | Finish
    | RawEvent
    | UnknownEvent
)


def is_output(event: Event) -> bool:
    """Return whether an event is a part of the answer itself, after which a call cannot be tried again."""
    return not isinstance(event, (ResponseStart, UsageReport, RawEvent, UnknownEvent))
