"""A token engine whose turns are written beforehand, under the byte tokenizer: a server over it needs no model."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.base import OnTokens, SampledTokens
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.messages import VersionSpan
from rollhouse.tests.random_model import TEMPLATE, byte_tokenizer

Script = Callable[[str], str] | Sequence[str]
"""The turn for a prompt's text, or the turns in order, the last one again and again."""


def call(name: str, **arguments: Any) -> str:
    """The text of a call."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


class ScriptedEngine:
    """A TokenEngine.

    Attributes:
        seen: The prompts' texts.
        settings: The sampling of each request.
        reported: Number of tokens that were reported while they were sampled.
        token_s: Seconds between two such tokens.
    """

    kind = "plugin"
    streams = True
    version = 0
    shapes: frozenset[str] = frozenset()

    def __init__(self, script: Script, max_model_len: int = 100_000, token_s: float = 0.0) -> None:
        self.tokenizer = byte_tokenizer(TEMPLATE)
        self.max_model_len = max_model_len
        self.script = script
        self.token_s = token_s
        self.seen: list[str] = []
        self.settings: list[Sampling] = []
        self.reported = 0

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> SampledTokens:
        prompt = str(self.tokenizer.decode(prompt_ids))
        text = self.script(prompt) if callable(self.script) else self.script[min(len(self.seen), len(self.script) - 1)]
        self.seen.append(prompt)
        self.settings.append(sampling)
        ids: list[int] = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], 2][: sampling.max_tokens]  # type: ignore[list-item]
        for token in ids if on_tokens is not None else ():
            await asyncio.sleep(self.token_s)
            self.reported += 1
            on_tokens([token], [-0.5], 0)  # type: ignore[misc]
        return SampledTokens(ids, [-0.5] * len(ids), (VersionSpan(0, 0),), "stop" if ids[-1] == 2 else "length")

    def close(self) -> None:
        pass


def scripted_policy(script: Script, template: str = TEMPLATE, **settings: Any) -> TokenPolicy:
    """The policy of a ScriptedEngine."""
    engine: Any = ScriptedEngine(script, **settings)
    return TokenPolicy(engine, ChatFormat(byte_tokenizer(template), [2, 0]), "scripted")
