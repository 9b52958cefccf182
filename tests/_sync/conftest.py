"""What the client's tests share: each API, a server, and waits that are recorded instead of waited for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..answers import APIS, Api
from ..server import Server


@pytest.fixture(params=APIS, ids=lambda api: api.name)
def api(request: pytest.FixtureRequest) -> Api:
    """Run the test with each API."""
    return request.param


@pytest.fixture(params=["chat_completion", "responses"])
def api_type(request: pytest.FixtureRequest) -> Any:
    """Run the test with each API of the scripted service."""
    return request.param


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that runs during the test; its replies are added there."""
    with Server() as server:
        yield server


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list that gets the seconds of each wait between tries; nothing is waited for."""
    seconds: list[float] = []

    def sleep(delay: float) -> None:
        seconds.append(delay)

    monkeypatch.setattr("llmkit._sync.exchange.sleep", sleep)
    monkeypatch.setattr("llmkit._sync._backend.sleep", sleep)
    return seconds
