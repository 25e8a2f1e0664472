"""The process in which bfcl-eval runs: reads one JSON request a line, writes one JSON reply a line.

The folder is started by its path, isolated and with an empty environment, and imports nothing of rollhouse. What a policy wrote
reaches it as JSON only. Function calls are decoded with `json.loads`; text of prompt mode, and calls that the simulated backends are to
run, pass `literal` first, which lets nothing but literals through.

    {"op": "cases", "category", "mode", "limit"}                   → {"cases": [{"id", "turns", "functions", "later", "scenario"}]}
    {"op": "check", "category", "mode", "id", "answer"}            → {"valid", "error_type", "error"}
    {"op": "execute", "category", "mode", "id", "episode", "steps", "memory"} → {"results": [text, …]} or {"results": null}
    {"op": "check_turns", "category", "mode", "id", "turns"}       → {"valid", "error_type", "error"}
    {"op": "forget", "episode"}                                    → {}
    {"op": "sessions", "category"}                                 → {"sessions": {scenario: [id, …]}}
    {"op": "shown", "category", "mode", "id", "memory"}            → {"case": as in cases, with "memory" and "fills_memory"}
    {"op": "remember", "category", "mode", "id", "episode", "steps", "memory"} → {"memory"}

An answer (of one model call) is text, or in mode `fc` a list of [function name, JSON text of the arguments] where there are any. A memory is
the JSON in which the package keeps it, null before the first session. The gold answers stay in here.
"""

import json
import os
import resource
import sys
import types

MEMORY_BYTES = 2 << 30
FILE_BYTES = 4 << 20  # a full memory, every character of it escaped, is under two


def main() -> None:
    """Serves requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what bfcl-eval prints must not land between replies
    limit_resources()
    try:
        operations = import_bfcl()
    except ImportError as error:
        print(json.dumps({"import_error": str(error)}), file=replies)
        return
    print(json.dumps({"ready": True}), file=replies)
    seconds = float(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        limit_cpu(seconds)
        print(json.dumps(operations[request.pop("op")](**request)), file=replies)


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


def import_bfcl() -> dict:
    """Imports the checkers without `model_config`, the one module that needs every vendor's package; gives the operations by name."""
    stand_in = types.ModuleType("bfcl_eval.constants.model_config")
    # The checker looks the answering model up by name, in which no "_" may stand. Function-calling interfaces forbid dots in
    # function names, so there it is to expect underscores.
    stand_in.MODEL_CONFIG_MAPPING = {  # type: ignore[attr-defined]
        "rollhouse-fc": types.SimpleNamespace(underscore_to_dot=True),
        "rollhouse-prompt": types.SimpleNamespace(underscore_to_dot=False),
    }
    sys.modules[stand_in.__name__] = stand_in
    from cases import cases
    from memory import sessions, shown
    from multi_turn import check_turns, execute, forget, remember
    from single_turn import check

    offered = (cases, check, execute, check_turns, forget, sessions, shown, remember)
    return {operation.__name__: operation for operation in offered}


if __name__ == "__main__":
    main()
