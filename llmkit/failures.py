"""From any failure to our exception: statuses, error bodies and network exceptions. Imports codec and errors.

One table serves all wire formats, HTTP bodies and errors inside a stream, because services copy each other's
codes and gateways mix them. Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .codec import decode_json
from .errors import (
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

__all__ = [
    "EXCERPT",
    "error_from_body",
    "error_from_exception",
    "error_from_response",
    "error_in_text",
    "excerpt",
    "request_id",
]

EXCERPT: Final = 2000
"""The most characters of a service's body that an error carries."""

# The first row that fits decides: (exception, statuses, codes, words of the message). Codes are matched whole,
# words anywhere, both in lower case. Sources: the vendors' pages of error codes, and recorded bodies.
_RULES: Final[tuple[tuple[type[LLMProviderError], frozenset[int], frozenset[str], tuple[str, ...]], ...]] = tuple(
    (kind, frozenset(statuses), frozenset(codes.split()), words)
    for kind, statuses, codes, words in [
        (
            LLMProviderQuotaError,
            {402},
            "insufficient_quota billing_hard_limit_reached credit_balance_exhausted billing_error quota_exceeded "
            "organization_spend_limit_exceeded project_spend_limit_exceeded organization_usage_limit_exceeded "
            "enforced_spend_limit_reached contract_spend_limit_reached insufficient_balance quota_per_day "
            "exceeded_current_quota_error billing_not_active arrearage",
            (
                "credit balance is too low",
                "credits are depleted",
                "used all available credits",
                "spend limit",
                "spending limit",
                "insufficient balance",
                "usage limits. you will regain",
                # Gemini, of a model that the plan does not include.
                "limit: 0,",
                "limit: 0\n",
            ),
        ),
        (
            LLMProviderTokenLimitError,
            set(),
            "context_length_exceeded exceed_context_size_error model_context_window_exceeded tokens_limit_reached",
            (
                "maximum context length",
                "maximum prompt length",
                "greater than the context length",
                "exceeds the context window",
                "exceed context limit",
                "exceeded model token limit",
                "context window exceeds limit",
                "prompt is too long",
                "reduce the length of the messages",
                "input token count",
                "exceeds the available context size",
                "input is too long",
                "too many tokens",
                "current length is",
                "longer than the maximum model length",
                "longer than the model's context length",
                "prompt exceeds max length",
                "range of input length should be",
            ),
        ),
        (
            LLMProviderContentFilterError,
            set(),
            "content_filter content_policy_violation invalid_prompt bio_policy misalignment_policy_violation "
            "moderation_blocked responsibleaipolicyviolation data_inspection_failed image_content_policy_violation",
            ("content violates usage guidelines", "content exists risk"),
        ),
        (
            LLMProviderAuthenticationError,
            {401},
            "invalid_api_key api_key_invalid unauthenticated authentication_error",
            (),
        ),
        (LLMProviderNotFoundError, {404}, "model_not_found not_found_error not_found", ()),
        (LLMProviderPermissionError, {403}, "permission_error permission_denied", ()),
        (LLMProviderOverloadedError, {498, 503, 529}, "overloaded_error server_is_overloaded unavailable", ()),
        (
            LLMProviderRateLimitError,
            {429},
            "rate_limit_exceeded rate_limit_error slow_down resource_exhausted ramp_limit_exceeded",
            (),
        ),
        (LLMProviderTimeoutError, {408, 504}, "timeout_error deadline_exceeded", ()),
        (
            LLMProviderBadRequestError,
            set(range(400, 500)),
            # Those of images: OpenAI's schema ResponseErrorCode, of answers that fail after a status of 200.
            "invalid_request_error invalid_argument invalid_value data_residency_mismatch failed_to_download_image "
            "invalid_image invalid_image_format invalid_base64_image invalid_image_url invalid_image_mode "
            "image_too_large image_too_small image_parse_error image_file_too_large image_file_not_found "
            "unsupported_image_media_type empty_image_file",
            (),
        ),
    ]
)


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMProviderError:
    """Return the exception for an HTTP answer that is no success.

    `headers` have lower-case names; `body` may be cut; `now` (seconds since 1970) is for a `retry-after` that is a
    date, where the answer has no `date` header of its own.
    """
    text = body.decode("utf-8", "replace")
    try:
        decoded = decode_json(text)
    except ValueError:
        decoded = None
    if isinstance(decoded, (dict, list)) and decoded:
        error = error_from_body(decoded, status)
    else:
        kind = _classify(status, frozenset(), text[:EXCERPT].lower())
        told = f": {excerpt(text, 200)}" if text.strip() else " and an empty body"
        error = kind(f"the service answered {status}{told}", status_code=status)
    error.body = excerpt(text)
    error.request_id = error.request_id or request_id(headers)
    wait = _retry_after(headers, now)
    error.retry_after = error.retry_after if wait is None else wait
    error.should_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())
    return error


def error_from_body(body: Any, status: int | None = None) -> LLMProviderError:
    """Return the exception for a decoded error body, or for an error object inside a 200 answer or a stream."""
    top, *levels = _error_objects(body)
    messages = [text for level in levels if (text := _first_text(level, "message", "detail", "error", "msg"))]
    message = ": ".join(dict.fromkeys(messages)) or _first_text(top, "message", "detail") or excerpt(levels[0], 200)
    if status is None or status < 400:
        status = next((code for level in levels for code in _status_codes(level)), None)
    codes = [code for level in reversed(levels) for code in _codes(level)]
    kind = _classify(status, frozenset(code.lower() for code in codes), message.lower())
    what = f"{status or ''} {codes[0] if codes else ''}".strip() or "an error"
    return kind(
        f"the service answered {what}: {excerpt(message)}",
        status_code=status,
        code=codes[0] if codes else None,
        parameter=next((name for level in levels if (name := _first_text(level, "param"))), None),
        request_id=_first_text(top, "request_id"),
        retry_after=next((wait for level in levels if (wait := _retry_delay(level)) is not None), None),
        body=excerpt(body),
    )


def _error_objects(body: Any) -> list[Mapping[str, Any]]:
    """Return the body as an object, the error object in it, and the one of another service that a gateway passes on."""
    top = body[0] if isinstance(body, list) and body else body
    top = top if isinstance(top, Mapping) else {"message": excerpt(top)}
    error = top.get("error") or top
    # xAI and Hugging Face: the error is its message, and the code, if any, stands beside it.
    error = error if isinstance(error, Mapping) else {"message": excerpt(error), **top}
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if not isinstance(raw, str) or not raw.strip():
        return [top, error]
    # openrouter.ai/docs, "Errors": what the upstream service said is text, and that text is often JSON.
    try:
        return [top, error, _error_objects(decode_json(raw))[1]]
    except ValueError:
        return [top, error, {"message": raw}]


def error_in_text(body: bytes, is_whole: bool) -> LLMProviderError | None:
    """Return the error that a stream's last bytes hold as bare JSON, without an event around it, else None.

    `is_whole`: the body held no event at all, so whatever it says instead of an answer is the error.
    """
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").strip()
    last = text if is_whole else text[text.rfind("\n\n") + 1 :].strip()
    try:
        decoded = decode_json(last)
    except ValueError:
        decoded = None
    first = decoded[0] if isinstance(decoded, list) and decoded else decoded
    if isinstance(first, dict) and first.get("error"):
        return error_from_body(decoded)
    if is_whole:
        told = f"it begins with {excerpt(text, 200)!r}" if text else "it is empty"
        # A whole answer in another form is paid for: asking again would only cost again.
        again = None if decoded is None else False
        told = f"the service sent no stream of events: {told}"
        return LLMProviderServerError(told, body=excerpt(text), should_retry=again)
    return None


def _classify(status: int | None, codes: frozenset[str], message: str) -> type[LLMProviderError]:
    # A string that is over its own maximum is a bad request, although its message speaks of lengths.
    if "string_above_max_length" not in codes:
        for kind, _, known, words in _RULES:
            if known & codes or any(word in message for word in words):
                # Too many tokens a minute is no prompt that is too long.
                if (kind, status) == (LLMProviderTokenLimitError, 429):
                    continue
                # Nearly all of OpenAI's errors are of this type: any other status says more.
                if kind is LLMProviderBadRequestError and status not in (None, 400):
                    break
                return kind
    return next((kind for kind, statuses, _, _ in _RULES if status in statuses), LLMProviderServerError)


def _codes(error: Mapping[str, Any]) -> Iterator[str]:
    """Yield the codes of an error object, the most telling first."""
    details, inner, metadata = error.get("details"), error.get("innererror"), error.get("metadata")
    listed = [detail for detail in details if isinstance(detail, Mapping)] if isinstance(details, list) else []
    found = [detail.get("reason") for detail in listed]
    found += [error.get(key) for key in ("code", "status", "type")]
    if isinstance(details, Mapping):
        found.insert(0, details.get("error_code"))
    if isinstance(inner, Mapping):
        found.append(inner.get("code"))
    yield from (code for code in found if code and isinstance(code, str) and code != "error")
    for detail in listed:
        yield from _quota_codes(detail)
    # OpenRouter: a moderated prompt is a 403 whose metadata has the reasons.
    if isinstance(metadata, Mapping) and metadata.get("reasons"):
        yield "content_filter"


def _status_codes(error: Mapping[str, Any]) -> Iterator[int]:
    """Yield the HTTP statuses that an error object names, as numbers or as text."""
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            yield value


def _quota_codes(detail: Mapping[str, Any]) -> Iterator[str]:
    # ai.google.dev/gemini-api/docs/rate-limits: a QuotaFailure of a day does not pass by waiting, one of a minute does.
    violations = detail.get("violations")
    for violation in violations if isinstance(violations, list) else ():
        if isinstance(violation, Mapping) and "PerDay" in str(violation.get("quotaId")):
            yield "quota_per_day"


def _first_text(error: Mapping[str, Any], *keys: str) -> str | None:
    for key in keys:
        value = error.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def _retry_delay(error: Mapping[str, Any]) -> float | None:
    """Return the seconds of Google's `RetryInfo` (google.rpc, `retryDelay: "46s"`), else None."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str) and re.fullmatch(r"\d{1,9}(\.\d+)?s", delay):
            return float(delay[:-1])
    return None


def _retry_after(headers: Mapping[str, str], now: float | None) -> float | None:
    """Return the seconds to wait by `retry-after-ms` or `retry-after` (RFC 9110, 10.2.3), else None.

    The longer of the two counts, since Azure can send one second and zero milliseconds at once.
    """
    waits = [_seconds(headers.get("retry-after-ms"), 1000), _seconds(headers.get("retry-after"), 1)]
    known = [wait for wait in waits if wait is not None]
    if known:
        return max(known)
    date, sent = _date(headers.get("retry-after")), _date(headers.get("date"))
    start = sent if sent is not None else now
    return max(0.0, date - start) if date is not None and start is not None else None


def _seconds(text: str | None, unit: int) -> float | None:
    try:
        value = float(text or "") / unit
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(text: str | None) -> float | None:
    if not text:
        return None
    # Slow to import, for a header that hardly any answer has.
    import email.utils

    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the service's id of the request, by the header that it uses, else None."""
    names = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "cf-ray")
    return next((headers[name] for name in names if headers.get(name)), None)


def excerpt(value: object, most: int = EXCERPT) -> str:
    """Return the beginning of a text, or of a value's text, on one line, at most `most` characters."""
    try:
        text = str(value)
    except RecursionError:
        return "(nested too deeply to be shown)"
    cut = " ".join(text[: most * 2].split())
    return cut if len(cut) <= most and len(text) <= most * 2 else cut[:most] + "…"


# httpx and httpx2 name their exceptions alike; the names of a class and its bases are looked up, nearest first.
_NETWORK: Final[Mapping[str, tuple[type[LLMProviderError], str]]] = {
    "ConnectTimeout": (LLMProviderTimeoutError, "no connection within the timeout"),
    "PoolTimeout": (LLMProviderTimeoutError, "no free connection within the timeout"),
    "ReadTimeout": (LLMProviderTimeoutError, "no answer within the timeout"),
    "WriteTimeout": (LLMProviderTimeoutError, "the request could not be sent within the timeout"),
    "TimeoutException": (LLMProviderTimeoutError, "the timeout ran out"),
    "UnsupportedProtocol": (LLMProviderConfigurationError, "base_url must begin with https:// or http://"),
    "InvalidURL": (LLMProviderConfigurationError, "base_url is no URL"),
    "LocalProtocolError": (LLMProviderConfigurationError, "the request cannot be sent over HTTP"),
    "DecodingError": (LLMProviderServerError, "the answer's compression is broken or unknown"),
    "ConnectError": (LLMProviderConnectionError, "no connection"),
    "RemoteProtocolError": (LLMProviderConnectionError, "the service broke the HTTP protocol or the connection"),
    "ProxyError": (LLMProviderConnectionError, "the proxy refused"),
    "TransportError": (LLMProviderConnectionError, "the connection broke"),
    "StreamError": (LLMProviderStreamError, "the stream was closed"),
}


def error_from_exception(error: BaseException) -> LLMProviderError | None:
    """Return the exception for one of httpx's, or None where it is none of a network.

    The connection errors and timeouts say by `code` which httpx exception it was, e.g. "ReadTimeout".
    """
    for kind in type(error).__mro__:
        if kind.__name__ in _NETWORK:
            exception, message = _NETWORK[kind.__name__]
            told = excerpt(str(error), 200)
            name = type(error).__name__
            return exception(f"{message} ({name}{f': {told}' if told else ''})", code=name)
    return None
