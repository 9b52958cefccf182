"""A file of recorded exchanges: what is in it, what it answers, and what is added to it. No network.

The file is JSON, made to be read and compared:

    {"exchanges": [{
        "request": {"method": "POST", "url": "https://…", "json": {…}},
        "response": {"status": 200, "headers": {…}, "json": {…}}
    }]}

In place of `json`, `pieces` has a body that is none (a stream) as it came, one list of lines for each read; bytes that
are not UTF-8 are lone surrogates. `broken` names the exception of httpx that ended it. Headers of requests are not
recorded at all.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args

from .config import environment
from .errors import LLMProviderConfigurationError
from .failures import excerpt
from .http_library import httpx
from .locks import ProcessLock
from .scrubbing import Scrubber

__all__ = ["ABANDONED", "Cassette", "Exchange", "RecordMode", "UnrecordedRequestError"]

RecordMode = Literal["none", "once", "new_episodes", "all"]
MODE_VARIABLE: Final = "LLMKIT_RECORD_MODE"
MOST_DIFFERENCES: Final = 6
ABANDONED: Final = "ReadError"
"""How a body ends in its replay where its recording was not read to the end."""


class UnrecordedRequestError(AssertionError):
    """A request is in no recording. No LLMProviderError, so that the tested code does not handle it."""


@dataclass(slots=True)
class Exchange:
    """One request, as it is compared, and its answer; `status` 0 until its head has come."""

    request: dict[str, Any]
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    broken: str | None = None
    finished: bool = False

    def finish(self, broken: str | None = None) -> None:
        """Note how the body has ended: by itself, or by an exception of httpx's with that name."""
        if not self.finished:
            self.finished, self.broken = True, broken


class Cassette:
    """The exchanges of one file.

    `mode` is VCR's: "none" only replays, "once" records where there is no file yet, "new_episodes" records what is
    not in it, "all" records everything anew. None: LLMKIT_RECORD_MODE in the environment, else "once". Each exchange
    is replayed once, in the file's order among equal requests.

    Raises LLMProviderConfigurationError for a wrong mode, and for a file that is none.
    """

    def __init__(
        self, path: str | os.PathLike[str], mode: RecordMode | None = None, scrub: Callable[[str], str] | None = None
    ) -> None:
        self.path = Path(path)
        self.mode = mode or environment(MODE_VARIABLE) or "once"
        if self.mode not in get_args(RecordMode):
            allowed = ", ".join(get_args(RecordMode))
            raise LLMProviderConfigurationError(f"the record mode is {self.mode!r}; it must be one of {allowed}")
        exists = self.path.exists()
        self._records = self.mode in ("new_episodes", "all") or (self.mode == "once" and not exists)
        self._scrubber = Scrubber(scrub)
        self._recorded = self._read() if exists and self.mode != "all" else []
        self._left = list(self._recorded)
        self._new: list[Exchange] = []
        self._lock = ProcessLock()

    def play(self, method: str, url: str, headers: Mapping[str, str], content: bytes) -> Exchange | None:
        """Return the recorded answer to a request, None where it is to be recorded; raises UnrecordedRequestError."""
        request = self._compared(method, url, headers, content)
        with self._lock:
            for index, exchange in enumerate(self._left):
                if exchange.request == request:
                    return self._left.pop(index)
        if self._records:
            return None
        raise UnrecordedRequestError(self._what_is_missing(request))

    def record(self, method: str, url: str, headers: Mapping[str, str], content: bytes) -> Exchange:
        """Return a new exchange; what its answer is goes into it as it comes."""
        exchange = Exchange(self._compared(method, url, headers, content))
        self._new.append(exchange)
        return exchange

    def save(self) -> None:
        """Write the file, where something was recorded."""
        # A connection that failed is no exchange, and a body that nobody has ended yet will not go on.
        new = [exchange for exchange in self._new if exchange.status]
        if not new:
            return
        for exchange in new:
            exchange.finish(ABANDONED)
        exchanges = [self._scrubbed(exchange) for exchange in [*self._recorded, *new]]
        text = json.dumps({"exchanges": exchanges}, ensure_ascii=False, indent=2)
        # Lone surrogates, which also stand for bytes that are not UTF-8, have no place in UTF-8 itself.
        text = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        unfinished.write_text(text + "\n", "utf-8")
        unfinished.replace(self.path)

    def _compared(self, method: str, url: str, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
        """Return what is recorded of a request, and what two requests are compared by."""
        self._scrubber.learn(url, headers)
        request: dict[str, Any] = {"method": method, "url": self._scrubber.url(url)}
        if content:
            body = _decoded(content)
            if body is None:
                request["pieces"] = [_lines(self._scrubber.line(content))]
            else:
                request["json"] = self._scrubber.json(body)
        return request

    def _scrubbed(self, exchange: Exchange) -> dict[str, Any]:
        """Return an exchange as it stands in the file."""
        headers = self._scrubber.headers(exchange.headers)
        response: dict[str, Any] = {"status": exchange.status, "headers": headers}
        if headers.pop("content-encoding", None):
            _decompress(exchange)
        body = None if exchange.broken else _decoded(b"".join(exchange.pieces))
        if body is None:
            response["pieces"] = [_lines(piece) for piece in self._scrubbed_pieces(exchange.pieces)]
        else:
            response["json"] = self._scrubber.json(body)
        if exchange.broken:
            response["broken"] = exchange.broken
        # Once more, since later requests may have shown secrets.
        return {"request": self._scrubber.json(exchange.request), "response": response}

    def _scrubbed_pieces(self, pieces: list[bytes]) -> Iterator[bytes]:
        """Yield the pieces without secrets, also those across a cut: cuts of a line that changes move to its end."""
        cuts = list(accumulate(map(len, pieces)))
        lines: list[bytes] = []
        moved: list[int] = []
        start = size = 0
        for line in b"".join(pieces).splitlines(keepends=True):
            clean = self._scrubber.line(line)
            end = start + len(line)
            inside = cuts[bisect_right(cuts, start) : bisect_right(cuts, end)]
            moved += [size + (cut - start if clean == line else len(clean)) for cut in inside]
            lines.append(clean)
            start, size = end, size + len(clean)
        body = b"".join(lines)
        for start, end in pairwise([0, *moved]):
            if start < end:
                yield body[start:end]

    def _read(self) -> list[Exchange]:
        try:
            exchanges = json.loads(self.path.read_text("utf-8"))["exchanges"]
            return [_exchange(each["request"], each["response"]) for each in exchanges]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise LLMProviderConfigurationError(
                f"{self.path} is no recording ({type(error).__name__}: {error}); delete it to record anew"
            ) from None

    def _what_is_missing(self, request: dict[str, Any]) -> str:
        """Return what to say of a request that is not recorded, with the nearest that is."""
        told = f"{request['method']} {request['url']} is not in {self.path} (mode {self.mode!r})"
        how = f"record it with mode='new_episodes', or {MODE_VARIABLE}=new_episodes in the environment"
        if not self._recorded:
            return f"{told}, which {'is empty' if self.path.exists() else 'does not exist'}; {how}"
        same = [exchange for exchange in self._recorded if exchange.request == request]
        if same:
            return f"{told} any more: it was recorded {len(same)} times, and answered as often; {how}"
        compared = [[*_differences(exchange.request, request)] for exchange in self._recorded]
        nearest = min(range(len(compared)), key=lambda index: len(compared[index]))
        differences = compared[nearest]
        more = [f"… and {len(differences) - MOST_DIFFERENCES} more"] if len(differences) > MOST_DIFFERENCES else []
        nearest_one = f"{told}; {how}\nThe nearest is number {nearest + 1} of {len(compared)}:"
        return "\n  ".join([nearest_one, *differences[:MOST_DIFFERENCES], *more])


def _exchange(request: dict[str, Any], response: dict[str, Any]) -> Exchange:
    if "json" in response:
        pieces = [json.dumps(response["json"]).encode()]
    else:
        pieces = ["".join(lines).encode("utf-8", "surrogateescape") for lines in response["pieces"]]
    return Exchange(request, response["status"], dict(response["headers"]), pieces, response.get("broken"), True)


def _decompress(exchange: Exchange) -> None:
    """Replace a compressed body by what it says, or by nothing: what cannot be read cannot be scrubbed."""
    encoding = {"content-encoding": exchange.headers["content-encoding"]}
    try:
        exchange.pieces = [httpx.Response(200, headers=encoding, content=b"".join(exchange.pieces)).content]
    except httpx.DecodingError:
        exchange.pieces, exchange.broken = [], "DecodingError"


def _decoded(body: bytes) -> Any:
    """Return the object or list that a body is, else None."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def _lines(piece: bytes) -> list[str]:
    return piece.decode("utf-8", "surrogateescape").splitlines(keepends=True)


def _differences(recorded: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield a line for each place in which two JSON values differ."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in {**recorded, **now}:
            yield from _differences(recorded.get(key, _NOTHING), now.get(key, _NOTHING), f"{place}.{key}".lstrip("."))
    elif isinstance(recorded, list) and isinstance(now, list):
        for index in range(max(len(recorded), len(now))):
            one, other = (each[index] if index < len(each) else _NOTHING for each in (recorded, now))
            yield from _differences(one, other, f"{place}[{index}]")
    elif recorded != now or type(recorded) is not type(now):
        yield f"{place}: recorded {_shown(recorded)}, now {_shown(now)}"


class _Nothing:
    """Stands for what one of two values has not."""


_NOTHING: Final = _Nothing()


def _shown(value: Any) -> str:
    return "nothing" if value is _NOTHING else excerpt(json.dumps(value, ensure_ascii=False), 80)
