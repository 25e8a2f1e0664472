"""The public store answers, in the reader's form."""

import duckdb
import polars as pl
import pyarrow as pa
import pytest
import rollhouse
from rollhouse.base.errors import ConfigError
from rollhouse.store.lance_store import LanceStore as LanceStore


@pytest.fixture
def public(store: LanceStore) -> "rollhouse.Store":
    return rollhouse.open(store.uri, create=False)


def test_one_answer_in_every_form(public: "rollhouse.Store") -> None:
    answer = public.sql("SELECT run_id, count(*) AS n FROM final_rollouts GROUP BY run_id ORDER BY run_id")
    rows = [{"run_id": "easy", "n": 4}, {"run_id": "hard", "n": 4}]
    assert len(answer) == 2 and answer.rows() == rows
    assert isinstance(answer.arrow(), pa.Table) and answer.arrow().to_pylist() == rows
    assert isinstance(answer.pl(), pl.DataFrame) and answer.pl().to_dicts() == rows
    assert isinstance(answer.relation(), duckdb.DuckDBPyRelation)
    assert answer.relation().filter("run_id = 'hard'").fetchall() == [("hard", 4)]
    assert answer.df().to_dict("records") == rows
    assert "<td style='text-align:left'>easy</td>" in answer._repr_html_()
    assert pl.DataFrame(answer).to_dicts() == pa.table(answer).to_pylist() == rows


def test_it_is_the_store_of_the_store(public: "rollhouse.Store") -> None:
    assert isinstance(public, LanceStore)
    assert public.read("rollouts", ["run_id"]).num_rows == 9


def test_options_reach_the_query(public: "rollhouse.Store") -> None:
    query = "SELECT count(*) AS n, count(reward) AS scored FROM rollouts WHERE run_id = $run"
    assert public.sql(query, params={"run": "easy"}, scorer="strict@1").rows() == [{"n": 5, "scored": 1}]
    assert public.sql(query, "easy", {"run": "hard"}, in_child=True).rows() == [{"n": 0, "scored": 0}]


def test_named_queries_and_their_parameters(public: "rollhouse.Store") -> None:
    assert public.query("pass_at_k", k=2, run="easy").pl()["groups"].to_list() == [1]
    assert public.query("pass_rate_by_task", run="easy", scorer="kind").rows()[0]["mean_reward"] == 0.5
    assert public.query("pass_rate_by_task", at="easy").rows()[0]["rollouts"] == 4
    with pytest.raises(ConfigError, match="no parameter"):
        public.query("pass_at_k", q=2)


def test_search_and_nearness(public: "rollhouse.Store") -> None:
    assert len(public.search("divide", run="easy").rows()) == 1
    with pytest.raises(ConfigError, match="no embedding column 'embedding'"):
        public.nearest("embedding", [1.0])
