"""verl's dumps of rollouts, `trainer.rollout_data_dir`: a file `STEP.jsonl` for each step, a text for the prompt and one for everything after it.

Role markers are lost there, so a rollout has one user and one assistant message whatever was said. The other way, `verl-prompt` writes the
Parquet of prompts that verl trains from.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..store.messages import Message
from .lines import Line, Quarantine, read_objects
from .parquet_files import write_parquet
from .rewards import verdict
from .rollout import FileRollout, Row, unread_fields
from .sample import FileSample
from .storing import Source

_FORMAT = "verl"
_PLACED = {"input", "output", "gts", "score", "step", "uid"}


def signs(sample: FileSample) -> str | None:
    """Lines of a dump, or a folder of numbered files of them."""
    if sample.kind in ("lines", "folder") and sample.have("input", "output", "score", "step"):
        return "its lines have input, output, score and step"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The lines of a file, or of a folder's numbered files in the order of steps."""
    if path.is_file():
        yield from read_objects(path, quarantine, on_progress)
        return
    for file in sorted((file for file in path.glob("*.jsonl") if file.stem.isdigit()), key=lambda file: int(file.stem)):
        yield from read_objects(file, quarantine)


def read(line: Row, source: Source) -> list[FileRollout]:
    """One rollout. `uid` is the sample, the rollout of it and the part of that; dumps before it group by prompt."""
    rollout = FileRollout(
        [Message("user", line["input"])],
        [],
        [Message("assistant", line["output"])],
        gaps={"text_only", "template_lost"},
    )
    step, uid = line.get("step"), line.get("uid")
    parts = uid.rsplit("_", 2) if isinstance(uid, str) else []
    told = verdict({"score": line["score"]}, ())
    extra = {name: value for name, value in line.items() if name not in _PLACED and value is not None}
    numbers = {name: value for name, value in extra.items() if isinstance(value, bool | int | float)}
    told["reward_components"] = [
        {"name": name, "value": float(value), "weight": None} for name, value in numbers.items()
    ]
    rollout.columns = {"step": step, **told}
    rollout.group_key = [step, parts[0] if len(parts) == 3 else line["input"]]
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        rollout.columns |= {"sample_index": int(parts[1]), "branch": int(parts[2])}
    rollout.task = {"ground_truth": line.get("gts")}
    rest = {name: value for name, value in extra.items() if name not in numbers} | ({"uid": uid} if uid else {})
    rollout.extra = {_FORMAT: rest} if rest else {}
    rollout.gaps |= unread_fields(rest, {"uid"})
    return [rollout]


_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(_MESSAGE)),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64()), ("task_id", pa.string()), ("tools", pa.string())])),
    ]
)  # fmt: skip


def prompt_held(rollout: FileRollout) -> set[str]:
    """The columns that a file of prompts has a place for."""
    return {"environment", "task_id", "task.ground_truth", "task.category"}


def unfit(rollout: FileRollout) -> str | None:
    """verl's reward functions need a ground truth, and its prompts are text."""
    if (rollout.task or {}).get("ground_truth") is None:
        return "no ground truth"
    return "content parts" if any(message.parts for message in rollout.prompt) else None


def drops(rollout: FileRollout) -> list[str]:
    """Everything after the prompt."""
    return ["messages"]


def write_prompts(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a Parquet file with a row for each task."""
    write_parquet(_prompts(episodes, plain), _SCHEMA, path)


def _prompts(episodes: Iterable[list[FileRollout]], plain: bool) -> Iterator[Row]:
    seen: set[Any] = set()
    for rollout in (rollout for rollouts in episodes for rollout in rollouts):
        task_id, task = rollout.get("task_id"), rollout.task or {}
        if task_id in seen:
            continue
        truth = task["ground_truth"]
        about = {"split": task.get("split") or "train", "index": len(seen)}
        seen.add(task_id)
        ours = {} if plain else {"task_id": task_id, "tools": json.dumps(rollout.tools) if rollout.tools else None}
        yield {
            "data_source": rollout.get("environment"),
            "prompt": [{"role": message.role, "content": message.text or ""} for message in rollout.prompt],
            "ability": task.get("category"),
            "reward_model": {"style": "rule", "ground_truth": truth if isinstance(truth, str) else json.dumps(truth)},
            "extra_info": about | ours,
        }
