"""Copying the package into another project, and telling later what has become of the copy. Depends on `errors` alone.

The copy is a folder under any name. Beside the modules it has LICENSE, and the note VENDORED: the version, and the
SHA-256 of each file in the format of sha256sum, so that `sha256sum --check VENDORED` works as well.
"""

from __future__ import annotations

import keyword
import os
import shutil
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from . import __version__
from .errors import LLMProviderConfigurationError

__all__ = ["NOTE", "CopyState", "check_copy", "copy_package", "package_files"]

NOTE: Final = "VENDORED"
PACKAGE: Final = Path(__file__).parent
# What only the development of llmkit needs.
_LEFT_OUT: Final = frozenset({"_unasync.py", "demo.py"})
_LICENCE: Final = """\
MIT License

Copyright (c) 2026 the llmkit authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


@dataclass(frozen=True, slots=True)
class CopyState:
    """What a copy is like: its version, and the files that are not as they were copied, or not as they are here now.

    `changed` are files that somebody has changed, added or removed since; `outdated` are files that this package has
    otherwise, has not, or has more.
    """

    version: str
    changed: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)


def package_files() -> dict[str, bytes]:
    """Return path → content of each file that a copy consists of, apart from its note."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name not in _LEFT_OUT]
    found = {path.relative_to(PACKAGE).as_posix(): _content(path) for path in [*paths, PACKAGE / "py.typed"]}
    return {**found, "LICENSE": _LICENCE.encode()}


def copy_package(target: Path, *, update: bool = False) -> int:
    """Write a copy of this package as the folder `target`, and return the number of its files.

    `update` replaces a copy that is there, with whatever was changed in it. The new copy is written beside it and
    takes its place whole. Raises LLMProviderConfigurationError where that cannot be done; nothing is changed then.
    """
    target = target.expanduser().resolve()
    _check_target(target, update)
    files = package_files()
    note = _NOTE_HEAD.format(version=__version__) + "".join(
        f"{sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())
    )
    try:
        _replace_folder(target, {**files, NOTE: note.encode()})
    except OSError as error:
        raise LLMProviderConfigurationError(f"{target} cannot be written: {error.strerror or error}") from error
    return len(files)


def check_copy(target: Path) -> CopyState:
    """Return what the copy in a folder is like; raises LLMProviderConfigurationError where there is none."""
    target = target.expanduser().resolve()
    version, copied = _read_note(target)
    there = {
        path.relative_to(target).as_posix(): _hash(path)
        for path in target.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path != target / NOTE
    }
    here = {name: sha256(content).hexdigest() for name, content in package_files().items()}
    return CopyState(version, _differences(copied, there), _differences(copied, here))


_NOTE_HEAD: Final = """\
# llmkit {version}
# A copy made by `llmkit vendor`. Leave it as it is: `llmkit vendor --check` compares it, `--update` replaces it.
"""


def _read_note(target: Path) -> tuple[str, dict[str, str]]:
    """Return the version that a copy's note names, and path → hash of its files."""
    try:
        text = (target / NOTE).read_text("utf-8")
        first, *lines = text.splitlines()
        pairs = [line.split("  ", 1) for line in lines if not line.startswith("#")]
        return first.split()[2], {name: digest for digest, name in pairs}
    except FileNotFoundError:
        raise LLMProviderConfigurationError(f"{target} is no copy made by `llmkit vendor`: it has no {NOTE}") from None
    except (OSError, ValueError, IndexError):
        raise LLMProviderConfigurationError(f"{target / NOTE} cannot be read") from None


def _content(path: Path) -> bytes:
    """Return a file's content with the line ends of Unix: version control may have changed them."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def _hash(path: Path) -> str:
    return sha256(_content(path)).hexdigest()


def _differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _check_target(target: Path, update: bool) -> None:
    if not target.name.isidentifier() or keyword.iskeyword(target.name):
        raise LLMProviderConfigurationError(f"{target.name!r} is no name that Python can import; name the folder so")
    if target == PACKAGE.resolve() or target in PACKAGE.resolve().parents:
        raise LLMProviderConfigurationError(f"{target} is, or holds, the package that is to be copied")
    if update:
        _read_note(target)
    elif target.exists():
        told = "--update replaces it" if (target / NOTE).exists() else "it is no copy of llmkit; choose another place"
        raise LLMProviderConfigurationError(f"{target} exists: {told}")


def _replace_folder(target: Path, files: dict[str, bytes]) -> None:
    """Write a folder beside the one that it is to replace, and swap them: there is never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
