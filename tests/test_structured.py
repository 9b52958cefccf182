"""Structured output: what is asked for in each API, and what an answer is taken for."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pickle
import sys
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict

from llmkit import (
    LLMProviderBadRequestError,
    LLMProviderOutputError,
    LLMProviderUnsupportedOperationError,
    LLMResponse,
    ToolCall,
    create_sync_llm_provider,
)
from llmkit.schema import ANTHROPIC, GEMINI, OPENAI_STRICT
from llmkit.structured import output_format, partial_object, schema_format, with_parsed


class Address(BaseModel):
    street: str = Field(min_length=2, description="With the number")
    zip: str | None = None


class Person(BaseModel):
    """Someone."""

    model_config = ConfigDict(strict=True)

    name: str
    born: datetime.date
    children: int = 0
    addresses: list[Address] = []
    scores: dict[str, float] = {}
    kind: Literal["friend", "colleague"] = "friend"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Movie(TypedDict):
    title: str
    year: int


class Folder(BaseModel):
    name: str
    folders: list[Folder] = []


PERSON = {
    "name": "Ada",
    "born": "1815-12-10",
    "children": None,
    "addresses": [{"street": "St. James's Square 12", "zip": None}],
    "scores": [{"key": "logic", "value": 1.0}],
    "kind": None,
}


def answer(content: Any, **fields: Any) -> LLMResponse:
    """Return an answer with a text, or with JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return LLMResponse(text, **{"provider_type": "acme", "finish_reason": "stop", **fields})


def parsed(type_: Any, content: Any, **fields: Any) -> Any:
    """Return what a text, or JSON, is as a type."""
    return with_parsed(answer(content, **fields), output_format(type_)).parsed


@pytest.mark.parametrize(
    ("provider_type", "settings", "path"),
    [
        ("openai", {}, ["response_format", "json_schema", "schema"]),
        ("openai", {"api_type": "responses"}, ["text", "format", "schema"]),
        ("anthropic", {}, ["output_config", "format", "schema"]),
        ("gemini", {}, ["generationConfig", "responseJsonSchema"]),
    ],
)
def test_each_api_is_asked_by_its_own_mechanism(provider_type: str, settings: dict[str, Any], path: list[str]) -> None:
    provider = create_sync_llm_provider(provider_type, api_key="k", model_name="m", **settings)
    preview = provider.build_request("Who was Ada?", response_format=Person)
    found: Any = preview.body
    for key in path:
        found = found[key]
    assert found["properties"]["name"] == {"type": "string"}
    assert found["$defs"]["Address"]["properties"]["street"] == {
        "type": "string",
        "description": "With the number (minLength: 2)",
    }
    told = {each["action"] for each in preview.adjustments if each["parameter"] == "response_format"}
    assert "minLength told in words: Address.street" in told
    assert all(each["reason"] for each in preview.adjustments)
    # A dict of the caller's own is sent as it is.
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 2}}}
    own = {"type": "json_schema", "json_schema": {"name": "own", "schema": schema}}
    preview = provider.build_request("Who was Ada?", response_format=own)
    found = preview.body
    for key in path:
        found = found[key]
    assert found == schema
    assert not [each for each in preview.adjustments if each["parameter"] == "response_format"]


def test_openai_is_asked_to_be_strict() -> None:
    response_format, adapted = output_format(Person).adapted(OPENAI_STRICT)
    assert response_format == {
        "type": "json_schema",
        "json_schema": {"name": "Person", "schema": adapted.schema, "strict": True},
    }
    assert adapted.schema["required"] == ["name", "born", "children", "addresses", "scores", "kind"]
    assert adapted.notes["map sent as a list of pairs"] == ["scores"]


def test_a_type_that_an_api_cannot_take_is_refused_before_anything_is_sent() -> None:
    provider = create_sync_llm_provider("anthropic", api_key="k", model_name="m")
    with pytest.raises(LLMProviderUnsupportedOperationError, match="as Folder does"):
        provider.build_request("Which?", response_format=Folder)
    assert parsed(Folder, {"name": "a", "folders": [{"name": "b", "folders": None}]}).folders[0].folders == []


@pytest.mark.parametrize(
    ("type_", "told"),
    [
        ("json", "response_format is 'json'; it must be a pydantic model"),
        (5, "response_format is 5"),
        (
            test_openai_is_asked_to_be_strict.__class__,
            "response_format function has no JSON schema: Unable to generate",
        ),
        (type("Plain", (), {}), "response_format Plain has no JSON schema"),
    ],
)
def test_what_is_no_type_is_refused(type_: Any, told: str) -> None:
    provider = create_sync_llm_provider("openai", api_key="k", model_name="m")
    with pytest.raises(LLMProviderBadRequestError, match=told):
        provider.build_request("Hi", response_format=type_)


def test_an_answer_becomes_an_object() -> None:
    person = parsed(Person, PERSON)
    assert person == Person(
        name="Ada",
        born=datetime.date(1815, 12, 10),
        addresses=[Address(street="St. James's Square 12")],
        scores={"logic": 1.0},
    )
    # Where the service takes maps and optional properties as they are, nothing is to be read back.
    assert parsed(Person, {"name": "Ada", "born": "1815-12-10", "scores": {"logic": 1}}).scores == {"logic": 1}


@pytest.mark.parametrize(
    ("type_", "content", "value"),
    [
        (Point, {"x": 1, "y": None}, Point(1)),
        (Movie, {"title": "M", "year": 1931}, {"title": "M", "year": 1931}),
        (list[Point], {"value": [{"x": 1, "y": 2}]}, [Point(1, 2)]),
        (dict[str, Point], {"value": [{"key": "a", "value": {"x": 1, "y": 0}}]}, {"a": Point(1)}),
        (int, {"value": 5}, 5),
        (int, 5, 5),
        (Point | Movie, {"value": {"title": "M", "year": 1931}}, {"title": "M", "year": 1931}),
        (Annotated[int, Field(gt=2)], {"value": 3}, 3),
        (Literal["a", "b"], {"value": "b"}, "b"),
        (tuple[int, str], {"value": [1, "a"]}, (1, "a")),
        (None | int, {"value": None}, None),
    ],
)
def test_any_type_can_be_asked_for(type_: Any, content: Any, value: Any) -> None:
    assert parsed(type_, content) == value
    format_ = output_format(type_)
    response_format, _ = format_.adapted(ANTHROPIC)
    assert response_format["json_schema"]["schema"]["type"] == "object"
    assert format_.name.isidentifier() or format_.name == "output"


def test_the_schema_of_a_type_is_made_once() -> None:
    assert output_format(Person) is output_format(Person)
    before = json.dumps(output_format(Person).schema)
    output_format(Person).adapted(OPENAI_STRICT)
    assert json.dumps(output_format(Person).schema) == before


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("not even")
        return number


@pytest.mark.parametrize(
    ("content", "fields", "code", "told"),
    [
        ('{"number": 3}', {}, "schema", "the answer is no Even: number: Value error, not even"),
        ('{"number": "three"}', {}, "schema", "the answer is no Even: number: Input should be a valid integer"),
        ("[]", {}, "schema", "the answer is no Even: Input should be an object"),
        ("Three.", {}, "invalid_json", "the answer is no JSON: "),
        ('{"number": 4', {"finish_reason": "length"}, "length", "the answer was cut before its end"),
        ("", {}, "empty", "the answer is empty"),
        ("", {"finish_reason": "content_filter"}, "content_filter", "the service's content filter stopped the answer"),
        ("", {"refusal": "No.", "finish_reason": "content_filter"}, "refusal", "the model refused to answer: No."),
    ],
)
def test_an_answer_of_another_kind_is_an_error(content: str, fields: Any, code: str, told: str) -> None:
    response = answer(content, metadata={"request_id": "req_1"}, **fields)
    with pytest.raises(LLMProviderOutputError, match=told) as caught:
        with_parsed(response, output_format(Even))
    error = caught.value
    assert (error.code, error.text, error.partial) == (code, content, response)
    assert (error.provider, error.request_id, error.__cause__, response.parsed) == ("acme", "req_1", None, None)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.text) == (str(error), content)
    # The text itself is for who asks for it.
    assert "three" not in str(error)


def test_a_whole_object_counts_whatever_ended_the_answer() -> None:
    assert parsed(Even, '{"number": 4}\n\n', finish_reason="length") == Even(number=4)


def test_calls_and_pauses_are_no_answer_yet() -> None:
    assert parsed(Even, "Let me see", tool_calls=[ToolCall("call_1", "look")], finish_reason="tool_calls") is None
    assert parsed(Even, "", finish_reason="pause") is None
    assert with_parsed(answer("Hi"), None).parsed is None


def test_a_response_with_an_object_is_still_json() -> None:
    for type_, content in ((Person, PERSON), (Point, {"x": 1}), (set[int], {"value": [1, 2]})):
        response = with_parsed(answer(content), output_format(type_))
        values = json.loads(json.dumps(response.to_dict()))
        assert values["content"] == response.content
        assert values["parsed"] in ({"x": 1, "y": 0}, [1, 2]) or values["parsed"]["born"] == "1815-12-10"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("{", {}),
        ('{"name": "A', {"name": "A"}),
        ('{"name": "Ada", "sco', {"name": "Ada"}),
        ('{"name": "Ada", "children": null, "scores": [{"key": "logic", "val', {"name": "Ada", "scores": {}}),
        ('{"scores": [{"key": "logic", "value": 1.5}, {"key"', {"scores": {"logic": 1.5}}),
        ("Here it is: {", None),
        ("[1", None),
    ],
)
def test_the_beginning_of_an_answer(text: str, value: Any) -> None:
    assert partial_object(text, output_format(Person)) == value


def test_the_beginning_of_other_answers() -> None:
    points = output_format(list[Point])
    assert [partial_object(text, points) for text in ("{", '{"value": [', '{"value": [{"x": 1')] == [
        None,
        [],
        [{"x": 1}],
    ]
    assert partial_object('{"any": ["th', None) == {"any": ["th"]}
    assert partial_object('["th', None) == ["th"]
    assert partial_object("5", None) is None


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (list[int], "[1, 2, 3]", [1, 2, 3]),
        (dict[str, int], '{"a": 1, "b": 2}', {"a": 1, "b": 2}),
        (dict[str, int], '{"value": 1, "b": 2}', {"value": 1, "b": 2}),
        (dict[str, int], '[{"key": "a", "value": 1}]', {"a": 1}),
        (Movie | None, '{"title": "M", "year": 1931}', {"title": "M", "year": 1931}),
    ],
)
def test_the_beginning_of_an_answer_without_the_object_around_it(type_: Any, text: str, value: Any) -> None:
    format_ = output_format(type_)
    assert parsed(type_, text) == partial_object(text, format_) == value
    beginnings = [partial_object(text[:length], format_) for length in range(1, len(text))]
    assert any(beginnings)


def test_a_schema_alone_is_a_format_whose_answers_are_plain_json() -> None:
    schema = {"type": "array", "items": {"$ref": "#/definitions/Point"}, "definitions": {"Point": POINT}}
    format_ = output_format(schema_format(schema, "the points"))
    assert (format_.name, format_.schema["required"]) == ("the_points", ["value"])
    response = with_parsed(answer('{"value": [{"x": 1, "label": null}]}'), format_)
    assert response.parsed == [{"x": 1}]
    assert response.to_dict()["parsed"] == [{"x": 1}]


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9
    name: str = "Tom"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = "Rex"


class Pet(BaseModel):
    pet: Cat | Dog
    tagged: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()


def test_variants_with_tags_that_have_defaults() -> None:
    pet = {"pet": {"kind": "dog", "name": None}, "tagged": {"kind": "cat", "lives": None, "name": "Kit"}}
    assert parsed(Pet, pet) == Pet(pet=Dog(), tagged=Cat(name="Kit"))
    # A service that ignores the schema may still leave out a tag, or null it.
    assert parsed(Pet, {"pet": {"kind": None, "lives": 7, "name": None}, "tagged": {"kind": "dog"}}).pet == Cat(lives=7)


class Scores(BaseModel):
    scores: dict[str, int]


@pytest.mark.parametrize(
    "pairs", [[{"key": [1], "value": 2}], [{"key": "a"}, {"key": "b", "value": 1}], [{"key": "a"}]]
)
def test_pairs_that_are_none_are_an_error(pairs: Any) -> None:
    with pytest.raises(LLMProviderOutputError, match="scores: Input should be an object"):
        parsed(Scores, {"scores": pairs})


def test_a_number_that_no_float_holds_is_an_error() -> None:
    for text in ('{"x": 1e999, "y": 1}', '{"x": 1, "y": -1e400}'):
        with pytest.raises(LLMProviderOutputError) as caught:
            parsed(Point, text)
        assert caught.value.code == "invalid_json"


def test_a_schema_may_refer_to_its_root() -> None:
    tree = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}
    format_ = schema_format(tree, "tree")
    for dialect in (OPENAI_STRICT, GEMINI):
        schema = format_.adapted(dialect)[1].schema
        assert schema["properties"]["value"] == {"$ref": "#/$defs/tree_value"}
        assert schema["$defs"]["tree_value"]["items"]["anyOf"][1] == {"$ref": "#/$defs/tree_value"}
    assert with_parsed(answer('{"value": [1, [2, []]]}'), format_).parsed == [1, [2, []]]


POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "label": {"type": "string"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("text", "told"), [('{"x": "1"}', "x: '1' is not of type 'integer'"), ("{}", "'x' is a required property")]
)
def test_an_answer_that_is_not_of_the_schema_is_an_error(text: str, told: str) -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(LLMProviderOutputError, match=told):
        with_parsed(answer(text), schema_format(POINT))


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(LLMProviderBadRequestError, match="the schema is a list; it must be a JSON object"):
        schema_format([])  # type: ignore[arg-type]
    pytest.importorskip("jsonschema")
    with pytest.raises(LLMProviderBadRequestError, match="the schema is no JSON schema: 'objekt'"):
        schema_format({"type": "objekt"})
    with pytest.raises(LLMProviderBadRequestError, match=r"refers to http://127.0.0.1:9/x, which"):
        schema_format({"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/x"}}}).parsed({"x": 1})


def test_without_jsonschema_an_answer_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert with_parsed(answer('{"x": "1"}'), schema_format(POINT)).parsed == {"x": "1"}
