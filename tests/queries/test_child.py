"""A query in a process of its own: the same answers, and bounds that hold for all it does."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from rollhouse.base.errors import ConfigError, QueryError, VersionNotFound
from rollhouse.queries import child, session
from rollhouse.store.lance_store import LanceStore


def test_the_answer_is_the_same(store: LanceStore) -> None:
    query = "SELECT * FROM final_rollouts WHERE run_id = $run AND started_at < $now ORDER BY rollout_id"
    params = {"run": "easy", "now": datetime.now(UTC)}
    answer = child.sql(store, query, "easy", params, scorer="collected")
    assert answer.num_rows == 3 + 1 and answer == session.sql(store, query, "easy", params)
    assert child.sql(store, "SELECT reward FROM rollouts WHERE reward IS NOT NULL", scorer="kind").to_pylist() == [
        {"reward": 0.5}
    ]


def test_parameters_of_every_type_arrive(store: LanceStore) -> None:
    values = {
        "a": date(2024, 2, 29), "b": datetime(2024, 2, 29, 1, 2, 3, 4, UTC), "c": b"\x00\xff", "d": Decimal("1.50"), "e": [1, 2],
        "f": timedelta(days=1, microseconds=3), "g": None, "h": time(1, 2), "i": {"x": 1.5}, "j": True, "k": UUID(int=7), "l": np.float64(0.5),
    }  # fmt: skip
    query = "SELECT " + ", ".join(f"${name} AS {name}" for name in values)
    assert child.sql(store, query, params=values) == session.sql(store, query, params=values)
    with pytest.raises(ConfigError, match="'a' has type object"):
        child.sql(store, "SELECT $a", params={"a": object()})


def test_errors_are_those_of_this_process(store: LanceStore) -> None:
    with pytest.raises(QueryError, match="rollout") as caught:
        child.sql(store, "SELECT * FROM rollout")
    assert "final_rollouts" in caught.value.fix
    with pytest.raises(VersionNotFound, match="never"):
        child.sql(store, "SELECT 1", "never")


def test_all_memory_of_the_process_is_bounded(store: LanceStore) -> None:
    # DuckDB keeps to its own limit; what DuckDB does not count is seen from outside.
    with pytest.raises(QueryError, match="more memory"):
        child.sql(store, "SELECT list(x) FROM range(100000000) t(x)", memory_limit="200MB")
    with pytest.raises(QueryError, match="more memory than 20MB"):
        child.sql(store, "SELECT 1", memory_limit="20MB")


def test_time_is_bounded(store: LanceStore) -> None:
    endless = "SELECT count(*) FROM range(100000000000) a(x), range(1000000) b(y) WHERE x * y = 7"
    with pytest.raises(QueryError, match="took longer than"):
        child.sql(store, endless, timeout_s=0.2)


def test_a_size_is_read(store: LanceStore) -> None:
    assert child.memory_bytes("4GB") == 4 * 10**9
    assert child.memory_bytes("1.5 GiB") == 3 * 2**29
    assert child.memory_bytes("500mb") == 5 * 10**8
    for wrong in ("much", "4", "GB", "-1GB"):
        with pytest.raises(ConfigError, match="amount of memory"):
            child.sql(store, "SELECT 1", memory_limit=wrong)
