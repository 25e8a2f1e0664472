"""What is known of published model families beside what a template shows: a block that loses turns, and words that switch thinking."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("rollhouse")

_LAST = r"messages\[-1\](?:\['{0}'\]|\.{0})"
_TAG = r"\{{%-?\s*{0}\s*-?%\}}\s*"
LAST_TAKEN_AWAY = re.compile(
    _TAG.format("if " + _LAST.format("role") + r" == 'assistant'")
    + _TAG.format(r"set [\w.]+ = " + _LAST.format("content") + r"(?:\.strip\(\)|\s*\|\s*trim)?")
    + _TAG.format(r"set messages = messages\[:-1\]")
    + _TAG.format("endif")
)
"""Nemotron Nano v2's templates take a conversation's last assistant message away, to let it be continued, and lose its tool calls."""

THINKING_WORDS = {True: "/think", False: "/no_think"}
"""Words in the system message that turn thinking on and off where the template has no variable for it."""


def whole_template(template: str, folder: object) -> str:
    """A model's template without the block that takes the last assistant message away; said in the log, and the folder stays as it is."""
    mended, found = LAST_TAKEN_AWAY.subn("", template)
    if found:
        log.warning(
            "The chat template in %s takes a last assistant message away. That block is left out here; the folder is not changed.",
            folder,
        )
    return mended


def with_word(messages: Sequence[Mapping[str, Any]], word: str | None) -> list[dict[str, Any]]:
    """The messages with a word at the end of the system message, which is added where there is none; None leaves them as they are."""
    plain = [dict(message) for message in messages]
    if word is None:
        return plain
    if plain and plain[0]["role"] == "system":
        plain[0]["content"] = f"{plain[0]['content'] or ''} {word}".strip()
        return plain
    return [{"role": "system", "content": word}, *plain]


PARSERS: Mapping[str, tuple[str, ...]] = {
    "apertus": ("apertus",),
    "deepseek_v3": ("deepseek_v31", "deepseek_v3", "kimi_k2"),
    "deepseek_v32": ("deepseek_v32",),
    "ernie4_5": ("ernie45",),
    "ernie4_5_moe": ("ernie45",),
    "gemma4": ("gemma4",),
    "glm4_moe": ("glm45",),
    "glm4_moe_lite": ("glm47",),
    "granite": ("granite", "granite4"),
    "granitemoe": ("granite",),
    "granitemoehybrid": ("granite4", "granite"),
    "hunyuan_v1_dense": ("hunyuan_a13b",),
    "hunyuan_v1_moe": ("hunyuan_a13b",),
    "jamba": ("jamba",),
    "kimi_k2": ("kimi_k2",),
    "lfm2": ("lfm2",),
    "lfm2_moe": ("lfm2",),
    "llama": ("pythonic",),
    "llama4": ("llama4_pythonic", "pythonic"),
    "minimax_m2": ("minimax_m2",),
    "nemotron_h": ("qwen3_coder",),
    "olmo3": ("olmo3",),
    "phi3": ("phi4_mini_json",),
    "qwen3": ("qwen3_coder",),
    "qwen3_5": ("qwen3_coder",),
    "qwen3_5_moe": ("qwen3_coder",),
    "qwen3_moe": ("qwen3_coder",),
    "qwen3_next": ("qwen3_coder",),
    "seed_oss": ("seed_oss",),
}
"""vLLM's parsers by model type (without `_text`), in the order they are tried. One is used only where it reads the calls that the model's own template writes.

Left out: those that lose arguments (functiongemma: all that are no strings) and those that read nothing by themselves (openai, cohere_command3).
"""


def parsers_of(model_type: str | None) -> tuple[str, ...]:
    """Names of vLLM's parsers for a model type of transformers."""
    return PARSERS.get((model_type or "").removesuffix("_text"), ())
