"""A model on vLLM, in a process of its own: pushes, then two GRPO steps; prints each that passed. python on_vllm.py FOLDER SCRATCH DTYPE APART"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rollhouse.tests.train.grpo.here import train_here
from rollhouse.tests.zoo.checks import ROUNDED, assert_close, gap, own_logprobs, pushed, scores

GUESS = f"{Path(__file__).with_name('guess.py')}:EvenLength"
GENERATION = {"max_new_tokens": 12, "weight_sync": "file"}


def grpo(folder: Path, engine: Any, scratch: Path, **policy_settings: Any) -> Path:
    """Two steps: every push is checked against the learner's logprobs, or the run fails. Returns the checkpoint's folder."""
    from rollhouse.collect.runner import collect
    from rollhouse.environments.registry import load_environment
    from rollhouse.policies.chat import ChatFormat
    from rollhouse.policies.models import weights_hash
    from rollhouse.policies.token_policy import TokenPolicy
    from rollhouse.policies.types import Sampling
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.store.runs import start_run
    from rollhouse.store.snapshots import create_snapshot
    from rollhouse.train.grpo.config import GrpoConfig
    from rollhouse.transform.build import build_grpo

    store, environment = LanceStore.create(scratch / "store"), load_environment(GUESS)
    policy = TokenPolicy(engine, ChatFormat.of(folder), weights_hash(folder))
    with start_run(store, "collect", "before") as run:
        sampling = Sampling(max_tokens=12, seed=0)
        collect(store, run, environment, policy, environment.tasks("train"), num_repeats=8, sampling=sampling)
    create_snapshot(store, "s1")
    build_grpo(store, "prompts", "s1")
    settings = {
        "run": "zoo",
        "dataset": "prompts",
        "policy": {
            "model_name": str(folder),
            "max_total_sequence_length": 256,
            "optimizer": {"lr": 1e-3},
            "generation": GENERATION,
            **policy_settings,
        },
        "grpo": {"num_prompts_per_step": 2, "num_generations_per_prompt": 8, "max_num_steps": 2},
        "environment": {"name": GUESS, "max_turns": 1},
    }
    row = train_here(store, GrpoConfig.model_validate(settings), wrap=lambda _: engine)
    assert row["step"] == 2 and Path(row["path"]).is_dir()
    assert weights_hash(row["path"]) != weights_hash(folder), "nothing was trained"
    return Path(row["path"])


def opens_elsewhere(saved: Path, folder: Path, engine: Any, dtype: str) -> None:
    """A checkpoint scores in vLLM as it does in transformers, and both read the template and generation config of the folder that was trained."""
    from transformers import AutoTokenizer, GenerationConfig
    from vllm.config import ModelConfig
    from vllm.tokenizers import get_tokenizer

    asyncio.run(engine.load_weights(str(saved), 100))
    found, rounded = asyncio.run(scores(engine)), dtype != "float32"
    limit = ROUNDED if rounded else 1e-3
    apart = gap(own_logprobs(saved), found, rounded)
    assert_close(apart, limit)
    assert 2 * apart < gap(own_logprobs(folder), found, rounded), "the engine has the weights before training"
    openers: tuple[Any, ...] = (AutoTokenizer.from_pretrained, get_tokenizer)
    for open_tokenizer in openers:
        assert open_tokenizer(str(saved)).get_chat_template() == open_tokenizer(str(folder)).get_chat_template()
    generation = [GenerationConfig.from_pretrained(place).to_diff_dict() for place in (saved, folder)]
    make: Any = ModelConfig
    by_vllm = make(model=str(saved), dtype=dtype).try_get_generation_config()
    assert generation[0] == generation[1] and by_vllm["eos_token_id"] == [2, 0], (generation, by_vllm)


@contextmanager
def opened(folder: Path, dtype: str, apart: bool) -> Iterator[Any]:
    """The engine, in this process or in one of its own."""
    from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray
    from rollhouse.policies.engines.vllm_actor import open_vllm
    from rollhouse.policies.engines.vllm_engine import VllmEngine

    if not apart:
        with closing(VllmEngine(str(folder), (2,), 512, dtype=dtype)) as engine:
            yield engine
        return
    ensure_ray()
    try:
        with closing(open_vllm(folder, max_model_len=512, stop_ids=(2,), dtype=dtype)) as engine:
            yield engine
    finally:
        shutdown_ray()


def main(folder: Path, scratch: Path, dtype: str, apart: bool) -> None:
    with opened(folder, dtype, apart) as engine:
        pushed(folder, engine, scratch, rounded=dtype != "float32")
        print("vLLM and push", flush=True)
        rounding = {} if dtype == "float32" else {"sync_tolerance": ROUNDED, "vllm": {"dtype": dtype}}
        saved = grpo(folder, engine, scratch, generation={**GENERATION, **rounding})
        opens_elsewhere(saved, folder, engine, dtype)
        print("GRPO", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")
