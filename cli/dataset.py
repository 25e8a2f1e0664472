"""`rollhouse dataset`: training sets as ordered references into a snapshot, and why each rollout is in or out."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    AtOption,
    Format,
    FormatOption,
    ScorerOption,
    StoreOption,
    console,
    open_store,
    print_rows,
    print_summary,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transform.options import SourceOptions
    from ..transform.versions import DatasetVersion

NameArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]
SettingsArgument = Annotated[list[str] | None, typer.Argument(help="Options of the recipe as `key=value`.")]
FromOption = Annotated[str, typer.Option("--from", help="Snapshot to build from.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Recipe (YAML), or the name of a shipped one.")]
RunsOption = Annotated[list[str] | None, typer.Option("--run", help="Only rollouts of this run; may be repeated.")]
EnvironmentsOption = Annotated[list[str] | None, typer.Option("--environment", help="Only rollouts of this environment; may be repeated.")]  # fmt: skip
SqlOption = Annotated[str | None, typer.Option("--sql", metavar="FILE", help="A SELECT over the store that names what to choose.")]  # fmt: skip
FunctionOption = Annotated[str | None, typer.Option("--function", metavar="FILE:NAME", help="A Python function of a Polars LazyFrame that returns what to choose.")]  # fmt: skip
AgainstOption = Annotated[list[str] | None, typer.Option("--against", metavar="SET", help="Leave out what is also in an evaluation set: validation, test, bfcl[:CATEGORY] or a JSONL file; may be repeated.")]  # fmt: skip
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]
VersionArgument = Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="Training sets: built from snapshots, kept as versions.")
    building = typer.Typer(no_args_is_help=True, help="Make a version of a dataset.")
    for command in (sft, dpo, grpo):
        building.command(command.__name__)(command)
    noun.add_typer(building, name="build")
    noun.command("list")(list_)
    noun.command("show")(show)
    noun.command("why")(why)
    noun.command("diff")(diff)
    noun.command("export")(export)
    app.add_typer(noun, name="dataset")


def sft(
    name: NameArgument, snapshot: FromOption, settings: SettingsArgument = None, config: ConfigOption = None,
    run: RunsOption = None, environment: EnvironmentsOption = None, scorer: ScorerOption = None, sql: SqlOption = None,
    function: FunctionOption = None, against: AgainstOption = None,
    min_reward: Annotated[float | None, typer.Option("--min-reward", help="Least reward [default: 1 where all are 0 or 1, else 0.9].")] = None,
    per_task: Annotated[int | None, typer.Option("--per-task", help="Most demonstrations of one task [default: 4].")] = None,
    dry_run: DryRunOption = False, store: StoreOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Demonstrations: completed, rewarded, distinct rollouts, at most a few of one task.

    Example: `rollhouse dataset build sft demos --from s1 --run scripted --per-task 2 require_passed=true`.
    """
    from ..transform.build import build_sft
    from ..transform.options import SftOptions

    flags = _flags(run, environment, scorer, sql, function, against) | {
        "min_reward": min_reward,
        "per_task_cap": per_task,
    }
    _build(build_sft, SftOptions, name, snapshot, config, flags, settings, dry_run, store, format)


def dpo(
    name: NameArgument, snapshot: FromOption, settings: SettingsArgument = None, config: ConfigOption = None,
    run: RunsOption = None, environment: EnvironmentsOption = None, scorer: ScorerOption = None, sql: SqlOption = None,
    function: FunctionOption = None, against: AgainstOption = None,
    pairing: Annotated[str | None, typer.Option("--pairing", help="auto, nearest_miss, two_sigma, best_worst, ranked, all or step [default: auto].")] = None,
    per_group: Annotated[int | None, typer.Option("--per-group", help="Most pairs of one task and prompt [default: 2].")] = None,
    dry_run: DryRunOption = False, store: StoreOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Preference pairs: per task and prompt, an accepted rollout against a worse one.

    Example: `rollhouse dataset build dpo pairs --from s1 --run base --pairing ranked min_gap=0.3`.
    """
    from ..transform.build import build_dpo
    from ..transform.options import DpoOptions

    flags = _flags(run, environment, scorer, sql, function, against) | {
        "pairing": pairing,
        "max_pairs_per_group": per_group,
    }
    _build(build_dpo, DpoOptions, name, snapshot, config, flags, settings, dry_run, store, format)


def grpo(
    name: NameArgument, snapshot: FromOption, settings: SettingsArgument = None, config: ConfigOption = None,
    run: RunsOption = None, environment: EnvironmentsOption = None, scorer: ScorerOption = None, sql: SqlOption = None,
    function: FunctionOption = None, against: AgainstOption = None,
    weights: Annotated[str | None, typer.Option("--weights", help="How often a prompt is drawn: none, variance or hard [default: none].")] = None,
    order: Annotated[str | None, typer.Option("--order", help="shuffled, easy_first or hard_first [default: shuffled].")] = None,
    dry_run: DryRunOption = False, store: StoreOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """A prompt set for online training: tasks that are neither always solved nor never.

    Example: `rollhouse dataset build grpo prompts --from s1 --run base "pass_band=[0.2, 0.8]" --weights variance`.
    """
    from ..transform.build import build_grpo
    from ..transform.options import GrpoOptions

    flags = _flags(run, environment, scorer, sql, function, against) | {"weights": weights, "order": order}
    _build(build_grpo, GrpoOptions, name, snapshot, config, flags, settings, dry_run, store, format)


def list_(store: StoreOption = None, at: AtOption = None, format: FormatOption = Format.table) -> None:
    """List every version of every dataset."""
    from ..transform.versions import list_datasets

    print_rows(list_datasets(open_store(store, at)), format)


def show(
    dataset: VersionArgument,
    rows: Annotated[bool, typer.Option("--rows", help="Print the references instead of the summary.")] = False,
    flagged: Annotated[bool, typer.Option("--flagged", help="Print the tasks that are also in an evaluation set.")] = False,
    store: StoreOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Show a version: its source, its recipe, its rows, and why inputs were left out."""
    from ..transform.dataset import load_dataset_version

    found = load_dataset_version(open_store(store, at), dataset)
    if rows or flagged:
        print_rows((found.references if rows else found.flags).to_dicts(), format, found.label)
    else:
        print_summary(manifest(found), format, found.label)


def why(
    dataset: VersionArgument,
    id: Annotated[str, typer.Argument(metavar="ID", help="A rollout_id or task_id, or the first digits of one.")],
    store: StoreOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Explain why a rollout or a task is in a version, or why not."""
    from ..transform.dataset import load_dataset_version

    print_rows(load_dataset_version(open_store(store, at), dataset).why(id), format)


def diff(
    left: VersionArgument,
    right: VersionArgument,
    rows: Annotated[bool, typer.Option("--rows", help="Print the rows that only one version has.")] = False,
    store: StoreOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Compare two versions of one kind: options, rows that only one has, and why the other lacks them."""
    from ..transform.dataset import load_dataset_version
    from ..transform.explain import diff_rows

    place = open_store(store, at)
    ours, theirs = load_dataset_version(place, left), load_dataset_version(place, right)
    if rows:
        print_rows(diff_rows(ours, theirs), format)
        return
    found = ours.diff(theirs)
    if format is not Format.table:
        print_summary(found, format)
        return
    numbers = {name: value for name, value in found.items() if name not in ("recipe", "reasons")}
    print_summary(numbers, format, f"{ours.label} and {theirs.label}")
    for name, title in (("recipe", "options that differ"), ("reasons", "why rows are in one version only")):
        if found[name]:
            print_rows(found[name], format, title)


def export(
    dataset: VersionArgument,
    target: Annotated[str, typer.Argument(metavar="FORMAT", help="sft: trl, trl-messages, openai, nemo-response. dpo: trl, nemo-preference, nemo-binary. grpo: trl.")],
    out: Annotated[str, typer.Argument(metavar="FILE", help="File to write: .jsonl, or .parquet for the trl formats.")],
    store: StoreOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Write the rows of a version to a file that another trainer reads.

    Example: `rollhouse dataset export demos@1 openai demos.jsonl`.
    """
    from dataclasses import asdict

    from ..transform.dataset import load_dataset_version

    found = load_dataset_version(open_store(store, at), dataset)
    print_summary(asdict(found.export(target, out)), format, f"{found.label} as {target}")


def manifest(dataset: "DatasetVersion") -> dict[str, Any]:
    """A version as one flat record, without its references."""
    return {
        "dataset": dataset.label,
        "kind": dataset.kind,
        "snapshot": dataset.snapshot,
        "scorer": dataset.scorer,
        **dataset.counts,
        "recipe": dataset.recipe,
        "fingerprint": dataset.fingerprint,
        "code_version": dataset.code_version,
        "run_id": dataset.run_id,
        "created_at": dataset.created_at,
    }


def _flags(
    runs: list[str] | None, environments: list[str] | None, scorer: str | None, sql: str | None, function: str | None,
    against: list[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """The options that every kind has as flags."""
    from ..transform.recipes import read_function, read_sql

    flags = {"runs": runs, "environments": environments, "scorer": scorer, "contamination.against": against}
    if sql is not None:
        flags["sql"] = read_sql(sql)
    if function is not None:
        flags["function"], flags["function_name"] = read_function(function)
    return flags


def _build(
    build: "Callable[..., DatasetVersion]",
    options: "type[SourceOptions]",
    name: str,
    snapshot: str,
    config: str | None,
    flags: dict[str, Any],
    settings: list[str] | None,
    dry_run: bool,
    store: str | None,
    format: Format,
) -> None:
    import json

    from ..base.recipes import resolve, to_yaml
    from ..eval.bfcl.references import evaluation_cases

    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value not in (None, [])]
    recipe = resolve(options, config, [*given, *(settings or [])])
    if dry_run:
        print(to_yaml(recipe), end="")
        return
    cases = evaluation_cases(recipe.contamination.against)
    dataset = build(open_store(store), name, snapshot, recipe, cases)
    if format is not Format.table:
        print_rows([{**manifest(dataset), "existed": dataset.existed}], format)
    else:
        _print_built(dataset)


def _print_built(dataset: "DatasetVersion") -> None:
    from ..transform.dataset import UNITS

    out = console()
    made = "exists already: same recipe, same snapshot" if dataset.existed else "is new"
    out.print(f"{dataset.label} {made}.", markup=False)
    unit = UNITS[dataset.kind]
    tasks = f"{dataset.counts['tasks']} of {dataset.counts['tasks_seen']} tasks"
    out.print(f"{dataset.n_rows} {unit} from {tasks}, out of {dataset.counts['inputs']} rollouts.", markup=False)
    for what, key in (("reason", "dropped"), ("also in an evaluation set", "flagged")):
        counts = [{what: reason, "inputs": count} for reason, count in dataset.counts.get(key, {}).items()]
        if counts:
            print_rows(counts, Format.table)
    out.print(
        f"next: rollhouse train {dataset.kind} dataset={dataset.label} policy.model_name=MODEL",
        markup=False,
        soft_wrap=True,
    )
