"""What all tests share: the three worlds, nothing of this machine's environment, and a small table of tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiktoken
from tiktoken_ext import openai_public

from llmkit import token_tables, tokens

from .tables import RANKS, TABLE, TABLES


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test under both event loops."""
    backend: str = request.param
    return backend


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the keys, proxies, defaults and the `.env` file of whoever runs the tests."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_proxy", "_PROXY", "_BASE_URL")) or name.startswith("DEFAULT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no table to be found, no network, and nothing loaded before or after."""
    monkeypatch.setitem(sys.modules, "toktok", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "no-cache"))
    monkeypatch.delenv("LLMKIT_TIKTOKEN_DIR", raising=False)
    monkeypatch.setattr(token_tables, "_counters", {})
    monkeypatch.setattr(tokens, "_ways", {})


@pytest.fixture(scope="module")
def small_tables() -> Iterator[None]:
    """Take the small table for every published one."""
    with pytest.MonkeyPatch.context() as patch:
        small = {name: table._replace(sha256=sha256(TABLE).hexdigest()) for name, table in token_tables._TABLES.items()}
        patch.setattr(token_tables, "_TABLES", small)
        yield


@pytest.fixture(scope="module")
def directory(small_tables: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all the tables under their own names."""
    folder = tmp_path_factory.mktemp("tables")
    for name in TABLES:
        (folder / f"{name}.tiktoken").write_bytes(TABLE)
    return folder


@pytest.fixture(scope="module")
def peers() -> dict[str, tiktoken.Encoding]:
    """Return tiktoken's own encodings over the small table, with its own patterns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: dict(RANKS))
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: dict(RANKS))
        parts = {name: make() for name, make in openai_public.ENCODING_CONSTRUCTORS.items()}
    return {
        name: tiktoken.Encoding(name, pat_str=part["pat_str"], mergeable_ranks=RANKS, special_tokens={})
        for name, part in parts.items()
    }


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count a token for every four bytes, and return the texts that were counted."""
    texts: list[str] = []

    def count(text: str) -> int:
        texts.append(text)
        return (len(text.encode()) + 3) // 4

    monkeypatch.setattr(token_tables, "_counters", {(table, None): count for table in TABLES})
    return texts


@pytest.fixture
def published_tables(no_tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let toktok-rs be found, with the published tables."""
    monkeypatch.delitem(sys.modules, "toktok")
    if find_spec("toktok") is None:
        pytest.skip("toktok-rs is not installed")
