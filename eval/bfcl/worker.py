"""The process in which bfcl-eval runs: reads one JSON request a line, writes one JSON reply a line.

It is started by path, isolated and with an empty environment, and imports nothing of rollhouse. What a policy wrote reaches
it as JSON only: names and argument texts, decoded with `json.loads` and compared. Nothing here evaluates them.

    {"op": "cases", "category": C, "limit": N | null}            → {"cases": [{"id", "question", "function"}]}
    {"op": "check", "category": C, "id": I, "calls": [[name, arguments]]} → {"valid", "error_type", "error"}

The gold answers stay in here.
"""

import hashlib
import json
import os
import resource
import sys
import types
from functools import cache

MEMORY_BYTES = 2 << 30
FILE_BYTES = 1 << 20
# The checker looks the answering model up by name. A name with "_" would not be found.
MODEL = "rollhouse-FC"


def main() -> None:
    """Serves requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what bfcl-eval prints must not land between replies
    limit_resources()
    try:
        import_bfcl()
    except ImportError as error:
        print(json.dumps({"import_error": str(error)}), file=replies)
        return
    print(json.dumps({"ready": True}), file=replies)
    seconds = float(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        limit_cpu(seconds)
        reply = cases(**request) if request.pop("op") == "cases" else check(**request)
        print(json.dumps(reply), file=replies)


def limit_resources() -> None:
    """Bounds memory and file size, and leaves no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: float) -> None:
    """The kernel ends this process when one request uses more: it must not outlive a parent that was killed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


def import_bfcl() -> None:
    """Imports the checkers without `model_config`, the one module that needs every vendor's package."""
    stand_in = types.ModuleType("bfcl_eval.constants.model_config")
    # Function-calling interfaces forbid dots in names, so the checker is to expect underscores.
    stand_in.MODEL_CONFIG_MAPPING = {MODEL: types.SimpleNamespace(underscore_to_dot=True)}  # type: ignore[attr-defined]
    sys.modules[stand_in.__name__] = stand_in
    import bfcl_eval.eval_checker.ast_eval.ast_checker
    import bfcl_eval.utils  # noqa: F401


def cases(category: str, limit: int | None) -> dict:
    """The cases of a category in its order; with a limit, those whose id hashes lowest: any slice contains the smaller ones."""
    from bfcl_eval.utils import load_dataset_entry

    entries = load_dataset_entry(category, include_prereq=False)
    if limit is not None:
        ids = sorted((entry["id"] for entry in entries), key=lambda i: hashlib.sha256(i.encode()).hexdigest())[:limit]
        chosen = set(ids)
        entries = [entry for entry in entries if entry["id"] in chosen]
    return {"cases": [{key: entry[key] for key in ("id", "question", "function")} for entry in entries]}


@cache
def answers(category: str) -> dict[str, tuple[list, list | None]]:
    """Case id → (functions, gold). Gold is paired by position, for its ids are not always those of the cases."""
    from bfcl_eval.utils import is_relevance_or_irrelevance, load_dataset_entry, load_ground_truth_entry

    # The checker wants the functions as they are, without the hints a model is shown.
    entries = load_dataset_entry(category, include_prereq=False, include_language_specific_hint=False)
    if is_relevance_or_irrelevance(category):
        return {entry["id"]: (entry["function"], None) for entry in entries}
    gold = load_ground_truth_entry(category)
    return {entry["id"]: (entry["function"], item["ground_truth"]) for entry, item in zip(entries, gold, strict=True)}


def check(category: str, id: str, calls: list[list[str]]) -> dict:
    """The benchmark's verdict on one answer; an answer that breaks its checker is wrong, not fatal."""
    try:
        return judge(category, id, calls)
    except Exception as error:
        return verdict(False, f"checker_error:{type(error).__name__}", str(error))


def judge(category: str, id: str, calls: list[list[str]]) -> dict:
    """Decodes and checks as bfcl-eval does for function calling: answer text without calls does not decode."""
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.utils import is_empty_output, is_function_calling_format_output, is_relevance_or_irrelevance

    functions, gold = answers(category)[id]
    decoded, problem = None, "the answer calls nothing"
    if calls:
        try:
            decoded = [{name: json.loads(arguments)} for name, arguments in calls]
        except (ValueError, RecursionError) as error:
            problem = f"arguments do not parse: {error}"
    if is_relevance_or_irrelevance(category):
        called = decoded is not None and not is_empty_output(decoded)
        if "irrelevance" in category:
            return verdict(not called, "irrelevance_error:decoder_success", "a function was called")
        return verdict(called, "relevance_error:decoder_failed", problem)
    if decoded is None:
        return verdict(False, "ast_decoder:decoder_failed", problem)
    if not is_function_calling_format_output(decoded):
        return verdict(False, "ast_decoder:decoder_wrong_output_format", "arguments are not a JSON object")
    result = ast_checker(functions, decoded, gold, language(category), category, MODEL)
    # A valid verdict carries an error type too; it means nothing.
    return verdict(result["valid"], result.get("error_type", "unclear"), str(result.get("error", "")))


def language(category: str):
    """The language whose literals the arguments are written in."""
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.utils import is_java, is_js

    return Language.JAVA if is_java(category) else Language.JAVASCRIPT if is_js(category) else Language.PYTHON


def verdict(valid: bool, error_type: str, error: str) -> dict:
    """A reply; the error is kept short and only when there is one."""
    return {"valid": bool(valid), "error_type": None if valid else error_type, "error": "" if valid else error[:500]}


if __name__ == "__main__":
    main()
