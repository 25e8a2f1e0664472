"""GRPO over two hosts: what a push costs on three links, what a step costs, and what survives a host that is lost.

    sudo python benchmarks/two_hosts.py --out docs/benchmarks-hosts.md

The hosts are network, process and shared-memory namespaces of this machine with addresses of their own (tests/hosts.py, needs root), joined by
slow_link.py. Each has a Ray node with one engine and one learner rank. A push goes from rank 0 on the first host to both engines.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollhouse.tests.hosts import Host, address, two_hosts, why_none

BIN = Path(sys.executable).parent
DRIVER = Path(__file__).with_name("two_hosts_pushes.py")
LINKS = {"as fast as the relay": (0.0, 10_000.0), "100 Mbit/s": (0.0, 100.0), "100 Mbit/s, 20 ms": (20.0, 100.0)}
"""Delay of one way in milliseconds, and Mbit/s."""


def main() -> int:
    """Runs all parts and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder; default: the tiny policy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    reason = why_none()
    if reason is not None:
        print(f"two_hosts: {reason}.", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory(prefix="rh-hosts-") as scratch:
        folder = Path(scratch)
        model = options.model or tiny_model()
        store = prepared_store(folder)
        for name, link in LINKS.items():
            with cluster(folder, *link) as (hosts, env):
                pushes = driven(hosts[0], env, model, options.rounds)
                seconds = trained(hosts[0], env, model, store, f"run-{len(rows)}")
            rows.append(
                [name, f"{pushes['MB']:.1f}", f"{1e3 * statistics.median(pushes['seconds']):.0f}", f"{seconds:.2f}"]
            )
            print(rows[-1], file=sys.stderr, flush=True)
        lost = host_lost(folder, model, store)
    text = report(rows, lost)
    print(text)
    if options.out:
        options.out.write_text(text)
    return 0


def tiny_model() -> Path:
    """The tiny policy."""
    from rollhouse.train.tiny import base_policy

    return base_policy()


def prepared_store(folder: Path) -> Path:
    """A store with the prompt set `prompts`."""
    store = folder / "store"
    play = ["collect", "--env", "workplace-mini", "--mistake-rate", "0.5", "--limit", "8", "--num-repeats", "4", "--run", "logs", "--snapshot", "s1"]  # fmt: skip
    for words in (play, ["dataset", "build", "grpo", "prompts", "--from", "s1"]):
        subprocess.run([str(BIN / "rollhouse"), *words, "--store", str(store)], check=True, capture_output=True)
    return store


@contextmanager
def cluster(folder: Path, delay_ms: float, mbit: float) -> Iterator[tuple[list[Host], dict[str, str]]]:
    """Two hosts on such a link, each with a Ray node; and the environment of a driver on the first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    env = kept | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0", "HOME": str(home), "RAY_ADDRESS": "rh1:6379"}  # fmt: skip
    env["XDG_CACHE_HOME"] = str(Path.home() / ".cache")
    with two_hosts(folder, wired=False) as hosts:
        words = [sys.executable, str(Path(__file__).with_name("slow_link.py")), *(str(host.init) for host in hosts), "--delay-ms", str(delay_ms), "--mbit", str(mbit)]  # fmt: skip
        link = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert link.stdout is not None and link.stdout.readline() == "ready\n"
            for host in hosts:
                address(host, "tap0")
            subprocess.run([str(BIN / "ray"), "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
            start_ray(hosts[0], folder, env, "--head", "--port=6379", "--include-dashboard=false")
            start_ray(hosts[1], folder, env, "--address=rh1:6379")
            yield hosts, env
        finally:
            link.kill()
            link.wait()


def start_ray(host: Host, folder: Path, env: dict[str, str], *options: str) -> None:
    """A Ray node on the host."""
    common = [f"--node-ip-address={host.address}", "--num-cpus=6", "--object-store-memory=700000000", "--disable-usage-stats"]  # fmt: skip
    without = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    done = host.run([str(BIN / "ray"), "start", *options, *common], 180, env=without)
    assert done.returncode == 0, done.stdout + done.stderr


def driven(host: Host, env: dict[str, str], model: Path, rounds: int) -> dict[str, Any]:
    """What two_hosts_pushes.py measured."""
    done = host.run([sys.executable, str(DRIVER), str(model), str(rounds)], 900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def grpo(model: Path, store: Path, run: str, steps: int) -> list[str]:
    """The command line of a run over both hosts."""
    size = [f"grpo.max_num_steps={steps}", "grpo.num_prompts_per_step=3", "grpo.num_generations_per_prompt=4"]
    spread = ["cluster.learner_ranks=2", "policy.generation.vllm.data_parallel_size=2", "cluster.num_nodes=2"]
    where = [
        f"policy.model_name={model}",
        "--run",
        run,
        "--dataset",
        "prompts",
        "--store",
        str(store),
        "ray.address=auto",
    ]
    return [str(BIN / "rollhouse"), "train", "grpo", "--config", "tiny-grpo", *where, *size, *spread]


def trained(host: Host, env: dict[str, str], model: Path, store: Path, run: str) -> float:
    """The median seconds of a step, the first left out."""
    done = host.run(grpo(model, store, run, 4), 900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    query = f"select value from metrics where run_id = '{run}' and name = 'time/step' order by step"
    words = [str(BIN / "rollhouse"), "sql", query, "--format", "json", "--store", str(store)]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return statistics.median(row["value"] for row in found[1:])


def host_lost(folder: Path, model: Path, store: Path) -> dict[str, Any]:
    """The second host is lost in the middle of a run; the same command is given again on two new hosts."""
    found: dict[str, Any] = {}
    with cluster(folder, *LINKS["as fast as the relay"]) as (hosts, env):
        log = folder / "lost.log"
        process = hosts[0].start(grpo(model, store, "lost", 6), log, env=env)
        while "grpo 2/6" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        hosts[1].lose()
        begin = time.monotonic()
        found["code"] = process.wait(900)
        found["seconds until the command ended"] = round(time.monotonic() - begin, 1)
        errors = [line for line in log.read_text().splitlines() if line.startswith(("error:", "Error", "fix:"))]
        found["message"] = " ".join(errors)[:400]
    with cluster(folder, *LINKS["as fast as the relay"]) as (hosts, env):
        done = hosts[0].run(grpo(model, store, "lost", 6), 900, env=env)
        found["code of the same command afterwards"] = done.returncode
    query = "select count(*) n, count(distinct rollout_id) d from rollouts where run_id = 'lost'"
    words = [str(BIN / "rollhouse"), "sql", query, "--format", "json", "--store", str(store)]
    (counted,) = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    found["rollouts stored, and distinct"] = f"{counted['n']}, {counted['d']} (planned 72)"
    return found


def report(rows: list[list[str]], lost: dict[str, Any]) -> str:
    """The page as Markdown."""
    lines = [
        "# Two hosts",
        "",
        f"`benchmarks/two_hosts.py` on {os.cpu_count()} {platform.machine()} CPU cores shared by both hosts: tiny policy, float32, two engines, two learner ranks, 12 rollouts a step.",
        "",
        "| link | MB of weights | push, ms | step, s |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "The second host is lost after the second of six steps:",
        "",
        *(f"- {name}: {value}" for name, value in lost.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
