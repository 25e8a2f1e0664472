"""One NeMo Gym result row as rows of the store."""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..store.ids import canonical_json, hash_id, prompt_id, task_id
from ..store.messages import Message
from .lines import BadLine
from .nemo_gym_extra import extra_of
from .responses import Transcript, chat_tools, prompt_messages, read_items
from .tokens import linearise

FORMAT = "nemo-gym"
SCORER, SCORER_VERSION = "nemo-gym", "imported"

# Two tools that only the Workplace Assistant has: rows that name no environment are recognised by them.
_WORKPLACE_TOOLS = {"company_directory_find_email_address", "customer_relationship_manager_add_customer"}
# Top-level fields that have a place of their own; other numbers are components of the verdict, the rest goes to `extra`.
_PLACED = {"responses_create_params", "response", "output", "reward", "reward_components", "_ng_rollout_index"}
_TASK_FIELDS = ("ground_truth", "category", "id", "environment_name")
_TOOL_ERRORS = ('{"error":', '{"detail":', '{"output":"Error executing tool')

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What is known about a file besides its rows.

    Attributes:
        run_id: The import run.
        environment: The environment its user named; None to take it from the rows.
        source_run: The run its user says the rows come from; None when unknown.
        inputs: Task fields by (`_ng_task_index`, `_ng_rollout_index`); None without an inputs file.
        tasks: Task ids that have a truth, by (environment, prompt_id).
        occurrences: How often each row was seen so far in this file.
        group_sizes: Rows so far of each group.
    """

    run_id: str
    environment: str | None
    source_run: str | None
    inputs: dict[tuple[Any, Any], Row] | None
    tasks: dict[tuple[str, str], set[str]]
    occurrences: Counter[str] = field(default_factory=Counter)
    group_sizes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class StoreRows:
    """What one result row becomes; None where it has nothing to say."""

    rollout: Row
    prompt: Row
    task: Row | None
    prompt_tokens: Row | None
    score: Row | None


def store_rows(row: Row, source: Source) -> StoreRows:
    """Maps one result row, of today's or of the older shape. Raises BadLine saying what is wrong with it."""
    try:
        return _store_rows(row, source)
    except KeyError as error:
        raise BadLine(f"{error.args[0]!r} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BadLine(str(error)) from error


def _store_rows(row: Row, source: Source) -> StoreRows:
    params, response = row["responses_create_params"], row.get("response")
    tools = chat_tools(params.get("tools") or [])
    messages = prompt_messages(params["input"])
    prompt = prompt_id([message.to_openai() for message in messages], tools)
    transcript = read_items(response["output"] if response else row["output"])
    gaps = set(transcript.gaps) | _prompt_gaps(messages, tools)

    key = (row.get("_ng_task_index"), row.get("_ng_rollout_index"))
    truth = _task_fields(row, (source.inputs or {}).get(key, {}))
    if source.inputs is None:
        gaps.add("no_inputs_file")
    environment = source.environment or _environment(row, truth, tools)
    task, task_row = _task(environment, prompt, truth, source, gaps)

    identity = _identity(row, source, task, (response or {}).get("model"))
    tokens, prompt_tokens = _tokens(transcript, prompt, (response or {}).get("model"), gaps)
    verdict = _verdict(row, gaps)
    rollout = {
        **identity,
        "run_id": source.run_id,
        "task_id": task,
        "prompt_id": prompt,
        "environment": environment,
        "policy_id": (response or {}).get("model"),
        "engine": FORMAT,
        **_sampling(params, response or {}),
        "messages": [message.to_row() for message in transcript.messages],
        **tokens,
        **_counts(transcript),
        **verdict,
        **_ending(response, transcript),
        "gaps": sorted(gaps),
        "extra": json.dumps(extra_of(row, _PLACED.union(_numbers(row)), transcript, tokens), ensure_ascii=False),
    }
    prompt_row = {
        "prompt_id": prompt,
        "messages": [message.to_row() for message in messages],
        "tools": json.dumps(tools, ensure_ascii=False),
    }
    return StoreRows(rollout, prompt_row, task_row, prompt_tokens, _score(rollout, source))


def _prompt_gaps(messages: list[Message], tools: list[Row]) -> set[str]:
    gaps = set() if tools else {"no_tools"}
    return gaps if any(message.role in ("system", "developer") for message in messages) else gaps | {"no_system_prompt"}


def _task_fields(row: Row, inputs: Row) -> Row:
    """Truth, category and key of the task: from the inputs file, else from the row (some verifiers repeat them)."""
    nested = inputs.get("verifier_metadata") or row.get("verifier_metadata") or {}
    found = {}
    for name in _TASK_FIELDS:
        found[name] = next((place[name] for place in (inputs, row, nested) if place.get(name) is not None), None)
    return found


def task_fields(row: Row) -> Row:
    """What an inputs row tells about its task, without the prompt that the result row repeats."""
    return {name: row[name] for name in (*_TASK_FIELDS, "verifier_metadata") if name in row}


def _environment(row: Row, truth: Row, tools: list[Row]) -> str:
    named = truth["environment_name"] or (row.get("agent_ref") or {}).get("name") or ""
    offered = {tool["function"]["name"] for tool in tools}
    if named.startswith("workplace_assistant") or (not named and offered >= _WORKPLACE_TOOLS):
        return "workplace"
    return named or "unknown"


def _task(environment: str, prompt: str, truth: Row, source: Source, gaps: set[str]) -> tuple[str, Row | None]:
    """The task's id, and its row unless the house has it: the one task of the prompt whose truth is known, else one without truth."""
    if truth["ground_truth"] is None:
        known = source.tasks.get((environment, prompt), set())
        if len(known) == 1:
            return next(iter(known)), None
        gaps.add("no_task")
    key = task_id(environment, prompt, truth["ground_truth"], None)
    row = {
        "task_id": key,
        "environment": environment,
        "prompt_id": prompt,
        "ground_truth": None if truth["ground_truth"] is None else json.dumps(truth["ground_truth"], ensure_ascii=False),
        "split": "train",
        "category": truth["category"],
        "source_key": None if truth["id"] is None else str(truth["id"]),
        "created_at": datetime.now(UTC),
    }  # fmt: skip
    return key, row


def _identity(row: Row, source: Source, task: str, model: str | None) -> Row:
    """Ids that stay the same when the file is imported again, renamed or grown."""
    if row.get("_ng_rollout_id"):
        key = hash_id(FORMAT, source.source_run, row["_ng_rollout_id"])
    else:
        content = hash_id(canonical_json(row))
        key = hash_id(FORMAT, source.source_run, content, source.occurrences[content])
        source.occurrences[content] += 1
    group = hash_id(FORMAT, source.source_run, task, model)
    sample = row.get("_ng_rollout_index")
    if sample is None:
        sample = source.group_sizes[group]
    source.group_sizes[group] += 1
    return {
        "rollout_id": key,
        "slot_id": key,
        "group_id": group,
        "episode_id": key,
        "sample_index": sample,
        "attempt": row.get("_ng_attempt_index") or 0,
        "agent": (row.get("agent_ref") or {}).get("name") or "main",
        "branch": 0,
        "trainable": True,
    }


def _tokens(transcript: Transcript, prompt: str, model: str | None, gaps: set[str]) -> tuple[Row, Row | None]:
    if not transcript.token_calls:
        gaps.add("no_token_ids")
        return {}, None
    linear = linearise(transcript.token_calls)
    if linear is None:
        gaps.add("prompts_not_contiguous")
        return {"prefix_ok": False}, None
    # Nobody says which tokenizer and template these are: named after the model, and after the tokens the prompt became.
    hashes = {"tokenizer_hash": f"{FORMAT}:{model}", "template_hash": hash_id("prompt tokens", linear.prompt)}
    columns = {
        **hashes,
        "token_ids": linear.token_ids,
        "loss_mask": linear.loss_mask,
        "logprobs": linear.logprobs,
        "n_prompt_tokens": len(linear.prompt),
        "n_tokens": len(linear.token_ids),
        "n_sampled_tokens": len(linear.logprobs),
        "prefix_ok": True,
    }
    return columns, {"prompt_id": prompt, **hashes, "token_ids": linear.prompt}


def _sampling(params: Row, response: Row) -> Row:
    """What was asked for, else what the endpoint says it used."""
    columns = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_output_tokens"}
    return {
        column: params[name] if params.get(name) is not None else response.get(name) for column, name in columns.items()
    }


def _counts(transcript: Transcript) -> Row:
    calls = [call for message in transcript.messages for call in message.tool_calls]
    outputs = [message.text or "" for message in transcript.messages if message.role == "tool"]
    return {
        "n_turns": transcript.n_calls,
        "n_tool_calls": len(calls),
        "n_tool_errors": sum(text.startswith(_TOOL_ERRORS) for text in outputs),
        "n_parse_failures": sum(not _parses(call.arguments) for call in calls),
    }


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _verdict(row: Row, gaps: set[str]) -> Row:
    reward = row.get("reward")
    if reward is None:
        gaps.add("no_reward")
        return {}
    reward = float(reward)
    return {
        "reward": reward,
        "passed": reward >= 1.0,
        "reward_components": _components(row),
        "scorer": SCORER,
        "scorer_version": SCORER_VERSION,
    }


def _components(row: Row) -> list[Row]:
    """Named parts of the verdict: `reward_components`, then every other top-level number."""
    named = row.get("reward_components")
    entries = named.items() if isinstance(named, dict) else ((entry["name"], entry) for entry in named or [])
    components = []
    for name, value in entries:
        details = value if isinstance(value, dict) else {"value": value}
        amount = details.get("value", details.get("score"))
        components.append({"name": name, "value": amount, "weight": details.get("weight")})
    return components + [{"name": name, "value": row[name], "weight": None} for name in _numbers(row)]


def _numbers(row: Row) -> list[str]:
    return [
        name for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        and name not in _PLACED and name not in _TASK_FIELDS and not name.startswith("_ng_")
    ]  # fmt: skip


def _score(rollout: Row, source: Source) -> Row | None:
    if rollout.get("reward") is None:
        return None
    config = hash_id(FORMAT, source.source_run)
    return {
        "row_id": hash_id(rollout["rollout_id"], SCORER, SCORER_VERSION, config),
        "rollout_id": rollout["rollout_id"],
        "scorer": SCORER,
        "scorer_version": SCORER_VERSION,
        "config_hash": config,
        "reward": rollout["reward"],
        "passed": rollout["passed"],
        "components": rollout["reward_components"],
        "run_id": source.run_id,
        "created_at": datetime.now(UTC),
    }


def _ending(response: Row | None, transcript: Transcript) -> Row:
    """How the episode ended, as far as the row tells: an error, the token limit, the turn limit, or a closing message."""
    response = response or {}
    if response.get("error"):
        error = response["error"]
        text = error.get("message") if isinstance(error, dict) else str(error)
        return {"status": "error", "stop_reason": "error", "error_type": "engine", "error_message": text}
    if response.get("incomplete_details"):
        return {"status": "truncated", "stop_reason": "length"}
    if transcript.messages and transcript.messages[-1].role == "tool":
        return {"status": "truncated", "stop_reason": "max_turns"}
    return {"status": "completed", "stop_reason": "stop"}
