# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""Calls over TLS: a server that cannot be trusted is sent nothing, and a connection that is cut ends no answer."""

from __future__ import annotations

import datetime
import ssl
from typing import Any

import pytest
import trustme

from llmkit import LLMProviderConnectionError, LLMProviderError, network

from ..answers import ALL_APIS, AnyApi
from ..server import CLOSE, RESET, head, raw_reply
from .faults_help import CHUNKED, MODES, TEXT, ask, chunk, make_provider, whole
from .transport_help import TLSServer

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("api", ALL_APIS, ids=lambda api: api.name)]
LONG_AGO = datetime.datetime(2020, 1, 1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def _trust(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(network, "_tls_context", context)


UNTRUSTED: dict[str, Any] = {
    "signed by nobody known": lambda authority: TLSServer(trustme.CA()),
    "for another host": lambda authority: TLSServer(authority, name="example.org"),
    "expired": lambda authority: TLSServer(
        authority, not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(days=1)
    ),
}


@pytest.mark.parametrize("fault", UNTRUSTED)
def test_untrusted_server_is_sent_nothing(authority: trustme.CA, api: AnyApi, fault: str) -> None:
    with UNTRUSTED[fault](authority) as server:
        with make_provider(server, api, None) as provider:
            for mode in ("plain", "stream"):
                with pytest.raises(LLMProviderConnectionError, match="no connection"):
                    ask(provider, mode)
        assert len(server.connections) == 2 and not server.requests


CUTS: dict[str, Any] = {
    "without an end": lambda body: [head() + body, CLOSE],
    "within a chunk": lambda body: [CHUNKED + chunk(body)[:-9], CLOSE],
    "after a chunk": lambda body: [CHUNKED + chunk(body), CLOSE],
    "before its length": lambda body: [head(200, {"content-length": "99999"}) + body, CLOSE],
    "by a reset": lambda body: [CHUNKED + chunk(body), RESET],
    "in the head": lambda body: [b"HTTP/1.1 200 OK\r\n", CLOSE],
}


@MODES
@pytest.mark.parametrize("cut", CUTS)
def test_tls_that_is_cut_without_goodbye(authority: trustme.CA, api: AnyApi, mode: str, cut: str) -> None:
    body = whole(api, mode)
    place = body.index(b"lo, w")
    with TLSServer(authority, CUTS[cut](body[:place]), raw_reply(whole(api, mode))) as server:
        with make_provider(server, api, None) as provider:
            texts: list[str] = []
            with pytest.raises(LLMProviderError) as caught:
                ask(provider, mode, texts)
            assert (caught.value.partial.content if caught.value.partial else "") == "".join(texts)
            assert TEXT.startswith("".join(texts))
            assert (ask(provider, mode)).content == TEXT
