"""The command as a process of its own: pipes, signals, a terminal, and what its exit leaves on the screen."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .answers import ChatCompletions
from .server import GONE, PATIENCE, Server, json_reply, stream_reply

API = ChatCompletions()
PROJECT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "llmkit"]
PRESSES = 5
"""How often a key is pressed within PATIENCE."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals are those of POSIX")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def environment(server: Server, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "TERM", "COLUMNS", "PYTHONUNBUFFERED")
    }
    own = {"PYTHONPATH": str(PROJECT), "OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": server.base_url}
    return {**kept, **own, **more}


def start(server: Server, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *arguments], env=environment(server), **options)


def endless(text: str) -> Any:
    """Return a stream that repeats a text for as long as somebody reads it."""

    def steps() -> Iterator[Any]:
        yield from API.begun()
        while True:
            yield API.delta(text)

    return stream_reply_of(steps())


def stream_reply_of(steps: Iterator[Any]) -> Any:
    from .server import chunked, head

    yield head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    yield from chunked(steps)


def test_a_reader_who_leaves_ends_the_answer_quietly(server: Server) -> None:
    server.add(endless("a line\n"))
    process = start(server, "chat", "Hi")
    assert process.stdout and process.stderr
    assert process.stdout.readline() == b"a line\n"
    process.stdout.close()
    assert process.wait(PATIENCE) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    # The service stops to generate what nobody reads.
    assert server.wait_gone()


@pytest.mark.parametrize("arguments", [["providers"], ["--help"], ["doctor", "--offline"]])
def test_a_reader_who_never_came_is_no_error(server: Server, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(server, *arguments, stdout=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (141, b"")


def test_ctrl_c_ends_it_by_the_signal_and_stops_the_generation(server: Server) -> None:
    server.add(stream_reply([*API.begun("One\n"), GONE], end=False))
    process = start(server, "chat", "Count")
    assert process.stdout
    assert process.stdout.readline() == b"One\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
    # A shell shows this as 130.
    assert (process.returncode, out, errors) == (-signal.SIGINT, b"", b"")
    assert server.wait_gone()


def test_a_shell_sees_130_and_ends_its_loop(server: Server) -> None:
    server.default = stream_reply([*API.begun("One\n"), GONE], end=False)
    script = 'for i in 1 2; do "$@"; echo "ended with $?"; done'
    shell = subprocess.Popen(
        ["bash", "-c", f"trap 'echo trapped; exit 3' INT; {script}", "bash", *COMMAND, "chat", "Count"],
        env=environment(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert shell.stdout
    assert shell.stdout.readline() == b"One\n"
    # To the whole group, as a terminal does it.
    os.killpg(shell.pid, signal.SIGINT)
    out, _ = shell.communicate(timeout=PATIENCE)
    assert (shell.returncode, out) == (3, b"trapped\n")
    assert len(server.requests) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line_and_the_status_one(server: Server) -> None:
    server.add(json_reply(API.plain("Hello")))
    with open("/dev/full", "wb") as full:
        process = start(server, "chat", "--no-stream", "Hi", stdout=full)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors == b"llmkit: cannot write the output: No space left on device\n"


def test_closed_streams_are_no_error(server: Server) -> None:
    server.default = stream_reply(API.stream("Hello"))
    command = ["bash", "-c", '"$@" <&- 2>&-', "bash", *COMMAND, "chat", "--usage", "Hi"]
    done = subprocess.run(command, env=environment(server), stdout=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (0, b"Hello\n")
    command[2] = '"$@" >&-'
    done = subprocess.run(command, env=environment(server), stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


def test_an_encoding_that_lacks_a_character_does_not_end_the_answer(server: Server) -> None:
    server.add(stream_reply(API.stream("né 🙂")))
    settings = environment(server, PYTHONIOENCODING="latin-1")
    done = subprocess.run(
        [*COMMAND, "chat", "Hi"], env=settings, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "né ?\n".encode("latin-1"))


class Terminal:
    """A command in a pseudo-terminal, by what is typed and what is shown."""

    def __init__(self, server: Server, *arguments: str, **variables: str) -> None:
        import pty

        self._screen, line = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *COMMAND, *arguments],
            env=environment(server, **{"TERM": "xterm", **variables}),
            stdin=line,
            stdout=line,
            stderr=line,
        )
        os.close(line)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until a text is shown; the next wait begins after it."""
        assert self._shows(text, PATIENCE), f"{text!r} is not in {self.shown!r}"
        _, _, self.shown = self.shown.partition(text)

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until a text is shown: one that comes just before Python waits does not end the wait."""
        for _ in range(PRESSES):
            self.type("\x03")
            if self._shows(text, PATIENCE / PRESSES):
                break
        self.wait_for(text)

    def end(self) -> int:
        """Return the exit code, with the rest that was shown in `shown`."""
        while piece := self._read():
            self.shown += piece
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End what is still running."""
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._screen)

    def _shows(self, text: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._screen], [], [], max(0, end - time.monotonic()))
            piece = self._read() if ready else ""
            if not piece:
                return False
            self.shown += piece
        return True

    def _read(self) -> str:
        try:
            return os.read(self._screen, 65536).decode()
        except OSError:  # Linux: nobody writes to the terminal any more
            return ""


@pytest.fixture
def open_terminal(server: Server) -> Iterator[Callable[..., Terminal]]:
    """Open terminals, which are closed after the test."""
    with contextlib.ExitStack() as opened:

        def open_(*arguments: str, **variables: str) -> Terminal:
            terminal = Terminal(server, *arguments, **variables)
            opened.callback(terminal.close)
            return terminal

        yield open_


needs_setsid = pytest.mark.skipif(not Path("/usr/bin/setsid").exists(), reason="the system has no setsid")


@needs_setsid
def test_a_conversation_in_a_terminal(server: Server, open_terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Buy milk")
    server.add(stream_reply(API.stream("Hello ", "Ada")), stream_reply([*API.begun("Once"), GONE], end=False))
    server.default = stream_reply(API.stream("Yes"))
    terminal = open_terminal("chat", "-s", "Be brief")
    terminal.wait_for("talking to openai/gpt-4o-mini")
    terminal.wait_for("> ")
    terminal.type("I am Ada\n")
    terminal.wait_for("Hello Ada")
    terminal.wait_for("> ")
    terminal.type("A story\n")
    terminal.wait_for("Once")
    terminal.interrupt("stopped")
    assert server.wait_gone()
    terminal.wait_for("> ")
    terminal.type(f"/file '{tmp_path / 'notes.txt'}'\n")
    terminal.wait_for("goes with the next question")
    terminal.type("What now?\n")
    terminal.wait_for("Yes")
    terminal.wait_for("> ")
    terminal.type("/nonsense\n")
    terminal.wait_for("there is no command /nonsense")
    terminal.type("/usage\n")
    terminal.wait_for("22 tokens in")
    terminal.type("/clear\n")
    terminal.wait_for("begins anew")
    terminal.type("Who am I?\n")
    terminal.wait_for("Yes")
    terminal.wait_for("> ")
    terminal.type("half a line")
    terminal.wait_for("half a line")
    terminal.interrupt("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    sent = [[message["content"] for message in body["messages"]] for body in server.bodies]
    assert sent[1] == ["Be brief", "I am Ada", "Hello Ada", "A story"]
    assert sent[2][3:] == ["A story", "Once", 'What now?\n\n<file name="notes.txt">\nBuy milk\n</file>']
    assert sent[3] == ["Be brief", "Who am I?"]


@needs_setsid
def test_a_conversation_goes_on_after_a_failure(server: Server, open_terminal: Callable[..., Terminal]) -> None:
    server.add(json_reply({"error": {"message": "too fast"}}, 400), stream_reply(API.stream("Yes")))
    terminal = open_terminal("chat")
    terminal.wait_for("> ")
    terminal.type("One\n")
    terminal.wait_for("too fast")
    terminal.type("Two\n")
    terminal.wait_for("Yes")
    terminal.type("/exit\n")
    assert terminal.end() == 0
    assert [len(body["messages"]) for body in server.bodies] == [1, 1]


@needs_setsid
@pytest.mark.parametrize(
    ("variables", "moves", "colours"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
)
def test_a_terminal_gets_no_more_than_it_can_show(
    server: Server,
    open_terminal: Callable[..., Terminal],
    variables: dict[str, str],
    moves: bool,
    colours: bool,
) -> None:
    events = [API._chunk({"reasoning_content": "Hm."}), *API.stream("Hel\x1b]0;title\x07lo\x1b[31m")]
    server.add(stream_reply(events))
    terminal = open_terminal("chat", "--reasoning", "Hi", **variables)
    assert terminal.end() == 0
    # What the model writes cannot steer the terminal.
    assert "Hel]0;titlelo[31m" in terminal.shown
    assert ("\x1b[2mHm." in terminal.shown) == colours
    assert ("\x1b" in terminal.shown) == moves
