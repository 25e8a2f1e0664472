"""Search finds messages, tool calls and near vectors."""

import json

import lance
import pyarrow as pa
import pytest
from rollhouse.base.errors import ConfigError, QueryError, VersionNotFound
from rollhouse.cli.main import app
from rollhouse.queries.search import excerpt, nearest, search, search_prompts, vector_of
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.snapshots import create_snapshot
from rollhouse.tests.rows import prompt_row, rollout_row, sum_rollout
from typer.testing import CliRunner


def talk(output: str, title: str) -> list[dict]:
    call = ToolCall("c", "calendar_create", json.dumps({"title": title}))
    return [message.to_row() for message in (Message("assistant", None, (call,)), Message("assistant", output))]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Five rollouts of run `a`, the first three in snapshot `three`; then one of run `b` that no index covers. Vectors on the first four."""
    store = LanceStore.create(tmp_path_factory.mktemp("search") / "store")
    append_rows(store, "prompts", [prompt_row(), prompt_row("Cancel the dentist.")])
    output = ("The meeting is scheduled.", "Nothing happened.", "I could not find it.", "Done.", "Meetings, meetings.")
    titles = ("budget review", "lunch with Ottoline", "dentist", "dentist", "budget")
    rows = [
        rollout_row(
            "a", i, messages=talk(output[i], titles[i]), status="truncated" if i == 1 else "completed", reward=i / 4
        )
        for i in range(5)
    ]
    append_rows(store, "rollouts", rows[:3])
    create_snapshot(store, "three")
    append_rows(store, "rollouts", rows[3:])
    search(store, "anything")
    add_vectors(store, [row["rollout_id"] for row in rows[:4]])
    append_rows(store, "rollouts", [rollout_row("b", 0, messages=talk("The budget is spent.", "zebra"))])
    return store


def add_vectors(store: LanceStore, ids: list[str]) -> None:
    kind = pa.list_(pa.float32(), 2)
    lance.dataset(store.table_uri("rollouts")).add_columns(pa.field("embedding", kind))
    vectors = pa.table({"rollout_id": ids, "embedding": pa.array([[float(i), 0.0] for i in range(len(ids))], kind)})
    update = lance.dataset(store.table_uri("rollouts")).merge_insert("rollout_id").write_mode("rewrite_columns")
    update.when_matched_update_all().execute(vectors)


def found(table: pa.Table) -> list[tuple[str, int]]:
    index = {sum_rollout(run, i).rollout_id: (run, i) for run in "ab" for i in range(5)}
    return [index[id] for id in table["rollout_id"].to_pylist()]


def test_words_are_found_in_messages_and_calls(talks: LanceStore) -> None:
    assert found(search(talks, "ottoline")) == [("a", 1)]
    assert found(search(talks, "NOTHING")) == [("a", 1)]
    assert set(found(search(talks, "schedule"))) == {("a", 0)}
    assert len(found(search(talks, "calendar_create"))) == 6
    assert search(talks, "giraffe").num_rows == 0


def test_what_matches_more_comes_first(talks: LanceStore) -> None:
    answer = search(talks, "meeting budget")
    # Both words and one of them twice; both words; one word.
    assert set(found(answer)[:2]) == {("a", 0), ("a", 4)} and found(answer)[2:] == [("b", 0)]
    assert answer["score"].to_pylist() == sorted(answer["score"].to_pylist(), reverse=True)
    assert len(search(talks, "meeting budget", limit=1)) == 1


def test_rows_that_no_index_covers_are_found(talks: LanceStore) -> None:
    assert found(search(talks, "zebra")) == [("b", 0)]


def test_filters(talks: LanceStore) -> None:
    assert found(search(talks, "budget", run="b")) == [("b", 0)]
    assert found(search(talks, "calendar_create", status="truncated")) == [("a", 1)]
    assert found(search(talks, "dentist", where="reward > 0.5")) == [("a", 3)]
    assert search(talks, "dentist", environment="nowhere").num_rows == 0
    with pytest.raises(QueryError, match="nix"):
        search(talks, "dentist", where="nix > 3")


def test_at_a_snapshot_only_what_was_there(talks: LanceStore) -> None:
    assert found(search(talks, "dentist")) != found(search(talks, "dentist", at="three")) == [("a", 2)]
    # The best matches came later: it goes on looking.
    assert found(search(talks, "budget meeting", at="three", limit=1)) == [("a", 0)]
    with pytest.raises(VersionNotFound):
        search(talks, "dentist", at="never")


def test_the_place_that_matched_is_shown(talks: LanceStore) -> None:
    (row,) = search(talks, "ottoline").to_pylist()
    assert "Ottoline" in row["match"] and row["match"].startswith("call: ")
    long = [Message("assistant", "x " * 300 + "The schedule stands. " + "y " * 300).to_row()]
    assert "schedule stands" in excerpt(long, "scheduling") and len(excerpt(long, "scheduling")) < 150
    assert excerpt([], "word") == ""


def test_prompts_are_found_with_how_they_fared(talks: LanceStore) -> None:
    (row,) = search_prompts(talks, "adding").to_pylist()
    assert (row["prompt_id"], row["rollouts"]) == (prompt_row()["prompt_id"], 6)
    assert row["mean_reward"] == pytest.approx((0.25 + 0.5 + 0.75 + 1 + 1) / 6) and "Add 1" in row["match"]
    (other,) = search_prompts(talks, "dentist").to_pylist()
    assert (other["rollouts"], other["pass_rate"]) == (0, None)
    assert search_prompts(talks, "giraffe").num_rows == 0


def test_neighbours(talks: LanceStore) -> None:
    answer = nearest(talks, "embedding", [2.2, 0.0], limit=2)
    assert found(answer) == [("a", 2), ("a", 3)]
    assert answer["distance"].to_pylist() == pytest.approx([0.04, 0.64], rel=1e-4)
    assert len(nearest(talks, "embedding", [0.0, 0.0])) == 4
    assert found(nearest(talks, "embedding", [0.0, 0.0], status="truncated")) == [("a", 1)]
    assert found(nearest(talks, "embedding", [3.0, 0.0], at="three", limit=1)) == [("a", 2)]
    with pytest.raises(ConfigError, match="vectors of 2"):
        nearest(talks, "embedding", [1.0])
    with pytest.raises(ConfigError, match="no embedding"):
        vector_of(talks, "embedding", sum_rollout("b", 0).rollout_id)


def test_nothing_to_search_for(talks: LanceStore) -> None:
    for call in (lambda: search(talks, " ?"), lambda: search(talks, "a", limit=0), lambda: search_prompts(talks, "")):
        with pytest.raises(ConfigError):
            call()


def rollhouse(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, result.stdout if result.exit_code == 0 else result.stderr


def test_the_command(talks: LanceStore) -> None:
    common = ("--store", talks.uri, "--format", "json")
    code, out = rollhouse("search", "dentist", "--run", "a", "--where", "reward > 0.5", *common)
    assert code == 0 and [row["reward"] for row in json.loads(out)] == [0.75]
    id = sum_rollout("a", 1).rollout_id
    code, out = rollhouse("search", "--like", id, "--limit", "1", *common)
    assert code == 0 and [row["rollout_id"] for row in json.loads(out)] == [id]
    code, out = rollhouse("search", "dentist", "--prompts", *common)
    assert code == 0 and json.loads(out)[0]["rollouts"] == 0
    code, out = rollhouse("search", "dentist", "--store", talks.uri)
    assert code == 0 and "dentist" in out


@pytest.mark.parametrize(
    "arguments",
    [(), ("words", "--like", "x"), ("words", "--prompts", "--run", "a"), ("--like", "x", "--column", "nix")],
)
def test_the_command_refuses_politely(talks: LanceStore, arguments: tuple[str, ...]) -> None:
    code, error = rollhouse("search", *arguments, "--store", talks.uri)
    assert code == 2 and error.startswith("error: ")
