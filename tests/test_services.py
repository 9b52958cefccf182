"""One suite over all services: each row can be asked, with its key where it belongs and its dialect obeyed."""

from __future__ import annotations

import re

import pytest

from llmkit import APIType, LLMProviderConfigurationError, LLMProviderUnsupportedOperationError, ProviderSpec
from llmkit import create_sync_llm_provider as create
from llmkit.services import find_spec, provider_names

KEY = "key-0123456789"
SPECS = [find_spec(name) for name in provider_names()]
ROWS = [pytest.param(spec, api_type, id=f"{spec.name}-{api_type}") for spec in SPECS for api_type in spec.formats]


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in SPECS:
        for variable in re.findall(r"\{([A-Z0-9_]+)\}", spec.base_url):  # those without a default
            at_start = spec.base_url.startswith(f"{{{variable}}}")
            monkeypatch.setenv(variable, "https://acme.example.com/" if at_start else "acme")


def test_there_are_many() -> None:
    assert len(SPECS) >= 45
    assert len({spec.name for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize(("spec", "api_type"), ROWS)
def test_a_request_to_every_service(spec: ProviderSpec, api_type: APIType) -> None:
    provider = create(spec.name, model_name="org/model", api_key=KEY, max_tokens=50, api_type=api_type)
    preview = provider.build_request("Hello", stream_mode="enabled")
    if not spec.launch:
        assert re.match(r"https://|http://(localhost|127\.0\.0\.1):", preview.url)
        assert "{" not in preview.url
        assert "//" not in preview.url.partition("://")[2]
    assert preview.headers[spec.key_header] == "[redacted]"
    assert KEY not in repr(preview)
    assert preview.body
    assert 50 in _values(preview.body)
    for name, wire_name in spec.dialect.rename.items():
        if name == "max_tokens" and api_type is APIType.CHAT_COMPLETION:
            assert preview.body[wire_name] == 50


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_service_needs_its_key_unless_it_is_on_this_machine(spec: ProviderSpec) -> None:
    if spec.key_optional:
        assert create(spec.name, model_name="m").build_request("Hello").body
    else:
        with pytest.raises(LLMProviderConfigurationError, match=spec.key_variables[0]):
            create(spec.name, model_name="m")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_an_api_that_a_service_lacks_is_refused_by_name(spec: ProviderSpec) -> None:
    for api_type in set(APIType) - set(spec.formats):
        provider = create(spec.name, model_name="m", api_key=KEY, api_type=api_type)
        with pytest.raises(LLMProviderUnsupportedOperationError, match=f"^{spec.name}: it has no {api_type} API"):
            provider.build_request("Hello")


@pytest.mark.parametrize(
    ("name", "model", "window"),
    [
        ("azure", "gpt-4o", 128_000),
        ("openai", "ft:gpt-4o:acme", 128_000),
        ("openrouter", "openai/gpt-4o", 128_000),
        ("openrouter", "anthropic/claude-sonnet-4.5", 200_000),
        ("vercel", "google/gemini-2.5-flash", 1_048_576),
        ("gemini-openai", "gemini-2.5-flash", 1_048_576),
        ("anthropic-openai", "claude-sonnet-4-5", 200_000),
        ("openrouter", "gpt-4o", 8192),
    ],
)
def test_the_window_of_a_model_is_known_at_every_door(name: str, model: str, window: int) -> None:
    assert create(name, model_name=model, api_key=KEY).config.token_limit == window


def test_one_variable_is_no_list_of_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "secret")
    spec = ProviderSpec(name="acme", base_url="https://acme.example.com", key_variables=("ACME_TOKEN"))  # type: ignore[arg-type]
    assert spec.key_variables == ("ACME_TOKEN",)


def test_azure_has_its_own_header_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://res.openai.azure.com/")
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    preview = create("azure", model_name="my-gpt", api_key=KEY).build_request("Hello")
    assert preview.url == "https://res.openai.azure.com/openai/v1/chat/completions"
    assert "authorization" not in preview.headers
    assert preview.headers["api-key"] == "[redacted]"
    preview = create("azure-deployments", model_name="my/gpt", api_key=KEY).build_request("Hello")
    assert preview.url == (
        "https://res.openai.azure.com/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21"
    )


def test_a_variable_of_the_environment_replaces_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example.com/anthropic/")
    preview = create("anthropic", model_name="m", api_key=KEY).build_request("Hello")
    assert preview.url == "https://gateway.example.com/anthropic/v1/messages"


def test_a_missing_address_is_answered_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT")
    with pytest.raises(LLMProviderConfigurationError, match="AZURE_OPENAI_ENDPOINT"):
        create("azure", model_name="m", api_key=KEY)


def test_a_parameter_has_the_name_that_the_service_knows() -> None:
    body = create("mistral", model_name="m", api_key=KEY, seed=3).build_request("Hello", stream_mode="enabled").body
    assert body is not None
    assert body["random_seed"] == 3
    assert "seed" not in body
    assert "stream_options" not in body


def test_reasoning_is_switched_off_as_the_service_wants_it() -> None:
    for name, switch in (
        ("deepseek", {"thinking": {"type": "disabled"}}),
        ("dashscope", {"enable_thinking": False}),
        ("groq", {"reasoning_effort": "none"}),
    ):
        body = create(name, model_name="m", api_key=KEY, reasoning_effort="none").build_request("Hello").body
        assert body is not None
        assert {key: body.get(key) for key in switch} == switch
        assert ("reasoning_effort" in body) == (name == "groq")


def test_text_goes_out_as_one_string_where_the_service_takes_no_lists() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    body = create("sambanova", model_name="m", api_key=KEY).build_request(parts).body
    assert body is not None
    assert body["messages"][0]["content"] == "ab"


def _values(value: object) -> list[object]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(leaf for item in inner for leaf in _values(item))]
