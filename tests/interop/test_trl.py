"""TRL's columns: a trainer takes a step on them, and files of TRL's own come in."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollhouse.base.errors import FormatError
from rollhouse.collect.runner import collect
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import import_file
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """A store with two scripted rollouts of each of four tasks."""
    store = LanceStore.create(tmp_path_factory.mktemp("trl") / "store")
    environment = MiniEnvironment(seed=0, n_train=4)
    with start_run(store, "collect", "scripted") as run:
        collect(store, run, environment, ScriptedPolicy(0.0), list(environment.tasks("train")), num_repeats=2)
    return store


@pytest.mark.parametrize("kind", ["trl", "trl-messages"])
def test_a_trainer_takes_a_step(office: LanceStore, tmp_path: Path, kind: str) -> None:
    from datasets import load_dataset
    from rollhouse.train.tiny.model import build_model
    from rollhouse.train.tiny.tokenizer import build_tokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    export_file(office, kind, tmp_path / "out.parquet")
    rows = load_dataset(
        "parquet", data_files=str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    tokenizer = build_tokenizer()
    arguments = SFTConfig(str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none", save_strategy="no")  # fmt: skip
    trainer = SFTTrainer(build_model(len(tokenizer), seed=1), arguments, train_dataset=rows, processing_class=tokenizer)
    outcome = trainer.train()
    assert outcome.global_step == 1 and 0 < outcome.training_loss < 20
    prepared: Any = trainer.train_dataset
    text = tokenizer.decode(prepared[0]["input_ids"])
    messages = office.read("rollouts").to_pylist()[0]["messages"]
    assert messages[0]["tool_calls"][0]["name"] in text, "the tool call reaches the model"


def test_columns_of_each_kind(office: LanceStore, tmp_path: Path) -> None:
    def rows(kind: str, **options: Any) -> list[dict[str, Any]]:
        file = tmp_path / f"{kind}.jsonl"
        export_file(office, kind, file, **options)
        return [json.loads(line) for line in file.read_text().splitlines()]

    assert set(rows("trl")[0]) == {"prompt", "completion", "tools", "rollout_id", "run_id", "reward"}
    assert set(rows("trl", plain=True)[0]) == {"prompt", "completion", "tools"}
    assert rows("trl-kto")[0]["label"] is True and len(rows("trl-kto")) == 8
    prompts = rows("trl-prompt")
    assert len(prompts) == 4 and prompts[0]["prompt"][-1]["role"] == "user" and json.loads(prompts[0]["ground_truth"])
    [whole] = [row for row in rows("trl-messages") if row["rollout_id"] == rows("trl")[0]["rollout_id"]]
    assert whole["messages"] == rows("trl")[0]["prompt"] + rows("trl")[0]["completion"]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_what_was_exported_comes_in(office: LanceStore, store: LanceStore, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out.{suffix}"
    summary = export_file(office, "trl", file)
    assert {"environment", "task.ground_truth", "policy_id"} <= set(summary.lost) and "reward" not in summary.lost
    assert import_file(store, "trl", file).added == 8
    assert import_file(store, "trl", file).added == 0
    before, after = ({row["prompt_id"]: row for row in place.read("rollouts").to_pylist()} for place in (office, store))
    assert before.keys() == after.keys()
    for key, row in before.items():
        assert (row["messages"], row["reward"]) == (after[key]["messages"], after[key]["reward"])


def test_trls_own_log_of_completions(store: LanceStore, tmp_path: Path) -> None:
    log = {"step": [7, 7], "prompt": ["1 + 2?", "1 + 2?"], "completion": ["3", "4"], "exact": [1.0, 0.0], "short": [0.5, 0.5], "advantage": [0.7, -0.7]}  # fmt: skip
    pq.write_table(pa.table(log), tmp_path / "completions_00007.parquet")
    assert import_file(store, "trl", tmp_path / "completions_00007.parquet").added == 2
    first, second = sorted(store.read("rollouts").to_pylist(), key=lambda row: -row["reward"])
    assert (first["step"], first["reward"], second["reward"], first["group_id"]) == (7, 1.5, 0.5, second["group_id"])
    assert [part["name"] for part in first["reward_components"]] == ["exact", "short"]
    assert json.loads(first["extra"]) == {"trl": {"advantage": 0.7}}


def test_results_of_verifiers_v0(store: LanceStore, tmp_path: Path) -> None:
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    said = [{"role": "assistant", "content": "3"}]
    row = {"example_id": 4, "prompt": [{"role": "user", "content": "1 + 2?"}], "completion": said, "answer": "3", "tool_defs": [tool], "info": {}}  # fmt: skip
    rows = [{**row, "reward": 1.0, "metrics": {"exact": 1.0}}, {**row, "reward": 0.0, "is_truncated": True}, {**row, "reward": 0.0, "error": "lost"}]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "metadata.json").write_text(json.dumps({"env_id": "sums", "model": "small", "sampling_args": {"temperature": 0.5}}))  # fmt: skip
    assert import_file(store, "verifiers-v0", tmp_path / "results.jsonl").added == 3
    found = sorted(store.read("rollouts").to_pylist(), key=lambda row: row["sample_index"])
    assert [row["status"] for row in found] == ["completed", "truncated", "error"]
    assert [row["sample_index"] for row in found] == [0, 1, 2] and len({row["group_id"] for row in found}) == 1
    assert {(row["environment"], row["policy_id"], row["temperature"]) for row in found} == {("sums", "small", 0.5)}
    assert json.loads(store.read("tasks").to_pylist()[0]["ground_truth"]) == "3"
    assert json.loads(found[0]["extra"])["verifiers-v0"]["example_id"] == 4


def test_parquet_of_others(store: LanceStore, tmp_path: Path) -> None:
    """Only messages and a prompt are needed; a column that we do not know is kept."""
    asked, said = ([{"role": role, "text": text}] for role, text in (("user", "1 + 2?"), ("assistant", "3")))
    pq.write_table(pa.Table.from_pylist([{"prompt": asked, "messages": said, "colour": "red"}] * 2), tmp_path / "a.parquet")  # fmt: skip
    assert import_file(store, "parquet", tmp_path / "a.parquet").added == 2
    assert import_file(store, "parquet", tmp_path / "a.parquet").present == 2
    assert json.loads(store.read("rollouts").to_pylist()[0]["extra"]) == {"parquet": {"colour": "red"}}
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(FormatError, match="not a Parquet file"):
        import_file(store, "parquet", tmp_path / "no.parquet")
