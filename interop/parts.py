"""Content parts that hold an image, in the form of each dialect. Any other part that is no text stays as it is."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..store.messages import Message
from .rollout import FileRollout

Part = dict[str, Any]

_SUFFIXES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}


def image_url(part: Part) -> str | None:
    """The URL of a part's image, a data URL where the part holds the image; None for another part.

    The parts of OpenAI chat and Responses, Anthropic, Inspect, ATIF and OpenTelemetry are known.
    """
    kind, image, source = part.get("type"), part.get("image_url"), part.get("source")
    if kind in ("image_url", "input_image"):
        image = image.get("url") if isinstance(image, dict) else image
    elif kind == "image" and isinstance(source, dict):
        image = _data_url(source.get("media_type"), source["data"]) if source.get("data") else source.get("url") or source.get("path")  # fmt: skip
    elif kind == "image":
        image = part.get("image")
    elif part.get("modality") == "image":
        image = _data_url(part.get("mime_type"), part.get("content")) if kind == "blob" else part.get("uri")
    else:
        return None
    return image if isinstance(image, str) and image else None


def _data_url(mime: Any, data: Any) -> str:
    return f"data:{mime or 'image/png'};base64,{data}"


def image_type(url: str) -> str | None:
    """The MIME type by a data URL or a suffix; None without either."""
    if url.startswith("data:"):
        return url[len("data:") :].partition(";")[0].partition(",")[0] or None
    return _SUFFIXES.get(url.partition("?")[0].rpartition(".")[2].lower())


def chat_part(part: Part) -> Part:
    """A part of OpenAI chat."""
    url = image_url(part)
    return part if url is None or part.get("type") == "image_url" else {"type": "image_url", "image_url": {"url": url}}


def responses_part(part: Part) -> Part:
    """A part of the input of OpenAI Responses."""
    if part.get("type") == "text":
        return {"type": "input_text", "text": part.get("text")}
    url, image = image_url(part), part.get("image_url")
    if url is None:
        return part
    detail = image.get("detail") if isinstance(image, dict) else part.get("detail")
    return {"type": "input_image", "image_url": url, "detail": detail or "auto"}


def atif_part(part: Part) -> Part:
    """A part of ATIF, whose images name their type."""
    url = image_url(part)
    if url is None or (part.get("type") == "image" and isinstance(part.get("source"), dict) and part["source"].get("path")):  # fmt: skip
        return part
    return {"type": "image", "source": {"media_type": image_type(url) or "image/png", "path": url}}


def converted(rollout: FileRollout, convert: Callable[[Part], Part]) -> FileRollout:
    """The rollout with the parts of its messages in a dialect's form."""
    if not any(message.parts for message in (*rollout.prompt, *rollout.messages)):
        return rollout
    return replace(rollout, prompt=_converted(rollout.prompt, convert), messages=_converted(rollout.messages, convert))


def _converted(messages: Iterable[Message], convert: Callable[[Part], Part]) -> list[Message]:
    return [message if not message.parts else replace(message, parts=_parts(message.parts, convert)) for message in messages]  # fmt: skip


def _parts(parts: str, convert: Callable[[Part], Part]) -> str:
    return json.dumps([convert(part) for part in json.loads(parts)], ensure_ascii=False)
