"""Scripted errors: how a service, or the network, would cause each of our exceptions. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import (
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderOverloadedError,
    LLMProviderPermissionError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderTokenLimitError,
)
from ..failures import error_from_response

__all__ = ["NetworkFailure", "check_error", "error_object", "error_response", "network_failure"]

# The status and the code with which OpenAI's API causes each exception.
_CAUSES: Final[Mapping[type[LLMProviderError], tuple[int, str]]] = {
    LLMProviderAuthenticationError: (401, "invalid_api_key"),
    LLMProviderPermissionError: (403, "permission_denied"),
    LLMProviderNotFoundError: (404, "model_not_found"),
    LLMProviderBadRequestError: (400, "invalid_request_error"),
    LLMProviderTokenLimitError: (400, "context_length_exceeded"),
    LLMProviderContentFilterError: (400, "content_filter"),
    LLMProviderRateLimitError: (429, "rate_limit_exceeded"),
    LLMProviderQuotaError: (429, "insufficient_quota"),
    LLMProviderServerError: (500, "server_error"),
    LLMProviderOverloadedError: (503, "server_is_overloaded"),
    LLMProviderTimeoutError: (504, "timeout_error"),
}
# The exceptions of httpx that cause ours, by the `code` that ours then have; the first where it has none.
_FAILURES: Final[Mapping[type[LLMProviderError], tuple[str, ...]]] = {
    LLMProviderConnectionError: ("ConnectError", "ReadError", "WriteError", "RemoteProtocolError", "ProxyError"),
    LLMProviderTimeoutError: ("ReadTimeout", "ConnectTimeout", "WriteTimeout", "PoolTimeout"),
    LLMProviderStreamError: ("RemoteProtocolError",),
}


@dataclass(frozen=True, slots=True)
class NetworkFailure:
    """A failure of the network: the name of httpx's exception, and its message."""

    name: str
    message: str


def network_failure(error: LLMProviderError) -> NetworkFailure | None:
    """Return the failure of the network that causes an exception, None where the service itself says it."""
    names = next((names for kind, names in _FAILURES.items() if isinstance(error, kind)), None)
    if names is None or error.status_code is not None:
        return None
    name = next((name for name in names if name == error.code), names[0])
    return NetworkFailure(name, error.message or "scripted")


def error_object(error: LLMProviderError) -> dict[str, Any]:
    """Return an error as a service words it, in a body or in an event of a stream; the status is OpenRouter's way."""
    status, code = _CAUSES[_kind(error)]
    told = {"message": error.message or "scripted", "code": error.code or code, "param": error.parameter}
    return {"error": {"type": error.code or code, "status": error.status_code or status, **told}}


def error_response(error: LLMProviderError) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer that causes an exception."""
    status, _ = _CAUSES[_kind(error)]
    named = {"retry-after": error.retry_after, "x-request-id": error.request_id}
    headers = {name: str(value) for name, value in named.items() if value is not None}
    if error.should_retry is not None:
        headers["x-should-retry"] = str(error.should_retry).lower()
    return error.status_code or status, headers, json.dumps(error_object(error)).encode()


def check_error(error: LLMProviderError) -> None:
    """Raise LLMProviderConfigurationError for an error that no service can cause, or not with these attributes."""
    if network_failure(error):
        return
    kind = _kind(error)
    status, headers, body = error_response(error)
    caused = type(error_from_response(status, headers, body, now=0.0))
    if caused is not kind:
        raise LLMProviderConfigurationError(
            f"the scripted {type(error).__name__} would come out as {caused.__name__}, because of its status_code, "
            f"code or message: {status}, {error.code!r}, {error.message!r}"
        )


def _kind(error: LLMProviderError) -> type[LLMProviderError]:
    """Return the class of the table that an error is of."""
    for kind in type(error).__mro__:
        if kind in _CAUSES:
            return kind
    raise LLMProviderConfigurationError(
        f"no service causes {type(error).__name__}: script the answer that does, or one of "
        f"{', '.join(sorted(kind.__name__ for kind in {*_CAUSES, *_FAILURES}))}"
    )
