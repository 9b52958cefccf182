"""Tools: from functions, types and dicts to one shape; the calls of a model bound to functions."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, validate_call

from llmkit import (
    LLMProviderBadRequestError,
    LLMResponse,
    Tool,
    ToolCall,
    create_llm_provider,
    create_sync_llm_provider,
)
from llmkit.functions import read_docstring
from llmkit.tools import Toolbox, forces_call, parse_tools, tool_result

from .answers import ChatCompletions
from .server import Server, json_reply


class Unit(enum.Enum):
    CELSIUS = "C"
    KELVIN = "K"


class Place(BaseModel):
    """A place on a map."""

    city: str
    country: str = "FR"


def weather(place: Place, day: datetime.date, unit: Unit = Unit.CELSIUS, *, hours: list[int] | None = None) -> str:
    """Look up the weather.

    For a day in the past, it looks up what it was.

    Args:
        place: Where,
            by name.
        day (datetime.date): The day: past, or to come.
        unit (Unit, optional): Of the temperature

    Returns:
        str: a sentence
    """
    return f"{place.city} {day:%d.%m.} {unit.name} {hours}"


def made(function: Callable[..., Any] | type) -> Tool:
    """Return a function or type as a tool."""
    (tool,) = parse_tools([function])
    return tool


def call(name: str, arguments: str, id: str = "call_1") -> ToolCall:
    """Return a call of the model."""
    return ToolCall.from_text(id, name, arguments)


def test_a_function_says_what_it_takes() -> None:
    tool = made(weather)
    assert (tool.name, tool.function, tool.strict) == ("weather", weather, None)
    assert tool.description == "Look up the weather.\n\nFor a day in the past, it looks up what it was."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where, by name."},
            "day": {"type": "string", "format": "date", "description": "The day: past, or to come."},
            "unit": {"$ref": "#/$defs/Unit", "default": "C", "description": "Of the temperature"},
            "hours": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}], "default": None},
        },
        "required": ["place", "day"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "type": "object",
                "title": "Place",
                "description": "A place on a map.",
                "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "FR"}},
                "required": ["city"],
            },
            "Unit": {"type": "string", "title": "Unit", "enum": ["C", "K"]},
        },
    }


def test_a_field_says_more_than_the_docstring() -> None:
    def roll(sides: Annotated[int, Field(ge=2, description="How many")] = 6, _seed: Literal["a"] = "a") -> None:
        """
        :param sides: ignored
        """

    assert made(roll).parameters == {
        "type": "object",
        "properties": {
            "sides": {"type": "integer", "minimum": 2, "default": 6, "description": "How many"},
            "_seed": {"type": "string", "const": "a", "default": "a"},
        },
        "additionalProperties": False,
    }
    assert made(roll).description is None


def test_a_field_may_be_the_default() -> None:
    def weather(city: str = Field(description="The city"), days: int = Field(default=3, ge=1, le=7)) -> str:
        return f"{city} {days}"

    for function in (weather, validate_call(weather)):
        assert made(function).parameters == {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "days": {"type": "integer", "default": 3, "minimum": 1, "maximum": 7},
            },
            "required": ["city"],
            "additionalProperties": False,
        }
        bound = Toolbox([function], may_await=False).bound
        assert bound(call("weather", '{"city": "Rome"}'))() == "Rome 3"
        assert bound(call("weather", '{"city": "Rome", "days": 2}'))() == "Rome 2"
        with pytest.raises(ValueError, match="city: Field required"):
            bound(call("weather", "{}"))


def test_lists_are_pairs_only_where_they_were_asked_for() -> None:
    def save(data: dict[str, Any] | list[Any]) -> str:
        return repr(data)

    pairs = '{"data": [{"key": "a", "value": 1}]}'
    plain = Toolbox([save], may_await=False).bound
    assert plain(call("save", pairs))() == "[{'key': 'a', 'value': 1}]"
    assert plain(call("save", '{"data": []}'))() == "[]"
    strict = Toolbox([Tool(function=save, strict=True)], may_await=False).bound
    assert strict(call("save", pairs))() == "{'a': 1}"
    assert strict(call("save", '{"data": []}'))() == "[]"


def test_a_number_that_no_float_holds_is_told_to_the_model() -> None:
    def half(x: float) -> float:
        return x / 2

    with pytest.raises(ValueError, match="the arguments are not JSON"):
        Toolbox([half], may_await=False).bound(call("half", '{"x": 1e999}'))


def test_parameters_may_be_called_as_a_model_would_not_have_it() -> None:
    def odd(schema: int, json: int, copy: int, model_config: int, self: int, _private: int) -> int:
        return schema + json + copy + model_config + self + _private

    names = ["schema", "json", "copy", "model_config", "self", "_private"]
    tool = made(odd)
    assert tool.parameters and list(tool.parameters["properties"]) == names
    toolbox = Toolbox([odd], may_await=False)
    assert toolbox.bound(call("odd", '{"schema":1,"json":2,"copy":3,"model_config":4,"self":5,"_private":6}'))() == 21


class Shop:
    def price(self, item: str, /, amount: int = 1) -> str:
        """Look up a price."""
        return f"{item} {amount}"

    def __call__(self, item: str) -> str:
        """Buy."""
        return item


def test_methods_partials_and_callable_objects_are_functions() -> None:
    tools = parse_tools([Shop().price, functools.partial(weather, unit=Unit.KELVIN), Shop()])
    assert [(tool.name, tool.description) for tool in tools] == [
        ("price", "Look up a price."),
        ("weather", made(weather).description),
        ("Shop", "Buy."),
    ]
    # What is fixed is not asked for.
    assert tools[1].parameters and "unit" not in tools[1].parameters["properties"]
    toolbox = Toolbox(tools, may_await=False)
    assert toolbox.bound(call("price", '{"item": "tea", "amount": "3"}'))() == "tea 3"
    assert toolbox.bound(call("price", '{"item": "tea"}'))() == "tea 1"
    assert toolbox.bound(call("Shop", '{"item": "tea"}'))() == "tea"
    assert toolbox.bound(call("weather", '{"place": {"city": "Rome"}, "day": "2030-01-31"}'))() == (
        "Rome 31.01. KELVIN None"
    )


def test_a_callable_without_a_hash_is_a_function() -> None:
    @dataclasses.dataclass
    class Counter:
        start: int

        def __call__(self, step: int) -> int:
            return self.start + step

    assert Toolbox([Counter(2)], may_await=False).bound(call("Counter", '{"step": 3}'))() == 5


def test_a_model_says_what_it_has() -> None:
    tool = made(Place)
    assert (tool.name, tool.description, tool.function) == ("Place", "A place on a map.", Place)
    assert tool.parameters == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "FR"}},
        "required": ["city"],
    }


class Tree(BaseModel):
    branches: list[Tree] = []


def test_a_model_that_refers_to_itself_is_an_object_at_its_root() -> None:
    parameters = made(Tree).parameters
    assert parameters and parameters["type"] == "object" and "$ref" not in parameters and "Tree" in parameters["$defs"]


def test_a_tool_may_say_some_of_it_itself() -> None:
    (tool,) = parse_tools([Tool(function=weather, name="forecast", description="Look ahead", strict=True)])
    assert (tool.name, tool.description, tool.strict) == ("forecast", "Look ahead", True)
    assert tool.parameters == made(weather).parameters
    own = Tool(name="weather", parameters={"type": "object"}, function=weather)
    assert parse_tools([own]) == (own,)


def unresolved(place: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Take what is not defined."""


def any_number(*numbers: int) -> None:
    """Take any number."""


def any_names(**names: int) -> None:
    """Take any names."""


def untyped(place) -> None:  # type: ignore[no-untyped-def]
    """Take anything."""


def no_schema(place: Shop) -> None:
    """Take what has no schema."""


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        (any_number, r"the function any_number takes \*numbers; a tool has named parameters only"),
        (any_names, r"the function any_names takes \*\*names; a tool has named parameters only"),
        (untyped, "the function untyped has no type for place; annotate it"),
        (unresolved, "the function unresolved has an annotation that means nothing: name 'Nowhere' is not defined"),
        (no_schema, "the function no_schema has no JSON schema: Unable to generate .*Shop"),
        (Shop, "Shop has no JSON schema"),
        (int, "int is no model: a tool takes parameters with names"),
        (5, r"tools\[0\] is an int; it must be a function, a pydantic model, a dict or a Tool"),
        ({"type": "function"}, r"tools\[0\] has no name"),
        ({"name": "f", "parameters": 5}, r"tools\[0\]\.parameters is an int; it must be a dict, or None"),
        ({"type": "function", "function": {"name": "f", "parameters": []}}, r"tools\[0\]\.parameters is a list"),
        ({"name": "f", "description": 5}, r"tools\[0\]\.description is an int; it must be a string, or None"),
        (Tool(name="f", parameters=5), r"tools\[0\]\.parameters is an int"),  # type: ignore[arg-type]
        (Tool(native=[]), r"tools\[0\]\.native is a list; it must be a dict, or None"),  # type: ignore[arg-type]
        (Tool(function=5), r"tools\[0\]\.function is an int; it must be a function, or None"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_a_tool_is_refused_by_name(tool: Any, told: str) -> None:
    with pytest.raises(LLMProviderBadRequestError, match=told):
        parse_tools([tool])


@pytest.mark.parametrize(
    ("text", "description", "told"),
    [
        ("", None, {}),
        ("Do it.", "Do it.", {}),
        (
            "Do it.\n\nArgs:\n    a: First\n\n    b (int): Second\n        thing: yes\n",
            "Do it.",
            {"a": "First", "b": "Second thing: yes"},
        ),
        ("Do it.\n\nParameters:\n  a: First\n\nRaises:\n  b: never", "Do it.", {"a": "First"}),
        ("Do it.\n\nReturns:\n  a: nothing\n\nArgs:\n  *b: Second", "Do it.", {"b": "Second"}),
        ("Args:\n\nNothing", None, {}),
        ("Args:\n    a:\n    b (list[int], optional): B\nMore words: here", None, {"b": "B"}),
        (
            "Do it.\n\n:param a: First\n    thing\n:param int b: Second\n:type a: str\n:returns: nothing",
            "Do it.",
            {"a": "First thing", "b": "Second"},
        ),
        (":param:\n:arg a: A", None, {"a": "A"}),
    ],
)
def test_docstrings(text: str, description: str | None, told: dict[str, str]) -> None:
    assert read_docstring(inspect.cleandoc(text)) == (description, told)


def test_arguments_become_values_of_their_types() -> None:
    toolbox = Toolbox([weather], may_await=False)
    arguments = '{"place": {"city": "Rome", "country": null}, "day": "2030-01-31", "unit": "K", "hours": [1]}'
    assert toolbox.bound(call("weather", arguments))() == "Rome 31.01. KELVIN [1]"


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        (
            "weather",
            '{"place": {}, "day": "tomorrow", "days": 2}',
            r"place\.city: Field required; day: Input .*; days: ",
        ),
        ("weather", '{"place": ', "the arguments are not JSON"),
        ("weather", "[]", "the arguments are a JSON list, not an object"),
        ("wether", "{}", "there is no tool 'wether'; did you mean 'weather'?"),
        ("total", '{"numbers": ["a","b","c","d","e","f","g"]}', r"numbers\.4: Input [^;]*; and 2 more$"),
    ],
)
def test_what_is_wrong_with_a_call_is_told(name: str, arguments: str, told: str) -> None:
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with pytest.raises(ValueError, match=told):
        Toolbox([weather, total], may_await=False).bound(call(name, arguments))


async def fetch(url: str) -> str:
    """Fetch a page."""
    return url


class Fetcher:
    async def __call__(self, url: str) -> str:
        return url


def test_an_async_function_in_a_plain_wrapper_is_one() -> None:
    @functools.wraps(fetch)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        return fetch(*arguments, **keywords)

    with pytest.raises(LLMProviderBadRequestError, match="the tool fetch is an async function"):
        Toolbox([wrapped], may_await=False)


def test_async_functions_need_someone_to_await_them() -> None:
    for function in (fetch, functools.partial(fetch), Fetcher()):
        Toolbox([function], may_await=True)
        with pytest.raises(LLMProviderBadRequestError, match="is an async function; run it by an async provider"):
            Toolbox([function], may_await=False)


def test_the_blocking_loop_refuses_an_async_function_before_it_asks() -> None:
    with Server() as server, create_sync_llm_provider("openai", api_key="k", base_url=server.base_url) as provider:
        with pytest.raises(LLMProviderBadRequestError, match="the tool fetch is an async function"):
            provider.run_tools("Hi", tools=[fetch])
        assert server.requests == []


@pytest.mark.anyio
async def test_async_functions_run_in_the_event_loop_and_others_in_a_thread() -> None:
    threads = {}

    def plain() -> None:
        threads["plain"] = threading.get_ident()

    async def awaited() -> None:
        threads["awaited"] = threading.get_ident()

    def disguised() -> Any:
        return fetch("page")

    api = ChatCompletions()
    with Server(
        json_reply(api.plain(None, calls=[(name, "") for name in ("plain", "awaited", "disguised")]))
    ) as server:
        server.add(json_reply(api.plain("Done.")))
        async with create_llm_provider("openai", api_key="k", base_url=server.base_url) as provider:
            response = await provider.run_tools("Hi", tools=[plain, awaited, disguised])
    assert threads["awaited"] == threading.get_ident() != threads["plain"]
    assert [each["content"] for each in response.metadata["messages"][2:5]] == ["null", "null", "page"]


def test_a_loop_goes_on_where_it_can_answer() -> None:
    native = {"type": "bash_20250124", "name": "bash"}
    described = {"name": "described", "input_schema": {"type": "object"}}
    toolbox = Toolbox([weather, Place, described, native], may_await=False)

    def goes_on(*names: str, **fields: Any) -> bool:
        return toolbox.goes_on(LLMResponse("", tool_calls=[call(name, "{}") for name in names], **fields))

    assert goes_on("weather") and goes_on("weather", "unknown")
    assert not goes_on() and not goes_on("weather", "Place") and not goes_on("described") and not goes_on("bash")
    assert goes_on(finish_reason="pause", native=[{"type": "text"}])
    assert not goes_on(finish_reason="pause")


def test_a_call_without_an_id_gets_one() -> None:
    answer = LLMResponse(
        "", tool_calls=[call("weather", "{}", ""), call("weather", "{}", "a"), call("weather", "{}", "")]
    )
    message = Toolbox([weather], may_await=False).message(answer, 3)
    assert [each["id"] for each in message["tool_calls"]] == ["call_3_0", "a", "call_3_2"]
    assert [each.id for each in answer.tool_calls] == ["call_3_0", "a", "call_3_2"]


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a":[1,2.5,true]}'),
        (Place(city="Zürich"), '{"city":"Zürich","country":"FR"}'),
        ([datetime.date(2030, 1, 31), Unit.KELVIN], '["2030-01-31","K"]'),
    ],
)
def test_results_are_sent_as_text(value: Any, content: str) -> None:
    assert tool_result(call("weather", ""), value) == {"role": "tool", "tool_call_id": "call_1", "content": content}


def test_a_result_that_is_no_json_is_an_error_of_the_function() -> None:
    with pytest.raises(TypeError, match="the tool weather returned a Shop"):
        tool_result(call("weather", ""), Shop())


def test_which_choices_force_a_call() -> None:
    assert not any(
        map(forces_call, [None, "auto", "none", {"type": "auto"}, {"type": "allowed_tools", "mode": "auto"}])
    )
    function = {"type": "function", "function": {"name": "weather"}}
    assert all(
        map(forces_call, ["required", "weather", function, {"type": "any"}, {"type": "tool", "name": "weather"}])
    )


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (5, "tool_choice is an int; it must be 'auto', 'none', 'required', the name of a tool, or a dict"),
        (["weather"], "tool_choice is a list"),
        ({"type": "function"}, "tool_choice names no function; it must be like {'type': 'function', 'function': "),
        ({"type": "function", "function": "weather"}, "tool_choice names no function"),
        ({"function": {}}, "tool_choice names no function"),
    ],
)
@pytest.mark.parametrize(
    ("name", "settings"), [("openai", {}), ("openai", {"api_type": "responses"}), ("anthropic", {}), ("gemini", {})]
)
def test_what_chooses_no_tool_is_refused(name: str, settings: dict[str, Any], choice: Any, told: str) -> None:
    provider = create_sync_llm_provider(name, api_key="k", model_name="m", **settings)
    with pytest.raises(LLMProviderBadRequestError) as caught:
        provider.build_request("Hi", tools=[weather], tool_choice=choice)
    assert told in caught.value.message
    function = {"type": "function", "function": {"name": "weather"}}
    for allowed in (None, "weather", function, {"type": "function", "name": "weather"}, {"type": "auto"}):
        provider.build_request("Hi", tools=[weather], tool_choice=allowed)
    bodies = [
        provider.build_request("Hi", tools=[weather], tool_choice=named).body
        for named in ("weather", function, {"function": {"name": "weather"}})
    ]
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize(
    ("name", "settings", "path"),
    [
        ("openrouter", {}, ["tools", 0]),
        ("openai", {"api_type": "responses"}, ["tools", 0]),
        ("anthropic", {}, ["tools", 0]),
        ("gemini", {}, ["tools", 0, "functionDeclarations", 0]),
    ],
)
@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"type": "function", "name": "f", "parameters": {"type": "object"}},
        {"name": "f", "input_schema": {"type": "object"}},
    ],
)
def test_keys_of_a_tool_that_one_api_knows_are_sent(
    name: str, settings: dict[str, Any], path: list[Any], tool: dict[str, Any]
) -> None:
    extra = {"cache_control": {"type": "ephemeral"}, "defer_loading": True}
    provider = create_sync_llm_provider(name, api_key="k", model_name="m", **settings)
    sent: Any = provider.build_request("Hi", tools=[{**tool, **extra}, Tool(name="g", extra=extra)]).body
    for key in path[:-1]:
        sent = sent[key]
    assert [{key: each.get(key) for key in extra} for each in sent] == [extra, extra]


@pytest.mark.parametrize(
    ("provider_type", "settings", "path"),
    [
        ("openai", {}, ["tools", 0, "function", "parameters"]),
        ("openai", {"api_type": "responses"}, ["tools", 0, "parameters"]),
        ("anthropic", {}, ["tools", 0, "input_schema"]),
        ("gemini", {}, ["tools", 0, "functionDeclarations", 0, "parametersJsonSchema"]),
    ],
)
def test_each_service_gets_the_schema_in_words_that_it_takes(
    provider_type: str, settings: dict[str, Any], path: list[Any]
) -> None:
    def pick(size: Annotated[int, Field(lt=9)], tags: dict[str, int] | None = None) -> None:
        """Pick one."""

    def sent(tool: Any) -> tuple[Any, list[str]]:
        preview = provider.build_request("Hi", tools=[tool])
        value: Any = preview.body
        for key in path:
            value = value[key]
        return value, [each["action"] for each in preview.adjustments if each["parameter"] == "tools.pick"]

    provider = create_sync_llm_provider(provider_type, api_key="k", model_name="m", **settings)
    as_it_is = made(pick).parameters
    takes_all = provider_type != "gemini"
    schema, actions = sent(pick)
    assert (schema == as_it_is, actions == []) == (takes_all, takes_all)
    schema, actions = sent(Tool(function=pick, strict=True))
    assert schema["additionalProperties"] is False
    assert schema["required"] == (["size", "tags"] if provider_type == "openai" else ["size"])
    assert ("exclusiveMaximum" in schema["properties"]["size"]) == (provider_type == "openai")
    assert actions
    # A caller's own schema goes out as it is.
    own = {"type": "object", "properties": {"a": {"type": "integer", "exclusiveMaximum": 3}}}
    schema, actions = sent(Tool(name="pick", parameters=own, strict=True))
    assert (schema, actions) == (own, [])
