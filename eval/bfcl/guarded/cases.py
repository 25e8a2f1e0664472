"""What a policy is shown: the cases of a category, resolved for function calling or for a prompt."""

import copy
import hashlib
import json
from functools import cache

from bfcl_eval.constants.default_prompts import (
    DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC,
    DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_PROMPTING,
)
from bfcl_eval.model_handler.utils import system_prompt_pre_processing_chat_model
from bfcl_eval.utils import (
    is_memory_prereq,
    is_relevance_or_irrelevance,
    load_dataset_entry,
    load_ground_truth_entry,
)


def cases(category: str, mode: str, limit: int | None) -> dict:
    """The cases in their order; with a limit, those whose id hashes lowest: any slice contains the smaller ones."""
    listed = {case: entry for case, entry in entries(category).items() if not is_memory_prereq(case)}
    chosen = sorted(listed, key=lambda i: hashlib.sha256(i.encode()).hexdigest())[:limit]
    kept = set(chosen)
    return {"cases": [resolved(entry, mode) for case, entry in listed.items() if case in kept]}


def resolved(entry: dict, mode: str) -> dict:
    """A case as `id`, `turns` (messages of each user turn), `functions`, `later` (turn number → functions that come with it) and `scenario`.

    In mode `prompt` the functions stand in the benchmark's own system prompt, and none are left to be offered as tools.
    """
    turns = copy.deepcopy(entry["question"])
    later = {int(turn): functions for turn, functions in entry.get("missed_function", {}).items()}
    for turn, functions in later.items():
        # The package sends these words when functions come late; the case itself has no message there.
        text = DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
        if mode == "prompt":
            text = DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_PROMPTING.format(functions=functions)
        turns[turn] = [{"role": "user", "content": text}]
    if mode == "prompt":
        turns[0] = system_prompt_pre_processing_chat_model(turns[0], entry["function"], entry["id"])
        return {"id": entry["id"], "turns": turns, "functions": [], "later": {}, "scenario": entry.get("scenario")}
    functions = entry["function"]
    return {
        "id": entry["id"],
        "turns": turns,
        "functions": functions,
        "later": later,
        "scenario": entry.get("scenario"),
    }


@cache
def entries(category: str) -> dict[str, dict]:
    """Case id → case, with the hints on types that a model is shown; the sessions before the questions of a memory category are among them."""
    return {entry["id"]: entry for entry in load_dataset_entry(category)}


@cache
def answers(category: str) -> dict[str, tuple[dict, list | None]]:
    """Case id → (case as the checker wants it, without the hints a model is shown; gold, None where there is none). Gold is paired by position, for its ids are not always those of the cases."""
    bare = load_dataset_entry(category, include_language_specific_hint=False)
    judged = [entry for entry in bare if not is_memory_prereq(entry["id"])]
    known: dict[str, tuple[dict, list | None]] = {entry["id"]: (entry, None) for entry in bare}
    if not is_relevance_or_irrelevance(category):
        gold = load_ground_truth_entry(category)
        known |= {entry["id"]: (entry, item["ground_truth"]) for entry, item in zip(judged, gold, strict=True)}
    return known


def verdict(valid: bool, error_type: str, error: object) -> dict:
    """A reply; the error is kept short and only when there is one."""
    said = error if isinstance(error, str) else json.dumps(error, default=str)
    return {"valid": bool(valid), "error_type": None if valid else error_type, "error": "" if valid else said[:500]}
