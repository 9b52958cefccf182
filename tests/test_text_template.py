"""An event that differs from an earlier one in its text alone gives what it would if it were decoded as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmkit.events import Event, Finish, ResponseStart, TextDelta
from llmkit.wire.chat_completions import ChatCompletionsDecoder
from llmkit.wire.messages import MessagesDecoder
from llmkit.wire.stream_decoder import StreamDecoder
from llmkit.wire.text_template import TRIES, TextTemplate

CHUNK = '{"id":"c","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}],"usage":null}'
PADDED = '{"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}],"usage":null,"obfuscation":"%s"}'
SPACED = '{"choices": [{"delta": {"content": "%s"}, "index": 0}], "created": %s}'
DELTA = '{"type":"content_block_delta","index":%s,"delta":{"type":"text_delta","text":"%s"}}'
UNTYPED = '{"index":%s,"delta":{"type":"text_delta","text":"%s"}}'
BLOCK = '{"type":"content_block_start","index":%s,"content_block":{"type":"text","text":"%s"}}'
BLOCK_END = '{"type":"content_block_stop","index":%s}'
END = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


def decoded(decoder: StreamDecoder, *texts: str, type: str = "message") -> list[Event]:
    return decoder.feed([(type, text, "", None) for text in texts])


def undecodable(decoder: StreamDecoder) -> None:
    """Make a decoder fail at the next JSON that it decodes."""

    def fail(data: str | bytes) -> Any:
        raise AssertionError(data)

    decoder._decode = fail


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (CHUNK % "tide", CHUNK % " table", " table"),
        (CHUNK % "tide", CHUNK % "{} [],:", "{} [],:"),
        (CHUNK % "tide", CHUNK % "— 潮 🌊", "— 潮 🌊"),
        (CHUNK % "tide", CHUNK % "\x7f\u2028", "\x7f\u2028"),
        (CHUNK % "tide", CHUNK % "\\n\\t\\u2014", "\n\t—"),
        (CHUNK % "tide", CHUNK % '\\"},\\"finish_reason\\":', '"},"finish_reason":'),
        (PADDED % ("tide", "x7Kq"), PADDED % ("\\\\", "a"), "\\"),
        (PADDED % ("tide", "x7Kq"), PADDED % (" table", "a"), " table"),
        (PADDED % ("tide", "x7Kq"), PADDED % (" table", ""), " table"),
        (PADDED % ("tide", ""), PADDED % (" table", "x7Kq"), " table"),
        (SPACED % ("tide", 5), SPACED % (" table", 5), " table"),
    ],
)
def test_a_chunk_like_the_one_before_is_not_decoded(first: str, second: str, text: str) -> None:
    decoder = ChatCompletionsDecoder()
    assert decoded(decoder, first)[-1] == TextDelta("tide")
    undecodable(decoder)
    assert decoded(decoder, second, second) == [TextDelta(text)] * 2


@pytest.mark.parametrize(
    "second",
    [
        CHUNK % "",
        CHUNK % 'a","role":"user',
        CHUNK % "a\x00",
        CHUNK % "a\\",
        CHUNK % "a\\x",
        CHUNK % "\\ud83c",
        (CHUNK % "a")[:-1],
        CHUNK % "a" + "1",
        (CHUNK % "a")[:-1] + "1}",
        (CHUNK % "a")[:-1] + "]",
        (CHUNK % "a").replace("null}]", "null1}]"),
        (CHUNK % "a").replace("null}]", '"stop"}]'),
        (CHUNK % "a").replace('"index":0', '"index":1'),
        (PADDED % ("a", "b")),
    ],
)
def test_any_other_chunk_is_decoded(second: str) -> None:
    decoder = ChatCompletionsDecoder()
    decoded(decoder, CHUNK % "tide")
    undecodable(decoder)
    with pytest.raises(AssertionError):
        decoded(decoder, second)


@pytest.mark.parametrize(
    "second",
    [
        PADDED % ("a", "b\\u0020"),
        PADDED % ("a", 'b","error":"c'),
        PADDED % ("a", "b c"),
        (PADDED % ("a", ""))[:-2] + "}",
        (PADDED % ("a", ""))[:-1] + "]",
        (PADDED % ("a", ""))[:-1],
        (PADDED % ("a", "bcd"))[:-1] + "]",
        (PADDED % ("a", "bcd"))[:-2],
    ],
)
def test_padding_is_letters_and_digits_in_a_string(second: str) -> None:
    decoder = ChatCompletionsDecoder()
    decoded(decoder, PADDED % ("tide", "x7Kq"))
    undecodable(decoder)
    with pytest.raises(AssertionError):
        decoded(decoder, second)


@pytest.mark.parametrize(
    "first",
    [
        '{"choices":[{"delta":{"content":"a","content":"a"}}]}',
        '{"choices":[{"delta":{"content" :"a","cont\\u0065nt":"a"}}]}',
        '{"choices":[{"delta":{"content":"a"},"note":"content"}]}',
        '{"choices":[{"delta":{"content" :"a"}}]}',
        '{"choices":[{"delta":{"content":"a","role":"assistant"}}]}',
        '{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}',
        '{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}',
        '{"choices":[{"delta":{"content":"a"}}],"note":"\\u00e9"}',
    ],
)
def test_a_chunk_with_more_or_doubtful_text_is_no_template(first: str) -> None:
    decoder = ChatCompletionsDecoder()
    decoded(decoder, first)
    undecodable(decoder)
    with pytest.raises(AssertionError):
        decoded(decoder, first)


def test_an_answer_in_which_more_changes_is_soon_left_alone() -> None:
    template = TextTemplate("content")
    for number in range(TRIES):
        assert template.text_of(SPACED % ("a", number)) is None
        template.learn(SPACED % ("a", number), "a")
    assert template.text_of(SPACED % ("b", TRIES - 1)) is None

    template = TextTemplate("content")
    for number in range(3 * TRIES):
        template.learn(SPACED % ("a", number), "a")
        assert template.text_of(SPACED % ("b", number)) == "b"


def test_pieces_belong_to_their_block() -> None:
    decoder = MessagesDecoder()
    start = '{"type":"message_start","message":{"id":"m","model":"claude"}}'
    events = decoded(decoder, start, BLOCK % (0, ""), DELTA % (0, "a"), DELTA % (0, "b"), BLOCK_END % 0)
    assert events[:3] == [ResponseStart("m", "claude"), TextDelta("a"), TextDelta("b")]
    decoded(decoder, BLOCK % (1, "c"), DELTA % (1, "d"), DELTA % (1, "e"), BLOCK_END % 1)
    assert [block["text"] for block in decoder._content] == ["ab", "cde"]
    decoded(decoder, DELTA % (1, "late"))
    assert decoder.failure
    assert "KeyError" in decoder.failure.message


def test_data_without_a_type_of_its_own_is_no_template() -> None:
    decoder = MessagesDecoder()
    decoded(decoder, BLOCK % (0, ""))
    assert decoded(decoder, UNTYPED % (0, "a"), type="content_block_delta") == [TextDelta("a")]
    assert decoded(decoder, UNTYPED % (0, "b"), type="ping") == []


texts = st.one_of(st.text(), st.sampled_from(["", " tide", "\n", '"', "\\", "\ud83c", "é", "\u2028", '","x":"']))
quoted = st.builds(lambda text, ascii: json.dumps(text, ensure_ascii=ascii)[1:-1], texts, st.booleans())
filling = st.text("abcXYZ019", max_size=4)
events = st.one_of(
    st.builds(CHUNK.__mod__, quoted),
    st.builds(lambda text, padding: PADDED % (text, padding), quoted, st.one_of(filling, quoted)),
    st.builds(lambda text, created: SPACED % (text, created), quoted, st.sampled_from(["1", "2", "1.5", "null"])),
    st.just(END),
)
blocks = st.one_of(
    st.builds(lambda index, text: DELTA % (index, text), st.integers(0, 1), quoted),
    st.builds(lambda index: BLOCK % (index, "x"), st.integers(0, 1)),
    st.builds(lambda index: BLOCK_END % index, st.integers(0, 1)),
)
edits = st.tuples(st.integers(0, 120), st.integers(0, 2), st.sampled_from(["", '"', "}", "1", ",", " ", "\x01"]))


def edited(event: str, edit: tuple[int, int, str] | None) -> str:
    if edit is None:
        return event
    place, cut, more = edit
    return event[:place] + more + event[place + cut :]


@given(
    st.lists(st.tuples(events, st.one_of(st.none(), st.none(), st.none(), edits)), max_size=12),
    st.lists(st.tuples(blocks, st.one_of(st.none(), st.none(), st.none(), edits)), max_size=12),
    st.booleans(),
)
@example([(PADDED % ("a", "b"), None), (PADDED % ("a", ""), (len(PADDED % ("a", "")) - 2, 1, ""))], [], True)
def test_a_template_changes_nothing(chat: list[Any], messages: list[Any], keep_text: bool) -> None:
    for kind, received in ((ChatCompletionsDecoder, chat), (MessagesDecoder, messages)):
        plain, quick = kind(), kind()
        plain._template = None
        for decoder in (plain, quick):
            decoder.keep_text = keep_text
            decoder.raw_events = True
        for event, edit in received:
            text = edited(event, edit)
            assert decoded(quick, text) == decoded(plain, text)
            assert (quick.raw, quick.finished) == (plain.raw, plain.finished)
            assert repr(quick.failure) == repr(plain.failure)
        assert quick.end(None) == plain.end(None)


def test_the_end_is_still_seen() -> None:
    decoder = ChatCompletionsDecoder()
    assert decoded(decoder, CHUNK % "a", CHUNK % "b", END, "[DONE]")[-2:] == [TextDelta("b"), Finish("stop", "stop")]
    assert decoder.finished
