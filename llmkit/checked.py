"""What JSON is checked against: types with their schemas, or a schema alone. Imports errors, codec and schema."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import NoneType
from typing import Any, Final

from .codec import encode_json
from .errors import LLMProviderBadRequestError, LLMProviderConfigurationError, type_with_article
from .schema import flattened, is_map, kind_of, references

__all__ = ["AnswerReader", "CheckedSchema", "CheckedType", "schema_errors"]

Schema = Mapping[str, Any]
_PAIR: Final = frozenset({"key", "value"})
_ANY: Final[Schema] = {}
MOST_PROBLEMS: Final = 5


class CheckedType:
    """A type, with its JSON schema in `schema`: a pydantic model, a dataclass, or whatever pydantic knows.

    `read` turns an answer to an adapted schema into one to this schema, `read_partial` one that is not complete.
    Raises LLMProviderBadRequestError for a type of which no schema can be made, and LLMProviderConfigurationError
    where pydantic is missing; `place` names it there.
    """

    def __init__(self, type_: Any, place: str) -> None:
        with schema_errors(place):
            from pydantic import TypeAdapter  # type: ignore[import-not-found, unused-ignore]

            self._adapter: TypeAdapter[Any] = TypeAdapter(type_)
            schema = self._adapter.json_schema(schema_generator=_generator())
        # A type that refers to itself has a reference as its root.
        self.schema = flattened(schema, schema)
        self.read = AnswerReader(self.schema).read
        self.read_partial = AnswerReader(self.schema, partial=True).read
        self._read_plain = AnswerReader(self.schema, pairs=False).read

    def value(self, found: Any, *, adapted: bool = True) -> Any:
        """Return what a decoded JSON value is as a value of the type; raises ValueError, naming what is wrong.

        `adapted` False: the schema was sent as it is.
        """
        from pydantic import ValidationError  # type: ignore[import-not-found, unused-ignore]

        try:
            # Strict types take dates and the like from JSON only.
            return self._adapter.validate_json(encode_json(self.read(found) if adapted else self._read_plain(found)))
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)
            told = [": ".join([*filter(None, [".".join(map(str, each["loc"]))]), each["msg"]]) for each in wrong]
        raise ValueError("; ".join(_shortened(told)))


class CheckedSchema:
    """A JSON schema in the place of a type: the value of an answer is the plain JSON that it is.

    It is checked against the schema where jsonschema is installed. Raises LLMProviderBadRequestError for what is no
    schema, as far as that can be told.
    """

    def __init__(self, schema: Schema) -> None:
        if not isinstance(schema, Mapping):
            raise LLMProviderBadRequestError(f"the schema is {type_with_article(schema)}; it must be a JSON object")
        self._problems = _validator(schema)
        self.schema = flattened(schema, schema)
        self.read = AnswerReader(self.schema).read
        self.read_partial = AnswerReader(self.schema, partial=True).read

    def value(self, found: Any) -> Any:
        """Return a decoded JSON value, read as an answer to the schema; raises ValueError, naming what is wrong."""
        value = self.read(found)
        told = self._problems(value)
        if told:
            raise ValueError("; ".join(_shortened(told)))
        return value


def _validator(schema: Schema) -> Callable[[Any], list[str]]:
    """Return what tells how a value violates a schema: nothing, where jsonschema is not installed."""
    try:
        # By name, since it has no types of its own.
        jsonschema = import_module("jsonschema")
        referencing = import_module("referencing")
    except ImportError:
        return lambda value: []
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise LLMProviderBadRequestError(f"the schema is no JSON schema: {error.message}") from None
    # With an empty registry nothing is fetched that the schema refers to.
    validator = kind(schema, registry=referencing.Registry())

    def problems(value: Any) -> list[str]:
        try:
            found = [
                (each.json_path.removeprefix("$").lstrip("."), each.message) for each in validator.iter_errors(value)
            ]
        except referencing.exceptions.Unresolvable as error:
            raise LLMProviderBadRequestError(f"the schema refers to {error.ref}, which is not in it") from None
        return [": ".join(filter(None, each)) for each in found]

    return problems


def _shortened(told: list[str]) -> list[str]:
    return told if len(told) <= MOST_PROBLEMS else [*told[:MOST_PROBLEMS], f"and {len(told) - MOST_PROBLEMS} more"]


@contextlib.contextmanager
def schema_errors(place: str) -> Iterator[None]:
    """Say pydantic's refusal of a type as an LLMProviderBadRequestError, its absence as a configuration error."""
    try:
        from pydantic import PydanticUserError  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LLMProviderConfigurationError(
            f"{place} needs pydantic (`pip install pydantic`); without it, pass a dict that holds the JSON schema"
        ) from None
    try:
        yield
    except (PydanticUserError, NameError, TypeError) as error:
        told = str(error).partition("\n")[0]
        raise LLMProviderBadRequestError(f"{place} has no JSON schema: {told}") from None


@functools.cache
def _generator() -> Any:
    from pydantic.json_schema import GenerateJsonSchema  # type: ignore[import-not-found, unused-ignore]

    class Generator(GenerateJsonSchema):  # type: ignore[misc, unused-ignore]
        # A default that is no JSON is left out of the schema, and a title that repeats the name of a field, too.
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    return Generator


class AnswerReader:
    """Reads answers to an adapted schema as answers to the original, `schema`.

    Lists of pairs become maps again, where `pairs`; those of a `partial` answer may lack keys and values. A null for an
    optional property that cannot be null counts as absent; models send that without being told, too.
    """

    def __init__(self, schema: Schema, *, partial: bool = False, pairs: bool = True) -> None:
        self._root = schema
        self._partial = partial
        self._pairs = pairs
        # By identity: all schemas are parts of the root, or of what is kept here.
        self._known: dict[int, list[dict[str, Any]]] = {}

    def read(self, value: Any) -> Any:
        """Return the answer as one to the original schema."""
        return self._read(value, self._root)

    def _read(self, value: Any, schema: Any) -> Any:
        if not isinstance(value, (dict, list)):
            return value
        variants = self._variants(schema)
        if value == []:
            # No pairs, rather than none of them.
            variants = sorted(variants, key=lambda each: each.get("type") != "array")
        flat = (
            variants[0] if len(variants) == 1 else next((each for each in variants if self._may_be(value, each)), _ANY)
        )
        if self._are_pairs(value, flat):
            value = {pair["key"]: pair["value"] for pair in value if len(pair) == 2}
        if isinstance(value, dict):
            return self._object(value, flat)
        prefix, items = flat.get("prefixItems", ()), flat.get("items", _ANY)
        return [self._read(item, prefix[i] if i < len(prefix) else items) for i, item in enumerate(value)]

    def _object(self, value: dict[str, Any], flat: Schema) -> dict[str, Any]:
        properties, required = flat.get("properties", _ANY), flat.get("required", ())
        others: Any = flat.get("additionalProperties") or next(iter(flat.get("patternProperties", _ANY).values()), _ANY)
        read: dict[str, Any] = {}
        for name, item in value.items():
            schema = properties.get(name, others)
            if item is not None or name not in properties or name in required or self._allows_null(schema):
                read[name] = self._read(item, schema)
        return read

    def _variants(self, schema: Any) -> list[dict[str, Any]]:
        """Return the schemas that a schema leaves the choice of: itself where it is no union."""
        known = self._known.get(id(schema))
        if known is None:
            known = self._known[id(schema)] = list(_variants(schema, self._root))
        return known

    def _may_be(self, value: Any, flat: Schema) -> bool:
        """Return whether a value, or what has come of it, looks like one of a schema: its type, names and constants."""
        if self._are_pairs(value, flat):
            return True
        kind = kind_of(value)
        known = flat.get("type", kind)
        kinds = [known] if isinstance(known, str) else known
        if kind not in kinds and not (kind == "integer" and "number" in kinds):
            return False
        if flat.get("const", value) != value or value not in flat.get("enum", (value,)):
            return False
        if not isinstance(value, dict) or is_map(flat):
            return True
        properties, required = flat.get("properties", _ANY), flat.get("required", ())
        if not flat.get("additionalProperties") and not value.keys() <= properties.keys():
            return False
        return all(
            any(each.get("const", value[name]) == value[name] for each in self._variants(properties[name]))
            for name in value.keys() & properties.keys()
            if value[name] is not None or name in required
        )

    def _are_pairs(self, value: Any, flat: Schema) -> bool:
        """Return whether a value is the list of pairs that a map was sent as."""
        if not self._pairs or not isinstance(value, list) or flat.get("type") != "object" or not is_map(flat):
            return False
        return all(
            isinstance(pair, dict)
            and (pair.keys() <= _PAIR if self._partial else pair.keys() == _PAIR)
            and isinstance(pair.get("key"), (str, int, float, NoneType))
            for pair in value
        )

    def _allows_null(self, schema: Any) -> bool:
        return any(self._may_be(None, each) for each in self._variants(schema))


def _variants(schema: Any, root: Schema, seen: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    flat = flattened(schema, root, seen)
    variants = flat.get("anyOf") or flat.get("oneOf")
    if not variants or "properties" in flat:
        yield flat
        return
    seen |= {*references(schema)}
    for variant in variants:
        yield from _variants(variant, root, seen)
