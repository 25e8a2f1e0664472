"""Accuracies equal those of bfcl-eval's own `evaluate` over the same answers, in both modes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollhouse.eval.bfcl import Checker
from rollhouse.eval.bfcl.categories import MEMORY, is_played
from rollhouse.tests.eval.conftest import as_text

FC = ["simple_python", "simple_java", "multiple", "parallel_multiple", "live_multiple", "irrelevance", "live_relevance", "multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context", "memory_kv", "memory_rec_sum"]  # fmt: skip
PROMPT = [category for category in FC if category != "simple_java"]
SLICE = 24

# The package's runner needs a handler to decode answers; this one is its own.
EVALUATE = """
import os, sys, types
root, name, categories = sys.argv[1:]
os.environ["BFCL_PROJECT_ROOT"] = root
os.environ["OPENAI_API_KEY"] = "unused"
stub = types.ModuleType("bfcl_eval.constants.model_config")
config = types.SimpleNamespace(
    model_name="judged", display_name="judged", is_fc_model=name == "judged-fc", underscore_to_dot=name == "judged-fc",
    url="", org="", license="", input_price=None, output_price=None,
)
stub.MODEL_CONFIG_MAPPING = {name: config}
sys.modules[stub.__name__] = stub
from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler
config.model_handler = OpenAICompletionsHandler
from bfcl_eval.eval_checker.eval_runner import main
main([name], categories.split(","), None, None, partial_eval=True)
"""


def _said(calls: list[tuple[str, str]], mode: str) -> Any:
    if mode == "fc":
        return calls
    return as_text(calls) if calls else "I cannot do that."


def _written(answer: Any) -> Any:
    """An answer as the package's result files hold it."""
    return answer if isinstance(answer, str) else [{name: arguments} for name, arguments in answer] or "Nothing fits."


def _single(checker: Checker, gold: Callable, category: str, mode: str) -> dict[str, Any]:
    """Every third answer right, every third wrong, every third no call at all; broken ones now and then."""
    ids = [case["id"] for case in checker.cases(category, SLICE, mode)]
    some_call = [("some_function", '{"a": 1}')]
    known = {case: some_call for case in ids} if "relevance" in category else gold(category, mode == "prompt")
    broken = "[f(a=" if mode == "prompt" else [("wrong_name", '{"a": ')]
    answers = {}
    for number, case in enumerate(ids):
        wrong = broken if number % 2 else _said([("wrong_name", '{"a": 1}')], mode)
        answers[case] = (_said(known[case], mode), wrong, _said([], mode))[number % 3]
    return answers


def _turns(checker: Checker, gold_turns: Callable, category: str, mode: str) -> dict[str, Any]:
    """Right episodes, ones that leave out a turn's calls, ones that call too much, and ones that stop early."""
    answers, known = {}, gold_turns(category)
    for number, case in enumerate(case["id"] for case in checker.cases(category, SLICE, mode)):
        turns = [[_said(calls, mode), _said([], mode)] if calls else [_said([], mode)] for calls in known[case]]
        if number % 4 == 1:
            turns[-1] = [_said([], mode)]
        elif number % 4 == 2:
            turns[0].insert(0, _said([("no_such_function", "{}")], mode))
        elif number % 4 == 3:
            turns = turns[:-1]
        answers[case] = turns
    return answers


def _questions(checker: Checker, memory_gold: dict[str, str], category: str, mode: str) -> dict[str, Any]:
    """Right answers after a look into the memory, wrong ones, looks without end, a turn too many, and calls that do not decode with the answer in them."""
    answers = {}
    look = _said([("core_memory_list_keys", "{}")], mode)
    for number, case in enumerate(checker.cases(category, SLICE, mode)):
        right = memory_gold[case["turns"][0][-1]["content"]]
        broken = f"[f(a={right!r}" if mode == "prompt" else [("f", '{"a": ' + right), ("g", "{}")]
        kinds = (
            [[look, right]],
            [[look, "I do not know."]],
            [[look, look]],
            [[right], [right]],
            [[broken]],
            [[right, look]],
        )
        answers[case["id"]] = kinds[number % len(kinds)]
    return answers


@pytest.mark.system
@pytest.mark.parametrize(("mode", "categories"), [("fc", FC), ("prompt", PROMPT)])
def test_accuracies_are_those_of_the_package(
    tmp_path: Path, gold: Callable, gold_turns: Callable, memory_gold: dict[str, str], mode: str, categories: list[str]
) -> None:
    ours = {}
    with Checker() as checker:
        for category in categories:
            several = is_played(category)
            if category in MEMORY:
                answers = _questions(checker, memory_gold, category, mode)
            else:
                answers = (
                    _turns(checker, gold_turns, category, mode) if several else _single(checker, gold, category, mode)
                )
            judge = checker.check_turns if several else checker.check
            passed = [judge(category, case, answer, mode).passed for case, answer in answers.items()]
            ours[category] = (sum(passed), len(passed))
            group = "multi_turn" if several else "live" if "live" in category else "non_live"
            group = f"agentic/memory/{category.removeprefix('memory_')}" if category in MEMORY else group
            folder = tmp_path / "result" / f"judged-{mode}" / group
            folder.mkdir(parents=True, exist_ok=True)
            lines = [
                json.dumps({"id": case, "result": [[_written(step) for step in turn] for turn in answer] if several else _written(answer), "input_token_count": 1, "output_token_count": 1, "latency": 1})
                for case, answer in answers.items()
            ]  # fmt: skip
            (folder / f"BFCL_v4_{category}_result.json").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-c", EVALUATE, str(tmp_path), f"judged-{mode}", ",".join(categories)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = {}
    for category in categories:
        (score,) = (tmp_path / "score").rglob(f"BFCL_v4_{category}_score.json")
        first = json.loads(score.read_text().splitlines()[0])
        theirs[category] = (first["correct_count"], first["total_count"])
    assert ours == theirs
    assert all(0 < correct < total for correct, total in ours.values())
