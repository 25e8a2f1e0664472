"""Learners of two ranks, all models one after the other in two processes. python two_ranks.py RANK PORT SCRATCH FOLDER…"""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from rollhouse.tests.zoo.checks import make_samples, sequences
from rollhouse.train.grpo.config_loss import LossConfig
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import LearnerSettings


def settings(folder: Path) -> LearnerSettings:
    policy = {"model_name": str(folder), "shared_prefix": False, "optimizer": {"lr": 1e-3}}
    return LearnerSettings(
        PolicyConfig.model_validate(policy), loss_fn=LossConfig(use_importance_sampling_correction=False)
    )


def taken(learner: Learner, place: Path) -> list[list[float]]:
    """Logprobs after a step, and the checkpoint."""
    learner.step(make_samples(), [[0, 1], [2], [3]])
    learner.save_pretrained(str(place))
    return learner.logprobs(sequences())


def main(rank: int, port: int, scratch: Path, folders: list[Path]) -> None:
    for number, folder in enumerate(folders):
        try:
            learner = Learner(str(folder), settings(folder), rank, 2, f"127.0.0.1:{port + number}", 120)
            found: object = taken(learner, scratch / folder.name)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if rank == 0:
            (scratch / f"{folder.name}.json").write_text(json.dumps(found))
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
