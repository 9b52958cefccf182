"""The rules of the house: floors, sizes, generated code, what the package may import, what it exports."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import llmkit
from llmkit.vendor import package_files

PACKAGE = Path(llmkit.__file__).parent
PROJECT = PACKAGE.parent

# A module imports only from lower floors, which stand above it here; `_sync` is generated from `_async`.
TIERS = (
    "errors events sse chunked decompression locks scripted media token_models token_pieces",
    "config codec schema conversation local hooks limits cache http_library network",
    "token_tables asyncio_stream wire.text_template",
    "response failures retry fallback checked tokens traffic _async._backend",
    "messages functions structured prices wire.stream_decoder _async.connection _async.body",
    "tools _async.transport _async.caching telemetry",
    "call countable",
    "wire",
    "wire.tool_call_pieces wire.messages_parameters wire.operations",
    "wire.chat_completions wire.responses wire.messages wire.generate_content _async.reader",
    "specs _async.turns",
    "services access",
    "provider scrubbing",
    "http_provider",
    "_async.exchange cassette",
    "_async.stream",
    "_async.provider scripted.faults",
    "_async.fallback scripted.replies",
    "factory choice vendor cli.terminal scripted.answers",
    "demo cli.attachments cli.answers cli.listings cli.vendoring scripted.script",
    "cli.tokens cli.conversation cli.doctor _async.scripted",
    "cli.chat _async.recording",
    "cli testing",
    "pytest_plugin",
)
FLOORS = {name: floor for floor, names in enumerate(TIERS) for name in names.split()}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("_unasync.py",))
PURE = ("sse", "wire", "wire.", "retry", "tokens", "failures", "messages", "call", "tools", "response", "events")
PURE += ("schema", "checked", "functions", "structured", "fallback", "decompression", "scripted", "scrubbing")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__").replace("_sync.", "_async.")


def imports(path: Path) -> list[str]:
    """Return the modules of the package that a module imports, apart from those for annotations alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    package = path.relative_to(PACKAGE).parent.parts
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *([node.module] if node.module else [])]).replace("_sync", "_async")
            # `from . import name` means a module of that folder, or a name of the folder itself.
            inner = [f"{target}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "__version__"]
            found += [name if name in FLOORS else target for name in inner] if not node.module else [target]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    name = name_of(path)
    if name in ("", "_async", "_sync", "__main__"):
        return
    assert name in FLOORS, f"{name} has no floor: give it one in this test"
    too_high = [target for target in imports(path) if FLOORS[target] >= FLOORS[name]]
    assert not too_high


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert lines <= 70, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_copy_under_another_name_would_work(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not [name for name in names if name.split(".")[0] == "llmkit"]
    assert path.stem not in sys.stdlib_module_names or path.parent != PACKAGE


@pytest.mark.parametrize("name", [name for name in package_files() if name.endswith(".py")])
def test_a_copy_passes_type_checkers_without_the_libraries_it_can_miss(name: str) -> None:
    text = (PACKAGE / name).read_text("utf-8")
    always_there = {"anyio", "httpx", "h11", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for imported in names:
            line = text.splitlines()[node.lineno - 1]
            assert imported.split(".")[0] in always_there or "type: ignore[import-not-found, unused-ignore]" in line


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_modules_do_no_io_and_read_no_clock(path: Path) -> None:
    name = name_of(path)
    if not name.startswith(PURE):
        return
    impure = {"time", "socket", "asyncio", "anyio", "trio", "httpx", "httpx2", "threading", "subprocess", "select"}
    top_level = ast.parse(path.read_text("utf-8")).body
    for node in top_level:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not impure & {each.split(".")[0] for each in names}
    assert not [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.AsyncFunctionDef)]


def test_every_floor_has_its_module() -> None:
    names = {name_of(path) for path in MODULES}
    assert not set(FLOORS) - names


def test_generated_code_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(PACKAGE / "_unasync.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_importing_llmkit_loads_nothing_heavy() -> None:
    heavy = ["anyio", "asyncio", "dataclasses", "httpx", "httpx2", "pydantic", "pydantic_core"]
    heavy += ["tenacity", "tiktoken", "trio"]
    code = f"import sys, llmkit; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_exported_is_there_and_is_what_type_checkers_see() -> None:
    for name in llmkit.__all__:
        assert getattr(llmkit, name) is not None
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(llmkit.__all__) == set(dir(llmkit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_provider'"):
        llmkit.create_provider  # noqa: B018


def test_public_names_have_docstrings() -> None:
    for name in llmkit.__all__:
        value = getattr(llmkit, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
