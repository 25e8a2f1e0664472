"""Which prompts a step uses: by the seed and the step, so that two runs of one recipe agree, or by SQL over what the store knows by then.

The answer to a query, once drawn from, is a note of the run: drawing again for one of its steps, after an interruption too, gives the same prompts.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
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
_WANTED = "It must return task_id (text) and, to draw by weight, weight (a number); its parameters may be $run_id (or $run) and $step."

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
        return [items[position] for position in _drawn(weights, size, f"{seed}:{step}")]
    if in_order:
        start = (step - 1) * size
        return [items[place % len(items)] for place in range(start, start + size)]
    epoch, batch = divmod(step - 1, len(items) // size)
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return [items[position] for position in order[batch * size : (batch + 1) * size]]


def _drawn(weights: Sequence[float], size: int, seed: str) -> list[int]:
    """Positions drawn without replacement, by weight (Efraimidis and Spirakis 2006): the greatest of log(u) / weight."""
    chance = random.Random(seed)
    keys = [math.log(1.0 - chance.random()) / weight if weight > 0 else -math.inf for weight in weights]
    return sorted(range(len(keys)), key=lambda position: keys[position], reverse=True)[:size]


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
            empty: 1 when none was and the step took the set's own prompts.
        record: Added to the plan's settings: `curriculum`, the query, a hash of its text, and the step it ran for.
    """

    tasks: list[Task]
    metrics: dict[str, float]
    record: dict[str, Any]


def curriculum_prompts(run: "Run", config: "GrpoConfig", tasks: Sequence[Task], step: int) -> Curriculum | None:
    """The prompts of step `step` (from 1) by `grpo.curriculum.query`, None when it is off.

    The query runs for step 1 and after every `grpo.curriculum.every` steps; between, further prompts are drawn from its last
    answer. Which are drawn is decided by the answer (as a set), `grpo.seed` and the step. Raises ConfigError for an answer without task_id,
    QueryError for a query that fails or takes a minute.

    Args:
        tasks: The prompt set.
    """
    settings = config.grpo.curriculum
    if settings.query is None:
        return None
    text = query_text(settings.query)
    noted = _noted(run.store, run.run_id, step)
    if noted is None:
        n_steps = min(settings.every - (step - 1) % settings.every, STEPS_NOTED)
        noted = _draw(run, config, text, tasks, step, n_steps)
        run.note({"curriculum": noted})
    by_id = {task.task_id: task for task in tasks}
    chosen = noted["prompts"][step - noted["step"]]
    metrics = {f"curriculum/{name}": float(noted[name]) for name in ("returned", "pool", "unknown", "empty")}
    record = {"curriculum": {"query": settings.query, "text": noted["text"], "asked": noted["step"]}}
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
    run: "Run", config: "GrpoConfig", text: str, tasks: Sequence[Task], step: int, n_steps: int
) -> dict[str, Any]:
    weights = _answer(run.store, text, run.run_id, step)
    pool = PromptSet(task for task in tasks if weights.get(task.task_id, 0.0) > 0)
    known = {task.task_id for task in tasks}
    size, seed = config.grpo.num_prompts_per_step, config.grpo.seed
    if pool:
        values = [weights[task.task_id] for task in pool]
        pool.weights = values if len(set(values)) > 1 else None
        drawn = [prompts_of_step(pool, 1 + later, size, seed * 1_000_003 + step) for later in range(n_steps)]
    else:
        drawn = [prompts_of_step(tasks, step + later, size, seed) for later in range(n_steps)]
    return {
        "step": step,
        "text": hash_text(text),
        "returned": len(weights),
        "pool": len(pool),
        "unknown": len(weights.keys() - known),
        "empty": int(not pool),
        "prompts": [[task.task_id for task in prompts] for prompts in drawn],
    }


def _answer(store: "LanceStore", text: str, run_id: str, step: int) -> dict[str, float]:
    """task_id → weight, 1 where the query has none."""
    values = _values(text, {"run_id": run_id, "run": run_id, "step": step})
    table = child.sql(store, text, params=values, timeout_s=TIMEOUT_S)
    unknown = sorted(set(table.column_names) - {"task_id", "weight"})
    if "task_id" not in table.column_names or unknown:
        raise ConfigError(f"The query of grpo.curriculum returns {', '.join(table.column_names)}.", _WANTED)
    ids = table["task_id"].to_pylist()
    weights = table["weight"].to_pylist() if "weight" in table.column_names else [1.0] * len(ids)
    for id, weight in zip(ids, weights, strict=True):
        number = isinstance(weight, (int, float, Decimal)) and math.isfinite(weight) and weight >= 0
        if not isinstance(id, str) or not number:
            raise ConfigError(f"The query of grpo.curriculum returns task_id {id!r}, weight {weight!r}.", _WANTED)
    # Reversed, so that the first row of a task counts.
    return {id: float(weight) for id, weight in zip(reversed(ids), reversed(weights), strict=True)}


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
