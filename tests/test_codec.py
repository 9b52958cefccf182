"""JSON as RFC 8259 has it, in and out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import codec
from llmkit.errors import LLMProviderBadRequestError

DEEP = 100_000
DECODERS = [codec._standard_decode, codec._pydantic_decoder(codec.DEEPEST), codec._msgspec_decoder(codec.DEEPEST)]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("decode", DECODERS)
class TestDecoding:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ('{"a": [1, 2.5, null, true, "b"]}', {"a": [1, 2.5, None, True, "b"]}),
            (" 7 ", 7),
            ('"\\ud83d\\ude00 \\u00e9"', "😀 é"),
            ('"\u2028\x7f"', "\u2028\x7f"),
            ("1" * 40, int("1" * 40)),
        ],
    )
    def test_json(self, decode: Callable[[str | bytes], Any], text: str, value: Any) -> None:
        assert decode(text) == decode(text.encode()) == value

    @pytest.mark.parametrize(
        "text",
        ["", " ", "{", "[1,]", "{'a': 1}", "NaN", "[Infinity]", "-Infinity", "01", '"\n"', '"a', "nul", "{} {}",
         '"\\ud83d"', '{"\\ude00": 1}', "9" * 5000, "[" * DEEP, '{"a":' * DEEP],
        ids=lambda text: text[:20],
    )  # fmt: skip
    def test_no_json(self, decode: Callable[[str | bytes], Any], text: str) -> None:
        for data in (text, text.encode()):
            with pytest.raises(ValueError):
                decode(data)

    @pytest.mark.parametrize("data", [b'"\xff"', "{}".encode("utf-16"), "{}".encode("utf-32-le"), '"\ud83d"'])
    def test_what_is_no_utf_8(self, decode: Callable[[str | bytes], Any], data: str | bytes) -> None:
        with pytest.raises(ValueError):
            decode(data)

    @given(value=VALUES)
    def test_what_was_written_is_read(self, decode: Callable[[str | bytes], Any], value: Any) -> None:
        assert decode(codec.encode_json(value)) == value


def test_a_faster_decoder_is_loaded_once_it_pays_and_used_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("msgspec", "pydantic_core"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    slow: Any = codec.json_decoder()
    fast = codec._fast_decoder(codec.DEEPEST)
    assert slow.func is codec._standard_decode
    assert codec.json_decoder(codec.WORTH_LOADING) is fast
    for name in ("msgspec", "pydantic_core"):
        with monkeypatch.context() as loaded:
            loaded.setitem(sys.modules, name, ModuleType(name))
            assert codec.json_decoder() is fast


@pytest.mark.parametrize(
    ("missing", "module"), [((), "msgspec"), (("msgspec",), "pydantic"), (("msgspec", "pydantic_core"), "standard")]
)
def test_the_fastest_decoder_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], module: str
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    found: Any = codec._fast_decoder.__wrapped__(codec.DEEPEST)
    assert module in getattr(found, "func", found).__qualname__


def test_a_decoder_whose_errors_are_no_value_errors_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    old: Any = ModuleType("msgspec")
    old.DecodeError = type("DecodeError", (Exception,), {})
    old.json = SimpleNamespace(Decoder=json.JSONDecoder)
    monkeypatch.setitem(sys.modules, "msgspec", old)
    found: Any = codec._fast_decoder.__wrapped__(codec.DEEPEST)
    assert "pydantic" in found.__qualname__


def nested(levels: int, inner: str = "1") -> str:
    return '[{"a":' * (levels // 2) + "[" * (levels % 2) + inner + "]" * (levels % 2) + "}]" * (levels // 2)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("levels", [1, 7, 199])
def test_nesting_has_the_bound_that_is_set(levels: int, loaded: bool) -> None:
    decode = (
        codec.json_decoder(codec.WORTH_LOADING, levels) if loaded else partial(codec._standard_decode, max_depth=levels)
    )
    # Brackets within strings, and many side by side, are no nesting.
    wide = nested(levels, f'"{"[{" * 500}"') if levels > 1 else "[" + "1," * 500 + "1]"
    for text in (nested(levels), wide):
        assert decode(text) == decode(text.encode()) == json.loads(text)
    for text in (nested(levels + 1), f"[{wide}]", nested(DEEP)):
        for data in (text, text.encode()):
            with pytest.raises(ValueError, match=f"more than {levels} levels; max_json_depth"):
                decode(data)
        with pytest.raises(ValueError, match="max_json_depth"):
            codec.lenient_decode(text, levels)


@pytest.mark.parametrize("decode", DECODERS)
def test_nesting_is_bounded_by_default(decode: Callable[[str | bytes], Any]) -> None:
    assert decode(nested(codec.DEEPEST)) == json.loads(nested(codec.DEEPEST))
    for levels in (codec.DEEPEST + 2, 500, DEEP):
        with pytest.raises(ValueError, match=f"more than {codec.DEEPEST} levels; max_json_depth"):
            decode(nested(levels))


@pytest.mark.parametrize("text", ["\ufeff{}", "\ufeff{}".encode()])
def test_a_byte_order_mark_is_passed_over(text: str | bytes) -> None:
    assert codec.decode_json(text) == {}


def test_a_lenient_decoder_takes_half_a_surrogate_pair_and_no_other_fault() -> None:
    assert codec.lenient_decode('["\\ud83d", "\\ude00a"]') == ["\ud83d", "\ude00a"]
    for text in ("NaN", "[1,]", "9" * 5000, "[" * DEEP):
        with pytest.raises(ValueError):
            codec.lenient_decode(text)


@pytest.mark.parametrize("decoder", ["msgspec", "pydantic_core", None])
@pytest.mark.parametrize("number", ["1e999", "-1E+400", "1" * 400 + ".0", "12.5e0308"])
def test_numbers_that_no_float_holds(monkeypatch: pytest.MonkeyPatch, decoder: str | None, number: str) -> None:
    for name in {"msgspec", "pydantic_core"} - {decoder}:
        monkeypatch.setitem(sys.modules, name, None)
    codec._fast_decoder.cache_clear()
    try:
        with pytest.raises(ValueError):
            codec.decode_finite(f'{{"a": [{number}]}}')
        for fine in (f'"{number}"', "1e300", "-2.5e+0300", "1" * 400):
            codec.decode_finite(fine)
    finally:
        codec._fast_decoder.cache_clear()


class TestEncoding:
    def test_compact_utf_8(self) -> None:
        value = {"text": "é😀\u2028", "numbers": (1, 2.5), "nothing": None, "mapping": MappingProxyType({"a": True})}
        encoded = codec.encode_json(value)
        assert encoded == '{"text":"é😀\u2028","numbers":[1,2.5],"nothing":null,"mapping":{"a":true}}'.encode()

    @pytest.mark.parametrize(
        ("value", "place"),
        [
            ("a\ud83d", "the text holds half a surrogate pair at character 1"),
            (
                {"messages": ["ok", {"content": "ab\udc00"}]},
                "messages[1].content holds half a surrogate pair at character 2",
            ),
            ({"a": {"\ud83d": 1}}, "a key of a holds half a surrogate pair at character 0"),
            ({1: {"b": ["x", ("\ud83d",)]}}, "1.b[1][0] holds half"),
            ({"a": "\ud83d", "b": "\ud83d"}, "a holds half"),
            ({"a": {"x": ["y", {}]}, "b": "\ud83d"}, "b holds half"),
            ({"a": [["x"], {"y": 1}, "\ud83d"]}, "a[2] holds half"),
            (MappingProxyType({"a": MappingProxyType({"b": "\ud83d"})}), "a.b holds half"),
        ],
    )
    def test_half_a_surrogate_pair_is_refused_with_its_place(self, value: Any, place: str) -> None:
        with pytest.raises(LLMProviderBadRequestError) as caught:
            codec.encode_json(value)
        assert caught.value.message.startswith(place)

    def test_however_deep_it_is(self) -> None:
        value: Any = "\ud83d"
        for _ in range(700):
            value = [value]
        with pytest.raises(LLMProviderBadRequestError):
            codec.encode_json(value)

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (math.nan, "the value is nan"),
            ([math.inf], "[0] is inf"),
            ({"a": [{"b": object()}], "c": math.nan}, "a[0].b is an object"),
            (MappingProxyType({"a": b"bytes"}), "a is a bytes"),
            ({(1, 2): 3}, "a key of the body is a tuple"),
            ({1, 2}, "the value is a set"),
            ([10**5000], "Exceeds the limit"),
        ],
    )
    def test_what_is_no_json_is_refused_with_its_place(self, value: Any, told: str) -> None:
        with pytest.raises(LLMProviderBadRequestError) as caught:
            codec.encode_json(value)
        assert caught.value.message.startswith(f"the request cannot be written as JSON: {told}")
        if not told.startswith("Exceeds"):
            with pytest.raises(LLMProviderBadRequestError, match=r"part\.x"):
                codec.encode_json({"x": value}, "part")

    def test_a_circle_is_refused(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(LLMProviderBadRequestError, match="JSON"):
            codec.encode_json(circle)

    @given(VALUES)
    def test_it_is_the_same_as_that_of_the_standard_library(self, value: Any) -> None:
        assert json.loads(codec.encode_json(value)) == value
