"""Which of httpx and httpx2 is used, and what is said where it is not there."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from llmkit.errors import LLMProviderConfigurationError
from llmkit.http_library import _load, is_client


@pytest.mark.parametrize(
    ("chosen", "missing", "taken"),
    [
        ("", [], "httpx"),
        ("httpx", ["httpx2"], "httpx"),
        ("httpx2", [], "httpx2"),
        ("", ["httpx"], "httpx2"),
        ("", ["httpx2"], "httpx"),
        ("", ["httpcore"], "httpx2"),
    ],
)
def test_what_is_chosen_is_taken_and_else_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, chosen: str, missing: list[str], taken: str
) -> None:
    for name in {"httpx", "httpx2"} - {*missing}:
        pytest.importorskip(name)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    library, core = _load(chosen)
    assert (library.__name__, core.__name__) == (taken, taken.replace("httpx", "httpcore"))


@pytest.mark.parametrize(
    ("chosen", "missing", "told"),
    [
        ("requests", [], "LLMKIT_HTTP_LIBRARY is 'requests'; it must be httpx or httpx2"),
        ("httpx2", ["httpx2"], "httpx2 is not installed: pip install httpx2"),
        ("httpx", ["httpx"], "httpx is not installed: pip install httpx"),
        ("", ["httpx", "httpx2"], "httpx is not installed: pip install httpx"),
    ],
)
def test_what_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, chosen: str, missing: list[str], told: str
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LLMProviderConfigurationError) as caught:
        _load(chosen)
    assert str(caught.value) == told


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_client_of_either_library_is_known_by_its_world(library: str) -> None:
    made: Any = pytest.importorskip(library)

    class Own(made.Client):  # type: ignore[misc]
        pass

    with Own(verify=False) as client:
        assert is_client(client, "Client") and not is_client(client, "AsyncClient")
    assert not is_client(object(), "Client")
