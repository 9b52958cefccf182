"""How many tokens a text or a conversation has: exact for OpenAI's models, a stated estimate for others.

Counting is offline (`token_tables` says where the tables come from), takes time in proportion to the text, and treats
`<|endoftext|>` and its like as the plain text that they are in a prompt. A lone surrogate counts as U+FFFD, which is
what tiktoken does. A limit is decided from the length of the text where that settles it, without any table.

An estimate, for a model whose tokenizer is not public and for a machine without tables, comes from the bytes of the
text by kind (`_WEIGHTS`), times a factor of the model's family. Its errors are in the docstring of `count_tokens`.

Depends on errors, token_models, token_pieces, token_tables and conversation; tiktoken and toktok are imported when a
text is counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from .conversation import Conversation, media_rules
from .errors import LLMProviderConfigurationError
from .token_models import TokenModel, model_named
from .token_pieces import pieces
from .token_tables import ENCODINGS, LONGEST_TOKEN, Counter, encoding_named, load_counter, loaded_counter

if TYPE_CHECKING:
    import os
    from typing import Self

__all__ = [
    "MessageTokenCounter",
    "TokenCount",
    "count_message_tokens",
    "count_tokens",
    "estimate_text",
    "limit_by_length",
    "load_encoding",
    "within_limit",
]


class TokenCount(int):
    """A number of tokens: an int that knows whether it is exact, and by which encoding it was counted.

    `exact` is False for an estimate, and for a count by an encoding that the model may not have. `encoding` is None
    where nothing was counted, only estimated from the text's bytes.
    """

    exact: bool
    encoding: str | None

    def __new__(cls, value: int = 0, exact: bool = True, encoding: str | None = None) -> Self:
        count = int.__new__(cls, value)
        count.exact = exact
        count.encoding = encoding
        return count

    def __repr__(self) -> str:
        return f"TokenCount({int(self)}, exact={self.exact}, encoding={self.encoding!r})"

    __str__ = int.__repr__


def count_tokens(
    text: str, model: str, *, encoding: str | None = None, directory: str | os.PathLike[str] | None = None
) -> TokenCount:
    """Return how many tokens a text has for a model; never touches the network.

    `encoding` names the encoding where the model's name does not tell it ("o200k_base"). `directory` holds tables;
    None: see `token_tables`. A model that nothing is known of counts by o200k_base, not exact.

    The error of an estimate, median and 90th percentile: against o200k_base 6 % and 17 % on English, 4 % and 13 % on
    code, 5 % and 11 % on JSON, 9 % and 23 % over 96 languages (worst: Amharic, two thirds too few). Against the
    usage recorded for conversations of 20 tokens and more: Claude 6 % and 32 % (12 of them), Gemini 12 % and 24 %
    (13), other families 4 to 31 % at the median, few and short. The factors were fitted to the same records. A
    service that puts a system message of its own before the conversation is missed by the whole of it.

    Raises LLMProviderConfigurationError if `text` or `model` is not a str, or there is no such encoding.
    """
    try:
        last_encoding, last_directory, counter, small = _ways[model]
    except (KeyError, TypeError):
        return _first_count(text, model, encoding, directory)
    if encoding is not last_encoding or directory is not last_directory:
        return _first_count(text, model, encoding, directory)
    try:
        number = counter(text)
    except UnicodeEncodeError:
        number = counter(_well_formed(text))
    except TypeError:
        _check("text", text, str)
        raise
    return small[number] if number < _SMALL else TokenCount(number, small[0].exact, small[0].encoding)


_SMALL = 1024
_ways: dict[str, tuple[str | None, str | os.PathLike[str] | None, Counter, tuple[TokenCount, ...]]] = {}
"""How `count_tokens` last counted for a model, and by which arguments: finding out takes as long as a short text."""


@lru_cache(maxsize=32)
def _small_counts(exact: bool, encoding: str) -> tuple[TokenCount, ...]:
    """Return the counts below `_SMALL`, which are made once, as Python's own small ints are."""
    return tuple(TokenCount(number, exact, encoding) for number in range(_SMALL))


def _first_count(text: str, model: str, encoding: str | None, directory: str | os.PathLike[str] | None) -> TokenCount:
    _check("text", text, str)
    token_model = _token_model(model, encoding)
    name = token_model.encoding
    counter = load_counter(name, directory) if name else None
    if counter is None or name is None:
        return TokenCount(estimate_text(text, token_model.factor), False)
    if len(_ways) >= 256:
        _ways.clear()
    _ways[model] = encoding, directory, counter, _small_counts(token_model.exact, name)
    return TokenCount(_count(text, counter), token_model.exact, name)


def within_limit(
    text: str, limit: int, model: str, *, encoding: str | None = None, directory: str | os.PathLike[str] | None = None
) -> bool:
    """Return whether a text has at most `limit` tokens: `count_tokens(...) <= limit`, at less cost.

    Where the text's length settles it, nothing is loaded or counted; else it is counted piece by piece until the
    rest no longer matters. Raises as `count_tokens` does, and if `limit` is not an int.
    """
    settled = limit_by_length(text, limit, model, encoding=encoding)
    if settled is not None:
        return settled
    token_model = _token_model(model, encoding)
    counter = load_counter(token_model.encoding, directory) if token_model.encoding else None
    if counter is None or token_model.encoding is None:
        return estimate_text(text, token_model.factor) <= limit
    try:
        return _counts_within(text, limit, token_model.encoding, counter)
    except UnicodeEncodeError:
        return _counts_within(_well_formed(text), limit, token_model.encoding, counter)


def limit_by_length(text: str, limit: int, model: str, *, encoding: str | None = None) -> bool | None:
    """Return what `within_limit` does if the text's length tells, or None if it has to be counted.

    A token is at least one byte of UTF-8 and at most `LONGEST_TOKEN`. Takes microseconds for a text of any length,
    but that of a text that is not ASCII and near the limit is measured. Raises as `within_limit` does.
    """
    _check("text", text, str)
    _check("limit", limit, int)
    token_model = _token_model(model, encoding)
    length = len(text)
    if length * 4 <= limit or (length <= limit and _bytes_of(text) <= limit):
        return True
    return False if token_model.encoding is not None and length > limit * LONGEST_TOKEN else None


# Characters, by whether they are counted: 2 ms of tiktoken's time, and 8 ms where all is one letter.
_AT_ONCE = {True: 20_000, False: 100_000}


def load_encoding(
    model: str, *, encoding: str | None = None, directory: str | os.PathLike[str] | None = None
) -> str | None:
    """Load the table that a model's tokens are counted with, and return its encoding; None if there is no table.

    Worth a call before an event loop starts: it takes 0.2 to 0.3 s, and holds the interpreter lock, and with it every
    loop, for 0.12 s (tiktoken) or 0.3 s (toktok-rs) at a stretch, in whichever thread. Raises as `count_tokens` does.
    """
    name = _token_model(model, encoding).encoding
    return name if name and load_counter(name, directory) else None


def count_message_tokens(
    messages: Sequence[Mapping[str, Any]],
    model: str,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    response_format: Mapping[str, Any] | None = None,
    encoding: str | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> TokenCount:
    """Return how many tokens a conversation costs as input; all of it has the form of Chat Completions.

    Texts, roles and names are counted by OpenAI's recipe (its cookbook, "How to count tokens with tiktoken") and
    are exact for its models: all 53 recorded prompts of that kind agree, reasoning models included. Not exact:
    tools (the cookbook's recipe; the usage recorded for 39 prompts lies between 4 tokens less and 24 more), calls of
    tools, images (the vendors' documented formulas; 1024 × 1024 where the size is not in the message), audio (10
    tokens a second, 32 for Gemini; MP3 without a header of its length by its bit rate, other formats as if they had
    128 kbit/s), files, and every conversation with a model of another vendor. A part of an unknown kind is
    estimated, never refused. A JSON schema as `response_format` costs its JSON and 4 tokens: within 8 of what OpenAI
    charged for 8 of them (of 45 to 154 tokens), within 14 for 7 in the Responses API; xAI, gpt-oss and Ollama charged
    8 to 80 more, Claude 600.

    Raises LLMProviderConfigurationError if `messages` or `tools` is no sequence of mappings, or `response_format` no
    mapping; else as `count_tokens`.
    """
    counter = MessageTokenCounter(model, encoding=encoding, directory=directory)
    return counter.count(messages, tools=tools, response_format=response_format)


class MessageTokenCounter:
    """Counts conversations with one model, and remembers the counts of their texts.

    A conversation that has grown by a message costs the new message. The texts are held for that, at most
    `_REMEMBERED_CHARACTERS`; neither repr nor pickle shows them. It may be shared by threads. Raises as
    `count_message_tokens` does.
    """

    def __init__(
        self, model: str, *, encoding: str | None = None, directory: str | os.PathLike[str] | None = None
    ) -> None:
        self._arguments = (model, encoding, directory)
        self._model = _token_model(model, encoding)
        self._media = media_rules(model)
        self._counts: dict[str, int] = {}
        self._remembered = 0

    def __repr__(self) -> str:
        return f"MessageTokenCounter({self._arguments[0]!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        model, encoding, directory = self._arguments
        return partial(type(self), model, encoding=encoding, directory=directory), ()

    def count(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> TokenCount:
        """Return how many tokens a conversation costs as input; see `count_message_tokens`."""
        conversation = Conversation(messages, tools, self._model, self._media, response_format)
        counter = self._counter()
        total = conversation.tokens + sum(map(partial(self._count, counter), conversation.texts))
        if counter is None:
            return TokenCount(total, False)
        return TokenCount(total, self._model.exact and conversation.exact, self._model.encoding)

    def within_limit(
        self,
        messages: Sequence[Mapping[str, Any]],
        limit: int,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> bool:
        """Return whether a conversation costs at most `limit` tokens, without counting where lengths settle it."""
        _check("limit", limit, int)
        conversation = Conversation(messages, tools, self._model, self._media, response_format)
        settled = self._settled(conversation, limit)
        return self._counts_within(conversation, limit) if settled is None else settled

    def _counts_within(self, conversation: Conversation, limit: int) -> bool:
        rest, counter = limit - conversation.tokens, self._counter()
        for text in conversation.texts:
            rest -= self._count(counter, text)
            if rest < 0:
                return False
        return True

    def within_limit_at_once(
        self,
        messages: Sequence[Mapping[str, Any]],
        limit: int,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> bool | None:
        """Return what `within_limit` does if that, and `count` after it, take an event loop a few milliseconds at most.

        None: it belongs in a worker thread. So does a conversation that is far too long: its count takes a while.
        """
        _check("limit", limit, int)
        conversation = Conversation(messages, tools, self._model, self._media, response_format)
        settled = self._settled(conversation, limit)
        if settled:
            return True
        name, directory = self._model.encoding, self._arguments[2]
        if name and loaded_counter(name, directory) is None:
            return None
        # To see whether a text is remembered takes a millisecond for a megabyte.
        few = sum(map(len, conversation.texts)) <= _LONGEST_REMEMBERED
        if not few or sum(len(text) for text in conversation.texts if text not in self._counts) > _AT_ONCE[bool(name)]:
            return None
        return self._counts_within(conversation, limit) if settled is None else settled

    def _counter(self) -> Counter | None:
        return load_counter(self._model.encoding, self._arguments[2]) if self._model.encoding else None

    def _settled(self, conversation: Conversation, limit: int) -> bool | None:
        """Return whether a conversation is within the limit if the length of its texts tells."""
        rest = limit - conversation.tokens
        if sum(len(text) * (1 if text.isascii() else 4) for text in conversation.texts) <= rest:
            return True
        too_long = self._model.encoding and sum(map(len, conversation.texts)) > rest * LONGEST_TOKEN
        return False if rest < 0 or too_long else None

    def _count(self, counter: Counter | None, text: str) -> int:
        known = self._counts.get(text) if len(text) <= _LONGEST_REMEMBERED else None
        if known is not None:
            return known
        count = _count(text, counter) if counter else estimate_text(text, self._model.factor)
        if len(text) <= _LONGEST_REMEMBERED:
            self._remembered += len(text)
            if self._remembered > _REMEMBERED_CHARACTERS:
                self._counts, self._remembered = {}, len(text)
            self._counts[text] = count
        return count


_REMEMBERED_CHARACTERS = 8_000_000
_LONGEST_REMEMBERED = 2_000_000


def _check(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise LLMProviderConfigurationError(f"{name} must be of type {kind.__name__}, not {type(value).__name__}")


def _token_model(model: str, encoding: str | None) -> TokenModel:
    try:
        return _known_model(model, encoding)
    except TypeError:  # it has no hash
        _check("model", model, str)
        encoding_named("" if encoding is None else encoding)
        raise


@lru_cache(maxsize=256)
def _known_model(model: str, encoding: str | None) -> TokenModel:
    _check("model", model, str)
    token_model = model_named(model)
    if encoding is None:
        return token_model
    return token_model._replace(encoding=encoding_named(encoding), exact=True, factor=1.0)


def _count(text: str, counter: Counter) -> int:
    try:
        return counter(text)
    except UnicodeEncodeError:
        return counter(_well_formed(text))


def _well_formed(text: str) -> str:
    """Join pairs of surrogates, and put U+FFFD for those left alone, as tiktoken does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_WHOLE = 65_536


def _counts_within(text: str, limit: int, encoding: str, counter: Counter) -> bool:
    if len(text) <= min(5 * limit, _WHOLE):
        # It fits, most likely, and a cut text takes some hundredths more.
        return counter(text) <= limit
    rest = _bytes_of(text)
    for piece in pieces(text, ENCODINGS[encoding], size=max(1_024, min(_WHOLE // 2, 4 * limit))):
        limit -= counter(piece)
        rest -= _bytes_of(piece)
        if limit < 0 or rest > limit * LONGEST_TOKEN:
            return False
        if rest <= limit:
            return True
    return limit >= 0


def _bytes_of(text: str) -> int:
    """Return the length of a text in UTF-8; a lone surrogate has the three bytes of U+FFFD."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# Tokens of o200k_base per ASCII character, and per character by the first byte of its UTF-8: fitted to prose, code,
# JSON, CSV, emoji and the user interface of Django in 96 languages.
_WEIGHTS: tuple[tuple[float, Sequence[int]], ...] = (
    (0.22, range(0x61, 0x7B)),  # a-z
    (0.45, range(0x41, 0x5B)),  # A-Z
    (0.8, range(0x30, 0x3A)),  # 0-9
    (0.07, b" "),
    (1.2, b"\t\n\r"),
    (0.3, b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    (1.3, range(0xC2, 0xCE)),  # Latin with accents
    (0.38, range(0xCE, 0xE0)),  # Greek, Cyrillic, Armenian, Hebrew, Arabic
    (0.4, (0xE0, 0xE1)),  # scripts of India and South-East Asia, Georgian
    (1.5, (0xE2,)),  # typographic marks, arrows, symbols
    (0.66, range(0xE3, 0xEA)),  # Chinese, Japanese
    (0.63, range(0xEA, 0xEE)),  # Korean
    (1.0, (0xEE, 0xEF, *range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)),
    (2.2, range(0xF0, 0xF5)),  # emoji, rare characters
    (0.0, range(0x80, 0xC0)),
)
_KINDS = {byte: kind for kind, (_, some) in enumerate(_WEIGHTS) for byte in some}
_KIND_OF_BYTE = bytes(_KINDS.get(byte, 0) for byte in range(256))
# Base64, hexadecimal and the like, which have no words in them.
_CODED = re.compile(rb"[A-Za-z0-9+/=]{48,}+")
_CODED_WEIGHT = 0.6


def estimate_text(text: str, factor: float = 1.0) -> int:
    """Return about how many tokens a text has: those of o200k_base, times `factor`; at most its bytes in UTF-8."""
    tokens, length = 0.0, 0
    # In slices, between which the interpreter lock can go to another thread.
    for begin in range(0, len(text), _SLICE):
        data = text[begin : begin + _SLICE].encode("utf-8", "replace")
        coded = b"".join(run for word in data.split() if len(word) >= 48 for run in _CODED.findall(word))
        tokens += _weigh(data) - _weigh(coded) + _CODED_WEIGHT * len(coded)
        length += len(data)
    return min(math.ceil(tokens * factor), length)


_SLICE = 32_768


def _weigh(data: bytes) -> float:
    kinds = data.translate(_KIND_OF_BYTE)
    return sum(weight * kinds.count(kind) for kind, (weight, _) in enumerate(_WEIGHTS))
