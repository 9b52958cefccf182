"""The services as data: where each is, and what it does otherwise than OpenAI. A new service is a row.

Sources of the rows are the services' own pages of their APIs, and the public tables of other clients (November 2026).
A row lists only what a service needs; a quirk that needs code is a subclass of a wire format, never an `if` elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .config import APIType, nearest
from .errors import LLMProviderConfigurationError
from .specs import CHAT_AND_RESPONSES, ProviderSpec, generate_content, messages
from .wire import Dialect
from .wire.operations import ANTHROPIC, GEMINI, OPENAI

__all__ = ["find_spec", "provider_names", "register_spec"]

# Most services that imitate OpenAI know the older name only.
_MAX_TOKENS: Final = Dialect(rename={"max_tokens": "max_tokens"})
_TEXT_ONLY: Final = Dialect(rename={"max_tokens": "max_tokens"}, content_as_string=True)
# Usage always comes; fields that it does not know and other ids are refused.
_MISTRAL: Final = Dialect(
    rename={"max_tokens": "max_tokens", "seed": "random_seed"}, stream_usage=False, tool_call_ids="[a-zA-Z0-9]{9}"
)
_THINKING_OFF: Final = {"thinking": {"type": "disabled"}}


def _compatible(
    name: str,
    base_url: str,
    *key_variables: str,
    dialect: Dialect = _MAX_TOKENS,
    context_windows: Mapping[str, int] | None = None,
) -> ProviderSpec:
    """Return a service that speaks Chat Completions and wants a key as OpenAI does."""
    windows = context_windows or {}
    return ProviderSpec(
        name=name, base_url=base_url, key_variables=key_variables, dialect=dialect, context_windows=windows
    )


def _on_this_machine(name: str, base_url: str, *key_variables: str) -> ProviderSpec:
    """Return a server that people run themselves: the key is optional, all formats of OpenAI are spoken."""
    return ProviderSpec(
        name=name,
        base_url=base_url,
        key_variables=key_variables,
        key_optional=True,
        formats=CHAT_AND_RESPONSES,
        dialect=_MAX_TOKENS,
    )


def _launch_local(model: str) -> str:
    from .local import serve

    return serve(model)


# developers.openai.com/api/docs/guides/reasoning: reasoning models answer 400 to these.
_REASONING_REFUSES: Final = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})
_OPENAI_DIALECT: Final = Dialect(
    model_rules=((r"^(o\d|gpt-[5-9](?!.*-chat)|codex-)", _REASONING_REFUSES),), full_messages=True
)
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

# platform.claude.com/docs, "Models": from Opus 4.7 on the models refuse sampling parameters.
_ANTHROPIC_DIALECT: Final = Dialect(
    model_rules=((r"claude-(opus-4-[7-9]|[a-z]+-[5-9])", frozenset({"temperature", "top_p"})),)
)
_ANTHROPIC_WINDOWS: Final = {
    "claude-": 200_000,
    **dict.fromkeys(("claude-opus-4-6", "claude-opus-4-7", "claude-opus-4-8", "claude-sonnet-4-6"), 1_000_000),
    **dict.fromkeys((f"claude-{kind}-5" for kind in ("haiku", "sonnet", "opus", "fable", "mythos")), 1_000_000),
}
_GEMINI_WINDOWS: Final = {"gemini-": 1_048_576}
# Gateways put the vendor before the model.
_GATEWAY_WINDOWS: Final = {
    f"{vendor}/{model}": window
    for vendor, windows in (
        ("openai", _OPENAI_WINDOWS),
        ("anthropic", _ANTHROPIC_WINDOWS),
        ("google", _GEMINI_WINDOWS),
    )
    for model, window in windows.items()
}

_OWN: Final = (
    ProviderSpec(
        name="openai",
        base_url="{OPENAI_BASE_URL|https://api.openai.com/v1}",
        key_variables=("OPENAI_API_KEY",),
        formats=CHAT_AND_RESPONSES,
        dialect=_OPENAI_DIALECT,
        default_model="gpt-4o-mini",
        context_windows={**_OPENAI_WINDOWS, **{f"ft:{model}": window for model, window in _OPENAI_WINDOWS.items()}},
        operations=OPENAI,
    ),
    ProviderSpec(
        name="anthropic",
        # The variable has no version in it, as for the vendor's own client.
        base_url="{ANTHROPIC_BASE_URL|https://api.anthropic.com}/v1",
        key_variables=("ANTHROPIC_API_KEY",),
        key_header="x-api-key",
        key_prefix="",
        formats={APIType.CHAT_COMPLETION: messages},
        dialect=_ANTHROPIC_DIALECT,
        default_model="claude-haiku-5-5",
        context_windows=_ANTHROPIC_WINDOWS,
        operations=ANTHROPIC,
    ),
    ProviderSpec(
        name="gemini",
        base_url="{GOOGLE_GEMINI_BASE_URL|https://generativelanguage.googleapis.com}",
        key_variables=("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        key_header="x-goog-api-key",
        key_prefix="",
        formats={APIType.CHAT_COMPLETION: generate_content},
        default_model="gemini-flash-latest",
        context_windows=_GEMINI_WINDOWS,
        operations=GEMINI,
    ),
    ProviderSpec(
        name="local",
        key_optional=True,
        formats=CHAT_AND_RESPONSES,
        default_model="smollm2-135m-instruct",
        # Of each of the server's slots, whatever the model: see `local.CONTEXT_TOKENS`.
        context_windows={"": 4096},
        launch=_launch_local,
    ),
)

_COMPATIBLE: Final = (
    ProviderSpec(
        name="azure",
        base_url="{AZURE_OPENAI_ENDPOINT}/openai/v1",
        key_variables=("AZURE_OPENAI_API_KEY",),
        key_header="api-key",
        key_prefix="",
        formats=CHAT_AND_RESPONSES,
        dialect=_OPENAI_DIALECT,
        context_windows=_OPENAI_WINDOWS,
    ),
    ProviderSpec(
        name="azure-deployments",
        base_url="{AZURE_OPENAI_ENDPOINT}/openai/deployments/{model}?api-version={OPENAI_API_VERSION}",
        key_variables=("AZURE_OPENAI_API_KEY",),
        key_header="api-key",
        key_prefix="",
    ),
    ProviderSpec(
        name="xai",
        base_url="https://api.x.ai/v1",
        key_variables=("XAI_API_KEY",),
        formats=CHAT_AND_RESPONSES,
        dialect=Dialect(
            model_rules=((r"^grok-(4|code)", frozenset({"frequency_penalty", "presence_penalty", "stop"})),)
        ),
    ),
    ProviderSpec(
        name="deepseek",
        base_url="https://api.deepseek.com",
        key_variables=("DEEPSEEK_API_KEY",),
        formats=CHAT_AND_RESPONSES,
        dialect=Dialect(rename={"max_tokens": "max_tokens"}, thinking_off=_THINKING_OFF),
    ),
    ProviderSpec(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        key_variables=("OPENROUTER_API_KEY",),
        formats=CHAT_AND_RESPONSES,
        dialect=_MAX_TOKENS,
        context_windows=_GATEWAY_WINDOWS,
    ),
    ProviderSpec(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        key_variables=("MISTRAL_API_KEY",),
        dialect=_MISTRAL,
    ),
    ProviderSpec(
        name="zai",
        base_url="https://api.z.ai/api/paas/v4",
        key_variables=("ZAI_API_KEY", "ZHIPUAI_API_KEY"),
        dialect=Dialect(rename={"max_tokens": "max_tokens"}, thinking_off=_THINKING_OFF),
    ),
    ProviderSpec(
        name="moonshot",
        base_url="https://api.moonshot.ai/v1",
        key_variables=("MOONSHOT_API_KEY",),
        dialect=Dialect(
            rename={"max_tokens": "max_tokens"},
            thinking_off=_THINKING_OFF,
            model_rules=(("think|k2", frozenset({"temperature"})),),
        ),
    ),
    ProviderSpec(
        name="dashscope",
        base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        key_variables=("DASHSCOPE_API_KEY",),
        dialect=Dialect(rename={"max_tokens": "max_tokens"}, thinking_off={"enable_thinking": False}),
    ),
    ProviderSpec(
        name="nebius",
        base_url="https://api.studio.nebius.ai/v1",
        key_variables=("NEBIUS_API_KEY",),
        formats=CHAT_AND_RESPONSES,
        dialect=_MAX_TOKENS,
    ),
    ProviderSpec(
        name="meta",
        base_url="https://api.meta.ai/v1",
        key_variables=("META_API_KEY", "MODEL_API_KEY", "LLAMA_API_KEY"),
        formats=CHAT_AND_RESPONSES,
    ),
    ProviderSpec(
        name="bedrock",
        base_url="https://bedrock-mantle.{AWS_REGION}.api.aws/openai/v1",
        key_variables=("AWS_BEARER_TOKEN_BEDROCK",),
        formats=CHAT_AND_RESPONSES,
    ),
    _compatible("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY", dialect=Dialect()),
    _compatible("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    _compatible("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    _compatible("codestral", "https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY", dialect=_MISTRAL),
    _compatible("perplexity", "https://api.perplexity.ai", "PERPLEXITY_API_KEY"),
    _compatible("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", dialect=Dialect()),
    _compatible("nvidia", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"),
    _compatible("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN"),
    _compatible("zhipu", "https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY"),
    _compatible("minimax", "https://api.minimax.io/v1", "MINIMAX_API_KEY"),
    _compatible("sambanova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", dialect=_TEXT_ONLY),
    _compatible("deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    _compatible("hyperbolic", "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    _compatible("lambda", "https://api.lambda.ai/v1", "LAMBDA_API_KEY"),
    _compatible("nscale", "https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
    _compatible("featherless", "https://api.featherless.ai/v1", "FEATHERLESS_API_KEY"),
    _compatible("novita", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    _compatible("baseten", "https://inference.baseten.co/v1", "BASETEN_API_KEY"),
    _compatible("friendli", "https://api.friendli.ai/serverless/v1", "FRIENDLI_TOKEN"),
    _compatible("cohere", "https://api.cohere.ai/compatibility/v1", "CO_API_KEY", "COHERE_API_KEY"),
    _compatible(
        "gemini-openai",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        context_windows=_GEMINI_WINDOWS,
    ),
    _compatible(
        "anthropic-openai", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", context_windows=_ANTHROPIC_WINDOWS
    ),
    _compatible("github", "https://models.github.ai/inference", "GITHUB_TOKEN"),
    _compatible(
        "vercel",
        "https://ai-gateway.vercel.sh/v1",
        "AI_GATEWAY_API_KEY",
        "VERCEL_OIDC_TOKEN",
        context_windows=_GATEWAY_WINDOWS,
    ),
    _compatible(
        "cloudflare",
        "https://api.cloudflare.com/client/v4/accounts/{CLOUDFLARE_ACCOUNT_ID}/ai/v1",
        "CLOUDFLARE_API_KEY",
    ),
    _compatible("databricks", "{DATABRICKS_HOST}/serving-endpoints", "DATABRICKS_TOKEN"),
    _compatible("snowflake", "https://{SNOWFLAKE_ACCOUNT}.snowflakecomputing.com/api/v2/cortex/v1", "SNOWFLAKE_TOKEN"),
    _compatible("portkey", "https://api.portkey.ai/v1", "PORTKEY_API_KEY"),
    _compatible("requesty", "https://router.requesty.ai/v1", "REQUESTY_API_KEY"),
    _compatible("helicone", "https://ai-gateway.helicone.ai", "HELICONE_API_KEY"),
    _compatible("volcengine", "https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY", "ARK_API_KEY"),
    _compatible("siliconflow", "https://api.siliconflow.cn/v1", "SILICONFLOW_API_KEY"),
    _compatible("modelscope", "https://api-inference.modelscope.cn/v1", "MODELSCOPE_API_KEY"),
    _compatible("scaleway", "https://api.scaleway.ai/v1", "SCW_SECRET_KEY"),
    _compatible("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", "OVHCLOUD_API_KEY"),
    _compatible("heroku", "https://us.inference.heroku.com/v1", "HEROKU_INFERENCE_KEY"),
    _compatible("crusoe", "https://api.inference.crusoecloud.com/v1", "CRUSOE_API_KEY"),
    _on_this_machine("ollama", "http://localhost:11434/v1", "OLLAMA_API_KEY"),
    _on_this_machine("lmstudio", "http://localhost:1234/v1", "LM_STUDIO_API_KEY"),
    _on_this_machine("vllm", "http://localhost:8000/v1", "VLLM_API_KEY"),
    _on_this_machine("llamacpp", "http://127.0.0.1:8080/v1", "LLAMACPP_API_KEY"),
    _on_this_machine("sglang", "http://127.0.0.1:30000/v1", "SGLANG_API_KEY"),
)

_SPECS: Final = {spec.name: spec for spec in (*_OWN, *_COMPATIBLE)}


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
