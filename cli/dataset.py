"""`rollhouse dataset`: training sets as ordered references into a snapshot, and why each rollout is in or out."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    AtOption,
    Format,
    FormatOption,
    HouseOption,
    ScorerOption,
    console,
    open_house,
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
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]


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
    app.add_typer(noun, name="dataset")


def sft(
    name: NameArgument, snapshot: FromOption, settings: SettingsArgument = None, config: ConfigOption = None,
    run: RunsOption = None, environment: EnvironmentsOption = None, scorer: ScorerOption = None,
    dry_run: DryRunOption = False, house: HouseOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Demonstrations: completed, rewarded, distinct rollouts, at most a few of one task.

    Example: `rollhouse dataset build sft demos --from s1 --run scripted min_reward=1 per_task_cap=2`.
    """
    from ..transform.build import build_sft
    from ..transform.options import SftOptions

    _build(build_sft, SftOptions, name, snapshot, config, settings, run, environment, scorer, dry_run, house, format)


def dpo(
    name: NameArgument, snapshot: FromOption, settings: SettingsArgument = None, config: ConfigOption = None,
    run: RunsOption = None, environment: EnvironmentsOption = None, scorer: ScorerOption = None,
    dry_run: DryRunOption = False, house: HouseOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Preference pairs: per task and prompt, an accepted rollout against a worse one.

    Example: `rollhouse dataset build dpo pairs --from s1 --run base max_pairs_per_group=1`.
    """
    from ..transform.build import build_dpo
    from ..transform.options import DpoOptions

    _build(build_dpo, DpoOptions, name, snapshot, config, settings, run, environment, scorer, dry_run, house, format)


def grpo(
    name: NameArgument, snapshot: FromOption, settings: SettingsArgument = None, config: ConfigOption = None,
    run: RunsOption = None, environment: EnvironmentsOption = None, scorer: ScorerOption = None,
    dry_run: DryRunOption = False, house: HouseOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """A prompt set for online training: tasks that are neither always solved nor never.

    Example: `rollhouse dataset build grpo prompts --from s1 --run base "pass_band=[0.2, 0.8]"`.
    """
    from ..transform.build import build_grpo
    from ..transform.options import GrpoOptions

    _build(build_grpo, GrpoOptions, name, snapshot, config, settings, run, environment, scorer, dry_run, house, format)


def list_(house: HouseOption = None, at: AtOption = None, format: FormatOption = Format.table) -> None:
    """List every version of every dataset."""
    from ..transform.versions import list_datasets

    print_rows(list_datasets(open_house(house, at)), format)


def show(
    dataset: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")],
    rows: Annotated[bool, typer.Option("--rows", help="Print the references instead of the manifest.")] = False,
    house: HouseOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show a version: where it comes from, its recipe, how many rows, and what was left out for which reason."""
    from ..transform.versions import get_dataset

    found = get_dataset(open_house(house, at), dataset)
    if rows:
        print_rows(found.rows, format, found.label)
    else:
        print_summary(manifest(found), format, found.label)


def why(
    dataset: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")],
    id: Annotated[str, typer.Argument(metavar="ROLLOUT_OR_TASK", help="A rollout_id or task_id.")],
    house: HouseOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Say why a rollout or a task is in a version, or why not."""
    from ..transform.explain import why as explain
    from ..transform.versions import get_dataset

    place = open_house(house, at)
    print_rows(explain(place, get_dataset(place, dataset), id), format)


def manifest(dataset: "DatasetVersion") -> dict[str, Any]:
    """What a version says about itself, references left out."""
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
    build: "Callable[..., DatasetVersion]",
    options: "type[SourceOptions]",
    name: str,
    snapshot: str,
    config: str | None,
    settings: list[str] | None,
    runs: list[str] | None,
    environments: list[str] | None,
    scorer: str | None,
    dry_run: bool,
    house: str | None,
    format: Format,
) -> None:
    import json

    from .settings import resolve, to_yaml

    flags = {"runs": runs, "environments": environments, "scorer": scorer}
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value]
    recipe = resolve(options, config, [*given, *(settings or [])])
    if dry_run:
        print(to_yaml(recipe), end="")
        return
    dataset = build(open_house(house), name, snapshot, recipe)
    if format is not Format.table:
        print_rows([{**manifest(dataset), "existed": dataset.existed}], format)
        return
    out = console()
    made = "exists already: the same recipe on the same snapshot" if dataset.existed else "is new"
    out.print(f"{dataset.label} {made}.", markup=False)
    unit = {"sft": "demonstrations", "dpo": "pairs", "grpo": "prompts"}[dataset.kind]
    tasks = f"{dataset.counts['tasks']} of {dataset.counts['tasks_seen']} tasks"
    out.print(f"{dataset.n_rows} {unit} from {tasks}, out of {dataset.counts['inputs']} rollouts.", markup=False)
    print_rows(
        [{"left out because": reason, "count": count} for reason, count in dataset.counts["dropped"].items()], format
    )
    out.print(
        f"next: rollhouse train {dataset.kind} dataset={dataset.label} policy.model_name=MODEL",
        markup=False,
        soft_wrap=True,
    )
