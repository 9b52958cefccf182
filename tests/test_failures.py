"""From statuses, error bodies and network exceptions to the right exception; no socket, no clock."""

from __future__ import annotations

import json
import pickle
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import errors
from llmkit.errors import LLMProviderError
from llmkit.failures import error_from_body, error_from_exception, error_from_response, error_in_text, excerpt


def openai(message: str, type: Any = "invalid_request_error", code: Any = None, param: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def anthropic(type: str, message: str, **details: Any) -> dict[str, Any]:
    error = {"type": type, "message": message, **({"details": details} if details else {})}
    return {"type": "error", "error": error, "request_id": "req_1"}


def google(status: int, name: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": name, "details": list(details)}}


def quota(period: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": f"Requests{period}"}]}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46.5s"}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def openrouter(status: int, message: str, **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "metadata": metadata}, "user_id": "u"}


def llama(status: int, type: str, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": type}}


def vllm(status: int, message: str, type: str = "BadRequestError") -> dict[str, Any]:
    return {"object": "error", "message": message, "type": type, "param": None, "code": status}


class Row(NamedTuple):
    """A body, and what it must become: LLMProvider…Error, the code, and the parameter."""

    service: str
    status: int
    body: Any
    kind: str
    code: str | None = None
    parameter: str | None = None


HTML = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

ROWS = [
    # 400
    Row("openai", 400, openai("Unknown parameter: 'tempo'.", code="unknown_parameter", param="tempo"),
        "BadRequest", "unknown_parameter", "tempo"),
    Row("openai", 400, openai("'temperature' does not support 0.7", code="unsupported_value", param="temperature"),
        "BadRequest", "unsupported_value", "temperature"),
    Row("openai", 400, openai("Bad messages"), "BadRequest", "invalid_request_error"),
    Row("openai", 400, openai("This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
        "TokenLimit", "context_length_exceeded"),
    Row("openai responses", 400, openai("Your input exceeds the context window of this model."), "TokenLimit",
        "invalid_request_error"),
    Row("openai", 400, openai("Invalid 'user': string too long. Expected a string with maximum context length 64",
                              code="string_above_max_length", param="user"),
        "BadRequest", "string_above_max_length", "user"),
    Row("openai responses", 400, openai("No such model", code="model_not_found", param="model"), "NotFound",
        "model_not_found", "model"),
    Row("openai", 400, openai("Flagged", code="content_policy_violation"), "ContentFilter", "content_policy_violation"),
    Row("openai responses", 400, openai("Invalid prompt: flagged", code="invalid_prompt"), "ContentFilter",
        "invalid_prompt"),
    Row("openai", 400, openai("Hard limit", code="billing_hard_limit_reached"), "Quota", "billing_hard_limit_reached"),
    Row("azure", 400, {"error": {"message": "Filtered", "code": "content_filter", "status": 400, "param": "prompt",
                                 "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "ContentFilter", "content_filter", "prompt"),
    Row("azure", 400, {"error": {"message": "Filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "ContentFilter", "ResponsibleAIPolicyViolation"),
    Row("anthropic", 400, anthropic("invalid_request_error", "messages: at least one message is required"),
        "BadRequest", "invalid_request_error"),
    Row("anthropic", 400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        "TokenLimit", "invalid_request_error"),
    Row("anthropic", 400, anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 9"),
        "TokenLimit", "invalid_request_error"),
    Row("anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        "Quota", "invalid_request_error"),
    Row("anthropic", 400, anthropic("invalid_request_error", "You have reached your specified API usage limits. "
                                    "You will regain access on 2027-01-01."), "Quota", "invalid_request_error"),
    Row("gemini", 400, google(400, "INVALID_ARGUMENT", "Invalid value at 'x'"), "BadRequest", "INVALID_ARGUMENT"),
    Row("gemini", 400, google(400, "INVALID_ARGUMENT", "API key not valid.", BAD_KEY), "Authentication",
        "API_KEY_INVALID"),
    Row("gemini", 400, google(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number (8)."),
        "TokenLimit", "INVALID_ARGUMENT"),
    Row("gemini", 400, google(400, "FAILED_PRECONDITION", "User location is not supported"), "BadRequest",
        "FAILED_PRECONDITION"),
    Row("gemini, array", 400, [google(400, "INVALID_ARGUMENT", "Bad")], "BadRequest", "INVALID_ARGUMENT"),
    Row("groq", 400, openai("Please reduce the length of the messages or completion.", code="context_length_exceeded"),
        "TokenLimit", "context_length_exceeded"),
    Row("groq", 400, openai("Failed to call a function.", code="tool_use_failed"), "BadRequest", "tool_use_failed"),
    Row("cerebras", 400, openai("Current length is 9000 while limit is 8192"), "TokenLimit", "invalid_request_error"),
    Row("xai", 400, {"code": "Client specified an invalid argument", "error": "Model does not support stop."},
        "BadRequest", "Client specified an invalid argument"),
    Row("xai", 400, {"code": "Bad", "error": "This model's maximum prompt length is 8 but the request contains 9."},
        "TokenLimit", "Bad"),
    Row("deepseek", 400, openai("Content Exists Risk"), "ContentFilter", "invalid_request_error"),
    Row("dashscope", 400, openai("Inappropriate content.", code="data_inspection_failed"), "ContentFilter",
        "data_inspection_failed"),
    Row("dashscope", 400, openai("Access denied", code="Arrearage"), "Quota", "Arrearage"),
    Row("dashscope", 400, openai("Range of input length should be [1, 9]"), "TokenLimit", "invalid_request_error"),
    Row("zai", 400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, "TokenLimit", "1261"),
    Row("vllm", 400, vllm(400, "The prompt (length 9) is longer than the maximum model length of 8"), "TokenLimit",
        "BadRequestError"),
    Row("sglang", 400, vllm(400, "The input (9 tokens) is longer than the model's context length (8 tokens)."),
        "TokenLimit", "BadRequestError"),
    Row("fireworks", 412, {"error": {"message": "Account suspended, possibly due to reaching the monthly spending "
                                                "limit"}}, "Quota"),
    Row("openai", 429, openai("Your account is not active", "billing_not_active", "billing_not_active"), "Quota",
        "billing_not_active"),
    Row("xai", 429, {"code": "Some resource has been exhausted", "error": "Your team has used all available credits "
                     "or reached its monthly spending limit."}, "Quota", "Some resource has been exhausted"),
    Row("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."), "Quota",
        "RESOURCE_EXHAUSTED"),
    Row("moonshot", 400, openai("Your request exceeded model token limit: 9"), "TokenLimit", "invalid_request_error"),
    Row("llama.cpp", 400, llama(400, "exceed_context_size_error", "the request exceeds the size"), "TokenLimit",
        "exceed_context_size_error"),
    Row("llama.cpp", 400, llama(400, "invalid_request_error", "Missing 'messages'"), "BadRequest",
        "invalid_request_error"),
    Row("vllm", 400, vllm(400, "This model's maximum context length is 4096 tokens."), "TokenLimit", "BadRequestError"),
    Row("vllm", 400, vllm(400, "Bad role"), "BadRequest", "BadRequestError"),
    Row("bedrock", 400, {"message": "Input is too long for requested model."}, "TokenLimit"),
    Row("openrouter", 400, openrouter(400, "Provider returned error", provider_name="OpenAI", raw=json.dumps(
        openai("Unsupported parameter: 'temperature'.", code="unsupported_parameter", param="temperature"))),
        "BadRequest", "unsupported_parameter", "temperature"),
    Row("openrouter", 400, openrouter(400, "Provider returned error", raw="prompt is too long: 9 > 8"), "TokenLimit"),
    Row("openrouter", 400, openrouter(400, "Provider returned error", raw=" ", provider_name="x"), "BadRequest"),
    Row("openrouter", 400, openrouter(400, "Provider returned error", raw='"text"'), "BadRequest"),
    # 401
    Row("openai", 401, openai("Incorrect API key", code="invalid_api_key"), "Authentication", "invalid_api_key"),
    Row("azure", 401, {"error": {"code": "401", "message": "Access denied"}}, "Authentication", "401"),
    Row("anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), "Authentication",
        "authentication_error"),
    Row("gemini", 401, google(401, "UNAUTHENTICATED", "No credentials"), "Authentication", "UNAUTHENTICATED"),
    Row("openrouter", 401, openrouter(401, "No auth credentials found"), "Authentication"),
    Row("huggingface", 401, {"error": "Invalid username or password."}, "Authentication"),
    Row("llama.cpp", 401, llama(401, "authentication_error", "Invalid API Key"), "Authentication",
        "authentication_error"),
    Row("a gateway", 401, {"statusCode": 401, "error": "Unauthorized", "message": "Token expired"}, "Authentication"),
    # 402
    Row("deepseek", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), "Quota",
        "invalid_request_error"),
    Row("openrouter", 402, openrouter(402, "Insufficient credits"), "Quota"),
    Row("anthropic", 402, anthropic("billing_error", "Payment failed"), "Quota", "billing_error"),
    # 403
    Row("openai", 403, openai("You may not sample from this model"), "Permission", "invalid_request_error"),
    Row("anthropic", 403, anthropic("permission_error", "No"), "Permission", "permission_error"),
    Row("gemini", 403, google(403, "PERMISSION_DENIED", "No", {"reason": "SERVICE_DISABLED"}), "Permission",
        "SERVICE_DISABLED"),
    Row("openrouter", 403, openrouter(403, "Flagged", reasons=["violence"], flagged_input="…"), "ContentFilter",
        "content_filter"),
    Row("xai", 403, {"code": "No permission", "error": "Content violates usage guidelines."}, "ContentFilter",
        "No permission"),
    Row("cloudflare", 403, "<!DOCTYPE html><title>Access denied</title>", "Permission"),
    # 404
    Row("openai", 404, openai("The model `x` does not exist", code="model_not_found"), "NotFound", "model_not_found"),
    Row("anthropic", 404, anthropic("not_found_error", "model: x"), "NotFound", "not_found_error"),
    Row("gemini", 404, google(404, "NOT_FOUND", "models/x is not found"), "NotFound", "NOT_FOUND"),
    Row("azure", 404, {"error": {"code": "DeploymentNotFound", "message": "No"}}, "NotFound", "DeploymentNotFound"),
    Row("fastapi", 404, {"detail": "Not Found"}, "NotFound"),
    Row("nginx", 404, "404 page not found", "NotFound"),
    # 409, 413, 422
    Row("anthropic", 409, anthropic("conflict_error", "Busy"), "BadRequest", "conflict_error"),
    Row("anthropic", 413, anthropic("request_too_large", "Request exceeds 32 MB"), "BadRequest", "request_too_large"),
    Row("github", 413, openai("Request body too large.", None, "tokens_limit_reached"), "TokenLimit",
        "tokens_limit_reached"),
    Row("groq", 413, openai("Request too large: tokens per minute", "tokens", "rate_limit_exceeded"), "RateLimit",
        "rate_limit_exceeded"),
    Row("nginx", 413, "<h1>413 Request Entity Too Large</h1>", "BadRequest"),
    Row("fastapi", 422, {"detail": [{"loc": ["body", "tempo"], "msg": "Extra inputs", "type": "extra"}]}, "BadRequest"),
    Row("azure", 422, {"error": {"code": "Invalid input", "status": 422, "message": "invalid input error",
                                 "details": [{"loc": ["body"], "msg": "x", "type": "y"}]}},
        "BadRequest", "Invalid input"),
    # 429
    Row("openai", 429, openai("Rate limit reached", "requests", "rate_limit_exceeded"), "RateLimit",
        "rate_limit_exceeded"),
    Row("openai", 429, openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), "Quota",
        "insufficient_quota"),
    Row("openai", 429, openai("Slow down", None, "slow_down"), "RateLimit", "slow_down"),
    Row("azure", 429, {"error": {"code": "429", "message": "Requests have exceeded the token rate limit"}}, "RateLimit",
        "429"),
    Row("anthropic", 429, anthropic("rate_limit_error", "Too fast"), "RateLimit", "rate_limit_error"),
    Row("anthropic", 429, anthropic("rate_limit_error", "Limit", error_code="enforced_spend_limit_reached"), "Quota",
        "enforced_spend_limit_reached"),
    Row("anthropic", 429, anthropic("rate_limit_error", "Ramp", error_code="ramp_limit_exceeded"), "RateLimit",
        "ramp_limit_exceeded"),
    Row("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota", quota("PerMinute"), RETRY_INFO), "RateLimit",
        "RESOURCE_EXHAUSTED"),
    Row("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota", quota("PerDayPerProject"), RETRY_INFO), "Quota",
        "RESOURCE_EXHAUSTED"),
    Row("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded, limit: 0, model: x"), "Quota",
        "RESOURCE_EXHAUSTED"),
    Row("gemini, array", 429, [google(429, "RESOURCE_EXHAUSTED", "Quota")], "RateLimit", "RESOURCE_EXHAUSTED"),
    Row("openrouter", 429, openrouter(429, "Provider returned error", raw="x is rate-limited upstream"), "RateLimit"),
    Row("bedrock", 429, {"message": "Too many tokens, please wait before trying again."}, "RateLimit"),
    Row("moonshot", 429, openai("Suspended", "exceeded_current_quota_error"), "Quota", "exceeded_current_quota_error"),
    Row("a gateway", 429, "", "RateLimit"),
    # 408, 498, 5xx
    Row("a gateway", 408, "", "Timeout"),
    Row("groq", 498, openai("Capacity exceeded", "capacity", None), "Overloaded", "capacity"),
    Row("openai", 500, openai("The server had an error", "server_error"), "Server", "server_error"),
    Row("anthropic", 500, anthropic("api_error", "Internal server error"), "Server", "api_error"),
    Row("gemini", 500, google(500, "INTERNAL", "Internal"), "Server", "INTERNAL"),
    Row("openai", 500, openai("Odd", "invalid_request_error"), "Server", "invalid_request_error"),
    Row("llama.cpp", 501, llama(501, "not_supported_error", "No embeddings"), "Server", "not_supported_error"),
    Row("nginx", 502, HTML, "Server"),
    Row("openrouter", 502, openrouter(502, "Provider returned error", raw="overheated"), "Server"),
    Row("openai", 503, openai("Overloaded", "server_error", "server_is_overloaded"), "Overloaded",
        "server_is_overloaded"),
    Row("openai", 503, openai("Slow down", "rate_limit_error", "slow_down"), "RateLimit", "slow_down"),
    Row("gemini", 503, google(503, "UNAVAILABLE", "The model is overloaded"), "Overloaded", "UNAVAILABLE"),
    Row("llama.cpp", 503, llama(503, "unavailable_error", "Loading model"), "Overloaded", "unavailable_error"),
    Row("a gateway", 503, "", "Overloaded"),
    Row("gemini", 504, google(504, "DEADLINE_EXCEEDED", "Late"), "Timeout", "DEADLINE_EXCEEDED"),
    Row("anthropic", 504, anthropic("timeout_error", "Late"), "Timeout", "timeout_error"),
    Row("cloudflare", 524, "<html>A timeout occurred</html>", "Server"),
    Row("anthropic", 529, anthropic("overloaded_error", "Overloaded"), "Overloaded", "overloaded_error"),
    # Bodies that are no error objects
    *(Row("a gateway", 500, body, "Server") for body in ("", "  ", "null", "7", '"text"', "[]", "{}", "{", "\ufffd")),
    *(Row("a gateway", 400, body, "BadRequest") for body in ({"error": None}, {"error": {}}, {"error": [1]}, {"a": 1})),
    Row("a gateway", 400, [[]], "BadRequest"),
    Row("a gateway", 301, "", "Server"),
]  # fmt: skip


# What these send names the status itself, so that it is known inside of a 200 answer and of a stream, too.
NAMES_STATUS = ("gemini", "gemini, array", "openrouter", "llama.cpp", "vllm")


def name(row: Row) -> str:
    return f"{row.service} {row.status} {row.kind}"


def kind(row: Row) -> type[LLMProviderError]:
    exception: type[LLMProviderError] = getattr(errors, f"LLMProvider{row.kind}Error")
    return exception


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_an_http_error(row: Row) -> None:
    text = row.body if isinstance(row.body, str) else json.dumps(row.body)
    error = error_from_response(row.status, {"x-request-id": "header_1"}, text.encode())
    assert type(error) is kind(row)
    assert (error.code, error.parameter, error.status_code) == (row.code, row.parameter, row.status)
    assert error.request_id == ("req_1" if row.service == "anthropic" else "header_1")
    assert error.body == text.strip()
    assert str(row.status) in error.message


@pytest.mark.parametrize("row", [row for row in ROWS if row.service in NAMES_STATUS], ids=name)
def test_the_same_error_in_a_stream(row: Row) -> None:
    error = error_from_body(row.body)
    assert type(error) is kind(row)
    assert (error.code, error.parameter, error.status_code) == (row.code, row.parameter, row.status)


@pytest.mark.parametrize(
    ("body", "exception"),
    [
        (anthropic("overloaded_error", "Overloaded"), "Overloaded"),
        (anthropic("rate_limit_error", "Fast"), "RateLimit"),
        (anthropic("rate_limit_error", "Limit", error_code="contract_spend_limit_reached"), "Quota"),
        (anthropic("api_error", "Internal"), "Server"),
        (anthropic("invalid_request_error", "prompt is too long"), "TokenLimit"),
        (anthropic("authentication_error", "No"), "Authentication"),
        (openai("Boom", "server_error"), "Server"),
        (openai("Fast", "requests", "rate_limit_exceeded"), "RateLimit"),
        (openai("Broke", "insufficient_quota"), "Quota"),
        (openai("Bad"), "BadRequest"),
        ({"type": "error", "code": "server_error", "message": "Boom", "param": None}, "Server"),
        ({"error": {"message": "Fast", "code": "429"}}, "RateLimit"),
        ({"error": {"message": "No such image", "code": "invalid_image_url"}}, "BadRequest"),
        ({"error": {"message": "Too large", "code": "image_too_large"}}, "BadRequest"),
        ({"error": {"message": "No", "code": "image_content_policy_violation"}}, "ContentFilter"),
        ({"error": {"message": "Slow", "code": "vector_store_timeout"}}, "Server"),
        ({"error": {"message": "Invalid tool", "code": "tool_use_failed", "status_code": 400}}, "BadRequest"),
        ({"error": "Boom"}, "Server"),
        ("Boom", "Server"),
        (None, "Server"),
        ([], "Server"),
    ],
)
def test_an_error_in_a_stream_that_names_no_status(body: Any, exception: str) -> None:
    assert type(error_from_body(body, 200)) is getattr(errors, f"LLMProvider{exception}Error")


class TestMessages:
    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (openai("Bad role", code="invalid_value"), "the service answered 400 invalid_value: Bad role"),
            ({"error": "Bad"}, "the service answered 400: Bad"),
            ({"error": "Unauthorized", "message": "Token expired"}, "the service answered 400: Token expired"),
            ({"detail": "Bad"}, "the service answered 400: Bad"),
            ({"detail": [{"loc": ["body", "tempo"]}]}, "tempo"),
            ({"error": {"code": "x"}}, "the service answered 400 x: {'code': 'x'}"),
            (openrouter(400, "Provider returned error", raw="too odd"), "Provider returned error: too odd"),
            (openrouter(400, "Same", raw=json.dumps({"error": {"message": "Same"}})), "the service answered 400: Same"),
        ],
    )
    def test_a_message_is_the_services_own_words(self, body: Any, told: str) -> None:
        assert told in error_from_response(400, {}, json.dumps(body).encode()).message

    def test_a_page_is_told_by_its_beginning(self) -> None:
        error = error_from_response(502, {}, ("<p>Bad\n\n  Gateway</p>" * 1000).encode())
        assert error.message.startswith("the service answered 502: <p>Bad Gateway</p><p>Bad")
        assert len(error.message) < 300
        assert error.body is not None
        assert len(error.body) == 2001

    def test_an_empty_body_is_said_to_be_empty(self) -> None:
        assert error_from_response(500, {}, b"").message == "the service answered 500 and an empty body"

    def test_bytes_that_are_no_text(self) -> None:
        assert error_from_response(500, {}, b"\xff\xfe\x00").status_code == 500

    def test_it_survives_a_pickle(self) -> None:
        error = error_from_response(429, {"retry-after": "3"}, json.dumps(openai("Fast", code="slow_down")).encode())
        again = pickle.loads(pickle.dumps(error))
        assert again.to_dict() == error.to_dict()
        assert again.retry_after == 3


class TestHeaders:
    DATES = ("Sun, 01 Nov 2026 00:00:30 GMT", "Sun, 01 Nov 2026 00:00:00 GMT")

    @pytest.mark.parametrize(
        ("headers", "wait"),
        [
            ({}, None),
            ({"retry-after": "3"}, 3.0),
            ({"retry-after": "0.5"}, 0.5),
            ({"retry-after": "0"}, 0.0),
            ({"retry-after-ms": "250"}, 0.25),
            ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
            ({"retry-after-ms": "1500", "retry-after": "1"}, 1.5),
            ({"retry-after": DATES[0], "date": DATES[1]}, 30.0),
            ({"retry-after": DATES[1], "date": DATES[0]}, 0.0),
            ({"retry-after": DATES[0]}, 20.0),
            *(({"retry-after": text}, None) for text in ("-1", "nan", "inf", "soon", "", "1e999", "Sun, 99 Foo 2026")),
        ],
    )
    def test_the_wait_that_the_service_asks_for(self, headers: dict[str, str], wait: float | None) -> None:
        now = 1793491210.0  # ten seconds after the second date
        assert error_from_response(429, headers, b"", now=now).retry_after == wait

    def test_a_date_needs_a_clock(self) -> None:
        assert error_from_response(429, {"retry-after": self.DATES[0]}, b"").retry_after is None

    @pytest.mark.parametrize(
        ("delay", "wait"), [("46s", 46.0), ("0.25s", 0.25), ("soon", None), ("-1s", None), (7, None)]
    )
    def test_the_wait_may_stand_in_the_body(self, delay: Any, wait: float | None) -> None:
        body = google(429, "RESOURCE_EXHAUSTED", "Quota", {"retryDelay": delay})
        assert error_from_body(body).retry_after == wait
        assert error_from_response(429, {}, json.dumps([body]).encode()).retry_after == wait
        assert error_from_response(429, {"retry-after": "2"}, json.dumps(body).encode()).retry_after == 2.0

    @pytest.mark.parametrize(("value", "meant"), [("true", True), ("false", False), ("False", False), ("maybe", None)])
    def test_the_services_own_word_on_retries(self, value: str, meant: bool | None) -> None:
        assert error_from_response(500, {"x-should-retry": value}, b"").should_retry is meant

    @pytest.mark.parametrize("name", ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "cf-ray"])
    def test_the_id_of_the_request(self, name: str) -> None:
        assert error_from_response(500, {name: "id_1"}, b"").request_id == "id_1"


class TestTextsInsteadOfEvents:
    BARE = json.dumps(openai("Late", code="slow_down")).encode()

    @pytest.mark.parametrize(
        ("body", "is_whole", "kind", "told"),
        [
            (BARE, True, "RateLimit", "Late"),
            (b"[" + BARE + b"]", True, "RateLimit", "Late"),
            (b'data: {"a": 1}\n\n' + BARE, False, "RateLimit", "Late"),
            (b'data: {"a": 1}\r\n\r\n' + BARE + b"\r\n", False, "RateLimit", "Late"),
            (HTML.encode(), True, "Server", "502 Bad Gateway"),
            (b"", True, "Server", "empty"),
            (b'{"choices": []}', True, "Server", "choices"),
        ],
    )
    def test_an_error(self, body: bytes, is_whole: bool, kind: str, told: str) -> None:
        error = error_in_text(body, is_whole)
        assert type(error) is getattr(errors, f"LLMProvider{kind}Error")
        assert told in error.message

    @pytest.mark.parametrize("body", [b"", b'data: {"a": 1}\n\n', b'{"choices": []}', b"error", HTML.encode()])
    def test_none(self, body: bytes) -> None:
        assert error_in_text(body, False) is None

    def test_a_whole_answer_in_another_form_is_not_asked_for_again(self) -> None:
        error = error_in_text(b'{"choices": []}', True)
        assert error is not None
        assert error.should_retry is False


class _Base(Exception): ...


class TestNetworkExceptions:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("ConnectTimeout", "Timeout"),
            ("ReadTimeout", "Timeout"),
            ("ConnectError", "Connection"),
            ("RemoteProtocolError", "Connection"),
            ("UnsupportedProtocol", "Configuration"),
            ("DecodingError", "Server"),
        ],
    )
    def test_they_are_known_by_name(self, name: str, kind: str) -> None:
        error = error_from_exception(type(name, (_Base,), {})("what happened"))
        assert type(error) is getattr(errors, f"LLMProvider{kind}Error")
        assert (error.code, name in error.message, "what happened" in error.message) == (name, True, True)

    def test_a_new_one_is_known_by_its_base(self) -> None:
        base = type("TransportError", (_Base,), {})
        assert type(error_from_exception(type("Newer", (base,), {})())) is errors.LLMProviderConnectionError

    def test_others_are_none_of_ours(self) -> None:
        assert error_from_exception(ValueError()) is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "code", "status", "type", "details", "metadata", "raw", "detail", "param"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.integers(300, 599))
def test_no_body_is_a_foreign_exception(body: Any, status: int) -> None:
    for error in (error_from_response(status, {}, json.dumps(body).encode()), error_from_body(body)):
        assert isinstance(error, LLMProviderError)
        assert error.message
        json.dumps(error.to_dict())


@given(st.text(), st.integers(1, 50))
def test_an_excerpt_is_short_and_on_one_line(text: str, most: int) -> None:
    shown = excerpt(text, most)
    assert len(shown) <= most + 1
    assert "\n" not in shown


def test_an_excerpt_of_what_is_nested_too_deeply() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert "nested" in excerpt(nested)
