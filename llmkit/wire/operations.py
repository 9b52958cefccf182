"""What services offer beside answers: embeddings, their list of models, and counts of tokens.

Each operation is a pair of pure functions, from arguments to a request and from a decoded body to a result, and
`Operations` is the set that a service has. Sources: the vendors' API references.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote

from ..errors import LLMProviderBadRequestError, LLMProviderConfigurationError, type_with_article
from . import WireRequest

__all__ = [
    "ANTHROPIC",
    "GEMINI",
    "OPENAI",
    "OPENAI_COMPATIBLE",
    "Embeddings",
    "ModelInfo",
    "Operations",
    "checked_texts",
    "complete",
    "gemini_model",
    "gemini_version",
]

GEMINI_VERSION: Final = "v1beta"
"""Embeddings and counts are not in v1."""


@dataclass(slots=True)
class Embeddings:
    """A vector for each text, in the order of the texts.

    `prompt_tokens` is None where the service does not count; `raw` is the body as it came.
    """

    vectors: list[list[float]]
    model: str
    prompt_tokens: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class ModelInfo:
    """A model that a service offers; the numbers of tokens are None where it does not tell them."""

    id: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


def checked_texts(texts: Any) -> Sequence[str]:
    """Return the texts to embed as a list; raises LLMProviderBadRequestError for what is neither text nor texts."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
        return texts
    raise LLMProviderBadRequestError(f"texts is {type_with_article(texts)}; it must be a string or a list of strings")


def complete(embeddings: Embeddings, texts: Sequence[str]) -> Embeddings:
    """Return embeddings as they are; raises LookupError where there is not one for each text."""
    if len(embeddings.vectors) != len(texts):
        raise LookupError(f"{len(embeddings.vectors)} vectors for {len(texts)} texts")
    return embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """What a service offers; None stands for an operation that it does not have.

    `embed`: (model, texts, dimensions, `api_version`) → request; `read_embeddings`: (body, model) → `Embeddings`.
    `list_models`: (what the last page said of the next one, "" at first, `api_version`) → request; `read_models`:
    body → models and what it says of the next page ("" at the end). `count_tokens`: the request of an answer → the
    request of its count; `read_count`: body → tokens. `stored_response`: ("retrieve", "cancel" or "delete", id of an
    answer) → request; `resume_response`: (id, number of the last event) → the request of the events after it.
    """

    embed: Callable[[str, Sequence[str], int | None, str | None], WireRequest] | None = None
    read_embeddings: Callable[[Mapping[str, Any], str], Embeddings] | None = None
    list_models: Callable[[str, str | None], WireRequest] | None = None
    read_models: Callable[[Mapping[str, Any]], tuple[list[ModelInfo], str]] | None = None
    count_tokens: Callable[[WireRequest], WireRequest] | None = None
    read_count: Callable[[Mapping[str, Any]], int] | None = None
    stored_response: Callable[[str, str], WireRequest] | None = None
    resume_response: Callable[[str, int], WireRequest] | None = None


def _openai_embed(model: str, texts: Sequence[str], dimensions: int | None, version: str | None) -> WireRequest:
    body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "float"}
    return WireRequest(path="/embeddings", body=body | ({"dimensions": dimensions} if dimensions else {}))


def _openai_read_embeddings(body: Mapping[str, Any], model: str) -> Embeddings:
    rows = sorted(body["data"], key=lambda row: row.get("index", 0))
    vectors = [_vector(row["embedding"]) for row in rows]
    usage = body.get("usage") or {}
    return Embeddings(vectors, body.get("model") or model, usage.get("prompt_tokens"), dict(body))


def _vector(embedding: Any) -> list[float]:
    """Return a vector that came as numbers, or as base64 of little-endian 32-bit floats."""
    if isinstance(embedding, str):
        data = base64.b64decode(embedding)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    return [float(number) for number in embedding]


def _openai_list_models(next_page: str, version: str | None) -> WireRequest:
    return WireRequest(path="/models", method="GET")


def _openai_read_models(body: Mapping[str, Any]) -> tuple[list[ModelInfo], str]:
    # OpenAI tells ids alone; the gateways' fields are read where they exist.
    rows = body["data"]
    return [ModelInfo(row["id"], _window(row), _most_output(row), row) for row in rows], ""


def _window(row: Mapping[str, Any]) -> int | None:
    names = ("context_length", "context_window", "max_model_len", "max_context_length", "max_input_tokens")
    return next((row[name] for name in names if isinstance(row.get(name), int)), None)


def _most_output(row: Mapping[str, Any]) -> int | None:
    top = row.get("top_provider")
    inner = top.get("max_completion_tokens") if isinstance(top, Mapping) else None
    return next(
        (row[name] for name in ("max_completion_tokens", "max_tokens") if isinstance(row.get(name), int)), inner
    )


def _openai_count(request: WireRequest) -> WireRequest:
    known = ("model", "input", "instructions", "tools", "tool_choice", "text", "reasoning", "previous_response_id")
    body = {key: value for key, value in (request.body or {}).items() if key in known}
    return WireRequest(path="/responses/input_tokens", body=body)


def _openai_stored_response(action: str, response_id: str) -> WireRequest:
    method, suffix = {"retrieve": ("GET", ""), "cancel": ("POST", "/cancel"), "delete": ("DELETE", "")}[action]
    return WireRequest(path=f"/responses/{_segment(response_id)}{suffix}", method=method)


def _openai_resume_response(response_id: str, sequence_number: int) -> WireRequest:
    query = {"stream": "true", "starting_after": str(sequence_number)}
    return WireRequest(path=f"/responses/{_segment(response_id)}", method="GET", query=query)


def _segment(response_id: str) -> str:
    """Return an id as a part of a path, which it cannot change."""
    if not response_id.strip("."):
        raise LLMProviderBadRequestError(f"response_id is {response_id!r}, which is the id of no response")
    return quote(response_id, safe="")


def _anthropic_list_models(next_page: str, version: str | None) -> WireRequest:
    query = {"limit": "1000"} | ({"after_id": next_page} if next_page else {})
    headers = {"anthropic-version": version or "2023-06-01"}
    return WireRequest(path="/models", method="GET", headers=headers, query=query)


def _anthropic_read_models(body: Mapping[str, Any]) -> tuple[list[ModelInfo], str]:
    models = [ModelInfo(row["id"], row.get("max_input_tokens"), row.get("max_tokens"), row) for row in body["data"]]
    return models, (body.get("last_id") or "") if body.get("has_more") else ""


def _anthropic_count(request: WireRequest) -> WireRequest:
    known = ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config")
    body = {key: value for key, value in (request.body or {}).items() if key in known}
    return WireRequest(path="/messages/count_tokens", body=body, headers=request.headers)


def gemini_version(version: str | None, default: str) -> str:
    """Return what stands before a path of Gemini's: its version, or nothing where the base URL has it."""
    version = default if version is None else version
    if version and not re.fullmatch(r"v\d\w*", version, re.ASCII):
        raise LLMProviderConfigurationError(f"api_version is {version!r}; it must be like v1 or v1beta")
    return f"/{version}" if version else ""


def gemini_model(model: str) -> tuple[str, str]:
    """Return the collection that a model is in, and its name there."""
    kind, slash, name = model.partition("/")
    return (kind, name) if slash and kind in ("models", "tunedModels") else ("models", model)


def _gemini_embed(model: str, texts: Sequence[str], dimensions: int | None, version: str | None) -> WireRequest:
    kind, name = gemini_model(model)
    one: dict[str, Any] = {"model": f"{kind}/{name}"} | ({"outputDimensionality": dimensions} if dimensions else {})
    requests = [one | {"content": {"parts": [{"text": text}]}} for text in texts]
    path = f"{gemini_version(version, GEMINI_VERSION)}/{kind}/{quote(name, safe='')}:batchEmbedContents"
    return WireRequest(path=path, body={"requests": requests})


def _gemini_read_embeddings(body: Mapping[str, Any], model: str) -> Embeddings:
    vectors = [[float(number) for number in row["values"]] for row in body["embeddings"]]
    usage = body.get("usageMetadata") or {}
    return Embeddings(vectors, model, usage.get("promptTokenCount"), dict(body))


def _gemini_list_models(next_page: str, version: str | None) -> WireRequest:
    query = {"pageSize": "1000"} | ({"pageToken": next_page} if next_page else {})
    return WireRequest(path=f"{gemini_version(version, GEMINI_VERSION)}/models", method="GET", query=query)


def _gemini_read_models(body: Mapping[str, Any]) -> tuple[list[ModelInfo], str]:
    rows = body.get("models") or []
    models = [
        ModelInfo(row["name"].removeprefix("models/"), row.get("inputTokenLimit"), row.get("outputTokenLimit"), row)
        for row in rows
    ]
    return models, body.get("nextPageToken") or ""


def _gemini_count(request: WireRequest) -> WireRequest:
    # The wrapper counts the system instruction and the tools, too; `contents` alone would not.
    path = request.path.rpartition(":")[0]
    inner = {"model": unquote("/".join(path.split("/")[-2:])), **(request.body or {})}
    return WireRequest(path=f"{path}:countTokens", body={"generateContentRequest": inner})


OPENAI_COMPATIBLE: Final = Operations(
    embed=_openai_embed,
    read_embeddings=_openai_read_embeddings,
    list_models=_openai_list_models,
    read_models=_openai_read_models,
)
OPENAI: Final = replace(
    OPENAI_COMPATIBLE,
    count_tokens=_openai_count,
    read_count=lambda body: int(body["input_tokens"]),
    stored_response=_openai_stored_response,
    resume_response=_openai_resume_response,
)
ANTHROPIC: Final = Operations(
    list_models=_anthropic_list_models,
    read_models=_anthropic_read_models,
    count_tokens=_anthropic_count,
    read_count=lambda body: int(body["input_tokens"]),
)
GEMINI: Final = Operations(
    embed=_gemini_embed,
    read_embeddings=_gemini_read_embeddings,
    list_models=_gemini_list_models,
    read_models=_gemini_read_models,
    count_tokens=_gemini_count,
    read_count=lambda body: int(body["totalTokens"]),
)
