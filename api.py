"""The public interface: `rollhouse.open()` gives a `Store` with one method per command.

A command of the command line calls the method of the same name, with the same options and the same defaults.
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from pydantic import BaseModel

from .base.config import Section
from .base.errors import ConfigError
from .base.progress import Report, progress_bar
from .base.recipes import resolve
from .base.references import id_of, run_id_of
from .queries.run_record import RunRecord
from .queries.sql_store import SqlStore
from .store.lance_store import store_location

if TYPE_CHECKING:
    from typing import Unpack

    from .api_options import (
        CollectOptions,
        DpoBuildOptions,
        DpoTrainingOptions,
        EvaluateOptions,
        ExportOptions,
        GrpoBuildOptions,
        GrpoTrainingOptions,
        ImportOptions,
        RescoreOptions,
        ServeOptions,
        SftBuildOptions,
        SftTrainingOptions,
        TasksOptions,
    )
    from .collect.rescore import RescoreSummary
    from .collect.summary import CollectSummary
    from .eval.compare import RunComparison
    from .interop.exporting import ExportSummary
    from .interop.importing import ImportSummary
    from .queries.shown import Shown
    from .queries.suspicions import Suspicion
    from .serve.job import OnReady
    from .store.adding import Added
    from .store.lineage import Node
    from .store.packing import Packed
    from .store.rollout import Rollout
    from .store.unpacking import Unpacked
    from .train.grpo.replay import Replay
    from .train.reproduce import Reproduction
    from .transform.dataset import Dataset

Config = TypeVar("Config", bound=Section)


def open(uri: str | os.PathLike[str] | None = None, *, at: str | None = None, create: bool = True) -> "Store":
    """Opens a store, and makes it if it is not there.

    Args:
        uri: A folder, or the URI of an object store; None is $ROLLHOUSE_STORE, else `./rollouts`.
        at: A snapshot's name or an ISO time: every read is of that version, and nothing can be written.
        create: False raises StoreNotFound instead of making a store.

    Raises StoreNotFound, and VersionNotFound for an unknown `at`.
    """
    location = store_location(None if uri is None else str(uri))
    return Store.create(location) if create and at is None else Store.open(location, at)


class Store(SqlStore):
    """A store of rollouts, and everything that can be done with it.

    Where a run is wanted, a run id, a `RunRecord` or anything with a `run_id` may be passed. Every command's method takes the options of the
    command as keywords (`rollhouse COMMAND --help` describes them), whole sections of the configuration (`policy=`, `environment=`, …),
    `recipe=` (a YAML file, or the name of a shipped recipe) and `overrides=` (`section.key=value`). An unknown option raises ConfigError,
    which names the nearest one. Long calls show a progress bar in a notebook and in a terminal; `progress=False` shows none. Every method
    works under a running event loop.
    """

    # Rollouts

    def add(self, rollouts: Iterable["Rollout"], *, run: str | None = None) -> "Added":
        """Adds rollouts as a run of kind `import` and returns how many were new.

        Args:
            rollouts: Each is checked when it is made; ids that depend on the run are filled in here.
            run: Name of the run; None makes one. Rollouts that a run of that name holds already are not added again.

        Raises SchemaMismatch naming the first rollout that does not fit.
        """
        from .store.adding import add_rollouts

        return add_rollouts(self, rollouts, run)

    def show(self, id: Any) -> "Shown":
        """Anything by its id or an object with one: a rollout, group, task, run, checkpoint, dataset version or snapshot.

        `id` may be the beginning of an id, `latest`, RUN/step_N or RUN/best. Raises StoreNotFound with similar names, ConfigError that lists what
        begins so when several do.
        """
        from .queries.shown import shown
        from .train.checkpoints import whole_name

        return shown(self, whole_name(self, id_of(id)))

    def rollout(self, rollout_id: str) -> "Rollout":
        """One rollout with its prompt, task and scores. `rollout_id` may be a unique prefix.

        Raises StoreNotFound for an unknown id, ConfigError for an ambiguous one, which lists the matches.
        """
        from .queries.rollouts import load_rollout

        return load_rollout(self, rollout_id)

    def label(
        self,
        rollout: Any,
        *labels: str,
        message: int | None = None,
        note: str | None = None,
        author: str | None = None,
        remove: bool = False,
    ) -> list[dict[str, Any]]:
        """Labels a rollout or one of its messages, as `rollhouse label`; the view `current_labels` lists what holds.

        Args:
            rollout: Its id, a unique prefix, or a Rollout.
            labels: Tags, such as "good"; "star" is a star.
            message: Position in the rollout's `messages`, from 0; None is the whole rollout.
            note: A text; it replaces the author's earlier note on the same place.
            author: None is the user of this process.
            remove: Takes the labels away; without a label, the author's note.

        Returns the rows of `labels` written. Raises StoreNotFound, ConfigError.
        """
        from .queries.rollouts import label_rollout

        rollout_id = id_of(rollout)
        return label_rollout(self, rollout_id, labels, message=message, note=note, author=author, remove=remove)

    def import_(
        self,
        format: str | os.PathLike[str],
        file: str | os.PathLike[str] | None = None,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[ImportOptions]",
    ) -> "ImportSummary":
        """Imports rollouts from a file of another format; what the store holds already is not added again.

        Args:
            format: A format's name (`nemo-gym`, `openai-chat`, `trl`, …). It may be left out, as in `store.import_("rollouts.jsonl")`: the
                format is then found out from the file, and the summary names it.
            file: A file, a folder, or `hf:OWNER/NAME[:CONFIG][@SPLIT]`.

        Raises FormatError when no format fits, or when more lines than `max_bad` cannot be read, after the others were stored.
        """
        from .interop.config import ImportConfig
        from .interop.importing import run_import

        config = resolve(ImportConfig, recipe, overrides, options)
        with progress_bar("import", "byte", progress) as report:
            named = None if file is None else os.fspath(format)
            return run_import(self, named, Path(file or format), config, lambda done: report(done, None, ""))

    def export(
        self,
        format: str,
        file: str | os.PathLike[str],
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[ExportOptions]",
    ) -> "ExportSummary":
        """Writes rollouts to a file of another format. Returns how many were written, left out and why, and what the format cannot hold.

        Raises EmptyDataset when nothing is selected, QueryError for a condition that is not SQL.
        """
        from .interop.config import ExportConfig
        from .interop.exporting import run_export

        config = resolve(ExportConfig, recipe, overrides, _with_ids(options))
        with progress_bar("export", "rollout", progress) as report:
            return run_export(self, format, Path(file), config, lambda done, total: report(done, total, ""))

    # Versions

    def snapshot(self, name: str, note: str = "") -> dict[str, Any]:
        """Names the present version of every table, so that `at=name` reads it for ever. Returns the snapshot: name, note, tables, ….

        Raises ConfigError when the name is taken.
        """
        from .store.snapshots import create_snapshot

        return create_snapshot(self, name, note)

    def snapshots(self) -> list[dict[str, Any]]:
        """The snapshots, oldest first: name, note, rollouts (how many), run_id, created_at."""
        from .store.snapshots import list_snapshots

        return list_snapshots(self)

    def diff(self, a: str, b: str) -> dict[str, Any]:
        """What snapshot (or ISO time) `b` holds that `a` does not: tables, rollouts added by run and status, mean_reward."""
        from .store.snapshots import diff_snapshots

        return diff_snapshots(self, a, b)

    def delete_snapshot(self, name: str) -> None:
        """Removes a snapshot's name. Raises ConfigError while a dataset or a run refers to it."""
        from .store.snapshots import delete_snapshot

        delete_snapshot(self, name)

    # Datasets

    def build_sft(
        self,
        name: str,
        *,
        at: str | None = None,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        **options: "Unpack[SftBuildOptions]",
    ) -> "Dataset":
        """Builds a version of a set of demonstrations, one rollout a row.

        Args:
            at: The snapshot that the version refers into; None is the version that the store was opened at.

        The same options on the same snapshot give the version that exists, with `existed` set. Raises EmptyDataset, which names the filter
        that removed the last rollout, EvalLeak for rollouts of held-out tasks, VersionNotFound for an unknown snapshot.
        """
        from .transform.build import build_sft
        from .transform.options import SftOptions

        return build_sft(self, name, self._snapshot(at), resolve(SftOptions, recipe, overrides, options))

    def build_dpo(
        self,
        name: str,
        *,
        at: str | None = None,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        **options: "Unpack[DpoBuildOptions]",
    ) -> "Dataset":
        """Builds a version of a set of preference pairs, two rollouts a row. Arguments and errors as of `build_sft`."""
        from .transform.build import build_dpo
        from .transform.options import DpoOptions

        return build_dpo(self, name, self._snapshot(at), resolve(DpoOptions, recipe, overrides, options))

    def build_grpo(
        self,
        name: str,
        *,
        at: str | None = None,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        **options: "Unpack[GrpoBuildOptions]",
    ) -> "Dataset":
        """Builds a version of a set of prompts, one task a row. Arguments and errors as of `build_sft`."""
        from .transform.build import build_grpo
        from .transform.options import GrpoOptions

        return build_grpo(self, name, self._snapshot(at), resolve(GrpoOptions, recipe, overrides, options))

    def dataset(self, label: str) -> "Dataset":
        """The dataset version `NAME@VERSION`, or the latest of `NAME`. Raises StoreNotFound."""
        from .transform.dataset import load_dataset_version

        return load_dataset_version(self, label)

    def datasets(self) -> list[dict[str, Any]]:
        """Every dataset version: dataset (NAME@VERSION), kind, rows, snapshot, scorer, fingerprint, run_id, created_at."""
        from .transform.versions import list_datasets

        return list_datasets(self)

    def _snapshot(self, at: str | None) -> str:
        chosen = at or self.at
        if chosen is None:
            raise ConfigError(
                "A dataset refers into a snapshot, and none was named.",
                "Take one with `store.snapshot(NAME)` and pass `at=NAME`.",
            )
        return chosen

    # Collecting, training, evaluating

    def generate_tasks(
        self,
        env: str | None = None,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        **options: "Unpack[TasksOptions]",
    ) -> list[dict[str, Any]]:
        """Generates an environment's tasks and adds the new ones: one dict per split with environment, split, tasks, new.

        Raises ConfigError for an environment that is not known.
        """
        from .environments.config import TasksConfig
        from .environments.stored_tasks import add_tasks

        return add_tasks(self, resolve(TasksConfig, recipe, overrides, {"env": env, **options}))

    def serve(
        self,
        *,
        on_ready: "OnReady | None" = None,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        **options: "Unpack[ServeOptions]",
    ) -> dict[str, Any]:
        """Serves a policy to any OpenAI client and records its calls as rollouts. Blocks until Ctrl-C or `stop()`, and returns a summary.

        Args:
            on_ready: Called once with the running server, whose `url` clients use and whose `stop()` ends it, from any thread.

        A run of that name (`run=`) is continued. Raises ConfigError for a wrong configuration, a port in use or an address that needs a key.
        """
        from .serve.config import ServeConfig
        from .serve.job import refuse_unservable, run_server, with_served_name
        from .train.checkpoints import named_adapters

        config = with_served_name(resolve(ServeConfig, recipe, overrides, _with_ids(options)))
        refuse_unservable(config)
        return run_server(self, self._with_model(config), on_ready, named_adapters(self, config.policy.adapters))

    def collect(
        self,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[CollectOptions]",
    ) -> "CollectSummary":
        """A policy plays an environment's tasks; every rollout is stored, failed ones too.

        A run of that name (`run=`) is resumed: what it holds is not collected again. Raises ConfigError for a wrong configuration or a run
        with another one, EngineError when the engine failed for good; what was collected before is stored.
        """
        from .collect.config import CollectConfig
        from .collect.job import run_job
        from .harness.opening import open_play

        config = self._with_model(resolve(CollectConfig, recipe, overrides, options))
        with progress_bar("collect", "rollout", progress) as report:
            return run_job(
                self,
                config,
                on_done=lambda _, so_far: report(so_far.skipped + so_far.collected, so_far.planned, ""),
                opening=open_play,
            )

    def rescore(
        self,
        scorer: str | None = None,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[RescoreOptions]",
    ) -> "RescoreSummary":
        """Scores stored rollouts again: each verdict is a new row of `scores`. A second call goes on where the first stopped.

        Args:
            scorer: An environment whose verifier scores (`workplace`, …), `workplace-lenient`, `math-strict`, or a plug-in `module:name` or `FILE.py:name`;
                None leaves it to the recipe.
        """
        from .collect.config import RescoreConfig
        from .collect.rescore import run_rescore

        config = resolve(RescoreConfig, recipe, overrides, {"scorer": scorer, **_with_ids(options)})
        with progress_bar("rescore", "rollout", progress) as report:
            return run_rescore(self, config, lambda done, total: report(done, total, ""))

    def train_sft(
        self,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[SftTrainingOptions]",
    ) -> RunRecord:
        """Supervised fine-tuning on a set of demonstrations, through TRL. Returns the run; `run.checkpoints()` has what it saved.

        A finished run of that name with the same configuration is not trained again. Raises ConfigError before training starts, and
        TrainingError when the loss is not finite.
        """
        from .train.sft import SftConfig, train_sft

        config = resolve(SftConfig, recipe, overrides, _with_ids(options))
        with progress_bar("sft", "step", progress) as report:
            return self.run(train_sft(self, config, on_step=report)["run_id"])

    def train_dpo(
        self,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[DpoTrainingOptions]",
    ) -> RunRecord:
        """Direct preference optimisation on a set of pairs, through TRL. Returns and raises as `train_sft`."""
        from .train.dpo import DpoConfig, train_dpo

        config = resolve(DpoConfig, recipe, overrides, _with_ids(options))
        with progress_bar("dpo", "step", progress) as report:
            return self.run(train_dpo(self, config, on_step=report)["run_id"])

    def train_grpo(
        self,
        *,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[GrpoTrainingOptions]",
    ) -> RunRecord:
        """Online GRPO on a set of prompts, on Ray and vLLM. Returns the run.

        A run of that name goes on where its stored batches end. Raises as `train_sft`, and EngineError when there is no room for the engine or
        its weights differ from the learner's.
        """
        from .train.grpo.config import GrpoConfig
        from .train.grpo.loop import train_grpo

        config = resolve(GrpoConfig, recipe, overrides, _with_ids(options))
        with progress_bar("grpo", "step", progress) as report:
            return self.run(train_grpo(self, config, progress=report)["run_id"])

    def evaluate(
        self,
        policy: Any = None,
        *,
        benchmark: str | None = None,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        progress: bool | None = None,
        **options: "Unpack[EvaluateOptions]",
    ) -> RunRecord:
        """Evaluates a policy on an environment's held-out tasks (`env=`), or on a benchmark (`benchmark="bfcl"`). Returns the run.

        Args:
            policy: A policy (`rh.vllm(…)`), or a run, a checkpoint or a model, which is served by vLLM where it is installed and by
                transformers elsewhere. None leaves it to `options`.
            options: Those of `rollhouse eval env`, or of `rollhouse eval bfcl`.

        `run.summary` has the pass rate (`pass_rate`, or `accuracy` for BFCL) with its standard error.
        """
        if policy is not None:
            from .policies.named import of_model

            policy = policy if isinstance(policy, BaseModel) else of_model(policy)
        if benchmark not in (None, "bfcl"):
            raise ConfigError(f"There is no benchmark {benchmark!r}.", "Use 'bfcl', or name an environment with env=.")
        with progress_bar("evaluate", "case", progress) as report:
            evaluate = self._evaluate_env if benchmark is None else self._evaluate_bfcl
            return self.run(evaluate(recipe, overrides, {"policy": policy, **options}, report))

    def _evaluate_env(self, recipe: Any, overrides: Sequence[str], options: Any, report: Report) -> str:
        from .eval.config import EvaluationConfig
        from .eval.job import run_evaluation

        config = self._with_model(resolve(EvaluationConfig, recipe, overrides, options))
        return run_evaluation(
            self, config, on_done=lambda _, so_far: report(so_far.skipped + so_far.collected, so_far.planned, "")
        )[0]

    def _evaluate_bfcl(self, recipe: Any, overrides: Sequence[str], options: Any, report: Report) -> str:
        from .eval.config import BfclConfig
        from .eval.job import run_bfcl

        config = self._with_model(resolve(BfclConfig, recipe, overrides, options))
        done = itertools.count(1)
        return run_bfcl(
            self, config, on_cases=lambda cases: report(0, cases, ""), on_done=lambda: report(next(done), None, "")
        )[0]

    def replay(
        self,
        run: Any,
        *,
        from_step: int = 1,
        name: str | None = None,
        recipe: str | Path | None = None,
        overrides: Sequence[str] = (),
        allow_code: bool = False,
        progress: bool | None = None,
    ) -> "Replay":
        """Takes the optimizer steps of a GRPO run again on its stored batches: the same bits, or with changed settings an ablation.

        Args:
            from_step: The first step that uses the changed settings.
            name: Name of the new run; None is RUN-replay-N.
            recipe: A YAML file with the settings to change.
            overrides: Settings to change, as `section.key=value`; `algorithm=NAME` sets those of an algorithm.
            allow_code: Import the loss and the advantage that the stored run names. Those that `overrides` name need no permission.

        `identical` of the result is whether the weights are those of the run, bit for bit; None where that cannot be expected.
        """
        from .base.recipes import refuse_stored_code
        from .store.naming import run_named
        from .train.grpo.custom import stored_code
        from .train.grpo.original import changed_config, stored_config
        from .train.grpo.replay import replay

        original = run_named(self, run_id_of(run))
        config = changed_config(stored_config(self, original), overrides, recipe)
        refuse_stored_code(original, stored_code(config, overrides), allow_code)
        with progress_bar("replay", "step", progress) as report:
            return replay(self, original, config, from_step=from_step, run=name, progress=report)

    def reproduce(self, run: Any, *, allow_code: bool = False, progress: bool | None = None) -> "Reproduction":
        """Trains an SFT or DPO run again from its dataset version, model, settings and seed, and compares the weights.

        `allow_code` permits the import of the Python code that the stored settings name.
        """
        from .train.reproduce import reproduce

        with progress_bar("reproduce", "step", progress) as report:
            return reproduce(self, run_id_of(run), report, allow_code=allow_code)

    # Runs

    def run(self, run: Any) -> RunRecord:
        """One run: status, configuration, summary, metrics. Raises StoreNotFound, which names runs of similar name."""
        return RunRecord.read(self, run_id_of(run))

    def runs(self) -> list[RunRecord]:
        """Every run, oldest first."""
        return RunRecord.read_all(self)

    def lineage(self, thing: Any) -> "Node":
        """What a checkpoint, run, dataset version, snapshot or rollout was made from, back to the rollouts and the policies that made them."""
        from .store.lineage import lineage
        from .train.checkpoints import whole_name

        return lineage(self, whole_name(self, id_of(thing)))

    def compare(self, a: Any, b: Any, *, seed: int = 0) -> "RunComparison":
        """Evaluation `b` against evaluation `a` on the cases that both judged: the difference with its interval, the flips, the verdict.

        Raises ConfigError when they have no case in common.
        """
        from .eval.compare import compare_runs

        return compare_runs(self, run_id_of(a), run_id_of(b), seed)

    def report(
        self,
        *runs: Any,
        out: str | os.PathLike[str] = "report.html",
        title: str | None = None,
        lineage: Any = None,
        samples: int = 6,
        scorer: str | None = None,
    ) -> Path:
        """Writes one HTML file about runs (curves, pass rates, lineage, sample rollouts), and returns its path."""
        from .eval.report import stages_of_runs, write_report
        from .store.naming import run_named

        ids = [run_named(self, run_id_of(run)) for run in runs]
        return write_report(
            self,
            out,
            title=title or ", ".join(ids),
            stages=stages_of_runs(self, ids, scorer),
            runs=ids,
            lineage_of=id_of(lineage) if lineage is not None else ids[-1],
            samples=samples,
            scorer=scorer,
        )

    # Upkeep

    @overload
    def check(self, *, rollouts: Literal[False] = False, deep: bool = False) -> list[str]: ...
    @overload
    def check(self, *, rollouts: Literal[True], run: str | None = None) -> "list[Suspicion]": ...
    def check(
        self, *, rollouts: bool = False, run: str | None = None, deep: bool = False
    ) -> "list[str] | list[Suspicion]":
        """What is wrong with the store, one sentence each; an empty list when it is sound. `repair()` mends what a crash can leave.

        Args:
            rollouts: Report what looks wrong in rollouts (empty turns, unknown tools, …), not in tables: one Suspicion per finding and run.
            run: With rollouts, only this run. Raises StoreNotFound when there is no such run.
            deep: Compare every data file with its hash and read every column, instead of 256 MB of each table.
        """
        if rollouts:
            from .queries.suspicions import suspicious_rollouts
            from .store.runs import find_run

            return suspicious_rollouts(self, run and find_run(self, run)["run_id"])
        from .store.maintenance import check

        return check(self, deep=deep)

    def pack(
        self,
        file: str | Path,
        run: Any,
        *,
        dataset: Any = (),
        checkpoints: Literal["none", "last", "all"] = "none",
    ) -> "Packed":
        """Writes runs, with what they refer to, into one file for another store's `unpack`.

        Args:
            run: A run or a list of them: names, or anything with a `run_id`.
            dataset: A dataset version over packed runs, or a list of them (NAME@V or Dataset); the run that built each is packed too.
            checkpoints: The files of which checkpoints: none, last or all.

        Raises StoreNotFound, ConfigError, and WriteConflict while a run is being written.
        """
        from .store.packing import pack

        runs, datasets = (one if isinstance(one, (list, tuple)) else [one] for one in (run, dataset))
        return pack(self, file, [run_id_of(one) for one in runs], [id_of(one) for one in datasets], checkpoints)

    def unpack(self, file: str | Path) -> "Unpacked":
        """Brings the runs of a pack into the store, ids kept; unpacking it again adds nothing.

        Raises FormatError, StoreTooNew, SchemaMismatch, and WriteConflict naming an id that the store has with other content; nothing is written then.
        """
        from .store.unpacking import unpack

        return unpack(self, file)

    def salvage(self) -> list[str]:
        """Makes a new version of each damaged table, of the rows in whole files, and returns what was left out."""
        from .store.damage import salvage

        return list(salvage(self))

    def repair(self) -> list[str]:
        """Mends what a crash can leave, and returns what was done."""
        from .store.repair import repair

        return list(repair(self))

    def compact(self) -> list[dict[str, Any]]:
        """Joins small pieces of the tables: one dict per table with table, fragments_before, fragments_after."""
        from .store.maintenance import compact

        return compact(self)

    def gc(self, *, yes: bool = False, keep_hours: float = 1.0) -> list[dict[str, Any]]:
        """Frees versions that no snapshot names and that are older than `keep_hours`; without `yes` it only counts them.

        Returns one dict per table: table, versions, bytes.
        """
        from .store.maintenance import gc

        return gc(self, yes=yes, retention=timedelta(hours=keep_hours))

    def _with_model(self, config: Config) -> Config:
        """The configuration with the folder of its model, which may be named as a checkpoint or a run of this store."""
        from .train.checkpoints import with_model

        return with_model(self, config)


def _with_ids(options: Any) -> dict[str, Any]:
    """Options in which runs and dataset versions may stand as objects, with their ids."""
    return {
        name: id_of(value)
        if name in ("dataset", "model", "of_run", "run") and not isinstance(value, str | os.PathLike)
        else value
        for name, value in options.items()
    }
