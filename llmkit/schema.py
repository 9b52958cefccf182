"""JSON schemas in the words of each service. Pure; imports errors only.

Services enforce a part of JSON schema each. `SchemaDialect.adapt` says a schema in that part, and notes what it could
not say; `checked.py` reads an answer to the adapted schema as one to the original.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .errors import LLMProviderUnsupportedOperationError

__all__ = [
    "ANTHROPIC",
    "GEMINI",
    "OPENAI_STRICT",
    "AdaptedSchema",
    "SchemaDialect",
    "all_references",
    "flattened",
    "is_map",
    "kind_of",
    "moved_root",
    "references",
]

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AdaptedSchema:
    """A schema as a service takes it; `notes` has each change → the places of it, like "address.zip"."""

    schema: dict[str, Any]
    notes: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaDialect:
    """The part of JSON schema that a service enforces.

    `keywords` has the constraints that it knows → whether it takes a value of them. `all_required`: every property
    must be required; an optional one may be null instead. `maps`: objects may have names that the schema does not
    know. `prefix_items`: arrays may say what each of their first items is. `recursion`: a schema may refer to
    itself. `any_tool`: tools that are not strict may have any schema. `titles`: schemas may have them.
    `enum_types` are the types of values that may stand in an `enum`.
    """

    name: str
    keywords: Mapping[str, Callable[[Any], bool]]
    all_required: bool = False
    maps: bool = False
    prefix_items: bool = False
    recursion: bool = True
    any_tool: bool = True
    titles: bool = True
    enum_types: frozenset[str] = frozenset({"string", "integer", "number", "boolean"})

    def adapt(self, schema: Schema) -> AdaptedSchema:
        """Return a new schema in this dialect; the one passed is not changed.

        What the dialect cannot say is told in the description, or, for maps, tuples and values of any type, said
        in another shape. Raises LLMProviderUnsupportedOperationError for a schema that refers to itself where
        that is not taken.
        """
        adapter = _Adapter(self, schema)
        return AdaptedSchema(adapter.adapted(), adapter.notes)


def _taken(value: Any) -> bool:
    return True


def _has_no_look_around(pattern: Any) -> bool:
    return not re.search(r"\(\?<?[=!]", pattern)


_FORMATS: Final = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"})

OPENAI_STRICT: Final = SchemaDialect(
    # developers.openai.com/api/docs/guides/structured-outputs, "Supported schemas"
    name="OpenAI's strict mode",
    keywords={
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _taken),
        **dict.fromkeys(("minItems", "maxItems"), _taken),
        "pattern": _has_no_look_around,
        "format": _FORMATS.__contains__,
    },
    all_required=True,
)
ANTHROPIC: Final = SchemaDialect(
    # platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations"
    name="Anthropic",
    keywords={"minItems": (0, 1).__contains__, "format": (_FORMATS | {"uri"}).__contains__},
    recursion=False,
)
GEMINI: Final = SchemaDialect(
    # ai.google.dev/api/generate-content, "responseJsonSchema"
    name="Gemini",
    keywords=dict.fromkeys(("minimum", "maximum", "minItems", "maxItems"), _taken),
    maps=True,
    prefix_items=True,
    any_tool=False,
    titles=False,
    enum_types=frozenset({"string", "integer", "number"}),
)

# These constrain nothing: a discriminator repeats what the constants of the variants say.
_ANNOTATIONS: Final = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "definitions", "deprecated", "description", "discriminator"}
    | {"readOnly", "title", "writeOnly"}
)
_HINTS: Final = frozenset({"default", "examples"})


def flattened(schema: Any, root: Schema, seen: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a schema with its own `$ref` and `allOf` resolved; those of the schemas in it stay.

    Where two say different things of one kind, the later counts. `seen` has the references that led here.
    """
    if not isinstance(schema, Mapping):
        return {"not": {}} if schema is False else {}
    flat = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
    parts, reference = list(schema.get("allOf") or ()), schema.get("$ref")
    if reference is not None and reference not in seen:
        seen |= {reference}
        parts.insert(0, _resolved(reference, root))
    for part in reversed(parts):
        flat = _merged(flattened(part, root, seen), flat)
    return flat


def references(schema: Any) -> Iterator[str]:
    """Yield what a schema refers to for itself, and not for the schemas in it."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield schema["$ref"]
        for part in schema.get("allOf") or ():
            yield from references(part)


def _resolved(reference: str, root: Schema) -> Any:
    """Return what a document's reference to itself points to (RFC 6901), {} where there is nothing."""
    if not reference.startswith("#"):
        return {}
    found: Any = root
    for key in reference[1:].split("/")[1:]:
        found = found.get(key.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
    return found


def _merged(first: Schema, second: Schema) -> dict[str, Any]:
    merged = {**first, **second}
    for key in first.keys() & second.keys():
        mine, other = first[key], second[key]
        if key == "properties":
            both = [name for name in mine.keys() & other.keys() if mine[name] != other[name]]
            merged[key] = {**mine, **other, **{name: {"allOf": [mine[name], other[name]]} for name in both}}
        elif key == "required":
            merged[key] = [*mine, *(name for name in other if name not in mine)]
    return merged


def is_map(schema: Schema) -> bool:
    """Return whether the objects of a flattened schema have names that it does not know, and no others."""
    others = schema.get("additionalProperties") or schema.get("patternProperties")
    if schema.get("properties") or ("properties" in schema and not others):
        return False
    return bool(others) or schema.get("additionalProperties") is not False


_KINDS: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", list: "array"}


def kind_of(value: Any) -> str:
    """Return the JSON schema type of a JSON value."""
    return _KINDS.get(type(value), "object")


class _Adapter:
    """Adapts one schema; places are named by properties, so that a caller recognises them."""

    def __init__(self, dialect: SchemaDialect, root: Schema) -> None:
        self.notes: dict[str, list[str]] = {}
        self._dialect = dialect
        self._root = root
        self._inlined: frozenset[str] = frozenset()

    def adapted(self) -> dict[str, Any]:
        root = {key: value for key, value in self._root.items() if key not in ("definitions", "$defs")}
        definitions = {**self._root.get("definitions", {}), **self._root.get("$defs", {})}
        if not self._dialect.recursion:
            self._refuse_recursion({"the root": root, **definitions})
        # No service takes a reference as the root.
        result = self._node(flattened(root, self._root), "")
        if definitions:
            result["$defs"] = {name: self._node(schema, name) for name, schema in definitions.items()}
        return result

    def _note(self, what: str, place: str) -> None:
        places = self.notes.setdefault(what, [])
        if (place or "the root") not in places:
            places.append(place or "the root")

    def _refuse_recursion(self, schemas: Schema) -> None:
        edges = {
            name: {target or "the root" for target in map(_definition, all_references(schema)) if target is not None}
            for name, schema in schemas.items()
        }
        for name in edges:
            reached, pending = set[str](), set(edges[name])
            while pending:
                reached |= pending
                pending = {target for each in pending for target in edges.get(each, ())} - reached
            if name in reached:
                raise LLMProviderUnsupportedOperationError(
                    f"{self._dialect.name} takes no schema that refers to itself, as {name} does; "
                    "use types of a fixed depth instead"
                )

    def _node(self, schema: Any, place: str) -> dict[str, Any]:
        """Return one schema, adapted with all that is in it."""
        inlined = self._inlined
        # A reader takes out of `rest` what it understands.
        rest = self._without_all_of(schema, place)
        read = next((each for keys, each in _READERS if keys & rest.keys()), _Adapter._any)
        result = self._finished(read(self, rest, place), rest, place)
        self._inlined = inlined
        return result

    def _without_all_of(self, schema: Any, place: str) -> dict[str, Any]:
        """Return a copy of a schema in which `allOf` is merged; what is inlined for it is not inlined in it again."""
        if not isinstance(schema, Mapping):
            return flattened(schema, self._root)
        parts = [part for part in schema.get("allOf", ()) if isinstance(part, Mapping)]
        if not parts:
            return dict(schema)
        if len(parts) == 1 and "$ref" in parts[0] and "$ref" not in schema:
            # Before JSON schema 2019-09 a reference with other keywords beside it had to be written so.
            return {**parts[0], **{key: value for key, value in schema.items() if key != "allOf"}}
        self._note("allOf merged", place)
        flat = flattened(schema, self._root, self._inlined)
        self._inlined |= {*references(schema)}
        return flat

    def _finished(self, result: dict[str, Any], rest: Schema, place: str) -> dict[str, Any]:
        """Return a result with the constraints that the dialect knows; the others are told in words."""
        words = {}
        for key, value in rest.items():
            is_taken = self._dialect.keywords.get(key)
            if is_taken and is_taken(value) and "type" in result:
                result[key] = value
            elif key in _HINTS and value is not None:
                words[key] = value
            elif key not in _ANNOTATIONS | _HINTS:
                words[key] = value
                self._note(f"{key} told in words", place)
        told = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in words.items())
        description = " ".join(text for text in (rest.get("description"), told and f"({told})") if text)
        if description and "$ref" in result:
            result = {"anyOf": [result]}
        if description:
            result["description"] = description
        if "title" in rest and self._dialect.titles and "$ref" not in result:
            result["title"] = rest["title"]
        return result

    def _reference(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        name = _definition(rest.pop("$ref"))
        if name is None:
            return self._any(rest, place)
        return {"$ref": f"#/$defs/{name}" if name else "#"}

    def _values(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        kinds: dict[str, list[Any]] = {}
        for value in [rest["const"]] if "const" in rest else rest["enum"]:
            kind = kind_of(value)
            kinds.setdefault("number" if kind == "integer" and rest.get("type") == "number" else kind, []).append(value)
        if not kinds or kinds.keys() & {"object", "array"}:
            return self._by_type(rest, place)
        for key in ("const", "enum", "type"):
            rest.pop(key, None)
        variants: list[dict[str, Any]] = []
        for kind, values in kinds.items():
            variants.append({"type": kind})
            if kind in self._dialect.enum_types:
                variants[-1]["enum"] = values
            elif kind == "boolean" and len(values) == 1:
                rest["enum"] = values
        return _union(variants)

    def _variants(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        if rest.keys() & {"type", "properties", "items"}:
            # Conditions on what is said beside them, not a choice of types.
            return self._by_type(rest, place)
        key = "anyOf" if "anyOf" in rest else "oneOf"
        if key == "oneOf" and "discriminator" not in rest:
            self._note("oneOf sent as anyOf", place)
        return _union([self._node(variant, place) for variant in rest.pop(key)])

    def _by_type(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        kind = rest.pop("type", None)
        if isinstance(kind, list):
            given = {key: rest.pop(key) for key in list(rest) if key not in _ANNOTATIONS | _HINTS}
            return _union([self._node({"type": each, **_of_type(given, each)}, place) for each in kind])
        if kind == "object" or (kind is None and rest.keys() & {"properties", "additionalProperties"}):
            return self._object(rest, place)
        if kind == "array" or (kind is None and rest.keys() & {"items", "prefixItems"}):
            return self._array(rest, place)
        return {"type": kind} if kind else self._any(rest, place)

    def _object(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        if is_map(rest):
            return self._map(rest, place)
        properties, required = rest.pop("properties", {}), rest.pop("required", ())
        # A constant with a default is the tag that tells variants of a union apart.
        required = {*required, *(name for name, schema in properties.items() if self._is_constant(schema))}
        adapted = {name: self._node(schema, f"{place}.{name}".lstrip(".")) for name, schema in properties.items()}
        for name in adapted:
            if self._dialect.all_required and name not in required:
                self._note("optional, sent as nullable", f"{place}.{name}".lstrip("."))
                adapted[name] = _nullable(adapted[name])
        if rest.pop("additionalProperties", False):
            self._note("properties of other names left out", place)
        names = [name for name in adapted if self._dialect.all_required or name in required]
        return {"type": "object", "properties": adapted, "required": names, "additionalProperties": False}

    def _is_constant(self, schema: Any) -> bool:
        flat = flattened(schema, self._root)
        return "const" in flat or len(flat.get("enum", ())) == 1

    def _map(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        """Return an object of any names, or a list of pairs."""
        values = rest.pop("additionalProperties", None)
        if not isinstance(values, Mapping):
            values = next(iter(rest.get("patternProperties", {}).values()), {})
        value = self._node(values, f"{place}.*".lstrip("."))
        if self._dialect.maps:
            return {"type": "object", "additionalProperties": value}
        self._note("map sent as a list of pairs", place)
        names = rest.pop("propertyNames", {})
        key = self._node(names if "$ref" in names else {"type": "string", **names}, place)
        pair = {"type": "object", "properties": {"key": key, "value": value}}
        return {"type": "array", "items": {**pair, "required": ["key", "value"], "additionalProperties": False}}

    def _array(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        prefix, items = rest.pop("prefixItems", ()), rest.pop("items", None)
        firsts = [self._node(item, f"{place}[{position}]") for position, item in enumerate(prefix)]
        others = [] if items is False or (firsts and items is None) else [self._node(items, f"{place}[]")]
        if firsts and self._dialect.prefix_items:
            return {"type": "array", "prefixItems": firsts, **({"items": others[0]} if others else {})}
        union = _union([*firsts, *others])
        if firsts and "anyOf" in union:
            self._note("tuple sent as a list", place)
        return {"type": "array", "items": union}

    def _any(self, rest: dict[str, Any], place: str) -> dict[str, Any]:
        self._note("any value narrowed to text, number, boolean or null", place)
        return {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null")]}


_READERS: Final[tuple[tuple[frozenset[str], Callable[[_Adapter, dict[str, Any], str], dict[str, Any]]], ...]] = (
    (frozenset({"$ref"}), _Adapter._reference),
    (frozenset({"const", "enum"}), _Adapter._values),
    (frozenset({"anyOf", "oneOf"}), _Adapter._variants),
    (frozenset({"type", "properties", "additionalProperties", "items", "prefixItems"}), _Adapter._by_type),
)


def _definition(reference: str) -> str | None:
    """Return the name of the definition that is meant, "" for the root, None for anything else."""
    found = re.fullmatch(r"#(?:/(?:\$defs|definitions)/(?P<name>[^/]+))?", reference)
    return (found["name"] or "") if found else None


def all_references(schema: Any) -> Iterator[str]:
    """Yield all references in a schema."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from all_references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from all_references(value)


def moved_root(schema: Any, place: str) -> Any:
    """Return a schema in which what refers to the root refers to `place`, where the root is to be."""
    if isinstance(schema, Mapping):
        moved = {key: moved_root(value, place) for key, value in schema.items()}
        return moved | {"$ref": place} if schema.get("$ref") == "#" else moved
    return [moved_root(value, place) for value in schema] if isinstance(schema, list) else schema


def _union(variants: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the union of schemas, with each of them once."""
    flat: list[dict[str, Any]] = []
    for variant in variants:
        flat += [each for each in (variant["anyOf"] if variant.keys() == {"anyOf"} else [variant]) if each not in flat]
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows null, too; what describes it stays outside."""
    outside = {key: schema[key] for key in ("description", "title") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return _union([inside, {"type": "null"}]) | outside


_KEYWORDS_OF: Final = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "propertyNames"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}


def _of_type(given: Schema, kind: str) -> dict[str, Any]:
    """Return the keywords that say something of values of a type."""
    mine = _KEYWORDS_OF.get("number" if kind == "integer" else kind, set())
    others = set[str]().union(*_KEYWORDS_OF.values()) - mine
    return {key: value for key, value in given.items() if key not in others}
