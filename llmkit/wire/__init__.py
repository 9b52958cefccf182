"""How a service is spoken to: the shape that all wire formats share. No I/O, no clock; bytes and objects only.

A wire format turns a `Call` into a `WireRequest` and makes a `StreamDecoder`, which turns server-sent events, or
one plain body, into typed events. Error bodies need no format of their own: see `failures.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import dropwhile, groupby
from typing import Any, Final, Protocol

from ..call import Adjustment, Call
from ..errors import LLMProviderUnsupportedOperationError, type_with_article
from ..messages import Message
from ..response import Issuer, ToolCall
from ..schema import SchemaDialect
from .stream_decoder import StreamDecoder, read_object

__all__ = [
    "Dialect",
    "StreamDecoder",
    "WireFormat",
    "WireRequest",
    "arguments_object",
    "counts",
    "fitting_ids",
    "join_pieces",
    "read_object",
    "sampling_parameters",
    "sent_role",
    "split_total",
    "split_turns",
    "text_or_none",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one service does otherwise than the wire format's own vendor.

    `rename` gives a parameter another name on the wire. `unsupported` names parameters that the service refuses:
    defaults are left out, what the caller set is an error. `model_rules` pairs a pattern of model names with
    the parameters that those models refuse. `stream_usage`: usage in a stream has to be asked for.
    `content_as_string`: content that is text alone goes out as one string. `thinking_off` is merged into the body
    for a `reasoning_effort` of "none", where the service has a switch of its own instead. `tool_call_ids` is a pattern
    of the ids that it takes, "" as the wire format's vendor does. `full_messages`: messages may have the role developer
    and the field `refusal`, which nobody but OpenAI has to know.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    model_rules: tuple[tuple[str, frozenset[str]], ...] = ()
    stream_usage: bool = True
    content_as_string: bool = False
    thinking_off: Mapping[str, Any] = field(default_factory=dict)
    tool_call_ids: str = ""
    full_messages: bool = False


@dataclass(slots=True, kw_only=True)
class WireRequest:
    """A request as the wire format has it: the path below the base URL, the JSON body, and headers of its own.

    `defaults` names the parameters in the body that the caller did not set: name on the wire → neutral name.
    """

    path: str
    body: dict[str, Any] | None = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    adjustments: list[Adjustment] = field(default_factory=list)
    defaults: dict[str, str] = field(default_factory=dict)

    def adjust(self, parameter: str, action: str, reason: str) -> None:
        """Note a change to what the caller, or a default, asked for."""
        self.adjustments.append(Adjustment(parameter=parameter, action=action, reason=reason))


class WireFormat(Protocol):
    """A protocol that services speak.

    Its `name` stands in `response.metadata` and in the issuer of native parts. `schema_dialect` is the part of JSON
    schema that it takes: the schemas of a call that come of Python's types are in it. An answer that may have more
    tokens than `largest_plain_answer` has to travel as a stream (None: none has to).
    """

    name: str
    schema_dialect: SchemaDialect
    largest_plain_answer: int | None = None

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call.

        `issuer` is who will answer: native parts of other issuers are left out.
        Raises LLMProviderUnsupportedOperationError, naming the part, for what the API cannot express.
        """
        ...

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""
        ...


def sampling_parameters(
    call: Call,
    names: Mapping[str, str | None],
    dialect: Dialect,
    request: WireRequest,
    refusals: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the sampling parameters under their names on the wire, and note every change in the request.

    A default that the format, the service or the model refuses is left out. What the caller set is sent, or
    refused by name where the API has no such parameter (LLMProviderUnsupportedOperationError). `refusals` says
    which defaults the rest of this very request rules out, and why: parameter → reason.
    """
    rules = [group for pattern, group in dialect.model_rules if re.search(pattern, call.model)]
    refused = {name: f"{call.model} refuses it" for group in rules for name in group} | dict(refusals or {})
    sent: dict[str, Any] = {}
    for name, value in call.sampling().items():
        wire_name = dialect.rename.get(name, names.get(name))
        explicit = name in call.config.explicit
        if wire_name is None or name in dialect.unsupported:
            if explicit:
                raise LLMProviderUnsupportedOperationError(f"this API has no parameter for {name}; it is {value!r}")
            reason = "the API has no such parameter"
        elif not explicit and name in refused:
            reason = refused[name]
        elif not explicit and name in call.omit:
            reason = f"the service refused it for {call.model}"
        else:
            sent[wire_name] = value
            if not explicit:
                request.defaults[wire_name] = name
            continue
        request.adjust(name, "omitted", reason)
    return sent


SYSTEM_ROLES: Final = ("system", "developer")


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Return the system messages that open a conversation, and its turns, for APIs whose roles alternate.

    A turn is a run of messages of the model, or a run of messages of anyone else.
    """
    rest = list(dropwhile(lambda message: message.role in SYSTEM_ROLES, messages))
    turns = [list(turn) for _, turn in groupby(rest, key=lambda message: message.role == "assistant")]
    return list(messages[: len(messages) - len(rest)]), turns


def sent_role(message: Message, dialect: Dialect) -> str:
    """Return the role under which a service of OpenAI's kind knows a message."""
    return "system" if message.role == "developer" and not dialect.full_messages else message.role


def fitting_ids(messages: Sequence[Message], issuer: Issuer, dialect: Dialect, vendors: str) -> list[Message]:
    """Return messages whose tool calls have ids that an API takes, and one that no earlier answer has.

    `vendors` is the pattern of the ids that the wire format's vendor takes; the dialect may have another. An id that
    does not match the whole pattern, or is there again, becomes a hash that fits everywhere, in the call and in its
    result alike. What `issuer` itself answered keeps its ids.
    """
    pattern = dialect.tool_call_ids or vendors
    fitting, used, sent_as = [], set[str](), dict[str, str]()
    for message in messages:
        calls = []
        for call in message.tool_calls:
            id = call.id
            if message.issuer != issuer and (id in used or not re.fullmatch(pattern, id, re.ASCII | re.DOTALL)):
                id = sha256(f"{len(used)} {id}".encode("utf-8", "surrogatepass")).hexdigest()[:9]
            used.add(id)
            sent_as[call.id] = id
            calls.append(call if id == call.id else replace(call, id=id))
        answers = message.tool_call_id and sent_as.get(message.tool_call_id, message.tool_call_id)
        changed = tuple(calls) != message.tool_calls or answers != message.tool_call_id
        fitting.append(replace(message, tool_calls=tuple(calls), tool_call_id=answers) if changed else message)
    return fitting


def arguments_object(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments for an API that takes nothing but an object.

    Free text stands under `input`. Text that is no JSON stands under `INVALID_JSON`
    (platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming).
    """
    if call.kind == "custom":
        return {"input": call.arguments_text}
    return {"INVALID_JSON": call.arguments_text} if call.parse_error else call.arguments


def text_or_none(value: Any) -> str | None:
    """Return a text that an answer has or lacks; raises TypeError, which ends the answer, for anything else."""
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{type_with_article(value)} stands where a text belongs")


def join_pieces(pieces: Iterable[str]) -> str:
    """Return the text of deltas, in which surrogate pairs may have been cut in half."""
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def counts(usage: Any) -> defaultdict[str, int]:
    """Return the numbers of tokens in a usage object; what is missing, null or no whole number counts 0."""
    named = usage.items() if isinstance(usage, Mapping) else ()
    numbers = ((name, value) for name, value in named if type(value) in (int, float) and value > 0)
    return defaultdict(int, {name: int(value) for name, value in numbers if value % 1 == 0})


def split_total(total: int, *parts: int) -> list[int]:
    """Return the parts of a total, each cut to what those before it left, and what all of them leave.

    Services round, and some count a token twice; the parts of a `Usage` must add up all the same.
    """
    split = []
    for part in parts:
        split.append(min(part, total))
        total -= split[-1]
    return [*split, total]
