"""The pieces of tool calls in a stream of Chat Completions, put together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ..events import Event, ToolCallDelta

__all__ = ["ToolCallAssembler"]


class _Brackets:
    """Looks at every character of a JSON text once, however often it is asked for."""

    def __init__(self) -> None:
        self._read = self._depth = 0
        self._opened = self._in_string = self._escaped = False

    def closed(self, pieces: list[str]) -> bool:
        """Return whether the text so far has opened a bracket, and closed all of them."""
        for character in "".join(pieces[self._read :]):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped, self._in_string = character == "\\", character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._opened, self._depth = True, self._depth + 1
            elif character in "}]":
                self._depth -= 1
        self._read = len(pieces)
        return self._opened and self._depth <= 0


@dataclass(slots=True)
class _OpenCall:
    position: int
    kind: str
    id: str | None = None
    name: str | None = None
    pieces: list[str] = field(default_factory=list)
    _brackets: _Brackets = field(default_factory=_Brackets)

    def is_whole(self) -> bool:
        """Return whether the arguments so far are a whole object, after which no more can follow."""
        return self._brackets.closed(self.pieces)


class ToolCallAssembler:
    """Tells which call a piece belongs to, since services set `index`, `id` and `name` each in a way of their own.

    A piece continues the call of its index, else that of its id; without either, or with an index that is new but
    nothing to open a call with, it continues the last. Another id or another name opens a new call even so, and so
    does the same name once the arguments are whole. `extras` has the keys that a service put on a call besides.
    """

    def __init__(self) -> None:
        self.count = 0
        self.extras: list[dict[str, Any]] = []
        self._by_index: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}
        self._last: _OpenCall | None = None

    def read(self, pieces: Iterable[dict[str, Any]], events: list[Event]) -> None:
        """Append a delta for every piece."""
        for piece in pieces:
            type = piece.get("type") or ("custom" if "custom" in piece and "function" not in piece else "function")
            # Moonshot's own functions are of a type `builtin_function`, and stand where all functions do.
            kind = "custom" if type == "custom" else "function"
            body = piece.get(kind) or {}
            text = body.get("input" if kind == "custom" else "arguments")
            if not isinstance(text, str):
                text = "" if text is None else json.dumps(text, ensure_ascii=False)
            id, name = "" + (piece.get("id") or "") or None, "" + (body.get("name") or "") or None
            index = piece.get("index")
            if not isinstance(index, int) or index < 0:
                index = None
            call = self._continued(index, id, name, text) or self._opened(kind)
            call.id, call.name = call.id or id, call.name or name
            call.pieces.append(text)
            self.extras[call.position] |= {key: value for key, value in piece.items() if key not in _CALL_KEYS}
            if type not in ("custom", "function"):
                self.extras[call.position]["type"] = type
            self._last = call
            if index is not None:
                self._by_index[index] = call
            if id:
                self._by_id[id] = call
            events.append(ToolCallDelta(call.position, call.id, call.name, text, call.kind))

    def _continued(self, index: int | None, id: str | None, name: str | None, text: str) -> _OpenCall | None:
        """Return the call that a piece continues, None where it opens one."""
        call = self._by_index.get(index) if index is not None else None
        named_by_index = call is not None
        if call is None and id:
            call = self._by_id.get(id)
        if call is None and self._last and not (id and self._last.id):
            call = self._last if not name or (index is None and not id) else None
        if call is None or (id and call.id and id != call.id):
            return None
        if not name or not call.name:
            return call
        # After whole arguments the same name opens a call, unless index and id, or no text at all, speak against it.
        said_again = (named_by_index and id) if text else (named_by_index or index is None)
        repeated = said_again or not call.is_whole()
        return call if name == call.name and repeated else None

    def _opened(self, kind: str) -> _OpenCall:
        call = _OpenCall(self.count, kind)
        self.count += 1
        self.extras.append({})
        return call


_CALL_KEYS: Final = frozenset({"index", "id", "type", "function", "custom"})
