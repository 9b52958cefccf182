"""Structured output: what an answer must be, and the object that it is.

Imports errors, codec, schema, response and checked.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from .checked import CheckedSchema, CheckedType
from .codec import decode_finite
from .errors import LLMProviderBadRequestError, LLMProviderConfigurationError, LLMProviderOutputError
from .response import LLMResponse
from .schema import AdaptedSchema, SchemaDialect, all_references, moved_root

__all__ = ["OutputFormat", "output_format", "partial_object", "schema_format", "split_format", "with_parsed"]

_DEFINITIONS = ("$defs", "definitions")


def output_format(type_: Any) -> OutputFormat:
    """Return the format that a type is; what was made of one lately is kept.

    Raises LLMProviderBadRequestError for what is no type, or has no JSON schema.
    """
    if isinstance(type_, OutputFormat):
        return type_
    if type_ is None or isinstance(type_, (str, bytes, int, float, list, tuple, set)):
        raise LLMProviderBadRequestError(
            f"response_format is {type_!r}; it must be a pydantic model or another type, or a dict like "
            "{'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}}"
        )
    try:
        return _cached(type_)
    except TypeError:  # it has no hash
        return _of_type(type_)


def split_format(response_format: Any) -> tuple[Mapping[str, Any] | None, OutputFormat | None]:
    """Return a `response_format` as the dict that is sent as it is, and as the format that a type is: one is None."""
    if response_format is None or isinstance(response_format, Mapping):
        return response_format, None
    return None, output_format(response_format)


def schema_format(schema: Mapping[str, Any], name: str = "output") -> OutputFormat:
    """Return the format that a JSON schema is; it goes wherever a type may be a `response_format`.

    Other than a dict as `response_format`, it is said in the service's dialect, and the answer is in `parsed`.
    """
    return OutputFormat(name, CheckedSchema(schema))


def _of_type(type_: Any) -> OutputFormat:
    name = getattr(type_, "__name__", "output")
    return OutputFormat(name, CheckedType(type_, f"response_format {name}"))


_cached = functools.lru_cache(maxsize=128)(_of_type)


class OutputFormat:
    """What an answer must be: of a pydantic model, a dataclass, any other type that pydantic knows, or a schema.

    `schema` is its JSON schema. Services take models only: the value of any other type, and the items of a dict,
    travel as the property "value" of an object.
    """

    def __init__(self, name: str, type_: CheckedType | CheckedSchema) -> None:
        self.name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
        self._type = type_
        self.schema = self._type.schema
        self._is_wrapped = self.schema.get("type") != "object" or "properties" not in self.schema
        if self._is_wrapped:
            root = f"{self.name}_value"
            refers_to_itself = "#" in all_references(self.schema)
            schema = moved_root(self.schema, f"#/$defs/{root}") if refers_to_itself else self.schema
            value = {key: each for key, each in schema.items() if key not in _DEFINITIONS}
            definitions = {key: each for key, each in schema.items() if key in _DEFINITIONS}
            if refers_to_itself:
                definitions["$defs"] = {**definitions.get("$defs", {}), root: value}
                value = {"$ref": f"#/$defs/{root}"}
            self.schema = {"type": "object", "properties": {"value": value}, "required": ["value"], **definitions}

    def adapted(self, dialect: SchemaDialect) -> tuple[dict[str, Any], AdaptedSchema]:
        """Return the `response_format` of Chat Completions for a dialect, and what became of the schema."""
        adapted = dialect.adapt(self.schema)
        json_schema = {"name": self.name, "schema": adapted.schema, "strict": True}
        return {"type": "json_schema", "json_schema": json_schema}, adapted

    def parsed(self, found: Any) -> Any:
        """Return the value of the type that a decoded answer is; raises ValueError, naming what is wrong."""
        # A service that ignores the schema may leave out the object around the value.
        is_wrapped = self._is_wrapped and isinstance(found, dict) and found.keys() == {"value"}
        return self._type.value(found["value"] if is_wrapped else found)

    def partial(self, found: dict[str, Any] | list[Any]) -> Any:
        """Return what a decoded, incomplete answer is so far, unchecked; None before there is anything."""
        if not self._is_wrapped:
            return self._type.read_partial(found) if isinstance(found, dict) else None
        # As in `parsed`, the object around the value may be missing.
        if isinstance(found, dict) and found.keys() <= {"value"}:
            return self._type.read_partial(found.get("value"))
        return self._type.read_partial(found)


def partial_object(text: str, format_: OutputFormat | None) -> Any:
    """Return what the beginning of a JSON text is so far, None before there is anything; nothing is checked.

    Its last string or number may be cut, and more be missing.
    """
    try:
        from pydantic_core import from_json  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LLMProviderConfigurationError(
            "an unfinished object can only be read with pydantic: `pip install pydantic`"
        ) from None
    try:
        found = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None
    if not isinstance(found, (dict, list)):
        return None
    return format_.partial(found) if format_ else found


def with_parsed(answer: LLMResponse, format_: OutputFormat | None) -> LLMResponse:
    """Return a whole answer with the object that it is in `parsed`.

    One that calls tools, or that the service has interrupted, is none yet. Raises LLMProviderOutputError, with the
    answer as `partial`, for a text that is not what was asked for; its code tells why: "refusal", "content_filter",
    "length" (cut), "empty", "invalid_json" or "schema".
    """
    if format_ is None or answer.tool_calls or answer.finish_reason == "pause":
        return answer
    try:
        found = decode_finite(answer.content)
    except ValueError as error:
        code, told = "invalid_json", f"the answer is no JSON: {error}"
    else:
        try:
            answer.parsed = format_.parsed(found)
        except ValueError as error:
            code, told = "schema", f"the answer is no {format_.name}: {error}"
        else:
            return answer
    code, told = _reason(answer) or (code, told)
    failure = LLMProviderOutputError(
        told, provider=answer.provider_type, code=code, request_id=answer.metadata.get("request_id")
    )
    failure.partial = answer
    raise failure


def _reason(answer: LLMResponse) -> tuple[str, str] | None:
    """Return code and message where more is known about a text than that it is wrong."""
    if answer.refusal:
        return "refusal", f"the model refused to answer: {answer.refusal}"
    if answer.finish_reason == "content_filter":
        return "content_filter", "the service's content filter stopped the answer"
    if answer.finish_reason == "length":
        return "length", "the answer was cut before its end (finish reason: length); raise max_tokens"
    if not answer.content.strip():
        return "empty", "the answer is empty"
    return None
