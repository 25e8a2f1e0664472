"""Which prompts a step uses: by the seed and the step, so that two runs of one recipe agree, or by SQL over what the store knows by then.

The answer to a query, once drawn from, is a note of the run: drawing again for one of its steps, after an interruption too, gives the same prompts.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...base.errors import ConfigError
from ...queries import child, named
from ...store.ids import hash_text
from ...store.lance_store import quote
from ...store.task import Task
from ...transform.materialize import PromptSet

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from ...store.runs import Run
    from .config import GrpoConfig

TIMEOUT_S = 60.0
STEPS_NOTED = 1000
"""Steps drawn from one answer, at most."""
_WANTED = "It must return task_id or environment (text) and, to draw by weight, weight (a number); its parameters may be $run_id (or $run) and $step."

Item = TypeVar("Item")


def prompts_of_step(items: Sequence[Item], step: int, size: int, seed: int) -> list[Item]:
    """The prompts of optimizer step `step` (from 1).

    Epoch by epoch the set is shuffled and cut into batches of `size`; an epoch's incomplete last batch is dropped,
    so that no step has one prompt twice. A set smaller than `size` gives all of it every step. A PromptSet
    that is a curriculum is not shuffled, and its incomplete batch is filled from its beginning, so that its end is reached; one
    with weights has no epochs: each step draws by weight.
    """
    size = min(size, len(items))
    weights: list[float] | None = getattr(items, "weights", None)  # only a PromptSet has a schedule
    in_order: bool = getattr(items, "in_order", False)
    order = list(range(len(items)))
    if weights is not None and not in_order:
        return [items[position] for position in drawn_by_weight(weights, size, f"{seed}:{step}")]
    if in_order:
        start = (step - 1) * size
        return [items[place % len(items)] for place in range(start, start + size)]
    epoch, batch = divmod(step - 1, len(items) // size)
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return [items[position] for position in order[batch * size : (batch + 1) * size]]


def drawn_by_weight(weights: Sequence[float], size: int, seed: str) -> list[int]:
    """Positions drawn without replacement, by weight (Efraimidis and Spirakis 2006): the greatest of log(u) / weight."""
    chance = random.Random(seed)
    keys = [math.log(1.0 - chance.random()) / weight if weight > 0 else -math.inf for weight in weights]
    return sorted(range(len(keys)), key=lambda position: keys[position], reverse=True)[:size]


def part_of(items: Sequence[Task], environment: str) -> PromptSet:
    """The prompts of one environment, with the order and the weights that they have in the set."""
    places = [place for place, task in enumerate(items) if task.environment == environment]
    part = PromptSet(items[place] for place in places)
    if isinstance(items, PromptSet):
        part.in_order = items.in_order
        part.weights = None if items.weights is None else [items.weights[place] for place in places]
    return part


def drawn_mixture(items: Sequence[Task], weights: Mapping[str, float], size: int, seed: str) -> list[Task]:
    """`size` prompts without replacement: each environment has its share of the weights, rounded up or down at random so that the mean over seeds is the share.

    How many each has is a systematic sample (Madow 1949). Fewer come when an environment has fewer prompts than its share.
    """
    chance, total = random.Random(seed), math.fsum(weights.values())
    chosen: list[Task] = []
    end = chance.random()
    for name, weight in weights.items():
        start, end = end, end + weight / total * size
        part, count = part_of(items, name), math.floor(end + 1e-9) - math.floor(start + 1e-9)
        places = drawn_by_weight(part.weights or [1.0] * len(part), min(count, len(part)), f"{seed}:{name}")
        chosen += [part[place] for place in places]
    return chosen


def spare_prompts(items: Sequence[Item], step: int, used: Sequence[Item], size: int, seed: int) -> list[Item]:
    """The next `size` prompts, in place of those whose groups have no spread; fewer when the set has no more.

    They come from an order of the whole set that is the step's own, so that what the steps consume by themselves never depends on
    rewards. `used` are the step's prompts so far, which do not come again.
    """
    order = list(range(len(items)))
    random.Random(f"{seed}:{step}:spare").shuffle(order)
    taken = {id(item) for item in used}
    return [items[position] for position in order if id(items[position]) not in taken][:size]


@dataclass(frozen=True)
class Curriculum:
    """The prompts of one step.

    Attributes:
        metrics: `curriculum/…`: rows returned, tasks of the set among them (pool), task ids that are not in the set (unknown), and
            empty: 1 when none was and the step took the set's own prompts; `mixture/NAME`: the share of an environment, of a query over environments.
        record: Added to the plan's settings: `curriculum`, the query, a hash of its text, and the step it ran for; `mixture`, the weights of the
            environments that it returned.
    """

    tasks: list[Task]
    metrics: dict[str, float]
    record: dict[str, Any]


def curriculum_prompts(
    run: "Run",
    config: "GrpoConfig",
    tasks: Sequence[Task],
    step: int,
    own: Callable[[int], Sequence[Task]] | None = None,
) -> Curriculum | None:
    """The prompts of step `step` (from 1) by `grpo.curriculum.query`, None when it is off.

    The query runs for step 1 and after every `grpo.curriculum.every` steps; between, further prompts are drawn from its last
    answer. Which are drawn is decided by the answer (as a set), `grpo.seed` and the step. A query over environments sets their weights; see
    `drawn_mixture`. Raises ConfigError for an answer with
    neither task_id nor environment, QueryError for a query that fails or takes a minute.

    Args:
        tasks: The prompt set.
        own: The prompts of a step without the query; None is `prompts_of_step`.
    """
    settings = config.grpo.curriculum
    if settings.query is None:
        return None
    text = query_text(settings.query)
    noted = _noted(run.store, run.run_id, step)
    if noted is None:
        n_steps = min(settings.every - (step - 1) % settings.every, STEPS_NOTED)
        noted = _draw(run, config, text, tasks, step, n_steps, own)
        run.note({"curriculum": noted})
    by_id = {task.task_id: task for task in tasks}
    chosen = noted["prompts"][step - noted["step"]]
    metrics = {f"curriculum/{name}": float(noted[name]) for name in ("returned", "pool", "unknown", "empty")}
    record: dict[str, Any] = {"curriculum": {"query": settings.query, "text": noted["text"], "asked": noted["step"]}}
    if weights := noted.get("mixture"):
        record["mixture"] = weights
        metrics |= {f"mixture/{name}": weight / sum(weights.values()) for name, weight in weights.items()}
    return Curriculum([by_id[id] for id in chosen], metrics, record)


def refuse_bad_query(store: "LanceStore", config: "GrpoConfig", tasks: Sequence[Task]) -> None:
    """Runs the query once, as a pre-flight check. Raises as curriculum_prompts."""
    if config.grpo.curriculum.query is not None:
        _answer(store, query_text(config.grpo.curriculum.query), config.run or "", 1)


def query_text(name: str) -> str:
    """The SQL of a named query or of a FILE.sql. Raises ConfigError."""
    if not name.endswith(".sql"):
        return named.get_query(name).text
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"grpo.curriculum.query {name} cannot be read: {error}.", "Name a file of SQL.") from error


def _draw(
    run: "Run",
    config: "GrpoConfig",
    text: str,
    tasks: Sequence[Task],
    step: int,
    n_steps: int,
    own: Callable[[int], Sequence[Task]] | None,
) -> dict[str, Any]:
    key, answer = _answer(run.store, text, run.run_id, step)
    mixture: dict[str, float] = {}
    size, seed = config.grpo.num_prompts_per_step, config.grpo.seed
    known, weights = {task.task_id for task in tasks}, answer
    if key == "environment":
        known = {task.environment for task in tasks}
        mixture = {name: weight for name, weight in sorted(answer.items()) if name in known and weight > 0}
        weights = {task.task_id: mixture.get(task.environment, 0.0) for task in tasks}
    pool = PromptSet(task for task in tasks if weights.get(task.task_id, 0.0) > 0)
    if mixture:
        drawn = [
            drawn_mixture(tasks, mixture, min(size, len(pool)), f"{seed}:{step + later}:mixture")
            for later in range(n_steps)
        ]
    elif pool:
        values = [weights[task.task_id] for task in pool]
        pool.weights = values if len(set(values)) > 1 else None
        drawn = [prompts_of_step(pool, 1 + later, size, seed * 1_000_003 + step) for later in range(n_steps)]
    else:
        later_steps = range(step, step + n_steps)
        drawn = [prompts_of_step(tasks, at, size, seed) if own is None else own(at) for at in later_steps]
    return {
        "step": step,
        "text": hash_text(text),
        "returned": len(answer),
        "pool": len(pool),
        "unknown": len(answer.keys() - known),
        "empty": int(not pool),
        "prompts": [[task.task_id for task in prompts] for prompts in drawn],
        **({"mixture": mixture} if mixture else {}),
    }


def _answer(store: "LanceStore", text: str, run_id: str, step: int) -> tuple[str, dict[str, float]]:
    """`task_id` or `environment`, and the weight of each that the query returned, 1 where it has none."""
    values = _values(text, {"run_id": run_id, "run": run_id, "step": step})
    table = child.sql(store, text, params=values, timeout_s=TIMEOUT_S)
    keys = sorted(set(table.column_names) - {"weight"})
    if keys not in (["task_id"], ["environment"]):
        raise ConfigError(f"The query of grpo.curriculum returns {', '.join(table.column_names)}.", _WANTED)
    (key,) = keys
    ids = table[key].to_pylist()
    weights = table["weight"].to_pylist() if "weight" in table.column_names else [1.0] * len(ids)
    for id, weight in zip(ids, weights, strict=True):
        number = isinstance(weight, (int, float, Decimal)) and math.isfinite(weight) and weight >= 0
        if not isinstance(id, str) or not number:
            raise ConfigError(f"The query of grpo.curriculum returns {key} {id!r}, weight {weight!r}.", _WANTED)
    # Reversed, so that the first of two rows counts.
    return key, {id: float(weight) for id, weight in zip(reversed(ids), reversed(weights), strict=True)}


def _values(text: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the query's parameters: what is offered, else the default in its first lines."""
    import duckdb

    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error:
        return {}  # running it reports the error
    wanted = {name for statement in statements for name in statement.named_parameters}
    declared = named.parse("grpo.curriculum", text)
    known = {parameter.name for parameter in declared.parameters}
    defaults = named.bind(declared, {name: offered[name] for name in known & offered.keys()})
    values = {**defaults, **offered}
    if missing := sorted(wanted - values.keys()):
        raise ConfigError(f"The query of grpo.curriculum has a parameter ${missing[0]}.", _WANTED)
    return {name: values[name] for name in wanted}


def _noted(store: "LanceStore", run_id: str, step: int) -> dict[str, Any] | None:
    """The run's note of the answer that covers a step."""
    rows = store.read("run_events", ["payload"], f"run_id = {quote(run_id)} and event = 'note'").to_pylist()
    notes = [note for row in rows if (note := json.loads(row["payload"]).get("curriculum"))]
    return next((note for note in notes if note["step"] <= step < note["step"] + len(note["prompts"])), None)
