"""`make demo`: a model answers in all three worlds, through both of OpenAI's APIs.

Without a key it is the small local model, which knows little: the questions are ones that it answers well. With
OPENAI_API_KEY set (or DEFAULT_LLM_PROVIDER, and that service's key), the same code talks to the service.
"""

from __future__ import annotations

import sys
from typing import Any

from .choice import default_provider
from .config import APIType
from .errors import LLMProviderError
from .factory import create_llm_provider, create_sync_llm_provider

__all__ = ["main"]

QUESTIONS = {
    APIType.CHAT_COMPLETION: "What is 2+2?",
    APIType.RESPONSES: "Name the three primary colors.",
}
SETTINGS: dict[str, Any] = {"max_tokens": 60}


def _print_question(world: str, api_type: APIType, question: str) -> None:
    print(f"\n[{world}, {api_type.value}] {question}\n  ", end="", flush=True)


def _print_end(response: Any) -> None:
    usage = f"{response.prompt_tokens} tokens in, {response.completion_tokens} out"
    print(f"\n  ({response.model}: {usage}, {response.finish_reason})", flush=True)


def blocking(name: str, settings: dict[str, Any]) -> None:
    """Stream an answer of each API with blocking calls."""
    with create_sync_llm_provider(name, **settings) as provider:
        for api_type in provider.spec.formats:
            _print_question("blocking", api_type, QUESTIONS[api_type])
            with provider.stream(QUESTIONS[api_type], api_type=api_type) as stream:
                for text in stream:
                    print(text, end="", flush=True)
                _print_end(stream.response())


async def asynchronous(world: str, name: str, settings: dict[str, Any]) -> None:
    """Stream an answer of each API under the running event loop."""
    async with create_llm_provider(name, **settings) as provider:
        for api_type in provider.spec.formats:
            _print_question(world, api_type, QUESTIONS[api_type])
            async with provider.stream(QUESTIONS[api_type], api_type=api_type) as stream:
                async for text in stream:
                    print(text, end="", flush=True)
                _print_end(await stream.response())


def main() -> int:
    """Run the demo; return the exit code."""
    import asyncio

    try:
        name = default_provider()
        settings = SETTINGS | ({"temperature": 0.0} if name == "local" else {})
        print(f"llmkit talks to {name!r}.")
        blocking(name, settings)
        asyncio.run(asynchronous("asyncio", name, settings))
        try:
            import trio
        except ImportError:
            print("\n[trio] is not installed: pip install trio")
        else:
            trio.run(asynchronous, "trio", name, settings)
    except LLMProviderError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if name == "local":
        print("\nThat was a model of 135 million parameters, on this machine. For a large one, set OPENAI_API_KEY.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
