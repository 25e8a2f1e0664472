"""What SFT and DPO share: adapters, rows held out, the checkpoints that stay, going on after an interruption, and training again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.policies.models import weights_hash
from rollhouse.store.lance_store import quote
from rollhouse.store.runs import list_runs, start_run
from rollhouse.tests.train.test_sft import config
from rollhouse.train.checkpoints import find_checkpoint, resolve_model
from rollhouse.train.reproduce import reproduce
from rollhouse.train.row_files import write_rows
from rollhouse.train.sft import train_sft
from rollhouse.transform.build import build_sft
from typer.testing import CliRunner

EVERY_STEP = ("checkpointing.save_period=1",)
HELD_OUT = ("validation.share=0.4",)


class Stop(Exception):
    """Stands for whatever ends a process between two steps."""


def stop_at(step: int):
    def on_step(at: int, steps: int, note: str) -> None:
        if at == step:
            raise Stop

    return on_step


def steps_of(row: dict) -> list[str]:
    return sorted(path.name for path in Path(row["path"]).parent.iterdir())


def test_an_interrupted_run_goes_on_to_the_weights_of_one_that_was_not(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    given = ("sft.max_num_steps=4", "policy.train_global_batch_size=2", "policy.train_micro_batch_size=1", *EVERY_STEP)
    whole = train_sft(office.store, config(fresh_model, tmp_path / "a", "run=whole", *given))
    cut = config(fresh_model, tmp_path / "b", "run=cut", *given)
    with pytest.raises(Stop):
        train_sft(office.store, cut, stop_at(3))
    assert (tmp_path / "b/cut/state/checkpoint-2").is_dir()
    build_sft(office.store, "demos", "s1", options_of(runs=["scripted"]))
    other = config(fresh_model, tmp_path / "b", "run=cut", *given, "dataset=demos@2")
    with pytest.raises(ConfigError, match="dataset is 'demos@1' in the run and 'demos@2' now"):
        train_sft(office.store, other)
    seen: list[int] = []
    finished = train_sft(office.store, config(fresh_model, tmp_path / "b", "run=cut", *given, "dataset=demos@1"), lambda at, *_: seen.append(at))  # fmt: skip
    assert seen == [3, 4] and finished["weights_hash"] == whole["weights_hash"]
    assert steps_of(finished) == ["step_1", "step_2", "step_3", "step_4"], "nothing is left of what it went on from"


def options_of(**options):
    from rollhouse.transform.options import SftOptions

    return SftOptions(**options)


def test_adapters_are_trained_and_a_whole_model_is_saved(office, fresh_model, tmp_path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    build_sft(office.store, "demos", "s1")
    lora = ("policy.lora.rank=4", "policy.lora.alpha=8", "sft.max_num_steps=2", *EVERY_STEP)
    row = train_sft(office.store, config(fresh_model, tmp_path, *lora))
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (fresh_model, row["path"]))
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all("proj" in name for name in changed)
    for name in changed:
        delta = after[name] - before[name]
        assert int(delta.double().svd().S.gt(1e-6).sum()) <= 4, "the update has the configured rank"
    AutoModelForCausalLM.from_pretrained(row["path"])
    assert resolve_model(office.store, "learn/step_1").is_dir()


def test_rows_held_out_are_measured_and_the_best_checkpoints_stay(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    best = ("checkpointing.metric_name=val:loss", "checkpointing.higher_is_better=false", "checkpointing.keep_top_k=1")
    settings = config(fresh_model, tmp_path, *HELD_OUT, *EVERY_STEP, *best, "sft.max_num_steps=4", "policy.optimizer.lr=0.5")  # fmt: skip
    row = train_sft(office.store, settings)
    rows = office.store.read("checkpoints", filter="run_id = 'learn'").to_pylist()
    losses = {each["step"]: json.loads(each["metrics"])["val/loss"] for each in rows}
    logged = office.store.read("metrics", filter=f"run_id = 'learn' and name = {quote('val/loss')}").to_pylist()
    assert {each["step"]: each["value"] for each in logged} == losses and set(losses) == {1, 2, 3, 4}
    lowest = min(losses, key=lambda step: losses[step])
    assert steps_of(row) == sorted({f"step_{lowest}", "step_4"}) and lowest != 4, "this rate makes it worse"
    found = find_checkpoint(office.store, "learn/best")
    assert found is not None and found["step"] == lowest
    assert resolve_model(office.store, "learn/best").name == f"step_{lowest}"


def test_a_task_is_on_one_side_whatever_else_there_is(tmp_path) -> None:
    rows = [(f"task-{n % 40}", {"place": [n]}) for n in range(100)]

    def sides(rows, folder: str, share: float) -> list[list[int]]:
        written = write_rows(iter(rows), tmp_path / folder, ("place",), share)
        return [[] if side is None else [n for (n,) in side["place"]] for side in written]

    train, validation = sides(rows, "all", 0.25)
    assert train and validation and sorted(train + validation) == list(range(100))
    assert train == sorted(train) and validation == sorted(validation), "in the order in which they came"
    assert not {n % 40 for n in train} & {n % 40 for n in validation}
    held = {n % 40 for n in validation}
    assert {n for n in range(30) if n % 40 in held} == set(sides(rows[:30], "some", 0.25)[1])
    assert sides(rows, "none held", 0.0) == [list(range(100)), []]
    with pytest.raises(ConfigError, match=r"leaves 0 rows to train on|0 to validate on"):
        write_rows(iter([("only", {"place": [0]})]), tmp_path / "one", ("place",), 0.5)


@pytest.mark.system
def test_a_run_is_reproduced_or_the_first_step_that_differs_is_named(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    row = train_sft(office.store, config(fresh_model, tmp_path, "sft.max_num_steps=2"))
    found = reproduce(office.store, "learn")
    assert found.identical and found.difference is None and found.again == "learn-again-1"
    assert found.after == row["weights_hash"] == weights_hash(row["path"])

    metrics = office.store.lance_dataset("metrics")
    metrics.update({"value": "value + 1.0"}, where="run_id = 'learn' and step = 2 and name = 'train/loss'")
    again = reproduce(office.store, "learn")
    assert again.difference is not None and (again.difference.step, again.difference.name) == (2, "train/loss")

    with start_run(office.store, "collect", "scripted"):
        pass
    shown = CliRunner().invoke(app, ["runs", "reproduce", "learn", "--store", str(office.store.uri)])
    assert shown.exit_code == 0 and "identical" in shown.stdout
    for run, said in {"scripted": "of kind collect", "absent": "absent"}.items():
        refused = CliRunner().invoke(app, ["runs", "reproduce", run, "--store", str(office.store.uri)])
        assert refused.exit_code == 2 and said in refused.stderr


def test_a_model_that_is_no_longer_what_it_was_is_refused(office, fresh_model, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    build_sft(office.store, "demos", "s1")
    train_sft(office.store, config(fresh_model, tmp_path, "sft.max_num_steps=1"))
    file = fresh_model / "model.safetensors"
    weights = load_file(file)
    save_file({name: value + 1 for name, value in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="have changed since run"):
        reproduce(office.store, "learn")
    save_file(weights, file, metadata={"format": "pt"})


def test_packed_rows_do_not_see_each_other(office, fresh_model, tmp_path) -> None:
    """One step over all rows at once moves the weights alike, packed or padded, where the loss is a mean over tokens."""
    from safetensors.torch import load_file

    build_sft(office.store, "demos", "s1")
    one = ("sft.max_num_steps=1", "policy.optimizer.lr=1e-3", "policy.max_total_sequence_length=1024")
    padded = train_sft(office.store, config(fresh_model, tmp_path, *one, "run=padded"))
    packed = train_sft(office.store, config(fresh_model, tmp_path, *one, "run=packed", "++trl.packing=true"))
    first, second = (load_file(Path(row["path"]) / "model.safetensors") for row in (padded, packed))
    losses = {row["run_id"]: row["value"] for row in office.store.read("metrics", filter="name = 'train/loss'").to_pylist()}  # fmt: skip
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-3)
    assert all(first[name].allclose(second[name], atol=1e-4) for name in first)


@pytest.mark.system
def test_two_processes_train_what_one_does(office, fresh_model, tmp_path) -> None:
    from safetensors.torch import load_file

    build_sft(office.store, "demos", "s1")
    given = ["policy.train_global_batch_size=4", "policy.train_micro_batch_size=2", "sft.max_num_steps=2", "policy.device=cpu"]  # fmt: skip
    held = ["validation.share=0.4", "checkpointing.save_period=1"]
    before = load_file(fresh_model / "model.safetensors")
    alone = train_sft(office.store, config(fresh_model, tmp_path, "run=alone", *given, *held))
    places = ["dataset=demos", f"policy.model_name={fresh_model}", f"checkpointing.checkpoint_dir={tmp_path}", "policy.optimizer.lr=2e-3"]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rollhouse.cli.main", "train", "sft", "--store", str(office.store.uri)]  # fmt: skip
    nameless = subprocess.run([*command, *places, *given], capture_output=True, text=True, timeout=300)
    assert nameless.returncode != 0 and "Name it with --run" in nameless.stderr
    done = subprocess.run([*command, *places, *given, *held, "run=two"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    two = find_checkpoint(office.store, "two")
    assert two is not None and two["step"] == 2 and done.stdout.count("next: rollhouse lineage") == 1
    logged = {
        (row["run_id"], row["step"], row["name"]): row["value"] for row in office.store.read("metrics").to_pylist()
    }
    for name in ("train/loss", "val/loss"):
        assert logged["two", 1, name] == pytest.approx(logged["alone", 1, name], rel=1e-3)
    # Adam turns a gradient of rounding errors into a whole step, so single weights may part; together they must not.
    first, second = (load_file(Path(row["path"]).with_name("step_1") / "model.safetensors") for row in (alone, two))
    apart, size = (sum(float((first[name] - other[name]).norm() ** 2) for name in first) for other in (second, before))
    assert apart < 0.01 * size
    runs = [row for row in list_runs(office.store) if row["run_id"] == "two"]
    assert [(row["status"], row["incarnation"]) for row in runs] == [("finished", 0)]
    assert "val/loss" in json.loads(two["metrics"])


def test_rows_are_written_as_they_come(tmp_path) -> None:
    """Of a thousand rows no more are held than two batches of each side."""
    alive: list[int] = [0, 0]

    class Row(dict):
        def __init__(self, place: int) -> None:
            super().__init__(place=[place] * 50)
            alive[:] = [alive[0] + 1, max(alive[1], alive[0] + 1)]

        def __del__(self) -> None:
            alive[0] -= 1

    written, _ = write_rows(((f"task-{n}", Row(n)) for n in range(1000)), tmp_path / "rows", ("place",), 0.3)
    assert alive[1] <= 130 and 600 < len(written) < 800
    assert written.cache_files == [{"filename": str(tmp_path / "rows" / "train.arrow")}], "read where it lies"
