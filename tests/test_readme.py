"""The README's code runs, and passes the type checker."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmkit import factory, services
from llmkit.cli import parse

from .answers import ChatCompletions, Responses
from .server import Reply, Request, Server, json_reply, stream_reply

PROJECT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (PROJECT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


CONSOLE = re.findall(r"^\$ (.*)$", (PROJECT / "README.md").read_text("utf-8"), re.MULTILINE)
OTHERS = {
    "/v1/embeddings": {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0]}], "model": "m"},
    "/v1/models": {"data": [{"id": "gpt-4o"}]},
    "/v1/responses/input_tokens": {"input_tokens": 12},
}


def answer(request: Request) -> Reply:
    """Answer like the service: with a call where a tool was offered, with JSON where that was asked for."""
    if request.path in OTHERS:
        return json_reply(OTHERS[request.path])
    api = ChatCompletions() if request.path.endswith("/chat/completions") else Responses()
    body = request.body or {}
    if body.get("stream"):
        return stream_reply(api.stream("Once upon", " a time"))
    messages = body.get("messages", [])
    if body.get("tools") and messages[-1]["role"] == "user":
        return json_reply(api.plain(None, finish="tool_calls", calls=[("get_weather", '{"city": "Oslo"}')]))
    return json_reply(api.plain('{"name": "Oslo", "inhabitants": 724000}' if "response_format" in body else "Bonjour!"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(factory, "_classes", {})
    monkeypatch.setattr(services, "_SPECS", dict(services._SPECS))
    with Server(default=answer) as server:
        for name in ("OPENAI", "ANTHROPIC", "GEMINI", "OPENROUTER"):
            monkeypatch.setenv(f"{name}_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


def test_the_commands_of_the_readme_are_understood() -> None:
    words = [shlex.split(part, comments=True) for line in CONSOLE for part in re.split(r"\||&&", line)]
    commands = [each[1:] for each in words if each[0] == "llmkit"]
    assert {command[0] for command in commands} >= {"chat", "tokens", "providers", "models", "doctor", "vendor"}
    for command in commands:
        assert parse(command).run, command


def test_the_code_of_the_readme_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec", dont_inherit=True), namespace)
    asyncio.run(namespace["main"]())
    printed = capsys.readouterr().out
    assert printed.startswith("Bonjour!\nOnce upon a time")
    assert all(request.headers["authorization"] == "Bearer sk-test" for request in server.requests)
    assert "Sunny in Oslo" in str(server.bodies)
    assert "name='Oslo' inhabitants=724000" in printed
    namespace["provider"].close()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed: make check")
def test_the_code_of_the_readme_passes_the_type_checker(tmp_path: Path) -> None:
    # The blocks are one program, in which later ones build on earlier ones.
    (tmp_path / "readme.py").write_text("\n".join(BLOCKS), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "readme.py")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
