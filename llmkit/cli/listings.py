"""`llmkit providers` and `llmkit models`: what there is to ask."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..access import find_base_url
from ..choice import default_provider, key_variable
from ..errors import LLMProviderConfigurationError
from ..network import without_secrets
from ..services import find_spec, provider_names
from ..specs import ProviderSpec
from .terminal import print_table, waiting

__all__ = ["add_parsers", "shown_address"]


def add_parsers(commands: Any) -> None:
    """Add the commands to the parser."""
    providers = commands.add_parser(
        "providers",
        help="list the services and whether their keys are set",
        description="List the services that llmkit knows, with the variable of each one's key; no key is shown.",
        allow_abbrev=False,
    )
    providers.add_argument("--json", action="store_true", help="print a JSON array")
    providers.set_defaults(run=_providers)
    models = commands.add_parser(
        "models",
        help="list the models of a service",
        description="List the models that a service offers to your key, with their windows in tokens where known.",
        allow_abbrev=False,
    )
    models.add_argument("provider", nargs="?", help="a service; without it, the default")
    models.add_argument("--base-url", metavar="URL", help="the address of the service")
    models.add_argument("--json", action="store_true", help="print a JSON array")
    models.set_defaults(run=_models)


def shown_address(spec: ProviderSpec) -> str:
    """Return the address of a service without secrets, with its variables where they are not set."""
    try:
        return without_secrets(find_base_url(spec, None)) or "started on this machine when needed"
    except LLMProviderConfigurationError:
        return without_secrets(spec.base_url)


def _providers(arguments: argparse.Namespace) -> int:
    services: list[dict[str, Any]] = []
    for name in provider_names():
        spec = find_spec(name)
        services.append(
            {
                "name": name,
                "formats": [make().name for make in spec.formats.values()],
                "key_variables": list(spec.key_variables),
                "key_set": key_variable(name),
                "key_optional": spec.key_optional or not spec.key_variables,
                "address": shown_address(spec),
                "default_model": spec.default_model,
            }
        )
    if arguments.json:
        print(json.dumps(services))
        return 0
    rows = [
        (each["name"], " or ".join(each["key_variables"]), _is_set(each), ", ".join(each["formats"]), each["address"])
        for each in sorted(services, key=lambda each: not each["key_set"])
    ]
    print_table(("PROVIDER", "KEY", "IS SET", "FORMATS", "ADDRESS"), rows)
    return 0


def _is_set(service: dict[str, Any]) -> str:
    return "yes" if service["key_set"] else "not needed" if service["key_optional"] else "no"


def _models(arguments: argparse.Namespace) -> int:
    from ..factory import create_sync_llm_provider

    name = arguments.provider or default_provider()
    spec = find_spec(name)
    # The list is the same whatever the model, but a server on this machine has to be started with one.
    provider = create_sync_llm_provider(name, model_name=spec.default_model or "any", base_url=arguments.base_url)
    with waiting(f"asking {name}"), provider:
        models = provider.list_models()
    rows: list[dict[str, Any]] = [
        {
            "id": model.id,
            "context_window": model.context_window or spec.context_window(model.id),
            "max_output_tokens": model.max_output_tokens,
        }
        for model in sorted(models, key=lambda model: model.id)
    ]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    cells = [(row["id"], *(f"{row[key]:,}" if row[key] else "" for key in _NUMBERS)) for row in rows]
    print_table(("MODEL", "WINDOW", "LONGEST ANSWER"), cells, numbers=(1, 2))
    return 0


_NUMBERS = ("context_window", "max_output_tokens")
