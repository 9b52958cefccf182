# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""Sending a call: connections, tries, and every failure as one of our exceptions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, proxy

from ..call import Call
from ..codec import decode_json
from ..errors import (
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderServerError,
    LLMProviderTimeoutError,
)
from ..failures import error_from_exception, error_from_response, excerpt, request_id
from ..provider import HTTPProvider
from ..response import LLMResponse
from ..retry import Retries
from ..structured import with_parsed
from ..traffic import Traffic, traffic_of
from ..wire import WireRequest, read_object
from ._backend import (
    Client,
    call_in_thread,
    close_at_end,
    close_soon,
    handle,
    httpx,
    retrying,
    scope,
    shield,
    sleep,
    within,
)
from .reader import SyncEventReader, body_pieces
from .transport import transport_for

__all__ = ["SyncExchange"]

Result = TypeVar("Result")
ERROR_BODY_BYTES = 65536
# A provider has few URLs, and parsing one takes a tenth of the time of a call.
parsed_url = lru_cache(maxsize=64)(httpx.URL)


class SyncExchange:
    """Sends the calls of one provider, over its own connections or over the caller's client.

    Connections belong to the event loop (blocking: to the process) that made them, so one provider serves several
    loops one after the other, and a forked child makes its own.
    """

    def __init__(self, provider: HTTPProvider, client: Any) -> None:
        if client is not None and not isinstance(client, Client):
            raise LLMProviderConfigurationError(
                f"http_client is a {type(client).__name__}; it must be an httpx.{Client.__name__}"
            )
        # Weak, since the garbage collector would close the connections of a cycle in any order, with warnings.
        self._provider: HTTPProvider = proxy(provider)
        self._client = client
        self._transports: WeakKeyDictionary[Any, _AsyncKept] = WeakKeyDictionary()

    def complete(self, call: Call) -> LLMResponse:
        """Return the answer to a call whose body comes whole."""
        self._prepare(call)
        answer = self._try(call, lambda retries: self._complete_once(call, retries))
        return with_parsed(answer, call.output_format)

    def open(self, call: Call) -> SyncEventReader:
        """Return a stream that has come to its first output: until then a failure is tried again."""
        self._prepare(call)
        return self._try(call, lambda retries: self._open_once(call, retries))

    def resume(self, call: Call, reader: SyncEventReader, request: WireRequest) -> SyncEventReader:
        """Return a reader that goes on where another one broke off."""
        return self._try(call, lambda retries: self._resume_once(call, reader, request, retries))

    def perform(self, call: Call, request: WireRequest, read: Callable[[dict[str, Any]], Result]) -> Result:
        """Return what `read` makes of the JSON object that answers a request beside the questions to a model."""
        self._launch(call)
        return self._try(call, lambda retries: self._perform_once(call, request, retries, read))

    def close(self) -> None:
        """Close the connections of this loop; a caller's own client stays open."""
        kept = self._transports.pop(scope(), None)
        if kept:
            kept.close()

    def __del__(self) -> None:
        for kept in getattr(self, "_transports", {}).values():
            close_soon(kept.close)

    def _prepare(self, call: Call) -> None:
        """Refuse a prompt over the token limit before anything is sent, without holding up the event loop."""
        if not self._provider.check_token_limit(call, at_once=True):
            call_in_thread(self._provider.check_token_limit, call)
        self._launch(call)

    def _launch(self, call: Call) -> None:
        """Start the server of a service that runs on this machine; one that runs already answers at once."""
        launch = self._provider.spec.launch
        if launch:
            self._provider.base_url = call_in_thread(launch, call.model)

    def _try(self, call: Call, attempt: Callable[[Retries], Result]) -> Result:
        deadline = time.monotonic() + call.config.deadline if call.config.deadline else None
        retries = Retries(call.config, self._provider.budget, deadline, time.monotonic)
        try:
            return attempt(retries)
        except LLMProviderError as error:
            if not retries.allows(error):
                raise
        # tenacity takes longer to import than a request to send: it is loaded once something has failed.
        sleep(retries.wait)

        # tenacity awaits what it can see to be a coroutine function, which a lambda is not.
        def again() -> Result:
            return attempt(retries)

        result: Result = retrying(retries)(again)
        return result

    def _complete_once(self, call: Call, retries: Retries) -> LLMResponse:
        response, request = self._send(call, retries)
        answer = self._read_json(response, call, retries, lambda body: self._provider.read_answer(call, body))
        answer.metadata |= self._metadata(call, request, response, retries)
        return answer

    def _resume_once(
        self, call: Call, reader: SyncEventReader, request: WireRequest, retries: Retries
    ) -> SyncEventReader:
        response = self._send_once(call, request, retries)
        if response.status_code >= 300:
            raise self._error(response, call, retries)
        reader.decoder.failure = None
        resumed = SyncEventReader(response, reader.decoder, call.config, retries.deadline, reader.metadata)
        resumed.left = reader.left
        return resumed

    def _perform_once(
        self, call: Call, request: WireRequest, retries: Retries, read: Callable[[dict[str, Any]], Result]
    ) -> Result:
        response = self._send_once(call, request, retries)
        if response.status_code >= 300:
            raise self._error(response, call, retries)
        return self._read_json(response, call, retries, lambda body: read_object(body, read))

    def _open_once(self, call: Call, retries: Retries) -> SyncEventReader:
        response, request = self._send(call, retries)
        wire_format = self._provider.wire_format(call.api_type)
        metadata = self._metadata(call, request, response, retries)
        decoder = wire_format.decoder()
        decoder.raw_events, decoder.max_json_depth = call.raw_events, call.config.max_json_depth
        reader = SyncEventReader(response, decoder, call.config, retries.deadline, metadata)
        try:
            reader.start()
        except LLMProviderError as error:
            raise self._named(error, response) from None
        except BaseException:
            reader.close()
            raise
        return reader

    def _send(self, call: Call, retries: Retries) -> tuple[httpx.Response, WireRequest]:
        """Return a successful response with its body unread, and the request that brought it.

        A 400 that names a parameter which was only a default is answered by one repeat without it.
        """
        request = self._provider.wire_request(call)
        response = self._send_once(call, request, retries)
        if response.status_code < 300:
            return response, request
        error = self._error(response, call, retries)
        if not self._provider.remember_refused_default(call, request, error):
            raise error
        request = self._provider.wire_request(call)
        response = self._send_once(call, request, retries)
        if response.status_code >= 300:
            raise self._error(response, call, retries)
        return response, request

    def _send_once(self, call: Call, request: WireRequest, retries: Retries) -> httpx.Response:
        seconds, bound = call.config.timeout, "timeout"
        if retries.deadline is not None and retries.deadline - time.monotonic() < seconds:
            seconds, bound = retries.deadline - time.monotonic(), "deadline"
        if seconds <= 0:
            raise self._too_late(call, bound)
        url = self._provider.base_url.partition("?")[0].rstrip("/") + request.path
        traffic: Traffic | None = None
        try:
            http_request = self._http_request(call, request, seconds, retries.deadline)
            traffic = traffic_of(request.method, url, request.body, self._provider.redacted)
            sent: Any
            if self._client:
                sent = self._client.send(http_request, stream=True, follow_redirects=False)
            else:
                sent = handle(self._transport(url), http_request)
            response: httpx.Response = within(retries.deadline, sent)
        except Exception as error:
            failure = error_from_exception(error)
            if failure is None:
                raise
        else:
            if traffic:
                traffic.answered(response.status_code, http_request.headers.get("content-length", "0"))
                response.extensions["traffic"] = traffic
            return response
        # Outside of the handler, so that no httpx exception, which knows the request, hangs on ours.
        late = bound == "deadline" or (retries.deadline is not None and time.monotonic() >= retries.deadline)
        if late and isinstance(failure, LLMProviderTimeoutError):
            failure = self._too_late(call, "deadline")
        failure = self._provider.named(failure)
        if traffic:
            traffic.failed(failure)
        raise failure

    def _http_request(self, call: Call, request: WireRequest, seconds: float, deadline: float | None) -> httpx.Request:
        """Return the request as it is sent; the key is a variable here, and in no frame of an error's traceback."""
        method, url, headers, content = self._provider.http_request(call, request)
        timeouts = {"connect": seconds, "read": seconds, "write": seconds, "pool": seconds}
        extensions = {"timeout": timeouts, "deadline": deadline}
        parsed = parsed_url(url)
        if self._client:
            # Its own default may ask for codings that no bound holds for.
            headers = {"accept-encoding": "gzip, deflate", **headers}
            http_request: httpx.Request = self._client.build_request(
                method, parsed, headers=headers, content=content, extensions=extensions
            )
            return http_request
        # With a stream, httpx leaves these two headers to its caller, and takes half the time.
        headers = {"host": parsed.netloc.decode("ascii"), **headers}
        if content is not None:
            headers["content-length"] = str(len(content))
        stream = httpx.ByteStream(content or b"")
        return httpx.Request(method, parsed, headers=headers, stream=stream, extensions=extensions)

    def _too_late(self, call: Call, bound: str) -> LLMProviderError:
        seconds = getattr(call.config, bound)
        return self._provider.named(
            LLMProviderTimeoutError(f"the call took longer than its {bound} ({seconds} s)", code=bound)
        )

    def _transport(self, url: str) -> Any:
        kept = self._transports.get(scope())
        if kept is None:
            kept = self._transports[scope()] = _AsyncKept(transport_for(url))
            kept.closer = close_at_end(kept.transport.close)
        return kept.transport

    def _read(self, response: httpx.Response, call: Call, retries: Retries) -> bytes:
        """Return the whole body, decompressed, and release the connection; raises for one over `max_body_bytes`."""
        pieces: list[bytes] = []
        failure = self._receive(response, call, retries, call.config.max_body_bytes, pieces)
        if failure:
            raise self._named(failure, response)
        return b"".join(pieces)

    def _receive(
        self, response: httpx.Response, call: Call, retries: Retries, limit: int, pieces: list[bytes]
    ) -> LLMProviderError | None:
        """Append the body to `pieces` and release the connection; return what cut it short."""
        wire: Any = response.extensions.get("network_stream")
        if retries.deadline is not None and hasattr(wire, "deadline"):
            wire.deadline = retries.deadline
        size = 0
        failure: LLMProviderError | None = None
        traffic: Traffic | None = response.extensions.get("traffic")
        body = body_pieces(response)
        try:
            while piece := within(retries.deadline, next(body, b"")):
                if failure:
                    continue
                if traffic:
                    traffic.receive(piece)
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    failure = LLMProviderServerError(f"the answer is larger than max_body_bytes ({limit} bytes)")
                    # It is paid for, and would be as large again.
                    failure.should_retry = False
                elif retries.deadline is not None and time.monotonic() >= retries.deadline:
                    failure = self._too_late(call, "deadline")
                if failure:
                    # No `break`, which would leave httpx's generators suspended: reading on fails at once.
                    response.close()
        except Exception as error:
            failure = failure or error_from_exception(error)
            if failure is None:
                raise
        finally:
            if traffic:
                traffic.end()
            with shield():
                response.close()
                with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
                    # httpx's generators would stay suspended: reading on makes all of them fail.
                    while next(body, b""):
                        pass
        late = retries.deadline is not None and time.monotonic() >= retries.deadline
        return self._too_late(call, "deadline") if late and isinstance(failure, LLMProviderTimeoutError) else failure

    def _read_json(
        self, response: httpx.Response, call: Call, retries: Retries, read: Callable[[Any], Result]
    ) -> Result:
        body = self._read(response, call, retries)
        try:
            return read(_decoded(body, call.config.max_json_depth))
        except LLMProviderError as error:
            raise self._named(error, response) from None

    def _error(self, response: httpx.Response, call: Call, retries: Retries) -> LLMProviderError:
        """Return the exception for a status that is no success, with what its body says as far as it came."""
        pieces: list[bytes] = []
        self._receive(response, call, retries, ERROR_BODY_BYTES, pieces)
        error = error_from_response(response.status_code, response.headers, b"".join(pieces), now=time.time())
        return self._provider.named(error)

    def _named(self, error: LLMProviderError, response: httpx.Response) -> LLMProviderError:
        error.request_id = error.request_id or request_id(response.headers)
        return self._provider.named(error)

    def _metadata(self, call: Call, request: WireRequest, response: httpx.Response, retries: Retries) -> dict[str, Any]:
        headers = {n: self._provider.redacted(v) for n, v in response.headers.items() if n != "set-cookie"}
        return {
            "wire_format": self._provider.wire_format(call.api_type).name,
            "adjustments": request.adjustments,
            "attempts": retries.attempts,
            "request_id": request_id(headers),
            "headers": headers,
        }


class _AsyncKept:
    """The connections of one event loop, and what closes them when it ends."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.closer: Any = None

    def close(self) -> None:
        self.transport.close()
        if self.closer:
            self.closer.close()


def _decoded(body: bytes, max_depth: int) -> Any:
    try:
        return decode_json(body, max_depth)
    except ValueError as error:
        text = body.decode("utf-8", "replace").strip()
        told = f"the answer is not JSON ({error}): {excerpt(text, 200)}" if text else "the answer is empty"
        raise LLMProviderServerError(told, body=excerpt(text)) from None
