"""`llmkit vendor`: a copy of the package inside another project."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import __version__
from ..vendor import check_copy, copy_package
from .terminal import note

__all__ = ["add_parsers"]


def add_parsers(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "vendor",
        help="copy this package into a project, check or update a copy",
        description="Copy this package into a project, under any name: %(prog)s acme/_vendor/llmkit. The copy "
        "needs anyio and httpx.",
        allow_abbrev=False,
    )
    parser.add_argument("target", type=Path, help="the folder that is, or becomes, the copy")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="exit with 1 where the copy was changed, or is outdated")
    action.add_argument("--update", action="store_true", help="replace the copy by one of this package")
    parser.add_argument("--force", action="store_true", help="with --update: also where changes are lost by it")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    target = arguments.target
    if arguments.check:
        return _check(target)
    if arguments.update and not arguments.force:
        changed = check_copy(target).changed
        if changed:
            note(f"{target} has changes that an update would lose: {', '.join(changed)}; --force loses them")
            return 1
    number = copy_package(target, update=arguments.update)
    print(f"{target}: llmkit {__version__}, {number} files")
    if not arguments.update:
        note("the copy needs anyio and httpx; pydantic, tenacity, tiktoken and python-dotenv may be missing")
    return 0


def _check(target: Path) -> int:
    state = check_copy(target)
    for name in state.changed:
        print(f"{target}: changed since it was copied: {name}")
    if state.outdated:
        told = f"llmkit {state.version} and this one, {__version__}, differ in {len(state.outdated)} files"
        print(f"{target}: outdated: {told}")
    if state.changed or state.outdated:
        return 1
    print(f"{target}: llmkit {state.version}, unchanged and up to date")
    return 0
