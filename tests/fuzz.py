"""Mutated input at every door: `make fuzz` runs 100,000 cases, `SEED=N` other ones, `python tests/fuzz.py --area AREA --case N` one of them.

A case is made of the seed, the area and its number alone. Whatever an area may raise for bad input is named there; anything else is a failure, and is
printed with its input. `tests/data/fuzz_seeds.txt` keeps the cases that failed once; they are run first.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollhouse.base.errors import ConfigError
from rollhouse.interop.formats import FORMATS, IMPORTS
from rollhouse.interop.importing import import_file, rollouts_of
from rollhouse.interop.lines import BadLine
from rollhouse.interop.storing import Source
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.rows import rollout_rows

KEPT = Path(__file__).parent / "data" / "fuzz_seeds.txt"
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


class Fuzz:
    """The areas. A method of an area runs one case and raises for a failure."""

    def __init__(self, folder: Path) -> None:
        from rollhouse.policies.chat import ChatFormat
        from rollhouse.tests.random_model import TEMPLATE, byte_tokenizer

        self.folder = folder
        self.store = LanceStore.create(folder / "store")
        self.template, self.tokenizer = TEMPLATE, byte_tokenizer
        self.chat = ChatFormat(byte_tokenizer())
        self.areas: dict[str, tuple[float, Callable[[Chance], None]]] = {
            "import": (0.40, self.importing),
            "file": (0.002, self.file),
            "settings": (0.15, self.settings),
            "recipe": (0.05, self.recipe),
            "command": (0.01, self.command),
            "parser": (0.20, self.parser),
            "render": (0.02, self.render),
            "template": (0.002, self.chat_template),
            "body": (0.166, self.body),
        }

    def importing(self, chance: Chance) -> None:
        name = chance.choice(sorted(RECORDS))
        record = mutated(RECORDS[name], chance)
        if not isinstance(record, dict):
            return
        try:
            rollout_rows(rollouts_of(record, FORMATS[name], Source(name, "run")), "run").batches()
        except BadLine:
            return
        except (ValueError, ArithmeticError, TypeError, RecursionError, LookupError, AttributeError):
            # What the conversion raises is the writer's to catch; `file` sees that it does.
            return

    def file(self, chance: Chance) -> None:
        from rollhouse.base.errors import FormatError

        name = chance.choice([one for one in IMPORTS if one != "parquet"])
        record = RECORDS.get(name) or RECORDS[chance.choice(sorted(RECORDS))]
        lines = [json.dumps(mutated(record, chance)).encode("utf-8", "surrogatepass") for _ in range(20)]
        lines = [mangled(line, chance) if chance.random() < 0.3 else line for line in lines]
        path = self.folder / "a.jsonl"
        path.write_bytes(b"\n".join(lines) + chance.choice([b"", b"\n"]))
        try:
            import_file(self.store, name, path, max_bad=1)
        except FormatError:
            return

    def settings(self, chance: Chance) -> None:
        from rollhouse.base.recipes import resolve, to_yaml

        model = chance.choice(_models())
        keys = _keys(model)
        texts = [_yaml_text(chance) for _ in range(chance.randint(1, 3))]
        try:
            to_yaml(resolve(model, overrides=[f"{chance.choice(keys)}={text}" for text in texts]))
        except ConfigError as error:
            assert "\n" not in error.message, error.message

    def recipe(self, chance: Chance) -> None:
        from rollhouse.base.recipes import code_named, read_recipe, resolve

        text = "\n".join(
            f"{chance.choice(['policy', 'run', 'environment', 'limit', 'a'])}: {_yaml_text(chance)}" for _ in range(3)
        )
        path = self.folder / "recipe.yaml"
        path.write_bytes(mangled(text.encode("utf-8", "replace"), chance))
        try:
            list(code_named(read_recipe(path)))
            resolve(chance.choice(_models()), path)
        except ConfigError:
            return

    def command(self, chance: Chance) -> None:
        from rollhouse.cli.main import app
        from typer.testing import CliRunner

        words = [*chance.choice(COMMANDS).split(), *(chance.choice(WORDS) for _ in range(chance.randint(0, 4)))]
        result = CliRunner().invoke(app, [*words, "--store", str(self.folder / "store")])
        assert result.exit_code in (0, 1, 2), (words, result.exit_code)
        assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
        assert "rollhouse --debug" not in result.output and "Traceback" not in result.output, (words, result.output)

    def parser(self, chance: Chance) -> None:
        from rollhouse.policies.hermes import parse_turn
        from rollhouse.policies.marked_calls import parse_llama3, parse_mistral
        from rollhouse.policies.parsers import split_thinking

        text = mangled(chance.choice(TURNS).encode(), chance).decode("utf-8", "replace")
        parse_turn(text)
        parse_llama3(text, [TOOL])
        parse_mistral(text, [TOOL])
        split_thinking(text, chance.random() < 0.5)

    def render(self, chance: Chance) -> None:
        from rollhouse.policies.chat import TemplateError
        from rollhouse.serve.errors import ApiError
        from rollhouse.serve.request import read_chat

        try:
            parsed = read_chat(mutated({"messages": SAID, "tools": [TOOL]}, chance))
            self.chat.render(parsed.messages, parsed.tools, generation_prompt=True)
        except (ApiError, TemplateError):
            return

    def chat_template(self, chance: Chance) -> None:
        from rollhouse.policies.chat import ChatFormat, TemplateError

        template = mangled(self.template.encode(), chance).decode("utf-8", "replace")
        try:
            ChatFormat(self.tokenizer(template))
        except (ConfigError, TemplateError):
            return

    def body(self, chance: Chance) -> None:
        from rollhouse.serve.errors import as_api_error
        from rollhouse.serve.request import body_of, read_chat, read_completion
        from rollhouse.serve.responses import read_response
        from rollhouse.serve.verdicts import Ending, read_ending, read_score

        kind = chance.choice(sorted(BODIES))
        raw = json.dumps(mutated(BODIES[kind], chance)).encode("utf-8", "surrogatepass")
        raw = mangled(raw, chance) if chance.random() < 0.4 else raw
        try:
            body = body_of(raw)
            readers: dict[str, Callable[[Any], Any]] = {"chat": read_chat, "completion": read_completion, "response": read_response, "ending": read_ending, "score": read_score}  # fmt: skip
            read = readers[kind](body)
            if isinstance(read, Ending):
                json.dumps(read.to_json(), allow_nan=False).encode()
        except Exception as error:
            if as_api_error(error).status >= 500:
                raise


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
    "runs list", "runs show", "lineage", "snapshot list", "snapshot create", "snapshot show", "snapshot delete", "snapshot diff", "dataset list",
    "dataset show", "dataset why", "dataset diff", "import openai-chat", "import atif", "import nemo-gym", "import parquet", "import", "export openai-chat",
    "export parquet", "gc", "compact", "collect --dry-run", "train sft --dry-run", "train grpo --dry-run", "train dpo --dry-run", "eval env --dry-run",
    "rescore --dry-run", "query", "train replay --dry-run", "report", "dataset build sft x --from", "dataset export", "tasks", "eval compare",
]  # fmt: skip
WORDS = [
    "", "x", "nope@1", "x@", "@1", "../../x", "\x1b[2J", "\x00"[:0] or "-", "--", "--run", "--at", "2999-01-01", "2001-13-45", "--format", "json", "csv", "--limit", "-1", "1e999",
    "9" * 30, "--env", "workplace-mini", "--engine", "scripted", "openai:http://127.0.0.1:1", "a.b=1", "policy.engine=x", "=", "a=[", "--config", "/dev/null",
    "tiny-sft", "--scorer", "s@1@2", "é" * 50, "' or 1=1", "--where", "1=1) or (1=1", "--help", "none.jsonl", "/", ".", "--seed", "0", "--yes", "--keep-hours", "nan", "inf", "--debugx",
]  # fmt: skip
_YAML = ["2001-13-45", "!!int x", "!!float .", "!!binary x", "!!python/object:x {}", "&a [*a]", "*b", "{a: 1}", "[1, 2", "'", "~", "1e999", ".nan", ".inf", "-.inf", "9" * 400, "1_000", "0x", "0o9", "1:99:99", "yes", "2001-01-01 25:61:61", "<<: *x", "? [a]", "{[a]: 1}", "\t", "|", ">-\n x", "%", "@", "`", "[[[[[[]]]]]]", "nan", "-1", "0", "x.py:f", "m:n", "http://u:p@h"]  # fmt: skip


def _yaml_text(chance: Chance) -> str:
    text = chance.choice(_YAML)
    return text if chance.random() < 0.6 else mangled(text.encode(), chance).decode("utf-8", "replace")[:3000]


def _models() -> list[Any]:
    from rollhouse.collect.config import CollectConfig, RescoreConfig
    from rollhouse.eval.config import BfclConfig, EvaluationConfig
    from rollhouse.interop.config import ExportConfig, ImportConfig
    from rollhouse.serve.config import ServeConfig
    from rollhouse.train.dpo import DpoConfig
    from rollhouse.train.grpo.config import GrpoConfig
    from rollhouse.train.sft import SftConfig
    from rollhouse.transform.options import DpoOptions, GrpoOptions, SftOptions

    return [CollectConfig, RescoreConfig, EvaluationConfig, BfclConfig, ImportConfig, ExportConfig, ServeConfig, SftConfig, DpoConfig, GrpoConfig, SftOptions, DpoOptions, GrpoOptions]  # fmt: skip


def _keys(model: Any, prefix: str = "") -> list[str]:
    from rollhouse.base.config import section_of

    found = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        found += [f"{prefix}{name}", *(_keys(section, f"{prefix}{name}.") if section is not None else ())]
    return found


def kept() -> list[tuple[str, str]]:
    """The cases that failed once: area, and what it is made of."""
    lines = [line.split() for line in KEPT.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(area, case) for area, case in lines]


def run(cases: int, seed: int, only: str | None = None) -> int:
    """Runs the kept cases and `cases` new ones; returns how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rollhouse-fuzz-") as folder:
        fuzz = Fuzz(Path(folder))
        listed = [(area, case) for area, case in kept() if only in (None, area)]
        for area, (share, _) in fuzz.areas.items():
            if only in (None, area):
                listed += [(area, f"{seed}/{number}") for number in range(max(1, round(cases * (share if only is None else 1))))]  # fmt: skip
        for area, case in listed:
            try:
                fuzz.areas[area][1](random.Random(f"{area} {case}"))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failed += 1
                print(f"FAILED {area} {case}", "".join(traceback.format_exception(error)[-6:]), file=sys.stderr, flush=True)  # fmt: skip
    return failed


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--area")
    options = parser.parse_args()
    started = time.monotonic()
    failed = run(options.cases, options.seed, options.area)
    print(f"{options.cases:,} cases of seed {options.seed} in {time.monotonic() - started:.0f} s: {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
