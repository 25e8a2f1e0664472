"""A driver to kill: its own Ray cluster with an engine and a learner, named on stdout, then it waits."""

import sys
import time

if __name__ == "__main__":
    from rollhouse.policies.engines.cluster import ensure_ray
    from rollhouse.policies.engines.vllm_actor import open_vllm
    from rollhouse.train.grpo.config_policy import PolicyConfig
    from rollhouse.train.grpo.learner.group import LearnerGroup
    from rollhouse.train.grpo.learner.settings import LearnerSettings
    from rollhouse.train.grpo.sync.base import weights_folder

    ensure_ray()
    engine = open_vllm(sys.argv[1], max_model_len=256)
    with LearnerGroup(sys.argv[1], LearnerSettings(PolicyConfig(model_name=sys.argv[1]))), weights_folder() as folder:
        print(f"ready {folder}", flush=True)
        time.sleep(600)
