"""Lineage on a store made by hand: scripted collection, a cloned base, SFT, an online run, and the datasets between."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rollhouse.base.errors import StoreNotFound
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.lineage import Node, lineage
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout, task_row


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    store = LanceStore.create(tmp_path_factory.mktemp("lineage") / "store")
    collect(store, "scripted", 4, "scripted", [1.0, 0.0, 1.0, 1.0])
    create_snapshot(store, "raw")
    dataset(store, "demos", "sft", "raw", [("scripted", 0), ("scripted", 2)])
    with start_run(store, "clone", "base"):
        checkpoint(store, "base-ck", "base", "hash-base", None, None)
    with start_run(store, "sft", "sft-run", {"dataset": "demos@1", "model_hash": "hash-base"}):
        checkpoint(store, "sft-ck", "sft-run", "hash-sft", "hash-base", "demos@1")
    collect(store, "base-collect", 2, "hash-base", [0.0, 1.0])
    create_snapshot(store, "sampled")
    dataset(store, "prompts", "grpo", "sampled", [(None, 0)])
    dataset(store, "chosen", "grpo", "sampled", [(None, 0)], recipe='{"runs": ["base-collect"]}')
    with start_run(store, "grpo", "online", {"dataset": ["prompts@1"], "model_hash": "hash-base"}) as run:
        with RolloutWriter(store, run) as writer:
            for i in range(6):
                writer.add(
                    sum_rollout("online", i, step=1 + i // 3, policy_id="online", policy_version=i // 3, engine="vllm")
                )
        checkpoint(store, "grpo-ck", "online", "hash-grpo", "hash-base", "prompts@1")
    collect(store, "after", 1, "hash-grpo", [1.0])
    return store


def collect(store: LanceStore, run_id: str, n: int, policy: str, rewards: list[float]) -> None:
    with start_run(store, "collect", run_id) as run, RolloutWriter(store, run) as writer:
        for i in range(n):
            engine = "scripted" if policy == "scripted" else "vllm"
            writer.add(sum_rollout(run_id, i, policy_id=policy, reward=rewards[i], engine=engine))


def dataset(store: LanceStore, name: str, kind: str, snapshot: str, used: list, recipe: str | None = None) -> None:
    rows = [
        {
            "rollout_id": sum_rollout(run, i).rollout_id if run else None,
            "task_id": task_row()["task_id"],
            "branch": 0,
            "weight": 1.0,
            "role": "demo" if run else "prompt",
            "row": number,
        }
        for number, (run, i) in enumerate(used)
    ]
    row = {"row_id": name, "name": name, "version": 1, "kind": kind, "snapshot": snapshot, "scorer": "collected"}
    append_rows(store, "datasets", [row | {"rows": rows, "n_rows": len(rows), "recipe": recipe}])


def checkpoint(store: LanceStore, id: str, run: str, weights: str, parent: str | None, dataset: str | None) -> None:
    row = {
        "row_id": id,
        "checkpoint_id": id,
        "run_id": run,
        "step": 10,
        "weights_hash": weights,
        "created_at": datetime.now(UTC),
    }
    append_rows(store, "checkpoints", [row | {"parent_hash": parent, "dataset": dataset}])


def kinds(node: Node) -> list:
    """The tree as nested lists of "kind id"."""
    return [f"{node.kind} {node.id}", *(kinds(child) for child in node.children)]


def find(node: Node, kind: str, id: str) -> Node:
    found = [node] if (node.kind, node.id) == (kind, id) else []
    for child in node.children:
        try:
            found.append(find(child, kind, id))
        except LookupError:
            continue
    if not found:
        raise LookupError(f"{kind} {id}")
    return found[0]


def test_from_a_checkpoint_to_the_rollouts_and_their_policy(made: LanceStore) -> None:
    tree = lineage(made, "sft-ck")
    assert kinds(tree) == [
        "checkpoint sft-ck",
        [
            "run sft-run",
            ["dataset demos@1", ["snapshot raw", ["rollouts scripted", ["policy scripted"]]]],
            ["policy hash-base", ["checkpoint base-ck", ["run base"]]],
        ],
    ]
    rollouts = find(tree, "rollouts", "scripted")
    assert rollouts.label == "2 rollouts of collect run scripted, mean reward 1.000"
    assert find(tree, "dataset", "demos@1").label == "sft, 2 rows, scored by collected"


def test_an_online_run_lists_its_own_rollouts_and_does_not_go_round(made: LanceStore) -> None:
    tree = lineage(made, "grpo-ck")
    assert kinds(tree) == [
        "checkpoint grpo-ck",
        [
            "run online",
            [
                "dataset prompts@1",
                [
                    "snapshot sampled",
                    ["rollouts base-collect", ["policy hash-base", ["checkpoint base-ck", ["run base"]]]],
                    ["rollouts scripted", ["policy scripted"]],
                ],
            ],
            ["policy hash-base", ["checkpoint base-ck"]],
            ["rollouts online", ["policy online", ["run online"]]],
        ],
    ]
    own = find(tree, "rollouts", "online")
    assert own.label.startswith("6 rollouts of grpo run online")
    assert own.children[0].label == "vllm, weights of the online run, versions 0 to 1"
    assert own.children[0].children[0].label.endswith("(see above)")


def test_a_set_of_prompts_leads_to_the_runs_its_recipe_names(made: LanceStore) -> None:
    (snapshot,) = lineage(made, "chosen@1").children
    assert [node.id for node in snapshot.children] == ["base-collect"]


def test_a_rollout_leads_to_the_checkpoint_it_was_sampled_from(made: LanceStore) -> None:
    tree = lineage(made, sum_rollout("after", 0).rollout_id)
    assert kinds(tree)[1][:1] == ["policy hash-grpo"]
    assert find(tree, "checkpoint", "grpo-ck").children[0].id == "online"
    assert tree.label == "one rollout of run after, completed, reward 1"


def test_runs_datasets_and_snapshots_have_lineage_too(made: LanceStore) -> None:
    assert find(lineage(made, "sft-run"), "snapshot", "raw")
    assert find(lineage(made, "demos@1"), "policy", "scripted")
    assert find(lineage(made, "sampled"), "rollouts", "base-collect").label.startswith("2 rollouts")


def test_an_unknown_id_names_near_ones(made: LanceStore) -> None:
    with pytest.raises(StoreNotFound) as caught:
        lineage(made, "sft-ckk")
    assert "sft-ck" in caught.value.fix


def test_batches_hold_each_rollout_with_its_advantage(tmp_path: Path) -> None:
    """Run `second` trained on a rollout of its own, two versions old, and on one of `first`; `again` replays it."""
    store = LanceStore.create(tmp_path)
    collect(store, "first", 1, "scripted", [1.0])
    with start_run(store, "grpo", "second") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("second", 0, step=3, policy_id="second", policy_version=0, engine="vllm"))
        writer.flush()
        checkpoint(store, "second-ck", "second", "hash-second", None, None)
    with start_run(store, "replay", "again", {"replay_of": "second"}):
        checkpoint(store, "again-ck", "again", "hash-again", None, None)
    ours, theirs = sum_rollout("second", 0, step=3).rollout_id, sum_rollout("first", 0).rollout_id
    entries = [
        {"rollout_id": ours, "group_id": "g", "reward": 1.0, "advantage": 0.5, "kept": True, "micro_batch": 0},
        {"rollout_id": theirs, "group_id": "h", "reward": 0.0, "advantage": -0.5, "kept": True, "micro_batch": 0},
        {"rollout_id": "gone", "group_id": "h", "reward": None, "kept": False, "reason": "no reward"},
    ]
    for run_id, sources in (("second", ["first", "second"]), ("again", ["first", "second"])):
        plan = {"row_id": run_id, "run_id": run_id, "step": 3, "policy_version": 2, "entries": entries}
        late = {"row_id": f"{run_id}-late", "run_id": run_id, "step": 11, "policy_version": 10, "entries": entries[:1]}
        append_rows(
            store, "batch_plans", [row | {"settings": json.dumps({"rollouts_of": sources})} for row in (plan, late)]
        )
    tree = lineage(store, "again-ck", rollouts=True)
    (batch,) = find(tree, "batches", "again").children
    assert batch.id == "step 3", "step 11 came after the checkpoint, which is of step 10"
    assert batch.label == "2 of 3 rollouts trained on, advantages -0.50 to 0.50, staleness 2, left out: no reward 1"
    found = [tuple(row[key] for key in ("rollout_id", "run_id", "advantage", "kept", "reason", "policy_version", "staleness")) for row in batch.rollouts]  # fmt: skip
    assert found == [
        (ours, "second", 0.5, True, None, 0, 2),
        (theirs, "first", -0.5, True, None, 0, None),
        ("gone", None, None, False, "no reward", None, None),
    ]
    assert find(tree, "run", "second") and find(tree, "rollouts", "first").label.startswith("1 rollout of collect run")
    assert [node.id for node in find(lineage(store, "second"), "batches", "second").children] == ["step 3", "step 11"]
