"""The package as a copy under another name, where `llmkit` is not allowed, and without the libraries it can miss.

`features.py` is the program that runs there, over real sockets.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmkit.cli import main

from .answers import ChatCompletions, GenerateContent, Messages, Responses
from .server import Reply, Request, Server, json_reply, stream_reply

CHAT, RESPONSES, MESSAGES, GENERATE = ChatCompletions(), Responses(), Messages(), GenerateContent()
PROJECT = Path(__file__).resolve().parent.parent
COPY = "acme._vendor.language_models"
CITY = '{"name": "Oslo"}'
ANSWERED = ["Hello!", ["Hel", "lo!"], "stop"]
WORLDS = ("blocking", "under_asyncio", "under_trio")
SERVICES = ("chat completions", "responses", "messages", "generateContent")

EVERYTHING: dict[str, Any] = {
    **{f"{service}, {world}": ANSWERED for service, world in itertools.product(SERVICES, WORLDS)},
    "retried": [503, 503],
    "retried_under_asyncio": [503, 503],
    "given_up": 2,
    "tool_calls": {"name": "Oslo"},
    "run_tools": "Sunny in Oslo",
    "typed_answer": "Oslo",
    "dict_answer": CITY,
    "schema_answer": {"name": "Oslo"},
    "growing_objects": {"name": "Oslo"},
    "embeddings": [[1.0], [2.0]],
    "models": ["gpt-4o"],
    "counted_by_the_service": 12,
    "tokens": [True, True],
    "stored_answer": "Hello!",
    "parts_of_messages": ["text", "image_url", "file"],
    "pickled_error": [True, "openai: the service answered 400 bad: no"],
    "dotenv_file": "<SyncProvider groq m>",
    "own_service": "Hello!",
    "limited_and_cached": [False, True],
    "watched": ["chat"],
    "command_chat": [0, "Hello!\n"],
    "command_schema": [0, CITY + "\n"],
    "command_others": [0, 0, 0, 0],
    "fallen_back": ["Hello!", 1],
    "whole_response": 4,
    "stayed_out": [],
}
NEEDS_PYDANTIC = "needs pydantic (`pip install pydantic`); without it, pass a dict that holds the JSON schema"
WITHOUT_PYDANTIC = {
    "run_tools": f"LLMProviderConfigurationError: the function weather {NEEDS_PYDANTIC}",
    "typed_answer": f"LLMProviderConfigurationError: response_format City {NEEDS_PYDANTIC}",
    "growing_objects": "LLMProviderConfigurationError: an unfinished object can only be read with pydantic: "
    "`pip install pydantic`",
}
WITHOUT_DOTENV = {
    "dotenv_file": "LLMProviderConfigurationError: groq: no key; set GROQ_API_KEY in the environment or in "
    ".env (.env is not read: pip install python-dotenv), or pass api_key=…"
}
PYDANTIC, TOKENS = ["pydantic", "pydantic_core"], ["tiktoken", "toktok"]
# What is missing → what is different then: everything else works as it does with all libraries.
LESS: list[tuple[list[str], dict[str, Any]]] = [
    (["tenacity"], {}),
    (TOKENS, {}),
    (["dotenv"], WITHOUT_DOTENV),
    (PYDANTIC, WITHOUT_PYDANTIC),
    (
        [*PYDANTIC, *TOKENS, "tenacity", "dotenv", "rich", "jsonschema", "genai_prices", "opentelemetry"],
        WITHOUT_PYDANTIC | WITHOUT_DOTENV,
    ),
]
OTHERS = {
    "/v1/embeddings": {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [2.0]}], "model": "e"},
    "/v1/models": {"data": [{"id": "gpt-4o"}]},
    "/v1/responses/input_tokens": {"input_tokens": 12},
    "/v1/responses/resp_1": RESPONSES.plain(),
}


class Service:
    """Answers as all four services do; the third request to /busy gets through."""

    def __init__(self) -> None:
        self.busy = itertools.cycle([True, True, False])

    def __call__(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        if path in OTHERS:
            return json_reply(OTHERS[path])
        if path.startswith("/down") or (path.startswith("/busy") and next(self.busy)):
            return json_reply({"error": {"message": "busy"}}, 503)
        if path.startswith("/wrong"):
            return json_reply({"error": {"message": "no", "code": "bad"}}, 400)
        body = request.body
        if "messages" in body and "max_tokens" not in body:
            return self.chat(body)
        api: Any = GENERATE if "contents" in body else RESPONSES if "input" in body else MESSAGES
        streams = body.get("stream") or "stream" in path
        return stream_reply(api.stream("Hel", "lo!")) if streams else json_reply(api.plain())

    def chat(self, body: Any) -> Reply:
        texts = [CITY[:9], CITY[9:]] if "response_format" in body else ["Hel", "lo!"]
        if body.get("stream"):
            return stream_reply(CHAT.stream(*texts))
        last = body["messages"][-1]
        if body.get("tools") and last["role"] == "user":
            return json_reply(CHAT.plain(None, finish="tool_calls", calls=[("weather", CITY)]))
        return json_reply(CHAT.plain(last["content"] if last["role"] == "tool" else "".join(texts)))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(default=Service()) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that holds a copy, made by the command."""
    project = tmp_path_factory.mktemp("project")
    (project / "acme" / "_vendor").mkdir(parents=True)
    (project / "acme" / "__init__.py").touch()
    (project / "acme" / "_vendor" / "__init__.py").touch()
    assert main(["vendor", str(project.joinpath(*COPY.split(".")))]) == 0
    return project


def environment(server: Server | None, path: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(path), "OPENAI_API_KEY": "sk-test"}
    return {**os.environ, **own, **({"OPENAI_BASE_URL": server.base_url} if server else {})}


def run_features(package: str, server: Server, path: Path, folder: Path, missing: list[str]) -> dict[str, Any]:
    program = [sys.executable, "-W", "error", str(PROJECT / "tests" / "features.py"), package, server.url]
    (folder / "features.txt").write_text("Hello")
    done = subprocess.run(
        [*program, json.dumps(missing)],
        cwd=folder,
        env=environment(server, path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_copy_can_do_all_that_the_package_can(server: Server, project: Path, tmp_path: Path) -> None:
    assert run_features(COPY, server, project, tmp_path, []) == EVERYTHING


@pytest.mark.parametrize(("missing", "differences"), LESS, ids=["tenacity", "tiktoken", "dotenv", "pydantic", "all"])
def test_without_some_libraries(
    server: Server, project: Path, tmp_path: Path, missing: list[str], differences: dict[str, Any]
) -> None:
    assert run_features(COPY, server, project, tmp_path, missing) == EVERYTHING | differences


def run_copy(server: Server, project: Path, *arguments: str, copy: str = COPY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", copy, *arguments]
    env, inputs = environment(server, project), subprocess.DEVNULL
    return subprocess.run(command, cwd=project, env=env, stdin=inputs, capture_output=True, text=True, check=False)


def test_the_command_of_a_copy_works(server: Server, project: Path) -> None:
    done = run_copy(server, project, "chat", "Hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello!\n", "")
    name = f"python -m {COPY}"
    assert run_copy(server, project).stderr.startswith(f"usage: {name}")
    assert f"| {name} chat -m" in run_copy(server, project, "chat", "--help").stdout
    assert "exact" in run_copy(server, project, "tokens", "acme/_vendor/language_models/LICENSE").stdout
    assert run_copy(server, project, "doctor").returncode == 0


def test_a_copy_at_the_top_names_its_own_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["vendor", str(tmp_path / "models")]) == 0
    # In the place of the library that holds the tables.
    (tmp_path / "toktok.py").touch()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    told = run_copy(server, tmp_path, "doctor", "--offline", copy="models").stdout
    assert "o200k_base: no table, tokens are estimated: python -m models tokens install\n" in told


def test_a_copy_checks_itself_and_makes_copies(server: Server, project: Path, tmp_path: Path) -> None:
    own = "acme/_vendor/language_models"
    assert "unchanged and up to date" in run_copy(server, project, "vendor", own, "--check").stdout
    copies = tmp_path / "second"
    assert run_copy(server, project, "vendor", str(copies)).returncode == 0
    for name in ("VENDORED", "LICENSE", "_sync/stream.py"):
        assert (copies / name).read_bytes() == (project / own / name).read_bytes()
