"""Making providers by name, registering more of them, and keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from .config import LLMConfig, Settings, StreamMode, environment, unknown_setting
from .errors import LLMProviderConfigurationError
from .locks import ProcessLock
from .provider import LLMProvider
from .services import find_spec, register_spec
from .specs import ProviderSpec

if TYPE_CHECKING:
    from ._async.provider import AsyncProvider
    from ._sync.provider import SyncProvider
    from .cache import ResponseCache
    from .hooks import Hooks
    from .limits import Limits

__all__ = [
    "clear_provider_cache",
    "create_llm_provider",
    "create_sync_llm_provider",
    "get_cached_provider",
    "get_cached_sync_provider",
    "register_provider",
]

_classes: dict[str, Callable[..., LLMProvider]] = {}
_cache: dict[tuple[Any, ...], Any] = {}
_cache_lock = ProcessLock()


class ProviderSettings(Settings, total=False):
    """Every setting of `LLMConfig`, as a keyword of a factory."""

    stream_mode: StreamMode | Literal["disabled", "enabled", "auto"]


class FactoryOptions(ProviderSettings, total=False):
    """Every keyword of a factory."""

    config: LLMConfig | None
    model_name: str | None
    api_key: str | None
    base_url: str | None
    http_client: Any
    hooks: Hooks | Iterable[Hooks] | None
    limits: Limits | None
    cache: ResponseCache | None


def create_llm_provider(
    provider_type: str | None = None,
    *,
    config: LLMConfig | None = None,
    model_name: str | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    http_client: Any = None,
    hooks: Hooks | Iterable[Hooks] | None = None,
    limits: Limits | None = None,
    cache: ResponseCache | None = None,
    **settings: Unpack[ProviderSettings],
) -> AsyncProvider:
    """Return a provider for asyncio and trio; a plain function, nothing is sent.

    create_llm_provider()                                             # DEFAULT_LLM_PROVIDER, DEFAULT_MODEL_NAME
    create_llm_provider("openai", model_name="o3", reasoning_effort="low")
    create_llm_provider("openai", config=LLMConfig(model_name="gpt-4o"), base_url="https://gateway.example.com/v1")

    What is found first wins: a keyword here, `config`, the process environment, `.env`, the service's own default.
    `http_client`, `hooks`, `limits` and `cache` are those of `AsyncProvider`.
    Raises LLMProviderConfigurationError for an unknown service (with the nearest name), a missing key (naming its
    variable), and a wrong setting.
    """
    from ._async.provider import AsyncProvider

    wiring = {"base_url": base_url, "http_client": http_client, "hooks": hooks, "limits": limits, "cache": cache}
    return cast("AsyncProvider", _create(AsyncProvider, provider_type, config, model_name, settings, api_key, wiring))


def create_sync_llm_provider(
    provider_type: str | None = None,
    *,
    config: LLMConfig | None = None,
    model_name: str | None = None,
    api_key: str | None = None,
    base_url: str | None = None,
    http_client: Any = None,
    hooks: Hooks | Iterable[Hooks] | None = None,
    limits: Limits | None = None,
    cache: ResponseCache | None = None,
    **settings: Unpack[ProviderSettings],
) -> SyncProvider:
    """Return a provider whose calls block; the arguments are those of `create_llm_provider`."""
    from ._sync.provider import SyncProvider

    wiring = {"base_url": base_url, "http_client": http_client, "hooks": hooks, "limits": limits, "cache": cache}
    return cast("SyncProvider", _create(SyncProvider, provider_type, config, model_name, settings, api_key, wiring))


def get_cached_provider(provider_type: str | None = None, **arguments: Unpack[FactoryOptions]) -> AsyncProvider:
    """Return the provider that the same arguments made before, or a new one; see `create_llm_provider`."""
    return cast("AsyncProvider", _cached(create_llm_provider, provider_type, arguments))


def get_cached_sync_provider(provider_type: str | None = None, **arguments: Unpack[FactoryOptions]) -> SyncProvider:
    """Return the blocking provider that the same arguments made before, or a new one."""
    return cast("SyncProvider", _cached(create_sync_llm_provider, provider_type, arguments))


def clear_provider_cache() -> None:
    """Forget the cached providers; those still in use go on working."""
    with _cache_lock:
        _cache.clear()


def register_provider(name: str, provider: ProviderSpec | Callable[..., LLMProvider]) -> None:
    """Make a service known under a name: as data, or as a subclass of `LLMProvider`.

    A `ProviderSpec` works in both worlds. A class is made with `(config, api_key=None, **kwargs)`, by either
    factory. A later registration replaces an earlier one, and cached providers are forgotten.
    """
    if not isinstance(name, str) or not name.strip():
        raise LLMProviderConfigurationError(f"the provider's name is {name!r}; it must be a non-empty string")
    if isinstance(provider, ProviderSpec):
        _classes.pop(name.lower(), None)
        register_spec(name, provider)
    elif isinstance(provider, type) and issubclass(provider, LLMProvider):
        _classes[name.lower()] = provider
    else:
        raise LLMProviderConfigurationError(
            f"{name} is registered with {provider!r}; it must be a ProviderSpec or a subclass of LLMProvider"
        )
    clear_provider_cache()


def _create(
    kind: Callable[..., LLMProvider],
    provider_type: str | None,
    config: LLMConfig | None,
    model_name: str | None,
    settings: Any,
    api_key: str | None,
    wiring: dict[str, Any],
) -> LLMProvider:
    for setting in settings:
        if setting not in LLMConfig.__dataclass_fields__:
            raise unknown_setting(setting, FactoryOptions.__annotations__)
    default_name = environment("DEFAULT_LLM_PROVIDER") or "openai"
    name = str(provider_type or default_name).lower()
    custom = _classes.get(name)
    spec = None if custom else find_spec(name)
    if config is None:
        # DEFAULT_MODEL_NAME is a model of DEFAULT_LLM_PROVIDER: other services would not know it.
        default = environment("DEFAULT_MODEL_NAME") if name == default_name.lower() else None
        model_name = model_name or default or (spec.default_model if spec else None)
        if model_name is None:
            raise LLMProviderConfigurationError("no default model; pass model_name=…", provider=name)
        config = LLMConfig(**{**settings, "model_name": model_name})
    else:
        given = {**settings, "model_name": model_name} if model_name else settings
        config = config.replace(**given) if given else config
    if custom:
        provider = custom(config, api_key, **{key: value for key, value in wiring.items() if value is not None})
        # The class may serve several names; the one it was made by is what users know it under.
        provider.provider_type = name
        return provider
    return kind(config, api_key, provider_type=name, **wiring)


def _cached(create: Callable[..., Any], provider_type: str | None, arguments: FactoryOptions) -> Any:
    identities = ((name, _identity(name, value)) for name, value in sorted(arguments.items()))
    key = (create.__name__, provider_type, *identities)
    with _cache_lock:
        if key not in _cache:
            _cache[key] = create(provider_type, **arguments)
        return _cache[key]


def _identity(name: str, value: Any) -> str:
    if name in ("cache", "hooks", "http_client"):
        # Objects, which may look alike. The provider keeps them, so no other one gets the same number.
        return str([id(each) for each in (value if isinstance(value, (list, tuple)) else (value,))])
    # Settings such as extra_headers are dicts, which have no hash, and the repr of a config leaves some of them out.
    return repr({**vars(value), "_explicit": sorted(value.explicit)} if isinstance(value, LLMConfig) else value)
