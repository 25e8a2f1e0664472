"""What of the transfer between GPUs can be tried without one: its metadata, its handshakes, and that a CPU refuses it in words."""

import pytest
import torch
from rollhouse.base.errors import ConfigError
from rollhouse.policies.engines.sleeping import asleep
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.train.config import LoraConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.sync.sync import open_sync
from rollhouse.train.grpo.sync.transfer import EngineClient, engine_arguments, places_of, trainer_info, weight_source

from .settings import learner_config


def test_engines_have_places_of_their_own_in_an_nccl_group():
    info = {"master_address": "10.0.0.1", "master_port": 5, "rank_offset": 1, "world_size": 5}
    assert [place["rank_offset"] for place in places_of(info, 2, 2)] == [1, 3]
    assert places_of({"packed": True}, 2, 1) == [{"packed": True}] * 2
    assert engine_arguments("nccl") == {"weight_transfer_config": {"backend": "nccl"}}
    assert engine_arguments("file") == engine_arguments("auto") == {}


def test_a_learners_weights_as_the_trainer_side_reads_them(random_model):
    """Metadata and tensors agree one for one, adapters are merged, and a tied weight is sent once."""
    plain = dict(weight_source(Learner(str(random_model), learner_config()), "float32"))
    learner = Learner(str(random_model), learner_config(lora=LoraConfig(rank=2, alpha=4.0)))
    source = weight_source(learner, "bfloat16")
    for _ in range(2):
        sent = list(source)
        assert [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()] == [
            (name, torch.bfloat16, tuple(tensor.shape)) for name, tensor in sent
        ]
        assert all(tensor.dtype == torch.bfloat16 for _, tensor in sent)
    assert dict(sent).keys() == plain.keys() and "lm_head.weight" not in plain
    assert all(torch.equal(tensor, plain[name].bfloat16()) for name, tensor in sent), "B is 0 before any training"


def test_the_init_infos_are_vllms_own(ray_session):
    ipc, nccl = trainer_info("ipc", 1, 2), trainer_info("nccl", 0, 3)
    assert (ipc.backend, ipc.is_sender, nccl.backend, nccl.is_sender, nccl.world_size) == (
        "ipc",
        False,
        "nccl",
        True,
        4,
    )


def test_a_cpu_refuses_transfers_and_sleep(engine, random_model, tiny_base):
    with pytest.raises(ConfigError, match="runs on a CPU, where there is no weight transfer"):
        EngineClient([engine.actor]).init_weight_transfer_engine({"packed": True})
    with pytest.raises(ConfigError, match=r"no memory to give .*sleep_while_training=false"), asleep(engine):
        raise AssertionError("it sleeps")
    with pytest.raises(ConfigError, match="torch cannot sleep"), asleep(TorchEngine(tiny_base, 64)):
        raise AssertionError("it sleeps")
    for kind in ("cuda_ipc", "nccl"):
        with pytest.raises(ConfigError, match=f"{kind} is for vLLM and a learner on GPUs"):
            open_sync(kind, Learner(str(random_model), learner_config()), engine)
