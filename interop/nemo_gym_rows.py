"""One NeMo Gym result row as a rollout."""

import json
from collections import Counter
from dataclasses import dataclass, field

from ..store.ids import canonical_json, hash_id
from ..store.items import TokenCall
from ..store.messages import Message
from .nemo_gym_inputs import TASK_FIELDS, Key, PlannedInputs, attempt_key, read_request
from .rollout import FileRollout, Row, take_keepsake, unread_fields
from .storing import Source
from .tokens import linearise

FORMAT = "nemo-gym"

# Two tools that only the Workplace Assistant has: rows that name no environment are recognised by them.
_WORKPLACE_TOOLS = {"company_directory_find_email_address", "customer_relationship_manager_add_customer"}
# Top-level fields with a place of their own; other numbers are components of the verdict.
_PLACED = {"responses_create_params", "response", "output", "reward", "reward_components", "_ng_rollout_index"}
_TAKEN = {*_PLACED, *TASK_FIELDS, "agent_ref", "verifier_metadata", "rollhouse"}
# Where servers say why an attempt failed.
_FAILURE_TEXTS = ("_ng_failure_message", "_ng_failure_judge_error", "failure_reason", "infrastructure_error", "error")


@dataclass
class Companion:
    """What the files beside a results file hold.

    Attributes:
        inputs: None without an inputs file.
        failed: Failed attempts by `attempt_key`.
        slots: Slot and agent of each rollout that has failed attempts, as far as it was read.
        tried: Failed attempts of each key that were read so far.
    """

    inputs: PlannedInputs | None = None
    failed: Counter[Key] = field(default_factory=Counter)
    slots: dict[Key, tuple[str, str]] = field(default_factory=dict)
    tried: Counter[Key] = field(default_factory=Counter)


def read(row: Row, source: Source) -> list[FileRollout]:
    """Maps one row, of today's or of the older shape, or of the failures file.

    Raises KeyError, TypeError, ValueError or AttributeError for what is not one.
    """
    companion: Companion = source.companion or Companion()
    inputs, counts = companion.inputs or PlannedInputs(), Counter() if companion.inputs is None else source.counts
    failed = "_ng_failure_class" in row
    response = row.get("response")
    if failed and "responses_create_params" not in row:
        planned = inputs.find(row, None, counts)
        if planned.params is None:
            raise KeyError("responses_create_params")
        params = planned.params
        tools, prompt, reader = read_request(params)
    else:
        params = row["responses_create_params"]
        tools, prompt, reader = read_request(params)
        planned = inputs.find(row, prompt, counts)
    n_before = len(reader.token_calls)
    said = response if response else row
    messages = reader.read_items(said.get("output", []) if failed else said["output"])
    rollout = FileRollout(prompt, tools, messages, gaps=reader.all_gaps())
    if companion.inputs is None:
        rollout.gaps.add("no_inputs_file")
    truth = _task_fields(row, planned.fields)
    rollout.task = {name: truth[name] for name in ("ground_truth", "category")} | {"source_key": truth["id"]}
    rollout.columns = {
        "environment": _environment(row, truth, tools),
        "policy_id": (response or {}).get("model"),
        "sample_index": row.get("_ng_rollout_index"),
        "attempt": row.get("_ng_attempt_index") or 0,
        "agent": (row.get("agent_ref") or {}).get("name") or "main",
        **_sampling(params, response or {}),
        "reward": row.get("reward"),
        "reward_components": components(row) if row.get("reward") is not None else None,
        **_ending(response, messages),
    }
    _place_tokens(rollout, reader.token_calls[n_before:])
    if failed:
        # Attempts at one rollout share its id: each is known by its content.
        rollout.columns |= _failure(row, response)
    else:
        rollout.source_key = row.get("_ng_rollout_id") or None
    rollout.gaps |= {
        gap
        for gap in unread_fields(row, _TAKEN | {*_numbers(row), *_FAILURE_TEXTS})
        if not gap.startswith("unread:_ng_")
    }
    take_keepsake(rollout, row.get("rollhouse"))
    _join_attempts(rollout, row, companion, source, failed)
    return [rollout]


def _join_attempts(rollout: FileRollout, row: Row, companion: Companion, source: Source, failed: bool) -> None:
    """Failed attempts share the slot of the result that came at last, so that the view `final_rollouts` has that one only."""
    key = attempt_key(row)
    if key is None or key not in companion.failed:
        return
    columns = rollout.columns
    content = hash_id(canonical_json(row))
    own = hash_id(FORMAT, source.source_run, content, source.occurrences[content])
    if failed:
        slot = companion.slots.setdefault(key, (own, columns["agent"]))
        columns |= {"slot_id": slot[0], "agent": slot[1], "attempt": companion.tried[key]}
        companion.tried[key] += 1
    else:
        companion.slots[key] = (own, columns["agent"])
        columns |= {"slot_id": own, "attempt": companion.failed[key]}


def _failure(row: Row, response: Row | None) -> Row:
    found = (row[name] for name in _FAILURE_TEXTS if row.get(name))
    message = next(found, None) or ((response or {}).get("error") or {}).get("message")
    text = message if isinstance(message, str) or message is None else json.dumps(message, ensure_ascii=False)
    return {"status": "error", "stop_reason": "error", "error_type": row["_ng_failure_class"], "error_message": text}


def _task_fields(row: Row, inputs: Row) -> Row:
    """Truth, category and key of the task: from the inputs file, else from the row (some verifiers repeat them)."""
    nested = inputs.get("verifier_metadata") or row.get("verifier_metadata") or {}
    found = {}
    for name in TASK_FIELDS:
        found[name] = next((place[name] for place in (inputs, row, nested) if place.get(name) is not None), None)
    return found


def _environment(row: Row, truth: Row, tools: list[Row]) -> str:
    named = truth["environment_name"] or (row.get("agent_ref") or {}).get("name") or ""
    offered = {tool["function"]["name"] for tool in tools}
    if named.startswith("workplace_assistant") or (not named and offered >= _WORKPLACE_TOOLS):
        return "workplace"
    return named or "unknown"


def _place_tokens(rollout: FileRollout, calls: list[TokenCall]) -> None:
    if not calls:
        return
    linear = linearise(calls)
    if linear is None:
        rollout.gaps.add("prompts_not_contiguous")
        rollout.columns["prefix_ok"] = False
        return
    rollout.prompt_ids = linear.prompt
    rollout.columns |= {
        "token_ids": linear.token_ids,
        "loss_mask": linear.loss_mask,
        "logprobs": linear.logprobs,
        "prefix_ok": True,
    }


def _sampling(params: Row, response: Row) -> Row:
    """The settings of the request, else those of the response."""
    columns = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_output_tokens"}
    return {
        column: params[name] if params.get(name) is not None else response.get(name) for column, name in columns.items()
    }


def components(row: Row) -> list[Row]:
    """Named parts of the verdict: `reward_components`, then every other top-level number."""
    named = row.get("reward_components")
    entries = named.items() if isinstance(named, dict) else ((entry["name"], entry) for entry in named or [])
    found = []
    for name, value in entries:
        details = value if isinstance(value, dict) else {"value": value}
        amount = details.get("value", details.get("score"))
        found.append({"name": name, "value": amount, "weight": details.get("weight")})
    return found + [{"name": name, "value": row[name], "weight": None} for name in _numbers(row)]


def _numbers(row: Row) -> list[str]:
    return [
        name for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        and name not in _PLACED and name not in TASK_FIELDS and not name.startswith("_ng_")
    ]  # fmt: skip


def _ending(response: Row | None, messages: list[Message]) -> Row:
    """How the episode ended, as far as the row shows: an error, the token limit, the turn limit, or a closing message."""
    response = response or {}
    if response.get("error"):
        error = response["error"]
        text = error.get("message") if isinstance(error, dict) else str(error)
        return {"status": "error", "stop_reason": "error", "error_type": "engine", "error_message": text}
    if response.get("incomplete_details"):
        return {"status": "truncated", "stop_reason": "length"}
    if messages and messages[-1].role == "tool":
        return {"status": "truncated", "stop_reason": "max_turns"}
    return {"status": "completed", "stop_reason": "stop"}
