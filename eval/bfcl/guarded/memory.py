"""The memory categories: sessions in which a policy writes a memory, then questions that it answers from the memory.

The package keeps a memory as a file in the results of a model. Here the caller keeps the JSON of that file, and every session and question
gets its own folder with its initial memory. Answers cannot affect each other, and a new process needs no state.
"""

import copy
import importlib
import json
import tempfile
from pathlib import Path

from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING
from bfcl_eval.eval_checker.agentic_eval.agentic_checker import agentic_checker
from bfcl_eval.model_handler.utils import add_memory_instruction_system_prompt
from bfcl_eval.utils import (
    get_directory_structure_by_id,
    is_memory_prereq,
    populate_initial_settings_for_memory_test_cases,
)
from cases import entries, resolved, verdict


def sessions(category: str) -> dict:
    """Scenario → ids of its sessions, in the order in which they are played."""
    order: dict[str, list[str]] = {}
    for id, entry in entries(category).items():
        if is_memory_prereq(id):
            order.setdefault(entry["scenario"], []).append(id)
    return {"sessions": order}


def shown(category: str, mode: str, id: str, memory: dict | None) -> dict:
    """A session or question as `cases` returns it, with the memory's visible part in the system message."""
    entry = copy.deepcopy(entries(category)[id])
    with tempfile.TemporaryDirectory(dir=".") as folder:
        backend = opened(entry, memory, Path(folder))
        question = add_memory_instruction_system_prompt(entry["question"], category, entry["scenario"], backend)
    case = resolved({**entry, "question": question}, mode)
    return {"case": {**case, "memory": memory, "fills_memory": is_memory_prereq(id)}}


def opened(entry: dict, memory: dict | None, folder: Path):
    """A backend with this memory."""
    (name,) = entry["involved_classes"]
    backend = getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
    backend._load_scenario(settings(entry, memory, folder)[name])
    return backend


def settings(entry: dict, memory: dict | None, folder: Path) -> dict:
    """The arguments of a backend; the memory (None: empty) is in the folder where the package reads it."""
    place = snapshot(entry, folder)
    if memory is not None and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(memory))
    return populate_initial_settings_for_memory_test_cases([dict(entry)], folder)[0]["initial_config"]


def snapshot(entry: dict, folder: Path) -> Path:
    """The file in which the package keeps the memory of a scenario."""
    return folder / get_directory_structure_by_id(entry["id"]) / "memory_snapshot" / f"{entry['scenario']}_final.json"


def check_answer(answers: list, gold: list) -> dict:
    """The verdict on a question. The last answer without calls must contain one of the gold answers.

    Args:
        answers: For each turn, the answers without calls, or calls that do not decode.
    """
    if len(answers) != 1:
        return verdict(False, "agentic:inference_error", f"{len(answers)} turns were played, a question has one")
    if not (answers[0] and answers[0][-1]):
        return verdict(False, "agentic:no_last_message", "every answer calls functions")
    last = answers[0][-1]
    if not isinstance(last, str):  # calls that do not decode: the package searches the first one
        last = str(dict([last[0]]))
    result = agentic_checker(last, gold)
    return verdict(result["valid"], result.get("error_type", "unclear"), result.get("error_message", ""))
