"""JSON in and out, strictly as RFC 8259 has it. Imports errors only."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, TypeVar

from .errors import LLMProviderBadRequestError, type_with_article

__all__ = [
    "DEEPEST",
    "WORTH_LOADING",
    "decode_finite",
    "decode_json",
    "encode_json",
    "fast_decoder_pays",
    "json_decoder",
    "lenient_decode",
]


DEEPEST: Final = 200
"""The most levels of objects and lists that JSON may have: pydantic-core's decoder takes no more."""

WORTH_LOADING: Final = 256
"""After so many texts it pays to load a faster decoder: a short script is done before."""


def json_decoder(decoded: int = 0, max_depth: int = DEEPEST) -> Callable[[str | bytes], Any]:
    """Return the decoder to go on with after `decoded` texts: the standard library's, a faster one after many.

    A faster one is taken from the start where it is loaded anyway: msgspec's (the extra `fast`), else pydantic-core's.
    Each raises ValueError for what is no JSON, NaN, infinity, invalid UTF-8, a lone surrogate, and more than
    `max_depth` levels of nesting.
    """
    if fast_decoder_pays(decoded):
        return _fast_decoder(max_depth)
    return functools.partial(_standard_decode, max_depth=max_depth)


def fast_decoder_pays(decoded: int) -> bool:
    """Return whether `json_decoder` gives a faster decoder than the standard library's after `decoded` texts."""
    return decoded >= WORTH_LOADING or bool(sys.modules.keys() & {"msgspec", "pydantic_core"})


@functools.cache
def _fast_decoder(max_depth: int) -> Callable[[str | bytes], Any]:
    for decoder in (_msgspec_decoder, _pydantic_decoder):
        with contextlib.suppress(ImportError):
            return decoder(max_depth)
    return functools.partial(_standard_decode, max_depth=max_depth)


def _msgspec_decoder(max_depth: int) -> Callable[[str | bytes], Any]:
    import msgspec  # type: ignore[import-not-found, unused-ignore]

    if not issubclass(msgspec.DecodeError, ValueError):
        # So it is before 0.21; to convert the error would cost each event.
        raise ImportError("msgspec is too old")
    decode_text = msgspec.json.Decoder().decode

    def decode(data: str | bytes) -> Any:
        try:
            return decode_text(_not_too_deep(data, max_depth))
        except RecursionError:
            raise _too_deep(max_depth) from None

    return decode


def _pydantic_decoder(max_depth: int) -> Callable[[str | bytes], Any]:
    from pydantic_core import from_json  # type: ignore[import-not-found, unused-ignore]

    # A partial with keywords takes three times as long to call as a function.
    def decode(data: str | bytes) -> Any:
        try:
            return from_json(data, allow_inf_nan=False)
        except TypeError:
            raise ValueError("half a surrogate pair in JSON text") from None
        except ValueError as error:
            raise (_too_deep(max_depth) if "recursion limit" in str(error) else error) from None

    # The decoder's own limit costs nothing.
    return decode if max_depth >= DEEPEST else lambda data: decode(_not_too_deep(data, max_depth))


def decode_json(data: str | bytes, max_depth: int = DEEPEST) -> Any:
    """Return the value of a JSON text, a byte order mark aside; raises ValueError where it is none."""
    text = data.removeprefix("\ufeff") if isinstance(data, str) else data.removeprefix(b"\xef\xbb\xbf")
    return json_decoder(max_depth=max_depth)(text)


def decode_finite(text: str) -> Any:
    """Return the value of a JSON text without numbers that are infinity as a float (`1e999`); raises ValueError.

    What is checked, called with or sent on must not hold them. To look for them costs too much for every event.
    """
    value = decode_json(text)
    if _LARGE.search(text):
        for place, number in _leaves(value):
            if number in (math.inf, -math.inf):
                raise ValueError(f"{place} is a number too large for a float")
    return value


_LARGE: Final = re.compile(r"\d(?:[eE]\+?\d{3}|\d{308})")


def lenient_decode(text: str, max_depth: int = DEEPEST) -> Any:
    r"""Return the value of a JSON text that may hold half a surrogate pair (`"\ud83d"`); raises ValueError.

    Services cut text between the two escapes of an emoji; whoever joins the deltas joins the halves.
    """
    try:
        return _STANDARD.decode(_not_too_deep(text, max_depth))
    except RecursionError:
        raise _too_deep(max_depth) from None


Text = TypeVar("Text", bound=str | bytes)


def _not_too_deep(text: Text, max_depth: int) -> Text:
    """Return a JSON text as it is; raises ValueError for one with too many levels.

    Before it is decoded, since a decoder that comes near the interpreter's limit of recursion leaves nothing to what
    the garbage collector calls in the middle of it.
    """
    # Each level takes two brackets: hardly any event is long enough, or has enough of them, to be looked at.
    if len(text) > 2 * max_depth and _opened(text) > max_depth:
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKETS)
        if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth:
            raise _too_deep(max_depth)
    return text


def _opened(text: str | bytes) -> int:
    return text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")


_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _STEPS)


def _too_deep(max_depth: int) -> ValueError:
    return ValueError(f"it is nested in more than {max_depth} levels; max_json_depth sets the limit")


def _standard_decode(data: str | bytes, max_depth: int = DEEPEST) -> Any:
    text = data if isinstance(data, str) else data.decode()
    value = lenient_decode(text, max_depth)
    # Halves of surrogate pairs, escaped or not, are the one thing that json.loads lets through.
    if ("\\u" in text or not text.isascii()) and next(_surrogates(value), None):
        raise ValueError("half a surrogate pair in JSON text")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_STANDARD: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def encode_json(value: Any, name: str = "") -> bytes:
    """Return the JSON text of a request body, or of its part `name`, as compact UTF-8; any mapping is an object.

    Raises LLMProviderBadRequestError, naming the place, for text that has no UTF-8 form (half a surrogate
    pair), for NaN and infinity, and for objects that are not JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_mapping)
        return text.encode()
    except UnicodeEncodeError:
        place, position = next(_surrogates(value, name))
        raise LLMProviderBadRequestError(
            f"{place} holds half a surrogate pair at character {position}, which is no text; "
            "repair it, e.g. with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        # A circle has no place, and no end.
        leaves = () if isinstance(error, RecursionError) or "ircular" in str(error) else _leaves(value, name)
        faults = (f"{place} is {_shown(leaf)}" for place, leaf in leaves if not _is_json(leaf))
        told = next(faults, str(error))
        raise LLMProviderBadRequestError(f"the request cannot be written as JSON: {told}") from None


def _mapping(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type_with_article(value)} is not JSON")


def _is_json(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, (str, int)) or (isinstance(leaf, float) and math.isfinite(leaf))


def _shown(leaf: Any) -> str:
    return repr(leaf) if isinstance(leaf, float) else type_with_article(leaf)


def _surrogates(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the place and position of each half surrogate pair in a JSON value, however deep it is."""
    for place, leaf in _leaves(value, name):
        if isinstance(leaf, str):
            try:
                leaf.encode()
            except UnicodeEncodeError as error:
                yield place, error.start


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the place of each key, and of each value that is neither object nor list, with it, however deep it is."""
    pending = [(name, value)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, Mapping):
            for key, item in reversed(list(value.items())):
                shown = str(key) if str(key).isprintable() else "(a key)"
                pending += [(f"{place}.{shown}", item), (f"a key of {place.lstrip('.') or 'the body'}", key)]
        elif isinstance(value, (list, tuple)) and not place.startswith("a key of "):
            pending += [(f"{place}[{position}]", item) for position, item in enumerate(value)][::-1]
        else:
            yield place.lstrip(".") or ("the text" if isinstance(value, str) else "the value"), value
