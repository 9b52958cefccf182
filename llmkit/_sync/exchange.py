# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""Sending a call: connections, tries, and every failure as one of our exceptions."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, proxy

from ..call import Call
from ..codec import decode_json
from ..decompression import understood
from ..errors import (
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderServerError,
    LLMProviderTimeoutError,
    type_with_article,
)
from ..failures import error_from_exception, error_from_response, excerpt, request_id
from ..hooks import CallRecord
from ..http_library import is_client
from ..http_provider import HTTPProvider
from ..network import without_secrets
from ..response import LLMResponse
from ..retry import Attempt, Retries
from ..structured import with_parsed
from ..traffic import Traffic, traffic_of
from ..wire import WireRequest, read_object
from ._backend import Client, call_in_thread, close_soon, handle, httpx, retrying, scope, sleep, within
from .body import receive, too_late
from .reader import SyncEventReader
from .transport import SyncKept, transport_for

if TYPE_CHECKING:
    from .caching import SyncKeep

__all__ = ["SyncExchange"]

logger = logging.getLogger(__name__)
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
        if client is not None and not is_client(client, Client.__name__):
            kind = Client.__name__
            raise LLMProviderConfigurationError(
                f"http_client is {type_with_article(client)}; it must be an httpx.{kind} or an httpx2.{kind}"
            )
        # Weak, since the garbage collector would close the connections of a cycle in any order, with warnings.
        self._provider: HTTPProvider = proxy(provider)
        self._client: Client | None = client
        # A client of the other library does not know our URLs.
        self._parsed_url: Callable[[str], Any] = parsed_url if isinstance(client, Client | None) else str
        self._queue = provider.call_queue()
        self._transports: WeakKeyDictionary[Any, SyncKept] = WeakKeyDictionary()

    def complete(self, call: Call) -> LLMResponse:
        """Return the answer to a call whose body comes whole."""
        record = self._record(call)
        try:
            record.begin()
            self._prepare(call)
            keep = self._look_up(call, record)
            answer = self._try(call, record, lambda retries: self._complete_once(call, retries, keep))
            answer = with_parsed(answer, call.output_format)
            if keep:
                record.cached = keep.found is not None
                keep.store(answer, None)
        except BaseException as error:
            record.end(time.monotonic(), error=error)
            raise
        record.end(time.monotonic(), answer)
        answer.metadata |= {"duration": record.duration, "cached": record.cached}
        return answer

    def open(self, call: Call) -> SyncEventReader:
        """Return a stream that has come to its first output: until then a failure is tried again."""
        record = self._record(call)
        try:
            record.begin()
            self._prepare(call)
            keep = self._look_up(call, record)
            reader = self._try(call, record, lambda retries: self._open_once(call, retries, keep))
        except BaseException as error:
            record.end(time.monotonic(), error=error)
            raise
        record.cached = keep is not None and keep.found is not None
        record.first_token(time.monotonic())
        reader.record, reader.keep = record, keep
        return reader

    def resume(self, call: Call, reader: SyncEventReader, request: WireRequest) -> SyncEventReader:
        """Return a reader that goes on where another one broke off."""
        record = reader.record
        resumed = self._try(call, record, lambda retries: self._resume_once(call, reader, request, retries))
        resumed.record = record
        return resumed

    def perform(self, call: Call, request: WireRequest, read: Callable[[dict[str, Any]], Result]) -> Result:
        """Return what `read` makes of the JSON object that answers a request beside the questions to a model."""
        record = self._record(call)
        try:
            record.begin()
            self._launch(call)
            result = self._try(call, record, lambda retries: self._perform_once(call, request, retries, read))
        except BaseException as error:
            record.end(time.monotonic(), error=error)
            raise
        record.end(time.monotonic(), result if isinstance(result, LLMResponse) else None)
        return result

    def close(self) -> None:
        """Close the connections of this loop; a caller's own client stays open."""
        kept = self._transports.pop(scope(), None)
        if kept:
            kept.close()

    def __del__(self) -> None:
        for home, kept in getattr(self, "_transports", {}).items():
            # None while the interpreter ends, which clears modules: the sockets end with the process.
            if close_soon is not None:
                close_soon(kept.close, home)

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

    def _record(self, call: Call) -> CallRecord:
        provider = self._provider
        return CallRecord(
            provider=provider.provider_type,
            operation=call.operation,
            address=without_secrets(provider.base_url),
            call=call,
            hooks=provider.hooks,
            started=time.monotonic(),
        )

    def _look_up(self, call: Call, record: CallRecord) -> SyncKeep | None:
        """Return what the call has to do with the provider's cache: nothing (None) where it has none."""
        cache = self._provider.cache
        if cache is None or not call.use_cache or call.background:
            return None
        from .caching import look_up

        keep = look_up(cache, self._provider, call)
        record.cached = keep.found is not None
        return keep

    def _try(self, call: Call, record: CallRecord, attempt: Callable[[Retries], Result]) -> Result:
        # Of the whole call: an answer that is taken up again has no more time.
        deadline = record.started + call.config.deadline if call.config.deadline else None
        note = partial(self._note_retry, record)
        retries = Retries(call.config, self._provider.budget, deadline, time.monotonic, note)
        if not record.cached:
            self._provider.budget.pay_in()
            if self._queue:
                from .turns import in_turn

                attempt = partial(in_turn, self._queue, self._provider, call, attempt)
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

        call_again = retrying(retries) or partial(_call_again, retries)
        result: Result = call_again(again)
        return result

    def _note_retry(self, record: CallRecord, attempt: Attempt) -> None:
        name, what, wait = record.provider, attempt["status_code"] or attempt["error"], attempt["wait"]
        logger.info("%s: try %d failed (%s); again in %.2f s", name, attempt["number"], what, wait)
        record.retry(attempt)

    def _complete_once(self, call: Call, retries: Retries, keep: SyncKeep | None) -> LLMResponse:
        response, request = self._send(call, retries, keep)
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
        # Together lists its models with no object around them.
        return self._read_json(
            response, call, retries, lambda body: read_object({"data": body} if isinstance(body, list) else body, read)
        )

    def _open_once(self, call: Call, retries: Retries, keep: SyncKeep | None) -> SyncEventReader:
        response, request = self._send(call, retries, keep)
        wire_format = self._provider.wire_format(call.api_type)
        metadata = self._metadata(call, request, response, retries)
        decoder = wire_format.decoder()
        decoder.raw_events, decoder.max_json_depth = call.raw_events, call.config.max_json_depth
        decoder.keep_text = call.keep_text
        reader = SyncEventReader(response, decoder, call.config, retries.deadline, metadata)
        try:
            reader.start()
        except LLMProviderError as error:
            raise self._named(error, response, call) from None
        except BaseException:
            reader.close()
            raise
        return reader

    def _send(self, call: Call, retries: Retries, keep: SyncKeep | None) -> tuple[httpx.Response, WireRequest]:
        """Return a successful response with its body unread, and the request that brought it.

        A 400 that names a parameter which was only a default is answered by one repeat without it.
        """
        request = self._provider.wire_request(call)
        cached = keep and keep.response()
        if cached:
            return cached, request
        response = self._send_once(call, request, retries)
        if response.status_code >= 300:
            error = self._error(response, call, retries)
            if not self._provider.remember_refused_default(call, request, error):
                raise error
            request = self._provider.wire_request(call)
            response = self._send_once(call, request, retries)
            if response.status_code >= 300:
                raise self._error(response, call, retries)
        if keep:
            keep.watch(response, self._headers(call, response))
        return response, request

    def _send_once(self, call: Call, request: WireRequest, retries: Retries) -> httpx.Response:
        seconds, bound = call.config.timeout, "timeout"
        if retries.deadline is not None and retries.deadline - time.monotonic() < seconds:
            seconds, bound = retries.deadline - time.monotonic(), "deadline"
        if seconds <= 0:
            raise self._provider.named(too_late(call.config, bound))
        url = self._provider.base_url.partition("?")[0].rstrip("/") + request.path
        traffic: Traffic | None = None
        http_request: Any = None
        try:
            http_request = self._http_request(call, request, seconds, retries)
            redacted = partial(self._provider.redacted, config=call.config)
            traffic = traffic_of(request.method, url, request.body, redacted)
            sent: Any
            if self._client:
                sent = self._client.send(http_request, stream=True, follow_redirects=False)
            else:
                sent = handle(self._transport(url), http_request)
            response: httpx.Response = within(retries.deadline, sent)
        except Exception as error:
            failure = error if isinstance(error, LLMProviderError) else error_from_exception(error)
            if failure is None:
                raise
        else:
            if traffic:
                traffic.answered(response.status_code, http_request.headers.get("content-length", "0"))
                response.extensions["traffic"] = traffic
            if self._queue:
                self._queue.learn(response.headers, time.time(), time.monotonic())
            return response
        # Outside of the handler, so that no httpx exception, which knows the request, hangs on ours; and without the
        # request itself, whose repr has its query.
        del http_request
        late = bound == "deadline" or (retries.deadline is not None and time.monotonic() >= retries.deadline)
        if late and isinstance(failure, LLMProviderTimeoutError):
            failure = too_late(call.config, "deadline")
        if failure.code == "ConnectError":
            failure.args = (f"{failure.message}; the address is {without_secrets(self._provider.base_url)}",)
        failure = self._provider.named(failure, call.config)
        if traffic:
            traffic.failed(failure)
        raise failure

    def _http_request(self, call: Call, request: WireRequest, seconds: float, retries: Retries) -> httpx.Request:
        """Return the request as it is sent; the key is a variable here, and in no frame of an error's traceback."""
        method, url, headers, content = self._provider.http_request(call, request)
        if self._provider.spec.idempotency_header:
            headers[self._provider.spec.idempotency_header.lower()] = retries.idempotency_key(content or b"")
        timeouts = {"connect": seconds, "read": seconds, "write": seconds, "pool": seconds}
        extensions = {"timeout": timeouts, "deadline": retries.deadline}
        parsed = self._parsed_url(url)
        if self._client:
            # Its default may ask for codings that no bound holds for.
            headers = {"accept-encoding": understood(self._client.headers.get("accept-encoding", "")), **headers}
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

    def _transport(self, url: str) -> Any:
        kept = self._transports.get(scope())
        if kept is None:
            kept = self._transports[scope()] = SyncKept(transport_for(url))
            kept.until_end()
        return kept.transport

    def _read_json(
        self, response: httpx.Response, call: Call, retries: Retries, read: Callable[[Any], Result]
    ) -> Result:
        """Return what `read` makes of the whole body; the connection is free then. Raises for too large a body."""
        pieces: list[bytes] = []
        failure = receive(response, call.config, retries.deadline, call.config.max_body_bytes, pieces)
        if failure:
            raise self._named(failure, response, call)
        try:
            return read(_decoded(b"".join(pieces), call.config.max_json_depth))
        except LLMProviderError as error:
            raise self._named(error, response, call) from None

    def _error(self, response: httpx.Response, call: Call, retries: Retries) -> LLMProviderError:
        """Return the exception for a status that is no success, with what its body says as far as it came."""
        pieces: list[bytes] = []
        receive(response, call.config, retries.deadline, ERROR_BODY_BYTES, pieces)
        error = error_from_response(response.status_code, response.headers, b"".join(pieces), now=time.time())
        return self._provider.named(error, call.config)

    def _named(self, error: LLMProviderError, response: httpx.Response, call: Call) -> LLMProviderError:
        error.request_id = error.request_id or request_id(response.headers)
        return self._provider.named(error, call.config)

    def _metadata(self, call: Call, request: WireRequest, response: httpx.Response, retries: Retries) -> dict[str, Any]:
        headers = self._headers(call, response)
        return {
            "wire_format": self._provider.wire_format(call.api_type).name,
            "adjustments": request.adjustments,
            "attempts": retries.attempts,
            "request_id": request_id(headers),
            "headers": headers,
        }

    def _headers(self, call: Call, response: httpx.Response) -> dict[str, str]:
        headers = {name: text for name, text in response.headers.items() if name != "set-cookie"}
        joined = "\n".join(headers.values())
        if self._provider.redacted(joined, call.config) != joined:
            headers = {name: self._provider.redacted(text, call.config) for name, text in headers.items()}
        return headers


def _call_again(retries: Retries, attempt: Callable[[], Result]) -> Result:
    """Do what tenacity does, where it is not installed."""
    while True:
        try:
            return attempt()
        except LLMProviderError as error:
            if not retries.allows(error):
                raise
        sleep(retries.wait)


def _decoded(body: bytes, max_depth: int) -> Any:
    try:
        return decode_json(body, max_depth)
    except ValueError as error:
        text = body.decode("utf-8", "replace").strip()
        told = f"the answer is not JSON ({error}): {excerpt(text, 200)}" if text else "the answer is empty"
        raise LLMProviderServerError(told, body=excerpt(text)) from None
