"""The exceptions of llmkit. Depends on nothing.

LLMProviderError
├── LLMProviderConfigurationError          a setting is wrong or missing; nothing was sent
├── LLMProviderUnsupportedOperationError   the service or its API has no such operation
├── LLMProviderAuthenticationError         401: no key, or a wrong one
├── LLMProviderPermissionError             403: the key may not do this
├── LLMProviderNotFoundError               404: no such model, response or path
├── LLMProviderBadRequestError             400, 413, 422: the request is wrong
│   └── LLMProviderTokenLimitError         the prompt does not fit the model's window
├── LLMProviderContentFilterError          the prompt or the answer was blocked
├── LLMProviderRateLimitError              429: too much at once; waiting helps
│   └── LLMProviderQuotaError              the credit or quota is used up; waiting does not help
├── LLMProviderServerError                 5xx, or an answer that is no answer
│   └── LLMProviderOverloadedError         529, 503: the service is out of capacity
├── LLMProviderConnectionError             no connection, or one that broke
├── LLMProviderTimeoutError                a configured time ran out, or the service said so
├── LLMProviderStreamError                 a stream was cut, malformed or ended by an error event
└── LLMProviderOutputError                 the answer is not what `response_format` asked for
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .fallback import Fallback
    from .response import LLMResponse
    from .retry import Attempt

__all__ = [
    "LLMProviderAuthenticationError",
    "LLMProviderBadRequestError",
    "LLMProviderConfigurationError",
    "LLMProviderConnectionError",
    "LLMProviderContentFilterError",
    "LLMProviderError",
    "LLMProviderNotFoundError",
    "LLMProviderOutputError",
    "LLMProviderOverloadedError",
    "LLMProviderPermissionError",
    "LLMProviderQuotaError",
    "LLMProviderRateLimitError",
    "LLMProviderServerError",
    "LLMProviderStreamError",
    "LLMProviderTimeoutError",
    "LLMProviderTokenLimitError",
    "LLMProviderUnsupportedOperationError",
    "check_fields",
    "type_with_article",
]


class LLMProviderError(Exception):
    """The base of every error that llmkit raises.

    `provider` is the provider's name; `status_code` the HTTP status; `code` the service's own code or type;
    `parameter` the request parameter that it names; `request_id` its id of the request; `retry_after` the
    seconds that it asks to wait; `body` at most 2,000 characters of what it sent. Each is None where unknown.
    `attempts` lists the tries before this one, `fallbacks` the providers that gave no answer before this one.
    `partial` is the answer as far as it had come (streams), or None. `should_retry` is True or False where it is known
    whether to ask again pays, whatever the status; None leaves it to the kind of the error.
    None of them holds a key, a connection or an httpx object, so an error can be logged and pickled.
    """

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        status_code: int | None = None,
        code: str | None = None,
        parameter: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: str | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status_code = status_code
        self.code = code
        self.parameter = parameter
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body
        self.should_retry = should_retry
        self.attempts: tuple[Attempt, ...] = ()
        self.fallbacks: tuple[Fallback, ...] = ()
        self.partial: LLMResponse | None = None

    def __str__(self) -> str:
        return f"{self.provider}: {self.message}" if self.provider else self.message

    @property
    def message(self) -> str:
        """What happened, with which value, and what to do."""
        return str(self.args[0]) if self.args else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON-serialisable values, for a log or an answer of your own."""
        names = ("provider", "status_code", "code", "parameter", "request_id", "retry_after", "body")
        return {"error": type(self).__name__, "message": self.message} | {name: getattr(self, name) for name in names}


class LLMProviderConfigurationError(LLMProviderError, ValueError):
    """A setting is wrong or missing; nothing was sent."""


class LLMProviderUnsupportedOperationError(LLMProviderError, NotImplementedError):
    """The service or its API has no such operation."""


class LLMProviderAuthenticationError(LLMProviderError):
    """The service does not know the key."""


class LLMProviderPermissionError(LLMProviderError):
    """The key may not do this."""


class LLMProviderNotFoundError(LLMProviderError):
    """There is no such model, response or path."""


class LLMProviderBadRequestError(LLMProviderError):
    """The request is wrong: sending it again gives the same answer."""


class LLMProviderTokenLimitError(LLMProviderBadRequestError):
    """The prompt does not fit the token limit or the model's context window."""


class LLMProviderContentFilterError(LLMProviderError):
    """The prompt or the answer was blocked by the service's content filter."""


class LLMProviderRateLimitError(LLMProviderError):
    """Too many requests or tokens in a short time; waiting helps."""


class LLMProviderQuotaError(LLMProviderRateLimitError):
    """The credit, the quota or a spend limit is used up; waiting does not help."""


class LLMProviderServerError(LLMProviderError):
    """The service failed, or sent something that is no answer."""


class LLMProviderOverloadedError(LLMProviderServerError):
    """The service is out of capacity for the moment."""


class LLMProviderConnectionError(LLMProviderError):
    """The service could not be reached, or the connection broke."""


class LLMProviderTimeoutError(LLMProviderError):
    """A configured time ran out, or the service reported a timeout of its own."""


class LLMProviderStreamError(LLMProviderError):
    """A stream was cut, was malformed, or ended with an error event; `partial` has what came before."""


class LLMProviderOutputError(LLMProviderError):
    """The answer is not what `response_format` asked for: `text` is what came instead, `partial` the whole answer."""

    @property
    def text(self) -> str:
        """The text of the answer."""
        return self.partial.content if self.partial else ""


def type_with_article(value: object) -> str:
    """Return what a value is, for an error that must not show it: "None", "a list", "an int"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def check_fields(value: object, place: str, allowed: Mapping[str, tuple[Any, str]]) -> None:
    """Raise LLMProviderBadRequestError for a field of another type than its own.

    `allowed`: the name of a field → its type, and what that is called.
    """
    for name, (kind, told) in allowed.items():
        found = getattr(value, name)
        if not isinstance(found, kind):
            raise LLMProviderBadRequestError(f"{place}.{name} is {type_with_article(found)}; it must be {told}")
