"""Copies of the package: what is in them, what is told of them later, and that no good one is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import llmkit
from llmkit import vendor
from llmkit.cli import main

PROJECT = Path(__file__).resolve().parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a copy."""
    target = tmp_path / "acme" / "_vendor" / "llmkit"
    vendor.copy_package(target)
    return target


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["vendor", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outdate(target: Path) -> None:
    """Make a copy one of an older version, with one file otherwise and one that is no more."""
    (target / "retry.py").write_text("# as it was\n")
    (target / "gone.py").write_text("# no more\n")
    note = target / vendor.NOTE
    text = note.read_text().replace(llmkit.__version__, "0.0.9")
    text = re.sub(r"\w+  retry.py", f"{vendor._hash(target / 'retry.py')}  retry.py", text)
    note.write_text(f"{text}{vendor._hash(target / 'gone.py')}  gone.py\n")


def test_a_copy_has_what_it_needs_and_no_more(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "made for it" / "language_models"
    status, out, err = run(target)
    assert (status, out) == (0, f"{target}: llmkit {llmkit.__version__}, {len(content(target)) - 1} files\n")
    assert "needs anyio and httpx" in err
    copied, package = content(target), PROJECT / "llmkit"
    assert copied.pop("LICENSE") == (PROJECT / "LICENSE").read_bytes()
    assert copied.pop("VENDORED").decode().startswith(f"# llmkit {llmkit.__version__}\n")
    own = {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*.py")}
    own["py.typed"] = (package / "py.typed").read_bytes()
    assert copied == {name: data for name, data in own.items() if name not in ("_unasync.py", "demo.py")}
    assert [path.name for path in target.parent.iterdir()] == ["language_models"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_note_is_one_that_sha256sum_reads(target: Path) -> None:
    assert subprocess.run(["sha256sum", "--check", "--quiet", "VENDORED"], cwd=target, check=False).returncode == 0


def test_a_copy_that_is_left_alone_passes_the_check(run: Run, target: Path) -> None:
    (target / "__pycache__").mkdir()
    (target / "__pycache__" / "sse.cpython-311.pyc").touch()
    # Version control may write the line ends of Windows.
    (target / "sse.py").write_bytes((target / "sse.py").read_bytes().replace(b"\n", b"\r\n"))
    told = f"{target}: llmkit {llmkit.__version__}, unchanged and up to date\n"
    assert run(target, "--check") == (0, told, "")


def test_changes_are_told_and_not_lost(run: Run, target: Path) -> None:
    (target / "sse.py").write_text("# mine\n")
    (target / "errors.py").unlink()
    (target / "wire" / "mine.py").touch()
    status, out, _ = run(target, "--check")
    assert status == 1
    changed = ("errors.py", "sse.py", "wire/mine.py")
    assert out == "".join(f"{target}: changed since it was copied: {name}\n" for name in changed)
    before = content(target)
    status, out, err = run(target, "--update")
    assert (status, out, content(target)) == (1, "", before)
    assert "changes that an update would lose: errors.py, sse.py, wire/mine.py; --force loses them" in err
    assert run(target, "--update", "--force")[0] == 0
    assert run(target, "--check")[0] == 0


def test_an_outdated_copy_is_told_and_updated(run: Run, target: Path) -> None:
    outdate(target)
    told = f"{target}: outdated: llmkit 0.0.9 and this one, {llmkit.__version__}, differ in 2 files\n"
    assert run(target, "--check") == (1, told, "")
    assert run(target, "--update")[0] == 0
    assert run(target, "--check")[0] == 0
    assert not (target / "gone.py").exists()
    assert [path.name for path in target.parent.iterdir()] == ["llmkit"]


@pytest.mark.parametrize("call", ["write_bytes", "rename"])
def test_an_update_that_fails_leaves_the_copy_as_it_was(
    run: Run, target: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    outdate(target)
    before = content(target.parent)
    original = getattr(Path, call)

    def fail(self: Path, *arguments: object) -> object:
        if self.name == "sse.py" or self.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Path, call, fail)
        status, out, err = run(target, "--update")
    assert (status, out) == (2, "")
    assert err == f"llmkit: {target} cannot be written: No space left on device\n"
    assert content(target.parent) == before


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("folder", [], "exists: it is no copy of llmkit; choose another place"),
        ("folder", ["--update"], "is no copy made by `llmkit vendor`: it has no VENDORED"),
        ("folder", ["--update", "--force"], "is no copy made by `llmkit vendor`"),
        ("folder", ["--check"], "is no copy made by `llmkit vendor`"),
        ("nothing", ["--update"], "is no copy made by `llmkit vendor`"),
        ("acme/_vendor/llmkit", [], "exists: --update replaces it"),
        ("my-llmkit", [], "'my-llmkit' is no name that Python can import"),
        ("class", [], "'class' is no name that Python can import"),
    ],
)
def test_what_is_no_copy_is_left_alone(
    run: Run, tmp_path: Path, target: Path, name: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("The only one")
    before = content(tmp_path)
    status, out, err = run(tmp_path / name, *arguments)
    assert (status, out, content(tmp_path)) == (2, "", before)
    assert told in err


def test_the_package_is_not_copied_onto_itself(run: Run) -> None:
    for folder in (PROJECT / "llmkit", PROJECT):
        assert run(folder)[0] == 2


def test_a_damaged_note_is_told(run: Run, target: Path) -> None:
    (target / vendor.NOTE).write_bytes(b"\xff")
    assert "VENDORED cannot be read" in run(target, "--check")[2]


def test_a_link_to_a_copy_stays_a_link(run: Run, target: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked"
    link.symlink_to(target)
    outdate(target)
    assert run(link, "--update")[0] == 0
    assert link.is_symlink()
    assert run(target, "--check")[0] == 0
