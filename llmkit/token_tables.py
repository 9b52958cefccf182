"""Which encoding a model has, and where its table is: by name, verified, offline. Depends on `errors` alone.

A table is a file of OpenAI's that lists the tokens of an encoding. It is looked for in this order, and used only if
its SHA-256 is the published one:

1. the directory that the caller names (`directory=`, or `LLMKIT_TIKTOKEN_DIR`): the file under its own name
   (`o200k_base.tiktoken`) or under tiktoken's (the SHA-1 of its address);
2. the package `toktok-rs` (the extra `tokens`), which holds o200k_base and cl100k_base and is the fastest: it stands
   before tiktoken's cache because both count the same;
3. tiktoken's cache: `TIKTOKEN_CACHE_DIR`, `DATA_GYM_CACHE_DIR`, or `data-gym-cache` in the temporary directory.

tiktoken counts with the tables of 1 and 3. Nothing here touches the network but `install_tables`: tiktoken itself
would download a table that it does not find, so it is only ever given one.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from .errors import LLMProviderConfigurationError, LLMProviderConnectionError

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

__all__ = [
    "ENCODINGS",
    "LONGEST_TOKEN",
    "Overhead",
    "TokenModel",
    "encoding_named",
    "install_tables",
    "load_counter",
    "loaded_counter",
    "model_named",
    "pieces",
]

Counter = Callable[[str], int]
"""Counts the tokens of a text; lone surrogates raise UnicodeEncodeError, or count as U+FFFD."""

LONGEST_TOKEN = 128
"""The bytes of the longest token of every table here: no text has fewer tokens than its bytes divided by this."""

Progress = Callable[[str, int, int | None], None]
TABLES_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/"
MAXIMUM_TABLE_BYTES = 16 * 1024 * 1024


class Overhead(NamedTuple):
    """What a conversation costs beside its texts, in tokens.

    `reply` once; `message` for each message, its role included; `assistant` more for each of the assistant's;
    `tools` once if there are tools. `exact`: whether the service publishes it, or was found to charge just that.
    """

    reply: int
    message: int
    assistant: int = 0
    tools: int = 12
    exact: bool = False


class TokenModel(NamedTuple):
    """How a model's tokens are counted.

    `encoding` is None where the tokenizer is not public: then a text is estimated, by `factor` tokens for each that
    o200k_base is estimated to have. `exact`: whether the model is known to have the encoding.
    """

    encoding: str | None
    overhead: Overhead
    exact: bool = False
    factor: float = 1.0


# OpenAI's recipe (its cookbook, "How to count tokens with tiktoken"): 3 a message and its role, 3 for the reply.
# Its reasoning models charge 2 for the reply, those after o3-mini 2 more for each message of the assistant, and models
# that search do not charge every message (all found in the usage that they reported).
_CHAT = Overhead(reply=3, message=4, exact=True)
_FIRST_REASONING = Overhead(reply=2, message=4, exact=True)
_REASONING = _FIRST_REASONING._replace(assistant=2)
_GPT_5 = _REASONING._replace(tools=92)

_NAMES: dict[str, tuple[str, Overhead]] = {
    "o1": ("o200k_base", _FIRST_REASONING),
    "o3": ("o200k_base", _REASONING),
    **dict.fromkeys(("davinci", "curie", "babbage", "ada"), ("r50k_base", _CHAT)),
}

# The longest that a model's name begins with decides.
_PREFIXES: dict[str, tuple[str, Overhead]] = {
    "gpt-4o": ("o200k_base", _CHAT),
    "gpt-4.1": ("o200k_base", _CHAT),
    "gpt-4.5": ("o200k_base", _CHAT),
    "chatgpt-4o": ("o200k_base", _CHAT),
    "gpt-5-chat": ("o200k_base", _CHAT),
    "gpt-5": ("o200k_base", _GPT_5),
    **dict.fromkeys(("gpt-4o-search", "gpt-4o-mini-search"), ("o200k_base", _CHAT._replace(exact=False))),
    **dict.fromkeys(("o1-", "o3-mini"), ("o200k_base", _FIRST_REASONING)),
    **dict.fromkeys(("o3-", "o4-mini", "codex-mini", "computer-use"), ("o200k_base", _REASONING)),
    # Servers put a system message of their own before the conversation.
    "gpt-oss": ("o200k_harmony", Overhead(reply=66, message=4, assistant=2, tools=92)),
    # gpt-35 is what deployments on Azure are called.
    **dict.fromkeys(("gpt-3.5", "gpt-35", "gpt-4", "text-embedding-"), ("cl100k_base", _CHAT)),
    **dict.fromkeys(("davinci-002", "babbage-002"), ("cl100k_base", _CHAT)),
    **dict.fromkeys(("text-davinci-", "code-davinci-", "code-cushman-"), ("p50k_base", _CHAT)),
    **dict.fromkeys(("davinci-codex", "cushman-codex"), ("p50k_base", _CHAT)),
    **dict.fromkeys(("text-davinci-edit-", "code-davinci-edit-"), ("p50k_edit", _CHAT)),
    **dict.fromkeys(("text-davinci-001", "text-curie-", "text-babbage-", "text-ada-"), ("r50k_base", _CHAT)),
    **dict.fromkeys(("text-similarity-", "text-search-", "code-search-"), ("r50k_base", _CHAT)),
    **dict.fromkeys(("gpt-2", "gpt2"), ("gpt2", _CHAT)),
}

# Tokenizers that are not public, or not in any package needed here: fitted to the usage that services reported.
# The first that a model's name contains decides.
_CLAUDE = TokenModel(None, Overhead(reply=3, message=4, tools=320), factor=1.2)
_FAMILIES: dict[str, TokenModel] = {
    # A newer tokenizer, known from one recorded prompt.
    **dict.fromkeys(("opus-4-7", "opus-4.7", "opus-4-8", "opus-4.8"), _CLAUDE._replace(factor=1.45)),
    **dict.fromkeys(("opus-5", "sonnet-5"), _CLAUDE._replace(factor=1.45)),
    "claude": _CLAUDE,
    "gemini": TokenModel(None, Overhead(reply=0, message=0), factor=1.1),
    "gemma": TokenModel(None, Overhead(reply=5, message=5), factor=1.1),
    "deepseek": TokenModel(None, Overhead(reply=2, message=2), factor=1.05),
    "qwen": TokenModel(None, Overhead(reply=3, message=5), factor=1.05),
    "glm": TokenModel(None, Overhead(reply=4, message=2), factor=1.05),
    "grok-4": TokenModel(None, Overhead(reply=160, message=4)),
    "grok-code": TokenModel(None, Overhead(reply=190, message=4)),
    "grok": TokenModel(None, Overhead(reply=2, message=4)),
    "llama": TokenModel(None, Overhead(reply=28, message=5), factor=1.05),
    "stral": TokenModel(None, Overhead(reply=1, message=2), factor=1.05),  # mistral, ministral, codestral …
    "kimi": TokenModel(None, Overhead(reply=12, message=5)),
}

_UNKNOWN_MODEL = TokenModel("o200k_base", _CHAT._replace(exact=False))


@lru_cache(maxsize=256)
def model_named(model: str) -> TokenModel:
    """Return how the tokens of a model are counted; an unknown name gets o200k_base, not exact.

    A vendor before the name (`openai/gpt-4o`, `us.anthropic.claude-sonnet-4-5-v1:0`), `ft:` and `@version` are seen
    through. The names are those of tiktoken's `model.py`, and newer ones that the services' usage confirms.
    """
    name = model.lower().rpartition("/")[2].removeprefix("ft:").removeprefix("openai-").removeprefix("openai.")
    base = name.partition(":")[0]
    if base in _NAMES:
        return TokenModel(*_NAMES[base], exact=True)
    prefixes = [prefix for prefix in _PREFIXES if name.startswith(prefix)]
    if prefixes:
        return TokenModel(*_PREFIXES[max(prefixes, key=len)], exact=True)
    return next((family for part, family in _FAMILIES.items() if part in name), _UNKNOWN_MODEL)


class Table(NamedTuple):
    """A table: the hash of its file, and how a text is cut before its pieces are looked up in it.

    `joins_lines`: whether a run of white space is cut without regard to line breaks.
    """

    sha256: str
    pattern: str
    joins_lines: bool = False


# The patterns are those of tiktoken's `openai_public.py`. o200k_base has `\s++$` added, which changes no cut and spares
# the regex engine a state for each character of white space at the end.
_GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s++$|\s+(?!\S)|\s+"
)
_TABLES = {
    "o200k_base": Table("446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d", _O200K),
    "cl100k_base": Table("223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7", _CL100K),
    "p50k_base": Table("94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069", _GPT_2, joins_lines=True),
    "r50k_base": Table("306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", _GPT_2, joins_lines=True),
}

ENCODINGS = {name: name for name in _TABLES} | {
    "o200k_harmony": "o200k_base",
    "p50k_edit": "p50k_base",
    "gpt2": "r50k_base",
}
"""The table of each encoding. Those that share one differ in their special tokens alone, which no user's text has."""


def encoding_named(name: str) -> str:
    """Return `name`; raises LLMProviderConfigurationError if there is no such encoding."""
    if name not in ENCODINGS:
        raise LLMProviderConfigurationError(f"there is no encoding {name!r}; there are {', '.join(sorted(ENCODINGS))}")
    return name


_lock = threading.Lock()
_counters: dict[tuple[str, str | None], Counter | None] = {}


def load_counter(encoding: str, directory: str | os.PathLike[str] | None = None) -> Counter | None:
    """Return what counts the tokens of an encoding, or None where there is no table; never touches the network.

    The first call for a table takes some tenths of a second, most of it with the interpreter lock held (the
    libraries build their tables so): call it before an event loop starts. Later calls return the same counter,
    or None again, until `install_tables` was called; the environment is read by the first.
    """
    key = ENCODINGS[encoding], None if directory is None else os.fspath(directory)
    try:
        return _counters[key]
    except KeyError:
        with _lock:
            if key not in _counters:
                _counters[key] = _find_counter(key[0], key[1] or os.environ.get("LLMKIT_TIKTOKEN_DIR"))
            return _counters[key]


def loaded_counter(encoding: str, directory: str | os.PathLike[str] | None = None) -> Counter | None:
    """Return the counter if `load_counter` has loaded it already, else None."""
    return _counters.get((ENCODINGS[encoding], None if directory is None else os.fspath(directory)))


def _find_counter(table: str, named: str | None) -> Counter | None:
    sources: tuple[Callable[[], Counter | None], ...] = (
        lambda: _tiktoken_counter(table, named),
        lambda: _toktok_counter(table),
        lambda: _tiktoken_counter(table, _tiktoken_cache()),
    )
    return next((counter for source in sources if (counter := source()) is not None), None)


def _tiktoken_cache() -> str | None:
    """Return tiktoken's own directory (its `load.py`), or None where its cache is switched off by an empty name."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return os.environ[variable] or None
    import tempfile

    return os.path.join(tempfile.gettempdir(), "data-gym-cache")


def _toktok_counter(table: str) -> Counter | None:
    if table not in ("o200k_base", "cl100k_base"):
        return None
    from importlib import import_module

    try:
        # Another package has the same module name, without this function.
        truncate = import_module("toktok").truncate
        truncate("", 1, table)
    except (ImportError, AttributeError, TypeError, KeyError):
        return None
    # `batch_count` costs 14 µs more a call; `truncate` counts the whole text whatever it keeps, without a thread pool.
    everything = 2**62
    return lambda text: int(truncate(text, everything, table)[1])


def _tiktoken_counter(table: str, directory: str | None) -> Counter | None:
    if not directory:
        return None
    data = _read_table(table, directory)
    if data is None:
        return None
    try:
        import tiktoken
    except ImportError:
        return None
    from binascii import a2b_base64

    ranks = {a2b_base64(token): int(rank) for token, _, rank in (line.partition(b" ") for line in data.splitlines())}
    pattern = _TABLES[table].pattern
    encode = tiktoken.Encoding(table, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    ranks.clear()  # tiktoken's core has its own copy; this one would hold 25 MB

    def count(text: str) -> int:
        if len(text) <= _LONG_RUN:
            return len(encode(text))
        return sum(len(encode(piece)) for piece in pieces(text, table, _MANY))

    return count


def _read_table(table: str, directory: str) -> bytes | None:
    """Return the table's bytes from a directory, or None if it is not there or not as published."""
    from hashlib import sha256

    for name in _file_names(table):
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                data = file.read(MAXIMUM_TABLE_BYTES)
        except OSError:
            continue
        if sha256(data).hexdigest() == _TABLES[table].sha256:
            return data
        from logging import getLogger

        getLogger(__name__).warning("%s is damaged and not used: its SHA-256 is not that of %s", path, table)
    return None


def _file_names(table: str) -> tuple[str, str]:
    from hashlib import sha1

    file_name = f"{table}.tiktoken"
    return file_name, sha1((TABLES_ADDRESS + file_name).encode(), usedforsecurity=False).hexdigest()


# White_Space of the Unicode standard, which `\s` means in the patterns; Python's `\s` has four characters more.
_BLANKS = "\t\x0b\x0c \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SPACES = {False: _BLANKS, True: _BLANKS + "\r\n"}
_NOT_SPACE = {joins_lines: re.compile(f"[^{spaces}]") for joins_lines, spaces in _SPACES.items()}
# No pattern joins what is not white space to white space after it, but for line breaks after punctuation; and those
# that know line breaks end a piece with the last one before a word.
_CUT_AFTER = {
    False: re.compile(f"[^{_SPACES[True]}](?=[{_BLANKS}])|[\r\n](?=[^{_SPACES[True]}/])"),
    True: re.compile(f"[^{_SPACES[True]}](?=[{_SPACES[True]}])"),
}
_MANY = 400_000  # tiktoken makes a list of their tokens with the interpreter lock held: a few milliseconds
_LONG_RUN = 8_192


def pieces(text: str, encoding: str, size: int) -> Iterator[str]:
    """Cut a text where the encoding's own pattern cuts it, so that the counts of the pieces add up to its count.

    A piece has about `size` characters where the text has white space or lines; one without any is one piece. A long
    run of white space before a word is a piece of its own: tiktoken's regex engine keeps a state for each of its
    characters to give back the last one, and panics at a million. Takes time in proportion to the text.
    """
    joins_lines = _TABLES[ENCODINGS[encoding]].joins_lines
    if len(text) <= min(size, _LONG_RUN):
        yield text
        return
    begin = 0
    for start, end in _long_runs(text, joins_lines):
        yield from _between(text, begin, start, joins_lines, size)
        yield text[start : end - 1]
        begin = end - 1
    yield from _between(text, begin, len(text), joins_lines, size)


def _between(text: str, begin: int, end: int, joins_lines: bool, size: int) -> Iterator[str]:
    cut_after = _CUT_AFTER[joins_lines]
    while end - begin > size and (cut := cut_after.search(text, begin + size, end)):
        yield text[begin : cut.end()]
        begin = cut.end()
    if end > begin:
        yield text[begin:end]


def _long_runs(text: str, joins_lines: bool) -> Iterator[tuple[int, int]]:
    """Find the runs of white space that come before a word, all of `2 * _LONG_RUN` characters and some shorter.

    Looks at every `_LONG_RUN`-th character only, and around it where that is white space.
    """
    spaces, not_space = _SPACES[joins_lines], _NOT_SPACE[joins_lines]
    position = known = 0
    while (position := position + _LONG_RUN) < len(text):
        if text[position] not in spaces:
            continue
        before = text[max(known, position - _LONG_RUN) : position]
        start = position - (len(before) - len(before.rstrip(spaces)))
        word = not_space.search(text, position)
        if word is None:
            return
        position = known = word.start()
        if position - start > _LONG_RUN and word[0] not in "\r\n":
            yield start, position


def install_tables(
    directory: str | os.PathLike[str] | None = None,
    encodings: Iterable[str] = ("o200k_base", "cl100k_base"),
    *,
    address: str = TABLES_ADDRESS,
    http_client: httpx.Client | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Download the tables of encodings into a directory and return their paths; the one call that uses the network.

    `directory` None: `LLMKIT_TIKTOKEN_DIR`, else tiktoken's cache. The files have tiktoken's names, so it finds them
    too. A table that is there and whole is kept; one that was downloaded is written only if its SHA-256 is right.
    `address` is the URL of the folder that holds `o200k_base.tiktoken` and the others, for a mirror. `progress` is
    called with the table, the bytes so far and the bytes in all (None: not known) while one is downloaded.

    Raises LLMProviderConfigurationError for an unknown encoding or a directory that cannot be written,
    LLMProviderConnectionError if a table cannot be had or is not the published one.
    """
    from pathlib import Path

    place = os.fspath(directory) if directory else os.environ.get("LLMKIT_TIKTOKEN_DIR") or _tiktoken_cache()
    if not place:
        raise LLMProviderConfigurationError("name a directory for the tables: TIKTOKEN_CACHE_DIR is empty")
    installed = {}
    for table in dict.fromkeys(ENCODINGS[encoding_named(name)] for name in encodings):
        path = Path(place) / _file_names(table)[1]
        if _read_table(table, place) is None:
            _write(path, _download(table, address, http_client, progress))
        installed[table] = path if path.exists() else path.with_name(_file_names(table)[0])
    with _lock:
        _counters.clear()
    return installed


def _download(table: str, address: str, http_client: httpx.Client | None, progress: Progress | None) -> bytes:
    from contextlib import nullcontext
    from hashlib import sha256

    import httpx

    url = f"{address.rstrip('/')}/{table}.tiktoken"
    data = bytearray()
    try:
        with (
            nullcontext(http_client) if http_client else httpx.Client(timeout=60, follow_redirects=True) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            for chunk in response.iter_bytes():
                data += chunk
                if progress:
                    progress(table, len(data), int(response.headers.get("content-length", 0)) or None)
                if len(data) > MAXIMUM_TABLE_BYTES:
                    break
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LLMProviderConnectionError(f"{url} cannot be had: {error}") from error
    if sha256(data).hexdigest() != _TABLES[table].sha256:
        raise LLMProviderConnectionError(f"{url} is not the published table {table}: its SHA-256 is another")
    return bytes(data)


def _write(path: Path, data: bytes) -> None:
    """Write a file so that no reader ever sees half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        raise LLMProviderConfigurationError(f"the table cannot be written to {path}: {error.strerror}") from error
