"""A run whose harness never ends, for the test that kills it: writes the process ids of the harness's processes to the folder of its first argument."""

import sys
from pathlib import Path

from rollhouse.collect.runner import collect
from rollhouse.environments.config import EnvironmentSpec
from rollhouse.environments.harness import HarnessSettings
from rollhouse.environments.mixture import Mixture
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.harness.opening import open_harnesses
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.train.tiny import base_policy

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    policy = TokenPolicy(TorchEngine(base_policy(), 1024), ChatFormat.of(base_policy()), "tiny")
    harness = HarnessSettings(name=f"{Path(__file__).with_name('agents.py')}:fork", options={"marks": str(folder)})
    part = MiniEnvironment(n_train=1)
    environment = Mixture([(part, EnvironmentSpec(name=part.name, harness=harness))])
    store = LanceStore.create(sys.argv[2])
    with open_harnesses(environment, policy, 6, 3600) as playing, start_run(store, "collect", "run") as run:
        collect(store, run, environment, policy, part.tasks("train"), sampling=Sampling(max_tokens=4), play=playing)
