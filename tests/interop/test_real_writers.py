"""Files that the packages themselves write, and what trainers make of exported pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.interop.config import ImportConfig
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import run_import
from rollhouse.queries.session import sql
from rollhouse.store.adding import add_rollouts
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.rollout import Rollout
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.task import Prompt, Task
from rollhouse.tests.interop import samples


@pytest.mark.system
def test_verifiers_reads_exported_episodes_and_what_it_writes_comes_back(tmp_path: Path) -> None:
    episodes = pytest.importorskip("verifiers.v1.episode")
    call = samples.chat_call()
    said = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "3"}, {"role": "assistant", "content": "It is 3."}]  # fmt: skip
    task = Task.of("sums", Prompt((Message("user", "1 + 2?"),), (samples.CHAT_TOOL,)), ground_truth="3")
    store, other = LanceStore.create(tmp_path / "store"), LanceStore.create(tmp_path / "other")
    add_rollouts(store, [Rollout(task=task, messages=said, reward=float(i), sample_index=i) for i in (0, 1)], "r")
    export_file(store, "verifiers", tmp_path / "out.jsonl")
    read = [episodes.WireEpisode.model_validate_json(line) for line in (tmp_path / "out.jsonl").open()]
    assert sorted(one.traces[0].reward for one in read) == [0.0, 1.0] and read[0].traces[0].last_reply == "It is 3."
    file = samples.write_lines(tmp_path / "traces.jsonl", [one.to_record() for one in read])
    summary = run_import(other, None, file, ImportConfig())
    assert (summary.format, summary.added, summary.bad) == ("verifiers", 2, 0)
    query = "select reward, task_id, messages from rollouts order by reward"
    assert sql(other, query).to_pylist() == sql(store, query).to_pylist()


@pytest.mark.system
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_trls_dpo_trainer_takes_exported_pairs(tmp_path: Path, suffix: str) -> None:
    from datasets import load_dataset
    from rollhouse.train.tiny.model import build_model
    from rollhouse.train.tiny.tokenizer import build_tokenizer
    from rollhouse.transform.build import build_dpo
    from rollhouse.transform.export import export_dataset
    from rollhouse.transform.options import DpoOptions
    from trl import __file__ as trl_file
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    def talk(b: int) -> list[dict[str, Any]]:
        call = samples.chat_call() | {"function": {"name": "add", "arguments": json.dumps({"a": 1, "b": b})}}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": str(b)}, {"role": "assistant", "content": f"It is {b}."}]  # fmt: skip

    task = Task.of("sums", Prompt((Message("user", "1 + 2?"),), (samples.CHAT_TOOL,)), ground_truth="3")
    store = LanceStore.create(tmp_path / "store")
    add_rollouts(store, [Rollout(task=task, messages=talk(b), reward=float(b == 3), sample_index=b) for b in (3, 4)], "r")  # fmt: skip
    create_snapshot(store, "s")
    export_dataset(store, build_dpo(store, "pairs", "s", DpoOptions()), "trl", tmp_path / f"pairs.{suffix}")
    reader = {"jsonl": "json", "parquet": "parquet"}[suffix]
    pairs = load_dataset(reader, data_files=str(tmp_path / f"pairs.{suffix}"), split="train", cache_dir=str(tmp_path / "cache"))  # fmt: skip
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (Path(trl_file).parent / "chat_templates" / "qwen2_5.jinja").read_text()
    models = [build_model(len(tokenizer), seed=1) for _ in range(2)]
    arguments = DPOConfig(str(tmp_path / "run"), max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no", max_length=None)  # fmt: skip
    trainer = DPOTrainer(models[0], ref_model=models[1], args=arguments, train_dataset=pairs, processing_class=tokenizer)  # fmt: skip
    prepared: Any = trainer.train_dataset
    prompt, chosen, rejected = (tokenizer.decode(prepared[0][f"{name}_ids"]) for name in ("prompt", "chosen", "rejected"))  # fmt: skip
    assert '"name": "add"' in prompt and prompt.rstrip().endswith("<|im_start|>assistant")
    assert '"arguments": {"a": 1, "b": 3}' in chosen and chosen.rstrip().endswith("It is 3.<|im_end|>")
    assert '"arguments": {"a": 1, "b": 4}' in rejected and rejected.rstrip().endswith("It is 4.<|im_end|>")


def test_options_that_a_format_would_not_follow_are_refused(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    file = samples.verl(tmp_path)
    unused: list[dict[str, Any]] = [{"reward_column": ["acc"]}, {"map": "messages=input"}, {"inputs": "x.jsonl"}]
    for options in unused:
        with pytest.raises(ConfigError, match="has no meaning for verl"):
            run_import(store, "verl", file, ImportConfig(**options))
    assert store.read("rollouts", ["rollout_id"]).num_rows == 0
