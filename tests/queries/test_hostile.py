"""Conditions that would void others, read files, or never end."""

import pytest
from rollhouse.base.errors import QueryError
from rollhouse.interop.exporting import export_file
from rollhouse.queries.search import search
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.runs import start_run
from rollhouse.tests.rows import prompt_row, rollout_row

VOIDING = ["1=1) or (1=1", "1=1) --", "1=1) AS x, (select * from rollouts where 1=1", "true; select 1", "", "1=1 /*", "$$) or (1=1$$ = ''"]  # fmt: skip


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    store = LanceStore.create(tmp_path_factory.mktemp("hostile") / "store")
    append_rows(store, "prompts", [prompt_row()])
    for run_id in ("mine", "theirs"):
        with start_run(store, "collect", run_id):
            said = [Message("assistant", "a meeting").to_row()]
            append_rows(store, "rollouts", [rollout_row(run_id, i, messages=said) for i in range(2)])
    return store


@pytest.mark.parametrize("where", VOIDING)
def test_a_condition_leaves_the_other_filters_alone(two_runs: LanceStore, where: str, tmp_path) -> None:
    for ask in (
        lambda: search(two_runs, "meeting", run="mine", where=where)["run_id"].to_pylist(),
        lambda: [export_file(two_runs, "parquet", tmp_path / "x.parquet", run="mine", where=where).rollouts],
    ):
        try:
            found = ask()
        except Exception as error:
            assert isinstance(error, QueryError) or "No rollout is selected" in str(error)
        else:
            assert found in (["mine", "mine"], [], [2], [0])


@pytest.mark.system
def test_a_condition_of_many_terms_ends_nothing(two_runs: LanceStore) -> None:
    long = " or ".join(f"n_turns = {n}" for n in range(50_000))
    nested = "(" * 5_000 + "true" + ")" * 5_000
    for where in (long, nested):
        try:
            assert search(two_runs, "meeting", where=where).num_rows <= 4
        except QueryError as error:
            assert "\n" not in error.message


@pytest.mark.parametrize("where", ["(select count(*) from read_text('/etc/passwd')) > 0", "(select count(*) from glob('/*')) > 0", "(select count(*) from 'x.csv') > 0", "getenv('HOME') = ''"])  # fmt: skip
def test_a_condition_reads_the_store_alone(two_runs: LanceStore, where: str) -> None:
    with pytest.raises(QueryError):
        search(two_runs, "meeting", where=where)
