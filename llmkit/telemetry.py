"""Spans and metrics of each call for OpenTelemetry (the extra `otel`), by the semantic conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/. Imports errors, hooks, messages, response and retry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .errors import LLMProviderConfigurationError, LLMProviderError
from .hooks import CallRecord, Hooks
from .messages import Message, Text
from .response import LLMResponse, ToolCall
from .retry import Attempt

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider  # type: ignore[import-not-found, unused-ignore]
    from opentelemetry.trace import Span, TracerProvider  # type: ignore[import-not-found, unused-ignore]

__all__ = ["opentelemetry_hooks"]

# The conventions' names for services, where they are not llmkit's.
NAMES: Final[Mapping[str, str]] = {
    "azure": "azure.ai.openai",
    "azure-deployments": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
# The conventions' buckets, in seconds and in tokens.
SECONDS: Final = [0.01 * 2**power for power in range(14)]
TOKENS: Final = [4**power for power in range(14)]


def opentelemetry_hooks(
    *,
    content: bool = False,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Hooks:
    """Return hooks that report each call to OpenTelemetry.

    provider = create_llm_provider("openai", model_name="gpt-4o", hooks=opentelemetry_hooks())

    Each call is a span, such as "chat gpt-4o", below the one that is current where the call begins; each failed try
    is an event of it. The metrics are `gen_ai.client.operation.duration`, `gen_ai.client.token.usage` and
    `gen_ai.client.operation.time_to_first_chunk`. Prompts, answers and the words of errors are reported only with
    `content`. The providers are OpenTelemetry's; None takes the process's. Raises LLMProviderConfigurationError where
    `opentelemetry-api` is not installed.
    """
    try:
        from opentelemetry import metrics, trace  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LLMProviderConfigurationError(
            'telemetry needs the package opentelemetry-api: type `pip install "llmkit[otel]"`'
        ) from None
    tracer = trace.get_tracer(__name__, tracer_provider=tracer_provider)
    meter = metrics.get_meter(__name__, meter_provider=meter_provider)
    duration = meter.create_histogram(
        "gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=SECONDS
    )
    first_chunk = meter.create_histogram(
        "gen_ai.client.operation.time_to_first_chunk", "s", explicit_bucket_boundaries_advisory=SECONDS
    )
    usage = meter.create_histogram("gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=TOKENS)
    mine = object()

    def before(record: CallRecord) -> None:
        attributes = _of_request(record)
        if content:
            attributes |= _content_of_request(record)
        name = f"{attributes['gen_ai.operation.name']} {record.call.model}"
        record.state[mine] = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)

    def retry(record: CallRecord, attempt: Attempt) -> None:
        shown = {f"llmkit.retry.{name}": value for name, value in attempt.items() if value is not None}
        record.state[mine].add_event("llmkit.retry", shown)

    def after(record: CallRecord) -> None:
        span: Span | None = record.state.pop(mine, None)
        shared = {name: value for name, value in _of_request(record).items() if name in SHARED}
        if record.response:
            shared["gen_ai.response.model"] = record.response.model
        if record.error is not None:
            shared["error.type"] = _error_type(record.error)
        duration.record(record.duration or 0.0, shared)
        if record.time_to_first_token is not None:
            first_chunk.record(record.time_to_first_token, shared)
        counted = record.response and not record.cached and record.response.usage
        if counted:
            usage.record(counted.input_tokens, {**shared, "gen_ai.token.type": "input"})
            usage.record(counted.output_tokens, {**shared, "gen_ai.token.type": "output"})
        if span is None:
            return
        span.set_attributes(_of_end(record, content) | shared)
        if record.error is not None:
            span.set_status(trace.StatusCode.ERROR, str(record.error) if content else None)
        span.end()

    return Hooks(before=before, retry=retry, after=after)


# What metrics have, too: few values each.
SHARED: Final = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "server.address",
    "server.port",
)
PARAMETERS: Final = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}


def _of_request(record: CallRecord) -> dict[str, Any]:
    call, address = record.call, urlsplit(record.address)
    found: dict[str, Any] = {
        "gen_ai.operation.name": record.operation,
        "gen_ai.provider.name": NAMES.get(record.provider, record.provider),
        "gen_ai.request.model": call.model,
        "server.address": address.hostname,
        "server.port": address.port or {"https": 443, "http": 80}.get(address.scheme),
    }
    if call.messages:
        found |= {name: call.sampling().get(parameter) for parameter, name in PARAMETERS.items()}
        found["gen_ai.request.stream"] = True if call.stream else None
        found["gen_ai.output.type"] = "json" if call.response_format or call.output_format else None
    return {name: value for name, value in found.items() if value is not None}


def _of_end(record: CallRecord, content: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"gen_ai.response.time_to_first_chunk": record.time_to_first_token}
    answer = record.response
    if record.cached:
        found["llmkit.cached"] = True
    if answer:
        found["gen_ai.response.id"] = answer.response_id
        found["gen_ai.response.finish_reasons"] = [answer.finish_reason] if answer.finish_reason else None
        if answer.usage:
            found["gen_ai.usage.input_tokens"] = answer.usage.input_tokens
            found["gen_ai.usage.output_tokens"] = answer.usage.output_tokens
            found["gen_ai.usage.cache_read.input_tokens"] = answer.usage.cache_read
            found["gen_ai.usage.cache_creation.input_tokens"] = answer.usage.cache_write
            found["gen_ai.usage.reasoning.output_tokens"] = answer.usage.reasoning
        if content:
            found["gen_ai.output.messages"] = _as_json([_output_message(answer)])
    return {name: value for name, value in found.items() if value is not None}


def _error_type(error: BaseException) -> str:
    code = error.code or error.status_code if isinstance(error, LLMProviderError) else None
    return str(code or type(error).__name__)


def _content_of_request(record: CallRecord) -> dict[str, Any]:
    call = record.call
    found = {}
    if call.messages:
        found["gen_ai.input.messages"] = _as_json([_input_message(message) for message in call.messages])
    if call.instructions:
        found["gen_ai.system_instructions"] = _as_json([{"type": "text", "content": call.instructions}])
    return found


def _input_message(message: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if message.role == "tool":
        response = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}
        return {"role": "tool", "parts": [response]}
    for part in message.parts:
        # The bytes of pictures, sounds and files are no matter for a log.
        parts.append({"type": "text", "content": part.text} if isinstance(part, Text) else {"type": _kind(part)})
    return {"role": message.role, "parts": [*parts, *_tool_calls(message.tool_calls)]}


def _kind(part: object) -> str:
    return type(part).__name__.lower()


def _output_message(answer: LLMResponse) -> dict[str, Any]:
    texts = {"reasoning": answer.reasoning, "text": answer.content or answer.refusal}
    parts = [{"type": kind, "content": text} for kind, text in texts.items() if text]
    return {
        "role": "assistant",
        "parts": [*parts, *_tool_calls(answer.tool_calls)],
        "finish_reason": answer.finish_reason or "error",
    }


def _tool_calls(calls: Any) -> Iterator[dict[str, Any]]:
    call: ToolCall
    for call in calls:
        arguments = call.arguments or call.arguments_text
        yield {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
