"""Recordings as files: what is read is what was written, without its secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.cassette import Cassette
from llmkit.scrubbing import Scrubber

KEY = "sk-test-0123456789abcdef"
URL = "https://api.acme.test/v1/chat"
REQUEST: Any = ("POST", URL, {"authorization": f"Bearer {KEY}"}, b'{"a": 1}')


def replayed(path: Path, pieces: list[bytes]) -> list[bytes]:
    """Record a body in pieces, and return the pieces of its replay."""
    cassette = Cassette(path, "all")
    exchange = cassette.record(*REQUEST)
    exchange.status = 200
    exchange.pieces = list(pieces)
    exchange.finish()
    cassette.save()
    played = Cassette(path, "none").play(*REQUEST)
    assert played is not None
    return played.pieces


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cassettes") / "one.json"


@given(pieces=st.lists(st.binary(min_size=1) | st.text(min_size=1).map(str.encode)))
def test_any_pieces_survive_the_file(path: Path, pieces: list[bytes]) -> None:
    found, body = replayed(path, pieces), b"".join(pieces)
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if isinstance(value, (dict, list)):
        # JSON is kept as its value, in one piece.
        assert json.loads(b"".join(found)) == value
    else:
        assert found == pieces


@given(cuts=st.sets(st.integers(1, 60)))
def test_a_secret_is_found_across_cuts(path: Path, cuts: set[int]) -> None:
    body = f"data: one\n\ndata: {KEY} and more\n\ndata: two\n\n".encode()
    ends = sorted(cut for cut in {*cuts, len(body)} if cut <= len(body))
    pieces = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    found = replayed(path, pieces)
    assert b"".join(found) == body.replace(KEY.encode(), b"[redacted]")
    text = path.read_text("utf-8")
    assert not [KEY[at : at + 8] for at in range(len(KEY) - 7) if KEY[at : at + 8] in text]
    # Cuts outside of the line stay where they were.
    before = body.index(b"data: sk")
    assert [len(piece) for piece in found[: sum(end <= before for end in ends)]] == [
        len(piece) for piece, end in zip(pieces, ends, strict=True) if end <= before
    ]


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("authorization", "Bearer abcdefgh", "abcdefgh"),
        ("authorization", "Basic YWJjZGVmZ2g=", "YWJjZGVmZ2g="),
        ("x-api-key", "abcdefgh", "abcdefgh"),
        ("api-key", "abcdefgh", "abcdefgh"),
        ("x-goog-api-key", "abcdefgh", "abcdefgh"),
        ("cookie", "a=1; session=abcdefgh", "abcdefgh"),
        ("x-api-key", "abcd/efgh", r"abcd\/efgh"),
        ("openai-organization", "org-abcdefgh", "org-abcdefgh"),
        ("x-acme", "0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_what_a_request_carries_is_taken_out_of_everything(name: str, value: str, secret: str) -> None:
    scrubber = Scrubber()
    scrubber.learn(URL, {name: value})
    assert scrubber.text(f"({secret})") == "([redacted])"
    assert scrubber.json({"a": [f"({secret})", 1]}) == {"a": ["([redacted])", 1]}
    assert scrubber.headers({"X-Echo": secret, "Date": "today"}) == {"x-echo": "[redacted]", "date": "today"}
    assert scrubber.line(f"data: {secret}\n".encode()) == b"data: [redacted]\n"


def test_what_an_answer_tells_in_its_headers_is_taken_out_of_its_body(path: Path) -> None:
    headers = {
        "OpenAI-Organization": "acme-secret-corp",
        "openai-project": "proj_abcdefgh1234",
        "Set-Cookie": "__cf_bm=COOKIEVALUE12345; path=/; HttpOnly; Secure",
    }
    told = "acme-secret-corp proj_abcdefgh1234 COOKIEVALUE12345 org-AbCdEfGh0123456789abcdef HttpOnly"
    for body in (json.dumps({"error": {"message": told, KEY: 1}}), f"data: {told} {KEY}\n\n"):
        cassette = Cassette(path, "all")
        exchange = cassette.record(*REQUEST)
        exchange.status, exchange.headers, exchange.pieces = 429, dict(headers), [body.encode()]
        exchange.finish()
        cassette.save()
        text = path.read_text("utf-8")
        assert not [secret for secret in (*told.split()[:-1], KEY) if secret in text]
        assert "HttpOnly" in text


@pytest.mark.parametrize(
    ("url", "scrubbed"),
    [
        (f"{URL}?key=abcdefgh&alt=sse", f"{URL}?key=[redacted]&alt=sse"),
        (f"{URL}?API_KEY=ab%2Fcdefgh", f"{URL}?API_KEY=[redacted]"),
        (f"{URL}?version=2024-01-01&q=", f"{URL}?version=2024-01-01&q="),
        (URL, URL),
    ],
)
def test_secrets_are_taken_out_of_urls(url: str, scrubbed: str) -> None:
    assert Scrubber().url(url) == scrubbed


def test_what_is_no_secret_stays() -> None:
    scrubber = Scrubber()
    scrubber.learn(f"{URL}?key=k", {"user-agent": "acme-client/1234567", "anthropic-version": "2023-06-01-0000000"})
    texts = {
        "token": "Hello",
        "signature": "c2VhbGVk",
        "key": "C major",
        "text": "acme-client/1234567, 2023-06-01-0000000",
    }
    assert scrubber.json(texts) == texts
    line = json.dumps(texts).encode()
    assert scrubber.line(line) == line
    headers = {"x-ratelimit-remaining-tokens": "5", "retry-after": "3", "x-request-id": "req_1"}
    assert scrubber.headers({**headers, "Transfer-Encoding": "chunked", "Set-Cookie": "a=b"}) == headers


def test_fields_with_names_of_secrets_are_emptied_in_objects_and_in_lines() -> None:
    body = {"tools": [{"authorization": "abc", "headers": {"X-API-Key": 'de"f'}, "password": 7}]}
    emptied = {"tools": [{"authorization": "[redacted]", "headers": {"X-API-Key": "[redacted]"}, "password": 7}]}
    assert Scrubber().json(body) == emptied
    assert json.loads(Scrubber().line(json.dumps(body).encode())) == emptied
