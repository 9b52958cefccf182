"""Token counts of texts, and limits: exact, bounded, and as cheap as the question allows."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken import model as tiktoken_models

from llmkit import token_pieces, token_tables, tokens
from llmkit.errors import LLMProviderConfigurationError
from llmkit.token_models import model_named
from llmkit.token_pieces import pieces
from llmkit.token_tables import ENCODINGS, install_tables, load_counter
from llmkit.tokens import (
    MessageTokenCounter,
    TokenCount,
    count_message_tokens,
    count_tokens,
    estimate_text,
    limit_by_length,
    load_encoding,
    within_limit,
)

from .tables import AWKWARD, TABLES

pytestmark = pytest.mark.usefixtures("no_tables")
PROJECT = Path(token_tables.__file__).parents[1]


def test_models_have_the_encodings_that_tiktoken_says() -> None:
    names = tiktoken_models.MODEL_TO_ENCODING | {
        f"{prefix}x": encoding for prefix, encoding in tiktoken_models.MODEL_PREFIX_TO_ENCODING.items()
    }
    assert {name: model_named(name).encoding for name in names} == names
    assert all(model_named(name).exact for name in names)


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("openai/gpt-4o-mini", "o200k_base", True),
        ("GPT-5.6-sol", "o200k_base", True),
        ("ft:gpt-4o:acme::id", "o200k_base", True),
        ("ft:davinci-002:acme", "cl100k_base", True),
        ("openai.gpt-oss-120b-1:0", "o200k_harmony", True),
        ("openai-gpt-4.1", "o200k_base", True),
        ("gpt-6", "o200k_base", False),
        ("my-deployment", "o200k_base", False),
        ("", "o200k_base", False),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", None, False),
        ("claude-haiku-4-5@20251001", None, False),
        ("gemini-2.5-flash", None, False),
        ("meta-llama/Llama-3.3-70B-Instruct", None, False),
    ],
)
def test_other_names_of_models(model: str, encoding: str | None, exact: bool) -> None:
    assert model_named(model)[0] == encoding
    assert model_named(model).exact is exact


def test_a_count_is_an_int_that_knows_where_it_comes_from() -> None:
    count = TokenCount(7, False, "o200k_base")
    assert (count, count + 1, str(count), f"{count}", json.dumps(count)) == (7, 8, "7", "7", "7")
    assert repr(count) == "TokenCount(7, exact=False, encoding='o200k_base')"
    for again in (pickle.loads(pickle.dumps(count)), copy.deepcopy(count)):
        assert (again, again.exact, again.encoding) == (7, False, "o200k_base")


@pytest.mark.parametrize(
    "call",
    [
        lambda: count_tokens(None, "gpt-4o"),  # type: ignore[arg-type]
        lambda: count_tokens(b"text", "gpt-4o"),  # type: ignore[arg-type]
        lambda: count_tokens("text", None),  # type: ignore[arg-type]
        lambda: count_tokens("text", ["gpt-4o"]),  # type: ignore[arg-type]
        lambda: count_tokens("text", "gpt-4o", encoding="o201k_base"),
        lambda: count_tokens("text", "gpt-4o", encoding=["o201k_base"]),  # type: ignore[arg-type]
        lambda: count_tokens("text", "gpt-4o", directory=3),  # type: ignore[arg-type]
        lambda: within_limit(3, 3, "gpt-4o"),  # type: ignore[arg-type]
        lambda: within_limit("text", "3", "gpt-4o"),  # type: ignore[arg-type]
        lambda: count_message_tokens("text", "gpt-4o"),  # type: ignore[arg-type]
        lambda: count_message_tokens({"role": "user"}, "gpt-4o"),  # type: ignore[arg-type]
        lambda: count_message_tokens(["text"], "gpt-4o"),  # type: ignore[list-item]
        lambda: count_message_tokens([], "gpt-4o", tools=["text"]),  # type: ignore[list-item]
        lambda: count_message_tokens([], "gpt-4o", response_format="json"),  # type: ignore[arg-type]
        lambda: MessageTokenCounter("gpt-4o").within_limit([], None),  # type: ignore[arg-type]
        lambda: MessageTokenCounter("gpt-4o").within_limit_at_once([], "3"),  # type: ignore[arg-type]
        lambda: install_tables("/nowhere", ["o201k_base"]),
    ],
)
def test_bad_input_is_a_clear_error(call: Callable[[], object]) -> None:
    with pytest.raises(
        LLMProviderConfigurationError, match=r"must be|there is no encoding .*'o201k_base'.*; there are"
    ):
        call()


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("short", [-1, 256])
@settings(max_examples=150, deadline=None)
@given(text=AWKWARD)
@example(text="<|endoftext|>a<|endoftext|>")
def test_counts_are_those_of_tiktoken(
    encoding: str, directory: Path, peers: dict[str, tiktoken.Encoding], short: int, text: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_tables, "_SHORT", short)  # whether the tokens go into a list or into a buffer
        count = count_tokens(text, "", encoding=encoding, directory=directory)
    assert count == len(peers[encoding].encode_ordinary(text))


def test_a_tiktoken_without_buffers_counts_by_its_lists() -> None:
    assert token_tables._buffer_counter(SimpleNamespace(encode_ordinary=list))("abc") == 3


@pytest.mark.parametrize("encoding", TABLES)
@settings(max_examples=150, deadline=None)
@given(text=AWKWARD, size=st.integers(1, 20), run=st.integers(2, 12))
@example(text="cb's " * 9, size=1, run=2)
@example(text="a?\n/b " * 9, size=1, run=2)
@example(text="a\n" + "\t" * 40, size=1, run=2)
@example(text="a\n" + "\t" * 40 + "b", size=1, run=2)
def test_pieces_are_cut_where_the_pattern_cuts(
    encoding: str, directory: Path, peers: dict[str, tiktoken.Encoding], text: str, size: int, run: int
) -> None:
    count = load_counter(encoding, directory) or pytest.fail("no table")
    with pytest.MonkeyPatch.context() as patch:
        for module in (token_pieces, token_tables):
            patch.setattr(module, "LONG_RUN", run)
        cut = list(pieces(text, encoding, size))
        assert "".join(cut) == text
        assert sum(map(count, cut)) == len(peers[encoding].encode_ordinary(text))


@pytest.mark.parametrize("encoding", TABLES)
@pytest.mark.parametrize(("before", "after"), [("", "b"), ("a\n\n", "!"), ("!", "\nb"), ("\n", ""), ("a", "")])
def test_a_million_spaces_are_counted(
    encoding: str, before: str, after: str, directory: Path, peers: dict[str, tiktoken.Encoding]
) -> None:
    # tiktoken panics on a million; in the small table each eight of them are one token.
    short, long = (f"{before}{' ' * length}{after}" for length in (80, 1_000_000))
    expected = len(peers[encoding].encode_ordinary(short)) + (1_000_000 - 80) // 8
    assert count_tokens(long, "", encoding=encoding, directory=directory) == expected


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "unit", ["word ", "line\n", "中文。", "カナ、", "ab9/", "x+", "1,", "f(x);", "한글!", " " * 20_000 + "x"]
)
def test_a_long_text_is_never_counted_in_one_go(unit: str, table: str) -> None:
    cut = list(pieces(unit * (200_000 // len(unit)), table, 8_192))
    assert max(map(len, cut)) <= max(8_192 + len(unit), 20_000)


@pytest.mark.parametrize("unit", [*"aA\n!'1🧠\u0301/", "'s", "<|endoftext|>", "\ud800", "\ud83d\ude00 "])
def test_a_megabyte_of_one_thing_is_counted(unit: str, directory: Path) -> None:
    text = unit * (250_000 // len(unit))
    count = count_tokens(text, "gpt-4o", directory=directory)
    assert 0 < count <= len(text.encode("utf-8", "surrogatepass"))
    assert 0 < count_tokens(text, "claude-sonnet-4-5") <= len(text.encode("utf-8", "surrogatepass"))


def test_special_tokens_in_a_text_are_text(directory: Path) -> None:
    assert count_tokens("<|endoftext|>", "gpt-4o", directory=directory) == 13


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("\ud800", "\ufffd"),
        ("a \udc00 b", "a \ufffd b"),
        ("\ud800\ud800x", "\ufffd\ufffdx"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),
    ],
    ids=ascii,
)
def test_a_lone_surrogate_counts_as_the_replacement_character(text: str, same: str, directory: Path) -> None:
    assert count_tokens(text, "gpt-4o", directory=directory) == count_tokens(same, "gpt-4o", directory=directory)
    assert within_limit(
        text * 999, count_tokens(same, "gpt-4o", directory=directory) * 999, "gpt-4o", directory=directory
    )


@settings(max_examples=200, deadline=None)
@given(text=st.text(), factor=st.floats(0.5, 2))
def test_an_estimate_lies_between_nothing_and_the_bytes(text: str, factor: float) -> None:
    assert min(1, len(text)) <= estimate_text(text, factor) <= len(text.encode("utf-8", "replace"))


@settings(max_examples=300, deadline=None)
@given(
    text=st.tuples(AWKWARD, st.integers(1, 40)).map(lambda pair: pair[0] * pair[1]),
    limit=st.integers(-3, 1500),
    model=st.sampled_from(["gpt-4o", "gpt-4", "davinci", "claude-sonnet-4-5", "my-own"]),
)
def test_a_limit_is_what_the_count_says(directory: Path, text: str, limit: int, model: str) -> None:
    fits = count_tokens(text, model, directory=directory) <= limit
    assert within_limit(text, limit, model, directory=directory) is fits
    assert limit_by_length(text, limit, model) in (None, fits)


def test_a_limit_that_the_length_settles_loads_nothing() -> None:
    code = (
        "import sys; from llmkit.tokens import within_limit as fits\n"
        "assert fits('a' * 8000, 8000, 'gpt-4o') and fits('é' * 4000, 8000, 'gpt-4o')\n"
        "assert not fits('a' * 1_100_000, 8000, 'gpt-4o')\n"
        "print([name for name in ('tiktoken', 'toktok', 'regex', 'httpx', 'httpx2', 'hashlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_counting_stops_at_the_limit(counted: list[str]) -> None:
    assert not within_limit("some words " * 10_000, 2_000, "gpt-4o")
    assert sum(map(len, counted)) < 20_000
    counted.clear()
    assert within_limit("some words " * 10_000 + "中", 100_000, "gpt-4o")
    assert sum(map(len, counted)) < 70_000


def test_a_text_that_likely_fits_is_counted_whole(counted: list[str]) -> None:
    assert within_limit("some words " * 3_000, 8_250, "gpt-4o")
    assert not within_limit("some words " * 3_000, 8_249, "gpt-4o")
    assert list(map(len, counted)) == [33_000, 33_000]


class Unhashable(os.PathLike[str]):
    """A path that cannot be a key."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_what_was_found_for_a_model_is_found_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (directory, str(directory), Unhashable(directory)):
        assert [count_tokens(" ab ab", "gpt-4o", directory=place) for _ in range(3)] == [2, 2, 2]
    for encoding in ("cl100k_base", None, "r50k_base", "r50k_base"):
        count = count_tokens(" ab ab", "gpt-4o", encoding=encoding, directory=directory)
        assert count.encoding == (encoding or "o200k_base")
        assert count_tokens(" ab ab", "gpt-4o", encoding=encoding).encoding is None
    for number in range(300):
        assert count_tokens(" ab", f"gpt-4o-{number}", directory=directory).exact
    assert len(tokens._ways) <= 256
    monkeypatch.setattr(tokens, "load_counter", None)
    count = count_tokens(" ab\ud800", "gpt-4o-299", directory=directory)
    assert (count, count.exact, count.encoding) == (4, True, "o200k_base")
    for number in (1023, 1024, 3000):
        many = count_tokens(" ab" * number, "gpt-4o-299", directory=directory)
        assert (many, many.exact, many.encoding) == (number, True, "o200k_base")
    with pytest.raises(LLMProviderConfigurationError, match="text must be of type str, not int"):
        count_tokens(5, "gpt-4o-299", directory=directory)  # type: ignore[arg-type]


def test_the_encoding_that_was_loaded_is_told(directory: Path) -> None:
    assert load_encoding("gpt-4o", directory=directory) == "o200k_base"
    assert load_encoding("claude-sonnet-4-5", directory=directory) is None
