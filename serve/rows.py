"""A finished rollout of the server: one `Rollout` a branch, all of one episode."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..collect.episode import token_columns
from ..policies.types import Policy
from ..store.ids import group_id, hash_id, slot_id
from ..store.rollout import FAILED, Rollout, verdict_columns
from ..store.task import Prompt, Task
from .calls import Call
from .history import Branch, OpenRollout, conversation
from .verdicts import Ending

MAIN = "main"
_CANCELLED = "cancelled"
"""Stop reason of a call whose client went away, and gap of a row that ends in one."""


def row_id(run_id: str, name: str, agent: str = MAIN, branch: int = 0) -> str:
    """The rollout_id of a row: of the run, the id the client gave, the agent and the branch."""
    return hash_id("served rollout", run_id, name, agent, branch)


def main_task(served: OpenRollout, environment: str, ending: Ending) -> Task:
    """The task the episode was about: the prompt of its main branch, and the task's fields that the client gave at the end."""
    first = served.branches()[0].path[0]
    return Task(environment, first.messages, first.tools, **ending.task)


def place_of(ending: Ending, task: Task) -> tuple[str, str]:
    """(slot, group): the key of the rollout's slot, beside its sample_index, and its group."""
    slot = task.task_id if ending.key is None else hash_id("task", ending.key)
    return slot, slot if ending.group is None else hash_id("group", ending.group)


def episode_rollouts(
    run_id: str,
    served: OpenRollout,
    policies: Mapping[str | None, Policy],
    task: Task,
    ending: Ending,
    place: tuple[int, int],
) -> list[Rollout]:
    """A rollout for each branch, the main one first; its rollout_id is the episode's. `place` is sample_index and attempt; `policies` as for branch_rollouts.

    A side branch has a prompt of its own, and the episode's task. A retry has the gap `retry` and is not trainable, nor is a row with a gap
    `distribution:NAME`, or one that ends in an answer whose client went away (gap `cancelled`).
    """
    sample_index, attempt = place
    slot, group = place_of(ending, task)
    branches = served.branches()
    columns: dict[str, Any] = {
        "task": task,
        "slot_id": slot_id(run_id, None, slot if slot == group else hash_id(slot, group), sample_index),
        "run_id": run_id,
        "group_id": group_id(run_id, None, group),
        "sample_index": sample_index,
        "attempt": attempt,
        **_ending_columns(ending, last_call(branches)),
    }
    rollouts = branch_rollouts(branches, policies, columns, lambda agent, branch: row_id(run_id, served.name, agent, branch))  # fmt: skip
    for rollout, branch in zip(rollouts, branches, strict=True):
        rollout.extra = _extra(served, branch.path[0], ending)
        rollout.n_tool_errors = ending.n_tool_errors  # only the client knows it
    return rollouts


def branch_rollouts(
    branches: Sequence[Branch],
    policies: Mapping[str | None, Policy],
    columns: Mapping[str, Any],
    id_of: Callable[[str, int], str],
) -> list[Rollout]:
    """A rollout for each branch of an episode, parallel to `branches`, each with the prompt that the engine was given.

    Args:
        branches: The main one first: its rollout_id is the episode's. Branches of other agents, and retries, are not trainable.
        policies: What answered, by the `model` of a call, which is the same for all calls of a branch.
        columns: What all rows share: task, slot, group, status, verdict, ….
        id_of: Gives the rollout_id of an agent's branch; that of the main one is asked for as (MAIN, 0).
    """
    main = id_of(MAIN, 0)
    rollouts = []
    for number, branch in enumerate(branches):
        prompt = Prompt(branch.path[0].messages, branch.path[0].tools)
        policy = policies[branch.path[0].model]
        rollout = Rollout(
            rollout_id=main if not number else id_of(branch.agent, branch.number),
            episode_id=main,
            agent=branch.agent,
            branch=branch.number,
            trainable=branch.agent == branches[0].agent
            and not branch.retry
            and not _is_shaped(branch.path)
            and branch.path[-1].stop_reason != _CANCELLED,
            prompt=prompt,
            policy_id=policy.policy_id,
            engine=policy.engine,
            **columns,
            **_path_columns(columns["task"], branch, policy),
        )
        ended = branch.path[-1].stop_reason == _CANCELLED
        rollout.gaps = [*(rollout.gaps or []), *(["retry"] if branch.retry else []), *([_CANCELLED] if ended else [])]
        rollouts.append(rollout)
    return rollouts


def _request_gaps(path: list[Call]) -> list[str]:
    return list(dict.fromkeys(gap for call in path for gap in call.gaps))


def _is_shaped(path: list[Call]) -> bool:
    """Whether tokens of the path were sampled from a distribution that a learner does not compute."""
    return any(gap.startswith("distribution:") for gap in _request_gaps(path))


def last_call(branches: Sequence[Branch]) -> Call:
    """The call that the main agent's work ended with."""
    calls = [branch.path[-1] for branch in branches if branch.agent == branches[0].agent and not branch.retry]
    return max(calls or [branches[0].path[-1]], key=lambda call: call.number)


def _path_columns(task: Task, branch: Branch, policy: Policy) -> dict[str, Any]:
    """The messages, tokens, settings and times of the calls of one branch."""
    path = branch.path
    talk = conversation(task, path, branch.shared)
    first, last = path[0], path[-1]
    settings = {
        (call.sampling.temperature, call.sampling.top_p, call.sampling.top_k, call.sampling.min_p) for call in path
    }
    ended_at = last.started_at.timestamp() + last.seconds
    return {
        "temperature": first.sampling.temperature,
        "top_p": first.sampling.top_p,
        "top_k": first.sampling.top_k,
        "min_p": first.sampling.min_p,
        "max_tokens": first.max_tokens,
        "sampling_seed": first.sampling.seed,
        "messages": talk.messages,
        **token_columns(talk, policy),
        "n_turns": len(path),
        "n_parse_failures": sum(call.parse_failures for call in path),
        "n_retries": sum(call.retries for call in path),
        "gaps": [*talk.gaps, *(["sampling_differs"] if len(settings) > 1 else []), *_request_gaps(path)],
        "started_at": first.started_at,
        "duration_s": max(0.0, ended_at - first.started_at.timestamp()),
        "generate_s": sum(call.seconds for call in path),
    }


def _ending_columns(ending: Ending, last: Call) -> dict[str, Any]:
    cut = last.stop_reason == "length"
    status = ending.status or ("truncated" if cut else "completed")
    return {
        "status": status,
        "stop_reason": ending.stop_reason or (status if status in FAILED else last.stop_reason),
        "error_type": ending.error_type,
        "error_message": ending.error_message,
        **verdict_columns(ending.score),
    }


def _extra(served: OpenRollout, first: Call, ending: Ending) -> dict[str, Any]:
    found: dict[str, Any] = {"rollout_id": served.name}
    if ending.key is not None:
        found["task_key"] = ending.key
    if ending.group is not None:
        found["group"] = ending.group
    if ending.metadata:
        found["metadata"] = ending.metadata
    if first.diverged is not None:
        found["diverged"] = first.diverged
    return {"serve": found}
