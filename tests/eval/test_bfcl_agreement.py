"""Accuracies equal those of bfcl-eval's own `evaluate` over the same answers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rollhouse.eval.bfcl import Checker

CATEGORIES = ["simple_python", "simple_java", "multiple", "parallel_multiple", "live_multiple", "irrelevance", "live_relevance"]  # fmt: skip
SLICE = 24

# The package's runner needs a handler to decode answers; this one is its own for function calling.
EVALUATE = """
import os, sys, types
root = sys.argv[1]
os.environ["BFCL_PROJECT_ROOT"] = root
os.environ["OPENAI_API_KEY"] = "unused"
stub = types.ModuleType("bfcl_eval.constants.model_config")
config = types.SimpleNamespace(
    model_name="judged", display_name="judged", is_fc_model=True, underscore_to_dot=True, url="", org="", license="",
    input_price=None, output_price=None,
)
stub.MODEL_CONFIG_MAPPING = {"judged-FC": config}
sys.modules[stub.__name__] = stub
from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler
config.model_handler = OpenAICompletionsHandler
from bfcl_eval.eval_checker.eval_runner import main
main(["judged-FC"], sys.argv[2].split(","), None, None, partial_eval=True)
"""


def _answers(checker: Checker, gold: Callable, category: str) -> dict[str, list[tuple[str, str]]]:
    """Every third answer right, every third wrong, every third no call at all; broken arguments now and then."""
    ids = [case["id"] for case in checker.cases(category, SLICE)]
    some_call = [("some_function", '{"a": 1}')]
    known = {case: some_call for case in ids} if "relevance" in category else gold(category)
    answers = {}
    for number, case in enumerate(ids):
        wrong = [("wrong_name", '{"a": ' if number % 2 else '{"a": 1}')]
        answers[case] = (known[case], wrong, [])[number % 3]
    return answers


def _result_row(case: str, calls: list[tuple[str, str]]) -> str:
    result = [{name: arguments} for name, arguments in calls] or "I cannot do that."
    return json.dumps({"id": case, "result": result, "input_token_count": 1, "output_token_count": 1, "latency": 1})


def test_accuracies_are_those_of_the_package(tmp_path: Path, gold: Callable) -> None:
    ours = {}
    with Checker() as checker:
        for category in CATEGORIES:
            answers = _answers(checker, gold, category)
            folder = tmp_path / "result" / "judged-FC" / ("live" if "live" in category else "non_live")
            folder.mkdir(parents=True, exist_ok=True)
            lines = [_result_row(case, calls) for case, calls in answers.items()]
            (folder / f"BFCL_v4_{category}_result.json").write_text("\n".join(lines) + "\n")
            passed = [checker.check(category, case, calls).passed for case, calls in answers.items()]
            ours[category] = (sum(passed), len(passed))
    command = [sys.executable, "-c", EVALUATE, str(tmp_path), ",".join(CATEGORIES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = {}
    for category in CATEGORIES:
        (score,) = (tmp_path / "score").rglob(f"BFCL_v4_{category}_score.json")
        first = json.loads(score.read_text().splitlines()[0])
        theirs[category] = (first["correct_count"], first["total_count"])
    assert ours == theirs
    assert all(0 < correct < total for correct, total in ours.values())
