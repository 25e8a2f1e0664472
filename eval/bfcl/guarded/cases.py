"""The cases of a category as a policy gets them, for function calling or for a prompt."""

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

    In mode `prompt` the functions are in the benchmark's system prompt, and none are offered as tools.
    """
    turns = copy.deepcopy(entry["question"])
    later = {int(turn): functions for turn, functions in entry.get("missed_function", {}).items()}
    for turn, functions in later.items():
        # The package sends this text when functions are added later; the case has no message there.
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
    """Case id → case, with the type hints for the model; sessions of a memory category included."""
    return {entry["id"]: entry for entry in load_dataset_entry(category)}


@cache
def answers(category: str) -> dict[str, tuple[dict, list | None]]:
    """Case id → (case for the checker, without type hints; gold answer or None). Gold is paired by position, because its ids can differ."""
    bare = load_dataset_entry(category, include_language_specific_hint=False)
    judged = [entry for entry in bare if not is_memory_prereq(entry["id"])]
    known: dict[str, tuple[dict, list | None]] = {entry["id"]: (entry, None) for entry in bare}
    if not is_relevance_or_irrelevance(category):
        gold = load_ground_truth_entry(category)
        known |= {entry["id"]: (entry, item["ground_truth"]) for entry, item in zip(judged, gold, strict=True)}
    return known


def verdict(valid: bool, error_type: str, error: object) -> dict:
    """A reply, with a shortened error if there is one."""
    message = error if isinstance(error, str) else json.dumps(error, default=str)
    return {"valid": bool(valid), "error_type": None if valid else error_type, "error": "" if valid else message[:500]}
