"""A conversation that goes on with another service: what it would refuse is not sent to it. No socket, no clock."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest

from llmkit.errors import LLMProviderBadRequestError, LLMProviderUnsupportedOperationError
from llmkit.factory import find_spec
from llmkit.messages import File, Image, Message
from llmkit.response import Issuer, ToolCall
from llmkit.tools import Tool
from llmkit.wire import WireFormat, WireRequest
from llmkit.wire.chat_completions import ChatCompletions
from llmkit.wire.generate_content import GenerateContent
from llmkit.wire.messages import Messages
from llmkit.wire.responses import Responses

from .decoding import make_request

FORMATS: list[WireFormat] = [ChatCompletions(), Responses(), Messages()]
LONG = "tool_0_structured_output_MNUc7Nza0Mp02BTmpPFo1234567890123456789012"


def by_name(wire_format: WireFormat) -> str:
    return wire_format.name


def body(wire_format: WireFormat, messages: Any, **options: Any) -> dict[str, Any]:
    sent = make_request(wire_format, messages, **options).body
    assert sent is not None
    return sent


def turn(*ids: str, **fields: Any) -> list[Message]:
    """Return a question, an answer that calls tools, and their results."""
    return [
        Message(role="user", content="Go on"),
        Message(role="assistant", content=None, tool_calls=tuple(ToolCall(id, "f", {}, "{}") for id in ids), **fields),
        *(Message(role="tool", content="done", tool_call_id=id) for id in ids),
    ]


def ids(value: Any) -> tuple[list[str], list[str]]:
    """Return the ids of the calls in a body, and those of the results, in their order."""
    made, answered = [], []
    pending = [value]
    while pending:
        value = pending.pop(0)
        if isinstance(value, dict):
            kind = value.get("type")
            if kind in ("function_call", "function", "tool_use") and ("id" in value or "call_id" in value):
                made.append(value.get("call_id") or value["id"])
            if kind in ("function_call_output", "tool_result") or "tool_call_id" in value:
                answered.append(next(value[key] for key in ("tool_call_id", "tool_use_id", "call_id") if key in value))
            value = list(value.values())
        if isinstance(value, list):
            pending += value
    return made, answered


class TestToolCallIds:
    @pytest.mark.parametrize("wire_format", FORMATS, ids=by_name)
    def test_those_that_fit_stay(self, wire_format: WireFormat) -> None:
        sent = body(wire_format, turn("call_1", "toolu_2") + turn("call_3"))
        assert ids(sent) == (["call_1", "toolu_2", "call_3"],) * 2

    @pytest.mark.parametrize("id", [LONG, "functions.w:0", "ü", "a b"])
    @pytest.mark.parametrize("wire_format", FORMATS, ids=by_name)
    def test_all_that_are_sent_are_taken_and_name_the_same_call(self, wire_format: WireFormat, id: str) -> None:
        made, answered = ids(body(wire_format, turn("first", id)))
        assert made == answered
        assert made[0] == "first"
        pattern = {"chat_completions": ".{1,40}", "responses": ".{1,64}", "messages": "[a-zA-Z0-9_-]+"}
        assert re.fullmatch(pattern[wire_format.name], made[1])

    def test_mistral_takes_nine_letters_and_digits(self) -> None:
        dialect = find_spec("mistral").dialect
        made, answered = ids(body(ChatCompletions(), turn("call_abcdef", "123456789"), dialect=dialect))
        assert made == answered
        assert made[1] == "123456789"
        assert len(made[0]) == 9 and made[0].isalnum() and made[0].isascii()

    @pytest.mark.parametrize("wire_format", FORMATS, ids=by_name)
    def test_one_that_an_earlier_answer_has_is_another(self, wire_format: WireFormat) -> None:
        history = turn("call__0") + turn("call__0") + turn("call__0", "call__1")
        made, answered = ids(body(wire_format, history))
        assert made == answered
        assert len(set(made)) == 4
        assert made[0] == "call__0" and made[3] == "call__1"
        # The beginning of a longer conversation is the same: services cache it.
        assert ids(body(wire_format, history + turn("call__0")))[0][:4] == made

    def test_what_the_service_itself_answered_keeps_its_own(self) -> None:
        native = ({"type": "tool_use", "id": "functions.w:0", "name": "f", "input": {}},)
        own = turn("functions.w:0", native=native, issuer=Issuer("openai", "messages", "gpt-4o"))
        assert ids(body(Messages(), own)) == (["functions.w:0"],) * 2
        other = turn("functions.w:0", native=native, issuer=Issuer("other", "messages", "gpt-4o"))
        made, answered = ids(body(Messages(), other))
        assert made == answered != ["functions.w:0"]


class TestReasoningItems:
    ISSUER = Issuer("openai", "responses", "gpt-4o")
    REASONING: ClassVar[Any] = {"type": "reasoning", "id": "rs_1", "summary": []}
    SAID: ClassVar[Any] = {"type": "message", "id": "m_1", "content": [{"type": "output_text", "text": "Hm"}]}
    CALL: ClassVar[Any] = {
        "type": "function_call",
        "id": "f_1",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"a": 1}',
    }

    def sent(self, *native: dict[str, Any], **fields: Any) -> list[Any]:
        history = [
            Message(role="user", content="Think"),
            Message(role="assistant", native=native, issuer=self.ISSUER, **fields),
            Message(role="user", content="Go on"),
        ]
        items: list[Any] = body(Responses(), history)["input"]
        return items[1:-1]

    def test_one_that_nothing_follows_stays_behind(self) -> None:
        assert self.sent(self.REASONING, content="") == []
        assert self.sent(self.SAID, self.REASONING, content="Hm") == [self.SAID]
        assert self.sent(self.REASONING, self.SAID, content="Hm") == [self.REASONING, self.SAID]

    def test_edited_arguments_are_the_ones_that_are_sent(self) -> None:
        calls = (ToolCall.from_text("call_1", "f", '{"a": 1}'),)
        assert self.sent(self.REASONING, self.CALL, tool_calls=calls) == [self.REASONING, self.CALL]
        edited = (ToolCall.from_text("call_1", "f", '{"a": 2}'),)
        (item,) = self.sent(self.REASONING, self.CALL, tool_calls=edited)
        assert (item["arguments"], item.get("id")) == ('{"a": 2}', None)

    @pytest.mark.parametrize("native", [{**SAID, "content": ["Hm"]}, {**CALL, "call_id": {}}, {**CALL, "call_id": []}])
    def test_native_parts_of_another_shape_are_not_sent(self, native: Any) -> None:
        assert self.sent(native, content="Hm") == [{"role": "assistant", "content": "Hm"}]


class TestThinking:
    """With a budget, an answer that calls tools has to begin with the model's own thinking."""

    MODEL = "claude-sonnet-4-5"
    THINKING: ClassVar[Any] = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    CALL: ClassVar[Any] = {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}

    def request(self, history: list[Message], **options: Any) -> WireRequest:
        dialect = find_spec("anthropic").dialect
        options = {"model_name": self.MODEL, "reasoning_effort": "high", **options}
        return make_request(Messages(), history, dialect=dialect, provider="anthropic", **options)

    def test_it_is_left_out_behind_the_call_of_another_model(self) -> None:
        sent = self.request(turn("call_1"))
        assert sent.body is not None and "thinking" not in sent.body
        assert [each["parameter"] for each in sent.adjustments if each["action"] == "left out"] == ["reasoning_effort"]

    @pytest.mark.parametrize(
        "history",
        [
            [Message(role="user", content="Hi")],
            [*turn("call_1"), Message(role="assistant", content="Done"), Message(role="user", content="More")],
            turn("call_1", native=(THINKING, CALL), issuer=Issuer("anthropic", "messages", MODEL)),
        ],
    )
    def test_it_is_there_elsewhere(self, history: list[Message]) -> None:
        sent = self.request(history).body
        assert sent is not None and sent["thinking"]["type"] == "enabled"

    def test_models_without_a_budget_do_not_mind(self) -> None:
        sent = self.request(turn("call_1"), model_name="claude-opus-4-8").body
        assert sent is not None and sent["thinking"]["type"] == "adaptive"


class TestBlankTexts:
    def test_the_messages_api_gets_none(self) -> None:
        history = [
            Message(role="user", content=["Hi", " \n"]),
            Message(role="assistant", content="\n\n", tool_calls=(ToolCall("a", "f"),)),
            Message(role="tool", content="", tool_call_id="a", is_error=True),
        ]
        asked, made, failed = body(Messages(), history)["messages"]
        assert asked["content"] == [{"type": "text", "text": "Hi"}]
        assert [block["type"] for block in made["content"]] == ["tool_use"]
        assert failed["content"][0]["content"] == [{"type": "text", "text": "error"}]

    def test_nor_its_own(self) -> None:
        blank, call = {"type": "text", "text": ""}, {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}
        own = turn("call_1", native=(blank, call), issuer=Issuer("openai", "messages", "gpt-4o"))
        assert body(Messages(), own)["messages"][1]["content"] == [call]

    @pytest.mark.parametrize(("wire_format", "prompt"), [(Messages(), ""), (Messages(), " "), (GenerateContent(), "")])
    def test_a_prompt_of_nothing_is_refused(self, wire_format: WireFormat, prompt: str) -> None:
        with pytest.raises(LLMProviderBadRequestError, match="the prompt is empty"):
            body(wire_format, [Message(role="user", content=prompt)])


class TestWhatOpenAIAloneKnows:
    HISTORY = (
        Message(role="developer", content="Brief."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content=None, refusal="No."),
        Message(role="user", content="Well"),
    )

    def test_others_get_it_in_words_that_they_know(self) -> None:
        expected = [("system", "Brief."), ("user", "Hi"), ("assistant", "No."), ("user", "Well")]
        chat = body(ChatCompletions(), list(self.HISTORY))["messages"]
        assert [(each["role"], each["content"]) for each in chat] == expected
        assert not any("refusal" in each for each in chat)
        items = body(Responses(), list(self.HISTORY))["input"]
        assert [(each["role"], each["content"]) for each in items] == expected

    @pytest.mark.parametrize("service", ["openai", "azure"])
    def test_openai_gets_it_as_it_is(self, service: str) -> None:
        dialect = find_spec(service).dialect
        chat = body(ChatCompletions(), list(self.HISTORY), dialect=dialect)["messages"]
        assert chat[0]["role"] == "developer" and chat[2] == {"role": "assistant", "content": None, "refusal": "No."}
        assert body(Responses(), list(self.HISTORY), dialect=dialect)["input"][0]["role"] == "developer"


class TestGemini:
    FORMAT: ClassVar[Any] = {"type": "json_object"}

    def test_older_models_take_no_schema_beside_tools(self) -> None:
        options: dict[str, Any] = {"tools": (Tool(name="f"),), "response_format": self.FORMAT}
        with pytest.raises(LLMProviderUnsupportedOperationError, match=r"gemini-2\.5-flash takes no response_format"):
            body(GenerateContent(), "Hi", model_name="gemini-2.5-flash", **options)
        assert body(GenerateContent(), "Hi", model_name="gemini-3-flash", **options)["generationConfig"]
        options = {"response_format": self.FORMAT}
        assert body(GenerateContent(), "Hi", model_name="gemini-2.5-flash", **options)["generationConfig"]

    @pytest.mark.parametrize(
        ("part", "media_type"),
        [
            (Image(url="https://a.example/cat.png?w=2.5"), "image/png"),
            (Image(url="https://a.example/cat"), None),
            (File(url="https://a.example/a.pdf#page=2"), "application/pdf"),
            (File(url="https://a.example/table", media_type="text/csv"), "text/csv"),
            (File(file_id="https://g.example/files/1"), None),
        ],
    )
    def test_the_type_of_a_file_by_url(self, part: Any, media_type: str | None) -> None:
        (content,) = body(GenerateContent(), [Message(role="user", content=[part])])["contents"]
        assert content["parts"][0]["fileData"].get("mimeType") == media_type
