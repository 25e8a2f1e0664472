"""`rollhouse train replay`: repeats the optimizer steps of a GRPO run on its stored batches."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import DryRunOption, RecipeOption, StoredCodeOption
from .common import Format, FormatOption, StoreOption, console, open_store, print_config, print_rows
from .training_view import watch_training

if TYPE_CHECKING:
    from ..train.grpo.replay import Replay


def replay(
    original: Annotated[str, typer.Argument(metavar="RUN", help="A run of train grpo.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, as `section.key=value`.")
    ] = None,
    from_step: Annotated[
        int,
        typer.Option(
            "--from-step", metavar="N", help="First step that uses the changed settings.", rich_help_panel="Training"
        ),
    ] = 1,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="NAME", help="Name of the new run. Default: RUN-replay-N.", rich_help_panel="Run"
        ),
    ] = None,
    recipe: RecipeOption = None,
    allow_code: StoredCodeOption = False,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Repeat the optimizer steps of a GRPO run on its stored batches. Nothing is generated.

    Without changed settings the weights are compared bit for bit; the exit code is 1 when they differ.

    A recipe given with --config holds the settings to change. A run with a loss or an advantage of its own needs --allow-code.

    Example: `rollhouse train replay grpo loss_fn.ratio_clip_max=0.28 policy.optimizer.lr=1e-5`
    """
    from ..base.recipes import refuse_code, refuse_stored_code
    from ..store.naming import run_named
    from ..train.grpo.custom import stored_code
    from ..train.grpo.original import changed_config, stored_config
    from ..train.grpo.replay import replay as again

    place = open_store(store)
    original = run_named(place, original)
    if recipe:
        refuse_code(recipe, allow_code)
    config = changed_config(stored_config(place, original), settings or [], recipe)
    if dry_run:
        print_config(config, {}, format)
        return
    refuse_stored_code(original, stored_code(config, settings or []), allow_code)
    with watch_training("replay") as (on_step, viewer):
        found = again(place, original, config, from_step=from_step, run=run, progress=on_step, viewer=viewer)
    if format is Format.table:
        for line in replay_lines(found):
            console().print(line, markup=False, soft_wrap=True)
    else:
        print_rows([_row(found)], format)
    if found.identical is False:
        raise typer.Exit(1)


def replay_lines(found: "Replay") -> list[str]:
    """The result of a replay, as lines of text."""
    steps = f"{found.last_step - found.first_step + 1} steps" if found.last_step > found.first_step else "1 step"
    source = "stored plans" if found.plans == "stored" else "stored rollouts with new plans"
    lines = [f"{steps} of {found.run_id} repeated as {found.replay}, from {source}"]
    lines += [f"changed: {key} from {was} to {now}" for key, (was, now) in sorted(found.changed.items())]
    if found.identical:
        at = ", ".join(map(str, found.compared))
        weights = (
            f"the weights of its checkpoints (step {at})" if found.compared else "no weights (it has no checkpoint)"
        )
        lines.append(f"identical bit for bit: {weights} and the loss and gradient norm of every step")
    elif found.difference is not None:
        gap = found.difference
        lines.append(f"different from step {gap.step}: {gap.name} was {gap.before!r} and is {gap.after!r}")
    lines.append(f"next: rollhouse report {found.run_id} {found.replay}")
    return lines


def _row(found: "Replay") -> dict[str, Any]:
    from dataclasses import asdict

    kept = {key: found.checkpoint[key] for key in ("checkpoint_id", "path", "weights_hash")}
    return asdict(found) | {"checkpoint": kept}
