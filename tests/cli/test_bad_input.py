"""What goes wrong outside the program: two sentences, an exit code, and nothing collected is lost."""

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rollhouse.cli.main import Commands, app, options
from rollhouse.tests.office import write_tables
from typer.testing import CliRunner

ROLLHOUSE = [sys.executable, "-m", "rollhouse.cli.main"]
SCRIPTED = ["collect", "--env", "workplace-mini", "--engine", "scripted", "--run", "logs"]


def rollhouse(*arguments: str, **options) -> subprocess.CompletedProcess:
    """The command as a user runs it."""
    return subprocess.run([*ROLLHOUSE, *arguments], capture_output=True, text=True, check=False, timeout=120, **options)


def sentences(done: subprocess.CompletedProcess) -> tuple[str, str]:
    """What was wrong and what to do, from stderr; there is no traceback."""
    assert "Traceback" not in done.stderr
    error, _, rest = done.stderr.partition("error: ")[2].partition("\n")
    assert error and rest.strip(), done.stderr
    return error, rest


def count(store: Path) -> int:
    done = rollhouse("sql", "select count(*) as n from rollouts", "--store", str(store), "--format", "json")
    return json.loads(done.stdout)[0]["n"]


@pytest.mark.system
def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [*SCRIPTED, "--num-repeats", "5", "--store", str(store)]

    def no_file_over_200_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    stopped = rollhouse(*command, preexec_fn=no_file_over_200_kb)
    assert stopped.returncode == 1
    assert "disk is full" in sentences(stopped)[0]
    assert rollhouse("check", "--store", str(store)).returncode == 0
    kept = count(store)
    assert kept < 2000
    resumed = rollhouse(*command, "--format", "json")
    summary = json.loads(resumed.stdout)[0]
    assert (summary["skipped"], summary["collected"]) == (kept, 2000 - kept)
    assert count(store) == 2000


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["sql", "select 1"], "no store"),
        (["runs", "show", "nope"], "no store"),
        (["train", "sft", "--config", "tiny-sft", "dataset=d", "policy.optimizer.learning=1"], "no setting"),
        (["collect", "--env", "nope"], "no environment"),
        (["collect", "--env", "workplace-mini", "--engine", "nope"], "no engine"),
    ],
)
def test_a_wrong_request_exits_2(tmp_path: Path, arguments: list[str], output: str) -> None:
    done = rollhouse(*arguments, "--store", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert output in sentences(done)[0]


def test_an_unknown_run_is_named(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert rollhouse(*SCRIPTED, "--limit", "2", "--store", store).returncode == 0
    done = rollhouse("runs", "show", "lgos", "--store", store)
    assert done.returncode == 2
    assert "'lgos'" in sentences(done)[0]


def test_a_model_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3"}')
    store = str(tmp_path / "store")
    done = rollhouse(
        "collect", "--env", "workplace-mini", "--engine", "torch", "--model", str(tmp_path / "model"), "--store", store
    )
    assert done.returncode == 2
    assert "weights" in sentences(done)[0]


def test_a_broken_line_of_a_tasks_file_is_named(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"responses_create_params": {"input": "hello", "tools": []}, "ground_truth": []}\n{"respo\n')
    command = ["collect", "--env", "workplace", "--tables", str(write_tables(tmp_path / "tables")), "--tasks", str(tasks), "--store", str(tmp_path / "store")]  # fmt: skip
    done = rollhouse(*command)
    assert done.returncode == 2
    assert f"Line 2 of {tasks} is not a task" in sentences(done)[0]
    tasks.write_text(tasks.read_text().splitlines()[0])
    assert rollhouse(*command).returncode == 0, "the rest of the file and the tables are right"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["collect", "--env", "workplace-mini"], "--limit"),
        (["collect", "--env", "workplace-mini"], "--num-repeats"),
        (["collect", "--env", "workplace-mini"], "--concurrency"),
        (["collect", "--env", "workplace-mini"], "--max-turns"),
        (["eval", "env", "--env", "workplace-mini"], "--limit"),
        (["eval", "env", "--env", "workplace-mini"], "--num-repeats"),
        (["eval", "env", "--env", "workplace-mini"], "--concurrency"),
        (["eval", "bfcl", "--engine", "scripted"], "--limit"),
        (["eval", "bfcl", "--engine", "scripted"], "--concurrency"),
    ],
)
def test_a_count_below_one_exits_2_and_names_the_option(tmp_path: Path, command: list[str], option: str) -> None:
    done = CliRunner().invoke(app, [*command, option, "0", "--store", str(tmp_path / "store")])
    assert done.exit_code == 2 and option in done.stderr and not (tmp_path / "store").exists()


def test_an_unexpected_error_is_one_sentence_too() -> None:
    program = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    program.callback()(options)

    @program.command()
    def divide(by: int) -> None:
        print(1 // by)

    done = CliRunner().invoke(program, ["divide", "0"])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    output = (
        "error: ZeroDivisionError: integer division or modulo by zero.\n`rollhouse --debug …` shows where it happened."
    )
    assert done.stderr.strip() == output
    assert isinstance(CliRunner().invoke(program, ["--debug", "divide", "0"]).exception, ZeroDivisionError)
    assert CliRunner().invoke(program, ["divide", "nought"]).exit_code == 2, "a usage error stays one"
    assert CliRunner().invoke(program, ["divide", "--help"]).exit_code == 0


@pytest.mark.system
def test_ray_elsewhere_is_left_alone(tmp_path: Path, tiny_base: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:6379"}
    store = str(tmp_path / "store")
    done = rollhouse(
        "collect",
        "--env",
        "workplace-mini",
        "--engine",
        "vllm",
        "--model",
        str(tiny_base),
        "--store",
        store,
        env=environment,
    )
    assert done.returncode == 2
    assert "RAY_ADDRESS" in sentences(done)[0]


@pytest.mark.system
def test_missing_vllm_names_the_package(tmp_path: Path, tiny_base: Path) -> None:
    # A fresh interpreter in which no distribution called vllm can be found: what a machine without it looks like.
    hide = (
        "import sys, importlib.metadata as m, importlib.util as u\n"
        "find, spec = m.version, u.find_spec\n"
        "def version(name):\n"
        "    if name.startswith('vllm'): raise m.PackageNotFoundError(name)\n"
        "    return find(name)\n"
        "m.version = version\n"
        "u.find_spec = lambda name, *more: None if name.startswith('vllm') else spec(name, *more)\n"
        "from rollhouse.cli.main import main\n"
        "main()\n"
    )
    arguments = [
        "collect",
        "--env",
        "workplace-mini",
        "--engine",
        "vllm",
        "--model",
        str(tiny_base),
        "--store",
        str(tmp_path / "h"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", hide, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "vllm" in sentences(done)[0].lower() and "install" in sentences(done)[1]


@pytest.mark.system
def test_rays_usual_port_in_use_is_no_obstacle() -> None:
    # Ray picks its ports itself; a port in use must not stop the command.
    code = "from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray; ensure_ray(); import ray; print(ray.is_initialized()); shutdown_ray()"
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 6379))
        taken.listen()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "True", done.stderr
