"""One run over several environments: which prompts a step takes, what is recorded and measured of each, resume and replay."""

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.collect.runner import collect
from rollhouse.environments.config import EnvironmentSpec
from rollhouse.environments.mixture import open_mixture
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.task import Task
from rollhouse.train.grpo.checks import open_environment
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.mixed_prompts import MixedPrompts
from rollhouse.train.grpo.prompts import curriculum_prompts, drawn_mixture, refuse_bad_query
from rollhouse.train.grpo.replay import replay
from rollhouse.transform.build import build_grpo
from rollhouse.transform.materialize import PromptSet, grpo_tasks
from rollhouse.transform.versions import get_dataset

from .here import train_here

NAMES = ("math", "workplace-mini")
MIXTURE = [
    {
        "name": "workplace-mini",
        "weight": 2,
        "options": {"n_train": 8, "n_validation": 4},
        "limits": {"max_turns": 3},
        "reward": {"penalties": {"turn": 0.01}},
    },
    {"name": "math", "options": {"n_train": 8, "n_validation": 4}, "limits": {"max_turns": 1}},
]


def prompts(n: int, name: str, **options: Any) -> PromptSet:
    made = PromptSet(Task(name, (Message("user", str(i)),), ()) for i in range(n))
    for option, value in options.items():
        setattr(made, option, value)
    return made


# -- which prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "weights", "size"), [((9, 40), (1.0, 3.0), 6), ((30, 30), (1.0, 19.0), 4), ((5, 7), (0.3, 0.2), 5)]
)
def test_each_environment_has_its_share_of_the_steps(sizes: tuple[int, int], weights: tuple[float, float], size: int) -> None:  # fmt: skip
    items = [*prompts(sizes[0], "a"), *prompts(sizes[1], "b")]
    random.Random(0).shuffle(items)
    mixed = MixedPrompts(items, dict(zip("ab", weights, strict=True)), size, seed=3)
    counts: Counter[str] = Counter()
    for step in range(1, 60):
        chosen = mixed.of_step(step)
        assert len(chosen) == len({task.task_id for task in chosen}) == size
        counts.update(task.environment for task in chosen)
        assert abs(counts["a"] - step * size * weights[0] / sum(weights)) <= 1
    again = MixedPrompts(items, dict(zip("ab", weights, strict=True)), size, seed=3)
    assert again.of_step(41) == mixed.of_step(41) and again.of_step(2) == mixed.of_step(2)
    assert MixedPrompts(items, {"a": 1, "b": 1}, size, seed=4).of_step(1) != mixed.of_step(1)


def test_prompts_of_an_environment_come_in_epochs_or_in_the_order_of_their_set() -> None:
    items = [*prompts(8, "a"), *prompts(6, "b")]
    mixed = MixedPrompts(items, {"a": 1, "b": 1}, 4, seed=0)
    taken = [task for step in range(1, 5) for task in mixed.of_step(step) if task.environment == "a"]
    assert len({task.task_id for task in taken}) == 8, "one epoch"
    ordered = PromptSet(items)
    ordered.in_order = True
    mixed = MixedPrompts(ordered, {"a": 1, "b": 1}, 4, seed=0)
    texts = [task.messages[0].text for step in range(1, 7) for task in mixed.of_step(step) if task.environment == "b"]
    assert texts == [str(n % 6) for n in range(12)]
    weighted = PromptSet(items)
    weighted.weights = [0.0, *[1.0] * 13]
    mixed = MixedPrompts(weighted, {"a": 1, "b": 1}, 4, seed=0)
    drawn = Counter(task.task_id for step in range(1, 40) for task in mixed.of_step(step))
    assert items[0].task_id not in drawn and len(drawn) == 13


def test_an_environment_with_few_prompts_gives_all_it_has_and_groups_are_replaced_by_its_own() -> None:
    items = [*prompts(2, "a"), *prompts(30, "b")]
    mixed = MixedPrompts(items, {"a": 1, "b": 1}, 8, seed=0)
    assert Counter(task.environment for task in mixed.of_step(1)) == {"a": 2, "b": 4}
    used = mixed.of_step(1)
    spare = mixed.spare(1, used, {"a": 1, "b": 2})
    assert [task.environment for task in spare] == ["b", "b"] and not {id(task) for task in spare} & {id(task) for task in used}  # fmt: skip


# -- the loop ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_store(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """A store with the prompt set `mixed@1` of both environments."""
    store = LanceStore.create(tmp_path_factory.mktemp("mixture") / "store")
    environment = open_mixture([EnvironmentSpec.model_validate(entry) for entry in MIXTURE])
    with start_run(store, "collect", "script") as run:
        collect(store, run, environment, ScriptedPolicy(mistake_rate=0.5), environment.tasks("train"), num_repeats=4)
    create_snapshot(store, "s1")
    build_grpo(store, "mixed", "s1")
    return store


@pytest.fixture(scope="module")
def configured(mixed_store: LanceStore, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(run: str, steps: int, environment: dict[str, Any], **grpo: Any) -> GrpoConfig:
        return GrpoConfig.model_validate(
            {
                "run": run,
                "dataset": "mixed",
                "policy": {
                    "model_name": str(tiny_base),
                    "max_total_sequence_length": 512,
                    "train_mb_tokens": 2048,
                    "optimizer": {"lr": 1e-4},
                    "generation": {"max_new_tokens": 24, "weight_sync": "file"},
                },
                "grpo": {"num_prompts_per_step": 3, "num_generations_per_prompt": 3, "max_num_steps": steps, **grpo},
                "environment": environment,
                "checkpointing": {"checkpoint_dir": str(folder), "save_period": 1},
            }
        )

    return make


def numbers(store: LanceStore, run: str, step: int) -> dict[str, float]:
    rows = store.read("metrics", ["incarnation", "name", "value"], f"run_id = '{run}' and step = {step}").to_pylist()
    return {row["name"]: row["value"] for row in sorted(rows, key=lambda row: row["incarnation"])}


def test_a_mixture_trains_resumes_and_replays_to_the_same_bits(mixed_store: LanceStore, configured: Any) -> None:
    options = {"val_at_end": True, "max_val_samples": 4}
    train_here(mixed_store, configured("mix", 1, {"mixture": MIXTURE}, **options))
    row = train_here(mixed_store, configured("mix", 2, {"mixture": MIXTURE}, **options))
    columns = ["run_id", "step", "environment", "group_id", "n_turns", "scorer"]
    rollouts = mixed_store.read("rollouts", columns, "run_id = 'mix'").to_pylist()
    assert Counter((row["step"], row["environment"]) for row in rollouts) == {
        (step, name): n for step in (1, 2) for name, n in (("workplace-mini", 6), ("math", 3))
    }
    groups = {row["group_id"]: row["environment"] for row in rollouts}
    assert all(groups[row["group_id"]] == row["environment"] for row in rollouts) and len(groups) == 6
    assert max(row["n_turns"] for row in rollouts if row["environment"] == "math") == 1
    office = [row for row in rollouts if row["environment"] == "workplace-mini"]
    assert max(row["n_turns"] for row in office) <= 3
    assert all(row["scorer"].endswith("+shaped") for row in office if row["scorer"])
    found = numbers(mixed_store, "mix", 2)
    assert {f"train/reward/{name}" for name in NAMES} <= found.keys()
    assert found["rollouts/total/math"] == 3 and found["val/n/math"] + found["val/n/workplace-mini"] == found["val/n"]
    assert {f"val/accuracy/{name}" for name in NAMES} <= found.keys()
    settings = mixed_store.read("batch_plans", ["settings"], "run_id = 'mix'")["settings"].to_pylist()
    assert [json.loads(text)["mixture"] for text in settings] == [{"workplace-mini": 2.0, "math": 1.0}] * 2

    again = replay(mixed_store, "mix")  # takes both steps at once
    assert again.identical is True and again.checkpoint["weights_hash"] == row["weights_hash"]
    assert {f"train/reward/{name}" for name in NAMES} <= numbers(mixed_store, again.replay, 2).keys()


def test_prompts_of_several_environments_need_no_settings(mixed_store: LanceStore, configured: Any) -> None:
    tasks = grpo_tasks(mixed_store, get_dataset(mixed_store, "mixed"))
    environment = open_environment(configured("plain", 1, {}), tasks)
    assert sorted(environment.environments) == list(NAMES)  # type: ignore[attr-defined]
    train_here(mixed_store, configured("plain", 1, {}, num_generations_per_prompt=2))
    rewards = [name for name in numbers(mixed_store, "plain", 1) if name.startswith("train/reward/")]
    environments = set(mixed_store.read("rollouts", ["environment"], "run_id = 'plain'")["environment"].to_pylist())
    assert rewards == [f"train/reward/{name}" for name in sorted(environments)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"mixture": MIXTURE[:1]}, r"belong to math, workplace-mini; .* is workplace-mini\."),
        ({"mixture": [*MIXTURE, {"name": "math"}]}, "'math' stands twice"),
        ({"mixture": MIXTURE, "name": "math"}, "both set"),
        ({"name": "math"}, r"belong to math, workplace-mini; .* is math\."),
        ({"reward": {"scale": 2}}, "is not named"),
    ],
)
def test_environments_that_are_not_those_of_the_prompts_are_refused(
    mixed_store: LanceStore, configured: Any, environment: dict[str, Any], message: str
) -> None:
    tasks = grpo_tasks(mixed_store, get_dataset(mixed_store, "mixed"))
    with pytest.raises(ConfigError, match=message):
        open_environment(configured("refused", 1, environment), tasks)


# -- the curriculum ----------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_query_moves_the_weights(mixed_store: LanceStore, configured: Any, tmp_path: Path) -> None:
    query = tmp_path / "weights.sql"
    query.write_text(
        "select environment, case environment when 'math' then 3 else 1 end as weight from (select distinct environment from tasks)"
        " union all select 'absent', 1"
    )
    tasks = grpo_tasks(mixed_store, get_dataset(mixed_store, "mixed"))
    config = configured(
        "moved", 1, {"mixture": MIXTURE}, curriculum={"query": str(query), "every": 40}, num_prompts_per_step=4
    )
    refuse_bad_query(mixed_store, config, tasks)
    with start_run(mixed_store, "grpo", "moved") as run:
        steps = [curriculum_prompts(run, config, tasks, step) for step in range(1, 31)]
        again = curriculum_prompts(run, config, tasks, 7)
    counts = Counter(task.environment for chosen in steps if chosen for task in chosen.tasks)
    share = counts["math"] / counts.total()
    assert abs(share - 0.75) < 0.06 and {len(chosen.tasks) for chosen in steps if chosen} == {4}
    assert again is not None and steps[6] is not None and again.tasks == steps[6].tasks
    assert again.record["mixture"] == {"math": 3.0, "workplace-mini": 1.0}
    assert (again.metrics["mixture/math"], again.metrics["curriculum/unknown"]) == (0.75, 1)
    query.write_text("select environment, task_id from tasks")
    with pytest.raises(ConfigError, match="returns environment, task_id"):
        refuse_bad_query(mixed_store, config, tasks)


def test_drawn_shares_are_the_weights_on_average() -> None:
    items = [*prompts(9, "a"), *prompts(30, "b"), *prompts(30, "c")]
    draws = [drawn_mixture(items, {"a": 0.1, "b": 2.0, "c": 0.9}, 4, str(seed)) for seed in range(400)]
    counts = Counter(task.environment for drawn in draws for task in drawn)
    assert all(len({task.task_id for task in drawn}) == 4 for drawn in draws)
    for name, share in (("a", 0.1 / 3), ("b", 2 / 3), ("c", 0.3)):
        assert counts[name] / 1600 == pytest.approx(share, abs=0.015)


# -- with a harness ----------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_run_mixes_two_environments_and_an_agent_over_a_third(configured: Any, tmp_path: Path, engine: Any) -> None:
    root = Path(__file__).resolve().parents[3]
    agent = {"name": f"{root / 'tests' / 'harness' / 'agents.py'}:clerk", "runs_in": "thread"}
    desk = {"name": str(root / "examples" / "library_desk.py"), "limits": {"time_limit_s": 300}}
    store = LanceStore.create(tmp_path / "store")
    scripted = open_mixture([EnvironmentSpec.model_validate(entry) for entry in [*MIXTURE, desk]])
    with start_run(store, "collect", "script") as run:
        collect(store, run, scripted, ScriptedPolicy(mistake_rate=0.5), islice(scripted.tasks("train"), 24), num_repeats=4)  # fmt: skip
    create_snapshot(store, "s1")
    build_grpo(store, "mixed", "s1")
    config = configured("three", 2, {"mixture": [*MIXTURE, desk | {"harness": agent}]}, num_prompts_per_step=4)
    row = train_grpo(store, config, engine=engine)
    columns = ["environment", "episode_id", "engine", "extra", "n_sampled_tokens", "status", "prefix_ok"]
    rows = store.read("rollouts", columns, "run_id = 'three'").to_pylist()
    assert {row["engine"] for row in rows} == {"vllm"} and all(row["prefix_ok"] for row in rows)
    episodes = {row["episode_id"]: row["environment"] for row in rows}
    assert Counter(episodes.values()) == {"workplace-mini": 12, "math": 6, "library-desk": 6}
    played = [row for row in rows if row["environment"] == "library-desk"]
    assert all("harness" in json.loads(row["extra"]) and row["n_sampled_tokens"] > 0 for row in played), played
    assert not any("harness" in (row["extra"] or "") for row in rows if row["environment"] != "library-desk")
    found = numbers(store, "three", 2)
    assert {f"rollouts/total/{name}" for name in (*NAMES, "library-desk")} <= found.keys()
    again = replay(store, "three")
    assert again.identical is True and again.checkpoint["weights_hash"] == row["weights_hash"]
