"""Python functions that a model may call: what they take, and calling them. Imports errors and checked."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, Final

from .checked import CheckedType, schema_errors
from .errors import LLMProviderBadRequestError

__all__ = ["PythonFunction", "python_function", "read_docstring"]


def python_function(function: Callable[..., Any]) -> PythonFunction:
    """Return a function as a tool; what was made of one lately is kept."""
    try:
        return _cached(function)
    except TypeError:  # it has no hash
        return PythonFunction(function)


@functools.lru_cache(maxsize=128)
def _cached(function: Callable[..., Any]) -> PythonFunction:
    return PythonFunction(function)


class PythonFunction:
    """A function as a tool: `name`, `description`, and in `parameters` the JSON schema of its arguments.

    The types come from the annotations, the descriptions from the docstring (Google style or reST), or from pydantic's
    `Annotated[int, Field(description=…, ge=1)]`. What a `functools.partial` has fixed is no parameter.

    Raises LLMProviderBadRequestError, naming function and parameter, for what cannot be described.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        inner = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        code = inner if inspect.isroutine(inner) else type(inner).__call__
        self.name = str(getattr(inner, "__name__", type(inner).__name__))
        # What a wrapper that is no coroutine function itself returns is one's coroutine.
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(code))
        self._function = function
        self._names: dict[str, str] = {}
        self._positional: list[str] = []
        self._always: set[str] = set()
        self.description, told = read_docstring(inspect.getdoc(inner if code is inner else code) or "")
        self._type = CheckedType(self._model(code), f"the function {self.name}")
        self.parameters = self._type.schema
        self.parameters.pop("title", None)
        for name, description in told.items():
            if name in self.parameters["properties"]:
                self.parameters["properties"][name].setdefault("description", description)

    def bound(self, arguments: Mapping[str, Any], *, adapted: bool = False) -> Callable[[], Any]:
        """Return what calls the function with a model's arguments; raises ValueError, naming what is wrong.

        `adapted`: they were asked for in a service's dialect.
        """
        model = self._type.value(arguments, adapted=adapted)
        values = {name: getattr(model, field) for field, name in self._names.items()}
        given = self._always | {self._names[field] for field in model.model_fields_set}
        keywords = {name: values[name] for name in given if name not in self._positional}
        return functools.partial(self._function, *(values[name] for name in self._positional), **keywords)

    def _model(self, code: Callable[..., Any]) -> Any:
        """Return a pydantic model of the parameters.

        Its fields have names of their own: a parameter may be called as a model's field must not be.
        """
        place = f"the function {self.name}"
        with schema_errors(place):
            from pydantic import ConfigDict, Field, create_model  # type: ignore[import-not-found, unused-ignore]
            from pydantic.fields import FieldInfo  # type: ignore[import-not-found, unused-ignore]
        try:
            hints = typing.get_type_hints(code, include_extras=True)
        except NameError as error:
            raise LLMProviderBadRequestError(f"{place} has an annotation that means nothing: {error}") from None
        fixed = self._function.keywords if isinstance(self._function, functools.partial) else {}
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(self._function).parameters.values():
            if parameter.name in fixed:
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                shown = parameter.replace(annotation=parameter.empty)
                raise LLMProviderBadRequestError(f"{place} takes {shown}; a tool has named parameters only")
            if parameter.name not in hints:
                raise LLMProviderBadRequestError(f"{place} has no type for {parameter.name}; annotate it")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                self._positional.append(parameter.name)
            field = f"parameter_{len(fields)}"
            self._names[field] = parameter.name
            default = ... if parameter.default is parameter.empty else parameter.default
            if isinstance(default, FieldInfo):
                # Its own default is not the one that the function would take.
                self._always.add(parameter.name)
                names = dict.fromkeys(("alias", "validation_alias", "serialization_alias"), parameter.name)
                made = FieldInfo.merge_field_infos(default, **names)
            else:
                made = Field(default, alias=parameter.name)
            fields[field] = (hints[parameter.name], made)
        with schema_errors(place):
            return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)


_SECTION: Final = re.compile(
    r"^(Args|Arguments|Parameters|Params|Keyword Args|Returns?|Yields?|Raises|Examples?|Notes?):[ \t]*$", re.M
)
_PARAMETER_SECTIONS: Final = frozenset({"Args", "Arguments", "Parameters", "Params", "Keyword Args"})
_GOOGLE_ENTRY: Final = re.compile(r"\*{0,2}(\w+)[ \t]*(?:\(.*?\))?[ \t]*:[ \t]*(.*)", re.S)
_REST_FIELD: Final = re.compile(r"^:(\w+)(?:[ \t]+([^:\n]*))?:((?:.*\n?)(?:(?:[ \t]+.*)?\n?)*)", re.M)
_REST_PARAMETERS: Final = frozenset({"param", "parameter", "arg", "argument", "key", "keyword"})


def read_docstring(text: str) -> tuple[str | None, dict[str, str]]:
    """Return what a docstring says before its sections, None for nothing, and of each parameter.

    Parameters stand in a section `Args:` (Google style), or as `:param name: …` (reST).
    """
    told: dict[str, str] = {}
    sections = [*_SECTION.finditer(text)]
    fields = [*_REST_FIELD.finditer(text)]
    ends = [section.start() for section in sections[1:]]
    for section, end in zip_longest(sections, ends):
        if section[1] in _PARAMETER_SECTIONS:
            told |= _google_entries(text[section.end() : end])
    for field in fields:
        names = (field[2] or "").split()
        if field[1] in _REST_PARAMETERS and names:
            told[names[-1].lstrip("*")] = " ".join(field[3].split())
    first = min((found.start() for found in [*sections, *fields]), default=None)
    return text[:first].strip() or None, {name: description for name, description in told.items() if description}


def _google_entries(section: str) -> dict[str, str]:
    """Return name → description of the entries of a section; each begins at the indentation of the first."""
    lines = [line for line in section.splitlines() if line.strip()]
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    if not indent:
        return {}
    body = section[: found.start()] if (found := re.search(r"^\S", section, re.M)) else section
    entries = [_GOOGLE_ENTRY.match(entry) for entry in re.split(rf"^[ \t]{{{indent}}}(?=\S)", body, flags=re.M)]
    return {entry[1]: " ".join(entry[2].split()) for entry in entries if entry}
