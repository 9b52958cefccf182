"""What OpenTelemetry is told of calls, and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmkit import LLMProviderError, LLMResponse, MemoryCache, Usage, create_sync_llm_provider
from llmkit.prices import cost
from llmkit.telemetry import opentelemetry_hooks

from .answers import ChatCompletions, error_body
from .server import CLOSE, Server, json_reply, stream_reply

API = ChatCompletions()


class Telemetry:
    """An OpenTelemetry of its own, that keeps what it is told."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.providers: dict[str, Any] = {
            "tracer_provider": self.tracer_provider,
            "meter_provider": MeterProvider([self.reader]),
        }

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def points(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        data: Any = self.reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: [(p.sum, dict(p.attributes)) for p in metric.data.data_points] for metric in metrics}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def make_provider(server: Server, telemetry: Telemetry, content: bool = False, **settings: Any) -> Any:
    hooks = opentelemetry_hooks(content=content, **telemetry.providers)
    own = {"model_name": "gpt-4o", "api_key": "sk-test", "base_url": server.base_url, "hooks": hooks}
    return create_sync_llm_provider("openai", **own | settings)


def test_a_call_is_a_span_and_three_metrics(server: Server, telemetry: Telemetry) -> None:
    server.add(json_reply({}, 503, retry_after="0"), json_reply(API.plain("Hello, Ada!")))
    with make_provider(server, telemetry) as provider:
        with telemetry.tracer_provider.get_tracer("test").start_as_current_span("outer"):
            provider.execute("I am Ada", system_prompt="Be brief", max_tokens=50, stop=["END"])
    span, outer = telemetry.spans
    assert (span.name, span.kind, span.status.status_code) == ("chat gpt-4o", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.parent.span_id == outer.context.span_id
    port = int(server.url.rpartition(":")[2])
    shared = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert dict(span.attributes) == shared | {
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.response.id": API.id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 2,
    }
    (event,) = span.events
    assert event.name == "llmkit.retry" and event.attributes["llmkit.retry.status_code"] == 503
    points = telemetry.points()
    assert set(points) == {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}
    assert [(value, attributes["gen_ai.token.type"]) for value, attributes in points["gen_ai.client.token.usage"]] == [
        (11, "input"),
        (7, "output"),
    ]
    ((seconds, attributes),) = points["gen_ai.client.operation.duration"]
    assert attributes == shared and seconds == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1)
    assert "Ada" not in telemetry.spans[0].to_json()


def test_a_stream_has_a_time_to_its_first_chunk(server: Server, telemetry: Telemetry) -> None:
    server.add(stream_reply(API.stream("Hel", "lo!")))
    with make_provider(server, telemetry) as provider:
        response = provider.stream("Hi").response()
    (span,) = telemetry.spans
    assert span.attributes["gen_ai.request.stream"] is True
    first = response.metadata["time_to_first_token"]
    assert span.attributes["gen_ai.response.time_to_first_chunk"] == first
    assert telemetry.points()["gen_ai.client.operation.time_to_first_chunk"][0][0] == first


@pytest.mark.parametrize("content", [False, True])
def test_content_is_reported_only_where_it_is_asked_for(server: Server, telemetry: Telemetry, content: bool) -> None:
    call = [("get_weather", '{"city": "Oslo"}')]
    server.add(
        json_reply(API.plain("Wait.", calls=call, finish="tool_calls")), json_reply(error_body("secret words"), 400)
    )
    messages: list[Any] = [
        {
            "role": "user",
            "content": ["I am Ada", {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}],
        },
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny"},
    ]
    with make_provider(server, telemetry, content=content) as provider:
        provider.execute(messages, system_prompt="Be brief")
        with pytest.raises(LLMProviderError):
            provider.execute("I am Ada")
    answered, refused = telemetry.spans
    assert refused.status.status_code is StatusCode.ERROR
    if not content:
        everything = answered.to_json() + refused.to_json()
        assert not [word for word in ("Ada", "Sunny", "brief", "Wait", "Oslo", "secret words") if word in everything]
        return
    assert "secret words" in refused.status.description
    assert json.loads(answered.attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief"}]
    assert json.loads(answered.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "I am Ada"}, {"type": "image"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "f", "arguments": {"a": 1}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "Sunny"}]},
    ]
    (message,) = json.loads(answered.attributes["gen_ai.output.messages"])
    assert message["parts"][0] == {"type": "text", "content": "Wait."}
    assert (message["parts"][1]["name"], message["parts"][1]["arguments"]) == ("get_weather", {"city": "Oslo"})
    assert message["finish_reason"] == "tool_calls"


def test_a_failure_is_named_and_a_broken_stream_keeps_its_partial_answer_to_itself(
    server: Server, telemetry: Telemetry
) -> None:
    server.add(json_reply(error_body("no", code="model_not_found"), 404))
    server.add([*stream_reply(API.begun("Hel"), end=False), CLOSE])
    with make_provider(server, telemetry) as provider:
        for mode in ("disabled", "auto"):
            with pytest.raises(LLMProviderError):
                provider.execute("Hi", stream_mode=mode)
    refused, cut = telemetry.spans
    assert refused.attributes["error.type"] == "model_not_found" and refused.status.description is None
    assert cut.attributes["error.type"] == "RemoteProtocolError" and "gen_ai.usage.input_tokens" not in cut.attributes
    errors = [attributes.get("error.type") for _, attributes in telemetry.points()["gen_ai.client.operation.duration"]]
    assert sorted(errors) == ["RemoteProtocolError", "model_not_found"]


def test_a_cached_answer_uses_no_tokens(server: Server, telemetry: Telemetry) -> None:
    server.add(json_reply(API.plain()))
    with make_provider(server, telemetry, cache=MemoryCache()) as provider:
        answers = [provider.execute("Hi") for _ in range(2)]
    assert [span.attributes.get("llmkit.cached") for span in telemetry.spans] == [None, True]
    assert telemetry.points()["gen_ai.client.token.usage"][0][0] == 11
    assert [cost(answer) for answer in answers] == [Decimal("0.0000925"), 0]


def test_what_an_answer_cost() -> None:
    usage = Usage(input_uncached=800, cache_read=200, output_text=90, reasoning=10)
    answer = LLMResponse("Hi", model="gpt-4o-2024-08-06", provider_type="openai", usage=usage)
    # 2.50, 1.25 and 10 dollars a million tokens.
    assert cost(answer) == Decimal("0.00325")
    assert cost(LLMResponse("Hi", model="gpt-4o", provider_type="openai")) is None
    assert cost(LLMResponse("Hi", model="smollm2", provider_type="local", usage=usage)) is None
    assert cost(LLMResponse("Hi", model="no-such-model", provider_type="openai", usage=usage)) is None


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ("opentelemetry", "from llmkit.telemetry import opentelemetry_hooks as f; f()"),
        ("genai_prices", "from llmkit import LLMResponse; from llmkit.prices import cost; cost(LLMResponse('Hi'))"),
    ],
)
def test_a_missing_package_is_named(package: str, code: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; {code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "LLMProviderConfigurationError" in done.stderr and 'pip install "llmkit[' in done.stderr
