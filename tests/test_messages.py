"""What callers may say: messages and parts in every shape that is taken, and what is said about the others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.errors import LLMProviderBadRequestError
from llmkit.messages import Audio, File, Image, Message, RawPart, Text, parse_messages
from llmkit.response import Issuer, LLMResponse, ToolCall

PNG = "data:image/png;base64,iVBORw=="
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
ISSUER = {"provider": "openai", "wire_format": "responses", "model": "gpt-5"}


def parsed(message: Any) -> Message:
    [made] = parse_messages([message])
    return made


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("Hello", [Message(role="user", content="Hello")]),
        ({"role": "user", "content": "Hello"}, [Message(role="user", content="Hello")]),
        (Message(role="user", content="Hello"), [Message(role="user", content="Hello")]),
        (({"role": "system", "content": "a"}, Message(role="user", content="b")),
         [Message(role="system", content="a"), Message(role="user", content="b")]),
        ([MappingProxyType({"role": "user", "content": ("a", "b")})],
         [Message(role="user", content=(Text("a"), Text("b")))]),
        ([{"role": "assistant", "content": ""}], [Message(role="assistant", content="")]),
        ([{"role": "assistant", "tool_calls": [CALL, ToolCall("2", "g")]}],
         [Message(role="assistant", content=None,
                  tool_calls=(ToolCall("1", "f", {"x": 1}, '{"x": 1}'), ToolCall("2", "g")))]),
        ([{"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}]}],
         [Message(role="assistant", content=None,
                  tool_calls=(ToolCall("1", "shell", arguments_text="ls", kind="custom"),))]),
        ([{"role": "assistant", "refusal": "No."}], [Message(role="assistant", content=None, refusal="No.")]),
        ([{"role": "tool", "tool_call_id": "1", "content": "4", "is_error": True}],
         [Message(role="tool", content="4", tool_call_id="1", is_error=True)]),
        ([{"role": "user", "content": "a", "name": "ann", "weight": 0}],
         [Message(role="user", content="a", name="ann", extra={"weight": 0})]),
        ([{"role": "assistant", "content": "a", "native": {"issuer": ISSUER, "parts": [{"type": "reasoning"}]}}],
         [Message(role="assistant", content="a", native=({"type": "reasoning"},), issuer=Issuer(**ISSUER))]),
    ],
)  # fmt: skip
def test_messages(messages: Any, expected: list[Message]) -> None:
    assert parse_messages(messages) == tuple(expected)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("a", Text("a")),
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
         Text("a", {"cache_control": {"type": "ephemeral"}})),
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
         Image(b"\x89PNG", "image/png", detail="low")),
        ({"type": "image_url", "image_url": "https://a.example/cat"}, Image(url="https://a.example/cat")),
        ({"type": "image_url", "image_url": {"url": "https://a.example/cat"}, "x": 1},
         Image(url="https://a.example/cat", extra={"x": 1})),
        ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}}, Audio(b"RIFF", "mp3")),
        ({"type": "file", "file": {"file_id": "f"}}, File(file_id="f")),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,YQ==", "filename": "a.txt"}},
         File(b"a", "a.txt", "text/plain")),
        ({"type": "video_url", "video_url": {"url": "u"}}, RawPart({"type": "video_url", "video_url": {"url": "u"}})),
        (Image(url="u"), Image(url="u")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_object", [False, True], ids=["in a dict", "in a Message"])
def test_parts(part: Any, expected: Any, as_object: bool) -> None:
    message = Message(role="user", content=[part]) if as_object else user(part)
    assert parsed(message).parts == (expected,)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (None, "messages is None; it must be a string or a list of messages"),
        (7, "messages is an int"),
        ([], "messages is empty"),
        ([7], "messages[0] is an int; it must be a dict or a Message"),
        (["Hello"], "messages[0] is a str"),
        ([{"content": "a"}], "messages[0] has no role; it must be one of system, developer"),
        ([user("a"), {"role": "usr", "content": "a"}], "messages[1].role is 'usr'; did you mean 'user'?"),
        ([{"role": None, "content": "a"}], "messages[0].role is None"),
        ([{"role": "item", "content": "lost"}], "messages[0].role is 'item'"),
        (b"Hello", "messages is a bytes; it must be a string or a list of messages"),
        ([Message(role="assistant", tool_calls=(ToolCall("1", "f", {"a": [math.nan]}),))],
         "messages[0].tool_calls[0].arguments.a[0] is nan"),
        ([Message(role="assistant", tool_calls=(ToolCall("1", "f", {"when": object()}),))],
         "messages[0].tool_calls[0].arguments.when is an object"),
        ([{"role": "user"}], "messages[0].content is None; it must be a string or a list of parts"),
        ([{"role": "user", "content": []}], "messages[0].content is empty"),
        ([Message(role="user")], "messages[0].content is empty"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content is a dict; it must be a string or"),
        ([{"role": "user", "content": 7}], "messages[0].content is an int; it must be a string or a list of parts"),
        ([{"role": "user", "content": b"a"}], "messages[0].content is a bytes"),
        ([{"role": "tool", "content": "a"}], "messages[0] answers no tool call; it needs the tool_call_id"),
        ([user("a", 7)], "messages[0].content[1] must be a string, a part, or a dict with a type"),
        ([user({"text": "a"})], "messages[0].content[0] must be"),
        ([Message(role="user", content=[{"type": "text"}])], "messages[0].content[0] is no valid part of type 'text'"),  # type: ignore[list-item]
        ([user({"type": "text"})], "messages[0].content[0] is no valid part of type 'text': it has no 'text'"),
        ([user({"type": "text", "text": None})], "type 'text': its text is no string"),
        ([user({"type": "image_url", "image_url": {}})], "type 'image_url': it has no 'url'"),
        ([user({"type": "image_url", "image_url": None})], "no valid part of type 'image_url'"),
        ([user({"type": "image_url", "image_url": {"url": "data:image/png,x"}})], "like data:image/png;base64,"),
        ([user({"type": "image_url", "image_url": "data:image/png;base64,%"})], "no valid part of type 'image_url'"),
        ([user({"type": "image_url", "image_url": {"url": 7}})], "no valid part of type 'image_url'"),
        ([user({"type": "input_audio", "input_audio": {"data": "%", "format": "wav"}})], "type 'input_audio'"),
        ([user({"type": "input_audio", "input_audio": {"data": ""}})], "it has no 'format'"),
        ([user({"type": "file", "file": {}})], "it has no 'file_id'"),
        ([user({"type": "file", "file": {"file_data": "YQ=="}})], "a data URL must be like"),
        ([{"role": "assistant", "tool_calls": {"id": "1"}}], "messages[0].tool_calls is a dict; it must be a list"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "tool_calls[0] is no tool call: it has no 'function'"),
        ([{"role": "assistant", "tool_calls": [None]}], "messages[0].tool_calls[0] is no tool call"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": 1}}}]}],
         "messages[0].tool_calls[0] is no tool call"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": 7}}]}],
         "messages[0].tool_calls[0].name is an int; it must be a string"),
        ([Message(role="assistant", tool_calls=({"id": "1"},))], "tool_calls[0] is no tool call: it has no 'function'"),  # type: ignore[arg-type]
        ([Message(role="assistant", tool_calls="f")], "messages[0].tool_calls is a str; it must be a list"),  # type: ignore[arg-type]
        ([Message(role="assistant", tool_calls=(ToolCall("1", "f", "{}"),))],  # type: ignore[arg-type]
         "messages[0].tool_calls[0].arguments is a str; it must be a dict"),
        ([{"role": "user", "content": "a", "name": 7}], "messages[0].name is an int; it must be a string, or None"),
        ([Message(role="user", content="a", name=7)], "messages[0].name is an int"),  # type: ignore[arg-type]
        ([{"role": "assistant", "refusal": ["No"]}], "messages[0].refusal is a list; it must be a string, or None"),
        ([Message(role="user", content="a", extra=[])], "messages[0].extra is a list; it must be a dict"),  # type: ignore[arg-type]
        ([Message(role="user", content="a", native=7)], "messages[0].native is an int"),  # type: ignore[arg-type]
        ([user(Text(None))], "messages[0].content[0].text is None; it must be a string"),  # type: ignore[arg-type]
        ([Message(role="user", content=[Text(b"a")])], "messages[0].content[0].text is a bytes"),  # type: ignore[arg-type]
        ([user(Image("iVBO"))], "messages[0].content[0].data is a str; it must be bytes, or None"),  # type: ignore[arg-type]
        ([user(Audio(None))], "messages[0].content[0].data is None; it must be bytes"),  # type: ignore[arg-type]
        ([user(File(file_id=7))], "messages[0].content[0].file_id is an int; it must be a string, or None"),  # type: ignore[arg-type]
        ([user(RawPart("a"))], "messages[0].content[0].data is a str; it must be a dict"),  # type: ignore[arg-type]
        ([user({"type": "input_audio", "input_audio": {"data": "", "format": 7}})], "content[0].format is an int"),
        ([Message(role="assistant", content="a", native=(7,))], "messages[0].native holds what is no dict"),  # type: ignore[arg-type]
        ([{"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "f"}}]}],
         "messages[0].tool_calls[0].id is an int; it must be a string"),
        ([{"role": "tool", "tool_call_id": 5, "content": "a"}], "messages[0] answers no tool call"),
        ([{"role": "assistant", "content": "a", "native": {"parts": []}}], "messages[0].native is not as"),
        ([{"role": "assistant", "content": "a", "native": {"issuer": {"name": "x"}, "parts": []}}], "[0].native"),
        ([{"role": "assistant", "content": "a", "native": {"issuer": ISSUER, "parts": [7]}}], "messages[0].native"),
        ([{"role": "assistant", "content": "a", "native": "x"}], "messages[0].native"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_with_its_place(messages: Any, told: str) -> None:
    with pytest.raises(LLMProviderBadRequestError) as caught:
        parse_messages(messages)
    assert told in caught.value.message


def test_the_text_of_a_message_is_that_of_its_text_parts() -> None:
    assert parsed(user("a", {"type": "text", "text": "b"}, Image(url="u"), "c")).text == "abc"
    assert Message(role="user", content="abc").text == "abc"
    assert Message(role="assistant", content=None).text == ""


class TestFiles:
    def test_they_are_read_with_their_type(self, tmp_path: Path) -> None:
        for name in ("cat.jpg", "a.pdf", "b.unheard", "c.WAV", "d"):
            (tmp_path / name).write_bytes(b"data")
        assert Image.from_path(tmp_path / "cat.jpg", detail="low") == Image(b"data", "image/jpeg", detail="low")
        assert File.from_path(str(tmp_path / "a.pdf")) == File(b"data", "a.pdf", "application/pdf")
        assert File.from_path(tmp_path / "b.unheard") == File(b"data", "b.unheard", "application/octet-stream")
        assert Audio.from_path(tmp_path / "c.WAV") == Audio.from_path(tmp_path / "d") == Audio(b"data", "wav")

    def test_a_picture_has_the_ending_of_one(self, tmp_path: Path) -> None:
        (tmp_path / "a.pdf").write_bytes(b"data")
        with pytest.raises(LLMProviderBadRequestError, match=r"a\.pdf has no ending of an image file"):
            Image.from_path(tmp_path / "a.pdf")

    @pytest.mark.parametrize("kind", [Image, File])
    def test_a_part_has_a_content(self, kind: Any) -> None:
        with pytest.raises(LLMProviderBadRequestError, match=f"{kind.__name__} has no content"):
            kind()
        with pytest.raises(LLMProviderBadRequestError, match=f"{kind.__name__} has data and url; pass one of data"):
            kind(data=b"", url="https://example.com/a")

    @pytest.mark.parametrize("part", [Image(b"\x89PNG"), File(b"%PDF"), Audio(b"RIFF")])
    def test_their_bytes_are_in_no_repr(self, part: Any) -> None:
        assert "data" not in repr(part)


PARTS = st.one_of(
    st.text(),
    st.builds(lambda text: {"type": "text", "text": text}, st.text()),
    st.dictionaries(st.sampled_from(["type", "text", "image_url", "file"]), st.text() | st.none() | st.integers()),
    st.none(),
)
ANY_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool", "system"]) | st.text() | st.none(),
        "content": st.none() | st.text() | st.integers() | st.lists(PARTS),
        "tool_calls": st.none() | st.lists(st.dictionaries(st.sampled_from(["id", "function", "type"]), st.text())),
        "tool_call_id": st.none() | st.text(),
        "name": st.none() | st.text() | st.integers(),
        "native": st.none() | st.text() | st.dictionaries(st.sampled_from(["issuer", "parts"]), st.lists(st.text())),
    },
)


@given(st.lists(ANY_MESSAGE) | ANY_MESSAGE | st.text())
def test_whatever_is_passed_is_messages_or_a_bad_request(messages: Any) -> None:
    try:
        made = parse_messages(messages)
    except LLMProviderBadRequestError:
        return
    assert all(isinstance(message.text, str) and message.parts is not None for message in made)


@given(st.text(), st.lists(st.builds(ToolCall.from_text, *[st.text(min_size=1)] * 3)))
def test_an_answer_goes_into_the_history_and_back(content: str, calls: list[ToolCall]) -> None:
    response = LLMResponse(content, tool_calls=calls, native=[{"type": "x"}], issuer=Issuer(**ISSUER))
    back = parsed(json.loads(json.dumps(response.to_message())))
    assert (back.text, list(back.tool_calls), back.role) == (content, calls, "assistant")
    assert (back.native, back.issuer) == (({"type": "x"},), Issuer(**ISSUER))
