"""`rollhouse train`: from a dataset version and a model to a checkpoint."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from .command import Application, DryRunOption, settings_command
from .common import Format, FormatOption, StoreOption, console, open_store, print_config, print_rows, progress
from .replay import replay
from .training_view import OnStep, watch_training
from .viewing import ViewOption, viewing

if TYPE_CHECKING:
    from ..store.lance_store import LanceStore
    from ..train.config import TrainingConfig

SHOWN_METRICS = ("train/reward", "train/loss", "train/pass_rate", "val/accuracy", "val/loss", "mismatch/sync_max_abs")
"""The metrics of a checkpoint that the table shows; `--format json` and `rollhouse runs show` have all of them."""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="Train a policy on a dataset version.")
    for command in (sft, dpo, grpo):
        noun.command(command.__name__, cls=settings_command(partial(_model, command.__name__)))(command)
    noun.command("replay")(replay)
    noun.command("tiny")(tiny)
    app.add_typer(noun, name="train")


def _model(kind: str) -> "type[TrainingConfig]":
    if kind == "sft":
        from ..train.sft import SftConfig

        return SftConfig
    if kind == "dpo":
        from ..train.dpo import DpoConfig

        return DpoConfig
    from ..train.grpo.config import GrpoConfig

    return GrpoConfig


def sft(
    ctx: typer.Context,
    dry_run: DryRunOption = False,
    view: ViewOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Fine-tune a model on demonstrations (TRL).

    Example: `rollhouse train sft --config tiny-sft --dataset demos --model tiny-base --lr 1e-4`
    """
    _train(_train_sft, ctx.obj, dry_run, view, store, format)


def dpo(
    ctx: typer.Context,
    dry_run: DryRunOption = False,
    view: ViewOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train a model on preference pairs with direct preference optimisation (TRL).

    Example: `rollhouse train dpo --config tiny-dpo --dataset pairs --model tiny-base`
    """
    _train(_train_dpo, ctx.obj, dry_run, view, store, format)


def grpo(
    ctx: typer.Context,
    dry_run: DryRunOption = False,
    view: ViewOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train a model online with GRPO on a prompt set (Ray and vLLM). The store has the plan of every batch before its step.

    Example: `rollhouse train grpo --config tiny-grpo --dataset prompts --model tiny-base --max-num-steps 10`
    """
    _train(_train_grpo, ctx.obj, dry_run, view, store, format)


def tiny() -> None:
    """Make the tiny base policy, unless it is cached, and print its folder. Its name is tiny-base wherever a model is named."""
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


def _sample(config: "TrainingConfig", store: str | None) -> list[str]:
    """Some rows of an offline run; none, with the reason on stderr, where model or dataset cannot be opened."""
    from ..base.errors import RollhouseError
    from ..train.offline_config import OfflineConfig

    if not isinstance(config, OfflineConfig):
        return []
    from ..train.sample import sample_rows

    try:
        return sample_rows(open_store(store), config)
    except RollhouseError as error:
        typer.echo(f"No rows are shown: {error.message}", err=True)
        return []


def _check(config: "TrainingConfig", store: str | None) -> None:
    """Refuses an online run as the run itself would, where there is a store."""
    from ..store.lance_store import LanceStore, store_location
    from ..train.grpo.config import GrpoConfig

    if not isinstance(config, GrpoConfig):
        return
    place = LanceStore(store_location(store))
    if not place.has_table("rollouts"):
        typer.echo(f"There is no store at {place.uri}: prompts, environments and model are not checked.", err=True)
        return
    from ..train.grpo.preparing import prepare_run

    prepare_run(place, config)


def _train(
    train: Callable[..., dict[str, Any]],
    config: "TrainingConfig",
    dry_run: bool,
    view: bool,
    store: str | None,
    format: Format,
) -> None:
    import json

    if dry_run:
        _check(config, store)
        sample = _sample(config, store)
        print_config(config, {} if format is Format.table else {"sample": sample}, format)
        if sample and format is Format.table:  # as comments, so that the output stays a recipe
            print(f"# {len(sample)} rows; what is learned stands between ⟦ and ⟧:")
            print("\n".join(f"# {line}" for row in sample for line in ["", *row.split("\n")]))
        return
    place = open_store(store)
    with viewing(place, view and os.environ.get("RANK", "0") == "0"):  # of a launcher's processes the first
        checkpoint = train(place, config)
    if not checkpoint:  # the first process of the launcher prints the result
        return
    shown = {name: checkpoint[name] for name in ("checkpoint_id", "step", "path", "weights_hash", "dataset")}
    shown["metrics"] = json.loads(checkpoint["metrics"])
    if format is not Format.table:
        print_rows([shown], format)
        return
    metrics = {name: value for name, value in shown.pop("metrics").items() if name in SHOWN_METRICS}
    print_rows([{"what": name, "value": value} for name, value in {**shown, **metrics}.items()], format, "checkpoint")
    for line in (_rows_line(place, checkpoint["run_id"]), f"next: rollhouse lineage {checkpoint['checkpoint_id']}"):
        if line is not None:
            console().print(line, markup=False, soft_wrap=True)


def _rows_line(store: "LanceStore", run_id: str) -> str | None:
    """What the rollouts of an SFT or DPO run were trained on, and how many were left out; None for a run that has no such counts."""
    from ..store.runs import get_run

    rows = (get_run(store, run_id)["summary"] or {}).get("rows")
    if not isinstance(rows, dict):
        return None
    other = f" ({rows['other_model']} have tokens of another model or template)" if rows.get("other_model") else ""
    reasons = "".join(f"; {count}: {reason}" for reason, count in (rows.get("left_out_because") or {}).items())
    return f"rollouts: {rows['sampled']} on their sampled tokens, {rows['rendered']} rendered{other}, {rows['left_out']} left out{reasons}"
