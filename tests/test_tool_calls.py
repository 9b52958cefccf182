"""Tool calls in the deltas of Chat Completions: which piece belongs to which call."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.response import ToolCall
from llmkit.wire.chat_completions import ChatCompletions

from .decoding import answer, decoded, make_request, read, sse

CHAT = ChatCompletions()


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def completion(*calls: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}


def piece(index: Any = ..., id: Any = ..., name: Any = ..., arguments: Any = ..., **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not ...}
    named = {key: value for key, value in {"index": index, "id": id}.items() if value is not ...}
    return named | {"function": function} | fields


F, G = ToolCall("a", "f", {"x": 1}, '{"x": 1}'), ToolCall("b", "g", {"y": 2}, '{"y": 2}')
UNNAMED = replace(F, id="call_chatcmpl-1_0"), replace(G, id="call_chatcmpl-1_1")
WHOLE_F, WHOLE_G = {"name": "f", "arguments": '{"x": 1}'}, {"name": "g", "arguments": '{"y": 2}'}
ASSEMBLED: dict[str, tuple[list[dict[str, Any]], list[ToolCall]]] = {
    "as documented": (
        [piece(0, "a", "f", ""), piece(0, arguments='{"x"'), piece(1, "b", "g", ""), piece(0, arguments=": 1}"),
         piece(1, arguments='{"y": 2}')], [F, G]),
    "index reused by another id": ([piece(0, "a", **WHOLE_F), piece(0, "b", **WHOLE_G)], [F, G]),
    "index reused, in pieces": (
        [piece(0, "a", "f", ""), piece(0, arguments='{"x": 1}'), piece(0, "b", "g", ""),
         piece(0, arguments='{"y": 2}')], [F, G]),
    "index reused by another name without id": ([piece(0, **WHOLE_F), piece(0, **WHOLE_G)], [*UNNAMED]),
    "index reused by the same name, arguments whole": (
        [piece(0, **WHOLE_F), piece(0, **WHOLE_F)], [UNNAMED[0], replace(UNNAMED[0], id="call_chatcmpl-1_1")]),
    "the same id and name under two indexes": (
        [piece(0, "f", "f", ""), piece(0, arguments='{"x": 1}'), piece(1, "f", "f", ""),
         piece(1, arguments='{"x": 1}')],
        [replace(F, id="f"), replace(F, id="f")]),
    "said again with its id, without text": (
        [piece(id="a", **WHOLE_F), piece(id="a", name="f", arguments="")], [F]),
    "index missing": ([piece(id="a", **WHOLE_F), piece(id="b", **WHOLE_G)], [F, G]),
    "index missing, in pieces": (
        [piece(id="a", name="f", arguments='{"x"'), piece(arguments=": 1}"), piece(id="b", name="g"),
         piece(arguments='{"y": 2}')], [F, G]),
    "index missing, id with every piece": (
        [piece(id="a", name="f", arguments='{"x"'), piece(id="b", name="g", arguments='{"y"'),
         piece(id="a", arguments=": 1}"), piece(id="b", arguments=": 2}")], [F, G]),
    "index and id missing": ([piece(**WHOLE_F), piece(**WHOLE_G)], [*UNNAMED]),
    "index null": (
        [piece(None, "a", "f", '{"x"'), piece(None, arguments=": 1}"), piece(None, "b", **WHOLE_G)], [F, G]),
    "index -1": ([piece(-1, "a", "f", '{"x"'), piece(-1, arguments=": 1}"), piece(-1, "b", **WHOLE_G)], [F, G]),
    "index late": (
        [piece(id="a", name="f", arguments='{"x"'), piece(0, arguments=": 1}"), piece(1, "b", **WHOLE_G)], [F, G]),
    "index late, with the id": ([piece(id="a", name="f", arguments='{"x"'), piece(3, "a", arguments=": 1}")], [F]),
    "index gapped": ([piece(1, "a", **WHOLE_F), piece(4, "b", "g", '{"y"'), piece(4, arguments=": 2}")], [F, G]),
    "index counted up with every piece": (
        [piece(0, "a", "f", ""), piece(1, "a", arguments='{"x"'), piece(2, "a", arguments=": 1}")], [F]),
    "id late": ([piece(0, name="f", arguments='{"x"'), piece(0, "a", arguments=": 1}")], [F]),
    "id late, index missing": ([piece(name="f", arguments='{"x"'), piece(id="a", arguments=": 1}")], [F]),
    "name late": ([piece(0, "a"), piece(0, name="f", arguments='{"x": 1}')], [F]),
    "id and name repeated": (
        [piece(0, "a", "f", ""), piece(0, "a", "f", '{"x"'), piece(0, "a", "f", ": 1}"), piece(0, "a", "f", "")], [F]),
    "id and name repeated, index missing": (
        [piece(id="a", name="f", arguments='{"x"'), piece(id="a", name="f", arguments=": 1}"),
         piece(id="a", name="f", arguments="")], [F]),
    "name repeated, ids empty": (
        [piece(0, "a", "f", '{"x"'), piece(0, "", "f", ": 1}"), piece(0, "", "f", ""), piece(1, "b", **WHOLE_G)],
        [F, G]),
    "ids empty": ([piece(0, "", **WHOLE_F), piece(1, "", **WHOLE_G)], [*UNNAMED]),
    "one id for all calls": ([piece(0, "a", **WHOLE_F), piece(1, "a", **WHOLE_G)], [F, replace(G, id="a")]),
    "names null, then missing": ([piece(0, "a", "f", None), piece(0, None, None, '{"x": 1}')], [F]),
    "arguments null": ([piece(0, "a", "f", None)], [ToolCall("a", "f")]),
    "arguments the word null": ([piece(0, "a", "f", "null")], [ToolCall("a", "f", arguments_text="null")]),
    "arguments missing": ([piece(0, "a", "f")], [ToolCall("a", "f")]),
    "arguments an object": ([piece(0, "a", "f", {"x": 1})], [F]),
    "function null": ([piece(0, "a", "f", '{"x": 1}'), {"index": 0, "function": None}], [F]),
    "type and custom part beside the function": (
        [piece(0, "a", **WHOLE_F, type="function", custom={"name": "", "input": ""})], [F]),
}  # fmt: skip


class TestToolCalls:
    @pytest.mark.parametrize("case", ASSEMBLED)
    @pytest.mark.parametrize("together", [False, True], ids=["a chunk each", "in one chunk"])
    def test_calls_are_told_apart(self, case: str, together: bool) -> None:
        pieces, expected = ASSEMBLED[case]
        deltas = [pieces] if together else [[each] for each in pieces]
        result = decoded(CHAT, [sse(*(chunk({"tool_calls": delta}) for delta in deltas), chunk({}, "tool_calls"))])
        assert result.failure is None
        assert answer(CHAT, result.events).tool_calls == expected

    @pytest.mark.parametrize("text", ['{"x": 1', "{'x': 1}", "[1]", '"x"', "7", '{"x": NaN}', "{}{}"])
    def test_arguments_that_are_no_object_stay_text(self, text: str) -> None:
        [made] = read(CHAT, completion(piece(0, "a", "f", text))).tool_calls
        assert (made.arguments, made.arguments_text) == ({}, text)
        assert made.parse_error

    def test_what_a_service_puts_on_a_call_besides_may_come_with_any_piece(self) -> None:
        pieces = [piece(0, "a", "f", "{}", extra_content={"x": 1}), piece(0, arguments=""), piece(0, other=2)]
        result = decoded(CHAT, [sse(*(chunk({"tool_calls": [each]}) for each in pieces), chunk({}, "tool_calls"))])
        assert answer(CHAT, result.events).native == [{"tool_calls": [{"extra_content": {"x": 1}, "other": 2}]}]

    def test_a_result_can_name_a_call_that_came_without_id(self) -> None:
        response = read(CHAT, completion(piece(0, "", "f", "{}")))
        [made] = response.tool_calls
        result = {"role": "tool", "tool_call_id": made.id, "content": "4"}
        sent = make_request(CHAT, ["Look", response.to_message(), result][1:]).body
        assert sent is not None
        assert sent["messages"][0]["tool_calls"][0]["id"] == sent["messages"][1]["tool_call_id"] == made.id

    @given(st.lists(st.text(min_size=1), min_size=1), st.lists(st.integers(0, 40)))
    def test_arguments_are_what_the_pieces_say(self, values: list[str], places: list[int]) -> None:
        arguments = {str(position): value for position, value in enumerate(values)}
        text = json.dumps(arguments, ensure_ascii=False)
        ends = [0, *sorted(place for place in places if place < len(text)), len(text)]
        pieces = [piece(0, arguments=text[a:b]) for a, b in pairwise(ends)]
        stream = sse(*(chunk({"tool_calls": [each]}) for each in [piece(0, "a", "f", ""), *pieces]), "[DONE]")
        assert answer(CHAT, decoded(CHAT, [stream]).events).tool_calls == [ToolCall("a", "f", arguments, text)]
