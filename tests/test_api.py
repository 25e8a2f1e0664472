"""The public interface: what the README shows, options like the command line's, and use in a notebook's event loop."""

import asyncio
import inspect
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import rollhouse as rh
from rollhouse.base.options import option_types, options_of
from rollhouse.cli.main import app
from rollhouse.tests import api_options
from typer.main import get_command
from typer.testing import CliRunner

ASKED = [{"role": "user", "content": "2+2?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "4"}]


@pytest.fixture
def store(tmp_path: Path) -> rh.Store:
    return rh.open(tmp_path / "store")


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rh.Store]:
    """A store with a run `base`, the snapshot s1 and the dataset demos@1."""
    store = rh.open(tmp_path_factory.mktemp("api") / "store")
    store.collect(env="workplace-mini", policy=rh.scripted(mistake_rate=0.4), num_repeats=3, limit=20, run="base")
    store.snapshot("s1")
    store.build_sft("demos", at="s1", min_reward=1, per_task=2)
    yield store


def test_open_makes_a_store_and_reads_the_past(store: rh.Store) -> None:
    store.add([rh.Rollout(messages=ANSWERED, reward=1.0)], run="mine")
    store.snapshot("s1")
    store.add([rh.Rollout(messages=ANSWERED, reward=0.0)], run="more")
    past = rh.open(store.uri, at="s1")
    assert past.sql("select run_id from rollouts").rows() == [{"run_id": "mine"}]
    with pytest.raises(rh.RollhouseError, match="s1"):
        past.add([rh.Rollout(messages=ANSWERED)])
    with pytest.raises(rh.RollhouseError, match="no store"):
        rh.open(Path(store.uri) / "absent", create=False)


def test_openai_messages_are_stored_as_they_are(store: rh.Store) -> None:
    added = store.add([rh.Rollout(messages=ANSWERED, reward=1.0)], run="mine")
    assert (added.added, added.present) == (1, 0)
    (row,) = store.sql("select rollout_id, reward, passed, n_turns, status from rollouts").rows()
    assert (row["reward"], row["passed"], row["n_turns"], row["status"]) == (1.0, True, 1, "completed")
    rollout = store.rollout(row["rollout_id"][:8])
    assert rollout.to_openai() == ANSWERED and rollout.prompt is not None and rollout.prompt.messages[0].text == "2+2?"
    assert store.check() == []
    assert store.sql("select role, text from turns order by position").rows() == [
        {"role": "user", "text": "2+2?"},
        {"role": "assistant", "text": "4"},
    ]


def test_adding_again_adds_nothing_and_equal_rollouts_are_two(store: rh.Store) -> None:
    two = [rh.Rollout(messages=ANSWERED, reward=1.0), rh.Rollout(messages=ANSWERED, reward=1.0)]
    assert store.add(two, run="mine").added == 2
    again = store.add([*two, rh.Rollout(messages=ANSWERED, reward=0.0)], run="mine")
    assert (again.added, again.present) == (1, 2)
    rows = store.sql("select group_id, sample_index from rollouts order by sample_index").rows()
    assert [row["sample_index"] for row in rows] == [0, 1, 2] and len({row["group_id"] for row in rows}) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"messages": ANSWERED, "reward": float("nan")}, "reward"),
        ({"messages": ANSWERED, "status": "done"}, "status"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "4", "mood": "good"}]}, r"messages\[1\]\.mood"),
        ({"messages": [*ASKED, {"role": "assistant", "tool_calls": [{"function": {"nam": "f"}}]}]}, r"messages\[1\]\.tool_calls\[0\]"),
        ({"messages": ANSWERED, "token_ids": [1, 2]}, "loss_mask"),
    ],
)  # fmt: skip
def test_a_rollout_that_does_not_fit_is_refused_when_it_is_made(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(rh.RollhouseError, match=message):
        rh.Rollout(**wrong)


def test_nothing_gets_past_the_writer(store: rh.Store) -> None:
    assert not [name for name in dir(store) if name in ("append", "insert_if_absent", "insert")]


def test_an_id_that_several_begin_with_lists_them(collected: rh.Store) -> None:
    ids = collected.sql("select rollout_id from rollouts").pl()["rollout_id"].sort().to_list()
    prefix = next(a[:1] for a, b in itertools.pairwise(ids) if a[0] == b[0])
    with pytest.raises(rh.RollhouseError, match=f"begin with '{prefix}'"):
        collected.rollout(prefix)
    with pytest.raises(rh.RollhouseError, match="no rollout"):
        collected.rollout("zz")


def test_the_loop(collected: rh.Store, tmp_path: Path) -> None:
    demos = collected.dataset("demos")
    assert demos.label == "demos@1" and collected.build_sft("demos", at="s1", min_reward=1, per_task=2).existed
    assert demos.to_hf().num_rows == demos.to_polars().height == demos.n_rows > 0
    failed = collected.sql("select rollout_id from final_rollouts where not passed limit 1").rows()[0]["rollout_id"]
    assert demos.why(failed)[0]["reason"] == "reward below 1"
    run = collected.train_sft(recipe="tiny-sft", dataset=demos, model="tiny-base", max_num_steps=2, run="sft")
    assert run.status == "finished" and run.kind == "sft" and len(run.checkpoints()) == 1
    assert run.metrics("train/loss")["step"].to_list() == [1, 2]
    good = collected.evaluate(rh.scripted(), env="workplace-mini", limit=4, run="good")
    bad = collected.evaluate(rh.scripted(mistake_rate=1.0), env="workplace-mini", limit=4, run="bad")
    assert good.summary is not None and good.summary["pass_rate"] == 1.0
    assert collected.compare(bad, good).overall[0].difference == 1.0
    tuned = collected.evaluate(rh.torch(run), env="workplace-mini", limit=1, max_turns=1, run="tuned")
    assert tuned.config["policy"]["engine"] == "torch"
    assert collected.lineage(run).children and collected.lineage(demos).kind == "dataset"
    assert collected.report(good, bad, out=tmp_path / "report.html").stat().st_size > 1000
    assert {"base", "sft", "good", "bad"} <= {str(run) for run in collected.runs()}


def test_a_served_policy_records_its_callers(store: rh.Store, tiny_base: Path) -> None:
    answers: list[int] = []

    def call(listening: Any) -> None:
        def work() -> None:
            body = {"model": "tiny", "messages": ASKED, "max_tokens": 4}
            reply = httpx.post(f"{listening.url}/rollouts/one/v1/chat/completions", json=body, timeout=120)
            answers.append(reply.status_code)
            httpx.post(f"{listening.url}/rollouts/one/finish", json={"reward": 1.0}, timeout=120)
            listening.stop()

        threading.Thread(target=work).start()

    summary = store.serve(engine="torch", model=tiny_base, port=0, run="served", on_ready=call)
    assert answers == [200] and summary["run_id"] == "served"
    assert store.sql("select run_id, reward from rollouts").rows() == [{"run_id": "served", "reward": 1.0}]


def test_tasks_are_generated_once(store: rh.Store) -> None:
    made = store.generate_tasks("workplace-mini", splits=["train"], count=3)
    assert made == [{"environment": "workplace-mini", "split": "train", "tasks": 3, "new": 3}]
    assert store.generate_tasks("workplace-mini", split=["train"], count=3)[0]["new"] == 0


def test_calls_work_under_a_running_loop(store: rh.Store) -> None:
    async def notebook() -> None:
        store.collect(env="workplace-mini", policy=rh.scripted(), limit=3, run="loop")
        store.evaluate(rh.scripted(), env="workplace-mini", limit=2, run="ev")
        store.rescore("workplace-mini", of_run="loop", run="again")

    asyncio.run(notebook())
    assert (store.run("again").summary or {})["left_out"] == {}
    assert {run.run_id: run.status for run in store.runs()} == dict.fromkeys(("loop", "ev", "again"), "finished")


def test_an_unknown_option_names_the_nearest(store: rh.Store) -> None:
    wrong: Any = {"num_repeat": 3}
    with pytest.raises(rh.RollhouseError, match="num_repeat") as raised:
        store.collect(env="workplace-mini", **wrong)
    assert "num_repeats" in raised.value.fix


def test_what_comes_back_is_shown_as_html_with_data_escaped(collected: rh.Store, store: rh.Store) -> None:
    store.add([rh.Rollout(messages=[{"role": "user", "content": "<script>alert(1)</script>"}, ANSWERED[1]])], run="r")
    row = store.sql("select rollout_id, run_id from rollouts").rows()[0]
    shown = [
        store.rollout(row["rollout_id"]),
        store.run(row["run_id"]),
        store.sql("select * from turns"),
        collected.dataset("demos"),
    ]
    for one in shown:
        html = one._repr_html_()
        assert "<table" in html and "<script>" not in html


def test_an_answer_is_a_frame(collected: rh.Store) -> None:
    answer = collected.sql("select run_id, avg(reward) as reward from rollouts group by all")
    assert isinstance(answer.pl(), pl.DataFrame) and "base" in answer.pl()["run_id"].to_list()
    assert list(answer.df().columns) == answer.arrow().column_names == answer.relation().columns


# A command → the method of `Store` with the same options.
METHODS = {
    "collect": "collect",
    "rescore": "rescore",
    "import": "import_",
    "export": "export",
    "serve": "serve",
    "dataset build sft": "build_sft",
    "dataset build dpo": "build_dpo",
    "dataset build grpo": "build_grpo",
    "dataset show": "dataset",
    "dataset list": "datasets",
    "train sft": "train_sft",
    "train dpo": "train_dpo",
    "train grpo": "train_grpo",
    "train replay": "replay",
    "eval env": "evaluate",
    "eval bfcl": "evaluate",
    "eval compare": "compare",
    "tasks generate": "generate_tasks",
    "runs list": "runs",
    "runs show": "run",
    "runs reproduce": "reproduce",
    "snapshot create": "snapshot",
    "snapshot list": "snapshots",
    "snapshot diff": "diff",
    "snapshot delete": "delete_snapshot",
    "sql": "sql",
    "query": "query",
    "search": "search",
    "label": "label",
    "report": "report",
    "lineage": "lineage",
    "show": "show",
    "check": "check",
    "compact": "compact",
    "gc": "gc",
    "pack": "pack",
    "unpack": "unpack",
}
# Commands whose work in Python is a function, a method of a result, or nothing that a program needs.
ELSEWHERE = {
    "demo": "the loop as a command",
    "doctor": "about this machine",
    "view": "pages for people",
    "train tiny": "rollhouse.train.tiny.base_policy",
    "tasks tables": "rollhouse.generate_tables",
    "tasks prepare": "rollhouse.prepare_tasks",
    "snapshot show": "Store.snapshots",
    "dataset why": "Dataset.why",
    "dataset diff": "Dataset.diff",
    "dataset export": "Dataset.export",
}
GENERATED = {
    "collect": "CollectOptions",
    "rescore": "RescoreOptions",
    "import_": "ImportOptions",
    "export": "ExportOptions",
    "serve": "ServeOptions",
    "generate_tasks": "TasksOptions",
    "evaluate": "EvaluateOptions",
    "build_sft": "SftBuildOptions",
    "build_dpo": "DpoBuildOptions",
    "build_grpo": "GrpoBuildOptions",
    "train_sft": "SftTrainingOptions",
    "train_dpo": "DpoTrainingOptions",
    "train_grpo": "GrpoTrainingOptions",
}
# Of the command line alone: where the store is and at which version it is read, how a command prints, and what a dry run prints.
OF_THE_COMMAND = {
    "store",
    "at",
    "format",
    "dry_run",
    "help",
    "config",
    "allow_code",
    "settings",
    "from",
    "snapshot",
    "view",
}
OF_THE_METHOD = {"self", "progress", "recipe", "overrides", "options", "at", "on_ready"}
# A flag that is another method, another argument's form, or only prints: command → flags.
FLAGS_ELSEWHERE = {
    "rescore": {"compare", "against"},  # the named query verdict_moves
    "import": {"file_format"},  # the argument `format`
    "export": {"file_format"},
    "check": {"fail_on", "repair", "salvage"},  # the exit code, `repair`, `salvage`
    "tasks generate": {"output"},
    "dataset build sft": {"snapshot_name"},  # `at=`
    "dataset build dpo": {"snapshot_name"},
    "dataset build grpo": {"snapshot_name"},
    "dataset show": {"dataset", "rows", "flagged"},
    "train replay": {"original", "run"},  # `run` and `name`
    "eval bfcl": {"before", "after"},  # `compare`
    "eval compare": {"run_a", "runs", "flips"},
    "snapshot delete": set(),
    "sql": {"text", "timeout"},  # `query` and `timeout_s`
    "query": {"params", "timeout", "memory"},
    "report": {"runs"},
    "search": {"like", "column"},  # `nearest`
    "lineage": {"id"},
    "label": {"labels"},
}
KEYWORDS_ELSEWHERE = {
    "import_": {"format"},
    "export": {"format"},
    "replay": {"run", "name"},
    "evaluate": {"policy", "benchmark"},
    "dataset": {"label"},
    "compare": {"a", "b"},
    "sql": {"query", "params", "timeout_s", "in_child"},
    "lineage": {"thing"},
}


def commands(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The commands by their path, without the groups that they stand in."""
    for name, inside in getattr(node, "commands", {}).items():
        yield from commands(inside, (*path, name))
    if not hasattr(node, "commands"):
        yield " ".join(path), node


COMMANDS = dict(commands(get_command(app)))


def test_every_command_has_a_method_or_a_reason() -> None:
    assert set(COMMANDS) == METHODS.keys() | ELSEWHERE.keys()
    assert all(hasattr(rh.Store, method) for method in METHODS.values())
    for place in ELSEWHERE.values():
        owner, _, name = place.rpartition(".")
        assert (
            " " in place
            or owner == "rollhouse.train.tiny"
            or hasattr({"rollhouse": rh, "Store": rh.Store, "Dataset": rh.Dataset}[owner], name)
        )


@pytest.mark.parametrize("command", METHODS)
def test_method_and_command_have_the_same_options(command: str) -> None:
    method = METHODS[command]
    flags = {parameter.name.removeprefix("setting_") for parameter in COMMANDS[command].params}
    keywords = {
        name
        for name, parameter in inspect.signature(getattr(rh.Store, method)).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        and parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }
    flags_of_another = set()
    for model in api_options.MODELS[GENERATED[method]] if method in GENERATED else ():
        keywords |= set(option_types(model))
        # Sections and settings without a flag are set on the command line as `section.key=value`.
        flags |= set(model.model_fields)
        flags_of_another |= {option.name for option in options_of(model)} - flags if method == "evaluate" else set()
    assert flags - OF_THE_COMMAND - FLAGS_ELSEWHERE.get(command, set()) - keywords == set()
    assert keywords - OF_THE_METHOD - KEYWORDS_ELSEWHERE.get(method, set()) - flags - flags_of_another == set()


def test_the_keywords_are_those_of_the_models() -> None:
    assert api_options.FILE.read_text() == api_options.source(), "run `python tests/api_options.py`"


def test_a_command_and_its_method_write_the_same_run(store: rh.Store) -> None:
    options = [
        "--env",
        "workplace-mini",
        "--engine",
        "scripted",
        "--mistake-rate",
        "0.5",
        "--limit",
        "3",
        "--num-repeats",
        "2",
    ]
    made = CliRunner().invoke(app, ["collect", *options, "--run", "one", "--store", store.uri])
    assert made.exit_code == 0, made.output
    store.collect(env="workplace-mini", engine="scripted", mistake_rate=0.5, limit=3, num_repeats=2, run="two")
    one, two = (json.loads(json.dumps(store.run(name).config)) for name in ("one", "two"))
    assert {**one, "run": None} == {**two, "run": None}


def test_the_public_names_are_there() -> None:
    assert all(getattr(rh, name) is not None for name in rh.__all__)
