"""Tables of tokens: where they are found, that they are the published ones, and how they are installed."""

from __future__ import annotations

import base64
import gzip
import http.server
import importlib.util
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmkit import network, token_tables, tokens
from llmkit.errors import LLMProviderConfigurationError, LLMProviderConnectionError
from llmkit.token_tables import install_tables, load_counter
from llmkit.tokens import (
    count_message_tokens,
    count_tokens,
    load_encoding,
)

from .tables import AWKWARD, TABLE

pytestmark = pytest.mark.usefixtures("no_tables")


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables be looked for again, as in a new process."""
    monkeypatch.setattr(token_tables, "_counters", {})
    monkeypatch.setattr(tokens, "_ways", {})


def test_without_tables_a_count_is_an_estimate_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("counting must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    count = count_tokens("The quick brown fox jumps over the lazy dog.", "gpt-4o")
    assert (count.exact, count.encoding) == (False, None)
    assert 8 <= count <= 12
    assert load_encoding("gpt-4o") is None
    assert not count_message_tokens([{"role": "user", "content": "Hello"}], "gpt-4o").exact


def test_tables_are_found_in_the_place_named_then_in_tiktokens_cache(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert (
        repr(count_tokens(" ab", "gpt-4o", directory=directory)) == "TokenCount(1, exact=True, encoding='o200k_base')"
    )
    assert load_encoding("gpt-4o") is None
    forget(monkeypatch)
    monkeypatch.setenv("LLMKIT_TIKTOKEN_DIR", str(directory))
    assert count_tokens(" ab", "gpt-4o").exact
    forget(monkeypatch)
    monkeypatch.delenv("LLMKIT_TIKTOKEN_DIR")
    address = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    (tmp_path / sha1(address.encode()).hexdigest()).write_bytes(TABLE)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert count_tokens(" ab", "gpt-4").exact
    assert not count_tokens(" ab", "gpt-4o").exact
    forget(monkeypatch)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert not count_tokens(" ab", "gpt-4").exact


@pytest.mark.usefixtures("small_tables")
def test_a_damaged_table_is_never_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "o200k_base.tiktoken"
    path.write_bytes(TABLE[:-1])
    assert not count_tokens("text", "gpt-4o", directory=tmp_path).exact
    assert caplog.messages == [f"{path} is damaged and not used: its SHA-256 is not that of o200k_base"]


@pytest.mark.usefixtures("small_tables")
def test_a_whole_table_beside_a_damaged_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "o200k_base.tiktoken").write_bytes(TABLE[:-1])
    address = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    (tmp_path / sha1(address.encode()).hexdigest()).write_bytes(TABLE)
    assert count_tokens("text", "gpt-4o", directory=tmp_path).exact


def test_a_place_that_cannot_be_read_holds_no_table(tmp_path: Path) -> None:
    (tmp_path / "o200k_base.tiktoken").mkdir()
    places: list[Any] = [tmp_path, "a\0b", b"nowhere", ""]
    assert not any(count_tokens("text", "gpt-4o", directory=place).exact for place in places)


def test_without_a_temporary_directory_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    assert not count_tokens("text", "gpt-4o").exact
    with pytest.raises(LLMProviderConfigurationError, match=r"name a directory .* there is no temporary directory"):
        install_tables()


def test_a_table_is_loaded_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    found = token_tables._read_table

    def reads(table: str, place: str) -> bytes | None:
        read.append(table)
        return found(table, place)

    monkeypatch.setattr(token_tables, "_read_table", reads)
    with ThreadPoolExecutor(8) as threads:
        names = ["o200k_base", "o200k_harmony"] * 8
        counters = set(threads.map(lambda name: load_counter(name, str(directory)), names))
    assert (len(counters), read) == (1, ["o200k_base"])


def test_a_tiktoken_that_one_letter_slows_down_is_told_of(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_encoding("gpt-4o", directory=directory)
    assert not caplog.messages
    monkeypatch.setattr(tiktoken, "__version__", "0.12.0")
    assert load_encoding("gpt-4", directory=directory)
    assert caplog.messages == ["tiktoken 0.12.0 takes minutes for a megabyte of one letter; install 0.13 or newer"]


def test_another_package_of_the_same_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toktok", type(sys)("toktok"))
    assert load_encoding("gpt-4o") is None


@pytest.fixture
def mirror(small_tables: None) -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """Serve files on loopback: the address, what there is, and what was asked for."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = files.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", files, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_tables_are_installed_and_found(mirror: tuple[str, dict[str, bytes], list[str]], tmp_path: Path) -> None:
    address, files, asked = mirror
    files["/o200k_base.tiktoken"] = TABLE
    folder = tmp_path / "made" / "for it"
    assert not count_tokens(" ab", "gpt-4o", directory=folder).exact
    installed = install_tables(folder, ["o200k_harmony", "o200k_base"], address=address)
    assert {name: path.read_bytes() for name, path in installed.items()} == {"o200k_base": TABLE}
    assert count_tokens(" ab", "gpt-4o", directory=folder).exact
    assert install_tables(folder, ["o200k_base"], address=address) == installed
    assert asked == ["/o200k_base.tiktoken"]
    assert list(folder.iterdir()) == list(installed.values())


def test_the_installation_tells_how_far_it_is(mirror: tuple[str, dict[str, bytes], list[str]], tmp_path: Path) -> None:
    address, files, _ = mirror
    files["/o200k_base.tiktoken"] = TABLE
    told: list[tuple[str, int, int | None]] = []
    install_tables(tmp_path, ["o200k_base"], address=address, progress=lambda *step: told.append(step))
    assert told[-1] == ("o200k_base", len(TABLE), len(TABLE))

    def packed(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=gzip.compress(TABLE), headers={"content-encoding": "gzip"})

    with httpx.Client(transport=httpx.MockTransport(packed)) as client:
        install_tables(tmp_path / "packed", ["r50k_base"], http_client=client, progress=lambda *step: told.append(step))
    assert told[-1] == ("r50k_base", len(TABLE), None)


@pytest.mark.parametrize(("data", "message"), [(TABLE + b"x", "SHA-256 is another"), (None, "cannot be had")])
def test_a_wrong_table_is_not_installed(
    mirror: tuple[str, dict[str, bytes], list[str]], tmp_path: Path, data: bytes | None, message: str
) -> None:
    address, files, _ = mirror
    if data is not None:
        files["/o200k_base.tiktoken"] = data
    with pytest.raises(LLMProviderConnectionError, match=message):
        install_tables(tmp_path, ["o200k_base"], address=address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_client_of_either_library_that_cannot_connect(tmp_path: Path, library: str) -> None:
    made: Any = pytest.importorskip(library)

    def refuse(request: Any) -> Any:
        raise made.ConnectError("refused", request=request)

    with made.Client(transport=made.MockTransport(refuse)) as client:
        with pytest.raises(LLMProviderConnectionError, match="cannot be had: refused"):
            install_tables(tmp_path, ["o200k_base"], http_client=client)


@pytest.mark.parametrize("address", ["http://[bad/", "/tables", "ftp://127.0.0.1/"])
def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(LLMProviderConnectionError, match="cannot be had"):
        install_tables(tmp_path, ["o200k_base"], address=address)


def test_tables_are_installed_by_the_library_that_is_used(
    mirror: tuple[str, dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, files, _ = mirror
    files["/o200k_base.tiktoken"] = TABLE
    for name in ("httpx", "httpx2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert list(install_tables(tmp_path, ["o200k_base"], address=address)) == ["o200k_base"]


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HTTPS_PROXY", "socks5://user:pa55word@127.0.0.1:9", "HTTPS_PROXY is 'socks5://…@127.0.0.1:9'; for SOCKS a"),
        ("ALL_PROXY", "foo://user:pa55word@127.0.0.1:9", "ALL_PROXY is 'foo://…@127.0.0.1:9'; it must be like http"),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE is '/nowhere.pem', but the certificates cannot be read"),
    ],
)
def test_variables_that_leave_no_way_to_the_tables_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(variable, value)
    with pytest.raises(LLMProviderConfigurationError) as caught:
        install_tables(tmp_path, ["o200k_base"], address="https://tables.invalid/")
    assert str(caught.value).startswith(told)


def test_tables_come_through_the_proxy_of_the_environment(
    mirror: tuple[str, dict[str, bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, files, asked = mirror
    files["http://tables.invalid/o200k_base.tiktoken"] = TABLE
    monkeypatch.setenv("HTTP_PROXY", proxy)
    install_tables(tmp_path, ["o200k_base"], address="http://tables.invalid/")
    assert asked == ["http://tables.invalid/o200k_base.tiktoken"]


def test_a_directory_that_cannot_be_written(mirror: tuple[str, dict[str, bytes], list[str]], tmp_path: Path) -> None:
    address, files, _ = mirror
    files["/o200k_base.tiktoken"] = TABLE
    (tmp_path / "file").write_text("")
    with pytest.raises(LLMProviderConfigurationError, match="cannot be written"):
        install_tables(tmp_path / "file", ["o200k_base"], address=address)


# The letters, marks and digits that Unicode 17 added: toktok-rs takes them for what they are, tiktoken for symbols.
UNICODE_17 = [0x88F, 0xC5C, 0xCDC, *range(0x1ACF, 0x1AEC), *range(0xA7CE, 0xA7D5), 0xA7F1, *range(0x10940, 0x1095A)]
UNICODE_17 += [*range(0x10EC5, 0x10EC8), 0x10EFA, 0x10EFB, *range(0x11B60, 0x11B68), *range(0x11DB0, 0x11DEA)]
UNICODE_17 += [*range(0x16EA0, 0x16ED4), *range(0x16FF2, 0x16FF7), *range(0x187F8, 0x18800), *range(0x18D09, 0x18D1F)]
UNICODE_17 += [*range(0x18D80, 0x18DF3), *range(0x1E6C0, 0x1E700), *range(0x2B73A, 0x2B740), *range(0x2CEA2, 0x2CEAE)]
UNICODE_17 += range(0x323B0, 0x3347A)
KNOWN_TO_BOTH = "".join(map(chr, sorted({*range(0x40000), 0x10FFFD} - {*UNICODE_17, *range(0xD800, 0xE000)})))


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
@pytest.mark.usefixtures("published_tables")
def test_the_tables_of_the_extra_are_the_published_ones_and_count_the_same(
    encoding: str, peers: dict[str, tiktoken.Encoding]
) -> None:
    tokens = importlib.import_module("toktok")._encoding(encoding).token_byte_values()
    size = {"o200k_base": 199_998, "cl100k_base": 100_256}[encoding]
    table = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens[:size]))
    published = {
        "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    }
    assert sha256(table).hexdigest() == published[encoding]
    assert max(map(len, tokens[:size])) == token_tables.LONGEST_TOKEN
    ranks = {token: rank for rank, token in enumerate(tokens[:size])}
    pattern = peers[encoding]._pat_str
    peer = tiktoken.Encoding(encoding, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    ours = load_counter(encoding) or pytest.fail("no table")

    @settings(max_examples=500, deadline=None, database=None)
    @given(text=AWKWARD | st.text(st.characters(codec="utf-8")))
    @example(text="\u1ae0's")
    def same(text: str) -> None:
        text = text.translate(dict.fromkeys(UNICODE_17))
        assert ours(text) == len(peer.encode_ordinary(text))
        assert count_tokens(text, "", encoding=encoding).encoding == encoding

    same()
    for begin in range(0, len(KNOWN_TO_BOTH), 256):
        text = "".join(f"a{each}B{each} {each}1{each}!{each}\n" for each in KNOWN_TO_BOTH[begin : begin + 256])
        assert ours(text) == len(peer.encode_ordinary(text)), hex(ord(KNOWN_TO_BOTH[begin]))
    for text in ("hello " * 20_000, "\n" * 50_000, " " * 50_000 + "x", "ab9/" * 20_000, "😀" * 20_000, "<|endoftext|>"):
        assert ours(text) == len(peer.encode_ordinary(text))
