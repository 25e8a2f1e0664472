"""A finished rollout as rows: one a branch, all of one episode, with the prompts, the task and the prompt's tokens they refer to."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..collect.episode import token_columns
from ..environments.task_rows import task_rows
from ..environments.verdicts import component_rows, score_columns
from ..policies.types import Policy
from ..store.ids import group_id, hash_id, slot_id
from ..store.task import Score, Task
from .calls import Call
from .history import Rollout, conversation
from .verdicts import Ending

MAIN = "main"


def row_id(run_id: str, name: str, agent: str = MAIN, branch: int = 0) -> str:
    """The rollout_id of a row: of the run, the id the client gave, the agent and the branch."""
    return hash_id("served rollout", run_id, name, agent, branch)


@dataclass
class Episode:
    """All rows of one finished rollout, as RolloutWriter.add_many takes them. The main branch is the first of `rollouts`."""

    rollouts: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    prompt_tokens: list[dict[str, Any]] = field(default_factory=list)


def main_task(rollout: Rollout, environment: str, ending: Ending) -> Task:
    """The task the episode was about: the prompt of its main branch, and what the client told of it at the end."""
    first = rollout.branches()[0][2][0]
    return Task(environment, first.messages, first.tools, **ending.task)


def episode_rows(
    run_id: str, rollout: Rollout, policy: Policy, task: Task, ending: Ending, place: tuple[int, int]
) -> Episode:
    """A row for each branch; the main one's rollout_id is the episode's. `place` is sample_index and attempt. A side branch has a prompt of its own, and the episode's task."""
    branches, (sample_index, attempt) = rollout.branches(), place
    main = row_id(run_id, rollout.name)
    task_id = task.task_id
    shared = {
        "slot_id": slot_id(run_id, None, task_id, sample_index),
        "run_id": run_id,
        "step": None,
        "task_id": task_id,
        "group_id": group_id(run_id, None, task_id),
        "sample_index": sample_index,
        "attempt": attempt,
        "episode_id": main,
        "environment": task.environment,
        "policy_id": policy.policy_id,
        "engine": policy.engine,
        **_ending_columns(ending, branches[0][2][-1]),
    }
    episode = Episode(tasks=[task_rows(task, task_id, task.prompt_id)[1]])
    for number, (agent, branch, path) in enumerate(branches):
        first = path[0]
        own = task if not number else Task(task.environment, first.messages, first.tools)
        prompt_id = own.prompt_id
        columns, prompt_ids = _path_columns(own, path, policy)
        row = {
            "rollout_id": main if not number else row_id(run_id, rollout.name, agent, branch),
            "agent": agent,
            "branch": branch,
            "trainable": agent == branches[0][0],
            "prompt_id": prompt_id,
            "extra": json.dumps(_extra(rollout, first, ending), ensure_ascii=False),
            **shared,
            **columns,
        }
        episode.rollouts.append(row)
        episode.prompts.append(task_rows(own, "", prompt_id)[0])
        if prompt_ids and row["tokenizer_hash"] is not None:
            identity = {name: row[name] for name in ("prompt_id", "tokenizer_hash", "template_hash")}
            tokens = {"row_id": hash_id(*identity.values()), **identity, "token_ids": prompt_ids}
            episode.prompt_tokens.append(tokens)
    return episode


def _path_columns(task: Task, path: list[Call], policy: Policy) -> tuple[dict[str, Any], list[int] | None]:
    """What the calls of one path say, and the tokens of its prompt."""
    talk = conversation(task, path)
    first, last = path[0], path[-1]
    settings = {
        (call.sampling.temperature, call.sampling.top_p, call.sampling.top_k, call.sampling.min_p) for call in path
    }
    gaps = [*talk.gaps, *(["sampling_differs"] if len(settings) > 1 else [])]
    ended_at = last.started_at.timestamp() + last.seconds
    columns = {
        "temperature": first.sampling.temperature,
        "top_p": first.sampling.top_p,
        "top_k": first.sampling.top_k,
        "min_p": first.sampling.min_p,
        "max_tokens": first.max_tokens,
        "sampling_seed": first.sampling.seed,
        "messages": [message.to_row() for message in talk.messages],
        **token_columns(talk, policy),
        "n_turns": len(path),
        "n_tool_calls": sum(len(message.tool_calls) for message in talk.messages),
        "n_parse_failures": sum(call.parse_failures for call in path),
        "n_retries": sum(call.retries for call in path),
        "gaps": gaps,
        "started_at": first.started_at,
        "duration_s": max(0.0, ended_at - first.started_at.timestamp()),
        "generate_s": sum(call.seconds for call in path),
    }
    return columns, talk.prompt_ids


def _ending_columns(ending: Ending, last: Call) -> dict[str, Any]:
    cut = last.stop_reason == "length"
    status = ending.status or ("truncated" if cut else "completed")
    return {
        "status": status,
        "stop_reason": ending.stop_reason
        or (status if status in ("error", "timeout", "aborted") else last.stop_reason),
        "error_type": ending.error_type,
        "error_message": ending.error_message,
        "n_tool_errors": ending.n_tool_errors,
        **score_columns(ending.score),
    }


def _extra(rollout: Rollout, first: Call, ending: Ending) -> dict[str, Any]:
    told: dict[str, Any] = {"rollout_id": rollout.name}
    if ending.metadata:
        told["metadata"] = ending.metadata
    if first.diverged is not None:
        told["diverged"] = first.diverged
    return {"serve": told}


def score_rows(rollout_ids: list[str], score: Score, run_id: str) -> list[dict[str, Any]]:
    """Rows of `scores`: one verdict on each of the rollouts."""
    config = hash_id({})
    return [
        {
            "row_id": hash_id(rollout_id, score.scorer, score.scorer_version, config),
            "rollout_id": rollout_id,
            "scorer": score.scorer,
            "scorer_version": score.scorer_version,
            "config_hash": config,
            "reward": score.reward,
            "passed": score.passed,
            "components": component_rows(score),
            "run_id": run_id,
            "created_at": datetime.now(UTC),
        }
        for rollout_id in rollout_ids
    ]
