"""The class `Rollout`: what it takes, what it fills in, and that it comes back from a store as it went in."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import SchemaMismatch
from rollhouse.queries.rollouts import load_rollout
from rollhouse.store.adding import add_rollouts
from rollhouse.store.appending import append_rows
from rollhouse.store.describe import tables_markdown
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.messages import Message, ToolCall, VersionSpan
from rollhouse.store.rollout import ROLLOUTS, Rollout, Token
from rollhouse.store.schema import Stored, Table
from rollhouse.store.tables import TABLES
from rollhouse.store.task import PROMPTS, SCORES, TASKS, Component, Score, Task

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
CALLS = st.lists(st.builds(ToolCall, st.text("xyz", min_size=1), st.text("fg", min_size=1), TEXT), max_size=2).map(
    tuple
)
TURNS = st.builds(Message, st.just("assistant"), st.none() | TEXT, CALLS, reasoning=st.none() | TEXT)
RESULTS = st.builds(Message, st.just("tool"), st.none() | TEXT, tool_call_id=st.text("xyz", min_size=1))
# Tasks and prompt tokens are addressed by what they are of, and the first row of an address stays: each example has its own.
NUMBERS = itertools.count()
SINGLE = st.floats(-2, 2, width=32)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    mask = draw(st.none() | st.lists(st.integers(0, 1), max_size=6))
    tokens: dict[str, Any] = {}
    if mask is not None:
        logprobs = draw(st.none() | st.lists(SINGLE, min_size=sum(mask), max_size=sum(mask)))
        ids = draw(st.lists(st.integers(0, 9), min_size=len(mask), max_size=len(mask)))
        tokens = {"token_ids": ids, "loss_mask": mask, "logprobs": logprobs, "version_spans": [VersionSpan(0, 3)]}
    task = Task(
        f"e{next(NUMBERS)}", (Message("system", draw(TEXT)), Message("user", draw(TEXT))), draw(st.sampled_from([(), ({"type": "function", "function": {"name": "f"}},)])),
        ground_truth=draw(st.none() | st.dictionaries(TEXT, st.integers(), max_size=2)), split=draw(st.sampled_from(["train", "test"])),
        difficulty=draw(st.none() | SINGLE), extra=draw(st.dictionaries(TEXT, TEXT, max_size=1)),
    )  # fmt: skip
    reward = draw(st.none() | SINGLE)
    return Rollout(
        messages=draw(st.lists(TURNS | RESULTS, max_size=4)),
        task=task,
        prompt_token_ids=draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)) if tokens else None,
        tokenizer_hash="t" if tokens else None,
        template_hash=f"c{next(NUMBERS)}" if tokens else None,
        reward=reward,
        reward_components=draw(st.none() | st.lists(st.builds(Component, TEXT, st.floats(-1, 1), st.none() | st.floats(0, 1)), max_size=2)),
        status=draw(st.sampled_from(["completed", "truncated", "error"])),
        extra=draw(st.dictionaries(TEXT, st.integers() | TEXT, max_size=2)),
        scores=draw(st.lists(st.builds(Score, SINGLE, st.booleans(), st.text("ab", min_size=1), st.just("1")), max_size=1)),
        **tokens,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanceStore]:
    yield LanceStore.create(tmp_path_factory.mktemp("rollouts") / "store")


@settings(max_examples=25, deadline=None)
@given(made=rollouts())
def test_any_rollout_comes_back_equal(shared: LanceStore, made: Rollout) -> None:
    run = add_rollouts(shared, [made]).run_id
    [id] = shared.read("rollouts", ["rollout_id"], f"run_id = '{run}'")["rollout_id"].to_pylist()
    found = load_rollout(shared, id)
    places = ("rollout_id", "slot_id", "run_id", "group_id", "episode_id", "sample_index")
    wanted = made.changed(**{name: getattr(found, name) for name in places})
    wanted.scores = [score.about(id, run) for score in made.scores]
    differ = {each.name: (getattr(found, each.name), getattr(wanted, each.name)) for each in fields(Rollout)}
    assert {name: pair for name, pair in differ.items() if pair[0] != pair[1]} == {}
    assert found == wanted and found.to_openai() == made.to_openai()
    assert [score.created_at is not None for score in found.scores] == [True] * len(made.scores)


def test_openai_messages_are_taken_as_they_are_and_the_rest_is_filled_in() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1'}}
    talk = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c", "content": '{"error": "no"}'},
        {"role": "assistant", "content": "4"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    rollout = Rollout(messages=talk, tools=tools, reward=1.0)
    assert rollout.prompt is not None and rollout.prompt.messages == (Message("user", "2+2?"),)
    assert [message.role for message in rollout.messages] == ["assistant", "tool", "assistant"]
    counts = (rollout.n_turns, rollout.n_tool_calls, rollout.n_tool_errors, rollout.n_parse_failures)
    assert counts == (2, 1, 1, 1) and rollout.passed is True and rollout.tools == tuple(tools)
    assert rollout.gaps == ["no_system_prompt", "no_task", "no_token_ids"]
    assert rollout.to_openai()[1]["tool_calls"] == [call] and rollout.prompt_id and rollout.task_id


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"messages": [{"role": "user", "text": "2+2?"}]}, r"messages\[0\]\.text is not a field"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{}", "arg": 1}]}]}, r"messages\[0\]\.tool_calls\[0\]\.arg is not a field"),
        ({"messages": [{"role": "assistant", "content": 4}]}, r"messages\[0\]\.content is not a string"),
        ({"messages": [{"content": "4"}]}, r"messages\[0\]\.role is missing"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant message"),
        ({"messages": "4"}, "messages is a str"),
        ({"messages": [], "status": "fine"}, "status 'fine' is not one of"),
        ({"messages": [], "reward": float("inf")}, "reward is inf"),
        ({"messages": [], "token_ids": [1], "loss_mask": []}, "1 token_ids but 0 in loss_mask"),
        ({"messages": [], "token_ids": [1], "loss_mask": [1], "logprobs": []}, "1 sampled tokens but 0 logprobs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_path(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(SchemaMismatch, match=path):
        Rollout(**wrong)


def test_from_a_dict_what_no_field_takes_goes_to_extra() -> None:
    talk = [{"role": "user", "content": "x", "name": "ann"}, {"role": "assistant", "content": "y"}]
    rollout = Rollout.from_dict({"messages": talk, "reward": 0.5, "colour": "red", "extra": {"kept": 1}})
    assert rollout.extra == {"kept": 1, "colour": "red", "messages[0].name": "ann"} and rollout.reward == 0.5


def test_tokens_say_which_were_sampled_by_which_version() -> None:
    spans = [VersionSpan(0, 3), VersionSpan(2, 4)]
    rollout = Rollout(messages=[], token_ids=[5, 6, 7], loss_mask=[1, 0, 1], logprobs=[-0.5, -1.0], version_spans=spans)
    assert rollout.tokens() == [
        Token(5, None, True, -0.5, 3),
        Token(6, None, False, None, 3),
        Token(7, None, True, -1.0, 4),
    ]


def test_other_rollouts_of_the_same_task_added_later_are_new(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")

    def answers(*texts: str) -> list[Rollout]:
        return [Rollout(messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]) for text in texts]  # fmt: skip

    assert add_rollouts(store, answers("a", "b"), "mine").added == 2
    second = add_rollouts(store, answers("c", "a"), "mine")
    assert (second.added, second.present) == (1, 1)
    rows = store.read("rollouts", ["sample_index"])
    assert sorted(rows["sample_index"].to_pylist()) == [0, 1, 2] and check(store) == []


def test_check_finds_rows_that_no_writer_lets_in(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    append_rows(store, "rollouts", [{"rollout_id": "bad", "reward": float("nan")}])
    problems = check(store)
    assert "Column rollouts.reward is not finite in 1 rows." in problems
    assert "Column rollouts.status is empty in 1 rows." in problems


@dataclass(kw_only=True)
class Wider(Rollout):
    """A rollout with one more column: the one edit that adds it."""

    mood: Annotated[str | None, Stored("how it felt")] = None


def test_a_new_column_is_one_edit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wider = Table.of_class("rollouts", ROLLOUTS.doc, ROLLOUTS.key, Wider, ROLLOUTS.replay)
    assert wider.schema.field("mood").type == pa.string() and "mood" not in ROLLOUTS.schema.names
    monkeypatch.setitem(TABLES, "rollouts", wider)
    store = LanceStore.create(tmp_path / "store")
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    add_rollouts(store, [Wider(messages=talk, mood="fine")], "r")
    assert store.read("rollouts", ["mood"])["mood"].to_pylist() == ["fine"]
    assert "- `mood`: how it felt" in tables_markdown()


def test_every_column_is_a_field_and_every_builder_makes_all_of_them() -> None:
    """A row is made of an object alone, so no builder can leave a column out."""
    for table in (ROLLOUTS, PROMPTS, TASKS, SCORES):
        assert table.of is not None and set(table.schema.names) <= {each.name for each in fields(table.of)}
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    row = Rollout(messages=talk).to_row()
    assert list(row) == ROLLOUTS.schema.names and json.loads(row["extra"] or "{}") == {}
