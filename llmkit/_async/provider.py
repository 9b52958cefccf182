# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""The provider that people use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast, overload

from ..call import CallOptions
from ..config import APIType, LLMConfig, StreamMode
from ..errors import LLMProviderBadRequestError, LLMProviderServerError
from ..hooks import Hooks
from ..http_provider import HTTPProvider
from ..messages import Message
from ..provider import LLMProvider
from ..response import LLMResponse, ToolCall
from ..specs import ProviderSpec
from ..tools import Toolbox, forces_call, tool_result
from ..wire.operations import Embeddings, ModelInfo, checked_texts, complete
from ._backend import MAY_AWAIT, call_function, sleep
from .exchange import AsyncExchange
from .stream import AsyncStream, check_keep_text

if TYPE_CHECKING:
    from ..cache import ResponseCache
    from ..limits import Limits

__all__ = ["AsyncBaseProvider", "AsyncProvider", "Prompt"]

MOST_PAGES = 100
"""How long a list of models may be: a service whose pages never end is given up."""

Prompt = str | Sequence[Mapping[str, Any] | Message]


class AsyncBaseProvider(LLMProvider):
    """What answers prompts in this world: the calls that people make, whoever answers them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the provider can be used again and opens new ones."""

    @overload
    async def execute(
        self,
        prompt: Prompt,
        system_prompt: str | None = None,
        *,
        stream_mode: Literal[StreamMode.ENABLED, "enabled"],
        **options: Unpack[CallOptions],
    ) -> AsyncStream: ...
    @overload
    async def execute(
        self,
        prompt: Prompt,
        system_prompt: str | None = None,
        *,
        stream_mode: Literal[StreamMode.DISABLED, StreamMode.AUTO, "disabled", "auto"] | None = None,
        **options: Unpack[CallOptions],
    ) -> LLMResponse: ...
    @overload
    async def execute(
        self,
        prompt: Prompt,
        system_prompt: str | None = None,
        *,
        stream_mode: StreamMode,
        **options: Unpack[CallOptions],
    ) -> LLMResponse | AsyncStream: ...
    async def execute(
        self, prompt: Prompt, system_prompt: str | None = None, *, stream_mode: Any = None, **options: Any
    ) -> LLMResponse | AsyncStream:
        """Answer a prompt, or a list of messages, through the API of the configured `api_type`.

        Returns an `LLMResponse`, or an `AsyncStream` where `stream_mode` is ENABLED (None: as configured).
        """
        if stream_mode is not None:
            options["stream_mode"] = stream_mode
        return await self._answer(prompt, system_prompt=system_prompt, **options)

    async def execute_chat_completion(
        self, messages: Prompt, system_prompt: str | None = None, **options: Unpack[CallOptions]
    ) -> LLMResponse:
        """Answer a list of messages, whatever `api_type` is configured."""
        return await self._whole_answer(messages, {**options, "system_prompt": system_prompt}, APIType.CHAT_COMPLETION)

    async def execute_responses_api(
        self,
        input_message: Prompt,
        instructions: str | None = None,
        previous_response_id: str | None = None,
        **options: Unpack[CallOptions],
    ) -> LLMResponse:
        """Answer through the Responses API, whatever `api_type` is configured.

        `previous_response_id` continues an answer that the service has stored; its instructions do not carry over.
        """
        keywords = {**options, "system_prompt": instructions, "previous_response_id": previous_response_id}
        return await self._whole_answer(input_message, keywords, APIType.RESPONSES)

    async def run_tools(
        self,
        messages: Prompt,
        system_prompt: str | None = None,
        *,
        max_turns: int = 10,
        **options: Unpack[CallOptions],
    ) -> LLMResponse:
        """Answer a prompt, or a list of messages, with the help of `tools`: the functions that the model calls.

        def weather(city: str, days: int = 1) -> dict[str, Any]: ...

        response = await provider.run_tools("Do I need an umbrella?", tools=[weather])

        The model is asked, its calls are made, one after the other, their results are sent, and so on until it
        answers without a call. The answer to the last of `max_turns` questions is returned as it is, its `tool_calls`
        not made; so is one that calls a tool without a function: a dict, or a model. `metadata["messages"]` of the
        response is the whole conversation, to go on with. What a service interrupts ("pause") is gone on with, too.

        Async functions are awaited, others run in a thread; a string is sent as it is, any other value as JSON. A
        tool that there is not, and arguments that do not fit, are told to the model as an error; what a function
        raises is raised here. A `tool_choice` that forces a call holds for the first turn only. `deadline` bounds each
        turn by itself, and no function.
        """
        if not isinstance(max_turns, int) or max_turns < 1:
            raise LLMProviderBadRequestError(f"max_turns is {max_turns!r}; it must be a whole number from 1")
        toolbox = Toolbox(options.get("tools"), may_await=MAY_AWAIT)
        conversation: list[Any] = [{"role": "user", "content": messages}] if isinstance(messages, str) else [*messages]
        keywords: dict[str, Any] = {**options, "system_prompt": system_prompt, "tools": toolbox.tools}
        while True:
            answer = await self._whole_answer(conversation, dict(keywords))
            max_turns -= 1
            conversation.append(toolbox.message(answer, len(conversation)))
            if not max_turns or not toolbox.goes_on(answer):
                answer.metadata["messages"] = conversation
                return answer
            for call in answer.tool_calls:
                conversation.append(await self._tool_result(toolbox, call))
            if forces_call(keywords.get("tool_choice")):
                del keywords["tool_choice"]

    async def _tool_result(self, toolbox: Toolbox, call: ToolCall) -> dict[str, Any]:
        try:
            function = toolbox.bound(call)
        except ValueError as error:
            return tool_result(call, str(error), is_error=True)
        return tool_result(call, await call_function(function))

    async def _whole_answer(
        self, prompt: Prompt, keywords: dict[str, Any], api_type: APIType | None = None
    ) -> LLMResponse:
        """Return the answer through an API (None: the configured one), never as a stream."""
        raise NotImplementedError

    async def _answer(self, prompt: Prompt, **keywords: Any) -> LLMResponse | AsyncStream:
        """Return the answer through the configured API, as a stream where `stream_mode` says so."""
        raise NotImplementedError


class AsyncProvider(AsyncBaseProvider, HTTPProvider):
    """A service and a model to ask, with its connections.

    async with AsyncProvider(LLMConfig(model_name="gpt-4o"), provider_type="openai") as provider:
        response = await provider.execute("What is a monad?")
        print(response.content)

    One provider may be shared by many tasks. `provider_type` is the name of a service (None:
    DEFAULT_LLM_PROVIDER, else openai); `spec` describes one that is not registered. `http_client` is a client of
    yours, of httpx or httpx2, to send with: it is not closed, and its own limits and proxies hold. `hooks` are called
    around each call, `limits` bound how much is sent at once and in a minute, a `cache` answers what was asked before.
    Without the `with` block, connections stay open for reuse until `aclose()`, or until the event loop ends.

    The keywords of each call override the settings; see `CallOptions`. Each call raises an `LLMProviderError`.
    """

    def __init__(
        self,
        config: LLMConfig,
        api_key: str | None = None,
        *,
        provider_type: str | None = None,
        base_url: str | None = None,
        http_client: Any = None,
        spec: ProviderSpec | None = None,
        hooks: Hooks | Iterable[Hooks] | None = None,
        limits: Limits | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        options: dict[str, Any] = {"hooks": hooks, "limits": limits, "cache": cache}
        super().__init__(config, api_key, provider_type=provider_type, base_url=base_url, spec=spec, **options)
        self._exchange = AsyncExchange(self, http_client)

    async def aclose(self) -> None:
        """Close the connections; the provider can be used again and opens new ones."""
        await self._exchange.aclose()

    def stream(
        self,
        prompt: Prompt,
        system_prompt: str | None = None,
        *,
        previous_response_id: str | None = None,
        keep_text: bool = True,
        **options: Unpack[CallOptions],
    ) -> AsyncStream:
        """Return the answer as a stream; a plain method, so `async with provider.stream(…)` needs no await.

        Nothing is sent before the stream is entered or read. A prompt over the token limit raises here, or then if it
        takes long to count. Without `keep_text` nothing is kept of the text and the reasoning that were handed out:
        `response()` and `error.partial` lack them, and native parts, and a stream of any length takes the same memory.
        """
        call = self.make_call(prompt, system_prompt=system_prompt, previous_response_id=previous_response_id, **options)
        check_keep_text(keep_text, call.output_format)
        self.check_token_limit(call, at_once=True)
        return AsyncStream(self._exchange, self, replace(call, stream=True, keep_text=keep_text), keep_text=keep_text)

    async def retrieve_response(self, response_id: str, **options: Unpack[CallOptions]) -> LLMResponse:
        """Return an answer that the service has stored; `finish_reason` is "pause" while it is still at work.

        Raises LLMProviderUnsupportedOperationError where the service stores none, as do the three methods below.
        """
        return await self._stored_response("retrieve", response_id, **options)

    async def cancel_response(self, response_id: str, **options: Unpack[CallOptions]) -> LLMResponse:
        """Stop the work on a background answer, and return it as far as it has come."""
        return await self._stored_response("cancel", response_id, **options)

    async def delete_response(self, response_id: str, **options: Unpack[CallOptions]) -> None:
        """Have the service forget a stored answer."""
        call = self.make_operation("stored_response", **options)
        await self._exchange.perform(call, self.stored_request("delete", response_id), dict)

    async def wait_for_response(
        self, response_id: str, *, poll_interval: float = 2.0, **options: Unpack[CallOptions]
    ) -> LLMResponse:
        """Return a background answer once it is done, asking for it every `poll_interval` seconds.

        `deadline` bounds each time of asking, not the wait: the work itself may take as long as it takes.
        """
        if not (isinstance(poll_interval, (int, float)) and 0 <= poll_interval < math.inf):
            raise LLMProviderBadRequestError(f"poll_interval is {poll_interval!r}; it must be seconds from 0")
        answer = await self.retrieve_response(response_id, **options)
        while answer.finish_reason == "pause":
            await sleep(poll_interval)
            answer = await self.retrieve_response(response_id, **options)
        return answer

    async def embed(
        self, texts: str | Sequence[str], *, dimensions: int | None = None, **options: Unpack[CallOptions]
    ) -> Embeddings:
        """Return a vector for each text, by an embedding model (`model_name=`); `dimensions` shortens the vectors.

        Raises LLMProviderUnsupportedOperationError where the service has no embeddings.
        """
        embed, read = self.operation("embed"), self.operation("read_embeddings")
        call = self.make_operation("embeddings", **options)
        texts = checked_texts(texts)
        request = embed(call.model, texts, dimensions, call.config.api_version)
        return await self._exchange.perform(call, request, lambda body: complete(read(body, call.model), texts))

    async def list_models(self, **options: Unpack[CallOptions]) -> list[ModelInfo]:
        """Return the models that the key may use.

        Raises LLMProviderUnsupportedOperationError where the service has no such list.
        """
        list_models, read = self.operation("list_models"), self.operation("read_models")
        call = self.make_operation("list_models", **options)
        models: list[ModelInfo]
        models, next_page = await self._exchange.perform(call, list_models("", call.config.api_version), read)
        for _ in range(MOST_PAGES):
            if not next_page:
                return models
            request = list_models(next_page, call.config.api_version)
            more, next_page = await self._exchange.perform(call, request, read)
            models += more
        raise self.named(LLMProviderServerError(f"the list of models has more than {MOST_PAGES} pages"))

    async def count_tokens(
        self, prompt: Prompt, system_prompt: str | None = None, **options: Unpack[CallOptions]
    ) -> int:
        """Return how many tokens the service itself counts in a prompt with its tools; `estimate_tokens` asks nobody.

        Raises LLMProviderUnsupportedOperationError where the service does not count.
        """
        count, read = self.operation("count_tokens"), self.operation("read_count")
        keywords: dict[str, Any] = {**options, "stream_mode": StreamMode.DISABLED}
        call = self.make_count(prompt, system_prompt=system_prompt, **keywords)
        request = count(self.counted_request(call))
        # What is added to all requests is in the one that is counted.
        call = replace(call, config=call.config.without({"extra_params"}))
        tokens: int = await self._exchange.perform(call, request, read)
        return tokens

    async def _stored_response(self, action: str, response_id: str, **options: Any) -> LLMResponse:
        call = self.make_operation("stored_response", **{**options, "api_type": APIType.RESPONSES})
        request = self.stored_request(action, response_id)
        return await self._exchange.perform(call, request, lambda body: self.read_answer(call, body))

    async def _whole_answer(
        self, prompt: Prompt, keywords: dict[str, Any], api_type: APIType | None = None
    ) -> LLMResponse:
        if api_type is not None:
            keywords["api_type"] = api_type
        if keywords.get("stream_mode", self.config.stream_mode) == StreamMode.ENABLED:
            keywords["stream_mode"] = StreamMode.AUTO
        answer: Any = await self._answer(prompt, **keywords)
        return cast("LLMResponse", answer)

    async def _answer(self, prompt: Prompt, **keywords: Any) -> LLMResponse | AsyncStream:
        call = self.make_call(prompt, **keywords)
        if not call.stream:
            return await self._exchange.complete(call)
        stream = AsyncStream(self._exchange, self, call)
        if call.config.stream_mode is StreamMode.ENABLED:
            return stream
        async with stream:
            return await stream.response()
