"""Tasks from an office: every kind in turn, the truth worked out from the tables, and splits that share no task."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

from ....base.errors import ConfigError
from ..office import Office
from ..schemas import SYSTEM_PROMPT, tool_schemas
from ..verifier import replay, same_state
from . import analytics, calendar, customers, email, multi, projects
from .desk import Desk, Draft
from .draw import OfficeDraw

Kind = Callable[[OfficeDraw, Desk], Draft | None]

_DOMAINS = {
    "analytics": analytics,
    "calendar": calendar,
    "customer_relationship_manager": customers,
    "email": email,
    "multi_domain": multi,
    "project_management": projects,
}
KINDS: dict[str, Kind] = {
    f"{domain}/{kind.__name__}": kind for domain, module in _DOMAINS.items() for kind in module.KINDS
}
"""All kinds by name, `domain/kind`."""

HELD_OUT = frozenset(f"{domain}/{kind.__name__}" for domain, module in _DOMAINS.items() for kind in module.HELD_OUT)
"""Kinds that occur in the test split only, unless the caller wants them everywhere."""

SPLITS = ("train", "validation", "test")
MOST_CALLS = 6
"""Model calls that the agent loop allows; no task needs more, one call in each."""

_HARDEST = 9
_FRUITLESS = 400


def generate_tasks(
    office: Office,
    count: int,
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
    kinds: Sequence[str] | None = None,
    hold_out: bool = True,
) -> Iterator[dict[str, Any]]:
    """`count` tasks of an office as rows of NeMo Gym's dataset format, the kinds in turn; the same bytes wherever it runs.

    A row also has `kind`, `split`, `difficulty` and `solution` (all calls that lead to the truth, look-ups first). The split depends on
    look-ups and calls, so neither a prompt nor a paraphrase of one is in two splits, whatever the seeds: about a tenth
    is validation, a tenth test. The same holds for the kinds in HELD_OUT, which are test, and for the last phrasing of each
    kind, which train does not see.

    Args:
        splits: Tasks of other splits are left out, and do not count.
        kinds: Of KINDS; None is all.
        hold_out: Whether train and validation go without the kinds of HELD_OUT, and train without the last phrasings.

    Raises ConfigError for an unknown kind or split, and when the tables are too small for that many different tasks.
    """
    names = _checked(list(KINDS) if kinds is None else list(kinds), splits)
    desk, draw = Desk(office), OfficeDraw(f"workplace tasks/{seed}")
    tools, seen = tool_schemas(), set[str]()
    made, fruitless = 0, 0
    for name in cycle(names):
        if made == count:
            return
        # Tables may lack rows for a kind (no visitor, one colleague); other kinds continue.
        row = _row(name, desk, draw, splits, hold_out)
        if row is None or row["prompt"] in seen:
            fruitless += 1
            if fruitless > _FRUITLESS * len(names):
                raise ConfigError(
                    f"The tables gave {made} different tasks, not {count}.", "Ask for fewer, or make larger tables."
                )
            continue
        fruitless = 0
        seen.add(row.pop("prompt"))
        yield {"id": _id(row), "responses_create_params": _params(row.pop("request"), tools), **row}
        made += 1


def _checked(names: list[str], splits: Sequence[str]) -> list[str]:
    if unknown := [name for name in names if name not in KINDS]:
        raise ConfigError(f"There is no kind of task {unknown[0]!r}.", f"Kinds are {', '.join(KINDS)}.")
    if unknown := [split for split in splits if split not in SPLITS]:
        raise ConfigError(f"There is no split {unknown[0]!r}.", f"Splits are {', '.join(SPLITS)}.")
    return names


def _row(name: str, desk: Desk, draw: OfficeDraw, splits: Sequence[str], hold_out: bool) -> dict[str, Any] | None:
    draft = KINDS[name](draw, desk)
    if draft is None or len(draft.lookups) + len(draft.calls) > MOST_CALLS:
        return None
    truth, lookups = _entries(draft.calls), _entries(draft.lookups)
    split = split_of(name, truth, lookups, hold_out)
    # A truth without changes is refused: an empty answer would pass.
    calls = [(entry["name"], entry["arguments"]) for entry in truth]
    if split not in splits or (calls and same_state(replay(desk.office, calls), desk.office)):
        return None
    phrasings = draft.phrasings[:-1] if hold_out and split == "train" else draft.phrasings
    request = draw.pick(phrasings)
    domain = name.partition("/")[0]
    return {
        "prompt": request.lower(),
        "request": request,
        "ground_truth": truth,
        "category": f"workplace_assistant_{domain}",
        "environment_name": "workplace_assistant",
        "agent_ref": {"type": "responses_api_agents", "name": "workplace_assistant_simple_agent"},
        "split": split,
        "difficulty": difficulty(draft),
        "kind": name,
        "solution": lookups + truth,
    }


def split_of(kind: str, truth: Sequence[Any], lookups: Sequence[Any], hold_out: bool = True) -> str:
    """The split of a task, decided by a hash of its kind, what it looks up and what it does."""
    if hold_out and kind in HELD_OUT:
        return "test"
    bucket = hashlib.sha256(json.dumps([kind, truth, lookups]).encode()).digest()[0] % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def difficulty(draft: Draft) -> float:
    """From 0 to 1: writes, look-ups and decisions as a share of the maximum.

    One for each call that changes something, one for each look-up, one for each decision, over 9.
    """
    return round(min(1.0, (len(draft.calls) + len(draft.lookups) + draft.conditions) / _HARDEST), 2)


def _id(row: dict[str, Any]) -> int:
    """The same for the same request and truth, whatever the seed; 48 bits, so that it is a whole number in every reader of JSON."""
    return int(hashlib.sha256(json.dumps([row["request"], row["ground_truth"]]).encode()).hexdigest()[:12], 16)


def _entries(calls: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, str]]:
    return [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls]


def _params(request: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": request}]
    return {"input": messages, "tools": tools, "parallel_tool_calls": False, "temperature": 1.0}
