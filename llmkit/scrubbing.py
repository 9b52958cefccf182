"""Secrets taken out of what is recorded: keys in headers, URLs and bodies, cookies, names of organisations. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

from .access import REDACTED, written_forms

__all__ = ["Scrubber", "carries_secret", "query_of", "scrubbed_query", "secret_words"]

SHORTEST_SECRET: Final = 8
"""Shorter values are no keys, and would be found everywhere."""
_SECRET_HEADER: Final = re.compile(
    r"auth|cookie|credential|key$|token$|secret|password|signature|organi[sz]ation|project|account", re.IGNORECASE
)
_PUBLIC_HEADER: Final = re.compile(r"accept.*|content-.*|host|user-agent|connection|.*-(?:version|beta)")
_KEY: Final = re.compile(r"[\w.+/=-]{16,}")
_FIELDS: Final = (
    "authorization",
    "authorization_token",
    "api_key",
    "api-key",
    "apikey",
    "x-api-key",
    "x-goog-api-key",
    "access_token",
    "refresh_token",
    "client_secret",
    "password",
)
# In a URL these are secrets, too; in a body a token is a piece of text, and a signature is wanted back.
_PARAMETERS: Final = {*_FIELDS, "key", "token", "secret", "sig", "signature", "subscription-key"}
# A field in the text of a line, which may be a piece of JSON.
_FIELD: Final = re.compile(rf'("(?:{"|".join(_FIELDS)})"\s*:\s*")(?:[^"\\]|\\.)*(?=")', re.IGNORECASE)
# As OpenAI names one in errors.
_ORGANIZATION: Final = re.compile(r"\borg-[A-Za-z0-9]{16,}")
# What belongs to one connection, and not to an answer.
_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "set-cookie"})


class Scrubber:
    """Takes secrets out of texts: those that requests have shown so far, and what has the name of one.

    `own` is a function of the caller's that gets each text last: each string of a JSON body, each line of another
    one, each URL and each value of a header.
    """

    def __init__(self, own: Callable[[str], str] | None = None) -> None:
        self._own = own
        self._secrets: set[str] = set()

    def learn(self, url: str, headers: Mapping[str, str]) -> None:
        """Remember the secrets that a request carries; `headers` have lower-case names."""
        for word in secret_words(headers, query_of(url)):
            self._secrets |= written_forms(word)

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        # The longest first, since one may be a part of another.
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        text = _ORGANIZATION.sub(REDACTED, text)
        return self._own(text) if self._own else text

    def line(self, line: bytes) -> bytes:
        """Return a line of a body without secrets; bytes that are not UTF-8 stay as they are."""
        text = _FIELD.sub(rf"\g<1>{REDACTED}", line.decode("utf-8", "surrogateescape"))
        return self.text(text).encode("utf-8", "surrogateescape")

    def url(self, url: str) -> str:
        """Return a URL without secrets in its query or elsewhere."""
        return self.text(scrubbed_query(url))

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return an answer's headers without secrets, which are remembered, and without those of its connection."""
        for name, value in headers.items():
            if _SECRET_HEADER.search(name):
                # What a cookie is, without what the browser is told of it.
                self.learn("", {name.lower(): value.partition(";")[0]})
        kept = {name.lower(): value for name, value in headers.items() if name.lower() not in _HOP}
        return {name: REDACTED if _SECRET_HEADER.search(name) else self.text(value) for name, value in kept.items()}

    def json(self, value: Any) -> Any:
        """Return a JSON value without secrets in its strings or under names of secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, dict):
            return {
                self.text(name): REDACTED if name.lower() in _FIELDS and isinstance(item, str) else self.json(item)
                for name, item in value.items()
            }
        return value


def secret_words(headers: Mapping[str, str], query: Iterable[tuple[str, str]]) -> set[str]:
    """Return the secrets that a request carries in its headers, which have lower-case names, and in its query."""
    values = [value for name, value in headers.items() if carries_secret(name, value)]
    values += [value for name, value in query if name.lower() in _PARAMETERS]
    # "Bearer KEY", "name=COOKIE; other=COOKIE": the whole, and each word.
    words = {word for value in values for word in (value, *re.split(r"[\s;,]+|=(?!=|$)", value))}
    return {word for word in words if len(word) >= SHORTEST_SECRET}


def carries_secret(name: str, value: str) -> bool:
    """Return whether a request's header is a secret by its name, or looks like a key: a service may name its own."""
    return bool(_SECRET_HEADER.search(name) or (_KEY.fullmatch(value) and not _PUBLIC_HEADER.fullmatch(name)))


def query_of(url: str) -> list[tuple[str, str]]:
    """Return the names and values in the query of a URL."""
    return parse_qsl(url.partition("?")[2], keep_blank_values=True)


def scrubbed_query(url: str) -> str:
    """Return a URL without what its query has under names of secrets, and else as it is written."""
    base, mark, query = url.partition("?")
    pairs = (part.partition("=") for part in query.split("&"))
    shown = (
        (name, sign, REDACTED if unquote_plus(name).lower() in _PARAMETERS else text) for name, sign, text in pairs
    )
    return base + mark + "&".join("".join(pair) for pair in shown)
