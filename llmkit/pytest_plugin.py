"""A fixture for pytest: recordings that are named after their tests. Loaded by whoever wants it, in a conftest.py:

pytest_plugins = ["llmkit.pytest_plugin"]
"""

from __future__ import annotations

import re
from hashlib import sha256

import pytest  # type: ignore[import-not-found, unused-ignore]

from .testing import recording

__all__ = ["llm_recording"]


@pytest.fixture  # type: ignore[untyped-decorator, unused-ignore]
def llm_recording(request: pytest.FixtureRequest) -> recording:
    """Return the test's recording, to be entered: `recordings/FILE/TEST.json` beside the file of the test."""
    test = request.node.nodeid.partition("::")[2]
    name = re.sub(r"[^\w.-]+", "-", test).strip("-")
    if re.search(r"\[.*[^\w.-].*\]", test):
        # Parameters may differ in nothing but what a file name cannot have.
        name += f"-{sha256(test.encode()).hexdigest()[:8]}"
    return recording(request.path.parent / "recordings" / request.path.stem / f"{name}.json")
