"""JSON in and out, strictly as RFC 8259 has it. Imports errors only."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from .errors import LLMProviderBadRequestError

__all__ = ["WORTH_LOADING", "decode_json", "encode_json", "json_decoder", "lenient_decode"]


WORTH_LOADING: Final = 256
"""After so many texts it pays to load a faster decoder: a short script is done before."""


def json_decoder(decoded: int = 0) -> Callable[[str | bytes], Any]:
    """Return the decoder to go on with after `decoded` texts: the standard library's, a faster one after many.

    A faster one is taken from the start where it is loaded anyway: msgspec's (the extra `fast`), else pydantic-core's.
    Each raises ValueError for what is no JSON, NaN, infinity, invalid UTF-8, a lone surrogate and deep nesting.
    """
    if decoded < WORTH_LOADING and not sys.modules.keys() & {"msgspec", "pydantic_core"}:
        return _standard_decode
    return _fast_decoder()


@functools.cache
def _fast_decoder() -> Callable[[str | bytes], Any]:
    for decoder in (_msgspec_decoder, _pydantic_decoder):
        with contextlib.suppress(ImportError):
            return decoder()
    return _standard_decode


def _msgspec_decoder() -> Callable[[str | bytes], Any]:
    import msgspec

    decode_text = msgspec.json.Decoder().decode

    def decode(data: str | bytes) -> Any:
        try:
            return decode_text(data)
        except RecursionError:
            raise ValueError("JSON is nested too deeply") from None

    return decode


def _pydantic_decoder() -> Callable[[str | bytes], Any]:
    from pydantic_core import from_json

    # A partial with keywords takes three times as long to call as a function.
    def decode(data: str | bytes) -> Any:
        try:
            return from_json(data, allow_inf_nan=False)
        except TypeError:
            raise ValueError("half a surrogate pair in JSON text") from None

    return decode


def decode_json(data: str | bytes) -> Any:
    """Return the value of a JSON text, a byte order mark aside; raises ValueError where it is none."""
    return json_decoder()(data.removeprefix("\ufeff") if isinstance(data, str) else data.removeprefix(b"\xef\xbb\xbf"))


def lenient_decode(text: str) -> Any:
    r"""Return the value of a JSON text that may hold half a surrogate pair (`"\ud83d"`); raises ValueError.

    Services cut text between the two escapes of an emoji; whoever joins the deltas joins the halves.
    """
    try:
        return _STANDARD.decode(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _standard_decode(data: str | bytes) -> Any:
    text = data if isinstance(data, str) else data.decode()
    value = lenient_decode(text)
    # Halves of surrogate pairs, escaped or not, are the one thing that json.loads lets through.
    if ("\\u" in text or not text.isascii()) and next(_surrogates(value), None):
        raise ValueError("half a surrogate pair in JSON text")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_STANDARD: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def encode_json(value: Any) -> bytes:
    """Return the JSON text of a request body, as compact UTF-8; any mapping is an object.

    Raises LLMProviderBadRequestError, naming the place, for text that has no UTF-8 form (half a surrogate
    pair), for NaN and infinity, and for objects that are not JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_mapping)
        return text.encode()
    except UnicodeEncodeError:
        place, position = next(_surrogates(value))
        raise LLMProviderBadRequestError(
            f"{place} holds half a surrogate pair at character {position}, which is no text; "
            "repair it, e.g. with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise LLMProviderBadRequestError(f"the request cannot be written as JSON: {error}") from None


def _mapping(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _surrogates(value: Any) -> Iterator[tuple[str, int]]:
    """Yield the place and position of each half surrogate pair in a JSON value, however deep it is."""
    pending = [("", value)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                yield place.lstrip(".") or "the text", error.start
        elif isinstance(value, Mapping):
            for name, item in reversed(list(value.items())):
                shown = str(name) if str(name).isprintable() else "(a key)"
                pending += [(f"{place}.{shown}", item), (f"a key of {place.lstrip('.') or 'the body'}", name)]
        elif isinstance(value, (list, tuple)):
            pending += [(f"{place}[{position}]", item) for position, item in enumerate(value)][::-1]
