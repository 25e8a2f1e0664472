"""From references to what a trainer eats: trajectories with messages and tokens, preference pairs, tasks."""

from dataclasses import dataclass
from typing import Any

from ..collect.stored_tasks import task_from_rows
from ..collect.types import Task
from ..store.errors import ConfigError, EvalLeak, FormatError
from ..store.house import House
from ..store.messages import Message
from .candidates import HELD_OUT
from .versions import DatasetVersion

_COLUMNS = ["rollout_id", "task_id", "prompt_id", "messages", "token_ids", "loss_mask", "tokenizer_hash", "template_hash", "prefix_ok"]  # fmt: skip


@dataclass(frozen=True)
class Trajectory:
    """One rollout as training sees it.

    Attributes:
        prompt: System and user messages.
        tools: JSON list of the tool schemas, in order, as stored.
        messages: Everything after the prompt.
        prompt_ids: The rendered prompt under the rollout's tokenizer and template; None when it is not stored.
        token_ids: Everything after the prompt; None when the policy showed no tokens.
        loss_mask: Parallel to token_ids: 1 where the policy sampled.
        tokenizer_hash: Whose ids these are; None without tokens.
        template_hash: Which template rendered them.
        prefix_ok: Whether every prompt began with all tokens before it; None without tokens.
        weight: Of its dataset row.
    """

    rollout_id: str
    task_id: str
    prompt: tuple[Message, ...]
    tools: str
    messages: tuple[Message, ...]
    prompt_ids: list[int] | None
    token_ids: list[int] | None
    loss_mask: list[int] | None
    tokenizer_hash: str | None
    template_hash: str | None
    prefix_ok: bool | None
    weight: float = 1.0


@dataclass(frozen=True)
class Pair:
    """An accepted trajectory and a worse one of the same prompt."""

    chosen: Trajectory
    rejected: Trajectory


def sft_rows(house: House, dataset: DatasetVersion) -> list[Trajectory]:
    """The demonstrations in order. Raises ConfigError for a dataset of another kind."""
    _expect(dataset, "sft")
    trajectories = read_trajectories(house, dataset)
    return [trajectories[row["rollout_id"]] for row in dataset.rows]


def dpo_rows(house: House, dataset: DatasetVersion) -> list[Pair]:
    """The pairs in order. Raises ConfigError for a dataset of another kind."""
    _expect(dataset, "dpo")
    trajectories = read_trajectories(house, dataset)
    sides: dict[int, dict[str, Trajectory]] = {}
    for row in dataset.rows:
        sides.setdefault(row["row"], {})[row["role"]] = trajectories[row["rollout_id"]]
    return [Pair(**sides[number]) for number in sorted(sides)]


def grpo_tasks(house: House, dataset: DatasetVersion) -> list[Task]:
    """The tasks in order. Raises ConfigError for a dataset of another kind, EvalLeak for held-out tasks."""
    _expect(dataset, "grpo")
    ids = [row["task_id"] for row in dataset.rows]
    _refuse_held_out(house, dataset, ids)
    tasks = read_tasks(house, ids, dataset.snapshot)
    return [tasks[id] for id in ids]


def read_tasks(house: House, ids: list[str], at: str | None = None) -> dict[str, Task]:
    """Tasks by id. Raises FormatError when the house lacks one."""
    rows = _read_in(house, "tasks", "task_id", ids, None, at)
    prompts = _read_in(house, "prompts", "prompt_id", [row["prompt_id"] for row in rows.values()], None, at)
    return {id: task_from_rows(row, prompts[row["prompt_id"]]) for id, row in rows.items()}


def read_trajectories(house: House, dataset: DatasetVersion) -> dict[str, Trajectory]:
    """Every rollout a version refers to, by id."""
    at = dataset.snapshot
    weights = {row["rollout_id"]: row["weight"] for row in dataset.rows}
    rollouts = _read_in(house, "rollouts", "rollout_id", list(weights), _COLUMNS, at)
    _refuse_held_out(house, dataset, [row["task_id"] for row in rollouts.values()])
    prompts = _read_in(house, "prompts", "prompt_id", [row["prompt_id"] for row in rollouts.values()], None, at)
    tokens = _prompt_tokens(house, set(prompts), at)
    return {
        id: Trajectory(
            rollout_id=id,
            task_id=row["task_id"],
            prompt=_messages(prompts[row["prompt_id"]]),
            tools=prompts[row["prompt_id"]]["tools"] or "[]",
            messages=_messages(row),
            prompt_ids=tokens.get((row["prompt_id"], row["tokenizer_hash"], row["template_hash"])),
            token_ids=row["token_ids"],
            loss_mask=row["loss_mask"],
            tokenizer_hash=row["tokenizer_hash"],
            template_hash=row["template_hash"],
            prefix_ok=row["prefix_ok"],
            weight=weights[id],
        )
        for id, row in rollouts.items()
    }


def _expect(dataset: DatasetVersion, kind: str) -> None:
    if dataset.kind != kind:
        raise ConfigError(
            f"Dataset {dataset.label} is of kind {dataset.kind}, not {kind}.",
            f"Build one with `rollhouse dataset build {kind}`, or train with `rollhouse train {dataset.kind}`.",
        )


def _refuse_held_out(house: House, dataset: DatasetVersion, task_ids: list[str]) -> None:
    # The builder refused them; this holds for versions other hands wrote.
    splits = _read_in(house, "tasks", "task_id", task_ids, ["task_id", "split"], dataset.snapshot, must_exist=False)
    leaked = sum(row["split"] in HELD_OUT for row in splits.values())
    if leaked:
        raise EvalLeak(f"Dataset {dataset.label} holds {leaked} held-out tasks.", "Build it again from train tasks.")


def _read_in(
    house: House, table: str, key: str, ids: list[str], columns: list[str] | None, at: str | None, must_exist=True
) -> dict[str, dict[str, Any]]:
    """Rows by key. One scan of the key column finds where they lie, so that heavy columns are read for these rows only."""
    data = house.dataset(table, at)
    wanted = set(ids)
    keys = data.to_table(columns=[key])[key].to_pylist()
    offsets = [offset for offset, id in enumerate(keys) if id in wanted]
    rows = data.take(offsets, columns=columns).to_pylist() if offsets else []
    found = {row[key]: row for row in rows}
    missing = sorted(wanted - set(found))
    if missing and must_exist:
        raise FormatError(
            f"Table {table} of {house.uri} lacks {len(missing)} rows the dataset needs, {key} {missing[0]} first.",
            "`rollhouse check` says what else is missing; import the source again.",
        )
    return found


def _prompt_tokens(house: House, prompts: set[str], at: str | None) -> dict[tuple[str, str, str], list[int]]:
    data = house.dataset("prompt_tokens", at)
    keys = data.to_table(columns=["prompt_id"])["prompt_id"].to_pylist()
    offsets = [offset for offset, id in enumerate(keys) if id in prompts]
    rows = data.take(offsets).to_pylist() if offsets else []
    return {(row["prompt_id"], row["tokenizer_hash"], row["template_hash"]): row["token_ids"] for row in rows}


def _messages(row: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message.from_row(message) for message in row["messages"] or ())
