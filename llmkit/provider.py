"""The base of every provider: settings, token counts, model information; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

from .config import ConfigSettings, LLMConfig
from .countable import Countable, countable
from .errors import LLMProviderConfigurationError, LLMProviderUnsupportedOperationError, type_with_article
from .messages import Message, parse_messages
from .structured import split_format
from .tools import parse_tools

if TYPE_CHECKING:
    from .tokens import MessageTokenCounter, TokenCount

__all__ = ["LLMProvider"]

MOST_COUNTERS: Final = 8
"""For how many models a provider remembers what it counted: those that it met last."""


class LLMProvider:
    """The base of every provider: settings, token counts, model information; no I/O.

    class CustomProvider(LLMProvider):
        async def execute(self, prompt, **options):
            return LLMResponse(content=prompt.upper(), model=self.config.model_name)

    register_provider("custom", CustomProvider)

    A subclass is made with `(config, api_key=None, **kwargs)` and offers what it can; each `execute…` method that it
    does not define raises LLMProviderUnsupportedOperationError.
    """

    provider_type = "custom"

    def __init__(self, config: LLMConfig, api_key: str | None = None, **kwargs: Any) -> None:
        if not isinstance(config, LLMConfig):
            raise LLMProviderConfigurationError(f"config is {type_with_article(config)}; it must be an LLMConfig")
        self._config = config
        self._counters: dict[str, MessageTokenCounter] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provider_type} {self._config.model_name}>"

    @property
    def config(self) -> LLMConfig:
        """The settings in force."""
        return self._config

    def update_config(self, **settings: Unpack[ConfigSettings]) -> None:
        """Change settings of the provider; calls that are under way keep theirs.

        Raises LLMProviderConfigurationError for a wrong name or value; nothing is changed then.
        """
        self._config = self._changed(settings)

    def get_model_info(self) -> dict[str, Any]:
        """Return provider_type, model_name, api_type, stream_mode and token_limit (tokens of the prompt)."""
        config = self._config
        return {
            "provider_type": self.provider_type,
            "model_name": config.model_name,
            "api_type": config.api_type.value,
            "stream_mode": config.stream_mode.value,
            "token_limit": config.token_limit,
        }

    def estimate_tokens(
        self,
        text: str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]],
        *,
        tools: Any = None,
        response_format: Any = None,
    ) -> TokenCount:
        """Return how many tokens a text, or a conversation, has for the model; never touches the network.

        A conversation is a list of messages; it, and a text with tools or an output format, is counted with all that
        it costs as input (see `count_message_tokens`), and costs the new messages only when it is counted again.
        The number is a `TokenCount`: an int whose `exact` tells a count from an estimate. A megabyte takes up to half
        a second, the first count some tenths of one: in an event loop, call it in a thread.

        Raises LLMProviderConfigurationError, LLMProviderBadRequestError for what is no text and no conversation.
        """
        if _is_bare(text, tools, response_format):
            from .tokens import count_tokens

            return count_tokens(text, self._config.model_name)  # type: ignore[arg-type]
        messages, tools, response_format = _countable(text, tools, response_format)
        counter = self._message_counter(self._config.model_name)
        return counter.count(messages, tools=tools, response_format=response_format)

    def validate_token_limit(
        self,
        prompt: str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        tools: Any = None,
        response_format: Any = None,
    ) -> bool:
        """Return whether a prompt, and an answer of `max_tokens` tokens, fit the token limit.

        None: an answer of the configured `max_tokens`, or none at all. The prompt is a text or a conversation, as for
        `estimate_tokens`; one that its length settles is not counted, which takes microseconds.
        """
        if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 0):
            raise LLMProviderConfigurationError(f"max_tokens is {max_tokens!r}; it must be a whole number, 0 or above")
        answer = max_tokens if max_tokens is not None else self._config.max_tokens or 0
        limit, model = self._config.token_limit - answer, self._config.model_name
        if _is_bare(prompt, tools, response_format):
            from .tokens import within_limit

            return within_limit(prompt, limit, model)  # type: ignore[arg-type]
        messages, tools, response_format = _countable(prompt, tools, response_format)
        counter = self._message_counter(model)
        return counter.within_limit(messages, limit, tools=tools, response_format=response_format)

    def _message_counter(self, model: str) -> MessageTokenCounter:
        from .tokens import MessageTokenCounter

        found = self._counters.get(model)
        if found is None:
            for oldest in list(self._counters)[: 1 - MOST_COUNTERS]:
                self._counters.pop(oldest, None)
            found = self._counters.setdefault(model, MessageTokenCounter(model))
        return found

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a prompt."""
        raise self._unsupported("execute")

    def execute_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a list of messages."""
        raise self._unsupported("execute_chat_completion")

    def execute_responses_api(self, *args: Any, **kwargs: Any) -> Any:
        """Answer through the Responses API."""
        raise self._unsupported("execute_responses_api")

    def _changed(self, settings: Any) -> LLMConfig:
        """Return the settings in force, with others in place of some."""
        return self._config.replace(**settings)

    def _unsupported(self, operation: str) -> LLMProviderUnsupportedOperationError:
        told = f"it does not support {operation}"
        return LLMProviderUnsupportedOperationError(told, provider=self.provider_type)


def _is_bare(prompt: Any, tools: Any, response_format: Any) -> bool:
    """Return whether a prompt is a text with nothing else to count, or nothing that can be counted at all."""
    if isinstance(prompt, str):
        return tools is None and response_format is None
    return not isinstance(prompt, (list, tuple, Mapping, Message))


def _countable(prompt: Any, tools: Any, response_format: Any) -> Countable:
    plain_format, typed_format = split_format(response_format)
    messages, offered = parse_messages(prompt), parse_tools(tools)
    return countable(messages, tools=offered, response_format=plain_format, output_format=typed_format)
