"""Loops of tool calls, and typed answers, over real sockets."""

from __future__ import annotations

import json
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
)

from ..answers import Api
from ..server import GONE, Server, json_reply, stream_reply
from ._backend import make_provider

pytestmark = pytest.mark.anyio


class Forecast(BaseModel):
    city: str
    degrees: int = 20


def weather(city: str, days: int = 1) -> dict[str, Any]:
    """Look up the weather."""
    return {"city": city, "days": days}


def clock(zone: str) -> str:
    """Look up the time."""
    return f"noon in {zone}"


def results(api: Api, body: Any) -> list[Any]:
    """Return the id and the text of each result in a request."""
    if api.name == "responses":
        return [
            (item["call_id"], item["output"]) for item in body["input"] if item.get("type") == "function_call_output"
        ]
    return [(item["tool_call_id"], item["content"]) for item in body["messages"] if item["role"] == "tool"]


def collect(objects: Iterator[Any], found: list[Any]) -> None:
    """Append each object to `found`."""
    for each in objects:
        found.append(each)


def call(api: Api, *calls: tuple[str, str]) -> Any:
    """Return the reply that calls tools."""
    return json_reply(api.plain(None, calls=calls))


def test_calls_are_made_until_there_is_an_answer(server: Server, api: Api) -> None:
    server.add(
        call(api, ("weather", '{"city": "Rome", "days": "2"}'), ("clock", '{"zone": "CET"}')),
        call(api, ("weather", '{"city": "Oslo"}')),
        json_reply(api.plain("Sunny.")),
    )
    with make_provider(server, api) as provider:
        response = provider.run_tools("How is it?", "Be brief", tools=[weather, clock])
        assert (response.content, response.tool_calls) == ("Sunny.", [])
        first, second, third = server.bodies
        assert results(api, first) == []
        assert results(api, second) == [("call_0", '{"city":"Rome","days":2}'), ("call_1", "noon in CET")]
        assert results(api, third)[2:] == [("call_0", '{"city":"Oslo","days":1}')]
        assert first["tools"] == second["tools"] == third["tools"] and len(first["tools"]) == 2
        messages = response.metadata["messages"]
        assert " ".join(message["role"] for message in messages) == "user assistant tool tool assistant tool assistant"
        assert json.loads(json.dumps(response.to_dict()))["metadata"]["messages"] == messages
        # The conversation can go on.
        server.add(json_reply(api.plain("You are welcome.")))
        messages.append({"role": "user", "content": "Thank you"})
        response = provider.run_tools(messages, tools=[weather])
        assert len(response.metadata["messages"]) == len(messages) + 1
        assert results(api, server.bodies[-1]) == results(api, third)


def test_a_stream_can_carry_the_answers(server: Server, api: Api) -> None:
    for mode in ("auto", "enabled"):
        server.add(
            stream_reply(api.stream(calls=[("weather", '{"city": "Rome"}')])), stream_reply(api.stream("Sunny."))
        )
        with make_provider(server, api, stream_mode=mode) as provider:
            messages = [Message(role="user", content="How is it?")]
            response = provider.run_tools(messages, tools=[weather])
            assert (response.content, len(messages)) == ("Sunny.", 1)
            assert results(api, server.bodies[-1]) == [("call_0", '{"city":"Rome","days":1}')]
            assert server.bodies[-1]["stream"] is True


def test_what_is_wrong_with_a_call_is_told_to_the_model(server: Server, api: Api) -> None:
    wrong = [("weather", '{"town": "Rome"}'), ("weather", '{"city": '), ("wether", "{}")]
    server.add(call(api, *wrong), json_reply(api.plain("Sorry.")))
    with make_provider(server, api) as provider:
        response = provider.run_tools("How is it?", tools=[weather])
        told = [text for _, text in results(api, server.bodies[-1])]
        assert told[0].startswith("city: Field required; town: Extra inputs")
        assert told[1].startswith("the arguments are not JSON: ")
        assert told[2] == "there is no tool 'wether'; did you mean 'weather'?"
        assert [message.get("is_error") for message in response.metadata["messages"]] == [None, None, *[True] * 3, None]


def test_what_a_function_raises_is_raised(server: Server, api: Api) -> None:
    def broken(city: str) -> str:
        raise ZeroDivisionError(city)

    server.add(call(api, ("broken", '{"city": "Rome"}')))
    with make_provider(server, api) as provider:
        with pytest.raises(ZeroDivisionError, match="Rome"):
            provider.run_tools("How is it?", tools=[broken])
        assert len(server.requests) == 1


def test_the_last_of_max_turns_is_returned_as_it_is(server: Server, api: Api) -> None:
    server.default = call(api, ("weather", '{"city": "Rome"}'))
    with make_provider(server, api) as provider:
        response = provider.run_tools("How is it?", tools=[weather], max_turns=3)
        assert len(server.requests) == 3
        assert (response.finish_reason, response.tool_calls[0].name) == ("tool_calls", "weather")
        assert response.metadata["messages"][-1] == response.to_message()
        with pytest.raises(LLMProviderBadRequestError, match="max_turns is 0"):
            provider.run_tools("How is it?", tools=[weather], max_turns=0)


def test_calls_of_tools_without_a_function_are_left_to_the_caller(server: Server, api: Api) -> None:
    server.default = call(api, ("weather", '{"city": "Rome"}'), ("Forecast", '{"city": "Rome"}'))
    with make_provider(server, api) as provider:
        response = provider.run_tools("How is it?", tools=[weather, Forecast])
        assert [each.name for each in response.tool_calls] == ["weather", "Forecast"]
        response = provider.run_tools("How is it?", tools=[Tool(name="Forecast"), weather])
        assert len(server.requests) == 2


def test_a_forced_call_is_forced_once(server: Server, api: Api) -> None:
    with make_provider(server, api) as provider:
        for choice, later in (("required", None), ("weather", None), ("auto", "auto")):
            server.add(call(api, ("weather", '{"city": "Rome"}')), json_reply(api.plain("Sunny.")))
            provider.run_tools("How is it?", tools=[weather], tool_choice=choice)
            first, second = server.bodies[-2:]
            assert first["tool_choice"] is not None
            assert second.get("tool_choice") == later


def test_the_answer_after_the_calls_has_its_type(server: Server, api: Api) -> None:
    server.add(call(api, ("weather", '{"city": "Rome"}')), json_reply(api.plain('{"city": "Rome", "degrees": 31}')))
    with make_provider(server, api) as provider:
        response = provider.run_tools("How is it?", tools=[weather], response_format=Forecast)
        assert response.parsed == Forecast(city="Rome", degrees=31)


def test_an_answer_has_its_type(server: Server, api: Api) -> None:
    text = '{"city": "Rome", "degrees": null}'
    with make_provider(server, api) as provider:
        for mode in ("disabled", "auto"):
            server.add(json_reply(api.plain(text)) if mode == "disabled" else stream_reply(api.stream(text)))
            response = provider.execute("How is it?", response_format=Forecast, stream_mode=mode)
            assert response.parsed == Forecast(city="Rome")
            assert {each["action"] for each in response.metadata["adjustments"]} >= {
                "optional, sent as nullable: degrees"
            }
        server.add(json_reply(api.plain('{"value": [1, 2]}')))
        assert (provider.execute("Which?", response_format=list[int])).parsed == [1, 2]


def test_an_answer_of_another_type_is_an_error_and_not_asked_for_again(server: Server, api: Api) -> None:
    with make_provider(server, api) as provider:
        for mode in ("disabled", "auto"):
            server.add(json_reply(api.plain("Hot.")) if mode == "disabled" else stream_reply(api.stream("Hot.")))
            with pytest.raises(LLMProviderOutputError, match="openai: the answer is no JSON") as caught:
                provider.execute("How is it?", response_format=Forecast, stream_mode=mode)
            assert caught.value.text == "Hot."
            assert isinstance(caught.value.partial, LLMResponse) and caught.value.partial.total_tokens == 18
        assert len(server.requests) == 2


def test_an_object_grows_while_it_streams(server: Server, api: Api) -> None:
    gates = [server.gate(), server.gate()]
    rest = api.stream('{"city": "Rome", "degrees": 3', "1}")[len(api.begun(".")) :]
    begun = [*api.begun(), api.delta('{"city": "Ro'), gates[0], api.delta('me", "degrees": 3'), gates[1]]
    server.add(stream_reply([*begun, *rest]))
    with make_provider(server, api) as provider:
        stream = provider.stream("How is it?", response_format=Forecast)
        found = []
        for each in stream.objects():
            found.append(each)
            # The server sends the next piece only now.
            if gates:
                gates.pop(0).set()
        assert found == [{"city": "Ro"}, {"city": "Rome", "degrees": 3}, {"city": "Rome", "degrees": 31}]
        assert (stream.response()).parsed == Forecast(city="Rome", degrees=31)


def test_objects_that_are_none_in_the_end_are_an_error(server: Server, api: Api) -> None:
    with make_provider(server, api) as provider:
        for texts, told in (
            (['{"city": ', "1}"], "the answer is no Forecast: city: "),
            (["Hot."], "the answer is no JSON"),
        ):
            server.add(stream_reply(api.stream(*texts)))
            found: list[Any] = []
            stream = provider.stream("How is it?", response_format=Forecast)
            with pytest.raises(LLMProviderOutputError, match=told) as caught:
                collect(stream.objects(), found)
            assert found[-1:] == ([] if texts == ["Hot."] else [{"city": 1}])
            assert caught.value.text == "".join(texts)


def test_objects_come_of_what_texts_have_left_and_of_any_json(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream('{"any": [', "1, 2", "]}")))
    with make_provider(server, api) as provider, provider.stream("Which?") as stream:
        for text in stream:
            assert text == '{"any": ['
            break
        found = [each for each in stream.objects()]
        assert found[-1] == {"any": [1, 2]}
        assert [each for each in stream.objects()] == [{"any": [1, 2]}]
        assert (stream.response()).parsed is None


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
