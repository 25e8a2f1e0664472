"""Cases of several model calls: simulated backends run the policy's calls, and the benchmark compares the results.

The package keeps backends in its own module's globals under a name the caller gives. A name is used for one episode, and its backends are
removed afterwards: a second use would find the old state.
"""

import json
import re
import shutil
import uuid
from collections import OrderedDict
from pathlib import Path

from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils as backends
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
from bfcl_eval.model_handler.utils import (
    convert_to_function_call,
    default_decode_execute_prompting,
    format_execution_results_prompting,
)
from bfcl_eval.utils import is_memory
from cases import answers, verdict
from literal import plain_call, refuse_expressions
from memory import check_answer, settings, snapshot
from single_turn import python_of

EPISODES = 4096  # episodes whose backends are kept; a removed one is rebuilt from its calls
_played: OrderedDict[str, int] = OrderedDict()


def execute(category: str, mode: str, id: str, episode: str, steps: list, memory: dict | None = None) -> dict:
    """Runs the calls of the last step, and before them those of earlier steps that this process has not run.

    Args:
        episode: Letters and digits, unique to this episode.
        steps: The answer of every model call of the episode so far.
        memory: The initial memory, in a memory category.
    Returns:
        One text per call in mode `fc`; in mode `prompt` one text for all. None if the answer has no call, which ends the turn.
    """
    results = play(category, mode, id, episode, steps, memory)
    calls = decoded(mode, steps[-1])
    if not calls:
        return {"results": None}
    if mode == "fc":
        return {"results": results}
    return {"results": [format_execution_results_prompting({}, results, {"model_responses_decoded": calls})]}


def remember(category: str, mode: str, id: str, episode: str, steps: list, memory: dict | None) -> dict:
    """The memory at the end of a session, in the package's form."""
    entry, _ = answers(category)[id]
    if _played.get(episode) != len(steps):  # a repeated request for the last step would repeat all steps
        play(category, mode, id, episode, steps, memory)
    _, backend = call_backends(entry, category, episode, [], memory)
    backend[entry["involved_classes"][0]]._flush_memory_to_local_file()
    return {"memory": json.loads(snapshot(entry, Path(episode)).read_text())}


def play(category: str, mode: str, id: str, episode: str, steps: list, memory: dict | None) -> list[str]:
    """Runs the episode's steps on its backends and returns the results of the last step's calls."""
    entry, _ = answers(category)[id]
    if _played.get(episode, 0) >= len(steps):
        forget(episode)
    results: list[str] = []
    for step in steps[_played.get(episode, 0) :]:
        results = run(entry, category, episode, decoded(mode, step), memory)
    _played[episode] = len(steps)
    _played.move_to_end(episode)
    if len(_played) > EPISODES:
        forget(next(iter(_played)))
    return results


def check_turns(category: str, mode: str, id: str, turns: list) -> dict:
    """The verdict on an episode; `turns` holds the answers of each turn's model calls."""
    entry, gold = answers(category)[id]
    assert gold is not None
    if is_memory(category):
        return check_answer([[step for step in turn if not decoded(mode, step)] for turn in turns], gold)
    if len(turns) != len(gold):
        return verdict(False, "multi_turn:force_terminated", f"{len(turns)} of {len(gold)} turns were played")
    name = "r" + uuid.uuid4().hex
    allowed = names(entry)
    try:
        played = [
            [kept for step in turn if (kept := [call for call in decoded(mode, step) if plain_call(call, allowed)])]
            for turn in turns
        ]
        result = multi_turn_checker(played, gold, entry, category, name)
        return verdict(result["valid"], result.get("error_type", "unclear"), result.get("error_message", ""))
    except Exception as error:  # an answer that breaks the checker fails this case
        return verdict(False, f"checker_error:{type(error).__name__}", str(error))
    finally:
        forget(name)


def decoded(mode: str, answer) -> list[str]:
    """The calls of an answer, as text; none if it does not decode, as in the package."""
    try:
        if mode == "fc":
            return [] if isinstance(answer, str) else convert_to_function_call([{name: text} for name, text in answer])
        refuse_expressions(python_of(answer, tagged=False))
        return default_decode_execute_prompting(answer)
    except Exception:  # refused, or an error of the package's decoder: not a call
        return []


def run(entry: dict, category: str, episode: str, calls: list[str], memory: dict | None) -> list[str]:
    """The result of each call, in order. Calls of unknown functions or with other arguments than literals are not run."""
    results, allowed = [], names(entry)
    for call in calls:
        if not plain_call(call, allowed):
            name = call.split("(", 1)[0]
            known = f"arguments of {name} are not literals" if name in allowed else f"name '{name}' is not defined"
            results.append(f"Error during execution: {known}")
            continue
        results += call_backends(entry, category, episode, [call], memory)[0]
    return results


def call_backends(
    entry: dict, category: str, episode: str, calls: list[str], memory: dict | None
) -> tuple[list[str], dict]:
    """The results of calls that `plain_call` accepts, and the episode's backends by class, created if missing."""
    config = settings(entry, memory, Path(episode)) if is_memory(category) else entry["initial_config"]
    long = "long_context" in category
    return backends.execute_multi_turn_func_call(
        calls, config, entry["involved_classes"], episode, entry["id"], long_context=long
    )


def names(entry: dict) -> set[str]:
    """The functions of a case, those that come later included."""
    later = [function for functions in entry.get("missed_function", {}).values() for function in functions]
    return {function["name"] for function in (*entry["function"], *later)}


def forget(episode: str) -> dict:
    """Removes the backends of an episode, and its folder."""
    _played.pop(episode, None)
    if re.fullmatch(r"r[0-9a-f]{32}", episode):
        for key in [key for key in vars(backends) if key.startswith(episode)]:
            delattr(backends, key)
        shutil.rmtree(episode, ignore_errors=True)
    return {}
