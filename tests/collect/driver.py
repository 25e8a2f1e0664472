"""A driver to kill: its own Ray cluster with an engine and a learner, named on stdout, then it waits."""

import sys
import time

if __name__ == "__main__":
    from rollhouse.policies.engines.cluster import ensure_ray
    from rollhouse.policies.engines.vllm_actor import open_vllm
    from rollhouse.train.grpo.learner.group import LearnerGroup
    from rollhouse.train.grpo.learner.settings import LearnerSettings
    from rollhouse.train.grpo.sync.weights_folder import weights_folder

    ensure_ray()
    engine = open_vllm(sys.argv[1], max_model_len=256)
    with LearnerGroup(sys.argv[1], LearnerSettings()), weights_folder() as folder:
        print(f"ready {folder}", flush=True)
        time.sleep(600)
