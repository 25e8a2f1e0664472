"""The functions of bfcl-eval that a worker process offers, called with JSON arguments.

The module is imported by its folder, with its own environment, and imports nothing of rollhouse. Policy output reaches it as JSON only.
Function calls are decoded with `json.loads`; text of prompt mode, and calls for the simulated backends, pass `literal` first, which
accepts literals only.

    cases(category, mode, limit)                              → {"cases": [{"id", "turns", "functions", "later", "scenario"}]}
    check(category, mode, id, answer)                         → {"valid", "error_type", "error"}
    execute(category, mode, id, episode, steps, memory)       → {"results": [text, …]} or {"results": null}
    check_turns(category, mode, id, turns)                    → {"valid", "error_type", "error"}
    forget(episode)                                           → {}
    sessions(category)                                        → {"sessions": {scenario: [id, …]}}
    shown(category, mode, id, memory)                         → {"case": as in cases, with "memory" and "fills_memory"}
    remember(category, mode, id, episode, steps, memory)      → {"memory"}

An answer (of one model call) is text, or in mode `fc` with calls a list of [function name, JSON text of the arguments]. A memory is
the package's JSON, null before the first session. Gold answers do not leave this process.
"""

import sys
import types

# bfcl-eval's `model_config` needs every vendor's package; this replaces it. The checker looks the answering model up by name, in which no "_"
# may stand. Function-calling interfaces forbid dots in function names, so there it must expect underscores.
_stand_in = types.ModuleType("bfcl_eval.constants.model_config")
_stand_in.MODEL_CONFIG_MAPPING = {  # type: ignore[attr-defined]
    "rollhouse-fc": types.SimpleNamespace(underscore_to_dot=True),
    "rollhouse-prompt": types.SimpleNamespace(underscore_to_dot=False),
}
sys.modules[_stand_in.__name__] = _stand_in

from cases import cases  # noqa: E402
from memory import sessions, shown  # noqa: E402
from multi_turn import check_turns, execute, forget, remember  # noqa: E402
from single_turn import check  # noqa: E402

__all__ = ["cases", "check", "check_turns", "execute", "forget", "remember", "sessions", "shown"]
