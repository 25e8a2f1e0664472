"""The teacher of on-policy distillation: a model in an engine of its own, or a vLLM server, that scores the tokens which the policy sampled."""

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import ConfigError, EngineError
from ...base.event_loop import run_blocking
from ...policies.chat import ChatFormat
from ...policies.config import EndpointSettings
from ...policies.models import check_model_folder, context_length
from ..checkpoints import resolve_model
from .learner.batch import TrainSample
from .plan import BatchPlan

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from .config import GrpoConfig

_ENGINES = "torch, vllm, or openai:URL"
Score = Callable[[list[int]], Awaitable[list[float]]]
"""Logprobs parallel to token ids, each token's given those before it, at temperature 1; the first is 0."""


class Teacher:
    """Scores sequences with one engine."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def logprobs(self, samples: Sequence[TrainSample]) -> list[list[float]]:
        """Of each sampled token of each sample, at temperature 1. Raises EngineError for one that is not finite."""
        found = run_blocking(self._all([[*sample.prompt_ids, *sample.token_ids] for sample in samples]))
        scores = []
        for sample, values in zip(samples, found, strict=True):
            own = list(compress(values[len(sample.prompt_ids) :], sample.loss_mask))
            if len(own) != sample.n_sampled or not all(map(math.isfinite, own)):
                raise EngineError(
                    f"The teacher's logprobs of rollout {sample.rollout_id} are not finite, or not one per token.",
                    "Check the teacher: a token that it cannot produce has no logprob.",
                )
            scores.append(own)
        return scores

    async def _all(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        return list(await asyncio.gather(*(self._score(ids) for ids in sequences)))


@contextmanager
def open_teacher(store: "LanceStore", config: "GrpoConfig", chat: ChatFormat) -> Iterator[Teacher | None]:
    """The teacher of loss_fn.teacher, closed at the end; None without one.

    Raises ConfigError for an unknown engine, a folder that is no model, another tokenizer than the policy's, or a context shorter than the policy's.
    """
    teacher, length = config.loss_fn.teacher, config.policy.max_total_sequence_length
    if teacher.model is None:
        yield None
        return
    if teacher.engine.startswith("openai:http"):
        yield Teacher(_endpoint(teacher.engine.removeprefix("openai:"), teacher.model))
        return
    if teacher.engine not in ("torch", "vllm"):
        raise ConfigError(f"There is no engine {teacher.engine!r} for a teacher.", f"Set loss_fn.teacher.engine to {_ENGINES}.")  # fmt: skip
    folder = check_model_folder(resolve_model(store, teacher.model))
    refuse_other_tokens(folder, chat, length)
    with closing(_engine(teacher.engine, folder, length, chat)) as engine:
        yield Teacher(engine.score)


def refuse_other_tokens(folder: Path, chat: ChatFormat, length: int) -> None:
    """Raises ConfigError for a teacher whose token ids mean something else than the policy's, or whose context is shorter than `length` tokens."""
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(str(folder)).get_vocab()
    own = chat.tokenizer.get_vocab()
    other = [token for token, number in own.items() if vocabulary.get(token) != number]
    if other:
        raise ConfigError(
            f"The teacher {folder} has another tokenizer than the policy: {len(other)} of {len(own)} tokens differ.",
            "Distillation by token needs a teacher with the policy's tokenizer.",
        )
    context = context_length(folder)
    if context is not None and context < length:
        raise ConfigError(
            f"The teacher's context of {context} tokens is shorter than policy.max_total_sequence_length={length}.",
            "Lower it, or use a teacher with a longer context.",
        )


def _engine(kind: str, folder: Path, length: int, chat: ChatFormat) -> Any:
    if kind == "torch":
        from ...policies.engines.torch_engine import TorchEngine

        return TorchEngine(folder, length, stop_ids=chat.stop_token_ids)
    from ...policies.engines.vllm_actor import open_vllm

    # Scoring takes one token more. An engine of this process that could be taken over is the policy's.
    context = context_length(folder)
    return open_vllm(folder, max_model_len=min(length + 1, context or length + 1), stop_ids=chat.stop_token_ids, take_over=False)  # fmt: skip


def _endpoint(url: str, model: str) -> Score:
    """Scores by the prompt_logprobs of a vLLM server's /completions."""
    from ...policies.endpoint.pool import EndpointPool

    pool = EndpointPool([url], os.environ.get("OPENAI_API_KEY"), EndpointSettings())

    async def score(token_ids: list[int]) -> list[float]:
        body = {"model": model, "prompt": token_ids, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}

        def read(answer: bytes) -> list[float]:
            return prompt_logprobs(json.loads(answer), token_ids)

        found, _ = await pool.post("/completions", json.dumps(body).encode(), read)
        return found

    return score


def prompt_logprobs(answer: Any, token_ids: Sequence[int]) -> list[float]:
    """The logprobs of a prompt's tokens in a vLLM server's answer. Raises ValueError for an answer without them, or of another prompt."""
    try:
        entries = answer["choices"][0]["prompt_logprobs"]
        if entries is None or len(entries) != len(token_ids):
            raise ValueError("it has no prompt_logprobs of each token; the teacher must be a vLLM server")
        return [0.0] + [float(entry[str(token)]["logprob"]) for entry, token in zip(entries[1:], token_ids[1:], strict=True)]  # fmt: skip
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"it has no prompt_logprobs ({error!r}); the teacher must be a vLLM server") from error


def taught(plan: BatchPlan, samples: Sequence[TrainSample], teacher: Teacher) -> BatchPlan:
    """The plan with the teacher's logprobs of what it trains on, rounded to float32 as they are stored.

    Args:
        samples: Those that the plan keeps.
    """
    found = {sample.rollout_id: values for sample, values in zip(samples, teacher.logprobs(samples), strict=True)}
    return with_scores(plan, found)


def taught_before(plan: BatchPlan, stored: BatchPlan) -> BatchPlan:
    """The plan with the teacher's logprobs of a stored plan of the same rollouts. Raises ConfigError where that has none of one that is trained on."""
    found = {e.rollout_id: e.teacher_logprobs for e in stored.entries if e.teacher_logprobs is not None}
    missing = [entry.rollout_id for entry in plan.entries if entry.kept and entry.rollout_id not in found]
    if missing:
        raise ConfigError(
            f"Step {stored.step} of run {stored.run_id} has no teacher's logprobs of rollout {missing[0]}.",
            "Replay with loss_fn.teacher.model=null, or with the settings that kept the same rollouts.",
        )
    return with_scores(plan, found)


def with_scores(plan: BatchPlan, scores: dict[str, Any]) -> BatchPlan:
    """The plan with these logprobs, by rollout_id, beside the entries that it keeps."""
    import numpy as np

    def rounded(values: Any) -> tuple[float, ...]:
        return tuple(np.asarray(values, np.float32).tolist())

    entries = [
        replace(entry, teacher_logprobs=rounded(scores[entry.rollout_id])) if entry.kept else entry
        for entry in plan.entries
    ]
    return replace(plan, entries=tuple(entries))
