"""`rollhouse train replay`: the optimization of a GRPO run again, from its stored batches."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Format, FormatOption, StoreOption, console, open_store, print_rows
from .training_view import watch_training

if TYPE_CHECKING:
    from ..train.grpo.replay import Replay


def replay(
    original: Annotated[str, typer.Argument(metavar="RUN", help="A run of train grpo.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings to change, as `section.key=value`.")] = None,
    from_step: Annotated[int, typer.Option("--from-step", help="The first step that takes the changes.")] = 1,
    run: Annotated[str | None, typer.Option("--run", help="Name of the new run [default: RUN-replay-N].")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Take the optimizer steps of a GRPO run again on its stored batches; nothing is generated.

    With nothing changed the weights are compared bit for bit; exits with 1 when they differ.

    Example: `rollhouse train replay grpo loss_fn.ratio_clip_max=0.28 policy.optimizer.lr=1e-5`.
    """
    from ..train.grpo.original import changed_config, stored_config
    from ..train.grpo.replay import replay as again

    place = open_store(store)
    config = changed_config(stored_config(place, original), settings or [])
    with watch_training("replay") as (on_step, viewer):
        found = again(place, original, config, from_step=from_step, run=run, progress=on_step, viewer=viewer)
    if format is Format.table:
        for said in told(found):
            console().print(said, markup=False, soft_wrap=True)
    else:
        print_rows([_row(found)], format)
    if found.identical is False:
        raise typer.Exit(1)


def told(found: "Replay") -> list[str]:
    """What a replay found, in lines for people."""
    steps = f"{found.last_step - found.first_step + 1} steps" if found.last_step > found.first_step else "1 step"
    where = f"{steps} of {found.run_id} again as {found.replay}, from {found.plans if found.plans == 'stored' else 'stored rollouts with'} plans"
    if found.plans != "stored":
        where += " made anew"
    lines = [where]
    lines += [f"changed: {key} from {was} to {now}" for key, (was, now) in sorted(found.changed.items())]
    if found.identical:
        at = ", ".join(map(str, found.compared))
        weights = f"the weights of its checkpoints (step {at})" if found.compared else "it kept no checkpoint, but"
        lines.append(f"identical, bit for bit: {weights} and the loss and gradient norm of every step")
    elif found.difference is not None:
        gap = found.difference
        lines.append(f"they differ, first at step {gap.step}: {gap.name} was {gap.before!r} and is {gap.after!r}")
    lines.append(f"next: rollhouse report {found.run_id} {found.replay}")
    return lines


def _row(found: "Replay") -> dict[str, Any]:
    from dataclasses import asdict

    kept = {key: found.checkpoint[key] for key in ("checkpoint_id", "path", "weights_hash")}
    return asdict(found) | {"checkpoint": kept}
