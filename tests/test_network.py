"""What all connections share: the TLS context, proxies, socket options."""

from __future__ import annotations

import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmkit import LLMProviderConfigurationError, network
from llmkit.http_library import httpx


@pytest.fixture(autouse=True)
def _no_context_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def system_directory(monkeypatch: pytest.MonkeyPatch, path: Path | None, certificates: int = 0) -> None:
    for number in range(certificates):
        assert path is not None
        (path / f"{number:08x}.0").touch()
        (path / f"Authority_{number}.pem").touch()
    paths = SimpleNamespace(capath=path and str(path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


def never() -> ssl.SSLContext:
    raise AssertionError("the bundle is not needed")


def test_a_directory_of_the_system_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system_directory(monkeypatch, tmp_path, 140)
    context = network.shared_tls_context(never)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert network.shared_tls_context(never) is context


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_the_environment_names_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    system_directory(monkeypatch, tmp_path, 140)
    monkeypatch.setenv(variable, str(tmp_path))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert network.shared_tls_context(lambda: made) is made


def test_without_a_whole_directory_the_bundle_is_loaded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[ssl.SSLContext] = []

    def create() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    for path, certificates in ((None, 0), (tmp_path, 3)):
        made.clear()
        monkeypatch.setattr(network, "_tls_context", None)
        system_directory(monkeypatch, path, certificates)
        with ThreadPoolExecutor(8) as threads:
            contexts = set(threads.map(lambda _: network.shared_tls_context(create), range(50)))
        assert contexts == set(made)
        assert len(made) == 1


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_certificates_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    told = re.escape(f"SSL_CERT_FILE is {str(path)!r}, but the certificates cannot be read: ")
    for _ in range(2):
        with pytest.raises(LLMProviderConfigurationError, match=rf"^{told}.* PEM$"):
            network.shared_tls_context(httpx.create_ssl_context)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert network.shared_tls_context(httpx.create_ssl_context)


def test_certificates_of_the_system_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    system_directory(monkeypatch, Path("/nowhere/certs"))
    with pytest.raises(LLMProviderConfigurationError, match=r"certificates cannot be read: .*certs"):
        network.shared_tls_context(never)


@pytest.mark.parametrize(
    ("environment", "scheme", "proxy"),
    [
        ({}, "https", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https", "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "https", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http", None),
        ({"HTTP_PROXY": "http://one:1", "ALL_PROXY": "http://all:1"}, "http", "http://one:1"),
        ({"ALL_PROXY": "socks5://all:1"}, "https", "socks5://all:1"),
        ({"ALL_PROXY": "http://all:1", "NO_PROXY": "example.org"}, "https", None),
        ({"ALL_PROXY": "http://all:1", "NO_PROXY": "org"}, "https", None),
        ({"ALL_PROXY": "http://all:1", "NO_PROXY": "other.org, api.example.org:8443"}, "https", None),
        ({"ALL_PROXY": "http://all:1", "NO_PROXY": "api.example.org:1"}, "https", "http://all:1"),
        ({"ALL_PROXY": "http://all:1", "NO_PROXY": "*"}, "https", None),
        ({"HTTPS_PROXY": ""}, "https", None),
    ],
)
def test_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], scheme: str, proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert network.environment_proxy(scheme, "api.example.org", 8443) == proxy


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"HTTPS_PROXY": "foo://1", "ALL_PROXY": "http://2"}, "HTTPS_PROXY is"),
        ({"https_proxy": "foo://1", "HTTPS_PROXY": "http://2"}, "https_proxy is"),
        ({"HTTP_PROXY": "http://2", "ALL_PROXY": "foo://1"}, "ALL_PROXY is"),
        ({}, "the system's proxy is"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = str(network.proxy_error("https", "foo://1", ValueError()))
    assert told.startswith(f"{named} 'foo://1'; it must be like http://")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:word@host/v1?key=k#f", "https://…@host/v1"),
        ("https://user@host:8000", "https://…@host:8000"),
        ("https://user:wo@rd@host/@cf/v1", "https://…@host/@cf/v1"),
        ("https://host/v1#key=k?", "https://host/v1"),
        ("http://user:word@[bad?key=k", "http://…@[bad"),
        ("host", "host"),
    ],
)
def test_a_url_without_what_may_be_secret(url: str, shown: str) -> None:
    assert network.without_secrets(url) == shown


def test_the_keep_alive_options_are_accepted() -> None:
    with socket.socket() as tcp:
        for option in network.keep_alive_options():
            tcp.setsockopt(*option)
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "models.localhost"])
def test_no_proxy_sees_what_is_sent_to_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    assert network.environment_proxy("http", host, 11434) is None
    assert network.environment_proxy("http", f"{host}.example.org", 11434) == "http://proxy:3128"
