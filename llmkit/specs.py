"""What a service is, as data: where to talk to it, and how. The services themselves stand in `services.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .config import APIType
from .wire import Dialect, WireFormat
from .wire.operations import OPENAI_COMPATIBLE, Operations

__all__ = ["CHAT", "CHAT_AND_RESPONSES", "ProviderSpec", "generate_content", "messages"]


def chat_completions() -> WireFormat:
    """Return the wire format of OpenAI Chat Completions."""
    from .wire.chat_completions import ChatCompletions

    return ChatCompletions()


def responses() -> WireFormat:
    """Return the wire format of OpenAI Responses."""
    from .wire.responses import Responses

    return Responses()


def messages() -> WireFormat:
    """Return the wire format of Anthropic Messages."""
    from .wire.messages import Messages

    return Messages()


def generate_content() -> WireFormat:
    """Return the wire format of Gemini generateContent."""
    from .wire.generate_content import GenerateContent

    return GenerateContent()


CHAT: Final[Mapping[APIType, Callable[[], WireFormat]]] = {APIType.CHAT_COMPLETION: chat_completions}
CHAT_AND_RESPONSES: Final = {**CHAT, APIType.RESPONSES: responses}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """A service: where it is, how it wants its key, and which formats it speaks.

    register_provider(
        "acme",
        ProviderSpec(name="acme", base_url="https://llm.acme.example/v1", key_variables=("ACME_API_KEY",)),
    )

    `base_url` is what comes before the format's path; in it, `{NAME}` or `{NAME|default}` stands for an environment
    variable and `{model}` for the model of each call. The key is the first set of `key_variables`, sent in
    `key_header` after `key_prefix`; `key_optional` where the service works without. `headers` are sent with every
    request. `formats` has the wire format of each API type. `context_windows` pairs beginnings of model names with
    their window in tokens; the longest that fits counts. `launch` starts a server that runs on this machine: model
    name → base URL; it may block. `operations` has what the service offers beside answers. `idempotency_header` is the
    header, such as "Idempotency-Key", by which the service knows the tries of one request, where it has one.
    """

    name: str
    base_url: str = ""
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
    operations: Operations = OPENAI_COMPATIBLE
    idempotency_header: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.key_variables, str):
            # `("ACME_API_KEY")` is no tuple.
            object.__setattr__(self, "key_variables", (self.key_variables,))

    def context_window(self, model: str) -> int | None:
        """Return the tokens that a model's window holds, None where it is not known."""
        fitting = [prefix for prefix in self.context_windows if model.startswith(prefix)]
        return self.context_windows[max(fitting, key=len)] if fitting else None

    def wire_format(self, api_type: APIType) -> WireFormat | None:
        """Return the wire format of an API type, None where the service does not offer it."""
        make = self.formats.get(api_type)
        return make() if make else None
