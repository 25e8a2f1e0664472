"""The end of a rollout as a client reports it: the bodies of `/finish` and `/score`, checked."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..base.errors import one_line
from ..store.rollout import STATUSES
from ..store.task import Score
from .errors import refused

_TASK_FIELDS = ("ground_truth", "state", "split", "category", "difficulty", "source_key", "extra", "key")
_VERDICT_FIELDS = ("passed", "scorer", "scorer_version", "components")
_LARGEST = 3e38  # the largest value of a 32-bit column
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Ending:
    """How a rollout ended.

    Attributes:
        score: Its verdict; None when there is none yet.
        status: None lets the server decide: `truncated` when a token limit cut the last answer, else `completed`.
        task: Fields of the task beside its messages and tools, as in `Task`.
        group: Rollouts of one group are compared with each other; None groups by `key`, else by task.
        key: Names the task where its prompt differs from rollout to rollout (a date, a working directory).
        sample_index: The repeat within the group; None takes the next.
        metadata: JSON that the client wants stored with the rollout.
    """

    score: Score | None = None
    status: str | None = None
    stop_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    task: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    key: str | None = None
    sample_index: int | None = None
    n_tool_errors: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For a line of the rollout's file."""
        score = self.score
        verdict = score and {name: getattr(score, name) for name in ("reward", *_VERDICT_FIELDS)}
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"score": verdict}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Ending":
        """Reads `to_json`'s form."""
        score = plain["score"]
        if score is not None:
            score = Score(**{**score, "components": tuple(map(tuple, score["components"]))})
        return cls(**{**plain, "score": score})


def read_ending(body: dict[str, Any]) -> Ending:
    """A body of `/finish`; all of it is optional. Raises ApiError."""
    status = body.get("status")
    if status is not None and status not in STATUSES:
        raise refused(f"`status` must be one of {', '.join(STATUSES)}.")
    task = body.get("task") or {}
    if not isinstance(task, dict) or not set(task) <= set(_TASK_FIELDS):
        raise refused(f"The fields of `task` are {', '.join(_TASK_FIELDS)}.")
    _check_task(task)
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise refused("`metadata` must be an object.")
    error = _text(body, "error")
    unrated = [name for name in _VERDICT_FIELDS if body.get(name) is not None and body.get("reward") is None]
    if unrated:
        raise refused(f"`{unrated[0]}` needs a `reward`.")
    return Ending(
        score=None if body.get("reward") is None else read_score(body),
        status=status or ("error" if error is not None else None),
        stop_reason=_text(body, "stop_reason"),
        error_type=_text(body, "error_type") or (None if error is None else "agent"),
        error_message=None if error is None else one_line(error),
        task={name: value for name, value in task.items() if name != "key"},
        group=_text(body, "group"),
        key=task.get("key"),
        sample_index=_count(body, "sample_index"),
        n_tool_errors=_count(body, "n_tool_errors"),
        metadata=metadata,
    )


def read_score(body: dict[str, Any]) -> Score:
    """The verdict in a body: reward, and optionally passed (a reward of 1 or more is one that passes), scorer, scorer_version, components."""
    reward, passed = _finite(body.get("reward"), "reward"), body.get("passed")
    if passed is not None and not isinstance(passed, bool):
        raise refused("`passed` must be true or false.")
    scorer, version = _text(body, "scorer") or "agent", _text(body, "scorer_version") or "1"
    return Score(reward, reward >= 1.0 if passed is None else passed, scorer, version, _components(body))


def _components(body: dict[str, Any]) -> tuple[tuple[str, float, float], ...]:
    """`{name: value}`, or a list of `{name, value, weight}`."""
    given = body.get("components") or {}
    entries = [{"name": name, "value": value} for name, value in given.items()] if isinstance(given, dict) else given
    found = []
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise refused("`components` must be an object of numbers, or a list of name, value and weight.")
        weight = entry.get("weight")
        found.append(
            (
                entry["name"],
                _finite(entry.get("value"), "components"),
                1.0 if weight is None else _finite(weight, "components"),
            )
        )
    return tuple(found)


def _check_task(task: dict[str, Any]) -> None:
    if task.get("split", "train") not in _SPLITS:
        raise refused(f"`task.split` must be one of {', '.join(_SPLITS)}.")
    for name in ("category", "source_key", "key"):
        _text(task, name, "task.")
    if task.get("difficulty") is not None:
        _finite(task["difficulty"], "task.difficulty")
    if not isinstance(task.get("extra", {}), dict):
        raise refused("`task.extra` must be an object.")


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise refused(f"`{name}` must be a finite number.")
    return float(value)


def _text(body: dict[str, Any], name: str, where: str = "") -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise refused(f"`{where}{name}` must be a string.")
    return value


def _count(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < 2**31):
        raise refused(f"`{name}` must be a whole number, 0 or more.")
    return value
