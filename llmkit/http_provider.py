"""A provider that is spoken to over HTTP, without its I/O: the request that a call becomes, and what an answer is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from .access import REDACTED, Secret, check_base_url, find_base_url, find_key
from .call import Adjustment, Call, CallOptions, checked_tool_choice
from .codec import encode_json
from .config import SAMPLING, APIType, LLMConfig, StreamMode, environment, unknown_setting
from .countable import countable, fits_by_length
from .errors import (
    LLMProviderBadRequestError,
    LLMProviderError,
    LLMProviderTokenLimitError,
    LLMProviderUnsupportedOperationError,
    type_with_article,
)
from .hooks import Hooks, observers
from .messages import ITEM, parse_messages
from .provider import LLMProvider
from .response import Issuer, LLMResponse, ResponseBuilder
from .retry import RetryBudget, refused_default
from .services import find_spec
from .specs import ProviderSpec
from .structured import split_format
from .tools import parse_tools
from .wire import WireFormat, WireRequest

if TYPE_CHECKING:
    from .cache import ResponseCache
    from .limits import CallQueue, Limits

__all__ = ["HTTPProvider", "RequestPreview"]


@dataclass(frozen=True, slots=True)
class RequestPreview:
    """What a call would send: `url` and `headers` with all keys redacted, `body` as JSON values, every adjustment."""

    method: str
    url: str
    headers: dict[str, str]
    body: dict[str, Any] | None
    adjustments: list[Adjustment] = field(default_factory=list)


class HTTPProvider(LLMProvider):
    """A provider that is spoken to over HTTP: from a call to the request, with nothing sent."""

    def __init__(
        self,
        config: LLMConfig,
        api_key: str | None = None,
        *,
        provider_type: str | None = None,
        base_url: str | None = None,
        spec: ProviderSpec | None = None,
        hooks: Hooks | Iterable[Hooks] | None = None,
        limits: Limits | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        super().__init__(config)
        self.hooks = observers(hooks)
        _check_wiring(limits, cache)
        self.limits = limits
        self.cache = cache
        self.spec = spec or find_spec(provider_type or environment("DEFAULT_LLM_PROVIDER") or "openai")
        self.provider_type = provider_type or self.spec.name
        self._config = self._windowed(config)
        self._key = find_key(self.spec, api_key)
        self.base_url = find_base_url(self.spec, base_url)
        self.budget = RetryBudget()
        self._wire_formats: dict[APIType, WireFormat] = {}
        self._refused_defaults: set[tuple[str, str]] = set()
        # Of the configuration that was last asked for.
        self._secrets: tuple[LLMConfig | None, tuple[Secret, ...]] = None, ()
        if self.base_url:
            check_base_url(self.base_url, has_key=self._key is not None, allow_plain_http=config.allow_plain_http)

    def __reduce__(self) -> str:
        raise TypeError("a provider holds connections and a key and is not pickled; pickle its config")

    def _changed(self, settings: Any) -> LLMConfig:
        return self._windowed(super()._changed(settings))

    def _windowed(self, config: LLMConfig) -> LLMConfig:
        """Return settings whose token limit follows the model's window, unless the caller has set one."""
        window = self.spec.context_window(config.model_name)
        return config.with_default("token_limit", window) if window else config

    def build_request(self, prompt: Any, system_prompt: str | None = None, **options: Any) -> RequestPreview:
        """Return what `execute` with the same arguments would send; nothing is sent. Keys are redacted."""
        from .scrubbing import carries_secret, scrubbed_query

        call = self.make_call(prompt, system_prompt=system_prompt, **options)
        self.check_token_limit(call)
        request = self.wire_request(call)
        method, url, headers, _ = self.http_request(call, request)
        shown = {
            name: REDACTED if carries_secret(name, value) or self.redacted(value, call.config) != value else value
            for name, value in headers.items()
        }
        url = self.redacted(scrubbed_query(url), call.config)
        return RequestPreview(method, url, shown, request.body, request.adjustments)

    def make_call(
        self,
        messages: Any,
        *,
        system_prompt: str | None = None,
        previous_response_id: str | None = None,
        tools: Any = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        background: bool = False,
        raw_events: bool = False,
        use_cache: bool = True,
        cache_scope: str | None = None,
        **settings: Any,
    ) -> Call:
        """Return the call that the arguments of `execute` make.

        Raises LLMProviderBadRequestError for messages of the wrong shape, LLMProviderConfigurationError for wrong
        settings; nothing has been sent then.
        """
        for name in settings:
            if name not in LLMConfig.__dataclass_fields__:
                raise unknown_setting(name, _KEYWORDS)
        if not (system_prompt is None or isinstance(system_prompt, str)):
            told = f"system_prompt is {type_with_article(system_prompt)}; it must be a string, or None"
            raise LLMProviderBadRequestError(told)
        config = self._changed(settings) if settings else self._config
        largest_plain_answer = self.wire_format(config.api_type).largest_plain_answer
        must_stream = largest_plain_answer is not None and (config.max_tokens or 0) > largest_plain_answer
        if background and config.api_type is not APIType.RESPONSES:
            raise self.named(LLMProviderUnsupportedOperationError("only the Responses API works in the background"))
        parsed = parse_messages(messages)
        if config.api_type is not APIType.RESPONSES and any(message.role == ITEM for message in parsed):
            raise LLMProviderBadRequestError("a message has no role; items without one belong to the Responses API")
        plain_format, typed_format = split_format(response_format)
        return Call(
            config=config,
            api_type=config.api_type,
            messages=parsed,
            instructions=system_prompt,
            tools=parse_tools(tools),
            tool_choice=checked_tool_choice(tool_choice),
            parallel_tool_calls=parallel_tool_calls,
            response_format=plain_format,
            output_format=typed_format,
            previous_response_id=previous_response_id,
            background=background,
            raw_events=raw_events,
            use_cache=use_cache,
            cache_scope=cache_scope,
            stream=must_stream or config.stream_mode is not StreamMode.DISABLED,
        )

    def make_operation(self, operation: str, **settings: Any) -> Call:
        """Return a call that asks no model: it carries the settings of a request beside the answers."""
        config = self._changed(settings) if settings else self._config
        return Call(config=config, api_type=config.api_type, messages=(), operation=operation)

    def make_count(self, messages: Any, **options: Any) -> Call:
        """Return the call whose tokens the service is to count: of the API that counts, whatever is configured.

        How an answer is to be picked changes no count, and that API may have no parameter for it.
        """
        api_type = APIType.RESPONSES if APIType.RESPONSES in self.spec.formats else APIType.CHAT_COMPLETION
        call = self.make_call(messages, **{**options, "api_type": api_type})
        config = call.config.without({*SAMPLING} - {"max_tokens", "reasoning_effort"})
        return replace(call, config=config, operation="count_tokens")

    def counted_request(self, call: Call) -> WireRequest:
        """Return the request whose tokens a call counts, with what the caller adds to all requests."""
        request = self.wire_request(call)
        request.body = merged(request.body or {}, call.config.extra_params)
        return request

    def read_answer(self, call: Call, body: Any) -> LLMResponse:
        """Return the answer that a decoded body is; raises LLMProviderError where it is none."""
        wire_format = self.wire_format(call.api_type)
        decoder = wire_format.decoder()
        builder = ResponseBuilder(call.config.max_tool_calls)
        builder.extend(decoder.read(body))
        answer = builder.build(self.issuer(call, wire_format), call.api_type)
        answer.metadata = {"wire_format": wire_format.name, "raw": decoder.raw}
        return answer

    def operation(self, name: str) -> Any:
        """Return a function of the service's `Operations`; raises LLMProviderUnsupportedOperationError for None."""
        function = getattr(self.spec.operations, name)
        if function is None:
            raise self._unsupported(name)
        return function

    def stored_request(self, action: str, response_id: Any) -> WireRequest:
        """Return the request to "retrieve", "cancel" or "delete" a stored answer."""
        stored_response = self.operation("stored_response")
        if not isinstance(response_id, str):
            told = f"response_id is {type_with_article(response_id)}; it must be a string"
            raise LLMProviderBadRequestError(told)
        request: WireRequest = stored_response(action, response_id)
        return request

    def check_token_limit(self, call: Call, *, at_once: bool = False) -> bool:
        """Raise LLMProviderTokenLimitError for a prompt over the token limit; return whether it was checked.

        A long prompt takes a while to count: with `at_once` it is left unchecked where that is more than a few
        milliseconds, and belongs in a worker thread. The prompt is all that `countable` finds in the call.
        """
        limit = call.config.token_limit
        if fits_by_length(call, limit):
            return True
        messages, tools, response_format = countable(
            call.messages,
            instructions=call.instructions,
            tools=call.tools,
            response_format=call.response_format,
            output_format=call.output_format,
        )
        counter = self._message_counter(call.model)
        check = counter.within_limit_at_once if at_once else counter.within_limit
        fits = check(messages, limit, tools=tools, response_format=response_format)
        if fits is not False:
            return fits is True
        count = counter.count(messages, tools=tools, response_format=response_format)
        raise self.named(
            LLMProviderTokenLimitError(
                f"the prompt has {'' if count.exact else 'about '}{count} tokens, more than the token_limit "
                f"{limit}; shorten it or raise token_limit"
            )
        )

    def call_queue(self) -> CallQueue | None:
        """Return what keeps the calls to the provider's limits, None where it has none."""
        if self.limits is None:
            return None
        from .limits import CallQueue

        return CallQueue(self.limits)

    def rough_tokens(self, call: Call) -> int:
        """Return about how many tokens a call will take, prompt and answer, from its length alone.

        0 for what asks no model.
        """
        if call.operation != "chat":
            return 0
        characters = len(call.instructions or "") + sum(len(message.text) for message in call.messages)
        return characters // 4 + 8 * len(call.messages) + (call.config.max_tokens or 0)

    def wire_format(self, api_type: APIType) -> WireFormat:
        """Return the format in which the service is spoken to; raises LLMProviderUnsupportedOperationError."""
        wire_format = self._wire_formats.get(api_type) or self.spec.wire_format(api_type)
        if wire_format is None:
            offered = ", ".join(kind.value for kind in self.spec.formats)
            raise self.named(
                LLMProviderUnsupportedOperationError(f"it has no {api_type.value} API; api_type can be {offered}")
            )
        self._wire_formats[api_type] = wire_format
        return wire_format

    def issuer(self, call: Call, wire_format: WireFormat) -> Issuer:
        """Return who will answer the call."""
        return Issuer(self.provider_type, wire_format.name, call.model)

    def wire_request(self, call: Call) -> WireRequest:
        """Return the request that a call is in the service's format, without defaults that were refused before."""
        omit = frozenset(name for model, name in self._refused_defaults if model == call.model)
        call = replace(call, omit=omit) if omit else call
        wire_format = self.wire_format(call.api_type)
        try:
            call, adjustments = call.in_dialect(wire_format.schema_dialect)
            request = wire_format.request(call, self.spec.dialect, self.issuer(call, wire_format))
        except LLMProviderError as error:
            raise self.named(error, call.config) from None
        request.adjustments += adjustments
        return request

    def http_request(self, call: Call, request: WireRequest) -> tuple[str, str, dict[str, str], bytes | None]:
        """Return method, URL, headers (lower-case names) and body bytes, with the caller's extras merged in last."""
        config, content = call.config, None
        if request.body is not None:
            request.body = merged(request.body, config.extra_params)
            content = encode_json(request.body)
        query = {**request.query, **config.extra_query}
        url, _, own_query = self.base_url.replace("{model}", quote(call.model, safe="")).partition("?")
        joined = "&".join(part for part in (own_query, urlencode(query)) if part)
        url = url.rstrip("/") + request.path + (f"?{joined}" if joined else "")
        # Last, since a crash report shows the variables of a function that raises.
        headers = {"accept": "text/event-stream" if call.stream else "application/json", "user-agent": "llmkit"}
        headers |= self.spec.headers
        headers |= request.headers
        if request.body is not None:
            headers["content-type"] = "application/json"
        if self._key:
            headers[self.spec.key_header] = self.spec.key_prefix + self._key.value
        headers |= {name.lower(): value for name, value in config.extra_headers.items()}
        return request.method, url, headers, content

    def remember_refused_default(self, call: Call, request: WireRequest, error: LLMProviderError) -> bool:
        """Return whether the service has refused a default, which is left out for this model from now on."""
        wire_name = refused_default(error, request.defaults)
        if wire_name is None:
            return False
        self._refused_defaults.add((call.model, request.defaults[wire_name]))
        return True

    def named(self, error: LLMProviderError, config: LLMConfig | None = None) -> LLMProviderError:
        """Return the error with the provider's name on it, and the secrets of `config` taken out of its texts."""
        error.provider = error.provider or self.provider_type
        error.args = (self.redacted(error.message, config),)
        for name in ("body", "code", "parameter", "request_id"):
            text = getattr(error, name)
            if text:
                setattr(error, name, self.redacted(text, config))
        return error

    def redacted(self, text: str, config: LLMConfig | None = None) -> str:
        """Return a text of the service without the key, and without other secrets that requests with `config` carry.

        `config` None: the provider's own settings.
        """
        for secret in self._secrets_of(config or self._config):
            text = secret.removed_from(text)
        return text

    def _secrets_of(self, config: LLMConfig) -> tuple[Secret, ...]:
        """Return the key, and what the caller's headers and queries have under names of secrets: a gateway's keys."""
        known, secrets = self._secrets
        if known is config:
            return secrets
        secrets = (self._key,) if self._key else ()
        if config.extra_headers or config.extra_query or "?" in self.base_url:
            from .scrubbing import query_of, secret_words

            headers = {name.lower(): value for name, value in config.extra_headers.items()}
            words = secret_words(headers, [*query_of(self.base_url), *config.extra_query.items()])
            # The longest first, since one may be a part of another.
            secrets += tuple(Secret(word) for word in sorted(words, key=len, reverse=True))
        self._secrets = config, secrets
        return secrets


_KEYWORDS: Final = (*CallOptions.__annotations__, "system_prompt", "previous_response_id", "stream_mode")


def _check_wiring(limits: Any, cache: Any) -> None:
    if limits is not None:
        from .limits import check_limits

        check_limits(limits)
    if cache is not None:
        from .cache import check_cache

        check_cache(cache)


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `extra` merged in: objects key by key, anything else replaced."""
    result = dict(base)
    for key, value in extra.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result
