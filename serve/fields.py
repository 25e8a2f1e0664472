"""Every field of a request, and its use. docs/serve.md has the same list; a test compares them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class FieldUse(Enum):
    """What happens to a field that has an effect, that is, neither null nor one of its neutral values."""

    HONOURED = "honoured"
    SHAPING = "honoured by engines that have it, else refused"
    NOTED = "ignored, with the gap `ignored:NAME`"
    HARMLESS = "ignored: it does not change an answer"
    REFUSED = "refused"


@dataclass(frozen=True)
class RequestField:
    """The use of one field, and the values that have no effect."""

    use: FieldUse
    neutral: tuple[Any, ...] = ()


def _honoured(names: str) -> dict[str, RequestField]:
    return {name: RequestField(FieldUse.HONOURED) for name in names.split()}


def _harmless(names: str) -> dict[str, RequestField]:
    return {name: RequestField(FieldUse.HARMLESS) for name in names.split()}


_EVERYWHERE = {
    **_honoured("model temperature top_p top_k stream metadata rollout_id"),
    **_harmless("user service_tier prompt_cache_key prompt_cache_retention safety_identifier"),
}
_OPENAI = {
    **_EVERYWHERE,
    **_honoured(
        "n seed stop min_p max_tokens logprobs top_logprobs stream_options return_token_ids return_tokens_as_token_ids"
    ),
    "frequency_penalty": RequestField(FieldUse.SHAPING, (0,)),
    "presence_penalty": RequestField(FieldUse.SHAPING, (0,)),
    "repetition_penalty": RequestField(FieldUse.SHAPING, (1,)),
    "logit_bias": RequestField(FieldUse.SHAPING, ({},)),
    "min_tokens": RequestField(FieldUse.SHAPING, (0,)),
    "response_format": RequestField(FieldUse.SHAPING, ({"type": "text"},)),
    "structured_outputs": RequestField(FieldUse.SHAPING, ({},)),
    "guided_json": RequestField(FieldUse.SHAPING),
    "guided_regex": RequestField(FieldUse.SHAPING),
    "guided_choice": RequestField(FieldUse.SHAPING),
    "guided_grammar": RequestField(FieldUse.SHAPING),
    "best_of": RequestField(FieldUse.REFUSED, (1,)),
    "length_penalty": RequestField(FieldUse.REFUSED, (1,)),
    "prompt_logprobs": RequestField(FieldUse.REFUSED),
    "stop_token_ids": RequestField(FieldUse.REFUSED, ([],)),
    "bad_words": RequestField(FieldUse.REFUSED, ([],)),
    "ignore_eos": RequestField(FieldUse.REFUSED, (False,)),
    "use_beam_search": RequestField(FieldUse.REFUSED, (False,)),
    "truncate_prompt_tokens": RequestField(FieldUse.REFUSED),
}
CHAT: Mapping[str, RequestField] = {
    **_OPENAI,
    **_honoured("messages tools max_completion_tokens required_prefix_token_ids chat_template_kwargs"),
    "tool_choice": RequestField(FieldUse.SHAPING, ("auto", "none")),
    "parallel_tool_calls": RequestField(FieldUse.NOTED, (True,)),
    "reasoning_effort": RequestField(FieldUse.NOTED),
    "reasoning": RequestField(FieldUse.NOTED, ({},)),
    "verbosity": RequestField(FieldUse.NOTED),
    "store": RequestField(FieldUse.NOTED, (False,)),
    "thinking": RequestField(FieldUse.NOTED, ({"type": "disabled"},)),
    "prediction": RequestField(FieldUse.NOTED),
    "web_search_options": RequestField(FieldUse.REFUSED),
    "modalities": RequestField(FieldUse.REFUSED, (["text"],)),
    "audio": RequestField(FieldUse.REFUSED),
    "functions": RequestField(FieldUse.REFUSED, ([],)),
    "function_call": RequestField(FieldUse.REFUSED, ("none", "auto")),
    "continue_final_message": RequestField(FieldUse.REFUSED, (False,)),
    "add_generation_prompt": RequestField(FieldUse.REFUSED, (True,)),
    "chat_template": RequestField(FieldUse.REFUSED),
}
COMPLETIONS: Mapping[str, RequestField] = {
    **_OPENAI,
    **_honoured("prompt"),
    "echo": RequestField(FieldUse.REFUSED, (False,)),
    "suffix": RequestField(FieldUse.REFUSED, ("",)),
}
RESPONSES: Mapping[str, RequestField] = {
    **_EVERYWHERE,
    **_honoured(
        "input instructions tools max_output_tokens previous_response_id store return_token_ids chat_template_kwargs seed"
    ),
    **_harmless("client_metadata include"),
    "tool_choice": RequestField(FieldUse.SHAPING, ("auto", "none")),
    "text": RequestField(FieldUse.SHAPING, ({"format": {"type": "text"}}, {})),
    "parallel_tool_calls": RequestField(FieldUse.NOTED, (True,)),
    "reasoning": RequestField(FieldUse.NOTED, ({},)),
    "truncation": RequestField(FieldUse.NOTED, ("disabled",)),
    "max_tool_calls": RequestField(FieldUse.NOTED),
    "top_logprobs": RequestField(FieldUse.NOTED, (0,)),
    "context_management": RequestField(FieldUse.NOTED, ([],)),
    "background": RequestField(FieldUse.REFUSED, (False,)),
    "conversation": RequestField(FieldUse.REFUSED),
    "prompt": RequestField(FieldUse.REFUSED),
}
MESSAGES: Mapping[str, RequestField] = {
    **_EVERYWHERE,
    **_honoured("messages system tools max_tokens stop_sequences return_token_ids chat_template_kwargs seed"),
    **_harmless("cache_control diagnostics inference_geo container"),
    "tool_choice": RequestField(FieldUse.SHAPING, ({"type": "auto"}, {"type": "none"})),
    "output_config": RequestField(FieldUse.SHAPING, ({},)),
    "output_format": RequestField(FieldUse.SHAPING),
    "thinking": RequestField(FieldUse.NOTED, ({"type": "disabled"},)),
    "context_management": RequestField(FieldUse.NOTED, ({},)),
    "mcp_servers": RequestField(FieldUse.REFUSED, ([],)),
}


@dataclass(frozen=True)
class GivenFields:
    """The fields of a request that have an effect, by use.

    Attributes:
        noted: Names of fields without use here, unknown ones among them.
        refused: Names.
    """

    noted: tuple[str, ...]
    refused: tuple[str, ...]


def given_fields(body: Mapping[str, Any], fields: Mapping[str, RequestField]) -> GivenFields:
    """The fields of the body that are not honoured, in its order."""
    noted, refused = [], []
    for name, value in body.items():
        if value is None:
            continue
        field = fields.get(name)
        if field is None:
            noted.append(name)
        elif field.use in (FieldUse.NOTED, FieldUse.REFUSED) and value not in field.neutral:
            (noted if field.use is FieldUse.NOTED else refused).append(name)
    return GivenFields(tuple(noted), tuple(refused))
