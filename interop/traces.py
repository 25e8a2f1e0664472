"""Traces of observability tools as rollouts: the model calls of one trace or session, joined to conversations, with what was judged of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..store.ids import hash_id
from .model_calls import ModelCall, join
from .rewards import REWARDS
from .rollout import FileRollout, Row
from .storing import Source


@dataclass(frozen=True)
class Judgement:
    """A score that somebody gave a trace.

    Attributes:
        value: None for one that is a label alone.
    """

    name: str
    value: float | None
    label: str | None = None
    comment: str | None = None


def rollouts_of_trace(
    key: str, calls: Sequence[tuple[ModelCall, str | None]], judged: Sequence[Judgement], source: Source
) -> list[FileRollout]:
    """The rollouts of one trace. Raises ValueError when no call of a model is in it.

    Args:
        key: The trace's or session's id.
        calls: In the order of time, each with the name of the agent that made it.
        judged: A judgement whose name is that of a reward is the reward; the others are verdicts of their own.
    """
    if not calls:
        raise ValueError("the trace holds no model call with its messages")
    agents = {id(call): agent for call, agent in calls}
    names = source.reward_columns or REWARDS
    rewards = [one for one in judged if one.name in names and one.value is not None]
    verdicts = [
        {"scorer": one.name, "reward": one.value, "components": []}
        for one in judged
        if one.value is not None and one not in rewards[:1]
    ]
    branches: dict[str, int] = {}
    found = []
    for conversation in join([call for call, _ in calls]):
        rollout = conversation.rollout()
        first = conversation.calls[0]
        agent = agents[id(first)] or "main"
        slot = [key, first.id or len(found)]
        rollout.source_key = [*slot, len(conversation.calls)]
        rollout.columns |= {
            "agent": agent, "branch": branches.get(agent, 0), "episode_id": hash_id(source.format, source.source_run, "episode", key),
            # A trace that grew is a later attempt at the same slot.
            "slot_id": hash_id(source.format, source.source_run, "slot", *slot), "attempt": len(conversation.calls) - 1,
        }  # fmt: skip
        branches[agent] = branches.get(agent, 0) + 1
        if rewards:
            rollout.columns |= {"reward": rewards[0].value, "scorer": rewards[0].name}
        rollout.verdicts = list(verdicts)
        usage, labels = conversation.usage(), [_told(one) for one in judged if one.label or one.comment]
        about: Row = {"id": key, **({"usage": usage} if usage else {}), **({"judged": labels} if labels else {})}
        rollout.extra = {source.format: about}
        found.append(rollout)
    return found


def _told(one: Judgement) -> Row:
    values = {"name": one.name, "value": one.value, "label": one.label, "comment": one.comment}
    return {name: value for name, value in values.items() if value is not None}


def time_of(value: Any) -> datetime | None:
    """A time of ISO text (UTC where it names no zone), of a datetime, or of nanoseconds since 1970; None for none."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, str) and not value.isdigit():
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            return None
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return datetime.fromtimestamp(int(value) / 1e9, UTC) if value not in (None, "", 0, "0") else None
