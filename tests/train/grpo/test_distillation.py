"""On-policy distillation: loss and gradient against plain loops, the teacher's logprobs against the learner's, and a run that learns from its teacher alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.ledger import stored_plan
from rollhouse.train.grpo.loss import policy_loss
from rollhouse.train.grpo.original import changed_config, stored_config
from rollhouse.train.grpo.replay import replay
from rollhouse.train.grpo.teacher import open_teacher, prompt_logprobs

from .settings import grpo_config, learner_config, loss_config
from .test_loss import batch, totals_of

TEACHER = {"model": "teacher", "weight": 0.7, "reward_weight": 0.5}
PLAIN = loss_config(use_importance_sampling_correction=False)
CASES = {
    "advantage": loss_config(PLAIN, teacher=TEACHER),
    "loss, k1": loss_config(PLAIN, teacher=TEACHER | {"term": "loss"}, reference_policy_kl_type="k1"),
    "loss, k2": loss_config(PLAIN, teacher=TEACHER | {"term": "loss"}, reference_policy_kl_type="k2"),
    "loss, k3": loss_config(PLAIN, teacher=TEACHER | {"term": "loss"}),
    "loss, k3, bare": loss_config(PLAIN, teacher=TEACHER | {"term": "loss"}, use_bias_correction_kl=False),
}


def taught_batch():
    inputs = batch(seed=4, rows=4, width=5)
    noise = torch.randn(inputs.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return replace(inputs, teacher_logprobs=inputs.logprobs + 0.4 * noise)


def plain_loop(inputs, settings, now):
    """The loss in plain Python; `now` replaces inputs.logprobs but where formulas stop the gradient."""
    fixed, old, teacher = (m.tolist() for m in (inputs.logprobs, inputs.old_logprobs, inputs.teacher_logprobs))
    total, n = 0.0, 0
    for i, row in enumerate(inputs.mask.tolist()):
        for t in [t for t, sampled in enumerate(row) if sampled]:
            n += 1
            advantage = 0.5 * inputs.advantages[i].item()
            if settings.teacher.term == "advantage":
                advantage -= 0.7 * (old[i][t] - teacher[i][t])
            ratio = math.exp(now[i][t] - old[i][t])
            total += max(-ratio * advantage, -min(max(ratio, 0.8), 1.2) * advantage)
            if settings.teacher.term == "loss":
                d, kind = teacher[i][t] - now[i][t], settings.reference_policy_kl_type
                kl = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - 1 - d}[kind]
                if settings.use_bias_correction_kl:
                    kl *= math.exp((fixed if kind == "k2" else now)[i][t] - old[i][t])
                total += 0.7 * kl
    return total / n


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_loss_and_gradient_are_those_of_a_plain_loop(case):
    inputs = taught_batch()
    logprobs = inputs.logprobs.clone().requires_grad_()
    found = policy_loss(replace(inputs, logprobs=logprobs), totals_of(inputs), case)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(plain_loop(inputs, case, inputs.logprobs.tolist()), rel=1e-12)
    assert torch.equal(
        found.terms["kl_teacher"], torch.where(inputs.mask, inputs.logprobs - inputs.teacher_logprobs, 0.0)
    )
    assert logprobs.grad is not None and not logprobs.grad[~inputs.mask].any()
    for i, t in inputs.mask.nonzero().tolist():
        sides = []
        for sign in (1, -1):
            moved = inputs.logprobs.tolist()
            moved[i][t] += sign * 1e-6
            sides.append(plain_loop(inputs, case, moved))
        assert logprobs.grad[i, t].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)


def test_a_step_needs_the_teachers_logprobs(random_model, make_samples):
    learner = Learner(str(random_model), learner_config(loss_fn=CASES["advantage"]))
    with pytest.raises(ValueError, match="logprobs of the teacher"):
        learner.step(make_samples(2), [[0, 1]])


def test_a_policy_comes_nearer_to_its_teacher(random_model, make_samples):
    """Supervised by hand-made logprobs: tokens that the teacher finds likelier become likelier."""
    case = loss_config(teacher={"model": "t", "reward_weight": 0.0}, use_importance_sampling_correction=False)
    learner = Learner(str(random_model), learner_config(lr=1e-2, loss_fn=case))
    (sample,) = make_samples(1)
    pair = [(sample.prompt_ids, sample.token_ids)]
    sampled = [bool(bit) for bit in sample.loss_mask]
    before = torch.tensor(learner.logprobs(pair)[0])[sampled]
    wanted = torch.where(torch.arange(len(before)) % 2 == 0, before + 1, before - 1)
    learner.step([replace(sample, teacher_logprobs=wanted.tolist())], [[0]])
    after = torch.tensor(learner.logprobs(pair)[0])[sampled]
    assert ((after - before) * (wanted - before)).sum() > 0


def test_the_teacher_scores_as_its_model_does(random_models, tmp_path):
    from rollhouse.store.lance_store import LanceStore

    policy, teacher = random_models
    config = grpo_config(loss_fn__teacher={"model": str(teacher)}, policy__max_total_sequence_length=64)
    sample = TrainSample("a", [2, 3, 4], [5, 6, 7, 8], [1, 0, 1, 1], [-1.0] * 3)
    with open_teacher(LanceStore.create(tmp_path / "store"), config, ChatFormat.of(policy)) as opened:
        assert opened is not None
        (found,) = opened.logprobs([sample])
    (own,) = Learner(str(teacher), learner_config()).logprobs([(sample.prompt_ids, sample.token_ids)])
    assert found == pytest.approx([own[0], own[2], own[3]], abs=1e-5)


def test_a_teacher_of_other_tokens_or_a_shorter_context_is_refused(random_models, tiny_base: Path, tmp_path):
    from rollhouse.store.lance_store import LanceStore

    store, bytes_alone = LanceStore.create(tmp_path / "store"), ChatFormat.of(random_models[0])
    cases = [(ChatFormat.of(tiny_base), 64, "another tokenizer"), (bytes_alone, 4096, "context of 2048")]
    for chat, length, message in cases:
        config = grpo_config(
            loss_fn__teacher={"model": str(random_models[1])}, policy__max_total_sequence_length=length
        )
        with pytest.raises(ConfigError, match=message), open_teacher(store, config, chat):
            pass
    config = grpo_config(loss_fn__teacher={"model": str(random_models[1]), "engine": "scripted"})
    with pytest.raises(ConfigError, match="no engine 'scripted'"), open_teacher(store, config, bytes_alone):
        pass


def test_an_answer_without_prompt_logprobs_is_refused():
    answer = {"choices": [{"prompt_logprobs": [None, {"7": {"logprob": -0.5}, "9": {"logprob": -0.1}}]}]}
    assert prompt_logprobs(answer, [3, 7]) == [0.0, -0.5]
    for wrong in ({"choices": [{}]}, {"choices": [{"prompt_logprobs": None}]}, {"error": "?"}):
        with pytest.raises(ValueError, match="must be a vLLM server"):
            prompt_logprobs(wrong, [3, 7])
    with pytest.raises(ValueError, match="must be a vLLM server"):
        prompt_logprobs(answer, [3, 8])


def test_a_run_stores_what_its_teacher_found_and_is_replayed_without_it(
    prompt_store, configure, train_here, tiny_base: Path, tmp_path
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = tmp_path / "teacher"
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(teacher)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(teacher)
    config = configure(
        run="taught",
        grpo__num_prompts_per_step=2,
        grpo__num_generations_per_prompt=2,
        grpo__max_num_steps=2,
        loss_fn__teacher={"model": str(teacher), "reward_weight": 0.0},
    )
    train_here(config)
    plan = stored_plan(prompt_store, "taught", 1)
    assert plan is not None
    kept = [entry for entry in plan.entries if entry.kept]
    assert kept, "groups without spread are trained on"
    rollouts = {row["rollout_id"]: row for row in prompt_store.read("rollouts", filter="run_id = 'taught'").to_pylist()}
    for entry in kept:
        assert len(entry.teacher_logprobs or ()) == rollouts[entry.rollout_id]["n_sampled_tokens"]
    metrics = prompt_store.read("metrics", filter="run_id = 'taught' and name = 'train/kl_teacher'").to_pylist()
    assert len(metrics) == 2 and all(row["value"] > 0 for row in metrics)

    again = replay(prompt_store, "taught", run="taught-again")
    assert again.identical and again.difference is None
    stored = stored_config(prompt_store, "taught")
    changed = changed_config(stored, ["grpo.normalize_rewards=false", "loss_fn.teacher.weight=0.5"])
    anew = replay(prompt_store, "taught", changed, run="taught-anew")
    assert anew.plans == "made anew" and anew.checkpoint["weights_hash"] != again.checkpoint["weights_hash"]
    with pytest.raises(ConfigError, match="A replay has no teacher"):
        replay(prompt_store, "taught", changed_config(stored, ["loss_fn.teacher.model=another"]), run="taught-other")
