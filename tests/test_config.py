"""Settings: defaults, what is allowed, where values come from."""

from __future__ import annotations

import copy
import math
import os
import pickle
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from llmkit import APIType, LLMConfig, LLMProviderConfigurationError, StreamMode
from llmkit.codec import DEEPEST
from llmkit.config import Settings, environment


def test_the_defaults_are_the_specified_ones() -> None:
    config = LLMConfig(model_name="m")
    assert (config.api_type, config.stream_mode) == (APIType.CHAT_COMPLETION, StreamMode.DISABLED)
    assert (config.temperature, config.token_limit, config.timeout) == (0.7, 8192, 60.0)
    assert (config.max_retries, config.retry_delay, config.idle_timeout) == (3, 1.0, 300.0)
    assert (config.max_body_bytes, config.max_event_bytes, config.max_stream_bytes) == (64 << 20, 16 << 20, 128 << 20)
    assert (config.max_json_depth, config.max_tool_calls) == (DEEPEST, 1000)
    assert config.explicit == frozenset()


def test_what_the_caller_set_is_told_from_a_default_of_the_same_value() -> None:
    config = LLMConfig(model_name="m", temperature=0.7)
    assert config.explicit == {"temperature"}
    assert config.replace(seed=1).explicit == {"temperature", "seed"}
    assert config.with_default("token_limit", 10).explicit == {"temperature"}
    assert LLMConfig(model_name="m", token_limit=5).with_default("token_limit", 10).token_limit == 5


def test_a_config_survives_copying_and_pickling() -> None:
    config = LLMConfig(model_name="m", temperature=0.7, stop="END", extra_params={"a": [1]})
    for other in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert other.explicit == config.explicit


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LLMConfig(model_name="m").temperature = 1.0  # type: ignore[misc]


def test_enums_take_their_string_values() -> None:
    config = LLMConfig(model_name="m", api_type="responses", stream_mode="auto")  # type: ignore[arg-type]
    assert (config.api_type, config.stream_mode) == (APIType.RESPONSES, StreamMode.AUTO)


def test_keywords_offer_exactly_the_settings() -> None:
    assert set(get_type_hints(Settings)) == set(LLMConfig.__dataclass_fields__) - {"model_name", "stream_mode"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_name", ""),
        ("model_name", None),
        ("model_name", "a\nb"),
        ("model_name", ".."),
        ("api_type", "chat"),
        ("stream_mode", True),
        ("temperature", 2.1),
        ("temperature", "warm"),
        ("temperature", math.nan),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("top_p", -0.1),
        ("frequency_penalty", 3),
        ("presence_penalty", None),
        ("stop", [""]),
        ("stop", 3),
        ("seed", "x"),
        ("reasoning_effort", "huge"),
        ("token_limit", 0),
        ("timeout", 0),
        ("timeout", math.inf),
        ("timeout", math.nan),
        ("idle_timeout", -1),
        ("deadline", 0),
        ("max_retries", -1),
        ("retry_delay", -0.5),
        ("max_retry_wait", math.inf),
        ("retry_read_timeouts", 1),
        ("max_event_bytes", 0),
        ("max_body_bytes", None),
        ("max_stream_bytes", 0),
        ("max_json_depth", 0),
        ("max_json_depth", DEEPEST + 1),
        ("max_tool_calls", -1),
        ("api_version", 1),
        ("allow_plain_http", "yes"),
        ("api_version", "2024–10"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=rf"^{name} is .*; it must be ") as caught:
        LLMConfig(**{"model_name": "m", name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("extra_params", ["sk-secret"], "a list;"),
        ("extra_params", {1: "sk-secret"}, "a dict with the names 1;"),
        ("extra_query", {"key": "sk-secret\ud800"}, "a dict with the names 'key';"),
        ("extra_headers", [("authorization", "sk-secret")], "a list;"),
        ("extra_headers", {"authorization": b"sk-secret"}, "a dict with the names 'authorization';"),
        *[
            ("extra_headers", {"authorization": f"Bearer sk-secret{end}"}, "a dict with the names 'authorization';")
            for end in ("\n", "\r\nx: y", "\0", " ", "\x7f", "\x01x", "é", "\u2028")
        ],
        *[("extra_headers", {name: "sk-secret"}, "a dict with the names ") for name in ("", "a b", "a:", "a\r", "é")],
    ],
)
def test_what_may_hold_a_key_is_refused_without_being_shown(name: str, value: Any, told: str) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=rf"^{name} is {told}.* it must be ") as caught:
        LLMConfig(**{"model_name": "m", name: value})
    assert "secret" not in f"{caught.value!r} {caught.value}"


def test_what_may_hold_a_key_is_in_no_repr() -> None:
    held: Any = {name: {"x": "sk-secret, or \t 2"} for name in ("extra_headers", "extra_query", "extra_params")}
    config = LLMConfig(model_name="m", **held)
    assert config.extra_headers == config.extra_query == config.extra_params == {"x": "sk-secret, or \t 2"}
    assert "secret" not in f"{config!r} {config}"


def test_a_copy_keeps_what_was_set() -> None:
    config = LLMConfig(model_name="m", seed=3)
    assert config.replace(timeout=5).explicit == config.__replace__(timeout=5).explicit == {"seed", "timeout"}
    assert config.without({"seed", "stop"}) == LLMConfig(model_name="m")
    assert config.without({"seed"}).explicit == frozenset()


def test_a_wrong_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(LLMProviderConfigurationError, match=r"'temperatur'; did you mean 'temperature'\?"):
        LLMConfig(model_name="m", temperatur=1)  # type: ignore[call-arg]


def test_the_environment_comes_before_the_file_and_the_file_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("ACME_TOKEN=from-file\nOTHER_TOKEN=' padded '\nEMPTY_TOKEN=\n")
    monkeypatch.chdir(tmp_path)
    assert environment("ACME_TOKEN") == "from-file"
    assert environment("OTHER_TOKEN") == "padded"
    assert environment("EMPTY_TOKEN") is None
    assert environment("NO_SUCH_TOKEN") is None
    assert "ACME_TOKEN" not in os.environ
    monkeypatch.setenv("ACME_TOKEN", "from-process")
    assert environment("ACME_TOKEN") == "from-process"
    monkeypatch.setenv("ACME_TOKEN", "")
    assert environment("ACME_TOKEN") == "from-file"


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ACME_TOKEN=one")
    assert environment("ACME_TOKEN") == "one"
    (tmp_path / ".env").write_text("ACME_TOKEN=another")
    assert environment("ACME_TOKEN") == "another"


def test_an_unreadable_file_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"ACME_TOKEN=\xff\xfe")
    with pytest.raises(LLMProviderConfigurationError, match=r"\.env cannot be read"):
        environment("ACME_TOKEN")
