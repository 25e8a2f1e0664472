"""`rollhouse collect`, as a user types it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.policies.models import weights_hash
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run
from rollhouse.tests.office import TASKS, write_tables
from typer.testing import CliRunner, Result

DATA = Path(os.environ.get("ROLLHOUSE_CONFORMANCE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "workplace"


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> tuple[int, str]:
    """Exit code and output on one line."""
    result = rollhouse(*arguments)
    return result.exit_code, " ".join(result.stderr.split())


def start(*arguments: object) -> subprocess.Popen:
    """The command in a process group of its own, like a shell's foreground job."""
    command = [str(Path(sys.executable).with_name("rollhouse")), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.1)


def rows_of(store: Path, run: str) -> list[dict[str, Any]]:
    columns = ["rollout_id", "status", "engine", "policy_id", "policy_version", "reward"]
    if not LanceStore(str(store)).has_table("rollouts"):
        return []
    return LanceStore.open(store).read("rollouts", columns, f"run_id = '{run}'").to_pylist()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_the_script_on_the_mini_workplace_with_a_snapshot(store: Path) -> None:
    command = ("collect", "--env", "workplace-mini", "--limit", 20, "--num-repeats", 2, "--mistake-rate", 0.5, "--store", store, "--run", "logs")  # fmt: skip
    result = rollhouse(*command, "--snapshot", "first", "--format", "json")
    assert result.exit_code == 0, result.output
    (summary,) = json.loads(result.stdout)
    assert (summary["collected"], summary["statuses"]) == (40, {"completed": 40}) and 0 < summary["reward_mean"] < 1
    assert len(rows_of(store, "logs")) == 40
    assert LanceStore.open(store).read("rollouts", ["rollout_id"], at="first").num_rows == 40
    run = get_run(LanceStore.open(store), "logs")
    assert (run["kind"], run["status"], run["summary"]["pass_rate"]) == ("collect", "finished", summary["pass_rate"])

    result = rollhouse(*command)
    assert result.exit_code == 0 and "skipped" in result.stdout and len(rows_of(store, "logs")) == 40


def test_the_model_through_vllm_in_the_engine_that_runs(engine: Any, tiny_base: Path, store: Path) -> None:
    result = rollhouse("collect", "--env", "workplace-mini", "--engine", "vllm", "--model", tiny_base, "--split", "validation", "--limit", 12, "--num-repeats", 2, "--seed", 0, "--store", store, "--run", "v", "--format", "json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (summary,) = json.loads(result.stdout)
    assert summary["collected"] == 24 and summary["sampled_tokens"] > 100 and not summary["errors"]
    rows = rows_of(store, "v")
    assert {row["policy_id"] for row in rows} == {weights_hash(tiny_base)} and {row["engine"] for row in rows} == {
        "vllm"
    }
    assert get_run(LanceStore.open(store), "v")["config"]["model_hash"] == weights_hash(tiny_base)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no conformance data at {DATA}")
def test_the_script_solves_every_real_task(store: Path) -> None:
    result = rollhouse("collect", "--env", "workplace", "--tables", DATA / "tables", "--tasks", DATA / "tasks.jsonl", "--engine", "scripted", "--store", store, "--run", "w", "--format", "json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (summary,) = json.loads(result.stdout)
    assert (summary["collected"], summary["pass_rate"], summary["tool_errors"]) == (345, 1.0, 0)


def test_wrong_requests_are_refused_in_one_sentence(store: Path, tiny_base: Path, tmp_path: Path) -> None:
    mini = ("collect", "--env", "workplace-mini", "--store", store, "--limit", 3)
    empty = Path(shutil.copytree(tiny_base, tmp_path / "no-weights", ignore=shutil.ignore_patterns("*.safetensors")))
    cases = [
        (("collect", "--env", "moon", "--store", store), "no environment 'moon'", 2),
        ((*mini, "--engine", "abacus"), "no engine 'abacus'", 2),
        ((*mini, "--engine", "vllm"), "needs a model", 2),
        ((*mini, "--engine", "torch", "--model", empty), "has no weights", 2),
        ((*mini, "--engine", "openai:http://127.0.0.1:9/v1"), "does not answer", 1),
        ((*mini, "--split", "moon"), "no split 'moon'", 2),
        ((*mini, "--mistake-rate", 2), "mistake_rate cannot be 2.0", 2),
        (("collect", "--env", "workplace", "--store", store), "needs its tables", 2),
    ]
    for command, message, code in cases:
        assert refusal(*command)[0] == code and message in refusal(*command)[1], command
    assert LanceStore.open(store).read("rollouts").num_rows == 0


def test_when_all_failed_there_is_no_snapshot_and_the_advice_works(store: Path, tmp_path: Path) -> None:
    file, tables = tmp_path / "tasks.jsonl", write_tables(tmp_path / "tables")
    file.write_text(json.dumps({**TASKS[0], "ground_truth": "no list of calls"}))
    command = ("collect", "--env", "workplace", "--tables", tables, "--tasks", file, "--store", store, "--run", "r", "--snapshot", "s")  # fmt: skip
    for more in ((), ("--retry-failed",)):
        code, reported = refusal(*command, *more)
        assert code == 1 and "All 1 rollouts of run r failed" in reported and "--run r --retry-failed" in reported
    shown = rollhouse(*command, "--retry-failed")
    assert shown.exit_code == 1 and "failures" in shown.stdout and "needs a ground truth" in shown.stdout, shown.stdout
    assert get_run(LanceStore.open(store), "r")["status"] == "failed"
    assert [row["attempt"] for row in LanceStore.open(store).read("rollouts").to_pylist()] == [0, 1, 2]
    assert "snapshot" in refusal("snapshot", "show", "s", "--store", store)[1]


def test_the_split_comes_from_the_row_or_from_the_command(store: Path, tmp_path: Path) -> None:
    file, tables = tmp_path / "tasks.jsonl", write_tables(tmp_path / "tables")
    rows = [TASKS[0], TASKS[1], {**TASKS[2], "split": "validation"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--env", "workplace", "--tables", tables, "--tasks", file, "--store", store, "--format", "json")
    assert json.loads(rollhouse("collect", *common).stdout)[0]["collected"] == 2
    assert json.loads(rollhouse("collect", *common, "--split", "validation").stdout)[0]["collected"] == 1
    listed = json.loads(rollhouse("tasks", "generate", *common, "--tasks-split", "test").stdout)
    assert [(row["split"], row["tasks"]) for row in listed] == [("train", 0), ("validation", 1)]
    assert sorted(LanceStore.open(store).read("tasks")["split"].to_pylist()) == ["train", "train", "validation"]


def test_a_long_value_leaves_the_names_of_a_summary_whole(tmp_path: Path) -> None:
    store = tmp_path / ("deep" * 10)
    file = tmp_path / "chats.jsonl"
    assert rollhouse("collect", "--env", "workplace-mini", "--limit", 2, "--store", store).exit_code == 0
    command = [sys.executable, "-m", "rollhouse.cli.main", "export", "openai-chat", str(file), "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "40"})
    assert "│ rollouts │" in done.stdout
    values = [line.split("│")[2].strip() for line in done.stdout.splitlines() if line.count("│") == 3]
    assert str(file) in "".join(values), "a long value is folded, not cut"


def test_another_configuration_under_the_same_name_is_refused(store: Path) -> None:
    command = ("collect", "--env", "workplace-mini", "--limit", 3, "--store", store, "--run", "r")
    assert rollhouse(*command).exit_code == 0
    code, reported = refusal(*command, "--mistake-rate", 0.5)
    assert code == 2 and "policy.mistake_rate is 0.0 in the run and 0.5 now" in reported
    assert rollhouse(*command, "--snapshot", "s").exit_code == 0
    assert "snapshot 's' already" in refusal(*command, "--snapshot", "s")[1]


OFFICE = Path(__file__).with_name("slow_office.py")
LONG = ("collect", "--env", OFFICE, "--limit", 150, "--num-repeats", 4, "--concurrency", 16, "--format", "json")


def test_ctrl_c_keeps_what_was_collected_and_a_second_call_finishes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*LONG, "--store", store, "--run", "r")
    monkeypatch.setenv("SLOW_OFFICE_S", "0.3")
    process = start(*command)
    wait_for(lambda: rows_of(store, "r"))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted" in errors and "Traceback" not in errors
    kept = len(rows_of(store, "r"))
    assert 0 < kept < 600 and get_run(LanceStore.open(store), "r")["status"] == "aborted"
    monkeypatch.delenv("SLOW_OFFICE_S")
    (summary,) = json.loads(rollhouse(*command).stdout)
    assert (summary["skipped"], summary["collected"]) == (kept, 600 - kept)
    assert len({row["rollout_id"] for row in rows_of(store, "r")}) == len(rows_of(store, "r")) == 600


@pytest.mark.system
def test_kill_9_and_resume_give_exactly_the_planned_rollouts(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*LONG, "--store", store, "--run", "r")
    monkeypatch.setenv("SLOW_OFFICE_S", "0.1")
    for _ in range(3):
        before = len(rows_of(store, "r"))
        process = start(*command)
        wait_for(lambda before=before: len(rows_of(store, "r")) > before)
        process.kill()
        process.communicate(timeout=60)
    assert before < len(rows_of(store, "r")) < 600
    monkeypatch.delenv("SLOW_OFFICE_S")
    assert rollhouse(*command).exit_code == 0
    kept = rows_of(store, "r")
    assert len({row["rollout_id"] for row in kept}) == len(kept) == 600
    reference = store.with_name("reference")
    assert rollhouse(*LONG, "--store", reference, "--run", "r").exit_code == 0
    assert {row["rollout_id"] for row in kept} == {row["rollout_id"] for row in rows_of(reference, "r")}


def test_a_failing_verifier_is_counted_reported_and_retried(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("collect", "--env", OFFICE, "--limit", 20, "--store", store, "--run", "r")
    monkeypatch.setenv("BROKEN_OFFICE", "verifier")
    result = rollhouse(*command)
    assert result.exit_code == 1 and "3 of 20 rollouts failed" in " ".join(result.stderr.split())
    assert "RuntimeError: no verdict on mails" in result.stdout and "verifier" in result.stdout
    assert get_run(LanceStore.open(store), "r")["status"] == "finished"
    assert Counter(row["status"] for row in rows_of(store, "r")) == {"completed": 17, "error": 3}
    monkeypatch.delenv("BROKEN_OFFICE")
    (summary,) = json.loads(rollhouse(*command, "--retry-failed", "--format", "json").stdout)
    assert (summary["collected"], summary["failed"], summary["skipped"], summary["failures"]) == (3, 0, 17, [])


def test_a_dry_run_reports_what_is_missing_and_writes_nothing(store: Path) -> None:
    command = ("collect", "--env", "workplace-mini", "--limit", 6, "--store", store, "--run", "r")
    dry = (*command, "--num-repeats", 2, "--dry-run")
    result = rollhouse(*dry)
    assert result.exit_code == 0 and "num_repeats: 2" in result.stdout and not store.exists()
    assert rollhouse(*command).exit_code == 0
    (plan,) = json.loads(rollhouse(*command, "--dry-run", "--format", "json").stdout)
    assert (plan["tasks"], plan["rollouts"], plan["already_there"], plan["to_collect"]) == (6, 6, 6, 0)
    assert (
        plan["config"]["environment"]["name"] == "workplace-mini"
        and sum(group["tasks"] for group in plan["groups"]) == 6
    )
    code, reported = refusal(*dry)
    assert code == 2 and "num_repeats is 1 in the run and 2 now" in reported
    assert len(rows_of(store, "r")) == 6


def test_the_shipped_mixture_of_environments(store: Path) -> None:
    command = (
        "collect",
        "--config",
        "collect-mix",
        "--store",
        store,
        "environment.limit=9",
        "num_repeats=2",
        "run=mix",
    )
    (plan,) = json.loads(rollhouse(*command, "--dry-run", "--format", "json").stdout)
    tasks = Counter({group["environment"]: 0 for group in plan["groups"]})
    for group in plan["groups"]:
        tasks[group["environment"]] += group["tasks"]
    assert tasks == {"workplace-mini": 6, "math": 3} and plan["rollouts"] == 18
    result = rollhouse(*command, "--format", "json")
    assert result.exit_code == 0, result.output
    (summary,) = json.loads(result.stdout)
    assert {group["environment"] for group in summary["groups"]} == {"workplace-mini", "math"}
    assert summary["pass_rate"] == 1.0 and set(summary["pass_at_k"]) == {"1", "2"}
    rows = (
        LanceStore.open(store)
        .read("rollouts", ["rollout_id", "environment", "reward", "scorer", "n_turns"])
        .to_pylist()
    )
    raw = {row["rollout_id"]: row for row in LanceStore.open(store).read("scores").to_pylist()}
    for row in rows:
        shaped = row["environment"] == "workplace-mini"
        assert row["scorer"].endswith("+shaped") == shaped == (row["rollout_id"] in raw)
        if shaped:
            assert raw[row["rollout_id"]]["reward"] == 1.0
            assert row["reward"] == pytest.approx(1.0 - 0.01 * row["n_turns"], abs=1e-6)
    code, reported = refusal(*command, "environment.mixture=[{name: math}]")
    assert code == 2 and "environment.mixture.0.name is 'workplace-mini' in the run and 'math' now" in reported


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--env", "math", "environment.mixture=[{name: math}]"), "are both set"),
        ((), "No environment is named"),
        (("--env", "workplace-mini", "num_repeat=2"), "Did you mean 'num_repeats'"),
        (("--env", "workplace-mini", "--workers", "dask"), "workers cannot be 'dask'"),
        (("--env", "workplace-mini", "--token-budget", 5), "shows no tokens"),
        (("--env", "workplace-mini", "--token-budget", 5, "--dry-run"), "shows no tokens"),
        (
            (
                "--env",
                "workplace-mini",
                "--engine",
                "openai:http://127.0.0.1:9",
                "--token-budget",
                5,
                "policy.endpoint.tokens=off",
                "--dry-run",
            ),
            "shows no tokens",
        ),
    ],
)
def test_a_configuration_that_does_not_hold_together_is_refused(settings: Any, message: str, store: Path) -> None:
    code, reported = refusal("collect", "--store", store, "--limit", 2, *settings)
    assert code == 2 and message in reported


class Answers(BaseHTTPRequestHandler):
    """A chat endpoint that answers `left` times and is then out of order."""

    left = 0

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": "policy"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Answers.left -= 1
        message = {"role": "assistant", "content": "Done."}
        if Answers.left >= 0:
            self._say(200, {"choices": [{"message": message, "finish_reason": "stop"}]})
        else:
            self._say(500, {"error": {"message": "out of order"}})

    def _say(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def test_an_endpoint_that_goes_away_ends_the_run_and_the_same_command_goes_on(store: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = [f"policy.endpoint.{one}" for one in ("breaker_failures=2", "breaker_pause_s=0.05", "gone_after_s=0.2", "max_retries=9", "backoff_s=0.02")]  # fmt: skip
    command = ("collect", "--env", "workplace-mini", "--engine", f"openai:http://127.0.0.1:{server.server_port}/v1", "--limit", 12, "--concurrency", 2, "--store", store, "--run", "r", *settings)  # fmt: skip
    try:
        Answers.left = 5
        code, reported = refusal(*command)
        assert code == 1 and "out of order" in reported and "run the same command again with --run r" in reported
        kept = rows_of(store, "r")
        assert f"{len(kept)} of 12 rollouts are in the store" in reported and len(kept) == 5
        assert {row["status"] for row in kept} == {"completed"} and get_run(LanceStore.open(store), "r")[
            "status"
        ] == "failed"
        Answers.left = 100
        (summary,) = json.loads(rollhouse(*command, "--format", "json").stdout)
        assert (summary["skipped"], summary["collected"], summary["failed"]) == (5, 7, 0)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.system
def test_ctrl_c_leaves_no_process_of_the_engine(store: Path, tiny_base: Path, tmp_path: Path) -> None:
    os.environ["TMPDIR"] = str(tmp_path)  # Ray's folder falls back to /tmp when this is too long for its sockets
    try:
        process = start("collect", "--env", "workplace-mini", "--engine", "vllm", "--model", tiny_base, "--num-repeats", 40, "--store", store, "--run", "r")  # fmt: skip
    finally:
        del os.environ["TMPDIR"]
    wait_for(lambda: rows_of(store, "r"), 300)
    family = descendants(process.pid)
    assert len(family) > 3, "Ray and the engine run"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    wait_for(lambda: not [pid for pid in family if alive(pid)], 30)
    assert get_run(LanceStore.open(store), "r")["status"] == "aborted"


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
