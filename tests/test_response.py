"""The whole answer, and how events become one."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.config import APIType
from llmkit.events import (
    Event,
    Finish,
    NativePart,
    ReasoningDelta,
    RefusalDelta,
    ResponseStart,
    TextDelta,
    ToolCallDelta,
    UnknownEvent,
    Usage,
    UsageReport,
    is_output,
)
from llmkit.response import Issuer, LLMResponse, ResponseBuilder, ToolCall

ISSUER = Issuer("openai", "chat_completions", "gpt-4o")


def built(*events: Event) -> LLMResponse:
    builder = ResponseBuilder()
    builder.extend(events)
    return builder.build(ISSUER, APIType.CHAT_COMPLETION)


class TestBuilder:
    def test_every_event_has_its_place(self) -> None:
        usage = Usage(input_uncached=3, cache_read=1, output_text=2, reasoning=5, raw={"total": 11})
        made = built(
            ResponseStart("id_1", "gpt-4o-2024"), ReasoningDelta("Hm"), ReasoningDelta("."), TextDelta("He"),
            RefusalDelta("No"), RefusalDelta("."), TextDelta("llo"), ToolCallDelta(0, "1", "f", '{"x"'),
            ToolCallDelta(0, arguments=": 1}"), UnknownEvent("new", {}), NativePart({"type": "a"}),
            NativePart({"type": "b"}), UsageReport(usage), Finish("tool_calls", "tool_use"),
        )  # fmt: skip
        assert made == LLMResponse(
            content="Hello", model="gpt-4o-2024", provider_type="openai", api_type=APIType.CHAT_COMPLETION,
            prompt_tokens=4, completion_tokens=7, total_tokens=11, finish_reason="tool_calls",
            raw_finish_reason="tool_use", response_id="id_1", tool_calls=[ToolCall("1", "f", {"x": 1}, '{"x": 1}')],
            reasoning="Hm.", refusal="No.", usage=usage, native=[{"type": "a"}, {"type": "b"}], issuer=ISSUER,
        )  # fmt: skip

    @pytest.mark.parametrize("together", [1, 7, 5000])
    def test_a_long_text_takes_little_more_than_its_size(self, together: int) -> None:
        texts = [f"{number:05} é" for number in range(5000)]
        kinds: list[Any] = [TextDelta, ReasoningDelta, lambda text: ToolCallDelta(0, arguments=text)]
        for kind in kinds:
            builder = ResponseBuilder()
            tracemalloc.start()
            try:
                for start in range(0, len(texts), together):
                    builder.extend(kind(text[:5] + text[5:]) for text in texts[start : start + together])
                assert tracemalloc.get_traced_memory()[0] < 120_000
            finally:
                tracemalloc.stop()
            answer = builder.build(ISSUER, APIType.CHAT_COMPLETION)
            assert (answer.content or answer.reasoning or answer.tool_calls[0].arguments_text) == "".join(texts)

    def test_of_nothing(self) -> None:
        made = built()
        assert (made.content, made.model, made.finish_reason, made.total_tokens) == ("", "gpt-4o", None, None)
        assert (made.tool_calls, made.reasoning, made.refusal, made.usage, made.native) == ([], None, None, None, [])

    def test_what_is_told_twice(self) -> None:
        first, last = Usage(input_uncached=1), Usage(input_uncached=2)
        made = built(
            ResponseStart(None, "a"), ResponseStart("1", "b"), ResponseStart("2"), UsageReport(first),
            UsageReport(last), Finish("length"), Finish("stop"),
        )  # fmt: skip
        assert (made.response_id, made.model, made.usage, made.finish_reason) == ("1", "a", last, "stop")

    def test_calls_are_in_the_order_of_their_index_with_ids_and_names_that_come_late(self) -> None:
        made = built(
            ToolCallDelta(1, None, "g"), ToolCallDelta(0, "1", None, "{"), ToolCallDelta(1, "2"),
            ToolCallDelta(0, None, "f", "}"), ToolCallDelta(2, "3", "h", "free text", "custom"),
        )  # fmt: skip
        assert made.tool_calls == [
            ToolCall("1", "f", {}, "{}"), ToolCall("2", "g"), ToolCall("3", "h", {}, "free text", kind="custom"),
        ]  # fmt: skip

    def test_a_call_without_id_gets_one_that_no_other_has_and_that_every_service_takes(self) -> None:
        made = built(ResponseStart("chatcmpl-" + "x" * 80), ToolCallDelta(0, name="f"), ToolCallDelta(1, "", "f"))
        ids = [call.id for call in made.tool_calls]
        assert len(set(ids)) == 2
        assert all(0 < len(id) <= 40 for id in ids)
        other = built(ResponseStart("chatcmpl-2"), ToolCallDelta(0, name="f"))
        assert other.tool_calls[0].id not in ids

    @given(st.lists(st.text()), st.integers(0, 10))
    def test_it_can_be_built_at_any_time(self, texts: list[str], place: int) -> None:
        builder = ResponseBuilder()
        builder.extend(TextDelta(text) for text in texts[:place])
        assert builder.build(ISSUER, APIType.RESPONSES).content == "".join(texts[:place])
        builder.extend(TextDelta(text) for text in texts[place:])
        assert builder.build(ISSUER, APIType.RESPONSES).content == "".join(texts)


class TestToolCalls:
    @pytest.mark.parametrize("text", ["", " ", "null", "{}"])
    def test_no_arguments(self, text: str) -> None:
        call = ToolCall.from_text("1", "f", text)
        assert (call.arguments, call.parse_error, call.arguments_text) == ({}, None, text)

    @pytest.mark.parametrize(
        ("text", "told"),
        [("{", "not JSON"), ("{'a': 1}", "not JSON"), ("NaN", "not JSON"), ('{"a": "\ud83d"}', "not JSON"),
         ("[1]", "a JSON list"), ('"a"', "a JSON str")],
    )  # fmt: skip
    def test_arguments_that_are_no_object(self, text: str, told: str) -> None:
        call = ToolCall.from_text("1", "f", text)
        assert (call.arguments, call.arguments_text) == ({}, text)
        assert call.parse_error is not None
        assert told in call.parse_error

    def test_free_text_is_not_decoded(self) -> None:
        call = ToolCall.from_text("1", "shell", "{", "custom")
        assert (call.arguments, call.arguments_text, call.parse_error) == ({}, "{", None)


class TestUsage:
    def test_the_parts_are_disjoint_and_their_sums_the_totals(self) -> None:
        usage = Usage(1, 2, 4, 8, 16, 32, 64)
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (15, 112, 127)


FULL = built(
    ResponseStart("id_1"), TextDelta("a"), ReasoningDelta("b"), ToolCallDelta(0, "1", "f", "{}"),
    NativePart({"type": "x"}), UsageReport(Usage(1)), Finish("stop", "stop"),
)  # fmt: skip


class TestMessages:
    def test_the_message_for_the_history(self) -> None:
        assert FULL.to_message() == {
            "role": "assistant", "content": "a",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            "native": {"issuer": {"provider": "openai", "wire_format": "chat_completions", "model": "gpt-4o"},
                       "parts": [{"type": "x"}]},
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("events", "message"),
        [
            ([TextDelta("a")], {"content": "a"}),
            ([], {"content": ""}),
            ([RefusalDelta("No.")], {"content": None, "refusal": "No."}),
            ([ToolCallDelta(0, "1", "f", "")],
             {"content": None,
              "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
            ([ToolCallDelta(0, "1", "s", "ls", "custom")],
             {"content": None, "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "s", "input": "ls"}}]}),
        ],
    )  # fmt: skip
    def test_no_more_than_there_is(self, events: list[Event], message: dict[str, Any]) -> None:
        assert built(*events).to_message() == {"role": "assistant", **message}

    @pytest.mark.parametrize(
        ("call", "text"),
        [(ToolCall("1", "f", {"city": "Malmö"}), '{"city": "Malmö"}'), (ToolCall("1", "f"), "{}"),
         (ToolCall("1", "f", {"a": 1}, '{"a":1}'), '{"a":1}'), (ToolCall.from_text("1", "f", "{"), "{")],
    )  # fmt: skip
    def test_a_call_made_by_hand_keeps_its_arguments(self, call: ToolCall, text: str) -> None:
        (sent,) = LLMResponse("", tool_calls=[call]).to_message()["tool_calls"]
        assert sent == {"id": "1", "type": "function", "function": {"name": "f", "arguments": text}}


def test_what_only_its_issuer_reads_is_in_no_repr() -> None:
    assert "c2VjcmV0" not in repr(built(NativePart({"encrypted_content": "c2VjcmV0"})))


def test_a_response_is_json_and_can_be_pickled() -> None:
    FULL.metadata["raw"] = {"a": [1]}
    told = FULL.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["content"], told["api_type"], told["metadata"]["raw"]) == ("a", "chat_completion", {"a": [1]})
    assert told["usage"]["input_uncached"] == 1
    assert pickle.loads(pickle.dumps(FULL)) == FULL


@pytest.mark.parametrize(
    ("event", "output"),
    [(TextDelta("a"), True), (ReasoningDelta("a"), True), (RefusalDelta("a"), True), (ToolCallDelta(0), True),
     (Finish("stop"), True), (NativePart({}), True), (ResponseStart(), False), (UsageReport(Usage()), False),
     (UnknownEvent("x", {}), False)],
)  # fmt: skip
def test_what_of_an_answer_is_output(event: Event, output: bool) -> None:
    assert is_output(event) is output
