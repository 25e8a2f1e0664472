"""`rollhouse dataset`: builds versions of training sets, and explains, compares and exports them."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import Application, DryRunOption, settings_command
from .common import (
    AtOption,
    Format,
    FormatOption,
    StoreOption,
    console,
    open_store,
    print_config,
    print_next,
    print_rows,
    print_summary,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transform.dataset import Dataset
    from ..transform.options import SourceOptions

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")]
FromOption = Annotated[str, typer.Option("--from", metavar="SNAPSHOT", help="Snapshot to build from.", rich_help_panel="Input")]  # fmt: skip
VersionArgument = Annotated[str, typer.Argument(metavar="NAME[@V]", help="NAME or NAME@VERSION.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="Training sets: built from snapshots, kept as versions.")
    building = Application(no_args_is_help=True, help="Build a version of a dataset.")
    for command in (sft, dpo, grpo):
        building.command(command.__name__, cls=settings_command(partial(_options, command.__name__)))(command)
    noun.add_typer(building, name="build")
    noun.command("list")(list_)
    noun.command("show")(show)
    noun.command("why")(why)
    noun.command("diff")(diff)
    noun.command("export")(export)
    app.add_typer(noun, name="dataset")


def _options(kind: str) -> "type[SourceOptions]":
    from ..transform.options import DpoOptions, GrpoOptions, SftOptions

    return {"sft": SftOptions, "dpo": DpoOptions, "grpo": GrpoOptions}[kind]


def sft(
    ctx: typer.Context,
    name: NameArgument,
    snapshot: FromOption,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Build demonstrations: completed, rewarded, distinct rollouts, a limited number per task.

    Example: `rollhouse dataset build sft demos --from s1 --run scripted --per-task 2 --require-passed`
    """
    from ..transform.build import build_sft

    _build(build_sft, name, snapshot, ctx.obj, dry_run, store, format)


def dpo(
    ctx: typer.Context,
    name: NameArgument,
    snapshot: FromOption,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Build preference pairs: for each task and prompt, an accepted rollout and a worse one.

    Example: `rollhouse dataset build dpo pairs --from s1 --run base --pairing ranked min_gap=0.3`
    """
    from ..transform.build import build_dpo

    _build(build_dpo, name, snapshot, ctx.obj, dry_run, store, format)


def grpo(
    ctx: typer.Context,
    name: NameArgument,
    snapshot: FromOption,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Build a prompt set for online training: tasks that are neither always solved nor never.

    Example: `rollhouse dataset build grpo prompts --from s1 --run base 'pass_band=[0.2, 0.8]' --weights variance`
    """
    from ..transform.build import build_grpo

    _build(build_grpo, name, snapshot, ctx.obj, dry_run, store, format)


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
    target: Annotated[str, typer.Argument(metavar="FORMAT", help="sft: trl, trl-messages, openai, nemo-messages, nemo-response. dpo: trl, nemo-preference, nemo-binary. grpo: trl.")],
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


def manifest(dataset: "Dataset") -> dict[str, Any]:
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


def _build(
    build: "Callable[..., Dataset]",
    name: str,
    snapshot: str,
    options: "SourceOptions",
    dry_run: bool,
    store: str | None,
    format: Format,
) -> None:
    from ..eval.bfcl.references import evaluation_cases

    if dry_run:
        print_config(options, {}, format)
        return
    cases = evaluation_cases(options.contamination.against)
    dataset = build(open_store(store), name, snapshot, options, cases)
    if format is not Format.table:
        print_rows([{**manifest(dataset), "existed": dataset.existed}], format)
    else:
        _print_built(dataset, store)


def _print_built(dataset: "Dataset", location: str | None) -> None:
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
    print_next(f"train {dataset.kind} --config tiny-{dataset.kind} --dataset {dataset.label}", location)
