"""`llmkit tokens`: how many tokens files have, and the tables with which they are counted exactly."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from ..choice import choose
from ..config import environment
from ..errors import LLMProviderConfigurationError
from ..token_tables import ENCODINGS, TABLES_ADDRESS, pieces
from .attachments import read_bytes, text_of
from .terminal import Progress, note, print_table

__all__ = ["add_parsers"]

INSTALLED_BY_DEFAULT = ("o200k_base", "cl100k_base")
A_STEP = 1_000_000
"""The characters that are counted between two looks at the progress bar: some tenths of a second."""


def add_parsers(commands: Any) -> None:
    """Add the commands to the parser; `tokens install` is a command of its own, known by its first two words."""
    parser = commands.add_parser(
        "tokens",
        help="count the tokens of files; `tokens install` gets the tables",
        description="Count the tokens of text files, without network. `tokens install` downloads the tables that make "
        "the counts exact; a file of that name is ./install.",
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="*", default=["-"], help="UTF-8 text; - or nothing is standard input")
    parser.add_argument("-m", "--model", metavar="PROVIDER/MODEL", help="whose tokens; without it, the default model's")
    parser.add_argument("--encoding", choices=sorted(ENCODINGS), help="the encoding, whatever the model")
    parser.add_argument("--limit", type=int, metavar="N", help="exit with 1 where all together are more than N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_count)
    # Without help it is not listed.
    install = commands.add_parser(
        "tokens-install",
        prog=f"{commands._prog_prefix} tokens install",
        description="Download the tables that make counts exact, and verify them by their SHA-256.",
        allow_abbrev=False,
    )
    install.add_argument("--directory", metavar="DIR", help="where to; else LLMKIT_TIKTOKEN_DIR, else tiktoken's cache")
    install.add_argument("--encoding", action="append", choices=sorted(ENCODINGS), help="which; repeatable")
    install.add_argument("--address", metavar="URL", default=TABLES_ADDRESS, help="a mirror's folder")
    install.set_defaults(run=_install)


def _count(arguments: argparse.Namespace) -> int:
    model = _model(arguments.model)
    rows, failed = [], False
    with Progress() as progress:
        for path in arguments.file:
            try:
                text = text_of(read_bytes(path), path)
            except LLMProviderConfigurationError as error:
                note(str(error))
                failed = True
                continue
            rows.append({"file": path, **_counted(text, model, arguments.encoding, path, progress)})
    total = sum(row["tokens"] for row in rows)
    is_over = arguments.limit is not None and total > arguments.limit
    if arguments.json:
        told = {"model": model, "tokens": total, "exact": all(row["exact"] for row in rows), "files": rows}
        print(json.dumps(told | ({} if arguments.limit is None else {"limit": arguments.limit})))
    elif rows:
        cells = [(f"{row['tokens']:,}", _kind(row), row["file"]) for row in rows]
        if len(rows) > 1:
            cells.append((f"{total:,}", "", "total"))
        print_table(("TOKENS", "COUNTED", "FILE"), cells, numbers=(0,))
    if is_over:
        note(f"{total:,} tokens are more than the limit of {arguments.limit:,}")
    return 2 if failed else int(is_over)


def _model(name: str | None) -> str:
    if name or environment("DEFAULT_LLM_PROVIDER"):
        return choose(name).model
    # Not that of the small local model, where nothing is configured: it would be an estimate.
    return environment("DEFAULT_MODEL_NAME") or choose("openai").model


def _counted(text: str, model: str, encoding: str | None, name: str, progress: Progress) -> dict[str, Any]:
    """Return what a text counts; the counts of its pieces add up to its own."""
    from ..tokens import count_tokens, load_encoding

    table = load_encoding(model, encoding=encoding)
    if table is None:
        count = count_tokens(text, model, encoding=encoding)
        return {"tokens": int(count), "exact": count.exact, "encoding": count.encoding}
    total, done, exact = 0, 0, True
    for piece in pieces(text, table, A_STEP):
        count = count_tokens(piece, model, encoding=encoding)
        total, done, exact = total + count, done + len(piece), count.exact
        progress.update(name, done, len(text))
    return {"tokens": total, "exact": exact, "encoding": table}


def _kind(row: dict[str, Any]) -> str:
    kind = "exact" if row["exact"] else "estimate"
    return f"{kind}, by {row['encoding']}" if row["encoding"] else kind


def _install(arguments: argparse.Namespace) -> int:
    from ..token_tables import install_tables

    directory = arguments.directory and os.path.expanduser(arguments.directory)
    encodings = arguments.encoding or INSTALLED_BY_DEFAULT
    with Progress() as progress:
        installed = install_tables(directory, encodings, address=arguments.address, progress=progress.update)
    for path in installed.values():
        print(path)
    return 0
