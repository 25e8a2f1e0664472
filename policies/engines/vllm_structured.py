"""vLLM's structured outputs for an engine that is opened without a tokenizer: they get one when the first request needs it."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def structured_params(constraint: tuple[str, str] | None) -> Any:
    """vLLM's parameters for `Shaping.constraint`; None for none."""
    if constraint is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    kind, value = constraint
    given: Any = {"json_object": True, "choice": json.loads(value) if kind == "choice" else None}.get(kind, value)
    return StructuredOutputsParams(**{kind: given})


class StructuredOutputs:
    """The tokenizer for the grammars of one engine. Its methods run on the stepping thread."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._tokenizer: Any = None

    def prepare(self, engine: Any) -> None:
        """Gives the engine a tokenizer until `end`: requests without a form must not stop at tokens that only the tokenizer names."""
        if self._tokenizer is None:
            from vllm.tokenizers import cached_get_tokenizer

            self._tokenizer = cached_get_tokenizer(self._model)
            manager = engine.engine_core.engine_core.structured_output_manager
            if not hasattr(manager, "tokenizer"):
                manager.tokenizer = self._tokenizer
                manager.executor = ThreadPoolExecutor(1, "vllm-grammars")
        engine.input_processor.renderer.tokenizer = self._tokenizer

    def end(self, engine: Any) -> None:
        """Takes it away again."""
        if self._tokenizer is not None:
            engine.input_processor.renderer.tokenizer = None
