"""How fast rollouts are collected: workplace with an endpoint that answers at once, against a bare client, in one run.

    python benchmarks/collect.py [--quick] [--engine] [--tables DIR --tasks FILE] [--rounds 3] [--out docs/benchmarks-collect.md]

The endpoint is `collect_server.py`; every measurement is a process of its own, see `collect_parts.py`. Without `--tables` the tables and 500
tasks are generated. `--engine` also measures what the runner adds to generation with vLLM (`collect_engine.py`, needs the extras).
Exits 1 when a goal is missed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rollhouse.benchmarks.collect_server import MODEL

HERE = Path(__file__).parent
PEER_RATE = (
    21.7  # rollouts/s of NeMo Gym 0.4.0 on the same work, measured on a machine like the one these goals are for
)
CONCURRENCY = 256
Measured = dict[str, Any]


def main() -> int:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rollouts, one round")
    parser.add_argument("--engine", action="store_true", help="also with the vLLM engine")
    parser.add_argument("--engine-model", help="model folder for that, by default the tiny policy")
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    few, many, rounds = (50, 500, 1) if options.quick else (500, 5000, options.rounds)
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        work = generated(Path(folder)) if options.tables is None else {"tables": str(options.tables), "tasks": str(options.tasks)}  # fmt: skip
        found = [one_round(work, few, many) for _ in range(rounds)]
        held = in_flight(work, many)
    engine = with_engine(options.engine_model, options.quick) if options.engine else None
    page, met = report(found, held, engine, few, many)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    print(page)
    return 0 if met else 1


def generated(folder: Path) -> Measured:
    """Workplace tables and tasks of our own."""
    from rollhouse.environments.workplace.generator.tables import generate_tables
    from rollhouse.environments.workplace.generator.tasks import generate_tasks
    from rollhouse.environments.workplace.office import read_office

    tables, tasks = folder / "tables", folder / "tasks.jsonl"
    generate_tables(tables)
    with tasks.open("w") as file:
        for row in generate_tasks(read_office(tables), 500, splits=("train",)):
            file.write(json.dumps(row) + "\n")
    return {"tables": str(tables), "tasks": str(tasks)}


@contextmanager
def server(hold: int = 0) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    command = [sys.executable, HERE / "collect_server.py", "--hold", str(hold)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def part(script: str, *arguments: str) -> Measured:
    """The output of a measurement in a separate process."""
    done = subprocess.run([sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    print(script, *arguments[:1], json.dumps(measured), file=sys.stderr, flush=True)
    return measured


def one_round(work: Measured, few: int, many: int) -> dict[str, Measured]:
    """The bare client before and after the runner, so that other load on the machine affects both."""
    with server() as url:
        given = {"url": url, **work, "concurrency": CONCURRENCY}
        bare = {"model": MODEL, "rollouts": max(few, many // 2)}
        return {
            "before": part("collect_parts.py", "bare", json.dumps(given | bare)),
            "few": part("collect_parts.py", "runner", json.dumps(given | {"rollouts": few})),
            "many": part("collect_parts.py", "runner", json.dumps(given | {"rollouts": many})),
            "after": part("collect_parts.py", "bare", json.dumps(given | bare)),
        }


def in_flight(work: Measured, count: int) -> Measured:
    """As many rollouts at once as there are; no request is answered before all of them wait."""
    with server(hold=count) as url:
        measured = part("collect_parts.py", "runner", json.dumps({"url": url, **work, "rollouts": count, "concurrency": count}))  # fmt: skip
        with urllib.request.urlopen(f"{url}/stats") as answer:
            return {**measured, **json.load(answer)}


def with_engine(model: str | None, quick: bool) -> Measured:
    """See collect_engine.py."""
    size = {"rollouts": 128, "concurrency": 32, "rounds": 1} if quick else {"rollouts": 256, "concurrency": 32, "rounds": 5}  # fmt: skip
    return part("collect_engine.py", json.dumps({**size, "model": model}))


def report(found: list[dict[str, Measured]], held: Measured, engine: Measured | None, few: int, many: int) -> tuple[str, bool]:  # fmt: skip
    """The page, and whether all goals are met. Rates and ratios are medians over the rounds; a ratio is of one round."""
    rates = {name: median(rate(one[name]) for one in found) for name in ("before", "few", "many", "after")}
    shares = {name: median(rate(one[name]) / bare_rate(one) for one in found) for name in ("few", "many")}
    peaks = {name: max(one[name]["peak_mb"] for one in found) for name in ("few", "many")}
    failed = sum(held["statuses"].values()) - held["statuses"].get("completed", 0)
    goals = [
        goal(f"rollouts/s, {few:,} rollouts: at least 20 x {PEER_RATE}", rates["few"], 20 * PEER_RATE, True),
        goal(f"rollouts/s, {many:,} rollouts: at least 20 x {PEER_RATE}", rates["many"], 20 * PEER_RATE, True),
        goal(f"share of the bare client, {few:,} rollouts: at least 0.2", shares["few"], 0.2, True),
        goal(f"share of the bare client, {many:,} rollouts: at least 0.2", shares["many"], 0.2, True),
        goal(f"peak memory, {many:,} against {few:,} rollouts: at most 1.1x", peaks["many"] / peaks["few"], 1.1),
        goal(
            f"failed of {held['rollouts']:,} rollouts, {held['most_waiting']:,} in flight at once: 0",
            failed,
            0,
        ),
    ]
    added = []
    if engine:
        added = [per_token(one["collected"]) / per_token(one["straight"]) - 1 for one in engine["rounds"]]
        goals.append(goal("added to the time of the vLLM engine: less than 3%", 100 * median(added), 3))
    rows = [
        ["bare client, before and after", f"{rates['before']:,.0f}, {rates['after']:,.0f}", "", cpu(found, "before"), ""],
        [f"runner, {few:,} rollouts", f"{rates['few']:,.0f}", f"{shares['few']:.2f}", cpu(found, "few"), f"{peaks['few']:,.0f}"],
        [f"runner, {many:,} rollouts", f"{rates['many']:,.0f}", f"{shares['many']:.2f}", cpu(found, "many"), f"{peaks['many']:,.0f}"],
        [f"runner, {held['rollouts']:,} in flight", f"{rate(held):,.0f}", "", "", f"{held['peak_mb']:,.0f}"],
    ]  # fmt: skip
    lines = [
        "# Measurements of collecting",
        "",
        f"Made by `python benchmarks/collect.py{' --engine' if engine else ''}` on {os.cpu_count()} CPU cores ({platform.machine()}), load {os.getloadavg()[0]:.1f} at the end; "
        f"Python {platform.python_version()}, aiohttp {version('aiohttp')}, pylance {version('pylance')}. Compare ratios, not absolute times.",
        "",
        "| goal | measured | met |",
        "|---|---|---|",
        *(f"| {what} | {value:.3g} | {'yes' if met else '**no**'} |" for what, value, met in goals),
        "",
        "## Workplace with an endpoint that answers immediately",
        "",
        "| | rollouts/s | share of the bare client | CPU ms per rollout | peak memory, MB |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"A rollout is two requests with 27 tools each (about 30 KB), one tool call, the verdict, and a stored row: "
        f"{found[0]['many']['tasks']:,} tasks, {CONCURRENCY} rollouts in flight, medians of {len(found)} round{'s' if len(found) > 1 else ''}. Times include planning, journal and commits. "
        "The bare client (aiohttp) sends the same encoded requests over the same number of connections; shares are of its mean rate. "
        f"Before the first rollout the process has {max(one['many']['peak_mb_before'] for one in found):,.0f} MB. "
        f"In the last row the server holds every answer until all requests have arrived; retries: {held['retries']}.",
    ]  # fmt: skip
    if engine:
        lines += ["", "## Beside an engine", "", *engine_lines(engine, added)]
    return "\n".join([*lines, ""]), all(met for *_, met in goals)


def engine_lines(engine: Measured, added: list[float]) -> list[str]:
    """The time that the runner adds to generation."""
    rounds = []
    for one, more in zip(engine["rounds"], added, strict=True):
        ours, straight = one["collected"], one["straight"]
        busy = (ours["cpu_seconds"] - straight["cpu_seconds"]) / straight["seconds"]
        rounds.append(f"| {ours['seconds']:.2f} | {straight['seconds']:.2f} | {100 * more:+.1f}% | {100 * busy:+.1f}% | {ours['tokens']:,}, {straight['tokens']:,} |")  # fmt: skip
    return [
        "| collected, s | calls alone, s | added per token | added CPU time | sampled tokens |",
        "|---|---|---|---|---|",
        *rounds,
        "",
        f"{engine['rollouts']:,} rollouts of workplace-mini by {engine['model']}, {engine['concurrency']} in flight, in vLLM, with the same prompts and seeds. "
        "Added CPU time: tools, verdicts, template and store.",
    ]  # fmt: skip


def per_token(measured: Measured) -> float:
    """Seconds a sampled token."""
    return measured["seconds"] / measured["tokens"]


def rate(measured: Measured) -> float:
    """Rollouts a second."""
    return measured["rollouts"] / measured["seconds"]


def bare_rate(found: dict[str, Measured]) -> float:
    """Of the bare client in a round."""
    return (rate(found["before"]) + rate(found["after"])) / 2


def cpu(found: list[dict[str, Measured]], name: str) -> str:
    """Milliseconds of CPU time a rollout, all threads."""
    return f"{median(1000 * one[name]['cpu_seconds'] / one[name]['rollouts'] for one in found):.2f}"


def goal(what: str, value: float, bound: float, least: bool = False) -> tuple[str, float, bool]:
    """A number with its goal."""
    return what, value, value >= bound if least else value <= bound


if __name__ == "__main__":
    raise SystemExit(main())
