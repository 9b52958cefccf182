"""The command `llmkit`, also `python -m llmkit`: its parser, and how it ends.

Text that was asked for goes to standard output, everything else to standard error. The exit code is 0; 1 for a service
or network that failed, and for a check that found something; 2 for wrong usage or configuration; 130 after Ctrl-C;
141 where nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..errors import (
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderUnsupportedOperationError,
)
from . import chat, doctor, listings, tokens, vendoring
from .terminal import command_name, note

__all__ = ["main", "parse", "run"]

INTERRUPTED = 130
NO_READER = 141
WRONG_USAGE = 2
COMMANDS = (chat, tokens, listings, doctor, vendoring)


def run() -> NoReturn:
    """Run the command and end the process.

    After Ctrl-C it ends by the signal, so that a loop in a shell ends with it; the shell shows that as 130.
    """
    status = main()
    if status == INTERRUPTED and os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with its arguments (None: those of the process) and return its exit code."""
    try:
        status = _status(sys.argv[1:] if arguments is None else list(arguments))
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return NO_READER
    except KeyboardInterrupt:
        _discard_output()
        return INTERRUPTED
    except OSError as error:
        # One without a file is that of our own output: connections have errors of their own.
        note(f"{error.filename or 'cannot write the output'}: {error.strerror or error}")
        _discard_output()
        return 1
    return status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments as they are understood; `run` is the function that takes them. Raises SystemExit."""
    package = __name__.rpartition(".")[0]
    parser = argparse.ArgumentParser(
        prog=command_name(),
        description="Ask language models, count tokens, and look after the set-up.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{package} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for command in COMMANDS:
        command.add_parsers(commands)
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(WRONG_USAGE)
    if list(arguments[:2]) == ["tokens", "install"]:
        arguments = ["tokens-install", *arguments[2:]]
    return parser.parse_args(arguments)


def _status(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal's encoding has no character for must not end an answer.
            stream.reconfigure(errors="replace")
    try:
        parsed = parse(arguments)
        status: int = parsed.run(parsed)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0
    except LLMProviderError as error:
        note(str(error))
        return _exit_code(error)
    return status


def _exit_code(error: LLMProviderError) -> int:
    if isinstance(error, (LLMProviderConfigurationError, LLMProviderUnsupportedOperationError)):
        return WRONG_USAGE
    was_sent = error.status_code is not None or error.request_id is not None
    return WRONG_USAGE if isinstance(error, LLMProviderBadRequestError) and not was_sent else 1


def _discard_output() -> None:
    """Write what is unwritten, or else send it nowhere, so that the interpreter's exit does not fail with it, too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream:
            try:
                stream.flush()
            except (OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
