"""A GRPO run with a learner and an engine of one process, which need neither Ray nor vLLM; as a program, what the tests kill.

python here.py STORE CONFIG.json
"""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any


def same(thing: Any) -> Any:
    return thing


def train_here(
    store: Any,
    config: Any,
    wrap: Callable[[Any], Any] = same,
    wrap_learner: Callable[[Any], Any] = same,
) -> dict[str, Any]:
    """run_grpo; `wrap` may put something around the engine, `wrap_learner` around the learner."""
    from rollhouse.policies.chat import ChatFormat
    from rollhouse.policies.engines.torch_engine import TorchEngine
    from rollhouse.policies.models import weights_hash
    from rollhouse.store.runs import start_run
    from rollhouse.train.grpo.checks import open_environment
    from rollhouse.train.grpo.learner.learner import Learner
    from rollhouse.train.grpo.learner.settings import learner_settings
    from rollhouse.train.grpo.loop import run_grpo
    from rollhouse.train.grpo.parts import open_parts
    from rollhouse.transform.materialize import grpo_tasks
    from rollhouse.transform.versions import get_dataset

    dataset = get_dataset(store, config.dataset)
    tasks = grpo_tasks(store, dataset)
    model = Path(config.policy.model_name)
    chat, learner = ChatFormat.of(model), wrap_learner(Learner(str(model), learner_settings(config)))
    environment = open_environment(config, tasks)
    payload = config.model_dump(mode="json") | {"dataset": dataset.label, "model_hash": weights_hash(model)}
    with (
        start_run(store, "grpo", config.run, payload) as run,
        closing(TorchEngine(model, 512)) as engine,
        open_parts(store, config, environment, wrap(engine), learner, run, model, chat) as parts,
    ):
        return run_grpo(parts, tasks)


if __name__ == "__main__":
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.train.grpo.config import GrpoConfig

    place, settings = sys.argv[1:]
    train_here(LanceStore.open(place), GrpoConfig.model_validate(json.loads(Path(settings).read_text())))
