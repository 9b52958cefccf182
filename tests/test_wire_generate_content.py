"""Gemini's generateContent: what a call becomes, and what comes back; no socket, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.config import APIType
from llmkit.errors import (
    LLMProviderAuthenticationError,
    LLMProviderConfigurationError,
    LLMProviderContentFilterError,
    LLMProviderOverloadedError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTokenLimitError,
    LLMProviderUnsupportedOperationError,
)
from llmkit.events import Event, Finish, NativePart, TextDelta, ToolCallDelta, UnknownEvent, UsageReport
from llmkit.factory import find_spec
from llmkit.failures import error_from_body
from llmkit.messages import Audio, File, Image, Message, RawPart, Text
from llmkit.response import Issuer, LLMResponse, ResponseBuilder, ToolCall
from llmkit.sse import ServerSentEventParser
from llmkit.tools import Tool
from llmkit.wire import StreamDecoder, WireRequest
from llmkit.wire.generate_content import GenerateContent

from .decoding import make_request

OLD, NEW = "gemini-2.5-flash", "gemini-3.6-flash"


def request(messages: Any = "Hello", *, model: str = OLD, **options: Any) -> WireRequest:
    dialect = find_spec("gemini").dialect
    return make_request(GenerateContent(), messages, dialect=dialect, provider="gemini", model_name=model, **options)


def body(messages: Any = "Hello", **options: Any) -> dict[str, Any]:
    sent = request(messages, **options).body
    assert sent is not None
    return sent


def adjusted(sent: WireRequest) -> dict[str, str]:
    return {adjustment["parameter"]: adjustment["action"] for adjustment in sent.adjustments}


def issuer(model: str = OLD) -> Issuer:
    return Issuer("gemini", "generate_content", model)


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": list(parts)}


def model_said(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}


class TestRequest:
    def test_the_least_request(self) -> None:
        sent = request()
        assert (sent.method, sent.path, sent.query, sent.headers) == (
            "POST",
            "/v1/models/gemini-2.5-flash:generateContent",
            {},
            {},
        )
        assert sent.body == {"contents": [user({"text": "Hello"})], "generationConfig": {"temperature": 0.7}}
        assert sent.defaults == {"temperature": "temperature"}
        assert sent.adjustments == []

    def test_a_stream_is_asked_for_by_path_and_query(self) -> None:
        sent = request(stream=True)
        assert sent.path == "/v1/models/gemini-2.5-flash:streamGenerateContent"
        assert sent.query == {"alt": "sse"}

    @pytest.mark.parametrize(
        ("model", "path"),
        [
            ("models/gemini-2.5-pro", "/v1/models/gemini-2.5-pro:generateContent"),
            ("tunedModels/mine", "/v1/tunedModels/mine:generateContent"),
            ("../files", "/v1/models/..%2Ffiles:generateContent"),
            ("a?key=b#c", "/v1/models/a%3Fkey%3Db%23c:generateContent"),
            ("a:countTokens", "/v1/models/a%3AcountTokens:generateContent"),
            ("a%2Fb", "/v1/models/a%252Fb:generateContent"),
        ],
    )
    def test_a_models_name_leads_to_no_other_path(self, model: str, path: str) -> None:
        assert request(model=model).path == path

    def test_the_version_is_a_setting(self) -> None:
        assert request(api_version="v1beta").path.startswith("/v1beta/models/")
        assert request(api_version="").path.startswith("/models/")

    @pytest.mark.parametrize("version", ["../v1", "1", "v1/x", "v1\u0661/"])
    def test_a_version_that_is_none_is_refused(self, version: str) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="api_version"):
            request(api_version=version)

    def test_every_parameter_has_its_place(self) -> None:
        sent = body(
            temperature=0.1,
            max_tokens=5,
            top_p=0.9,
            frequency_penalty=0.2,
            presence_penalty=0.3,
            stop=["END"],
            seed=7,
            instructions="Be brief.",
        )
        assert sent["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
        assert sent["generationConfig"] == {
            "temperature": 0.1,
            "maxOutputTokens": 5,
            "topP": 0.9,
            "frequencyPenalty": 0.2,
            "presencePenalty": 0.3,
            "stopSequences": ["END"],
            "seed": 7,
        }

    def test_the_third_generation_keeps_its_own_temperature_unless_told(self) -> None:
        sent = request(model=NEW)
        assert sent.body == {"contents": [user({"text": "Hello"})]}
        assert adjusted(sent) == {"temperature": "omitted"}
        assert body(model=NEW, temperature=0.3)["generationConfig"] == {"temperature": 0.3}

    @pytest.mark.parametrize(
        ("options", "named"), [({"previous_response_id": "r"}, "history"), ({"parallel_tool_calls": False}, "parallel")]
    )
    def test_what_the_api_cannot_do_is_named(self, options: Any, named: str) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=named):
            request(**options)


class TestThinking:
    @pytest.mark.parametrize(
        ("model", "effort", "config"),
        [
            (OLD, "none", {"includeThoughts": False, "thinkingBudget": 0}),
            (OLD, "low", {"includeThoughts": True, "thinkingBudget": 1_024}),
            ("models/gemini-2.5-pro", "max", {"includeThoughts": True, "thinkingBudget": 24_576}),
            (NEW, "low", {"includeThoughts": True, "thinkingLevel": "LOW"}),
            (NEW, "xhigh", {"includeThoughts": True, "thinkingLevel": "XHIGH"}),
            ("gemini-flash-latest", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ],
    )
    def test_effort_is_a_budget_or_a_level(self, model: str, effort: str, config: Any) -> None:
        sent = request(model=model, reasoning_effort=effort)
        assert sent.body is not None
        assert sent.body["generationConfig"]["thinkingConfig"] == config
        assert "reasoning_effort" not in adjusted(sent)

    @pytest.mark.parametrize(("effort", "level", "shown"), [("none", "MINIMAL", False), ("max", "XHIGH", True)])
    def test_an_effort_without_a_level_is_translated_and_noted(self, effort: str, level: str, shown: bool) -> None:
        sent = request(model=NEW, reasoning_effort=effort)
        assert sent.body is not None
        config = sent.body["generationConfig"]["thinkingConfig"]
        assert config == {"includeThoughts": shown, "thinkingLevel": level}
        assert adjusted(sent)["reasoning_effort"] == f"sent as {level}"


class TestConversation:
    def test_system_messages_open_it_or_are_the_users(self) -> None:
        history = [
            {"role": "system", "content": "Rules."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
            {"role": "developer", "content": "Now rhyme."},
            {"role": "user", "content": "Three"},
        ]
        sent = request(history, instructions="First.")
        assert sent.body is not None
        assert sent.body["systemInstruction"] == {"parts": [{"text": "First."}, {"text": "Rules."}]}
        assert sent.body["contents"] == [
            user({"text": "One"}),
            model_said({"text": "Two"}),
            user({"text": "Now rhyme."}, {"text": "Three"}),
        ]
        assert adjusted(sent) == {"messages": "system message sent as user's"}

    def test_results_have_the_names_of_their_calls_and_stand_first(self) -> None:
        calls = (ToolCall("a", "f", {"x": 1}), ToolCall("b", "g"))
        history = [
            Message(role="user", content="Go"),
            Message(role="assistant", content=None, tool_calls=calls),
            Message(role="user", content="Quick"),
            Message(role="tool", content="1", tool_call_id="a"),
            Message(role="tool", content=["no", Image(b"png")], tool_call_id="b", is_error=True),
        ]
        image = {"inlineData": {"mimeType": "image/png", "data": "cG5n"}}
        assert body(history)["contents"][1:] == [
            model_said(
                {"functionCall": {"id": "a", "name": "f", "args": {"x": 1}}},
                {"functionCall": {"id": "b", "name": "g", "args": {}}},
            ),
            user(
                {"functionResponse": {"id": "a", "name": "f", "response": {"result": "1"}}},
                {"functionResponse": {"id": "b", "name": "g", "response": {"error": "no"}, "parts": [image]}},
                {"text": "Quick"},
            ),
        ]

    def test_an_id_used_twice_means_the_last_call_before(self) -> None:
        history: list[Message] = []
        for name in ("f", "g"):
            history.append(Message(role="assistant", content=None, tool_calls=(ToolCall("a", name),)))
            history.append(Message(role="tool", content="1", tool_call_id="a"))
        responses = [content["parts"][0] for content in body(history)["contents"] if content["role"] == "user"]
        assert [part["functionResponse"]["name"] for part in responses] == ["f", "g"]

    def test_a_result_without_its_call_needs_the_name(self) -> None:
        message = {"role": "tool", "content": "1", "tool_call_id": "a"}
        assert body([{**message, "name": "f"}])["contents"] == [
            user({"functionResponse": {"name": "f", "response": {"result": "1"}}})
        ]
        with pytest.raises(LLMProviderUnsupportedOperationError, match="'a'"):
            body([message])

    def test_newer_models_are_told_that_foreign_calls_have_no_signature(self) -> None:
        calls = (ToolCall("a", "f"), ToolCall("b", "g"))
        (content,) = body([Message(role="assistant", content="Hm", tool_calls=calls)], model=NEW)["contents"]
        assert [part.get("thoughtSignature") for part in content["parts"]] == [
            None,
            "skip_thought_signature_validator",
            None,
        ]

    def test_roles_alternate_and_empty_texts_are_left_out(self) -> None:
        history = [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": ["", "Two"]},
            {"role": "assistant", "content": None, "refusal": "No."},
        ]
        assert body(history)["contents"] == [user({"text": "One"}, {"text": "Two"}), model_said({"text": "No."})]


class TestParts:
    @pytest.mark.parametrize(
        ("part", "sent"),
        [
            (Text("a", {"mediaResolution": {}}), {"text": "a", "mediaResolution": {}}),
            (Image(b"png", "image/webp"), {"inlineData": {"mimeType": "image/webp", "data": "cG5n"}}),
            (Image(url="https://a/b.JPG"), {"fileData": {"fileUri": "https://a/b.JPG", "mimeType": "image/jpeg"}}),
            (File(url="https://youtu.be/x"), {"fileData": {"fileUri": "https://youtu.be/x"}}),
            (File(file_id="https://g/files/1"), {"fileData": {"fileUri": "https://g/files/1"}}),
            (File(b"%PDF"), {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}}),
            (Audio(b"RIFF", "mp3"), {"inlineData": {"mimeType": "audio/mp3", "data": "UklGRg=="}}),
            (RawPart({"executableCode": {}}), {"executableCode": {}}),
        ],
    )
    def test_a_part_is_a_part(self, part: Any, sent: dict[str, Any]) -> None:
        assert body([Message(role="user", content=[part])])["contents"] == [user(sent)]


class TestTools:
    SCHEMA: ClassVar = {"type": "object", "properties": {"x": {"type": "integer"}}}

    def test_functions_are_declared_together_beside_the_services_own(self) -> None:
        tools = [Tool(name="f", description="Does f.", parameters=self.SCHEMA), Tool(name="g")]
        assert body(tools=[*tools, Tool(native={"googleSearch": {}})])["tools"] == [
            {
                "functionDeclarations": [
                    {"name": "f", "description": "Does f.", "parametersJsonSchema": self.SCHEMA},
                    {"name": "g", "description": ""},
                ]
            },
            {"googleSearch": {}},
        ]
        assert body(tools=[Tool(native={"googleSearch": {}})])["tools"] == [{"googleSearch": {}}]

    @pytest.mark.parametrize(
        ("choice", "strict", "config"),
        [
            (None, None, None),
            ("auto", None, {"mode": "AUTO"}),
            (None, True, {"mode": "VALIDATED"}),
            ("none", True, {"mode": "NONE"}),
            ("required", None, {"mode": "ANY"}),
            ("f", None, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
            ({"type": "function", "function": {"name": "f"}}, None, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
            ({"type": "function", "name": "f"}, None, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
            ({"mode": "VALIDATED"}, None, {"mode": "VALIDATED"}),
            ({"functionCallingConfig": {"mode": "ANY"}}, None, {"mode": "ANY"}),
        ],
    )
    def test_the_choice(self, choice: Any, strict: bool | None, config: Any) -> None:
        sent = body(tools=[Tool(name="f", strict=strict)], tool_choice=choice)
        assert sent.get("toolConfig") == (config and {"functionCallingConfig": config})


class TestResponseFormat:
    SCHEMA: ClassVar = {"type": "object"}

    @pytest.mark.parametrize(
        ("given", "config"),
        [
            ({"type": "text"}, {}),
            ({"type": "json_object"}, {"responseMimeType": "application/json"}),
            (
                {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
                {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
            ),
            (
                {"type": "json_schema", "schema": SCHEMA},
                {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
            ),
        ],
    )
    def test_it_is_a_media_type_and_a_schema(self, given: Any, config: Any) -> None:
        assert body(model=NEW, response_format=given).get("generationConfig", {}) == config

    @pytest.mark.parametrize("given", [{"type": "grammar"}, {"type": "json_schema"}])
    def test_another_is_refused(self, given: Any) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=given["type"]):
            body(response_format=given)


NATIVE = (
    {"text": "Hm.", "thought": True},
    {"text": "Let me see"},
    {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
    {"functionCall": {"name": "g", "id": "srv"}},
    {"text": "", "thoughtSignature": "bW9yZQ=="},
)


class TestNativeParts:
    def answer(self, **changes: Any) -> LLMResponse:
        calls = [ToolCall("call_r_0", "f", {"x": 1}, '{"x": 1}'), ToolCall("srv", "g", {}, "{}")]
        said = {"content": "Let me see", "tool_calls": calls, "native": list(NATIVE), "issuer": issuer()}
        return LLMResponse(**{**said, **changes})

    def history(self, message: Any) -> list[Any]:
        result = {"role": "tool", "content": "1"}
        return [message, {**result, "tool_call_id": "call_r_0"}, {**result, "tool_call_id": "srv"}]

    def test_they_go_back_word_for_word_and_results_have_the_ids_that_the_service_gave(self) -> None:
        message = json.loads(json.dumps(self.answer().to_message()))
        assert body(self.history(message))["contents"] == [
            model_said(*NATIVE),
            user(
                {"functionResponse": {"name": "f", "response": {"result": "1"}}},
                {"functionResponse": {"id": "srv", "name": "g", "response": {"result": "1"}}},
            ),
        ]

    @pytest.mark.parametrize("change", [{"content": "Edited"}, {"tool_calls": [ToolCall("call_r_0", "f", {"x": 2})]}])
    def test_an_edited_message_goes_without_them(self, change: dict[str, Any]) -> None:
        (content,) = body([self.answer(**change).to_message()])["contents"]
        assert not [part for part in content["parts"] if "thoughtSignature" in part or "thought" in part]

    def test_another_issuers_are_left_out(self) -> None:
        content, responses = body(self.history(self.answer().to_message()), model=NEW)["contents"]
        assert content["parts"] == [
            {"text": "Let me see"},
            {
                "functionCall": {"id": "call_r_0", "name": "f", "args": {"x": 1}},
                "thoughtSignature": "skip_thought_signature_validator",
            },
            {"functionCall": {"id": "srv", "name": "g", "args": {}}},
        ]
        assert [part["functionResponse"]["id"] for part in responses["parts"]] == ["call_r_0", "srv"]


def chunk(*parts: Any, finish: str | None = None, usage: Any = None, **candidate: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **candidate}
    sent = {
        "responseId": "r1",
        "modelVersion": OLD,
        "candidates": [candidate | ({"finishReason": finish} if finish else {})],
    }
    return sent | ({"usageMetadata": usage} if usage else {})


def decoded(*chunks: Any) -> tuple[list[Event], StreamDecoder]:
    decoder, parser = GenerateContent().decoder(), ServerSentEventParser()
    sent = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks)
    return decoder.feed(parser.feed(sent.encode())) + decoder.end(parser.close()), decoder


def built(events: Iterable[Event]) -> LLMResponse:
    builder = ResponseBuilder()
    builder.extend(events)
    return builder.build(issuer(), APIType.CHAT_COMPLETION)


class TestStream:
    def test_text(self) -> None:
        events, decoder = decoded(chunk({"text": "Hel"}), chunk({"text": ""}), chunk({"text": "lo"}, finish="STOP"))
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hel", "lo"]
        answer = built(events)
        assert (answer.response_id, answer.model, answer.finish_reason) == ("r1", OLD, "stop")
        assert answer.native == [{"text": "Hello"}]
        assert decoder.raw["candidates"][0]["content"]["parts"] == [{"text": "Hello"}]

    def test_parts_keep_their_order_and_their_signatures(self) -> None:
        call = {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"}
        code = {"executableCode": {"code": "1"}}
        events, _ = decoded(
            chunk({"text": "H", "thought": True}),
            chunk({"text": "m", "thought": True}, {"text": "So"}),
            chunk({"text": ":"}, code, {"text": "a"}),
            chunk(call, {"text": ""}),
            chunk({"text": "b", "thoughtSignature": "bW9yZQ=="}, finish="STOP"),
        )
        answer = built(events)
        assert (answer.reasoning, answer.content, answer.finish_reason) == ("Hm", "So:ab", "tool_calls")
        assert answer.native == [
            {"text": "Hm", "thought": True},
            {"text": "So:"},
            code,
            {"text": "a"},
            call,
            {"text": "b", "thoughtSignature": "bW9yZQ=="},
        ]

    def test_calls_come_whole_and_get_an_id_where_they_have_none(self) -> None:
        events, _ = decoded(
            chunk({"functionCall": {"name": "f", "args": {"é": [1]}}}, {"functionCall": {"name": "g", "id": "srv"}}),
            chunk({"functionCall": {"name": "f", "args": None}}, finish="STOP"),
        )
        assert built(events).tool_calls == [
            ToolCall("call_r1_0", "f", {"é": [1]}, '{"é": [1]}'),
            ToolCall("srv", "g", {}, "{}"),
            ToolCall("call_r1_2", "f", {}, "{}"),
        ]
        assert [event.index for event in events if isinstance(event, ToolCallDelta)] == [0, 1, 2]

    def test_a_call_that_is_null_is_none(self) -> None:
        events, _ = decoded(chunk({"text": "Hi", "functionCall": None}, finish="STOP"))
        answer = built(events)
        assert (answer.content, answer.tool_calls, answer.finish_reason) == ("Hi", [], "stop")
        body = request([{"role": "user", "content": "a"}, answer.to_message(), {"role": "user", "content": "b"}]).body
        assert body is not None
        assert body["contents"][1]["parts"][0]["text"] == "Hi"

    def test_usage_takes_the_last_figure_of_each_key(self) -> None:
        first = {"promptTokenCount": 46, "candidatesTokenCount": 51, "thoughtsTokenCount": 101, "totalTokenCount": 198}
        second = {
            "promptTokenCount": 46,
            "candidatesTokenCount": 20,
            "totalTokenCount": 66,
            "cachedContentTokenCount": 6,
        }
        events, _ = decoded(chunk({"text": "a"}, usage=first), chunk(usage=second, finish="STOP"))
        usage = [event.usage for event in events if isinstance(event, UsageReport)][-1]
        assert (usage.input_uncached, usage.cache_read, usage.output_text, usage.reasoning) == (40, 6, 20, 101)

    def test_usage_tells_audio_and_the_services_own_tools_apart(self) -> None:
        usage = {
            "promptTokenCount": 100,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40}, {"modality": "AUDIO", "tokenCount": 60}],
            "cachedContentTokenCount": 30,
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}, {"modality": "TEXT", "tokenCount": 20}],
            "toolUsePromptTokenCount": 7,
            "candidatesTokenCount": 9,
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}],
            "totalTokenCount": 116,
        }
        events, _ = decoded(chunk({"text": "a"}, finish="STOP", usage=usage))
        found = built(events).usage
        assert found is not None
        assert (found.input_uncached, found.cache_read, found.input_audio) == (27, 30, 50)
        assert (found.output_text, found.output_audio, found.total_tokens) == (5, 4, 116)

    def test_usage_without_a_figure_is_none(self) -> None:
        events, _ = decoded(chunk({"text": "a"}, finish="STOP", usage={"trafficType": "ON_DEMAND"}))
        assert built(events).usage is None

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("STOP", "stop"),
            ("MAX_TOKENS", "length"),
            ("SAFETY", "content_filter"),
            ("IMAGE_SAFETY", "content_filter"),
            ("MODEL_ARMOR", "content_filter"),
            ("MALFORMED_FUNCTION_CALL", "error"),
            ("OTHER", "other"),
            ("SOMETHING_NEW", "other"),
        ],
    )
    def test_finish_reasons(self, raw: str, reason: str) -> None:
        events, _ = decoded(chunk({"text": "a"}), chunk(finish=raw))
        assert events[-1] == Finish(reason, raw)

    def test_a_blocked_answer_says_why_and_keeps_what_came(self) -> None:
        events, decoder = decoded(chunk({"text": "a"}), chunk(finish="SAFETY", finishMessage="Not this.", content={}))
        answer = built(events)
        assert (answer.content, answer.refusal, answer.finish_reason) == ("a", "Not this.", "content_filter")
        assert decoder.raw["candidates"][0]["finishMessage"] == "Not this."

    @pytest.mark.parametrize("chunks", [[], [chunk({"text": "a"})], [chunk(finish="FINISH_REASON_UNSPECIFIED")]])
    def test_a_stream_without_a_finish_reason_is_cut(self, chunks: list[Any]) -> None:
        _, decoder = decoded(*chunks)
        assert isinstance(decoder.failure, LLMProviderStreamError)
        assert not decoder.finished

    def test_what_follows_the_finish_reason_still_counts(self) -> None:
        events, decoder = decoded(
            chunk({"text": "a"}, finish="STOP"), chunk({"text": "b"}, usage={"totalTokenCount": 3})
        )
        assert built(events).content == "ab"
        assert isinstance(events[-1], Finish)
        assert decoder.raw["usageMetadata"] == {"totalTokenCount": 3}

    def test_other_candidates_and_unknown_things_break_nothing(self) -> None:
        events, _ = decoded(
            {"weather": "sun"},
            {**chunk({"text": "a"}), "candidates": [{"index": 1, "content": {"parts": [{"text": "no"}]}}]},
            {**chunk({"hologram": {}}), "novelty": 1},
            {"candidates": [{"finishReason": "STOP"}], "responseId": "r1"},
            {"candidates": [], "usageMetadata": None},
        )
        assert [event for event in events if isinstance(event, UnknownEvent)] == [
            UnknownEvent("message", {"weather": "sun"})
        ]
        assert NativePart({"hologram": {}}) in events
        assert built(events).content == ""

    @pytest.mark.parametrize("broken", [{"candidates": 1}, chunk(1), chunk({"functionCall": {}}), {"candidates": [[]]}])
    def test_a_shape_that_makes_no_sense_is_a_failure(self, broken: Any) -> None:
        _, decoder = decoded(broken, chunk(finish="STOP"))
        assert isinstance(decoder.failure, LLMProviderStreamError)

    def test_an_error_inside_is_the_exception_of_its_kind(self) -> None:
        error = {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}
        for sent in ({"error": error}, [{"error": error}]):
            events, decoder = decoded(chunk({"text": "a"}), sent)
            assert isinstance(decoder.failure, LLMProviderOverloadedError)
            assert built(events).content == "a"


BLOCKED = {
    "promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "Unsafe."},
    "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
    "responseId": "r1",
}


class TestBlockedPrompt:
    def test_it_is_the_same_exception_streamed_and_whole(self) -> None:
        events, decoder = decoded(BLOCKED)
        with pytest.raises(LLMProviderContentFilterError, match=r"SAFETY.*Unsafe\.") as caught:
            GenerateContent().decoder().read(BLOCKED)
        assert isinstance(decoder.failure, LLMProviderContentFilterError)
        assert decoder.failure.to_dict() == caught.value.to_dict()
        assert caught.value.code == "SAFETY"
        assert built(events).prompt_tokens == 4

    def test_ratings_without_a_block_are_no_block(self) -> None:
        answer = {**chunk({"text": "a"}, finish="STOP"), "promptFeedback": {"safetyRatings": []}}
        assert built(GenerateContent().decoder().read(answer)).content == "a"


class TestBody:
    def test_a_whole_answer_gives_what_a_stream_gives(self) -> None:
        plain = chunk(*NATIVE, finish="STOP", usage={"promptTokenCount": 3, "totalTokenCount": 3})
        decoder = GenerateContent().decoder()
        answer = built(decoder.read(plain))
        assert (answer.content, answer.reasoning, answer.finish_reason) == ("Let me see", "Hm.", "tool_calls")
        assert answer.native == list(NATIVE)
        assert answer == built(decoded(plain)[0])
        assert decoder.raw is plain

    @pytest.mark.parametrize(
        "plain", [{}, {"candidates": []}, {"usageMetadata": {"totalTokenCount": 1}}, [], [1], None]
    )
    def test_what_is_no_answer_is_an_error(self, plain: Any) -> None:
        with pytest.raises(LLMProviderServerError):
            GenerateContent().decoder().read(plain)

    def test_a_candidate_without_content_is_an_empty_answer(self) -> None:
        answer = built(GenerateContent().decoder().read({"candidates": [{"finishReason": "MAX_TOKENS"}]}))
        assert (answer.content, answer.finish_reason) == ("", "length")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            {"code": 400, "status": "INVALID_ARGUMENT", "message": "-", "details": [{"reason": "API_KEY_INVALID"}]},
            LLMProviderAuthenticationError,
        ),
        (
            {
                "code": 400,
                "status": "INVALID_ARGUMENT",
                "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            },
            LLMProviderTokenLimitError,
        ),
        (
            {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "-",
                "details": [{"violations": [{"quotaId": "RequestsPerDayPerModel"}]}],
            },
            LLMProviderQuotaError,
        ),
        (
            {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "-", "details": [{"retryDelay": "46s"}]},
            LLMProviderRateLimitError,
        ),
    ],
)
def test_error_bodies_are_told_apart_in_an_array_too(error: Any, kind: type[Exception]) -> None:
    for sent in ({"error": error}, [{"error": error}]):
        found = error_from_body(sent, error["code"])
        assert type(found) is kind
        assert found.retry_after == (46.0 if kind is LLMProviderRateLimitError else None)


@given(
    st.lists(
        st.one_of(
            st.builds(lambda text: {"text": text}, st.text(max_size=4)),
            st.builds(lambda text: {"text": text, "thought": True}, st.text(max_size=4)),
            st.builds(lambda text: {"text": text, "thoughtSignature": "c2ln"}, st.text(max_size=4)),
            st.builds(lambda x: {"functionCall": {"name": "f", "args": {"x": x}}}, st.integers()),
        ),
        max_size=8,
    ),
    st.data(),
)
def test_any_way_of_cutting_an_answer_into_chunks_gives_the_same(parts: list[Any], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(parts)), max_size=4)))
    chunks = [chunk(*parts[start:end]) for start, end in zip([0, *cuts], [*cuts, len(parts)], strict=True)]
    events, decoder = decoded(*chunks, chunk(finish="STOP"))
    whole = GenerateContent().decoder()
    assert built(events) == built(whole.read(chunk(*parts, finish="STOP")))
    # What goes back to the service says what came from it, signatures in their places.
    kept = decoder.raw["candidates"][0]["content"]["parts"]
    assert "".join(part.get("text", "") for part in kept) == "".join(part.get("text", "") for part in parts)
    assert [part for part in kept if "text" not in part or "thoughtSignature" in part] == [
        part for part in parts if "text" not in part or "thoughtSignature" in part
    ]
