"""Which encoding a model has, and what a conversation with it costs beside its texts: by name. Depends on nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["Overhead", "TokenModel", "model_named"]


class Overhead(NamedTuple):
    """What a conversation costs beside its texts, in tokens.

    `reply` once; `message` for each message, its role included; `assistant` more for each of the assistant's;
    `tools` once if there are tools. `exact`: whether the service publishes it, or was found to charge just that.
    """

    reply: int
    message: int
    assistant: int = 0
    tools: int = 12
    exact: bool = False


class TokenModel(NamedTuple):
    """How a model's tokens are counted.

    `encoding` is None where the tokenizer is not public: then a text is estimated, by `factor` tokens for each that
    o200k_base is estimated to have. `exact`: whether the model is known to have the encoding.
    """

    encoding: str | None
    overhead: Overhead
    exact: bool = False
    factor: float = 1.0


# OpenAI's recipe (its cookbook, "How to count tokens with tiktoken"): 3 a message and its role, 3 for the reply.
# Its reasoning models charge 2 for the reply, those after o3-mini 2 more for each message of the assistant, and models
# that search do not charge every message (all found in the usage that they reported).
_CHAT = Overhead(reply=3, message=4, exact=True)
_FIRST_REASONING = Overhead(reply=2, message=4, exact=True)
_REASONING = _FIRST_REASONING._replace(assistant=2)
_GPT_5 = _REASONING._replace(tools=92)

_NAMES: dict[str, tuple[str, Overhead]] = {
    "o1": ("o200k_base", _FIRST_REASONING),
    "o3": ("o200k_base", _REASONING),
    **dict.fromkeys(("davinci", "curie", "babbage", "ada"), ("r50k_base", _CHAT)),
}

# The longest that a model's name begins with decides.
_PREFIXES: dict[str, tuple[str, Overhead]] = {
    "gpt-4o": ("o200k_base", _CHAT),
    "gpt-4.1": ("o200k_base", _CHAT),
    "gpt-4.5": ("o200k_base", _CHAT),
    "chatgpt-4o": ("o200k_base", _CHAT),
    "gpt-5-chat": ("o200k_base", _CHAT),
    "gpt-5": ("o200k_base", _GPT_5),
    **dict.fromkeys(("gpt-4o-search", "gpt-4o-mini-search"), ("o200k_base", _CHAT._replace(exact=False))),
    **dict.fromkeys(("o1-", "o3-mini"), ("o200k_base", _FIRST_REASONING)),
    **dict.fromkeys(("o3-", "o4-mini", "codex-mini", "computer-use"), ("o200k_base", _REASONING)),
    # Servers put a system message of their own before the conversation.
    "gpt-oss": ("o200k_harmony", Overhead(reply=66, message=4, assistant=2, tools=92)),
    # gpt-35 is what deployments on Azure are called.
    **dict.fromkeys(("gpt-3.5", "gpt-35", "gpt-4", "text-embedding-"), ("cl100k_base", _CHAT)),
    **dict.fromkeys(("davinci-002", "babbage-002"), ("cl100k_base", _CHAT)),
    **dict.fromkeys(("text-davinci-", "code-davinci-", "code-cushman-"), ("p50k_base", _CHAT)),
    **dict.fromkeys(("davinci-codex", "cushman-codex"), ("p50k_base", _CHAT)),
    **dict.fromkeys(("text-davinci-edit-", "code-davinci-edit-"), ("p50k_edit", _CHAT)),
    **dict.fromkeys(("text-davinci-001", "text-curie-", "text-babbage-", "text-ada-"), ("r50k_base", _CHAT)),
    **dict.fromkeys(("text-similarity-", "text-search-", "code-search-"), ("r50k_base", _CHAT)),
    **dict.fromkeys(("gpt-2", "gpt2"), ("gpt2", _CHAT)),
}

# Tokenizers that are not public, or not in any package needed here: fitted to the usage that services reported.
# The first that a model's name contains decides.
_CLAUDE = TokenModel(None, Overhead(reply=3, message=4, tools=320), factor=1.2)
_FAMILIES: dict[str, TokenModel] = {
    # A newer tokenizer, known from one recorded prompt.
    **dict.fromkeys(("opus-4-7", "opus-4.7", "opus-4-8", "opus-4.8"), _CLAUDE._replace(factor=1.45)),
    **dict.fromkeys(("opus-5", "sonnet-5"), _CLAUDE._replace(factor=1.45)),
    "claude": _CLAUDE,
    "gemini": TokenModel(None, Overhead(reply=0, message=0), factor=1.1),
    "gemma": TokenModel(None, Overhead(reply=5, message=5), factor=1.1),
    "deepseek": TokenModel(None, Overhead(reply=2, message=2), factor=1.05),
    "qwen": TokenModel(None, Overhead(reply=3, message=5), factor=1.05),
    "glm": TokenModel(None, Overhead(reply=4, message=2), factor=1.05),
    "grok-4": TokenModel(None, Overhead(reply=160, message=4)),
    "grok-code": TokenModel(None, Overhead(reply=190, message=4)),
    "grok": TokenModel(None, Overhead(reply=2, message=4)),
    "llama": TokenModel(None, Overhead(reply=28, message=5), factor=1.05),
    "stral": TokenModel(None, Overhead(reply=1, message=2), factor=1.05),  # mistral, ministral, codestral …
    "kimi": TokenModel(None, Overhead(reply=12, message=5)),
}

_UNKNOWN_MODEL = TokenModel("o200k_base", _CHAT._replace(exact=False))


@lru_cache(maxsize=256)
def model_named(model: str) -> TokenModel:
    """Return how the tokens of a model are counted; an unknown name gets o200k_base, not exact.

    A vendor before the name (`openai/gpt-4o`, `us.anthropic.claude-sonnet-4-5-v1:0`), `ft:` and `@version` are seen
    through. The names are those of tiktoken's `model.py`, and newer ones that the services' usage confirms.
    """
    name = model.lower().rpartition("/")[2].removeprefix("ft:").removeprefix("openai-").removeprefix("openai.")
    base = name.partition(":")[0]
    if base in _NAMES:
        return TokenModel(*_NAMES[base], exact=True)
    prefixes = [prefix for prefix in _PREFIXES if name.startswith(prefix)]
    if prefixes:
        return TokenModel(*_PREFIXES[max(prefixes, key=len)], exact=True)
    return next((family for part, family in _FAMILIES.items() if part in name), _UNKNOWN_MODEL)
