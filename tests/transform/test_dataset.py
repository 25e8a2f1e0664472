"""The handle of a version: its rows in every shape, its reasons, and how a notebook shows it."""

import json
import sys
from typing import Annotated

import polars as pl
import pytest
from rollhouse.base.errors import ConfigError, MissingExtra
from rollhouse.transform.build import build_dpo, build_grpo, build_sft
from rollhouse.transform.dataset import load_dataset_version
from rollhouse.transform.options import LATER, GrpoOptions, SftOptions


@pytest.fixture
def snapshot(filled) -> str:
    for task in ("a", "b"):
        for index in range(3):
            filled.rollout(task, float(index > 0), index)
    return filled.snapshot()


def test_the_rows_are_the_same_in_every_shape(filled, snapshot) -> None:
    columns = {
        "sft": ["prompt", "completion", "tools", "rollout_id", "run_id", "reward"],
        "dpo": ["prompt", "chosen", "rejected", "tools", "chosen_id", "rejected_id"],
        "grpo": ["prompt", "tools", "task_id", "ground_truth", "weight"],
    }
    for build in (build_sft, build_dpo, build_grpo):
        dataset = build(filled.store, build.__name__, snapshot)
        rows = list(dataset.rows())
        assert len(rows) == dataset.n_rows > 0 and list(rows[0]) == columns[dataset.kind]
        table, frame, hugging_face = dataset.to_arrow(), dataset.to_polars(), dataset.to_hf()
        assert table.num_rows == frame.height == len(hugging_face) == dataset.n_rows
        assert table.column_names == frame.columns == hugging_face.column_names == columns[dataset.kind]
        key = columns[dataset.kind][-2 if dataset.kind == "dpo" else 3 if dataset.kind == "sft" else 2]
        assert [row[key] for row in rows] == table[key].to_pylist() == frame[key].to_list() == list(hugging_face[key])
        assert {name: value for name, value in rows[0]["prompt"][-1].items() if value is not None}.keys() == {
            "role",
            "content",
        }
        calls = [
            call
            for row in rows
            for name in ("completion", "chosen")
            for message in row.get(name, ())
            for call in message["tool_calls"] or ()
        ]
        assert all(isinstance(call["function"]["arguments"], dict) for call in calls) and bool(calls) == (
            build is not build_grpo
        )
        assert json.loads(rows[0]["tools"])[0]["function"]["name"] == "send"


def test_a_handle_is_loaded_by_name_or_by_version(filled, snapshot) -> None:
    first = build_sft(filled.store, "demos", snapshot)
    second = build_sft(filled.store, "demos", snapshot, SftOptions(per_task_cap=1))
    assert (
        load_dataset_version(filled.store, "demos@1") == first and load_dataset_version(filled.store, "demos") == second
    )
    assert (first.existed, build_sft(filled.store, "demos", snapshot).existed) == (False, True)
    assert repr(first).startswith("Dataset('demos@1', sft, 4 rows, snapshot='s1'")


def test_why_diff_and_export_are_methods(filled, snapshot, tmp_path) -> None:
    first = build_sft(filled.store, "demos", snapshot)
    second = build_sft(filled.store, "demos", snapshot, SftOptions(per_task_cap=1))
    chosen = first.references["rollout_id"][0]
    assert first.why(chosen)[0]["in_dataset"] and first.diff(second)["only_left"] == 2
    with pytest.raises(ConfigError, match="of kind sft"):
        first.diff(build_dpo(filled.store, "pairs", snapshot))
    out = tmp_path / "demos.parquet"
    assert first.export("trl", out).rows == 4 and pl.read_parquet(out).equals(first.to_polars())


def test_a_notebook_shows_it_escaped(filled, snapshot) -> None:
    filled.rollout("a", 0.0, 9, status="<b>odd</b>")
    shown = build_sft(filled.store, "demos", filled.snapshot("s2"))._repr_html_()
    assert "dataset demos@1" in shown and ">s2</td>" in shown and "4 demonstrations" in shown
    assert "left out: status is &lt;b&gt;odd&lt;/b&gt;</td>" in shown and "<b>odd" not in shown


def test_hugging_face_is_optional(filled, snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build_grpo(filled.store, "prompts", snapshot, GrpoOptions())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets is not installed"):
        dataset.to_hf()


def test_an_option_added_later_keeps_the_fingerprints(filled, snapshot) -> None:
    class LaterOptions(SftOptions):
        most_words: Annotated[int | None, LATER] = None

    first = build_sft(filled.store, "demos", snapshot, SftOptions(per_task_cap=1))
    again = build_sft(filled.store, "demos", snapshot, LaterOptions(per_task_cap=1))
    other = build_sft(filled.store, "demos", snapshot, LaterOptions(per_task_cap=1, most_words=3))
    assert again.existed and again.fingerprint == first.fingerprint
    assert other.label == "demos@2" and other.recipe["most_words"] == 3


def test_a_recipe_names_files_of_code(tmp_path) -> None:
    (tmp_path / "good.sql").write_text("SELECT rollout_id FROM rollouts;\n")
    (tmp_path / "good.py").write_text("def good(frame):\n    return frame\n")
    assert SftOptions(sql=str(tmp_path / "good.sql")).sql == "SELECT rollout_id FROM rollouts"
    options = SftOptions(function=f"{tmp_path}/good.py:good")
    assert (options.function, options.function_name) == ("def good(frame):\n    return frame\n", "good")
    assert SftOptions(**options.recipe()) == options, "what a version keeps is the recipe"
    for wrong in ({"function": "good"}, {"function": "absent.py:good"}, {"sql": "absent.sql"}):
        with pytest.raises(ConfigError, match=r"not a reference|cannot be read"):
            SftOptions.model_validate(wrong)
