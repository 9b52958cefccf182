"""The fixture of recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmkit.pytest_plugin import llm_recording
from llmkit.testing import recording

__all__ = ["llm_recording"]

FOLDER = Path(__file__).parent / "recordings" / "test_pytest_plugin"


@pytest.mark.parametrize("text", ["a/b: ../c?", "a-b-..-c"])
def test_a_recording_is_named_after_its_test(llm_recording: recording, text: str) -> None:
    names = {"a/b: ../c?": "a-b-..-c-d9f47ed6", "a-b-..-c": "a-b-..-c"}
    assert llm_recording.path == FOLDER / f"test_a_recording_is_named_after_its_test-{names[text]}.json"
    with llm_recording as client:
        assert not client.is_closed
    # Nothing was asked.
    assert client.is_closed and not FOLDER.exists()
