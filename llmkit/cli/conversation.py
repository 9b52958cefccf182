"""A conversation in a terminal: a line is a question; the history goes with it, and is kept nowhere else."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from ..errors import LLMProviderError
from .answers import print_stream, print_usage, status_of
from .attachments import read_bytes, read_part, user_message
from .terminal import note

__all__ = ["converse", "split_paths"]

ESCAPE = "" if os.name == "nt" else "\\"
"""What stands before a character that is meant as it is; on Windows nothing does, since a backslash parts folders."""


def converse(provider: Any, name: str, options: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Ask and answer until the end of the input, and return the exit code.

    Ctrl-C stops the answer that is being written, or drops the line that is being typed; Ctrl-D ends.
    """
    # Where it exists, it edits the lines of `input`; nothing that is typed is written to a file.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    conversation = _Conversation(provider, name, options, arguments)
    note(f"talking to {name}; /help lists the commands, Ctrl-D ends")
    while not conversation.is_over:
        try:
            conversation.take(input("> "))
        except EOFError:
            print()
            break
        except KeyboardInterrupt:
            print()
        except LLMProviderError as error:
            note(str(error))
    return 0


def split_paths(text: str, escape: str = ESCAPE) -> list[str]:
    """Return the paths in a line, parted and quoted as in a shell; raises ValueError where a quotation does not end."""
    parts = shlex.shlex(text, posix=True)
    parts.escape, parts.commenters, parts.whitespace_split = escape, "", True
    return list(parts)


class _Conversation:
    def __init__(self, provider: Any, name: str, options: dict[str, Any], arguments: argparse.Namespace) -> None:
        self.is_over = False
        self._provider = provider
        self._name = name
        self._options = options
        self._arguments = arguments
        self._files: list[str] = arguments.file
        self._messages: list[Any] = []
        self._answers: list[Any] = []

    def take(self, line: str) -> None:
        """Answer a line, or obey it where it begins with a slash and the name of a command."""
        word, _, rest = line.strip().partition(" ")
        if word in _COMMANDS:
            _COMMANDS[word](self, rest.strip())
        elif word.startswith("/") and "/" not in word[1:] and not rest:
            note(f"there is no command {word}; /help lists them")
        elif word:
            self._ask(line)

    def _ask(self, line: str) -> None:
        question = user_message(line, self._files)
        texts: list[str] = []
        try:
            response = print_stream(
                self._provider,
                [*self._messages, question],
                self._options,
                reasoning=self._arguments.reasoning,
                texts=texts,
            )
        except KeyboardInterrupt:
            # Leaving the stream has closed the connection, which stops the service's work.
            note("stopped")
            if texts:
                self._messages += [question, {"role": "assistant", "content": "".join(texts)}]
                self._files = []
            return
        self._files = []
        self._messages += [question, response.to_message()]
        self._answers.append(response)
        status_of(response)
        if self._arguments.usage:
            print_usage([response], self._name)

    def _exit(self, rest: str) -> None:
        self.is_over = True

    def _clear(self, rest: str) -> None:
        self._messages, self._files = [], []
        note("the conversation begins anew")

    def _usage(self, rest: str) -> None:
        print_usage(self._answers, self._name)

    def _file(self, rest: str) -> None:
        try:
            paths = split_paths(rest)
        except ValueError as error:
            note(f"the paths cannot be told apart: {error}")
            return
        for path in paths:
            read_part(read_bytes(path), path)
        self._files = [*self._files, *paths]
        note(f"goes with the next question: {', '.join(self._files) or 'nothing'}")

    def _help(self, rest: str) -> None:
        print(_HELP, file=sys.stderr)


_COMMANDS: dict[str, Callable[[_Conversation, str], None]] = {
    "/exit": _Conversation._exit,
    "/quit": _Conversation._exit,
    "/clear": _Conversation._clear,
    "/usage": _Conversation._usage,
    "/file": _Conversation._file,
    "/help": _Conversation._help,
}
_HELP = """\
/file PATH…  send files with the next question     /clear   forget the conversation
/usage       what it has used so far               /exit    end, as Ctrl-D does
Ctrl-C stops an answer."""
