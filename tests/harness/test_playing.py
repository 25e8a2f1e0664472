"""Harnesses play rollouts of a run: each is one episode, whatever its program does, and nothing of the program is left."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rollhouse.collect.runner import collect
from rollhouse.environments.config import EnvironmentSpec
from rollhouse.environments.harness import HarnessSettings
from rollhouse.environments.mixture import Mixture
from rollhouse.environments.tools import ToolSession, tool_session
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.harness.opening import open_harnesses
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.runs import start_run
from rollhouse.store.task import Score, Task

AGENTS = Path(__file__).with_name("agents.py")
SAMPLING = Sampling(1.0, max_tokens=8, seed=7)
ENVIRONMENT = MiniEnvironment(n_train=3)


def play(
    store: Path, policy: TokenPolicy, harness: dict[str, Any], repeats: int = 2, limit_s: float = 60, **settings: Any
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of one task's rollouts, in the order of samples, agents and branches."""
    part: Any = settings.pop("environment", ENVIRONMENT)
    environment = Mixture([(part, EnvironmentSpec(name=part.name, harness=HarnessSettings(**harness)))])
    place, tasks = LanceStore.create(store), list(environment.tasks("train"))[: settings.pop("tasks", 1)]
    sampling = settings.pop("sampling", SAMPLING)
    with (
        open_harnesses(environment, policy, 6, limit_s) as playing,
        start_run(place, "collect", "run") as run,
    ):
        summary = collect(place, run, environment, policy, tasks, num_repeats=repeats, sampling=sampling, play=playing)
    rows = place.read("rollouts").to_pylist()
    assert summary.collected == len({row["episode_id"] for row in rows}) == repeats * len(tasks)
    for row in rows:
        row["harness"] = json.loads(row["extra"])["harness"]
    return sorted(rows, key=lambda row: (row["sample_index"], row["agent"] != "main", row["branch"]))


def named(function: str, **more: Any) -> dict[str, Any]:
    return {"name": f"{AGENTS}:{function}", **more}


def test_an_agent_plays_with_the_environments_tools_and_verdict(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    sampling = Sampling(1.0, max_tokens=48, seed=7)
    rows = play(tmp_path / "store", torch_policy, named("clerk"), repeats=3, sampling=sampling)
    for row in rows:
        assert (row["agent"], row["branch"], row["trainable"], row["prefix_ok"]) == ("main", 0, True, True)
        assert row["status"] in ("completed", "truncated") and row["scorer"] == "workplace-mini/final-state"
        assert row["temperature"] == 1.0 and row["max_tokens"] == 48, "the run decides how is sampled"
        assert row["harness"]["asked"][0]["temperature"] == 0.3 and row["harness"]["asked"][0]["max_tokens"] == 4096
        assert row["harness"]["stdout"].startswith("a task of ") and row["harness"]["calls"] == row["n_turns"]
        assert len(row["logprobs"]) == sum(row["loss_mask"]) > 0
    assert len({tuple(row["token_ids"]) for row in rows}) > 1, "each rollout has a seed of its own"
    assert any(row["harness"].get("tool_calls") for row in rows)


@pytest.mark.system
def test_the_same_run_samples_the_same_tokens(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    rows = [play(tmp_path / name, torch_policy, named("clerk"), repeats=3) for name in ("one", "other")]
    assert [row["token_ids"] for row in rows[0]] == [row["token_ids"] for row in rows[1]]


@pytest.mark.system
def test_a_verdict_of_its_own_and_an_agent_beside_it(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    main, helper, *_ = play(tmp_path / "store", torch_policy, named("judge"))
    assert (main["reward"], main["passed"], main["scorer"], main["scorer_version"]) == (0.5, False, "judge", "2")
    assert main["reward_components"] == [{"name": "style", "value": 0.5, "weight": 1.0}]
    assert (helper["agent"], helper["trainable"], helper["reward"]) == ("helper", False, 0.5)
    assert helper["episode_id"] == main["episode_id"] == main["rollout_id"] and helper["slot_id"] == main["slot_id"]


def test_sampled_tokens_of_two_branches_are_trained_on_once(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    main, side = play(tmp_path / "store", torch_policy, named("parallel"), repeats=1)
    shared = main["n_tokens"] - main["n_sampled_tokens"]
    assert main["n_turns"] == side["n_turns"] == 2 and shared > 0
    assert side["loss_mask"][: side["n_tokens"] - side["n_sampled_tokens"]] == [0] * (side["n_tokens"] - side["n_sampled_tokens"])  # fmt: skip
    assert "shared_calls:1" in side["gaps"] and side["trainable"]


FAULTS = {
    "crash": ("error", "harness", "RuntimeError: the agent is broken"),
    "die": ("error", "harness", "the program ended with signal SIGKILL"),
    "never": ("error", "harness", "the harness made no model call"),
    "after_the_end": ("error", "harness", "The rollout has ended"),
    "finish_twice": ("error", "harness", "finished otherwise"),
    "nonsense": ("error", "harness", "returned a str"),
    "not_a_number": ("error", "harness", "`reward` must be a finite number"),
    "hang": ("timeout", "timeout", "the rollout took longer than"),
    "block": ("timeout", "timeout", "the rollout took longer than"),
    "fork": ("timeout", "timeout", "the rollout took longer than"),
    "kill_watcher": ("error", "harness", "the process that watched the program was killed"),
    "flood": ("completed", None, ""),
    "finish": ("completed", None, ""),
}
LIMIT_S = 30


class Faults:
    """An environment whose tasks are the faults of `agents.misbehave`."""

    name = "faults"

    def tasks(self, split: str) -> list[Task]:
        return [Task(self.name, (Message("user", fault),)) for fault in FAULTS]

    def start(self, task: Task) -> ToolSession:
        return tool_session([], lambda session: Score(0.0, False, "faults", "1"))


@pytest.fixture(scope="module")
def faulty(
    torch_policy: TokenPolicy, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[int], float]:
    """A row for each fault, of a run that plays them all at once; processes that they left; seconds that it took."""
    folder = tmp_path_factory.mktemp("faults")
    marks = {name: folder / name for name in ("fork", "kill_watcher")}
    for mark in marks.values():
        mark.mkdir()
    harness = named("misbehave", options={"marks": str(folder)})
    start = time.monotonic()
    rows = play(folder / "store", torch_policy, harness, 1, LIMIT_S, environment=Faults(), tasks=len(FAULTS))
    seconds = time.monotonic() - start
    pids = [int(mark.name) for place in marks.values() for mark in place.iterdir()]
    assert len(pids) == 4
    prompts = {Task("faults", (Message("user", fault),)).task_id: fault for fault in FAULTS}
    return {prompts[row["task_id"]]: row for row in rows}, pids, seconds


@pytest.mark.system
@pytest.mark.parametrize("fault", FAULTS)
def test_a_program_that_fails_is_a_row_with_its_reason(faulty: Any, fault: str) -> None:
    status, error_type, message = FAULTS[fault]
    row = faulty[0][fault]
    found = "completed" if row["status"] == "truncated" else row["status"]  # the last answer may be cut
    assert (found, row["error_type"]) == (status, error_type) and message in (row["error_message"] or "")
    assert (row["reward"] is None) == (status != "completed")
    assert row["n_turns"] == (0 if fault == "never" else 1)


@pytest.mark.system
def test_a_step_does_not_wait_past_the_limit_and_nothing_that_a_program_started_is_left(faulty: Any) -> None:
    rows, pids, _ = faulty
    assert all(row["duration_s"] < LIMIT_S + 30 for row in rows.values())
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


@pytest.mark.system
def test_output_is_kept_within_bounds(faulty: Any) -> None:
    said = faulty[0]["flood"]["harness"]["stdout"]
    assert len(said) < 40_000 and said.endswith("the end\n") and "bytes left out" in said


@pytest.mark.system
def test_a_verdict_that_is_posted_counts(faulty: Any) -> None:
    row = faulty[0]["finish"]
    assert (row["reward"], row["harness"]["metadata"]) == (0.75, {"seen": [1]})
    assert row["scorer"] == f"{AGENTS}:misbehave"


@pytest.mark.system
@pytest.mark.parametrize("fault", ["hang", "spin", "crash"])
def test_a_thread_is_ended_at_its_limit(tmp_path: Path, torch_policy: TokenPolicy, fault: str) -> None:
    (row,) = play(tmp_path / "store", torch_policy, named(fault, runs_in="thread"), 1, 60 if fault == "crash" else 2)
    expected = ("error", "harness") if fault == "crash" else ("timeout", "timeout")
    assert (row["status"], row["error_type"], row["reward"]) == (*expected, None)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.system
def test_limits_of_the_run_truncate(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    (row, *rest) = play(tmp_path / "calls", torch_policy, named("many_calls", max_calls=3), repeats=1)
    assert (row["status"], row["stop_reason"], row["error_type"]) == ("truncated", "max_calls", "harness")
    assert 1 + len(rest) == 3
    (row, *rest) = play(tmp_path / "tokens", torch_policy, named("many_calls", token_budget=11), repeats=1)
    assert (row["status"], row["stop_reason"]) == ("truncated", "token_budget")
    assert sum(one["n_sampled_tokens"] for one in (row, *rest)) == 11


@pytest.mark.parametrize(
    ("mode", "settings", "found"),
    [
        ("file", {}, (None, 0.25, True)),
        pytest.param("ok", {"reward": "exit"}, (None, 1.0, True), marks=pytest.mark.system),
        pytest.param("fail", {"reward": "exit"}, (None, 0.0, False), marks=pytest.mark.system),
        pytest.param("fail", {}, ("harness", None, None), marks=pytest.mark.system),
        pytest.param("hidden", {"reward": "environment"}, (None, 0.0, False), marks=pytest.mark.system),
    ],
)
def test_a_command_line_plays(
    tmp_path: Path, torch_policy: TokenPolicy, mode: str, settings: dict[str, Any], found: tuple[Any, ...]
) -> None:
    command = [sys.executable, "-S", "-c", f"import runpy, sys; sys.argv[1:] = [{mode!r}]; runpy.run_path({str(program(tmp_path))!r}, run_name='__main__')"]  # fmt: skip
    (row,) = play(tmp_path / "store", torch_policy, {"command": command, **settings}, repeats=1)  # fmt: skip
    assert (row["error_type"], row["reward"], row["passed"]) == found
    assert row["harness"]["stdout"] == f"did {mode}\n" and row["harness"]["exit"] == (3 if mode == "fail" else 0)


def program(folder: Path) -> Path:
    """The test's program, alone: it needs the standard library only."""
    text = AGENTS.read_text()
    file = folder / "program.py"
    lines = [line for line in text.splitlines() if not line.startswith("from rollhouse")]
    start = next(at for at, line in enumerate(lines) if line.startswith("def main"))
    head = [line for line in lines[: lines.index("")] if not line.startswith('"""')]
    imports = ["import json, os, sys", "from pathlib import Path"]
    file.write_text("\n".join([*head, *imports, *lines[start:]]))
    return file
