"""OpenAI Responses: what a call becomes, and what comes back; no socket, no clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.errors import (
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderUnsupportedOperationError,
)
from llmkit.events import (
    Finish,
    NativePart,
    ReasoningDelta,
    ResponseStart,
    TextDelta,
    ToolCallDelta,
    UnknownEvent,
    UsageReport,
)
from llmkit.messages import Audio, File, Image, Message, RawPart, Text
from llmkit.response import ToolCall
from llmkit.tools import Tool
from llmkit.wire import Dialect
from llmkit.wire.responses import Responses, read_usage

from .decoding import answer, cut, cut_everywhere, decoded, issuer, make_request, read, sse

RESPONSES = Responses()
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 6},
    "total_tokens": 30,
}


def response(*output: dict[str, Any], status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "error": None, "incomplete_details": None,
            "model": "gpt-5-2025", "output": list(output), "usage": USAGE, **fields}  # fmt: skip


def message(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": p, "annotations": []} if isinstance(p, str) else p for p in parts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content, **fields}


def refusal(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def reasoning(*summaries: str, **fields: Any) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text} for text in summaries]
    return {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "c2VjcmV0", **fields}


def function_call(call_id: str, arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    item = {"type": "function_call", "id": f"fc_{call_id}", "status": "completed", **fields}
    return item | {"call_id": call_id, "name": "lookup", "arguments": arguments}


def custom_call(call_id: str, text: str) -> dict[str, Any]:
    return {"type": "custom_tool_call", "id": f"ctc_{call_id}", "call_id": call_id, "name": "shell", "input": text}


def delta(kind: str, text: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": index, "item_id": f"item_{index}", "delta": text,
            "obfuscation": "x7", **fields}  # fmt: skip


EMPTY = {"content": [], "summary": [], "arguments": "", "input": ""}


def added(item: dict[str, Any], index: int = 0) -> dict[str, Any]:
    begun = item | {key: value for key, value in EMPTY.items() if key in item} | {"status": "in_progress"}
    return {"type": "response.output_item.added", "output_index": index, "item": begun}


def done(item: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def begun(**fields: Any) -> list[dict[str, Any]]:
    started = response(status="in_progress", **{"usage": None, **fields})
    return [{"type": f"response.{name}", "response": started} for name in ("created", "in_progress")]


def ended(body: dict[str, Any], kind: str = "completed") -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": body}


def streamed(body: dict[str, Any], *events: dict[str, Any], kind: str = "completed") -> list[dict[str, Any]]:
    return [*begun(tools=body.get("tools", [])), *events, ended(body, kind)]


@dataclass(frozen=True)
class Case:
    """An answer, read as a body and as a stream."""

    name: str
    body: dict[str, Any]
    stream: list[dict[str, Any]]
    expected: dict[str, Any]


def case(name: str, body: dict[str, Any], *events: dict[str, Any], kind: str = "completed", **expected: Any) -> Case:
    expected |= {"native": body["output"], "response_id": "resp_1", "model": "gpt-5-2025", "total_tokens": 30}
    return Case(name, body, streamed(body, *events, kind=kind), expected)


HELLO = message("Hello you.")
THOUGHT = reasoning("First.", "Then.")
DECLINED = message(refusal("I won't."))
CALL, OTHER_CALL = function_call("1", '{"q": 1}'), function_call("2")
SHELL = custom_call("s", "ls -l")
CUT = function_call("1", '{"q": ', status="incomplete")
SEARCHED = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
CITED = message(
    {"type": "output_text", "text": "Yes.", "annotations": [{"type": "url_citation", "url": "https://a.example"}]}
)

CASES = [
    case("text", response(HELLO), added(HELLO), {"type": "response.content_part.added", "output_index": 0},
         delta("output_text", "Hello"), delta("output_text", ""), delta("output_text", " you."),
         {"type": "response.output_text.done", "output_index": 0, "text": "Hello you."}, done(HELLO),
         content="Hello you.", finish_reason="stop", raw_finish_reason="completed", prompt_tokens=20,
         completion_tokens=10),
    case("reasoning and two messages", response(THOUGHT, HELLO, message("Bye.", id="msg_2")),
         added(THOUGHT), {"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": 0},
         delta("reasoning_summary_text", "Fir"), delta("reasoning_summary_text", "st."),
         {"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": 1},
         delta("reasoning_summary_text", "Then."), done(THOUGHT), added(HELLO, 1),
         delta("output_text", "Hello you.", 1), done(HELLO, 1), delta("output_text", "Bye.", 2),
         done(message("Bye.", id="msg_2"), 2),
         content="Hello you.Bye.", reasoning="First.\n\nThen.", finish_reason="stop"),
    case("refusal", response(DECLINED), added(DECLINED), delta("refusal", "I "), delta("refusal", "won't."),
         done(DECLINED), content="", refusal="I won't.", finish_reason="content_filter", raw_finish_reason="completed"),
    case("parallel calls", response(CALL, OTHER_CALL), added(CALL), added(OTHER_CALL, 1),
         delta("function_call_arguments", "{}", 1), delta("function_call_arguments", '{"q"'),
         delta("function_call_arguments", ": 1}"), done(OTHER_CALL, 1), done(CALL), finish_reason="tool_calls",
         tool_calls=[ToolCall("1", "lookup", {"q": 1}, '{"q": 1}'), ToolCall("2", "lookup", {}, "{}")]),
    case("calls without deltas, one without being announced", response(CALL, OTHER_CALL), added(CALL), done(CALL),
         done(OTHER_CALL, 1), finish_reason="tool_calls",
         tool_calls=[ToolCall("1", "lookup", {"q": 1}, '{"q": 1}'), ToolCall("2", "lookup", {}, "{}")]),
    case("a custom tool", response(SHELL, tools=[{"type": "custom", "name": "shell"}]), added(SHELL),
         delta("custom_tool_call_input", "ls "), delta("custom_tool_call_input", "-l"), done(SHELL),
         finish_reason="tool_calls", tool_calls=[ToolCall("s", "shell", arguments_text="ls -l", kind="custom")]),
    case("the service's own tool, reported as a custom one",
         response(SHELL, HELLO, tools=[{"type": "x_search"}]), added(SHELL), delta("custom_tool_call_input", "ls -l"),
         done(SHELL), added(HELLO, 1), delta("output_text", "Hello you.", 1), done(HELLO, 1),
         content="Hello you.", tool_calls=[], finish_reason="stop"),
    case("a search and citations", response(SEARCHED, CITED), added(SEARCHED),
         {"type": "response.web_search_call.searching", "output_index": 0, "item_id": "ws_1"}, done(SEARCHED),
         added(CITED, 1), delta("output_text", "Yes.", 1), done(CITED, 1), content="Yes.", finish_reason="stop"),
    case("cut by max_output_tokens",
         response(CUT, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
         added(CUT), delta("function_call_arguments", '{"q": '), done(CUT), kind="incomplete",
         finish_reason="length", raw_finish_reason="max_output_tokens"),
    case("filtered", response(HELLO, status="incomplete", incomplete_details={"reason": "content_filter"}),
         added(HELLO), delta("output_text", "Hello you."), done(HELLO), kind="incomplete",
         finish_reason="content_filter"),
    case("items in the final object alone", response(THOUGHT, HELLO, CALL), content="Hello you.",
         reasoning="First.\n\nThen.", tool_calls=[ToolCall("1", "lookup", {"q": 1}, '{"q": 1}')],
         finish_reason="tool_calls"),
    case("deltas, and items in the final object alone", response(HELLO, CALL), added(HELLO),
         delta("output_text", "Hello you."), added(CALL, 1), delta("function_call_arguments", '{"q": 1}', 1),
         content="Hello you.", tool_calls=[ToolCall("1", "lookup", {"q": 1}, '{"q": 1}')], finish_reason="tool_calls"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestAnswers:
    def test_the_body(self, case: Case) -> None:
        made = read(RESPONSES, case.body)
        assert {name: getattr(made, name) for name in case.expected} == case.expected

    def test_the_stream_is_the_same_answer_however_it_is_cut(self, case: Case) -> None:
        body = sse(*case.stream)
        whole = decoded(RESPONSES, [body])
        assert (whole.failure, whole.finished, whole.raw) == (None, True, case.body)
        for pieces in cut_everywhere(body):
            assert decoded(RESPONSES, pieces) == whole
        parts = sorted(case.body["output"], key=str)
        made = answer(RESPONSES, whole.events)
        assert sorted(made.native, key=str) == parts
        assert replace(made, native=case.body["output"]) == read(RESPONSES, case.body)

    def test_a_service_may_number_nothing(self, case: Case) -> None:
        """llama.cpp tells pieces apart by `item_id` alone, and names the event in the data alone or outside alone."""
        ids = {index: item["id"] for index, item in enumerate(case.body["output"])}
        renamed = [
            {k: v for k, v in event.items() if k != "output_index"}
            | {"item_id": ids.get(event.get("output_index", -1))}
            for event in case.stream
        ]
        by_id = answer(RESPONSES, decoded(RESPONSES, [sse(*renamed)]).events)
        assert by_id == answer(RESPONSES, decoded(RESPONSES, [sse(*case.stream)]).events)

    def test_without_its_end_the_stream_is_an_error(self, case: Case) -> None:
        result = decoded(RESPONSES, [sse(*case.stream[:-1])])
        assert (type(result.failure), result.finished) == (LLMProviderStreamError, False)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "final object" not in case.name], ids=lambda case: case.name
)
def test_the_final_output_may_be_empty(case: Case) -> None:
    last = ended(case.body | {"output": []}, case.stream[-1]["type"].removeprefix("response."))
    emptied = decoded(RESPONSES, [sse(*case.stream[:-1], last)])
    assert emptied.events == decoded(RESPONSES, [sse(*case.stream)]).events


@given(st.sampled_from(CASES), st.lists(st.integers(0, 4000)))
def test_any_cuts_give_the_same_events(case: Case, places: list[int]) -> None:
    body = sse(*case.stream, end="\r\n\r\n")
    assert decoded(RESPONSES, cut(body, places)) == decoded(RESPONSES, [body])


class TestStreams:
    def test_the_events(self) -> None:
        events = added(THOUGHT), delta("reasoning_summary_text", "A"), done(THOUGHT), added(CALL, 1), done(CALL, 1)
        made = decoded(RESPONSES, [sse(*streamed(response(THOUGHT, CALL), *events, delta("output_text", "B", 2)))])
        assert made.events == [
            ResponseStart("resp_1", "gpt-5-2025"), ReasoningDelta("A"), NativePart(THOUGHT),
            ToolCallDelta(0, "1", "lookup"), ToolCallDelta(0, "1", "lookup", '{"q": 1}'), NativePart(CALL),
            TextDelta("B"), UsageReport(read_usage(USAGE)), Finish("tool_calls", "completed"),
        ]  # fmt: skip

    def test_the_type_may_stand_outside_of_the_data_alone(self) -> None:
        body = b'event: response.output_text.delta\ndata: {"delta": "A"}\n\n' + sse(ended(response()))
        assert answer(RESPONSES, decoded(RESPONSES, [body]).events).content == "A"

    def test_the_type_of_a_piece_of_a_call_may_stand_outside_too(self) -> None:
        events = [
            *(added(CALL), delta("function_call_arguments", '{"q": 1}')),
            *(added(SHELL, 1), delta("custom_tool_call_input", "ls -l", 1)),
        ]
        outside = "".join(
            f"event: {event.pop('type')}\ndata: {json.dumps(event)}\n\n" for event in map(dict, events)
        ).encode()
        body = sse(*begun(tools=[{"type": "custom"}])) + outside + sse(ended(response()))
        assert answer(RESPONSES, decoded(RESPONSES, [body]).events).tool_calls == [
            ToolCall("1", "lookup", {"q": 1}, '{"q": 1}'),
            ToolCall("s", "shell", arguments_text="ls -l", kind="custom"),
        ]

    @pytest.mark.parametrize(
        "final",
        [
            [ended(response(HELLO))],
            [done(HELLO), ended(response(HELLO))],
            [{"type": "response.output_item.done", "item": HELLO}, ended(response(HELLO))],
        ],
        ids=["in the final object", "done with a number", "done without one"],
    )
    @pytest.mark.parametrize("keys", [{}, {"output_index": 0}, {"item_id": HELLO["id"]}])
    def test_a_text_that_came_in_pieces_is_not_read_again(self, keys: dict[str, Any], final: list[Any]) -> None:
        pieces = [{"type": "response.output_text.delta", "delta": text, **keys} for text in ("Hello ", "you.")]
        result = decoded(RESPONSES, [sse(*begun(), *pieces, *final)])
        assert (result.failure, answer(RESPONSES, result.events).content) == (None, "Hello you.")

    def test_an_item_of_a_strange_type_goes_back(self) -> None:
        strange = {"type": ["x"], "id": "s"}
        made = read(RESPONSES, response(strange, HELLO))
        made.issuer = issuer(RESPONSES)
        body = make_request(RESPONSES, [made.to_message()]).body
        assert body is not None and body["input"] == [strange, HELLO]

    def test_done_markers_and_unknown_events_are_no_end(self) -> None:
        unknown = {"type": "response.new_thing", "thing": 1}
        stream = [*begun(), unknown, "[DONE]", delta("output_text", "A"), ended(response()), "[DONE]"]
        result = decoded(RESPONSES, [sse(*stream)])
        assert result.failure is None
        assert UnknownEvent("response.new_thing", unknown) in result.events
        assert answer(RESPONSES, result.events).content == "A"

    def test_a_background_answer_begins_in_the_queue(self) -> None:
        queued = {"type": "response.queued", "response": response(status="queued", usage=None)}
        result = decoded(RESPONSES, [sse(queued, *begun(), delta("output_text", "A"), ended(response()))])
        assert [event for event in result.events if isinstance(event, ResponseStart)] == [
            ResponseStart("resp_1", "gpt-5-2025")
        ]

    def test_arguments_of_a_call_that_was_not_announced(self) -> None:
        stream = [
            delta("function_call_arguments", '{"q"', 3),
            delta("function_call_arguments", ": 1}", 3),
            done(CALL, 3),
        ]
        result = decoded(RESPONSES, [sse(*begun(), *stream, ended(response(CALL)))])
        assert answer(RESPONSES, result.events).tool_calls == [ToolCall("1", "lookup", {"q": 1}, '{"q": 1}')]

    def test_reasoning_in_the_open(self) -> None:
        item = reasoning(content=[{"type": "reasoning_text", "text": "Hm."}])
        events = added(item), delta("reasoning_text", "H"), delta("reasoning_text", "m."), done(item)
        made = decoded(RESPONSES, [sse(*streamed(response(item), *events))])
        assert answer(RESPONSES, made.events).reasoning == read(RESPONSES, response(item)).reasoning == "Hm."

    @pytest.mark.parametrize(
        ("status", "reason"),
        [("completed", "stop"), ("queued", "pause"), ("in_progress", "pause"), ("cancelled", "error"),
         (None, "stop"), ("incomplete", "other"), ("a_new_status", "other")],
    )  # fmt: skip
    def test_statuses(self, status: Any, reason: str) -> None:
        made = read(RESPONSES, response(HELLO, status=status))
        assert (made.finish_reason, made.raw_finish_reason) == (reason, status)

    def test_an_end_without_its_blank_line_is_an_end(self) -> None:
        result = decoded(RESPONSES, [sse(*begun(), delta("output_text", "A"), ended(response())).rstrip()])
        assert (result.failure, result.finished) == (None, True)


FAILED = {"code": "rate_limit_exceeded", "message": "Too fast."}


class TestBrokenAnswers:
    @pytest.mark.parametrize(
        ("event", "error", "code"),
        [
            (ended(response(status="failed", error=FAILED), "failed"),
             LLMProviderRateLimitError, "rate_limit_exceeded"),
            (ended(response(status="failed", error=FAILED)), LLMProviderRateLimitError, "rate_limit_exceeded"),
            (ended(response(status="failed"), "failed"), LLMProviderServerError, None),
            (ended(response(status="failed", error={"code": "server_error", "message": "Boom"}), "failed"),
             LLMProviderServerError, "server_error"),
            (ended(response(status="failed", error={"code": "invalid_prompt", "message": "No"}), "failed"),
             LLMProviderContentFilterError, "invalid_prompt"),
            ({"type": "error", "code": "insufficient_quota", "message": "Broke.", "param": None},
             LLMProviderQuotaError, "insufficient_quota"),
            ({"type": "error", "code": None, "message": "Boom", "param": "input"}, LLMProviderServerError, None),
            ({"type": "error", "error": FAILED}, LLMProviderRateLimitError, "rate_limit_exceeded"),
            ({"type": "error"}, LLMProviderServerError, None),
            ({"error": {"message": "Boom"}}, LLMProviderStreamError, None),
            ({"type": "response.output_text.delta"}, LLMProviderStreamError, None),
            ({"type": "response.completed"}, LLMProviderStreamError, None),
            ({"type": "response.completed", "response": []}, LLMProviderStreamError, None),
            ({"type": "response.output_item.done", "item": None}, LLMProviderStreamError, None),
            ("{", LLMProviderStreamError, None),
            ("[]", LLMProviderStreamError, None),
        ],
    )  # fmt: skip
    def test_an_event_that_ends_the_answer(self, event: Any, error: type[LLMProviderError], code: str | None) -> None:
        result = decoded(RESPONSES, [sse(*begun(), delta("output_text", "A"), event, ended(response()))])
        assert result.failure is not None
        assert (type(result.failure), result.failure.code, result.finished) == (error, code, False)
        assert answer(RESPONSES, result.events).content == "A"

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            (response(status="failed", error=FAILED), LLMProviderRateLimitError),
            (response(status="failed"), LLMProviderServerError),
            ({"error": {"message": "Boom"}}, LLMProviderServerError),
            *((body, LLMProviderServerError) for body in (None, [], "text", {}, {"output": None}, {"output": [None]})),
            (response({"type": "message", "content": [None]}), LLMProviderServerError),
        ],
    )
    def test_a_body_that_is_no_answer(self, body: Any, error: type[LLMProviderError]) -> None:
        with pytest.raises(LLMProviderError) as caught:
            read(RESPONSES, body)
        assert type(caught.value) is error


class TestUsage:
    @pytest.mark.parametrize(
        ("raw", "parts"),
        [
            (USAGE, {"input_uncached": 10, "cache_read": 8, "cache_write": 2, "output_text": 4, "reasoning": 6}),
            ({"input_tokens": 3, "output_tokens": 2, "output_tokens_details": None},
             {"input_uncached": 3, "output_text": 2}),
            ({"input_tokens": 3, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 5}},
             {"input_uncached": 3, "reasoning": 2}),
            ({}, {}),
        ],
    )  # fmt: skip
    def test_parts_are_disjoint_and_add_up(self, raw: dict[str, Any], parts: dict[str, int]) -> None:
        usage = read_usage(raw)
        names = [name for name in usage.__dataclass_fields__ if name != "raw"]
        assert {name: getattr(usage, name) for name in names if getattr(usage, name)} == parts
        assert (usage.raw, usage.total_tokens) == (raw, sum(parts.values()))


def sent(messages: Any = "Hello", **options: Any) -> dict[str, Any]:
    body = make_request(RESPONSES, messages, **options).body
    assert body is not None
    json.dumps(body)
    return body


class TestRequests:
    def test_a_call(self) -> None:
        made = make_request(
            RESPONSES, instructions="Brief.", previous_response_id="resp_0", max_tokens=50, top_p=0.5,
            reasoning_effort="low", parallel_tool_calls=False, stream=True,
        )  # fmt: skip
        assert (made.method, made.path) == ("POST", "/responses")
        assert made.body == {
            "model": "gpt-4o", "input": [{"role": "user", "content": "Hello"}], "instructions": "Brief.",
            "previous_response_id": "resp_0", "temperature": 0.7, "max_output_tokens": 50, "top_p": 0.5,
            "reasoning": {"effort": "low"}, "parallel_tool_calls": False, "stream": True,
        }  # fmt: skip
        assert (made.defaults, made.adjustments) == ({"temperature": "temperature"}, [])

    def test_a_conversation(self) -> None:
        history = [
            {"role": "system", "content": "Brief."},
            {"role": "user", "content": [{"type": "text", "text": "See", "prompt_cache_breakpoint": {}}]},
            {"role": "user", "content": ["a", "b"]},
            {"role": "assistant", "content": "Hm.", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}},
                {"id": "2", "type": "custom", "custom": {"name": "shell", "input": "ls"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "a"}, "b"]},
            Message(role="tool", tool_call_id="3", content=["c", Image(url="https://a.example/cat.png")]),
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "assistant", "content": [{"type": "text", "text": "x", "annotations": []}]},
        ]  # fmt: skip
        assert sent(history)["input"] == [
            {"role": "system", "content": "Brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "See", "prompt_cache_breakpoint": {}}]},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"role": "assistant", "content": "Hm."},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "2", "name": "shell", "input": "ls"},
            {"type": "function_call_output", "call_id": "1", "output": "4"},
            {"type": "custom_tool_call_output", "call_id": "2", "output": "ab"},
            {"type": "function_call_output", "call_id": "3", "output": [
                {"type": "input_text", "text": "c"},
                {"type": "input_image", "detail": "auto", "image_url": "https://a.example/cat.png"}]},
            {"role": "assistant", "content": "No."},
            {"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]},
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("part", "item"),
        [
            (Text("a", {"x": 1}), {"type": "input_text", "text": "a", "x": 1}),
            (Image(b"\x89PNG", detail="high"),
             {"type": "input_image", "detail": "high", "image_url": "data:image/png;base64,iVBORw=="}),
            (Image(file_id="f", extra={"x": 1}), {"type": "input_image", "detail": "auto", "file_id": "f", "x": 1}),
            (Audio(b"RIFF", "mp3"), {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}}),
            (File(b"%PDF", "a.pdf"),
             {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}),
            (File(url="https://a.example/a.pdf"), {"type": "input_file", "file_url": "https://a.example/a.pdf"}),
            (File(file_id="f"), {"type": "input_file", "file_id": "f"}),
            (RawPart({"type": "input_video", "x": 1}), {"type": "input_video", "x": 1}),
        ],
    )  # fmt: skip
    def test_parts(self, part: Any, item: dict[str, Any]) -> None:
        assert sent([Message(role="user", content=[part])])["input"] == [{"role": "user", "content": [item]}]

    @pytest.mark.parametrize(
        ("tool", "item"),
        [
            (Tool(name="f"), {"type": "function", "name": "f", "strict": False,
                              "parameters": {"type": "object", "properties": {}}}),
            ({"type": "function", "function": {"name": "f", "description": "d", "strict": True, "parameters": {}}},
             {"type": "function", "name": "f", "description": "d", "strict": True,
              "parameters": {"type": "object", "properties": {}}}),
            ({"type": "web_search", "filters": {}}, {"type": "web_search", "filters": {}}),
            ({"type": "mcp", "server_label": "s", "tools": None}, {"type": "mcp", "server_label": "s", "tools": None}),
            ({"type": "custom", "name": "shell"}, {"type": "custom", "name": "shell"}),
            ({"type": "custom", "custom": {"name": "shell", "format": {
                "type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}}},
             {"type": "custom", "name": "shell", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}}),
        ],
    )  # fmt: skip
    def test_tools(self, tool: Any, item: dict[str, Any]) -> None:
        assert sent(tools=[tool])["tools"] == [item]

    @pytest.mark.parametrize(
        ("choice", "item"),
        [
            ("auto", "auto"), ("none", "none"), ("required", "required"), ("f", {"type": "function", "name": "f"}),
            ({"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f"}),
            ({"type": "custom", "custom": {"name": "f"}}, {"type": "custom", "name": "f"}),
            ({"type": "web_search"}, {"type": "web_search"}),
            ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
                {"type": "function", "function": {"name": "f"}}]}},
             {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}),
        ],
    )  # fmt: skip
    def test_tool_choices(self, choice: Any, item: Any) -> None:
        assert sent(tool_choice=choice)["tool_choice"] == item

    @pytest.mark.parametrize(
        ("chosen", "item"),
        [
            ({"type": "json_object"}, {"type": "json_object"}),
            ({"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}}},
             {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}),
            ({"type": "json_schema", "name": "n", "schema": {}}, {"type": "json_schema", "name": "n", "schema": {}}),
        ],
    )  # fmt: skip
    def test_response_formats(self, chosen: Any, item: Any) -> None:
        assert sent(response_format=chosen)["text"] == {"format": item}

    @pytest.mark.parametrize(
        "setting", [{"frequency_penalty": 0.5}, {"presence_penalty": 1}, {"stop": "x"}, {"seed": 1}]
    )
    def test_what_the_api_has_no_parameter_for_is_refused_by_name(self, setting: dict[str, Any]) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=next(iter(setting))):
            sent(**setting)

    def test_the_least_answer_has_16_tokens(self) -> None:
        made = make_request(RESPONSES, max_tokens=5)
        assert made.body is not None
        assert made.body["max_output_tokens"] == 16
        assert make_request(RESPONSES, max_tokens=16).adjustments == []
        assert [(adjustment["parameter"], adjustment["action"]) for adjustment in made.adjustments] == [
            ("max_tokens", "raised to 16")
        ]

    def test_what_a_reasoning_model_does_not_store_comes_back_encrypted(self) -> None:
        dialect = Dialect(model_rules=((r"^gpt-5", frozenset({"temperature"})),))
        options: dict[str, Any] = {"dialect": dialect, "extra_params": {"store": False}}
        assert sent(model_name="gpt-5", **options)["include"] == ["reasoning.encrypted_content"]
        assert "include" not in sent(model_name="gpt-4o", **options)
        assert "include" not in sent(model_name="gpt-5", dialect=dialect)


class TestNativeParts:
    ANSWERED = response(THOUGHT, HELLO, CALL, SHELL)

    def history(self, **changes: Any) -> list[dict[str, Any]]:
        made = read(RESPONSES, self.ANSWERED)
        made.issuer = issuer(RESPONSES)
        kept: dict[str, Any] = json.loads(json.dumps(made.to_message())) | changes
        items: list[dict[str, Any]] = sent([kept])["input"]
        return items

    def test_all_items_go_back_to_their_issuer_word_for_word(self) -> None:
        assert self.history() == self.ANSWERED["output"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"content": "Edited."},
            {"tool_calls": []},
            {"tool_calls": [{"id": "9", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}]},
            {"native": None},
        ],
    )
    def test_an_edited_message_goes_as_it_was_edited(self, changes: dict[str, Any]) -> None:
        items = self.history(**changes)
        assert not any("id" in item for item in items)
        assert items[0] == {"role": "assistant", "content": changes.get("content", "Hello you.")}

    @pytest.mark.parametrize("other", [{"provider": "acme"}, {"model": "gpt-5"}, {"wire_format": "chat_completions"}])
    def test_another_service_gets_none_of_them(self, other: dict[str, str]) -> None:
        made = read(RESPONSES, self.ANSWERED)
        made.issuer = replace(issuer(RESPONSES), **other)
        assert sent([made.to_message()])["input"] == [
            {"role": "assistant", "content": "Hello you."},
            {"type": "function_call", "call_id": "1", "name": "lookup", "arguments": '{"q": 1}'},
            {"type": "custom_tool_call", "call_id": "s", "name": "shell", "input": "ls -l"},
        ]

    def test_a_refusal_goes_back_with_its_reasoning(self) -> None:
        made = read(RESPONSES, response(reasoning(), DECLINED))
        made.issuer = issuer(RESPONSES)
        assert sent([made.to_message()])["input"] == [reasoning(), DECLINED]
