"""What a real model answered, recorded in one world and replayed in all: no model, no server and no key are needed.

To record anew: `LLMKIT_RECORD_MODE=all`, with the small model in a server of llama.cpp on port 8080.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmkit import LLMConfig, Usage
from llmkit._async.provider import AsyncProvider
from llmkit.testing import recording

pytestmark = pytest.mark.anyio

FILE = Path(__file__).parent.parent / "recordings" / "small_model.json"
MODEL = LLMConfig(model_name="smollm2-135m-instruct", temperature=0.0, max_tokens=60)


async def test_a_recorded_model_answers() -> None:
    async with (
        recording(FILE) as client,
        AsyncProvider(MODEL, provider_type="llamacpp", http_client=client) as provider,
    ):
        whole = await provider.execute("What is 2+2?")
        assert "4" in whole.content and isinstance(whole.usage, Usage) and whole.prompt_tokens
        async with provider.stream("What is 2+2?") as stream:
            texts = [text async for text in stream]
            response = await stream.response()
        assert len(texts) > 5 and "".join(texts) == response.content == whole.content
        assert (response.finish_reason, response.completion_tokens) == ("stop", whole.completion_tokens)
        async with provider.stream("Name the three primary colors.", api_type="responses") as stream:
            colors = "".join([text async for text in stream])
            assert "Blue" in colors and (await stream.response()).content == colors
