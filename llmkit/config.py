"""Settings: what they are called, what they may be, and where they come from. Imports errors only."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Literal, TypedDict, Unpack, get_args

from .errors import LLMProviderConfigurationError, type_with_article

__all__ = [
    "APIType",
    "ConfigSettings",
    "LLMConfig",
    "ReasoningEffort",
    "Settings",
    "StreamMode",
    "environment",
    "nearest",
    "unknown_setting",
    "unread_dotenv",
]

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class APIType(StrEnum):
    """Which of a service's two kinds of API answers `execute`.

    `CHAT_COMPLETION` is messages in, message out, in the service's own format (OpenAI's Chat Completions,
    Anthropic's Messages, Gemini's generateContent). `RESPONSES` is OpenAI's Responses API.
    """

    CHAT_COMPLETION = "chat_completion"
    RESPONSES = "responses"


class StreamMode(StrEnum):
    """How `execute` answers.

    `DISABLED`: one request, one `LLMResponse`. `ENABLED`: a stream. `AUTO`: an `LLMResponse` that travels as a
    stream, so that no gateway's idle limit cuts a long answer.
    """

    DISABLED = "disabled"
    ENABLED = "enabled"
    AUTO = "auto"


class Settings(TypedDict, total=False):
    """The settings of `LLMConfig` as keywords of a factory, of `update_config` or of a single call."""

    api_type: APIType | Literal["chat_completion", "responses"]
    temperature: float
    max_tokens: int | None
    top_p: float
    frequency_penalty: float
    presence_penalty: float
    stop: str | Sequence[str] | None
    seed: int | None
    reasoning_effort: ReasoningEffort | None
    token_limit: int
    timeout: float
    idle_timeout: float
    deadline: float | None
    max_retries: int
    retry_delay: float
    max_retry_wait: float
    retry_read_timeouts: bool
    max_event_bytes: int
    max_body_bytes: int
    max_stream_bytes: int
    max_json_depth: int
    max_tool_calls: int
    api_version: str | None
    allow_plain_http: bool
    extra_params: Mapping[str, Any]
    extra_headers: Mapping[str, str]
    extra_query: Mapping[str, str]


class ConfigSettings(Settings, total=False):
    """Every field of `LLMConfig`, as keywords of `update_config` and `replace`."""

    model_name: str
    stream_mode: StreamMode | Literal["disabled", "enabled", "auto"]


# These are parameters of the model, sent to the service; all other settings steer llmkit itself.
SAMPLING: Final = (
    "temperature",
    "max_tokens",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "seed",
    "reasoning_effort",
)


@dataclass(frozen=True, kw_only=True)
class LLMConfig:
    """How to ask and how long to wait: the settings of a provider, checked and immutable.

    LLMConfig(model_name="gpt-4o")                         # the defaults
    LLMConfig(model_name="o3", reasoning_effort="low")     # only what was set is sent, and `temperature`
    LLMConfig(model_name="gpt-4o", timeout=10, deadline=60, max_retries=0)

    `temperature` (0 to 2) is the one sampling parameter that is sent by default, where the model takes it;
    `max_tokens` bounds the answer, None leaves it to the service. `token_limit` bounds the prompt, in tokens;
    left alone it follows the model's known window. Times are seconds: `timeout` bounds connecting, the wait until
    64 KiB are sent, that for the headers and each wait for bytes; `idle_timeout` each wait for the next event of a
    stream; `deadline` the whole call with all its attempts (None: no bound). `max_retries` counts the tries after the
    first; `retry_delay` is the first wait, doubled each time; a wait over `max_retry_wait` is not waited for. All
    calls of a provider share ten retries and one more for every ten calls; those after a 429 that names its wait are
    free.
    A read timeout is tried again only with `retry_read_timeouts`: the service may be at work, and charge, twice.
    No answer may have more than these, counted after decompression: `max_body_bytes` where it comes whole,
    `max_event_bytes` in one event, `max_stream_bytes` in all events of a stream, `max_json_depth` levels in its JSON,
    `max_tool_calls` calls. `api_version` is the version that Anthropic, Gemini and Azure want named. Keys go over
    plain http to loopback addresses only, unless `allow_plain_http`. `extra_params`, `extra_headers` and
    `extra_query` are merged in last, as they are; what the last two have under names of secrets is shown nowhere.

    Raises LLMProviderConfigurationError for a wrong name or value, with what is allowed.
    """

    model_name: str
    api_type: APIType = APIType.CHAT_COMPLETION
    stream_mode: StreamMode = StreamMode.DISABLED
    temperature: float = 0.7
    max_tokens: int | None = None
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    token_limit: int = 8192
    timeout: float = 60.0
    idle_timeout: float = 300.0
    deadline: float | None = None
    max_retries: int = 3
    retry_delay: float = 1.0
    max_retry_wait: float = 60.0
    retry_read_timeouts: bool = False
    max_event_bytes: int = 16 * 1024 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    max_stream_bytes: int = 128 * 1024 * 1024
    max_json_depth: int = 200
    max_tool_calls: int = 1000
    api_version: str | None = None
    allow_plain_http: bool = False
    # These may hold a gateway's own key.
    extra_params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_query: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __new__(cls, *args: Any, **settings: Any) -> LLMConfig:
        """Remember which settings the caller named: only `__new__` sees them apart from the defaults."""
        for name in settings:
            if name not in cls.__dataclass_fields__:
                raise unknown_setting(name, cls.__dataclass_fields__)
        config = super().__new__(cls)
        object.__setattr__(config, "_explicit", frozenset(settings) - {"model_name"})
        return config

    def __post_init__(self) -> None:
        for name, kind in (("api_type", APIType), ("stream_mode", StreamMode)):
            object.__setattr__(self, name, _member(name, kind, getattr(self, name)))
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for setting in fields(self):
            allowed, is_allowed = _ALLOWED.get(setting.name, ("", None))
            value = getattr(self, setting.name)
            if is_allowed and not is_allowed(value):
                told = repr(value) if setting.repr else _without_values(value)
                raise LLMProviderConfigurationError(f"{setting.name} is {told}; it must be {allowed}")

    @property
    def explicit(self) -> frozenset[str]:
        """The names of the settings that the caller set, apart from `model_name`."""
        names: frozenset[str] = self.__dict__["_explicit"]
        return names

    def replace(self, **settings: Unpack[ConfigSettings]) -> LLMConfig:
        """Return a copy with other settings; those that the caller had set stay told apart from the defaults.

        `dataclasses.replace` would take all of them for set.
        """
        kept: dict[str, Any] = {name: getattr(self, name) for name in ("model_name", *self.explicit)}
        kept.update(settings)
        return type(self)(**kept)

    __replace__ = replace  # of `copy.replace`, Python 3.13

    def without(self, names: Set[str]) -> LLMConfig:
        """Return a copy in which some settings are as if the caller had never set them."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in ("model_name", *(self.explicit - names))}
        return type(self)(**kept)

    def with_default(self, name: str, value: Any) -> LLMConfig:
        """Return a copy in which `name` has a better default, or `self` where the caller had set it."""
        if name in self.explicit or getattr(self, name) == value:
            return self
        # Not made anew: a check of all settings takes longer than the rest of what a call needs.
        config = object.__new__(type(self))
        config.__dict__.update(self.__dict__, **{name: value})
        return config


def unknown_setting(name: str, names: Any) -> LLMProviderConfigurationError:
    """Return the error for a setting that there is not among `names`."""
    return LLMProviderConfigurationError(f"there is no setting {name!r}{nearest(name, names)}")


def nearest(name: str, names: Any) -> str:
    """Return "; did you mean 'x'?" for the name closest to a wrong one, else the list of what there is."""
    import difflib

    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def environment(name: str) -> str | None:
    """Return a variable of the process, else of the file `.env` in the working directory, else None.

    `.env` is only read: nothing is written into `os.environ`, so child processes do not inherit its keys.
    An empty value counts as absent. Without python-dotenv the file is not read.
    """
    value = os.environ.get(name) or _dotenv().get(name)
    return value.strip() if value and value.strip() else None


_dotenv_cache: tuple[tuple[str, int, int], Mapping[str, str | None]] | None = None


def _dotenv() -> Mapping[str, str | None]:
    global _dotenv_cache
    try:
        path = os.path.abspath(".env")
        status = os.stat(path)
    except OSError:
        return {}
    key = (path, status.st_mtime_ns, status.st_size)
    if _dotenv_cache is None or _dotenv_cache[0] != key:
        read = _dotenv_reader()
        if read is None:
            return {}
        try:
            _dotenv_cache = key, read(path)
        except (OSError, UnicodeDecodeError) as error:
            raise LLMProviderConfigurationError(f"{path} cannot be read: {type(error).__name__}") from None
    return _dotenv_cache[1]


def _dotenv_reader() -> Callable[[str], Mapping[str, str | None]] | None:
    try:
        from dotenv import dotenv_values  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    read: Callable[[str], Mapping[str, str | None]] = dotenv_values
    return read


def unread_dotenv() -> str:
    """Return what an error about a missing variable adds where there is a `.env` that nothing can read, else ""."""
    is_unread = os.path.exists(".env") and _dotenv_reader() is None
    return " (.env is not read: pip install python-dotenv)" if is_unread else ""


def _member(name: str, kind: type[StrEnum], value: Any) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        allowed = " or ".join(repr(member.value) for member in kind)
        raise LLMProviderConfigurationError(f"{name} is {value!r}; it must be {allowed}") from None


def _number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    # Comparisons are false for NaN, and an infinite setting is above no finite `high`, hence isfinite.
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and low <= v <= high


def _positive(value: Any) -> bool:
    return _number(0)(value) and value > 0


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or check(v)


def _without_values(value: Any) -> str:
    names = f" with the names {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
    return f"{type_with_article(value)}{names}"


def _strings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, str) for pair in value.items() for v in pair)


def _query(value: Any) -> bool:
    return _strings(value) and not _SURROGATE.search("".join(text for pair in value.items() for text in pair))


def _headers(value: Any) -> bool:
    return _strings(value) and all(_NAME.fullmatch(n) and _VALUE.fullmatch(text) for n, text in value.items())


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# RFC 9110 §5.1 and §5.5, without the bytes beyond ASCII: a token, and text that neither begins nor ends with a blank.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"([!-~]([\t -~]*[!-~])?)?")


_ALLOWED: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "model_name": (
        "a name: a printable string, and not empty",
        # Two dots would lead to another path.
        lambda v: isinstance(v, str) and bool(v.strip(" .")) and v.isprintable(),
    ),
    "temperature": ("a number from 0 to 2", _number(0, 2)),
    "max_tokens": ("a whole number above 0, or None", _or_none(_whole(1))),
    "top_p": ("a number from 0 to 1", _number(0, 1)),
    "frequency_penalty": ("a number from -2 to 2", _number(-2, 2)),
    "presence_penalty": ("a number from -2 to 2", _number(-2, 2)),
    "stop": (
        "a string, a list of non-empty strings, or None",
        _or_none(lambda v: isinstance(v, Sequence) and all(isinstance(text, str) and text for text in v)),
    ),
    "seed": ("a whole number, or None", _or_none(_whole(-(2**63)))),
    "reasoning_effort": (
        f"one of {', '.join(get_args(ReasoningEffort))}, or None",
        _or_none(lambda v: v in get_args(ReasoningEffort)),
    ),
    "token_limit": ("a whole number above 0", _whole(1)),
    "timeout": ("seconds above 0", _positive),
    "idle_timeout": ("seconds above 0", _positive),
    "deadline": ("seconds above 0, or None", _or_none(_positive)),
    "max_retries": ("a whole number from 0", _whole(0)),
    "retry_delay": ("seconds from 0", _number(0)),
    "max_retry_wait": ("seconds from 0", _number(0)),
    "retry_read_timeouts": ("True or False", lambda v: isinstance(v, bool)),
    "max_event_bytes": ("a number of bytes above 0", _whole(1)),
    "max_body_bytes": ("a number of bytes above 0", _whole(1)),
    "max_stream_bytes": ("a number of bytes above 0", _whole(1)),
    "max_json_depth": ("a whole number from 1 to 200", lambda v: _whole(1)(v) and v <= 200),
    "max_tool_calls": ("a whole number from 0", _whole(0)),
    "api_version": (
        "a string of printable ASCII, or None",
        _or_none(lambda v: isinstance(v, str) and v.isascii() and v.isprintable()),
    ),
    "allow_plain_http": ("True or False", lambda v: isinstance(v, bool)),
    "extra_params": ("a mapping", lambda v: isinstance(v, Mapping) and all(isinstance(name, str) for name in v)),
    "extra_headers": ("a mapping of names of headers to texts of printable ASCII", _headers),
    "extra_query": ("a mapping of strings", _query),
}
