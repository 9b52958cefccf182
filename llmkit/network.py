"""What the connections of both worlds share: the process's TLS context, the environment's proxies, socket options.

Imports errors and locks only; the standard library's modules are imported when used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from .errors import LLMProviderConfigurationError
from .locks import ProcessLock

if TYPE_CHECKING:
    import ssl

__all__ = [
    "READ_SIZE",
    "certificate_directory",
    "environment_proxy",
    "holds_bytes",
    "is_loopback",
    "is_readable",
    "keep_alive_options",
    "proxy_error",
    "seconds_left",
    "shared_tls_context",
    "without_secrets",
]

READ_SIZE = 64 * 1024  # above 128 KiB each read takes memory from the system, and several times as long

# Mozilla's store, which all systems follow, has about 140.
WHOLE_STORE = 80
# As `openssl rehash` names its links: the subject's hash, and a number.
HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_tls_context: ssl.SSLContext | None = None
_tls_lock = ProcessLock()


def seconds_left(give_up_at: float | None) -> float | None:
    """Return the seconds until a time of `time.monotonic()`, None for no bound; raises TimeoutError at it."""
    if give_up_at is None:
        return None
    left = give_up_at - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def shared_tls_context(create: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the process's TLS context, made at the first call.

    It trusts the system's certificate directory where there is one: OpenSSL looks up in it what a server needs, and
    that is 1 ms instead of the 30 to 70 ms that loading a bundle takes. Else, and where SSL_CERT_FILE or SSL_CERT_DIR
    are set, `create` makes it. Raises LLMProviderConfigurationError where the certificates cannot be read.
    """
    global _tls_context
    with _tls_lock:
        if _tls_context is None:
            import ssl

            try:
                directory = certificate_directory()
                _tls_context = ssl.create_default_context(capath=directory) if directory else create()
            except OSError as error:
                path, fault = os.environ.get("SSL_CERT_FILE"), f"the certificates cannot be read: {error}"
                told = f"SSL_CERT_FILE is {path!r}, but {fault}; it must name a file in PEM" if path else fault
                raise LLMProviderConfigurationError(told) from None
        return _tls_context


def environment_proxy(scheme: str, host: str, port: int | None) -> str | None:
    """Return the URL of the proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY or the system name, or None.

    There is none for a loopback address: what goes there in plain text is not for the network.
    """
    if is_loopback(host):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host if port is None else f"{host}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_error(scheme: str, proxy: str, error: Exception) -> LLMProviderConfigurationError:
    """Return the error for a proxy of `environment_proxy` that the HTTP library cannot use; it has no password."""
    # In the order in which the standard library takes them.
    names = [form for name in (f"{scheme}_proxy", "all_proxy") for form in (name, name.upper())]
    source = next((name for name in names if os.environ.get(name)), "the system's proxy")
    if isinstance(error, ImportError):
        fault = "for SOCKS a package is missing: pip install socksio"
    else:
        fault = "it must be like http://proxy.example.com:3128; http, https, socks5 and socks5h are understood"
    return LLMProviderConfigurationError(f"{source} is {without_secrets(proxy)!r}; {fault}")


def without_secrets(url: str) -> str:
    """Return a URL, or what should be one, without its user name and password, and without its query."""
    return re.sub(r"//[^/]*@", "//…@", re.split(r"[?#]", url, maxsplit=1)[0])


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def keep_alive_options() -> list[tuple[int, int, int]]:
    """Return socket options that find a dead peer: a probe after 60 s of silence, then five, where the system can.

    Routers forget connections that are silent for long, as one is while a model thinks.
    """
    import socket

    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    # macOS calls the idle time TCP_KEEPALIVE.
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def is_readable(socket: Any) -> bool:
    """Return whether bytes or the end are in a socket, or it was closed."""
    number = socket.fileno()
    if number < 0:
        return True
    import select

    # `select` has no place for numbers over 1,023.
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def holds_bytes(tls: ssl.SSLObject) -> bool:
    """Return whether TLS has taken bytes or the end from its socket that nobody has read; takes one if so."""
    import ssl

    try:
        tls.read(1)
    except ssl.SSLError as error:
        return not isinstance(error, ssl.SSLWantReadError)
    return True


def certificate_directory() -> str | None:
    """Return the directory in which OpenSSL finds the system's certificates by their hashes, or None.

    One with a few certificates is somebody's addition, and no replacement of a bundle.
    """
    import ssl

    directory = ssl.get_default_verify_paths().capath
    if directory is None or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return None
    hashed = [name for name in os.listdir(directory) if HASHED_NAME.fullmatch(name)]
    return directory if len(hashed) >= WHOLE_STORE else None
