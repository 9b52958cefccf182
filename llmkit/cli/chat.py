"""`llmkit chat`: one question and its answer, or a conversation in a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, get_args

from ..choice import Choice, choose, doubt, is_installed
from ..config import APIType, ReasoningEffort, Settings
from ..errors import LLMProviderConfigurationError
from .answers import print_json, print_parsed, print_stream, print_text, print_usage, status_of
from .attachments import read_bytes, read_standard_input, text_of, user_message
from .terminal import is_terminal, note

__all__ = ["add_parsers"]

DESCRIPTION = """\
Ask a model. The prompt is the arguments, and after them what is piped in. Without either, in a terminal, a
conversation begins. Settings and keys come from the environment and from .env; no key is taken from the command line.
"""
EXAMPLES = """\
examples:
  %(prog)s "What is a monad?"
  git diff | %(prog)s -m anthropic/claude-sonnet-4-5 "Write a commit message"
  %(prog)s -f report.pdf -f chart.png "Do they agree?"
  %(prog)s --schema '{"type": "object", "properties": {"city": {"type": "string"}}}' "The capital of Norway"
"""


def add_parsers(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "chat",
        help="ask a model, or talk with it",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("prompt", nargs="*", help="the question; its words are joined with spaces")
    parser.add_argument("-m", "--model", metavar="PROVIDER/MODEL", help="whom to ask; or MODEL of the default provider")
    parser.add_argument("-f", "--file", action="append", default=[], help="a text, image, recording or PDF; repeatable")
    parser.add_argument("-s", "--system", metavar="TEXT", help="the system prompt")
    parser.add_argument("--temperature", type=float, help="0 to 2")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="bound the answer")
    parser.add_argument("--reasoning-effort", choices=get_args(ReasoningEffort), metavar="EFFORT", help="none to max")
    parser.add_argument("--api-type", choices=[kind.value for kind in APIType], help="which of the service's APIs")
    parser.add_argument(
        "-o",
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other setting (top_p, seed, timeout, max_retries, …) or parameter of the service; repeatable",
    )
    parser.add_argument("--base-url", metavar="URL", help="the address of the service")
    parser.add_argument("--schema", metavar="FILE|JSON", help="a JSON schema; the answer is an object of it")
    parser.add_argument("--no-stream", action="store_true", help="print the answer once it is whole")
    parser.add_argument("--json", action="store_true", help="print the whole response as one JSON object")
    parser.add_argument("--reasoning", action="store_true", help="show the model's reasoning, on standard error")
    parser.add_argument("--usage", action="store_true", help="show tokens, time and cost, on standard error")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..factory import create_sync_llm_provider

    choice = choose(arguments.model)
    if told := doubt(arguments.model, choice):
        note(told)
    options = _options(arguments)
    provider = create_sync_llm_provider(
        choice.provider, model_name=choice.model, base_url=arguments.base_url, **_settings(arguments)
    )
    with provider:
        if _is_conversation(arguments):
            from .conversation import converse

            return converse(provider, str(choice), options, arguments)
        piped = b"" if "-" in arguments.file else read_standard_input()
        message = user_message(" ".join(arguments.prompt), arguments.file, piped)
        if message is None:
            raise LLMProviderConfigurationError("there is no prompt: give one as an argument or on standard input")
        return _answer(provider, choice, [message], options, arguments)


def _is_conversation(arguments: argparse.Namespace) -> bool:
    if arguments.prompt or arguments.json or arguments.schema or "-" in arguments.file:
        return False
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def _answer(
    provider: Any, choice: Choice, messages: list[Any], options: dict[str, Any], arguments: argparse.Namespace
) -> int:
    if arguments.json or arguments.schema or arguments.no_stream:
        show = print_json if arguments.json else print_parsed if arguments.schema else print_text
        response = show(provider, messages, options, reasoning=arguments.reasoning)
    else:
        response = print_stream(provider, messages, options, reasoning=arguments.reasoning)
    if arguments.usage:
        print_usage([response], str(choice))
    return status_of(response)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    named = {name: getattr(arguments, name) for name in ("temperature", "max_tokens", "reasoning_effort", "api_type")}
    settings: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    parameters: dict[str, Any] = {}
    for option in arguments.option:
        name, equals, text = option.partition("=")
        if not name or not equals:
            raise LLMProviderConfigurationError(f"the option {option!r} must be like NAME=VALUE")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        if name not in Settings.__annotations__:
            _note_misspelling(name)
        (settings if name in Settings.__annotations__ else parameters)[name] = value
    extra = settings.get("extra_params", {})
    # What is no object is told of by the configuration.
    return settings | {"extra_params": extra | parameters} if parameters and isinstance(extra, dict) else settings


def _note_misspelling(name: str) -> None:
    """Tell of a parameter that is all but a setting: services ignore what they do not know, or refuse it."""
    import difflib

    for near in difflib.get_close_matches(name, Settings.__annotations__, n=1, cutoff=0.85):
        note(f"there is no setting {name!r}, so it is sent to the service; did you mean {near!r}?")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of each call."""
    options: dict[str, Any] = {"system_prompt": arguments.system} if arguments.system else {}
    if arguments.schema:
        options["response_format"] = _schema(arguments.schema)
    return options


def _schema(argument: str) -> Any:
    from ..structured import schema_format

    text = argument if argument.lstrip().startswith("{") else text_of(read_bytes(argument), argument)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LLMProviderConfigurationError(f"the schema is no JSON: {error}") from None
    if not is_installed("jsonschema"):
        note("the answer is not checked against the schema: jsonschema is not installed")
    return schema_format(schema)
