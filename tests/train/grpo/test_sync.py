"""Weight pushes into the real engine, and that a push which did not arrive is noticed."""

import asyncio
import threading
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines import weight_file
from rollhouse.policies.engines.base import SampledTokens
from rollhouse.policies.engines.placement import engine_dtype
from rollhouse.policies.engines.replicas import ReplicatedEngine
from rollhouse.policies.engines.restarting import RestartingEngine
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.types import Sampling
from rollhouse.train.grpo.learner.batch import TrainSample, split_micro_batches
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.sync.base import PREFIX, weights_folder
from rollhouse.train.grpo.sync.file import FileSync
from rollhouse.train.grpo.sync.sync import open_sync
from rollhouse.train.grpo.sync.verify import begin_verification, choose_probe
from safetensors.torch import load_file, save_file

from .settings import learner_config

TOLERANCE = 1e-3


@pytest.fixture
def sampled(engine, tiny_base):
    """Six single-turn samples that the engine made with the base's weights, as version 0."""
    chat = ChatFormat.of(tiny_base)
    prompts = [chat.prompt_ids(task) for task in MiniEnvironment(n_train=6).tasks("train")]

    async def sample_all():
        await engine.load_weights(str(tiny_base), 0)
        settings = Sampling(max_tokens=24, seed=1)
        return await asyncio.gather(*[engine.generate(prompt, settings) for prompt in prompts])

    return [
        TrainSample(f"r{i}", prompt, answer.token_ids, [1] * len(answer.token_ids), answer.logprobs, (-1.0) ** i)
        for i, (prompt, answer) in enumerate(zip(prompts, asyncio.run(sample_all()), strict=True))
    ]


def test_engine_and_learner_agree_before_and_after_a_step(engine, tiny_base, sampled):
    learner = Learner(str(tiny_base), learner_config(lr=1e-3))
    probe = choose_probe(sampled)
    assert len(probe) == 4
    assert gap(learner, engine, probe, 0, 1, TOLERANCE) < 1e-4

    result = train_a_step(learner, sampled)
    assert result.metrics["mismatch/logp_abs_diff"] < 1e-5
    with pytest.raises(EngineError, match=r"step 1 .*logprobs differ by up to"):
        begin_verification(learner, engine, probe, 0, 1, TOLERANCE).result()
    with pytest.raises(EngineError, match=r"step 1 .*logprobs differ by .* in the mean"):
        begin_verification(learner, engine, probe, 0, 1, TOLERANCE, by_mean=True).result()
    worst = gap(learner, engine, probe, 0, 1, 100.0)
    assert gap(learner, engine, probe, 0, 1, worst / 2, by_mean=True) == worst

    with closing(open_sync("auto", learner, engine)) as sync:
        assert sync.kind == "file"
        sync.push(1)
        assert set(sync.seconds) == {"write", "load"}
        assert gap(learner, engine, probe, 1, 1, TOLERANCE) < 1e-4
        with pytest.raises(EngineError, match=r"step 2 .*samples as version 1"):
            begin_verification(learner, engine, probe, 2, 2, TOLERANCE).result()


def gap(*given, **options) -> float:
    """What a check found that no restart has disturbed."""
    worst = begin_verification(*given, **options).result()
    assert worst is not None
    return worst


def train_a_step(learner, samples):
    return learner.step(samples, split_micro_batches([sample.length for sample in samples], 512))


def test_parameters_that_live_in_the_file_are_trained_and_pushed_without_a_copy(engine, tiny_base, sampled):
    """The same weights as a learner's that has them in its own memory, pushed to an engine that other requests keep busy."""
    plain, shared = (Learner(str(tiny_base), learner_config(lr=1e-3)) for _ in range(2))
    probe = choose_probe(sampled)
    with closing(open_sync("file", shared, engine, share_parameters=True)) as sync:
        assert isinstance(sync, FileSync) and sync.shared
        stop = threading.Event()
        busy = threading.Thread(target=lambda: asyncio.run(keep_asking(engine, stop)))
        busy.start()
        try:
            for version in (1, 2):
                train_a_step(plain, sampled)
                with sync.training(version):
                    train_a_step(shared, sampled)
                sync.push(version)
                assert gap(plain, engine, probe, version, version, TOLERANCE) < 1e-4
        finally:
            stop.set()
            busy.join()
        tensors = load_file(sync.path)
        assert all(torch.equal(tensors[name], parameter) for name, parameter in plain.model.named_parameters())
        assert all(file_of(sync.path)[n].data_ptr() == p.data_ptr() for n, p in shared.model.named_parameters())


def file_of(path):
    """The tensors that this process writes to the path, by name."""
    return weight_file._written[path].tensors


async def keep_asking(engine, stop):
    """Long requests in flight all the time, from an event loop of their own."""
    while not stop.is_set():
        await asyncio.gather(*[engine.generate([5, 6, i], Sampling(1.5, max_tokens=40, seed=i)) for i in range(8)])


def test_weights_travel_in_the_engines_dtype(tiny_base):
    learner = Learner(str(tiny_base), learner_config())
    torch_engine = TorchEngine(tiny_base, max_model_len=128)
    with closing(open_sync("file", learner, torch_engine, dtype="bfloat16", share_parameters=True)) as sync:
        sync.push(3)
        assert torch_engine.version == 3
        assert isinstance(sync, FileSync) and not sync.shared
        assert {tensor.dtype for tensor in load_file(sync.path).values()} == {torch.bfloat16}
        rounded = learner.model.bfloat16().float()
        scores = asyncio.run(torch_engine.score([5, 6, 7, 8]))
        with torch.no_grad():
            logps = rounded(torch.tensor([[5, 6, 7, 8]])).logits[0, :-1].log_softmax(-1)
        assert scores[1:] == pytest.approx(logps[range(3), [6, 7, 8]].tolist(), abs=1e-3)
    with pytest.raises(ConfigError, match="Unknown weight sync 'pigeon'"):
        open_sync("pigeon", learner, torch_engine)


def test_an_engine_with_half_a_set_of_weights_does_not_answer(engine, tiny_base, tmp_path):
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    tensors = load_file(tiny_base / "model.safetensors")
    wrong = {name: tensor if "layers.1" not in name else tensor[:1].clone() for name, tensor in tensors.items()}
    save_file(wrong, tmp_path / "wrong.safetensors")

    async def half_way():
        requests = [
            asyncio.ensure_future(engine.generate([5, 6, i], Sampling(2.0, max_tokens=900, seed=i))) for i in range(16)
        ]
        await asyncio.sleep(0.05)
        with pytest.raises(EngineError):
            await engine.load_weights(str(tmp_path / "wrong.safetensors"), 1)
        return await asyncio.gather(*requests, engine.score([5, 6]), return_exceptions=True)

    *in_flight, scores = asyncio.run(half_way())
    refused = [answer for answer in in_flight if not isinstance(answer, SampledTokens)]  # others ended before
    assert refused and all(isinstance(one, EngineError) and "only in part" in one.message for one in [*refused, scores])
    (tmp_path / "cut.safetensors").write_bytes((tiny_base / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(EngineError, match="not whole"):
        asyncio.run(engine.load_weights(str(tmp_path / "cut.safetensors"), 1))
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    assert len(asyncio.run(engine.score([5, 6, 7]))) == 3


def test_folders_of_killed_runs_are_removed_and_those_of_others_are_not(tmp_path):
    with weights_folder() as mine:
        dead = mine.parent / f"{PREFIX}of-a-killed-run"
        dead.mkdir()
        (dead / "owner").touch()
        with weights_folder() as second:
            assert not dead.exists() and mine.exists() and second.exists()
    assert not mine.exists() and not second.exists()


def test_a_probe_is_the_shortest_sequences_and_may_be_empty(engine, tiny_base, sampled):
    longer = [replace(sample, prompt_ids=[*sample.prompt_ids] * 2) for sample in sampled]
    assert set(sample.rollout_id for sample in choose_probe(longer + sampled[:4])) == {"r0", "r1", "r2", "r3"}
    assert gap(Learner(str(tiny_base), learner_config()), engine, [], 0, 1, TOLERANCE) == 0


def made_up_samples(n):
    """Sequences that no engine sampled; what engine and learner make of them is compared."""
    return [TrainSample(f"r{i}", [5, 6, 7 + i], [8, 9, 10 + i], [1] * 3, [-1.0] * 3, (-1.0) ** i) for i in range(n)]


def test_an_engine_that_was_started_in_the_midst_of_a_step_is_not_taken_for_a_wrong_one(tiny_base):
    samples = made_up_samples(4)
    learner = Learner(str(tiny_base), learner_config(lr=1e-2))
    restarting = RestartingEngine(lambda: TorchEngine(tiny_base, max_model_len=128), 1)
    with closing(FileSync(learner, restarting, share_parameters=True)) as sync:
        sync.push(1)
        restarting.engine.close()
        with sync.training(2):
            check = begin_verification(learner, restarting, samples, 1, 1, TOLERANCE)
            train_a_step(learner, samples)
        assert check.result() is None and restarting.restarts == 1
        assert restarting.version == 2, "it has the weights of the step that was under way"
        sync.push(2)
        assert gap(learner, restarting, samples, 2, 2, TOLERANCE) < 1e-4


@pytest.mark.parametrize("wrong", range(6))
def test_each_of_several_engines_is_looked_at(tiny_base, wrong):
    learner = Learner(str(tiny_base), learner_config(lr=1e-2))
    engines = [TorchEngine(tiny_base, max_model_len=128) for _ in range(6)]
    train_a_step(learner, made_up_samples(4))
    with closing(FileSync(learner, engines[wrong])) as sync:
        sync.push(0)
    with pytest.raises(EngineError, match="logprobs differ"):
        begin_verification(Learner(str(tiny_base), learner_config()), ReplicatedEngine(engines), made_up_samples(4), 0, 1, TOLERANCE).result()  # fmt: skip


def test_weights_travel_in_what_the_engine_computes_in(engine, tiny_base):
    assert engine_dtype(engine) == engine_dtype(ReplicatedEngine([RestartingEngine(lambda: engine, 0)])) == "float32"
    with closing(TorchEngine(tiny_base, 512)) as here:
        assert engine_dtype(here) is None, "one of this process takes what it gets"
