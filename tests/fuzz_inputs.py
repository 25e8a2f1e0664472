"""What `tests/fuzz.py` mutates, and how: records, bodies, turns, command lines, YAML and the files that other tools write."""

import copy
import json
import random
from pathlib import Path
from typing import Any

from rollhouse.tests.interop import samples

Chance = random.Random

DEEP: Any = json.loads("[" * 400 + "]" * 400)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**400, -(10**30), 2**31, 2**63, 1e39, float("nan"), float("inf"), "", " ", "\x00", "\x1b[2J", "\ud800", "é" * 300,
    "x" * 5000, "../../x", "[]", "{}", "null", [], {}, [[]], [None], {"": {}}, {"a": None}, DEEP, "2001-13-45", "1e999", ["a", 1, {}],
)  # fmt: skip
SAID = [{"role": "system", "content": "You add."}, {"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]}, {"role": "tool", "tool_call_id": "c", "content": "3"}, {"role": "assistant", "content": "3"}]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}}  # fmt: skip
ITEMS = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Easy."}]}, {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}", "prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.1]}, {"type": "function_call_output", "call_id": "c", "output": "3"}, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "3"}]}]  # fmt: skip
STEPS = [{"step_id": 1, "source": "user", "message": "1 + 2?"}, {"step_id": 2, "source": "agent", "message": "", "tool_calls": [{"tool_call_id": "c", "function_name": "add", "arguments": {"a": 1}}], "observation": {"results": [{"source_call_id": "c", "content": "3"}]}}]  # fmt: skip
RECORDS: dict[str, dict[str, Any]] = {
    "openai-chat": {"messages": SAID, "tools": [TOOL], "model": "m", "reward": 1.0},
    "nemo-gym": {"responses_create_params": {"input": SAID[:2], "tools": [], "temperature": 1.0}, "response": {"output": ITEMS, "model": "m"}, "reward": 1.0, "_ng_task_index": 0, "_ng_rollout_index": 0},
    "trl": {"prompt": SAID[:2], "completion": SAID[2:], "tools": json.dumps([TOOL]), "reward": 0.5, "step": 1},
    "trl-messages": {"messages": SAID},
    "trl-kto": {"prompt": SAID[:2], "completion": SAID[2:], "label": True},
    "verifiers": {"example_id": 1, "task": "t", "nodes": [], "reward": 1.0, "prompt": SAID[:2], "completion": SAID[2:], "timing": {"total_ms": 5}},
    "verifiers-v0": {"example_id": 1, "prompt": SAID[:2], "completion": SAID[2:], "reward": 1.0, "metrics": {"m": 1.0}},
    "atif": {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": {"name": "a", "model_name": "m", "tool_definitions": [TOOL]}, "steps": STEPS, "extra": {"rollhouse": {"rollout_id": "r", "reward": 1.0, "token_ids": [1], "loss_mask": [1], "logprobs": [-0.1]}}},
    "parquet": {"rollout_id": "r", "prompt": SAID[:2], "messages": SAID[2:], "reward": 1.0, "token_ids": [1], "loss_mask": [1], "logprobs": [-0.1], "tools": json.dumps([TOOL])},
}  # fmt: skip


def mutated(value: Any, chance: Chance) -> Any:
    """The value with one to four of its parts replaced, dropped, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 4)):
        places = list(_places(value))
        if not places:
            return chance.choice(ODD)
        inside, key = chance.choice(places)
        way = chance.random()
        if way < 0.6:
            inside[key] = copy.deepcopy(chance.choice(ODD))
        elif way < 0.8:
            del inside[key]
        elif isinstance(inside, dict):
            inside[chance.choice(["", "reward", "role", "id", str(key) + "x"])] = inside.pop(key)
        else:
            inside.insert(key, copy.deepcopy(inside[key]))
    return value


def _places(value: Any, depth: int = 0):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        if depth < 12:
            yield from _places(inner, depth + 1)


def mangled(raw: bytes, chance: Chance) -> bytes:
    """Bytes with some of them flipped, cut, doubled or inserted."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        way = chance.randrange(5)
        if way == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif way == 1:
            data = data[:at]
        elif way == 2:
            data[at:at] = chance.choice([b"[" * 3000, b'{"a":', b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"9" * 500, b"<tool_call>", b"</think>", b"\\ud800", b" " * 2000, b'"'])  # fmt: skip
        elif way == 3:
            data[at:at] = data[at : at + chance.randint(1, 60)] * chance.randint(1, 30)
        else:
            del data[at : at + chance.randint(1, 30)]
    return bytes(data)


BODIES: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": SAID, "tools": [TOOL], "temperature": 0.5, "seed": 1, "stop": ["x"], "stream": True, "stream_options": {"include_usage": True}},
    "completion": {"prompt": [1, 2, 3], "max_tokens": 5, "logprobs": 0},
    "response": {"model": "m", "input": [*SAID[:2], *ITEMS], "tools": [{"type": "function", "name": "add", "parameters": {}}], "instructions": "Add."},
    "ending": {"reward": 1.0, "passed": True, "components": {"a": 1.0}, "task": {"ground_truth": {"a": 1}, "split": "train"}, "metadata": {"a": [1]}, "sample_index": 0},
    "score": {"reward": 0.5, "scorer": "s", "components": [{"name": "a", "value": 1.0, "weight": 0.5}]},
}  # fmt: skip
TURNS = [
    '<think>hm</think>I look.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [1, {"c": "d"}]}}\n</tool_call>',
    '<tool_call>{"name": "add", "arguments": "{}"}</tool_call><tool_call>{"name": ',
    '<|python_tag|>{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {}}<|eom_id|>',
    '[TOOL_CALLS][{"name": "add", "arguments": {"a": "x"}}, {"name": "add", "arguments": {}}]',
    "[TOOL_CALLS]add[ARGS]{}</s>",
    "plain text with { and } and <tool_call> in it",
]
COMMANDS = [
    "runs list", "sql", "search", "check", "doctor", "serve --dry-run", "eval bfcl --dry-run", "tasks generate --env workplace-mini", "runs reproduce", "snapshot list", "runs show", "lineage", "snapshot list", "snapshot create", "snapshot show", "snapshot delete", "snapshot diff", "dataset list",
    "dataset show", "dataset why", "dataset diff", "import openai-chat", "import atif", "import nemo-gym", "import parquet", "import", "export openai-chat",
    "export parquet", "gc", "compact", "collect --dry-run", "train sft --dry-run", "train grpo --dry-run", "train dpo --dry-run", "eval env --dry-run",
    "rescore --dry-run", "query", "train replay --dry-run", "report", "dataset build sft x --from", "dataset export", "tasks", "eval compare",
]  # fmt: skip
WORDS = [
    "", "x", "nope@1", "x@", "@1", "../../x", "\x1b[2J", "\x00"[:0] or "-", "--", "--run", "--at", "2999-01-01", "2001-13-45", "--format", "json", "csv", "--limit", "-1", "1e999",
    "9" * 30, "--env", "workplace-mini", "--engine", "scripted", "openai:http://127.0.0.1:1", "a.b=1", "policy.engine=x", "=", "a=[", "--config", "/dev/null",
    "tiny-sft", "--scorer", "s@1@2", "é" * 50, "' or 1=1", "--where", "1=1) or (1=1", "--help", "none.jsonl", "/dev/null", ".", "s1", "demos", "demos@1", "a", "a/best", "latest", "rollouts", "--seed", "0", "--yes", "--keep-hours", "nan", "inf", "--debugx",
]  # fmt: skip
_YAML = ["2001-13-45", "!!int x", "!!float .", "!!binary x", "!!python/object:x {}", "&a [*a]", "*b", "{a: 1}", "[1, 2", "'", "~", "1e999", ".nan", ".inf", "-.inf", "9" * 400, "1_000", "0x", "0o9", "1:99:99", "yes", "2001-01-01 25:61:61", "<<: *x", "? [a]", "{[a]: 1}", "\t", "|", ">-\n x", "%", "@", "`", "[[[[[[]]]]]]", "nan", "-1", "0", "x.py:f", "m:n", "http://u:p@h"]  # fmt: skip


WRITTEN = {
    "claude-code": samples.claude_code, "codex": samples.codex, "inspect": samples.inspect, "verl": samples.verl, "prime-rl": samples.prime_rl,
    "slime": samples.slime, "pairs": samples.pairs, "tau2": samples.tau2, "otel": samples.otel, "langfuse": samples.langfuse, "langsmith": samples.langsmith, "trackio": samples.trackio,
}  # fmt: skip


def written(folder: Path) -> dict[str, tuple[dict[str, bytes], str]]:
    """By format: the files that its tool writes, by their names in a folder, and the name of what is imported (empty for the folder)."""
    found = {}
    for name, write in WRITTEN.items():
        root = folder / name
        imported = write(root)
        files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        found[name] = files, "" if imported == root else str(imported.relative_to(root))
    return found


def mutated_file(data: bytes, chance: Chance) -> bytes:
    """A file with some of its JSON, or of its bytes, changed."""
    lines = data.split(b"\n")
    number = chance.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return mangled(data, chance)
    if not isinstance(value, dict) or chance.random() < 0.3:
        return mangled(data, chance)
    lines[number] = json.dumps(mutated(value, chance)).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def yaml_text(chance: Chance) -> str:
    """The text of an odd value."""
    text = chance.choice(_YAML)
    return text if chance.random() < 0.6 else mangled(text.encode(), chance).decode("utf-8", "replace")[:3000]
