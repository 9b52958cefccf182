"""The provider without its I/O, and the factory: nothing here opens a connection."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from llmkit import (
    APIType,
    AsyncProvider,
    Hooks,
    LLMConfig,
    LLMProvider,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderTokenLimitError,
    LLMProviderUnsupportedOperationError,
    LLMResponse,
    MemoryCache,
    ProviderSpec,
    SyncProvider,
    clear_provider_cache,
    create_llm_provider,
    create_sync_llm_provider,
    factory,
    get_cached_provider,
    get_cached_sync_provider,
    register_provider,
    services,
)

KEY = "sk-test-0123456789"


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_classes", {})
    monkeypatch.setattr(services, "_SPECS", dict(services._SPECS))
    clear_provider_cache()


def provider(**settings: Any) -> SyncProvider:
    return create_sync_llm_provider("openai", **{"model_name": "gpt-4o", "api_key": KEY, **settings})


class TestFactory:
    def test_without_arguments_it_is_openai_and_its_default_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        made = create_llm_provider()
        assert isinstance(made, AsyncProvider)
        assert made.get_model_info()["provider_type"] == "openai"

    def test_the_environment_names_the_default_provider_and_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DEFAULT_LLM_PROVIDER", "local")
        monkeypatch.setenv("DEFAULT_MODEL_NAME", "some-model")
        assert create_sync_llm_provider().config.model_name == "some-model"
        assert create_sync_llm_provider(model_name="mine").config.model_name == "mine"
        # The default model belongs to the default provider alone.
        assert create_sync_llm_provider("openai", api_key=KEY).config.model_name != "some-model"

    def test_keywords_come_before_the_config(self) -> None:
        config = LLMConfig(model_name="gpt-4o", temperature=0.1, seed=7)
        made = create_llm_provider("openai", config=config, api_key=KEY, temperature=0.9, model_name="gpt-4.1")
        assert (made.config.model_name, made.config.temperature, made.config.seed) == ("gpt-4.1", 0.9, 7)

    def test_the_key_and_the_address_come_from_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL=https://gateway.example.com/v1\n")
        monkeypatch.chdir(tmp_path)
        preview = create_sync_llm_provider("openai", model_name="gpt-4o").build_request("Hello")
        assert preview.url == "https://gateway.example.com/v1/chat/completions"

    def test_an_unknown_provider_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(LLMProviderConfigurationError, match=r"no provider 'opnai'; did you mean 'openai'\?"):
            create_llm_provider("opnai")

    @pytest.mark.parametrize("name", [5, "", "  "])
    def test_a_provider_without_a_usable_name_is_refused(self, name: Any) -> None:
        with pytest.raises(LLMProviderConfigurationError):
            register_provider(name, ProviderSpec(name="x", base_url="https://x.example.com"))

    def test_a_missing_key_is_answered_with_its_variable(self) -> None:
        with pytest.raises(LLMProviderConfigurationError, match=r"^openai: no key; set OPENAI_API_KEY in"):
            create_sync_llm_provider("openai", model_name="gpt-4o")

    @pytest.mark.parametrize("key", ["", "  ", "sk-\nx: y", "sk-ключ", 5])
    def test_an_unusable_key_is_refused_and_not_shown(self, key: Any) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="api_key is no usable key") as caught:
            provider(api_key=key)
        assert not (str(key).strip() and str(key) in str(caught.value))

    def test_a_line_break_after_the_key_is_taken_off(self) -> None:
        assert provider(api_key=KEY + "\n")._key.value == KEY  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "url", ["api.example.com", "ftp://example.com", "https://", "https://a b/", "https://[::1", "https://x:99999/"]
    )
    def test_an_unusable_address_is_refused(self, url: str) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="base_url is"):
            provider(base_url=url)

    def test_an_address_with_a_password_is_refused_and_not_shown(self) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="user name or password") as caught:
            provider(base_url="https://me:secret@example.com/v1")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        "url", ["ftp://me:secret@a.b/", "http://a.b/v1?key=secret", "https://a.b:x/v1?secret", "https://me:secret@[::1"]
    )
    def test_a_refused_address_shows_no_secret(self, url: str) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="base_url is") as caught:
            provider(base_url=url)
        assert "secret" not in f"{caught.value!r}"

    def test_a_key_goes_over_plain_http_to_loopback_only(self) -> None:
        for url in ("http://localhost:1/v1", "http://127.0.0.1:1", "http://[::1]:1/v1"):
            provider(base_url=url)
        with pytest.raises(LLMProviderConfigurationError, match="allow_plain_http=True"):
            provider(base_url="http://10.0.0.1/v1")
        provider(base_url="http://10.0.0.1/v1", allow_plain_http=True)

    def test_cached_providers_are_the_same_for_the_same_arguments(self) -> None:
        arguments = {"model_name": "gpt-4o", "api_key": KEY, "extra_headers": {"x-a": "b"}}
        first = get_cached_provider("openai", **arguments)
        assert get_cached_provider("openai", **arguments) is first
        assert get_cached_provider("openai", **{**arguments, "api_key": KEY + "2"}) is not first
        assert get_cached_sync_provider("openai", **arguments) is get_cached_sync_provider("openai", **arguments)
        clear_provider_cache()
        assert get_cached_provider("openai", **arguments) is not first

    def test_objects_that_look_alike_are_told_apart(self) -> None:
        class Cache(MemoryCache):
            def __repr__(self) -> str:
                return "Cache()"

        class Watcher(Hooks):
            def __repr__(self) -> str:
                return "Watcher()"

        caches, watchers = (Cache(), Cache()), (Watcher(), Watcher())
        arguments: dict[str, Any] = {"model_name": "gpt-4o", "api_key": KEY}
        made = [
            get_cached_provider("openai", cache=cache, hooks=[watcher], **arguments)
            for cache in caches
            for watcher in watchers
        ]
        assert len({*map(id, made)}) == 4
        assert get_cached_provider("openai", cache=caches[1], hooks=[watchers[1]], **arguments) is made[3]

    def test_names_of_services_are_the_same_in_any_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DEFAULT_LLM_PROVIDER", "OpenAI")
        monkeypatch.setenv("DEFAULT_MODEL_NAME", "gpt-4.1")
        made = [create_sync_llm_provider(name, api_key=KEY) for name in (None, "openai", "OpenAI")]
        assert {(each.provider_type, each.config.model_name) for each in made} == {("openai", "gpt-4.1")}

    def test_a_registered_class_is_made_with_config_and_key(self) -> None:
        class CustomProvider(LLMProvider):
            def __init__(self, config: LLMConfig, api_key: str | None = None, **kwargs: Any) -> None:
                super().__init__(config, api_key, **kwargs)
                self.kwargs = kwargs

            def execute(self, prompt: str) -> LLMResponse:
                return LLMResponse(content=prompt.upper(), model=self.config.model_name)

        register_provider("Custom", CustomProvider)
        made: Any = create_llm_provider("custom", model_name="m", api_key=KEY, base_url="https://x.example.com")
        assert isinstance(made, CustomProvider)
        assert made.kwargs == {"base_url": "https://x.example.com"}
        assert made.execute("hello").content == "HELLO"
        assert made.get_model_info()["provider_type"] == "custom"
        assert made.estimate_tokens("hello") >= 1
        with pytest.raises(LLMProviderUnsupportedOperationError, match=r"^custom: it does not support execute_resp"):
            made.execute_responses_api("hello")

    def test_what_is_no_provider_is_not_registered(self) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="must be a ProviderSpec or a subclass"):
            register_provider("x", dict)  # type: ignore[arg-type]

    def test_a_registered_spec_works_in_both_worlds(self) -> None:
        spec = ProviderSpec(name="acme", base_url="https://llm.example.com/v1", key_variables=("ACME_API_KEY",))
        register_provider("acme", spec)
        for create in (create_llm_provider, create_sync_llm_provider):
            preview = create("acme", model_name="m", api_key=KEY).build_request("Hello")
            assert preview.url == "https://llm.example.com/v1/chat/completions"
        with pytest.raises(
            LLMProviderUnsupportedOperationError, match="has no responses API; api_type can be chat_comp"
        ):
            create_sync_llm_provider("acme", model_name="m", api_key=KEY, api_type="responses").build_request("Hello")


class TestBuildRequest:
    def test_it_shows_everything_but_the_key(self) -> None:
        preview = provider(extra_headers={"X-Team": "blue"}, extra_query={"a": "b c"}).build_request(
            "Hello", system_prompt="Be brief", max_tokens=9
        )
        assert preview.method == "POST"
        assert preview.url == "https://api.openai.com/v1/chat/completions?a=b+c"
        assert preview.headers["authorization"] == "[redacted]"
        assert preview.headers["x-team"] == "blue"
        assert KEY not in repr(preview)
        assert preview.body == {
            "model": "gpt-4o",
            "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}],
            "temperature": 0.7,
            "max_completion_tokens": 9,
        }
        assert preview.adjustments == []

    def test_a_reasoning_model_gets_no_temperature_that_was_only_a_default(self) -> None:
        preview = provider(model_name="o3").build_request("Hello")
        assert preview.body is not None
        assert "temperature" not in preview.body
        assert [(a["parameter"], a["action"]) for a in preview.adjustments] == [("temperature", "omitted")]
        explicit = provider(model_name="o3", temperature=0.5).build_request("Hello")
        assert explicit.body is not None
        assert explicit.body["temperature"] == 0.5

    def test_the_responses_api_refuses_by_name_what_it_cannot_express(self) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match="no parameter for stop"):
            provider(stop="END").build_request("Hello", api_type="responses")

    def test_the_responses_api_takes_no_fewer_than_16_tokens(self) -> None:
        preview = provider().build_request("Hello", api_type="responses", max_tokens=5)
        assert preview.body is not None
        assert preview.body["max_output_tokens"] == 16
        assert preview.adjustments[0]["parameter"] == "max_tokens"

    def test_extra_params_are_merged_in_last(self) -> None:
        extra = {"reasoning": {"summary": "auto"}, "temperature": None, "unheard_of": 1}
        preview = provider(model_name="o3", extra_params=extra).build_request(
            "Hello", api_type="responses", reasoning_effort="low"
        )
        assert preview.body is not None
        assert preview.body["reasoning"] == {"effort": "low", "summary": "auto"}
        assert preview.body["temperature"] is None
        assert preview.body["unheard_of"] == 1

    @pytest.mark.parametrize(
        ("messages", "place"),
        [
            ([], "messages is empty"),
            (5, "messages is an int"),
            (["hello"], r"messages\[0\] is a str"),
            ([{"content": "x"}], r"messages\[0\] has no role"),
            ([{"role": "usr", "content": "x"}], r"messages\[0\]\.role is 'usr'; did you mean 'user'"),
            ([{"role": "user", "content": 5}], r"messages\[0\]\.content is an int"),
            ([{"role": "user"}], r"messages\[0\]\.content is None"),
            ([{"role": "tool", "content": "x"}], r"messages\[0\] answers no tool call"),
            ([{"role": "user", "content": "a\ud800b"}], r"half a surrogate pair at character 1"),
        ],
    )
    def test_messages_of_the_wrong_shape_are_refused_by_place(self, messages: Any, place: str) -> None:
        with pytest.raises(LLMProviderBadRequestError, match=place):
            provider().build_request(messages)


class TestProvider:
    def test_the_token_limit_follows_the_models_window_unless_set(self) -> None:
        assert provider().get_model_info()["token_limit"] == 128_000
        assert provider(token_limit=50).get_model_info()["token_limit"] == 50
        assert provider(model_name="never-heard-of").get_model_info()["token_limit"] == 8192
        made = provider()
        assert made.make_call("Hi", temperature=0.1).config.token_limit == 128_000
        assert made.make_call("Hi", model_name="gpt-4.1").config.token_limit > 1_000_000
        assert made.make_call("Hi", model_name="never-heard-of").config.token_limit == 8192
        made.update_config(temperature=0.1)
        assert made.config.token_limit == 128_000 and made.config.explicit == {"temperature"}
        made.update_config(model_name="gpt-4.1")
        assert made.config.token_limit > 1_000_000
        assert provider(token_limit=50).make_call("Hi", temperature=0.1).config.token_limit == 50

    def test_a_prompt_over_the_limit_is_refused(self) -> None:
        with pytest.raises(LLMProviderTokenLimitError, match=r"openai: the prompt has .* tokens, more than .* 10"):
            provider(token_limit=10).build_request("word " * 100)
        with pytest.raises(LLMProviderTokenLimitError):
            provider(token_limit=10).build_request([{"role": "user", "content": [{"type": "text", "text": "a " * 99}]}])

    def test_validate_token_limit_counts_prompt_and_answer(self) -> None:
        made = provider(token_limit=100)
        assert made.validate_token_limit("Hello", max_tokens=50)
        assert not made.validate_token_limit("Hello", max_tokens=100)
        assert not made.validate_token_limit("word " * 200)

    def test_what_was_counted_is_remembered_for_the_last_models_alone(self) -> None:
        made = provider()
        for number in range(20):
            made.update_config(model_name=f"gpt-4o-{number}")
            made.estimate_tokens([{"role": "user", "content": "Hello"}])
            made.estimate_tokens([{"role": "user", "content": "Hello"}])
        assert list(made._counters) == [f"gpt-4o-{number}" for number in range(12, 20)]

    def test_update_config_keeps_what_was_set_and_changes_nothing_when_refused(self) -> None:
        made = provider(seed=3)
        made.update_config(temperature=0.2)
        assert (made.config.temperature, made.config.seed) == (0.2, 3)
        with pytest.raises(LLMProviderConfigurationError):
            made.update_config(temperature=0.1, timeout=-1)
        assert made.config.temperature == 0.2

    def test_model_info_names_what_is_in_force(self) -> None:
        info = provider(api_type=APIType.RESPONSES).get_model_info()
        assert {"provider_type", "model_name", "api_type", "token_limit"} <= set(info)
        assert info["api_type"] == "responses"

    def test_a_provider_shows_no_key_and_is_not_pickled(self) -> None:
        made = provider()
        assert KEY not in f"{made!r} {made} {made._key!r}"
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(made)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(made._key)

    def test_a_config_of_the_wrong_type_is_refused(self) -> None:
        with pytest.raises(LLMProviderConfigurationError, match="config is a dict"):
            SyncProvider({"model_name": "m"}, KEY)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("wiring", "told"),
        [
            ({"base_url": 5}, "^base_url is an int; it must be a string like https://"),
            ({"limits": 8}, "^limits is an int; it must be Limits"),
            ({"cache": "answers.db"}, "^cache is a str; it must be a MemoryCache"),
            ({"temprature": 1}, r"^there is no setting 'temprature'; did you mean 'temperature'\?"),
            ({"hook": None}, r"^there is no setting 'hook'; did you mean 'hooks'\?"),
        ],
    )
    def test_a_wrong_keyword_of_the_factory_is_named(self, wiring: dict[str, Any], told: str) -> None:
        with pytest.raises(LLMProviderConfigurationError, match=told):
            provider(**wiring)

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("tool", "tools"),
            ("respons_format", "response_format"),
            ("sytem_prompt", "system_prompt"),
            ("stream_mod", "stream_mode"),
        ],
    )
    def test_a_misspelt_keyword_of_a_call_is_told_among_those_of_calls(self, name: str, meant: str) -> None:
        options: dict[str, Any] = {name: None}
        with pytest.raises(LLMProviderConfigurationError, match=rf"no setting '{name}'; did you mean '{meant}'\?"):
            provider().build_request("Hello", **options)

    def test_a_request_is_built_as_a_call_is_made(self) -> None:
        body = provider().build_request("Hello", "Be brief").body
        assert body and body["messages"][0] == {"role": "system", "content": "Be brief"}

    def test_what_an_api_cannot_say_is_refused_in_the_name_of_the_provider(self) -> None:
        for options in ({"previous_response_id": "r"}, {"api_type": "responses", "seed": 1}):
            with pytest.raises(LLMProviderUnsupportedOperationError) as caught:
                provider().build_request("Hello", **options)
            assert caught.value.provider == "openai"

    def test_a_system_prompt_that_is_no_text_is_refused(self) -> None:
        with pytest.raises(LLMProviderBadRequestError, match=r"^system_prompt is an int; it must be a string, or None"):
            provider().build_request("Hello", system_prompt=5)

    def test_a_client_of_the_wrong_world_is_refused(self) -> None:
        from llmkit._sync._backend import httpx

        with httpx.Client() as client, pytest.raises(LLMProviderConfigurationError, match="http_client is a Client"):
            AsyncProvider(LLMConfig(model_name="m"), KEY, http_client=client)


def test_items_of_the_responses_api_go_there_as_they_are_and_nowhere_else() -> None:
    items = [{"type": "function_call_output", "call_id": "c1", "output": "Sunny"}]
    body = provider(api_type="responses").build_request(items, previous_response_id="resp_1").body
    assert body is not None
    assert body["input"] == items
    with pytest.raises(LLMProviderBadRequestError, match="belong to the Responses API"):
        provider().build_request(items)
