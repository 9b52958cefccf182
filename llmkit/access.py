"""The key and the address of a service: where they come from, and which are refused."""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import quote, urlsplit

from .config import environment, unread_dotenv
from .errors import LLMProviderConfigurationError, type_with_article
from .network import is_loopback, without_secrets
from .specs import ProviderSpec

__all__ = ["REDACTED", "Secret", "check_base_url", "find_base_url", "find_key", "written_forms"]

REDACTED = "[redacted]"
SHORTEST_PART: Final = 5
"""Fewer characters of a key tell nothing: keys of one service begin alike."""


class Secret:
    """A key that shows itself nowhere: not in a repr, not in a pickle."""

    __slots__ = ("_forms", "value")

    def __init__(self, value: str) -> None:
        self.value = value
        self._forms = tuple(written_forms(value))

    def __repr__(self) -> str:
        return f"Secret({REDACTED!r})"

    def removed_from(self, text: str) -> str:
        """Return a text without the key; a text that "…" cuts may hold the beginning of it."""
        for form in self._forms:
            text = text.replace(form, REDACTED)
            if "…" in text:
                for length in range(len(form) - 1, SHORTEST_PART - 1, -1):
                    text = text.replace(f"{form[:length]}…", f"{REDACTED}…")
        return text

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled; make the provider anew from its config and the environment")


def written_forms(secret: str) -> set[str]:
    """Return how a secret may be written: as it is, as JSON may have it, as it stands in a URL."""
    return {secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/"), quote(secret, safe="")}


def find_key(spec: ProviderSpec, api_key: str | None) -> Secret | None:
    """Return the key from the argument or the spec's variables; raises LLMProviderConfigurationError.

    A trailing line break, as `$(cat key)` leaves it, is taken off; any other character that no header may carry,
    and an empty key, are refused, and not shown.
    """
    source = "api_key"
    if api_key is None:
        for source in spec.key_variables:
            api_key = environment(source)
            if api_key:
                break
    if api_key is None:
        if spec.key_optional or not spec.key_variables:
            return None
        raise LLMProviderConfigurationError(
            f"no key; set {' or '.join(spec.key_variables)} in the environment or in .env{unread_dotenv()}, "
            "or pass api_key=…",
            provider=spec.name,
        )
    key = api_key.strip() if isinstance(api_key, str) else ""
    if not key or not key.isascii() or not key.isprintable():
        raise LLMProviderConfigurationError(
            f"{source} is no usable key: it must be a string of printable ASCII characters, and not empty",
            provider=spec.name,
        )
    return Secret(key)


def find_base_url(spec: ProviderSpec, base_url: str | None) -> str:
    """Return the base URL from the argument or the spec, with the spec's variables filled in.

    It is "" where the spec launches a server. Raises LLMProviderConfigurationError for a variable that is not set.
    """
    found = base_url or _VARIABLE.sub(lambda place: _fill(spec, *place.groups()), spec.base_url)
    if not found and not spec.launch:
        raise LLMProviderConfigurationError("no address; pass base_url=…", provider=spec.name)
    return found


# {NAME} or {NAME|default}; {model}, in lower case, is filled in for each call.
_VARIABLE: Final = re.compile(r"\{([A-Z0-9_]+)(?:\|([^}]*))?\}")


def _fill(spec: ProviderSpec, variable: str, default: str | None) -> str:
    value = environment(variable) or default
    if value is None:
        raise LLMProviderConfigurationError(
            f"no address; set {variable} in the environment or in .env{unread_dotenv()}, or pass base_url=…",
            provider=spec.name,
        )
    return value.rstrip("/")


def check_base_url(base_url: str, *, has_key: bool, allow_plain_http: bool) -> None:
    """Raise LLMProviderConfigurationError for a URL that cannot be used, or that would show the key to the network."""
    if not isinstance(base_url, str):
        told = f"base_url is {type_with_article(base_url)}; it must be a string like https://api.example.com/v1"
        raise LLMProviderConfigurationError(told)
    told = without_secrets(base_url)
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise LLMProviderConfigurationError(f"base_url is {told!r}, which is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or not base_url.isprintable() or " " in base_url:
        raise LLMProviderConfigurationError(f"base_url is {told!r}; it must be like https://api.example.com/v1")
    if parts.username is not None or parts.password is not None:
        raise LLMProviderConfigurationError("base_url holds a user name or password; pass api_key=… or extra_headers=…")
    if parts.scheme == "http" and has_key and not allow_plain_http and not is_loopback(host):
        raise LLMProviderConfigurationError(
            f"base_url is {told!r}: plain http would show the key to the network; use https, "
            "or pass allow_plain_http=True"
        )
