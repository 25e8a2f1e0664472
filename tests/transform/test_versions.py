"""Versions: numbered, fingerprinted, found again, and the same whatever order the store holds its rows in."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError, StoreNotFound, VersionNotFound
from rollhouse.store.lance_store import LanceStore
from rollhouse.transform.build import build_dpo, build_sft
from rollhouse.transform.dataset import load_dataset_version
from rollhouse.transform.materialize import dpo_rows, sft_rows
from rollhouse.transform.options import DpoOptions, SftOptions
from rollhouse.transform.versions import list_datasets

from .conftest import Filled


def fill(filled, run: str = "c1") -> None:
    for task in "abcde":
        for index in range(4):
            filled.rollout(task, float(index % 2), index, run)


def test_building_again_returns_the_version_that_exists(filled) -> None:
    fill(filled)
    snapshot = filled.snapshot()
    first = build_sft(filled.store, "demos", snapshot)
    again = build_sft(filled.store, "demos", snapshot)
    assert (first.label, first.existed, again.label, again.existed) == ("demos@1", False, "demos@1", True)
    other = build_sft(filled.store, "demos", snapshot, SftOptions(per_task_cap=1))
    assert other.label == "demos@2" and other.fingerprint != first.fingerprint
    assert (
        load_dataset_version(filled.store, "demos") == other and load_dataset_version(filled.store, "demos@1") == first
    )
    assert [row["dataset"] for row in list_datasets(filled.store)] == ["demos@1", "demos@2"]


def test_later_rollouts_change_nothing_in_an_old_snapshot(filled) -> None:
    fill(filled)
    snapshot = filled.snapshot()
    before = build_dpo(filled.store, "pairs", snapshot)
    rows = dpo_rows(filled.store, before)
    fill(filled, "c2")
    filled.write()
    filled.store.lance_dataset("rollouts").optimize.compact_files()
    again = build_dpo(filled.store, "pairs", snapshot)
    assert again.existed and again.fingerprint == before.fingerprint
    assert dpo_rows(filled.store, again) == rows
    assert build_dpo(filled.store, "pairs", filled.snapshot("s2")).label == "pairs@2"


def test_the_order_of_rows_in_the_store_does_not_matter(tmp_path: Path) -> None:
    built = []
    for reverse in (False, True):
        filled = Filled(LanceStore.create(tmp_path / f"store{reverse}"))
        fill(filled)
        filled.write(reverse)
        snapshot = filled.snapshot()
        demos, pairs = build_sft(filled.store, "demos", snapshot), build_dpo(filled.store, "pairs", snapshot)
        built.append(
            (demos.fingerprint, pairs.fingerprint, sft_rows(filled.store, demos), dpo_rows(filled.store, pairs))
        )
    assert built[0] == built[1]


def test_materialised_arguments_are_the_bytes_that_were_stored(filled) -> None:
    filled.rollout("a", 1.0, to="x")
    row = sft_rows(filled.store, build_sft(filled.store, "demos", filled.snapshot()))[0]
    assert row.messages[0].tool_calls[0].arguments == '{ "to":"x-0"}'
    assert [message.role for message in row.prompt] == ["system", "user"] and '"send"' in row.tools


def test_another_scorer_decides_when_the_recipe_names_it(filled) -> None:
    from datetime import UTC, datetime

    kept, lost = filled.rollout("a", 0.0), filled.rollout("b", 1.0)
    for number, (id, reward) in enumerate([(kept, 0.0), (kept, 1.0), (lost, 0.0)]):
        stamp = datetime(2025, 1, 1, 0, 0, number, tzinfo=UTC)
        filled.scores.append(
            {
                "row_id": str(number),
                "rollout_id": id,
                "scorer": "strict",
                "scorer_version": "2",
                "reward": reward,
                "created_at": stamp,
            }
        )
    snapshot = filled.snapshot()
    dataset = build_sft(filled.store, "demos", snapshot, SftOptions(scorer="strict"))
    assert [row["rollout_id"] for row in dataset.references.to_dicts()] == [kept] and dataset.scorer == "strict"
    with pytest.raises(ConfigError, match="collected, strict"):
        build_sft(filled.store, "demos", snapshot, SftOptions(scorer="absent"))
    assert build_sft(filled.store, "second", snapshot, SftOptions(scorer="strict@2")).n_rows == dataset.n_rows
    with pytest.raises(ConfigError, match="strict@1"):
        build_sft(filled.store, "third", snapshot, SftOptions(scorer="strict@1"))


def test_wrong_names_are_named(filled) -> None:
    filled.rollout("a", 1.0)
    snapshot = filled.snapshot()
    demos = build_sft(filled.store, "demos", snapshot)
    with pytest.raises(VersionNotFound):
        build_sft(filled.store, "demos", "absent")
    with pytest.raises(ConfigError, match="where"):
        build_sft(filled.store, "demos", snapshot, SftOptions(where="rewad > 1"))
    with pytest.raises(ConfigError, match="cannot name a dataset"):
        build_sft(filled.store, "a b", snapshot)
    with pytest.raises(StoreNotFound, match="demos@1"):
        load_dataset_version(filled.store, "demo")
    with pytest.raises(ConfigError, match="NAME@NUMBER"):
        load_dataset_version(filled.store, "demos@one")
    with pytest.raises(ConfigError, match="of kind sft, not dpo"):
        dpo_rows(filled.store, demos)


@settings(max_examples=15, deadline=None)
@given(
    rewards=st.lists(st.lists(st.sampled_from([None, 0.0, 0.5, 1.0]), min_size=1, max_size=6), min_size=1, max_size=4),
    cap=st.integers(1, 3),
)
def test_every_input_is_in_the_set_or_has_one_reason(tmp_path_factory, rewards, cap) -> None:
    filled = Filled(LanceStore.create(tmp_path_factory.mktemp("store")))
    filled.rollout("sure", 1.0)
    filled.rollout("sure", 0.0, 1)
    for task, group in enumerate(rewards):
        for index, reward in enumerate(group):
            filled.rollout(str(task), reward, index)
    ids = {row["rollout_id"] for row in filled.rollouts}
    snapshot = filled.snapshot()
    for dataset in (
        build_sft(filled.store, "demos", snapshot, SftOptions(per_task_cap=cap)),
        build_dpo(filled.store, "pairs", snapshot, DpoOptions(max_pairs_per_group=cap)),
    ):
        chosen = {row["rollout_id"] for row in dataset.references.to_dicts()}
        dropped = [entry["id"] for entry in dataset.drops.to_dicts()]
        assert len(dropped) == len(set(dropped)) and chosen | set(dropped) == ids and not chosen & set(dropped)
        assert sum(dataset.counts["dropped"].values()) == len(dropped)
