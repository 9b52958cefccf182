"""Where the table of an encoding is, and what counts with it: verified, offline.

Imports errors, locks and token_pieces; http_library and network for a download alone.

A table is a file of OpenAI's that lists the tokens of an encoding. It is looked for in this order, and used only if
its SHA-256 is the published one:

1. the directory that the caller names (`directory=`, or `LLMKIT_TIKTOKEN_DIR`): the file under its own name
   (`o200k_base.tiktoken`) or under tiktoken's (the SHA-1 of its address);
2. the package `toktok-rs` (the extra `tokens`), which holds o200k_base and cl100k_base: it stands before tiktoken's
   cache because it counts the same in an eighth of the time. The one difference is Unicode: it takes the letters that
   Unicode 17 added for letters, tiktoken 0.14 takes them for symbols;
3. tiktoken's cache: `TIKTOKEN_CACHE_DIR`, `DATA_GYM_CACHE_DIR`, or `data-gym-cache` in the temporary directory.

tiktoken counts with the tables of 1 and 3. Nothing here touches the network but `install_tables`: tiktoken itself
would download a table that it does not find, so it is only ever given one. Before 0.13 it takes time with the square of
the text for one letter repeated: an older one is used all the same, with a warning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import LLMProviderConfigurationError, LLMProviderConnectionError
from .locks import ProcessLock
from .token_pieces import BLANK_BYTES, LONG_RUN, is_long_blank, pieces

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

__all__ = [
    "ENCODINGS",
    "LONGEST_TOKEN",
    "Counter",
    "Progress",
    "encoding_named",
    "install_tables",
    "load_counter",
    "loaded_counter",
]

Counter = Callable[[str], int]
"""Counts the tokens of a text; lone surrogates raise UnicodeEncodeError, or count as U+FFFD."""

Progress = Callable[[str, int, int | None], None]
"""Told of a table that arrives: its name, the bytes so far, and the bytes in all, None where that is not known."""

LONGEST_TOKEN = 128
"""The bytes of the longest token of every table here: no text has fewer tokens than its bytes divided by this."""

TABLES_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/"
MAXIMUM_TABLE_BYTES = 16 * 1024 * 1024


class Table(NamedTuple):
    """A table: the hash of its file, and how a text is cut before its pieces are looked up in it."""

    sha256: str
    pattern: str


# The patterns match what those of tiktoken's `openai_public.py` match. Here the alternatives stand in a group, without
# possessive quantifiers (which change nothing), so that one automaton reads them: that takes a fifth less than to try
# one by one, as tiktoken's make the engine do. Only what looks ahead stands outside.
_GPT_2 = r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$)|\s+(?!\S)|\s"
_CL100K = (
    r"(?:'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+$|\s*[\r\n])"
    r"|\s+(?!\S)|\s"
)
_O200K = (
    r"(?:[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+)|\s+(?!\S)|\s+"
)
_TABLES = {
    "o200k_base": Table("446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d", _O200K),
    "cl100k_base": Table("223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7", _CL100K),
    "p50k_base": Table("94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069", _GPT_2),
    "r50k_base": Table("306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", _GPT_2),
}

ENCODINGS = {name: name for name in _TABLES} | {
    "o200k_harmony": "o200k_base",
    "p50k_edit": "p50k_base",
    "gpt2": "r50k_base",
}
"""The table of each encoding. Those that share one differ in their special tokens alone, which no user's text has."""


def encoding_named(name: str) -> str:
    """Return `name`; raises LLMProviderConfigurationError if there is no such encoding."""
    if not isinstance(name, str) or name not in ENCODINGS:
        raise LLMProviderConfigurationError(f"there is no encoding {name!r}; there are {', '.join(sorted(ENCODINGS))}")
    return name


_lock = ProcessLock()
_counters: dict[tuple[str, str | os.PathLike[str] | None], Counter | None] = {}


def load_counter(encoding: str, directory: str | os.PathLike[str] | None = None) -> Counter | None:
    """Return what counts the tokens of an encoding, or None where there is no table; never touches the network.

    The first call for a table takes 0.2 to 0.3 s, half of it and more with the interpreter lock held, in whichever
    thread (the libraries build their tables so): call it before an event loop starts. Later calls return the same
    counter, or None again, until `install_tables` was called; the environment is read by the first.
    Raises LLMProviderConfigurationError if `directory` is no path.
    """
    try:
        return _counters[encoding, directory]
    except (KeyError, TypeError):
        key = ENCODINGS[encoding], _path(directory)
    with _lock:
        if key not in _counters:
            _counters[key] = _find_counter(key[0], key[1] or os.environ.get("LLMKIT_TIKTOKEN_DIR"))
        # Found at once from now on, by the other names of the encoding as well.
        return _counters.setdefault((encoding, key[1]), _counters[key])


def loaded_counter(encoding: str, directory: str | os.PathLike[str] | None = None) -> Counter | None:
    """Return the counter if `load_counter` has loaded it already, else None."""
    return _counters.get((ENCODINGS[encoding], _path(directory)))


def _path(directory: object) -> str | None:
    try:
        return None if directory is None else os.fsdecode(directory)  # type: ignore[arg-type]
    except TypeError:
        raise LLMProviderConfigurationError(
            f"directory must be a path of the folder with the tables, not {type(directory).__name__}"
        ) from None


def _find_counter(table: str, named: str | None) -> Counter | None:
    sources: tuple[Callable[[], Counter | None], ...] = (
        lambda: _tiktoken_counter(table, named),
        lambda: _toktok_counter(table),
        lambda: _tiktoken_counter(table, _tiktoken_cache()),
    )
    return next((counter for source in sources if (counter := source()) is not None), None)


def _tiktoken_cache() -> str | None:
    """Return tiktoken's own directory (its `load.py`).

    None where its cache is switched off by an empty name, and where no temporary directory can be written.
    """
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return os.environ[variable] or None
    import tempfile

    try:
        return os.path.join(tempfile.gettempdir(), "data-gym-cache")
    except OSError:
        return None


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
    # `batch_count` costs 28 µs more a call; `truncate` counts the whole text whatever it keeps, without a thread pool.
    everything = 2**62

    def count(text: str) -> int:
        number: int = truncate(text, everything, table)[1]
        return number

    return count


_MANY = 200_000
"""The characters of a piece: a tiktoken without buffers holds the interpreter lock, some ms, to list its tokens."""
_SHORT = 256
"""The characters up to which such a list costs less than a buffer, of `_TOKEN_BYTES` a token."""
_TOKEN_BYTES = 4


def _tiktoken_counter(table: str, directory: str | None) -> Counter | None:
    if not directory:
        return None
    data = _read_table(table, directory)
    if data is None:
        return None
    try:
        import tiktoken  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    from binascii import a2b_base64

    if tuple(map(int, tiktoken.__version__.split(".")[:2])) < (0, 13):
        _warn("tiktoken %s takes minutes for a megabyte of one letter; install 0.13 or newer", tiktoken.__version__)
    ranks = {a2b_base64(token): int(rank) for token, _, rank in (line.partition(b" ") for line in data.splitlines())}
    pattern = _TABLES[table].pattern
    # No special token is ever allowed; without any, the core would look for the empty one, everywhere.
    special = {"<|endoftext|>": max(ranks.values()) + 1}
    encoding = tiktoken.Encoding(table, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    ranks.clear()  # tiktoken's core has its own copy; this one would hold 25 MB
    # Without tiktoken's wrapper where that can be: it takes 1 % of the time, for surrogates that are seen to elsewhere.
    core: Any = getattr(encoding, "_core_bpe", encoding)
    encode: Callable[[str], list[int]] = core.encode_ordinary
    count_in_buffer = _buffer_counter(core)

    @cache
    def encode_blank() -> Callable[[str], list[int]]:
        # For a piece that the regex engine is not to see: a run of white space is one match, and has no other tokens.
        blanks = [token for token in encoding.token_byte_values() if not token.strip(BLANK_BYTES)]
        ranks = {token: encoding.encode_single_token(token) for token in blanks}
        name = f"{table}, white space"
        blank = tiktoken.Encoding(name, pat_str=r"\s++", mergeable_ranks=ranks, special_tokens={})
        encode_all: Callable[[str], list[int]] = blank.encode_ordinary
        return encode_all

    def count(text: str) -> int:
        if len(text) <= _SHORT:
            return len(encode(text))
        if len(text) <= LONG_RUN:
            return count_in_buffer(text)
        cut = pieces(text, table, _MANY)
        return sum(
            len(encode_blank()(piece)) if is_long_blank(piece, table) else count_in_buffer(piece) for piece in cut
        )

    return count


def _buffer_counter(core: Any) -> Counter:
    """Return what counts the tokens in a buffer, where tiktoken has that: to make a list of them takes 5 % more."""
    encode_to_buffer = getattr(core, "encode_to_tiktoken_buffer", None)
    if encode_to_buffer is None:
        return lambda text: len(core.encode_ordinary(text))
    allowed_special: set[str] = set()
    return lambda text: memoryview(encode_to_buffer(text, allowed_special)).nbytes // _TOKEN_BYTES


def _read_table(table: str, directory: str) -> bytes | None:
    """Return the table's bytes from a directory, or None if it is not there or not as published."""
    from hashlib import sha256

    for name in _file_names(table):
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                data = file.read(MAXIMUM_TABLE_BYTES)
        except (OSError, ValueError):
            continue
        if sha256(data).hexdigest() == _TABLES[table].sha256:
            return data
        _warn("%s is damaged and not used: its SHA-256 is not that of %s", path, table)
    return None


def _warn(message: str, *arguments: object) -> None:
    from logging import getLogger

    getLogger(__name__).warning(message, *arguments)


def _file_names(table: str) -> tuple[str, str]:
    from hashlib import sha1

    file_name = f"{table}.tiktoken"
    return file_name, sha1((TABLES_ADDRESS + file_name).encode(), usedforsecurity=False).hexdigest()


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
    called as a table arrives; what it raises ends the installation.

    Raises LLMProviderConfigurationError for an unknown encoding, a directory that cannot be written, and a proxy or
    certificates of the environment that cannot be used; LLMProviderConnectionError if a table cannot be had or is not
    the published one.
    """
    from pathlib import Path

    place = _path(directory) or os.environ.get("LLMKIT_TIKTOKEN_DIR") or _tiktoken_cache()
    if not place:
        raise LLMProviderConfigurationError(
            "name a directory for the tables: TIKTOKEN_CACHE_DIR is empty, or there is no temporary directory"
        )
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

    from .http_library import network_errors

    url = f"{address.rstrip('/')}/{table}.tiktoken"
    data = bytearray()
    try:
        with (
            nullcontext(http_client) if http_client else _client(url) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            length = response.headers.get("content-length", "")
            known = length.isdecimal() and "content-encoding" not in response.headers
            for chunk in response.iter_bytes():
                data += chunk
                if progress:
                    progress(table, len(data), int(length) if known else None)
                if len(data) > MAXIMUM_TABLE_BYTES:
                    break
    except network_errors() as error:
        raise LLMProviderConnectionError(f"{url} cannot be had: {error}") from error
    if sha256(data).hexdigest() != _TABLES[table].sha256:
        raise LLMProviderConnectionError(f"{url} is not the published table {table}: its SHA-256 is another")
    return bytes(data)


def _client(url: str) -> httpx.Client:
    """Return a client for a download, of the library that is used."""
    from .http_library import httpx
    from .network import environment_proxy, proxy_error, shared_tls_context

    parsed = httpx.URL(url)
    proxy = environment_proxy(parsed.scheme, parsed.host, parsed.port)
    context = shared_tls_context(httpx.create_ssl_context)
    try:
        return httpx.Client(timeout=60, follow_redirects=True, trust_env=False, proxy=proxy, verify=context)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise proxy_error(parsed.scheme, proxy or "", error) from None


def _write(path: Path, data: bytes) -> None:
    """Write a file so that no reader ever sees half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LLMProviderConfigurationError(f"the table cannot be written to {path}: {reason}") from error
