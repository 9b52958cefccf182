"""Loops of tool calls, and typed answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from llmkit import (
    LLMProviderBadRequestError,
    LLMProviderOutputError,
    LLMProviderStreamError,
    LLMResponse,
    Message,
    Tool,
    ToolCall,
)
from llmkit.testing import SyncScriptedProvider, ScriptedCall, tool_call

from ..answers import Api
from ..server import GONE, Server, stream_reply
from ._backend import make_provider

pytestmark = pytest.mark.anyio

RAIN = tool_call("weather", city="Rome")


class Forecast(BaseModel):
    city: str
    degrees: int = 20


def weather(city: str, days: int = 1) -> dict[str, Any]:
    """Look up the weather."""
    return {"city": city, "days": days}


def clock(zone: str) -> str:
    """Look up the time."""
    return f"noon in {zone}"


def results(call: ScriptedCall) -> list[Any]:
    """Return the id and the text of each result in a request."""
    if call.api_type == "responses":
        found = [item for item in call.messages if item.get("type") == "function_call_output"]
        return [(item["call_id"], item["output"]) for item in found]
    return [(item["tool_call_id"], item["content"]) for item in call.messages if item["role"] == "tool"]


def collect(objects: Iterator[Any], found: list[Any]) -> None:
    """Append each object to `found`."""
    for each in objects:
        found.append(each)


def test_calls_are_made_until_there_is_an_answer(api_type: Any) -> None:
    calls = [tool_call("weather", city="Rome", days="2"), tool_call("clock", zone="CET")]
    with SyncScriptedProvider(calls, tool_call("weather", city="Oslo"), "Sunny.", api_type=api_type) as provider:
        response = provider.run_tools("How is it?", "Be brief", tools=[weather, clock])
        assert (response.content, response.tool_calls) == ("Sunny.", [])
        first, second, third = provider.calls
        assert results(first) == []
        assert results(second) == [("call_1_0", '{"city":"Rome","days":2}'), ("call_1_1", "noon in CET")]
        assert results(third)[2:] == [("call_2_0", '{"city":"Oslo","days":1}')]
        assert first.body["tools"] == second.body["tools"] == third.body["tools"]
        assert first.tools == ["weather", "clock"]
        messages = response.metadata["messages"]
        assert " ".join(message["role"] for message in messages) == "user assistant tool tool assistant tool assistant"
        assert json.loads(json.dumps(response.to_dict()))["metadata"]["messages"] == messages
        # The conversation can go on.
        provider.add("You are welcome.")
        messages.append({"role": "user", "content": "Thank you"})
        response = provider.run_tools(messages, tools=[weather])
        assert len(response.metadata["messages"]) == len(messages) + 1
        assert results(provider.calls[-1]) == results(third)


def test_a_stream_can_carry_the_answers(api_type: Any) -> None:
    for mode in ("auto", "enabled"):
        with SyncScriptedProvider(RAIN, "Sunny.", api_type=api_type, stream_mode=mode) as provider:
            messages = [Message(role="user", content="How is it?")]
            response = provider.run_tools(messages, tools=[weather])
            assert (response.content, len(messages)) == ("Sunny.", 1)
            assert results(provider.calls[-1]) == [("call_1_0", '{"city":"Rome","days":1}')]
            assert provider.calls[-1].settings["stream"] is True


def test_what_is_wrong_with_a_call_is_told_to_the_model(api_type: Any) -> None:
    cut = ToolCall("", "weather", arguments_text='{"city": ')
    wrong = [tool_call("weather", town="Rome"), cut, tool_call("wether")]
    with SyncScriptedProvider(wrong, "Sorry.", api_type=api_type) as provider:
        response = provider.run_tools("How is it?", tools=[weather])
        told = [text for _, text in results(provider.calls[-1])]
        assert told[0].startswith("city: Field required; town: Extra inputs")
        assert told[1].startswith("the arguments are not JSON: ")
        assert told[2] == "there is no tool 'wether'; did you mean 'weather'?"
        assert [message.get("is_error") for message in response.metadata["messages"]] == [None, None, *[True] * 3, None]


def test_what_a_function_raises_is_raised(api_type: Any) -> None:
    def broken(city: str) -> str:
        raise ZeroDivisionError(city)

    with SyncScriptedProvider(tool_call("broken", city="Rome"), api_type=api_type) as provider:
        with pytest.raises(ZeroDivisionError, match="Rome"):
            provider.run_tools("How is it?", tools=[broken])
        assert len(provider.calls) == 1


def test_the_last_of_max_turns_is_returned_as_it_is(api_type: Any) -> None:
    with SyncScriptedProvider(default=RAIN, api_type=api_type) as provider:
        response = provider.run_tools("How is it?", tools=[weather], max_turns=3)
        assert len(provider.calls) == 3
        assert (response.finish_reason, response.tool_calls[0].name) == ("tool_calls", "weather")
        assert response.metadata["messages"][-1] == response.to_message()
        for wrong in (0, "3", 2.5):
            with pytest.raises(LLMProviderBadRequestError, match=f"max_turns is {wrong!r}; it must be a whole number"):
                provider.run_tools("How is it?", tools=[weather], max_turns=wrong)  # type: ignore[arg-type]


def test_calls_of_tools_without_a_function_are_left_to_the_caller(api_type: Any) -> None:
    calls = [RAIN, tool_call("Forecast", city="Rome")]
    with SyncScriptedProvider(default=calls, api_type=api_type) as provider:
        response = provider.run_tools("How is it?", tools=[weather, Forecast])
        assert [each.name for each in response.tool_calls] == ["weather", "Forecast"]
        response = provider.run_tools("How is it?", tools=[Tool(name="Forecast"), weather])
        assert len(provider.calls) == 2


def test_a_forced_call_is_forced_once(api_type: Any) -> None:
    with SyncScriptedProvider(*[RAIN, "Sunny."] * 3, api_type=api_type) as provider:
        for choice, later in (("required", None), ("weather", None), ("auto", "auto")):
            provider.run_tools("How is it?", tools=[weather], tool_choice=choice)
            first, second = provider.calls[-2:]
            assert first.settings["tool_choice"] is not None
            assert second.settings.get("tool_choice") == later


def test_the_answer_after_the_calls_has_its_type(api_type: Any) -> None:
    with SyncScriptedProvider(RAIN, Forecast(city="Rome", degrees=31), api_type=api_type) as provider:
        response = provider.run_tools("How is it?", tools=[weather], response_format=Forecast)
        assert response.parsed == Forecast(city="Rome", degrees=31)


def test_an_answer_has_its_type(api_type: Any) -> None:
    with SyncScriptedProvider(*[{"city": "Rome", "degrees": None}] * 2, api_type=api_type) as provider:
        for mode in ("disabled", "auto"):
            response = provider.execute("How is it?", response_format=Forecast, stream_mode=mode)
            assert response.parsed == Forecast(city="Rome")
            assert {each["action"] for each in response.metadata["adjustments"]} >= {
                "optional, sent as nullable: degrees"
            }
        provider.add({"value": [1, 2]})
        assert (provider.execute("Which?", response_format=list[int])).parsed == [1, 2]


def test_an_answer_of_another_type_is_an_error_and_not_asked_for_again(api_type: Any) -> None:
    with SyncScriptedProvider(default="Hot.", api_type=api_type) as provider:
        for mode in ("disabled", "auto"):
            with pytest.raises(LLMProviderOutputError, match="scripted: the answer is no JSON") as caught:
                provider.execute("How is it?", response_format=Forecast, stream_mode=mode)
            assert caught.value.text == "Hot."
            assert isinstance(caught.value.partial, LLMResponse) and caught.value.partial.total_tokens == 15
        assert len(provider.calls) == 2


def test_an_object_grows_while_it_streams(api_type: Any) -> None:
    gates = [threading.Event(), threading.Event()]
    steps = ['{"city": "Ro', gates[0].wait, 'me", "degrees": 3', gates[1].wait, "1}"]
    with SyncScriptedProvider(steps, api_type=api_type) as provider:
        stream = provider.stream("How is it?", response_format=Forecast)
        found = []
        for each in stream.objects():
            found.append(each)
            # The next piece comes only now.
            if gates:
                gates.pop(0).set()
        assert found == [{"city": "Ro"}, {"city": "Rome", "degrees": 3}, {"city": "Rome", "degrees": 31}]
        assert (stream.response()).parsed == Forecast(city="Rome", degrees=31)


def test_objects_that_are_none_in_the_end_are_an_error(api_type: Any) -> None:
    with SyncScriptedProvider(api_type=api_type) as provider:
        for texts, told in (
            (['{"city": ', "1}"], "the answer is no Forecast: city: "),
            (["Hot."], "the answer is no JSON"),
        ):
            provider.add(texts)
            found: list[Any] = []
            stream = provider.stream("How is it?", response_format=Forecast)
            with pytest.raises(LLMProviderOutputError, match=told) as caught:
                collect(stream.objects(), found)
            assert found[-1:] == ([] if texts == ["Hot."] else [{"city": 1}])
            assert caught.value.text == "".join(texts)


def test_objects_come_of_what_texts_have_left_and_of_any_json(api_type: Any) -> None:
    script = ['{"any": [', "1, 2", "]}"]
    with SyncScriptedProvider(script, api_type=api_type) as provider, provider.stream("Which?") as stream:
        for text in stream:
            assert text == '{"any": ['
            break
        found = [each for each in stream.objects()]
        assert found[-1] == {"any": [1, 2]}
        assert [each for each in stream.objects()] == [{"any": [1, 2]}]
        assert (stream.response()).parsed is None


def test_a_list_grows_while_it_streams(api_type: Any) -> None:
    with SyncScriptedProvider(default=["[1, ", "2, ", "3]"], api_type=api_type) as provider:
        for format_ in (None, list[int]):
            stream = provider.stream("Which?", response_format=format_)
            assert [each for each in stream.objects()] == [[1], [1, 2], [1, 2, 3]]
            assert (stream.response()).parsed == (format_ and [1, 2, 3])


def test_breaking_out_of_objects_releases_the_connection(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun('{"city": "Ro'), GONE], end=False))
    with (
        make_provider(server, api) as provider,
        provider.stream("How is it?", response_format=Forecast) as stream,
    ):
        for each in stream.objects():
            assert each == {"city": "Ro"}
            break
        stream.close()
        assert server.wait_gone()
        with pytest.raises(LLMProviderStreamError, match="closed before its end"):
            stream.response()
