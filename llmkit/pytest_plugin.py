"""A fixture for pytest: recordings that are named after their tests. Loaded by whoever wants it, in a conftest.py:

pytest_plugins = ["llmkit.pytest_plugin"]
"""

from __future__ import annotations

import re

import pytest  # type: ignore[import-not-found, unused-ignore]

from .testing import recording

__all__ = ["llm_recording"]


@pytest.fixture  # type: ignore[untyped-decorator, unused-ignore]
def llm_recording(request: pytest.FixtureRequest) -> recording:
    """Return the test's recording, to be entered: `recordings/FILE/TEST.json` beside the file of the test."""
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid.partition("::")[2]).strip("-")
    return recording(request.path.parent / "recordings" / request.path.stem / f"{name}.json")
