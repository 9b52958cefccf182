"""What a conversation is made of that costs tokens: its texts, and a number for all the rest.

Depends on errors, media and token_models.
Messages and tools have the form of Chat Completions. The figures are those of OpenAI's cookbook and of its guide to
images where there are any, else found in the usage that services reported; each says which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .errors import LLMProviderConfigurationError
from .media import audio_seconds, image_size
from .token_models import TokenModel

__all__ = ["Conversation", "ImageRule", "MediaRules", "media_rules"]

ImageRule = Callable[[int, int, bool], int]
"""The tokens of an image, from its width and height in pixels, and whether its detail is low."""


class MediaRules(NamedTuple):
    """How a model counts an image, and how many tokens a second of audio has."""

    image: ImageRule
    audio: int


class Conversation:
    """What a conversation is made of: texts to count, and tokens that are known without counting."""

    def __init__(
        self, messages: Any, tools: Any, model: TokenModel, media: MediaRules, response_format: Any = None
    ) -> None:
        self.texts: list[str] = []
        self.tokens = model.overhead.reply
        self.exact = model.overhead.exact
        self._media = media
        for message in _mappings("messages", messages):
            self.tokens += model.overhead.message
            for key, value in message.items():
                if key == "role":
                    self.tokens += model.overhead.assistant if value == "assistant" else 0
                elif key == "content" and isinstance(value, str):
                    self.texts.append(value)
                elif value is not None and value != []:
                    _FIELDS.get(key, Conversation._unknown)(self, value)
        if tools:
            # The cookbook's figures, "Counting tokens for chat completions with tool calls".
            self.tokens += model.overhead.tools
            for tool in _mappings("tools", tools):
                self.tokens += 10 if model.encoding == "cl100k_base" else 7
                self._tool(tool)
        if response_format is not None:
            self._format(response_format)

    def _name(self, value: Any) -> None:
        self.tokens += 1
        self._text(value)

    def _content(self, value: Any) -> None:
        if not isinstance(value, (list, tuple)):
            self._text(value)
            return
        for part in value:
            kind = part.get("type") if isinstance(part, Mapping) else None
            _PARTS.get(str(kind), Conversation._unknown)(self, part)

    def _calls(self, value: Any) -> None:
        # 8 a call, 13 more where there are several: found in the usage of gpt-4o.
        self.exact = False
        calls = value if isinstance(value, (list, tuple)) else [value]
        self.tokens += 8 * len(calls) + (13 if len(calls) > 1 else 0)
        for call in calls:
            function = call.get("function", call) if isinstance(call, Mapping) else call
            for text in function.values() if isinstance(function, Mapping) else [function]:
                self._text(text)

    def _tool(self, tool: Mapping[str, Any]) -> None:
        self.exact = False
        function = tool.get("function")
        function = function if isinstance(function, Mapping) else tool
        description = str(function.get("description") or "").removesuffix(".")
        self.texts.append(f"{function.get('name', '')}:{description}")
        schemas, seen = [function.get("parameters", function.get("input_schema"))], set()
        while schemas:
            schema = schemas.pop()
            if isinstance(schema, Mapping) and id(schema) not in seen:
                seen.add(id(schema))
                schemas += self._schema(schema)

    def _schema(self, schema: Mapping[str, Any]) -> list[Any]:
        """Count the properties of a JSON schema, and return the schemas inside it."""
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        self.tokens += 3 if properties else 0
        for name, value in properties.items():
            inner = value if isinstance(value, Mapping) else {}
            enum = inner.get("enum")
            if isinstance(enum, (list, tuple)):
                self.tokens += 3 * len(enum) - 3
                self.texts += map(str, enum)
            self.tokens += 3
            description = str(inner.get("description") or "").removesuffix(".")
            self.texts.append(f"{name}:{inner.get('type', '')}:{description}")
        named = [schema.get(key) for key in ("$defs", "definitions")]
        listed = [schema.get(key) for key in ("anyOf", "oneOf", "allOf")]
        inside = [each for group in (properties, *named) if isinstance(group, Mapping) for each in group.values()]
        return [*inside, *(each for group in listed if isinstance(group, list) for each in group), schema.get("items")]

    def _format(self, response_format: Any) -> None:
        if not isinstance(response_format, Mapping):
            told = f"response_format must be a dict, not {type(response_format).__name__}"
            raise LLMProviderConfigurationError(told)
        if response_format.get("type") in ("text", "json_object"):
            return
        # Its JSON and 4 for its name come near what OpenAI charges, which does not say how it tells the model.
        self.exact = False
        self.tokens += 4
        inner = response_format.get("json_schema", response_format)
        self._json(inner.get("schema", inner) if isinstance(inner, Mapping) else inner)

    def _image(self, part: Mapping[str, Any]) -> None:
        self.exact = False
        image = part.get("image_url", part.get("source"))
        image = image if isinstance(image, Mapping) else {"url": image}
        width, height = image_size(image.get("url", image.get("data"))) or (1024, 1024)
        low = (image.get("detail") or part.get("detail")) == "low"
        self.tokens += self._media.image(width, height, low)

    def _audio(self, part: Mapping[str, Any]) -> None:
        self.exact = False
        audio = part.get("input_audio")
        data = audio.get("data") if isinstance(audio, Mapping) else None
        # 3 more: found in the usage of gpt-audio.
        self.tokens += 3 + int(audio_seconds(data) * self._media.audio)

    def _file(self, part: Mapping[str, Any]) -> None:
        # A page costs its text and an image of it, about 250 tokens; the number of pages is not known here.
        self.exact = False
        file = part.get("file")
        data = file.get("file_data") if isinstance(file, Mapping) else file
        self.tokens += max(250, len(data) // 150 if isinstance(data, (str, bytes)) else 0)

    def _text_part(self, part: Mapping[str, Any]) -> None:
        self._text(part.get("text", part.get("refusal")))

    def _text(self, value: Any) -> None:
        if isinstance(value, str):
            self.texts.append(value)
        elif value is not None:
            self._unknown(value)

    def _unknown(self, value: Any) -> None:
        self.exact = False
        if isinstance(value, str):
            self.texts.append(value)
        else:
            self._json(value)

    def _json(self, value: Any) -> None:
        try:
            self.texts.append(json.dumps(value, default=str, separators=(",", ":"), ensure_ascii=False))
        except (TypeError, ValueError, RecursionError):
            self.texts.append(str(type(value)))

    def _free(self, value: Any) -> None:
        """The service does not charge it."""


_FIELDS: dict[str, Callable[[Conversation, Any], None]] = {
    "name": Conversation._name,
    "content": Conversation._content,
    "refusal": Conversation._text,
    "tool_calls": Conversation._calls,
    "function_call": Conversation._calls,
    "tool_call_id": Conversation._free,
    "annotations": Conversation._free,
}
_PARTS: dict[str, Callable[[Conversation, Any], None]] = {
    "text": Conversation._text_part,
    "input_text": Conversation._text_part,
    "output_text": Conversation._text_part,
    "refusal": Conversation._text_part,
    "image_url": Conversation._image,
    "input_image": Conversation._image,
    "image": Conversation._image,
    "input_audio": Conversation._audio,
    "file": Conversation._file,
    "input_file": Conversation._file,
}


def _mappings(name: str, values: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise LLMProviderConfigurationError(f"{name} must be a list of dicts, not {type(values).__name__}")
    wrong = next((value for value in values if not isinstance(value, Mapping)), None)
    if wrong is not None:
        raise LLMProviderConfigurationError(f"{name} must be dicts; one is {type(wrong).__name__}")
    return values


def media_rules(model: str) -> MediaRules:
    """Return how a model's images and audio are counted; OpenAI's rules for gpt-4o where nothing else is known."""
    name = model.lower().rpartition("/")[2]
    image = next((rule for part, rule in _IMAGE_RULES.items() if part in name), _IMAGE_RULES["gpt-4o"])
    # Tokens a second: ai.google.dev/gemini-api/docs/tokens; developers.openai.com, "Managing costs" of realtime audio.
    return MediaRules(image, 32 if "gemini" in name else 10)


def _tiles(base: int, tile: int, width: int, height: int, low: bool) -> int:
    """Tiles of 512 pixels, after the image was fitted into 2048 × 2048 and its shorter side to 768."""
    if low:
        return base
    scale = min(1, 2048 / max(width, height, 1))
    scale = min(scale, 768 / max(min(width, height), 1))
    return base + tile * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def _patches(factor: float, width: int, height: int, low: bool) -> int:
    """Patches of 32 pixels, at most 1,536: a larger image is shrunk until that many whole ones cover it."""
    columns, rows = width / 32, height / 32
    if math.ceil(columns) * math.ceil(rows) > 1536:
        scale = math.sqrt(1536 / (columns * rows))
        scale *= min(math.floor(side * scale) / (side * scale) if side * scale >= 1 else 1 for side in (columns, rows))
        columns, rows = round(columns * scale, 6), round(rows * scale, 6)
    return math.ceil(min(1536, math.ceil(columns) * math.ceil(rows)) * factor)


def _pixels(width: int, height: int, low: bool) -> int:
    """Anthropic: a token for 750 pixels, after the longer side was fitted to 1568; 1,600 at most."""
    scale = min(1, 1568 / max(width, height, 1))
    return min(1_600, math.ceil(width * scale * height * scale / 750))


def _crops(width: int, height: int, low: bool) -> int:
    """Gemini: 258 for an image of up to 384 pixels a side, else for each crop of 768 pixels."""
    if max(width, height) <= 384:
        return 258
    return 258 * math.ceil(width / 768) * math.ceil(height / 768)


# The first that a model's name contains decides. OpenAI: the guide "Images and vision", "Calculating costs".
_IMAGE_RULES: dict[str, ImageRule] = {
    "claude": _pixels,
    "gemini": _crops,
    "gemma": _crops,
    "gpt-4o-mini": partial(_tiles, 2833, 5667),
    "gpt-4.1-mini": partial(_patches, 1.62),
    "gpt-4.1-nano": partial(_patches, 2.46),
    "gpt-5-mini": partial(_patches, 1.62),
    "gpt-5-nano": partial(_patches, 2.46),
    "o4-mini": partial(_patches, 1.72),
    "gpt-5": partial(_tiles, 70, 140),
    "o1": partial(_tiles, 75, 150),
    "o3": partial(_tiles, 75, 150),
    "computer-use": partial(_tiles, 65, 129),
    "gpt-4o": partial(_tiles, 85, 170),
}
