"""Writes the blocking twin of a folder of async modules, line for line. Never imported at run time.

    python -P llmkit/_unasync.py                     write llmkit/_sync/ from llmkit/_async/ (and the tests' twins)
    python -P llmkit/_unasync.py --check             exit 1 where a twin is not what would be written
    python -P llmkit/_unasync.py my_async my_sync    the same for a folder of your own

Names that mean I/O (sleep, shield, transport …) need no rule: both worlds import them from their `_backend.py`,
which is written by hand. No rule adds, drops or joins a line, so tracebacks of both worlds show the same lines.
After `httpcore/scripts/unasync.py`; unlike it, whole texts are compared, and twins without a source are reported.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HAND_WRITTEN = {"_backend.py", "__init__.py"}
RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\basync (def|with|for)\b", r"\1"),
        (r"\bawait ", ""),
        (r"\bAsync(Iterator)\b", r"\1"),
        (r"\bAsync(?=[A-Z])", "Sync"),
        (r"\bAwaitable\[([^][]*(?:\[[^][]*\])?)\]", r"\1"),
        (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
        (r"\bStopAsyncIteration\b", "StopIteration"),
        (r"\ba(close|iter|iter_bytes|next)\b", r"\1"),
        (r"\b_async\b", "_sync"),
    ]
]


def unasync(text: str, used: set[str]) -> str:
    """Return the blocking twin of an async module's text; adds the patterns that matched to `used`."""
    for pattern, replacement in RULES:
        text, count = pattern.subn(replacement, text)
        if count:
            used.add(pattern.pattern)
    return text


def twins(source: Path, target: Path, used: set[str]) -> dict[Path, str]:
    """Return path → text of every file that `target` must hold for the modules of `source`."""
    paths = [path for path in sorted(source.glob("*.py")) if path.name not in HAND_WRITTEN]
    return {target / path.name: unasync(path.read_text("utf-8"), used) for path in paths}


def complaints(source: Path, target: Path, texts: dict[Path, str]) -> list[str]:
    """Return what is wrong with `target`: files that differ, are missing, or have no source."""
    found = []
    for path, text in texts.items():
        if not path.exists() or path.read_text("utf-8") != text:
            found.append(f"{path} is not what {source} gives: run `make generate`")
    for path in sorted(target.glob("*.py")):
        if path not in texts and path.name not in HAND_WRITTEN:
            found.append(f"{path} has no source in {source}: delete it")
    return found


def main(arguments: list[str]) -> int:
    """Write or check the twins; return the exit code."""
    check = "--check" in arguments
    folders = [Path(argument) for argument in arguments if argument != "--check"]
    package, tests = Path(__file__).parent, Path(__file__).parent.parent / "tests"
    own = [(package / "_async", package / "_sync"), (tests / "_async", tests / "_sync")]
    # A copy of the package has no tests beside it.
    pairs = [(folders[0], folders[1])] if folders else [pair for pair in own if pair[0].is_dir()]
    used: set[str] = set()
    found = []
    for source, target in pairs:
        texts = twins(source, target, used)
        if check:
            found += complaints(source, target, texts)
            continue
        target.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, "utf-8")
        found += [line for line in complaints(source, target, texts) if "no source" in line]
    if not folders:
        found += [f"the rule {p.pattern} is never used: delete it" for p, _ in RULES if p.pattern not in used]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
