"""Every feature of the package, in a program of its own: for copies under other names, and without some libraries.

    python features.py PACKAGE URL '["pydantic", …]'

Imports PACKAGE while `llmkit`, unless it is that, and the modules listed cannot be imported; talks to the server at URL
that `test_vendored.py` runs; and prints a JSON object: feature → what came of it, or the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import io
import json
import logging
import os
import pickle
import sys
from typing import Any

PACKAGE, URL, MISSING = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
FORBIDDEN = {*MISSING, *({"llmkit"} - {PACKAGE.partition(".")[0]})}


class Blocker:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
os.environ.update(OPENAI_BASE_URL=f"{URL}/v1", OPENAI_API_KEY="sk-test-0123456789")
# A fallback is logged as a warning, which would be printed.
logging.getLogger(PACKAGE).addHandler(logging.NullHandler())
lm = importlib.import_module(PACKAGE)
structured = importlib.import_module(f"{PACKAGE}.structured")

SERVICES = {
    "chat completions": ("openai", {"base_url": f"{URL}/v1"}),
    "responses": ("openai", {"base_url": f"{URL}/v1", "api_type": "responses"}),
    "messages": ("anthropic", {"base_url": f"{URL}/v1"}),
    "generateContent": ("gemini", {"base_url": URL}),
}
CITY = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


@dataclasses.dataclass
class City:
    name: str


def weather(name: str) -> str:
    """The weather in a city."""
    return f"Sunny in {name}"


def provider(**settings: Any) -> Any:
    return lm.create_sync_llm_provider("openai", model_name="gpt-4o", retry_delay=0, **settings)


def blocking(service: str) -> Any:
    name, settings = SERVICES[service]
    with lm.create_sync_llm_provider(name, model_name="m", api_key="k", **settings) as each:
        with each.stream("Hi") as stream:
            texts = list(stream)
        return [each.execute("Hi").content, texts, stream.response().finish_reason]


async def asynchronous(service: str) -> Any:
    name, settings = SERVICES[service]
    async with lm.create_llm_provider(name, model_name="m", api_key="k", **settings) as each:
        async with each.stream("Hi") as stream:
            texts = [text async for text in stream]
        return [(await each.execute("Hi")).content, texts, (await stream.response()).finish_reason]


def under_asyncio(service: str) -> Any:
    return asyncio.run(asynchronous(service))


def under_trio(service: str) -> Any:
    import trio

    return trio.run(asynchronous, service)


def retried() -> Any:
    with provider(base_url=f"{URL}/busy") as each:
        return [attempt["status_code"] for attempt in each.execute("Hi").metadata["attempts"]]


def retried_under_asyncio() -> Any:
    async def ask() -> Any:
        settings = {"model_name": "gpt-4o", "retry_delay": 0, "base_url": f"{URL}/busy"}
        async with lm.create_llm_provider("openai", **settings) as each:
            return [attempt["status_code"] for attempt in (await each.execute("Hi")).metadata["attempts"]]

    return asyncio.run(ask())


def given_up() -> Any:
    with provider(base_url=f"{URL}/down", max_retries=2) as each:
        try:
            each.execute("Hi")
        except lm.LLMProviderServerError as error:
            return len(error.attempts)


def tool_calls() -> Any:
    return provider().execute("Weather?", tools=[WEATHER]).tool_calls[0].arguments


def run_tools() -> Any:
    return provider().run_tools("Weather?", tools=[weather]).content


def typed_answer() -> Any:
    return provider().execute("Where?", response_format=City).parsed.name


def dict_answer() -> Any:
    format_ = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    return provider().execute("Where?", response_format=format_).content


def schema_answer() -> Any:
    return provider().execute("Where?", response_format=structured.schema_format(CITY)).to_dict()["parsed"]


def growing_objects() -> Any:
    with provider().stream("Where?", response_format=structured.schema_format(CITY)) as stream:
        return list(stream.objects())[-1]


def embeddings() -> Any:
    return provider().embed(["a", "b"], model_name="e").vectors


def models() -> Any:
    return [model.id for model in provider().list_models()]


def counted_by_the_service() -> Any:
    return provider().count_tokens("Hi")


def tokens() -> Any:
    count = provider().estimate_tokens("Hello world")
    return [0 < count < 6, provider().validate_token_limit("Hello world", max_tokens=100)]


def stored_answer() -> Any:
    return provider().wait_for_response("resp_1", poll_interval=0).content


def parts_of_messages() -> Any:
    content = ["What is this?", lm.Image(b"\x89PNG"), lm.File(b"%PDF")]
    return [
        part["type"]
        for part in provider().build_request([lm.Message(role="user", content=content)]).body["messages"][0]["content"]
    ]


def pickled_error() -> Any:
    with provider(base_url=f"{URL}/wrong") as each:
        try:
            each.execute("Hi")
        except lm.LLMProviderBadRequestError as error:
            again = pickle.loads(pickle.dumps(error))
            return [type(again).__module__ == f"{PACKAGE}.errors", str(again)]


def dotenv_file() -> Any:
    with open(".env", "w") as file:
        file.write("GROQ_API_KEY=sk-test\n")
    return repr(lm.create_sync_llm_provider("groq", model_name="m"))


def own_service() -> Any:
    lm.register_provider("acme", lm.ProviderSpec(name="acme", base_url=f"{URL}/v1", key_optional=True))
    return lm.get_cached_sync_provider("acme", model_name="m").execute("Hi").content


def limited_and_cached() -> Any:
    with provider(limits=lm.Limits(concurrency=1, tokens_per_minute=100_000), cache=lm.MemoryCache()) as each:
        return [each.execute("Hi").metadata["cached"] for _ in range(2)]


def fallen_back() -> Any:
    first, second = provider(base_url=f"{URL}/down", max_retries=0), provider()
    with first, second, lm.SyncFallbackProvider([first, second]) as either:
        response = either.execute("Hi")
        return [response.content, len(response.metadata["fallbacks"])]


def watched() -> Any:
    seen: list[Any] = []
    with provider(hooks=lm.Hooks(after=seen.append)) as each:
        each.execute("Hi")
    return [record.operation for record in seen]


def command(*arguments: str) -> Any:
    main = importlib.import_module(f"{PACKAGE}.cli").main
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        return [main(arguments), out.getvalue()]


def command_chat() -> Any:
    return command("chat", "--usage", "Hi")


def command_schema() -> Any:
    return command("chat", "--schema", json.dumps(CITY), "Where?")


def command_others() -> Any:
    return [command(*each.split())[0] for each in ("doctor", "providers", "models", "tokens features.txt --json")]


def whole_response() -> Any:
    return json.loads(json.dumps(provider().execute("Hi").to_dict()))["usage"]["cache_read"]


def stayed_out() -> Any:
    """Return what was imported although it must not be, at the end."""
    return sorted({name.partition(".")[0] for name in sys.modules} & FORBIDDEN)


ALONE = (
    retried, retried_under_asyncio, given_up, tool_calls, run_tools, typed_answer, dict_answer, schema_answer,
    growing_objects, embeddings, models, counted_by_the_service, tokens, stored_answer, parts_of_messages,
    pickled_error, dotenv_file, own_service, limited_and_cached, watched, command_chat, command_schema, command_others,
    fallen_back, whole_response, stayed_out,
)  # fmt: skip
WORLDS = (blocking, under_asyncio, under_trio)


def attempt(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except lm.LLMProviderError as error:
        return f"{type(error).__name__}: {error}"


found = {f"{service}, {world.__name__}": attempt(world, service) for service in SERVICES for world in WORLDS}
found |= {feature.__name__: attempt(feature) for feature in ALONE}
print(json.dumps(found))
