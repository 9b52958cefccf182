"""Schemas in the dialects of the services, and the answers to them read back."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmkit import LLMProviderUnsupportedOperationError
from llmkit.checked import AnswerReader
from llmkit.schema import ANTHROPIC, GEMINI, OPENAI_STRICT, SchemaDialect

DIALECTS = [OPENAI_STRICT, ANTHROPIC, GEMINI]
NODE = {"$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}}, "$ref": "#/$defs/Node"}
ANY = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]}
NULL = {"type": "null"}


def of(schema: Any, **definitions: Any) -> dict[str, Any]:
    """Return a schema with one required property, "it"."""
    defined = {"$defs": definitions} if definitions else {}
    return {"type": "object", "properties": {"it": schema}, "required": ["it"], **defined}


def adapted(dialect: SchemaDialect, schema: Any, **definitions: Any) -> Any:
    """Return what a dialect makes of the property "it"."""
    return dialect.adapt(of(schema, **definitions)).schema["properties"]["it"]


def read_back(answer: Any, schema: Any) -> Any:
    """Return an answer to an adapted schema as one to the original."""
    return AnswerReader(schema).read(answer)


def pairs(value: Any, key: Any = None) -> dict[str, Any]:
    """Return the schema of a list of pairs."""
    pair = {"type": "object", "properties": {"key": key or {"type": "string"}, "value": value}}
    return {"type": "array", "items": {**pair, "required": ["key", "value"], "additionalProperties": False}}


# Schema → what each dialect makes of it.
CASES: list[tuple[Any, Any, Any, Any]] = [
    ({"type": "string"},) + ({"type": "string"},) * 3,
    (
        {"type": "integer", "minimum": 1, "exclusiveMaximum": 9},
        {"type": "integer", "minimum": 1, "exclusiveMaximum": 9},
        {"type": "integer", "description": "(minimum: 1, exclusiveMaximum: 9)"},
        {"type": "integer", "minimum": 1, "description": "(exclusiveMaximum: 9)"},
    ),
    ({"type": "string", "maxLength": 5, "description": "A name"},)
    + ({"type": "string", "description": "A name (maxLength: 5)"},) * 3,
    (
        {"type": "string", "format": "date"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "date"},
        {"type": "string", "description": '(format: "date")'},
    ),
    (
        {"type": "string", "format": "uri"},
        {"type": "string", "description": '(format: "uri")'},
        {"type": "string", "format": "uri"},
        {"type": "string", "description": '(format: "uri")'},
    ),
    (
        {"type": "string", "pattern": "^a"},
        {"type": "string", "pattern": "^a"},
        {"type": "string", "description": '(pattern: "^a")'},
        {"type": "string", "description": '(pattern: "^a")'},
    ),
    ({"type": "string", "pattern": "^(?!a)"},) + ({"type": "string", "description": '(pattern: "^(?!a)")'},) * 3,
    (
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "(maxItems: 3)"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
    ),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
        {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
    ),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "integer"}},
    ),
    ({"type": "array"},) + ({"type": "array", "items": ANY},) * 3,
    ({},) + (ANY,) * 3,
    (True,) + (ANY,) * 3,
    (False,) + ({**ANY, "description": "(not: {})"},) * 3,
    ({"const": "a", "type": "string"},) + ({"type": "string", "enum": ["a"]},) * 3,
    ({"const": None},) + (NULL,) * 3,
    ({"enum": [1, 2], "type": "number"},) + ({"type": "number", "enum": [1, 2]},) * 3,
    (
        {"const": True},
        {"type": "boolean", "enum": [True]},
        {"type": "boolean", "enum": [True]},
        {"type": "boolean", "description": "(enum: [true])"},
    ),
    ({"enum": [1, "a", None]},)
    + ({"anyOf": [{"type": "integer", "enum": [1]}, {"type": "string", "enum": ["a"]}, NULL]},) * 3,
    ({"enum": [{"a": 1}]},) + ({**ANY, "description": '(enum: [{"a": 1}])'},) * 3,
    ({"type": ["string", "integer"], "maxLength": 3, "description": "Either"},)
    + (
        {
            "anyOf": [{"type": "string", "description": "(maxLength: 3)"}, {"type": "integer"}],
            "description": "Either",
        },
    )
    * 3,
    ({"oneOf": [{"type": "string"}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}]},)
    + ({"anyOf": [{"type": "string"}, {"type": "integer"}]},) * 3,
    ({"type": "string", "anyOf": [{"minLength": 1}]},)
    + ({"type": "string", "description": '(anyOf: [{"minLength": 1}])'},) * 3,
    ({"allOf": [{"type": "string"}, {"description": "Both"}]},) + ({"type": "string", "description": "Both"},) * 3,
    ({"$ref": "https://example.com/schema"},) + (ANY,) * 3,
    ({"type": "string", "default": "a", "examples": ["b"], "deprecated": True, "$comment": "!"},)
    + ({"type": "string", "description": '(default: "a", examples: ["b"])'},) * 3,
    ({"type": "string", "default": None},) + ({"type": "string"},) * 3,
    (
        {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
        {**pairs({"type": "integer"}), "description": "(maxProperties: 2)"},
        {**pairs({"type": "integer"}), "description": "(maxProperties: 2)"},
        {"type": "object", "additionalProperties": {"type": "integer"}, "description": "(maxProperties: 2)"},
    ),
    (
        {"type": "object", "additionalProperties": {}, "propertyNames": {"enum": ["a", "b"]}},
        pairs(ANY, {"type": "string", "enum": ["a", "b"]}),
        pairs(ANY, {"type": "string", "enum": ["a", "b"]}),
        {"type": "object", "additionalProperties": ANY, "description": '(propertyNames: {"enum": ["a", "b"]})'},
    ),
    (
        {"type": "object", "patternProperties": {"^x": {"type": "string"}}},
        {**pairs({"type": "string"}), "description": '(patternProperties: {"^x": {"type": "string"}})'},
        {**pairs({"type": "string"}), "description": '(patternProperties: {"^x": {"type": "string"}})'},
        {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": '(patternProperties: {"^x": {"type": "string"}})',
        },
    ),
    ({"type": "object"}, pairs(ANY), pairs(ANY), {"type": "object", "additionalProperties": ANY}),
    ({"type": "object", "properties": {}, "title": "Nothing"},)
    + ({"type": "object", "properties": {}, "required": [], "additionalProperties": False, "title": "Nothing"},) * 2
    + ({"type": "object", "properties": {}, "required": [], "additionalProperties": False},),
    (
        {"properties": {"a": {"type": "string", "description": "A"}, "b": {"type": "null"}}, "required": ["c"]},
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"type": "string"}, NULL], "description": "A"}, "b": NULL},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    )
    + (
        {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "A"}, "b": NULL},
            "required": [],
            "additionalProperties": False,
        },
    )
    * 2,
]


@pytest.mark.parametrize(("schema", "openai", "anthropic", "gemini"), CASES, ids=lambda value: str(value)[:60])
def test_what_each_dialect_makes_of_a_schema(schema: Any, openai: Any, anthropic: Any, gemini: Any) -> None:
    before = copy.deepcopy(schema)
    assert adapted(OPENAI_STRICT, schema) == openai
    assert adapted(ANTHROPIC, schema) == anthropic
    assert adapted(GEMINI, schema) == gemini
    assert schema == before


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_references_stay_and_have_nothing_beside_them(dialect: SchemaDialect) -> None:
    city = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}, "required": ["name"]}
    result = dialect.adapt(of({"$ref": "#/$defs/City", "description": "Where"}, City=city))
    assert result.schema["properties"]["it"] == {"anyOf": [{"$ref": "#/$defs/City"}], "description": "Where"}
    assert result.schema["$defs"]["City"]["properties"]["name"] == {"type": "string", "description": "(maxLength: 9)"}
    assert result.notes == {"maxLength told in words": ["City.name"]}
    assert adapted(dialect, {"$ref": "#/$defs/City", "title": "T"}, City=city) == {"$ref": "#/$defs/City"}
    assert adapted(dialect, {"allOf": [{"$ref": "#/$defs/City"}]}, City=city) == {"$ref": "#/$defs/City"}
    # What drafts before 2019-09 call it.
    old = {"properties": {"it": {"$ref": "#/definitions/City"}}, "definitions": {"City": city}}
    assert dialect.adapt(old).schema["$defs"].keys() == {"City"}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_all_of_is_merged(dialect: SchemaDialect) -> None:
    named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    aged = {"properties": {"age": {"type": "integer"}, "name": {"minLength": 2}}, "required": ["age", "name"]}
    result = adapted(dialect, {"allOf": [{"$ref": "#/$defs/Named"}, aged]}, Named=named)
    assert result["required"] == ["name", "age"]
    assert result["properties"]["age"] == {"type": "integer"}
    assert result["properties"]["name"] == {"type": "string", "description": "(minLength: 2)"}


def test_a_schema_that_refers_to_itself_is_an_error_where_it_is_not_taken() -> None:
    for dialect in (OPENAI_STRICT, GEMINI):
        schema = dialect.adapt(NODE).schema
        # The root is no reference.
        assert schema["type"] == "object" and "Node" in schema["$defs"]
    with pytest.raises(
        LLMProviderUnsupportedOperationError, match="Anthropic takes no schema that refers to itself, as Node does"
    ):
        ANTHROPIC.adapt(NODE)
    first, second = of({"$ref": "#/$defs/Second"}), of({"type": "array", "items": {"$ref": "#/$defs/First"}})
    with pytest.raises(LLMProviderUnsupportedOperationError, match="as First does"):
        ANTHROPIC.adapt(of({"$ref": "#/$defs/First"}, First=first, Second=second))
    with pytest.raises(LLMProviderUnsupportedOperationError, match="as the root does"):
        ANTHROPIC.adapt(of({"$ref": "#"}))
    assert ANTHROPIC.adapt(of({"$ref": "#/$defs/It"}, It={"type": "string"})).notes == {}


def test_notes_name_the_places() -> None:
    inner = {"type": "object", "properties": {"tags": {"type": "object"}, "size": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"a": inner, "b": {"type": "array", "items": {"oneOf": [{}]}}}}
    assert OPENAI_STRICT.adapt(schema).notes == {
        "map sent as a list of pairs": ["a.tags"],
        "any value narrowed to text, number, boolean or null": ["a.tags.*", "b[]"],
        "optional, sent as nullable": ["a.tags", "a.size", "a", "b"],
        "oneOf sent as anyOf": ["b[]"],
    }


@pytest.mark.parametrize("dialect", [OPENAI_STRICT, ANTHROPIC, GEMINI], ids=lambda dialect: dialect.name)
def test_a_tag_with_a_default_is_required_and_no_null(dialect: SchemaDialect) -> None:
    constant = {"const": "a", "default": "a"}
    tags: dict[str, Any] = {"const": constant, "enum": {"enum": ["a"]}, "reference": {"$ref": "#/$defs/T"}}
    properties = {**tags, "other": {"type": "integer", "default": 1}}
    adapted = dialect.adapt({"type": "object", "properties": properties, "$defs": {"T": {"const": "a"}}}).schema
    assert {*tags} <= {*adapted["required"]}
    assert "null" not in json.dumps([adapted["properties"][name] for name in tags])
    assert ("other" in adapted["required"]) == dialect.all_required


@pytest.mark.parametrize("dialect", [OPENAI_STRICT, ANTHROPIC, GEMINI], ids=lambda dialect: dialect.name)
def test_names_of_a_pattern_alone_are_a_map(dialect: SchemaDialect) -> None:
    schema = {"type": "object", "patternProperties": {"^x": {"type": "string"}}, "additionalProperties": False}
    adapted = dialect.adapt(schema).schema
    if dialect.maps:
        assert adapted["additionalProperties"] == {"type": "string"}
    else:
        assert adapted["items"]["properties"]["value"] == {"type": "string"}


def test_a_discriminated_union_loses_nothing() -> None:
    cat = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
    union = {"oneOf": [{"$ref": "#/$defs/Cat"}], "discriminator": {"propertyName": "kind"}}
    result = OPENAI_STRICT.adapt(of(union, Cat=cat))
    assert result.schema["properties"]["it"] == {"$ref": "#/$defs/Cat"}
    assert result.notes == {}


keywords = st.fixed_dictionaries(
    {},
    optional={
        "title": st.just("T"),
        "description": st.just("D"),
        "default": st.just(1),
        "minimum": st.integers(),
        "multipleOf": st.just(2),
        "minLength": st.integers(0, 9),
        "pattern": st.sampled_from(["^a", "(?=a)"]),
        "format": st.sampled_from(["date", "uri", "binary"]),
        "minItems": st.integers(0, 3),
        "uniqueItems": st.booleans(),
        "not": st.just({"type": "string"}),
    },
)
names = st.sampled_from(["a", "b", "c"])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas that have others in them."""
    schemas = st.one_of(
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"type": st.just("array")}, optional={"items": inner, "prefixItems": st.lists(inner)}),
        st.fixed_dictionaries(
            {"type": st.just("object")},
            optional={
                "properties": st.dictionaries(names, inner, max_size=3),
                "required": st.lists(names, unique=True),
                "additionalProperties": inner | st.booleans(),
                "patternProperties": st.dictionaries(names, inner, max_size=2),
            },
        ),
    )
    return st.builds(lambda schema, more: {**more, **schema}, schemas, keywords)


leaves = st.one_of(
    st.booleans(),
    st.builds(
        lambda kind, more: {**more, **kind},
        st.sampled_from(
            [
                *({"type": kind} for kind in ("string", "integer", "number", "boolean", "null")),
                {"type": ["string", "null"]},
                {"const": 1},
                {"enum": ["a", 2, True]},
                {"$ref": "#/$defs/A"},
                {},
            ]
        ),
        keywords,
    ),
)
schemas = st.recursive(leaves, nested, max_leaves=8)


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    assert isinstance(schema, dict), schema
    yield schema
    for key in ("properties", "$defs"):
        for each in schema.get(key, {}).values():
            yield from subschemas(each)
    for each in [*schema.get("anyOf", []), *schema.get("prefixItems", [])]:
        yield from subschemas(each)
    for key in ("items", "additionalProperties"):
        if schema.get(key):
            yield from subschemas(schema[key])


STRUCTURE = {"type", "enum", "anyOf", "$ref", "$defs", "properties", "required", "additionalProperties", "items"}


@given(schemas, schemas)
@example({}, {"allOf": [{"type": "object"}, {"allOf": [{"$ref": "#/$defs/A"}]}]})
def test_any_schema_comes_out_in_the_dialect(schema: Any, definition: Any) -> None:
    root = of(schema, A={"type": "object", "properties": {"inner": definition}})
    before = copy.deepcopy(root)
    for dialect in DIALECTS:
        try:
            result = dialect.adapt(root).schema
        except LLMProviderUnsupportedOperationError:
            assert "#/$defs/A" in str(definition)
            continue
        known = STRUCTURE | dialect.keywords.keys() | {"description"}
        known |= ({"title"} if dialect.titles else set()) | ({"prefixItems"} if dialect.prefix_items else set())
        for each in subschemas(result):
            assert each.keys() <= known
            assert len(each.keys() & {"type", "anyOf", "$ref"}) == 1
            assert "$ref" not in each or len(each) == 1
            if each.get("type") == "object" and not dialect.maps:
                assert each["additionalProperties"] is False
            if each.get("type") == "object" and dialect.all_required:
                assert each["required"] == list(each["properties"])
            if each.get("type") == "array":
                assert "items" in each or "prefixItems" in each
            assert not each.keys() & dialect.keywords.keys() or "type" in each
    assert root == before


# Original schema, what a service may answer to the adapted one, and what that is.
READ_BACK: list[tuple[Any, Any, Any]] = [
    ({"type": "integer"}, 1, 1),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"key": "a", "value": 1}], {"a": 1}),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": 1}),
    ({"type": "object", "additionalProperties": True}, [], {}),
    ({"type": "object"}, [{"key": "a", "value": 1}, {"key": "b"}], [{"key": "a", "value": 1}, {"key": "b"}]),
    ({"type": "object"}, [{"key": ["a"], "value": 1}], [{"key": ["a"], "value": 1}]),
    ({"anyOf": [{"type": "object"}, {"type": "array"}]}, [], []),
    ({"anyOf": [{"type": "object"}, {"type": "array"}]}, [{"key": "a", "value": 1}], {"a": 1}),
    ({"type": "object"}, [1], [1]),
    ({"type": "object", "properties": {"a": {}}}, [{"key": "a", "value": 1}], [{"key": "a", "value": 1}]),
    (
        {"type": "object", "patternProperties": {"^a": {"type": "object"}}},
        [{"key": "a", "value": [{"key": "b", "value": 2}]}],
        {"a": {"b": 2}},
    ),
    (
        {"type": "array", "prefixItems": [{"type": "object"}], "items": {"type": "string"}},
        [[{"key": "a", "value": 1}], "b"],
        [{"a": 1}, "b"],
    ),
    ({"anyOf": [{"type": "object"}, {"type": "null"}]}, [{"key": "a", "value": 1}], {"a": 1}),
    ({"anyOf": [{"type": "object"}, {"type": "null"}]}, None, None),
    ({"anyOf": [{"type": "string"}, {"type": "boolean"}]}, 5, 5),
    ({"type": ["number", "null"]}, 5, 5),
    ({"$ref": "#/$defs/It", "$defs": {"It": {"type": "object"}}}, [{"key": "a", "value": 1}], {"a": 1}),
]


@pytest.mark.parametrize(("schema", "answer", "value"), READ_BACK, ids=lambda value: str(value)[:60])
def test_answers_are_read_back(schema: Any, answer: Any, value: Any) -> None:
    before = copy.deepcopy(answer)
    assert read_back(answer, schema) == value
    assert read_back({"it": [answer]}, of({"type": "array", "items": schema}, **schema.get("$defs", {}))) == {
        "it": [value]
    }
    assert answer == before


def test_a_null_for_what_is_optional_and_no_null_counts_as_absent() -> None:
    optional = {
        "number": {"type": "integer"},
        "nullable": {"anyOf": [{"type": "integer"}, NULL]},
        "listed": {"type": ["integer", "null"]},
        "constant": {"const": "a"},
        "choice": {"enum": ["a", None]},
        "reference": {"$ref": "#/$defs/Text"},
        "anything": {},
        "required": {"type": "integer"},
    }
    schema = {"type": "object", "properties": optional, "required": ["required"], "$defs": {"Text": {"type": "string"}}}
    answer = {**dict.fromkeys(optional), "unknown": None}
    assert read_back(answer, schema).keys() == {"nullable", "listed", "choice", "anything", "required", "unknown"}


def test_the_variant_of_a_union_is_told_by_constants_and_names() -> None:
    def shape(kind: str, **properties: Any) -> dict[str, Any]:
        properties["kind"] = {"$ref": f"#/$defs/{kind}"}
        return {"type": "object", "properties": properties, "required": ["kind"]}

    kinds = {kind: {"const": kind} for kind in ("circle", "square")}
    circle = shape("circle", size={"type": "object"})
    square = shape("square", size={"type": "array", "items": {}}, name={"type": "string"})
    open_ = {"type": "object", "properties": {"other": {}}, "additionalProperties": {"type": "object"}}
    schema = of({"anyOf": [{"oneOf": [circle, square]}, open_]}, **kinds)
    size = [{"key": "r", "value": 1}]
    assert read_back({"it": {"kind": "circle", "size": size}}, schema)["it"]["size"] == {"r": 1}
    assert read_back({"it": {"kind": "square", "size": size, "name": None}}, schema)["it"] == {
        "kind": "square",
        "size": size,
    }
    # Of an incomplete answer the variant is known as soon as it can be.
    partial = AnswerReader(schema, partial=True).read
    assert partial({"it": {"size": [{"key": "r"}]}})["it"] == {"size": {}}
    assert partial({"it": {"size": [{"key": "r", "value": 1}, {"key": "s"}, {}]}})["it"] == {"size": {"r": 1}}
    assert read_back({"it": {"more": size}}, schema)["it"] == {"more": {"r": 1}}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(names, inner)
)


@given(schemas, values)
@example({"anyOf": [{"allOf": [{"$ref": "#/$defs/A"}]}]}, [])
def test_anything_can_be_read_back(schema: Any, answer: Any) -> None:
    before = copy.deepcopy(answer)
    read_back({"it": answer}, of(schema, A=schema))
    assert answer == before
