"""Traces of observability tools as rollouts: the model calls of one trace or session, joined to conversations, with what was judged of them."""

from collections.abc import Callable, Sequence
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
        of: The part of the trace that was judged, a call or what calls are a part of; None is the whole trace.
    """

    name: str
    value: float | None
    label: str | None = None
    comment: str | None = None
    of: str | None = None

    def is_of(self, calls: Sequence[ModelCall]) -> bool:
        """Whether it judges a conversation of these calls: all of it, one of its calls, or what they are a part of."""
        return self.of is None or any(self.of == call.id or self.of in call.above for call in calls)


def rollouts_of_trace(
    key: str, calls: Sequence[tuple[ModelCall, str | None]], judged: Sequence[Judgement], source: Source
) -> list[FileRollout]:
    """The rollouts of one trace. Raises ValueError when no call of a model is in it.

    Args:
        key: The trace's or session's id.
        calls: In the order of time, each with the name of the agent that made it.
        judged: A judgement whose name is that of a reward is the reward; the others are verdicts of their own. Those of no model call are kept in
            `extra` of every rollout, with a gap.
    """
    if not calls:
        raise ValueError("the trace holds no model call with its messages")
    agents = {id(call): agent for call, agent in calls}
    nowhere = [one for one in judged if not one.is_of([call for call, _ in calls])]
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
        own = [one for one in judged if one.is_of(conversation.calls)]
        _judge(rollout, own, source)
        rollout.gaps |= {"judgements_of_no_call"} if nowhere else set()
        usage, labels = conversation.usage(), [_fields(one) for one in (*own, *nowhere) if one.label or one.comment or one in nowhere]  # fmt: skip
        about: Row = {"id": key, **({"usage": usage} if usage else {}), **({"judged": labels} if labels else {})}
        rollout.extra = {source.format: about}
        found.append(rollout)
    return found


def _judge(rollout: FileRollout, judged: Sequence[Judgement], source: Source) -> None:
    """The first judgement that is named as a reward, one of the whole conversation before one of a part, is the reward."""
    names = source.reward_columns or REWARDS
    rewards = sorted((one for one in judged if one.name in names and one.value is not None), key=lambda one: one.of is not None)  # fmt: skip
    if rewards:
        rollout.columns |= {"reward": rewards[0].value, "scorer": rewards[0].name}
    rollout.verdicts = [
        {"scorer": one.name, "reward": one.value, "components": []}
        for one in judged
        if one.value is not None and one not in rewards[:1]
    ]


def _fields(one: Judgement) -> Row:
    values = {"name": one.name, "value": one.value, "label": one.label, "comment": one.comment, "of": one.of}
    return {name: value for name, value in values.items() if value is not None}


def ids_above(id: Any, parent_of: Callable[[Any], Any]) -> frozenset[str]:
    """The ids from a call's parent up to the root; ids that refer to each other in a circle end it."""
    found: list[str] = []
    at = parent_of(id)
    while at and str(at) not in found:
        found.append(str(at))
        at = parent_of(at)
    return frozenset(found)


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
