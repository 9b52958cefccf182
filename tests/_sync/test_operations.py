# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""What services offer beside answers, over real sockets: embeddings, model lists, token counts."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from llmkit import (
    LLMProviderBadRequestError,
    LLMProviderNotFoundError,
    LLMProviderServerError,
    LLMProviderUnsupportedOperationError,
)

from ..server import Server, json_reply
from ._backend import make_provider_of

pytestmark = pytest.mark.anyio


def test_embeddings_of_openai(server: Server) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    rows = [{"index": 1, "embedding": packed}, {"index": 0, "embedding": [1, 2.5]}]
    server.add(json_reply({"data": rows, "model": "small-1", "usage": {"prompt_tokens": 4}}))
    with make_provider_of("openai", server) as provider:
        embeddings = provider.embed(["a", "b"], model_name="small", dimensions=2)
    assert embeddings.vectors == [[1.0, 2.5], [0.5, -1.0]]
    assert (embeddings.model, embeddings.prompt_tokens) == ("small-1", 4)
    assert server.requests[0].path == "/v1/embeddings"
    assert server.bodies == [{"model": "small", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2}]


def test_embeddings_of_gemini(server: Server) -> None:
    server.add(json_reply({"embeddings": [{"values": [1, 2]}]}))
    with make_provider_of("gemini", server) as provider:
        embeddings = provider.embed("a", model_name="embedder")
    assert embeddings.vectors == [[1.0, 2.0]]
    assert server.requests[0].path == "/v1/v1beta/models/embedder:batchEmbedContents"
    assert server.bodies == [{"requests": [{"model": "models/embedder", "content": {"parts": [{"text": "a"}]}}]}]


@pytest.mark.parametrize(
    ("settings", "paths", "models"),
    [
        ({"model_name": "models/m"}, "/v1/v1beta/models/", "models/m"),
        ({"model_name": "tunedModels/m", "api_version": "v1"}, "/v1/v1/tunedModels/", "tunedModels/m"),
        ({"model_name": "m/n", "api_version": ""}, "/v1/models/", "models/m/n"),
    ],
)
def test_gemini_is_asked_by_version_and_full_names(
    server: Server, settings: Any, paths: str, models: str
) -> None:
    server.add(json_reply({"embeddings": [{"values": [1]}]}), json_reply({"totalTokens": 7}), json_reply({}))
    with make_provider_of("gemini", server) as provider:
        provider.embed("a", **settings)
        provider.count_tokens("Hello", **{"api_version": "v1beta", **settings})
        provider.list_models(**settings)
    embed, count, listed = (request.path for request in server.requests)
    assert embed.startswith(paths) and count.startswith(paths)
    assert listed == f"{paths.removesuffix('/tunedModels/').removesuffix('/models/')}/models?pageSize=1000"
    assert server.bodies[0]["requests"][0]["model"] == server.bodies[1]["generateContentRequest"]["model"] == models


@pytest.mark.parametrize(
    ("name", "body"),
    [("openai", {"data": [{"embedding": [1]}]}), ("gemini", {"embeddings": [{"values": [1]}, {"values": [1]}] * 2})],
)
def test_there_is_a_vector_for_each_text(server: Server, name: str, body: Any) -> None:
    server.default = json_reply(body)
    with make_provider_of(name, server) as provider:
        with pytest.raises(LLMProviderServerError, match=r"\d vectors for 3 texts"):
            provider.embed(["a", "b", "c"], max_retries=0)


def test_models_may_stand_in_no_object(server: Server) -> None:
    server.add(json_reply([{"id": "a"}, {"id": "b", "context_length": 10}]))
    with make_provider_of("together", server) as provider:
        assert [model.id for model in provider.list_models()] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "extra", "place"),
    [
        ("openai", {"instructions": "Be brief", "store": False}, []),
        ("anthropic", {"system": "Be brief", "top_k": 5}, []),
        ("gemini", {"systemInstruction": "Be brief"}, ["generateContentRequest"]),
    ],
)
def test_what_is_added_to_requests_is_counted_and_what_changes_no_count_is_not_sent(
    server: Server, name: str, extra: dict[str, Any], place: list[str]
) -> None:
    server.default = json_reply({"input_tokens": 7, "totalTokens": 7})
    settings: dict[str, Any] = {"stop": "END", "seed": 1, "frequency_penalty": 0.5, "temperature": 0.1}
    if name == "anthropic":
        settings = {"stop": "END", "temperature": 0.1}
    with make_provider_of(name, server) as provider:
        provider.count_tokens("Hello", extra_params=extra, **settings)
    body = server.bodies[0]
    for key in place:
        assert not body.keys() & extra.keys()
        body = body[key]
    assert "Be brief" in body.values()
    assert not {"store", "top_k", "stop", "seed", "temperature"} & body.keys()


@pytest.mark.parametrize(
    ("name", "pages", "queries"),
    [
        ("openai", [{"data": [{"id": "a"}, {"id": "b", "context_length": 10}]}], [""]),
        (
            "anthropic",
            [
                {"data": [{"id": "a"}], "has_more": True, "last_id": "a"},
                {"data": [{"id": "b", "max_input_tokens": 10}], "has_more": False, "last_id": "b"},
            ],
            ["limit=1000", "limit=1000&after_id=a"],
        ),
        (
            "gemini",
            [
                {"models": [{"name": "models/a"}], "nextPageToken": "t"},
                {"models": [{"name": "models/b", "inputTokenLimit": 10}]},
            ],
            ["pageSize=1000", "pageSize=1000&pageToken=t"],
        ),
    ],
)
def test_all_pages_of_the_models_are_read(server: Server, name: str, pages: Any, queries: Any) -> None:
    server.add(*(json_reply(page) for page in pages))
    with make_provider_of(name, server) as provider:
        models = provider.list_models()
    assert [(model.id, model.context_window) for model in models] == [("a", None), ("b", 10)]
    assert [request.path.partition("?")[2] for request in server.requests] == queries
    assert {(request.method, request.body) for request in server.requests} == {("GET", None)}


def test_models_without_end_are_an_error(server: Server) -> None:
    server.default = json_reply({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})
    with make_provider_of("anthropic", server) as provider:
        with pytest.raises(LLMProviderServerError, match="more than 100 pages"):
            provider.list_models()
    assert len(server.requests) == 101


def test_names_cannot_change_the_path(server: Server) -> None:
    server.default = json_reply({"embeddings": [{"values": [1]}]})
    with make_provider_of("gemini", server) as provider:
        provider.embed("a", model_name="../x?key=y#z")
    assert [request.path for request in server.requests] == [
        "/v1/v1beta/models/..%2Fx%3Fkey%3Dy%23z:batchEmbedContents"
    ]


@pytest.mark.parametrize(
    ("name", "path", "answer"),
    [
        ("openai", "/v1/responses/input_tokens", {"input_tokens": 7}),
        ("anthropic", "/v1/messages/count_tokens", {"input_tokens": 7}),
        ("gemini", "/v1/v1/models/m:countTokens", {"totalTokens": 7}),
    ],
)
def test_the_service_counts_the_prompt_with_its_tools(server: Server, name: str, path: str, answer: Any) -> None:
    server.add(json_reply(answer))
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    with make_provider_of(name, server) as provider:
        assert provider.count_tokens("Hello", "Be brief", tools=[tool], temperature=0.5) == 7
    assert server.requests[0].path == path
    body = server.bodies[0]
    inner = body.get("generateContentRequest", body)
    assert "Be brief" in str(inner)
    assert "now" in str(inner["tools"])
    assert not {"temperature", "max_tokens", "max_output_tokens", "stream"} & set(inner)


def test_what_a_service_does_not_offer_is_refused_before_anything_is_sent(server: Server) -> None:
    with make_provider_of("anthropic", server) as provider:
        with pytest.raises(LLMProviderUnsupportedOperationError, match="anthropic: it does not support embed"):
            provider.embed("a")
    with make_provider_of("groq", server) as provider:
        with pytest.raises(LLMProviderUnsupportedOperationError, match="groq: it does not support count_tokens"):
            provider.count_tokens("a")
    assert server.requests == []


def test_what_is_no_text_is_not_embedded(server: Server) -> None:
    with make_provider_of("openai", server) as provider:
        for texts, kind in ((5, "an int"), ([1], "a list"), (b"a", "a bytes")):
            with pytest.raises(LLMProviderBadRequestError, match=f"texts is {kind}; it must be a string or a list"):
                provider.embed(texts)  # type: ignore[arg-type]
    assert server.requests == []


def test_errors_are_those_of_every_call(server: Server, sleeps: list[float]) -> None:
    server.add(
        json_reply({"error": {"message": "no such model", "code": "model_not_found"}}, 404),
        json_reply({"error": {"message": "busy"}}, 503),
        json_reply({"data": [{"id": "a"}]}),
        json_reply({"data": "nonsense"}),
    )
    with make_provider_of("openai", server) as provider:
        with pytest.raises(LLMProviderNotFoundError, match="no such model"):
            provider.embed("a")
        assert [model.id for model in provider.list_models()] == ["a"]
        assert len(sleeps) == 1
        with pytest.raises(LLMProviderServerError, match="unexpected shape"):
            provider.list_models(max_retries=0)


@pytest.mark.parametrize("embedding", ["AAAA", [10**400], ["x"], 5, [None]])
def test_what_is_no_vector_is_an_error_of_the_service(server: Server, embedding: Any) -> None:
    server.add(json_reply({"data": [{"embedding": embedding}]}))
    with make_provider_of("openai", server) as provider:
        with pytest.raises(LLMProviderServerError, match="unexpected shape"):
            provider.embed("a", max_retries=0)
