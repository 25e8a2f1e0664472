"""Several learner ranks do what one does: the same gradient, metrics, outcomes and weights, whatever is split how."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from rollhouse.base.errors import TrainingError
from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray
from rollhouse.train.config import LoraConfig
from rollhouse.train.grpo.learner.group import LearnerGroup
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.ranks import dealt
from safetensors.torch import load_file

from .settings import learner_config, loss_config

SETTINGS = learner_config(lr=1e-2, loss_fn=loss_config(reference_policy_kl_penalty=0.1))
SPLIT = [[0, 1], [2, 3], [4, 5]]  # one rank has a micro-batch more than the other


@pytest.fixture(scope="module", autouse=True)
def cluster():
    started = ensure_ray()
    yield
    if started:
        shutdown_ray()


@pytest.fixture(scope="module")
def group(random_model, cluster):
    with LearnerGroup(str(random_model), SETTINGS, ranks=2, collective_timeout_s=321) as group:
        yield group


@pytest.fixture
def fresh(group, random_model, tmp_path):
    """The group with the weights and moments of before any step."""
    Learner(str(random_model), SETTINGS).save_state(tmp_path / "fresh")
    group.load_state(tmp_path / "fresh")
    return group


@pytest.fixture
def make_samples(make_samples):
    """Pairs that share a prompt: one of two micro-batches each with a shared row."""

    def make(n, seed=0):
        samples = make_samples(n, seed)
        return [replace(sample, prompt_ids=[5 + number // 2] * 12) for number, sample in enumerate(samples)]

    return make


def saved(learner, folder):
    learner.save_weights(str(folder / "weights.safetensors"))
    return {name: tensor.clone() for name, tensor in load_file(folder / "weights.safetensors").items()}


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **tolerance)


def with_sgd(learner):
    """Lets a step with settings.policy.optimizer.lr show the gradient itself; Adam would blow up rounding where a gradient is nearly 0."""

    def change(learner):
        import torch

        learner.adam, learner.optimizer = learner.optimizer, torch.optim.SGD(learner._trained().values(), 1e-2)

    # A function of a test's module is not to be found by a rank, one within a function travels whole.
    learner.run(change) if isinstance(learner, LearnerGroup) else change(learner)


def assert_same_step(one, other):
    assert other.loss == pytest.approx(one.loss, abs=1e-6)
    assert other.metrics == pytest.approx(one.metrics, rel=1e-4, abs=1e-6)
    assert [outcome.rollout_id for outcome in other.outcomes] == [outcome.rollout_id for outcome in one.outcomes]
    for left, right in zip(one.outcomes, other.outcomes, strict=True):
        assert right.logprobs == pytest.approx(left.logprobs, abs=1e-5)


@pytest.mark.parametrize("split", [SPLIT, [[5, 3, 1, 0, 2, 4]]])
def test_two_ranks_take_the_step_of_one(fresh, random_model, make_samples, tmp_path, split):
    one = Learner(str(random_model), SETTINGS)
    before = saved(one, tmp_path)
    with_sgd(one)
    with_sgd(fresh)
    assert_same_step(one.step(make_samples(6), SPLIT), fresh.step(make_samples(6), split))
    after = saved(one, tmp_path)
    assert_same(after, saved(fresh, tmp_path), atol=1e-6, rtol=0)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    fresh.run(lambda learner: setattr(learner, "optimizer", learner.adam))


def test_a_state_moves_between_one_rank_and_two(fresh, random_model, make_samples, tmp_path):
    one = Learner(str(random_model), SETTINGS)
    one.step(make_samples(6, 1), SPLIT)
    one.save_state(tmp_path / "one")
    fresh.load_state(tmp_path / "one")
    assert fresh.steps == 1
    assert_same(saved(one, tmp_path), saved(fresh, tmp_path), atol=0, rtol=0)
    fresh.step(make_samples(6, 2), SPLIT)
    fresh.save_state(tmp_path / "two")

    again = Learner(str(random_model), SETTINGS)
    again.load_state(tmp_path / "two")
    assert again.steps == 2
    assert_same(saved(fresh, tmp_path), saved(again, tmp_path), atol=0, rtol=0)
    with_sgd(again)
    assert_same_step(again.step(make_samples(6, 3), SPLIT), fresh.step(make_samples(6, 3), SPLIT))
    # Each rank holds its half of the moments.
    shapes = fresh.run(lambda learner: [tuple(m["exp_avg"].to_local().shape) for m in learner.optimizer.state.values()])
    assert [ranks[0] for ranks in shapes] == [(24, 32), (24, 32)]


def test_two_ranks_score_as_one(fresh, random_model, make_samples, tmp_path):
    one = Learner(str(random_model), SETTINGS)
    samples = make_samples(5)
    pairs = [(sample.prompt_ids, sample.token_ids) for sample in samples]
    for left, right in zip(one.logprobs(pairs), fresh.logprobs(pairs), strict=True):
        assert left == pytest.approx(right, abs=1e-5)
    assert fresh.reference_kl(samples) == [0] * 5
    fresh.step(samples, [[0, 1, 2, 3, 4]])
    one.step(samples, [[0, 1, 2, 3, 4]])
    assert fresh.reference_kl(samples) == pytest.approx(one.reference_kl(samples), abs=1e-2)
    fresh.save_pretrained(tmp_path / "model")
    plain = Learner(str(tmp_path / "model"), SETTINGS)
    assert_same(saved(fresh, tmp_path), saved(plain, tmp_path), atol=0, rtol=0)


def test_what_one_rank_finds_not_finite_all_refuse_alike(fresh, make_samples, tmp_path):
    before = saved(fresh, tmp_path)
    samples = make_samples(6)
    samples[2] = replace(samples[2], advantage=float("nan"))  # in rank 1's micro-batch
    with pytest.raises(TrainingError, match=r"loss of step 1 is nan .*rollout-2, rollout-3\."):
        fresh.step(samples, SPLIT)
    assert_same(before, saved(fresh, tmp_path), atol=0, rtol=0)
    assert fresh.step(make_samples(6), SPLIT).loss is not None


def test_an_exchange_has_the_time_limit_it_was_given(group):
    def limit(learner):
        import torch.distributed as dist

        return dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout

    assert [found.total_seconds() for found in group.run(limit)] == [321, 321]


def test_a_rank_that_dies_in_a_step_ends_the_group(random_model, make_samples, group):
    def dies(learner):
        import os

        if learner.rank == 1:
            learner.model.model.layers[1].register_forward_pre_hook(lambda *_: os._exit(1))

    group.run(dies)
    with pytest.raises(TrainingError, match="process died"):
        group.step(make_samples(6), SPLIT)
    with pytest.raises(TrainingError, match="it was ended"):
        group.logprobs([([1], [2])])


@pytest.mark.system
@pytest.mark.parametrize(
    "settings",
    [
        learner_config(
            SETTINGS, lora=LoraConfig(rank=4, alpha=8), activation_checkpointing=True, num_updates_per_batch=2
        ),
        learner_config(SETTINGS, precision="bfloat16", logprob_chunk_tokens=4, on_nonfinite="skip"),
    ],
)
def test_three_placed_ranks_with_all_that_a_learner_can(random_model, make_samples, tmp_path, settings):
    from contextlib import closing

    from rollhouse.policies.engines.placement import place

    one = Learner(str(random_model), settings)
    with (
        closing(place(0, 3)) as placed,
        LearnerGroup(str(random_model), settings, ranks=3, placement=placed.learners) as group,
    ):
        exact = settings.policy.precision == "float32"
        with_sgd(one)
        with_sgd(group)
        for seed in (1, 2):
            left, right = one.step(make_samples(6, seed), SPLIT), group.step(make_samples(6, seed), SPLIT)
            assert right.loss == pytest.approx(left.loss, abs=1e-5 if exact else 0.05)
            if exact:
                assert_same_step(left, right)
        assert_same(saved(one, tmp_path), saved(group, tmp_path), atol=1e-5 if exact else 0.02, rtol=0)
        samples = make_samples(6, 3)
        samples[4] = replace(samples[4], advantage=float("inf"))
        if settings.grpo.on_nonfinite == "skip":
            before = saved(group, tmp_path)
            assert group.step(samples, SPLIT).skipped == ("rollout-4", "rollout-5")
            assert_same(before, saved(group, tmp_path), atol=0, rtol=0)


def test_micro_batches_are_dealt_round_robin_and_evened_out():
    assert [dealt([1, 2, 3, 4], rank, 3) for rank in range(3)] == [[1, 4], [2, None], [3, None]]
    assert dealt([1, 2], 0, 1) == [1, 2] and dealt([], 1, 2) == []


@pytest.mark.system
def test_the_first_rank_alone_reads_the_weights(cluster, random_model, make_samples, tmp_path):
    import ray
    from rollhouse.train.grpo.learner.group import _Rank

    shutil.copy(random_model / "config.json", tmp_path / "config.json")
    actors: list[Any] = [ray.remote(_Rank).options(num_cpus=0).remote() for _ in range(2)]
    try:
        meeting = ray.get(actors[0].rendezvous.remote())
        folders = [str(random_model), str(tmp_path)]
        settings = learner_config(SETTINGS, lora=LoraConfig(rank=4, alpha=8))
        opening = [actor.open.remote(folder, settings, rank, 2, meeting) for rank, (actor, folder) in enumerate(zip(actors, folders, strict=True))]  # fmt: skip
        ray.get(opening, timeout=300)
        one = Learner(str(random_model), settings)
        path = str(tmp_path / "weights.safetensors")
        ray.get([actor.call.remote("save_weights", path) for actor in actors], timeout=300)
        opened = load_file(path)
        assert_same(saved(one, tmp_path), opened, atol=0, rtol=0)
        steps = [actor.call.remote("step", make_samples(6), SPLIT) for actor in actors]
        assert_same_step(one.step(make_samples(6), SPLIT), ray.get(steps, timeout=300)[0])
    finally:
        for actor in actors:
            ray.kill(actor)
