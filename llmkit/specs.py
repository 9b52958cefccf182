"""Where to talk: the services as data. A new service is a row; it needs no code.

Sources of the rows are the services' own pages of their APIs; the dialect lists only what differs from OpenAI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .config import APIType, nearest
from .errors import LLMProviderConfigurationError
from .wire import Dialect, WireFormat

__all__ = ["ProviderSpec", "find_spec", "provider_names", "register_spec"]


def _chat_completions() -> WireFormat:
    from .wire.chat_completions import ChatCompletions

    return ChatCompletions()


def _responses() -> WireFormat:
    from .wire.responses import Responses

    return Responses()


CHAT: Final[Mapping[APIType, Callable[[], WireFormat]]] = {APIType.CHAT_COMPLETION: _chat_completions}
CHAT_AND_RESPONSES: Final = {**CHAT, APIType.RESPONSES: _responses}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """A service: where it is, how it wants its key, and which formats it speaks.

    register_provider(
        "acme",
        ProviderSpec(name="acme", base_url="https://llm.acme.example/v1", key_variables=("ACME_API_KEY",)),
    )

    `base_url` is what comes before the format's path; `base_url_variable` an environment variable that replaces
    it. The key is the first set of `key_variables`, sent in `key_header` after `key_prefix`; `key_optional` where
    the service works without. `headers` are sent with every request. `formats` has the wire format of each API
    type. `context_windows` pairs beginnings of model names with their window in tokens, longest first where one
    begins like another. `launch` starts a server that runs on this machine: model name → base URL; it may block.
    """

    name: str
    base_url: str = ""
    base_url_variable: str | None = None
    key_variables: tuple[str, ...] = ()
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    key_optional: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[APIType, Callable[[], WireFormat]] = field(default_factory=lambda: CHAT)
    dialect: Dialect = field(default_factory=Dialect)
    default_model: str | None = None
    context_windows: Mapping[str, int] = field(default_factory=dict)
    launch: Callable[[str], str] | None = None

    def context_window(self, model: str) -> int | None:
        """Return the tokens that a model's window holds, None where it is not known."""
        fitting = [prefix for prefix in self.context_windows if model.startswith(prefix)]
        return self.context_windows[max(fitting, key=len)] if fitting else None

    def wire_format(self, api_type: APIType) -> WireFormat | None:
        """Return the wire format of an API type, None where the service does not offer it."""
        make = self.formats.get(api_type)
        return make() if make else None


def _launch_local(model: str) -> str:
    from .local import serve

    return serve(model)


# developers.openai.com/api/docs/guides/reasoning: reasoning models answer 400 to these.
_REASONING_REFUSES: Final = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})
_OPENAI_DIALECT: Final = Dialect(model_rules=((r"^(o\d|gpt-[5-9](?!.*-chat)|codex-)", _REASONING_REFUSES),))
# developers.openai.com/api/docs/models
_OPENAI_WINDOWS: Final = {
    "gpt-3.5-turbo": 16_385,
    "gpt-4": 8_192,
    "gpt-4-turbo": 128_000,
    "gpt-4o": 128_000,
    "gpt-4.1": 1_047_576,
    "gpt-4.5": 128_000,
    "gpt-5": 400_000,
    "gpt-6": 400_000,
    "o1": 200_000,
    "o1-mini": 128_000,
    "o3": 200_000,
    "o4-mini": 200_000,
    "chatgpt-4o": 128_000,
}

_SPECS: Final[dict[str, ProviderSpec]] = {
    spec.name: spec
    for spec in (
        ProviderSpec(
            name="openai",
            base_url="https://api.openai.com/v1",
            base_url_variable="OPENAI_BASE_URL",
            key_variables=("OPENAI_API_KEY",),
            formats=CHAT_AND_RESPONSES,
            dialect=_OPENAI_DIALECT,
            default_model="gpt-4o-mini",
            context_windows=_OPENAI_WINDOWS,
        ),
        ProviderSpec(
            name="local",
            key_optional=True,
            formats=CHAT_AND_RESPONSES,
            default_model="smollm2-135m-instruct",
            launch=_launch_local,
        ),
    )
}


def provider_names() -> list[str]:
    """Return the names of all services known, in alphabetical order."""
    return sorted(_SPECS)


def register_spec(name: str, spec: ProviderSpec) -> None:
    """Make a service known under a name; a later registration replaces an earlier one."""
    _SPECS[name.lower()] = spec


def find_spec(name: str) -> ProviderSpec:
    """Return the service of a name; raises LLMProviderConfigurationError with the nearest name."""
    spec = _SPECS.get(str(name).lower())
    if spec is None:
        raise LLMProviderConfigurationError(f"there is no provider {name!r}{nearest(str(name), _SPECS)}")
    return spec
