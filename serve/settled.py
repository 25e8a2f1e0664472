"""What of a request is honoured, once the engine behind the server is known."""

from collections.abc import Collection
from dataclasses import replace

from ..policies.types import PLAIN
from .request import ModelRequest
from .tools import ToolChoice

_FORMS = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


def field_of(name: str, parsed: ModelRequest) -> str:
    """The request's field behind a setting of Shaping."""
    if name != "constraint":
        return name
    return next((field for field in _FORMS if parsed.given.get(field) is not None), _FORMS[0])


def distribution_gaps(parsed: ModelRequest) -> list[str]:
    """A gap for each setting under which tokens are sampled from a distribution that a learner does not compute."""
    names = [field_of(name, parsed) for name in parsed.sampling.shaping.names()]
    return [f"distribution:{name}" for name in (*names, *(["tool_choice"] if parsed.choice.mode == "required" else []))]


def without_shaping(parsed: ModelRequest, lacking: Collection[str]) -> ModelRequest:
    """The request without the fields that the engine does not have."""
    shaping = parsed.sampling.shaping
    off = {name: getattr(PLAIN, name) for name in shaping.names() if field_of(name, parsed) in lacking}
    top = 0 if "top_logprobs" in lacking else parsed.sampling.top_logprobs
    sampling = replace(parsed.sampling, shaping=replace(shaping, **off), top_logprobs=top)
    choice = ToolChoice("auto") if "tool_choice" in lacking else parsed.choice
    return replace(parsed, sampling=sampling, choice=choice)
