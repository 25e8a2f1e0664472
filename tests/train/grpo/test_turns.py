"""Rewards by turn: the advantages against NumPy, the plan and its tokens, the gradient, and who is left out."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rollhouse.collect.episode import Slot, play_episode
from rollhouse.environments.tools import tool_session
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.appending import append_rows
from rollhouse.store.ids import hash_id
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task
from rollhouse.train.grpo.config_algorithm import AlgorithmConfig
from rollhouse.train.grpo.learner.batch import collate, token_advantages
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.ledger import commit_plan, read_batch, stored_plan
from rollhouse.train.grpo.loss import policy_loss
from rollhouse.train.grpo.plan import groups_with_spread

from .settings import grpo_config, learner_config, loss_config
from .test_loss import batch, totals_of
from .test_plan import plan_of, rollout

BY_TURN = grpo_config(grpo__turn_rewards="turn")
TURNS = [[1.0, 0.0], [0.0, 0.5], [0.25, 0.0]]


def rows(turns=TURNS, group="a", **changes):
    return [rollout(group, i, sum(own), turn_rewards=own, n_turns=len(own), **changes) for i, own in enumerate(turns)]


def entries(found):
    by_id = {entry.rollout_id: entry for entry in found.entries}
    return [by_id[row["rollout_id"]] for row in rows()]


@pytest.mark.parametrize("normalize", [True, False])
def test_a_turn_gets_the_normalised_rewards_from_it_on(normalize):
    config = grpo_config(grpo__turn_rewards="turn", grpo__normalize_rewards=normalize)
    every = np.array(TURNS)
    z = (every - every.mean()) / ((every.std(ddof=1) + 1e-6) if normalize else 1)
    expected = z[:, ::-1].cumsum(1)[:, ::-1]
    for entry, own in zip(entries(plan_of(rows(), config)), expected, strict=True):
        assert entry.turn_advantages == pytest.approx(own.tolist(), abs=1e-6)
        assert entry.advantage == pytest.approx(own.mean(), abs=1e-6)


def test_the_sum_is_the_reward_and_off_ignores_them():
    summed = entries(plan_of(rows(), grpo_config(grpo__turn_rewards="sum")))
    ignored = entries(plan_of([row | {"turn_rewards": [9.0, 9.0]} for row in rows()], grpo_config()))
    assert [e.advantage for e in summed] == pytest.approx([e.advantage for e in ignored])
    assert all(e.turn_advantages is None for e in (*summed, *ignored))


def test_shaping_is_taken_off_the_last_turn():
    config = grpo_config(grpo__turn_rewards="turn", grpo__reward_shaping={"invalid_tool_call_penalty": 0.5})
    failing = [row | {"n_parse_failures": int(i == 1)} for i, row in enumerate(rows())]
    same = rows([[1.0, 0.0], [0.0, 0.0], [0.25, 0.0]])
    shaped, plain = (entries(found) for found in (plan_of(failing, config), plan_of(same, BY_TURN)))
    for one, other in zip(shaped, plain, strict=True):
        assert one.turn_advantages == pytest.approx(other.turn_advantages, abs=1e-5)
    assert shaped[1].reward == 0.0


def test_who_has_no_turn_rewards_and_groups_without_spread_are_left_out():
    bare = rollout("a", 3, 1.0)
    flat = rows([[0.5, 0.5], [0.5, 0.5]], group="b")
    alone = rows([[0.0, 1.0]], group="c")
    found = {entry.rollout_id: entry for entry in plan_of([*rows(), bare, *flat, *alone], BY_TURN).entries}
    reasons = [found[row["rollout_id"]].reason for row in (bare, *flat, *alone)]
    assert reasons == ["no turn rewards", "zero_std", "zero_std", "alone in its group"]
    assert found[flat[0]["rollout_id"]].turn_advantages == (0.0, 0.0)
    assert groups_with_spread([*rows(), bare, *flat, *alone], "turn") == {"a"}


def test_a_stored_plan_gives_each_token_its_turns_advantage(tmp_path):
    store = LanceStore.create(tmp_path / "store")
    written = rows()
    prompt = {"row_id": "p", "prompt_id": "prompt a", "tokenizer_hash": "t", "template_hash": "c", "token_ids": [1, 2]}
    append_rows(store, "prompt_tokens", [prompt | {"row_id": hash_id("prompt a", "t", "c")}])
    stored = {name for name in written[0] if name in store.lance_dataset("rollouts").schema.names}
    append_rows(store, "rollouts", [{name: row[name] for name in stored} for row in written])
    plan = plan_of(written, BY_TURN)
    commit_plan(store, plan)
    again = stored_plan(store, "r", 1)
    assert again is not None and again.entries == plan.entries
    samples, _ = read_batch(store, again)
    for sample in samples:
        assert sample.turn_advantages is not None
        first, second = sample.turn_advantages
        assert token_advantages(sample) == [first, first, second, second]
    made = collate(samples)
    assert made.token_advantages is not None
    assert made.token_advantages[~made.mask].eq(0).all() and made.token_advantages[made.mask].ne(0).any()


def test_more_turns_than_advantages_are_refused(make_samples):
    sample = replace(make_samples(1)[0], loss_mask=[1, 0, 1], token_ids=[1, 2, 3], engine_logprobs=[-1.0, -1.0])
    with pytest.raises(ValueError, match="advantages for 1 turns"):
        token_advantages(replace(sample, turn_advantages=[0.5]))


def test_loss_and_gradient_are_those_of_finite_differences():
    inputs = batch(seed=2, rows=4, width=5)
    by_token = torch.randn(inputs.mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    case = loss_config(use_importance_sampling_correction=False)

    def value(logprobs):
        return policy_loss(replace(inputs, logprobs=logprobs, token_advantages=by_token), totals_of(inputs), case).loss

    logprobs = inputs.logprobs.clone().requires_grad_()
    value(logprobs).backward()
    assert logprobs.grad is not None
    for place in inputs.mask.nonzero():
        step = torch.zeros_like(inputs.logprobs)
        step[tuple(place)] = 1e-6
        slope = (value(inputs.logprobs + step) - value(inputs.logprobs - step)) / 2e-6
        assert logprobs.grad[tuple(place)].item() == pytest.approx(slope.item(), abs=1e-8)
    assert not logprobs.grad[~inputs.mask].any()


def test_equal_advantages_of_all_turns_are_the_rollouts(random_model, make_samples):
    samples, after = make_samples(4, seed=5), []
    by_turn = [replace(sample, turn_advantages=[sample.advantage] * 3, advantage=9.0) for sample in samples]
    for given in (samples, by_turn):
        learner = Learner(str(random_model), learner_config(lr=1e-2))
        learner.step(given, [[0, 1], [2, 3]])
        after.append({name: value.detach().clone() for name, value in learner.model.named_parameters()})
    assert all(torch.allclose(after[0][name], after[1][name], atol=1e-6) for name in after[0])


class Judged:
    name = "judged"

    def __init__(self, turn_rewards):
        self.turn_rewards = turn_rewards

    def tasks(self, split):
        return []

    def start(self, task):
        score = Score(1.0, True, "judged", "1", turn_rewards=self.turn_rewards)
        return tool_session([], lambda _: score, inline=True)


@pytest.mark.parametrize(
    ("given", "status"), [((0.5,), "completed"), (None, "completed"), ((0.5, 1.0), "error"), ((float("nan"),), "error")]
)
def test_an_episode_keeps_one_reward_for_each_turn(given, status):
    task = Task("judged", (Message("user", "?"),), (), ground_truth=[])
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    row = asyncio.run(play_episode(Judged(given), ScriptedPolicy(), slot, Sampling())).rollout.to_row()
    assert row["status"] == status
    assert row["turn_rewards"] == (list(given) if given and status == "completed" else None)
    assert row["error_type"] == (None if status == "completed" else "verifier")


def test_it_stands_alone():
    for name in ("use_leave_one_out_baseline", "whiten_advantages"):
        with pytest.raises(ValidationError, match=f"remove {name}"):
            AlgorithmConfig.model_validate({"turn_rewards": "turn", name: True})
    assert AlgorithmConfig.model_validate({"turn_rewards": False}).turn_rewards == "off"  # YAML's bare off
