"""SQL reads the store, at any version, and can do nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, QueryError, VersionNotFound
from rollhouse.queries.passk import pass_at_k
from rollhouse.queries.session import VIEWS, connect, sql
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.tables import TABLES
from rollhouse.tests.rows import rollout_row, sum_rollout


def one(store: LanceStore, query: str, **options: object) -> object:
    """The single value of an answer."""
    (row,) = sql(store, query, **options).to_pylist()  # type: ignore[arg-type]
    (value,) = row.values()
    return value


def test_every_table_and_view_answers(store: LanceStore) -> None:
    for name in (*TABLES, *VIEWS):
        assert isinstance(one(store, f"SELECT count(*) FROM {name}"), int)
    assert one(store, "SELECT count(*) FROM rollouts") == 9


def test_at_reads_an_earlier_version(store: LanceStore) -> None:
    assert one(store, "SELECT count(*) FROM rollouts", at="easy") == 5
    assert one(store, "SELECT count(*) FROM runs", at="easy") == 1
    when = one(store, "SELECT strftime(created_at, '%Y-%m-%dT%H:%M:%S.%f') FROM snapshots")
    assert one(store, "SELECT count(*) FROM rollouts", at=when) == 5
    with pytest.raises(VersionNotFound):
        sql(store, "SELECT 1", at="never")


def test_columns_that_an_old_version_lacks_are_null_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = TABLES["rollouts"]
    columns = tuple(column for column in now.columns if column.name not in ("gaps", "agent", "duration_s", "loss_mask"))
    with monkeypatch.context() as older:
        older.setitem(TABLES, "rollouts", replace(now, columns=columns))
        store = LanceStore.create(tmp_path / "store")
        append_rows(store, "rollouts", TABLES["rollouts"].batch([sum_rollout("r", 0)]))
        create_snapshot(store, "old")
    for at in (None, "old"):
        assert (
            one(store, "SELECT count(*) FROM final_rollouts WHERE agent IS NULL AND status = 'completed'", at=at) == 1
        )
        for view in VIEWS:
            sql(store, f"SELECT * FROM {view}", at=at)
    store = LanceStore.create(tmp_path / "store")
    append_rows(store, "rollouts", [rollout_row("r", 1, gaps=["no_task"])])
    assert one(store, "SELECT count(gaps) FROM rollouts") == 1
    assert one(store, "SELECT count(gaps) FROM rollouts", at="old") == 0


def test_lists_of_structs_can_be_unnested(store: LanceStore) -> None:
    query = """
        WITH turns AS (SELECT unnest(messages) AS m FROM rollouts),
        calls AS (SELECT unnest(m.tool_calls) AS call FROM turns)
        SELECT call.name AS tool, count(*) AS n FROM calls GROUP BY tool ORDER BY tool"""
    assert sql(store, query).to_pylist() == [{"tool": "add", "n": 9}, {"tool": "divide", "n": 1}]


def test_filters_and_parameters(store: LanceStore) -> None:
    answer = sql(
        store,
        "SELECT sample_index FROM rollouts WHERE run_id = $run AND reward >= $least",
        params={"run": "easy", "least": 1},
    )
    assert sorted(answer["sample_index"].to_pylist()) == [0, 1]
    assert one(store, "SELECT count(*) FROM rollouts WHERE len(token_ids) = 4 AND started_at < now()") == 9


def test_final_rollouts_keep_the_last_attempt(store: LanceStore) -> None:
    rows = sql(store, "SELECT sample_index, attempt FROM final_rollouts WHERE run_id = 'easy' ORDER BY 1").to_pylist()
    assert [(row["sample_index"], row["attempt"]) for row in rows] == [(0, 0), (1, 0), (2, 0), (3, 1)]
    assert one(store, "SELECT count(*) FROM final_rollouts") == 8


def test_latest_scores_keep_the_newest_verdict_of_each_scorer(store: LanceStore) -> None:
    rows = sql(store, "SELECT scorer, scorer_version, reward FROM latest_scores ORDER BY scorer").to_pylist()
    assert rows == [
        {"scorer": "kind", "scorer_version": "1", "reward": 0.5},
        {"scorer": "strict", "scorer_version": "2", "reward": 0.0},
    ]


def test_training_samples_join_plan_and_outcome(store: LanceStore) -> None:
    rows = sql(
        store, "SELECT * EXCLUDE (trainer_logprobs, rollout_id) FROM training_samples ORDER BY kept DESC"
    ).to_pylist()
    same = {"run_id": "hard", "step": 2, "group_id": "g", "policy_version": 1}
    assert rows[0] == same | {
        "reward": 0.0, "advantage": -1.0, "kept": True, "reason": None, "micro_batch": 0,
        "trained": True, "ratio_mean": 1.25, "clipped_share": None,
    }  # fmt: skip
    assert rows[1] == same | {
        "reward": 1.0, "advantage": None, "kept": False, "reason": "too long", "micro_batch": None,
        "trained": False, "ratio_mean": None, "clipped_share": None,
    }  # fmt: skip


def test_groups_tell_pass_at_k(store: LanceStore) -> None:
    rows = sql(store, "SELECT run_id, n_judged, n_passed, pass_at_1, pass_at_k FROM groups").to_pylist()
    assert len(rows) == 3
    for row in rows:
        n, c = row["n_judged"], row["n_passed"]
        assert row["pass_at_1"] == c / n
        assert row["pass_at_k"] == [pytest.approx(pass_at_k(n, c, k)) for k in range(1, n + 1)]


def test_pass_at_is_the_same_in_sql(store: LanceStore) -> None:
    counts = "FROM range(1, 7) AS a(n), range(0, 7) AS b(c), range(1, 8) AS d(k) WHERE c <= n"
    for row in sql(store, f"SELECT n, c, k, pass_at(n, c, k) AS estimate {counts}").to_pylist():
        assert row["estimate"] == pytest.approx(pass_at_k(row["n"], row["c"], row["k"]))


def test_turns_are_the_prompt_and_what_followed(store: LanceStore) -> None:
    id = sum_rollout("easy", 0).rollout_id
    rows = sql(
        store,
        "SELECT position, in_prompt, role, text, len(tool_calls) AS calls FROM turns WHERE rollout_id = $id ORDER BY position",
        params={"id": id},
    ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (0, True, "user", "Add 1 and 2.", 0),
        (1, False, "assistant", None, 1),
        (2, False, "tool", "3", 0),
        (3, False, "assistant", "It is 3.", 0),
    ]
    # The failed first attempt is no last one; its prompt's message and three others are not counted.
    assert one(store, "SELECT count(*) FROM turns WHERE run_id = 'easy'") == 3 * 4 + 3


def test_tokens_are_those_the_policy_generated(store: LanceStore) -> None:
    trained = sum_rollout("hard", 0, text="Add 7 and 8.", step=2).rollout_id
    query = "SELECT position, token_id, logprob, trainer_logprob FROM tokens WHERE rollout_id = $id ORDER BY position"
    rows = [tuple(row.values()) for row in sql(store, query, params={"id": trained}).to_pylist()]
    # The third token is a tool's answer; the trainer's logprobs are those of the later incarnation.
    assert rows == [(0, 10, -0.5, -0.25), (1, 11, -0.25, -0.25), (3, 13, -0.125, -0.625)]
    other = sum_rollout("easy", 0).rollout_id
    assert [row["trainer_logprob"] for row in sql(store, query, params={"id": other}).to_pylist()] == [None] * 3
    assert one(store, "SELECT count(*) FROM tokens") == 8 * 3


def test_the_verdicts_of_a_scorer_stand_in_for_those_of_collection(store: LanceStore) -> None:
    id = sum_rollout("easy", 0).rollout_id
    query = "SELECT rollout_id, reward, passed, scorer, scorer_version FROM final_rollouts WHERE reward IS NOT NULL"

    def verdicts(scorer: str) -> list[tuple]:
        return [tuple(row.values()) for row in sql(store, query, scorer=scorer).to_pylist()]

    assert verdicts("strict@1") == [(id, 1.0, True, "strict", "1")]
    assert verdicts("strict@2") == verdicts("strict") == [(id, 0.0, False, "strict", "2")]
    assert len(verdicts("collected")) == 8
    assert one(store, "SELECT n_scored FROM groups WHERE run_id = 'easy'", scorer="kind") == 1
    assert one(store, "SELECT count(*) FROM rollouts", scorer="kind") == 9
    with pytest.raises(ConfigError, match="'strict@3'") as caught:
        sql(store, query, scorer="strict@3")
    assert "strict@2" in caught.value.fix
    for wrong in ("@1", "strict@"):
        with pytest.raises(ConfigError, match="not a scorer"):
            sql(store, query, scorer=wrong)


def test_a_table_can_be_pivoted(store: LanceStore) -> None:
    query = "PIVOT (SELECT run_id, status, reward FROM final_rollouts) ON status USING count(*) GROUP BY run_id ORDER BY run_id"
    wanted = [{"run_id": "easy", "completed": 4, "truncated": 0}, {"run_id": "hard", "completed": 3, "truncated": 1}]
    assert sql(store, query).to_pylist() == wanted
    assert sql(store, f"-- delete\nFROM ({query})").to_pylist() == wanted
    assert sql(store, f"EXPLAIN {query}").num_rows > 0


def test_an_attempt_replaces_every_row_of_the_one_before(tmp_path: Path) -> None:
    past = LanceStore.create(tmp_path / "store")
    rows = [(0, 0, "a"), (0, 1, "b"), (0, 2, "c"), (1, 0, "d"), (1, 1, "e")]
    append_rows(
        past,
        "rollouts",
        [
            {
                "rollout_id": name,
                "slot_id": "s",
                "attempt": attempt,
                "branch": branch,
                "agent": "main",
                "group_id": "g",
                "reward": 1.0,
                "passed": True,
            }
            for attempt, branch, name in rows
        ]
        + [
            {
                "rollout_id": "f",
                "slot_id": "t",
                "attempt": 0,
                "branch": 0,
                "agent": "main",
                "group_id": "g",
                "reward": 0.0,
                "passed": False,
            }
        ],
    )
    found = sql(past, "SELECT rollout_id FROM final_rollouts ORDER BY 1")["rollout_id"].to_pylist()
    assert found == ["d", "e", "f"]
    assert sql(past, "SELECT n, mean_reward FROM groups").to_pylist() == [{"n": 2, "mean_reward": 0.5}]


def test_groups_count_last_attempts(store: LanceStore) -> None:
    rows = sql(
        store, "SELECT run_id, step, n, mean_reward, std_reward, n_passed, zero_variance FROM groups ORDER BY 1, 2"
    ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("easy", None, 4, 0.5, 0.5, 2, False),
        ("hard", 1, 2, 0.0, 0.0, 0, True),
        ("hard", 2, 2, 0.5, 0.5, 1, False),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{file}'",
        "COPY rollouts TO '{file}'",
        "ATTACH '{file}'",
        "ATTACH ':memory:' AS other",
        "CREATE TABLE t (i INT)",
        "CREATE VIEW v AS SELECT 1",
        "INSERT INTO rollouts (rollout_id) VALUES ('x')",
        "UPDATE rollouts SET reward = 1",
        "DELETE FROM rollouts",
        "WITH gone AS (DELETE FROM rollouts RETURNING *) SELECT * FROM gone",
        "DROP VIEW rollouts",
        "SET threads = 1",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "EXPORT DATABASE '{file}'",
        "CALL enable_logging()",
        "EXPLAIN ANALYZE CREATE TABLE t (i INT)",
        "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{file}'",
        "CREATE TABLE t AS PIVOT runs ON kind USING count(*)",
        "COPY (PIVOT runs ON kind USING count(*)) TO '{file}'",
        "EXPLAIN ANALYZE CREATE TABLE t AS PIVOT runs ON kind USING count(*)",
        "WITH gone AS (DELETE FROM runs RETURNING *) PIVOT gone ON kind USING count(*)",
        "PIVOT runs ON kind USING count(*); DROP VIEW runs",
        "PIVOT (SELECT * FROM read_csv('/etc/passwd')) ON column0 USING count(*)",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{file}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{file}''')",
        "SELECT * FROM enable_logging(storage = 'file', storage_path = '{file}')",
        "SELECT * FROM local_variable",
        "SELEC 1",
        "",
    ],
)
def test_anything_but_reading_the_store_is_refused(store: LanceStore, query: str, tmp_path) -> None:
    local_variable = store.read("rollouts")
    before = {table: store.lance_dataset(table).version for table in TABLES}
    with pytest.raises(QueryError) as caught:
        sql(store, query.replace("{file}", str(tmp_path / "out")))
    assert caught.value.fix and "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []
    assert {table: store.lance_dataset(table).version for table in TABLES} == before
    assert local_variable.num_rows == 9


@pytest.mark.parametrize(
    "query", ["EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1", "DESCRIBE rollouts", "VALUES (1)", "SHOW TABLES"]
)
def test_reading_in_other_words_goes_through(store: LanceStore, query: str) -> None:
    assert sql(store, query).num_rows > 0


def test_a_query_is_given_up_in_time(store: LanceStore) -> None:
    endless = "SELECT count(*) FROM range(100000000000) a(x), range(1000000) b(y) WHERE x * y = 7"
    with pytest.raises(QueryError, match="took longer than"):
        sql(store, endless, timeout_s=0.2)


def test_a_query_may_not_use_more_memory_than_it_may(store: LanceStore) -> None:
    with pytest.raises(QueryError, match="more memory"):
        sql(store, "SELECT list(x) FROM range(100000000) t(x)", memory_limit="100MB")


def test_a_mistake_is_named_with_what_there_is(store: LanceStore) -> None:
    with pytest.raises(QueryError, match="rollout") as caught:
        sql(store, "SELECT * FROM rollout")
    assert "final_rollouts" in caught.value.fix
    with pytest.raises(QueryError, match="rewards"):
        sql(store, "SELECT rewards FROM rollouts")


def test_a_table_the_snapshot_did_not_have_reads_empty(store: LanceStore) -> None:
    import pyarrow as pa

    snapshot = store.read("snapshots").to_pylist()[0]
    older = {"name": "older", "versions": [v for v in snapshot["versions"] if v["table"] != "evaluations"]}
    append_rows(store, "snapshots", [older])
    assert one(store, "SELECT count(*) FROM evaluations", at="older") == 0
    assert one(store, "SELECT count(*) FROM rollouts", at="older") == 5
    store.lance_dataset("snapshots").delete("name = 'older'")
    assert pa.types.is_string(sql(store, "SELECT case_id FROM evaluations").schema.field("case_id").type)


def test_our_own_connection_is_not_locked(store: LanceStore) -> None:
    con = connect(store, at="easy")
    try:
        con.execute("CREATE TABLE mine AS SELECT run_id FROM final_rollouts")
        assert con.execute("SELECT count(*) FROM mine").fetchall() == [(4,)]
    finally:
        con.close()


def test_the_row_of_a_rollout_comes_back_whole(store: LanceStore) -> None:
    id = sum_rollout("easy", 0).rollout_id
    (row,) = sql(store, "SELECT * FROM rollouts WHERE rollout_id = $id", params={"id": id}).to_pylist()
    wanted = rollout_row("easy", 0, duration_s=0.5)
    assert {name: row[name] for name in wanted} == wanted
