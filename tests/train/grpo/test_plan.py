"""Plans: who is trained on, who is left out and why, and that a stored plan gives the batch back. Edge cases are numbered as in docs/grpo-algorithms.md."""

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import TrainingError
from rollhouse.store.appending import append_rows
from rollhouse.store.ids import hash_id
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.update import Outcome
from rollhouse.train.grpo.ledger import commit_outcomes, commit_plan, read_batch, read_rollouts, stored_plan
from rollhouse.train.grpo.metrics import plan_metrics, rollout_metrics
from rollhouse.train.grpo.plan import PLANNED_COLUMNS, groups_with_spread, make_plan

from .settings import grpo_config

OPTIONS = grpo_config(policy__train_mb_tokens=64, grpo__seed=3)


def rollout(group, index, reward, **changes):
    """A rollout row of run `r`, step 1, with 4 prompt tokens and 6 more, of which 4 were sampled."""
    slot = hash_id(group, index)
    row = {
        "rollout_id": hash_id(slot, changes.get("attempt", 0)),
        "slot_id": slot,
        "run_id": "r",
        "step": 1,
        "attempt": 0,
        "sample_index": index,
        "task_id": f"task {group}",
        "prompt_id": f"prompt {group}",
        "group_id": group,
        "environment": "made-up",
        "status": "completed",
        "reward": reward,
        "passed": reward is not None and reward >= 1,
        "prefix_ok": True,
        "tokenizer_hash": "t",
        "template_hash": "c",
        "token_ids": [5, 6, 7, 8, 9, index],
        "loss_mask": [1, 1, 0, 0, 1, 1],
        "logprobs": [-0.5, -1.0, -1.5, -0.25 * (index + 1)],
        "n_prompt_tokens": 4,
        "n_tokens": 6,
        "n_sampled_tokens": 4,
        "n_turns": 2,
        "n_tool_calls": 1,
        "n_tool_errors": 0,
        "n_parse_failures": 0,
    }
    return {**{name: None for name in PLANNED_COLUMNS}, **row, **changes}


def plan_of(rows, options=OPTIONS, kl=None):
    return make_plan("r", 1, rows, options, settings={"algorithm": "grpo"}, kl=kl)


def by_id(plan):
    return {entry.rollout_id: entry for entry in plan.entries}


def test_left_out_rollouts_have_a_reason_and_failures_no_part_in_the_statistics():
    rows = [rollout("a", i, reward) for i, reward in enumerate([1.0, 0.0, 0.0, 1.0])]
    rows += [
        rollout("a", 4, None, status="error", error_type="engine"),
        rollout("a", 5, None),
        rollout("a", 6, 0.0, status="timeout", error_type="timeout"),
    ]
    entries = by_id(plan_of(rows))
    reasons = [entries[row["rollout_id"]].reason for row in rows]
    assert reasons == [None] * 4 + ["error: engine", "no reward", "timeout: timeout"]
    advantages = [entries[row["rollout_id"]].advantage for row in rows]
    expected = 0.5 / statistics.stdev([1, 0, 0, 1])
    assert advantages[:4] == pytest.approx([expected, -expected, -expected, expected], rel=1e-5)
    assert advantages[4:] == [None] * 3


def test_a_reward_counts_even_where_the_tokens_cannot_be_trained_on():
    rows = [
        rollout("a", 0, 1.0),
        rollout("a", 1, 0.0, logprobs=[-0.5, -math.inf, -1.0, -1.0]),
        rollout("a", 2, 0.0, prefix_ok=False),
        rollout("a", 3, 0.0, n_sampled_tokens=0, logprobs=[]),
    ]
    entries = [by_id(plan_of(rows))[row["rollout_id"]] for row in rows]
    assert [entry.kept for entry in entries] == [True, False, False, False]
    assert [entry.reason for entry in entries[1:]] == [
        "a logprob is not finite",
        "a prompt did not begin with the tokens before it",
        "no sampled tokens",
    ]
    assert [entry.advantage for entry in entries] == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)


def test_edge_1_groups_without_spread_are_left_out_with_advantage_exactly_zero():
    rows = [rollout("a", i, 1.0) for i in range(3)] + [rollout("b", 0, 1.0), rollout("c", 0, 1.0), rollout("c", 1, 0.0)]
    plan = plan_of(rows)
    entries = by_id(plan)
    assert [entries[row["rollout_id"]].reason for row in rows] == ["zero_std"] * 3 + ["alone in its group", None, None]
    assert [entries[row["rollout_id"]].advantage for row in rows[:4]] == [0.0] * 4
    numbers = plan_metrics(plan)
    assert numbers["train/frac_zero_std"] == pytest.approx(2 / 3)
    assert (numbers["groups/total"], numbers["groups/kept"], numbers["groups/dropped"]) == (3, 1, 2)
    assert numbers["groups/alone"] == 1


def test_truncated_rollouts_are_trained_on_unless_filtered():
    rows = [rollout("a", 0, 1.0), rollout("a", 1, 0.0, status="truncated"), rollout("a", 2, 0.0)]
    cut = rows[1]["rollout_id"]
    assert by_id(plan_of(rows))[cut].kept
    filtered = by_id(plan_of(rows, grpo_config(OPTIONS, grpo__overlong_filtering=True)))
    assert filtered[cut].reason == "truncated"
    assert filtered[rows[0]["rollout_id"]].advantage == pytest.approx(2 / 3 / statistics.stdev([1, 0, 0]), rel=1e-5)
    assert rollout_metrics(rows)["truncation_rate"] == pytest.approx(1 / 3)


def test_only_the_last_attempt_of_a_slot_counts():
    failed = rollout("a", 0, None, status="error", error_type="engine")
    rows = [rollout("a", 0, 1.0, attempt=1), failed, rollout("a", 1, 0.0)]
    entries = by_id(plan_of(rows))
    assert entries[failed["rollout_id"]].reason == "a later attempt took its place"
    assert entries[rows[0]["rollout_id"]].kept and entries[rows[2]["rollout_id"]].kept


def episode(group, index, reward, n_rows, attempt=0, **changes):
    """The rows of one episode: branches 0, 1, … of one slot and attempt."""
    rows = [
        rollout(group, index, reward, attempt=attempt, branch=branch, agent="main", trainable=True, **changes)
        for branch in range(n_rows)
    ]
    for row in rows[1:]:
        row["rollout_id"] = hash_id(row["rollout_id"], row["branch"])
    return [row | {"episode_id": rows[0]["rollout_id"]} for row in rows]


def test_an_episode_has_one_reward_and_one_advantage_however_many_rows_it_has():
    one_row = [rollout("a", index, reward) for index, reward in enumerate([1.0, 0.0, 0.0])]
    many = [*episode("a", 0, 1.0, 5), *episode("a", 1, 0.0, 1), *episode("a", 2, 0.0, 2)]
    expected = [entry.advantage for entry in by_id(plan_of(one_row)).values()]
    plan = plan_of(many[::-1])
    entries = by_id(plan)
    assert len(entries) == 8 and all(entry.kept for entry in entries.values())
    assert [entries[row["rollout_id"]].advantage for row in many] == [expected[0]] * 5 + [expected[1]] * 3
    assert groups_with_spread(many) == {"a"} and groups_with_spread(episode("a", 0, 1.0, 5)) == set()


def test_rows_of_a_replaced_attempt_retries_and_other_agents_are_left_out_with_their_reasons():
    first, second = episode("a", 0, 0.0, 3), episode("a", 0, 1.0, 2, attempt=1)
    second[1] |= {"trainable": False, "gaps": ["retry"]}
    other = episode("a", 1, 0.0, 2)
    other[1] |= {"trainable": False, "agent": "searcher"}
    entries = by_id(plan_of([*first, *second, *other]))
    reasons = [entries[row["rollout_id"]].reason for row in (*first, *second, *other)]
    assert reasons == ["a later attempt took its place"] * 3 + [
        None,
        "a retry whose answer was not used",
        None,
        "not the agent being trained",
    ]


def test_edge_5_a_rollout_of_tool_results_only_counts_in_its_group_and_is_not_trained_on():
    rows = [rollout("a", 0, 1.0), rollout("a", 1, 0.0, loss_mask=[0] * 6, logprobs=[], n_sampled_tokens=0)]
    entries = [by_id(plan_of(rows))[row["rollout_id"]] for row in rows]
    assert entries[0].kept and not entries[1].kept
    assert entries[0].advantage == pytest.approx(0.5**0.5, rel=1e-5)


def test_edge_5_a_rollout_cut_inside_a_tool_call_is_trained_on_and_may_be_punished():
    rows = [rollout("a", 0, 1.0), rollout("a", 1, 1.0, status="truncated", stop_reason="length", n_parse_failures=1)]
    cut = rows[1]["rollout_id"]
    assert by_id(plan_of(rows))[cut].reason == "zero_std"
    entry = by_id(plan_of(rows, grpo_config(OPTIONS, grpo__reward_shaping={"invalid_tool_call_penalty": 0.5})))[cut]
    assert entry.kept and entry.reward == 0.5 and (entry.advantage or 0) < 0


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_edge_6_a_logprob_that_is_not_finite_drops_the_rollout_with_a_reason(bad):
    rows = [rollout("a", 0, 1.0, logprobs=[-1.0, bad, -1.0, -1.0]), rollout("a", 1, 0.0)]
    assert by_id(plan_of(rows))[rows[0]["rollout_id"]].reason == "a logprob is not finite"


def test_edge_8_groups_without_spread_are_trained_on_where_the_loss_has_more_terms():
    rows = [rollout("a", i, 1.0) for i in range(3)] + [rollout("b", 0, 1.0)]
    plan = plan_of(rows, grpo_config(OPTIONS, loss_fn__entropy_bonus=0.1))
    assert all(entry.kept and entry.advantage == 0.0 for entry in plan.entries)
    assert plan_metrics(plan)["train/frac_zero_std"] == 1.0


def test_edge_11_a_rollout_whose_prompts_were_tokenised_anew_is_flagged_and_not_trained_on():
    rows = [rollout("a", 0, 1.0, prefix_ok=False), rollout("a", 1, 0.0)]
    entry = by_id(plan_of(rows))[rows[0]["rollout_id"]]
    assert entry.reason == "a prompt did not begin with the tokens before it" and entry.advantage is not None


def test_the_reward_of_an_entry_is_what_was_compared():
    shaping = {"overlong_buffer_length": 4, "overlong_buffer_penalty": 1.0, "max_response_length": 6}
    rows = [rollout("a", 0, 1.0, n_sampled_tokens=2), rollout("a", 1, 1.0, n_sampled_tokens=4)]
    entries = by_id(plan_of(rows, grpo_config(OPTIONS, grpo__normalize_rewards=False, grpo__reward_shaping=shaping)))
    found = [entries[row["rollout_id"]] for row in rows]
    assert [entry.reward for entry in found] == [1.0, 0.5]
    assert [entry.advantage for entry in found] == [0.25, -0.25]


def test_dynamic_sampling_looks_at_rewards_before_shaping():
    shaping = {"overlong_buffer_length": 4, "overlong_buffer_penalty": 1.0, "max_response_length": 6}
    rows = [rollout("a", i, 1.0, n_sampled_tokens=2 + i) for i in range(3)] + [
        rollout("b", i, float(i)) for i in (0, 1)
    ]
    rows += [rollout("c", 0, 1.0), rollout("c", 1, None, status="error"), rollout("c", 1, 0.0, attempt=1)]
    assert groups_with_spread(rows) == {"b", "c"}
    options = grpo_config(OPTIONS, grpo__reward_shaping=shaping)
    assert {entry.group_id for entry in plan_of(rows, options).entries if entry.kept} == {"a", "b", "c"}
    plan = plan_of(rows, grpo_config(options, grpo__use_dynamic_sampling=True))
    assert {entry.group_id for entry in plan.entries if entry.kept} == {"b", "c"}
    assert {entry.reason for entry in plan.entries if entry.group_id == "a"} == {"zero_std"}
    assert plan_metrics(plan)["train/frac_zero_std"] == pytest.approx(1 / 3)


def test_kl_in_the_reward_is_known_of_all_that_can_be_trained_on():
    options = grpo_config(
        OPTIONS, grpo__normalize_rewards=False, loss_fn__use_kl_in_reward=True, loss_fn__reference_policy_kl_penalty=0.1
    )
    rows = [
        rollout("a", 0, 1.0),
        rollout("a", 1, 1.0),
        rollout("a", 2, 1.0, prefix_ok=False),
        rollout("a", 3, None, status="error"),
    ]
    kl = {rows[0]["rollout_id"]: 3.0, rows[1]["rollout_id"]: -3.0}
    entries = by_id(plan_of(rows, options, kl))
    assert [entries[row["rollout_id"]].reward for row in rows] == [
        pytest.approx(r) if r else None for r in (0.7, 1.3, 1.0, None)
    ]
    assert [entries[row["rollout_id"]].advantage for row in rows[:2]] == pytest.approx([-0.3, 0.3])
    with pytest.raises(ValueError, match=rows[1]["rollout_id"]):
        plan_of(rows, options, {rows[0]["rollout_id"]: 3.0})
    with pytest.raises(ValueError, match="KL"):
        plan_of(rows, options)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_kl_that_is_not_finite_costs_its_rollout_only(bad):
    options = grpo_config(
        OPTIONS, grpo__normalize_rewards=False, loss_fn__use_kl_in_reward=True, loss_fn__reference_policy_kl_penalty=0.1
    )
    rows = [rollout("a", i, float(i)) for i in range(3)]
    entries = by_id(
        plan_of(rows, options, {row["rollout_id"]: kl for row, kl in zip(rows, (0.0, 0.0, bad), strict=True)})
    )
    found = [entries[row["rollout_id"]] for row in rows]
    assert [entry.advantage for entry in found] == [-0.5, 0.5, None]
    assert [entry.reason for entry in found] == [None, None, "its KL is not finite"]


def test_whitening_is_over_the_tokens_that_are_trained_on():
    rows = [rollout("a", 0, 1.0, n_sampled_tokens=9), rollout("a", 1, 0.0), rollout("a", 2, 0.0, status="truncated")]
    rows += [rollout("flat", i, 1.0, n_sampled_tokens=50) for i in range(2)]
    options = grpo_config(
        OPTIONS, grpo__normalize_rewards=False, grpo__whiten_advantages=True, grpo__overlong_filtering=True
    )
    plan = plan_of(rows, options)
    tokens = [2 / 3] * 9 + [-1 / 3] * 4
    expected = [(value - statistics.fmean(tokens)) / statistics.pstdev(tokens) for value in (2 / 3, -1 / 3)]
    found = [by_id(plan)[row["rollout_id"]] for row in rows]
    assert [entry.advantage for entry in found[:2]] == pytest.approx(expected, rel=1e-6)
    assert [entry.advantage for entry in found[3:]] == [0.0, 0.0]
    assert [entry.reason for entry in found] == [None, None, "truncated", "zero_std", "zero_std"]


REWARDS = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]))


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), REWARDS, st.integers(1, 40)), max_size=20),
    st.randoms(use_true_random=False),
)
def test_a_plan_accounts_for_every_rollout_and_not_for_their_order(rolls, rng):
    rows = [rollout(group, i, reward, n_tokens=n) for i, (group, reward, n) in enumerate(rolls)]
    plan = plan_of(rows)
    assert sorted(entry.rollout_id for entry in plan.entries) == sorted(row["rollout_id"] for row in rows)
    for entry in plan.entries:
        assert entry.kept == (entry.reason is None) == (entry.micro_batch is not None)
    numbers = [entry.micro_batch for entry in plan.entries if entry.micro_batch is not None]
    assert numbers == sorted(numbers)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert plan_of(shuffled).entries == plan.entries


FAILURES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["error", "timeout", "aborted"]),
        st.one_of(st.none(), st.sampled_from([0.0, 1.0, math.nan])),
    ),
    max_size=6,
)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])), max_size=12),
    FAILURES,
    st.booleans(),
    st.booleans(),
)
def test_failed_attempts_never_enter_statistics(rolls, failures, whiten, again):
    """Failures of other slots, and of the same slots before they succeeded, change no advantage, and none is trained on."""
    options = grpo_config(
        OPTIONS,
        grpo__whiten_advantages=whiten,
        grpo__reward_shaping={"overlong_buffer_length": 2, "max_response_length": 5},
    )
    rows = [rollout(group, i, reward, attempt=1, n_sampled_tokens=1 + i % 6) for i, (group, reward) in enumerate(rolls)]
    failed = [
        rollout(group, i if again else 100 + i, reward, status=status, error_type="engine")
        for i, (group, status, reward) in enumerate(failures)
    ]
    before, after = by_id(plan_of(rows, options)), by_id(plan_of([*failed, *rows], options))
    for row in rows:
        old, new = before[row["rollout_id"]], after[row["rollout_id"]]
        assert (new.reward, new.advantage, new.kept, new.reason) == (old.reward, old.advantage, old.kept, old.reason)
    for row in failed:
        assert not after[row["rollout_id"]].kept and after[row["rollout_id"]].advantage is None


@pytest.fixture
def store_with_rollouts(tmp_path):
    store = LanceStore.create(tmp_path / "store")
    rows = [rollout(group, i, float(i % 3 == 0)) for group in ("a", "b") for i in range(5)]
    rows.append(rollout("a", 9, None, status="error", error_type="tool"))
    append_rows(store, "rollouts", rows)
    prompts = [
        {"row_id": hash_id(f"prompt {g}", "t", "c"), "prompt_id": f"prompt {g}", "token_ids": [1, 2, 3, n]}
        for n, g in enumerate("ab")
    ]
    append_rows(store, "prompt_tokens", prompts)
    return store


def test_the_batch_of_a_stored_plan_is_the_batch_of_the_plan(store_with_rollouts):
    store = store_with_rollouts
    plan = make_plan("r", 1, read_rollouts(store, "r", 1), OPTIONS, settings={"lr": 0.1})
    commit_plan(store, plan)
    commit_plan(store, plan)
    assert store.read("batch_plans").num_rows == 1
    again = stored_plan(store, "r", 1)
    assert again is not None and again == plan
    assert stored_plan(store, "r", 2) is None

    samples, micro_batches = read_batch(store, again)
    assert sorted(i for batch in micro_batches for i in batch) == list(range(10))
    assert all(len(batch) * 10 <= OPTIONS.policy.train_mb_tokens for batch in micro_batches)
    assert [sample.rollout_id for sample in samples] == [entry.rollout_id for entry in plan.entries if entry.kept]
    row = next(row for row in store.read("rollouts").to_pylist() if row["rollout_id"] == samples[0].rollout_id)
    prompt = [1, 2, 3, "ab".index(row["group_id"])]
    advantage = by_id(plan)[row["rollout_id"]].advantage
    assert advantage is not None
    assert samples[0] == TrainSample(
        row["rollout_id"], prompt, row["token_ids"], row["loss_mask"], row["logprobs"], advantage
    )


def test_a_plan_whose_rollouts_are_gone_names_one(store_with_rollouts):
    store = store_with_rollouts
    plan = make_plan("r", 1, read_rollouts(store, "r", 1), OPTIONS, settings={})
    lost = random.Random(0).choice([entry for entry in plan.entries if entry.kept]).rollout_id
    store.lance_dataset("rollouts").delete(f"rollout_id = '{lost}'")
    with pytest.raises(TrainingError, match=lost):
        read_batch(store, plan)


def test_a_plan_that_keeps_nothing_is_an_empty_batch(store_with_rollouts):
    plan = make_plan("r", 1, [rollout("a", 0, 1.0)], OPTIONS, settings={})
    assert read_batch(store_with_rollouts, plan) == ([], [])


def test_outcomes_belong_to_an_incarnation(store_with_rollouts):
    store = store_with_rollouts
    for _ in range(2):
        with start_run(store, "grpo", "r") as run:
            commit_outcomes(store, run, 1, [Outcome("x", [-0.5, -1.0], 1.01, 0.25)])
    rows = sorted(store.read("training_outcomes").to_pylist(), key=lambda row: row["incarnation"])
    assert [row["incarnation"] for row in rows] == [0, 1]
    assert rows[0]["trainer_logprobs"] == [-0.5, -1.0] and rows[0]["clipped_share"] == 0.25


def test_the_rows_of_an_episode_share_its_weight_by_their_tokens(store_with_rollouts):
    rows = [*episode("a", 20, 1.0, 2), rollout("a", 21, 0.0)]
    rows[1] |= {"token_ids": [5, 6], "loss_mask": [1, 1], "logprobs": [-1.0] * 2, "n_tokens": 2, "n_sampled_tokens": 2}
    append_rows(store_with_rollouts, "rollouts", rows)
    samples, _ = read_batch(store_with_rollouts, plan_of(rows))
    shares = {sample.rollout_id: sample.share for sample in samples}
    assert [shares[row["rollout_id"]] for row in rows] == [4 / 6, 2 / 6, 1.0]


def test_penalties_of_an_environment_are_no_spread_for_dynamic_sampling():
    def shaped(group, index, raw, reward):
        parts = [{"name": "raw", "value": raw, "weight": 0.0}, {"name": "penalty/turn", "value": 2.0, "weight": -0.01}]
        return rollout(group, index, reward, scorer="office+shaped", reward_components=parts)

    rows = [shaped("a", i, 0.0, -0.01 * i) for i in range(3)] + [shaped("b", i, float(i), i - 0.02) for i in range(2)]
    assert groups_with_spread(rows) == {"b"}
