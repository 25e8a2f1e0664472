"""The whole loop through its front door: a prompt set, vLLM, the learner in its actor, and what the store knows afterwards."""

import json
import shutil
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EngineError, RollhouseError, TrainingError
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.models import weights_hash
from rollhouse.store.run_settings import refuse_other_config, run_payload
from rollhouse.store.runs import get_run, start_run
from rollhouse.train.grpo.checks import refuse_what_cannot_run
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.learner.group import LearnerGroup
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.plan import step_settings
from rollhouse.train.grpo.processes import engine_options, gpu_shares
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.versions import get_dataset

from .settings import learner_config

PROMPTS, GROUP = 6, 6  # as `configure` has them


@pytest.fixture(scope="module")
def trained(prompt_store, configure, engine):
    """Two steps, and the progress lines."""
    lines = []
    config = configure(grpo__val_at_end=True, grpo__max_val_samples=6)
    row = train_grpo(prompt_store, config, engine=engine, progress=lambda *line: lines.append(line))
    return row, lines


def rows(store, table, where=None):
    return store.read(table, filter=where).to_pylist()


def metrics(store, run, incarnation=0):
    found = {}
    for row in rows(store, "metrics", f"run_id = '{run}' and incarnation = {incarnation}"):
        found.setdefault(row["step"], {})[row["name"]] = row["value"]
    return found


def test_every_rollout_is_in_the_store_with_the_version_that_sampled_it(prompt_store, trained):
    found = rows(prompt_store, "rollouts", "run_id = 'online'")
    assert len(found) == 2 * PROMPTS * GROUP
    for row in found:
        assert row["policy_id"] == "online" and row["engine"] == "vllm"
        assert row["policy_version"] == row["policy_version_last"] == row["step"] - 1
        assert len(row["logprobs"]) == sum(row["loss_mask"])


def test_plans_and_outcomes_account_for_every_rollout(prompt_store, trained):
    ids = {row["rollout_id"]: row for row in rows(prompt_store, "rollouts", "run_id = 'online'")}
    plans = sorted(rows(prompt_store, "batch_plans", "run_id = 'online'"), key=lambda row: row["step"])
    outcomes = {row["rollout_id"]: row for row in rows(prompt_store, "training_outcomes", "run_id = 'online'")}
    assert [(plan["step"], plan["policy_version"]) for plan in plans] == [(1, 0), (2, 1)]
    entries = [entry for plan in plans for entry in plan["entries"]]
    assert sorted(entry["rollout_id"] for entry in entries) == sorted(ids)
    assert {entry["rollout_id"] for entry in entries if entry["kept"]} == set(outcomes) != set()
    for name, outcome in outcomes.items():
        # The learner sees what the engine sampled from, to float32 rounding.
        assert outcome["trainer_logprobs"] == pytest.approx(ids[name]["logprobs"], abs=1e-3)
        assert len(outcome["entropies"]) == len(outcome["trainer_logprobs"]) and min(outcome["entropies"]) >= 0
        assert outcome["ratio_mean"] == pytest.approx(1, abs=1e-3) and outcome["clipped_share"] == 0
    notes = rows(prompt_store, "run_events", "run_id = 'online' and event = 'note'")
    noted = [note for row in notes if (note := json.loads(row["payload"]).get("issued"))]
    assert {note["step"]: note["policy_version"] for note in noted} == {1: 0, 2: 1}
    tasks = {row["task_id"] for row in ids.values() if row["step"] == 1}
    assert set(json.loads(plans[0]["settings"])["task_ids"]) == tasks


def test_numbers_of_every_step_are_in_the_store(prompt_store, trained):
    found = metrics(prompt_store, "online")
    entropies = [entropy for row in rows(prompt_store, "training_outcomes", "run_id = 'online' and step = 1") for entropy in row["entropies"]]  # fmt: skip
    assert found[1]["train/entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-5)
    for step in (1, 2):
        assert found[step]["mismatch/sync_max_abs"] < 1e-3
        assert found[step]["mismatch/logp_abs_diff"] < 1e-4
        assert found[step]["train/ratio_mean"] == 1
        assert found[step]["rollouts/total"] == PROMPTS * GROUP
        assert {"train/reward", "train/loss", "train/grad_norm", "train/frac_zero_std", "train/entropy"} <= set(
            found[step]
        )
        assert {"len/mean", "len/max", "tokens_per_s", "time/generate", "time/train", "time/sync", "time/step"} <= set(
            found[step]
        )
    assert found[0]["mismatch/sync_max_abs"] < 1e-3
    assert "val/accuracy" in found[2] and "val/accuracy" not in found[1]


def test_validation_is_a_run_of_its_own(prompt_store, trained):
    run = get_run(prompt_store, "online-val-2")
    assert (run["kind"], run["status"], run["summary"]["n"]) == ("eval", "finished", 6)
    assert len(rows(prompt_store, "evaluations", "run_id = 'online-val-2'")) == 6
    assert {row["policy_version"] for row in rows(prompt_store, "rollouts", "run_id = 'online-val-2'")} == {2}


def test_checkpoints_load_and_say_where_they_come_from(prompt_store, trained, tiny_base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    row, lines = trained
    found = sorted(rows(prompt_store, "checkpoints", "run_id = 'online'"), key=lambda row: row["step"])
    assert [checkpoint["step"] for checkpoint in found] == [1, 2]
    assert found[1]["row_id"] == row["row_id"] and row["path"].endswith("online/step_2")
    hashes = {checkpoint["weights_hash"] for checkpoint in found} | {weights_hash(tiny_base)}
    assert len(hashes) == 3 and row["parent_hash"] == weights_hash(tiny_base) and row["dataset"] == "mixed@1"
    assert AutoModelForCausalLM.from_pretrained(row["path"]) and AutoTokenizer.from_pretrained(row["path"])
    run = get_run(prompt_store, "online")
    assert run["config"]["dataset"] == "mixed@1" and run["summary"]["checkpoint"] == row["checkpoint_id"]
    assert [line[:2] for line in lines] == [(1, 2), (2, 2)] and "reward" in lines[0][2]


def test_a_run_started_again_trains_its_stored_steps_to_the_same_bits_and_goes_on(
    prompt_store, trained, configure, engine
):
    row, _ = trained
    before = {r["rollout_id"] for r in rows(prompt_store, "rollouts", "run_id = 'online'")}
    more = {"grpo__max_num_steps": 3, "grpo__val_at_end": True, "grpo__max_val_samples": 6}
    config = configure(**more, checkpointing__save_optimizer=False)
    shutil.rmtree(Path(row["path"]).with_name("state_2"))
    train_grpo(prompt_store, config, engine=engine)
    after = {r["rollout_id"]: r["step"] for r in rows(prompt_store, "rollouts", "run_id = 'online'")}
    assert {step for name, step in after.items() if name not in before} == {3}
    assert len(after) == len(before) + PROMPTS * GROUP
    again = rows(prompt_store, "checkpoints", "run_id = 'online' and incarnation = 1")
    assert [c["weights_hash"] for c in again if c["step"] == 2] == [row["weights_hash"]]
    assert (
        metrics(prompt_store, "online", incarnation=1)[2]["train/loss"]
        == metrics(prompt_store, "online")[2]["train/loss"]
    )
    resumed = metrics(prompt_store, "online", incarnation=1)
    assert "tokens_per_s" in resumed[3] and "tokens_per_s" not in resumed[2], "nothing was sampled for it this time"
    assert train_grpo(prompt_store, config)["checkpoint_id"] == "online/step_3"
    fewer, said = configure(**more | {"grpo__max_num_steps": 2}), []
    kept = train_grpo(prompt_store, fewer, progress=lambda *line: said.append(line[2]))
    assert kept["checkpoint_id"] == "online/step_3" and "was trained before for 3 steps" in said[0]
    assert get_run(prompt_store, "online")["incarnation"] == 1, "all its steps are taken: it was not started again"


def test_a_run_does_not_go_on_with_other_settings(prompt_store, trained, configure, engine):
    before = {"grpo__val_at_end": True, "grpo__max_val_samples": 6, "grpo__max_num_steps": 4}
    for setting, value in {
        "policy.optimizer__lr": 2e-4,
        "grpo__num_generations_per_prompt": 4,
        "policy.generation__max_new_tokens": 32,
        "policy__max_total_sequence_length": 400,
        "environment__max_turns": 3,
    }.items():
        name = setting.replace("__", ".").replace(".", r"\.")
        with pytest.raises(ConfigError, match=f"'online' exists with a different configuration: {name} is"):
            train_grpo(prompt_store, configure(**{**before, setting: value}), engine=engine)


@pytest.mark.system
def test_sequences_end_at_the_limit_and_rollouts_at_their_time(prompt_store, trained, configure, engine):
    """The suite's engine has room for more; the handle that the run takes has not."""
    longest = max(row["n_prompt_tokens"] for row in rows(prompt_store, "rollouts", "run_id = 'online' and step = 1"))
    limit = longest + 40
    small = {"grpo__max_num_steps": 1, "policy__max_total_sequence_length": limit}
    train_grpo(prompt_store, configure(run="short", **small, **{"policy.generation__concurrency": 5}))
    found = rows(prompt_store, "rollouts", "run_id = 'short'")
    assert max(row["n_prompt_tokens"] + row["n_tokens"] - row["loss_mask"][::-1].index(1) for row in found) <= limit
    assert "length" in {row["stop_reason"] for row in found}

    train_grpo(prompt_store, configure(run="hasty", **small, **{"policy.generation__time_limit_s": 0.001}))
    assert {row["status"] for row in rows(prompt_store, "rollouts", "run_id = 'hasty'")} == {"timeout"}


def test_a_chat_template_that_drops_turns_is_refused_before_the_run(prompt_store, configure, engine, tmp_path) -> None:
    (tmp_path / "drops.jinja").write_text("{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}")
    config = configure(run="dropping", **{"policy.chat__template": str(tmp_path / "drops.jinja")})
    with pytest.raises(ConfigError, match="drops a conversation's last assistant message"):
        train_grpo(prompt_store, config, engine=engine)
    assert prompt_store.read("run_events", filter="run_id = 'dropping'").num_rows == 0


def test_no_gpu_for_the_learner_is_said_at_once(prompt_store, configure, engine):
    with pytest.raises(ConfigError, match="not enough GPUs for the learner"):
        exact = {"policy.generation__vllm": {"dtype": "float32"}}
        train_grpo(prompt_store, configure(run="large", policy__device="cuda", **exact))
    with pytest.raises(EngineError, match=r"no GPU for the learner: it needs 0\.5, 0 of 0 are free"):
        LearnerGroup("unused", learner_config(device="cuda"), num_gpus=0.5)


@pytest.mark.parametrize(
    ("gpus", "device", "shares"),
    [(0, "cpu", (0, 0)), (1, "cpu", (1, 0)), (1, "cuda", (0.5, 0.5)), (2, "cuda", (1, 1)), (8, "cuda", (1, 1))],
)
def test_engine_and_learner_share_a_gpu_that_is_alone(gpus, device, shares, configure):
    assert gpu_shares(gpus, device) == shares
    options = engine_options(
        configure(policy__device=device, **{"policy.generation__vllm": {"dtype": "float32"}}), gpus
    )
    assert options["num_gpus"] == shares[0] and options["dtype"] == "float32"
    assert ("gpu_memory_utilization" in options) == (shares[0] == 0.5)


@pytest.mark.parametrize(
    ("gpus", "sizes", "shares"),
    [
        (8, (4, 4), (1, 1)),
        (8, (2, 4, 2), (2, 1)),
        (3, (1, 1, 2), (2, 1)),
        (2, (1, 1, 2), "1 engines over 2 GPUs each and 1 learner ranks need 3, the Ray cluster has 2"),
        (4, (4, 4), (0.5, 0.5)),
        (3, (4, 4), "need 4"),
    ],
)
def test_an_engine_over_several_gpus_shares_none_of_them(gpus, sizes, shares):
    if isinstance(shares, str):
        with pytest.raises(ConfigError, match=shares):
            gpu_shares(gpus, "cuda", *sizes)
    else:
        assert gpu_shares(gpus, "cuda", *sizes) == shares


def test_an_engine_that_is_not_the_learner_stops_the_run(prompt_store, configure, engine):
    config = configure(run="strict", **{"policy.generation__sync_tolerance": 1e-12})
    with pytest.raises(EngineError, match="step 0 "):
        train_grpo(prompt_store, config, engine=engine)
    assert get_run(prompt_store, "strict")["status"] == "failed"
    assert not rows(prompt_store, "rollouts", "run_id = 'strict'"), "something was sampled"


def test_a_run_that_ran_out_of_memory_may_go_on_with_what_lowers_it(prompt_store, configure):
    before = configure(run="narrow")
    with start_run(prompt_store, "grpo", "narrow", run_payload(before)):
        pass
    less = configure(run="narrow", policy__activation_checkpointing=True, policy__logprob_chunk_tokens=64)
    refuse_other_config(prompt_store, "narrow", GrpoConfig, run_payload(less))
    assert step_settings(less, "", []) == step_settings(before, "", []), "its stored plans can still be trained"
    for setting in ({"policy__train_mb_tokens": 512}, {"policy.generation__vllm": {"gpu_memory_utilization": 0.3}}):
        other = configure(run="narrow", **setting)
        refuse_other_config(prompt_store, "narrow", GrpoConfig, run_payload(other))
    with pytest.raises(ConfigError, match="max_num_seqs is not set in the run"):
        other = configure(run="narrow", **{"policy.generation__vllm": {"max_num_seqs": 4}})
        refuse_other_config(prompt_store, "narrow", GrpoConfig, run_payload(other))


@pytest.mark.system
def test_a_learner_that_does_not_answer_in_time_ends_the_run(prompt_store, configure, engine):
    with pytest.raises(TrainingError, match=r"in 0.001 s\..*cluster.step_timeout_s"):
        train_grpo(prompt_store, configure(run="late", cluster__step_timeout_s=0.001), engine=engine)


def test_a_step_without_a_lesson_changes_nothing(prompt_store, configure, engine, tiny_base):
    config = configure(run="alone", grpo__num_generations_per_prompt=2, grpo__max_num_steps=1, **{"policy.generation__max_new_tokens": 1})  # fmt: skip
    row = train_grpo(prompt_store, config, engine=engine)
    assert row["weights_hash"] == weights_hash(tiny_base)
    (plan,) = rows(prompt_store, "batch_plans", "run_id = 'alone'")
    assert {entry["reason"] for entry in plan["entries"]} == {"zero_std"}
    numbers = metrics(prompt_store, "alone")[1]
    assert "train/loss" not in numbers and numbers["train/frac_zero_std"] == 1 and numbers["groups/kept"] == 0


def test_an_environment_that_is_not_the_prompts_own_is_refused(prompt_store, configure, engine):
    with pytest.raises(ConfigError, match="workplace-mini"):
        train_grpo(prompt_store, configure(environment__name="workplace"), engine=engine)


def test_a_run_that_is_good_enough_ends_and_is_left_alone(prompt_store, configure, engine):
    good = {"grpo__val_period": 1, "grpo__max_val_samples": 2, "grpo.early_stop__target": 0.0}
    row = train_grpo(prompt_store, configure(run="good", grpo__max_num_steps=5, **good), engine=engine)
    assert row["checkpoint_id"] == "good/step_1"
    assert "the target is 0" in get_run(prompt_store, "good")["summary"]["stopped"]
    assert train_grpo(prompt_store, configure(run="good", grpo__max_num_steps=5, **good))["row_id"] == row["row_id"]


def test_what_cannot_go_well_is_said_before_the_run(prompt_store, configure, engine):
    class NoValidation(MiniEnvironment):
        def tasks(self, split):
            return super().tasks(split) if split == "train" else iter(())

    for changes, said in (
        ({"policy__max_total_sequence_length": 60}, r"prompts of mixed fill policy.max_total_sequence_length \(60\)"),
        ({"policy.generation__vllm": {"dtype": "bfloat16"}}, "engine computes .* policy.generation.sync_tolerance"),
        ({"policy__device": "cuda"}, "engine computes .* policy.generation.sync_tolerance"),
        ({"policy__precision": "bfloat16"}, "learner computes .* policy.generation.sync_tolerance"),
        ({"grpo.curriculum__query": "no_such_query"}, "no_such_query"),
        ({"grpo__num_generations_per_prompt": 1}, "nothing to be compared with"),
        ({"policy__max_total_sequence_length": 4096}, "=4096 is more than the model's context of 2048 tokens"),
    ):
        with pytest.raises(RollhouseError, match=said):
            train_grpo(prompt_store, configure(run="refused", **changes), engine=engine)
    tasks = grpo_tasks(prompt_store, get_dataset(prompt_store, "mixed"))
    config = configure(grpo__val_at_end=True)
    with pytest.raises(ConfigError, match="no task in split 'validation'"):
        refuse_what_cannot_run(prompt_store, config, NoValidation(n_train=24), tasks, ChatFormat.of(config.policy.model_name), None)  # fmt: skip
    assert prompt_store.read("run_events", filter="run_id = 'refused'").num_rows == 0
