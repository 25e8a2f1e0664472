"""The algorithms through the front door: one short run with most of them on at once."""

import pytest
from rollhouse.train.grpo.loop import train_grpo


@pytest.mark.system
def test_a_run_with_shaped_rewards_kl_and_a_ratio_a_sequence(prompt_store, configure, engine):
    config = configure(
        run="shaped",
        grpo__max_num_steps=1,
        grpo__num_updates_per_batch=2,
        grpo__normalize_rewards=False,
        grpo__whiten_advantages=True,
        grpo__reward_shaping={"overlong_buffer_length": 64, "max_response_length": 96, "overlong_buffer_penalty": 0.5},
        loss_fn__sequence_level_importance_ratios=True,
        loss_fn__token_level_loss=False,
        loss_fn__truncated_importance_sampling_type="seq-mask-tis",
        loss_fn__truncated_importance_sampling_ratio_min=0.9,
        loss_fn__truncated_importance_sampling_ratio=1.1,
        loss_fn__reference_policy_kl_penalty=0.05,
        loss_fn__use_kl_in_reward=True,
        loss_fn__entropy_bonus=0.01,
    )
    train_grpo(prompt_store, config, engine=engine)
    (plan,) = prompt_store.read("batch_plans", filter="run_id = 'shaped'").to_pylist()
    verdicts = {row["rollout_id"]: row for row in prompt_store.read("rollouts", filter="run_id = 'shaped'").to_pylist()}
    compared = [entry for entry in plan["entries"] if entry["advantage"] is not None]
    assert all(entry["kept"] for entry in compared), "with an entropy bonus groups without spread are trained on too"
    for entry in compared:
        row = verdicts[entry["rollout_id"]]
        penalty = 0.5 * min(1, max(0, (row["n_sampled_tokens"] - 32) / 64))
        # Before the first update the policy is its own reference, so the KL takes nothing off.
        assert abs(entry["reward"] - (row["reward"] - penalty)) < 1e-4
    numbers = {
        row["name"]: row["value"] for row in prompt_store.read("metrics", filter="run_id = 'shaped'").to_pylist()
    }
    assert abs(numbers["adv/mean"]) < 3 and numbers["mismatch/masked_frac"] == 0
    assert numbers["train/reward_compared"] < numbers["train/reward"]
    assert {"train/kl_ref", "train/kl_ref_k1", "train/entropy", "train/clip_frac_low"} <= numbers.keys()
