"""Mutated input at every door: `make fuzz` runs 100,000 cases, `SEED=N` other ones.

The input of a case is made of the seed, the area and its number alone. Whatever an area may raise for bad input is named there; anything else is a
failure, and so is a case that takes CPU_S. Failures are printed as lines for `tests/data/fuzz_kept.jsonl`, which keeps the inputs that failed once
and is run first.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.interop.formats import FORMATS, IMPORTS
from rollhouse.interop.importing import _records, import_file, rollouts_of
from rollhouse.interop.lines import BadLine, Quarantine
from rollhouse.interop.storing import Source
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.rows import rollout_rows
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.fuzz_inputs import (
    BODIES,
    COMMANDS,
    RECORDS,
    SAID,
    TOOL,
    TURNS,
    WORDS,
    Chance,
    mangled,
    mutated,
    mutated_file,
    written,
    yaml_text,
)
from rollhouse.tests.rows import sum_rollout

KEPT = Path(__file__).parent / "data" / "fuzz_kept.jsonl"
CPU_S = 60
"""CPU seconds after which a case counts as one that never ends; other processes do not matter."""
_IMPORTS_A_STORE = 40
_PRINTED = 20


class Area(NamedTuple):
    """One door.

    Attributes:
        share: Of all cases.
        make: An input, of values that JSON has, from chance.
        attempt: Runs it, and raises for a failure.
    """

    share: float
    make: Callable[[Chance], Any]
    attempt: Callable[[Any], None]


class Fuzz:
    """The areas, with the files and stores that they use, below a folder that is the current one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = written(folder / "samples")
        self.records = dict(RECORDS) | {f"{name} of a file": record for name, record in self._read_samples()}
        self.store = _used_store(folder / "store")
        self._imported = 0
        self._late: dict[str, Any] = {}
        os.environ["ROLLHOUSE_STORE"] = self.store.uri
        self.areas = {
            "import": Area(0.36, self.make_record, self.importing),
            "log": Area(0.02, self.make_files, self.log),
            "file": Area(0.005, self.make_file, self.file),
            "settings": Area(0.13, self.make_settings, self.settings),
            "recipe": Area(0.04, self.make_recipe, self.recipe),
            "command": Area(0.03, self.make_command, self.command),
            "parser": Area(0.20, self.make_turn, self.parser),
            "render": Area(0.03, self.make_request, self.render),
            "template": Area(0.01, self.make_template, self.chat_template),
            "body": Area(0.175, self.make_body, self.body),
        }

    def _read_samples(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for name, (_, imported) in self.files.items():
            lines = FORMATS[name].records(self.folder / "samples" / name / imported, self._quarantine(), None)
            found += [(name, record) for _, record in lines][:1]
        return found

    def _quarantine(self) -> Quarantine:
        return Quarantine(self.folder / "quarantine.jsonl", False)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned at first: for what takes long to import or open."""
        if name not in self._late:
            self._late[name] = make()
        return self._late[name]

    # Imports

    def make_record(self, chance: Chance) -> Any:
        name = chance.choice(sorted(self.records))
        return [name.removesuffix(" of a file"), mutated(self.records[name], chance)]

    def importing(self, given: Any) -> None:
        name, record = given
        if not isinstance(record, dict):
            return
        try:
            rollouts = rollouts_of(record, FORMATS[name], Source(name, "run"))
        except BadLine:
            return
        try:
            rollout_rows(rollouts, "run").batches()
        except Exception:  # the writer takes whatever a conversion raises for the rollout's fault
            return

    def make_files(self, chance: Chance) -> Any:
        name = chance.choice(sorted(self.files))
        files, imported = self.files[name]
        changed = chance.choice(sorted(files))
        texts = {file: data.decode("latin-1") for file, data in files.items()}
        return [name, texts | {changed: mutated_file(files[changed], chance).decode("latin-1")}, imported]

    def log(self, given: Any) -> None:
        name, path = given[0], self._written(given)
        try:
            for _, record in _records(FORMATS[name], path, self._quarantine(), None):
                self.importing([name, record])
        except FormatError:
            return

    def make_file(self, chance: Chance) -> Any:
        if chance.random() < 0.5:
            return self.make_files(chance)
        name = chance.choice([one for one in IMPORTS if one != "parquet"])
        record = RECORDS.get(name) or RECORDS[chance.choice(sorted(RECORDS))]
        lines = [json.dumps(mutated(record, chance)).encode("utf-8", "surrogatepass") for _ in range(20)]
        lines = [mangled(line, chance) if chance.random() < 0.3 else line for line in lines]
        return [name, {"a.jsonl": (b"\n".join(lines) + chance.choice([b"", b"\n"])).decode("latin-1")}, "a.jsonl"]

    def file(self, given: Any) -> None:
        self._imported += 1
        try:
            number = self._imported // _IMPORTS_A_STORE
            import_file(LanceStore.create(self.folder / f"imports-{number}"), given[0], self._written(given), max_bad=1)
        except FormatError:
            return

    def _written(self, given: Any) -> Path:
        root = self.folder / "given"
        shutil.rmtree(root, ignore_errors=True)
        for name, text in given[1].items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode("latin-1"))
        return root / given[2]

    # Settings and commands

    def make_settings(self, chance: Chance) -> Any:
        number = chance.randrange(len(self.once("models", _models)))
        keys = self.once(f"keys {number}", lambda: _keys(_models()[number]))
        return [number, [f"{chance.choice(keys)}={yaml_text(chance)}" for _ in range(chance.randint(1, 3))]]

    def settings(self, given: Any) -> None:
        from rollhouse.base.recipes import resolve, to_yaml

        number, overrides = given
        try:
            to_yaml(resolve(self.once("models", _models)[number], overrides=overrides))
        except ConfigError as error:
            assert "\n" not in error.message, error.message

    def make_recipe(self, chance: Chance) -> Any:
        keys = ["policy", "run", "environment", "limit", "a"]
        text = "\n".join(f"{chance.choice(keys)}: {yaml_text(chance)}" for _ in range(3))
        raw = mangled(text.encode("utf-8", "replace"), chance)
        return [chance.randrange(len(self.once("models", _models))), raw.decode("latin-1")]

    def recipe(self, given: Any) -> None:
        from rollhouse.base.recipes import code_named, read_recipe, resolve

        path = self.folder / "recipe.yaml"
        path.write_bytes(given[1].encode("latin-1"))
        try:
            list(code_named(read_recipe(path)))
            resolve(self.once("models", _models)[given[0]], path)
        except ConfigError:
            return

    def make_command(self, chance: Chance) -> Any:
        return [*chance.choice(COMMANDS).split(), *(chance.choice(WORDS) for _ in range(chance.randint(0, 4)))]

    def command(self, given: Any) -> None:
        from typer.testing import CliRunner

        with CliRunner().isolation() as (_, _, output):  # its `invoke` makes all commands anew each time
            try:
                self.once("command", _command).main(args=given, prog_name="rollhouse")
                code: Any = 0
            except SystemExit as ended:
                code = ended.code
            text = output.getvalue().decode(errors="replace")
        assert code in (0, 1, 2), code
        assert "rollhouse --debug" not in text and "Traceback" not in text, text

    # What a policy writes

    def make_turn(self, chance: Chance) -> Any:
        return [mangled(chance.choice(TURNS).encode(), chance).decode("utf-8", "replace"), chance.random() < 0.5]

    def parser(self, given: Any) -> None:
        from rollhouse.policies.parsers import BUILT_IN, split_thinking

        text, opened = given
        for parse in BUILT_IN.values():
            parse(text, [TOOL])
        split_thinking(text, opened)

    def make_request(self, chance: Chance) -> Any:
        return mutated({"messages": SAID, "tools": [TOOL]}, chance)

    def render(self, given: Any) -> None:
        from rollhouse.policies.chat import TemplateError
        from rollhouse.serve.errors import ApiError
        from rollhouse.serve.request import read_chat

        try:
            parsed = read_chat(given)
            self.once("chat", _chat_format).render(parsed.messages, parsed.tools, generation_prompt=True)
        except (ApiError, TemplateError):
            return

    def make_template(self, chance: Chance) -> Any:
        from rollhouse.tests.random_model import TEMPLATE

        return mangled(TEMPLATE.encode(), chance).decode("utf-8", "replace")

    def chat_template(self, given: Any) -> None:
        from rollhouse.policies.chat import ChatFormat, TemplateError
        from rollhouse.tests.random_model import byte_tokenizer

        try:
            ChatFormat(byte_tokenizer(given))
        except (ConfigError, TemplateError):
            return

    # What callers send

    def make_body(self, chance: Chance) -> Any:
        kind = chance.choice(sorted(BODIES))
        raw = json.dumps(mutated(BODIES[kind], chance)).encode("utf-8", "surrogatepass")
        return [kind, (mangled(raw, chance) if chance.random() < 0.4 else raw).decode("latin-1")]

    def body(self, given: Any) -> None:
        from rollhouse.serve.bodies import body_of
        from rollhouse.serve.errors import as_api_error
        from rollhouse.serve.kept import KeptResponses
        from rollhouse.serve.request import read_chat, read_completion
        from rollhouse.serve.responses import read_response
        from rollhouse.serve.verdicts import Ending, read_ending, read_score

        readers: dict[str, Callable[[Any], Any]] = {"chat": read_chat, "completion": read_completion, "response": partial(read_response, kept=KeptResponses()), "ending": read_ending, "score": read_score}  # fmt: skip
        try:
            read = readers[given[0]](body_of(given[1].encode("latin-1")))
            if isinstance(read, Ending):
                json.dumps(read.to_json(), allow_nan=False).encode()
        except Exception as error:
            if as_api_error(error).status >= 500:
                raise


def _used_store(folder: Path) -> LanceStore:
    """A store with a run `a`, snapshot `s1` and dataset `demos`."""
    from rollhouse.transform.build import build_sft

    store = LanceStore.create(folder)
    with start_run(store, "collect", "a") as run, RolloutWriter(store, run) as writer:
        for i in range(4):
            writer.add(sum_rollout("a", i))
        run.metrics(1, {"train/reward": 0.5})
    create_snapshot(store, "s1")
    build_sft(store, "demos", "s1")
    return store


def _command() -> Any:
    import typer
    from rollhouse.cli.main import app

    return typer.main.get_command(app)


def _chat_format() -> Any:
    from rollhouse.policies.chat import ChatFormat
    from rollhouse.tests.random_model import byte_tokenizer

    return ChatFormat(byte_tokenizer())


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


class _NeverEnds(BaseException):
    """A case took CPU_S."""


def _stop(*_: object) -> None:
    raise _NeverEnds(f"took {CPU_S} CPU seconds")


def run_part(part: int, parts: int, cases: int, seed: int, only: str | None) -> tuple[int, float, list[str]]:
    """Every `parts`-th case in this process, and the kept ones: how many, their CPU seconds, and the failures."""
    failures: list[str] = []
    began = time.process_time()
    signal.signal(signal.SIGPROF, _stop)
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="rollhouse-fuzz-") as folder:
        work = Path(folder) / "a" / "b" / "c"  # commands write files, some of them to ../..
        work.mkdir(parents=True)
        os.chdir(work)
        try:
            fuzz = Fuzz(work)
            inputs = _inputs(fuzz, cases, seed, only)[part::parts]
            for area, made in inputs:
                failure = _failure(fuzz.areas[area], area, made)
                if failure:
                    failures.append(failure)
        finally:
            os.chdir(before)
    return len(inputs), time.process_time() - began, failures


def _inputs(fuzz: Fuzz, cases: int, seed: int, only: str | None) -> list[tuple[str, Any]]:
    """Kept inputs as they are, and new ones as the numbers they are made of."""
    kept = [json.loads(line) for line in KEPT.read_text().splitlines()]
    listed = [(line["area"], {"input": line["input"]}) for line in kept if only in (None, line["area"])]
    for area, (share, _, _) in fuzz.areas.items():
        if only in (None, area):
            count = max(1, round(cases * (share if only is None else 1)))
            listed += [(area, {"case": f"{seed}/{number}"}) for number in range(count)]
    return listed


def _failure(area: Area, name: str, made: dict[str, Any]) -> str | None:
    given = made.get("input")
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        if "case" in made:
            given = area.make(random.Random(f"{name} {made['case']}"))
        area.attempt(given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        signal.setitimer(signal.ITIMER_PROF, 0)
        trace = "".join(traceback.format_exception(error)[-6:])
        return f"FAILED {made.get('case', 'a kept input')}\n{json.dumps({'area': name, 'input': given})}\n{trace}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def run(cases: int, seed: int, only: str | None = None, processes: int = 2) -> list[str]:
    """Runs the kept inputs and so many new cases in several processes, and prints what they cost; returns the failures."""
    started = time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(run_part, part, processes, cases, seed, only) for part in range(processes)]
        done = [part.result() for part in parts]
    failures = [failure for _, _, found in done for failure in found]
    count, cpu_s = sum(number for number, _, _ in done), sum(seconds for _, seconds, _ in done)
    print(f"{count:,} cases of seed {seed} in {time.monotonic() - started:.0f} s, {cpu_s:.0f} CPU seconds: {len(failures)} failed")  # fmt: skip
    return failures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--area")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    failures = run(options.cases, options.seed, options.area, options.processes)
    for failure in failures[:_PRINTED]:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
