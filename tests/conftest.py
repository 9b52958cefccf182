"""What all tests share: the three worlds, and nothing of this machine's environment."""

from __future__ import annotations

import os

import pytest


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
