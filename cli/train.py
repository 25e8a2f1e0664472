"""`rollhouse train`: from a dataset version and a model to a checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Format, FormatOption, StoreOption, console, open_store, print_rows, progress
from .replay import replay
from .training_view import OnStep, watch_training

if TYPE_CHECKING:
    from pydantic import BaseModel

SettingsArgument = Annotated[list[str] | None, typer.Argument(help="Settings as `section.key=value`.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Recipe (YAML), or the name of a shipped one.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="NAME or NAME@VERSION [sets dataset].")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Checkpoint, run, model folder or hub name [sets policy.model_name].")]  # fmt: skip
RunOption = Annotated[str | None, typer.Option("--run", help="The run's name [sets run].")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]


SHOWN_METRICS = ("train/reward", "train/loss", "train/pass_rate", "val/accuracy", "val/loss", "mismatch/sync_max_abs")
"""What the table shows of a checkpoint's metrics; `--format json` and `rollhouse runs show` have them all."""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="Train a policy on a dataset version.")
    for command in (sft, dpo, grpo, replay, tiny):
        noun.command(command.__name__)(command)
    app.add_typer(noun, name="train")


def sft(
    settings: SettingsArgument = None, config: ConfigOption = None, dataset: DatasetOption = None,
    model: ModelOption = None, run: RunOption = None, dry_run: DryRunOption = False,
    store: StoreOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Supervised fine-tuning on demonstrations (TRL).

    Example: `rollhouse train sft --config tiny-sft --dataset demos --model tiny-base policy.optimizer.lr=1e-4`.
    """
    from ..train.sft import SftConfig

    _train(_train_sft, SftConfig, config, settings, dataset, model, run, dry_run, store, format)


def dpo(
    settings: SettingsArgument = None, config: ConfigOption = None, dataset: DatasetOption = None,
    model: ModelOption = None, run: RunOption = None, dry_run: DryRunOption = False,
    store: StoreOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Direct preference optimisation on pairs (TRL).

    Example: `rollhouse train dpo --config tiny-dpo --dataset pairs --model tiny-base`.
    """
    from ..train.dpo import DpoConfig

    _train(_train_dpo, DpoConfig, config, settings, dataset, model, run, dry_run, store, format)


def grpo(
    settings: SettingsArgument = None, config: ConfigOption = None, dataset: DatasetOption = None,
    model: ModelOption = None, run: RunOption = None, dry_run: DryRunOption = False,
    store: StoreOption = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Online GRPO on a prompt set: Ray, vLLM, and a plan of every batch in the store before its step.

    Example: `rollhouse train grpo --config tiny-grpo --dataset prompts --model tiny-base grpo.max_num_steps=10`.
    """
    from ..train.grpo.config import GrpoConfig

    _train(_train_grpo, GrpoConfig, config, settings, dataset, model, run, dry_run, store, format)


def tiny() -> None:
    """Make the tiny base policy, or find it in the cache; `tiny-base` names it wherever a model is asked for."""
    from ..train.tiny import base_policy

    with progress() as bar:
        line = bar.add_task("tiny base", total=None, note="")
        folder = base_policy(
            progress=lambda done, total, note: bar.update(line, completed=done, total=total, note=note)
        )
        bar.update(line, total=1, completed=1)
    print(folder)


def _train_grpo(store: Any, config: Any) -> dict[str, Any]:
    # Ray and vLLM are imported only now, so that --dry-run needs neither.
    from ..train.grpo.loop import train_grpo

    with watch_training("grpo") as (on_step, viewer):
        return train_grpo(store, config, progress=on_step, viewer=viewer)


def _train_sft(store: Any, config: Any) -> dict[str, Any]:
    from ..train.sft import train_sft

    with _bar("sft") as on_step:
        return train_sft(store, config, on_step=on_step)


def _train_dpo(store: Any, config: Any) -> dict[str, Any]:
    from ..train.dpo import train_dpo

    with _bar("dpo") as on_step:
        return train_dpo(store, config, on_step=on_step)


@contextmanager
def _bar(name: str) -> Iterator[OnStep]:
    with progress() as bar:
        line = bar.add_task(name, total=None, note="starting")
        yield lambda done, total, note: bar.update(line, completed=done, total=total, note=note)


def _train(
    train: Callable[..., dict[str, Any]],
    model_of_settings: "type[BaseModel]",
    config: str | None,
    settings: list[str] | None,
    dataset: str | None,
    model: str | None,
    run: str | None,
    dry_run: bool,
    store: str | None,
    format: Format,
) -> None:
    import json

    from ..base.recipes import resolve, to_yaml

    flags = {"dataset": dataset, "policy.model_name": model, "run": run}
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value]
    resolved = resolve(model_of_settings, config, [*given, *(settings or [])])
    if dry_run:
        print(to_yaml(resolved), end="")
        return
    place = open_store(store)
    checkpoint = train(place, resolved)
    if not checkpoint:  # this process trained along; the launcher's first one tells
        return
    shown = {name: checkpoint[name] for name in ("checkpoint_id", "step", "path", "weights_hash", "dataset")}
    shown["metrics"] = json.loads(checkpoint["metrics"])
    if format is not Format.table:
        print_rows([shown], format)
        return
    metrics = {name: value for name, value in shown.pop("metrics").items() if name in SHOWN_METRICS}
    print_rows([{"what": name, "value": value} for name, value in {**shown, **metrics}.items()], format, "checkpoint")
    console().print(f"next: rollhouse lineage {checkpoint['checkpoint_id']}", markup=False, soft_wrap=True)
