"""The Messages API: what a call becomes, and what comes back; no socket, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.config import APIType
from llmkit.errors import (
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderOverloadedError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderUnsupportedOperationError,
)
from llmkit.events import Event, Finish, NativePart, ReasoningDelta, TextDelta, ToolCallDelta, UnknownEvent, UsageReport
from llmkit.factory import find_spec
from llmkit.messages import Audio, File, Image, Message, RawPart, Text
from llmkit.response import Issuer, LLMResponse, ResponseBuilder, ToolCall
from llmkit.sse import ServerSentEventParser
from llmkit.tools import Tool
from llmkit.wire import StreamDecoder, WireRequest
from llmkit.wire.messages import Messages

from .decoding import make_request

OLD, NEW = "claude-sonnet-4-5", "claude-opus-4-8"
NEWER = "2026-10-21"


def request(messages: Any = "Hello", *, model: str = OLD, **options: Any) -> WireRequest:
    dialect = find_spec("anthropic").dialect
    return make_request(Messages(), messages, dialect=dialect, provider="anthropic", model_name=model, **options)


def body(messages: Any = "Hello", **options: Any) -> dict[str, Any]:
    sent = request(messages, **options).body
    assert sent is not None
    return sent


def adjusted(sent: WireRequest) -> dict[str, str]:
    return {adjustment["parameter"]: adjustment["action"] for adjustment in sent.adjustments}


def issuer(model: str = OLD) -> Issuer:
    return Issuer("anthropic", "messages", model)


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


class TestRequest:
    def test_the_least_request(self) -> None:
        sent = request(temperature=0.5, max_tokens=100)
        assert (sent.method, sent.path, sent.query) == ("POST", "/messages", {})
        assert sent.headers == {"anthropic-version": "2023-06-01"}
        assert sent.body == {
            "model": OLD,
            "messages": [user(text("Hello"))],
            "max_tokens": 100,
            "temperature": 0.5,
        }
        assert sent.adjustments == []

    def test_every_parameter_has_its_place(self) -> None:
        sent = body(top_p=0.9, stop=["END"], stream=True, instructions="Be brief.", max_tokens=10)
        assert sent["top_p"] == 0.9
        assert sent["stop_sequences"] == ["END"]
        assert sent["stream"] is True
        assert sent["system"] == "Be brief."

    @pytest.mark.parametrize("name", ["seed", "frequency_penalty", "presence_penalty"])
    def test_what_the_api_has_no_parameter_for_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=name):
            request(**{name: 1})

    def test_a_stored_response_cannot_be_continued(self) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match="history"):
            request(previous_response_id="resp_1")

    @pytest.mark.parametrize("version", ["v1", "2023-06-01\u00e9", "latest"])
    def test_a_version_that_is_none_is_refused(self, version: str) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="api_version"):
            request(api_version=version)


class TestSampling:
    def test_a_default_temperature_goes_to_models_that_take_one(self) -> None:
        sent = request()
        assert sent.body is not None
        assert sent.body["temperature"] == 0.7
        assert sent.defaults == {"temperature": "temperature"}

    @pytest.mark.parametrize(
        ("model", "options"),
        [
            ("claude-opus-4-7", {}),
            ("claude-haiku-5-5", {}),
            (OLD, {"api_version": NEWER}),
            (OLD, {"top_p": 0.5}),
            (OLD, {"reasoning_effort": "low"}),
            (OLD, {"extra_params": {"thinking": {"type": "enabled", "budget_tokens": 2000}}}),
        ],
    )
    def test_a_default_temperature_is_left_out_where_it_would_be_refused(self, model: str, options: Any) -> None:
        sent = request(model=model, **options)
        assert sent.body is not None
        assert "temperature" not in sent.body
        assert adjusted(sent)["temperature"] == "omitted"

    def test_an_explicit_one_is_sent_to_a_model_that_may_refuse_it(self) -> None:
        assert body(model="claude-opus-4-7", temperature=0.1)["temperature"] == 0.1

    @pytest.mark.parametrize("name", ["temperature", "top_p"])
    def test_an_explicit_one_is_refused_by_name_with_a_version_that_has_none(self, name: str) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=f"{name}.*{NEWER}.*2023-06-01"):
            request(api_version=NEWER, **{name: 0.5})


class TestMaxTokens:
    @pytest.mark.parametrize(
        ("model", "plain", "streamed"),
        [
            ("claude-3-haiku-20240307", 4_096, 4_096),
            ("claude-opus-4-20250514", 4_096, 4_096),
            ("some-model", 4_096, 4_096),
            ("claude-sonnet-4-5-20250929", 21_333, 64_000),
            ("anthropic/claude-haiku-4.5", 21_333, 64_000),
            ("claude-opus-4-6", 21_333, 128_000),
            ("claude-fable-5-1", 21_333, 128_000),
        ],
    )
    def test_it_is_always_sent_and_noted(self, model: str, plain: int, streamed: int) -> None:
        assert body(model=model)["max_tokens"] == plain
        sent = request(model=model, stream=True)
        assert sent.body is not None
        assert sent.body["max_tokens"] == streamed
        assert adjusted(sent)["max_tokens"] == f"set to {streamed}"

    def test_the_callers_own_is_sent_whatever_it_is(self) -> None:
        assert body(max_tokens=100_000)["max_tokens"] == 100_000


class TestThinking:
    def test_without_effort_nothing_is_said(self) -> None:
        assert not body().keys() & {"thinking", "output_config"}

    @pytest.mark.parametrize("model", [OLD, NEW])
    def test_none_switches_it_off(self, model: str) -> None:
        assert body(model=model, reasoning_effort="none")["thinking"] == {"type": "disabled"}

    @pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-4-6", "claude-haiku-5-5", "claude-opus-5"])
    def test_newer_models_are_told_how_hard(self, model: str) -> None:
        sent = body(model=model, reasoning_effort="xhigh")
        assert sent["thinking"] == {"type": "adaptive", "display": "summarized"}
        assert sent["output_config"] == {"effort": "xhigh"}

    def test_the_least_effort_is_translated_and_noted(self) -> None:
        sent = request(model=NEW, reasoning_effort="minimal")
        assert sent.body is not None
        assert sent.body["output_config"] == {"effort": "low"}
        assert adjusted(sent)["reasoning_effort"] == "sent as low"

    @pytest.mark.parametrize(("effort", "budget"), [("minimal", 1_024), ("medium", 10_000), ("max", 24_576)])
    def test_older_models_have_a_budget_below_max_tokens(self, effort: str, budget: int) -> None:
        for model in ("claude-opus-4-1", OLD, "some-model"):
            sent = body(model=model, reasoning_effort=effort)
            assert sent["thinking"] == {"type": "enabled", "budget_tokens": budget}
            assert sent["max_tokens"] >= budget + 4_096

    def test_the_budget_fits_the_callers_max_tokens(self) -> None:
        sent = request(reasoning_effort="high", max_tokens=4_000)
        assert sent.body is not None
        assert sent.body["thinking"]["budget_tokens"] == 2_000
        assert sent.body["max_tokens"] == 4_000
        assert adjusted(sent) == {"temperature": "omitted", "reasoning_effort": "lowered to 2000 tokens"}

    def test_no_room_to_think_is_an_error(self) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=r"max_tokens above 1024.*it is 1000"):
            request(reasoning_effort="low", max_tokens=1_000)


class TestConversation:
    def test_opening_system_messages_follow_the_instructions(self) -> None:
        history = [
            {"role": "system", "content": [Text("Rules.", {"cache_control": {"type": "ephemeral"}})]},
            {"role": "developer", "content": "More rules."},
            {"role": "user", "content": "Hello"},
        ]
        assert body(history, instructions="First.")["system"] == [
            text("First."),
            {**text("Rules."), "cache_control": {"type": "ephemeral"}},
            text("More rules."),
        ]

    HISTORY = (
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "system", "content": "Now rhyme."},
        {"role": "user", "content": "Three"},
    )

    def test_a_later_system_message_stands_where_the_newer_version_takes_it(self) -> None:
        sent = request(self.HISTORY, model=NEW, api_version=NEWER)
        assert sent.body is not None
        assert sent.body["messages"][2:] == [
            user(text("Three")),
            {"role": "system", "content": [text("Now rhyme.")]},
        ]
        assert "messages" not in adjusted(sent)

    def test_a_later_system_message_is_the_users_for_the_older_version(self) -> None:
        sent = request(self.HISTORY)
        assert sent.body is not None
        assert sent.body["messages"][2:] == [user(text("Now rhyme."), text("Three"))]
        assert adjusted(sent)["messages"] == "system message sent as user's"

    def test_a_system_message_after_an_answer_is_the_users(self) -> None:
        assert body(self.HISTORY[:3], model=NEW, api_version=NEWER)["messages"][2:] == [user(text("Now rhyme."))]

    def test_results_of_one_turn_are_one_message_before_any_text(self) -> None:
        calls = (ToolCall("a", "f", {"x": 1}), ToolCall("b_1", "g"))
        history = [
            Message(role="user", content="Go"),
            Message(role="assistant", content="I will.", tool_calls=calls),
            Message(role="user", content="Be quick."),
            Message(role="tool", content="1", tool_call_id="a"),
            Message(role="tool", content=[Image(b"png")], tool_call_id="b_1", is_error=True),
        ]
        _, answer, results = body(history)["messages"]
        assert answer["content"] == [
            text("I will."),
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "b_1", "name": "g", "input": {}},
        ]
        first, second, said = results["content"]
        assert first == {"type": "tool_result", "tool_use_id": "a", "content": [text("1")]}
        assert (second["tool_use_id"], second["is_error"]) == ("b_1", True)
        assert second["content"][0]["type"] == "image"
        assert said == text("Be quick.")

    def test_roles_alternate_and_empty_texts_are_left_out(self) -> None:
        history = [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": ["", "Two"]},
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "assistant", "content": "Well."},
        ]
        assert body(history)["messages"] == [
            user(text("One"), text("Two")),
            {"role": "assistant", "content": [text("No."), text("Well.")]},
        ]

    def test_arguments_are_an_object_whatever_was_written(self) -> None:
        calls = (ToolCall.from_text("a", "f", '{"x": '), ToolCall.from_text("b", "g", "free text", "custom"))
        (message,) = body([Message(role="assistant", content=None, tool_calls=calls)])["messages"]
        inputs = [block["input"] for block in message["content"]]
        assert inputs == [{"INVALID_JSON": '{"x": '}, {"input": "free text"}]


class TestParts:
    @pytest.mark.parametrize(
        ("part", "block"),
        [
            (
                Text("a", {"cache_control": {"type": "ephemeral"}}),
                {**text("a"), "cache_control": {"type": "ephemeral"}},
            ),
            (
                Image(b"png", "image/webp"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "cG5n"}},
            ),
            (Image(url="https://a/b.png"), {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}),
            (Image(file_id="file_1"), {"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
            (File(url="https://a/b"), {"type": "document", "source": {"type": "url", "url": "https://a/b"}}),
            (File(file_id="file_1"), {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
            (
                File(b"%PDF", "a.pdf", extra={"citations": {"enabled": True}}),
                {
                    "type": "document",
                    "title": "a.pdf",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
                    "citations": {"enabled": True},
                },
            ),
            (
                File("é".encode(), "a.md", "text/markdown"),
                {
                    "type": "document",
                    "title": "a.md",
                    "source": {"type": "text", "media_type": "text/plain", "data": "é"},
                },
            ),
            (RawPart({"type": "search_result", "x": 1}), {"type": "search_result", "x": 1}),
        ],
    )
    def test_a_part_is_a_block(self, part: Any, block: dict[str, Any]) -> None:
        assert body([Message(role="user", content=[part])])["messages"] == [user(block)]

    @pytest.mark.parametrize(
        ("part", "named"),
        [
            (Audio(b"RIFF"), "audio"),
            (File(b"PK", "a.docx", "application/msword"), "application/msword"),
            (File(b"\xff\xfe", "a.txt", "text/plain"), "UTF-8"),
        ],
    )
    def test_what_the_api_cannot_read_is_named(self, part: Any, named: str) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=named):
            body([Message(role="user", content=[part])])


TOOL = {"name": "f", "description": "Does f.", "parameters": {"properties": {"x": {"type": "integer"}}}, "strict": True}


class TestTools:
    def test_a_tool_has_a_schema_even_without_parameters(self) -> None:
        search = {"type": "web_search_20260318", "name": "web_search"}
        sent = body(tools=[{"type": "function", "function": TOOL}, Tool(name="g"), search])["tools"]
        assert sent == [
            {
                "name": "f",
                "description": "Does f.",
                "strict": True,
                "input_schema": {"type": "object", "properties": {"x": {"type": "integer"}}},
            },
            {"name": "g", "input_schema": {"type": "object", "properties": {}}},
            search,
        ]

    @pytest.mark.parametrize(
        ("choice", "parallel", "sent"),
        [
            (None, None, None),
            ("auto", None, {"type": "auto"}),
            ("none", False, {"type": "none"}),
            ("required", None, {"type": "any"}),
            ("f", True, {"type": "tool", "name": "f"}),
            ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
            ({"type": "function", "name": "f"}, None, {"type": "tool", "name": "f"}),
            ({"type": "any"}, False, {"type": "any", "disable_parallel_tool_use": True}),
            (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ],
    )
    def test_the_choice(self, choice: Any, parallel: bool | None, sent: Any) -> None:
        assert body(tools=[Tool(name="f")], tool_choice=choice, parallel_tool_calls=parallel).get("tool_choice") == sent

    def test_parallel_calls_need_no_word_where_there_are_no_tools(self) -> None:
        assert "tool_choice" not in body(parallel_tool_calls=False)


class TestResponseFormat:
    SCHEMA: ClassVar = {"type": "object", "properties": {"a": {"type": "string"}}}

    @pytest.mark.parametrize("wrap", [True, False])
    def test_a_schema(self, wrap: bool) -> None:
        inner = {"name": "answer", "schema": self.SCHEMA, "strict": True}
        given = {"type": "json_schema", "json_schema": inner} if wrap else {"type": "json_schema", **inner}
        sent = body(model=NEW, reasoning_effort="low", response_format=given)
        assert sent["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": self.SCHEMA}}

    def test_text_is_what_it_is_anyway(self) -> None:
        assert "output_config" not in body(response_format={"type": "text"})

    def test_json_without_a_schema_is_refused(self) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match="json_object"):
            body(response_format={"type": "json_object"})


NATIVE = (
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "eA=="},
    {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
    {"type": "text", "text": "Found", "citations": [{"type": "web_search_result_location", "url": "https://a"}]},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
)


class TestNativeParts:
    def answer(self, **changes: Any) -> LLMResponse:
        calls = [ToolCall("toolu_1", "f", {"x": 1}, '{"x": 1}')]
        return LLMResponse(
            **{"content": "Found", "tool_calls": calls, "native": list(NATIVE), "issuer": issuer(), **changes}
        )

    def sent(self, message: Any, model: str = OLD) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = body([{"role": "user", "content": "Go"}, message], model=model)["messages"][1][
            "content"
        ]
        return content

    def test_they_go_back_word_for_word_in_their_order(self) -> None:
        message = json.loads(json.dumps(self.answer().to_message()))
        assert self.sent(message) == list(NATIVE)

    def test_a_paused_answer_is_continued_by_sending_it_back(self) -> None:
        paused = self.answer(content="", tool_calls=[], native=list(NATIVE[:3]))
        assert self.sent(paused.to_message()) == list(NATIVE[:3])

    @pytest.mark.parametrize("change", [{"content": "Edited"}, {"tool_calls": []}])
    def test_an_edited_message_goes_without_them(self, change: dict[str, Any]) -> None:
        assert not [block for block in self.sent(self.answer(**change).to_message()) if "thinking" in block["type"]]

    def test_another_issuers_are_left_out(self) -> None:
        assert self.sent(self.answer().to_message(), model=NEW) == [
            text("Found"),
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
        ]


def decoded(*events: dict[str, Any]) -> tuple[list[Event], StreamDecoder]:
    decoder, parser = Messages().decoder(), ServerSentEventParser()
    sent = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return decoder.feed(parser.feed(sent.encode())) + decoder.end(parser.close()), decoder


def built(events: Iterable[Event]) -> LLMResponse:
    builder = ResponseBuilder()
    builder.extend(events)
    return builder.build(issuer(), APIType.CHAT_COMPLETION)


def start(usage: dict[str, Any] | None = None) -> dict[str, Any]:
    message = {"id": "msg_1", "model": OLD, "content": [], "usage": usage or {"input_tokens": 3, "output_tokens": 1}}
    return {"type": "message_start", "message": message}


def block(index: int, value: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": value},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def words(index: int, *pieces: str) -> list[dict[str, Any]]:
    return block(index, text(""), *({"type": "text_delta", "text": piece} for piece in pieces))


def delta(reason: str | None = "end_turn", usage: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **more}, "usage": usage or {"output_tokens": 9}}


STOP = {"type": "message_stop"}


class TestStream:
    def test_text(self) -> None:
        events, decoder = decoded(start(), {"type": "ping"}, *words(0, "Hel", "", "lo"), delta(), STOP)
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hel", "lo"]
        answer = built(events)
        assert (answer.response_id, answer.model, answer.finish_reason) == ("msg_1", OLD, "stop")
        assert decoder.finished
        assert decoder.raw["content"] == [text("Hello")]
        assert decoder.raw["usage"] == {"input_tokens": 3, "output_tokens": 9}

    def test_blocks_are_native_parts_once_they_are_whole(self) -> None:
        thought = [{"type": "thinking_delta", "thinking": "Hm"}, {"type": "thinking_delta", "thinking": "."}]
        citation = {"type": "citations_delta", "citation": {"url": "https://a"}}
        events, _ = decoded(
            start(),
            *block(
                0, {"type": "thinking", "thinking": "", "signature": ""}, *thought, signature("c2"), signature("ln")
            ),
            *block(1, {"type": "redacted_thinking", "data": "eA=="}),
            *block(
                2, {"type": "server_tool_use", "id": "s", "name": "n", "input": {}}, arguments('{"a"'), arguments(":1}")
            ),
            *block(3, {**text(""), "citations": None}, citation, {"type": "text_delta", "text": "Yes"}, citation),
            *block(4, {"type": "thinking", "thinking": "", "signature": ""}, *thought),
            delta(),
            STOP,
        )
        assert [event.part for event in events if isinstance(event, NativePart)] == [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "eA=="},
            {"type": "server_tool_use", "id": "s", "name": "n", "input": {"a": 1}},
            {**text("Yes"), "citations": [{"url": "https://a"}] * 2},
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
        ]
        assert [event.text for event in events if isinstance(event, ReasoningDelta)] == ["Hm", ".", "\n\nHm", "."]
        assert built(events).tool_calls == []

    @pytest.mark.parametrize(
        ("pieces", "call"),
        [
            (['{"x"', ": 1}"], ToolCall("t", "f", {"x": 1}, '{"x": 1}')),
            ([""], ToolCall("t", "f", {}, "{}")),
            ([], ToolCall("t", "f", {}, "{}")),
        ],
    )
    def test_arguments_come_in_pieces_or_not_at_all(self, pieces: list[str], call: ToolCall) -> None:
        use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
        events, decoder = decoded(start(), *block(0, use, *map(arguments, pieces)), delta("tool_use"), STOP)
        answer = built(events)
        assert answer.tool_calls == [call]
        assert answer.finish_reason == "tool_calls"
        assert decoder.raw["content"] == [{**use, "input": call.arguments}]

    def test_arguments_that_were_cut_are_told_and_can_be_sent_back(self) -> None:
        use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
        events, _ = decoded(start(), *block(0, use, arguments('{"x": ')), delta("max_tokens"), STOP)
        answer = built(events)
        assert answer.tool_calls[0].parse_error
        assert answer.tool_calls[0].arguments_text == '{"x": '
        assert answer.finish_reason == "length"
        (message,) = body([answer.to_message()])["messages"]
        assert message["content"] == [{**use, "input": {"INVALID_JSON": '{"x": '}}]

    def test_calls_are_counted_whatever_stands_between_them(self) -> None:
        uses = [{"type": "tool_use", "id": f"t{i}", "name": "f", "input": {"i": i}} for i in range(2)]
        events, _ = decoded(start(), *block(0, uses[0]), *words(1, "and"), *block(2, uses[1]), delta("tool_use"), STOP)
        assert [event.index for event in events if isinstance(event, ToolCallDelta)] == [0, 0, 1, 1]
        assert [call.arguments for call in built(events).tool_calls] == [{"i": 0}, {"i": 1}]

    def test_usage_is_a_total_whose_last_figures_count(self) -> None:
        first = {"input_tokens": 5, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 2, "output_tokens": 1}
        last = {
            "input_tokens": 50,
            "cache_read_input_tokens": None,
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 15},
        }
        events, _ = decoded(start(first), *words(0, "a"), delta(usage=last), STOP)
        reports = [event.usage for event in events if isinstance(event, UsageReport)]
        assert len(reports) == 2
        usage = reports[-1]
        assert (usage.input_uncached, usage.cache_read, usage.cache_write) == (50, 7, 2)
        assert (usage.output_text, usage.reasoning, usage.total_tokens) == (5, 15, 79)

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("refusal", "content_filter"),
            ("pause_turn", "pause"),
            ("something_new", "other"),
            (None, "other"),
        ],
    )
    def test_finish_reasons(self, raw: str | None, reason: str) -> None:
        events, _ = decoded(start(), *words(0, "a"), delta(raw), STOP)
        assert events[-1] == Finish(reason, raw)

    def test_a_refusal_is_explained(self) -> None:
        details = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
        events, decoder = decoded(start(), delta("refusal", stop_details=details), STOP)
        answer = built(events)
        assert (answer.refusal, answer.finish_reason) == ("Not this.", "content_filter")
        assert decoder.raw["stop_details"] == details

    def test_what_is_not_known_breaks_nothing(self) -> None:
        events, _ = decoded(
            start(),
            {"type": "weather_report", "sun": True},
            *block(0, {"type": "hologram", "x": 1}, {"type": "hologram_delta", "y": 2}),
            *words(1, "a"),
            delta(),
            STOP,
        )
        assert [event.type for event in events if isinstance(event, UnknownEvent)] == [
            "weather_report",
            "hologram_delta",
        ]
        assert NativePart({"type": "hologram", "x": 1}) in events
        assert built(events).content == "a"

    def test_nothing_counts_after_the_end(self) -> None:
        events, decoder = decoded(start(), *words(0, "a"), delta(), STOP, *words(1, "b"))
        assert built(events).content == "a"
        assert not decoder.feed(ServerSentEventParser().feed(b"event: data\ndata: [DONE]\n\n"))
        assert decoder.failure is None

    @pytest.mark.parametrize("length", range(7))
    def test_a_stream_without_its_end_is_cut(self, length: int) -> None:
        events = [start(), *words(0, "a", "b"), delta(), STOP]
        _, decoder = decoded(*events[:length])
        assert isinstance(decoder.failure, LLMProviderStreamError)
        assert (decoder.failure is None) == decoder.finished

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ({"type": "overloaded_error", "message": "Overloaded"}, LLMProviderOverloadedError),
            ({"type": "rate_limit_error", "message": "Slow down"}, LLMProviderRateLimitError),
            ({"type": "api_error", "message": "Internal"}, LLMProviderServerError),
            (
                {"type": "rate_limit_error", "message": "-", "details": {"error_code": "enforced_spend_limit_reached"}},
                LLMProviderQuotaError,
            ),
        ],
    )
    def test_an_error_event_is_the_exception_of_its_type(self, error: Any, kind: type[LLMProviderError]) -> None:
        events, decoder = decoded(start(), *words(0, "a"), {"type": "error", "error": error}, delta(), STOP)
        assert type(decoder.failure) is kind
        assert built(events).content == "a"

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "content_block_delta", "index": 5, "delta": {"type": "text_delta", "text": "a"}},
            {"type": "content_block_delta", "index": 0, "delta": None},
            {"type": "message_start"},
            {"type": "message_delta", "delta": []},
        ],
    )
    def test_a_shape_that_makes_no_sense_is_a_failure(self, event: dict[str, Any]) -> None:
        _, decoder = decoded(start(), event, STOP)
        assert isinstance(decoder.failure, LLMProviderStreamError)

    def test_a_block_that_was_not_closed_is_closed_by_the_end(self) -> None:
        events, decoder = decoded(start(), *words(0, "a")[:-1], delta(), STOP)
        assert NativePart(text("a")) in events
        assert decoder.finished

    def test_half_a_surrogate_pair_finds_its_other_half(self) -> None:
        events, decoder = decoded(start(), *words(0, "\ud83d", "\ude00"), delta(), STOP)
        assert built(events).content == "😀"
        assert decoder.raw["content"] == [text("😀")]


def signature(piece: str) -> dict[str, Any]:
    return {"type": "signature_delta", "signature": piece}


def arguments(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


class TestBody:
    def test_a_whole_message_gives_what_a_stream_gives(self) -> None:
        content = [*NATIVE, text("More")]
        plain = {"id": "m", "model": OLD, "content": content, "stop_reason": "tool_use", "usage": {"input_tokens": 1}}
        decoder = Messages().decoder()
        answer = built(decoder.read(plain))
        assert (answer.content, answer.reasoning, answer.finish_reason) == ("FoundMore", "Hm.", "tool_calls")
        assert answer.tool_calls == [ToolCall("toolu_1", "f", {"x": 1}, '{"x": 1}')]
        assert answer.native == content
        assert decoder.raw is plain

    @pytest.mark.parametrize("plain", [{}, {"content": "a"}, {"content": [1]}, {"content": [{}]}, [], None])
    def test_what_is_no_message_is_an_error(self, plain: Any) -> None:
        with pytest.raises(LLMProviderServerError):
            Messages().decoder().read(plain)


@given(
    st.lists(
        st.tuples(st.sampled_from(["text", "thinking", "tool_use"]), st.lists(st.text(max_size=5), max_size=4)),
        max_size=5,
    )
)
def test_streamed_and_whole_answers_agree(blocks: list[tuple[str, list[str]]]) -> None:
    streamed, whole = [], []
    for index, (kind, pieces) in enumerate(blocks):
        if kind == "tool_use":
            value = {"type": kind, "id": f"t{index}", "name": "f"}
            inner = {"pieces": pieces}
            streamed += block(index, {**value, "input": {}}, arguments(json.dumps(inner, ensure_ascii=False)))
            whole.append({**value, "input": inner})
        else:
            deltas = [{"type": f"{kind}_delta", kind: piece} for piece in pieces]
            streamed += block(index, {"type": kind, kind: ""}, *deltas)
            whole.append({"type": kind, kind: "".join(pieces)})
    usage = {"input_tokens": 3, "output_tokens": 9}
    events, decoder = decoded(start(), *streamed, delta(), STOP)
    assert decoder.raw["content"] == whole
    body = {"id": "msg_1", "model": OLD, "content": whole, "stop_reason": "end_turn", "usage": usage}
    assert built(events) == built(Messages().decoder().read(body))
