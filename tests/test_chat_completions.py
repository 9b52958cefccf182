"""Chat Completions: what a call becomes, and what comes back; no socket, no clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.errors import (
    LLMProviderBadRequestError,
    LLMProviderError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTokenLimitError,
    LLMProviderUnsupportedOperationError,
)
from llmkit.events import Finish, ReasoningDelta, ResponseStart, TextDelta, ToolCallDelta, UnknownEvent, UsageReport
from llmkit.messages import Audio, File, Image, Message, RawPart, Text
from llmkit.response import ToolCall
from llmkit.wire import Dialect
from llmkit.wire.chat_completions import ChatCompletions, read_usage

from .decoding import answer, cut, cut_everywhere, decoded, issuer, make_request, read, sse

CHAT = ChatCompletions()
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
LOOKUP = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields}


def completion(finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {**HEAD, "choices": [choice], "usage": USAGE}


def call(id: Any, name: str, arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def usage_chunk(**usage: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [], "usage": usage or USAGE}


@dataclass(frozen=True)
class Case:
    """An exchange, used three ways: the request that is built, the body that is read, the stream that is decoded."""

    name: str
    sent: dict[str, Any]
    request: dict[str, Any]
    body: dict[str, Any]
    stream: list[Any]
    expected: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case(
        "text",
        {"messages": "Hello", "instructions": "Be brief.", "temperature": 0.0},
        {
            "model": "gpt-4o",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            "temperature": 0.0,
        },
        completion(content="Hi there."),
        [chunk({"role": "assistant", "content": "", "refusal": None}), chunk({"content": "Hi"}),
         chunk({"content": " there."}), chunk({}, "stop"), usage_chunk(), "[DONE]"],
        {"content": "Hi there.", "finish_reason": "stop", "raw_finish_reason": "stop", "prompt_tokens": 9,
         "completion_tokens": 4, "total_tokens": 13, "response_id": "chatcmpl-1", "model": "gpt-4o-2024-08-06"},
    ),
    Case(
        "parallel tool calls",
        {"messages": "Look up a and b", "tools": [LOOKUP], "tool_choice": "lookup", "parallel_tool_calls": True},
        {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "Look up a and b"}],
            "temperature": 0.7,
            "tools": [LOOKUP],
            "tool_choice": {"type": "function", "function": {"name": "lookup"}},
            "parallel_tool_calls": True,
        },
        completion("tool_calls", content=None, tool_calls=[call("1", "lookup", '{"q": "a"}'), call("2", "lookup", "")]),
        [chunk({"role": "assistant", "content": None}), chunk({"tool_calls": [call("1", "lookup", "", index=0)]}),
         chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"q": '}}]}),
         chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"a"}'}}]}),
         chunk({"tool_calls": [call("2", "lookup", "", index=1)]}), chunk({}, "tool_calls"), usage_chunk(), "[DONE]"],
        {"content": "", "finish_reason": "tool_calls", "tool_calls": [
            ToolCall("1", "lookup", {"q": "a"}, '{"q": "a"}'), ToolCall("2", "lookup", {}, "")]},
    ),
    Case(
        "refusal",
        {"messages": "How?", "max_tokens": 5, "stop": "\n", "seed": 7},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "How?"}], "temperature": 0.7,
         "max_completion_tokens": 5, "stop": ["\n"], "seed": 7},
        completion(content=None, refusal="I can't help with that."),
        [chunk({"role": "assistant", "content": None, "refusal": ""}), chunk({"refusal": "I can't help"}),
         chunk({"refusal": " with that."}), chunk({}, "stop"), usage_chunk(), "[DONE]"],
        {"refusal": "I can't help with that.", "finish_reason": "content_filter", "raw_finish_reason": "stop"},
    ),
    Case(
        "reasoning of a compatible service, no [DONE]",
        {"messages": "2+2?", "dialect": Dialect(rename={"max_tokens": "max_tokens"}), "max_tokens": 50},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0.7, "max_tokens": 50},
        completion("length", content="4", reasoning_content="Two and two."),
        [chunk({"role": "assistant", "content": "", "reasoning_content": None}),
         chunk({"reasoning_content": "Two and"}), chunk({"content": None, "reasoning_content": " two."}),
         chunk({"content": "4"}, "length", usage=USAGE)],
        {"content": "4", "reasoning": "Two and two.", "finish_reason": "length",
         "native": [{"reasoning_content": "Two and two."}]},
    ),
    Case(
        "reasoning details, whose deltas are put together",
        {"messages": "2+2?", "reasoning_effort": "low"},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0.7,
         "reasoning_effort": "low"},
        completion(content="4", reasoning="Two and two.", reasoning_details=[
            {"type": "reasoning.text", "index": 0, "text": "Two and two.", "signature": "c2ln"},
            {"type": "reasoning.encrypted", "index": 1, "data": "ZGF0YQ=="}]),
        [chunk({"role": "assistant", "content": "", "reasoning": text, "reasoning_details": [detail]})
         for text, detail in [
             ("Two and", {"type": "reasoning.text", "index": 0, "text": "Two and", "signature": None}),
             (" two.", {"type": "reasoning.text", "index": 0, "text": " two."}),
             (None, {"type": "reasoning.text", "index": 0, "signature": "c2ln"}),
             (None, {"type": "reasoning.encrypted", "index": 1, "data": "ZGF0YQ=="})]]
        + [chunk({"role": "assistant", "content": "4"}), chunk({"content": ""}, "stop"), usage_chunk(), "[DONE]"],
        {"content": "4", "reasoning": "Two and two.", "finish_reason": "stop"},
    ),
    Case(
        "content as a list of parts",
        {"messages": "2+2?", "response_format": {"type": "json_object"}},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0.7,
         "response_format": {"type": "json_object"}},
        completion(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Well."}]},
                            {"type": "text", "text": "4."}]),
        [chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "We"}]}]}),
         chunk({"content": [{"type": "thinking", "thinking": "ll."}]}), chunk({"content": "4"}),
         chunk({"content": [{"type": "text", "text": "."}, {"type": "reference"}]}, "stop", usage=USAGE), "[DONE]"],
        {"content": "4.", "reasoning": "Well.", "finish_reason": "stop"},
    ),
    Case(
        "a custom tool",
        {"messages": "Run it", "tools": [{"type": "custom", "custom": {"name": "shell"}}]},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "Run it"}], "temperature": 0.7,
         "tools": [{"type": "custom", "custom": {"name": "shell"}}]},
        completion("tool_calls", content=None, tool_calls=[
            {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}]),
        [chunk({"tool_calls": [{"index": 0, "id": "1", "type": "custom", "custom": {"name": "shell", "input": ""}}]}),
         chunk({"tool_calls": [{"index": 0, "custom": {"input": "ls "}}]}),
         chunk({"tool_calls": [{"index": 0, "custom": {"input": "-l"}}]}, "tool_calls"), usage_chunk(), "[DONE]"],
        {"finish_reason": "tool_calls",
         "tool_calls": [ToolCall("1", "shell", arguments_text="ls -l", kind="custom")]},
    ),
    Case(
        "the function call of old, and empty ones beside it",
        {"messages": "Look"},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "Look"}], "temperature": 0.7},
        completion("function_call", content=None, function_call={"name": "lookup", "arguments": "{}"}, tool_calls=None),
        [chunk({"function_call": {"name": "lookup", "arguments": ""}}),
         chunk({"function_call": {"arguments": "{}"}}), chunk({"function_call": {"name": "", "arguments": ""}}),
         chunk({"role": "assistant"}, "function_call"), usage_chunk(), "[DONE]"],
        {"finish_reason": "tool_calls", "tool_calls": [ToolCall("call_chatcmpl-1_0", "lookup", {}, "{}")]},
    ),
    Case(
        "a function of the service's own",
        {"messages": "Look"},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "Look"}], "temperature": 0.7},
        completion("tool_calls", content=None,
                   tool_calls=[{**call("1", "$web_search", "{}"), "type": "builtin_function"}]),
        [chunk({"tool_calls": [{**call("1", "$web_search", "", index=0), "type": "builtin_function"}]}),
         chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}), chunk({}, "tool_calls"), usage_chunk(),
         "[DONE]"],
        {"finish_reason": "tool_calls", "tool_calls": [ToolCall("1", "$web_search", {}, "{}")],
         "native": [{"tool_calls": [{"type": "builtin_function"}]}]},
    ),
    Case(
        "a spoken answer",
        {"messages": "Say it"},
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say it"}], "temperature": 0.7},
        completion(content=None, audio={"id": "audio_1", "data": "UklGRg==", "transcript": "It is."}),
        [chunk({"role": "assistant", "audio": {"id": "audio_1"}}), chunk({"audio": {"transcript": "It"}}),
         chunk({"audio": {"data": "UklGRg=="}}), chunk({"audio": {"transcript": " is."}}), chunk({}, "stop"),
         usage_chunk(), "[DONE]"],
        {"content": "It is.", "finish_reason": "stop", "native": [{"audio": {"id": "audio_1"}}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestExchanges:
    def test_the_request(self, case: Case) -> None:
        sent = make_request(CHAT, **case.sent)
        assert (sent.method, sent.path, sent.body) == ("POST", "/chat/completions", case.request)
        json.dumps(sent.body)

    def test_a_streamed_request_asks_for_usage(self, case: Case) -> None:
        sent = make_request(CHAT, **case.sent, stream=True)
        assert sent.body == case.request | {"stream": True, "stream_options": {"include_usage": True}}

    def test_the_body(self, case: Case) -> None:
        response = read(CHAT, case.body)
        assert {name: getattr(response, name) for name in case.expected} == case.expected

    def test_the_stream_is_the_same_answer_however_it_is_cut(self, case: Case) -> None:
        body = sse(*case.stream)
        whole = decoded(CHAT, [body])
        assert whole.failure is None
        assert whole.finished
        for pieces in cut_everywhere(body):
            assert decoded(CHAT, pieces) == whole
        assert answer(CHAT, whole.events) == read(CHAT, case.body)

    def test_without_its_end_the_stream_is_an_error_that_keeps_what_came(self, case: Case) -> None:
        cut_short = [event for event in case.stream if event != "[DONE]" and not _finishes(event)]
        result = decoded(CHAT, [sse(*cut_short)])
        assert isinstance(result.failure, LLMProviderStreamError)
        assert not result.finished
        assert result.events


def _finishes(event: dict[str, Any]) -> bool:
    return bool(event["choices"] and event["choices"][0]["finish_reason"])


@given(st.sampled_from(CASES), st.lists(st.integers(0, 3000)))
def test_any_cuts_give_the_same_events(case: Case, places: list[int]) -> None:
    body = sse(*case.stream, end="\r\n\r\n")
    assert decoded(CHAT, cut(body, places)) == decoded(CHAT, [body])


class TestStreams:
    def test_the_events(self) -> None:
        stream = [chunk({"role": "assistant", "content": "A"}), chunk({"content": "B"}), chunk({}, "stop"),
                  usage_chunk(), "[DONE]"]  # fmt: skip
        assert decoded(CHAT, [sse(*stream)]).events == [
            ResponseStart("chatcmpl-1", "gpt-4o-2024-08-06"), TextDelta("A"), TextDelta("B"),
            UsageReport(read_usage(USAGE)), Finish("stop", "stop"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("extra", "expected"),
        [
            ({"reasoning": "r"}, ReasoningDelta("r")),
            ({"reasoning_content": "r"}, ReasoningDelta("r")),
            ({"reasoning_content": "r", "reasoning": "r"}, ReasoningDelta("r")),
            ({"reasoning_details": [{"type": "reasoning.summary", "summary": "r"}]}, ReasoningDelta("r")),
            ({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f"}}]}, ToolCallDelta(0, "1", "f")),
            ({"annotations": [{"type": "x"}]}, UnknownEvent("delta.annotations", [{"type": "x"}])),
        ],
    )
    @pytest.mark.parametrize("role", [{}, {"role": "assistant"}, {"role": "assistant", "content": None}])
    def test_a_delta_of_one_thing_is_read(self, role: dict[str, Any], extra: dict[str, Any], expected: Any) -> None:
        """Services send the role with every delta, or a delta that has reasoning or tool calls and nothing else."""
        assert decoded(CHAT, [sse(chunk(role | extra))]).events[1:] == [expected]

    @pytest.mark.parametrize(
        ("stream", "reason", "raw"),
        [
            ([chunk({"content": "A"}), "[DONE]"], "stop", None),
            ([chunk({"content": "A"}, ""), "[DONE]"], "stop", None),
            ([chunk({"tool_calls": [call("1", "f", "{}")]}, "stop")], "tool_calls", "stop"),
            ([chunk({"tool_calls": [call("1", "f", "{}")]}, ""), "[DONE]"], "tool_calls", ""),
            ([chunk({"tool_calls": [call("1", "f", "{}")]}), "[DONE]"], "tool_calls", None),
            ([chunk({"tool_calls": [call("1", "f", "{")]}, "length")], "length", "length"),
            ([chunk({"content": "A"}, "stop"), chunk({"content": ""}, "stop"), "[DONE]"], "stop", "stop"),
            ([chunk({"content": "A"}, "length"), chunk({"content": ""}, None), "[DONE]"], "length", "length"),
            ([chunk({"content": "A"}, "sensitive")], "content_filter", "sensitive"),
            ([chunk({"content": "A"}, "model_length")], "length", "model_length"),
            ([chunk({"content": "A"}, "abort")], "error", "abort"),
            ([chunk({"content": "A"}, "a_new_reason")], "other", "a_new_reason"),
        ],
    )
    def test_finish_reasons(self, stream: list[Any], reason: str, raw: str | None) -> None:
        result = decoded(CHAT, [sse(*stream)])
        assert (result.failure, result.events[-1]) == (None, Finish(reason, raw))

    @pytest.mark.parametrize("arguments", ["{", "{}"])
    def test_an_empty_finish_reason_is_no_end(self, arguments: str) -> None:
        """Some services write it on every chunk, so that the next call may be what is missing."""
        stream = [chunk({"content": "A"}, ""), chunk({"tool_calls": [call("1", "f", arguments)]}, "")]
        result = decoded(CHAT, [sse(*stream)])
        assert isinstance(result.failure, LLMProviderStreamError)
        assert not result.finished

    def test_only_choice_0_is_read_wherever_it_stands(self) -> None:
        other = {"index": 1, "delta": {"content": "B"}, "finish_reason": "length"}
        own = chunk({"content": "A"}), chunk({}, "stop")
        chunks = [{**each, "choices": [other, *each["choices"]]} for each in own]
        assert answer(CHAT, decoded(CHAT, [sse(*chunks, "[DONE]")]).events).content == "A"
        body = completion(content="A")
        body["choices"].insert(0, {"index": 1, "message": {"content": "B"}, "finish_reason": "length"})
        assert (read(CHAT, body).content, read(CHAT, body).finish_reason) == ("A", "stop")

    @pytest.mark.parametrize("choice", [{"index": 1, "message": {"content": "B"}}, {"text": "B"}, {"message": None}])
    def test_a_body_without_a_message_is_no_answer(self, choice: dict[str, Any]) -> None:
        with pytest.raises(LLMProviderServerError, match="choice 0 has no message"):
            read(CHAT, {"id": "1", "choices": [choice]})

    @pytest.mark.parametrize(
        "stream",
        [
            [usage_chunk(), chunk({"content": "A"}, "stop")],
            [chunk({"content": "A"}, usage=USAGE), chunk({}, "stop", usage=None)],
            [chunk({"content": "A"}), chunk({}, "stop", x_groq={"usage": USAGE})],
            [chunk({"content": "A"}, "stop"), {**chunk({}), "usage": USAGE}],
            [chunk({"content": "A"}), {**HEAD, "choices": [{"index": 0, "finish_reason": "stop", "usage": USAGE}]}],
            [chunk({"content": "A"}, usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}),
             chunk({}, "stop", usage={"completion_tokens": 4, "prompt_tokens": None, "total_tokens": 13})],
        ],
    )  # fmt: skip
    def test_usage_comes_on_any_chunk_and_the_last_value_of_a_key_counts(self, stream: list[Any]) -> None:
        result = decoded(CHAT, [sse(*stream, "[DONE]")])
        assert result.failure is None
        assert answer(CHAT, result.events).total_tokens == 13

    def test_usage_is_merged_key_by_key(self) -> None:
        first = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        last = {"completion_tokens": 4, "prompt_tokens": None}
        result = decoded(CHAT, [sse(chunk({"content": "A"}, usage=first), chunk({}, "stop", usage=last))])
        response = answer(CHAT, result.events)
        assert (response.prompt_tokens, response.completion_tokens) == (9, 4)

    def test_deltas_after_the_finish_reason_are_read(self) -> None:
        result = decoded(CHAT, [sse(chunk({"content": "A"}, "stop"), chunk({"content": "B"}, "stop"), "[DONE]")])
        assert answer(CHAT, result.events).content == "AB"

    def test_what_follows_the_end_is_not_read(self) -> None:
        result = decoded(CHAT, [sse(chunk({"content": "A"}, "stop"), "[DONE]", chunk({"content": "B"}), "{")])
        assert (result.failure, answer(CHAT, result.events).content) == (None, "A")

    def test_only_choice_0_is_read(self) -> None:
        other = {**HEAD, "choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "length"}]}
        without_index = {**HEAD, "choices": [{"delta": {"content": "A"}, "finish_reason": "stop"}]}
        result = decoded(CHAT, [sse(other, without_index, other, "[DONE]")])
        assert answer(CHAT, result.events).content == "A"
        assert result.events[-1] == Finish("stop", "stop")

    def test_a_chunk_before_the_answer_does_not_name_it(self) -> None:
        first = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
        result = decoded(CHAT, [sse(first, chunk({"content": "A"}, "stop"), "[DONE]")])
        assert result.events[0] == ResponseStart("chatcmpl-1", "gpt-4o-2024-08-06")

    def test_the_last_chunks_other_fields_are_kept_as_raw(self) -> None:
        result = decoded(CHAT, [sse(chunk({"content": "A"}), chunk({}, "stop", citations=["https://a.example"]))])
        assert result.raw["citations"] == ["https://a.example"]

    @pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", sse(chunk({}, "stop")).rstrip()])
    def test_an_end_without_its_blank_line_is_an_end(self, end: bytes) -> None:
        result = decoded(CHAT, [sse(chunk({"content": "A"})) + end])
        assert (result.failure, result.finished) == (None, True)

    def test_surrogate_pairs_cut_between_deltas_are_joined(self) -> None:
        stream = (
            rb'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a\ud83d","reasoning_content":"\ud83d"}}]}'
            b"\n\n" + sse(chunk({"role": "assistant"})) +
            rb'data: {"id":"1","choices":[{"index":0,"delta":{"content":"\ude00b","reasoning_content":"\ude01"}}]}'
            b"\n\n"
            rb'data: {"id":"1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c",'
            rb'"function":{"name":"f","arguments":"{\"a\": \"\ud83d"}}]}}]}'
            b"\n\n"
            rb'data: {"id":"1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,'
            rb'"function":{"arguments":"\ude00\"}"}}]},"finish_reason":"tool_calls"}]}'
            b"\n\n"
        )  # fmt: skip
        whole = decoded(CHAT, [stream])
        assert whole.failure is None
        for pieces in cut_everywhere(stream):
            assert answer(CHAT, decoded(CHAT, pieces).events) == answer(CHAT, whole.events)
        response = answer(CHAT, whole.events)
        assert (response.content, response.reasoning) == ("a😀b", "😁")
        assert response.tool_calls == [ToolCall("c", "f", {"a": "😀"}, '{"a": "😀"}')]
        assert response.native == [{"reasoning_content": "😁"}]

    @pytest.mark.parametrize("text", [r"a\ud83d", r"\ude00a", r"a\ud83db"])
    def test_half_a_surrogate_pair_is_an_error_that_keeps_what_came(self, text: str) -> None:
        lone = rb'data: {"choices":[{"index":0,"delta":{"content":"' + text.encode() + b'"}}]}\n\n'
        result = decoded(CHAT, [sse(chunk({"content": "A"})) + lone + sse(chunk({}, "stop"), "[DONE]")])
        assert isinstance(result.failure, LLMProviderStreamError)
        assert "surrogate" in result.failure.message
        assert not result.finished
        assert answer(CHAT, result.events).content.startswith("A")


class TestBrokenAnswers:
    @pytest.mark.parametrize(
        ("event", "error", "told"),
        [
            ({"error": {"message": "Slow down", "type": "rate_limit_error"}}, LLMProviderRateLimitError, "Slow"),
            ({"error": {"message": "Boom"}}, LLMProviderStreamError, "Boom"),
            ({"error": "Boom"}, LLMProviderStreamError, "Boom"),
            ([{"error": {"code": 429, "message": "Quota"}}], LLMProviderRateLimitError, "Quota"),
            ({**chunk({"content": ""}), "error": {"code": 502, "message": "Up"}}, LLMProviderServerError, "Up"),
            ({"object": "error", "message": "prompt is too long", "code": 400}, LLMProviderTokenLimitError, "long"),
            ({"choices": [{"index": 0, "delta": {}, "error": {"code": 400, "message": "Bad"}}]},
             LLMProviderBadRequestError, "Bad"),
            ("{", LLMProviderStreamError, "JSON"),
            ("[1, 2]", LLMProviderStreamError, "no answer"),
            ("7", LLMProviderStreamError, "no answer"),
            ("null", LLMProviderStreamError, "no answer"),
            ('{"choices": NaN}', LLMProviderStreamError, "JSON"),
            ("[" * 100_000, LLMProviderStreamError, "JSON"),
            ('"\\ud83d' + "[" * 100_000, LLMProviderStreamError, "JSON"),
            ("[" * 400 + r'"\ud83d"' + "]" * 400, LLMProviderStreamError, "JSON"),
            ('{"choices": [], "usage": ' + "9" * 5000 + "}", LLMProviderStreamError, "JSON"),
            ({"choices": {"0": 1}}, LLMProviderStreamError, "shape"),
            ({"choices": [None]}, LLMProviderStreamError, "shape"),
            ({"choices": [{"delta": "text"}]}, LLMProviderStreamError, "shape"),
            ({"choices": [{"delta": {"tool_calls": {"index": 0}}}]}, LLMProviderStreamError, "shape"),
            ({"choices": [{"delta": {"tool_calls": [None]}}]}, LLMProviderStreamError, "shape"),
            ({"choices": [{"delta": {"content": [7]}}]}, LLMProviderStreamError, "shape"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("before", [[], [chunk({"content": "A"})]], ids=["first", "later"])
    @pytest.mark.parametrize("after", [[], ["[DONE]"]], ids=["cut", "done"])
    def test_an_event_that_is_no_chunk(
        self, before: list[Any], event: Any, after: list[Any], error: type[LLMProviderError], told: str
    ) -> None:
        result = decoded(CHAT, [sse(*before, event, *after)])
        assert type(result.failure) is error
        assert told in result.failure.message
        assert answer(CHAT, result.events).content == "A" * len(before)
        assert not result.finished

    @pytest.mark.parametrize("stream", [[], ["[DONE]"], [{"type": "ping"}, "[DONE]"], [usage_chunk()]])
    def test_a_stream_without_an_answer(self, stream: list[Any]) -> None:
        assert type(decoded(CHAT, [sse(*stream)]).failure) is LLMProviderStreamError

    @pytest.mark.parametrize(
        "body",
        [None, [], "text", 7, {}, {"choices": None}, {"choices": []}, {"choices": {}}, {"choices": [None]},
         {"error": {"message": "Boom"}}, {"detail": "Not here"}, {"choices": [{"message": "text"}]},
         {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}],
    )  # fmt: skip
    def test_a_body_that_is_no_completion(self, body: Any) -> None:
        with pytest.raises(LLMProviderServerError) as caught:
            read(CHAT, body)
        said = next((word for word in ("Boom", "Not here", "login fail") if word in str(body)), "")
        assert said in caught.value.message

    def test_an_error_in_the_choice_of_a_body(self) -> None:
        body = completion(content="A")
        body["choices"][0]["error"] = {"code": 502, "message": "Upstream", "metadata": {"raw": "overheated"}}
        with pytest.raises(LLMProviderServerError, match="Upstream: overheated") as caught:
            read(CHAT, body)
        assert caught.value.status_code == 502


class TestUsage:
    @pytest.mark.parametrize(
        ("raw", "parts"),
        [
            ({}, {}),
            ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, {"input_uncached": 9, "output_text": 4}),
            ({"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30,
              "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2, "audio_tokens": 3},
              "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 1, "image_tokens": None}},
             {"input_uncached": 7, "cache_read": 8, "cache_write": 2, "input_audio": 3,
              "output_text": 3, "reasoning": 6, "output_audio": 1}),
            ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 5, "prompt_tokens_details": None},
             {"input_uncached": 4, "cache_read": 5, "output_text": 4}),
            # xAI: reasoning beside the completion. Google: reasoning in the total alone.
            ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 113,
              "completion_tokens_details": {"reasoning_tokens": 100}},
             {"input_uncached": 9, "output_text": 4, "reasoning": 100}),
            ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 33},
             {"input_uncached": 9, "output_text": 4, "reasoning": 20}),
            # OpenRouter: more reasoning than tokens in all.
            ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13,
              "completion_tokens_details": {"reasoning_tokens": 6}}, {"input_uncached": 9, "reasoning": 4}),
            ({"prompt_tokens": "9", "completion_tokens": -1, "total_tokens": True, "prompt_tokens_details": []}, {}),
        ],
    )  # fmt: skip
    def test_parts_are_disjoint_and_add_up(self, raw: dict[str, Any], parts: dict[str, int]) -> None:
        usage = read_usage(raw)
        names = [name for name in usage.__dataclass_fields__ if name != "raw"]
        assert {name: getattr(usage, name) for name in names if getattr(usage, name)} == parts
        assert usage.raw == raw
        assert usage.total_tokens == sum(parts.values())


class TestRequests:
    def test_a_conversation(self) -> None:
        messages = [
            {"role": "developer", "content": "Brief."},
            Message(role="user", name="ann",
                    content=[Text("Look at "), "this", Image(url="https://a.example/cat.png", detail="low")]),
            {"role": "assistant", "content": None, "tool_calls": [call("1", "look", '{"at": 1}')]},
            {"role": "tool", "tool_call_id": "1", "content": "a cat"},
            {"role": "assistant", "content": "A cat.", "audio": {"id": "audio_1"}},
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "user", "content": [{"type": "text", "text": "More", "cache_control": {"type": "ephemeral"}}]},
        ]  # fmt: skip
        sent = make_request(CHAT, messages, dialect=Dialect(full_messages=True)).body
        assert sent is not None
        assert sent["messages"] == [
            {"role": "developer", "content": "Brief."},
            {"role": "user", "name": "ann", "content": [
                {"type": "text", "text": "Look at "}, {"type": "text", "text": "this"},
                {"type": "image_url", "image_url": {"url": "https://a.example/cat.png", "detail": "low"}}]},
            messages[2], messages[3], messages[4], messages[5], messages[6],
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("part", "sent"),
        [
            (Image(b"\x89PNG"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}),
            (Audio(b"RIFF"), {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
            (File(b"%PDF"), {"type": "file", "file": {"filename": "document.pdf",
                                                      "file_data": "data:application/pdf;base64,JVBERg=="}}),
            (File(file_id="file-1"), {"type": "file", "file": {"file_id": "file-1"}}),
            (RawPart({"type": "video_url", "video_url": {"url": "https://a.example/v"}}),
             {"type": "video_url", "video_url": {"url": "https://a.example/v"}}),
        ],
    )  # fmt: skip
    def test_parts(self, part: Any, sent: dict[str, Any]) -> None:
        body = make_request(CHAT, [Message(role="user", content=[part])]).body
        assert body is not None
        assert body["messages"] == [{"role": "user", "content": [sent]}]

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"messages": [Message(role="user", content=[Image(file_id="file-1")])]}, "image by file_id"),
            ({"messages": [Message(role="user", content=[File(url="https://a.example/f.pdf")])]}, "file by URL"),
            ({"previous_response_id": "resp_1"}, "stored response"),
            ({"stop": "x", "dialect": Dialect(unsupported=frozenset({"stop"}))}, "stop"),
        ],
    )
    def test_what_the_api_cannot_express(self, options: dict[str, Any], told: str) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=told):
            make_request(CHAT, **options)

    def test_a_call_that_was_made_by_hand_has_its_arguments_written(self) -> None:
        made = [ToolCall("1", "f", {"x": "é"}), ToolCall("2", "f"), ToolCall("3", "f", {}, "{")]
        body = make_request(CHAT, [Message(role="assistant", content=None, tool_calls=tuple(made))]).body
        assert body is not None
        arguments = [call["function"]["arguments"] for call in body["messages"][0]["tool_calls"]]
        assert arguments == ['{"x": "é"}', "{}", "{"]

    def test_tools(self) -> None:
        described = {"name": "f", "description": "Does f.", "input_schema": {"type": "object"}}
        body = make_request(CHAT, tools=[described, {"type": "function", "name": "g", "strict": True}]).body
        assert body is not None
        assert body["tools"] == [
            {"type": "function", "function": {"name": "f", "description": "Does f.", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g", "strict": True}},
        ]

    @pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "allowed_tools", "allowed_tools": {}}])
    def test_a_tool_choice_in_the_apis_own_words(self, choice: Any) -> None:
        body = make_request(CHAT, tools=[LOOKUP], tool_choice=choice).body
        assert body is not None
        assert body["tool_choice"] == choice

    def test_a_default_that_the_model_refuses_is_left_out_and_what_was_set_is_sent(self) -> None:
        dialect = Dialect(model_rules=((r"^o\d", frozenset({"temperature"})),))
        left_out = make_request(CHAT, dialect=dialect, model_name="o3")
        assert "temperature" not in (left_out.body or {})
        assert [(adjustment["parameter"], adjustment["action"]) for adjustment in left_out.adjustments] == [
            ("temperature", "omitted")
        ]
        sent = make_request(CHAT, dialect=dialect, model_name="o3", temperature=1.0)
        assert ((sent.body or {})["temperature"], sent.adjustments) == (1.0, [])

    def test_defaults_are_named_so_that_a_refused_one_can_be_left_out(self) -> None:
        assert make_request(CHAT, stream=True, top_p=0.5).defaults == {
            "temperature": "temperature",
            "stream_options": "stream_options",
        }
        again = make_request(CHAT, stream=True, omit=frozenset({"temperature", "stream_options"}))
        assert (again.body or {}).keys() == {"model", "messages", "stream"}


class TestNativeParts:
    SIGNED = completion(
        "tool_calls",
        content="Wait.",
        reasoning_content="Hm.",
        reasoning_details=[{"type": "reasoning.text", "text": "Hm."}],
        extra_content={"google": {"thought_signature": "bQ"}},
        tool_calls=[call("1", "f", "{}", extra_content={"google": {"thought_signature": "Yw"}}), call("2", "f", "{}")],
    )

    def sent(self, **issued_by: Any) -> dict[str, Any]:
        response = read(CHAT, self.SIGNED)
        response.issuer = replace(issuer(CHAT), **issued_by)
        body = make_request(CHAT, [json.loads(json.dumps(response.to_message()))]).body
        assert body is not None
        message: dict[str, Any] = body["messages"][0]
        return message

    def test_they_go_back_to_their_issuer_word_for_word(self) -> None:
        assert self.sent() == self.SIGNED["choices"][0]["message"]

    @pytest.mark.parametrize("other", [{"provider": "acme"}, {"wire_format": "responses"}, {"model": "gpt-4"}])
    def test_they_go_to_nobody_else(self, other: dict[str, str]) -> None:
        calls = [call("1", "f", "{}"), call("2", "f", "{}")]
        assert self.sent(**other) == {"role": "assistant", "content": "Wait.", "tool_calls": calls}


@pytest.mark.parametrize("value", [7, [7], {"a": 1}], ids=json.dumps)
@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning", "refusal"])
def test_text_that_is_none_is_an_error(name: str, value: Any) -> None:
    delta = {name: [{"type": "text", "text": value}] if name == "content" else value}
    decoder = CHAT.decoder()
    with pytest.raises(LLMProviderServerError, match="unexpected shape"):
        decoder.read({"choices": [{"index": 0, "message": delta, "finish_reason": "stop"}]})


@pytest.mark.parametrize("odd", [{"detail": "upstream died"}, {"errors": ["no"]}, {"code": 500, "msg": "no"}])
class TestUnknownChunks:
    def test_an_answer_that_ends_after_one_without_a_finish_reason_broke_off(self, odd: Any) -> None:
        result = decoded(CHAT, [sse(chunk({"content": "hal"}), odd, "[DONE]")])
        assert isinstance(result.failure, LLMProviderStreamError)
        assert str(next(iter(odd.values()))).strip("[]'") in str(result.failure)
        assert (result.events[-1], result.finished) == (UnknownEvent("message", odd), False)

    def test_an_answer_that_has_one_is_whole(self, odd: Any) -> None:
        result = decoded(CHAT, [sse(chunk({"content": "all"}), odd, chunk({}, "stop"), "[DONE]")])
        assert result.failure is None
        assert UnknownEvent("message", odd) in result.events


@pytest.mark.parametrize(
    "details",
    [
        [{"type": "reasoning.encrypted", "data": data, "id": data} for data in ("a", "b")],
        [{"type": "reasoning.text", "text": t, "signature": t, "format": None, "index": None} for t in ("a", "b")],
        [{"type": "reasoning.text", "text": "a", "index": 0, "format": None}],
    ],
)
def test_reasoning_details_without_an_index_stay_apart(details: list[dict[str, Any]]) -> None:
    body = completion(content="4", reasoning_details=details)
    streamed = decoded(CHAT, [sse(*(chunk({"reasoning_details": [each]}) for each in details), chunk({}, "stop"))])
    for made in (read(CHAT, body), answer(CHAT, streamed.events)):
        assert made.native == [{"reasoning_details": details}]


def test_pieces_of_reasoning_without_an_index_are_put_together() -> None:
    pieces = [{"type": "reasoning.text", "text": text, "format": "x"} for text in ("Two ", "and ", "two.")]
    streamed = decoded(CHAT, [sse(*(chunk({"reasoning_details": [each]}) for each in pieces), chunk({}, "stop"))])
    whole = {"type": "reasoning.text", "text": "Two and two.", "format": "x"}
    assert answer(CHAT, streamed.events).native == [{"reasoning_details": [whole]}]


def test_counts_may_be_written_with_a_point() -> None:
    usage = read_usage({"prompt_tokens": 12.0, "completion_tokens": 3.0, "total_tokens": float("inf")})
    assert (usage.input_uncached, usage.output_text) == (12, 3)
    assert read_usage({"prompt_tokens": 1.5, "completion_tokens": True}).input_uncached == 0


def test_odd_json_at_the_very_end_is_an_error_of_the_stream() -> None:
    detail = {"type": "reasoning.encrypted", "index": 0, "data": 5}
    result = decoded(CHAT, [sse(chunk({"content": "4", "reasoning_details": [detail]}, "stop"))])
    assert isinstance(result.failure, LLMProviderStreamError)
    assert not result.finished


def test_a_call_that_is_whole_is_told_from_one_that_goes_on() -> None:
    pieces = ['{"a": "}', '\\"', "}", '"', "}", '{"a": 2}']
    deltas = [{"tool_calls": [{"function": {"name": "f", "arguments": piece}}]} for piece in pieces]
    result = decoded(CHAT, [sse(*map(chunk, deltas), chunk({}, "tool_calls"), "[DONE]")])
    calls = answer(CHAT, result.events).tool_calls
    assert [call.arguments for call in calls] == [{"a": '}"}'}, {"a": 2}]
